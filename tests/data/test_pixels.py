"""Our pixels against those of the image processors of transformers and timm, for all classes that make them."""

import importlib.util
import json
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from transformers import (
    AutoImageProcessor,
    BitImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    DeiTImageProcessor,
    DetrImageProcessor,
    EfficientNetImageProcessor,
    LayoutLMv3ImageProcessor,
    LevitImageProcessor,
    MobileViTImageProcessor,
    PerceiverImageProcessor,
    PoolFormerImageProcessor,
    Siglip2ImageProcessor,
    SiglipImageProcessor,
    ViTImageProcessor,
    VivitImageProcessor,
)
from transformers.models.auto import image_processing_auto as auto
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
from transformers.utils import is_torchvision_available

from hf_ltkd.data.pixels import Pixels, Resampling
from hf_ltkd.data.processors import choose_pixels, make_processor, pixels_of, resized


SHAPES = [(60, 90), (90, 61), (48, 48), (20, 15), (150, 230), (37, 301)]  # height, width
# They make 700 pixels and more a side, and take seconds; timm's takes arguments.
LARGE = "Timm Aria Deepseek Donut DepthPro Nougat Owl PPChart PPDoc PPFormula RTDetr Sam Sapiens Step3 UVDoc Unlimited"


@cache
def noise(height, width, mode="RGB", seed=0):
    channels = len(PILImage.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return PILImage.fromarray(values.squeeze(-1) if channels == 1 else values, mode)


def theirs(processor, image):
    return processor(images=image, return_tensors="pt")["pixel_values"][0].float()


def assert_their_pixels(processor, images, pixels=None):
    """The very values up to `Pixels.tolerance`, which is 16 roundings of the largest value."""
    pixels = pixels or pixels_of(processor)
    for image in images:
        expected = theirs(processor, image)
        torch.testing.assert_close(pixels.evaluate(image), expected, rtol=0, atol=pixels.tolerance())
        values = pixels.bytes(image)
        if values is not None:
            assert values.dtype == np.uint8
            torch.testing.assert_close(pixels.normalise(values), expected, rtol=0, atol=pixels.tolerance())
    return pixels


# ---- All classes ----


def all_names():
    """Every image processor of transformers; those of classifiers are quick."""
    mapping = auto.IMAGE_PROCESSOR_MAPPING_NAMES
    backends = ["pil", "torchvision"][: 1 + is_torchvision_available()]
    models = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    classifiers = {name for model in models for name in mapping.get(model, {}).values()}
    for name in sorted({of_model[b] for of_model in mapping.values() for b in backends if of_model.get(b)}):
        quick = name in classifiers and not any(part in name for part in LARGE.split())
        yield pytest.param(name, marks=() if quick else pytest.mark.slow)


NAMES = list(all_names())


@cache
def pixels_of_class(name):
    return pixels_of(auto.get_image_processor_class_from_name(name)())


def makes_one_image(processor):
    """Whether images of several sizes give `pixel_values` of one shape, [1, 3, height, width]; said by it alone."""
    shapes = set()
    try:
        for image in (noise(40, 60), noise(90, 50), noise(64, 64), noise(97, 960), noise(1300, 1500)):
            shapes.add(tuple(processor(images=image, return_tensors="pt")["pixel_values"].shape))
    except Exception:
        return False
    (shape, *others) = shapes
    return not others and len(shape) >= 4 and shape[-3] == 3 and np.prod(shape[:-3]) == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_image_processor(name):
    try:
        processor = auto.get_image_processor_class_from_name(name)()
    except (ImportError, TypeError) as error:  # needs a library that is not here, or (timm's) arguments
        pytest.skip(str(error))
    if makes_one_image(processor):
        pixels = pixels_of_class(name)
        assert_their_pixels(processor, [noise(60, 90), noise(90, 61), noise(*pixels.size)], pixels)
        view = pixels.view(noise(60, 90), (10, 5, 70, 50), True)
        assert view.shape == pixels.evaluate(noise(60, 90)).shape and view.dtype == torch.float32
    else:
        with pytest.raises(ValueError, match=f"{name} makes .*: (choose|give)|; choose"):
            pixels_of(processor)


def test_most_classes_are_measured():
    """The table is no empty one, and of the classifiers' processors few have to be asked for each image."""
    own = [BitImageProcessor, CLIPImageProcessor, ConvNextImageProcessor, DeiTImageProcessor, LevitImageProcessor]
    own += [EfficientNetImageProcessor, PoolFormerImageProcessor, SiglipImageProcessor, ViTImageProcessor]
    assert len(NAMES) > 80
    for processor_class in own:
        pixels = pixels_of_class(processor_class.__name__)
        assert pixels.own_views
        assert pixels.own_evaluation == processor_class.__name__.endswith("Pil")  # Torchvision's rounds differently


# ---- Settings ----

SQUARE = {"height": 48, "width": 48}
CROPPED = {"do_center_crop": True, "crop_size": SQUARE, "size": {"shortest_edge": 55}}
VARIANTS = {
    "no rescaling": (ViTImageProcessor, {"size": SQUARE, "do_rescale": False}),
    "no normalisation": (ViTImageProcessor, {"size": SQUARE, "do_normalize": False}),
    "neither": (ViTImageProcessor, {"size": SQUARE, "do_normalize": False, "do_rescale": False}),
    "other rescaling": (ViTImageProcessor, {"size": SQUARE, "rescale_factor": 1 / 127.5}),
    "scalar mean": (ViTImageProcessor, {"size": SQUARE, "image_mean": 0.4, "image_std": 0.3}),
    "by channel": (ViTImageProcessor, {"size": SQUARE, "image_mean": [0.1, 0.5, 0.9], "image_std": [0.2, 0.3, 0.4]}),
    "not square": (ViTImageProcessor, {"size": {"height": 40, "width": 56}}),
    "stretched, then cropped": (DeiTImageProcessor, {"size": {"height": 60, "width": 60}, "crop_size": SQUARE}),
    "crop": (CLIPImageProcessor, CROPPED),
    "crop that is not square": (CLIPImageProcessor, {**CROPPED, "crop_size": {"height": 48, "width": 40}}),
    "crop of an odd rest": (CLIPImageProcessor, {**CROPPED, "size": {"shortest_edge": 53}}),
    "crop of unresized images": (CLIPImageProcessor, {**CROPPED, "do_resize": False}),
    "crop larger than the image": (MobileViTImageProcessor, {"size": {"shortest_edge": 40}, "crop_size": SQUARE}),
    "crop percentage": (ConvNextImageProcessor, {"size": {"shortest_edge": 48}, "crop_pct": 0.9}),
    "squash above 384": (ConvNextImageProcessor, {"size": {"shortest_edge": 384}}),
    "PoolFormer's crop": (PoolFormerImageProcessor, {"size": {"shortest_edge": 48}, "crop_size": SQUARE}),
    "crop before resizing": (PerceiverImageProcessor, {"size": SQUARE, "crop_size": {"height": 56, "width": 56}}),
    "blue first": (MobileViTImageProcessor, CROPPED),
    "blue first, normalised": (LayoutLMv3ImageProcessor, {"size": SQUARE, "apply_ocr": False}),
    "normalised twice": (EfficientNetImageProcessor, {"size": SQUARE, "include_top": True}),
    "normalised once": (EfficientNetImageProcessor, {"size": SQUARE, "include_top": False}),
    "offset": (EfficientNetImageProcessor, {"size": SQUARE, "rescale_offset": True, "rescale_factor": 1 / 127.5}),
    "a video of one image": (VivitImageProcessor, CROPPED),
    **{f.name: (ViTImageProcessor, {"size": SQUARE, "resample": f}) for f in Resampling},
}


@pytest.mark.parametrize("processor_class, settings", VARIANTS.values(), ids=VARIANTS)
def test_settings(processor_class, settings):
    if settings.get("resample") in (Resampling.BOX, Resampling.HAMMING) and not ViTImageProcessor.__name__.endswith(
        "Pil"
    ):
        pytest.skip("Torchvision has no such filter")
    processor = processor_class(**settings)
    pixels = assert_their_pixels(processor, [noise(*shape) for shape in SHAPES])
    assert pixels.shape[-2:] == pixels.size == tuple(theirs(processor, noise(60, 90)).shape[-2:])


def test_what_is_measured():
    if not BitImageProcessor.__name__.endswith("Pil"):
        pytest.skip("Torchvision is installed: its resizing rounds differently, so the processor is asked")
    pixels = pixels_of(BitImageProcessor(**CROPPED, resample=Resampling.LANCZOS, image_mean=[0.1, 0.2, 0.3]))
    assert (pixels.size, pixels.resize, pixels.resample) == ((48, 48), 55, Resampling.LANCZOS)
    assert pixels.mean == [0.1, 0.2, 0.3] and pixels.own_views and pixels.own_evaluation
    blue_first = pixels_of(MobileViTImageProcessor(**CROPPED))
    assert blue_first.order == (2, 1, 0) and blue_first.mean == [0] * 3 and blue_first.std == [1] * 3


class Contrast(ViTImageProcessor):
    """Of one's own: each image is normalised by its own mean and deviation."""

    def __call__(self, images, **kwargs):
        made = super().__call__(images, **kwargs)
        values = made["pixel_values"]
        made["pixel_values"] = (values - values.mean()) / (values.std() + 1e-3)
        return made


class Gamma(ViTImageProcessor):
    """Of one's own: no map of colours by a factor and an offset."""

    def __call__(self, images, **kwargs):
        made = super().__call__(images, **kwargs)
        made["pixel_values"] = made["pixel_values"].abs() ** 2.2
        return made


@pytest.mark.parametrize("processor_class", [Contrast, Gamma])
def test_a_processor_that_cannot_be_described_is_asked(processor_class):
    processor = processor_class(size=SQUARE, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    pixels = assert_their_pixels(processor, [noise(*shape) for shape in SHAPES])
    assert not pixels.own_views and not pixels.own_evaluation and pixels.bytes(noise(60, 90)) is None
    part = noise(60, 90).crop((3, 4, 60, 50)).transpose(PILImage.Transpose.FLIP_LEFT_RIGHT)
    assert torch.equal(pixels.view(noise(60, 90), (3, 4, 60, 50), True), theirs(processor, part))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_modes_of_images(mode):
    """As processors that convert by themselves: what is transparent lies on white."""
    processor = CLIPImageProcessor(**CROPPED)
    image = noise(60, 90, "L").convert(mode) if mode in "P1" else noise(60, 90, mode)
    assert_their_pixels(processor, [image])


def test_transparent_colour_of_a_palette():
    image = noise(60, 90).quantize(16)
    image.info["transparency"] = 3
    assert_their_pixels(CLIPImageProcessor(**CROPPED), [image])


@pytest.mark.parametrize(
    "processor, message",
    [
        (
            Siglip2ImageProcessor(),
            r"Siglip2ImageProcessor.* makes pixel_values of shape \[1, 256, 768\] .*fixed resolut",
        ),
        (DetrImageProcessor(), r"\[1, 3, 800, 1200\] of an image of 40 × 60 and .*, and a batch needs one size: give"),
        (ViTImageProcessor(do_resize=False), r"\[1, 3, 40, 60\] of an image of 40 × 60 and \[1, 3, 90, 50\] of an im"),
        (lambda images, return_tensors: {}, "makes no pixel_values of a single image .*: choose a model for images"),
    ],
    ids=["patches", "sizes", "unresized", "none"],
)
def test_refused(processor, message):
    with pytest.raises(ValueError, match=message):
        pixels_of(processor)


def test_another_shape_than_before():
    pixels = pixels_of(ViTImageProcessor(size=SQUARE))
    pixels.own_evaluation, pixels.processor = False, ViTImageProcessor(do_resize=False)
    with pytest.raises(ValueError, match=r"shape \(3, 60, 90\) of an image of 60 × 90, and of shape \(3, 48, 48\)"):
        pixels.evaluate(noise(60, 90))


# ---- timm ----


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"crop_pct": 0.95, "interpolation": "bicubic"},
        {"crop_pct": 0.94},  # resized to 51: the odd pixel of the crop is rounded half to even
        {"crop_mode": "squash", "interpolation": "bilinear"},
        {"crop_mode": "border", "crop_pct": 0.9},
        {"input_size": (3, 40, 56), "mean": (0.5, 0.4, 0.3), "std": (0.5, 0.6, 0.7)},
    ],
)
def test_timm(settings, tmp_path):
    config = {"input_size": (3, 48, 48), "interpolation": "bicubic", "crop_pct": 0.875, **settings}
    folder = {"architecture": "resnet18", "model_type": "timm_wrapper", "num_classes": 2, "pretrained_cfg": config}
    (tmp_path / "config.json").write_text(json.dumps(folder))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    pixels = assert_their_pixels(processor, [noise(*shape) for shape in SHAPES])
    assert pixels.size == tuple(config["input_size"][1:])
    if "mean" in config:
        assert pixels.mean == list(config["mean"]) and pixels.std == list(config["std"])
    if "crop_mode" not in settings:
        assert pixels.own_views and pixels.resample == Resampling.BICUBIC
        assert pixels.own_evaluation or "input_size" in settings  # timm resizes those that are not square differently
    student, teacher = choose_pixels(pixels, None)  # it cannot be saved with another network
    assert teacher is pixels and student.size == pixels.size
    student.processor.save_pretrained(tmp_path / "student")
    assert_their_pixels(AutoImageProcessor.from_pretrained(tmp_path / "student"), [noise(60, 90)])
    with pytest.raises(ValueError, match="which cannot be set to 96: leave out --image_size"):
        resized(pixels, 96)


