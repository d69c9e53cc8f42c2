"""Where to start: weights of the loss, training settings and image settings for someone without time to search."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor

from ..data.pixels import Pixels
from ..data.processors import pixels_of
from ..trainer.training_args import DistillationTrainingArguments


FEW_CLASSES = 31  # below, more than three groups were never tried
SKEWED = 2  # largest to smallest class, from which on there is a tail
SHARP = 0.5  # a teacher's balanced accuracy, from which on LTKD had more of the tail at temperature 2 than at 1
WEIGHT, TEMPERATURE = (0.1, 10.0), (1.0, 8.0)
# What --tune chooses, by loss: arguments and the ends between which they are tried, evenly in their logarithm.
SPACES: dict[str, dict[str, tuple[float, float]]] = {
    "ltkd": {"alpha": WEIGHT, "beta": WEIGHT, "temperature": TEMPERATURE},
    "kd": {"kd_weight": WEIGHT, "temperature": TEMPERATURE},
    "dkd": {"alpha": WEIGHT, "beta": WEIGHT, "temperature": TEMPERATURE},
    "dist": {"beta": WEIGHT, "gamma": WEIGHT, "temperature": TEMPERATURE},
    "bkd": {"bkd_weight": WEIGHT, "temperature": TEMPERATURE},
    "gkl": {"alpha": WEIGHT, "beta": (1.0, 32.0), "temperature": TEMPERATURE},
    "wttm": {"wttm_weight": (0.5, 50.0), "gamma": (0.05, 1.0)},
}


@dataclass(frozen=True)
class Recommendation:
    """Values, and in one sentence why these."""

    values: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def recommend_weights(
    class_counts: Sequence[int],
    epochs: float | None = None,
    label_smoothing: float = 0.0,
    of_pixels: bool = False,
    teacher_accuracy: float | None = None,
) -> Recommendation:
    """
    `alpha`, `beta`, `temperature`, `ce` and `warmup_epochs` of [`LTKDLoss`] to start from: a recipe of ours, not the
    paper's defaults. `examples/experiments/README.md` has what it was measured against.

    Args:
        class_counts (`Sequence[int]`): Training images per class.
        epochs (`float`, *optional*): Epochs of the training; the terms grow in during the first fifteenth. `None`
            leaves `warmup_epochs` out.
        label_smoothing (`float`, *optional*, defaults to 0.0): What goes with the plain cross-entropy alone.
        of_pixels (`bool`, *optional*, defaults to `False`): Whether it is pixels that are counted.
        teacher_accuracy (`float`, *optional*): The teacher's balanced accuracy, a fraction. From one half on the
            temperature is 2, otherwise, and where it is not known, 1.
    """
    is_sharp = teacher_accuracy is not None and teacher_accuracy >= SHARP
    values: dict[str, Any] = {"alpha": 1.0, "beta": 1.0, "temperature": 2.0 if is_sharp else 1.0}
    if is_skewed(class_counts) and not label_smoothing:
        values["ce"] = "balanced_softmax"
    if epochs is not None:
        values["warmup_epochs"] = round(epochs / 15, 1)
    if of_pixels:
        return Recommendation(
            values,
            "the recipe for images: 1 and 1 at temperature 1 beside a balanced softmax. On pixels it has been tried "
            "on CamVid alone, with small networks from scratch and three seeds, where no method stood out; so compare "
            "it with the students without a teacher, and try --loss cwd, made for pixels, and --loss kd, too.",
        )
    known = "is not known" if teacher_accuracy is None else f"is {teacher_accuracy:.0%}"
    return Recommendation(
        values,
        "1 and 1 beside a balanced softmax, at temperature 2 for a teacher that is right about half of the images or "
        f"more, at 1 for others (this one's balanced accuracy {known}), as was best on held-out texts and "
        "superclasses. On test images (5 seeds) it was above a balanced softmax without a teacher by 9.6 ± 2.3 points "
        "on traffic signs and 3.1 ± 1.0 on texts, level with it on digits and superclasses; above the paper's 6, 6 "
        "and 4 by 4.7 ± 1.4 on texts and 2.8 ± 0.3 on superclasses, level on traffic signs. On texts KD had more, so "
        "try --loss kd --loss_args temperature=2 ce=balanced_softmax, too.",
    )


def is_skewed(class_counts: Sequence[int]) -> bool:
    """Whether these training counts have a tail."""
    return max(class_counts) >= SKEWED * min(class_counts)


def recommend_ce(class_counts: Sequence[int], label_smoothing: float = 0.0, of_pixels: bool = False) -> Recommendation:
    """
    `ce` of [`CrossEntropyLoss`] for a teacher.

    Args:
        class_counts (`Sequence[int]`): Training images per class.
        label_smoothing (`float`, *optional*, defaults to 0.0): What goes with the plain cross-entropy alone.
        of_pixels (`bool`, *optional*, defaults to `False`): Whether it is pixels that are counted.
    """
    ratio = max(class_counts) / min(class_counts)
    if not is_skewed(class_counts):
        return Recommendation({"ce": "cross_entropy"}, f"the classes are nearly even (ratio {ratio:.3g})")
    if label_smoothing:
        return Recommendation({"ce": "cross_entropy"}, "label_smoothing_factor goes with this one alone")
    if of_pixels:
        return Recommendation(
            {"ce": "balanced_softmax"},
            f"the counts are skewed (ratio {ratio:.3g}), and a teacher of the plain cross-entropy named no class of "
            "CamVid's tail at all; --ce cross_entropy trains that one",
        )
    return Recommendation(
        {"ce": "balanced_softmax"},
        f"the counts are skewed (ratio {ratio:.3g}). At a reduced scale, such a teacher had 34.7 % over all classes "
        "and 14.9 % on the tail of CIFAR-100's superclasses at factor 100, one of the plain cross-entropy 29.0 and "
        "1.3; on texts of CLINC150 74.7 and 65.0, against 69.9 and 50.7; on traffic signs 83.8 and 76.6, against 84.9 "
        "and 73.0 (2, 5 and 2 seeds); --ce cross_entropy trains that one",
    )


def recommend_num_groups(num_classes: int) -> Recommendation:
    """
    `num_groups` to start from, by the paper's Table 6.

    Args:
        num_classes (`int`): Classes of the data.
    """
    reason = "the paper's head, medium and tail"
    if num_classes >= FEW_CLASSES:
        reason += (
            f". In its Table 6 (100 classes, 4 pairs) 20 groups change the accuracy over all classes by -0.1 to +1.0 "
            f"points, one group a class by -1.3 to +0.2. So {num_classes // 5} groups are worth a second run"
        )
    return Recommendation({"num_groups": min(3, num_classes)}, reason + ".")


def recommend_training(num_images: int, student: str, is_pretrained: bool) -> Recommendation:
    """
    Arguments of [`DistillationTrainingArguments`]: about 10,000 optimizer steps for fresh weights, 3,000 to
    fine-tune a network that has been trained before.

    Args:
        num_images (`int`): Training images.
        student (`str`): The network's name.
        is_pretrained (`bool`): Whether it has trained weights.
    """
    batch_size = 64
    steps, fewest, most = (3_000, 5, 50) if is_pretrained else (10_000, 30, 240)
    epochs = min(most, max(fewest, round(steps / math.ceil(num_images / batch_size))))
    values: dict[str, Any] = {
        "num_train_epochs": float(epochs),
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": 128,
        "logging_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
    }
    if is_pretrained:
        values |= {"learning_rate": 1e-4, "weight_decay": 0.05, "lr_scheduler_type": "cosine", "warmup_steps": 0.1}
        return Recommendation(values, f"AdamW, to fine-tune trained weights, for about {steps:,} steps")
    slow = "shufflenet" in student.lower() or "mobilenet" in student.lower()
    values |= {"preset": "paper", "learning_rate": 0.01 if slow else 0.05}
    return Recommendation(values, f"the paper's preset for fresh weights, for about {steps:,} steps")


def recommend_pixel_training(num_images: int, is_pretrained: bool) -> Recommendation:
    """
    The same for models that give each pixel a class.

    Args:
        num_images (`int`): Training images.
        is_pretrained (`bool`): Whether the model has trained weights.
    """
    steps, learning_rate = (3_000, 1e-4) if is_pretrained else (4_000, 2e-3)
    # Batch normalisation after a global pooling has nothing to normalise over in a last batch of one image.
    batch_size = next((size for size in (8, 7, 6, 5) if num_images % size != 1), 8)
    epochs = min(200, max(5, round(steps / math.ceil(num_images / batch_size))))
    values: dict[str, Any] = {
        "num_train_epochs": float(epochs),
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": 16,
        "learning_rate": learning_rate,
        "weight_decay": 0.01,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "logging_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
    }
    what = "to fine-tune trained weights" if is_pretrained else "for fresh weights"
    return Recommendation(values, f"AdamW with a cosine, {what}, for about {steps:,} steps")


def merge_training(recommended: Recommendation, given: dict[str, Any]) -> dict[str, Any]:
    """What the user gave wins; with a preset or an optimizer of theirs, nothing else of the optimisation is set."""
    values = dict(recommended.values)
    if "preset" in given or "optim" in given:
        keep = {"per_device_eval_batch_size", "logging_strategy", "save_strategy", "save_total_limit"}
        keep |= set() if "preset" in given else {"num_train_epochs", "per_device_train_batch_size"}
        values = {name: value for name, value in values.items() if name in keep}
    for what in ("save", "logging", "eval"):
        if f"{what}_steps" in given:
            values[f"{what}_strategy"] = "steps"
    return {**values, **given}


def training_arguments(given: dict[str, Any], recommended: Recommendation, crop: str) -> DistillationTrainingArguments:
    """The training's arguments; images that are decoded each time (`crop="resized"`) get worker processes."""
    values = {"dataloader_pin_memory": torch.cuda.is_available(), **merge_training(recommended, given)}
    if recommended.values and crop == "resized" and (os.cpu_count() or 1) > 2:
        values = {
            "dataloader_num_workers": min(8, os.cpu_count() or 1),
            "dataloader_persistent_workers": True,
            **values,
        }
    return DistillationTrainingArguments(**values)


