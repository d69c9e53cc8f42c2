"""The benchmarks in their official layouts, made here, lists of images, and images decoded on demand."""

import math
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor, HfArgumentParser

from hf_ltkd.data import (
    DataArguments,
    LazyImageDataset,
    cifar100_lt,
    imagenet_lt,
    load_image_data,
    read_class_folders,
    read_image_list,
    read_tiny_imagenet,
    tiny_imagenet_lt,
)
from hf_ltkd.data.lazy import random_resized_crop_box
from hf_ltkd.trainer import SetEpochCallback


WNIDS = ["n01440764", "n01443537", "n02119789"]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write_image(path, seed, width=64, height=64, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width) if mode == "L" else (height, width, 3)
    PILImage.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path, "JPEG")


@pytest.fixture
def tiny(tmp_path):
    """tiny-imagenet-200 as it is distributed, with three classes."""
    folder = tmp_path / "tiny-imagenet-200"
    for c, wnid in reversed([*enumerate(WNIDS)]):
        for i in range(4):
            write_image(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", 10 * c + i)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("no image")
    lines = []
    for i, c in enumerate([2, 0, 1, 0]):
        write_image(folder / "val" / "images" / f"val_{i}.JPEG", 100 + i, mode="L" if i == 1 else "RGB")
        lines.append(f"val_{i}.JPEG\t{WNIDS[c]}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    write_image(folder / "test" / "images" / "test_0.JPEG", 200)
    return folder


SIZES = [(300, 200), (200, 301), (256, 256), (257, 260), (90, 400)]


@pytest.fixture
def imagenet(tmp_path):
    folder = tmp_path / "imagenet"
    for c, wnid in enumerate(WNIDS):
        for i in range(4):
            write_image(folder / "train" / wnid / f"{wnid}_{i}.JPEG", 10 * c + i, *SIZES[(c + i) % 5])
    for i, size in enumerate(SIZES):
        mode = "L" if i == 2 else "RGB"
        write_image(folder / "val" / WNIDS[i % 3] / f"ILSVRC2012_val_{i}.JPEG", 100 + i, *size, mode)
    write_image(folder / "test" / "ILSVRC2012_test_0.JPEG", 200)
    return folder


# ---- Presets ----


@pytest.mark.parametrize(
    "benchmark, dataset_name, label_column, image_size, crop, crop_padding",
    [
        ("cifar100_lt", "uoft-cs/cifar100", "fine_label", 32, "padded", 4),
        ("tiny_imagenet_lt", "zh-plus/tiny-imagenet", "label", 64, "padded", 8),
        ("imagenet_lt", "ILSVRC/imagenet-1k", "label", 224, "resized", 4),
    ],
)
def test_preset_on_the_command_line(benchmark, dataset_name, label_column, image_size, crop, crop_padding):
    parser = HfArgumentParser(DataArguments)
    (args,) = parser.parse_args_into_dataclasses(["--benchmark", benchmark, "--imbalance_factor", "10"])
    assert (args.dataset_name, args.label_column, args.data_dir) == (dataset_name, label_column, None)
    assert (args.image_size, args.crop, args.crop_padding) == (image_size, crop, crop_padding)
    assert args.imbalance_factor == 10 and args.group_rule == "thirds" and args.horizontal_flip


def test_own_values_win():
    own = {"data_dir": "x", "label_column": "y", "image_size": 16, "crop": "padded", "crop_padding": 2}
    args = DataArguments(benchmark="imagenet_lt", imbalance_factor=1, group_rule="thresholds", **own)
    assert args.dataset_name is None and args.group_rule == "thresholds"
    assert {name: getattr(args, name) for name in own} == own


def test_defaults_without_a_benchmark():
    (args,) = HfArgumentParser(DataArguments).parse_args_into_dataclasses(["--data_dir", "x"])
    assert (args.label_column, args.image_size, args.crop_padding, args.imbalance_factor) == ("label", 32, 4, 1)
    assert args.crop == "padded" and args.group_rule == "thirds"


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"benchmark": "cifar10"}, r"benchmark='cifar10' is not known: use one of \['cifar100_lt'"),
        ({"benchmark": "imagenet_lt"}, "--benchmark imagenet_lt needs --imbalance_factor: the paper uses"),
        ({"benchmark": "imagenet_lt", "dataset_name": "a", "data_dir": "b"}, "either --dataset_name .* or --data_dir"),
        ({"data_dir": "x", "train_list": "a"}, "Give --train_list and --test_list together"),
        ({"dataset_name": "x", "train_list": "a", "test_list": "b"}, "together, and --data_dir"),
        ({"data_dir": "x", "train_list": "a", "test_list": "b", "imbalance_factor": 5}, "=5 does not go with"),
        ({"data_dir": "x", "crop": "center"}, "crop='center' is not valid: use padded or resized"),
        ({"data_dir": "x", "group_rule": "halves"}, "group_rule='halves' is not valid: use thirds or thresholds"),
    ],
)
def test_argument_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(**kwargs)


