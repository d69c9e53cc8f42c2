"""Which class is head, medium or tail (Sec. 4.1 of the LTKD paper)."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .utils import check_number, listed, load_json, write_json


CLASS_GROUPS_NAME = "class_groups.json"


@dataclass(frozen=True, eq=False)
class ClassGroups:
    """
    A partition of the classes into groups, the most frequent group first.

    Args:
        group_of_class (`Sequence[int]` or `torch.Tensor` of shape `[classes]`):
            The group index of each class, `0` for the most frequent group. Every index from `0` to the largest must
            be used by at least one class.
        names (`Sequence[str]`, *optional*, defaults to `("head", "medium", "tail")` for three groups and to
            `("group_0", "group_1", ...)` for any other number):
            One name per group; metrics are called after them (`tail_accuracy`).
        class_counts (`Sequence[int]` of length `classes`, *optional*):
            Training examples per class, at least 1 each.

    Raises:
        `ValueError`: if a group has no class, a class has no training example, or the lengths do not match.

    Example:

    ```python
    >>> groups = ClassGroups.from_counts([500, 300, 100, 40, 20, 5])
    >>> groups.group_of_class.tolist(), groups.names
    ([0, 0, 1, 1, 2, 2], ('head', 'medium', 'tail'))
    ```
    """

    group_of_class: torch.Tensor
    names: tuple[str, ...] = None  # type: ignore[assignment]  # set in __post_init__
    class_counts: tuple[int, ...] | None = None

    def __post_init__(self):
        try:
            group_of_class = torch.as_tensor(self.group_of_class).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"group_of_class={str(self.group_of_class)[:60]!r} must hold one group index per class, 0 for the "
                "most frequent group."
            ) from error
        if group_of_class.ndim != 1 or len(group_of_class) == 0:
            raise ValueError(
                f"group_of_class must hold one group index per class, got the shape {tuple(group_of_class.shape)}."
            )
        if group_of_class.is_floating_point() or group_of_class.dtype == torch.bool or group_of_class.min() < 0:
            raise ValueError("group_of_class must hold integers from 0 (the most frequent group) upwards.")
        group_of_class = group_of_class.long().clone()
        used = group_of_class.unique()  # not range(max + 1): one wrong index would ask for all memory
        gaps = (used != torch.arange(len(used))).nonzero()
        if len(gaps):
            raise ValueError(
                f"Group {int(gaps[0])} has no class: number the groups 0 to {len(used) - 1} without a gap (the "
                f"largest index is {used[-1]})."
            )
        num_groups = len(used)

        if self.names is None:
            default = ("head", "medium", "tail") if num_groups == 3 else [f"group_{g}" for g in range(num_groups)]
            names = tuple(default)
        else:
            names = tuple(map(str, self.names if isinstance(self.names, list | tuple) else [self.names]))
        if len(names) != num_groups or len(set(names) - {""}) != num_groups:
            raise ValueError(f"{num_groups} groups need {num_groups} different names, got {list(names)}.")

        class_counts = self.class_counts
        if class_counts is not None:
            class_counts = checked_counts(class_counts)
            if len(class_counts) != len(group_of_class):
                raise ValueError(
                    f"class_counts holds {len(class_counts)} classes, group_of_class {len(group_of_class)}: "
                    "give one count per class."
                )
        # The dataclass is frozen: this is the one place where its fields are set.
        object.__setattr__(self, "group_of_class", group_of_class)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "class_counts", class_counts)

    @classmethod
    def from_counts(cls, counts: Iterable[int], num_groups: int = 3) -> "ClassGroups":
        """
        Ranks the classes by training count (ties by class id) and cuts the ranking into `num_groups` groups.

        Args:
            counts (`Iterable[int]` of length `classes`): Training examples per class, at least 1 each.
            num_groups (`int`, *optional*, defaults to 3):
                3 gives the paper's groups: the top 33 % of the classes, the next 34 %, the last 33 % (Sec. 4.1). Any
                other number from 1 to `classes` cuts the ranking into equal parts (Tab. 6).

        Raises:
            `ValueError`: if a class has no training example or there are more groups than classes.
        """
        class_counts = checked_counts(counts)
        num_classes = len(class_counts)
        check_number("num_groups", num_groups, whole=True)
        if not 1 <= num_groups <= num_classes:
            raise ValueError(
                f"num_groups={num_groups} cannot group {num_classes} classes: choose from 1 to {num_classes}."
            )
        if num_groups == 3:
            third = max(1, round(33 * num_classes / 100))
            edges = [third, num_classes - third]
        else:
            edges = [round(g * num_classes / num_groups) for g in range(1, num_groups)]
        ranking = torch.tensor(class_counts).argsort(descending=True, stable=True)
        group_of_class = torch.empty(num_classes, dtype=torch.long)
        group_of_class[ranking] = torch.bucketize(torch.arange(num_classes), torch.tensor(edges), right=True)
        return cls(group_of_class, class_counts=class_counts)

    @classmethod
    def from_thresholds(cls, counts: Iterable[int], many: int = 100, few: int = 20) -> "ClassGroups":
        """
        The many, medium and few-shot groups of ImageNet-LT, under the names head, medium, tail.

        Args:
            counts (`Iterable[int]` of length `classes`): Training examples per class, at least 1 each.
            many (`int`, *optional*, defaults to 100): Classes with more examples than this are the head.
            few (`int`, *optional*, defaults to 20): Classes with fewer examples than this are the tail.

        Raises:
            `ValueError`: if `few > many`, or if a group would be empty.
        """
        class_counts = checked_counts(counts)
        check_number("many", many, 0)
        check_number("few", few, 0)
        if few > many:
            raise ValueError(f"few={few} is above many={many}: the tail threshold must not exceed the head's.")
        group_of_class = [0 if count > many else 2 if count < few else 1 for count in class_counts]
        rules = [f"more than {many}", f"{few} to {many}", f"fewer than {few}"]
        for group, rule in enumerate(rules):
            if group not in group_of_class:
                raise ValueError(
                    f"No class has {rule} training examples (counts run from {min(class_counts)} to "
                    f"{max(class_counts)}): change `many` and `few`, or use ClassGroups.from_counts."
                )
        return cls(torch.tensor(group_of_class), class_counts=class_counts)

    @classmethod
    def from_token_counts(cls, counts: Iterable[int], num_groups: int = 3) -> "ClassGroups":
        """
        Groups the tokens of a vocabulary: those that were seen by [`ClassGroups.from_counts`], the others (special and
        padding tokens, tokens that the text has none of) in the last group.

        Args:
            counts (`Iterable[int]` of length `vocabulary`):
                How often each token is there, 0 or more, as [`token_counts`] counts them.
            num_groups (`int`, *optional*, defaults to 3): As in [`ClassGroups.from_counts`].

        Returns:
            [`ClassGroups`]: their `class_counts` are the counts, 1 for an unseen token, whose logarithm has to exist.

        Raises:
            `ValueError`: if a count is no whole number of 0 or more, or fewer tokens were seen than there are groups.
        """
        values = whole_numbers(counts)
        if any(count < 0 for count in values):
            raise ValueError(f"Token counts must be 0 or more, got {min(values)}: count them with token_counts().")
        seen = [token for token, count in enumerate(values) if count]
        if not seen:
            raise ValueError(f"None of {len(values)} tokens was seen: count the tokens of the training text.")
        of_seen = cls.from_counts([values[token] for token in seen], num_groups)
        group_of_class = torch.full((len(values),), num_groups - 1)
        group_of_class[seen] = of_seen.group_of_class
        return cls(group_of_class, class_counts=tuple(max(1, count) for count in values))

    @classmethod
    def from_masks(
        cls,
        dataset: Any,
        mask_column: str = "mask",
        *,
        num_classes: int | None = None,
        ignore_index: int = 255,
        count: str = "pixels",
        num_groups: int = 3,
        colors: Any = None,
        reduce_labels: bool = False,
        image_column: str | None = None,
        num_proc: int | None = None,
    ) -> "ClassGroups":
        """
        Groups for semantic segmentation: [`ClassGroups.from_counts`] of the pixels, or images, of each class.

        Every mask is read once, with a progress bar; the counts are cached by `datasets` under the dataset's
        fingerprint, so that a second call costs nothing (but for datasets in memory, which have no cache).

        Args:
            dataset (`datasets.Dataset`): The training split.
            mask_column (`str`, *optional*, defaults to `"mask"`):
                Masks `[height, width]`: image files of class ids (grey, or with a palette, whose indices are the ids)
                or of RGB colours, or arrays of integers.
            num_classes (`int`, *optional*, defaults to the largest id plus 1): Ids run from 0 to one less.
            ignore_index (`int`, *optional*, defaults to 255): The id of pixels that count nowhere; -100 is one, too.
            count (`str`, *optional*, defaults to `"pixels"`):
                `"pixels"`, or `"images"`: those in which a class occurs, however small it is.
            num_groups (`int`, *optional*, defaults to 3): As in [`ClassGroups.from_counts`].
            colors (`Sequence` of RGB, or `Mapping` from RGB to id, *optional*):
                What the colours of masks mean: a list by class id, or the id of each colour.
            reduce_labels (`bool`, *optional*, defaults to `False`):
                Whether 0 is no class in masks, and class 0 has the id 1 (ADE20K).
            image_column (`str`, *optional*): Images, which are decoded and compared in size with their masks.
            num_proc (`int`, *optional*): Processes that count.

        Raises:
            `ValueError`: if a mask is missing or cannot be read, holds unknown ids or colours, or is of another size
                than its image (it is named by its file); if a class has no pixel, or there are more groups than
                classes.
        """
        from .data.masks import MaskReader, count_masks  # here, because counting is the data room's work

        if count not in ("pixels", "images"):
            raise ValueError(f"count={count!r} is not valid: choose 'pixels' or 'images'.")
        reader = MaskReader(num_classes, ignore_index, colors, reduce_labels)
        pixels = count_masks(dataset, reader, mask_column, image_column=image_column, num_proc=num_proc)
        return cls.from_counts((pixels if count == "pixels" else pixels > 0).sum(0), num_groups)

    @property
    def num_groups(self) -> int:
        return len(self.names)

    @property
    def num_classes(self) -> int:
        return len(self.group_of_class)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and strings; [`ClassGroups.from_dict`] reads them back."""
        return {
            "group_of_class": self.group_of_class.tolist(),
            "names": list(self.names),
            "class_counts": None if self.class_counts is None else list(self.class_counts),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ClassGroups":
        if not isinstance(values, dict) or not {"group_of_class"} <= set(values) <= {f.name for f in fields(cls)}:
            raise ValueError(
                f"{str(values)[:60]!r} is not valid: it must be what to_dict() gives, a dict of group_of_class, names "
                "and class_counts."
            )
        return cls(**values)

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """Writes `class_groups.json` into `save_directory` (a student's folder), atomically."""
        write_json(Path(save_directory) / CLASS_GROUPS_NAME, self.to_dict())

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> "ClassGroups":
        """
        Reads the groups that were saved with a student.

        Raises:
            `FileNotFoundError`: if `directory` has no `class_groups.json`.
            `ValueError`: if it is damaged.
        """
        return load_json(Path(directory) / CLASS_GROUPS_NAME, lambda **values: cls.from_dict(values))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassGroups) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((tuple(self.group_of_class.tolist()), self.names, self.class_counts))