# ---- Views ----


@pytest.mark.parametrize("name", ["blue first", "normalised twice", "BICUBIC", "NEAREST", "not square", "offset"])
def test_a_view_is_the_crop_as_the_processor_makes_it(name):
    """The whole of a crop, squashed to the network's size: the processor's own resizing, by its class without crop."""
    processor_class, settings = VARIANTS[name]
    pixels = pixels_of(processor_class(**settings))
    assert pixels.own_views
    image, box = noise(150, 230), (20, 30, 120, 110)
    height, width = pixels.size
    crop = image.crop(box).resize((width, height), pixels.resample)
    expected = theirs(processor_class(**{**settings, "do_resize": False}), crop)
    torch.testing.assert_close(pixels.view(image, box, False), expected, rtol=0, atol=pixels.tolerance())
    torch.testing.assert_close(pixels.view(image, box, True), expected.flip(-1), rtol=0, atol=pixels.tolerance())


def test_beyond_the_border_is_black():
    pixels = pixels_of(ViTImageProcessor(size=SQUARE))
    view = pixels.view(PILImage.new("RGB", (48, 48), "white"), (-5, 0, 43, 48), False)
    assert (view[..., :5] == -1).all() and (view[..., 5:] == 1).all()


def test_levels_undo_normalise():
    pixels = Pixels((5, 7), [0.1, 0.5, 0.9], [0.2, 0.3, 0.4], order=(2, 0, 1))
    image = np.asarray(noise(5, 7))
    np.testing.assert_allclose(pixels.levels(pixels.normalise(image)), image, rtol=0, atol=1e-4)


