"""Columns of images and of labels, whatever they hold, as `Image` and class ids."""

import os
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Array3D, ClassLabel, Dataset, Features, Image, LargeList, List, Value, concatenate_datasets

from ..utils import listed, one_line
from .image_files import class_name, is_image, list_dataset
from .names import find_label_name
from .tables import path_column


def as_images(dataset: Dataset, wanted: str | None, root: str | os.PathLike | None = None) -> tuple[Dataset, str]:
    """
    Finds the column of images and turns it into one of type `Image`: it may hold bytes, `{bytes, path}`, arrays, or
    paths from `root`.

    Args:
        dataset (`datasets.Dataset`): Any.
        wanted (`str`, *optional*): The column; found by its type, then by its name, if not given.
        root (`str` or `os.PathLike`, *optional*): The folder that paths start from.

    Returns:
        `tuple`: the dataset and the column's name.

    Raises:
        `ValueError`: if there is no such column, or it holds something else.
        `FileNotFoundError`: if an image of a path does not exist.
    """
    column = wanted or _image_column(dataset.features)
    if column is None or column not in dataset.column_names:
        none = f"no image column {column!r}" if column else "no column that is clearly of images"
        raise ValueError(
            f"The dataset has {none}: its columns are {dataset.column_names}. Name the one with the images with "
            "--image_column."
        )
    feature = dataset.features[column]
    if isinstance(feature, Image):
        return (dataset if feature.decode else dataset.cast_column(column, Image())), column
    if _is_text(feature) and root is not None:
        paths = dataset.select_columns([column]).with_format("arrow")[:][column].to_pylist()
        if all(path and is_image(path) for path in paths):
            images = list_dataset(paths, root, f"column {column}", {})
            images = images if column == "image" else images.rename_column("image", column)
            return concatenate_datasets([dataset.remove_columns(column), images], axis=1), column
    elif _may_be_images(feature):
        plain = isinstance(feature, Value) and feature.dtype not in ("binary", "large_binary")
        dataset = dataset.cast_column(column, Value("binary")) if plain else dataset
        try:
            return dataset.cast_column(column, Image()), column
        except TypeError as error:  # of a number that no image has
            raise ValueError(
                f"The column {column!r} holds {feature}, no images ({one_line(error)}): expected whole numbers from 0 "
                "to 255, [height, width, 3]."
            ) from error
    raise ValueError(
        f"The column {column!r} holds {feature}, no images: expected image files as bytes, {{bytes, path}}, paths "
        "from the folder of the file, or datasets.Image. Name another one with --image_column."
    )


def _image_column(features: Features) -> str | None:
    """By type, then by name."""
    typed = [name for name, feature in features.items() if isinstance(feature, Image)]
    maybe = [name for name, feature in features.items() if _may_be_images(feature)]
    named = path_column(maybe)
    if typed or named or len(maybe) == 1:
        return typed[0] if typed else named or maybe[0]
    return path_column([name for name, feature in features.items() if _is_text(feature)])


def _may_be_images(feature: Any) -> bool:
    if isinstance(feature, dict):
        return bool({"bytes", "path"} & set(feature))
    if isinstance(feature, List | LargeList):  # height x width x channels
        return isinstance(feature.feature, List | LargeList)
    return isinstance(feature, Array3D) or (isinstance(feature, Value) and "binary" in feature.dtype)


