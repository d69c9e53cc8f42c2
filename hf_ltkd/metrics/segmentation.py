"""Mean IoU for `Trainer(compute_metrics=...)`: a confusion matrix is summed, and no prediction is kept."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..groups import ClassGroups
from ..utils import check_number, listed
from .batches import GroupMetric
from .group_mean_iou.group_mean_iou import GroupMeanIoU, confusion_matrix, iou_scores
from .pixel_answers import PixelAnswers, counts_of


class mean_iou(GroupMetric):  # noqa: N801  # used like a function: compute_metrics=mean_iou(groups)
    """
    A `compute_metrics` for semantic segmentation: `mean_iou`, `head_iou`, `medium_iou`, `tail_iou`, pixel accuracy
    under the names of [`group_accuracy`] (`accuracy`, `tail_accuracy`, ...) and `balanced_accuracy`, the mean of the
    classes' accuracies; all fractions, so that `metric_for_best_model="tail_iou"` works. What is not measured, because
    no pixel is of the group, is left out. The formulas are in [`iou_scores`].

    Counts are exact for any batches and ranks, and nothing but counts is kept, with

    ```python
    metric = mean_iou(groups)
    Trainer(compute_metrics=metric, preprocess_logits_for_metrics=metric.confusions, ...)  # batch_eval_metrics=True
    ```

    It takes logits or class ids as well, a batch at a time or all at once, but the Trainer then holds those of a
    batch, or of all images. Afterwards `confusion` (int64 `[classes, classes]`: pixels of each class, and what they
    are taken for) is that of the last evaluation, from which `scores()` makes everything, per class too, and `answers`
    ([`PixelAnswers`]) has it with the counts of each image, for intervals.

    Args:
        groups ([`ClassGroups`]): The groups of the classes.
        ignore_index (`int`, *optional*, defaults to 255): The label of pixels that are left out; -100 is one, too.
        leave_out (`Sequence` of `int` or `str`, *optional*):
            Classes that no mean and no accuracy is over, by id or, with `class_names`, by name: the background, for
            instance. Their pixels still count where they are taken for another class.
        class_names (`Sequence[str]` of length `classes`, *optional*):
            Adds `iou_{name}` and `accuracy_{name}` of each class to the results.

    Raises:
        `ValueError`: if an argument is not valid; when called with logits over another number of classes, or with
            labels that are no class.
        `FloatingPointError`: when called with NaN logits for a pixel that counts.
    """

    def __init__(
        self,
        groups: ClassGroups,
        *,
        ignore_index: int = 255,
        leave_out: Sequence[int | str] = (),
        class_names: Sequence[str] | None = None,
    ):
        super().__init__(groups)
        check_number("ignore_index", ignore_index, whole=True)
        self.ignore_index = ignore_index
        self.class_names = _items_of(class_names)
        if class_names is not None and len({*map(str, self.class_names)}) != groups.num_classes:
            raise ValueError(
                f"{groups.num_classes} classes need {groups.num_classes} different class_names, got "
                f"{listed(self.class_names) or repr(class_names)}."
            )
        ids: dict[Any, int] = {c: c for c in range(groups.num_classes)}
        ids |= {name: c for c, name in enumerate(self.class_names)}
        given = _items_of(leave_out)
        self.leave_out = sorted({ids[c] for c in given if c in ids})
        if len(self.leave_out) < len(given) or len(self.leave_out) == groups.num_classes or (leave_out and not given):
            raise ValueError(
                f"leave_out={leave_out!r} is not valid: give a list of some of the {groups.num_classes} classes, by "
                "id or, with class_names, by name."
            )
        self.confusion = self._nothing()
        self.answers: PixelAnswers | None = None

    def _nothing(self) -> np.ndarray:
        return np.zeros((self.groups.num_classes,) * 2, np.int64)

    def reset(self) -> None:
        self._sum = self._nothing()
        self._images: list[np.ndarray] = []

    @property
    def names(self) -> list[str]:
        """What it measures, where there are pixels to measure it on."""
        of_groups = [f"{name}_{score}" for name in self.groups.names for score in ("iou", "accuracy")]
        of_classes = [f"{score}_{name}" for name in self.class_names for score in ("iou", "accuracy")]
        return ["mean_iou", "accuracy", "balanced_accuracy", *of_groups, *of_classes]

    def confusions(self, logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """
        A confusion matrix for each image, for `Trainer(preprocess_logits_for_metrics=...)`.

        Args:
            logits (`torch.Tensor` of shape `[batch, classes, height, width]`, or a tuple that begins so):
                Of any height and width: brought to that of the labels as the models' own
                `post_process_semantic_segmentation` does it (bilinear, `align_corners=False`), an image at a time,
                so that the batch is never held in full size. Class ids `[batch, height, width]` of the labels' size do
                as well.
            labels (`torch.Tensor` of shape `[batch, height, width]`): Class ids.

        Returns:
            `torch.Tensor` of shape `[batch, classes · classes]`, int64, on the device of the logits.
        """
        logits = logits[0] if isinstance(logits, tuple) else logits
        classes = self.groups.num_classes
        is_ids = logits.shape == labels.shape and not logits.is_floating_point()
        if not is_ids and (logits.ndim != 4 or labels.ndim != 3 or len(logits) != len(labels)):
            raise ValueError(
                f"Logits of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)} do not fit: "
                "expected [batch, classes, height, width] and [batch, height, width]."
            )
        if not is_ids and logits.shape[1] != classes:
            raise ValueError(
                f"The logits have {logits.shape[1]} classes, the groups {classes}: make the groups from the masks of "
                "all classes of the model."
            )
        return torch.stack([self._confusion(one, label) for one, label in zip(logits, labels, strict=True)])

    def _confusion(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of one image, `[classes · classes]`."""
        labels = labels.to(logits.device)
        predictions = logits
        if logits.ndim == 3:
            logits = logits.float()
            if logits.shape[1:] != labels.shape:
                size = tuple(labels.shape)
                logits = torch.nn.functional.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
            highest, predictions = logits.max(0)
            broken = highest.isnan() & (labels != self.ignore_index) & (labels != -100)
            if broken.any():
                raise FloatingPointError(
                    f"The logits of {broken.sum()} of {broken.numel()} pixels are NaN, which is no class: the model "
                    "is broken."
                )
        ids = (predictions.cpu().numpy(), labels.cpu().numpy())
        counts = confusion_matrix(*ids, self.groups.num_classes, self.ignore_index)
        return torch.from_numpy(counts.ravel()).to(labels.device)

    def _add(self, predictions: Any, labels: Any) -> None:
        first = _tensor(predictions[0] if isinstance(predictions, tuple) else predictions)
        is_counted = first.shape[1:] == (self._sum.size,)
        counts = first if is_counted else self.confusions(first, _tensor(labels))
        of_images = counts.cpu().numpy().reshape(-1, *self._sum.shape)
        self._sum += of_images.sum(0)
        self._images.append(counts_of(of_images))

    def _result(self) -> dict[str, float]:
        self.confusion, self.answers = self._sum, PixelAnswers(self._sum, np.concatenate(self._images))
        scores = self.scores()
        for score in ("iou", "accuracy"):
            of_classes = scores.pop(f"class_{score}")
            scores |= {f"{score}_{name}": of_classes[c] for c, name in enumerate(self.class_names)}
        return {name: value for name, value in scores.items() if value is not None and not math.isnan(value)}

    def of_classes(self) -> dict[str, list[float | None]]:
        """`class_iou` and `class_accuracy` of the last evaluation, `None` for a class that did not occur."""
        return {name: values for name, values in self.scores().items() if name.startswith("class_")}

    def scores(self) -> dict[str, Any]:
        """Everything that [`iou_scores`] makes of the last evaluation's `confusion`."""
        groups = self.groups.group_of_class.numpy()
        return iou_scores(self.confusion, groups, self.groups.names, self.leave_out)


def _items_of(values: Any) -> list[Any]:
    """The items of a list, a tuple or the like; none of anything else."""
    return list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []


def _tensor(values: Any) -> Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"Predictions and labels are tensors or arrays, not {type(values).__name__}: expected logits [batch, "
            "classes, height, width], or class ids [batch, height, width]."
        ) from error


__all__ = ["GroupMeanIoU", "iou_scores", "mean_iou"]
