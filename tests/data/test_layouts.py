"""Each kind of input as a small folder: which images become which split, and of which class each of them is."""

import io
import json
import tarfile
import unicodedata
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage

from hf_ltkd.data import DataArguments, load_image_data
from hf_ltkd.data.sources import find_source


NAMES = ["ant", "bee", "cat"]
TRAIN = {1: "ant", 2: "ant", 3: "ant", 4: "bee", 5: "bee", 6: "cat"}
TEST = {11: "bee", 12: "cat", 13: "ant"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def png(number: int) -> bytes:
    """An image that is known by its grey value."""
    buffer = io.BytesIO()
    PILImage.new("L", (4, 4), number).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, content: bytes | str = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))


def folders(root: Path, images: dict[int, str], pattern: str = "{name}/{number}.png") -> None:
    for number, name in images.items():
        write(root / pattern.format(name=name, number=number), png(number))


def flat(
    root: Path, images: dict[int, str], table: str, lines: str = "{number}.png,{label}", header="file_name,label"
):
    """Images in one folder, and a table of them; `{id}` counts the classes from 0."""
    for number in images:
        write(root / f"{number}.png", png(number))
    ids = {name: class_id for class_id, name in enumerate(NAMES)}
    rows = [lines.format(number=n, label=name, id=ids.get(name)) for n, name in images.items()]
    write(root / table, "\n".join([header] * bool(header) + rows) + "\n")


def json_lines(root: Path, images: dict[int, str], table: str = "metadata.jsonl") -> None:
    flat(root, images, table, lines='{{"file_name": "{number}.png", "label": "{label}"}}', header="")


