"""An evaluation part, split off the training images where a dataset has no other."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict

from ..utils import check_number, listed, load_json, write_json
from .arguments import PRESETS, DataArguments
from .check import repeated, shared_rows
from .images import ImageData, load_image_data
from .long_tail import class_names, read_labels
from .prepare import prepare
from .sources import Source, find_source


HOLDOUT_NAME = "holdout.json"
VALIDATION = "held out to choose on"  # a split of no dataset's own
RENAMED = {"share": "eval_fraction", "full_counts": "full_class_counts"}  # in files of version 0.1.0


@dataclass(frozen=True)
class Holdout:
    """
    How the evaluation part was split off.

    Attributes:
        per_class (`int` or `list[int]`): Images held out of every class, or of each where these differ.
        eval_fraction (`float`): The largest part of a class that may be held out; it decided `per_class`.
        seed (`int`): Which images of a class are held out.
        full_class_counts (`list[int]`): Images per class before the split.
        group_column (`str`, *optional*): Images of one value of this column are on one side.
    """

    per_class: int | list[int]
    eval_fraction: float
    seed: int
    full_class_counts: list[int]
    group_column: str | None = None

    @property
    def class_counts(self) -> list[int]:
        """Images held out of each class."""
        if isinstance(self.per_class, int):
            return [self.per_class] * len(self.full_class_counts)
        return self.per_class

    def describe(self, class_names: Sequence[str]) -> list[str]:
        """What was held out, and of which classes nothing, in plain sentences."""
        counts = self.class_counts
        without = [c for c, count in enumerate(counts) if count == 0]
        start = f"{sum(counts):,} images, split off the training images (there is no test split)"
        chosen = f"chosen with seed {self.seed} (--split_seed)"
        if self.group_column is not None:
            each = (
                f"{counts[0]:,} of every class"
                if isinstance(self.per_class, int)
                else f"at most {max(counts):,} a class"
            )
            lines = [f"{start}, {each} and no {self.group_column} on both sides (--group_column), {chosen}"]
        elif isinstance(self.per_class, int):
            part = self.per_class / min(self.full_class_counts)
            lines = [
                f"{sum(counts):,} images, {self.per_class} of every class, split off the training images (there is no "
                "test split):",
                f"{part:.0%} of the smallest class, at most {self.eval_fraction:.0%} (--eval_fraction), {chosen}",
            ]
        else:
            lines = [
                f"{start}: of each class at most {self.eval_fraction:.0%} (--eval_fraction), and at most "
                f"{max(counts):,}, {chosen}"
            ]
        if without:
            names = listed([f"{class_names[c]} ({self.full_class_counts[c]})" for c in without], 10)
            lines.append(f"Not evaluated are {len(without)} classes of too few images to hold one out: {names}")
        return lines

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """Writes `holdout.json` into `save_directory`, atomically."""
        write_json(Path(save_directory) / HOLDOUT_NAME, asdict(self))

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> "Holdout":
        """
        Reads `holdout.json` back.

        Raises:
            `FileNotFoundError`: if `directory` has none.
            `ValueError`: if it is damaged.
        """
        return load_json(Path(directory) / HOLDOUT_NAME, lambda **v: cls(**{RENAMED.get(n, n): v[n] for n in v}))


def hold_out(
    dataset: Dataset,
    *,
    label_column: str = "label",
    eval_fraction: float = 0.2,
    seed: int = 0,
    group_column: str | None = None,
    min_class_images: int = 1,
) -> tuple[Dataset, Dataset, Holdout]:
    """
    Splits off images of every class to evaluate on, without decoding anything and in the dataset's own order.

    The same number is taken of every class where every class is large enough: `eval_fraction` of the smallest. Where
    one is too small to give an image, each class gives what it can: `eval_fraction` of it, but no more than the middle
    one (the lower median) of the classes that can give any; small classes stay whole and are not evaluated.

    With one seed the parts are nested: what a smaller `eval_fraction` holds out, a larger one holds out too (not with
    groups).

    Args:
        dataset (`datasets.Dataset`): The training images.
        label_column (`str`, *optional*, defaults to `"label"`): A column of `ClassLabel` or integers.
        eval_fraction (`float`, *optional*, defaults to 0.2): At most this part of a class is held out.
        seed (`int`, *optional*, defaults to 0): Which images.
        group_column (`str`, *optional*):
            Images of one value of this column (a track, a patient, a camera) stay together. Whole groups are held out
            until a class has its number, the last of them perhaps more; but never the half of a class. Images without
            a value are groups of their own.
        min_class_images (`int`, *optional*, defaults to 1): Nothing is held out of smaller classes.

    Returns:
        `(training images, evaluation images, Holdout)`.

    Raises:
        `ValueError`: if `eval_fraction` is not between 0 and 1, there are fewer than two classes, no class is large
            enough to hold out one image, or there is no such column.
    """
    held_out, holdout = choose(
        dataset,
        label_column=label_column,
        eval_fraction=eval_fraction,
        seed=seed,
        group_column=group_column,
        min_class_images=min_class_images,
    )
    train, test = (dataset.select(np.flatnonzero(rows)) for rows in (~held_out, held_out))
    return train, test, holdout


def choose(
    dataset: Dataset,
    *,
    label_column: str,
    eval_fraction: float,
    seed: int,
    group_column: str | None = None,
    min_class_images: int = 1,
    last: np.ndarray | None = None,
    split: str = "test",
) -> tuple[np.ndarray, Holdout]:
    """
    The rows that [`hold_out`] holds out, as a mask. Those of the mask `last`, such as images that are there twice, are
    held out only where their class has no others left. `split` is what errors call them.
    """
    check_number("eval_fraction", eval_fraction, above=0, below=1)
    check_number("seed", seed, 0, whole=True)
    check_number("min_class_images", min_class_images, 1, whole=True)
    labels, num_classes = read_labels(dataset, label_column)
    if num_classes < 2:
        raise ValueError("The training images have one class only: a classifier needs two or more.")
    counts = np.bincount(labels, minlength=num_classes)
    wanted = _numbers(counts, eval_fraction, min_class_images, balanced=group_column is None)
    if not wanted.any():
        largest = int(counts.argmax())
        feature = dataset.features[label_column]
        name = feature.names[largest] if isinstance(feature, ClassLabel) else largest
        more = f", or allow more with --eval_fraction {1 / counts[largest] + 0.005:.2f}" if counts[largest] > 1 else ""
        raise ValueError(
            f"There is no {split} split, and the largest class, {name!r}, has {counts[largest]} images, too few to "
            f"hold out {eval_fraction:.0%} of it for evaluation: add images, add a {split} split{more}."
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    if group_column is None:
        if last is not None:
            order = order[np.argsort(last[order], kind="stable")]
        order = order[np.argsort(labels[order], kind="stable")]  # class by class, each in its random order
        rank_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
        held_out = np.zeros(len(labels), dtype=bool)
        held_out[order[rank_in_class < np.repeat(wanted, counts)]] = True
    else:
        held_out = _held_out_groups(labels, _groups(dataset, group_column), order, counts, wanted)
        if not held_out.any():
            raise ValueError(
                f"No {group_column} can be held out: each has more than half of the images of one of its classes. Add "
                f"a {split} split, or leave out --group_column."
            )
    per_class: list[int] = np.bincount(labels[held_out], minlength=num_classes).tolist()
    same = per_class[0] if len(set(per_class)) == 1 else per_class
    return held_out, Holdout(same, eval_fraction, seed, counts.tolist(), group_column)


def _numbers(counts: np.ndarray, eval_fraction: float, min_class_images: int, *, balanced: bool) -> np.ndarray:
    """How many images each class gives; the same of each, if that is wanted and each can give some."""
    possible = (counts * eval_fraction + 1e-9).astype(int)
    possible[counts < min_class_images] = 0
    giving = np.sort(possible[possible > 0])
    if balanced and len(giving) == len(counts):
        return np.full(len(counts), giving[0])
    return np.minimum(possible, giving[(len(giving) - 1) // 2]) if len(giving) else possible


def _groups(dataset: Dataset, column: str) -> np.ndarray:
    """A number for each image, the same for those of one group."""
    if column not in dataset.column_names:
        raise ValueError(
            f"There is no column {column!r} to group images by (--group_column): the columns are "
            f"{dataset.column_names}."
        )
    values = dataset.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    numbers: dict = {}
    return np.array(
        [
            numbers.setdefault(("row", row) if value is None else value, len(numbers))
            for row, value in enumerate(values)
        ]
    )


def _held_out_groups(
    labels: np.ndarray, groups: np.ndarray, order: np.ndarray, counts: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """
    Whole groups, the rarest class first, in the order in which `order` meets them.

    A group is taken where it fits into what the class still lacks, else the smallest that leaves half of each of its
    classes for training, if the class has none so far.
    """
    sizes: dict[int, dict[int, int]] = {}
    for group, label in zip(groups[order].tolist(), labels[order].tolist(), strict=True):
        in_group = sizes.setdefault(group, {})
        in_group[label] = in_group.get(label, 0) + 1
    of_class: dict[int, list[int]] = {}
    for group, in_group in sizes.items():
        for label in in_group:
            of_class.setdefault(label, []).append(group)
    held, taken = np.zeros(len(counts), dtype=int), set()

    def may_be_taken(group: int) -> bool:
        return group not in taken and all(2 * (held[c] + n) <= counts[c] for c, n in sizes[group].items())

    def take(group: int) -> None:
        taken.add(group)
        for label, number in sizes[group].items():
            held[label] += number

    for label in np.argsort(counts, kind="stable").tolist():
        if wanted[label] == 0:
            continue
        for group in of_class.get(label, []):
            if held[label] + sizes[group][label] <= wanted[label] and may_be_taken(group):
                take(group)
        if held[label] == 0:
            others = [group for group in of_class.get(label, []) if may_be_taken(group)]
            if others:
                take(min(others, key=lambda group: sizes[group][label]))
    return np.isin(groups, [*taken])


def load_or_hold_out(
    args: DataArguments,
    *,
    splits: DatasetDict | None = None,
    eval_fraction: float = 0.2,
    validation: bool = False,
    progress: bool = True,
    check_names: Callable[[list[str], bool], None] | None = None,
    **options: Any,
) -> tuple[ImageData, Holdout | None]:
    """
    [`load_image_data`] for a dataset with or without a split to evaluate on; without, one is held out.

    Args:
        args ([`DataArguments`]): What to load. `args.split_seed` chooses the images that are held out, too; they are
            taken before `args.imbalance_factor` cuts the rest.
        splits (`datasets.DatasetDict`, *optional*): The splits that `args` names, where they are loaded already.
        eval_fraction (`float`, *optional*, defaults to 0.2): As in [`hold_out`].
        validation (`bool`, *optional*, defaults to `False`):
            Whether images to choose on are needed: without a `validation` split beside `test`, they are held out too,
            in the same way, from the training images that are left.
        progress (`bool`, *optional*, defaults to `True`): Whether there are bars.
        check_names (`Callable`, *optional*):
            Called before any image is opened, with the classes' names, and whether the data names them.
        options: Further arguments of [`load_image_data`], such as `mean`, `std`, `processor`, `seed` and `unlabelled`.

    Returns:
        `(ImageData, Holdout)`, or `(ImageData, None)` where the dataset has a split of its own.

    Raises:
        `ValueError`: as [`load_image_data`] and [`hold_out`].
    """
    source = find_source(args, splits)
    if "train" in source.splits and args.rare == "keep":  # other classes are known when the images are looked at
        if check_names is not None:
            train = source.splits["train"]
            named = isinstance(train.features[args.label_column], ClassLabel)
            check_names(class_names(train, args.label_column), named)
        if source.eval_split is None and args.eval_split is None:
            _choose(source.splits["train"], args, eval_fraction)  # raises, if nothing can be held out
        elif validation and not _has_validation(source.splits, args):
            _choose(source.splits["train"], args, eval_fraction, split="validation")
    source, report = prepare(args, source=source, progress=progress)
    splits, holdout = source.splits, None
    evaluated = (
        [] if report is None else [report.digests[n] for n in (source.eval_split, "validation") if n and n in splits]
    )
    seen = np.concatenate(evaluated) if evaluated else None
    left = None if report is None or "train" not in splits else report.digests["train"]
    if "train" in splits and source.eval_split is None and args.eval_split is None:
        full, digests = splits["train"], left
        held_out, holdout = _choose(full, args, eval_fraction, None if digests is None else repeated(digests))
        seen, left = (None, None) if digests is None else (digests[held_out], digests[~held_out])
        both = [] if digests is None else shared_rows(digests[held_out], digests[~held_out])
        if both:
            examples = source.places("train", [np.flatnonzero(held_out)[row] for row, _ in both[:4]])
            source.said.append(f"{len(both):,} held-out images are training images, too: {listed(examples, 3)}")
        names = (PRESETS[args.benchmark].eval_splits[0], "train")
        rows = (held_out, ~held_out)
        splits = DatasetDict({name: full.select(np.flatnonzero(r)) for name, r in zip(names, rows, strict=True)})
    elif args.group_column is not None and "train" in splits:
        parts = {n: splits[n] for n in ("train", source.eval_split) if n is not None}
        source.said += _groups_in_both(parts, args.group_column)
    if validation and "train" in splits and not _has_validation(splits, args):
        train = splits["train"]
        held_out, chosen = _choose(train, args, eval_fraction, None if left is None else repeated(left), "validation")
        parts = {VALIDATION: train.select(np.flatnonzero(held_out)), "train": train.select(np.flatnonzero(~held_out))}
        splits, options["validation_split"] = DatasetDict({**splits, **parts}), VALIDATION
        if left is not None and seen is not None:
            seen = np.concatenate([seen, left[held_out]])
        source.said.append(
            f"{sum(chosen.class_counts):,} more training images are held out to choose on (there is no validation "
            f"split), at most {max(chosen.class_counts):,} a class (--eval_fraction), chosen with seed {chosen.seed}"
        )
    data = load_image_data(args, splits=splits, progress=progress, eval_digests=seen, **options)
    data.sources = source.said + data.sources
    return data, holdout


def _has_validation(splits: DatasetDict, args: DataArguments) -> bool:
    """Whether there are images to choose on beside those that are reported, as [`load_image_data`] sees it."""
    wanted = {"test", "validation"} <= {*splits} and "test" in PRESETS[args.benchmark].eval_splits
    return wanted and args.eval_split is None


def _choose(
    train: Dataset, args: DataArguments, eval_fraction: float, last: np.ndarray | None = None, split: str = "test"
) -> tuple[np.ndarray, Holdout]:
    return choose(
        train,
        label_column=args.label_column,
        eval_fraction=eval_fraction,
        seed=args.split_seed,
        group_column=args.group_column,
        min_class_images=args.min_class_images or 1,
        last=last,
        split=split,
    )


def describe_split(source: Source, args: DataArguments, eval_fraction: float) -> list[str]:
    """
    What would be held out, or what of `args.group_column` is in both splits, in plain sentences.

    Raises:
        `ValueError`: as [`hold_out`].
    """
    train = source.splits.get("train")
    if train is None:
        return []
    if source.eval_split is None and args.eval_split is None:
        return _choose(train, args, eval_fraction)[1].describe(class_names(train, args.label_column))
    if args.group_column is None:
        return []
    evaluated = args.eval_split or source.eval_split
    return _groups_in_both({"train": train, str(evaluated): source.splits[str(evaluated)]}, args.group_column)


def _groups_in_both(splits: dict[str, Dataset], column: str) -> list[str]:
    """A caution, if images to evaluate on are of the same group as training images."""
    for name, dataset in splits.items():
        if column not in dataset.column_names:
            return [f"the {name} split has no column {column!r} (--group_column), so that nobody knows what it shares"]
    values = [set(dataset.unique(column)) - {None} for dataset in splits.values()]
    both = sorted(map(str, set.intersection(*values))) if len(values) > 1 else []
    return [f"{len(both)} {column} are in both splits ({listed(both)}): accuracy is flattered"] if both else []
