"""Distils an image classifier on a long-tailed split, with LTKD or a baseline.

python examples/distill_image_classification.py --dataset_name uoft-cs/cifar100 --label_column fine_label \
    --imbalance_factor 100 --teacher teacher --student resnet8x4 --loss ltkd --recipe paper --output_dir student

`--data_dir FOLDER` takes local parquet files or image folders instead; `examples/README.md` lists more.
"""

import logging
import os
import sys
from dataclasses import dataclass, field
from typing import Literal

from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    HfArgumentParser,
    ViTImageProcessor,
    set_seed,
)

from hf_ltkd import (
    ClassGroups,
    CrossEntropyLoss,
    DistillationTrainer,
    DistillationTrainingArguments,
    KDLoss,
    LTKDLoss,
    create_model,
    group_accuracy,
)
from hf_ltkd.data import DataArguments, load_image_data


@dataclass
class DistillationArguments:
    teacher: str | None = field(
        default=None, metadata={"help": "Hub id or folder of the teacher; not needed for --loss ce."}
    )
    student: str = field(
        default="resnet8",
        metadata={"help": "A network of the paper (resnet8, resnet8x4, ...), or the Hub id or folder of any other."},
    )
    loss: Literal["ltkd", "kd", "ce"] = field(
        default="ltkd", metadata={"help": "LTKD, plain knowledge distillation, or cross-entropy without a teacher."}
    )
    temperature: float = field(default=4.0, metadata={"help": "T of LTKD and KD."})
    alpha: float = field(default=6.0, metadata={"help": "LTKD: weight of the cross-group term."})
    beta: float = field(default=6.0, metadata={"help": "LTKD: weight of the within-group term."})
    rebalance: bool = field(default=True, metadata={"help": "LTKD: calibrate the teacher's group probabilities."})
    reweight: bool = field(default=True, metadata={"help": "LTKD: weigh all groups equally."})
    num_groups: int = field(default=3, metadata={"help": "Groups of classes for LTKD and the metric."})
    ce_weight: float = field(default=1.0, metadata={"help": "Weight of the student's own cross-entropy."})
    warmup_epochs: float = field(default=0.0, metadata={"help": "Epochs over which the distillation terms grow."})

    def __post_init__(self):
        if self.loss != "ce" and self.teacher is None:
            raise ValueError(f"--loss {self.loss} needs --teacher: the Hub id or the folder of a trained classifier.")


def main():
    parser = HfArgumentParser((DistillationArguments, DataArguments, DistillationTrainingArguments))
    if len(sys.argv) == 2 and sys.argv[1].endswith((".yaml", ".yml")):
        args, data_args, training_args = parser.parse_yaml_file(sys.argv[1])
    else:
        args, data_args, training_args = parser.parse_args_into_dataclasses()
    logging.basicConfig(level=logging.INFO if training_args.should_log else logging.WARNING)
    set_seed(training_args.seed)

    # The student must see the very pixels that the teacher was trained on: its normalisation is taken over.
    teacher = processor = None
    if args.teacher is not None:
        teacher = AutoModelForImageClassification.from_pretrained(args.teacher)
        if not os.path.isdir(args.teacher) or os.path.exists(os.path.join(args.teacher, "preprocessor_config.json")):
            processor = AutoImageProcessor.from_pretrained(args.teacher)
    data = load_image_data(
        data_args,
        mean=None if processor is None else processor.image_mean,
        std=None if processor is None else processor.image_std,
        seed=training_args.seed,
        progress=training_args.should_log,
    )
    size = {"height": data_args.image_size, "width": data_args.image_size}
    processor = ViTImageProcessor(size=size, image_mean=data.mean, image_std=data.std)

    groups = ClassGroups.from_counts(data.recipe.counts, args.num_groups)
    labels = {
        "id2label": dict(enumerate(data.class_names)),
        "label2id": {name: class_id for class_id, name in enumerate(data.class_names)},
    }
    if "/" in args.student or not args.student.startswith("resnet"):
        student = AutoModelForImageClassification.from_pretrained(
            args.student, ignore_mismatched_sizes=True, num_labels=len(data.class_names), **labels
        )
    else:
        student = create_model(args.student, len(data.class_names), data_args.image_size, **labels)

    shared = {"ce_weight": args.ce_weight, "warmup_epochs": args.warmup_epochs}
    if args.loss == "ce":
        loss = CrossEntropyLoss()
    elif args.loss == "kd":
        loss = KDLoss(temperature=args.temperature, **shared)
    else:
        loss = LTKDLoss(
            groups,
            alpha=args.alpha,
            beta=args.beta,
            temperature=args.temperature,
            rebalance=args.rebalance,
            reweight=args.reweight,
            **shared,
        )

    trainer = DistillationTrainer(
        student,
        teacher,
        training_args,
        distillation_loss=loss,
        train_dataset=data.train,
        eval_dataset=data.test,
        compute_metrics=group_accuracy(groups),
        processing_class=processor,
    )
    result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model()
    if trainer.is_world_process_zero():
        data.recipe.save_pretrained(training_args.output_dir)
    trainer.save_metrics("train", result.metrics)
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)


if __name__ == "__main__":
    main()
