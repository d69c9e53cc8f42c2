import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from PIL import Image

from hf_ltkd.data import DataArguments
from hf_ltkd.data.holdout import Holdout, hold_out, load_or_hold_out


COUNTS = {"bird": 40, "cat": 21, "dog": 10}


@pytest.fixture
def dataset():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [*COUNTS.values()]))
    features = Features({"row": Value("int64"), "label": ClassLabel(names=[*COUNTS])})
    return Dataset.from_dict({"row": range(len(labels)), "label": labels}, features=features)


def write_images(folder, counts=COUNTS, size=8, seed=0):
    random = np.random.default_rng(seed)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = random.integers(0, 255, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    return folder


def test_same_number_of_every_class_and_nothing_twice(dataset):
    train, test, holdout = hold_out(dataset, eval_fraction=0.3, seed=1)
    assert holdout == Holdout(per_class=3, eval_fraction=0.3, seed=1, full_class_counts=[40, 21, 10])
    assert np.bincount(test["label"]).tolist() == [3, 3, 3]
    assert np.bincount(train["label"]).tolist() == [37, 18, 7]
    assert sorted([*train["row"], *test["row"]]) == list(range(len(dataset)))
    assert list(train["row"]) == sorted(train["row"]) and list(test["row"]) == sorted(test["row"])


def test_seed_decides_and_parts_are_nested(dataset):
    parts = [set(hold_out(dataset, seed=seed)[1]["row"]) for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
    assert parts[0] < set(hold_out(dataset, eval_fraction=0.5, seed=0)[1]["row"])


@pytest.mark.parametrize(("share", "per_class"), [(0.1, 1), (0.19, 1), (0.2, 2), (0.99, 9)])
def test_never_more_than_the_share_of_the_smallest_class(dataset, share, per_class):
    assert hold_out(dataset, eval_fraction=share)[2].per_class == per_class


def counted(*counts, **columns):
    labels = np.random.default_rng(0).permutation(np.repeat(range(len(counts)), counts))
    features = Features({"row": Value("int64"), "label": ClassLabel(num_classes=len(counts))})
    rows = {"row": range(len(labels)), "label": labels}
    return Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize(
    "counts, eval_fraction, per_class",
    [
        ((40, 21, 10), 0.2, 2),  # each can give one: the same of each
        ((40, 21, 4), 0.2, [4, 4, 0]),  # 8, 4: the lower middle one is 4
        ((1000, 400, 30, 5, 4, 1), 0.2, [6, 6, 6, 1, 0, 0]),  # 200, 80, 6, 1
        ((1000, 400, 30, 5, 4, 1), 0.5, [15, 15, 15, 2, 2, 0]),  # 500, 200, 15, 2, 2
        ((3, 2, 1, 1), 0.5, [1, 1, 0, 0]),
    ],
)
def test_small_classes_stay_whole(counts, eval_fraction, per_class):
    data = counted(*counts)
    train, test, holdout = hold_out(data, eval_fraction=eval_fraction, seed=3)
    assert holdout == Holdout(per_class, eval_fraction, 3, [*counts])
    expected = per_class if isinstance(per_class, list) else [per_class] * len(counts)
    assert np.bincount(test["label"], minlength=len(counts)).tolist() == holdout.class_counts == expected
    assert sorted([*train["row"], *test["row"]]) == list(range(len(data)))


def test_classes_that_are_not_evaluated_are_named():
    lines = hold_out(counted(40, 21, 4, 1))[2].describe(["ant", "bee", "cat", "dog"])
    assert lines[0].startswith(
        "8 images, split off the training images (there is no test split): of each class at most 20%"
    )
    assert lines[1] == "Not evaluated are 2 classes of too few images to hold one out: cat (4), dog (1)"


def test_no_class_is_large_enough():
    with pytest.raises(ValueError, match="largest class, '0', has 4 images.*--eval_fraction 0.26"):
        hold_out(counted(4, 3))
    hold_out(counted(4, 3), eval_fraction=0.26)  # the fix
    with pytest.raises(ValueError, match=r"has 1 images.*add images, add a test split\.$"):
        hold_out(counted(1, 1))


# ---- Groups that stay together ----


def grouped(*groups):
    """`groups` are `(group, {class: images})`."""
    rows = [(group, label) for group, classes in groups for label, count in classes.items() for _ in range(count)]
    features = Features({"row": Value("int64"), "label": ClassLabel(num_classes=3), "track": Value("string")})
    columns = {"row": range(len(rows)), "label": [label for _, label in rows], "track": [group for group, _ in rows]}
    return Dataset.from_dict(columns, features=features).shuffle(seed=0)


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_on_both_sides(seed):
    """Tracks of ten images, as those of traffic signs."""
    sizes = {0: 12, 1: 6, 2: 3}
    data = grouped(*((f"{c}/{t}", {c: 10}) for c, tracks in sizes.items() for t in range(tracks)))
    train, test, holdout = hold_out(data, group_column="track", eval_fraction=0.2, seed=seed)
    assert not set(train["track"]) & set(test["track"])
    # A fifth is 24, 12 and 6 images, at most the middle one's 12: one track, or the smallest there is.
    assert holdout.class_counts == [10, 10, 10] and holdout.group_column == "track"
    assert sorted([*train["row"], *test["row"]]) == list(range(len(data)))
    assert len({str(hold_out(data, group_column="track", seed=s)[1]["row"]) for s in range(5)}) > 1


def test_a_group_of_several_classes_is_taken_as_a_whole():
    """Cameras that see every class; none may take more than half of a class."""
    data = grouped(*((f"camera {i}", {0: 8, 1: 4, 2: 1 + i % 2}) for i in range(10)), ("camera 10", {0: 1, 2: 20}))
    train, test, holdout = hold_out(data, group_column="track", eval_fraction=0.2)
    assert not set(train["track"]) & set(test["track"]) and "camera 10" in train["track"]
    counts = np.array(holdout.class_counts)
    assert (counts > 0).all() and (2 * counts <= holdout.full_class_counts).all()


def test_rows_without_a_group_are_groups_of_their_own():
    data = grouped((None, {0: 20, 1: 20, 2: 20}))
    assert hold_out(data, group_column="track", eval_fraction=0.25)[2].class_counts == [5, 5, 5]


def test_group_errors():
    with pytest.raises(ValueError, match=r"no column 'lesion' .*--group_column.*\['row', 'label', 'track'\]"):
        hold_out(grouped(("a", {0: 9, 1: 9, 2: 9})), group_column="lesion")
    with pytest.raises(ValueError, match="No track can be held out: each has more than half"):
        hold_out(grouped(("a", {0: 9, 1: 9, 2: 9})), group_column="track")


def test_groups_of_a_table(tmp_path):
    """Each class is of five tracks of four images, which metadata.csv names."""
    write_images(tmp_path, {"bird": 20, "cat": 20})
    lines = [f"{name}/{i:03}.png,{name},{name}{i // 4}" for name in ("bird", "cat") for i in range(20)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label,track", *lines]))
    args = DataArguments(data_dir=str(tmp_path), image_size=8, group_column="track")
    data, holdout = load_or_hold_out(args, progress=False)
    assert holdout.class_counts == [4, 4] and len(data.test) == 8
    folders = {"train": range(16), "test": range(16, 20)}
    for split, numbers in folders.items():
        for name in ("bird", "cat"):
            write_images(tmp_path / "two" / split, {name: 20})
        rows = [f"{name}/{i:03}.png,{name},{name}{i // 6}" for name in ("bird", "cat") for i in numbers]
        (tmp_path / "two" / split / "metadata.csv").write_text("\n".join(["file_name,label,track", *rows]))
    args = DataArguments(data_dir=str(tmp_path / "two"), image_size=8, group_column="track", check_images=False)
    data, holdout = load_or_hold_out(args, progress=False)
    assert holdout is None
    assert "2 track are in both splits (bird2, cat2): accuracy is flattered" in data.sources


@pytest.mark.parametrize("per_class", [2, [3, 1, 0]])
def test_files_of_before_are_read(per_class, tmp_path):
    values = {"per_class": per_class, "share": 0.2, "seed": 1, "full_counts": [40, 21, 10]}
    (tmp_path / "holdout.json").write_text(json.dumps(values))
    assert Holdout.from_pretrained(tmp_path) == Holdout(per_class, 0.2, 1, [40, 21, 10])


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_share_that_is_none(dataset, share):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        hold_out(dataset, eval_fraction=share)


def test_one_class(dataset):
    with pytest.raises(ValueError, match="one class only"):
        hold_out(dataset.select_columns("label").cast_column("label", Value("int64")).map(lambda _: {"label": 0}))


def test_saved_and_read_back(dataset, tmp_path):
    holdout = hold_out(dataset)[2]
    holdout.save_pretrained(tmp_path)
    assert Holdout.from_pretrained(tmp_path) == holdout


@pytest.mark.parametrize("inside", [".", "train"])
def test_folders_without_a_test_split(tmp_path, inside):
    write_images(tmp_path / "photos" / inside)
    args = DataArguments(data_dir=str(tmp_path / "photos"), image_size=8)
    data, holdout = load_or_hold_out(args, eval_fraction=0.2, progress=False)
    assert holdout is not None and holdout.per_class == 2 and data.class_names == [*COUNTS]
    assert data.split.class_counts == [38, 19, 8] and len(data.train) == 65 and len(data.test) == 6
    # The normalisation is that of the training images, and the evaluation images are among the files.
    files = {Image.open(path).tobytes() for path in (tmp_path / "photos").rglob("*.png")}
    images = np.stack([item["pixel_values"] for item in data.test.__getitems__(list(range(6)))])
    pixels = images * np.array(data.std)[:, None, None] + np.array(data.mean)[:, None, None]
    assert {np.rint(255 * image).astype(np.uint8).transpose(1, 2, 0).tobytes() for image in pixels} < files


def test_a_class_called_train(tmp_path):
    write_images(tmp_path, {"car": 10, "test": 10, "train": 10})
    data, holdout = load_or_hold_out(DataArguments(data_dir=str(tmp_path), image_size=8), progress=False)
    assert data.class_names == ["car", "test", "train"] and holdout is not None


def test_images_that_are_decoded_later(tmp_path):
    args = DataArguments(data_dir=str(write_images(tmp_path / "photos")), image_size=8, crop="resized")
    data, _ = load_or_hold_out(args, progress=False)
    assert data.test[0]["pixel_values"].shape == (3, 8, 8) and len(data.train) == 65


def test_cut_after_the_split(tmp_path):
    args = DataArguments(
        data_dir=str(write_images(tmp_path / "photos", {"a": 20, "b": 20, "c": 20})), image_size=8, imbalance_factor=4
    )
    data, holdout = load_or_hold_out(args, progress=False)
    assert (
        holdout is not None
        and holdout.full_class_counts == [20, 20, 20]
        and data.split.full_class_counts == [16, 16, 16]
    )
    assert data.split.class_counts == [16, 10, 6] and np.bincount(data.test.labels).tolist() == [4, 4, 4]


def pixels_of(images) -> set[bytes]:
    return {image["pixel_values"].numpy().tobytes() for image in images}


@pytest.mark.parametrize("has_test", [False, True])
@pytest.mark.parametrize("column", [None, "track"])
def test_images_to_choose_on_are_held_out_too(tmp_path, has_test, column):
    """Nothing twice, the same of each class, and no track on two sides; the test images are those of before."""
    root = tmp_path / "photos"
    write_images(root / "train")
    paths = sorted(path.relative_to(root) for path in (root / "train").rglob("*.png"))
    rows = ["file_name,label,track", *(f"{p},{p.parent.name},{p.parent.name}{int(p.stem) // 2}" for p in paths)]
    if has_test:
        write_images(root / "test", {"bird": 3, "cat": 3, "dog": 3}, seed=1)
        rows += [f"test/{n}/00{i}.png,{n},test{n}" for n in COUNTS for i in range(3)]
    if column is not None:
        (root / "metadata.csv").write_text("\n".join(rows) + "\n")
    args = DataArguments(data_dir=str(root), image_size=8, augment="none", group_column=column)
    same = {"mean": [0.5] * 3, "std": [0.5] * 3, "eval_fraction": 0.3, "progress": False}
    before, _ = load_or_hold_out(args, **same)
    data, holdout = load_or_hold_out(args, validation=True, **same)
    parts = [pixels_of(part) for part in (data.train, data.validation, data.test)]
    assert before.validation is None and parts[2] == pixels_of(before.test) and (holdout is None) == has_test
    assert len(set.union(*parts)) == sum(map(len, parts)) and parts[0] | parts[1] == pixels_of(before.train)
    counts = np.bincount(data.validation.labels)
    assert counts.min() >= 1 and (column or len({*counts}) == 1)
    assert any("more training images are held out to choose on" in line for line in data.sources)


def test_a_validation_split_of_its_own_is_chosen_on(tmp_path):
    """Beside a test split; one that is reported itself, or left out by --eval_split, is none."""
    for seed, name in enumerate(("train", "validation", "test")):
        write_images(tmp_path / name, seed=seed)
    args = DataArguments(data_dir=str(tmp_path), image_size=8)
    data, _ = load_or_hold_out(args, validation=True, progress=False)
    assert len(data.train) == len(data.validation) == 71
    args = DataArguments(data_dir=str(tmp_path), image_size=8, eval_split="validation")
    data, _ = load_or_hold_out(args, validation=True, progress=False)
    assert (len(data.train), len(data.validation), len(data.test)) == (65, 6, 71)


def test_no_class_is_large_enough_to_choose_on(tmp_path):
    write_images(tmp_path / "train", {"a": 2, "b": 2})
    write_images(tmp_path / "test", {"a": 2, "b": 2}, seed=1)
    with pytest.raises(ValueError, match="There is no validation split, and the largest class, 'a', has 2 images"):
        load_or_hold_out(DataArguments(data_dir=str(tmp_path), image_size=8), validation=True, progress=False)


def test_a_split_of_its_own_is_taken(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path / "test", {"bird": 3, "cat": 3, "dog": 3}, seed=1)
    data, holdout = load_or_hold_out(DataArguments(data_dir=str(tmp_path), image_size=8), progress=False)
    assert holdout is None and len(data.train) == sum(COUNTS.values()) and len(data.test) == 9


def test_parquet_of_any_name(tmp_path):
    from datasets import load_dataset

    write_images(tmp_path / "photos")
    folder = tmp_path / "files"
    folder.mkdir()
    images = load_dataset("imagefolder", data_dir=str(tmp_path / "photos"), split="train")
    images.to_parquet(folder / "data-00000.parquet")
    data, holdout = load_or_hold_out(DataArguments(data_dir=str(folder), image_size=8), progress=False)
    assert holdout is not None and data.split.class_counts == [38, 19, 8] and data.class_names == [*COUNTS]
    images.to_parquet(folder / "train.parquet")
    (folder / "data-00000.parquet").unlink()
    assert load_or_hold_out(DataArguments(data_dir=str(folder), image_size=8), progress=False)[1] == holdout


def test_images_without_classes(tmp_path):
    write_images(tmp_path / "photos", {".": 10})
    with pytest.raises(ValueError, match="can be told into classes: photos/ holds images alone"):
        load_or_hold_out(DataArguments(data_dir=str(tmp_path / "photos")), progress=False)


def test_a_class_of_one_image(tmp_path):
    write_images(tmp_path / "photos", {"ant": 12, "bee": 8, "cat": 1})
    data, holdout = load_or_hold_out(DataArguments(data_dir=str(tmp_path / "photos"), image_size=8), progress=False)
    assert holdout.class_counts == [1, 1, 0] and data.split.class_counts == [11, 7, 1]
    assert data.test.labels.tolist() == [0, 1]


def test_an_eval_split_that_is_named_has_to_exist(tmp_path):
    write_images(tmp_path / "train")
    args = DataArguments(data_dir=str(tmp_path), eval_split="dev")
    with pytest.raises(ValueError, match="no 'dev' split"):
        load_or_hold_out(args, progress=False)
