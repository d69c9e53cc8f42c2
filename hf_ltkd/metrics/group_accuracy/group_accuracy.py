"""
What long-tailed recognition reports, as an `evaluate` module: accuracy over all examples, of each group of classes and
of each class, and scores in which every class counts alike.

The file stands alone, so that it can travel to a Space; README.md beside it is its card.
"""

import datasets
import evaluate
import numpy as np


_DESCRIPTION = (
    "Accuracy overall, balanced over the classes, per group of classes (head, medium, tail) and per class, macro-F1, "
    "worst class and harmonic mean, for long-tailed recognition."
)
_CITATION = """\
@inproceedings{kim2026distilling,
  title     = {Distilling Balanced Knowledge from a Biased Teacher},
  author    = {Kim, Seonghak},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2026},
  note      = {arXiv:2506.18496}
}
"""
_INPUTS = """
Args:
    predictions (list of int): Predicted class ids.
    references (list of int): True class ids; where one is -100, both are left out.
    class_counts (list of int): Training examples per class. The classes are ranked by them (ties by class id) and
        fall into groups: the first 33 %, the next 34 %, the last 33 %.
    num_groups (int, optional): With class_counts, another number of groups than 3; they are equally large.
    group_of_class (list of int): Instead of class_counts, the group index of each class, 0 for the first group.
    group_names (list of str, optional): One name per group; head, medium, tail for three groups, else group_0, ...
    The last four may be given to `evaluate.load` instead; if any is given here, those are forgotten.
Returns:
    accuracy: Fraction of the examples.
    {name}_accuracy, for each group: Fraction of its examples, nan without any.
    many_shot_accuracy, medium_shot_accuracy, few_shot_accuracy: With class_counts, the same of the classes of more
        than 100, of 20 to 100, and of fewer than 20 training examples.
    balanced_accuracy: Mean of the accuracies of the classes that occur in the references.
    macro_f1: Mean of their F1.
    worst_class_accuracy: The lowest of their accuracies.
    harmonic_mean_accuracy: The harmonic mean of their accuracies, 0 if one of them is 0.
    class_accuracy: List over the classes, None for a class without an example.
    class_precision: The same, None also for a class that is never predicted.
"""
SHOTS = ("many_shot", "medium_shot", "few_shot")
# A group of one of these names would hide a score.
RESERVED = {"balanced", "worst_class", "harmonic_mean", "class", *SHOTS}


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
        `ValueError`: if the shapes differ, or a class id (of a reference that is not -100) is not one of the groups'.
    """
    predictions, references = valid_ids(predictions, references, len(group_of_class))
    correct = predictions == references
    group_of_example = np.asarray(group_of_class)[references]
    result = {"accuracy": float(correct.mean()) if len(correct) else float("nan")}
    for group, name in enumerate(group_names):
        members = correct[group_of_example == group]
        result[f"{name}_accuracy"] = float(members.mean()) if len(members) else float("nan")
    return result


def shot_of_class(class_counts) -> np.ndarray:
    """
    The habit of ImageNet-LT (Liu et al., CVPR 2019, arXiv 1904.05160), of shape `[classes]`: 0 for a many-shot class
    of more than 100 training examples, 1 for a medium-shot one, 2 for a few-shot one of fewer than 20.
    """
    counts = np.asarray(class_counts)
    return (counts <= 100).astype(np.int64) + (counts < 20)


def class_scores(predictions, references, num_classes) -> dict[str, float]:
    """
    Scores in which every class counts alike, however many examples it has: those of [`scores_of_counts`], nan without
    an example. Arguments and errors are those of [`group_accuracies`].
    """
    predictions, references = valid_ids(predictions, references, num_classes)
    if not len(references):
        return dict.fromkeys(scores_of_counts(*np.ones((3, 1))), float("nan"))
    scores = scores_of_counts(*answer_counts(predictions, references, num_classes))
    return {name: float(score) for name, score in scores.items()}


def answer_counts(predictions, references, num_classes):
    """How many examples of each class are right, how many there are, how often it is predicted: `[classes]` each."""
    ids = references[predictions == references], references, predictions
    return tuple(np.bincount(of_example, minlength=num_classes) for of_example in ids)


def scores_of_counts(right, examples, predicted) -> dict[str, np.ndarray]:
    """
    Over the classes `c` that have an example, with `a_c = right_c / examples_c`:

    - `balanced_accuracy`: the mean of `a_c`
    - `macro_f1`: the mean of `2 right_c / (examples_c + predicted_c)`, 0 for a class that is never right
    - `worst_class_accuracy`: the smallest `a_c`
    - `harmonic_mean_accuracy`: 1 / mean of `1 / a_c`, 0 if one is 0

    Args:
        right, examples, predicted (`np.ndarray` of shape `[..., classes]`): Those of [`answer_counts`].

    Returns:
        `dict[str, np.ndarray]`: each of shape `[...]`.
    """
    seen = examples > 0
    classes = seen.sum(-1)
    accuracy = right / np.maximum(examples, 1)
    with np.errstate(divide="ignore"):  # 1 / 0 is inf, and 1 / inf is 0
        harmonic = classes / np.sum(1 / accuracy, axis=-1, where=seen)
    return {
        "balanced_accuracy": accuracy.sum(-1) / classes,
        "macro_f1": (2 * right / np.maximum(examples + predicted, 1)).sum(-1) / classes,
        "worst_class_accuracy": accuracy.min(-1, where=seen, initial=1),
        "harmonic_mean_accuracy": harmonic,
    }


def class_accuracies(predictions, references, num_classes) -> list[float | None]:
    """
    The accuracy of each class, `None` for a class without an example, as JSON has no nan. Arguments and errors are
    those of [`group_accuracies`].
    """
    predictions, references = valid_ids(predictions, references, num_classes)
    right, examples, _ = answer_counts(predictions, references, num_classes)
    return [int(r) / int(n) if n else None for r, n in zip(right, examples, strict=True)]


def class_precisions(predictions, references, num_classes) -> list[float | None]:
    """The same for the precision; `None` for a class without an example, and for one that is never predicted."""
    predictions, references = valid_ids(predictions, references, num_classes)
    counts = zip(*answer_counts(predictions, references, num_classes), strict=True)
    return [int(r) / int(p) if n and p else None for r, n, p in counts]


def groups_from_counts(class_counts, num_groups=3) -> np.ndarray:
    """
    Ranks the classes by training count (ties by class id) and cuts the ranking into groups.

    Args:
        class_counts (`Sequence[int]` of length `classes`): Training examples per class, at least 1 each.
        num_groups (`int`, *optional*, defaults to 3):
            3: the first 33 % of the classes, the next 34 %, the last 33 %. Any other number: equal parts.

    Returns:
        `np.ndarray` of shape `[classes]`: The group index of each class, 0 for the most frequent group.

    Raises:
        `ValueError`: if a class has no training example, or there are more groups than classes.
    """
    counts = np.asarray(class_counts)
    if counts.ndim != 1 or len(counts) == 0 or not np.issubdtype(counts.dtype, np.integer) or counts.min() < 1:
        raise ValueError("class_counts must hold the number of training examples of each class, at least 1 each.")
    num_classes = len(counts)
    if not 1 <= num_groups <= num_classes:
        raise ValueError(
            f"num_groups={num_groups} cannot group {num_classes} classes: choose from 1 to {num_classes}."
        )
    if num_groups == 3:
        third = max(1, round(33 * num_classes / 100))
        edges = [third, num_classes - third]
    else:
        edges = [round(g * num_classes / num_groups) for g in range(1, num_groups)]
    group_of_class = np.empty(num_classes, dtype=np.int64)
    group_of_class[np.argsort(-counts, kind="stable")] = np.digitize(np.arange(num_classes), edges)
    return group_of_class


def valid_ids(predictions, references, num_classes):
    """Class ids of predictions and references where the latter are not -100, each of shape `[examples]`; checked."""
    predictions, references = np.asarray(predictions), np.asarray(references)
    if predictions.shape != references.shape:
        raise ValueError(
            f"Predictions of shape {predictions.shape} and references of shape {references.shape} do not fit: give "
            "one class id for each reference."
        )
    labelled = references != -100
    predictions, references = predictions[labelled], references[labelled]
    for name, ids in (("references", references), ("predictions", predictions)):
        if len(ids) and not 0 <= ids.min() <= ids.max() < num_classes:
            raise ValueError(
                f"The {name} run from {ids.min()} to {ids.max()}, outside the classes 0 to {num_classes - 1} of the "
                "groups."
            )
    return predictions, references


def named_groups(class_counts=None, num_groups=None, group_of_class=None, group_names=None):
    """
    The groups, given as training counts (see [`groups_from_counts`]) or as such.

    Returns:
        `tuple[np.ndarray, list[str]]`: The group index of each class, of shape `[classes]`, and the groups' names.

    Raises:
        `ValueError`: if neither or both are given, group indices have a gap, or the names do not fit.
    """
    if (class_counts is None) == (group_of_class is None):
        raise ValueError(
            "Give class_counts (training examples per class) or group_of_class (the group index of each class), here "
            f"or to evaluate.load; got {'neither' if class_counts is None else 'both'}."
        )
    if class_counts is not None:
        group_of_class = groups_from_counts(class_counts, 3 if num_groups is None else num_groups)
    elif num_groups is not None:
        raise ValueError(f"num_groups={num_groups} goes with class_counts; group_of_class has its groups already.")
    group_of_class = np.asarray(group_of_class)
    used = np.unique(group_of_class)
    if group_of_class.ndim != 1 or not len(used) or not np.array_equal(used, np.arange(len(used))):
        raise ValueError(
            "group_of_class must hold one group index per class, numbered from 0 without a gap; its shape is "
            f"{group_of_class.shape} and its values are {used[:10].tolist()}."
        )
    if group_names is None:
        group_names = ["head", "medium", "tail"] if len(used) == 3 else [f"group_{g}" for g in range(len(used))]
    if len(group_names) != len(used) or len({*group_names} - RESERVED) != len(used):
        raise ValueError(
            f"{len(used)} groups need {len(used)} different names, none of them {', '.join(sorted(RESERVED))} (the "
            f"results have keys of these names); got {list(group_names)}."
        )
    return group_of_class.astype(np.int64), list(group_names)


class GroupAccuracy(evaluate.Metric):
    """The `evaluate` shell over the functions above. `evaluate.load` passes its keyword arguments to `__init__`."""

    def __init__(self, *args, class_counts=None, num_groups=None, group_of_class=None, group_names=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.grouping = (class_counts, num_groups, group_of_class, group_names)
        if any(value is not None for value in self.grouping):
            named_groups(*self.grouping)

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
            reference_urls=["https://arxiv.org/abs/2506.18496"],
        )

    def _compute(
        self, predictions, references, class_counts=None, num_groups=None, group_of_class=None, group_names=None
    ):
        grouping = (class_counts, num_groups, group_of_class, group_names)
        if all(value is None for value in grouping):
            grouping = self.grouping
        groups = named_groups(*grouping)
        pairs, num_classes = (predictions, references), len(groups[0])
        shots = {} if grouping[0] is None else group_accuracies(*pairs, shot_of_class(grouping[0]), SHOTS)
        return {
            **group_accuracies(*pairs, *groups),
            **shots,
            **class_scores(*pairs, num_classes),
            "class_accuracy": class_accuracies(*pairs, num_classes),
            "class_precision": class_precisions(*pairs, num_classes),
        }
