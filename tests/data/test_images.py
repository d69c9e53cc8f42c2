"""Parquet files and image folders, made here, through to decoded images."""

import math

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from transformers import ViTImageProcessorPil

from hf_ltkd.data import DataArguments, LazyImageDataset, decode_images, load_image_data


NAMES = ["ant", "bee"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def picture(seed, size=(8, 8)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


TRAIN = {0: [picture(s) for s in range(6)], 1: [picture(s) for s in range(10, 16)]}
TEST = {0: [picture(20)], 1: [picture(30), picture(31)]}


def write_parquet(folder, train_name="train.parquet", test_name="test.parquet", feature=None, image="img", label="y"):
    folder.mkdir(exist_ok=True)
    for name, classes in ((train_name, TRAIN), (test_name, TEST)):
        rows = [(PILImage.fromarray(a), c) for c, arrays in classes.items() for a in arrays]
        Dataset.from_dict(
            {image: [r[0] for r in rows], label: [r[1] for r in rows]},
            features=Features({image: Image(), label: feature or ClassLabel(names=NAMES)}),
        ).to_parquet(str(folder / name))


def write_folders(folder, splits=("train", "test")):
    for split, classes in zip(splits, (TRAIN, TEST), strict=False):
        for c, arrays in classes.items():
            (folder / split / NAMES[c]).mkdir(parents=True)
            for i, array in enumerate(arrays):
                PILImage.fromarray(array).save(folder / split / NAMES[c] / f"{i}.png")


def load(folder, mean=None, std=None, **kwargs):
    kwargs = {"image_size": 8, "label_column": "y"} | kwargs
    return load_image_data(DataArguments(data_dir=str(folder), **kwargs), mean=mean, std=std, progress=False)


def pixels(dataset, data):
    """What a dataset without augmentation hands out, turned back to uint8 `[height, width, 3]`."""
    mean, std = torch.tensor(data.mean).view(3, 1, 1), torch.tensor(data.std).view(3, 1, 1)
    rows = [dataset[i]["pixel_values"] * std + mean for i in range(len(dataset))]
    return [(255 * row).round().to(torch.uint8).permute(1, 2, 0).numpy() for row in rows]


def assert_pictures(dataset, data, classes):
    expected = [(c, a) for c, arrays in classes.items() for a in arrays]
    assert dataset.labels.tolist() == [c for c, _ in expected]
    for seen, (_, array) in zip(pixels(dataset, data), expected, strict=True):
        np.testing.assert_array_equal(seen, array)


@pytest.mark.parametrize("form", ["parquet", "folders"])
def test_load(form, tmp_path):
    if form == "parquet":
        write_parquet(tmp_path / "data")
    else:
        write_folders(tmp_path / "data")
    data = load(tmp_path / "data", label_column="y" if form == "parquet" else "label", crop_padding=0)
    assert data.class_names == NAMES
    assert data.split.class_counts == data.split.full_class_counts == [6, 6]
    assert data.train.augment and not data.test.augment
    assert_pictures(data.test, data, TEST)
    stacked = np.stack([a for arrays in TRAIN.values() for a in arrays]) / 255
    np.testing.assert_allclose(data.mean, stacked.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(data.std, stacked.std((0, 1, 2)), rtol=1e-2)
    data.train.augment = False
    assert_pictures(data.train, data, TRAIN)


def test_several_parquet_files_and_a_validation_split(tmp_path):
    write_parquet(tmp_path / "data", "train-00000-of-00002.parquet", "validation-00000.parquet")
    write_parquet(tmp_path / "data", "train-00001-of-00002.parquet", "validation-00000.parquet")
    data = load(tmp_path / "data")
    assert data.split.full_class_counts == [12, 12]
    assert_pictures(data.test, data, TEST)


def test_plain_integers_are_named_by_their_numbers(tmp_path):
    write_parquet(tmp_path / "data", feature=Value("int64"))
    assert load(tmp_path / "data").class_names == ["0", "1"]


def test_eval_split_wins(tmp_path):
    write_parquet(tmp_path / "data")
    data = load(tmp_path / "data", eval_split="train")
    assert_pictures(data.test, data, TRAIN)


def test_long_tail_and_own_normalisation(tmp_path):
    write_parquet(tmp_path / "data")
    data = load(tmp_path / "data", imbalance_factor=4, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    assert data.split.class_counts == [6, math.floor(6 / 2)]
    assert data.train.labels.tolist() == [0] * 6 + [1] * 3
    assert data.mean == [0.1, 0.2, 0.3] and data.std == [0.4, 0.5, 0.6]
    assert_pictures(data.test, data, TEST)


def test_split_seed_chooses_the_images(tmp_path):
    write_parquet(tmp_path / "data")
    kept = []
    for seed in range(4):
        data = load(tmp_path / "data", imbalance_factor=4, split_seed=seed, crop_padding=0, horizontal_flip=False)
        kept.append(np.stack(pixels(data.train, data)).tobytes())
    assert len(set(kept)) > 1


def decode(*arrays, size):
    column = [a if isinstance(a, PILImage.Image) else PILImage.fromarray(a) for a in arrays]
    dataset = Dataset.from_dict({"img": column}, features=Features({"img": Image()}))
    return decode_images(dataset, "img", size, progress=False)


def test_decode_keeps_images_of_the_right_size():
    array = picture(1)
    images = decode(array, picture(2), size=8)
    assert images.dtype == torch.uint8 and images.shape == (2, 3, 8, 8) and images.is_contiguous()
    np.testing.assert_array_equal(images[0].numpy(), array.transpose(2, 0, 1))


def test_shrinking_sees_every_pixel():
    checks = np.indices((32, 32)).sum(0)[..., None].repeat(3, 2) % 2 * 200
    shrunk = decode(checks.astype(np.uint8), size=8)[0].numpy().astype(int)
    assert np.abs(shrunk - 100).max() <= 1  # taking every fourth pixel would give 0 or 200


@pytest.mark.parametrize("size", [4, 5, 8, 16])
def test_resizing_is_that_of_the_image_processor(size):
    arrays = [picture(1, (12, 8)), picture(2, (8, 8)), picture(3, (7, 9))]
    processor = ViTImageProcessorPil(size={"height": size, "width": size}, do_rescale=False, do_normalize=False)
    expected = processor([PILImage.fromarray(a) for a in arrays], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(decode(*arrays, size=size).float(), expected.float(), rtol=0, atol=0)


def test_enlarging_is_smooth():
    array = np.zeros((2, 2, 3), dtype=np.uint8)
    array[:, 1] = 200
    row = decode(array, size=8)[0, 0, 0].tolist()
    assert row == sorted(row) and len(set(row)) > 2  # neither box nor nearest, which have 2 values


def test_grey_and_transparent_images_become_rgb():
    grey = PILImage.new("L", (8, 8), 77)
    clear = PILImage.new("RGBA", (8, 8), (1, 2, 3, 9))
    images = decode(grey, clear, size=8)
    assert images[:, :, 4, 4].tolist() == [[77, 77, 77], [1, 2, 3]]


@pytest.mark.parametrize("augment", [False, True])
def test_any_kind_of_image_decoded_on_demand(augment, tmp_path):
    """Grey, transparent, with a palette, in CMYK, turned by EXIF: as if converted to RGB files before."""
    smooth = PILImage.fromarray(picture(1, (5, 6))).resize((60, 50), PILImage.Resampling.BICUBIC)
    clear = smooth.convert("RGBA")
    clear.putalpha(smooth.convert("L"))
    turned = smooth.getexif()
    turned[0x0112] = 6  # to be turned by 90 degrees clockwise
    images = {
        "grey.png": (smooth.convert("L"), {}),
        "clear.png": (clear, {}),
        "palette.png": (smooth.quantize(64), {}),
        "cmyk.jpg": (smooth.convert("CMYK"), {}),
        "turned.jpg": (smooth, {"exif": turned}),
    }
    for name, (image, options) in images.items():
        image.save(tmp_path / name, **options)
        rgb = PILImage.open(tmp_path / name).convert("RGB")
        rgb = rgb.transpose(PILImage.Transpose.ROTATE_270) if name == "turned.jpg" else rgb
        rgb.save(tmp_path / f"{name}.bmp")

    def dataset(names):
        files = Dataset.from_dict({"image": [str(tmp_path / n) for n in names]}).cast_column("image", Image())
        kwargs = {"mean": [0.5] * 3, "std": [0.25] * 3, "image_size": 16, "augment": augment}
        return LazyImageDataset(files, "image", [0] * len(names), **kwargs)

    seen, expected = dataset(images), dataset([f"{name}.bmp" for name in images])
    for view in range(3):
        seen.set_epoch(view)
        expected.set_epoch(view)
        for one, other in zip(seen.__getitems__(range(5)), expected.__getitems__(range(5)), strict=True):
            assert torch.equal(one["pixel_values"], other["pixel_values"])


@pytest.mark.parametrize("kwargs", [{}, {"dataset_name": "a", "data_dir": "b"}])
def test_one_source(kwargs):
    with pytest.raises(ValueError, match="either --dataset_name .* or --data_dir"):
        DataArguments(**kwargs)


def test_image_size_error():
    with pytest.raises(ValueError, match="image_size=0 is not valid"):
        DataArguments(data_dir="x", image_size=0)


def test_device_of_the_images(tmp_path):
    write_parquet(tmp_path / "data")
    data, default = load(tmp_path / "data", data_device="cpu"), load(tmp_path / "data")
    assert data.train.device == data.test.device == default.train.device == torch.device("cpu")
    assert data.train.fingerprint == default.train.fingerprint


@pytest.mark.gpu
def test_images_on_a_gpu(tmp_path):
    write_parquet(tmp_path / "data")
    data, default = load(tmp_path / "data", data_device="cuda"), load(tmp_path / "data")
    assert data.train.device.type == data.test.device.type == "cuda"
    assert data.train.fingerprint == default.train.fingerprint
    torch.testing.assert_close(data.test[2]["pixel_values"].cpu(), default.test[2]["pixel_values"])


@pytest.mark.parametrize("name", ["gpu", "hip:3"])
def test_a_device_that_is_not_there(name, tmp_path):
    with pytest.raises(ValueError, match=f"data_device='{name}' cannot be used .*: leave it out"):
        load(tmp_path / "nowhere", data_device=name)  # before it looks for the images


def test_images_that_are_decoded_on_demand_stay_on_the_cpu():
    with pytest.raises(ValueError, match="data_device='cuda' does not go with crop='resized'"):
        DataArguments(data_dir="x", crop="resized", data_device="cuda")
    assert DataArguments(data_dir="x", crop="resized", data_device="cpu").data_device == "cpu"


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match="nowhere' is not a folder"):
        load(tmp_path / "nowhere")


def test_empty_folder(tmp_path):
    with pytest.raises(ValueError, match=r"neither train\*.parquet nor a folder train/"):
        load(tmp_path)


@pytest.mark.parametrize(
    "names, kwargs, message",
    [
        (("train.parquet", "train2.parquet"), {}, r"\['train'\], but no 'test or validation' split"),
        (("test.parquet", "test2.parquet"), {}, r"\['test'\], but no 'train' split"),
        (("train.parquet", "test.parquet"), {"eval_split": "dev"}, "no 'dev' split"),
        (("train.parquet", "test.parquet"), {"label_column": "z"}, r"no column 'z'.*\['img', 'y'\]"),
        (("train.parquet", "test.parquet"), {"image_column": "z"}, r"no image column 'z'.*\['img', 'y'\]"),
        (("train.parquet", "test.parquet"), {"imbalance_factor": 0.5}, "imbalance_factor=0.5 is not valid"),
    ],
)
def test_load_errors(names, kwargs, message, tmp_path):
    write_parquet(tmp_path / "data", *names)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "data", **kwargs)


def test_test_labels_beyond_the_training_classes(tmp_path, monkeypatch):
    monkeypatch.setitem(TEST, 2, [picture(40)])
    write_parquet(tmp_path / "data", feature=Value("int64"))
    with pytest.raises(ValueError, match="test split has labels beyond the 2 classes"):
        load(tmp_path / "data")