@pytest.mark.parametrize(
    "load, dataset_name, columns, splits, normalisation",
    [
        (cifar100_lt, "uoft-cs/cifar100", ("img", "fine_label"), ("train", "test"), (0.5071, 0.2675)),
        (tiny_imagenet_lt, "zh-plus/tiny-imagenet", ("image", "label"), ("train", "valid"), (0.485, 0.229)),
        (imagenet_lt, "ILSVRC/imagenet-1k", ("image", "label"), ("train", "validation", "test"), (0.485, 0.229)),
    ],
)
def test_from_the_hub(load, dataset_name, columns, splits, normalisation, monkeypatch):
    features = Features({columns[0]: Image(), columns[1]: ClassLabel(names=["a", "b", "c"])})
    rows = {columns[0]: [PILImage.new("RGB", (64, 64))] * 9, columns[1]: [0, 1, 2] * 3}
    full = Dataset.from_dict(rows, features=features)
    hub = DatasetDict({name: full if name == "train" else full.select(range(3)) for name in splits})
    if "validation" in splits:  # ImageNet's test images have the label -1
        hub["test"] = Dataset.from_dict({**rows, columns[1]: [-1] * 9}, features=features)
    asked = []
    monkeypatch.setattr("hf_ltkd.data.sources.load_dataset", lambda *args: asked.append(args) or hub)
    data = load(4, split_seed=3, progress=False)
    assert asked == [(dataset_name, None)]
    assert data.split.class_counts == [math.floor(3 * 4 ** (-c / 3)) for c in range(3)] and data.split.seed == 3
    assert data.test.labels.tolist() == [0, 1, 2] and data.class_names == ["a", "b", "c"]
    assert (data.mean[0], data.std[0]) == normalisation
    size = {cifar100_lt: 32, tiny_imagenet_lt: 64, imagenet_lt: 224}[load]
    assert data.train[0]["pixel_values"].shape == data.test[0]["pixel_values"].shape == (3, size, size)


@pytest.mark.parametrize("gamma, total", [(10, 19718), (20, 16046), (100, 10948)])
def test_real_cifar100(data_dir, gamma, total, monkeypatch):
    pixels = lambda dataset, *_, **__: torch.zeros(len(dataset), 3, 1, 1, dtype=torch.uint8)  # noqa: E731
    monkeypatch.setattr("hf_ltkd.data.images.decode_images", pixels)
    data = cifar100_lt(gamma, data_dir=str(data_dir / "cifar100"), progress=False)
    assert len(data.train) == total and len(data.test) == 10_000
    assert data.groups.group_of_class.tolist() == [0] * 33 + [1] * 34 + [2] * 33
    assert data.class_names[0] == "apple" and data.class_names[99] == "worm"
    assert data.groups.class_counts == tuple(data.train.labels.bincount().tolist())


# ---- Layouts ----


