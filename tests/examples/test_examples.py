"""The scripts with a user's arguments, on a small dataset in the layout of the Hub's CIFAR-100."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from helpers import run_script, user_environment
from PIL import Image as PILImage
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_ltkd import ClassGroups, LongTailSplit


COMMON = ["--label_column", "fine_label", "--imbalance_factor", "4", "--image_size", "8", "--crop_padding", "1"]
COMMON += ["--max_steps", "3", "--use_cpu", "--learning_rate", "0.05", "--preset", "paper", "--disable_tqdm", "true"]
COMMON += ["--logging_steps", "1", "--per_device_train_batch_size", "8"]


def run(*command):
    """A process of its own."""
    done = subprocess.run(command, env=user_environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def error_of(script, *arguments):
    with pytest.raises((ValueError, OSError)) as error:
        run_script(script, *arguments)
    return str(error.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes told apart by their colour, 20 training and 5 test images each, and a trained teacher."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    features = Features({"img": Image(), "fine_label": ClassLabel(names=["red", "green", "blue"])})
    for split, size in (("train", 20), ("test", 5)):
        labels = [label for label in range(3) for _ in range(size)]
        pixels = random.integers(0, 120, (len(labels), 16, 16, 3), dtype=np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[..., label] += 120
        images = [PILImage.fromarray(image) for image in pixels]
        data = Dataset.from_dict({"img": images, "fine_label": labels}, features=features)
        (folder / "data").mkdir(exist_ok=True)
        data.to_parquet(folder / "data" / f"{split}.parquet")
    teacher = ["--data_dir", folder / "data", *COMMON, "--model", "resnet14", "--output_dir", folder / "teacher"]
    run_script("train_teacher.py", *teacher)
    return folder


def test_teacher_folder(folder):
    model = AutoModelForImageClassification.from_pretrained(folder / "teacher")
    assert model.config.id2label == {0: "red", 1: "green", 2: "blue"} and model.config.depth == 14
    split = LongTailSplit.from_pretrained(folder / "teacher")
    assert split.class_counts == [20, 12, 7]
    assert ClassGroups.from_pretrained(folder / "teacher").class_counts == (20, 12, 7)
    metrics = json.loads((folder / "teacher" / "eval_results.json").read_text())
    assert {"eval_accuracy", "eval_head_accuracy", "eval_medium_accuracy", "eval_tail_accuracy"} <= set(metrics)


@pytest.mark.parametrize(
    ("flags", "network", "loss", "values"),
    [
        (
            ["--loss", "ltkd", "--student", "resnet8", "--loss_args", "alpha=1", "ce=balanced_softmax"],
            "CifarResNetForImageClassification",
            "LTKDLoss",
            {"alpha": 1, "beta": 6.0, "temperature": 4.0, "ce": "balanced_softmax", "warmup_epochs": 0.0},
        ),
        (
            ["--loss", "kd", "--student", "wrn_10_1", "--adjust_teacher", "--num_groups", "2"],
            "CifarWideResNetForImageClassification",
            "KDLoss",
            {"temperature": 4.0},
        ),
        (
            ["--loss", "reviewkd", "--student", "resnet8", "--pair", "resnet32x4", "resnet8x4"],
            "CifarResNetForImageClassification",
            "ReviewKDLoss",
            {"review_weight": 5.0, "warmup_epochs": 20.0},
        ),
        (["--loss", "ce", "--student", "resnet8"], "CifarResNetForImageClassification", "CrossEntropyLoss", {}),
    ],
    ids=["ltkd", "kd", "reviewkd", "ce"],
)
def test_distil(folder, tmp_path, capsys, flags, network, loss, values):
    """The loss, network and groups that were asked for, three steps of it, and the accuracy of what was saved."""
    arguments = ["--data_dir", folder / "data", *COMMON, "--teacher", folder / "teacher", *flags]
    run_script("distill_image_classification.py", *arguments, "--output_dir", tmp_path)
    written = json.loads((tmp_path / "distillation.json").read_text())
    assert written["student"]["class"] == network and written["training"]["steps"] == 3
    assert written["loss"]["class"] == loss and values.items() <= written["loss"]["hyper_parameters"].items()
    assert ClassGroups.from_pretrained(tmp_path).num_groups == (2 if "--num_groups" in flags else 3)
    teacher, processor = (AutoImageProcessor.from_pretrained(path) for path in (folder / "teacher", tmp_path))
    assert processor.image_mean == teacher.image_mean and processor.image_std == teacher.image_std
    accuracy = accuracy_of(tmp_path, folder)
    assert json.loads((tmp_path / "eval_results.json").read_text())["eval_accuracy"] == pytest.approx(accuracy)
    shown = capsys.readouterr().out
    assert f"{100 * accuracy:.1f} (" in shown and "plain student" not in shown


def accuracy_of(model_folder, folder):
    """That of a saved model on the test images, an image at a time."""
    model = AutoModelForImageClassification.from_pretrained(model_folder).eval()
    processor = AutoImageProcessor.from_pretrained(model_folder)
    test = Dataset.from_parquet(str(folder / "data" / "test.parquet"))
    with torch.no_grad():
        answers = [model(**processor(row["img"], return_tensors="pt")).logits.argmax().item() for row in test]
    return np.mean([answer == label for answer, label in zip(answers, test["fine_label"], strict=True)])


def test_a_yaml_file_alone(folder, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("loss: ce\nstudent: resnet8\n" + yaml_of(folder, tmp_path / "student"))
    run_script("distill_image_classification.py", config)
    assert json.loads((tmp_path / "student" / "distillation.json").read_text())["training"]["steps"] == 3


def yaml_of(folder, output_dir):
    values = dict(zip([flag.removeprefix("--") for flag in COMMON[0:10:2]], COMMON[1:10:2], strict=True))
    values.update(
        use_cpu="true", learning_rate=0.05, data_dir=folder / "data", teacher=folder / "teacher", max_steps=3
    )
    values.update(output_dir=output_dir, per_device_train_batch_size=4, per_device_eval_batch_size=4)
    return "".join(f"{name}: {value}\n" for name, value in values.items())


@pytest.mark.distributed
@pytest.mark.slow
def test_the_command_on_two_ranks_from_yaml(folder, tmp_path):
    """Both train, one speaks and writes; the plain student and the timed steps run on both, too."""
    config = tmp_path / "config.yaml"
    config.write_text("save_strategy: steps\nstudent: resnet8\n" + yaml_of(folder, tmp_path / "student"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    out = run(*launcher, "-m", "hf_ltkd", "distill", config)
    state = json.loads((tmp_path / "student" / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["train_batch_size"] == 4 and state["epoch"] == pytest.approx(3 / 5)  # 39 images, 2 ranks × 4
    titles = [line.split()[0] for line in out.splitlines() if line[:1].isalpha()]
    assert [titles.count(name) for name in ("Images", "Teacher", "Student", "Time", "Compare", "Result")] == [1] * 6
    comparison = json.loads((tmp_path / "student" / "comparison.json").read_text())
    accuracy = accuracy_of(tmp_path / "student", folder)
    assert comparison["accuracy"]["this student"]["accuracy"] == pytest.approx(accuracy)
    others = ["adjusted teacher", "plain student", "adjusted plain student", "balanced softmax student"]
    assert list(comparison["accuracy"]) == ["teacher", *others, "this student"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output_dir", "x"], "--teacher is missing, which --loss ltkd needs"),
        (["--loss", "kd", "--teacher", "x", "--pair", "vgg13", "--output_dir", "x"], "must be two names"),
        (
            ["--loss", "ce", "--adjust_teacher", "--output_dir", "x"],
            "goes with losses that compare logits alone, not with --loss ce",
        ),
        (["--loss", "ce", "--output_dir", "x"], "--data is missing"),
        (["--loss", "ce", "--data_dir", "nowhere", "--output_dir", "x"], "data_dir 'nowhere' is not a folder"),
    ],
)
def test_wrong_arguments_are_explained(arguments, message):
    assert message in error_of("distill_image_classification.py", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss_args", "beta"], "must have the form name=value"),
        (["--loss_args", "speed=9"], "CrossEntropyLoss does not take these arguments"),
        (["--student", "resnet9000x"], "There is no network 'resnet9000x'"),
    ],
)
def test_wrong_loss_arguments_are_explained(folder, arguments, message):
    common = ["--loss", "ce", "--data_dir", folder / "data", *COMMON, "--output_dir", folder / "x"]
    assert message in error_of("distill_image_classification.py", *common, *arguments)


def test_wrong_label_column_is_explained(folder):
    arguments = ["--loss", "ce", "--data_dir", folder / "data", "--output_dir", folder / "x", "--label_column", "kind"]
    error = error_of("distill_image_classification.py", *arguments)
    assert "no column 'kind'" in error and "its columns are ['img', 'fine_label']" in error


@pytest.mark.slow  # 20,948 images are decoded, which tests/data does once in every run
def test_real_cifar100(data_dir, tmp_path):
    """The official files in: 10,948 training images with factor 100, and the known mean of the full training set."""
    arguments = ["--data_dir", data_dir / "cifar100", *COMMON, "--imbalance_factor", "100", "--model", "resnet8"]
    arguments += ["--max_steps", "2", "--per_device_eval_batch_size", "500", "--output_dir", tmp_path]
    run_script("train_teacher.py", *arguments)
    split = LongTailSplit.from_pretrained(tmp_path)
    assert split.full_class_counts == [500] * 100 and sum(split.class_counts) == 10_948 and split.class_counts[-1] == 5
    assert AutoModelForImageClassification.from_pretrained(tmp_path).config.id2label[0] == "apple"
    # The cut classes are not the average ones, so the means differ a little from the full set's.
    mean = AutoImageProcessor.from_pretrained(tmp_path).image_mean
    assert mean == pytest.approx((0.50707516, 0.48654887, 0.44091784), abs=0.03)


@pytest.mark.slow
def test_quickstart(tmp_path):
    run_script("quickstart.py", "--output_dir", tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["teacher", "student", "kd", "ltkd"]
    assert results["ltkd"]["tail_accuracy"] > results["kd"]["tail_accuracy"]
    assert results["ltkd"]["accuracy"] >= results["kd"]["accuracy"]
    AutoModelForImageClassification.from_pretrained(tmp_path / "student")
    for picture in ("teacher_bias.png", "group_accuracy.png"):
        assert PILImage.open(tmp_path / picture).size[0] > 500
