"""Images decoded on demand: the same views from any loader, as a loop in plain Python draws them."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, Image
from PIL import Image as PILImage
from torch.utils.data import DataLoader

from hf_ltkd.data import LazyImageDataset
from hf_ltkd.data.lazy import random_resized_crop_box
from hf_ltkd.trainer import SetEpochCallback


MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def lazy(count=12, augment=True, **kwargs):
    """Smooth images of several sizes."""
    images = []
    for i in range(count):
        small = np.random.default_rng(i).integers(0, 256, (3, 4, 3), dtype=np.uint8)
        images.append(PILImage.fromarray(small).resize((40 + 5 * i, 110 - 3 * i), PILImage.Resampling.BICUBIC))
    data = Dataset.from_dict({"image": images, "label": list(range(count))}).cast_column("image", Image())
    kwargs = {"image_size": 16, "mean": MEAN, "std": STD} | kwargs
    return LazyImageDataset(data, "image", data["label"], augment=augment, **kwargs)


def pixels(dataset):
    return torch.stack([dataset[i]["pixel_values"] for i in range(len(dataset))])


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("batch_size, num_workers", [(1, 0), (5, 0), (5, 2)])
def test_any_loader_gives_the_same_pixels(augment, batch_size, num_workers):
    dataset = lazy(augment=augment)
    dataset.set_epoch(3)
    expected = pixels(dataset)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1)).tolist()
    seen = 0
    for batch in DataLoader(dataset, batch_size, sampler=order, num_workers=num_workers):
        assert torch.equal(batch["pixel_values"], expected[batch["labels"]])
        seen += len(batch["labels"])
    assert seen == 12


def test_epochs_and_seeds_differ_and_come_back():
    dataset = lazy()
    first = pixels(dataset)
    SetEpochCallback().on_epoch_begin(
        None, SimpleNamespace(epoch=1.0), None, train_dataloader=DataLoader(dataset, 4, num_workers=0)
    )
    second = pixels(dataset)
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    dataset.set_epoch(0)
    assert torch.equal(pixels(dataset), first) and torch.equal(pixels(lazy()), first)
    assert not torch.equal(pixels(lazy(seed=1)), first)
    assert torch.equal(dataset[-1]["pixel_values"], first[-1])


def test_workers_that_stay_alive_see_the_next_epoch():
    dataset = lazy()
    loader = DataLoader(dataset, 6, num_workers=1, persistent_workers=True)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        assert torch.equal(torch.cat([batch["pixel_values"] for batch in loader]), pixels(dataset))


def slow_words(bits, count):
    """SplitMix64 with Python's integers."""
    words = []
    for k in range(count):
        z = (bits + k + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        words.append(z ^ (z >> 31))
    return words


def slow_box(width, height, bits):
    """One try after the other, in plain Python."""
    words = slow_words(bits, 11)
    for word in words[:10]:
        area = (0.08 + 0.92 * (word % 2**32) / 2**32) * width * height
        ratio = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * (word // 2**32) / 2**32)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = (words[10] % 2**21) * (width - w + 1) // 2**21
            top = (words[10] // 2**21 % 2**21) * (height - h + 1) // 2**21
            return left, top, left + w, top + h
    w, h = width, height
    if width / height > 4 / 3:
        w = round(height * 4 / 3)
    elif width / height < 3 / 4:
        h = round(width / (3 / 4))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


@pytest.mark.parametrize(
    "width, height", [(500, 375), (375, 500), (224, 224), (64, 48), (900, 60), (2000, 60), (60, 2000), (1, 9)]
)
def test_box_as_in_plain_python(width, height):
    all_bits = np.random.default_rng(0).integers(0, 2**64, 300, dtype=np.uint64)
    boxes = [random_resized_crop_box(width, height, bits) for bits in all_bits]
    assert boxes == [slow_box(width, height, int(bits)) for bits in all_bits]
    assert all(0 <= l < r <= width and 0 <= t < b <= height for l, t, r, b in boxes)  # noqa: E741
    if width == 2000:
        assert boxes == [(960, 0, 1040, 60)] * 300  # no try fits: the centre


def test_boxes_are_spread():
    all_bits = np.random.default_rng(1).integers(0, 2**64, 4000, dtype=np.uint64)
    boxes = np.array([random_resized_crop_box(1000, 1000, bits) for bits in all_bits])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = w * h / 1e6, w / h
    assert 0.079 < area.min() < 0.09 and area.max() > 0.9
    assert 0.745 < ratio.min() < 0.76 and 1.32 < ratio.max() < 1.34
    assert abs(np.log(ratio).mean()) < 0.02
    room = np.stack([1000 - w, 1000 - h])[:, area < 0.5]
    place = boxes[area < 0.5, :2].T / room
    assert np.abs(place.mean(1) - 0.5).max() < 0.03 and abs(np.corrcoef(place)[0, 1]) < 0.08


def test_a_view_is_a_crop_of_the_image():
    """Of each image, the pixels are those of one box, resized alone, mirrored or not."""
    dataset = lazy(count=30)
    flips = 0
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    for i, bits in enumerate(slow_bits(0, 0, i) for i in range(30)):
        image = dataset._images[i]["image"]
        crop = image.crop(slow_box(*image.size, bits)).resize((16, 16), PILImage.Resampling.BILINEAR)
        mirrored = bool(bits >> 62 & 1)
        flips += mirrored
        array = np.asarray(crop)[:, ::-1] if mirrored else np.asarray(crop)
        expected = (torch.from_numpy(array.copy()).permute(2, 0, 1) / 255 - mean) / std
        torch.testing.assert_close(dataset[i]["pixel_values"], expected, rtol=0, atol=1e-5)
    assert 5 < flips < 25


def slow_bits(seed, view, index):
    """The 64 bits of one example; mirroring is the highest of the 21 bits from bit 42 on."""
    (bits,) = slow_words(seed, 1)
    (bits,) = slow_words(bits ^ view, 1)
    return slow_words(bits ^ index, 1)[0]


def test_no_flip():
    plain, flipped = lazy(horizontal_flip=False), lazy()
    same = [torch.equal(plain[i]["pixel_values"], flipped[i]["pixel_values"]) for i in range(12)]
    mirror = [torch.equal(plain[i]["pixel_values"].flip(-1), flipped[i]["pixel_values"]) for i in range(12)]
    assert all(s or m for s, m in zip(same, mirror, strict=True)) and any(mirror) and any(same)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": [0]}, "2 images of 3 channels .* got 1 labels"),
        ({"mean": [0.5]}, "1 means"),
        ({"std": [0.5, 0.0, 0.5]}, r"std=\[0.5, 0.0, 0.5\] is not valid"),
        ({"labels": [0.5, 1.0]}, "labels must be whole numbers"),
    ],
)
def test_lazy_errors(change, message):
    data = Dataset.from_dict({"image": [None, None]}).cast_column("image", Image())
    with pytest.raises(ValueError, match=message):
        LazyImageDataset(data, "image", **({"labels": [0, 1], "mean": MEAN, "std": STD} | change))
