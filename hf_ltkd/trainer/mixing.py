"""
Images of two examples in one, with soft labels: mixup (Zhang et al., ICLR 2018, https://arxiv.org/abs/1710.09412) and
CutMix (Yun et al., ICCV 2019, https://arxiv.org/abs/1905.04899).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments

from ..losses.base import DistillationLoss
from ..losses.checks import IGNORED_LABEL, UNLABELLED, check_labels, is_example, is_labelled
from .segmenters import is_segmenter
from .training_args import DistillationTrainingArguments


@dataclass(frozen=True)
class Draw:
    """
    What an optimizer step has drawn.

    Attributes:
        share (`float`): lambda, what an example keeps of itself.
        box (`tuple[float, ...]`, *optional*):
            Of CutMix: top, left, bottom, right of what comes from the other, as parts of the sides.
    """

    share: float
    box: tuple[float, float, float, float] | None = None


def draw(args: DistillationTrainingArguments, step: int) -> Draw:
    """The draw of a step, a function of `(seed, step)`: the same on every rank, and after resuming."""
    random = np.random.default_rng([args.seed, step])
    is_cutmix = args.cutmix_alpha > 0 and (args.mixup_alpha == 0 or random.random() < 0.5)
    alpha = args.cutmix_alpha if is_cutmix else args.mixup_alpha
    share = random.beta(alpha, alpha)
    if not is_cutmix:
        return Draw(share)
    centre, half = random.random(2), np.sqrt(1 - share) / 2
    return Draw(share, (*(centre - half).clip(0, 1), *(centre + half).clip(0, 1)))


def mix(batch: dict[str, Any], drawn: Draw, num_classes: int) -> dict[str, Any]:
    """
    Each example mixed with its neighbour: the first with the second, the third with the fourth, and so on.

    The order of the examples is random already. Neighbours are in one micro-batch however a step is split, as long as
    its micro-batches are even. The last of an odd number stays as it is, as do neighbours of which one alone has a
    class, which would be lost, or is padding (-100).

    Args:
        batch (`dict`): `pixel_values` and perhaps `teacher_pixel_values` of shape `[batch, ..., height, width]`, and
            perhaps `labels`, class ids `[batch]` or soft labels `[batch, classes]`.
        drawn ([`Draw`]): What both share.
        num_classes (`int`): Classes of the soft labels.

    Returns:
        `dict`: the batch with mixed pixels and soft labels.
    """
    own = batch["pixel_values"]
    order = torch.arange(len(own), device=own.device)
    partner = (order ^ 1).clamp_max(len(own) - 1)
    labels = batch.get("labels")
    if labels is not None:
        check_labels(labels, own.new_empty(len(own), num_classes), IGNORED_LABEL, UNLABELLED)
        example, labelled = is_example(labels), is_labelled(labels)
        alike = (example == example[partner]) & (labelled == labelled[partner])
        partner = torch.where(alike, partner, order)
    mixed, share = dict(batch), drawn.share
    for name in ("teacher_pixel_values", "pixel_values"):  # the student's box, in whole pixels, decides on the labels
        if name in batch:
            mixed[name], share = _mix_pixels(batch[name], partner, drawn)
    if labels is not None:
        soft = labels if labels.is_floating_point() else F.one_hot(labels * labelled, num_classes).float()
        marks = torch.where(example, -1.0, -100.0).to(soft)[:, None]
        both = share * soft + (1 - share) * soft[partner]
        mixed["labels"] = torch.where(labelled[:, None], both, marks)
    return mixed


def _mix_pixels(pixels: Tensor, partner: Tensor, drawn: Draw) -> tuple[Tensor, float]:
    """The mixed pixels, and what each example kept of itself."""
    if drawn.box is None:
        return torch.lerp(pixels[partner], pixels, drawn.share), drawn.share
    height, width = pixels.shape[-2:]
    top, left, bottom, right = np.rint(np.multiply(drawn.box, (height, width, height, width))).astype(int).tolist()
    pixels, other = pixels.clone(), pixels[partner]
    pixels[..., top:bottom, left:right] = other[..., top:bottom, left:right]
    return pixels, 1 - (bottom - top) * (right - left) / (height * width)


class Mixer:
    """
    Mixes the batches of a training, before teacher and student see them.

    Raises:
        `ValueError`: if the loss or a cache of the teacher's logits does not go with mixed images, or nobody knows the
            number of classes.
    """

    def __init__(
        self, args: DistillationTrainingArguments, student: nn.Module, loss: DistillationLoss, is_cached: bool
    ):
        asked = f"mixup_alpha={args.mixup_alpha} and cutmix_alpha={args.cutmix_alpha}"
        if is_cached:
            raise ValueError(
                f"{asked} do not go with a TeacherCache, whose logits are for images that are not mixed: pass the "
                "teacher itself as teacher_model, or leave them out."
            )
        if loss.needs_labels:
            raise ValueError(
                f"{asked} do not go with {type(loss).__name__}, which needs the one class of each example: leave them "
                "out, or choose another loss, such as KDLoss."
            )
        if is_segmenter(student):
            raise ValueError(f"{asked} make soft labels of whole images, and masks have none: leave them out.")
        num_classes = student.config.num_labels if isinstance(student, PreTrainedModel) else loss.num_classes
        if num_classes is None:
            raise ValueError(
                f"{asked} need the number of classes, which a {type(student).__name__} does not say: wrap it as a "
                "PreTrainedModel, or use a loss that is made for class counts or groups."
            )
        self.args, self.num_classes = args, int(num_classes)

    def __call__(self, batches: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
        """
        The micro-batches of a step, mixed.

        Raises:
            `ValueError`: if they hold no images, or sample weights.
        """
        drawn = draw(self.args, step)
        for batch in batches:
            if "pixel_values" not in batch or batch["pixel_values"].ndim < 4:
                raise ValueError(
                    f"mixup_alpha and cutmix_alpha mix pixel_values [batch, channels, height, width], and the batch "
                    f"holds {[*batch]}: leave them out."
                )
            if "sample_weights" in batch:
                raise ValueError(
                    "mixup_alpha and cutmix_alpha make one example of two, and sample_weights weigh each: leave out "
                    "one or the other."
                )
        return [mix(batch, drawn, self.num_classes) for batch in batches]


def make_mixer(args: TrainingArguments, student: nn.Module, loss: DistillationLoss, is_cached: bool) -> Mixer | None:
    """`None` where nothing is to be mixed."""
    if not isinstance(args, DistillationTrainingArguments) or not (args.mixup_alpha or args.cutmix_alpha):
        return None
    return Mixer(args, student, loss, is_cached)
