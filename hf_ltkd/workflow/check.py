"""What is wrong with the images and masks, before anything is trained on them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.arguments import DataArguments, MaskArguments
from ..data.check import ImageReport, inspect
from ..data.holdout import describe_split
from ..data.mask_files import has_masks
from ..data.masks import MaskReader
from ..data.sources import find_source
from ..utils import listed
from .arguments import SEGMENTATION, SourceArguments, split_settings
from .inputs import is_main_process, name_data
from .masked_images import MaskedImages, find_masks
from .segmenters import masks_of


MOST = 8  # sentences of images and masks that cannot be used


@dataclass
class MaskReport:
    """
    What was seen of images and their masks.

    Attributes:
        images ([`MaskedImages`]): Which are used for what, and the pixels of each class.
        class_names (`list[str]`): By class id.
        found (`list[str]`): What is wrong, a sentence each: pairs that are not whole, images and masks that cannot be
            used, and what a training would say of the rest.
    """

    images: MaskedImages
    class_names: list[str]
    found: list[str]
    advice = "mend what is listed above."

    @property
    def ok(self) -> bool:
        """Whether a network can be trained on them."""
        return not self.found

    def describe(self) -> list[str]:
        """All of it in plain sentences."""
        lines, holdout = [*self.images.sources], self.images.holdout
        if holdout is not None:
            part = f"{holdout.eval_fraction:.0%} of the training images (--eval_fraction)"
            lines.append(f"test: {part}, held out because there is no test split")
        for split, counts in self.images.counts.items():
            pixels, images = counts.sum(0), (counts > 0).sum(0)
            parts = [
                f"{self.class_names[c]} {pixels[c] / pixels.sum():.2%} ({pixels[c]:,} in {images[c]:,} of the images)"
                for c in np.argsort(-pixels, kind="stable")
                if pixels[c]
            ]
            lines.append(f"{split}: {pixels.sum():,} pixels with a class: {listed(parts, 50) or 'none'}")
            elsewhere = sum(rows.sum(0) for rows in self.images.counts.values()) > pixels
            without = [self.class_names[c] for c in np.flatnonzero(elsewhere & (pixels == 0))]
            if without:
                lines.append(f"{split}: no pixel of {listed(without, 10)}")
        return [*lines, *self.problems()]

    def problems(self) -> list[str]:
        """What is wrong, up to eight sentences."""
        more = len(self.found) - MOST
        return [*self.found[:MOST], *([f"and {more:,} images or masks more"] if more > 0 else [])]


def check(data: Any = None, **settings: Any) -> ImageReport | MaskReport:
    """
    Opens every image once: which files are used for what, which are damaged or skipped, and which are there twice. Of
    images and masks: how many pixels each class has, and which pairs cannot be used.

    Args:
        data (`str` or `os.PathLike`): A folder of images, or of images and masks, a benchmark's name, or a dataset of
            the Hub (of masks with `task="semantic-segmentation"`).
        settings: `eval_fraction`, and any field of `DataArguments` and, for masks, `MaskArguments`.

    Returns:
        [`ImageReport`] or [`MaskReport`]: its `ok`, `problems()` and `describe()`.

    Raises:
        `ValueError`: if no images are named, they can't be told into classes, or none can be held out where there is
            no split to evaluate on.
    """
    source, fields, mask_fields = split_settings(
        {"data": data, **settings}, SourceArguments, DataArguments, MaskArguments
    )
    where = SourceArguments(**source)
    splits, fields = name_data(where, fields)
    if splits is not None:
        raise ValueError("check opens image files, and a dataset in memory has none: give its folder or name.")
    if fields.get("data_dir") and has_masks(fields["data_dir"]):
        mask_fields.setdefault("task", SEGMENTATION)
    masks = masks_of(mask_fields, {"data": data, **settings})
    if masks is not None:
        return check_masks(where, fields, masks)
    args = DataArguments(**fields)
    found = find_source(args)
    split = [] if args.rare != "keep" else describe_split(found, args, where.eval_fraction)
    report = inspect(found, args.label_column, progress=is_main_process())
    report.sources += split if not report.damaged else []  # else the images that are left are others
    return report


def check_masks(source: SourceArguments, fields: dict[str, Any], masks: MaskArguments) -> MaskReport:
    """[`check`] of images and masks."""
    problems: list[str] = []
    images = find_masks(source, fields, masks, problems)
    reader = MaskReader(masks.num_classes, masks.ignore_index, masks.colors, bool(masks.reduce_labels))  # type: ignore
    images.count(reader, problems=problems)
    if not problems:  # else the images that are left are others
        try:
            images.hold_out(source.eval_fraction)
            images.check(masks, every_class=True)
        except ValueError as error:
            problems.append(str(error))
    names = masks.class_names or [f"class {class_id}" for class_id in range(images.num_classes)]
    return MaskReport(images, names, problems)
