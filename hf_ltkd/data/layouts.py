"""What a folder holds: which of its files and folders are the training images, and which are to evaluate on."""

from pathlib import Path

from ..utils import listed
from .arguments import DataArguments
from .image_files import METADATA_NAMES, class_name, is_image, only_folder, visible
from .names import find_label_name, split_of
from .readers import Part, holds_rows, read_class_part, read_rows, read_saved, read_table_part
from .tables import is_table, path_column, read_table


def read_folder(folder: Path, args: DataArguments) -> tuple[list[Part], list[str]]:
    """
    Everything in a folder that is a split of images; nothing is decoded.

    Args:
        folder (`Path`): Holds splits by the names of its files and folders, or training images alone. Each split is
            one of: parquet files, WebDataset shards (`.tar`), a table of image files, one folder per class.
        args ([`DataArguments`]): The names of columns, and of one more split to evaluate on.

    Returns:
        `tuple`: the parts, and what has to be said of them and of what was not read.

    Raises:
        `ValueError`: if no image can be told to be of a class.
        `FileNotFoundError`: if an image of a table does not exist.
    """
    said: list[str] = []
    folder = _go_in(folder, said)
    files, folders = visible(folder)
    if {"dataset_dict.json", "state.json"} & set(files):
        return read_saved(folder), said
    wanted = args.eval_split
    named = {name: split_of(name, is_folder=True, wanted=wanted) for name in folders}
    splits = {name: split for name, split in named.items() if split and _is_split(folder / name)}
    classes = [name for name in folders if name not in splits]

    parts = _row_files(folder, files, args, alone=not folders, said=said)
    metadata = [name for name in files if name in METADATA_NAMES][:1]
    for name in metadata:
        parts += read_table_part(folder / name, folder, "train", args, said)
    listed_splits = {part.split for part in parts}
    for name, split in splits.items():
        if not metadata or split not in listed_splits:
            parts += _split_folder(folder / name, split, args, said)
    if not any(part.split == "train" for part in parts):
        return [*parts, *_training_images(folder, files, classes, parts, args, said)], said
    if classes and not metadata:
        said.append(f"not used: {listed([f'{name}/' for name in classes])}")
    return parts, said


def _go_in(folder: Path, said: list[str]) -> Path:
    """The folder itself or, where it holds no more than another one around the images, that one."""
    while True:
        files, folders = visible(folder)
        if any(holds_rows(name) or name in METADATA_NAMES for name in files):
            return folder
        inner = only_folder(folder)
        if inner is None and "data" in folders and any(map(holds_rows, visible(folder / "data")[0])):
            inner = "data"  # in a clone from the Hub
        if inner is None or split_of(inner, is_folder=True):
            return folder
        said.append(f"{folder.name}/ holds its images one folder further in: {inner}/ is read")
        folder = folder / inner


def _is_split(folder: Path) -> bool:
    """A folder with images alone is a class, even if it is called train."""
    files, folders = visible(folder)
    return bool(folders) or any(holds_rows(name) or is_table(name) for name in files)


def _row_files(folder: Path, files: list[str], args: DataArguments, *, alone: bool, said: list[str]) -> list[Part]:
    """Parquet files and shards by the splits that they are named for; of other names, they are training images."""
    by_split: dict[str, list[str]] = {}
    for name in filter(holds_rows, files):
        by_split.setdefault(split_of(name, is_folder=False, wanted=args.eval_split) or "", []).append(name)
    others = by_split.pop("", [])
    if others and "train" not in by_split and (alone or by_split):
        by_split["train"] = others
    elif others:
        said.append(f"not used: {listed(others)}")
    return [read_rows(folder, names, split, args) for split, names in by_split.items()]


