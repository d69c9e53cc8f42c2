"""Accuracy over all examples and over the examples of each group of classes, as an `evaluate` module."""

import datasets
import evaluate
import numpy as np


_DESCRIPTION = "Accuracy overall and per group of classes (head, medium, tail), for long-tailed recognition."
_INPUTS = """
Args:
    predictions (list of int): Predicted class ids.
    references (list of int): True class ids; where one is -100, both are left out.
    group_of_class (list of int): The group index of each class, 0 for the most frequent group.
    group_names (list of str, optional): One name per group; head, medium, tail for three groups.
Returns:
    accuracy, and {name}_accuracy for each group: fractions of the examples, nan for a group without any.
"""


def group_accuracies(predictions, references, group_of_class, group_names) -> dict[str, float]:
    """
    Args:
        predictions, references (`np.ndarray` of shape `[...]`, for instance `[examples]` or `[examples, length]`):
            Class ids; where the reference is -100 (padding, special tokens), both are left out.
        group_of_class (`np.ndarray` of shape `[classes]`): The group index of each class.
        group_names (`Sequence[str]` of length `groups`): For the keys of the result.

    Returns:
        `dict[str, float]`: `accuracy` and `{name}_accuracy` as fractions; nan for a group without an example.

    Raises:
        `ValueError`: if the shapes differ, or a reference is neither -100 nor a class of the groups.
    """
    predictions, references = np.asarray(predictions), np.asarray(references)
    if predictions.shape != references.shape:
        raise ValueError(
            f"Predictions of shape {predictions.shape} and references of shape {references.shape} do not fit: give "
            "one class id for each reference."
        )
    labelled = references != -100
    predictions, references = predictions[labelled], references[labelled]
    if len(references) and not 0 <= references.min() <= references.max() < len(group_of_class):
        raise ValueError(
            f"The references run from {references.min()} to {references.max()}, outside the classes 0 to "
            f"{len(group_of_class) - 1} of the groups."
        )
    correct = predictions == references
    group_of_example = np.asarray(group_of_class)[references]
    result = {"accuracy": float(correct.mean()) if len(correct) else float("nan")}
    for group, name in enumerate(group_names):
        members = correct[group_of_example == group]
        result[f"{name}_accuracy"] = float(members.mean()) if len(members) else float("nan")
    return result


class GroupAccuracy(evaluate.Metric):
    """The `evaluate` shell over [`group_accuracies`]."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, group_of_class, group_names=None):
        num_groups = max(group_of_class) + 1
        if group_names is None:
            group_names = ["head", "medium", "tail"] if num_groups == 3 else [f"group_{g}" for g in range(num_groups)]
        return group_accuracies(predictions, references, group_of_class, group_names)