def parquet(path: Path, images: dict[int, str], image="struct", label="names", names=NAMES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [{"bytes": png(n), "path": f"{n}.png"} for n in images]
    ids = [names.index(name) for name in images.values()]
    if label == "names":
        features = Features({"image": Image(), "label": ClassLabel(names=names)})
        Dataset.from_dict({"image": files, "label": ids}, features=features).to_parquet(str(path))
        return
    labels = {
        "text": [*images.values()],
        "ids": ids,
        "from 1": [i + 1 for i in ids],
        "floats": [float(i) for i in ids],
    }
    columns = {"struct": files, "bytes": [file["bytes"] for file in files], "paths": [f"{n}.png" for n in images]}
    if image == "paths":
        for n in images:
            write(path.parent / f"{n}.png", png(n))
    if image == "arrays":
        columns["arrays"] = [np.full((4, 4, 3), n, np.uint8).tolist() for n in images]
        struct = pa.array(columns["arrays"], pa.list_(pa.list_(pa.list_(pa.uint8()))))
        pq.write_table(pa.table({"image": struct, "label": labels[label]}), path)
        return
    pq.write_table(pa.table({"image": columns[image], "label": labels[label]}), path)


def shard(path: Path, images: dict[int, str], label: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, name in images.items():
            value = str(NAMES.index(name)) if label == "cls" else json.dumps({"label": name, "camera": 3})
            for suffix, content in (("png", png(number)), (label, value.encode())):
                info = tarfile.TarInfo(f"{number:03}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def read(root: Path, **arguments) -> dict[str, dict[int, str]]:
    """The class's name of each image of each split."""
    return seen(find_source(DataArguments(data_dir=str(root), **arguments)), arguments.get("label_column", "label"))


def seen(source, label_column="label") -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for split, dataset in source.splits.items():
        feature = dataset.features[label_column]
        numbers = [np.asarray(row[source.image_column]).max() for row in dataset]
        ids = dataset.select_columns(label_column)[label_column]
        names = [feature.names[i] if isinstance(feature, ClassLabel) else str(i) for i in ids]
        found[split] = dict(zip(map(int, numbers), names, strict=True))
    return found


def both(make, train="train", test="test", **kwargs):
    """A layout whose two splits are made alike."""

    def build(root: Path) -> None:
        make(root / train, TRAIN, **kwargs)
        make(root / test, TEST, **kwargs)

    return build


def as_numbers(images: dict[int, str], start: int = 0) -> dict[int, str]:
    return {number: str(NAMES.index(name) + start) for number, name in images.items()}


def top_table(root: Path, lines: str, header: str, table: str = "metadata.csv") -> None:
    """One table for all images, which lie in train/ and test/."""
    rows = []
    for split, images in (("train", TRAIN), ("test", TEST)):
        for number, name in images.items():
            write(root / split / f"{number}.png", png(number))
            rows.append(lines.format(split=split, number=number, label=name))
    write(root / table, "\n".join([header, *rows]))


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


def refused(message: str, build, **arguments):
    return pytest.param(build, arguments, message, id=message[:50])


@pytest.mark.parametrize(
    "build, arguments, message",
    [
        refused(r"test/ and train/ hold images alone", both(folders, pattern="{number}.png")),
        refused(r"data/ holds images alone", lambda root: folders(root, TRAIN, "{number}.png")),
        refused(
            r"holds cover.png beside one folder, photos/, with folders in it: .* give '.*data/photos'",
            lambda root: (folders(root / "photos", TRAIN), write(root / "cover.png", png(1))),
        ),
        refused(
            r"metadata.csv has no labels: it has no column 'label'.* columns are \['image', 'species'\]",
            lambda root: flat(root, TRAIN, "metadata.csv", header="file_name,species"),
            label_column="label",
        ),
        refused(
            r"has no labels: it has no column 'label'",
            lambda root: (
                root.mkdir(),
                pq.write_table(pa.table({"image": [png(1)], "species": ["ant"]}), root / "train.parquet"),
            ),
            label_column="label",
        ),
        refused(
            r"has no labels: it has no column 'kind'",
            lambda root: (folders(root, TRAIN), write(root / "metadata.csv", "file_name\nant/1.png\n")),
            label_column="kind",
        ),
        refused(r"only notes.txt", lambda root: write(root / "notes.txt")),
        refused(
            r"has no image .*; 1 .heic there", lambda root: (folders(root, TRAIN), write(root / "dog" / "1.heic"))
        ),
        refused(
            r"hold splits \(ant/test/\).*\(test/ant/\)", both(folders, "", "", pattern="{name}/test/{number}.png")
        ),
        refused(
            r"holds test/ to evaluate on beside ant/, bee/, cat/.*into it",
            lambda root: (folders(root, TRAIN), folders(root / "test", TEST)),
        ),
        refused(
            r"train/ holds folders, beside bus/, car/: if it is a class",
            lambda root: folders(root, {1: "bus", 2: "car", 3: "train"}, "{name}/2024/{number}.png"),
        ),
        refused(
            r"a.csv, b.csv list images: name the one to train on with --train_list",
            lambda root: (flat(root, TRAIN, "a.csv"), flat(root, TEST, "b.csv")),
        ),
        refused(
            r"holds test/ to evaluate on beside train/, but no train/|train/ holds images without classes",
            lambda root: (folders(root / "train", TRAIN, "{number}.png"), folders(root / "test", TEST)),
        ),
        refused(
            r"Training/ and train/ are both called as training images",
            lambda root: (folders(root / "train", TRAIN), folders(root / "Training", TRAIN)),
        ),
        refused(
            r"test split has classes that the training images lack \(Ant, dog\) \(ant differs by case\)",
            lambda root: (folders(root / "train", TRAIN), folders(root / "test", {1: "Ant", 2: "dog"})),
        ),
        refused(
            r"labels.csv says that ant/1.png is of class 'bee', its folder says 'ant'",
            lambda root: (folders(root, TRAIN), write(root / "labels.csv", "path,label\nant/1.png,bee\n")),
        ),
        refused(
            r"1 of the 1 images of '.*metadata.csv' are not in",
            lambda root: write(root / "metadata.csv", "file_name,label\nx.png,a"),
        ),
        refused(
            r"Row 2 of '.*metadata.csv' has 3 cells", lambda root: flat(root, {1: "ant", 2: "b,c"}, "metadata.csv")
        ),
        refused(r"metadata.csv' is empty", lambda root: write(root / "metadata.csv", "\n")),
        refused(
            r"metadata.csv' is not in UTF-8", lambda root: write(root / "metadata.csv", "é,label".encode("latin-1"))
        ),
        refused(
            r"Line 2 of '.*metadata.jsonl' is no JSON",
            lambda root: write(root / "metadata.jsonl", '{"file_name": "1"}\n{'),
        ),
        refused(
            r"has the columns \['a', 'b'\], none of image files", lambda root: write(root / "metadata.csv", "a,b\n1,2")
        ),
        refused(
            r"1 rows of '.*metadata.csv' name no image \(row 1\)",
            lambda root: write(root / "metadata.csv", "file_name,label\n,ant"),
        ),
        refused(
            r"column 'split' of .* holds later beside the names of splits",
            lambda root: write(root / "metadata.csv", "file_name,label,split\n1.png,a,train\n2.png,a,later"),
        ),
        refused(
            r"metadata.csv has no labels.*\['image', 'size'\]",
            lambda root: flat(root, TRAIN, "metadata.csv", header="file_name,size"),
        ),
        refused(
            r"1 rows have no label in column 'label' \(row 1 of the train split",
            lambda root: flat(root, {1: "ant", 2: "", 3: "bee"}, "metadata.csv"),
        ),
        refused(r"labels in column 'label' run from 0 to 3, but .* label 1, 2", lambda root: numbers(root, [0, 3, 3])),
        refused(
            r"run from 0 to 3000000000, but .* label 2, 3, 4, 5, 6, \.\.\.",
            lambda root: numbers(root, [0, 1, 3_000_000_000]),
        ),
        refused(r"holds List.*neither class ids nor class names", lambda root: numbers(root, [[0], [1], [2]])),
        refused(r"train.parquet' is no parquet file", lambda root: write(root / "train.parquet", b"nothing")),
        refused(
            r"no image column 'pic': its columns are \['image', 'label'\]",
            lambda root: numbers(root, [0, 1, 2]),
            image_column="pic",
        ),
        refused(
            r"column 'label' holds .*int64.*, no images", lambda root: numbers(root, [0, 1, 2]), image_column="label"
        ),
        refused(r"There is no 'dev' split: the data has train/, test/", both(folders), eval_split="dev"),
        refused(r"cannot be read", lambda root: write(root / "train.tar", b"nothing")),
    ],
)
def test_refused(build, arguments, message, tmp_path):
    build(tmp_path / "data")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read(tmp_path / "data", **arguments)


def numbers(root: Path, labels: list) -> None:
    root.mkdir(parents=True)
    pq.write_table(pa.table({"image": [png(n) for n in range(len(labels))], "label": labels}), root / "train.parquet")


def test_images_that_a_table_does_not_list_are_counted(tmp_path):
    flat(tmp_path, TRAIN, "metadata.csv")
    for name in ("7.png", "more/8.png", ".9.png", "test/ant/11.png"):  # hidden ones and other splits are no rest
        write(tmp_path / name, png(7))
    source = find_source(DataArguments(data_dir=str(tmp_path)))
    assert source.said[0] == "metadata.csv: not used are 2 images that it does not list: 7.png, more/8.png"
    assert seen(source)["train"] == TRAIN
