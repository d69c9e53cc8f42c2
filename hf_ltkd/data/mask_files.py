"""Images and their masks: of parquet files, of folders by the names of the files, of the Hub; nothing is decoded."""

import os
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Image, load_dataset
from datasets.exceptions import DatasetGenerationError

from ..utils import listed, one_line
from .image_files import file_dataset, files_below, is_image, visible
from .names import LABEL_NAMES, split_of


IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")
MASK_FOLDERS = ("masks", "mask", "annotations", "annotation", "labels", "label", "segmentationclass")
MASK_COLUMNS = ("mask", "masks", "annotation", "annotations", "segmentation_mask", "label", "labels")


def has_masks(folder: str | os.PathLike) -> bool:
    """Whether there are images and masks in a folder, by the names of its folders, or of a parquet file's columns."""
    folder = Path(folder).expanduser()
    if folder.is_dir() and any(find_pair(path) for path in (folder, *_splits(folder).values())):
        return True
    file = next((path for pattern in ("*.parquet", "*/*.parquet") for path in folder.glob(pattern)), None)
    if file is None:
        return False
    columns = {column.name: pa.types.is_struct(column.type) for column in pq.read_schema(file)}  # an image is a struct
    return any(columns.get(name) for name in MASK_COLUMNS) and all(columns.get(name, True) for name in LABEL_NAMES)


def read_masks(data: str | os.PathLike, problems: list[str] | None = None) -> DatasetDict:
    """
    The splits of a dataset with a column of images and one of masks.

    Args:
        data (`str` or `os.PathLike`): A folder of parquet files (`train.parquet`, `test-00000-of-00002.parquet`, also
            in `data/` or in a folder for each split), one as [`read_mask_folder`] takes it, or a dataset's Hub id.
        problems (`list[str]`, *optional*): Gets what would be raised of images without a mask, which are left out.

    Returns:
        `datasets.DatasetDict`: `"train"`, and `"validation"` and `"test"` where there are any, whatever they are
        called there; splits of other names keep theirs.

    Raises:
        `ValueError`: if it cannot be loaded or has no training split; as [`read_mask_folder`] for such a folder.
    """
    folder = Path(data).expanduser()
    if folder.is_dir() and not any(path.endswith(".parquet") for path in files_below(str(folder))):
        return read_mask_folder(folder, problems)
    try:
        loaded = load_dataset(str(folder if folder.is_dir() else data))
    except (DatasetGenerationError, OSError, ValueError) as error:
        raise ValueError(
            f"{str(data)!r} is no folder here of parquet files or of images/ and masks/, and no dataset of the Hub "
            f"that can be loaded: {one_line(error)}"
        ) from error
    splits = DatasetDict({split_of(name, is_folder=True) or name: split for name, split in loaded.items()})
    if "train" not in splits:
        raise ValueError(f"{str(data)!r} has the splits {listed([*splits])}, but none to train on: call one 'train'.")
    return splits


def read_mask_folder(folder: str | os.PathLike, problems: list[str] | None = None) -> DatasetDict:
    """
    Pairs each image with the mask of the same name (`images/a/1.jpg`, `masks/a/1.png`).

    The layout is `images/` and `masks/` (or `annotations/`, `labels/`), each with the splits in it or without, or
    these two in the folder of each split; splits are called as everywhere in this room (`train`, `val`, `test`, ...).

    Args:
        folder (`str` or `os.PathLike`): The folder.
        problems (`list[str]`, *optional*): As in [`read_masks`].

    Returns:
        `datasets.DatasetDict`: `"train"`, and `"validation"` and `"test"` where there are any, with the columns
        `image` and `mask` (of type `Image`, not decoded).

    Raises:
        `ValueError`: if the folder is laid out in another way, or an image has no mask, or a mask no image.
        `FileNotFoundError`: if there is no such folder.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}: give the one that holds images/ and masks/.")
    pairs: dict[str, Any] = {}
    pair = find_pair(folder)
    if pair is not None:
        images, masks = (_splits(path) for path in pair)
        pairs = {"train": pair}
        if "train" in images and "train" in masks:
            pairs = {split: (images.get(split), masks.get(split)) for split in images | masks}
    else:
        pairs = {split: find_pair(path) for split, path in _splits(folder).items()}
    for split in [split for split, found in pairs.items() if found is None or None in found]:
        del pairs[split]
        warnings.warn(f"The {split} split in {str(folder)!r} is not used: it lacks images or masks.", stacklevel=2)
    if "train" not in pairs:
        raise ValueError(
            f"{str(folder)!r} holds {listed([f'{name}/' for name in visible(folder)[1]]) or 'no folder'}, and no "
            "training images with masks: expected images/ and masks/ (or annotations/), with the splits train/, "
            "validation/ and test/ in them or around them."
        )
    return DatasetDict({split: _dataset(image, mask, problems) for split, (image, mask) in pairs.items()})


def find_pair(folder: Path) -> tuple[Path, Path] | None:
    """The folders of images and of masks in a folder."""
    names = {name.lower(): name for name in reversed(visible(folder)[1])}
    found = [next((names[name] for name in usual if name in names), None) for usual in (IMAGE_FOLDERS, MASK_FOLDERS)]
    return (folder / found[0], folder / found[1]) if found[0] and found[1] else None


def _splits(folder: Path) -> dict[str, Path]:
    named = {split_of(name, is_folder=True): folder / name for name in reversed(visible(folder)[1])}
    return {split: path for split, path in named.items() if split is not None}


def _dataset(images: Path, masks: Path, problems: list[str] | None) -> Dataset:
    paths, mask_paths = (_by_stem(folder) for folder in (images, masks))
    for what, other, those, lacking in (("image", "mask", paths, mask_paths), ("mask", "image", mask_paths, paths)):
        alone = [path for stem, path in those.items() if stem not in lacking]
        if alone:
            problem = (
                f"{len(alone)} of the {len(those)} {what}s in {str(images if what == 'image' else masks)!r} have no "
                f"{other} of the same name ({listed([Path(path).name for path in alone])}): add them, or take the "
                f"{what}s out."
            )
            if problems is None or paths.keys().isdisjoint(mask_paths):
                raise ValueError(problem)
            problems.append(problem)
    paths = {stem: path for stem, path in paths.items() if stem in mask_paths}
    if not paths:
        raise ValueError(f"{str(images)!r} holds no image: add some, each with a mask of the same name.")
    column = Image().cast_storage(pa.array([mask_paths[stem] for stem in paths], pa.string()))
    return file_dataset([*paths.values()], {"mask": column}).cast_column("mask", Image())


def _by_stem(folder: Path) -> dict[str, str]:
    """The images below a folder by their paths from it without the suffix, sorted."""
    stems: dict[str, str] = {}
    for path in files_below(str(folder)):
        if is_image(path):
            stem = os.path.splitext(os.path.relpath(path, folder))[0]
            if stem in stems:
                raise ValueError(f"{stems[stem]!r} and {path!r} have the same name: keep one of them.")
            stems[stem] = path
    return stems
