"""Augmentation of the user's own: repeatable for each view, the same for teacher and student."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from PIL import ImageOps
from torch.utils.data import DataLoader
from transformers import MobileViTImageProcessor, ViTImageProcessor

from hf_ltkd import ImageDataset, TeacherCache, create_model
from hf_ltkd.data import DataArguments, LazyImageDataset, load_image_data
from hf_ltkd.data.transforms import describe_transform, find_transform


MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def jitter(image):
    """Draws from every global generator there is."""
    brightness = random.random() + np.random.rand() + torch.rand(()).item()
    return image.point(lambda value: int(value * brightness / 3))


def in_memory(transform=jitter, augment=True, **kwargs):
    images = torch.randint(1, 256, (12, 3, 8, 8), dtype=torch.uint8, generator=torch.manual_seed(0))
    kwargs = {"mean": MEAN, "std": STD, "transform": transform, "augment": augment, "padding": 1} | kwargs
    return ImageDataset(images, list(range(12)), **kwargs)


def lazy(transform=jitter, augment=True, **kwargs):
    rng = np.random.default_rng(0)
    images = [
        PILImage.fromarray(rng.integers(0, 256, (*rng.integers(20, 40, 2).tolist(), 3), dtype=np.uint8))
        for _ in "ab" * 4
    ]
    data = Dataset.from_dict({"image": images}, features=Features({"image": Image()}))
    kwargs = {"mean": MEAN, "std": STD, "image_size": 8, "transform": transform, "augment": augment} | kwargs
    return LazyImageDataset(data, "image", [0] * 8, **kwargs)


def stacked(dataset, name="pixel_values", view=0):
    dataset.set_epoch(view)
    return torch.stack([item[name] for item in dataset.__getitems__(list(range(len(dataset))))])


both = pytest.mark.parametrize("make", [in_memory, lazy], ids=["in memory", "lazy"])


# ---- One view is one image ----


@both
@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_same_views_for_any_order_batch_and_number_of_workers(make, num_workers):
    """Whatever the global generators are at, and without moving them."""
    dataset = make()
    expected = stacked(dataset, view=3)
    assert not torch.equal(expected, stacked(dataset, view=2))
    assert not torch.equal(expected, stacked(make(seed=1), view=3))
    assert not torch.equal(expected, stacked(make(None), view=3))
    dataset.set_epoch(3)
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        loader = DataLoader(
            dataset, 5, sampler=order, num_workers=num_workers, generator=torch.Generator(), collate_fn=list
        )
        seen = torch.stack([item["pixel_values"] for batch in loader for item in batch])
        assert torch.equal(seen, expected[order])
        assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


@both
def test_after_crop_and_mirroring_before_normalisation(make):
    """The transform of a view is the view of the transform, where that works on single pixels."""
    invert = ImageOps.invert
    values = {name: stacked(make(transform, horizontal_flip=True)) for name, transform in
              {"plain": None, "inverted": invert}.items()}  # fmt: skip
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    levels = {name: 255 * (value * std + mean) for name, value in values.items()}
    torch.testing.assert_close(levels["inverted"], 255 - levels["plain"], rtol=0, atol=1e-3)


@both
def test_without_the_basic_ones_it_gets_the_whole_image(make):
    sizes = []

    def look(image):
        sizes.append(image.size)
        return image

    assert torch.equal(stacked(make(look, augment=False)), stacked(make(look, augment=False), view=1))
    if make is lazy:
        assert max(map(max, sizes)) > 20
    else:
        assert torch.equal(stacked(make(look, augment=False)), stacked(make(None, augment=False)))


@both
@pytest.mark.parametrize("change", [
    lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1),
    lambda image: np.array(image),
    lambda image: image.resize((16, 16), PILImage.Resampling.NEAREST).resize((8, 8), PILImage.Resampling.NEAREST),
])  # fmt: skip
def test_what_it_may_return(make, change):
    assert torch.equal(stacked(make(change)), stacked(make(lambda image: image)))


@both
def test_what_it_may_not_return(make):
    def normalise(image):
        return torch.from_numpy(np.array(image) / 255)

    with pytest.raises(
        ValueError, match=r"normalise.* returned torch.float64 of shape \(8, 8, 3\), expected an image"
    ):
        make(normalise)[0]
    with pytest.raises(ValueError, match="it takes 1 or 3 channels on the CPU"):
        ImageDataset(torch.zeros(2, 2, 8, 8, dtype=torch.uint8), [0, 1], mean=[0] * 2, std=[1] * 2, transform=jitter)


def test_one_channel():
    images = torch.randint(0, 256, (4, 1, 1, 8), dtype=torch.uint8)
    data = ImageDataset(images, [0] * 4, mean=[0.0], std=[1.0], transform=ImageOps.invert)
    torch.testing.assert_close(255 * stacked(data), 255 - images.float())


# ---- Teacher, cache, checkpoints ----


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        images = [PILImage.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(12)]
        features = Features({"image": Image(), "label": ClassLabel(names=["ant", "bee"])})
        data = Dataset.from_dict({"image": images, "label": [i % 2 for i in range(12)]}, features=features)
        data.to_parquet(str(tmp_path / f"{split}.parquet"))
    return tmp_path


PROCESSORS = {
    "normalised otherwise": partial(ViTImageProcessor, size={"height": 8, "width": 8}, image_mean=[0.1] * 3),
    "BGR": partial(MobileViTImageProcessor, size={"height": 8, "width": 8}, do_center_crop=False),
    "larger": partial(ViTImageProcessor, size={"height": 16, "width": 16}),
}


@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize("crop", ["padded", "resized"])
def test_teacher_and_student_see_the_same_view(folder, kind, crop):
    """Red and blue are told apart: only red is drawn upon."""

    def fade_red(image):
        red, *others = image.split()
        return PILImage.merge("RGB", [red.point(lambda value: int(value * torch.rand(()).item())), *others])

    args = DataArguments(data_dir=str(folder), image_size=8, crop=crop, crop_padding=1, augment=fade_red)
    student = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    teacher = PROCESSORS[kind]()
    data = load_image_data(args, processor=student, teacher_processor=teacher, seed=1, progress=False).train
    own, teachers = (stacked(data, name) for name in ("pixel_values", "teacher_pixel_values"))
    if kind == "normalised otherwise":
        teachers = teachers * 0.5 + 0.1
    elif kind == "BGR":
        teachers = teachers.flip(1)
    else:
        teachers = torch.nn.functional.avg_pool2d(teachers * 0.5 + 0.5, 2)
    # A level is 1 / 255; means of four pixels come near those that Pillow makes of them.
    torch.testing.assert_close(own, teachers, rtol=0, atol=1e-5 if kind != "larger" else 0.3)
    assert (own - teachers).abs().mean() < (1e-6 if kind != "larger" else 0.05)


def test_a_cache_is_exact_or_refused(tmp_path):
    generator = np.random.default_rng(0)

    def of_its_own(image):
        return image.point(lambda value: int(value * generator.random()))

    model = create_model("resnet8", 12, image_size=8).eval()
    cache = TeacherCache.build(tmp_path / "a", model, in_memory(), views=2, batch_size=12, progress=False)
    with torch.no_grad():
        live = model(pixel_values=stacked(in_memory(), view=1)).logits
    assert torch.equal(cache.logits(range(12), 1), live)
    with pytest.raises(ValueError, match="was built with dataset"):
        cache.check(dataset=in_memory(ImageOps.invert))
    with pytest.raises(ValueError, match="hands out other pixels of the same view"):
        TeacherCache.build(tmp_path / "b", model, in_memory(of_its_own), views=1, progress=False)


def test_a_transform_has_a_name_and_a_digest():
    """What a function does counts, not where it lies in memory."""
    first, second, other = (eval(f"lambda image: image.rotate({angle})") for angle in (5, 5, 6))
    assert describe_transform(first) == describe_transform(second) != describe_transform(other)
    assert " at 0x" not in describe_transform(first)
    assert in_memory(None).fingerprint.startswith(
        "ImageDataset(12 examples, augment=True, horizontal_flip=True, seed=0, padding=1) "
    )


# ---- Presets ----


def test_none_and_one_of_ones_own(folder, monkeypatch):
    def load(augment):
        args = DataArguments(data_dir=str(folder), image_size=8, crop_padding=2, augment=augment)
        return load_image_data(args, seed=3, progress=False).train

    assert torch.equal(stacked(load("none")), stacked(load("none"), view=1))
    assert not torch.equal(stacked(load("basic")), stacked(load("basic"), view=1))
    assert torch.equal(stacked(load("PIL.ImageOps:invert")), stacked(load(ImageOps.invert)))
    with pytest.raises(ValueError, match="--augment PIL.ImageOps:nothing cannot be imported"):
        load("PIL.ImageOps:nothing")
    with pytest.raises(ValueError, match="augment='random' is not known: use none, basic, randaugment, strong, or"):
        load("random")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--augment strong needs torchvision, which is not installed: pip install"):
        load("strong")


@both
@pytest.mark.parametrize("name", ["randaugment", "strong", "v2", "timm"])
def test_torchvision_and_timm(make, name):
    """Of these, what is drawn comes from the global generators: a view stays what it is."""
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    if name == "v2":
        from torchvision.transforms import v2

        transform = v2.Compose([v2.RandomResizedCrop(6), v2.ColorJitter(0.4, 0.4), v2.RandomPerspective()])
    elif name == "timm":
        auto_augment = pytest.importorskip("timm.data.auto_augment", reason="timm is not installed")
        transform = auto_augment.rand_augment_transform("rand-m9-mstd0.5", {})
    else:
        augment, transform = find_transform(name)
        assert augment
    dataset = make(transform)
    first = stacked(dataset)
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    assert not torch.equal(first, stacked(dataset, view=1))
    assert torch.equal(first, stacked(dataset))
    assert describe_transform(transform) == describe_transform(find_transform(name)[1] if ":" in name else transform)
