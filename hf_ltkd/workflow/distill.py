"""A student from a teacher and a folder of images: the steps of `hf-ltkd distill`, from top to bottom."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from huggingface_hub import get_token
from transformers import set_seed

from ..analysis.bias import group_report
from ..cli.text import (
    changes,
    describe_bias,
    describe_estimate,
    describe_evaluation,
    describe_images,
    describe_loss,
    describe_training,
    group_table,
    say,
)
from ..data.holdout import HOLDOUT_NAME, Holdout
from ..data.images import ImageData
from ..hub.names import BIAS_PICTURE, COMPARISON_NAME
from ..losses import CrossEntropyLoss, create_loss, log_class_prior
from ..metrics import group_accuracy
from ..teacher.cache import TeacherCache
from ..trainer.trainer import DistillationTrainer
from ..trainer.training_args import DistillationTrainingArguments
from ..utils import parse_values, write_json
from .estimate import epochs_of, estimate
from .inputs import check_classes, is_pretrained, load_classifier, load_images, make_groups, new_classifier
from .outputs import (
    card_arguments,
    check_output_dir,
    draw_bias,
    name_dataset,
    save_split,
    without_prefix,
)
from .recommend import recommend_training, recommend_weights, training_arguments


@dataclass
class DistillArguments:
    """What is distilled into what, and how."""

    teacher: str = field(default=None, metadata={"help": "Hub id or folder of the teacher."})  # type: ignore[assignment]
    student: str = field(
        default="resnet8x4",
        metadata={"help": "A network of the paper (resnet8x4, vgg8, ...), or the Hub id or folder of any other."},
    )
    push: str | None = field(
        default=None, metadata={"help": "Hub id to push the student to at the end; without it nothing is pushed."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Say what would be done and how long it would take, and write nothing."}
    )
    plain_student: bool = field(
        default=True, metadata={"help": "Also train the student without the teacher, to compare with."}
    )
    loss: Literal["ltkd", "kd", "dkd", "dist", "reviewkd", "catkd", "bkd"] = field(
        default="ltkd", metadata={"help": "The method."}
    )
    loss_args: list[str] = field(
        default_factory=list,
        metadata={"help": "Its arguments as name=value, e.g. alpha=1 beta=1; they win over the recommended ones."},
    )
    pair: list[str] | None = field(
        default=None,
        metadata={"help": "Take the hyper-parameters published for this teacher and student: resnet32x4 resnet8x4."},
    )
    adjust_teacher: bool = field(
        default=False, metadata={"help": "For --loss kd: divide the class prior out of the teacher's probabilities."}
    )
    teacher_cache: str | None = field(
        default=None, metadata={"help": "A folder: ask the teacher once, keep its logits there, and train with them."}
    )
    teacher_cache_views: int | None = field(
        default=None, metadata={"help": "Augmented views of each image in the cache; as many as epochs if not given."}
    )
    teacher_cache_dtype: Literal["float32", "float16"] = field(
        default="float32", metadata={"help": "float16 halves the cache."}
    )
    num_groups: int | None = field(
        default=None, metadata={"help": "Equal groups of classes (default: head, medium, tail)."}
    )

    def __post_init__(self):
        if self.teacher is None:
            raise ValueError(
                "--teacher is missing: give the Hub id or the folder of a classifier, or train one first: "
                "hf-ltkd train-teacher --data FOLDER --output_dir teacher"
            )
        if self.pair is not None and len(self.pair) != 2:
            raise ValueError(f"--pair {' '.join(self.pair)} must be two names, the teacher's and the student's.")
        if self.adjust_teacher and self.loss != "kd":
            raise ValueError("--adjust_teacher goes with --loss kd alone.")


def distill(args: DistillArguments, images: dict[str, Any], training: dict[str, Any], eval_fraction: float) -> None:
    """
    Looks at the images and the teacher, chooses what was not chosen, distils, compares, writes and perhaps pushes.

    Args:
        args ([`DistillArguments`]): Teacher, student and method.
        images, training (`dict`): The fields of `DataArguments` and [`DistillationTrainingArguments`] that the user
            set; they win over what is recommended.
        eval_fraction (`float`): As in [`hold_out`].

    Raises:
        `ValueError`: if teacher, student, images and arguments do not fit each other; before anything is trained.
    """
    output_dir = Path(training.setdefault("output_dir", "student"))
    resume = training.get("resume_from_checkpoint")
    check_output_dir(output_dir, resume)
    if args.push is not None and get_token() is None and not args.dry_run:
        raise ValueError(f"--push {args.push} needs a login: run `hf auth login`, or set HF_TOKEN.")
    seed = training.get("seed", 42)
    set_seed(seed)
    teacher = load_classifier(args.teacher)
    data, holdout = load_images(images, args.teacher, eval_fraction=eval_fraction, seed=seed, progress=True)
    check_classes(teacher, args.teacher, data)
    groups = make_groups(data, args.num_groups)
    say("Images", *describe_images(data, groups))
    say("Evaluation", *describe_evaluation(data, groups, holdout), *_seen_by_teacher(args.teacher, holdout))

    recommended = recommend_training(len(data.train), args.student, is_pretrained(args.student))
    training_args = training_arguments(training, recommended, data.args.crop)
    teacher.to(training_args.device)  # type: ignore[arg-type]
    bias = group_report(teacher, data.test, groups, batch_size=training_args.per_device_eval_batch_size)
    say("Teacher", f"{args.teacher}: {teacher.num_parameters():,} parameters", *describe_bias(bias, groups))

    set_seed(seed)
    student = new_classifier(args.student, data)
    say(
        "Student",
        f"{args.student}: {student.num_parameters():,} parameters, "
        f"{student.num_parameters() / teacher.num_parameters():.0%} of the teacher's",
    )
    epochs = epochs_of(training_args, len(data.train))
    loss_args = parse_values("--loss_args", args.loss_args)
    why = "the method's values where --loss_args says nothing"
    if args.loss == "ltkd" and args.pair is None:
        weights = recommend_weights(groups.num_classes, epochs)
        loss_args, why = {**weights.values, **loss_args}, weights.reason
    loss = create_loss(
        args.loss,
        groups,
        pair=args.pair and tuple(args.pair),  # type: ignore[arg-type]  # two, as checked
        dataset=(data.args.benchmark or "cifar100_lt").removesuffix("_lt"),
        **({"teacher_log_prior": log_class_prior(data.split.class_counts)} if args.adjust_teacher else {}),
        **loss_args,
    )
    say("Method", f"{args.loss}: {describe_loss(loss)}", why)
    say("Training", describe_training(training_args), f"(recommended: {recommended.reason}; what you set wins)")

    views = args.teacher_cache_views or math.ceil(epochs)
    times = estimate(student, teacher, loss, data.train, training_args)
    cache_bytes = None
    if not loss.needs_hidden_states and args.teacher_cache is None:
        cache_bytes = len(data.train) * views * groups.num_classes * np.dtype(args.teacher_cache_dtype).itemsize
    say("Time", *describe_estimate(times, args.plain_student, cache_bytes, views))
    target = f"pushes it to {args.push}" if args.push else "pushes nothing (no --push)"
    if args.dry_run:
        say("Dry run", f"Nothing was trained or written. A real run writes to {str(output_dir)!r} and {target}.")
        return

    source: Any = teacher
    if args.teacher_cache is not None:
        source = TeacherCache.build(
            args.teacher_cache,
            teacher,
            data.train,
            views=views,
            dtype=args.teacher_cache_dtype,
            batch_size=training_args.per_device_train_batch_size,
            num_workers=training_args.dataloader_num_workers,
        )
    common: dict[str, Any] = {
        "train_dataset": data.train,
        "eval_dataset": data.test,
        "compute_metrics": group_accuracy(groups),
        "processing_class": data.image_processor,
    }
    if args.push is not None:
        training_args.hub_model_id = args.push
    trainer = DistillationTrainer(student, source, training_args, distillation_loss=loss, **common)
    say("Distilling", f"The student goes to {str(output_dir)!r}.")
    trainer.train(resume_from_checkpoint=True if str(resume).lower() == "true" else resume)
    trainer.save_model()  # first of all
    save_split(trainer, data, holdout)
    metrics = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    results = {"teacher": bias.accuracy}
    if args.plain_student:
        say("Plain", "The same student, trained by cross-entropy alone, to compare with; it is not saved.")
        plain = train_plain_student(args.student, data, training_args, common)
        results["plain student"] = without_prefix(plain, groups)
    ours = results["this student"] = without_prefix(metrics, groups)

    comparison = {
        "dataset": name_dataset(data),
        "dataset_split": "test" if holdout is None else "held-out training images",
        "teacher_name": None if Path(args.teacher).is_dir() else args.teacher,
        "teacher_probability": dict(zip(groups.names, bias.probability, strict=True)),
        "accuracy": results,
    }
    if trainer.is_world_process_zero():
        write_json(output_dir / COMPARISON_NAME, comparison)
        draw_bias(teacher, data, groups, output_dir / BIAS_PICTURE)
    trainer.create_model_card(**card_arguments(comparison))
    say("Result", *group_table(results, groups))
    for name in ("plain student", "teacher"):
        if name in results:
            say("", f"against the {name}: {changes(ours, results[name], groups)}")
    say("Files", f"student, model card (README.md), pictures and {COMPARISON_NAME} are in {str(output_dir)!r}")
    if args.push is None:
        say("", f"to publish them: hf-ltkd push --model {output_dir} --to OWNER/NAME")
    else:
        commit: Any = trainer.push_to_hub(**card_arguments(comparison))
        if commit is not None:  # on the process that pushes
            say("Pushed", commit.commit_url)


def train_plain_student(
    name: str, data: ImageData, training_args: DistillationTrainingArguments, common: dict[str, Any]
) -> dict[str, float]:
    """The metrics of the same student from the same initial weights, without a teacher; nothing is written."""
    set_seed(training_args.seed)
    student = new_classifier(name, data)
    args = replace(training_args, save_strategy="no", push_to_hub=False, load_best_model_at_end=False)
    trainer = DistillationTrainer(student, args=args, distillation_loss=CrossEntropyLoss(), **common)
    trainer.train()
    return trainer.evaluate()


def _seen_by_teacher(teacher: str, holdout: Holdout | None) -> list[str]:
    """A caution, unless the teacher's folder says that it was trained without the images that are held out here."""
    if holdout is None:
        return []
    if (Path(teacher) / HOLDOUT_NAME).is_file() and Holdout.from_pretrained(teacher) == holdout:
        return ["The teacher was trained without them."]
    return [
        "If the teacher was trained on these images, its accuracy here flatters it: train it with the same split by "
        "hf-ltkd train-teacher, or give a test split."
    ]