def epochs_of(args: DistillationTrainingArguments, num_images: int) -> float:
    """Epochs of the training, also where `max_steps` sets its length."""
    if args.max_steps <= 0:
        return args.num_train_epochs
    per_epoch = math.ceil(num_images / (args.train_batch_size * args.world_size))
    return args.max_steps * args.gradient_accumulation_steps / per_epoch


def recommend_images(
    pixels: Pixels | BaseImageProcessor | None,
    config: PreTrainedConfig | None,
    image_size: int | None = None,
    teacher_pixels: Pixels | None = None,
) -> dict[str, Any]:
    """
    Fields of `DataArguments` that give a model the size of image it was trained on; empty where nothing tells it.

    Images above 64 pixels are decoded each time, with random resized crops, instead of being kept in memory.

    Args:
        pixels ([`Pixels`] or `BaseImageProcessor`, *optional*): What the model sees, or its image processor.
        config (`PreTrainedConfig`, *optional*): Its config; `image_size` counts where there is no processor.
        image_size (`int`, *optional*): A size of the user's own, which wins.
        teacher_pixels ([`Pixels`], *optional*): What its teacher sees, where that is something else.
    """
    size = image_size or (max(pixels_of(pixels).size) if pixels is not None else getattr(config, "image_size", None))
    if not isinstance(size, int):
        return {}
    largest = max(size, *teacher_pixels.size) if teacher_pixels is not None else size
    crop = {"crop": "resized"} if largest > 64 else {"crop_padding": max(1, size // 8)}
    return {"image_size": size, **crop}