def assert_processor_agrees(data, paths):
    """The test images' pixels are those that the saved image processor makes from the files."""
    for i, path in enumerate(paths):
        expected = data.image_processor(PILImage.open(path), return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(data.test[i]["pixel_values"], expected, rtol=0, atol=1e-6)


def test_tiny_imagenet_as_distributed(tiny):
    data = tiny_imagenet_lt(4, data_dir=str(tiny), progress=False)
    assert data.class_names == WNIDS and data.split.full_class_counts == [4, 4, 4]
    assert data.test.labels.tolist() == [2, 0, 1, 0]
    assert data.train.padding == 8 and data.mean == MEAN and data.std == STD
    assert data.groups.group_of_class.tolist() == [0, 1, 2]
    assert_processor_agrees(data, [tiny / "val" / "images" / f"val_{i}.JPEG" for i in range(4)])
    paths = read_tiny_imagenet(tiny)["train"].cast_column("image", Image(decode=False))["image"]
    assert [path["path"] for path in paths] == sorted(path["path"] for path in paths)


def test_tiny_imagenet_errors(tiny):
    annotations = tiny / "val" / "val_annotations.txt"
    text = annotations.read_text()
    annotations.write_text(text + "val_4.JPEG\tn00000000\t0\t0\t1\t1\n")
    with pytest.raises(ValueError, match=r"Line 5 of .*val_annotations.txt' is 'val_4.JPEG\\tn00000000.*3 classes"):
        read_tiny_imagenet(tiny)
    annotations.write_text(text + f"val_9.JPEG\t{WNIDS[0]}\t0\t0\t1\t1\n")
    with pytest.raises(FileNotFoundError, match=r"1 of the 5 images of .*\(val_9.JPEG\)"):
        read_tiny_imagenet(tiny)
    for path in (tiny / "train" / WNIDS[1] / "images").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="n01443537/images' has no image"):
        read_tiny_imagenet(tiny)


def test_imagenet_folders(imagenet, tmp_path):
    data = imagenet_lt(4, data_dir=str(imagenet), progress=False)
    assert data.class_names == WNIDS and data.split.full_class_counts == [4, 4, 4]
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2]
    assert data.mean == MEAN and data.std == STD and isinstance(data.train, LazyImageDataset)
    paths = [sorted((imagenet / "val" / wnid).iterdir()) for wnid in WNIDS]
    paths = [path for folder in paths for path in folder]
    assert_processor_agrees(data, paths)
    data.image_processor.save_pretrained(tmp_path / "model")
    again = AutoImageProcessor.from_pretrained(tmp_path / "model")(PILImage.open(paths[0]), return_tensors="pt")
    torch.testing.assert_close(data.test[0]["pixel_values"], again["pixel_values"][0], rtol=0, atol=1e-6)


def test_cifar_folders_need_no_label_column(tmp_path):
    for c in range(3):
        for split in ("train", "test"):
            write_image(tmp_path / split / f"class_{c}" / "0.jpg", c, 32, 32)
    data = cifar100_lt(1, data_dir=str(tmp_path), progress=False)
    assert data.class_names == ["class_0", "class_1", "class_2"] and data.test.labels.tolist() == [0, 1, 2]


def test_one_folder_around_the_classes(tmp_path):
    for seed, split in enumerate(("train", "test")):
        write_image(tmp_path / split / "animals" / "ant" / "0.jpg", seed, 8, 8)
        write_image(tmp_path / split / "animals" / "bee" / "0.jpg", seed + 2, 8, 8)
    assert read_class_folders(tmp_path / "train") is None
    data = load_image_data(DataArguments(data_dir=str(tmp_path), image_size=8), progress=False)
    assert data.class_names == ["ant", "bee"]


def test_class_folders_with_files_beside_them(tmp_path):
    write_image(tmp_path / "ant" / "0.jpg", 0)
    (tmp_path / "README.md").write_text("no class")
    assert len(read_class_folders(tmp_path)) == 1
    (tmp_path / "metadata.csv").write_text("file_name,label\n")
    assert read_class_folders(tmp_path) is None


def test_class_folder_errors(tmp_path):
    write_image(tmp_path / "ant" / "0.jpg", 0)
    with pytest.raises(ValueError, match=r"classes that the training images lack \(ant\)"):
        read_class_folders(tmp_path, ["bee"])
    (tmp_path / "bee").mkdir()
    (tmp_path / "bee" / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"bee' has no image \(.jpeg, .jpg"):
        read_class_folders(tmp_path)


