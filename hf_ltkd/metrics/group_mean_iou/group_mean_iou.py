"""
Mean IoU and pixel accuracy over all classes, of each group of classes and of each class, as an `evaluate` module.

The file stands alone, so that it can travel to a Space; README.md beside it is its card.
"""

import datasets
import evaluate
import numpy as np


_DESCRIPTION = (
    "Intersection over union and pixel accuracy over all classes, per group of classes (head, medium, tail) and per "
    "class, for long-tailed semantic segmentation."
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
    predictions (list of maps [height, width]): Predicted class ids.
    references (list of maps [height, width]): True class ids.
    group_of_class (list of int): The group index of each class, 0 for the first group.
    group_names (list of str, optional): One name per group; head, medium, tail for three groups, else group_0, ...
    ignore_index (int, optional, defaults to 255): Pixels whose reference is this, or -100, are left out.
    leave_out (list of int, optional): Classes, such as the background, that are left out of all means and accuracies.
    All but the first two may be given to `evaluate.load` instead; if any is given here, those are forgotten.
Returns:
    mean_iou: Mean over the classes that occur in predictions or references.
    accuracy: Fraction of the pixels.
    balanced_accuracy: Mean of the accuracies of the classes that occur in the references.
    {name}_iou, {name}_accuracy, for each group: The same of its classes, and of their pixels; nan without any.
    class_iou, class_accuracy: Lists over the classes, None for a class that does not occur.
"""


def confusion_matrix(predictions, references, num_classes, ignore_index=255) -> np.ndarray:
    """
    Args:
        predictions, references (`np.ndarray` of equal shape): Class ids of pixels.
        num_classes (`int`): Ids run from 0 to one less.
        ignore_index (`int`, *optional*, defaults to 255): Where the reference is this, or -100, both are left out.

    Returns:
        `np.ndarray` of shape `[classes, classes]`, int64: Pixels of each class (row) that are taken for each (column).

    Raises:
        `ValueError`: if the shapes differ, or an id that counts is not one of the classes'.
    """
    predictions, references = np.asarray(predictions), np.asarray(references)
    if predictions.shape != references.shape:
        raise ValueError(
            f"A prediction of shape {predictions.shape} and a reference of shape {references.shape} do not fit: give "
            "a class id for each pixel of the reference."
        )
    counted = (references != ignore_index) & (references != -100)
    predictions, references = predictions[counted].astype(np.int64), references[counted].astype(np.int64)
    for name, ids in (("references", references), ("predictions", predictions)):
        if len(ids) and not 0 <= ids.min() <= ids.max() < num_classes:
            raise ValueError(
                f"The {name} run from {ids.min()} to {ids.max()}, outside the classes 0 to {num_classes - 1} of the "
                f"groups, and ignore_index is {ignore_index}."
            )
    pairs = np.bincount(references * num_classes + predictions, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


def iou_scores(confusion, group_of_class, group_names, leave_out=()) -> dict:
    """
    All scores of a confusion matrix.

    With `T_c` the pixels of class c, `P_c` those that are taken for it and `I_c` those that are both, its IoU is
    `I_c / (T_c + P_c - I_c)` and its accuracy `I_c / T_c`. The IoU of a group is the mean over its classes, its
    accuracy the fraction of its pixels that are right.

    Args:
        confusion (`np.ndarray` of shape `[classes, classes]`): As [`confusion_matrix`] gives it, summed over images.
        group_of_class (`np.ndarray` of shape `[classes]`): The group index of each class.
        group_names (`Sequence[str]` of length `groups`): For the keys of the result.
        leave_out (`Sequence[int]`, *optional*): Classes that no mean and no accuracy is over. Their pixels still count
            where they are taken for another class, in the union of that one.

    Returns:
        `dict`: `mean_iou`, `accuracy`, `balanced_accuracy`, `{name}_iou` and `{name}_accuracy`, nan where nothing is
        measured; `class_iou` and `class_accuracy`, lists over all classes with None for nan.
    """
    confusion, group_of_class = np.asarray(confusion), np.asarray(group_of_class)
    right, true, taken = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore"):  # 0 / 0: the class does not occur
        iou, accuracy = right / (true + taken - right), right / true
    kept = ~np.isin(np.arange(len(confusion)), list(leave_out))

    def mean(values, members):
        values = values[members & ~np.isnan(values)]
        return float(values.mean()) if len(values) else float("nan")

    def fraction(members):
        return float(right[members].sum() / true[members].sum()) if true[members].any() else float("nan")

    result = {"mean_iou": mean(iou, kept), "accuracy": fraction(kept)}
    for group, name in enumerate(group_names):
        members = kept & (group_of_class == group)
        result |= {f"{name}_iou": mean(iou, members), f"{name}_accuracy": fraction(members)}
    return {
        **result,
        "balanced_accuracy": mean(accuracy, kept),
        "class_iou": [None if np.isnan(value) else float(value) for value in iou],
        "class_accuracy": [None if np.isnan(value) else float(value) for value in accuracy],
    }


def checked(group_of_class=None, group_names=None, ignore_index=255, leave_out=()):
    """
    Returns:
        `tuple`: group indices as an array `[classes]`, names, `ignore_index` and `leave_out`.

    Raises:
        `ValueError`: if group indices have a gap, names do not fit, or a class is left out that there is not.
    """
    groups = np.asarray([] if group_of_class is None else group_of_class)
    used = np.unique(groups)
    if groups.ndim != 1 or not len(used) or not np.array_equal(used, np.arange(len(used))):
        raise ValueError(
            "group_of_class must hold one group index per class, numbered from 0 without a gap, here or in "
            f"evaluate.load; got {'none' if group_of_class is None else used[:10].tolist()}."
        )
    if group_names is None:
        group_names = ["head", "medium", "tail"] if len(used) == 3 else [f"group_{g}" for g in range(len(used))]
    if len(group_names) != len(used) or len({*group_names, "mean", "balanced", "class"}) != len(used) + 3:
        raise ValueError(
            f"{len(used)} groups need {len(used)} different names, none of them 'mean', 'balanced' or 'class' (the "
            f"results have keys of these names); got {list(group_names)}."
        )
    foreign = [c for c in leave_out if c not in range(len(groups))]
    if foreign or len({*leave_out}) == len(groups):
        raise ValueError(
            f"leave_out={list(leave_out)} is not valid: it must hold some of the classes 0 to {len(groups) - 1}, not "
            "all of them."
        )
    return groups, list(group_names), ignore_index, leave_out


class GroupMeanIoU(evaluate.Metric):
    """The `evaluate` shell over the functions above. `evaluate.load` passes its keyword arguments to `__init__`."""

    def __init__(self, *args, group_of_class=None, group_names=None, ignore_index=None, leave_out=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.settings = _given(group_of_class, group_names, ignore_index, leave_out)
        if self.settings:
            checked(**self.settings)

    def _info(self):
        maps = datasets.Sequence(datasets.Sequence(datasets.Value("int64")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": maps, "references": maps}),
            reference_urls=["https://arxiv.org/abs/2506.18496"],
        )

    def _compute(
        self, predictions, references, group_of_class=None, group_names=None, ignore_index=None, leave_out=None
    ):
        settings = _given(group_of_class, group_names, ignore_index, leave_out) or self.settings
        groups, names, ignore_index, leave_out = checked(**settings)
        pairs = zip(predictions, references, strict=True)
        confusion = sum(confusion_matrix(p, r, len(groups), ignore_index) for p, r in pairs)
        return iou_scores(confusion, groups, names, leave_out)


def _given(group_of_class, group_names, ignore_index, leave_out):
    """Those that are given."""
    names = ("group_of_class", "group_names", "ignore_index", "leave_out")
    values = zip(names, (group_of_class, group_names, ignore_index, leave_out), strict=True)
    return {name: value for name, value in values if value is not None}