@pytest.mark.parametrize("extra", range(8))
def test_the_odd_pixel_of_a_crop(extra):
    """Down, or half to even as Torchvision's `int(round(extra / 2.0))`: the offset shows in the pixels of a ramp."""
    ramp = PILImage.fromarray(np.broadcast_to(np.arange(8 + extra, dtype=np.uint8)[None, :, None], (8, 8 + extra, 3)))
    for rounds, expected in ((False, extra // 2), (True, int(round(extra / 2.0)))):
        pixels = Pixels((8, 8), [0.0] * 3, [1.0] * 3, resize=8, rounds_crop=rounds)
        assert pixels.resize_and_crop(ramp)[0, 0, 0] == expected


def test_descriptions_differ_where_pixels_do():
    changes = [{}, {"image_mean": [0.4] * 3}, {"resample": Resampling.BICUBIC}, {"size": {"height": 40, "width": 48}}]
    described = [pixels_of(ViTImageProcessor(**{"size": SQUARE, **change})) for change in changes]
    for augment in (False, True):
        assert len({pixels.description(augment) for pixels in described}) == len(changes)
        again = pixels_of(ViTImageProcessor(size=SQUARE))
        assert again.description(augment) == described[0].description(augment)
    crops = [pixels_of(CLIPImageProcessor(**{**CROPPED, "size": {"shortest_edge": edge}})) for edge in (50, 60)]
    assert crops[0].description(True) == crops[1].description(True)
    assert crops[0].description(False) != crops[1].description(False)


# ---- Other sizes, and what a student sees ----


@pytest.mark.parametrize("name", ["crop", "stretched, then cropped", "crop percentage", "not square", "blue first"])
def test_another_size(name):
    processor_class, settings = VARIANTS[name]
    pixels = resized(pixels_of(processor_class(**settings)), 64)
    assert pixels.size == (64, 64) and pixels.processor is not None
    assert_their_pixels(pixels.processor, [noise(*shape) for shape in SHAPES])
    assert resized(pixels, 64) is pixels


@pytest.mark.parametrize("name", ["not square", "blue first"])
def test_another_height_and_width(name):
    processor_class, settings = VARIANTS[name]
    pixels = resized(pixels_of(processor_class(**settings)), (48, 72))
    assert pixels.size == (48, 72)
    assert_their_pixels(pixels.processor, [noise(*shape) for shape in SHAPES])


def test_a_student_without_a_processor_sees_what_its_teacher_sees(caplog):
    teacher, student = (pixels_of(ViTImageProcessor(size=SQUARE, image_mean=[m] * 3)) for m in (0.5, 0.4))
    assert choose_pixels(None, None) == (None, None)
    assert choose_pixels(teacher, None) == (teacher, None)
    assert choose_pixels(teacher, student) == (student, teacher)
    smaller, own = choose_pixels(teacher, None, 32)
    assert smaller.size == (32, 32) and own is teacher and smaller.mean == teacher.mean
    assert not caplog.text and choose_pixels(None, student) == (student, None)
    assert "teacher has no image processor" in caplog.text


@pytest.mark.parametrize("resize", [None, 56, (56, 60)])
def test_made_processors_do_what_they_are_made_for(resize):
    processor = make_processor((48, 48), [0.1, 0.2, 0.3], [0.4, 0.5, 0.6], resize=resize, resample=Resampling.BICUBIC)
    pixels = assert_their_pixels(processor, [noise(*shape) for shape in SHAPES])
    assert pixels.mean == [0.1, 0.2, 0.3] and pixels.std == [0.4, 0.5, 0.6] and pixels.resample == Resampling.BICUBIC
