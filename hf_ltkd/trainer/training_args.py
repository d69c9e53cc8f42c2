"""Arguments of [`DistillationTrainer`]."""

import logging
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from torch import nn
from transformers import TrainingArguments

from ..utils import check_number


logger = logging.getLogger(__name__)


# The preset of the public CIFAR-100 distillation code that the paper's author builds on: SGD with momentum and no
# Nesterov, weight decay on everything, 240 epochs of batch 64, the rate divided by 10 at epochs 150, 180 and 210.
PAPER_PRESET: dict[str, Any] = {
    "num_train_epochs": 240.0,
    "per_device_train_batch_size": 64,
    "learning_rate": 0.05,
    "weight_decay": 5e-4,
    "weight_decay_on_all": True,
    "optim": "sgd",
    "optim_args": "momentum=0.9",
    "max_grad_norm": 0.0,
    "lr_milestones": [150 / 240, 180 / 240, 210 / 240],
}


SamplingStrategy = Literal[
    "random", "sequential", "group_by_length", "batch_rebalance", "class_balanced", "square_root"
]


@dataclass
class DistillationTrainingArguments(TrainingArguments):
    """
    [`~transformers.TrainingArguments`] and what distillation adds. Plain `TrainingArguments` work in the trainer too.

    `preset="paper"` is the CIFAR-100 preset of the public code that the paper's author builds on (the paper's own text
    does not state one), in one setting: SGD with momentum 0.9, batch 64,
    learning rate 0.05 (0.01 is usual for ShuffleNet and MobileNet students), weight decay 5e-4 on every parameter,
    no clipping, 240 epochs with the rate divided by 10 after 150, 180 and 210 of them. A value that you give yourself
    always wins; the milestones are fractions of the training, so a shorter one keeps their places.

    Raises:
        `ValueError`: if a milestone or `lr_decay` lies outside 0..1, `hub_timeout` is not above 0, an alpha is below
            0, or early stopping has nothing to watch.
    """

    # Fields of the preset default to None, which stands for "the preset's value, or else that of TrainingArguments".
    num_train_epochs: float = field(default=None, metadata={"help": "Epochs (3, preset 240)."})  # type: ignore
    per_device_train_batch_size: int = field(  # type: ignore
        default=None, metadata={"help": "Training batch size per device (8, preset 64)."}
    )
    learning_rate: float = field(default=None, metadata={"help": "Learning rate (5e-5, preset 0.05)."})  # type: ignore
    weight_decay: float = field(default=None, metadata={"help": "Weight decay (0, preset 5e-4)."})  # type: ignore
    optim: str = field(default=None, metadata={"help": "Optimizer (adamw_torch, preset sgd)."})  # type: ignore
    optim_args: str | None = field(default=None, metadata={"help": "Its arguments (none, preset momentum=0.9)."})
    max_grad_norm: float = field(  # type: ignore
        default=None, metadata={"help": "Gradient norm to clip to, 0 for no clipping (1.0, preset 0)."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Drop the columns that the student's forward does not name."}
    )

    preset: Literal["paper"] | None = field(
        default=None,
        metadata={"help": "'paper': SGD 0.9, 240 epochs, steps at 150/180/210, weight decay on all parameters."},
    )
    lr_milestones: list[float] | None = field(
        default=None,
        metadata={
            "help": "Fractions of the training after which the learning rate is multiplied by lr_decay; replaces "
            "lr_scheduler_type (none, preset 0.625 0.75 0.875)."
        },
    )
    lr_decay: float = field(default=0.1, metadata={"help": "Factor of the learning rate at each of lr_milestones."})
    weight_decay_on_all: bool | None = field(
        default=None,
        metadata={"help": "Decay biases and normalisation layers too (False, preset True)."},
    )
    eval_with_teacher: bool = field(
        default=False,
        metadata={"help": "Ask the teacher in evaluations too, and log the distillation terms as eval_<term>."},
    )

    overlap_teacher: bool = field(
        default=False,
        metadata={
            "help": "On a GPU, ask a live teacher for the next step while the student's backward pass still runs."
        },
    )

    logits_grid: Literal["student", "labels"] = field(
        default="student",
        metadata={
            "help": "Semantic segmentation: where pixels are compared, on the grid of the student's logits or of the "
            "labels, to which both logits are then interpolated."
        },
    )

    mixup_alpha: float = field(
        default=0.0,
        metadata={"help": "Mix each training image and its label with another's, by a part from Beta(alpha, alpha)."},
    )
    cutmix_alpha: float = field(
        default=0.0,
        metadata={"help": "Paste a box of another image instead; with mixup_alpha too, each step takes one of both."},
    )
    train_sampling_strategy: SamplingStrategy = field(  # type: ignore[assignment]
        default="random",
        metadata={
            "help": "Order of the training examples; class_balanced draws all classes equally often, square_root in "
            "proportion to the square root of their examples (both with replacement)."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after so many evaluations without a better metric_for_best_model (default: never)."},
    )
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "By how much an evaluation has to be better to count."}
    )

    # On by default: without the file only those who have installed hf_ltkd could load the student, and nobody runs it
    # who does not ask for it with trust_remote_code=True.
    hub_model_code: bool = field(
        default=True,
        metadata={"help": "Save the code of a network of hf_ltkd with it, so that it loads where hf_ltkd is missing."},
    )
    hub_timeout: float = field(
        default=60.0, metadata={"help": "Seconds that the Hub may stay silent before a push is given up."}
    )

    recipe: Literal["paper"] | None = field(default=None, metadata={"help": "The old name of preset."})

    def __post_init__(self):
        if self.recipe is not None:
            warnings.warn(
                "recipe is now called preset; the old name goes with version 0.3.", FutureWarning, stacklevel=3
            )
            self.preset, self.recipe = self.preset or self.recipe, None
        if self.preset not in (None, "paper"):
            raise ValueError(f"preset={self.preset!r} is not known: use 'paper', or leave it out.")
        if self.logits_grid not in ("student", "labels"):
            raise ValueError(f"logits_grid={self.logits_grid!r} is not known: use 'student' or 'labels'.")
        strategies = get_args(SamplingStrategy)
        if self.train_sampling_strategy not in strategies:
            raise ValueError(
                f"train_sampling_strategy={self.train_sampling_strategy!r} is not known: use one of "
                f"{', '.join(strategies)}."
            )
        fallback = {f.name: f.default for f in fields(TrainingArguments)} | {"weight_decay_on_all": False}
        own_schedule = self.lr_scheduler_type != fallback["lr_scheduler_type"] or self.lr_scheduler_kwargs
        if self.lr_milestones and own_schedule:
            raise ValueError(
                f"lr_milestones={self.lr_milestones} and lr_scheduler_type={self.lr_scheduler_type!r} are two "
                "schedules: leave one of them out (lr_scheduler_kwargs belongs to the second)."
            )
        if own_schedule:  # a schedule of one's own wins over the preset's
            self.lr_milestones = self.lr_milestones or []
        for name, preset_value in PAPER_PRESET.items():
            if getattr(self, name) is None:
                setattr(self, name, preset_value if self.preset else fallback.get(name))
        milestones = self.lr_milestones if isinstance(self.lr_milestones, list | tuple | None) else [None]
        for milestone in milestones or []:
            if not isinstance(milestone, int | float) or not 0 < milestone < 1:
                raise ValueError(
                    f"lr_milestones={self.lr_milestones!r} is not valid: it is a list of fractions of the training "
                    "between 0 and 1, for instance 0.625 for epoch 150 of 240."
                )
        check_number("lr_decay", self.lr_decay, above=0, most=1)
        check_number("hub_timeout", self.hub_timeout, above=0)
        check_number("mixup_alpha", self.mixup_alpha, 0)
        check_number("cutmix_alpha", self.cutmix_alpha, 0)
        check_ranges(self)
        smaller_is_better = ("cross_entropy", "expected_calibration_error")  # the Trainer knows that of "loss" alone
        if (
            self.greater_is_better is None
            and (self.metric_for_best_model or "").removeprefix("eval_") in smaller_is_better
        ):
            self.greater_is_better = False
        super().__post_init__()
        if self.early_stopping_patience is not None:
            self._check_early_stopping()

    def _check_early_stopping(self) -> None:
        check_number("early_stopping_patience", self.early_stopping_patience, 1, whole=True)
        check_number("early_stopping_threshold", self.early_stopping_threshold, 0)
        if self.eval_strategy == "no" or self.metric_for_best_model is None:
            raise ValueError(
                f"early_stopping_patience={self.early_stopping_patience} has nothing to watch: set "
                "eval_strategy and metric_for_best_model (epoch and tail_accuracy, for instance), and "
                "load_best_model_at_end to keep the best."
            )

    def milestone_factors(self, num_training_steps: int) -> Callable[[int], float]:
        """What the learning rate is multiplied by at each step, by `lr_milestones`."""
        steps = [round(milestone * num_training_steps) for milestone in self.lr_milestones or []]
        warmup_steps = self.get_warmup_steps(num_training_steps)
        return lambda step: min(1.0, (step + 1) / (warmup_steps + 1)) * self.lr_decay ** sum(step >= s for s in steps)


