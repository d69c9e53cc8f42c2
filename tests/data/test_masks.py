"""Masks of every kind give the same ids, are counted exactly, and are refused by name."""

import io
from collections import Counter

import numpy as np
import pytest
from datasets import Array2D, Dataset, DatasetDict, Features, Image, List, Value, load_dataset
from PIL import Image as PILImage

from hf_ltkd import ClassGroups
from hf_ltkd.data.masks import MaskReader, count_masks, place_of


COLORS = [(128, 0, 0), (0, 128, 0), (0, 0, 128), (7, 7, 7)]
VOID = (224, 224, 192)


def some_ids(seed=0, size=(6, 9), classes=4) -> np.ndarray:
    ids = np.random.default_rng(seed).integers(0, classes, size)
    ids[0, :3] = 255
    return ids


def as_colours(ids: np.ndarray) -> np.ndarray:
    return np.array([[COLORS[i] if i != 255 else VOID for i in row] for row in ids.tolist()], dtype=np.uint8)


def palette_image(ids: np.ndarray) -> PILImage.Image:
    image = PILImage.fromarray(ids.astype(np.uint8), mode="P")
    image.putpalette([level for colour in [*COLORS, *[VOID] * 252] for level in colour])
    return image


def png(image: PILImage.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def dataset(masks: list, feature=None) -> Dataset:
    return Dataset.from_dict({"mask": masks}, features=Features({"mask": feature or Image()}))


IDS = some_ids()
TABLE = {**{colour: i for i, colour in enumerate(COLORS)}, VOID: 255}
KINDS = {
    "grey": (PILImage.fromarray(IDS.astype(np.uint8)), None),
    "grey of 16 bits": (PILImage.fromarray(IDS.astype(np.uint16)), None),
    "grey with alpha": (PILImage.fromarray(IDS.astype(np.uint8)).convert("LA"), None),
    "palette": (palette_image(IDS), None),
    "palette by colour": (palette_image(IDS), TABLE),
    "colours": (PILImage.fromarray(as_colours(IDS)), TABLE),
    "colours with alpha": (PILImage.fromarray(as_colours(IDS)).convert("RGBA"), TABLE),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_ids(kind):
    image, colors = KINDS[kind]
    ids = MaskReader(4, colors=colors).read({"path": None, "bytes": png(image)}, "m")
    assert ids.dtype == np.int32 and (ids == IDS).all()


@pytest.mark.parametrize("make", [lambda a: a, lambda a: a.tolist(), lambda a: a[..., None]], ids=["2", "list", "3"])
def test_arrays(make):
    assert (MaskReader(4).read(make(IDS), "m") == IDS).all()
    assert (MaskReader(4).read(make(np.where(IDS == 255, -100, IDS)), "m") == IDS).all()
    assert (MaskReader(4, ignore_index=-100).read(make(np.where(IDS == 255, -100, IDS)), "m") < 4).all()
    assert (MaskReader(4, colors=TABLE).read(as_colours(IDS), "m") == IDS).all()


def test_black_and_white():
    image = PILImage.fromarray(np.eye(4, dtype=bool))
    assert (MaskReader(2).read({"path": None, "bytes": png(image)}, "m") == np.eye(4)).all()


def test_reduced_labels_are_those_of_the_image_processor():
    """0 becomes the ignored id, and all others one less, as `reduce_label` of Transformers does it."""
    from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

    ids = np.array([[0, 1, 2], [4, 255, 3]])
    expected = SegformerImageProcessorPil().reduce_label(ids.copy())
    assert (MaskReader(4, reduce_labels=True).read(ids, "m") == expected).all()


def plain_counts(masks: list[np.ndarray], classes: int) -> list[Counter]:
    return [Counter(i for row in ids.tolist() for i in row if 0 <= i < classes) for ids in masks]


FEATURES = [Image(), Array2D((6, 9), "int32"), List(List(Value("int16")))]


@pytest.mark.parametrize("feature", FEATURES, ids=lambda f: type(f).__name__)
def test_counts_by_a_plain_loop(feature):
    masks = [some_ids(seed) for seed in range(5)]
    masks[3][:] = 255  # an image without a class
    given = [PILImage.fromarray(ids.astype(np.uint8)) for ids in masks] if isinstance(feature, Image) else masks
    expected = plain_counts(masks, 4)
    counts = count_masks(dataset(given, feature), MaskReader())
    assert counts.tolist() == [[c[i] for i in range(4)] for c in expected]
    groups = ClassGroups.from_masks(dataset(given, feature))
    assert groups == ClassGroups.from_counts([sum(c[i] for c in expected) for i in range(4)])
    images = ClassGroups.from_masks(dataset(given, feature), count="images", num_groups=1)
    assert images.class_counts == tuple(sum(c[i] > 0 for c in expected) for i in range(4)) == (4,) * 4


def test_a_second_count_comes_from_the_cache_and_processes_agree(tmp_path, monkeypatch):
    path = str(tmp_path / "masks.parquet")
    dataset([PILImage.fromarray(some_ids(seed).astype(np.uint8)) for seed in range(6)]).to_parquet(path)
    read = []
    original = MaskReader.read
    monkeypatch.setattr(MaskReader, "read", lambda self, *a: read.append(1) or original(self, *a))

    def count(**arguments):
        data = load_dataset("parquet", data_files=path, cache_dir=str(tmp_path / "cache"), split="train")
        read.clear()
        return count_masks(data, MaskReader(), **arguments).tolist(), len(read)

    first, reads = count()
    assert reads == 6 and count() == (first, 0)
    data = load_dataset("parquet", data_files=path, cache_dir=str(tmp_path / "cache"), split="train")
    assert count_masks(data.select(range(6)), MaskReader(4), num_proc=2).tolist() == first


def test_camvids_pixels(data_dir, tmp_path):
    """The shares in the data's own description, in %."""
    if not (data_dir / "camvid").is_dir():
        pytest.skip("the data has no folder camvid")
    path = str(data_dir / "camvid" / "train.parquet")
    data = load_dataset("parquet", data_files=path, columns=["mask"], cache_dir=str(tmp_path), split="train")
    counts = count_masks(data, MaskReader(11))
    shares = 100 * counts.sum(0) / (367 * 240 * 180)
    named = [16.8, 23.2, 1.0, 31.8, 4.5, 9.7, 1.2, 1.1, 5.9, 0.6, 0.3]
    assert shares.round(1).tolist() == named and round(100 - shares.sum(), 1) == 4.0
    groups = ClassGroups.from_counts(counts.sum(0))
    assert groups.group_of_class.tolist() == [0, 0, 2, 0, 1, 0, 1, 2, 1, 2, 2]


JPEG = PILImage.fromarray(IDS.astype(np.uint8))


@pytest.mark.parametrize(
    ("mask", "arguments", "message"),
    [
        (np.array([[0, 4]]), {}, r"mask of row 0 has the id 4 \(1 pixels\), neither .* classes 0 to 3 nor .*=255"),
        (np.array([[1, 4]]), {}, "say reduce_labels=True if ids count from 1"),
        (np.array([[5, 1]]), {"reduce_labels": True}, r"id 5 \(1 pixels\), neither .* classes 1 to 4"),
        (np.array([[0, -1]]), {}, "has the id -1"),
        (np.array([[0, 2**32 + 1]]), {}, "has the id 4294967297"),
        (np.array([[0.5, 1]]), {}, "holds float64 of shape .* no class ids"),
        (np.zeros((2, 2, 3), int), {}, "no class ids: .* colours with a table"),
        (np.zeros((2, 2), int), {"colors": TABLE}, "no colours: leave colors out"),
        (None, {}, "There is no mask of row 0"),
        ({"path": "a/b.png", "bytes": png(JPEG, "JPEG")}, {}, r"mask of row 0 \(a/b.png\) is a JPEG"),
        ({"path": "nowhere.png", "bytes": None}, {}, "The mask 'nowhere.png' cannot be read"),
        ({"path": "x.png", "bytes": b"no image"}, {}, r"The mask of row 0 \(x.png\) cannot be read"),
        ({"path": None, "bytes": None}, {}, "The mask of row 0 cannot be read"),
        (KINDS["colours"][0], {}, r"holds colours \(RGB\), not class ids: say what they mean with colors="),
        (KINDS["colours"][0], {"colors": COLORS}, r"has the colour \(224, 224, 192\) \(3 pixels\), which colors"),
    ],
)
def test_wrong_masks(mask, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        MaskReader(4, **arguments).read(mask, place_of(mask, 0))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 300}, "ignore_index=255 is one of the 300 classes"),
        ({"num_classes": 0}, "num_classes=0 is not valid"),
        ({"ignore_index": 2.5}, "ignore_index=2.5 is not valid"),
        ({"colors": []}, "colors is empty"),
        ({"colors": "red"}, "colors holds None"),
        ({"colors": [(1, 2)]}, r"colors holds \(1, 2\), which is no colour"),
        ({"colors": [(1, 2, 256)]}, "no colour"),
        ({"colors": {(1, 2, 3): "sky"}}, r"colors gives \(1, 2, 3\) the class 'sky'"),
        ({"colors": [(1, 2, 3), (1, 2, 3)]}, r"colors gives \(1, 2, 3\) to the classes 0 and 1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MaskReader(**arguments)


def test_wrong_datasets(tmp_path):
    good = dataset([PILImage.fromarray(IDS.astype(np.uint8))])
    with pytest.raises(ValueError, match="no column 'label': .* the masks as mask_column"):
        ClassGroups.from_masks(good, "label")
    with pytest.raises(ValueError, match="This is a DatasetDict of .*give one split"):
        ClassGroups.from_masks(DatasetDict(train=good))
    with pytest.raises(ValueError, match="count='area' is not valid: choose 'pixels' or 'images'"):
        ClassGroups.from_masks(good, count="area")
    with pytest.raises(ValueError, match=r"1 of 5 classes have no training example \(class 4\)"):
        ClassGroups.from_masks(good, num_classes=5)


def test_a_mask_of_another_size_than_its_image(tmp_path):
    """Named by its file, for sizes in the image's header, turned by its EXIF data as it is when it is decoded."""
    turned = PILImage.new("RGB", (6, 9))
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=turned.getexif())
    PILImage.new("RGB", (8, 6)).save(tmp_path / "small.png")
    PILImage.fromarray(IDS.astype(np.uint8)).save(tmp_path / "mask.png")

    def groups(name):
        rows = {"image": [str(tmp_path / name)], "mask": [str(tmp_path / "mask.png")]}
        data = Dataset.from_dict(rows, features=Features({"image": Image(), "mask": Image()}))
        assert data[0]["image"].size == {"turned.jpg": (9, 6)}.get(name, (8, 6))
        return ClassGroups.from_masks(data, image_column="image")

    assert groups("turned.jpg").num_classes == 4
    with pytest.raises(ValueError, match=r"mask '.*mask.png' is of 6 × 9 .* its image '.*small.png' of 6 × 8"):
        groups("small.png")
