"""Long-tailed splits of balanced datasets (Eq. 15 of the LTKD paper)."""

import math
import os
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, IterableDataset

from ..groups import checked_counts
from ..utils import check_number, listed, load_json, write_json


SPLIT_NAME = "long_tail.json"
RENAMED = {"counts": "class_counts", "full_counts": "full_class_counts"}  # in files of version 0.1.0
MAX_CLASSES = 1_000_000  # more than any dataset has: a larger label is an id of something else
DatasetOrDict = TypeVar("DatasetOrDict", Dataset, DatasetDict)


def long_tailed_counts(counts: Iterable[int], imbalance_factor: float) -> list[int]:
    """
    Eq. 15, read from c = 0: `floor(n_c · gamma ** (-c / C))`, and at least 1.

    Args:
        counts (`Iterable[int]` of length `C`): Examples per class, each class its own `n_c`.
        imbalance_factor (`float`): `gamma`, 1 or more; the last class keeps about `1 / gamma` of its examples.

    Returns:
        `list[int]`: examples to keep per class.

    Raises:
        `ValueError`: if `imbalance_factor < 1` or a class has no example.
    """
    counts = [*checked_counts(counts)]
    check_imbalance_factor(imbalance_factor)
    # 1e-9: a product that is whole in exact arithmetic may come out a rounding error below (4 · 32 ** (-2 / 5) = 1).
    exact = [count * imbalance_factor ** (-c / len(counts)) for c, count in enumerate(counts)]
    kept = [math.floor(value + 1e-9) for value in exact]
    emptied = [class_id for class_id, count in enumerate(kept) if count < 1]
    if emptied:
        warnings.warn(
            f"imbalance_factor={imbalance_factor} leaves no example of {len(emptied)} classes "
            f"(class {listed(emptied)}): one is kept of each.",
            stacklevel=2,
        )
    return [max(1, count) for count in kept]


def check_imbalance_factor(imbalance_factor: Any) -> None:
    """Raises `ValueError` unless this can be the ratio of the largest class to the smallest, 1 (balanced) or more."""
    check_number("imbalance_factor", imbalance_factor, 1)


@dataclass(frozen=True)
class LongTailSplit:
    """
    How a long-tailed split was made, so that anyone can make it again from the full dataset.

    Attributes:
        imbalance_factor (`float`): `gamma` of Eq. 15.
        seed (`int`): Which examples of a class are kept.
        label_column (`str`): The column of class ids.
        full_class_counts (`list[int]`): Examples per class before the cut.
        class_counts (`list[int]`): Examples per class after it.
    """

    imbalance_factor: float
    seed: int
    label_column: str
    full_class_counts: list[int]
    class_counts: list[int]

    @classmethod
    def of(
        cls, dataset: Dataset, imbalance_factor: float, *, label_column: str = "label", seed: int = 0
    ) -> "LongTailSplit":
        """The split of [`make_long_tailed`] with the same arguments."""
        check_number("seed", seed, 0, whole=True)
        full_counts = class_counts(dataset, label_column)
        counts = long_tailed_counts(full_counts, imbalance_factor)
        return cls(float(imbalance_factor), seed, label_column, full_counts, counts)

    def apply(self, dataset: Dataset) -> Dataset:
        """
        Selects the split from the full dataset, without decoding anything and in the dataset's own order.

        With one seed the splits are nested: what gamma = 100 keeps, gamma = 20 keeps too.

        Raises:
            `ValueError`: if `dataset` does not hold `full_class_counts` examples per class.
        """
        labels, num_classes = read_labels(dataset, self.label_column)
        full_counts = np.bincount(labels, minlength=num_classes)
        if full_counts.tolist() != self.full_class_counts:
            raise ValueError(
                f"The split was made from {sum(self.full_class_counts)} examples of "
                f"{len(self.full_class_counts)} classes, the dataset holds {len(labels)} of {num_classes}, or other "
                "counts per class: apply it to the full training split that it was made from."
            )
        order = np.random.default_rng(self.seed).permutation(len(labels))
        order = order[np.argsort(labels[order], kind="stable")]  # class by class, each in its random order
        rank_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(full_counts) - full_counts, full_counts)
        kept = order[rank_in_class < np.repeat(self.class_counts, full_counts)]
        return dataset.select(np.sort(kept))

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """Writes `long_tail.json` into `save_directory`, atomically."""
        write_json(Path(save_directory) / SPLIT_NAME, asdict(self))

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> "LongTailSplit":
        """
        Reads `long_tail.json` back.

        Raises:
            `FileNotFoundError`: if `directory` has none.
            `ValueError`: if it is damaged.
        """
        return load_json(Path(directory) / SPLIT_NAME, lambda **v: cls(**{RENAMED.get(n, n): v[n] for n in v}))


