"""What a folder holds: which of its files and folders are the training images, and which are to evaluate on."""

from pathlib import Path

from ..utils import listed
from .arguments import DataArguments
from .image_files import METADATA_NAMES, class_name, is_image, only_folder, visible
from .names import find_label_name, split_of
from .readers import Part, holds_rows, read_class_part, read_rows, read_saved, read_table_part
from .tables import is_table, path_column, plain_path, read_table


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

    others = [name for name in classes if set(splits.values()) == {"train"} and _holds_images(folder / name)]
    if len(others) > 1:
        raise ValueError(
            f"{str(folder)!r}: {[*splits][0]}/ holds folders, beside {listed([f'{name}/' for name in others])}: if it "
            "is a class of its own, put its images into it directly; if it is the training split, move the rest away."
        )

    parts = _row_files(folder, files, {*splits.values()}, len(classes) > 1, args, said)
    metadata = [name for name in files if name in METADATA_NAMES][:1]
    for name in metadata:
        parts += read_table_part(folder / name, folder, "train", args, said)
    listed_splits = {part.split for part in parts}
    for name, split in splits.items():
        if not metadata or split not in listed_splits:
            parts += _split_folder(folder / name, split, args, said)
    if not any(part.split == "train" for part in parts):
        return [*parts, *_training_images(folder, files, classes, parts, args, said)], said
    unused = [name for name in files if is_table(name) and name not in metadata]
    unused += [f"{name}/" for name in classes if not metadata]
    said += [f"not used: {listed(unused)}"] if unused else []
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


def _row_files(
    folder: Path, files: list[str], splits: set[str], class_folders: bool, args: DataArguments, said: list[str]
) -> list[Part]:
    """
    Parquet files and shards by the splits that they are named for; of other names, they are training images, unless
    there are others.
    """
    by_split: dict[str, list[str]] = {}
    for name in filter(holds_rows, files):
        by_split.setdefault(split_of(name, is_folder=False, wanted=args.eval_split) or "", []).append(name)
    others = by_split.pop("", [])
    if others and "train" not in splits | set(by_split) and (by_split or not class_folders):
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
    are_classes = len(classes) > 1 and not all(split_of(name, is_folder=True) for name in classes)
    tables: dict[str, list[tuple[str, str]]] = {}
    for name in filter(is_table, files):
        try:
            rows = _files_and_labels(folder / name, args)
        except ValueError:
            if not are_classes:
                raise
        else:
            tables |= {name: rows} if rows else {}
    if tables and not are_classes:
        splits = {name: split_of(name, is_folder=False) or "train" for name in tables}
        if len(tables) > len(set(splits.values())):
            raise ValueError(f"{listed([*tables])} list images: name the one to train on with --train_list.")
        parts = []
        for name, split in splits.items():
            roots = [folder, *(folder / inner for inner in classes)]
            root = next((root for root in roots if (root / tables[name][0][0]).exists()), folder)
            parts += read_table_part(folder / name, root, split, args, said)
        return parts
    for name, rows in tables.items():
        _check_same_labels(folder, name, rows)
    if parts and classes:
        raise ValueError(
            f"{str(folder)!r} holds {listed([part.name for part in parts])} to evaluate on beside "
            f"{listed([f'{name}/' for name in classes])}, but no train/: move the folders of training classes into it."
        )
    if parts:
        return []
    if len(classes) == 1 and not split_of(classes[0], is_folder=True):
        inner_files, inner = visible(folder / classes[0])
        if len(inner) > 1 and not any(map(is_image, inner_files)):
            raise ValueError(
                f"{str(folder)!r} holds {listed([name for name in files if is_image(name)], 3)} beside one folder, "
                f"{classes[0]}/, with folders in it: if these are the classes, give {str(folder / classes[0])!r}."
            )
    if are_classes or len(classes) == 1 and not split_of(classes[0], is_folder=True):
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


def _files_and_labels(table: Path, args: DataArguments) -> list[tuple[str, str]]:
    """The image files and the labels that a table lists; empty if it does not list both."""
    columns = read_table(table)
    paths = path_column([*columns], args.image_column)
    labels = find_label_name([name for name in columns if name != paths], args.label_column, args.find_labels)
    if paths is None or labels is None:
        return []
    return [
        (plain_path(path), str(label)) for path, label in zip(columns[paths], columns[labels], strict=True) if path
    ]


def _check_same_labels(folder: Path, table: str, rows: list[tuple[str, str]]) -> None:
    """
    Raises:
        `ValueError`: if a table beside class folders gives an image another class than its folder.
    """
    for path, label in rows:
        inside = path.split("/")[0]
        if class_name(inside) != class_name(label) and (folder / path).exists():
            raise ValueError(
                f"{table} says that {path} is of class {label!r}, its folder says {inside!r}: call the table "
                f"metadata.csv (or give --train_list {table}) if it is right, remove it if the folders are."
            )


def _holds_images(folder: Path) -> bool:
    files, folders = visible(folder)
    return any(map(is_image, files)) or any(_holds_images(folder / name) for name in folders)
