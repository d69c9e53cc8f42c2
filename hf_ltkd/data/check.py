"""Looks at every image of a source once: damaged, missing and repeated ones, named before anything is trained."""

import hashlib
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import fsspec
import numpy as np
from datasets import Dataset, Image
from PIL import Image as PILImage
from tqdm.auto import tqdm

from ..utils import listed
from .arguments import DataArguments
from .long_tail import class_counts, class_names, read_labels
from .sources import Source, find_source


# What Pillow may open: nothing that starts another program, as PostScript does.
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
BATCH = 256


@dataclass
class ImageReport:
    """
    What was seen of the images of a source.

    Attributes:
        sources (`list[str]`): Which files are used for what, and what is not read.
        class_names (`list[str]`): By class id.
        class_counts (`dict[str, list[int]]`): Images per class of each split.
        damaged (`dict[str, str]`): What is wrong with the images that cannot be decoded, by place.
        repeated (`list[list[str]]`): Places of images of the training split that have the same bytes.
        relabelled (`list[list[str]]`): Those of `repeated` that are not all of one class.
        shared (`list[tuple[str, str]]`): Places of an image to evaluate on and of a training image of the same bytes.
        rows (`dict[str, list[int]]`): The rows of `damaged`, by split.
        digests (`dict[str, np.ndarray]`): Of each split's images; those of damaged ones are empty.
    """

    sources: list[str]
    class_names: list[str]
    class_counts: dict[str, list[int]]
    damaged: dict[str, str] = field(default_factory=dict)
    repeated: list[list[str]] = field(default_factory=list)
    relabelled: list[list[str]] = field(default_factory=list)
    shared: list[tuple[str, str]] = field(default_factory=list)
    rows: dict[str, list[int]] = field(default_factory=dict)
    digests: dict[str, np.ndarray] = field(default_factory=dict)

    advice = "mend what is listed above, or leave damaged images out with --skip_damaged."

    @property
    def ok(self) -> bool:
        """Whether every image can be used and none is in both splits."""
        return not (self.damaged or self.shared or self.relabelled)

    def describe(self) -> list[str]:
        """All of it in plain sentences."""
        lines = [*self.sources]
        for split, counts in self.class_counts.items():
            most, fewest = int(np.argmax(counts)), int(np.argmin(counts))
            each = f"{counts[most]:,} ({self.class_names[most]}) to {counts[fewest]:,} ({self.class_names[fewest]})"
            each = each if counts[most] > counts[fewest] else f"{counts[most]:,}"
            lines.append(f"{split}: {sum(counts):,} images of {len(counts)} classes, {each} a class")
        return [*lines, *self.problems()]

    @property
    def eval_split(self) -> str:
        """The name of the split to evaluate on; the training split, if there is no other."""
        return [*self.class_counts][:2][-1]

    def damaged_places(self) -> list[str]:
        """`"photos/cat/3.png (image file is truncated)"` and so on."""
        return [f"{place} ({reason})" for place, reason in self.damaged.items()]

    def problems(self) -> list[str]:
        """What is wrong, each with up to three examples."""
        lines = []
        if self.damaged:
            lines.append(f"{len(self.damaged):,} images cannot be decoded: {listed(self.damaged_places(), 3)}")
        if self.relabelled:
            lines.append(
                f"same image, different classes, {len(self.relabelled):,} times in training: {_pairs(self.relabelled)}"
            )
        if self.repeated:
            lines.append(
                f"same image several times in training, {len(self.repeated):,} of them: {_pairs(self.repeated)}"
            )
        if self.shared:
            lines.append(
                f"{len(self.shared):,} of the {sum(self.class_counts[self.eval_split]):,} images to evaluate on are "
                f"training images, too, so that accuracy is flattered: {_pairs(self.shared)}"
            )
        return lines


def check_images(args: DataArguments, *, progress: bool = True) -> ImageReport:
    """
    Reads and decodes every image that `args` names once, in threads, and says what is there and what is wrong.

    JPEG files are decoded at an eighth of their size, which reads all of their data; other files in full. For 1,000
    images one core takes about 0.6 s (JPEG of 500 × 375 pixels, 40 kB), 2.5 s (1024 × 768, 170 kB), 31 s (4032 × 3024,
    2.6 MB), 8 s (PNG of 500 × 375) or 0.1 s (PNG of 32 × 32).

    Args:
        args ([`DataArguments`]): Which images.
        progress (`bool`, *optional*, defaults to `True`): Whether there is a bar.

    Raises:
        `ValueError`: if there are no images in a layout that is known.
    """
    return inspect(find_source(args), args.label_column, progress=progress)


