"""Images decoded each time they are asked for, with the crops of ImageNet training and evaluation."""

import math
import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from datasets import Dataset, Image
from PIL import Image as PILImage
from torch import Tensor

from .augment import LabelledImages, splitmix64


# The random resized crop of Szegedy et al., Going Deeper with Convolutions (2015), Sec. 6.
MIN_AREA, MAX_RATIO, TRIES = 0.08, 4 / 3, 10
# Evaluation crops 224 of 256 pixels.
CROP_FRACTION = 224 / 256


class LazyImageDataset(LabelledImages):
    """
    A column of images, decoded each time, handed out as normalised `pixel_values` and `labels`.

    With `augment=True` a view is a random resized crop (8 % to 100 % of the area, aspect ratio 3/4 to 4/3), perhaps
    mirrored; without, the shorter side is resized to `image_size · 256 / 224` and the centre cropped. The crop and the
    mirroring of view `v` of example `i` are a pure function of `(seed, i, v)`, as in [`ImageDataset`]. Decoding is the
    slow part: train with several `dataloader_num_workers`.

    Args:
        dataset (`datasets.Dataset`): Holds the images, as files or as bytes.
        image_column (`str`): The column of type `Image`.
        labels (`Sequence[int]` of length `len(dataset)`): Class ids.
        image_size (`int`, *optional*, defaults to 224): Side of `pixel_values`.
        mean, std (`Sequence[float]` of length 3): For pixels scaled to 0..1.
        augment (`bool`, *optional*, defaults to `False`): Whether to crop at random and mirror.
        horizontal_flip (`bool`, *optional*, defaults to `True`): Whether half of the views are mirrored.
        seed (`int`, *optional*, defaults to 0): Seed of the augmentation.

    Raises:
        `ValueError`: if lengths do not fit or a standard deviation is not above 0; when an example is asked for, if
        its image cannot be decoded.
    """

    transform_fields = (*LabelledImages.transform_fields, "image_size")

    def __init__(
        self,
        dataset: Dataset,
        image_column: str,
        labels: Sequence[int] | np.ndarray | Tensor,
        *,
        image_size: int = 224,
        mean: Sequence[float],
        std: Sequence[float],
        augment: bool = False,
        horizontal_flip: bool = True,
        seed: int = 0,
    ):
        super().__init__(
            labels,
            len(dataset),
            3,
            mean=mean,
            std=std,
            augment=augment,
            horizontal_flip=horizontal_flip,
            seed=seed,
        )
        self.image_size = image_size
        self._images = dataset.select_columns([image_column]).with_format(None)
        self._files = self._images.cast_column(image_column, Image(decode=False))
        self._image_column = image_column

    def _crop(self, index: np.ndarray, bits: np.ndarray, mirrored: np.ndarray) -> Tensor:
        pixels = np.empty((len(index), 3, self.image_size, self.image_size), dtype=np.uint8)
        files = self._files[index.tolist()][self._image_column]  # one look-up for the batch
        decode = self._images.features[self._image_column].decode_example
        for row, (example, file) in enumerate(zip(index.tolist(), files, strict=True)):
            try:
                image = decode(file)
            except OSError as error:
                raise ValueError(f"Image {example} cannot be decoded ({error}): repair or remove it.") from error
            if self.augment:
                # Cropped before it is resized: resize(box=...) would blend in pixels from outside the box.
                image = image.crop(random_resized_crop_box(image.width, image.height, bits[row])).convert("RGB")
                image = image.resize((self.image_size, self.image_size), PILImage.Resampling.BILINEAR)
            else:
                image = resize_and_center_crop(image.convert("RGB"), self.image_size)
            if mirrored[row]:
                image = image.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT)
            pixels[row] = np.asarray(image).transpose(2, 0, 1)
        return torch.from_numpy(pixels)

    def _image_content(self) -> Iterator[bytes]:
        """Images held as bytes by their content; files by path, size and time of change, so that none is read."""
        for example in self._files:
            image = example[self._image_column]
            if image["bytes"] is None:
                status = os.stat(image["path"])
                yield f"{image['path']} {status.st_size} {status.st_mtime_ns}".encode()
            else:
                yield image["bytes"]


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


def resize_and_center_crop(image: PILImage.Image, size: int) -> PILImage.Image:
    """Resizes the shorter side to `size · 256 / 224`, bilinearly, and crops `size` × `size` from the centre."""
    width, height = image.size
    edge = round(size / CROP_FRACTION)
    width, height = (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), PILImage.Resampling.BILINEAR).crop((left, top, left + size, top + size))
