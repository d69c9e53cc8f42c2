"""Images are looked at once: damaged, missing, repeated and unreadable ones are named; rare classes."""

import io
import threading
import warnings

import datasets
import numpy as np
import pytest
from accelerate import PartialState
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from hf_ltkd.data import DataArguments, check_images, load_image_data
from hf_ltkd.data.check import copies, repeated, shared_rows
from hf_ltkd.data.holdout import load_or_hold_out
from hf_ltkd.data.prepare import prepare


NAMES = ["ant", "bee", "cat"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def picture(seed: int, form: str = "PNG", size: int = 32) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    PILImage.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def write(path, content: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def photos(tmp_path):
    """Four images of each class to train on, two of each to evaluate on, all different."""
    folder = tmp_path / "photos"
    for c, name in enumerate(NAMES):
        for i in range(6):
            split = "train" if i < 4 else "test"
            write(folder / split / name / f"{i}.png", picture(10 * c + i))
    return folder


def as_parquet(folder, damaged: dict[int, bytes | None]):
    """12 images in two files, some of them damaged."""
    folder.mkdir()
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    for file, rows in ((0, range(5)), (1, range(5, 12))):
        images = [damaged.get(row, picture(row)) for row in rows]
        files = [
            None if image is None else {"bytes": image, "path": f"img_{row}.png"}
            for row, image in zip(rows, images, strict=True)
        ]
        columns = {"image": files, "label": [row % 3 for row in rows]}
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"train-{file}.parquet")
    return folder


def arguments(folder, **kwargs):
    return DataArguments(data_dir=str(folder), image_size=32, **kwargs)


DAMAGES = {
    "truncated PNG": (picture(99)[:900], "truncated"),
    "truncated JPEG": (picture(99, "JPEG", 64)[:1500], "truncated"),
    "truncated BMP": (picture(99, "BMP")[:900], "truncated"),
    "truncated GIF": (picture(99, "GIF")[:300], ""),
    "empty": (b"", "it is empty"),
    "text": (b"<html>404 Not Found</html>" * 9, "it is none of JPEG, PNG"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\nshowpage\n", "it is none of"),
    "flipped bits": (bytes(b ^ (255 if 300 < i < 320 else 0) for i, b in enumerate(picture(99))), ""),
}


@pytest.mark.parametrize("content, reason", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named(content, reason, photos):
    damaged = write(photos / "train" / "cat" / "2.png", content)
    for crop in ("padded", "resized"):
        with pytest.raises(
            ValueError, match=rf"1 of 18 images cannot be decoded: {damaged} \(.*{reason}.*--skip_damaged"
        ):
            load_image_data(arguments(photos, crop=crop), progress=False)
    report = check_images(arguments(photos), progress=False)
    assert [*report.damaged] == [str(damaged)] and not report.ok


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_whole_images_of_any_format_pass(form, photos):
    write(photos / "train" / "cat" / "2.png", picture(99, form, 70))
    assert check_images(arguments(photos), progress=False).ok


def test_damaged_rows_of_parquet_are_named(tmp_path):
    folder = as_parquet(tmp_path / "data", {3: picture(3)[:900], 4: None, 9: b""})
    report = check_images(arguments(folder), progress=False)
    assert [*report.damaged] == [
        "row 3 of train-0.parquet (img_3.png)",
        "row 4 of train-0.parquet",
        "row 4 of train-1.parquet (img_9.png)",
    ]
    assert report.damaged["row 4 of train-0.parquet"] == "no image is there (null)"


def test_damaged_images_are_left_out_and_listed(tmp_path):
    folder = as_parquet(tmp_path / "data", {3: picture(3)[:900], 4: None, 9: b""})
    source, report = prepare(arguments(folder, skip_damaged=True), progress=False)
    assert list(source.splits["train"].select_columns("label")["label"]) == [0, 1, 2, 2, 0, 1, 2, 1, 2]
    assert len(report.digests["train"]) == 9 and all(report.digests["train"])
    (line,) = [line for line in source.said if "left out" in line]
    assert "row 3 of train-0.parquet" in line and "row 4 of train-1.parquet" in line
    assert source.places("train", [3, 8]) == [
        "row 0 of train-1.parquet (img_5.png)",
        "row 6 of train-1.parquet (img_11.png)",
    ]
    data, holdout = load_or_hold_out(arguments(folder, skip_damaged=True), eval_fraction=0.5, progress=False)
    assert holdout.full_class_counts == [2, 3, 4] and len(data.train) + len(data.test) == 9
    assert line in data.sources


def test_the_look_can_be_left_out(photos):
    write(photos / "train" / "cat" / "2.png", b"")
    assert prepare(arguments(photos, check_images=False), progress=False)[1] is None
    assert DataArguments(benchmark="cifar100_lt", imbalance_factor=10).check_images is False
    assert DataArguments(data_dir="x").check_images is True
    with pytest.raises(ValueError, match="skip_damaged needs to look at the images"):
        DataArguments(data_dir="x", check_images=False, skip_damaged=True)


def test_threads_leave_the_filter_of_warnings_alone(photos, monkeypatch):
    """Of two that restore it, one after the other, the second may restore what the first had set."""
    entered, enter = [], warnings.catch_warnings.__enter__
    note = lambda self: entered.append(threading.current_thread()) or enter(self)  # noqa: E731
    monkeypatch.setattr(warnings.catch_warnings, "__enter__", note)
    check_images(arguments(photos), progress=False)
    assert entered and {*entered} == {threading.main_thread()}


def test_the_same_image_on_both_sides_is_named(photos):
    for number in (0, 1):
        write(photos / "test" / "bee" / f"copy{number}.png", picture(number))  # of ant
    with pytest.warns(
        UserWarning, match="2 of the 8 images to evaluate on are training images, too.*copy0.png = .*ant/0.png"
    ):
        data, _ = load_or_hold_out(arguments(photos), progress=False)
    assert any("2 of the 8 images" in line for line in data.sources)
    report = check_images(arguments(photos), progress=False)
    expected = [(photos / "test/bee" / f"copy{n}.png", photos / "train/ant" / f"{n}.png") for n in (0, 1)]
    assert report.shared == [(str(a), str(b)) for a, b in expected] and not report.ok


def test_the_same_image_twice_in_training_is_named(photos):
    write(photos / "train" / "ant" / "again.png", picture(0))
    write(photos / "train" / "bee" / "again.png", picture(20))  # of cat
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = check_images(arguments(photos), progress=False)
    ant, bee, cat = (str(photos / "train" / name) for name in NAMES)
    assert report.repeated == [[f"{ant}/0.png", f"{ant}/again.png"]]
    assert report.relabelled == [[f"{bee}/again.png", f"{cat}/0.png"]]
    assert report.shared == []


def test_copies_stay_on_one_side_of_a_held_out_part(tmp_path):
    for name, start in (("ant", 0), ("bee", 50)):
        for i in range(20):
            write(tmp_path / name / f"{i:02}.png", picture(start + max(i, 8)))  # the first nine are one image
    for seed in range(5):
        data, holdout = load_or_hold_out(arguments(tmp_path, split_seed=seed), eval_fraction=0.5, progress=False)
        assert holdout.per_class == 10 and len(data.test) == 20
        held = {image["pixel_values"].numpy().tobytes() for image in (data.test[i] for i in range(20))}
        assert len(held) == 20  # eleven of each class are there once
    data, _ = load_or_hold_out(arguments(tmp_path), eval_fraction=0.75, progress=False)
    assert any(line.startswith("8 held-out images are training images, too") for line in data.sources)


def test_report_in_words(photos):
    write(photos / "train" / "cat" / "7.heic", b"")
    report = check_images(arguments(photos), progress=False)
    assert report.ok and report.class_names == NAMES
    assert report.class_counts == {"train": [4, 4, 4], "test": [2, 2, 2]}
    assert report.describe() == [
        "train/: not read are 1 .heic; convert images of such formats to .jpg or .png",
        "train/: 12 images for training",
        "test/: 6 images to evaluate on",
        "train: 12 images of 3 classes, 4 a class",
        "test: 6 images of 3 classes, 2 a class",
    ]


def test_rows_that_are_alike():
    digests = np.array([b"a", b"", b"b", b"a", b"", b"c", b"a"], dtype="S16")
    assert [rows.tolist() for rows in copies(digests)] == [[0, 3, 6]]
    assert repeated(digests).tolist() == [True, False, False, True, False, False, True]
    assert shared_rows(np.array([b"c", b"", b"x", b"a"], dtype="S16"), digests) == [(0, 5), (3, 0)]


# ---- Rare classes ----


@pytest.fixture
def tail(tmp_path):
    """12, 8, 2 and 1 images; the test split has all classes."""
    folder = tmp_path / "tail"
    for c, (name, count) in enumerate({"ant": 12, "bee": 8, "cat": 2, "dog": 1}.items()):
        for i in range(count):
            write(folder / "train" / name / f"{i}.png", picture(100 * c + i))
        write(folder / "test" / name / "0.png", picture(100 * c + 99))
    return folder


def counted(source):
    feature = source.splits["train"].features["label"]
    labels = {split: dataset.select_columns("label")["label"] for split, dataset in source.splits.items()}
    return {split: {name: list(ids).count(c) for c, name in enumerate(feature.names)} for split, ids in labels.items()}


@pytest.mark.parametrize(
    "rare, train, test",
    [
        ("keep", {"ant": 12, "bee": 8, "cat": 2, "dog": 1}, {"ant": 1, "bee": 1, "cat": 1, "dog": 1}),
        ("drop", {"ant": 12, "bee": 8}, {"ant": 1, "bee": 1}),
        ("merge", {"ant": 12, "bee": 8, "other": 3}, {"ant": 1, "bee": 1, "other": 2}),
    ],
)
def test_rare_classes(rare, train, test, tail):
    source, report = prepare(arguments(tail, rare=rare, min_class_images=3), progress=False)
    assert counted(source) == {"train": train, "test": test}
    assert [len(digests) for digests in report.digests.values()] == [sum(train.values()), sum(test.values())]
    assert any("2 classes of fewer than 3 training images (cat, dog)" in line for line in source.said) == (
        rare != "keep"
    )


def test_rare_classes_join_a_class_that_is_called_other(tail):
    (tail / "train" / "bee").rename(tail / "train" / "other")
    (tail / "test" / "bee").rename(tail / "test" / "other")
    source, _ = prepare(arguments(tail, rare="merge", min_class_images=3), progress=False)
    assert counted(source)["train"] == {"ant": 12, "other": 11}


def test_classes_without_an_image_can_be_dropped(tmp_path):
    features = Features({"image": Image(), "label": ClassLabel(names=["none", *NAMES])})
    columns = {"image": [{"bytes": picture(i), "path": None} for i in range(9)], "label": [1, 2, 3] * 3}
    (tmp_path / "data").mkdir()
    Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "data" / "train.parquet")
    source, _ = prepare(arguments(tmp_path / "data", rare="drop", min_class_images=1), progress=False)
    assert counted(source) == {"train": {"ant": 3, "bee": 3, "cat": 3}}


def test_rare_classes_are_not_held_out(tmp_path):
    for c, (name, count) in enumerate({"ant": 12, "bee": 8, "cat": 6}.items()):
        for i in range(count):
            write(tmp_path / name / f"{i}.png", picture(100 * c + i))
    _, holdout = load_or_hold_out(arguments(tmp_path, min_class_images=7), progress=False)
    assert holdout.class_counts == [1, 1, 0]
    assert holdout.describe(NAMES)[-1] == "Not evaluated are 1 classes of too few images to hold one out: cat (6)"


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"rare": "drop"}, "rare='drop' needs min_class_images"),
        ({"rare": "hide", "min_class_images": 2}, "rare='hide' is not valid: use keep or drop or merge"),
        ({"min_class_images": 0}, "min_class_images=0 is not valid: it must be a whole number, 1 or more"),
    ],
)
def test_argument_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(data_dir="x", **kwargs)


def test_all_classes_are_rare(tail):
    with pytest.raises(ValueError, match="All classes have fewer than min_class_images=50"):
        prepare(arguments(tail, rare="drop", min_class_images=50), progress=False)


def looks(folder: str) -> int:
    """How many images this rank looks at, and whether it knows of the damaged one all the same."""
    PartialState(cpu=True)  # as a trainer's arguments do
    looked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_ltkd.data.check._look", lambda file: looked.append(file) or (b"x", "broken"))
        with pytest.raises(ValueError, match="images cannot be decoded: .*broken"):
            prepare(DataArguments(data_dir=folder), progress=False)
    return len(looked)


def test_one_rank_looks_at_the_images_for_all(two_ranks, photos):
    seen = two_ranks(looks, str(photos))
    assert seen[0] > 0 and seen[1] == 0
