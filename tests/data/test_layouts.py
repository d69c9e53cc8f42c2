"""Each kind of input as a small folder: which images become which split, and of which class each of them is."""

import unicodedata
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, DatasetDict
from layouts import (
    NAMES,
    TEST,
    TRAIN,
    as_numbers,
    both,
    flat,
    folders,
    json_lines,
    parquet,
    png,
    read,
    seen,
    shard,
    top_table,
    write,
)

from hf_ltkd.data import DataArguments, load_image_data
from hf_ltkd.data.sources import find_source


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


ONE = {"train": TRAIN}
TWO = {"train": TRAIN, "test": TEST}
VALIDATION = {"train": TRAIN, "validation": TEST}
NUMBERS = {"train": as_numbers(TRAIN), "test": as_numbers(TEST)}

LAYOUTS = {
    "class folders": (lambda root: folders(root, TRAIN), ONE),
    "class folders in train": (lambda root: folders(root / "train", TRAIN), ONE),
    "Train and Test": (both(folders, "Train", "Test"), TWO),
    "TRAINING and testing": (both(folders, "TRAINING", "testing"), TWO),
    "train_images and test_images": (both(folders, "train_images", "test_images"), TWO),
    "train2017 and val2017": (both(folders, "train2017", "val2017"), VALIDATION),
    **{f"train and {name}": (both(folders, test=name), VALIDATION) for name in ("val", "valid", "validation", "dev")},
    **{f"train and {name}": (both(folders, test=name), TWO) for name in ("eval", "evaluation")},
    "folder in folder": (lambda root: folders(root / "photos" / "all", TRAIN), ONE),
    "splits in a folder": (both(folders, "photos/train", "photos/test"), TWO),
    "one folder around the classes": (both(folders, "train/animals", "test/animals"), TWO),
    "folders in class folders": (both(folders, pattern="{name}/2024/{number}.png"), TWO),
    "upper case suffixes": (both(folders, pattern="{name}/{number}.PNG"), TWO),
    "metadata.csv": (both(flat, table="metadata.csv"), TWO),
    "metadata.csv of ids": (both(flat, table="metadata.csv", lines="{number}.png,{id}"), NUMBERS),
    "metadata.jsonl": (both(json_lines), TWO),
    "metadata.csv in one folder": (lambda root: flat(root, TRAIN, "metadata.csv"), ONE),
    "metadata.csv, other columns": (
        both(flat, table="metadata.csv", lines="7,{label},{number}.png", header="camera,Species,filename"),
        TWO,
    ),
    "metadata.csv with semicolons": (
        both(flat, table="metadata.csv", lines="{number}.png;{label}", header="\ufefffile_name;label"),
        TWO,
    ),
    "metadata.csv with quotes and spaces": (
        both(flat, table="metadata.csv", lines='"{number}.png", {label} ', header="file_name, label"),
        TWO,
    ),
    "a table of splits": (
        lambda root: top_table(root, "{split}/{number}.png,{label},{split}", "file_name,label,split"),
        TWO,
    ),
    "a table with the folders of splits": (
        lambda root: top_table(root, ".\\{split}\\{number}.png,{label}", "file_name,label"),
        TWO,
    ),
    "labels.csv beside splits": (
        lambda root: top_table(root, "{split}/{number}.png,{label}", "path,label", "labels.csv"),
        TWO,
    ),
    "train.csv and test.csv": (
        lambda root: (flat(root, TRAIN, "train.csv"), flat(root, TEST, "test.csv")),
        TWO,
    ),
    "labels.csv beside a folder of images": (
        lambda root: (flat(root / "images", TRAIN, "x.csv"), (root / "images" / "x.csv").rename(root / "labels.csv")),
        ONE,
    ),
    "parquet": (both(parquet, "train-0.parquet", "test-0.parquet"), TWO),
    "parquet in folders": (both(parquet, "train/0.parquet", "val/0.parquet"), VALIDATION),
    "parquet of other names": (lambda root: parquet(root / "photos.parquet", TRAIN), ONE),
    "a clone from the Hub": (both(parquet, "data/train-00000-of-00001.parquet", "data/test-0.parquet"), TWO),
    **{
        f"{name}.parquet": (both(parquet, "train.parquet", f"{name}.parquet"), VALIDATION)
        for name in ("val", "val-00000-of-00001", "validation", "valid", "photos_dev")
    },
    **{
        f"parquet of {kind}": (both(parquet, "train.parquet", "test.parquet", image=kind, label="text"), TWO)
        for kind in ("struct", "bytes", "paths", "arrays")
    },
    "parquet of ids": (both(parquet, "train.parquet", "test.parquet", label="ids"), NUMBERS),
    "parquet of floats": (both(parquet, "train.parquet", "test.parquet", label="floats"), NUMBERS),
    "parquet of ids from 1": (
        both(parquet, "train.parquet", "test.parquet", label="from 1"),
        {"train": as_numbers(TRAIN, 1), "test": as_numbers(TEST, 1)},
    ),
    "other order of classes in the test file": (
        lambda root: (
            parquet(root / "train.parquet", TRAIN),
            parquet(root / "test.parquet", TEST, names=["cat", "ant", "bee"]),
        ),
        TWO,
    ),
    "other order of classes in a training file": (
        lambda root: (
            parquet(root / "train-0.parquet", {n: TRAIN[n] for n in (1, 2, 4)}),
            parquet(root / "train-1.parquet", {n: TRAIN[n] for n in (3, 5, 6)}, names=["cat", "bee", "ant"]),
            parquet(root / "test.parquet", TEST, label="text"),
        ),
        TWO,
    ),
    "class folders beside a test file": (
        lambda root: (folders(root / "train", TRAIN), parquet(root / "test.parquet", TEST, names=NAMES[::-1])),
        TWO,
    ),
    "shards with .cls": (both(shard, "train-0.tar", "test-0.tar", label="cls"), NUMBERS),
    "shards with .json": (both(shard, "train-0.tar", "test-0.tar", label="json"), TWO),
}


