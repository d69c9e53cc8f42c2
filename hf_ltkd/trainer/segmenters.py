"""
Semantic segmentation: student, teacher and masks are brought to one grid, on which a pixel is what an example is
elsewhere.

Labels become `[batch, height, width]` with -100 where nothing counts, logits a view `[batch, height, width, classes]`,
of which the loss takes the pixels that count, in one row each: the one copy that is made of them.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer

from ..losses.base import DistillationLoss
from ..losses.checks import IGNORED_LABEL, at_least_float32, logits_of
from ..losses.cross_entropy import cross_entropy_of_each
from ..metrics import mean_iou
from ..teacher.columns import inputs_of
from ..teacher.language import network_of
from ..utils import placed_for, student_inputs
from .calls import ModelCalls
from .training_args import DistillationTrainingArguments


IMAGE_IDS = "image_ids"  # the column that tells a loss which image a pixel is of


def is_segmenter(model: nn.Module | None) -> bool:
    """Whether a model gives each pixel a class: its class ends with `ForSemanticSegmentation`, as in transformers."""
    return type(network_of(model)).__name__.endswith("ForSemanticSegmentation")


class PixelCalls(ModelCalls):
    """
    Segmentation: a label per pixel.

    Args:
        student (`torch.nn.Module`): The student.
        on_labels (`bool`): Whether both logits are interpolated to the labels' grid, instead of the teacher's logits
            and the labels to the student's.
        autocast (`Callable`): Gives the context in which networks run.
    """

    def __init__(self, student: nn.Module, on_labels: bool, autocast: Callable[[], AbstractContextManager]):
        self.student, self.on_labels, self.autocast = student, on_labels, autocast
        config = getattr(student, "config", None)
        # The latter is UperNet's.
        self.ignored = getattr(config, "semantic_loss_ignore_index", getattr(config, "loss_ignore_index", 255))
        self._grids: dict[torch.Size, torch.Size] = {}

    @classmethod
    def of(cls, trainer: Trainer, networks: list[nn.Module]) -> "PixelCalls":
        args: Any = trainer.args
        on_labels = isinstance(args, DistillationTrainingArguments) and args.logits_grid == "labels"
        return cls(networks[0], on_labels, trainer.accelerator.autocast)

    def labels(self, labels: Tensor) -> Tensor:
        """
        Masks `[batch, height, width]` with -100 for the pixels that the student's config says are ignored.

        Raises:
            `ValueError`: if they are no class ids, one a pixel.
        """
        if labels.ndim != 3 or labels.is_floating_point():
            raise ValueError(
                f"The labels of a segmentation have the shape {tuple(labels.shape)} and {labels.dtype}: give the "
                f"class id of each pixel, [batch, height, width] (int64), {self.ignored} or -100 where there is none."
            )
        return labels.long().masked_fill(labels == self.ignored, IGNORED_LABEL)

    def on_grid(self, batch: dict[str, Any]) -> dict[str, Any]:
        """
        A batch with its labels on the grid of the loss, and the column `image_ids`. A label of the student's grid is
        that of the pixel in whose area the centre of the coarser one lies: a class keeps its share of the pixels, and
        no class is made up between two others.
        """
        if "labels" not in batch or IMAGE_IDS in batch:
            return batch
        labels = self.labels(batch["labels"])
        if not self.on_labels:
            rows, columns = (
                ((torch.arange(wanted, device=labels.device) + 0.5) * (given / wanted)).long()
                for wanted, given in zip(self._student_grid(batch), labels.shape[1:], strict=True)
            )
            labels = labels[:, rows[:, None], columns]
        return {**batch, "labels": labels, IMAGE_IDS: torch.arange(len(labels), device=labels.device)}

    @torch.no_grad()
    def _student_grid(self, batch: dict[str, Any]) -> torch.Size:
        """Height and width of the student's logits, which one image of each size tells, without a trace of it."""
        inputs = student_inputs(batch)
        size = inputs["pixel_values"].shape[1:]
        if size not in self._grids:
            one = placed_for(self.student, {n: v[:1] for n, v in inputs_of(self.student, inputs).items()})
            modes = {module: module.training for module in self.student.modules()}
            self.student.eval()
            with self.autocast():
                self._grids[size] = logits_of(self.student(**one)).shape[2:]
            for module, mode in modes.items():
                module.training = mode
        return self._grids[size]

    def compared(self, outputs: Any, batch: dict[str, Any]) -> Any:
        """
        The logits of a network on the grid of a batch's labels, as a view `[batch, height, width, classes]`. What an
        auxiliary head says is left out.

        Raises:
            `ValueError`: if it is another kind of output.
        """
        if "labels" not in batch:
            return outputs
        logits, size = logits_of(outputs), batch["labels"].shape[1:]
        if logits.ndim != 4:
            raise ValueError(
                f"The logits of a segmentation have the shape {tuple(logits.shape)}: [batch, classes, height, width] "
                "is expected."
            )
        if logits.shape[2:] != size:
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        return logits.permute(0, 2, 3, 1)

    def num_classes(self, outputs: Any) -> int:
        return logits_of(outputs).shape[1]

    def scores(self, outputs: Any, losses: Tensor) -> Tensor:
        return losses[..., None]

    def losses_of_each(self, outputs: Any, labels: Tensor) -> Tensor:
        """
        `[batch, height, width]`: logits are interpolated to the labels, as the models' own loss does it, an image at a
        time.
        """
        return torch.stack(
            [
                cross_entropy_of_each(self.compared(logits[None], {"labels": mask[None]})[0], mask)
                for logits, mask in zip(at_least_float32(logits_of(outputs)), labels, strict=True)
            ]
        )


def confusions_for(compute_metrics: Any) -> Callable | None:
    """What [`mean_iou`] makes of logits in an evaluation, so that no logits are kept; `None` for other metrics."""
    return compute_metrics.confusions if isinstance(compute_metrics, mean_iou) else None


def check_segmenters(student: nn.Module, teacher: nn.Module | None, loss: DistillationLoss) -> None:
    """
    Raises:
        `ValueError`: if one of two models gives a class to each pixel and the other does not, or the loss is for the
            other kind.
    """
    of_pixels = is_segmenter(student)
    if teacher is not None and is_segmenter(teacher) != of_pixels:
        raise ValueError(
            f"The teacher is a {type(teacher).__name__} and the student a {type(student).__name__}: either both give "
            "each pixel a class (...ForSemanticSegmentation), or none does."
        )
    if of_pixels and loss.needs_hidden_states:
        raise ValueError(
            f"{type(loss).__name__} compares feature maps of classifiers and their pooled features, which a "
            f"{type(student).__name__} does not have: choose a loss on logits, such as LTKDLoss or CWDLoss."
        )
    if not of_pixels and loss.needs_pixels:
        raise ValueError(
            f"{type(loss).__name__} compares where in an image a class is, and a {type(student).__name__} does not "
            "say so: choose another loss, such as KDLoss, or a model ...ForSemanticSegmentation."
        )
