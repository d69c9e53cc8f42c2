"""Images decoded each time they are asked for, with the crops of ImageNet training and evaluation."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import Dataset, Image
from PIL import Image as PILImage
from torch import Tensor

from ..utils import check_number
from .augment import LabelledImages, numbers_of
from .pixels import Pixels, to_rgb
from .transforms import Transform, transformed
from .views import splitmix64, uniform_integers


# The random resized crop of Szegedy et al., Going Deeper with Convolutions (2015), Sec. 6.
MIN_AREA, MAX_RATIO, TRIES = 0.08, 4 / 3, 10
# Evaluation crops 224 of 256 pixels.
CROP_FRACTION = 224 / 256


class LazyImageDataset(LabelledImages):
    """
    A column of images, decoded each time, handed out as normalised `pixel_values` and `labels`.

    With `augment=True` a view is a random resized crop (8 % to 100 % of the area, aspect ratio 3/4 to 4/3), perhaps
    mirrored; without, the shorter side is resized to `image_size · 256 / 224` and the centre cropped, or what `pixels`
    make of the image. The crop and the mirroring of view `v` of example `i` are a pure function of `(seed, i, v)`, as
    in [`ImageDataset`]. Decoding is the slow part: train with several `dataloader_num_workers`.

    Args:
        dataset (`datasets.Dataset`): Holds the images, as files or as bytes.
        image_column (`str`): The column of type `Image`.
        labels (`Sequence[int]` of length `len(dataset)`): Class ids.
        image_size (`int`, *optional*, defaults to 224): Side of `pixel_values`.
        mean, std (`Sequence[float]` of length 3): For pixels scaled to 0..1.
        augment (`bool`, *optional*, defaults to `False`): Whether to crop at random and mirror.
        horizontal_flip (`bool`, *optional*, defaults to `True`): Whether half of the views are mirrored.
        seed (`int`, *optional*, defaults to 0): Seed of the augmentation.
        padding (`float`, *optional*):
            Views are the whole image, shifted by at most this part of each side, instead of random resized crops.
        pixels ([`Pixels`], *optional*): What a network sees, instead of `image_size`, `mean` and `std`.
        teacher_pixels ([`Pixels`], *optional*): What its teacher sees, where that is different: items hold it as
            `teacher_pixel_values`, cropped and mirrored alike.
        transform (`Callable`, *optional*): As of [`ImageDataset`]. With `augment=True` it gets the crop, resized to
            the larger of both networks' sizes, else the whole image; both networks see what it makes, once.

    Raises:
        `ValueError`: if lengths do not fit, a standard deviation is not above 0 or there are neither `mean` and `std`
            nor `pixels`; when an example is asked for, if its image cannot be decoded.
    """

    transform_fields = (*LabelledImages.transform_fields, "image_size")

    def __init__(
        self,
        dataset: Dataset,
        image_column: str,
        labels: Sequence[int] | np.ndarray | Tensor,
        *,
        image_size: int = 224,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augment: bool = False,
        horizontal_flip: bool = True,
        seed: int = 0,
        padding: float | None = None,
        pixels: Pixels | None = None,
        teacher_pixels: Pixels | None = None,
        transform: Transform | None = None,
    ):
        if not isinstance(dataset, Dataset) or not isinstance(dataset.features.get(image_column), Image):
            columns = f"has the columns {dataset.features}" if isinstance(dataset, Dataset) else "is none"
            raise ValueError(
                f"The dataset {columns}, no column {image_column!r} of images: give a datasets.Dataset and the name "
                "of a column of type Image."
            )
        check_number("image_size", image_size, 1, whole=True)
        if pixels is None:
            if mean is None or std is None:
                raise ValueError(
                    "Neither mean and std nor pixels are given: one of them has to say what a network sees."
                )
            pixels = plain_pixels(image_size, numbers_of("mean", mean), numbers_of("std", std))
        super().__init__(
            labels,
            len(dataset),
            3,
            mean=pixels.mean,
            std=pixels.std,
            augment=augment,
            horizontal_flip=horizontal_flip,
            seed=seed,
            transform=transform,
        )
        self.image_size = max(pixels.size)
        self.padding = padding
        self.pixels = pixels
        same = teacher_pixels is None or teacher_pixels.description(augment) == pixels.description(augment)
        self.teacher_pixels = None if same else teacher_pixels
        self._images = dataset.select_columns([image_column]).with_format(None)
        self._files = self._images.cast_column(image_column, Image(decode=False))
        self._image_column = image_column

    def _pixels(self, index: np.ndarray, bits: np.ndarray, mirrored: np.ndarray) -> dict[str, Iterable[Tensor]]:
        wanted: dict[str, Pixels] = self._wanted(self.pixels, self.teacher_pixels)
        made: dict[str, list[Tensor]] = {name: [] for name in wanted}
        files = self._files[index.tolist()][self._image_column]  # one look-up for the batch
        decode = self._images.features[self._image_column].decode_example
        for row, (example, file) in enumerate(zip(index.tolist(), files, strict=True)):
            try:
                image = decode(file)
            except OSError as error:
                raise ValueError(f"Image {example} cannot be decoded ({error}): repair or remove it.") from error
            if self.padding is None:
                box = random_resized_crop_box(image.width, image.height, bits[row])
            else:
                box = shifted_box(image.width, image.height, self.padding, bits[row])
            whole, flip = (0, 0, *image.size), bool(mirrored[row])
            if self.transform is not None:
                view = self._part(to_rgb(image, self.pixels.on_white), box if self.augment else whole, flip)
                [image] = transformed(self.transform, [view], splitmix64(~bits[[row]]))
                box, flip = (0, 0, *image.size), False
            for name, pixels in wanted.items():
                is_view = self.augment or self.transform is not None
                made[name].append(pixels.view(image, box, flip) if is_view else pixels.evaluate(image))
        return made  # type: ignore[return-value]  # a list is an Iterable

    def _part(self, image: PILImage.Image, box: tuple[int, int, int, int], mirrored: bool) -> PILImage.Image:
        """What a transform gets: the part of an image, which is resized once for both networks."""
        part = image.crop(box)
        if self.augment:
            larger = max((p for p in (self.pixels, self.teacher_pixels) if p is not None), key=lambda p: p.size)
            part = part.resize(larger.size[::-1], larger.resample)
        return part.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT) if mirrored else part

    def _image_content(self) -> Iterator[bytes]:
        """Images held as bytes by their content; files by path, size and time of change, so that none is read."""
        for example in self._files:
            image = example[self._image_column]
            if image["bytes"] is None:
                status = os.stat(image["path"])
                yield f"{image['path']} {status.st_size} {status.st_mtime_ns}".encode()
            else:
                yield image["bytes"]

    def _extras(self) -> list[str]:
        extras = [] if self.padding is None else [f"padding={self.padding}"]
        for name, pixels in (("pixels", self.pixels), ("teacher_pixels", self.teacher_pixels)):
            plain = replace(
                plain_pixels(self.image_size, self.pixels.mean, self.pixels.std), on_white=self.pixels.on_white
            )
            if pixels is not None and pixels.description(self.augment) != plain.description(self.augment):
                extras.append(f"{name}={pixels.description(self.augment)}")
        return extras


def plain_pixels(image_size: int, mean: Sequence[float], std: Sequence[float]) -> Pixels:
    """What a network sees that has no image processor: bilinear, the centre 224 of 256 pixels in evaluation."""
    edge = round(image_size / CROP_FRACTION)
    return Pixels((image_size, image_size), [*map(float, mean)], [*map(float, std)], resize=edge, on_white=False)


def shifted_box(width: int, height: int, padding: float, bits: Any) -> tuple[int, int, int, int]:
    """The box `(left, top, right, bottom)` of the size of an image, shifted as [`ImageDataset`] does."""
    across, down = round(padding * width), round(padding * height)
    left = int(uniform_integers(bits, 21, 2 * across + 1)) - across
    top = int(uniform_integers(bits, 0, 2 * down + 1)) - down
    return left, top, left + width, top + height


def random_resized_crop_box(width: int, height: int, bits: np.uint64) -> tuple[int, int, int, int]:
    """
    The box `(left, top, right, bottom)` that 64 random bits choose in an image of `width` × `height` pixels.

    Of ten tries (area uniform in 8 % to 100 %, logarithm of the aspect ratio uniform in log 3/4 to log 4/3) the first
    that fits is placed uniformly; if none fits, it is the largest centred box with an allowed aspect ratio.
    """
    words = splitmix64(bits + np.arange(TRIES + 1, dtype=np.uint64)).tolist()
    for word in words[:TRIES]:
        area = width * height * (MIN_AREA + (1 - MIN_AREA) * ((word % 2**32) / 2**32))
        ratio = math.exp(math.log(MAX_RATIO) * (2 * ((word >> 32) / 2**32) - 1))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = words[TRIES] % 2**21 * (width - w + 1) >> 21
            top = (words[TRIES] >> 21) % 2**21 * (height - h + 1) >> 21
            return left, top, left + w, top + h
    w, h = min(width, round(height * MAX_RATIO)), min(height, round(width * MAX_RATIO))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