@pytest.mark.parametrize("build, expected", LAYOUTS.values(), ids=LAYOUTS)
def test_layout(build, expected, tmp_path):
    build(tmp_path / "data")
    assert read(tmp_path / "data") == expected


def test_classes_are_in_the_order_of_their_names(tmp_path):
    parquet(tmp_path / "train.parquet", dict(reversed(TRAIN.items())), label="text")
    source = find_source(DataArguments(data_dir=str(tmp_path)))
    assert source.splits["train"].features["label"].names == NAMES


def test_saved_by_datasets(tmp_path):
    parquet(tmp_path / "train.parquet", TRAIN)
    parquet(tmp_path / "test.parquet", TEST)
    data = {name: Dataset.from_parquet(str(tmp_path / f"{name}.parquet")) for name in ("train", "test")}
    DatasetDict(data).save_to_disk(tmp_path / "two")
    data["train"].save_to_disk(tmp_path / "one")
    assert read(tmp_path / "two") == TWO and read(tmp_path / "one") == ONE


def test_splits_in_memory(tmp_path):
    parquet(tmp_path / "train.parquet", TRAIN)
    parquet(tmp_path / "test.parquet", TEST, names=NAMES[::-1])
    data = {name: Dataset.from_parquet(str(tmp_path / f"{name}.parquet")) for name in ("train", "test")}
    args = DataArguments(dataset_name="in memory")
    assert seen(find_source(args, DatasetDict(Training=data["train"], eval=data["test"]))) == TWO
    assert seen(find_source(args, DatasetDict(photos=data["train"]))) == ONE


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_compared_in_one_unicode_form(forms, tmp_path):
    for split, form in zip(("train", "test"), forms, strict=True):
        folders(tmp_path / split, {1: unicodedata.normalize(form, "café"), 2: "bee"})
    expected = {1: unicodedata.normalize("NFC", "café"), 2: "bee"}
    assert read(tmp_path) == {"train": expected, "test": expected}


@pytest.mark.parametrize("inside", ["", "train/", "train/ant/"])
@pytest.mark.parametrize(
    "junk", ["._1.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints/1.png", "__MACOSX/ant/._1.png"]
)
def test_what_systems_leave_is_skipped(inside, junk, tmp_path):
    both(folders)(tmp_path)
    write(tmp_path / f"{inside}{junk}", b"\0\5\x16\7")
    assert read(tmp_path) == TWO
    assert not [line for line in find_source(DataArguments(data_dir=str(tmp_path))).said if "not read" in line]


def said(root: Path, **arguments) -> str:
    return "\n".join(find_source(DataArguments(data_dir=str(root), **arguments)).said)


@pytest.mark.parametrize(
    "extra, message",
    [
        ("train/ant/7.heic", "train/: not read are 1 .heic; convert images of such formats"),
        ("train/ant/notes.txt", "train/: not read are 1 .txt"),
        ("train/README.md", "train/: not read are README.md beside the class folders"),
        ("extra/ant/7.png", "not used: extra/"),
        ("old.parquet", "not used: old.parquet"),
        ("train.csv", "not used: train.csv"),
        ("val/7.png", "not used: val/"),
        ("train/ant/2024/7.png", "train/: images in folders inside those of ant belong to these classes"),
    ],
)
def test_what_is_not_used_is_said(extra, message, tmp_path):
    both(folders)(tmp_path)
    write(tmp_path / extra, png(7) if extra[-3:] != "csv" else "path,label\nx,y")
    assert message in said(tmp_path)
    assert {split: len(images) for split, images in read(tmp_path).items()} == {
        "train": 6 + extra.endswith("2024/7.png"),
        "test": 3,
    }


def test_what_is_used_is_said(tmp_path):
    both(folders, "Train", "dev")(tmp_path)
    assert said(tmp_path).splitlines() == ["Train/: 6 images for training", "dev/: 3 images to evaluate on"]


def test_files_beside_class_folders_are_named(tmp_path):
    folders(tmp_path, TRAIN)
    write(tmp_path / "README.md", "Photos")
    write(tmp_path / "classes.csv", "id,name\n0,ant\n")
    assert read(tmp_path) == ONE
    assert "not read are README.md, classes.csv beside the class folders" in said(tmp_path)


