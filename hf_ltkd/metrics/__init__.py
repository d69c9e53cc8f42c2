"""Group accuracy for `Trainer(compute_metrics=...)`, and `GroupAccuracy`, the metric for `evaluate`."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor
from transformers import EvalPrediction

from ..groups import ClassGroups, check_groups
from .group_accuracy.group_accuracy import GroupAccuracy, group_accuracies
from .segmentation import GroupMeanIoU, mean_iou


class group_accuracy:  # noqa: N801  # used like a function: compute_metrics=group_accuracy(groups)
    """
    A `compute_metrics` for the Trainer: `accuracy`, `head_accuracy`, `medium_accuracy`, `tail_accuracy` (or the names
    of other groups), all fractions, so that `metric_for_best_model="tail_accuracy"` works. A group without a test
    example is not measured: it is left out.

    Logits are `[..., classes]` and labels `[...]`: one label per example, or one per token of each example. Of soft
    labels `[..., classes]` the most probable class counts. Labels of -100 and -1 are left out. Class ids of the shape
    of the labels do as well
    (`preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1)`), and batches one by one
    (`batch_eval_metrics=True`).

    Args:
        groups ([`ClassGroups`]): The groups of the classes.

    Raises:
        `ValueError`: when called with logits over another number of classes, or that do not fit the labels.
        `FloatingPointError`: when called with a NaN for a labelled example.
    """

    def __init__(self, groups: ClassGroups):
        check_groups(groups)
        self.groups = groups
        self.reset()

    @property
    def names(self) -> list[str]:
        """What it measures, where there are examples to measure it on."""
        return ["accuracy", *(f"{name}_accuracy" for name in self.groups.names)]

    def reset(self) -> None:
        """Forgets the batches of an evaluation that did not end."""
        self._batches: list[tuple[np.ndarray, np.ndarray]] = []

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """`compute_result=False` is for all batches but the last, whose call gives the result of all of them."""
        labels = prediction.label_ids
        one_by_one = isinstance(labels, list)  # eval_do_concat_batches=False
        pairs = zip(prediction.predictions, labels, strict=True) if one_by_one else [(prediction.predictions, labels)]
        try:
            for predictions, references in pairs:
                references = hard_labels(references)
                ids = class_ids(predictions, references, self.groups.num_classes)
                self._batches.append((ids.ravel(), references.ravel()))
        except (ValueError, FloatingPointError):
            self.reset()
            raise
        if not compute_result:
            return {}
        predictions, references = map(np.concatenate, zip(*self._batches, strict=True))
        self.reset()
        accuracies = group_accuracies(predictions, references, self.groups.group_of_class.numpy(), self.groups.names)
        return {name: value for name, value in accuracies.items() if name == "accuracy" or not math.isnan(value)}

    def check_is_measured(self, metric: str, labels: np.ndarray) -> None:
        """
        Raises:
            `ValueError`: if `metric` is the accuracy of a group that none of the labels to evaluate on belongs to.
        """
        for group, name in enumerate(self.groups.names):
            classes = (self.groups.group_of_class == group).nonzero()
            if metric.removeprefix("eval_") == f"{name}_accuracy" and not np.isin(labels, classes).any():
                raise ValueError(
                    f"metric_for_best_model={metric!r} cannot be measured: there is no test image of the group "
                    f"{name!r}. Add some, or choose by eval_accuracy."
                )


def as_array(values: Any) -> np.ndarray:
    """An array of an array or a tensor."""
    if isinstance(values, Tensor):
        values = (values.float() if values.is_floating_point() else values).cpu()
    return np.asarray(values)


def hard_labels(labels: Any) -> np.ndarray:
    """Class ids out of class ids or soft labels; -100 where there is no class (-100, -1, or a row of these)."""
    labels = as_array(labels)
    if np.issubdtype(labels.dtype, np.floating):
        labels = np.where(labels[..., 0] < 0, -100, labels.argmax(-1))
    return np.where(labels == -1, -100, labels)


def class_ids(predictions: Any, labels: Any, num_classes: int) -> np.ndarray:
    """
    The predicted class of each label, out of logits or class ids, as arrays or tensors, or a tuple that begins so.

    Raises:
        `ValueError`: if they are logits over another number of classes, or fit the labels in neither way.
        `FloatingPointError`: if a logit of an example with a label is NaN, which is greater than none.
    """
    predictions = as_array(
        predictions[0] if isinstance(predictions, tuple) else predictions
    )  # a model may return more
    labels = as_array(labels)
    if predictions.shape == labels.shape and np.issubdtype(predictions.dtype, np.integer):
        return predictions
    if predictions.ndim == 0 or predictions.dtype.kind not in "fiub":
        raise ValueError(f"The predictions are {predictions.dtype}, not logits [..., classes], nor class ids.")
    if predictions.shape[-1] != num_classes:
        raise ValueError(
            f"The logits have {predictions.shape[-1]} classes, the groups {num_classes}: make the groups from the "
            "counts of all classes of the model."
        )
    if predictions.shape[:-1] != labels.shape:
        raise ValueError(
            f"Predictions of shape {predictions.shape} and labels of shape {labels.shape} do not fit: give logits "
            "[..., classes], or class ids of the shape of the labels."
        )
    wrong = np.isnan(predictions).any(-1) & (labels != -100)
    if wrong.any():
        raise FloatingPointError(
            f"The logits of {wrong.sum()} of {wrong.size} examples are NaN, which is no class: the model is broken."
        )
    return predictions.argmax(-1)


def without_prefix(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Without `eval_` before the names, and without the NaN or `None` of groups that have no test example."""
    finite = {n: v for n, v in metrics.items() if v is not None and (not isinstance(v, float) or math.isfinite(v))}
    return {name.removeprefix("eval_"): value for name, value in finite.items()}


__all__ = ["GroupAccuracy", "GroupMeanIoU", "class_ids", "group_accuracy", "mean_iou", "without_prefix"]