def check_groups(groups: Any) -> None:
    """Raises `ValueError` unless these are [`ClassGroups`]."""
    if not isinstance(groups, ClassGroups):
        raise ValueError(
            f"groups is of type {type(groups).__name__}: give ClassGroups, such as ClassGroups.from_counts(counts)."
        )


def checked_counts(counts: Iterable[int]) -> tuple[int, ...]:
    """
    Training examples per class.

    Raises:
        `ValueError`: unless they are whole numbers, 1 or more each.
    """
    class_counts = whole_numbers(counts)
    empty = [class_id for class_id, count in enumerate(class_counts) if count < 1]
    if empty:
        raise ValueError(
            f"{len(empty)} of {len(class_counts)} classes have no training example (class {listed(empty)}): "
            "add at least one each, or drop them from the label set."
        )
    if not class_counts:
        raise ValueError("Class counts are empty: give one count per class.")
    return class_counts


def whole_numbers(counts: Iterable[int]) -> tuple[int, ...]:
    """
    Raises:
        `ValueError`: unless counts are a list, array or tensor of whole numbers.
    """
    try:
        values = counts.tolist() if hasattr(counts, "tolist") else list(counts)
        numbers = tuple(int(count) for count in values)
    except (TypeError, ValueError, OverflowError):
        values, numbers = None, ()
    if values is None or numbers != tuple(values):
        raise ValueError(f"Class counts must be whole numbers, one per class, not {str(counts)[:60]!r}.")
    return numbers
