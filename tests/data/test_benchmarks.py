"""The benchmarks of the paper, from the Hub and from their official layouts, made here."""

import math

import datasets
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from helpers import black, touch, write_image, write_list
from PIL import Image as PILImage
from transformers import AutoImageProcessor

from hf_ltkd.data import LazyImageDataset, cifar100_lt, imagenet_lt, read_tiny_imagenet, tiny_imagenet_lt


WNIDS = ["n01440764", "n01443537", "n02119789"]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


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


def test_real_cifar100(data_dir, monkeypatch):
    monkeypatch.setattr("hf_ltkd.data.images._decode", black)
    data = cifar100_lt(100, data_dir=str(data_dir / "cifar100"), progress=False)
    assert len(data.train) == 10_948 and len(data.test) == 10_000
    assert data.groups.group_of_class.tolist() == [0] * 33 + [1] * 34 + [2] * 33
    assert data.class_names[0] == "apple" and data.class_names[99] == "worm"
    assert data.groups.class_counts == tuple(data.train.labels.bincount().tolist())
    ldam = cifar100_lt(100, data_dir=str(data_dir / "cifar100"), split_rule="ldam", progress=False)
    assert len(ldam.train) == 10_847 and ldam.split.rule == "ldam"


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


def test_cifar_folders_need_no_label_column(tmp_path):
    for c in range(3):
        for split in ("train", "test"):
            write_image(tmp_path / split / f"class_{c}" / "0.jpg", c, 32, 32)
    data = cifar100_lt(1, data_dir=str(tmp_path), progress=False)
    assert data.class_names == ["class_0", "class_1", "class_2"] and data.test.labels.tolist() == [0, 1, 2]


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
