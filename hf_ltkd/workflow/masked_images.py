"""Images and masks by the names that a user gives: found, counted, and divided into those to train and evaluate on."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import DatasetDict, Image

from ..data.arguments import DataArguments, MaskArguments
from ..data.columns import as_images
from ..data.holdout import Holdout
from ..data.mask_files import MASK_COLUMNS, read_masks
from ..data.masks import MaskReader, count_masks
from ..data.names import split_of
from ..utils import listed
from .arguments import SourceArguments
from .inputs import name_data


IMAGE_COLUMNS = ("image", "images", "img", "pixel_values")
MANY_IMAGES = 1000  # from which on several processes read masks


@dataclass
class MaskedImages:
    """
    Images, their masks, and how many pixels each class has; no image is kept.

    Attributes:
        splits (`datasets.DatasetDict`): Those that are used.
        columns (`tuple[str, str]`): Of images and of masks.
        evaluated (`str`, *optional*): The split to evaluate on; `None` until one is held out.
        args ([`DataArguments`]): What was loaded.
        sources (`list[str]`): Which splits are used for what, in plain sentences.
        counts (`dict[str, np.ndarray]`): Pixels of each class in each image of each split, `[images, classes]`.
        holdout ([`Holdout`], *optional*): How the evaluation images were split off.
    """

    splits: DatasetDict
    columns: tuple[str, str]
    evaluated: str | None
    args: DataArguments
    sources: list[str]
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    holdout: Holdout | None = None

    @property
    def num_classes(self) -> int:
        return self.counts["train"].shape[1]

    def count(self, reader: MaskReader, least: int = 0, problems: list[str] | None = None) -> None:
        """
        Reads every mask.

        Args:
            reader ([`MaskReader`]): How.
            least (`int`, *optional*, defaults to 0): Classes that there are at least, whether they have pixels or not.
            problems (`list[str]`, *optional*): As in [`count_masks`].

        Raises:
            `ValueError`: as [`count_masks`], the split named.
        """
        image_column, mask_column = self.columns
        for name, split in self.splits.items():
            processes = min(8, os.cpu_count() or 1) if len(split) > MANY_IMAGES else None
            found: list[str] | None = None if problems is None else []
            how: dict[str, Any] = {"image_column": image_column, "num_proc": processes, "problems": found}
            try:
                self.counts[name] = count_masks(split, reader, mask_column, **how)
            except ValueError as error:  # a row alone says little
                raise ValueError(f"{name}: {error}") from error
            if problems is not None:
                problems += [f"{name}: {problem}" for problem in found or []]
        classes = max(least, *(rows.shape[1] for rows in self.counts.values()))
        self.counts = {n: np.pad(rows, ((0, 0), (0, classes - rows.shape[1]))) for n, rows in self.counts.items()}

    def hold_out(self, fraction: float) -> None:
        """
        Makes some of the training images a test split, where there is none.

        Raises:
            `ValueError`: if there are too few.
        """
        if self.evaluated is not None:
            return
        train, counts = self.splits["train"], self.counts["train"]
        number = math.floor(fraction * len(train) + 1e-9)
        if number == 0:
            raise ValueError(
                f"There is no test split, and {len(train)} training images are too few to hold out {fraction:.0%} of "
                "them: add images, add a test split, or set --eval_fraction."
            )
        held_out = np.zeros(len(train), bool)
        held_out[np.random.default_rng(self.args.split_seed).permutation(len(train))[:number]] = True
        images = counts > 0  # in which a class occurs
        self.holdout = Holdout(
            images[held_out].sum(0).tolist(), fraction, self.args.split_seed, images.sum(0).tolist()
        )
        for name, rows in (("test", held_out), ("train", ~held_out)):
            self.splits[name], self.counts[name] = train.select(np.flatnonzero(rows)), counts[rows]
        self.evaluated = "test"

    def check(self, masks: MaskArguments, every_class: bool) -> None:
        """
        Args:
            masks ([`MaskArguments`]): What was said of them.
            every_class (`bool`): Whether each class needs a pixel to train on.

        Raises:
            `ValueError`: if there is nothing to evaluate on, or not two classes, or a class has no such pixel.
        """
        if not self.counts[str(self.evaluated)].any():
            raise ValueError(
                f"No pixel of the {self.evaluated} split has a class, as where a benchmark keeps its masks to itself: "
                f"choose another with --eval_split ({listed([*self.splits])})."
            )
        if self.num_classes < 2:
            raise ValueError(
                f"The masks hold class 0 alone beside ignore_index={masks.ignore_index}: two classes are needed, so "
                "say with --ignore_index what the masks hold, or label the other pixels."
            )
        trained = self.counts["train"].sum(0)
        unseen = np.flatnonzero(trained == 0)
        if every_class and len(unseen):
            raise ValueError(
                f"{len(unseen)} of {self.num_classes} classes have no pixel in the training masks (class "
                f"{listed([*unseen])}), which hold the classes {ranges(np.flatnonzero(trained))}: say with "
                "--num_classes and --ignore_index what the masks hold, or add images."
            )


def find_masks(
    source: SourceArguments, given: Mapping[str, Any], masks: MaskArguments, problems: list[str] | None = None
) -> MaskedImages:
    """
    The images and masks that a user names; nothing is decoded.

    Args:
        source, given: As in [`load_images`].
        masks ([`MaskArguments`]): Their column.
        problems (`list[str]`, *optional*): As in [`read_masks`].

    Raises:
        `ValueError`: if there are no such images, or a column or a split is missing.
    """
    splits, given = name_data(source, given)
    args = DataArguments(**given)
    if splits is None:
        splits = read_masks(args.data_dir or str(args.dataset_name), problems)
    splits = DatasetDict({split_of(name, is_folder=True) or name: split for name, split in splits.items()})
    columns, sources = _columns(splits, args, masks), list[str]()
    splits, evaluated = _splits(splits, args, sources)
    splits = DatasetDict({name: as_images(split, columns[0])[0] for name, split in splits.items()})
    return MaskedImages(splits, columns, evaluated, args, sources)


def _columns(splits: DatasetDict, args: DataArguments, masks: MaskArguments) -> tuple[str, str]:
    """The columns of images and of masks, which each split must have."""
    if "train" not in splits:
        raise ValueError(f"The data have the splits {listed([*splits])}, but none to train on: call one 'train'.")
    features = splits["train"].features
    mask = masks.mask_column or next((name for name in MASK_COLUMNS if name in features), None)
    images = [name for name, feature in features.items() if isinstance(feature, Image) and name != mask]
    named = [name for name in IMAGE_COLUMNS if name in (images or features)]
    image = args.image_column or next(iter([*named, *images]), None)
    for what, flag, column in (("masks", "mask_column", mask), ("images", "image_column", image)):
        for name, split in splits.items():
            if column not in split.features:
                raise ValueError(
                    f"There is no column {f'{column!r} ' if column else ''}of {what} in the {name} split (--{flag}): "
                    f"its columns are {listed(split.column_names, 20)}."
                )
    return str(image), str(mask)


def _splits(splits: DatasetDict, args: DataArguments, said: list[str]) -> tuple[DatasetDict, str | None]:
    """The splits that are used, and which of them is evaluated on, if there is one."""
    wanted = args.eval_split and (split_of(args.eval_split, is_folder=True) or args.eval_split)
    if wanted is not None and wanted not in splits:
        raise ValueError(f"There is no {args.eval_split!r} split: the data have {listed([*splits])} (--eval_split).")
    evaluated = wanted or next((name for name in ("test", "validation") if name in splits), None)
    uses = {"train": "for training", evaluated: "to evaluate on"}
    if evaluated == "train":
        uses["train"] = "for training, and to evaluate on, which says nothing of other images"
    if evaluated == "test":
        uses["validation"] = "to choose checkpoints on"
    for name, split in splits.items():
        said.append(f"{name}: {len(split):,} images {uses[name]}" if name in uses else f"{name}: not used")
        if len(split) == 0:
            raise ValueError(f"The {name} split holds no image: add some, or leave it out.")
    return DatasetDict({name: split for name, split in splits.items() if name in uses}), evaluated


def ranges(ids: np.ndarray) -> str:
    """Sorted whole numbers in words: `"0 to 3, 7, 255"`."""
    runs = np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1)
    return listed([f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs if len(run)])
