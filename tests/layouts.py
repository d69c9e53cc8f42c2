"""Folders of images of every layout, made from grey values that tell them apart, and how they are read back."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from hf_ltkd.data import DataArguments
from hf_ltkd.data.sources import find_source


NAMES = ["ant", "bee", "cat"]
TRAIN = {1: "ant", 2: "ant", 3: "ant", 4: "bee", 5: "bee", 6: "cat"}
TEST = {11: "bee", 12: "cat", 13: "ant"}


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


def numbers(root: Path, labels: list) -> None:
    root.mkdir(parents=True)
    pq.write_table(pa.table({"image": [png(n) for n in range(len(labels))], "label": labels}), root / "train.parquet")
