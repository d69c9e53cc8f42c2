"""Masks: a class id for each pixel of an image, out of files or arrays; and how many pixels each class has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Image
from PIL import Image as PILImage

from ..utils import check_number, listed
from .long_tail import check_split


Colors = Sequence[Sequence[int]] | Mapping[tuple[int, int, int], int]
MAX_CLASSES = 65536  # a larger id is no class: masks have at most 16 bits
COLOUR_MODES = ("RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")


@dataclass(frozen=True)
class MaskReader:
    """
    How the masks of a dataset are read.

    A mask is an image file of ids (grey, or with a palette, whose indices are the ids), an image file of RGB colours,
    or an array of integers `[height, width]`; arrays of colours are `[height, width, 3]`.

    Args:
        num_classes (`int`, *optional*): Ids run from 0 to one less. Without, any id up to 65535 is a class.
        ignore_index (`int`, *optional*, defaults to 255): The id of pixels that count nowhere; -100 is one, too.
        colors (`Sequence` of RGB, or `Mapping` from RGB to id, *optional*):
            What colours mean, if masks are colours: a list by class id, or the id of each (several may share one, and
            `ignore_index` is one).
        reduce_labels (`bool`, *optional*, defaults to `False`):
            Whether 0 is no class, and class 0 has the id 1 in masks (ADE20K), as `do_reduce_labels` of image
            processors.

    Raises:
        `ValueError`: if `ignore_index` is a class, or a colour or its id is not valid.
    """

    num_classes: int | None = None
    ignore_index: int = 255
    colors: Colors | None = None
    reduce_labels: bool = False

    def __post_init__(self):
        check_number("ignore_index", self.ignore_index, whole=True)
        if self.num_classes is not None:
            check_number("num_classes", self.num_classes, 1, MAX_CLASSES, whole=True)
            if 0 <= self.ignore_index < self.num_classes:
                raise ValueError(
                    f"ignore_index={self.ignore_index} is one of the {self.num_classes} classes, which count from 0: "
                    "choose another id for pixels without a class, for instance -100."
                )
        if self.colors is not None:
            object.__setattr__(self, "colors", self._table(self.colors))

    def _table(self, colors: Colors) -> dict[tuple[int, int, int], int]:
        pairs = colors.items() if isinstance(colors, Mapping) else [(c, i) for i, c in enumerate(_listed(colors))]
        table: dict[tuple[int, int, int], int] = {}
        for color, class_id in pairs:
            rgb: Any = tuple(_listed(color))
            if len(rgb) != 3 or any(type(part) is not int or not 0 <= part <= 255 for part in rgb):
                raise ValueError(
                    f"colors holds {color!r}, which is no colour: give red, green and blue from 0 to 255 for each "
                    "class, or a dict from such colours to class ids."
                )
            if type(class_id) is not int:
                raise ValueError(f"colors gives {rgb} the class {class_id!r}: give a class id, a whole number.")
            if table.setdefault(rgb, class_id) != class_id:
                raise ValueError(f"colors gives {rgb} to the classes {table[rgb]} and {class_id}: give it to one.")
        if not table:
            raise ValueError("colors is empty: give a colour for each class, or leave it out if masks hold class ids.")
        return table

    def read(self, mask: Any, place: str) -> np.ndarray:
        """
        Class ids (int32 `[height, width]`), `ignore_index` where there is none.

        Args:
            mask (`dict`, `PIL.Image.Image`, `np.ndarray` or nested `list`): A value of a column of masks.
            place (`str`): What it is called in messages: its file or row.

        Raises:
            `ValueError`: if it cannot be read, or holds ids or colours that are not known.
        """
        values = self._values(mask, place)
        if self.colors is not None:
            ids = self._ids_of_colours(values, place)
        elif values.ndim == 2 and values.dtype.kind in "iub":
            ids = values.astype(np.int32 if values.dtype.itemsize <= 2 else np.int64)
        else:
            raise ValueError(
                f"The mask {place} holds {values.dtype} of shape {values.shape}, no class ids: expected whole numbers "
                "[height, width], or colours with a table of them (colors=)."
            )
        ids[ids == -100] = self.ignore_index
        counted = ids != self.ignore_index
        if self.reduce_labels:
            counted &= ids != 0
            ids = np.where(counted, ids - 1, self.ignore_index)
        most = MAX_CLASSES if self.num_classes is None else self.num_classes
        unknown = counted & ((ids < 0) | (ids >= most))
        if unknown.any():
            found = np.unique(ids[unknown] + self.reduce_labels).tolist()
            first, last = int(self.reduce_labels), most - 1 + int(self.reduce_labels)
            raise ValueError(
                f"The mask {place} has the id {listed(found)} ({unknown.sum()} pixels), neither one of the classes "
                f"{first} to {last} nor ignore_index={self.ignore_index}: correct the mask, num_classes or "
                "ignore_index" + (", or say reduce_labels=True if ids count from 1." if found == [most] else ".")
            )
        return ids.astype(np.int32, copy=False)

    def _values(self, mask: Any, place: str) -> np.ndarray:
        image = open_image(mask, "mask", place) if isinstance(mask, dict) else mask
        if image is None:
            raise ValueError(f"There is no mask {place}: give each image one, or leave the image out.")
        if not isinstance(image, PILImage.Image):
            try:
                values = np.asarray(image)
            except ValueError:  # rows of several lengths
                values = np.empty(0, object)
            return values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
        if image.format == "JPEG":
            raise ValueError(f"The mask {place} is a JPEG, which changes ids and colours: save masks as PNG.")
        if self.colors is not None:
            return np.asarray(image.convert("RGB"))
        if image.mode in COLOUR_MODES:
            raise ValueError(
                f"The mask {place} holds colours ({image.mode}), not class ids: say what they mean with colors=, a "
                "colour for each class."
            )
        return np.asarray(image if len(image.getbands()) == 1 else image.getchannel(0))

    def _ids_of_colours(self, values: np.ndarray, place: str) -> np.ndarray:
        table: dict[tuple[int, int, int], int] = self.colors  # type: ignore[assignment]  # set in __post_init__
        if values.ndim != 3 or values.shape[2] != 3 or values.dtype.kind not in "iu":
            raise ValueError(
                f"The mask {place} holds {values.dtype} of shape {values.shape}, no colours: leave colors out if "
                "masks hold class ids."
            )
        coded = values.astype(np.int64) @ (65536, 256, 1)
        known = np.array([*table]) @ (65536, 256, 1)
        order = known.argsort()
        found = order[np.searchsorted(known, coded, sorter=order).clip(max=len(known) - 1)]
        unknown = known[found] != coded
        if unknown.any():
            colours = sorted({tuple(colour) for colour in values[unknown].tolist()})
            raise ValueError(
                f"The mask {place} has the colour {listed(colours)} ({unknown.sum()} pixels), which colors does not "
                f"hold: add it, with ignore_index={self.ignore_index} if it is no class."
            )
        return np.array([*table.values()])[found]


def _listed(values: Any) -> list[Any]:
    if hasattr(values, "tolist"):
        return values.tolist()
    return list(values) if isinstance(values, Sequence) and not isinstance(values, str) else [None]


def open_image(file: dict[str, Any], what: str, place: str) -> PILImage.Image:
    """
    Raises:
        `ValueError`: if a file of a column of type `Image` is missing or cannot be decoded.
    """
    try:
        return Image().decode_example(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"The {what} {place} cannot be read ({error}): repair it, or leave it out.") from error


def place_of(value: Any, row: int) -> str:
    """A value of a column in words: its file, or its row in the dataset and the name that its file had."""
    path = value.get("path") if isinstance(value, dict) else None
    if path and value.get("bytes") is None:
        return repr(path)
    return f"of row {row}" + (f" ({path})" if path else "")


def undecoded(dataset: Dataset, columns: Sequence[str]) -> Dataset:
    """These columns alone, image files as `{bytes, path}`."""
    files = dataset.select_columns(list(columns)).with_format(None)
    for column in columns:
        if isinstance(files.features[column], Image):
            files = files.cast_column(column, Image(decode=False))
    return files


def check_size(shape: tuple[int, ...], size: tuple[int, int], mask: str, image: str) -> None:
    """Raises `ValueError` unless a mask of this shape is as large as an image of this width and height."""
    if shape != size[::-1]:
        raise ValueError(
            f"The mask {mask} is of {shape[0]} × {shape[1]} pixels (height × width) and its image {image} of "
            f"{size[1]} × {size[0]}: a mask must be as large as its image."
        )


def count_masks(
    dataset: Dataset,
    reader: MaskReader,
    mask_column: str = "mask",
    *,
    image_column: str | None = None,
    num_proc: int | None = None,
    problems: list[str] | None = None,
) -> np.ndarray:
    """
    Reads every mask once, with a progress bar; a second time the result comes from the cache of `datasets`, which is
    named after the dataset's fingerprint.

    Args:
        dataset (`datasets.Dataset`): One split.
        reader ([`MaskReader`]): How masks are read.
        mask_column (`str`, *optional*, defaults to `"mask"`): The column of masks.
        image_column (`str`, *optional*): The column of images, which are decoded and compared in size with the masks.
        num_proc (`int`, *optional*): Processes that count.
        problems (`list[str]`, *optional*):
            Gets what would be raised, a sentence for each image or mask that cannot be used, whose pixels are 0.

    Returns:
        `np.ndarray` of shape `[images, classes]`, int64: Pixels of each class in each image.

    Raises:
        `ValueError`: if a column is missing, or a mask is: it cannot be read, holds unknown ids or colours, or is of
            another size than its image; or an image cannot be read.
    """
    check_split(dataset, mask_column, "the masks as mask_column")
    if num_proc is not None:
        check_number("num_proc", num_proc, 1, whole=True)
    columns = [mask_column]
    if image_column is not None:
        check_split(dataset, image_column, "the images as image_column")
        columns.append(image_column)
    arguments = {"columns": columns, "reader": reader, "raises": problems is None}
    counted = undecoded(dataset, columns).map(
        _count,
        with_indices=True,
        remove_columns=columns,
        fn_kwargs=arguments,
        num_proc=None if num_proc == 1 else num_proc,
        desc="Counting pixels",
    )
    table = counted.with_format("arrow")[:]
    counts = [np.asarray(row) for row in table["pixels"].to_pylist()]
    if problems is not None:
        problems += filter(None, table["problem"].to_pylist())
    classes = reader.num_classes or max(map(len, counts))
    return np.stack([np.pad(row, (0, classes - len(row))) for row in counts]).astype(np.int64)


def _count(example: dict[str, Any], row: int, columns: list[str], reader: MaskReader, raises: bool) -> dict[str, Any]:
    mask, *images = (example[column] for column in columns)
    try:
        ids = reader.read(mask, place_of(mask, row))
        for image in images:
            place = place_of(image, row)
            size = open_image(image, "image", place).size if isinstance(image, dict) else np.shape(image)[1::-1]
            check_size(ids.shape, size, place_of(mask, row), place)  # type: ignore[arg-type]
    except ValueError as error:
        if raises:
            raise
        return {"pixels": np.zeros(reader.num_classes or 0, np.int64), "problem": str(error)}
    pixels = np.bincount(ids[ids != reader.ignore_index], minlength=reader.num_classes or 0)
    return {"pixels": pixels, "problem": ""}
