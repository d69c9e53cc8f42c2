"""A balanced evaluation part, split off the training images where a dataset has no other."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, load_dataset

from ..utils import write_json
from .arguments import PRESETS, DataArguments
from .image_files import IMAGE_SUFFIXES, read_class_folders
from .images import ImageData, load_image_data
from .long_tail import read_labels
from .sources import load_splits


HOLDOUT_NAME = "holdout.json"
RENAMED = {"share": "eval_fraction", "full_counts": "full_class_counts"}  # in files of version 0.1.0
EVAL_NAMES = ("test", "validation", "valid", "val")


@dataclass(frozen=True)
class Holdout:
    """
    How the evaluation part was split off.

    Attributes:
        per_class (`int`): Images held out of every class.
        eval_fraction (`float`): The largest part of a class that may be held out; it decided `per_class`.
        seed (`int`): Which images of a class are held out.
        full_class_counts (`list[int]`): Images per class before the split.
    """

    per_class: int
    eval_fraction: float
    seed: int
    full_class_counts: list[int]

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """Writes `holdout.json` into `save_directory`, atomically."""
        write_json(Path(save_directory) / HOLDOUT_NAME, asdict(self))

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> "Holdout":
        """
        Reads `holdout.json` back.

        Raises:
            `FileNotFoundError`: if `directory` has none.
        """
        values = json.loads((Path(directory) / HOLDOUT_NAME).read_text(encoding="utf-8"))
        return cls(**{RENAMED.get(name, name): value for name, value in values.items()})


def hold_out(
    dataset: Dataset, *, label_column: str = "label", eval_fraction: float = 0.2, seed: int = 0
) -> tuple[Dataset, Dataset, Holdout]:
    """
    Splits off the same number of images of every class, without decoding anything and in the dataset's own order.

    With one seed the parts are nested: what a smaller `eval_fraction` holds out, a larger one holds out too.

    Args:
        dataset (`datasets.Dataset`): The training images.
        label_column (`str`, *optional*, defaults to `"label"`): A column of `ClassLabel` or integers.
        eval_fraction (`float`, *optional*, defaults to 0.2): At most this part of the smallest class is held out.
        seed (`int`, *optional*, defaults to 0): Which images.

    Returns:
        `(training images, evaluation images, Holdout)`.

    Raises:
        `ValueError`: if `eval_fraction` is not between 0 and 1, there are fewer than two classes, or the smallest
            class is too small to hold out one image.
    """
    if not 0 < eval_fraction < 1:
        raise ValueError(
            f"eval_fraction={eval_fraction} is not valid: it is a part of the smallest class, above 0 and below 1."
        )
    labels, num_classes = read_labels(dataset, label_column)
    if num_classes < 2:
        raise ValueError("The training images have one class only: a classifier needs two or more.")
    counts = np.bincount(labels, minlength=num_classes)
    smallest = int(counts.argmin())
    per_class = int(counts[smallest] * eval_fraction + 1e-9)
    if per_class == 0:
        feature = dataset.features[label_column]
        name = feature.names[smallest] if isinstance(feature, ClassLabel) else smallest
        more = (
            f", or allow more with --eval_fraction {1 / counts[smallest] + 0.005:.2f}" if counts[smallest] > 1 else ""
        )
        raise ValueError(
            f"There is no test split, and the smallest class, {name!r}, has {counts[smallest]} images, too few to "
            f"hold out {eval_fraction:.0%} of it for evaluation: add images of it, add a test split{more}."
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, each in its random order
    rank_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    held_out = rank_in_class < per_class
    train, test = (dataset.select(np.sort(order[rows])) for rows in (~held_out, held_out))
    return train, test, Holdout(per_class, eval_fraction, seed, counts.tolist())


def load_or_hold_out(
    args: DataArguments,
    *,
    eval_fraction: float = 0.2,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> tuple[ImageData, Holdout | None]:
    """
    [`load_image_data`] for a dataset with or without a split to evaluate on; without, one is held out.

    `args.data_dir` may also hold one folder per class directly, or parquet files of any name.

    Args:
        args ([`DataArguments`]): What to load. `args.split_seed` chooses the images that are held out, too; they are
            taken before `args.imbalance_factor` cuts the rest.
        eval_fraction (`float`, *optional*, defaults to 0.2): As in [`hold_out`].
        mean, std, seed, progress: As in [`load_image_data`].

    Returns:
        `(ImageData, Holdout)`, or `(ImageData, None)` where the dataset has a split of its own.

    Raises:
        `ValueError`: as [`load_image_data`] and [`hold_out`].
    """
    full = _training_images_alone(args)
    if full is None:
        return load_image_data(args, mean=mean, std=std, seed=seed, progress=progress), None
    train, test, holdout = hold_out(
        full, label_column=args.label_column, eval_fraction=eval_fraction, seed=args.split_seed
    )
    eval_split = PRESETS[args.benchmark].eval_splits[0]
    splits = DatasetDict({"train": train, eval_split: test})
    return load_image_data(args, splits=splits, mean=mean, std=std, seed=seed, progress=progress), holdout


def _training_images_alone(args: DataArguments) -> Dataset | None:
    """The training images, if there are no others to evaluate on."""
    if args.eval_split is not None or args.train_list is not None:
        return None
    folder = Path(args.data_dir or "").expanduser().absolute()
    if args.data_dir is not None and folder.is_dir() and not any(_is_split(folder / name) for name in EVAL_NAMES):
        files = sorted(map(str, folder.glob("*.parquet")))
        if files and not any(Path(file).name.startswith("train") for file in files):
            return load_dataset("parquet", data_files=files, split="train")
        if not files:
            train = folder / "train" if _is_split(folder / "train") else folder
            images = read_class_folders(train)
            if images is None and train == folder:
                raise ValueError(
                    f"{args.data_dir!r} holds no images that can be told into classes: expected *.parquet, or one "
                    f"folder per class with images alone ({', '.join(IMAGE_SUFFIXES[:3])}, ...), directly or in "
                    "train/ and test/. Files beside the class folders and folders inside them have to go."
                )
            if images is not None:
                return images.rename_column("label", args.label_column) if args.label_column != "label" else images
    splits = load_splits(args)
    has_eval_split = any(name in splits for name in PRESETS[args.benchmark].eval_splits)
    return splits["train"] if "train" in splits and not has_eval_split else None


def _is_split(folder: Path) -> bool:
    """Whether a folder holds class folders: one with images alone is a class, even if it is called train."""
    return folder.is_dir() and any(entry.is_dir() for entry in os.scandir(folder))
