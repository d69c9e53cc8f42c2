"""Image files on disk as datasets of paths and labels; nothing is opened or decoded."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

from ..utils import listed


IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jfif")
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # the image folder layout of `datasets`
JUNK = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}


def visible(folder: str | os.PathLike[str]) -> tuple[list[str], list[str]]:
    """The names of the files and of the folders in `folder`, sorted, without hidden ones and what systems leave."""
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(os.fspath(folder)) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name.lower() not in JUNK:
                (folders if entry.is_dir() else files).append(entry.name)
    return sorted(files), sorted(folders)


def is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def class_name(name: str) -> str:
    """A class's name in the one Unicode form (NFC) in which names are compared, without white space around it."""
    return unicodedata.normalize("NFC", name).strip()


def read_image_list(
    list_file: str | os.PathLike, root: str | os.PathLike, *, num_classes: int | None = None
) -> Dataset:
    """
    Reads a text file with one `relative/path label` per line, as ImageNet-LT and iNaturalist are distributed.

    Args:
        list_file (`str` or `os.PathLike`): The list, in UTF-8; empty lines are skipped.
        root (`str` or `os.PathLike`): The folder that the paths start from.
        num_classes (`int`, *optional*):
            The training list's number of classes, for a list of test images, which may leave out some. Without it
            every class from 0 to the largest label must occur.

    Returns:
        `datasets.Dataset`: the columns `image` (of type `Image`, not decoded) and `label` (int64), in its order.

    Raises:
        `ValueError`: if a line is not a path and a label, a label is outside the classes, or a class does not occur.
        `FileNotFoundError`: if the list or an image does not exist.
    """
    paths, labels = [], []
    with open(os.path.expanduser(list_file), encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            fields = line.rsplit(maxsplit=1)
            if len(fields) == 2 and fields[1].isdecimal():
                paths.append(fields[0])
                labels.append(int(fields[1]))
            elif fields:
                raise ValueError(
                    f"Line {number} of {str(list_file)!r} is {line.strip()!r}, not 'relative/path label' with a label "
                    "of 0 or more: lists of class names go into a .csv file with the columns path and label."
                )
    if not paths:
        raise ValueError(f"The list {str(list_file)!r} is empty: it needs one 'relative/path label' per line.")
    used = set(labels)
    if num_classes is not None and max(used) >= num_classes:
        raise ValueError(
            f"The list {str(list_file)!r} has the label {max(used)}, outside the classes 0 to {num_classes - 1} of "
            "the training list."
        )
    if num_classes is None and max(used) >= len(used):
        gaps = list(islice((label for label in range(max(used)) if label not in used), 6))
        raise ValueError(
            f"The list {str(list_file)!r} has labels up to {max(used)}, but no image of class {listed(gaps)}: number "
            "the classes from 0 without a gap."
        )
    return list_dataset(paths, root, str(list_file), {"label": pa.array(labels, pa.int64())})


@dataclass
class ClassFolders:
    """
    What `folder/<class>/` holds.

    Attributes:
        paths (`list[str]`), labels (`list[int]`), names (`list[str]`): Of the images, and of the classes.
        nested (`list[str]`): Classes with images in folders inside their folder.
        beside (`list[str]`): Files beside the class folders.
        unread (`Counter`): Files in the class folders that are no images that are read, by suffix.
    """

    paths: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    nested: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    unread: Counter = field(default_factory=Counter)

    def dataset(self) -> Dataset:
        """The columns `image` (of type `Image`, not decoded) and `label` (`ClassLabel`)."""
        return file_dataset(self.paths, {"label": pa.array(self.labels, pa.int64())}, self.names)


def list_class_folders(folder: str | os.PathLike, classes: Sequence[str] | None = None) -> ClassFolders:
    """
    Lists the images under each `folder/<class>/` in the order of the classes' and the files' names. Images in folders
    further in belong to the class, too. Names that are equal after Unicode normalisation are one class.

    Args:
        folder (`str` or `os.PathLike`): The folder of one split.
        classes (`Sequence[str]`, *optional*, defaults to the sorted names of the folders): The classes by id; with
            them a class may be empty.

    Raises:
        `ValueError`: if a class folder has no image, or is not among `classes`.
    """
    folder = str(folder)
    beside, folders = visible(folder)
    names = [class_name(name) for name in (sorted({*map(class_name, folders)}) if classes is None else classes)]
    class_ids = {name: class_id for class_id, name in enumerate(names)}
    unknown = [name for name in folders if class_name(name) not in class_ids]
    if unknown:
        raise ValueError(
            f"{folder!r} has folders of classes that the training images lack ({listed(unknown)}): remove them, "
            "or add training images."
        )
    found = ClassFolders(names=names, beside=beside)
    for name in folders:
        class_folder = os.path.join(folder, name)
        own, inner = visible(class_folder)
        files = [os.path.join(class_folder, file) for file in own]
        images = [file for file in files if is_image(file)]
        deeper = [file for folder in inner for file in files_below(os.path.join(class_folder, folder))]
        paths = images + [file for file in deeper if is_image(file)]
        unread: Counter = Counter()
        if len(paths) < len(files) + len(deeper):
            others = (file for file in files + deeper if not is_image(file))
            unread.update(os.path.splitext(file)[1].lower() or "without a suffix" for file in others)
        if not paths and classes is None:
            there = f"; {describe_unread(unread)} there" if unread else ""
            raise ValueError(
                f"The class folder {class_folder!r} has no image ({', '.join(IMAGE_SUFFIXES)}{there}): add some, or "
                "remove the folder."
            )
        if len(paths) > len(images):
            found.nested.append(name)
        found.paths += paths
        found.labels += [class_ids[class_name(name)]] * len(paths)
        found.unread += unread
    return found


def read_class_folders(folder: str | os.PathLike, classes: Sequence[str] | None = None) -> Dataset | None:
    """
    [`list_class_folders`] as a dataset.

    Returns:
        `datasets.Dataset`: the columns `image` (of type `Image`, not decoded) and `label` (`ClassLabel`); or `None`
        where the folder is laid out in another way (a `metadata.csv`, no folders, or a single one around the classes).

    Raises:
        `ValueError`: if a class folder has no image, or is not among `classes`.
    """
    files, folders = visible(folder)
    if not folders or any(name in METADATA_NAMES for name in files) or only_folder(folder) is not None:
        return None
    return list_class_folders(folder, classes).dataset()


def only_folder(folder: str | os.PathLike) -> str | None:
    """The name of the one folder in `folder` that holds folders and no image: the classes lie one further in."""
    files, folders = visible(folder)
    if len(folders) != 1 or any(map(is_image, files)):
        return None
    inner_files, inner_folders = visible(os.path.join(folder, folders[0]))
    return folders[0] if inner_folders and not any(map(is_image, inner_files)) else None


def read_tiny_imagenet(folder: str | os.PathLike) -> DatasetDict:
    """
    Lists `tiny-imagenet-200` as it is distributed: `train/<wnid>/images/*.JPEG`, `val/images/*.JPEG` and their classes
    in `val/val_annotations.txt`. Its test images have no labels and are left out.

    Returns:
        `datasets.DatasetDict`: the splits `train` and `validation`, as [`read_class_folders`] gives them.

    Raises:
        `ValueError`: if a class has no image or a line of `val_annotations.txt` is not valid.
        `FileNotFoundError`: if a folder or an image of `val_annotations.txt` does not exist.
    """
    folder = Path(folder).expanduser()
    classes = visible(folder / "train")[1]
    paths: list[str] = []
    labels: list[int] = []
    for class_id, wnid in enumerate(classes):
        images = folder / "train" / wnid / "images"
        files = [name for name in visible(images)[0] if is_image(name)]
        if not files:
            raise ValueError(f"The class folder {str(images)!r} has no image: unpack tiny-imagenet-200.zip again.")
        paths += [os.path.join(images, name) for name in files]
        labels += [class_id] * len(files)
    class_ids = {wnid: class_id for class_id, wnid in enumerate(classes)}
    annotations = folder / "val" / "val_annotations.txt"
    eval_files, eval_labels = [], []
    for number, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), start=1):
        file, wnid = [*line.split("\t"), "", ""][:2]  # then a bounding box
        if wnid not in class_ids:
            raise ValueError(
                f"Line {number} of {str(annotations)!r} is {line!r}, not an image and one of the {len(classes)} "
                "classes in train/, separated by a tab."
            )
        eval_files.append(file)
        eval_labels.append(class_ids[wnid])
    labelled = {"label": pa.array(eval_labels, pa.int64())}
    return DatasetDict(
        train=file_dataset(paths, {"label": pa.array(labels, pa.int64())}, classes),
        validation=list_dataset(eval_files, folder / "val" / "images", str(annotations), labelled, classes),
    )


