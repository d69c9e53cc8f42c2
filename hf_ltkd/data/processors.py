"""What an image processor does to an image, measured on images made for it: none of its settings is trusted."""

import copy
import itertools
import logging
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image as PILImage
from transformers.image_processing_utils import BaseImageProcessor

from .pixels import Pixels, Resampling, to_rgb


FILTERS = (
    Resampling.BILINEAR,
    Resampling.BICUBIC,
    Resampling.LANCZOS,
    Resampling.BOX,
    Resampling.HAMMING,
    Resampling.NEAREST,
)
logger = logging.getLogger(__name__)
MOST_PIXELS = 1_000_000  # larger ones are not measured, because it takes long


def pixels_of(processor: BaseImageProcessor | Pixels) -> Pixels:
    """
    Measures what an image processor does: size, channel order, colours, filter, crop.

    What [`Pixels`] would make of images of many shapes is compared with what the processor makes of them. Where they
    differ by more than rounding, the processor itself will be asked for each image.

    Args:
        processor (`BaseImageProcessor` or [`Pixels`]):
            An image processor of transformers (or of timm, in transformers' wrapper), or what was measured on one.

    Raises:
        `ValueError`: if it makes no `pixel_values` of one image, or not of one size for all images.
    """
    if isinstance(processor, Pixels):
        return processor
    rng = np.random.default_rng(0)
    shape = _shape(processor, rng)
    height, width = shape[-2:]
    asked: dict[str, Any] = {"own_views": False, "own_evaluation": False}
    pixels = Pixels((height, width), [0.0] * 3, [1.0] * 3, processor=processor, shape=shape)
    pixels.on_white = _on_white(pixels, rng)
    if height * width > MOST_PIXELS or not _find_colours(pixels, rng):
        return replace(pixels, **asked)
    image = _noise(rng, height * 3 // 2, width * 2 + width // 5)
    levels = pixels.levels(pixels.ask(image))

    def error(resample: Resampling, resize: int | tuple[int, int], rounds_crop: bool) -> float:
        tried = replace(pixels, resample=resample, resize=resize, rounds_crop=rounds_crop)
        return float(np.abs(levels - tried.resize_and_crop(image)).mean())

    # First the size and the crop, which matter far more than the filter.
    h, w = _find_resize(pixels, image.height, image.width)
    edges = [edge for edge in (h - 1, h, h + 1, w - 1, w, w + 1) if edge >= max(height, width)]
    sizes: list[int | tuple[int, int]] = [*edges, (height, width), (h, w)]
    candidates = itertools.product(sizes, (False, True))
    pixels.resize, pixels.rounds_crop = place = min(candidates, key=lambda place: error(Resampling.BICUBIC, *place))
    pixels.resample = min(FILTERS, key=lambda resample: error(resample, *place))
    # Half a level on average: rounding to bytes, and Torchvision's arithmetic, do less; another filter does more.
    if error(pixels.resample, *place) > 0.5:
        return replace(pixels, **asked)
    shapes = [(height, width), (height // 3 + 1, width // 2 + 1), (height // 2, 2 * width), (2 * height + 1, width)]
    edge = pixels.resize if isinstance(pixels.resize, int) else height
    for rest in range(1, 5):  # a crop from the centre may round in any way
        shapes += [(edge, edge + rest), (edge + rest, edge)]
    images = [image, *(_noise(rng, *shape) for shape in shapes)]
    for rounds in (pixels.rounds_crop, not pixels.rounds_crop):  # the first image may have no odd pixel
        ours = replace(pixels, rounds_crop=rounds)
        if all(bool((ours.evaluate(i) - ours.ask(i)).abs().max() <= ours.tolerance()) for i in images):
            return ours
    return replace(pixels, own_evaluation=False)


def make_processor(
    size: tuple[int, int],
    mean: list[float],
    std: list[float],
    *,
    resize: int | tuple[int, int] | None = None,
    resample: Resampling = Resampling.BILINEAR,
) -> BaseImageProcessor:
    """
    An image processor that can be saved with a network; the arguments are those of [`Pixels`].

    It takes Torchvision where that is installed, which interpolates a little differently from Pillow.
    """
    from transformers import BitImageProcessor, ViTImageProcessor  # here, because it may warn of Torchvision

    settings: dict[str, Any] = {"image_mean": mean, "image_std": std, "resample": resample, "do_convert_rgb": True}
    height, width = size
    if resize is None or resize == size:
        return ViTImageProcessor(size={"height": height, "width": width}, **settings)
    before = {"shortest_edge": resize} if isinstance(resize, int) else {"height": resize[0], "width": resize[1]}
    return BitImageProcessor(size=before, crop_size={"height": height, "width": width}, **settings)


def resized(pixels: Pixels, size: int | tuple[int, int]) -> Pixels:
    """
    What the same image processor makes with another size of `pixel_values`, a height and a width, or one for both.

    Raises:
        `ValueError`: if its size cannot be set.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if pixels.size == (height, width):
        return pixels
    processor = copy.deepcopy(pixels.processor)
    then = {"height": height, "width": width}
    for name in ("size", "crop_size", "pad_size"):
        sizes = getattr(processor, name, None)
        if sizes:
            now = {"height": pixels.size[0], "width": pixels.size[1]}
            scaled = {
                edge: round(value * then.get(edge, min(height, width)) / now.get(edge, min(pixels.size)))
                for edge, value in dict(sizes).items()
            }
            setattr(processor, name, type(sizes)(**scaled))
    changed = pixels_of(processor)
    if changed.size != (height, width):
        raise ValueError(
            f"{type(processor).__name__} makes {changed.size[0]} × {changed.size[1]} pixels, which cannot be set to "
            f"{height if height == width else f'{height} × {width}'}: leave out "
            f"{'--image_size' if isinstance(size, int) else '--size and --crop_size'}."
        )
    return changed


def choose_pixels(
    teacher: Pixels | None, student: Pixels | None, image_size: int | None = None
) -> tuple[Pixels | None, Pixels | None]:
    """
    What a student sees, and what its teacher sees where that is something else (else `None`).

    Args:
        teacher ([`Pixels`], *optional*): The teacher's own.
        student ([`Pixels`], *optional*): The student's own. Without, it sees what the teacher sees.
        image_size (`int`, *optional*): Another size for the student.
    """
    if student is None and teacher is not None:
        student = teacher
        if type(teacher.processor).__name__ == "TimmWrapperImageProcessor":  # cannot be saved with another network
            how: dict[str, Any] = {"resize": teacher.resize, "resample": teacher.resample}
            student = pixels_of(make_processor(teacher.size, teacher.mean, teacher.std, **how))
    elif teacher is None and student is not None:
        logger.warning("The teacher has no image processor: it is shown the pixels of the student.")
    if student is not None and image_size is not None:
        student = resized(student, image_size)
    return student, None if teacher is student else teacher


def _shape(processor: BaseImageProcessor, rng: np.random.Generator) -> tuple[int, ...]:
    """The shape of `pixel_values` without the batch dimension, the same for images of several sizes."""
    name, first = type(processor).__name__, None
    sizes = [(40, 60), (90, 50), (64, 64)]
    for height, width in sizes:
        try:
            made = processor(images=_noise(rng, height, width), return_tensors="pt")["pixel_values"]
            shape = tuple(made.shape)
        except Exception as error:  # whatever the processor raises
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"{name} makes no pixel_values of a single image ({reason}): choose a model for images with an image "
                "processor of its own."
            ) from error
        text = f"{list(shape)} of an image of {height} × {width}"
        if len(shape) < 4 or shape[-3] != 3 or int(np.prod(shape[:-3])) != 1:
            raise ValueError(
                f"{name} makes pixel_values of shape {text}: patches or several crops, where one image "
                "[1, 3, height, width] is expected; choose a checkpoint of a fixed resolution."
            )
        if first is None:
            first = (shape, text)
            if max(shape) <= 1000:
                sizes.append((2 * shape[-2] + 1, 3 * shape[-1]))  # larger than what it makes
        elif shape != first[0]:
            raise ValueError(
                f"{name} makes pixel_values of shape {first[1]} and {text}, and a batch needs one size: give it one "
                '(do_resize=True and size={"height": ..., "width": ...}), or choose a checkpoint of a fixed '
                "resolution."
            )
    return shape[1:]


def _on_white(pixels: Pixels, rng: np.random.Generator) -> bool:
    """Whether the processor puts what is transparent on white; also if it takes no transparent image at all."""
    values = rng.integers(0, 256, (*pixels.size, 4), dtype=np.uint8)
    image = PILImage.fromarray(values)
    try:
        made = pixels.processor(images=image, return_tensors="pt")["pixel_values"][0].float()
    except Exception:  # whatever it raises at four channels
        return True
    return not np.array_equal(made, pixels.ask(to_rgb(image, on_white=False)))


def _find_colours(pixels: Pixels, rng: np.random.Generator) -> bool:
    """Sets `order`, `mean` and `std` from images of one colour; whether they describe the processor."""

    def answer(colour: Any) -> np.ndarray:
        image = PILImage.new("RGB", pixels.size[::-1], tuple(map(int, colour)))
        height, width = pixels.size
        return pixels.ask(image).double().reshape(3, height, width)[:, height // 2, width // 2].numpy()

    black = answer((0, 0, 0))
    slopes = np.stack([answer(255 * unit) - black for unit in np.eye(3, dtype=int)], axis=1)  # [channel, colour]
    order = slopes.argmax(1)
    scale = slopes[range(3), order]  # of the whole range 0..255
    if not (np.isfinite(scale) & np.isfinite(black) & (scale > 0)).all():
        return False
    pixels.order = tuple(order.tolist())
    pixels.mean, pixels.std = (
        [float(f"{value:.7g}") for value in values] for values in (0 - black / scale, 1 / scale)
    )
    settings = vars(processor := pixels.processor) | getattr(processor, "data_config", {})  # timm's are in data_config
    for name in ("mean", "std"):
        stated = settings.get(f"image_{name}", settings.get(name))
        # All digits where they are the same: then nothing changes with the way in which they came here.
        if np.shape(stated) == (3,) and np.allclose(stated, getattr(pixels, name), rtol=1e-6, atol=1e-6):
            setattr(pixels, name, [float(value) for value in stated])
    colours = rng.integers(0, 256, (8, 3))
    expected = (colours[:, order] / 255 - pixels.mean) / pixels.std
    return bool(np.abs(np.stack([answer(c) for c in colours]) - expected).max() <= pixels.tolerance())


def _find_resize(pixels: Pixels, height: int, width: int) -> tuple[int, int]:
    """What an image of this height and width is resized to: slopes, before and after, of two ramps."""
    sizes = []
    for axis, length in enumerate((height, width)):
        ramp = np.linspace(0, 255, length).round().astype(np.uint8)
        ramp = ramp[:, None, None] if axis == 0 else ramp[None, :, None]
        image = PILImage.fromarray(np.ascontiguousarray(np.broadcast_to(ramp, (height, width, 3))))
        profile = pixels.levels(pixels.ask(image)).mean((1 - axis, 2))
        middle = np.arange(len(profile) // 4, len(profile) - len(profile) // 4)  # padding is further out
        slope = np.polyfit(middle, profile[middle], 1)[0] if len(middle) > 1 else 0.0
        before = 255 / max(1, length - 1)
        sizes.append(round(length * before / slope) if slope > 0 else 0)
    return max(sizes[0], pixels.size[0]), max(sizes[1], pixels.size[1])


def _noise(rng: np.random.Generator, height: int, width: int) -> PILImage.Image:
    return PILImage.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
