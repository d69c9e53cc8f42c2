"""Images and masks are looked at before a training: pixels of each class, and each pair that cannot be used."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streets import scenes, write_streets

from hf_ltkd.cli import main
from hf_ltkd.workflow.check import check
from hf_ltkd.workflow.masked_images import ranges


@pytest.fixture
def streets(tmp_path) -> Path:
    """Ten pairs of images and masks, without a test split."""
    for row, example in enumerate(scenes(10, 5)):
        for kind in ("image", "mask"):
            (tmp_path / f"{kind}s").mkdir(exist_ok=True)
            example[kind].save(tmp_path / f"{kind}s" / f"{row}.png")
    return tmp_path


def test_masks_that_are_whole(streets, capsys):
    report = check(streets, eval_fraction=0.3)
    masks = [np.asarray(Image.open(streets / "masks" / f"{row}.png")) for row in range(10)]
    counts = np.stack([np.bincount(mask.ravel(), minlength=256)[:5] for mask in masks])
    held_out = np.random.default_rng(0).permutation(10)[:3]
    expected = {"test": counts[held_out].sum(0), "train": np.delete(counts, held_out, axis=0).sum(0)}
    assert {name: rows.sum(0).tolist() for name, rows in report.images.counts.items()} == {
        name: pixels.tolist() for name, pixels in expected.items()
    }
    most = int(expected["train"].argmax())
    said = f"train: {expected['train'].sum():,} pixels with a class: class {most} "
    assert report.ok and any(line.startswith(said) for line in report.describe())
    assert main(["check", "--data", str(streets), "--class_names", "road", "building", "car", "person", "bike"]) == 0
    assert "pixels with a class: road" in " ".join(capsys.readouterr().out.split())


def test_all_that_is_wrong_with_masks_is_said_at_once(streets, capsys):
    (streets / "masks" / "0.png").unlink()
    (streets / "images" / "1.png").unlink()
    Image.fromarray(np.zeros((24, 30), np.uint8)).save(streets / "masks" / "2.png")
    Image.fromarray(np.full((24, 32), 9, np.uint8)).save(streets / "masks" / "3.png")
    (streets / "images" / "4.png").write_bytes((streets / "images" / "4.png").read_bytes()[:200])
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(streets / "masks" / "5.png")
    assert main(["check", "--data", str(streets), "--num_classes", "5"]) == 2
    said = capsys.readouterr()
    out = " ".join(said.out.split())
    for words in (
        "1 of the 9 images in",
        "have no mask of the same name (0.png)",
        "have no image of the same name (1.png)",
        "2.png' is of 24 × 30 pixels (height × width) and its image",
        "train: The mask",
        "3.png' has the id 9 (768 pixels), neither one of the classes 0 to 4 nor ignore_index=255",
        "4.png' cannot be read",
        "5.png' holds colours (RGB), not class ids",
    ):
        assert words in out, words
    assert said.err.splitlines()[-1] == "hf-ltkd: mend what is listed above."


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_fraction": 0.05}, "10 training images are too few to hold out 5% of them"),
        (
            {"num_classes": 7},
            r"2 of 7 classes have no pixel in the training masks \(class 5, 6\), which hold the .* 0 to 4:",
        ),
        ({"ignore_index": 4}, r"251 of 256 classes .* \(class 4, .*which hold the classes 0 to 3, 255: say with"),
    ],
)
def test_what_a_training_would_say(streets, settings, message):
    (problem,) = check(streets, **settings).problems()
    assert re.search(message, problem)


def test_parquet_files_and_what_is_not_for_masks(tmp_path):
    write_streets(tmp_path / "streets")
    report = check(tmp_path / "streets")
    assert [len(rows) for rows in report.images.counts.values()] == [12, 3, 21] and report.ok
    with pytest.raises(ValueError, match="--skip_damaged does not go with --task semantic-segmentation"):
        check(tmp_path / "streets", skip_damaged=True)


def test_ranges():
    assert ranges(np.array([0, 1, 2, 5, 7, 8])) == "0 to 2, 5, 7 to 8" and ranges(np.array([], int)) == ""