def _split_folder(folder: Path, split: str, args: DataArguments, said: list[str]) -> list[Part]:
    """The images of a folder that is called as a split."""
    name = f"{folder.name}/"
    while (inner := only_folder(folder)) is not None:
        said.append(f"{name} holds its images one folder further in: {inner}/ is read")
        folder = folder / inner
    files, folders = visible(folder)
    tables = [name for name in files if name in METADATA_NAMES] or [name for name in files if is_table(name)]
    if tables and (tables[0] in METADATA_NAMES or not folders):
        return read_table_part(folder / tables[0], folder, split, args, said, name)
    rows = [*filter(holds_rows, files)]
    if rows:
        return [read_rows(folder, rows, split, args, name)]
    return [read_class_part(folder, split, args, said, name) if folders else Part(split, name)]


def _training_images(
    folder: Path, files: list[str], classes: list[str], parts: list[Part], args: DataArguments, said: list[str]
) -> list[Part]:
    """Where no file and no folder is called train: those of a table, or the class folders themselves."""
    plausible = len(classes) > 1 and not all(split_of(name, is_folder=True) for name in classes)
    tables = {name: split_of(name, is_folder=False) for name in files if is_table(name)}
    tables = {name: split for name, split in tables.items() if _names_classes(folder / name, args)}
    if tables and plausible:
        _check_same_labels(folder, [*tables], args)
    elif tables:
        if len(tables) > 1:
            tables = {name: split for name, split in tables.items() if split}
        return [
            part
            for name, split in tables.items()
            for part in read_table_part(folder / name, _root(folder / name), split or "train", args, said)
        ]
    if parts and classes:
        raise ValueError(
            f"{str(folder)!r} holds {listed([part.name for part in parts])} to evaluate on beside "
            f"{listed([f'{name}/' for name in classes])}, but no train/: move the folders of training classes into it."
        )
    if parts:
        return []
    if plausible or len(classes) == 1 and not split_of(classes[0], is_folder=True):
        return [read_class_part(folder, "train", args, said, f"{folder.name}/")]
    flat = [f"{name}/" for name in classes] or [f"{folder.name}/"] * any(map(is_image, files))
    if flat:
        raise ValueError(
            f"{str(folder)!r} holds no images that can be told into classes: {' and '.join(flat)} "
            f"{'hold' if len(flat) > 1 else 'holds'} images alone. Expected one folder per class, directly or in "
            "train/ and test/, or a metadata.csv beside the images with the columns file_name and label."
        )
    raise ValueError(
        f"data_dir {str(folder)!r} holds neither train*.parquet nor a folder train/ with one folder per class, nor "
        f"class folders of images: {f'only {listed(files)}' if files else 'it is empty'}."
    )


def _names_classes(table: Path, args: DataArguments) -> bool:
    """Whether a table has both image files and labels."""
    columns = [*read_table(table)]
    found = path_column(columns, args.image_column), find_label_name(columns, args.label_column)
    return None not in found and found[0] != found[1]


def _root(table: Path) -> Path:
    """The folder that a table's paths start from: its own, or the one in it where the first image is."""
    columns = read_table(table)
    first = str(columns[path_column([*columns]) or ""][0]) if columns else ""
    roots = [table.parent, *(table.parent / name for name in visible(table.parent)[1])]
    return next((root for root in roots if (root / first).exists()), table.parent)


def _check_same_labels(folder: Path, tables: list[str], args: DataArguments) -> None:
    """
    Raises:
        `ValueError`: if a table beside class folders gives an image another class than its folder.
    """
    for name in tables:
        columns = read_table(folder / name)
        paths, labels = (
            columns[find or ""]
            for find in (
                path_column([*columns], args.image_column),
                find_label_name([*columns], args.label_column),
            )
        )
        for path, label in zip(paths, labels, strict=True):
            inside = str(path).replace("\\", "/").removeprefix("./").split("/")[0]
            if (folder / str(path)).exists() and class_name(inside) != class_name(str(label)):
                raise ValueError(
                    f"{name} says that {path} is of class {label!r}, its folder says {inside!r}: call the table "
                    f"metadata.csv (or give --train_list {name}) if it is right, remove it if the folders are."
                )
