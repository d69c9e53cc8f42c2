"""Where images come from: the Hub, a folder, or lists of image files; and which of them are for what."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Image, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetGenerationError

from ..utils import listed
from .arguments import PRESETS, DataArguments
from .columns import as_images, encode_labels, find_label_column, is_labelled
from .image_files import read_image_list, read_tiny_imagenet
from .layouts import read_folder
from .long_tail import check_rows_are_known, class_counts
from .names import split_of
from .readers import Part, from_splits, read_table_part
from .tables import is_table


@dataclass
class Source:
    """
    The images that a user named; nothing is decoded.

    Attributes:
        splits (`datasets.DatasetDict`): `"train"`, where there is one the split to evaluate on, and beside `"test"`
            perhaps `"validation"`; with a column of type `Image` and one of class ids that mean the same in all.
        parts (`dict[str, Part]`): The files of each split.
        said (`list[str]`): Which files are used for what, and what is left out, in plain sentences.
        image_column (`str`): The column of images.
        rows (`dict[str, np.ndarray]`): The rows that are left of a split, where some were left out.
    """

    splits: DatasetDict
    parts: dict[str, Part]
    said: list[str]
    image_column: str
    rows: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def eval_split(self) -> str | None:
        """The name of the split to evaluate on."""
        return next((name for name in self.splits if name != "train" or "train" not in self.splits), None)

    def places(self, split: str, rows: Iterable[int]) -> list[str]:
        """Where images are: their paths, or their rows, counted from 0, in the files that hold several."""
        files = self.splits[split].select_columns([self.image_column]).with_format(None)
        files = files.cast_column(self.image_column, Image(decode=False))
        found = []
        for row in map(int, rows):
            file = files[row][self.image_column] or {"path": None, "bytes": None}
            if file["path"] and file["bytes"] is None:
                found.append(file["path"])
                continue
            hint = f" ({file['path']})" if file["path"] else ""
            found.append(self._row(split, row) + hint)
        return found

    def _row(self, split: str, row: int) -> str:
        row = int(self.rows[split][row]) if split in self.rows else row
        for name, rows in self.parts[split].files:
            if row < rows:
                return f"row {row} of {name}"
            row -= rows
        return f"row {row} of {self.parts[split].name}"


def load_splits(args: DataArguments) -> DatasetDict:
    """
    The training split and the split to evaluate on that `args` names; nothing is decoded.

    Raises:
        `ValueError`: if `data_dir` is not a folder, or holds no images in a layout that is known.
        `FileNotFoundError`: if an image of a list does not exist.
    """
    return find_source(args).splits


def find_source(args: DataArguments, splits: DatasetDict | None = None) -> Source:
    """
    The images that `args` names, with what has to be said of them.

    Args:
        args ([`DataArguments`]): Which images, and their columns.
        splits (`datasets.DatasetDict`, *optional*): The splits that `args` names, where they are loaded already.

    Raises:
        `ValueError`: if `data_dir` is not a folder or holds no images in a layout that is known, the split to evaluate
            on or a column is missing, or labels cannot be told into the same classes.
        `FileNotFoundError`: if an image of a list does not exist.
    """
    check_rows_are_known(splits)
    parts, said = _read(args) if splits is None else (from_splits(splits, args.eval_split), [])
    parts.sort(key=lambda part: part.split != "train")
    train = _only_training_part(parts)
    if train is None:
        return Source(DatasetDict({part.split: part.datasets[0] for part in parts if part.datasets}), {}, said, "")
    train_data, image_column = _training_data(args, train, said)
    found = [(train, train_data), *_evaluation_parts(args, parts, image_column, said)]
    evaluated = args.eval_split or found[-1][0].split  # whatever its files are called
    names = ["train", evaluated] if len(found) < 3 else ["train", "test", "validation"]
    names = names[: len(found)]
    pieces = [(name, dataset) for name, (_, datasets) in zip(names, found, strict=True) for dataset in datasets]
    encoded, more = encode_labels(pieces, args.label_column)
    said += more

    source = Source(DatasetDict(), {}, said, image_column)
    kept = {image_column, args.label_column, args.group_column}
    for name, (part, raw) in zip(names, found, strict=True):
        datasets = [encoded.pop(0) for _ in raw]
        if len(datasets) > 1:  # their other columns may differ
            datasets = [d.select_columns([c for c in d.column_names if c in kept]) for d in datasets]
        source.splits[name] = concatenate_datasets(datasets) if len(datasets) > 1 else datasets[0]
        source.parts[name] = part
    return source


def _read(args: DataArguments) -> tuple[list[Part], list[str]]:
    if args.dataset_name is not None:
        try:
            splits = load_dataset(args.dataset_name, args.dataset_config_name)
        except DatasetGenerationError as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise ValueError(f"The dataset {args.dataset_name!r} cannot be read: {reason}") from error
        return from_splits(splits, args.eval_split), []
    folder = Path(args.data_dir or "").expanduser()
    if not folder.is_dir():
        raise ValueError(f"data_dir {str(folder)!r} is not a folder.")
    folder = folder.absolute()  # so that images are found from another working directory, too
    if args.train_list is not None:
        return _read_lists(folder, args)
    if (folder / "val" / "val_annotations.txt").is_file() and (folder / "train").is_dir():
        splits = read_tiny_imagenet(folder)
        if args.label_column != "label":
            splits = splits.rename_column("label", args.label_column)
        return [Part("train", "train/", [splits["train"]]), Part("validation", "val/", [splits["validation"]])], []
    return read_folder(folder, args)


def _read_lists(folder: Path, args: DataArguments) -> tuple[list[Part], list[str]]:
    """The splits of `--train_list` and `--test_list`."""
    said: list[str] = []
    lists = {"train": args.train_list, args.eval_split or PRESETS[args.benchmark].eval_splits[0]: args.test_list}
    parts: list[Part] = []
    for split, file in lists.items():
        if file is None:
            continue
        if is_table(file):
            parts += read_table_part(Path(file).expanduser(), folder, split, args, said)
            continue
        num_classes = None if split == "train" else len(class_counts(parts[0].datasets[0], args.label_column))
        dataset = read_image_list(file, folder, num_classes=num_classes)
        if args.label_column != "label":
            dataset = dataset.rename_column("label", args.label_column)
        parts.append(Part(split, Path(file).name, [dataset]))
    return parts, said


def _only_training_part(parts: list[Part]) -> Part | None:
    """
    Raises:
        `ValueError`: if several could be meant.
    """
    train = [part for part in parts if part.split == "train"]
    if len(train) > 1:
        raise ValueError(
            f"{' and '.join(part.name for part in train)} are both called as training images: leave one of them there."
        )
    return train[0] if train else None


def _training_data(args: DataArguments, train: Part, said: list[str]) -> tuple[list[Dataset], str]:
    """
    The training images, with labels, and their column.

    Raises:
        `ValueError`: if they have no labels.
    """
    read = [_columns(dataset, args, train, said) for dataset in train.datasets]
    if not read:
        raise ValueError(
            f"{train.name} holds images without classes: put them into one folder per class, or add a metadata.csv "
            "with the columns file_name and label."
        )
    datasets, image_column = [dataset for dataset, _ in read], read[0][1]
    if not all(is_labelled(dataset, args.label_column) for dataset in datasets):
        raise ValueError(
            f"{train.name} has no labels: it has no column {args.label_column!r}, or nothing in it; its columns are "
            f"{datasets[0].column_names}. Name the one with the class ids or names with --label_column."
        )
    said.append(f"{train.name}: {sum(map(len, datasets)):,} images for training")
    return datasets, image_column


def _evaluation_parts(
    args: DataArguments, parts: list[Part], image_column: str, said: list[str]
) -> list[tuple[Part, list[Dataset]]]:
    """
    The first part with labels in the order of the benchmark's `eval_splits`, or that of `--eval_split`; and beside a
    test split the validation split, to choose checkpoints on.

    Raises:
        `ValueError`: if the one that the user named is missing or has no labels.
    """
    wanted = (args.eval_split,) if args.eval_split else PRESETS[args.benchmark].eval_splits
    names = dict.fromkeys(name for split in wanted for name in (split, split_of(split, is_folder=True)) if name)
    candidates = [part for name in names for part in parts if part.split == name]
    if args.eval_split and not candidates:
        raise ValueError(
            f"There is no {args.eval_split!r} split: the data has {listed([part.name for part in parts])}. "
            "Name another one with --eval_split."
        )
    chosen: list[tuple[Part, list[Dataset]]] = []
    for part in candidates:
        if chosen and (chosen[0][0].split, part.split, len(chosen)) != ("test", "validation", 1):
            said.append(f"{part.name}: not used, since {chosen[0][0].name} is there")
            continue
        read = [_columns(dataset, args, part, [], image_column) for dataset in part.datasets]
        if read and all(is_labelled(dataset, args.label_column) for dataset, _ in read):
            datasets = [dataset for dataset, _ in read]
            use = "choose checkpoints on" if chosen else "evaluate on"
            said.append(f"{part.name}: {sum(map(len, datasets)):,} images to {use}")
            chosen.append((part, datasets))
        elif args.eval_split:
            raise ValueError(f"{part.name} cannot be evaluated on (--eval_split {args.eval_split}): it has no labels.")
        else:
            said.append(f"{part.name}: not used, since it has no labels")
    others = [part.name for part in parts if part.split != "train" and part not in candidates]
    said += [f"{name}: not used" for name in others]
    return chosen


def _columns(
    dataset: Dataset, args: DataArguments, part: Part, said: list[str], image_column: str | None = None
) -> tuple[Dataset, str]:
    """With images of type `Image` and labels in `args.label_column`, if it has any; and the column of images."""
    dataset, found = as_images(dataset, args.image_column, part.root)
    images = [name for name, feature in dataset.features.items() if isinstance(feature, Image)]
    if len(images) > 1:
        said.append(f"{part.name}: the images are those of the column {found!r}, of {listed(images)} (--image_column)")
    if image_column is not None and found != image_column:
        dataset, found = dataset.rename_column(found, image_column), image_column
    labels = find_label_column(dataset, args.label_column, args.find_labels)
    if labels is not None and labels != args.label_column:
        said.append(f"{part.name}: the labels are those of the column {labels!r} (--label_column)")
        dataset = dataset.rename_column(labels, args.label_column)
    return dataset, found
