"""Folders of classes, and lists of images."""

import pytest
from datasets import Image
from helpers import touch, write_image, write_list

from hf_ltkd.data import DataArguments, load_image_data, read_class_folders, read_image_list


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