def check_ranges(args: TrainingArguments) -> None:
    """Raises `ValueError` for a number that would train nothing, or nonsense."""
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        check_number(name, getattr(args, name), 1, whole=True)
    for name in ("learning_rate", "num_train_epochs"):
        check_number(name, getattr(args, name), above=0)
    for name in ("seed", "dataloader_num_workers"):
        check_number(name, getattr(args, name), 0, whole=True)
    check_number("weight_decay", args.weight_decay, 0)
    check_number("label_smoothing_factor", args.label_smoothing_factor, 0, below=1)
    if args.max_grad_norm != math.inf:  # which clips nothing
        check_number("max_grad_norm", args.max_grad_norm, 0)
    check_number("max_steps", args.max_steps, whole=True)
    if args.max_steps != -1 and args.max_steps < 1:
        raise ValueError(f"max_steps={args.max_steps} is not valid: it is 1 or more, or -1 to train by epochs.")


def check_arguments(args: TrainingArguments, student: Any, compute_metrics: Any) -> None:
    """
    Looks at the arguments of any class whose effect in [`DistillationTrainer`] is not the one they have in `Trainer`;
    hf_ltkd/trainer/README.md lists them all.

    Raises:
        `ValueError`: if one cannot have its effect here.
    """
    check_ranges(args)
    for f in fields(args):
        value = getattr(args, f.name)
        if isinstance(value, float) and not math.isfinite(value) and f.name != "max_grad_norm":
            raise ValueError(f"{f.name}={value} is not valid: it must be a finite number.")
    refused = {
        "use_liger_kernel": (args.use_liger_kernel, "it fuses a loss of the model's own, which is not used here"),
        "parallelism_config": (args.parallelism_config is not None, "the losses need whole logits of whole batches"),
        "label_names": (args.label_names not in (None, ["labels"]), "the losses read the column 'labels'"),
        "accelerator_config": (
            args.world_size > 1 and not args.accelerator_config.even_batches,  # type: ignore[union-attr]
            "even_batches=False gives the ranks different numbers of batches, and one would wait for the other",
        ),
        "neftune_noise_alpha": (
            args.neftune_noise_alpha is not None and not _reads_tokens(student),
            "the student has no embeddings of tokens for it to disturb",
        ),
    }
    for name, (given, reason) in refused.items():
        if given:
            raise ValueError(f"{name}={getattr(args, name)} cannot be used: {reason}. Leave it out.")
    warned = {
        "average_tokens_across_devices": (
            not args.average_tokens_across_devices,
            "an optimizer step is one batch, so examples count alike on whatever rank they are",
        ),
        "prediction_loss_only": (
            args.prediction_loss_only and compute_metrics is not None,
            "compute_metrics is not called",
        ),
        "dataloader_drop_last": (
            args.dataloader_drop_last and compute_metrics is not None,
            "it leaves the last, smaller batch of an evaluation out, too, whose examples are not scored; choose a "
            "per_device_eval_batch_size that divides their number",
        ),
        "bf16_full_eval": (args.bf16_full_eval, "an evaluation outside of training leaves the student in bfloat16"),
        "fp16_full_eval": (args.fp16_full_eval, "an evaluation outside of training leaves the student in float16"),
    }
    for name, (given, effect) in warned.items():
        if given:
            logger.warning("%s=%s: %s.", name, getattr(args, name), effect)


def _reads_tokens(student: Any) -> bool:
    try:
        return isinstance(student.get_input_embeddings(), nn.Embedding)
    except (AttributeError, NotImplementedError):
        return False


# Where things are on this machine, who trains and how the Hub is reached: not a part of the preset.
_PRIVATE = re.compile(
    r"(token|secret|password|api_key|_dir|_dirs|_path)$|^(hub_|push_to|run_name|project$|trackio_|resume_from)"
)

_LEFT_OUT = object()


def public_arguments(args: TrainingArguments) -> dict[str, Any]:
    """The arguments that anyone may read, as JSON values: no tokens, no paths, nothing of the Hub account."""
    return _public(args.to_dict())


def _public(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: _public(item) for name, item in value.items() if not _PRIVATE.search(str(name))}
        return {name: item for name, item in kept.items() if item is not _LEFT_OUT}
    if isinstance(value, list | tuple):
        return [item for item in map(_public, value) if item is not _LEFT_OUT]
    is_path = isinstance(value, str) and ("/" in value or "\\" in value)
    return value if isinstance(value, bool | int | float | str | None) and not is_path else _LEFT_OUT
