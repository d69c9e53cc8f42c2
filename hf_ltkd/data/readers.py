"""Reads the images of one split: class folders, parquet files, WebDataset shards, tables, saved datasets."""

import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, concatenate_datasets, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from ..utils import listed
from .arguments import DataArguments
from .image_files import describe_unread, list_class_folders, visible
from .mask_files import find_pair
from .names import split_of
from .tables import is_table, table_splits


@dataclass
class Part:
    """
    Images that belong to one split.

    Attributes:
        split (`str`): `"train"`, `"validation"`, `"test"`, or what the user or the Hub calls it.
        name (`str`): Their files, to be told to the user.
        datasets (`list[datasets.Dataset]`): What was read; several, where files have columns of other types. Empty
            where there are no labels.
        files (`list` of `(str, int)`): The files that hold several images, and how many each.
        root (`Path`, *optional*): Where paths in a column start from.
    """

    split: str
    name: str
    datasets: list[Dataset] = field(default_factory=list)
    files: list[tuple[str, int]] = field(default_factory=list)
    root: Path | None = None


def holds_rows(name: str) -> bool:
    """Whether a file holds many images."""
    return name.lower().endswith((".parquet", ".tar")) and not is_table(name)


def read_class_part(folder: Path, split: str, args: DataArguments, said: list[str], name: str) -> Part:
    """
    One folder per class. To evaluate on, one may be empty.

    Raises:
        `ValueError`: if a class has no training image, the classes hold folders called as splits, or they are images
            and masks.
    """
    found = list_class_folders(folder, None if split == "train" else sorted(visible(folder)[1]))
    if len(found.names) == 2 and (pair := find_pair(folder)):
        raise ValueError(
            f"{str(folder)!r} holds {pair[0].name}/ and {pair[1].name}/, which are no classes of images: for a class "
            "for each pixel add --task semantic-segmentation to train-teacher, distill, diagnose or evaluate."
        )
    inside = {inner for nested in found.nested for inner in visible(folder / nested)[1]}
    if inside and len(found.nested) == len(found.names) and all(split_of(inner, is_folder=True) for inner in inside):
        some, one = found.nested[0], sorted(inside)[0]
        raise ValueError(
            f"The class folders of {str(folder)!r} hold splits ({some}/{one}/): put them outside ({one}/{some}/)."
        )
    if args.benchmark is None and args.label_column != "label":
        said.append(f"{name}: the folders are the classes; there is no column {args.label_column!r} (--label_column)")
    if found.nested:
        said.append(f"{name}: images in folders inside those of {listed(found.nested)} belong to these classes")
    if found.beside:
        said.append(f"{name}: not read are {listed(found.beside)} beside the class folders")
    if found.unread:
        said.append(
            f"{name}: not read are {describe_unread(found.unread)}; convert images of such formats to .jpg or .png"
        )
    return Part(split, name, [_named(found.dataset(), args.label_column, "label")])


def _named(dataset: Dataset, name: str | None, usual: str) -> Dataset:
    return (
        dataset if name in (None, usual) or usual not in dataset.column_names else dataset.rename_column(usual, name)
    )


def read_rows(folder: Path, names: Sequence[str], split: str, args: DataArguments, name: str | None = None) -> Part:
    """
    Parquet files, or WebDataset shards. Files whose columns differ in type, such as the order of their classes, are
    read apart.

    Raises:
        `ValueError`: if one cannot be read.
    """
    part = Part(split, name or listed(names, 2), root=folder)
    alike: dict[str, tuple[Features | None, list[str]]] = {}
    rows = {}
    for file in (str(folder / name) for name in names):
        features = None
        if not file.lower().endswith(".tar"):
            try:
                parquet = pq.ParquetFile(file)
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{file!r} is no parquet file that can be read: {error}") from error
            rows[file], features = parquet.metadata.num_rows, Features.from_arrow_schema(parquet.schema_arrow)
        alike.setdefault(str(features), (features, []))[1].append(file)
    for features, files in alike.values():
        kind = "webdataset" if features is None else "parquet"
        try:
            dataset = load_dataset(kind, data_files={"train": files}, features=features, split="train")
        except (DatasetGenerationError, pa.ArrowException, tarfile.TarError, OSError, ValueError, KeyError) as error:
            cause = str(error.__cause__ or error).splitlines()[0]
            raise ValueError(f"{listed(files, 2)} cannot be read: {cause}") from error
        part.datasets.append(_flat_labels(dataset) if features is None else dataset)
        part.files += [(os.path.basename(file), rows[file]) for file in files if file in rows]
    return part


def _flat_labels(dataset: Dataset) -> Dataset:
    """The label of a `.json` beside an image in a shard as a column of its own."""
    inside = dataset.features.get("json")
    if not isinstance(inside, dict):
        return dataset
    columns = dataset.select_columns(["json"]).flatten().rename_columns({f"json.{name}": name for name in inside})
    new = [name for name in columns.column_names if name not in dataset.column_names]
    return concatenate_datasets([dataset.remove_columns("json"), columns.select_columns(new)], axis=1)


def read_table_part(
    table: Path, root: Path, split: str, args: DataArguments, said: list[str], name: str | None = None
) -> list[Part]:
    """The images of a table; several splits, if it says so."""
    splits, more = table_splits(
        table,
        root,
        label_column=args.label_column,
        find_labels=args.find_labels,
        image_column=args.image_column,
    )
    said += more
    return [
        Part(
            other or split,
            name or (f"{table.name} ({other})" if other else table.name),
            [_named(dataset, args.image_column, "image")],
        )
        for other, dataset in splits.items()
    ]


def read_saved(folder: Path) -> list[Part]:
    """What `save_to_disk` of `datasets` wrote."""
    saved = load_from_disk(str(folder))
    return from_splits(saved if isinstance(saved, DatasetDict) else DatasetDict(train=saved))


def from_splits(splits: DatasetDict, wanted: str | None = None) -> list[Part]:
    """The splits of a `DatasetDict`; a single one of any name is taken for training."""
    names = {name: split_of(name, is_folder=True, wanted=wanted) or name for name in splits}
    if len(names) == 1 and not set(names.values()) & {"validation", "test"}:
        names = dict.fromkeys(names, "train")
    return [Part(names[name], f"split {name}", [dataset]) for name, dataset in splits.items()]
