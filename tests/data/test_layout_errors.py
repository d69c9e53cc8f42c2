"""Folders that are nearly right: one sentence that names the offender."""

from functools import partial

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import TEST, TRAIN, both, flat, folders, numbers, png, read, write


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def refused(message: str, build, **arguments):
    return pytest.param(build, arguments, message, id=message[:50])


@pytest.mark.parametrize(
    "build, arguments, message",
    [
        refused(r"test/ and train/ hold images alone", both(folders, pattern="{number}.png")),
        refused(r"data/ holds images alone", lambda root: folders(root, TRAIN, "{number}.png")),
        *(
            refused(
                f"holds {pair[1]}/ and {pair[2]}/, which .*--task semantic-segmentation",
                partial(folders, images=pair, pattern=p),
            )
            for pair, p in (
                ({1: "images", 2: "masks"}, "{name}/{number}.png"),
                ({1: "img", 2: "annotations"}, "{name}/train/{number}.png"),
                ({1: "Images", 2: "Labels"}, "train/{name}/{number}.png"),
            )
        ),
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