def make_long_tailed(
    dataset: DatasetOrDict, imbalance_factor: float, *, label_column: str = "label", seed: int = 0
) -> DatasetOrDict:
    """
    Makes a dataset long-tailed: class 0 stays whole, the last class keeps about `1 / imbalance_factor` (Eq. 15).

    Args:
        dataset (`datasets.Dataset` or `datasets.DatasetDict`):
            The full dataset. Of a `DatasetDict` only the split `"train"` is cut.
        imbalance_factor (`float`): `gamma`, 1 or more.
        label_column (`str`, *optional*, defaults to `"label"`): A column of `ClassLabel` or integers.
        seed (`int`, *optional*, defaults to 0): Which examples are kept.

    Returns:
        The same type as `dataset`. [`LongTailSplit.of`] with the same arguments says how it was made.

    Raises:
        `ValueError`: if the column is missing or holds no class ids, a label lies outside the classes, a class has no
        example, or `imbalance_factor < 1`.
    """
    if isinstance(dataset, dict):
        if "train" not in dataset:
            raise ValueError(
                f"The {type(dataset).__name__} has the splits {list(dataset)}: the one to cut must be called 'train'."
            )
        train = make_long_tailed(dataset["train"], imbalance_factor, label_column=label_column, seed=seed)
        return DatasetDict({**dataset, "train": train})
    return LongTailSplit.of(dataset, imbalance_factor, label_column=label_column, seed=seed).apply(dataset)


def class_counts(dataset: Dataset, label_column: str = "label") -> list[int]:
    """
    Examples per class of a `datasets.Dataset`, read from the label column alone.

    Raises:
        `ValueError`: as [`make_long_tailed`], but a class without examples counts 0.
    """
    labels, num_classes = read_labels(dataset, label_column)
    return np.bincount(labels, minlength=num_classes).tolist()


def class_names(dataset: Dataset, label_column: str) -> list[str]:
    """The classes' names by id: of a `ClassLabel`, else the ids themselves."""
    feature = dataset.features[label_column]
    names = feature.names if isinstance(feature, ClassLabel) else range(read_labels(dataset, label_column)[1])
    return [str(name) for name in names]


def check_rows_are_known(dataset: Any) -> None:
    """
    Raises:
        `ValueError`: if a dataset is streamed.
    """
    if any(
        isinstance(part, IterableDataset) for part in (dataset.values() if isinstance(dataset, dict) else [dataset])
    ):
        raise ValueError(
            "A streaming dataset (an IterableDataset) cannot be counted or cut, since its rows are known one by one: "
            "load it without streaming=True. The trainer takes streams as they are."
        )


def check_split(dataset: Any, column: str, named: str) -> None:
    """
    Raises:
        `ValueError`: unless this is one split with rows and this column; `named` says what is in it, and as which
            argument it is given.
    """
    check_rows_are_known(dataset)
    if isinstance(dataset, dict):
        raise ValueError(f"This is a {type(dataset).__name__} of {list(dataset)}: give one split, e.g. ['train'].")
    if not isinstance(dataset, Dataset):
        raise ValueError(f"The dataset is of type {type(dataset).__name__}: give a datasets.Dataset, one split.")
    if column not in dataset.column_names:
        raise ValueError(
            f"The dataset has no column {column!r}: its columns are {dataset.column_names}. Name the one with {named}."
        )
    if len(dataset) == 0:
        raise ValueError("The dataset has no rows.")


def read_labels(dataset: Dataset, label_column: str) -> tuple[np.ndarray, int]:
    """
    The labels as an integer array, and the number of classes (`ClassLabel`'s, or the largest label plus 1).

    Raises:
        `ValueError`: if the dataset is streamed, or the column is missing, empty, or holds other than the ids of at
            most a million classes.
    """
    check_split(dataset, label_column, "the class ids as label_column")
    # The other columns are dropped first: reading the rows of a selection would copy their images too.
    column = dataset.select_columns([label_column]).with_format("arrow")[:][label_column]
    if column.null_count:
        raise ValueError(f"{column.null_count} rows have no label in column {label_column!r}: remove them first.")
    labels = np.array(column.to_numpy())
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"The column {label_column!r} holds {dataset.features[label_column]}, not class ids: "
            f"convert it first with dataset.class_encode_column({label_column!r})."
        )
    feature = dataset.features[label_column]
    num_classes = feature.num_classes if isinstance(feature, ClassLabel) else int(labels.max()) + 1
    if num_classes > MAX_CLASSES:
        raise ValueError(
            f"Row {labels.argmax()} has the label {labels.max()} in column {label_column!r}: class ids count from 0, "
            f"to {MAX_CLASSES - 1} at most. Make ids of another kind into names: convert them to text, then "
            f"dataset.class_encode_column({label_column!r})."
        )
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise ValueError(
            f"Row {outside[0]} has the label {labels[outside[0]]} in column {label_column!r}, outside the classes "
            f"0 to {num_classes - 1} ({len(outside)} such rows): remove these rows or correct their labels."
        )
    return labels, num_classes
