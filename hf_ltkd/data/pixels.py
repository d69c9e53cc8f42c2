"""Images as a network takes them: RGB, cropped and resized, channels in its order, normalised."""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor


Resampling = PILImage.Resampling
# Largest values of the usual images that are no bytes, by NumPy's kind of number: the first that fits is white.
USUAL_WHITE = {"u": (65535,), "i": (255, 65535), "f": (1, 255, 65535)}


def to_rgb(image: PILImage.Image, on_white: bool = True) -> PILImage.Image:
    """
    An image of any mode in RGB, as image processors of transformers make it.

    Grey values of 16 and 32 bits and of floating point are scaled to 0..255: from 0 to 65535 in 16 bits; else from 0
    to the first of 1 (floating point alone), 255 and 65535 that no value exceeds; else from the smallest to the
    largest value.

    Args:
        image (`PIL.Image.Image`): The whole image, because a part of it might be scaled differently.
        on_white (`bool`, *optional*, defaults to `True`):
            Whether what is transparent shows white; otherwise it shows the colours that its transparency hides.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode[0] in "IF":
        return PILImage.fromarray(_to_bytes(np.asarray(image))).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        if on_white:
            image = PILImage.alpha_composite(PILImage.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _to_bytes(values: np.ndarray) -> np.ndarray:
    kind, values = values.dtype.kind, values.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    slack = 1e-3 if kind == "f" else 0.0  # rounding may have gone a little beyond black and white
    whites = USUAL_WHITE[kind] if low >= -slack * high else ()
    white = next((white for white in whites if high <= (1 + slack) * white), None)
    scaled = values / white if white is not None else (values - low) / (high - low or 1.0)
    return np.rint(255 * np.nan_to_num(scaled).clip(0, 1)).astype(np.uint8)


@dataclass
class Pixels:
    """
    How an image becomes the `pixel_values` of one network. [`pixels_of`] measures it on an image processor.

    An image is resized, cropped from the centre and normalised here where that gives what the processor makes; where
    it does not, the processor itself is asked.

    Attributes:
        size (`tuple[int, int]`): Height and width of `pixel_values`.
        mean, std (`list[float]`): By channel of the network, for pixels scaled to 0..1; whatever the processor does to
            colours (rescale, offset, normalise twice) as one subtraction and one division.
        order (`tuple[int, ...]`): The colour (0 red, 1 green, 2 blue) of each of the network's channels.
        resample (`PIL.Image.Resampling`): The filter for resizing.
        resize (`int` or `tuple[int, int]`, *optional*, defaults to `size`): What an image is resized to before `size`
            is cropped from its centre: its shorter side, or height and width.
        rounds_crop (`bool`): Whether the crop's odd pixel is rounded half to even, as Torchvision does, and not down.
        on_white (`bool`): Whether transparent images lie on white.
        processor (`BaseImageProcessor`, *optional*): What all this was measured on.
        shape (`tuple[int, ...]`, *optional*, defaults to `[3, *size]`): Of `pixel_values`.
        own_views, own_evaluation (`bool`): Whether training views, and images for evaluation, are made here.
    """

    size: tuple[int, int]
    mean: list[float]
    std: list[float]
    order: tuple[int, ...] = (0, 1, 2)
    resample: Resampling = Resampling.BILINEAR
    resize: int | tuple[int, int] | None = None
    rounds_crop: bool = False
    on_white: bool = True
    processor: Any = None
    shape: tuple[int, ...] | None = None
    own_views: bool = True
    own_evaluation: bool = True

    def evaluate(self, image: PILImage.Image) -> Tensor:
        """The `pixel_values` (float32, without a batch dimension) of an image that is not augmented."""
        if not self.own_evaluation:
            return self.ask(image)
        return self.normalise(self.resize_and_crop(to_rgb(image, self.on_white)))

    def view(self, image: PILImage.Image, box: tuple[int, int, int, int], mirrored: bool) -> Tensor:
        """
        The `pixel_values` of a part of an image, resized to the network's size and perhaps mirrored.

        Args:
            image (`PIL.Image.Image`): The image.
            box (`tuple[int, int, int, int]`): Left, top, right, bottom in its pixels; beyond its border is black.
            mirrored (`bool`): Whether left and right are swapped.
        """
        # Cropped before it is resized: resize(box=...) would blend in pixels from outside the box.
        part = to_rgb(image, self.on_white).crop(box)
        if self.own_views:
            part = part.resize(self.size[::-1], self.resample)
        if mirrored:
            part = part.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT)
        return self.normalise(np.asarray(part)) if self.own_views else self.ask(part)

    def ask(self, image: PILImage.Image) -> Tensor:
        """
        What the processor itself makes of an image.

        Raises:
            `ValueError`: if it is of another shape than for the images that it was measured with.
        """
        pixels = self.processor(images=to_rgb(image, self.on_white), return_tensors="pt")["pixel_values"][0]
        if self.shape is not None and tuple(pixels.shape) != self.shape:
            raise ValueError(
                f"{type(self.processor).__name__} makes pixels of shape {tuple(pixels.shape)} of an image of "
                f"{image.height} × {image.width}, and of shape {self.shape} of others: resize the images beforehand."
            )
        return pixels.float()

    def bytes(self, image: PILImage.Image) -> np.ndarray | None:
        """
        The uint8 pixels `[height, width, 3]` that [`Pixels.normalise`] turns into those of [`Pixels.evaluate`]; `None`
        if there are none, because the processor resizes in floating point.
        """
        if self.own_evaluation:
            return self.resize_and_crop(to_rgb(image, self.on_white))
        if not self.own_views:
            return None
        levels = self.levels(self.ask(image))
        whole = np.rint(levels)
        is_exact = np.abs(levels - whole).max() < 1e-3 and 0 <= whole.min() and whole.max() <= 255
        return whole.astype(np.uint8) if is_exact else None

    def resize_and_crop(self, image: PILImage.Image) -> np.ndarray:
        """Resizes an RGB image and crops its centre: uint8 `[height, width, 3]`."""
        (height, width), resize = self.size, self.resize or self.size
        if isinstance(resize, int):
            w, h = image.size
            resize = (int(resize * h / w), resize) if w <= h else (resize, int(resize * w / h))
        if image.size != resize[::-1]:
            image = image.resize(resize[::-1], self.resample)
        left, top = ((image.width - width) / 2, (image.height - height) / 2)
        left, top = (round(left), round(top)) if self.rounds_crop else (math.floor(left), math.floor(top))
        return np.asarray(image.crop((left, top, left + width, top + height)))

    def normalise(self, pixels: np.ndarray) -> Tensor:
        """uint8 RGB `[height, width, 3]` as `pixel_values`."""
        scale, offset = scale_and_offset(self.mean, self.std)
        values = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)[list(self.order)])).float()
        return values.mul_(scale).add_(offset).reshape(self.shape or values.shape)

    def levels(self, values: Tensor) -> np.ndarray:
        """The reverse of [`Pixels.normalise`]: RGB `[height, width, 3]` in float64."""
        channels = values.double().reshape(3, *self.size).permute(1, 2, 0).numpy()
        levels = np.empty(channels.shape)
        levels[..., list(self.order)] = 255 * (channels * np.array(self.std) + np.array(self.mean))
        return levels

    def tolerance(self) -> float:
        """What rounding in float32 may do to a value of `pixel_values`: 16 roundings of the largest."""
        return 16 * 2.0**-23 * max((1 + abs(mean)) / std for mean, std in zip(self.mean, self.std, strict=True))

    def description(self, augment: bool) -> str:
        """Two of these make the same pixels, for training views or for evaluation, if this is the same."""
        text = (
            f"{self.size}, mean={self.mean}, std={self.std}, order={self.order}, {self.resample.name}, "
            f"on_white={self.on_white}, shape={self.shape or (3, *self.size)}"
        )
        if augment and self.own_views:
            return text
        if not augment and self.own_evaluation:
            return f"{text}, resize={self.resize or self.size}" + ", rounds_crop" * self.rounds_crop
        settings = json.dumps(self.processor.to_dict(), sort_keys=True, default=str)
        return f"{text}, {type(self.processor).__name__} {hashlib.sha256(settings.encode()).hexdigest()[:16]}"


def scale_and_offset(mean: Any, std: Any) -> tuple[Tensor, Tensor]:
    """`(x / 255 - mean) / std` as one multiplication and one addition, `[channels, 1, 1]` each."""
    scale = 1 / (255 * torch.tensor(std, dtype=torch.float32))
    offset = -torch.tensor(mean, dtype=torch.float32) / torch.tensor(std)
    return scale.view(-1, 1, 1), offset.view(-1, 1, 1)
