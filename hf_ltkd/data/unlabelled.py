"""Images without a class, for distillation alone."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, Image

from ..utils import listed
from .arguments import DataArguments
from .check import look_at, shared_rows
from .columns import as_images
from .image_files import file_dataset, files_below, is_image


def read_unlabelled(
    source: str | os.PathLike | Dataset,
    args: DataArguments,
    *,
    train: Dataset,
    image_column: str,
    eval_digests: np.ndarray | None = None,
    progress: bool = True,
) -> tuple[Dataset, list[str]]:
    """
    Reads images whose class nobody knows; nothing is decoded unless `args.check_images` says so.

    Args:
        source (`str`, `os.PathLike` or `datasets.Dataset`):
            A folder, whose images are taken from all folders inside it, too; or a dataset with a column of images.
        args ([`DataArguments`]): Its `check_images` and `skip_damaged`.
        train (`datasets.Dataset`): The training images with a class.
        image_column (`str`): Their column of images.
        eval_digests (`np.ndarray`, *optional*): Digests of the images to evaluate on.
        progress (`bool`, *optional*, defaults to `True`): Whether looking at the images shows a bar.

    Returns:
        `tuple`: a dataset of the one column `image_column`, and what is to be said of it in plain sentences.

    Raises:
        `ValueError`: if there are no images, they are training images too, or one is damaged and `args.skip_damaged`
            is not set.
    """
    if isinstance(source, Dataset):
        dataset, column = as_images(source, image_column if image_column in source.column_names else None)
        dataset, name = dataset.select_columns([column]), "a dataset in memory"
    else:
        folder = Path(str(source)).expanduser()
        if not folder.is_dir():
            raise ValueError(f"--unlabelled {str(source)!r} is no folder here: give a folder of images.")
        _check_apart(folder, train, image_column)
        paths = [path for path in files_below(str(folder)) if is_image(path)]
        dataset, column, name = file_dataset(paths, {}), "image", str(source)
    dataset = dataset if column == image_column else dataset.rename_column(column, image_column)
    said = []
    if args.check_images and len(dataset):
        digests, wrong = look_at(dataset, image_column, progress=progress)
        places = [f"{_place(dataset, image_column, row)} ({reason})" for row, reason in wrong.items()]
        if wrong and not args.skip_damaged:
            raise ValueError(
                f"{len(wrong):,} of {len(dataset):,} images of --unlabelled cannot be decoded: {listed(places)}. "
                "Repair or remove them, or leave them out with --skip_damaged."
            )
        if wrong:
            said.append(f"unlabelled, left out, since they cannot be decoded: {listed(places, 20)}")
        shared = [] if eval_digests is None else shared_rows(digests, eval_digests)
        if shared:
            examples = [_place(dataset, image_column, row) for row, _ in shared[:4]]
            said.append(
                f"unlabelled, left out, since they are images to evaluate on, too, {len(shared):,} of them: "
                f"{listed(examples, 3)}"
            )
        left_out = {*wrong, *(row for row, _ in shared)}
        dataset = dataset.select([row for row in range(len(dataset)) if row not in left_out]) if left_out else dataset
    if len(dataset) == 0:
        raise ValueError(f"--unlabelled {name} holds no images: give a folder of images, or leave it out.")
    said.insert(0, f"{len(dataset):,} images without a class, distilled without cross-entropy: {name} (--unlabelled)")
    return dataset.cast_column(image_column, train.features[image_column]), said


def _check_apart(folder: Path, train: Dataset, image_column: str) -> None:
    for path in _paths(train, image_column):
        if path is not None and Path(path).resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"--unlabelled {str(folder)!r} holds training images, such as {path!r}: give a folder of others."
            )


def _paths(dataset: Dataset, column: str) -> Sequence[str | None]:
    files = dataset.select_columns([column]).with_format(None).cast_column(column, Image(decode=False))
    return [None if file is None or file["bytes"] is not None else file["path"] for file in files[:][column]]


def _place(dataset: Dataset, column: str, row: int) -> str:
    return _paths(dataset.select([row]), column)[0] or f"row {row}"