def _is_text(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view")


def find_label_column(dataset: Dataset, wanted: str, find: bool = True) -> str | None:
    """The column of labels: `wanted` or, to `find` one, the only one of another usual name or of classes."""
    found = find_label_name(dataset.column_names, wanted, find)
    if found is None and find:
        classes = [name for name, feature in dataset.features.items() if isinstance(feature, ClassLabel)]
        return classes[0] if len(classes) == 1 else None
    return found


def is_labelled(dataset: Dataset, column: str) -> bool:
    """Whether there are labels: not none, and not all -1, as in the test splits of competitions."""
    if column not in dataset.column_names or len(dataset) == 0:
        return False
    labels = dataset.select_columns([column]).with_format("arrow")[:][column]
    if labels.null_count == len(labels):
        return False
    return not pa.types.is_integer(labels.type) or set(labels.unique().to_pylist()) != {-1}


def encode_labels(parts: Sequence[tuple[str, Dataset]], column: str) -> tuple[list[Dataset], list[str]]:
    """
    Class ids that mean the same in every part: names are matched by name (in Unicode's NFC), whatever their ids were.

    The classes are those of the parts called `"train"`: of a `ClassLabel` in its order, of text sorted by name. Whole
    numbers from 0 are class ids; where they are counted from 1, they become the classes' names.

    Args:
        parts (`Sequence` of `(split, datasets.Dataset)`): The files that are read, `"train"` and others.
        column (`str`): The column of labels.

    Returns:
        `tuple`: the datasets, and what has to be said of them.

    Raises:
        `ValueError`: if labels are missing, no class ids or names, or not among the training images' classes.
    """
    read = [_labels(f"{split} split", dataset, column) for split, dataset in parts]
    train = [labels for (split, _), labels in zip(parts, read, strict=True) if split == "train"]
    said: list[str] = []
    names = _merge_names([names for _, names in train])
    if names is None and train:
        ids = np.unique(np.concatenate([ids for ids, _ in train]))
        if ids[0] >= 0 and len(ids) < ids[-1] + 1 - (ids[0] == 1):
            used = set(ids.tolist())
            gaps = list(islice((label for label in range(int(ids[-1])) if label not in used), 6))
            raise ValueError(
                f"The labels in column {column!r} run from {ids[0]} to {ids[-1]}, but no training image has the label "
                f"{listed(gaps)}: number the classes from 0 without a gap, or give their names instead."
            )
        if ids[0] == 1:
            names = [str(label) for label in ids.tolist()]
            said.append(f"labels are counted from 1: class 0 is called '1', class {len(ids) - 1} {names[-1]!r}")
    encoded = []
    for (split, dataset), (ids, own) in zip(parts, read, strict=True):
        feature, new = dataset.features[column], _translate(split, ids, own, names)
        if isinstance(feature, ClassLabel):
            unchanged = new is ids and feature.names == names
        else:
            unchanged = new is ids and names is None and "int" in feature.dtype
        if not unchanged:
            feature = Value("int64") if names is None else ClassLabel(names=names)
            dataset = dataset.remove_columns(column).add_column(column, new, feature=feature)
        encoded.append(dataset)
    return encoded, said


def _labels(what: str, dataset: Dataset, column: str) -> tuple[np.ndarray, list[str] | None]:
    """Integers, and the names that they stand for, if they have any; sorted, where they come from text."""
    if column not in dataset.column_names:
        raise ValueError(
            f"The dataset has no column {column!r}: its columns are {dataset.column_names}. "
            "Name the one with the class ids or names with --label_column."
        )
    if len(dataset) == 0:
        raise ValueError(f"The {what} has no rows.")
    feature = dataset.features[column]
    # The other columns are dropped first: reading the rows of a selection would copy their images, too.
    values = dataset.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    if _is_text(feature):
        values = pa.array([class_name(text) or None if text is not None else None for text in values.to_pylist()])
    if values.null_count:
        rows = np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False)).tolist()
        raise ValueError(
            f"{len(rows)} rows have no label in column {column!r} (row {listed(rows)} of the {what}, counted from 0): "
            "label them or remove them."
        )
    if isinstance(feature, ClassLabel):
        return np.array(values.to_numpy(zero_copy_only=False)), [class_name(name) for name in feature.names]
    if _is_text(feature):
        coded = values.dictionary_encode()
        words = coded.dictionary.to_pylist()
        if all(word.isdecimal() and str(int(word)) == word for word in words):  # not 007, a name
            return np.array([int(word) for word in words])[coded.indices.to_numpy()], None
        order = np.argsort(np.array(words, dtype=object), kind="stable")
        return np.argsort(order)[coded.indices.to_numpy()], [words[i] for i in order]
    if pa.types.is_boolean(values.type):
        return values.to_numpy(zero_copy_only=False).astype(np.int64), ["False", "True"]
    if pa.types.is_integer(values.type):
        return np.array(values.to_numpy()), None
    if pa.types.is_floating(values.type) and np.all(values.to_numpy() % 1 == 0):
        return values.to_numpy().astype(np.int64), None
    raise ValueError(
        f"The column {column!r} holds {feature}, neither class ids nor class names: name another one with "
        "--label_column."
    )


def _merge_names(lists: Sequence[list[str] | None]) -> list[str] | None:
    """The names of all parts, in the order of the first; sorted, if each list is."""
    known = [names for names in lists if names is not None]
    if not known:
        return None
    merged = list(dict.fromkeys(name for names in known for name in names))
    return sorted(merged) if all(names == sorted(names) for names in known) else merged


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name.isdecimal() for name in names)


def _translate(split: str, ids: np.ndarray, own: list[str] | None, names: list[str] | None) -> np.ndarray:
    """Class ids by `names` for ids by `own`; numbers without names are names themselves, if all names are numbers."""
    if own is None and names is not None and _are_numbers(names):
        numbers = {int(name): class_id for class_id, name in enumerate(names)}
        used = np.unique(ids).tolist()
        unknown = [label for label in used if label not in numbers]
        if unknown:
            raise ValueError(
                f"The {split} split has the labels {listed(unknown)}, which the training images lack: their classes "
                f"are {listed(names)}."
            )
        table = np.array([numbers[label] for label in used])
        new = table[np.searchsorted(used, ids)]
        return ids if np.array_equal(new, ids) else new
    if own is None or own == names:
        return ids
    if names is None:  # the training labels are numbers from 0
        if not _are_numbers(own):
            raise ValueError(
                f"The {split} split has class names ({listed(own)}), the training images have numbers, which cannot "
                "be matched: use names in both."
            )
        names_of_numbers = {name: int(name) for name in own}
        return np.array([names_of_numbers[name] for name in own])[ids]
    class_ids = {name: class_id for class_id, name in enumerate(names)}
    used = sorted({own[i] for i in np.unique(ids).tolist() if 0 <= i < len(own)})
    unknown = [name for name in used if name not in class_ids]
    if unknown:
        similar = [name for name in names if name.casefold() in {other.casefold() for other in unknown}]
        hint = f" ({listed(similar)} differs by case)" if similar else ""
        raise ValueError(
            f"The {split} split has classes that the training images lack ({listed(unknown)}){hint}: remove them, "
            "or add training images."
        )
    table = np.array([class_ids.get(name, -1) for name in own] + [-1])  # -1, as before, is no class
    return table[np.where((ids >= 0) & (ids < len(own)), ids, len(own))]