# ---- Lists ----


def write_list(folder, lines, name="train.txt"):
    (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return folder / name


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()  # an empty file, which cannot be decoded


def test_list(tmp_path):
    touch(tmp_path, "train/b/1.JPEG", "train/b/two words.JPEG", "train/a/3.JPEG")
    lines = ["train/b/1.JPEG 1", "train/b/two words.JPEG\t0", "", "train/a/3.JPEG 1"]
    data = read_image_list(write_list(tmp_path, lines), tmp_path)
    assert data["label"] == [1, 0, 1]
    paths = [image["path"] for image in data.cast_column("image", Image(decode=False))["image"]]
    assert paths == [str(tmp_path / line) for line in ("train/b/1.JPEG", "train/b/two words.JPEG", "train/a/3.JPEG")]


@pytest.mark.parametrize(
    "lines, num_classes, error, message",
    [
        (["a.jpg 0", "b.jpg"], None, ValueError, r"Line 2 of '.*train.txt' is 'b.jpg', not 'relative/path label'"),
        (["a.jpg 0", "b.jpg -1"], None, ValueError, "Line 2 of .* is 'b.jpg -1', not"),
        (["a.jpg 0", "", "b.jpg cat"], None, ValueError, "Line 3 of .* is 'b.jpg cat', not"),
        ([""], None, ValueError, "is empty: it needs one 'relative/path label' per line"),
        (["a.jpg 0", "b.jpg 3"], None, ValueError, "labels up to 3, but no image of class 1, 2: number"),
        (
            ["a.jpg 0", "b.jpg 3000000000"],
            None,
            ValueError,
            r"up to 3000000000, but no image of class 1, 2, 3, 4, 5, \.\.\.",
        ),
        (["a.jpg 0", "b.jpg 3"], 3, ValueError, "label 3, outside the classes 0 to 2 of the training list"),
        (["a.jpg 0", "x/c.jpg 0", "d.jpg 1"], None, FileNotFoundError, r"2 of the 3 images .*\(x/c.jpg, d.jpg\)"),
    ],
)
def test_list_errors(lines, num_classes, error, message, tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(error, match=message):
        read_image_list(write_list(tmp_path, lines), tmp_path, num_classes=num_classes)


def test_no_list(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        read_image_list(tmp_path / "nowhere.txt", tmp_path)


def test_fixed_split(tmp_path):
    counts = [101, 100, 20, 19]
    names = [f"train/{c}/{i}.JPEG" for c, n in enumerate(counts) for i in range(n)]
    touch(tmp_path, *names)
    write_image(tmp_path / names[0], 0, 300, 200)
    write_image(tmp_path / "val" / "0.JPEG", 1, 200, 300)
    lists = {
        "train_list": str(write_list(tmp_path, [f"{name} {name.split('/')[1]}" for name in names])),
        "test_list": str(write_list(tmp_path, ["val/0.JPEG 2"], "test.txt")),
    }
    data = imagenet_lt(None, data_dir=str(tmp_path), **lists)
    assert data.split.class_counts == data.split.full_class_counts == counts and data.class_names == [
        "0",
        "1",
        "2",
        "3",
    ]
    assert data.groups.group_of_class.tolist() == [0, 1, 1, 2]
    assert data.test.labels.tolist() == [2]
    assert data.train[0]["pixel_values"].shape == data.test[0]["pixel_values"].shape == (3, 224, 224)
    assert_processor_agrees(data, [tmp_path / "val" / "0.JPEG"])
    with pytest.raises(ValueError, match="Image 1 cannot be decoded"):
        data.train[1]
    thirds = imagenet_lt(None, data_dir=str(tmp_path), group_rule="thirds", **lists)
    assert thirds.groups.group_of_class.tolist() == [0, 1, 1, 2] and thirds.args.group_rule == "thirds"


# ---- Images decoded on demand ----


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
    data = Dataset.from_dict({"image": [None, None]})
    with pytest.raises(ValueError, match=message):
        LazyImageDataset(data, "image", **({"labels": [0, 1], "mean": MEAN, "std": STD} | change))
