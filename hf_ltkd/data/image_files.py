"""Image files on disk as datasets of paths and labels; nothing is opened or decoded."""

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from ..utils import listed


IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


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
                    "of 0 or more."
                )
    if not paths:
        raise ValueError(f"The list {str(list_file)!r} is empty: it needs one 'relative/path label' per line.")
    used = set(labels)
    if num_classes is not None and max(used) >= num_classes:
        raise ValueError(
            f"The list {str(list_file)!r} has the label {max(used)}, outside the classes 0 to {num_classes - 1} of "
            "the training list."
        )
    gaps = [label for label in range(max(used)) if label not in used]
    if num_classes is None and gaps:
        raise ValueError(
            f"The list {str(list_file)!r} has labels up to {max(used)}, but no image of class {listed(gaps)}: number "
            "the classes from 0 without a gap."
        )
    root = Path(root).expanduser()
    _check_files(root, paths, str(list_file))
    return _dataset([os.path.join(root, path) for path in paths], labels)


def read_class_folders(folder: str | os.PathLike, classes: Sequence[str] | None = None) -> Dataset | None:
    """
    Lists `folder/<class>/<image>` in the order of the classes' and the files' names.

    Args:
        folder (`str` or `os.PathLike`): The folder of one split.
        classes (`Sequence[str]`, *optional*, defaults to the sorted names of the folders): The classes by id.

    Returns:
        `datasets.Dataset`: the columns `image` (of type `Image`, not decoded) and `label` (`ClassLabel`); or `None`
        where the folder is laid out in another way (deeper folders, or files beside the class folders).

    Raises:
        `ValueError`: if a class folder has no image, or is not among `classes`.
    """
    folder = str(folder)
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    names = sorted(entry.name for entry in visible if entry.is_dir())
    if not names or len(names) < len(visible):
        return None
    class_ids = {name: class_id for class_id, name in enumerate(classes or names)}
    unknown = [name for name in names if name not in class_ids]
    if unknown:
        raise ValueError(
            f"{folder!r} has folders of classes that the training images lack ({listed(unknown)}): remove them, "
            "or add training images."
        )
    paths: list[str] = []
    labels: list[int] = []
    for name in names:
        class_folder = os.path.join(folder, name)
        with os.scandir(class_folder) as entries:
            content = list(entries)
        if any(entry.is_dir() for entry in content):
            return None
        files = sorted(entry.name for entry in content if entry.name.lower().endswith(IMAGE_SUFFIXES))
        if not files:
            raise ValueError(
                f"The class folder {class_folder!r} has no image ({', '.join(IMAGE_SUFFIXES)}): add some, or remove "
                "the folder."
            )
        paths += [os.path.join(class_folder, file) for file in files]
        labels += [class_ids[name]] * len(files)
    return _dataset(paths, labels, [*class_ids])


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
    classes = sorted(entry.name for entry in os.scandir(folder / "train") if entry.is_dir())
    paths: list[str] = []
    labels: list[int] = []
    for class_id, wnid in enumerate(classes):
        images = folder / "train" / wnid / "images"
        files = sorted(name for name in os.listdir(images) if name.lower().endswith(IMAGE_SUFFIXES))
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
    _check_files(folder / "val" / "images", eval_files, str(annotations))
    eval_paths = [os.path.join(folder, "val", "images", file) for file in eval_files]
    return DatasetDict(train=_dataset(paths, labels, classes), validation=_dataset(eval_paths, eval_labels, classes))


def _check_files(root: Path, paths: list[str], list_file: str) -> None:
    """Looks at each folder once: a million lines are a thousand folders."""
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


def _dataset(paths: list[str], labels: list[int], classes: Sequence[str] | None = None) -> Dataset:
    features = Features({"image": Image(), "label": Value("int64") if classes is None else ClassLabel(names=classes)})
    # As Arrow columns: as Python lists, 1.28 million paths would take Dataset.from_dict some seconds longer.
    columns = {"image": Image().cast_storage(pa.array(paths, pa.string())), "label": pa.array(labels, pa.int64())}
    return Dataset.from_dict(columns, features=features)
