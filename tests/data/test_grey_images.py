"""Images of more than a byte a pixel, as scanners, microscopes and tomographs write them."""

import numpy as np
import pytest
from PIL import Image as PILImage
from transformers import ViTImageProcessor

from hf_ltkd.data.pixels import to_rgb
from hf_ltkd.data.processors import pixels_of


RAMP = np.linspace(0, 1, 256)[None].repeat(8, 0)


@pytest.mark.parametrize(
    "values, expected",
    [
        ((65535 * RAMP).round().astype(np.uint16), RAMP),
        ((4095 * RAMP).round().astype(np.uint16), RAMP * 4095 / 65535),
        ((65535 * RAMP).round().astype(np.int32), RAMP),
        ((255 * RAMP).round().astype(np.int32), RAMP),
        ((10**6 * RAMP).astype(np.int32), RAMP),
        ((3000 * RAMP - 1000).astype(np.int32), RAMP),  # computed tomography
        (RAMP.astype(np.float32), RAMP),
        ((0.5 * RAMP).astype(np.float32), 0.5 * RAMP),
        ((1.0001 * RAMP).astype(np.float32), RAMP),
        ((255 * RAMP).astype(np.float32), RAMP),
        ((65535 * RAMP).astype(np.float32), RAMP),
        ((RAMP - 0.5).astype(np.float32), RAMP),
        (np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), np.where(RAMP > 0.5, 0, RAMP)),
        (np.full((4, 4), np.nan, np.float32), np.zeros((4, 4))),
        (np.full((4, 4), 7e6, np.float32), np.zeros((4, 4))),
    ],
)
def test_grey_of_more_than_a_byte(values, expected, tmp_path):
    PILImage.fromarray(values).save(tmp_path / "image.tif")
    with PILImage.open(tmp_path / "image.tif") as image:
        rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    np.testing.assert_allclose(np.asarray(rgb), (255 * expected)[..., None].repeat(3, -1), rtol=0, atol=1)


def test_big_endian_and_png(tmp_path):
    values = (65535 * RAMP).round().astype(np.uint16)
    PILImage.fromarray(values).save(tmp_path / "image.png")
    big = PILImage.frombytes("I;16B", (256, 8), values.astype(">u2").tobytes())
    for image in (PILImage.open(tmp_path / "image.png"), big):
        np.testing.assert_allclose(np.asarray(to_rgb(image))[..., 0], 255 * RAMP, rtol=0, atol=1)


def test_a_view_is_scaled_as_the_whole_image():
    image = PILImage.fromarray((10**6 * RAMP).astype(np.int32))
    view = pixels_of(ViTImageProcessor(size={"height": 48, "width": 48})).view(image, (0, 0, 26, 8), False)
    assert view.max() < -0.7  # the darkest tenth, -1 is black


def test_rgb_images_are_not_copied():
    image = PILImage.new("RGB", (5, 5))
    assert to_rgb(image) is image
