"""Images and their masks: of parquet files, of folders by the names of the files, of the Hub; nothing is decoded."""

import os
from pathlib import Path

import pyarrow as pa
from datasets import DatasetDict, Image, load_dataset
from datasets.exceptions import DatasetGenerationError

from ..utils import listed, one_line
from .image_files import file_dataset, files_below, is_image, visible
from .names import split_of


IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")
MASK_FOLDERS = ("masks", "mask", "annotations", "annotation", "labels", "label", "segmentationclass")


def read_masks(data: str | os.PathLike) -> DatasetDict:
    """
    The splits of a dataset with a column of images and one of masks.

    Args:
        data (`str` or `os.PathLike`): A folder of parquet files (`train.parquet`, `test-00000-of-00002.parquet`, also
            in `data/` or in a folder for each split), one as [`read_mask_folder`] takes it, or a dataset's Hub id.

    Returns:
        `datasets.DatasetDict`: `"train"`, and `"validation"` and `"test"` where there are any, whatever they are
        called there; splits of other names keep theirs.

    Raises:
        `ValueError`: if it cannot be loaded or has no training split; as [`read_mask_folder`] for such a folder.
    """
    folder = Path(data).expanduser()
    if folder.is_dir() and not any(path.endswith(".parquet") for path in files_below(str(folder))):
        return read_mask_folder(folder)
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


def read_mask_folder(folder: str | os.PathLike) -> DatasetDict:
    """
    Pairs each image with the mask of the same name (`images/a/1.jpg`, `masks/a/1.png`).

    The layout is `images/` and `masks/` (or `annotations/`, `labels/`), each with the splits in it or without, or
    these two in the folder of each split; splits are called as everywhere in this room (`train`, `val`, `test`, ...).

    Args:
        folder (`str` or `os.PathLike`): The folder.

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
    pair = find_pair(folder)
    if pair is not None:
        images, masks = (_splits(path) for path in pair)
        if "train" in images and "train" in masks:
            pairs = {split: (images[split], masks[split]) for split in images if split in masks}
        else:
            pairs = {"train": pair}
    else:
        found = {split: find_pair(path) for split, path in _splits(folder).items()}
        pairs = {split: pair for split, pair in found.items() if pair is not None}
    if "train" not in pairs:
        raise ValueError(
            f"{str(folder)!r} holds {listed([f'{name}/' for name in visible(folder)[1]]) or 'no folder'}, and no "
            "training images with masks: expected images/ and masks/ (or annotations/), with the splits train/, "
            "validation/ and test/ in them or around them."
        )
    return DatasetDict({split: _dataset(*pair) for split, pair in pairs.items()})


def find_pair(folder: Path) -> tuple[Path, Path] | None:
    """The folders of images and of masks in a folder."""
    names = {name.lower(): name for name in reversed(visible(folder)[1])}
    found = [next((names[name] for name in usual if name in names), None) for usual in (IMAGE_FOLDERS, MASK_FOLDERS)]
    return (folder / found[0], folder / found[1]) if found[0] and found[1] else None


def _splits(folder: Path) -> dict[str, Path]:
    named = {split_of(name, is_folder=True): folder / name for name in reversed(visible(folder)[1])}
    return {split: path for split, path in named.items() if split is not None}


def _dataset(images: Path, masks: Path):
    paths, mask_paths = (_by_stem(folder) for folder in (images, masks))
    for what, other, those, lacking in (("image", "mask", paths, mask_paths), ("mask", "image", mask_paths, paths)):
        alone = [path for stem, path in those.items() if stem not in lacking]
        if alone:
            raise ValueError(
                f"{len(alone)} of the {len(those)} {what}s in {str(images if what == 'image' else masks)!r} have no "
                f"{other} of the same name ({listed([Path(path).name for path in alone])}): add them, or take the "
                f"{what}s out."
            )
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
