"""Group accuracy for `Trainer(compute_metrics=...)`, and `GroupAccuracy`, the metric for `evaluate`."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import EvalPrediction

from ..groups import ClassGroups
from .group_accuracy.group_accuracy import GroupAccuracy, group_accuracies


class group_accuracy:  # noqa: N801  # used like a function: compute_metrics=group_accuracy(groups)
    """
    A `compute_metrics` for the Trainer: `accuracy`, `head_accuracy`, `medium_accuracy`, `tail_accuracy` (or the names
    of other groups), all fractions, so that `metric_for_best_model="tail_accuracy"` works. A group without a test
    example is not measured: it is left out.

    Logits are `[..., classes]` and labels `[...]`: one label per example, or one per token of each example. Labels of
    -100 are left out.

    Args:
        groups ([`ClassGroups`]): The groups of the classes.

    Raises:
        `ValueError`: when called with logits over another number of classes, or that do not fit the labels.
    """

    def __init__(self, groups: ClassGroups):
        self.groups = groups

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        logits = prediction.predictions
        logits = logits[0] if isinstance(logits, tuple) else logits  # a model may return more than its logits
        if logits.shape[-1] != self.groups.num_classes:
            raise ValueError(
                f"The logits have {logits.shape[-1]} classes, the groups {self.groups.num_classes}: "
                "make the groups from the counts of all classes of the model."
            )
        accuracies = group_accuracies(
            np.argmax(logits, axis=-1),
            prediction.label_ids,
            self.groups.group_of_class.numpy(),
            self.groups.names,
        )
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


def without_prefix(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Without `eval_` before the names, and without the NaN or `None` of groups that have no test example."""
    finite = {n: v for n, v in metrics.items() if v is not None and (not isinstance(v, float) or math.isfinite(v))}
    return {name.removeprefix("eval_"): value for name, value in finite.items()}


__all__ = ["GroupAccuracy", "group_accuracy", "without_prefix"]
