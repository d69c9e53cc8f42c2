"""Augmentation against plain crops of one image, and the same pixels whatever hands them out."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_ltkd import ImageDataset
from hf_ltkd.data.augment import gather_crops
from hf_ltkd.trainer import SetEpochCallback


MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def random_images(count=24, height=8, width=8):
    return torch.randint(1, 256, (count, 3, height, width), dtype=torch.uint8, generator=torch.manual_seed(0))


def make(images=None, **kwargs):
    images = random_images() if images is None else images
    kwargs = {"mean": MEAN, "std": STD, "augment": True} | kwargs
    return ImageDataset(images, list(range(len(images))), **kwargs)


def pixels(dataset, indices=None):
    return torch.stack([dataset[i]["pixel_values"] for i in (range(len(dataset)) if indices is None else indices)])


def normalised(image):
    """One uint8 image `[channels, height, width]` in float64 numpy."""
    mean, std = np.array(MEAN).reshape(3, 1, 1), np.array(STD).reshape(3, 1, 1)
    return (image.astype(np.float64) / 255 - mean) / std


def find_view(image, seen, padding):
    """The only `(y, x, flip)` whose plain crop of the zero-padded image looks like `seen`."""
    height, width = image.shape[1:]
    padded = np.zeros((3, height + 2 * padding, width + 2 * padding), dtype=np.uint8)
    padded[:, padding : padding + height, padding : padding + width] = image
    found = []
    for y in range(2 * padding + 1):
        for x in range(2 * padding + 1):
            crop = padded[:, y : y + height, x : x + width]
            for flip in (False, True):
                if np.allclose(normalised(crop[:, :, ::-1] if flip else crop), seen, atol=1e-5):
                    found.append((y, x, flip))
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("batch_size, num_workers", [(1, 0), (5, 0), (24, 0), (5, 2)])
def test_any_loader_gives_the_same_pixels(augment, batch_size, num_workers):
    dataset = make(augment=augment)
    dataset.set_epoch(3)
    expected = pixels(dataset)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1)).tolist()
    seen = 0
    for batch in DataLoader(dataset, batch_size, sampler=order, num_workers=num_workers):
        assert torch.equal(batch["pixel_values"], expected[batch["labels"]])
        seen += len(batch["labels"])
    assert seen == 24


def test_workers_that_stay_alive_see_the_next_epoch():
    dataset = make()
    loader = DataLoader(dataset, 6, num_workers=2, persistent_workers=True)
    for epoch in (0, 1, 2):
        dataset.set_epoch(epoch)
        assert torch.equal(torch.cat([batch["pixel_values"] for batch in loader]), pixels(dataset))
    loader._iterator._shutdown_workers()  # the garbage collector would wait 5 seconds for them


def test_epochs_and_seeds_differ_and_come_back():
    dataset = make()
    first = pixels(dataset)
    dataset.set_epoch(1)
    assert not torch.equal(pixels(dataset), first)
    dataset.set_epoch(0)
    assert torch.equal(pixels(dataset), first)
    assert torch.equal(pixels(make()), first)
    assert not torch.equal(pixels(make(seed=1)), first)


@pytest.mark.parametrize("height, width, padding", [(8, 8, 4), (6, 9, 2), (8, 8, 0)])
def test_a_view_is_a_plain_crop(height, width, padding):
    images = random_images(height=height, width=width)
    seen = pixels(make(images, padding=padding)).numpy()
    views = [find_view(image, view, padding) for image, view in zip(images.numpy(), seen, strict=True)]
    assert {flip for *_, flip in views} == {False, True}
    assert len(set(views)) > (10 if padding else 1)


def test_no_flip():
    images = random_images()
    seen = pixels(make(images, horizontal_flip=False)).numpy()
    assert not any(find_view(image, view, 4)[2] for image, view in zip(images.numpy(), seen, strict=True))


@pytest.mark.parametrize("padding", [0, 4])
def test_without_augmentation(padding):
    images = random_images(height=5)
    dataset = make(images, augment=False, padding=padding)
    before = pixels(dataset)
    expected = np.stack([normalised(image) for image in images.numpy()])
    np.testing.assert_allclose(before.numpy(), expected, rtol=0, atol=1e-6)
    assert before.dtype == torch.float32
    dataset.set_epoch(5)
    assert torch.equal(pixels(dataset), before)


def test_labels():
    dataset = ImageDataset(random_images(4), [3, 1, 3, 0], mean=MEAN, std=STD)
    assert len(dataset) == 4
    assert [int(dataset[i]["labels"]) for i in range(4)] == [3, 1, 3, 0]
    assert dataset[0]["labels"].dtype == torch.int64


def test_handed_out_pixels_are_copies():
    dataset = make(augment=False)
    before = pixels(dataset)
    dataset[0]["pixel_values"].zero_()
    assert torch.equal(pixels(dataset), before)


def slow_bits(seed, view, index):
    """The 64 bits of one example: SplitMix64 three times, with Python's integers."""
    bits = seed
    for part in (0, view, index):
        bits = ((bits ^ part) + 0x9E3779B97F4A7C15) % 2**64
        bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % 2**64
        bits ^= bits >> 31
    return bits