def test_a_table_that_agrees_with_the_folders_is_no_matter(tmp_path):
    folders(tmp_path, TRAIN)
    write(tmp_path / "labels.csv", "\n".join(["path,label", *(f"{name}/{n}.png,{name}" for n, name in TRAIN.items())]))
    assert read(tmp_path) == ONE


def test_metadata_without_labels_leaves_the_folders(tmp_path):
    folders(tmp_path, TRAIN)
    lines = ["file_name,camera", *(f"{name}/{n}.png,{n % 2}" for n, name in TRAIN.items())]
    write(tmp_path / "metadata.csv", "\n".join(lines))
    assert read(tmp_path) == ONE
    source = find_source(DataArguments(data_dir=str(tmp_path)))
    assert list(source.splits["train"]["camera"]) == ["1", "0", "1", "0", "1", "0"]


@pytest.mark.parametrize("labels", ["none", "all -1"])
def test_a_test_split_without_labels_is_not_evaluated_on(labels, tmp_path):
    parquet(tmp_path / "train.parquet", TRAIN)
    parquet(tmp_path / "validation.parquet", TEST)
    columns = {"image": [png(7)]} | ({} if labels == "none" else {"label": [-1]})
    pq.write_table(pa.table(columns), tmp_path / "test.parquet")
    assert read(tmp_path) == VALIDATION
    assert "test.parquet: not used, since it has no labels" in said(tmp_path)
    with pytest.raises(ValueError, match="test.parquet cannot be evaluated on .*no labels"):
        read(tmp_path, eval_split="test")


@pytest.mark.parametrize("name", ["fold5", "validation", "val"])
def test_eval_split(name, tmp_path):
    both(folders)(tmp_path)
    folders(tmp_path / ("fold5" if name == "fold5" else "val"), {21: "cat"})
    assert read(tmp_path, eval_split=name) == {"train": TRAIN, name: {21: "cat"}}


def test_validation_beside_test_is_for_choosing(tmp_path):
    """Whatever they are called; with labels and pixels of its own, in memory and decoded each time."""
    both(folders, "Train", "testing")(tmp_path)
    folders(tmp_path / "val", {21: "cat", 22: "ant"})
    assert read(tmp_path) == {**TWO, "validation": {21: "cat", 22: "ant"}}
    assert "val/: 2 images to choose checkpoints on" in said(tmp_path)
    for crop in ("padded", "resized"):
        data = load_image_data(DataArguments(data_dir=str(tmp_path), image_size=4, crop=crop), progress=False)
        assert data.validation.labels.tolist() == [0, 2] and data.test.labels.tolist() == [0, 1, 2]
        assert not torch.equal(data.validation[0]["pixel_values"], data.validation[1]["pixel_values"])
    alone = load_image_data(DataArguments(data_dir=str(tmp_path), image_size=4, eval_split="val"), progress=False)
    assert alone.validation is None and len(alone.test) == 2


def test_columns_by_name(tmp_path):
    table = {"picture": [png(n) for n in TRAIN], "thumb": [png(n + 100) for n in TRAIN], "kind": [*TRAIN.values()]}
    pq.write_table(pa.table(table), tmp_path / "train.parquet")
    assert read(tmp_path, image_column="picture", label_column="kind") == ONE
    assert read(tmp_path, image_column="thumb", label_column="kind")["train"] == {n + 100: c for n, c in TRAIN.items()}


@pytest.mark.parametrize("suffix, separator", [(".csv", ","), (".tsv", "\t")])
def test_list_of_names(suffix, separator, tmp_path):
    for images, table in ((TRAIN, "a"), (TEST, "b")):
        lines = f"{{number}}.png{separator}{{label}}"
        flat(tmp_path / "images", images, table + suffix, lines, header=f"path{separator}label")
    train, test = (str(tmp_path / "images" / (name + suffix)) for name in "ab")
    assert read(tmp_path / "images", train_list=train, test_list=test) == TWO
    assert read(tmp_path / "images", train_list=train) == ONE


def test_list_without_a_header(tmp_path):
    flat(tmp_path, TRAIN, "a.csv", header="")
    assert read(tmp_path, train_list=str(tmp_path / "a.csv")) == ONE


def test_classes_of_odd_names_in_a_table(tmp_path):
    """As pandas reads them, these would be missing values, numbers and truths."""
    names = ["NA", "None", "007", "True", "1e3"]
    flat(tmp_path, dict(enumerate(names)), "metadata.csv")
    assert read(tmp_path) == {"train": dict(enumerate(names))}


def test_images_that_a_table_does_not_list_are_counted(tmp_path):
    flat(tmp_path, TRAIN, "metadata.csv")
    for name in ("7.png", "more/8.png", ".9.png", "test/ant/11.png"):  # hidden ones and other splits are no rest
        write(tmp_path / name, png(7))
    source = find_source(DataArguments(data_dir=str(tmp_path)))
    assert source.said[0] == "metadata.csv: not used are 2 images that it does not list: 7.png, more/8.png"
    assert seen(source)["train"] == TRAIN
