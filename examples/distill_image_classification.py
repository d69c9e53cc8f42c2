"""Distils an image classifier on a long-tailed split, with LTKD or a baseline.

python examples/distill_image_classification.py --benchmark cifar100_lt --imbalance_factor 100 \
    --teacher teacher --student resnet8x4 --loss ltkd --preset paper --output_dir student

`--data_dir FOLDER` takes local parquet files or image folders instead; `examples/README.md` lists more.
"""

import logging
import math
import os
import sys
from dataclasses import dataclass, field
from typing import Literal

from transformers import AutoModelForImageClassification, HfArgumentParser, set_seed

from hf_ltkd import (
    ClassGroups,
    DistillationTrainer,
    DistillationTrainingArguments,
    TeacherCache,
    create_loss,
    create_model,
    group_accuracy,
    log_class_prior,
)
from hf_ltkd.data import DataArguments, load_image_data
from hf_ltkd.data.processors import choose_pixels, pixels_of
from hf_ltkd.utils import parse_values
from hf_ltkd.workflow.inputs import is_pretrained, load_processor


@dataclass
class DistillationArguments:
    teacher: str | None = field(
        default=None, metadata={"help": "Hub id or folder of the teacher; not needed for --loss ce."}
    )
    student: str = field(
        default="resnet8",
        metadata={"help": "A network of the paper (resnet8x4, vgg8, ...), or the Hub id or folder of any other."},
    )
    loss: Literal["ltkd", "kd", "dkd", "dist", "reviewkd", "catkd", "bkd", "ce"] = field(
        default="ltkd", metadata={"help": "The method; ce is the cross-entropy without a teacher."}
    )
    loss_args: list[str] = field(
        default_factory=list,
        metadata={"help": "Its arguments as name=value, e.g. alpha=1 beta=1 temperature=4 ce=balanced_softmax."},
    )
    pair: list[str] | None = field(
        default=None,
        metadata={
            "help": "Take the hyper-parameters that the method's authors published for this teacher and student, e.g. "
            "resnet32x4 resnet8x4; loss_args win over them."
        },
    )
    adjust_teacher: bool = field(
        default=False, metadata={"help": "For --loss kd: divide the class prior out of the teacher's probabilities."}
    )
    teacher_cache: str | None = field(
        default=None, metadata={"help": "A folder: ask the teacher once, keep its logits there, and train with them."}
    )
    teacher_cache_views: int | None = field(
        default=None,
        metadata={
            "help": "Augmented views of each image in the cache; as many as epochs if not given, fewer take less."
        },
    )
    teacher_cache_dtype: Literal["float32", "float16"] = field(
        default="float32", metadata={"help": "float16 halves the cache."}
    )
    num_groups: int | None = field(
        default=None,
        metadata={"help": "Equal groups of classes for LTKD and the metric (default: head, medium, tail)."},
    )

    def __post_init__(self):
        if self.loss != "ce" and self.teacher is None:
            raise ValueError(f"--loss {self.loss} needs --teacher: the Hub id or the folder of a trained classifier.")
        if self.pair is not None and len(self.pair) != 2:
            raise ValueError(f"--pair {' '.join(self.pair)} must be two names, the teacher's and the student's.")
        if self.adjust_teacher and self.loss != "kd":
            raise ValueError("--adjust_teacher goes with --loss kd alone.")


def main():
    parser = HfArgumentParser((DistillationArguments, DataArguments, DistillationTrainingArguments))
    if len(sys.argv) == 2 and sys.argv[1].endswith((".yaml", ".yml")):
        args, data_args, training_args = parser.parse_yaml_file(sys.argv[1])
    else:
        args, data_args, training_args = parser.parse_args_into_dataclasses()
    logging.basicConfig(level=logging.INFO if training_args.should_log else logging.WARNING)
    set_seed(training_args.seed)

    # Each sees the pixels that it was trained on; a student of ours sees what the teacher sees.
    teacher = None if args.teacher is None else AutoModelForImageClassification.from_pretrained(args.teacher)
    processors = [name and is_pretrained(name) and load_processor(name) for name in (args.teacher, args.student)]
    pixels, teacher_pixels = choose_pixels(*(pixels_of(processor) if processor else None for processor in processors))
    data = load_image_data(
        data_args,
        processor=pixels,
        teacher_processor=teacher_pixels,
        seed=training_args.seed,
        progress=training_args.should_log,
    )
    groups = data.groups
    if args.num_groups is not None:
        groups = ClassGroups.from_counts(data.split.class_counts, args.num_groups)
    labels = {
        "id2label": dict(enumerate(data.class_names)),
        "label2id": {name: class_id for class_id, name in enumerate(data.class_names)},
    }
    if "/" in args.student or os.path.isdir(args.student):
        student = AutoModelForImageClassification.from_pretrained(
            args.student, ignore_mismatched_sizes=True, num_labels=len(data.class_names), **labels
        )
    else:
        student = create_model(args.student, len(data.class_names), data.args.image_size, **labels)

    loss_args = parse_values("--loss_args", args.loss_args)
    if args.adjust_teacher:
        loss_args["teacher_log_prior"] = log_class_prior(data.split.class_counts)
    dataset = (data_args.benchmark or "cifar100_lt").removesuffix("_lt")
    loss = create_loss(args.loss, groups, pair=args.pair and tuple(args.pair), dataset=dataset, **loss_args)

    if args.teacher_cache is not None and args.loss != "ce":
        teacher = TeacherCache.build(
            args.teacher_cache,
            teacher,
            data.train,
            views=args.teacher_cache_views or math.ceil(training_args.num_train_epochs),
            dtype=args.teacher_cache_dtype,
            batch_size=training_args.per_device_train_batch_size,
            num_workers=training_args.dataloader_num_workers,
        )

    trainer = DistillationTrainer(
        student,
        teacher,
        training_args,
        distillation_loss=loss,
        train_dataset=data.train,
        eval_dataset=data.test,
        compute_metrics=group_accuracy(groups),
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