def list_dataset(
    paths: Sequence[str],
    root: str | os.PathLike,
    list_file: str,
    columns: dict[str, pa.Array],
    classes: Sequence[str] | None = None,
) -> Dataset:
    """
    Images that a list names, with paths from `root`, and its other columns.

    Raises:
        `FileNotFoundError`: if one does not exist. Each folder is looked at once: a million lines are a thousand.
    """
    root = Path(root).expanduser()
    found: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        parent, name = os.path.split(path)
        if parent not in found:
            directory = root / parent
            found[parent] = set(os.listdir(directory)) if directory.is_dir() else set()
        if name not in found[parent]:
            missing.append(path)
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(paths)} images of {list_file!r} are not in {str(root)!r} "
            f"({listed(missing)}): check the folder that the list's paths start from."
        )
    return file_dataset([os.path.join(root, path) for path in paths], columns, classes)


def file_dataset(paths: Sequence[str], columns: dict[str, pa.Array], classes: Sequence[str] | None = None) -> Dataset:
    """The column `image` of paths, beside `columns`, of which `label` may be of these `classes`."""
    # As Arrow columns: as Python lists, 1.28 million paths would take Dataset.from_dict some seconds longer.
    columns = {"image": Image().cast_storage(pa.array(paths, pa.string())), **columns}
    features = Features.from_arrow_schema(pa.schema([(name, column.type) for name, column in columns.items()]))
    features["image"] = Image()
    if classes is not None:
        features["label"] = ClassLabel(names=list(classes))
    return Dataset.from_dict(columns, features=features)


def describe_unread(unread: Counter) -> str:
    """`"12 .heic, 3 .txt"`."""
    return ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(unread.items()))


def files_below(folder: str) -> Iterator[str]:
    """All files under `folder`, its own first, in the order of their names, without hidden ones and hidden folders."""
    if os.path.islink(folder):  # it might lead back to where we are
        return
    files, folders = visible(folder)
    yield from (os.path.join(folder, name) for name in files)
    for name in folders:
        yield from files_below(os.path.join(folder, name))
