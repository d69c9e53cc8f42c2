"""Group accuracy for `Trainer(compute_metrics=...)`, and `GroupAccuracy`, the metric for `evaluate`."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ..groups import ClassGroups
from .answers import Answers
from .batches import GroupMetric
from .group_accuracy.group_accuracy import RESERVED, GroupAccuracy, valid_ids
from .perplexity import group_perplexity
from .segmentation import GroupMeanIoU, mean_iou


class group_accuracy(GroupMetric):  # noqa: N801  # used like a function: compute_metrics=group_accuracy(groups)
    """
    A `compute_metrics` for the Trainer, of fractions that `metric_for_best_model` takes:

    - `accuracy`, and `head_accuracy`, `medium_accuracy`, `tail_accuracy` (or the names of other groups)
    - `many_shot_accuracy`, `medium_shot_accuracy`, `few_shot_accuracy` of classes with more than 100, 20 to 100, and
      fewer than 20 training examples, where the groups have counts and are others
    - `balanced_accuracy`, `macro_f1`, `worst_class_accuracy`, `harmonic_mean_accuracy`, in which every class that has
      a test example counts alike: see [`scores_of_counts`]
    - `expected_calibration_error`, where logits are given: see [`calibration_error`]

    A group without a test example is not measured: it is left out.

    Logits are `[..., classes]` and labels `[...]`: one label per example, or one per token of each example. Of soft
    labels `[..., classes]` the most probable class counts. Labels of -100 and -1 are left out. Class ids of the shape
    of the labels do as well (`preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1)`), and batches
    one by one (`batch_eval_metrics=True`), with the same result.

    Args:
        groups ([`ClassGroups`]): The groups of the classes.

    Raises:
        `ValueError`: if a group has the name of a score; when called with logits over another number of classes, or
            that do not fit the labels.
        `FloatingPointError`: when called with a NaN for a labelled example.
    """

    def __init__(self, groups: ClassGroups):
        super().__init__(groups)
        if hidden := RESERVED & {*groups.names}:
            raise ValueError(
                f"A group is called {sorted(hidden)[0]!r}, as one of the scores is: give the groups other names."
            )

    def reset(self) -> None:
        self._batches: list[Answers] = []

    def _add(self, predictions: Any, labels: Any) -> None:
        self._batches.append(answers_of(predictions, labels, self.groups.num_classes))

    def _result(self) -> dict[str, float]:
        scores = Answers.joined(self._batches).scores(self.groups)
        measured = {name: value for name, value in scores.items() if value is not None}
        return measured or {"accuracy": math.nan}

    @property
    def names(self) -> list[str]:
        """Of all that it may give."""
        examples = np.arange(self.groups.num_classes)
        return [*Answers(examples, examples, np.ones(len(examples))).scores(self.groups)]

    def check_is_measured(self, metric: str, labels: np.ndarray) -> None:
        """
        Raises:
            `ValueError`: if `metric` is the accuracy of a group that none of the labels to evaluate on belongs to.
        """
        name, known = metric.removeprefix("eval_"), labels[(labels >= 0) & (labels < self.groups.num_classes)]
        mask = Answers(known, known).masks(self.groups).get(name)
        if mask is not None and not mask.any():
            raise ValueError(
                f"metric_for_best_model={metric!r} cannot be measured: there is no test image of the group "
                f"{name.removesuffix('_accuracy')!r}. Add some, or choose by eval_accuracy."
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


def answers_of(predictions: Any, labels: Any, num_classes: int) -> Answers:
    """
    What logits or class ids (arrays or tensors, or a tuple that begins so) say of each example that has a label; how
    sure they are of it, where they are logits.

    Raises:
        `ValueError`: if they are logits over another number of classes, fit the labels in neither way, or a class id
            is none of the classes.
        `FloatingPointError`: if a logit of an example with a label is NaN, which is greater than none.
    """
    predictions = as_array(
        predictions[0] if isinstance(predictions, tuple) else predictions
    )  # a model may return more
    labels = hard_labels(labels)
    if predictions.shape == labels.shape and np.issubdtype(predictions.dtype, np.integer):
        predictions, labels = valid_ids(predictions, labels, num_classes)
        return Answers(labels, predictions)
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
    logits = predictions[labels != -100]
    wrong = np.isnan(logits).any(-1)
    if wrong.any():
        raise FloatingPointError(
            f"The logits of {wrong.sum()} of {labels.size} examples are NaN, which is no class: the model is broken."
        )
    predictions, labels = valid_ids(predictions.argmax(-1), labels, num_classes)
    return Answers(labels, predictions, confidences(logits))


def confidences(logits: np.ndarray) -> np.ndarray | None:
    """
    The largest probability of each row of logits `[examples, classes]`; `None` where one is infinite, which has none.
    """
    if not np.isfinite(logits.max(-1)).all():
        return None
    logits = logits.astype(np.promote_types(logits.dtype, np.float32), copy=False)
    return 1 / np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)


def without_prefix(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Without `eval_` before the names, and without the NaN or `None` of groups that have no test example."""
    finite = {n: v for n, v in metrics.items() if v is not None and (not isinstance(v, float) or math.isfinite(v))}
    return {name.removeprefix("eval_"): value for name, value in finite.items()}


GROUP_METRICS = (group_accuracy, group_perplexity, mean_iou)  # what the Trainer takes, with the groups that are saved

__all__ = [
    "GroupAccuracy",
    "GroupMeanIoU",
    "answers_of",
    "group_accuracy",
    "group_perplexity",
    "mean_iou",
    "without_prefix",
]
