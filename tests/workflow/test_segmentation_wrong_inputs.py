"""What cannot go with segmentation, on the command line or in files, is said in one sentence before work starts."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streets import FLAGS, NAMES, TASK, scenes, write_streets
from transformers import SegformerImageProcessorPil

from hf_ltkd import create_model
from hf_ltkd.cli import main


WRONG: dict[str, tuple[list[str], str]] = {
    "pair": (["--pair", "resnet32x4", "resnet8x4"], "--pair does not go with --task semantic-segmentation"),
    "cache": (["--teacher_cache", "c"], "--teacher_cache does not go with"),
    "tune": (["--tune", "3"], "--tune does not go with"),
    "seeds": (["--seeds", "3"], "--seeds does not go with"),
    "match_labels": (["--match_labels", "true"], "--match_labels does not go with"),
    "unlabelled": (["--unlabelled", "more"], "--unlabelled does not go with"),
    "mixup": (["--mixup_alpha", "0.2"], "--mixup_alpha does not go with"),
    "image_size": (["--image_size", "32"], "give --size and --crop_size"),
    "group_column": (["--group_column", "film"], "--group_column does not go with"),
    "sampling": (["--train_sampling_strategy", "class_balanced"], "an image has several classes"),
    "two teachers": (["--teacher", "{folder}/teacher", "{folder}/teacher"], "2 teachers do not go with"),
    "reviewkd": (["--loss", "reviewkd"], "compares features of classifiers"),
    "no loss": (["--loss", "focal"], "There is no loss 'focal'"),
    "no teacher": (["--teacher", "nowhere"], "'nowhere'"),
    "no data": (["--data", "nowhere"], "'nowhere' is no folder here"),
    "a benchmark": (["--data", "cifar100_lt"], "its images have no masks"),
    "one class in masks": (["--data", "{folder}/same"], "The masks hold class 0 alone"),
    "no images": (["--data", "{folder}/teacher"], "training images with masks"),
    "a classifier teaches": (["--teacher", "{folder}/classifier"], "which does not give each pixel a class"),
    "a classifier learns": (["--student", "resnet8x4"], "which does not give each pixel a class"),
    "a classifier learns from files": (["--student", "{folder}/classifier"], "does not give each pixel a class"),
    "no network": (["--student", "upernet_0"], "There is no network 'upernet_0'"),
    "other classes": (["--teacher", "{folder}/four"], "3), the masks 5 (they hold 0 to 4)"),
    "other names": (["--class_names", "a", "b", "c", "d", "e"], "Class 0 is 'road' for the model"),
    "two names": (["--class_names", "a", "a", "c", "d", "e"], "has a name twice"),
    "few classes": (["--num_classes", "4"], "has the id 4"),
    "one class": (["--num_classes", "1"], "num_classes=1 is not valid"),
    "names and number": (["--num_classes", "4", "--class_names", "a", "b"], "do not fit"),
    "class ignored": (["--ignore_index", "3", "--num_classes", "5"], "ignore_index=3 is one of the 5 classes"),
    "no column": (["--mask_column", "depth"], "There is no column 'depth' of masks in the train split"),
    "no image column": (["--image_column", "photo"], "There is no column 'photo' of images"),
    "no split": (["--eval_split", "night"], "There is no 'night' split"),
    "size": (["--size", "24"], "give two numbers"),
    "size 0": (["--size", "0", "32"], "size=0 is not valid"),
    "crop": (["--crop_size", "48", "32"], "--crop_size 48, 32 is larger than --size 24, 32"),
    "scale": (["--scale", "2", "1"], "give the smallest and the largest factor"),
    "colour": (["--colors", "red"], "must be a colour as R,G,B"),
    "a colour twice": (["--colors", "0,0,0", "9,9,9", "0,0,0"], "to the classes 0 and 2"),
    "colours of ids": (["--colors", "0,0,0", "1,1,1"], "which colors does not hold"),
    "fraction": (["--eval_fraction", "2"], "eval_fraction=2"),
    "num_groups": (["--num_groups", "9"], "num_groups=9"),
    "output": (["--output_dir", "{folder}/streets"], "the folder of --data"),
    "resume": (["--resume_from_checkpoint", "true"], "finds nothing"),
    "missing mask": (["--data", "{folder}/lacking"], "no mask of the same name"),
    "wrong size": (["--data", "{folder}/sizes"], "a mask must be as large as its image"),
    "damaged": (["--data", "{folder}/damaged"], "cannot be read"),
    "no pixel": (["--data", "{folder}/blank"], "No pixel of the test split has a class"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A teacher that has learned nothing, and streets; beside them what has one fault each."""
    folder = tmp_path_factory.mktemp("folder")
    write_streets(folder / "streets")
    teacher = create_model("upernet_8", 5)
    teacher.config.id2label = dict(enumerate(NAMES))
    teacher.save_pretrained(folder / "teacher")
    SegformerImageProcessorPil(size={"height": 24, "width": 32}).save_pretrained(folder / "teacher")
    create_model("resnet8", 5, 32).save_pretrained(folder / "classifier")
    create_model("upernet_4", 4).save_pretrained(folder / "four")
    create_model("upernet_4", 7).save_pretrained(folder / "seven")
    for name in ("lacking", "sizes", "damaged", "blank", "same"):
        for row, example in enumerate(scenes(6, 1)):
            for kind in ("image", "mask"):
                (folder / name / f"{kind}s").mkdir(parents=True, exist_ok=True)
                example[kind].save(folder / name / f"{kind}s" / f"{row}.png")
    (folder / "lacking" / "masks" / "2.png").unlink()
    Image.fromarray(np.zeros((24, 30), np.uint8)).save(folder / "sizes" / "masks" / "1.png")
    broken = folder / "damaged" / "images" / "3.png"
    broken.write_bytes(broken.read_bytes()[:-300])
    for name, value in (("blank", 255), ("same", 0)):
        for path in (folder / name / "masks").iterdir():
            Image.fromarray(np.full((24, 32), value, np.uint8)).save(path)
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_input_is_one_sentence_before_anything_is_written(folder, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hf_ltkd.cli.commands.estimate", None)  # nothing is trained
    given, message = WRONG[name]
    arguments = ["--teacher", f"{folder}/teacher", "--data", f"{folder}/streets", "--student", "upernet_4", *FLAGS]
    assert main(["distill", *TASK, *arguments, *(word.format(folder=folder) for word in given)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hf-ltkd: ")]
    assert re.search(message if "|" in message else re.escape(message), line), line
    assert "Error:" not in line and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train-teacher", "--size", "24", "32"], "--size is for --task semantic-segmentation"),
        (["train-teacher", *TASK, "--peft", "lora"], "--peft does not go with"),
        (["train-teacher", *TASK, "--model", "vgg8"], "does not give each pixel a class"),
        (["evaluate", "--model", "{folder}/teacher", "--match_labels"], "--match_labels does not go with"),
        (
            ["evaluate", "--model", "{folder}/four"],
            "has 4 classes (class 0, class 1, class 2, class 3), the masks 5",
        ),
        (["evaluate", "--model", "{folder}/seven"], "the masks 5 (they hold 0 to 4): give a model of these classes"),
        (
            ["diagnose", "--teacher", "{folder}/seven"],
            "has 7 classes (class 0, class 1, class 2, class 3, class 4, ...",
        ),
        (["check", "--task", "image-classification"], "has no labels"),
        (["evaluate", "--model", "{folder}/classifier", *TASK], "does not give each pixel a class"),
    ],
)
def test_other_commands(folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    words = [word.format(folder=folder) for word in arguments]
    assert main([*words, "--data", f"{folder}/streets", *(FLAGS if words[0] == "train-teacher" else [])]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
