"""Tables of image files and labels: CSV, TSV, JSON lines, and `metadata.csv` as the image folders of `datasets`."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from ..utils import listed
from .arguments import TABLE_SUFFIXES
from .image_files import METADATA_NAMES, class_name, is_image, list_dataset, visible
from .names import PATH_NAMES, SPLIT_NAMES, find_label_name, split_of


def is_table(path: str | os.PathLike) -> bool:
    """Whether a file is a table by its name; `metadata.parquet` is one, too."""
    return str(path).lower().endswith((*TABLE_SUFFIXES, "metadata.parquet"))


def read_table(path: str | os.PathLike) -> dict[str, list]:
    """
    The columns of a table. Cells of CSV files stay text, so that a class may be called NA or 007; empty ones are None.

    Raises:
        `ValueError`: if it is empty, not UTF-8, has a row of another length or a line that is no JSON.
        `FileNotFoundError`: if it does not exist.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() == ".parquet":
        return pq.read_table(path).to_pydict()
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a mark first
    except UnicodeDecodeError as error:
        raise ValueError(f"The table {str(path)!r} is not in UTF-8 ({error}): save it as UTF-8.") from error
    if not text.strip():
        raise ValueError(f"The table {str(path)!r} is empty: it needs a line of column names and one line per image.")
    if path.suffix.lower() == ".jsonl":
        return _json_columns(path, text.split("\n"))
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=text.strip().split("\n")[0].count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(map(str.strip, row))]
    except csv.Error as error:
        raise ValueError(f"The table {str(path)!r} cannot be read: {error}.") from error
    header = [cell.strip() for cell in rows[0]]
    if any(map(is_image, header)):  # no line of names
        if len(header) != 2:
            raise ValueError(
                f"The first line of {str(path)!r} holds an image, not the names of its {len(header)} columns: add a "
                "line such as file_name,label."
            )
        header = ["file_name", "label"] if is_image(header[0]) else ["label", "file_name"]
    else:
        del rows[0]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ValueError(
                f"Row {number} of {str(path)!r} has {len(row)} cells, its columns are {header}: quote cells that hold "
                f"a {separator!r}."
            )
    return {name: [row[i].strip() or None for row in rows] for i, name in enumerate(header)}


def _json_columns(path: Path, lines: Sequence[str]) -> dict[str, list]:
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.strip() else {}
        except json.JSONDecodeError as error:
            raise ValueError(f"Line {number} of {str(path)!r} is no JSON: {error}.") from error
        if not isinstance(row, dict):
            raise ValueError(f'Line {number} of {str(path)!r} is no JSON object, such as {{"file_name": ...}}.')
        rows += [row] * bool(row)
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}


def path_column(columns: Sequence[str], wanted: str | None = None) -> str | None:
    """The column of image paths: the one that is wanted, or the first that is called so."""
    if wanted in columns:
        return wanted
    return next((name for known in PATH_NAMES for name in columns if name.lower() == known), None)


def table_splits(
    file: str | os.PathLike,
    root: str | os.PathLike,
    *,
    label_column: str = "label",
    find_labels: bool = True,
    image_column: str | None = None,
) -> tuple[dict[str, Dataset], list[str]]:
    """
    The images that a table lists, by split: one, called `""`, unless it has a column `split` or all of its paths begin
    with the folder of a split.

    Args:
        file (`str` or `os.PathLike`): The table. Its image paths are in a column `file_name`, `path` or such.
        root (`str` or `os.PathLike`): The folder that the paths start from.
        label_column (`str`, *optional*, defaults to `"label"`):
            The column of labels.
        find_labels (`bool`, *optional*, defaults to `True`):
            Whether one of another usual name will do, and where there is none, the images' folders are the classes.
        image_column (`str`, *optional*): The column of paths, under another name.

    Returns:
        `tuple`: the datasets, each with the columns `image`, `label_column` if there are labels, and all others; and
        what has to be said of them.

    Raises:
        `ValueError`: if the table cannot be read or has no column of paths.
        `FileNotFoundError`: if an image does not exist.
    """
    name, columns, said = Path(file).name, read_table(file), []
    paths_in = path_column([*columns], image_column)
    if paths_in is None:
        raise ValueError(
            f"{str(file)!r} has the columns {[*columns]}, none of image files: call the one with the paths file_name, "
            "or name it with --image_column."
        )
    paths = columns.pop(paths_in)
    columns.pop("image", None)  # the images themselves will be called so
    empty = [row for row, path in enumerate(paths, start=1) if not path]
    if empty:
        raise ValueError(f"{len(empty)} rows of {str(file)!r} name no image (row {listed(empty)}): remove them.")
    paths = [plain_path(path) for path in paths]
    labels_in = find_label_name([*columns], label_column, find_labels)
    folders = [path.split("/") for path in paths]
    splits = _split_names(str(file), columns, folders)
    inner = [
        parts[1:] if split and split_of(parts[0], is_folder=True) else parts
        for split, parts in zip(splits, folders, strict=True)
    ]
    if labels_in is not None:
        columns = {label_column if column == labels_in else column: values for column, values in columns.items()}
        if labels_in != label_column:
            said.append(f"{name}: the labels are those of its column {labels_in!r} (--label_column)")
    elif find_labels and all(len(parts) > 1 for parts in inner):
        columns[label_column] = [class_name(parts[0]) for parts in inner]
        said.append(f"{name} has no column {label_column!r}: the folders of the images are the classes")

    if name in METADATA_NAMES and (unlisted := _unlisted(Path(root), set(paths))):
        said.append(f"{name}: not used are {len(unlisted):,} images that it does not list: {listed(unlisted, 3)}")
    whole = list_dataset(paths, root, str(file), {column: _arrow(values) for column, values in columns.items()})
    return {
        split: whole.select([row for row, other in enumerate(splits) if other == split]) if split else whole
        for split in dict.fromkeys(splits)
    }, said


def _unlisted(root: Path, paths: set[str]) -> list[str]:
    """The images in a folder that are not among `paths`; other splits' folders are left out."""
    first, found, folders = {path.split("/")[0] for path in paths}, [], [""]
    while folders:
        inside = folders.pop()
        files, inner = visible(root / inside)
        found += [path for path in (inside + name for name in files if is_image(name)) if path not in paths]
        folders += [
            f"{inside}{name}/" for name in inner if inside or name in first or not split_of(name, is_folder=True)
        ]
    return sorted(found)


def _split_names(file: str, columns: dict[str, list], folders: list[list[str]]) -> list[str]:
    """The split of each image: by a column `split`, else by its first folder, else `""`."""
    column = next((name for name in columns if name.lower() in SPLIT_NAMES), None)
    named = [str(value) for value in columns[column]] if column else [parts[0] for parts in folders if len(parts) > 1]
    splits = {name: split_of(name, is_folder=True) for name in set(named)}
    unknown = [name for name, split in splits.items() if split is None]
    if column and unknown and len(unknown) < len(splits):
        raise ValueError(
            f"The column {column!r} of {file!r} holds {listed(sorted(unknown))} beside the names of splits: use "
            "train, validation and test, and remove other rows."
        )
    return [""] * len(folders) if unknown or len(named) < len(folders) else [splits[name] or "" for name in named]


def plain_path(path: str) -> str:
    """A path with forward slashes (tables come from Windows, too) and without `./`."""
    return os.path.normpath(str(path).replace("\\", "/"))


def _arrow(values: list) -> pa.Array:
    """A column; text where its values are of several types."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])
