"""Mean IoU for `Trainer(compute_metrics=...)`: a confusion matrix is summed, and no prediction is kept."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction

from ..groups import ClassGroups, check_groups
from ..utils import check_number, listed
from .group_mean_iou.group_mean_iou import GroupMeanIoU, iou_scores


class mean_iou:  # noqa: N801  # used like a function: compute_metrics=mean_iou(groups)
    """
    A `compute_metrics` for semantic segmentation: `mean_iou`, `head_iou`, `medium_iou`, `tail_iou`, pixel accuracy under
    the names of [`group_accuracy`] (`accuracy`, `tail_accuracy`, ...) and `balanced_accuracy`, the mean of the classes'
    accuracies; all fractions, so that `metric_for_best_model="tail_iou"` works. What is not measured, because no pixel
    is of the group, is left out. The formulas are in [`iou_scores`].

    Counts are exact for any batches and ranks, and nothing but counts is kept, with

    ```python
    metric = mean_iou(groups)
    Trainer(compute_metrics=metric, preprocess_logits_for_metrics=metric.confusions, ...)  # batch_eval_metrics=True
    ```

    It takes logits or class ids as well, a batch at a time or all at once, but the Trainer then holds those of a batch,
    or of all images. Afterwards `confusion` (int64 `[classes, classes]`: pixels of each class, and what they are taken
    for) is that of the last evaluation, from which `scores()` makes everything, per class too.

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
        check_groups(groups)
        check_number("ignore_index", ignore_index, whole=True)
        self.groups = groups
        self.ignore_index = ignore_index
        self.class_names = None if class_names is None else [*class_names]
        if self.class_names is not None and len({*self.class_names}) != groups.num_classes:
            raise ValueError(
                f"{groups.num_classes} classes need {groups.num_classes} different class_names, got "
                f"{listed(self.class_names)}."
            )
        ids: dict[Any, int] = {c: c for c in range(groups.num_classes)}
        ids |= {name: c for c, name in enumerate(self.class_names or ())}
        foreign = [c for c in leave_out if c not in ids]
        self.leave_out = sorted({ids[c] for c in leave_out if c in ids})
        if foreign or isinstance(leave_out, str) or len(self.leave_out) == groups.num_classes:
            raise ValueError(
                f"leave_out={leave_out!r} is not valid: give a list of some of the {groups.num_classes} classes, by id "
                "or, with class_names, by name."
            )
        self.confusion = self._nothing()
        self.reset()

    def _nothing(self) -> np.ndarray:
        return np.zeros((self.groups.num_classes,) * 2, np.int64)

    def reset(self) -> None:
        """Forgets the batches of an evaluation that did not end."""
        self._sum = self._nothing()

    @property
    def names(self) -> list[str]:
        """What it measures."""
        both = [f"{name}_{score}" for name in self.groups.names for score in ("iou", "accuracy")]
        return ["mean_iou", "accuracy", "balanced_accuracy", *both]

    def confusions(self, logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """
        A confusion matrix for each image, for `Trainer(preprocess_logits_for_metrics=...)`, on the device of the logits.

        Args:
            logits (`torch.Tensor` of shape `[batch, classes, height, width]`, or a tuple that begins so):
                Of any height and width: brought to that of the labels as the models' own
                `post_process_semantic_segmentation` does it (bilinear, `align_corners=False`), an image at a time,
                so that the batch is never held in full size. Class ids `[batch, height, width]` of the labels' size do
                as well.
            labels (`torch.Tensor` of shape `[batch, height, width]`): Class ids.

        Returns:
            `torch.Tensor` of shape `[batch, classes · classes]`, int64.
        """
        logits = logits[0] if isinstance(logits, tuple) else logits
        classes = self.groups.num_classes
        is_ids = logits.shape == labels.shape and not logits.is_floating_point()
        if not is_ids and (logits.ndim != 4 or labels.ndim != 3 or len(logits) != len(labels)):
            raise ValueError(
                f"Logits of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)} do not fit: expected "
                "[batch, classes, height, width] and [batch, height, width]."
            )
        if not is_ids and logits.shape[1] != classes:
            raise ValueError(
                f"The logits have {logits.shape[1]} classes, the groups {classes}: make the groups from the masks of "
                "all classes of the model."
            )
        return torch.stack([self._confusion(one, label) for one, label in zip(logits, labels, strict=True)])

    def _confusion(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of one image, `[classes · classes]`."""
        classes, labels = self.groups.num_classes, labels.to(logits.device).long()
        counted = (labels != self.ignore_index) & (labels != -100)
        if logits.ndim == 3:
            resized = logits.float()
            if resized.shape[1:] != labels.shape:
                size = tuple(labels.shape)
                resized = torch.nn.functional.interpolate(resized[None], size, mode="bilinear", align_corners=False)[0]
            highest, predictions = resized.max(0)
            wrong = int(highest[counted].isnan().sum())
            if wrong:
                raise FloatingPointError(
                    f"The logits of {wrong} of {counted.sum()} pixels are NaN, which is no class: the model is broken."
                )
        else:
            predictions = logits.long()
        for name, ids in (("labels", labels[counted]), ("predictions", predictions[counted])):
            if len(ids) and not 0 <= ids.min() <= ids.max() < classes:
                raise ValueError(
                    f"The {name} run from {ids.min()} to {ids.max()}, outside the classes 0 to {classes - 1} of the "
                    f"groups, and ignore_index is {self.ignore_index}."
                )
        return torch.bincount(labels[counted] * classes + predictions[counted], minlength=classes**2)

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """`compute_result=False` is for all batches but the last, whose call gives the result of all of them."""
        labels = prediction.label_ids
        one_by_one = isinstance(labels, list)  # eval_do_concat_batches=False
        pairs = zip(prediction.predictions, labels, strict=True) if one_by_one else [(prediction.predictions, labels)]
        try:
            for predictions, references in pairs:
                first = torch.as_tensor(predictions[0] if isinstance(predictions, tuple) else predictions)
                counts = first if first.ndim == 2 else self.confusions(first, torch.as_tensor(references))
                self._sum += counts.sum(0).cpu().numpy().reshape(self._sum.shape)
        except (ValueError, FloatingPointError):
            self.reset()
            raise
        if not compute_result:
            return {}
        self.confusion = self._sum
        self.reset()
        scores = self.scores()
        result = {name: scores[name] for name in self.names if not math.isnan(scores[name])}
        for score in ("iou", "accuracy") if self.class_names else ():
            named = zip(self.class_names or (), scores[f"class_{score}"], strict=True)
            result |= {f"{score}_{name}": value for name, value in named if value is not None}
        return result

    def scores(self) -> dict[str, Any]:
        """Everything that [`iou_scores`] makes of the last evaluation's `confusion`."""
        groups = self.groups.group_of_class.numpy()
        return iou_scores(self.confusion, groups, self.groups.names, self.leave_out)


__all__ = ["GroupMeanIoU", "iou_scores", "mean_iou"]