def inspect(source: Source, label_column: str, *, progress: bool = True) -> ImageReport:
    """[`check_images`] of what was found."""
    train = source.splits[next(iter(source.splits))]
    counts = {name: class_counts(split, label_column) for name, split in source.splits.items()}
    names = max((class_names(split, label_column) for split in source.splits.values()), key=len)
    report = ImageReport(list(source.said), names, counts)
    for name, split in source.splits.items():
        report.digests[name], wrong = look_at(split, source.image_column, progress=progress)
        report.rows[name] = [*wrong]
        report.damaged |= dict(zip(source.places(name, [*wrong]), wrong.values(), strict=True))
    for name in report.digests:
        if name == "train":
            labels = read_labels(train, label_column)[0]
            for rows in copies(report.digests[name]):
                places = source.places(name, rows)
                (report.repeated if len(set(labels[rows].tolist())) == 1 else report.relabelled).append(places)
        elif "train" in report.digests and name == report.eval_split:
            both = shared_rows(report.digests[name], report.digests["train"])
            of_each = (source.places(split, [rows[i] for rows in both]) for i, split in enumerate((name, "train")))
            report.shared = list(zip(*of_each, strict=True))
    return report


def look_at(dataset: Dataset, column: str, *, progress: bool = True) -> tuple[np.ndarray, dict[int, str]]:
    """
    Reads and decodes every image of a column.

    Returns:
        `tuple`: a digest of each image's bytes (16 bytes; empty where there is none), and what is wrong, by row.
    """
    digests = np.zeros(len(dataset), dtype="S16")
    wrong: dict[int, str] = {}
    files = dataset.select_columns([column]).with_format(None).cast_column(column, Image(decode=False))
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(files), desc="Checking images", unit="img", disable=not progress) as bar,
        warnings.catch_warnings(),  # here: threads that each restore what they found may leave all silent
    ):
        warnings.simplefilter("ignore")  # Pillow's, of single files
        for start in range(0, len(files), BATCH):
            for row, (digest, reason) in enumerate(pool.map(_look, files[start : start + BATCH][column]), start):
                digests[row] = digest
                if reason:
                    wrong[row] = reason
            bar.update(min(BATCH, len(files) - start))
    return digests, wrong


def _look(file: dict[str, Any] | None) -> tuple[bytes, str | None]:
    """The digest of an image file, and why it cannot be decoded, if it cannot."""
    if file is None or file["bytes"] is None and file["path"] is None:
        return b"", "no image is there (null)"
    try:
        data = file["bytes"] if file["bytes"] is not None else _read(file["path"])
        with PILImage.open(BytesIO(data), formats=IMAGE_FORMATS) as image:
            image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except PILImage.UnidentifiedImageError:
        return b"", f"it is none of {', '.join(IMAGE_FORMATS)}" if data else "it is empty"
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        return b"", str(error) or type(error).__name__
    return hashlib.blake2b(data, digest_size=16).digest(), None


def _read(path: str) -> bytes:
    with fsspec.open(path, "rb") if "://" in path else open(path, "rb") as file:
        return file.read()


def copies(digests: np.ndarray) -> list[np.ndarray]:
    """The rows of each image that is there several times."""
    order = np.argsort(digests, kind="stable")
    ends = np.flatnonzero(digests[order][1:] != digests[order][:-1]) + 1
    return [rows for rows in np.split(order, ends) if len(rows) > 1 and digests[rows[0]]]


def repeated(digests: np.ndarray) -> np.ndarray:
    """A mask of the images that are there several times."""
    mask = np.zeros(len(digests), dtype=bool)
    for rows in copies(digests):
        mask[rows] = True
    return mask


def shared_rows(digests: np.ndarray, others: np.ndarray) -> list[tuple[int, int]]:
    """The rows whose image is among the `others`, too, and the first row where it is there."""
    values, first = np.unique(others, return_index=True)
    place = np.searchsorted(values, digests).clip(max=len(values) - 1)
    rows = np.flatnonzero((values[place] == digests) & (digests != b""))
    return [(int(row), int(first[place[row]])) for row in rows]


def _pairs(groups: Sequence[Sequence[str]]) -> str:
    return listed([" = ".join(places) for places in groups], 3)
