"""Images and their masks, in views of both: scaled, cropped and mirrored alike, the mask never interpolated."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image
from PIL import Image as PILImage
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor

from ..utils import check_number
from .augment import numbers_of
from .long_tail import check_split
from .masks import Colors, MaskReader, check_size, open_image, place_of, undecoded
from .pixels import Pixels, Resampling, to_rgb
from .processors import pixels_of
from .transforms import Transform, transformed
from .views import SeededViews, splitmix64, uniform_integers


class SegmentationDataset(SeededViews):
    """
    Images and masks, decoded each time, handed out as normalised `pixel_values` (float32 `[3, height, width]`) and
    `labels` (int64 `[height, width]`, `ignore_index` where there is no class).

    Without augmentation an image is what the network's image processor makes of it, and its mask is resized and
    cropped alike, to the nearest pixel. With `augment=True` a view is the image as large as the processor makes it
    times a random factor (`scale`), of which a part of the network's size is taken at random, half of the time
    mirrored; what is beyond the image is black, and ignored in `labels`. Image and mask are cut out by one box of
    whole pixels, and resized once. The view `v` of example `i` is a pure function of `(seed, i, v)`, whatever the
    batch, the order or the number of workers; the view is the epoch.

    Args:
        dataset (`datasets.Dataset`): One split.
        image_column (`str`): The column of images, of type `Image`.
        mask_column (`str`): The column of masks: image files of class ids (grey, or with a palette, whose indices are
            the ids) or of RGB colours, or arrays of integers `[height, width]`.
        num_classes (`int`): Ids run from 0 to one less.
        processor (`BaseImageProcessor` or [`Pixels`]): The network's image processor: size, normalisation, filter.
        teacher_processor (`BaseImageProcessor` or [`Pixels`], *optional*):
            Its teacher's, where that is another one: items hold `teacher_pixel_values` of the same view.
        augment (`bool`, *optional*, defaults to `False`): Whether to scale, crop and mirror.
        scale (`Sequence[float]`, *optional*, defaults to `(0.5, 2.0)`):
            The smallest and the largest factor, with every size between them equally often.
        horizontal_flip (`bool`, *optional*, defaults to `True`): Whether half of the views are mirrored.
        seed (`int`, *optional*, defaults to 0): Seed of the augmentation.
        ignore_index (`int`, *optional*, defaults to 255): The id of pixels that count nowhere; -100 is one, too.
        colors (`Sequence` of RGB, or `Mapping` from RGB to id, *optional*): What the colours of masks mean.
        reduce_labels (`bool`, *optional*, defaults to the processor's `do_reduce_labels`):
            Whether 0 is no class in masks, and class 0 has the id 1 (ADE20K).
        transform (`Callable`, *optional*): As of [`ImageDataset`], for colours alone, because the mask does not go
            through it. It gets the view, in the larger of both networks' sizes.

    Raises:
        `ValueError`: if a column is missing, a processor cannot be followed with a mask, or an argument is not valid;
            when an example is asked for, if its image or mask cannot be read, the mask holds unknown ids or colours,
            or is of another size.
    """

    transform_fields = (*SeededViews.transform_fields, "scale")

    def __init__(
        self,
        dataset: Dataset,
        image_column: str = "image",
        mask_column: str = "mask",
        *,
        num_classes: int,
        processor: BaseImageProcessor | Pixels,
        teacher_processor: BaseImageProcessor | Pixels | None = None,
        augment: bool = False,
        scale: Sequence[float] = (0.5, 2.0),
        horizontal_flip: bool = True,
        seed: int = 0,
        ignore_index: int = 255,
        colors: Colors | None = None,
        reduce_labels: bool | None = None,
        transform: Transform | None = None,
    ):
        super().__init__(augment=augment, horizontal_flip=horizontal_flip, seed=seed, transform=transform)
        check_split(dataset, image_column, "the images as image_column")
        check_split(dataset, mask_column, "the masks as mask_column")
        if not isinstance(dataset.features[image_column], Image):
            raise ValueError(
                f"The column {image_column!r} holds {dataset.features[image_column]}, no images: cast it with "
                f"dataset.cast_column({image_column!r}, datasets.Image())."
            )
        check_number("num_classes", num_classes, 1, whole=True)
        self.scale = tuple(numbers_of("scale", scale))
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale={scale} is not valid: give the smallest and the largest factor, both above 0.")
        if transform is not None and not augment:
            raise ValueError("transform is for training views: set augment=True, or leave it out.")
        self.pixels = followable(processor)
        teacher = None if teacher_processor is None else followable(teacher_processor)
        same = teacher is None or teacher.description(augment) == self.pixels.description(augment)
        self.teacher_pixels = None if same else teacher
        if reduce_labels is None:
            reduce_labels = bool(getattr(self.pixels.processor, "do_reduce_labels", False))
        self.reader = MaskReader(num_classes, ignore_index, colors, reduce_labels)
        self._columns = (image_column, mask_column)
        self._files = undecoded(dataset, self._columns)

    @property
    def num_classes(self) -> int:
        return self.reader.num_classes  # type: ignore[return-value]  # given

    @property
    def ignore_index(self) -> int:
        return self.reader.ignore_index

    def __len__(self) -> int:
        return len(self._files)

    def example(self, index: int) -> tuple[PILImage.Image, np.ndarray]:
        """An image as it is, and its mask: class ids, int32 `[height, width]`."""
        [pair] = self._decoded([range(len(self))[index]])
        return pair

    def _decoded(self, rows: Sequence[int]) -> list[tuple[PILImage.Image, np.ndarray]]:
        files = self._files[list(rows)]
        pairs = []
        for row, *values in zip(rows, *(files[column] for column in self._columns), strict=True):
            image_place, mask_place = (place_of(value, row) for value in values)
            image = open_image(values[0], "image", image_place)
            ids = self.reader.read(values[1], mask_place)
            check_size(ids.shape, image.size, mask_place, image_place)
            pairs.append((image, ids))
        return pairs

    def _items(self, index: np.ndarray, bits: np.ndarray, mirrored: np.ndarray) -> dict[str, Any]:
        wanted: dict[str, Pixels] = self._wanted(self.pixels, self.teacher_pixels)
        items: dict[str, list[Tensor]] = {name: [] for name in (*wanted, "labels")}
        for (image, ids), own_bits, flip in zip(self._decoded(index.tolist()), bits, mirrored.tolist(), strict=True):
            # Ignored pixels are 0 in the mask that is cropped, because that is what lies beyond an image of Pillow.
            mask = PILImage.fromarray(ids ^ self.ignore_index)
            grid = wanted["pixel_values"]
            if not self.augment:
                labels = replace(grid, resample=Resampling.NEAREST).resize_and_crop(mask)
                for name, pixels in wanted.items():
                    items[name].append(pixels.evaluate(image))
            else:
                box = scaled_box(image.width, image.height, self.pixels, self.scale, own_bits)
                mask = mask.crop(box).resize(grid.size[::-1], Resampling.NEAREST)
                labels = np.asarray(mask)[:, ::-1] if flip else np.asarray(mask)
                if self.transform is not None:
                    image = self._transformed(image, box, flip, own_bits)
                    box, flip = (0, 0, *image.size), False
                for name, pixels in wanted.items():
                    items[name].append(pixels.view(image, box, flip))
            items["labels"].append(torch.from_numpy((labels ^ self.ignore_index).astype(np.int64)))
        return items

    def _transformed(self, image: PILImage.Image, box: tuple[int, int, int, int], flip: bool, bits: Any) -> Any:
        larger = max((p for p in (self.pixels, self.teacher_pixels) if p is not None), key=lambda p: p.size)
        view = to_rgb(image, self.pixels.on_white).crop(box).resize(larger.size[::-1], larger.resample)
        view = view.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT) if flip else view
        [made] = transformed(self.transform, [view], splitmix64(~np.array([bits])))  # type: ignore[arg-type]
        if made.size != view.size:
            raise ValueError(
                f"The transform made {made.height} × {made.width} pixels of {view.height} × {view.width}, and the "
                "mask does not go through it: leave out what crops, resizes or moves pixels."
            )
        return made


def followable(processor: BaseImageProcessor | Pixels) -> Pixels:
    """
    What an image processor does, in a form in which a mask can follow its image.

    Raises:
        `ValueError`: if its size, crop or filter could not be measured.
    """
    pixels = pixels_of(processor)
    if not pixels.own_views:
        raise ValueError(
            f"What {type(pixels.processor).__name__} does to an image could not be measured (it pads, or its "
            f"{pixels.size[0]} × {pixels.size[1]} pixels are too many), so that no mask can follow: set its size, and "
            "no crop or padding."
        )
    return pixels


def scaled_box(
    width: int, height: int, pixels: Pixels, scale: tuple[float, ...], bits: np.uint64
) -> tuple[int, int, int, int]:
    """
    The box `(left, top, right, bottom)`, in pixels of an image of `width` × `height`, that 64 random bits choose: it
    becomes as large as `pixels` want it when the image is scaled as in evaluation, times a factor.

    A box that is smaller than the image lies anywhere inside it; the image lies anywhere inside a larger one.
    """
    words = splitmix64(bits + np.arange(2, dtype=np.uint64))
    factor = scale[0] + (scale[1] - scale[0]) * (int(words[0]) % 2**32) / 2**32
    resize = pixels.resize or pixels.size
    if isinstance(resize, int):
        across = down = resize / min(width, height)
    else:
        down, across = resize[0] / height, resize[1] / width
    w, h = (max(1, round(side / factor / by)) for side, by in zip(pixels.size[::-1], (across, down), strict=True))
    left = min(0, width - w) + int(uniform_integers(words[1], 0, abs(width - w) + 1))
    top = min(0, height - h) + int(uniform_integers(words[1], 21, abs(height - h) + 1))
    return left, top, left + w, top + h