def slow_crop(image, bits, padding):
    """The uint8 pixels of one view, from slices: offsets and mirroring by 21 of the 64 bits each."""
    height, width = image.shape[1:]
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    y, x = ((bits >> first) % 2**21 * (2 * padding + 1) // 2**21 for first in (0, 21))
    crop = padded[:, y : y + height, x : x + width]
    return crop[:, :, ::-1] if bits >> 62 & 1 else crop


def assert_crops(batch, images, view, padding):
    """`batch`, normalised with mean 0 and deviation 1, holds exactly the crops of all `images`."""
    crops = [slow_crop(image, slow_bits(7, view, i), padding) for i, image in enumerate(images.numpy())]
    seen = (255 * batch.double()).cpu().numpy()
    np.testing.assert_allclose(seen, np.stack(crops), rtol=0, atol=1e-4)
    assert len({crop.tobytes() for crop in crops}) == len(images)


def batch_of(dataset):
    return torch.stack([item["pixel_values"] for item in dataset.__getitems__(list(range(len(dataset))))])


PLAIN = {"mean": [0.0] * 3, "std": [1.0] * 3, "seed": 7}


@pytest.mark.parametrize("height, width, padding", [(8, 8, 4), (6, 9, 2), (8, 8, 0)])
def test_a_batch_is_the_crops_one_by_one(height, width, padding):
    images = random_images(40, height, width)
    dataset = make(images, padding=padding, **PLAIN)
    for view in (0, 5):
        dataset.set_epoch(view)
        assert_crops(batch_of(dataset), images, view, padding)


@pytest.mark.parametrize("height, width, padding", [(8, 8, 4), (6, 9, 2), (8, 8, 0)])
def test_crops_gathered_by_torch(height, width, padding):
    """What a GPU runs, here on the CPU."""
    images = random_images(40, height, width)
    all_bits = [slow_bits(7, 0, i) for i in range(40)]
    y, x = (np.array([(b >> first) % 2**21 * (2 * padding + 1) // 2**21 for b in all_bits]) for first in (0, 21))
    mirrored = np.array([b >> 62 & 1 == 1 for b in all_bits])
    crops = make(images, padding=padding)._crops
    seen = gather_crops(crops, np.arange(40), y, x, mirrored)
    assert seen.dtype == torch.uint8
    assert_crops(seen / 255, images, 0, padding)


def test_device_of_the_images():
    dataset = make(device="cpu")
    assert dataset.device == make().device == torch.device("cpu")
    assert torch.equal(pixels(dataset), pixels(make())) and dataset.fingerprint == make().fingerprint


def test_workers_cannot_use_a_gpu():
    dataset = make()
    dataset.device = torch.device("cuda", 0)
    with pytest.raises(ValueError, match="images are on cuda:0, which worker .* set dataloader_num_workers=0"):
        next(iter(DataLoader(dataset, 4, num_workers=1)))


@pytest.mark.gpu
@pytest.mark.parametrize("augment", [False, True])
def test_pixels_on_a_gpu_are_those_of_the_cpu(augment):
    images = random_images(40)
    on_gpu = make(images, augment=augment, device="cuda", **PLAIN)
    on_gpu.set_epoch(3)
    assert on_gpu.device.type == on_gpu[0]["pixel_values"].device.type == "cuda"
    assert on_gpu.labels.device.type == "cpu"
    if augment:
        assert_crops(batch_of(on_gpu), images, 3, 4)  # the uint8 pixels, exactly
    gpu, cpu = (make(images, augment=augment, device=device) for device in ("cuda", "cpu"))
    torch.testing.assert_close(pixels(gpu).cpu(), pixels(cpu), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(pixels(make(images.cuda(), augment=augment)).cpu(), pixels(cpu), rtol=1e-6, atol=1e-6)
    assert gpu.fingerprint == cpu.fingerprint


@pytest.mark.parametrize("across", ["examples", "epochs"])
def test_offsets_and_flips_are_uniform_and_independent(across):
    # Nine different pixels in a border of 1: each of the 3 * 3 * 2 views looks different.
    views, size = 3600, 3
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, size, size).expand(1, 3, size, size)
    plain = {"mean": [0.0] * 3, "std": [1.0] * 3, "padding": 1}
    if across == "examples":
        seen = torch.stack(
            [v["pixel_values"] for v in make(image.repeat(views, 1, 1, 1), **plain).__getitems__(list(range(views)))]
        )
    else:
        dataset, rows = make(image.contiguous(), **plain), []
        for epoch in range(views):
            dataset.set_epoch(epoch)
            rows.append(dataset[0]["pixel_values"])
        seen = torch.stack(rows)
    _, counts = (255 * seen).round().flatten(1).unique(dim=0, return_counts=True)
    assert len(counts) == 3 * 3 * 2  # every offset, mirrored and not
    expected = views / 18
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 40.8  # 17 degrees of freedom, p = 0.001


@pytest.mark.parametrize(
    "change, message",
    [
        ({"images": torch.zeros(2, 3, 4, 4)}, "images must be a uint8 tensor .* got torch.float32"),
        ({"images": torch.zeros(3, 4, 4, dtype=torch.uint8)}, r"of shape \(3, 4, 4\)"),
        ({"labels": [0]}, "got 1 labels"),
        ({"mean": [0.5]}, "1 means"),
        ({"std": [0.5]}, "1 deviations"),
        ({"padding": -1}, "padding=-1 is not valid"),
        ({"std": [0.5, 0.0, 0.5]}, r"std=\[0.5, 0.0, 0.5\] is not valid"),
    ],
)
def test_errors(change, message):
    arguments = {"images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "labels": [0, 1], "mean": MEAN, "std": STD}
    with pytest.raises(ValueError, match=message):
        ImageDataset(**(arguments | change))


@pytest.mark.parametrize("reached, epoch", [(0, 0), (2.9999999999, 3), (3.0, 3), (3.5, 3)])
def test_callback_sets_the_epoch(reached, epoch):
    dataset, expected = make(), make()
    expected.set_epoch(epoch)
    state = SimpleNamespace(epoch=reached)
    SetEpochCallback().on_epoch_begin(None, state, None, train_dataloader=DataLoader(dataset, 4))
    assert torch.equal(pixels(dataset), pixels(expected))


@pytest.mark.parametrize("loader", [None, DataLoader([1, 2])])
def test_callback_leaves_other_data_alone(loader):
    SetEpochCallback().on_epoch_begin(None, SimpleNamespace(epoch=1.0), None, train_dataloader=loader)


def test_callback_tells_any_dataset_that_has_epochs():
    class Epochs(list):
        def set_epoch(self, epoch):
            self.append(epoch)

    dataset = Epochs()
    SetEpochCallback().on_epoch_begin(
        None, SimpleNamespace(epoch=4.0), None, train_dataloader=SimpleNamespace(dataset=dataset)
    )
    assert dataset == [4]


def test_fingerprint_is_that_of_the_content():
    dataset = make()
    dataset.set_epoch(3)
    assert dataset.fingerprint == make().fingerprint
    assert "24 examples, augment=True, horizontal_flip=True, seed=0, padding=4" in dataset.fingerprint
    one_pixel = random_images()
    one_pixel[20, 2, 7, 7] += 1
    reshaped = random_images().view(24, 3, 4, 16)  # the same bytes
    others = [make(one_pixel), make(reshaped), make(seed=1), make(std=[0.2, 0.25, 0.31]), make(padding=3)]
    assert len({dataset.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_a_loop_over_a_dataset_ends_and_a_wrong_index_is_an_error():
    data = ImageDataset(torch.zeros(3, 3, 4, 4, dtype=torch.uint8), [0, 1, 2], **PLAIN)
    assert [item["labels"].item() for item in data] == [0, 1, 2]
    assert [data[i]["labels"].item() for i in (-1, -3)] == [2, 0]
    asked = np.array([-1, 0])
    data.__getitems__(asked)
    assert asked.tolist() == [-1, 0]  # the caller's array stays as it is
    for index in (3, -4, 10**12):
        with pytest.raises(IndexError, match=f"no example of index {index}"):
            data[index]
    with pytest.raises(IndexError, match="no example of index 1, 5"):
        next(iter(torch.utils.data.DataLoader(torch.utils.data.Subset(data, [1, 5]), batch_size=2)))
