"""Trains an image classifier with cross-entropy, for instance a teacher on a long-tailed split.

python examples/train_teacher.py --benchmark cifar100_lt --imbalance_factor 100 --model resnet32x4 --preset paper \
    --output_dir teacher

`--data_dir FOLDER` takes local parquet files or image folders instead; `examples/README.md` lists more.
"""

import logging
import os
import sys
from dataclasses import dataclass, field

from transformers import AutoModelForImageClassification, HfArgumentParser, set_seed

from hf_ltkd import (
    CrossEntropyLoss,
    DistillationTrainer,
    DistillationTrainingArguments,
    create_model,
    group_accuracy,
)
from hf_ltkd.data import DataArguments, load_image_data


@dataclass
class ModelArguments:
    model: str = field(
        default="resnet20",
        metadata={"help": "A network of the paper (resnet32x4, vgg13, ...), or the Hub id or folder of any other."},
    )


def main():
    parser = HfArgumentParser((ModelArguments, DataArguments, DistillationTrainingArguments))
    if len(sys.argv) == 2 and sys.argv[1].endswith((".yaml", ".yml")):
        model_args, data_args, training_args = parser.parse_yaml_file(sys.argv[1])
    else:
        model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    logging.basicConfig(level=logging.INFO if training_args.should_log else logging.WARNING)
    set_seed(training_args.seed)

    data = load_image_data(data_args, seed=training_args.seed, progress=training_args.should_log)
    labels = {
        "id2label": dict(enumerate(data.class_names)),
        "label2id": {name: class_id for class_id, name in enumerate(data.class_names)},
    }
    if "/" in model_args.model or os.path.isdir(model_args.model):
        model = AutoModelForImageClassification.from_pretrained(
            model_args.model, ignore_mismatched_sizes=True, num_labels=len(data.class_names), **labels
        )
    else:
        model = create_model(model_args.model, len(data.class_names), data_args.image_size, **labels)

    trainer = DistillationTrainer(
        model,
        args=training_args,
        distillation_loss=CrossEntropyLoss(),
        train_dataset=data.train,
        eval_dataset=data.test,
        compute_metrics=group_accuracy(data.groups),
        processing_class=data.image_processor,
    )
    resume = training_args.resume_from_checkpoint  # a folder, or true: the last complete checkpoint
    result = trainer.train(resume_from_checkpoint=True if str(resume).lower() == "true" else resume)
    if trainer.is_world_process_zero():
        data.split.save_pretrained(training_args.output_dir)
    trainer.save_model()  # before the evaluation: what is on disk is safe
    trainer.save_metrics("train", result.metrics)
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset=data_args.dataset_name or data_args.data_dir)  # now the card has the accuracies


if __name__ == "__main__":
    main()
