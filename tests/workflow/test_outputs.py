"""What a training leaves in its folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoModelForImageClassification

from hf_ltkd import ClassGroups
from hf_ltkd.workflow.arguments import SourceArguments
from hf_ltkd.workflow.inputs import load_images
from hf_ltkd.workflow.outputs import Comparison, accuracies, draw_bias, name_dataset


OF_VERSION_0_1_0 = {
    "dataset": "me/photos",
    "dataset_split": "test",
    "teacher_name": "me/big",
    "teacher_probability": {"head": 0.7, "tail": 0.3},
    "accuracy": {"teacher": {"accuracy": 0.5}, "this student": {"accuracy": 0.25}},
}


def test_a_comparison_is_read_as_it_was_written(tmp_path):
    (tmp_path / "comparison.json").write_text(json.dumps(OF_VERSION_0_1_0))
    comparison = Comparison.from_pretrained(tmp_path)
    now = {**OF_VERSION_0_1_0, "intervals": {}, "differences": {}, "caution": None, "scores": {}, "seeds": None}
    assert comparison.to_dict() == now and comparison.output_dir == tmp_path
    comparison.save_pretrained(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "comparison.json").read_text()) == now
    with pytest.raises(FileNotFoundError):
        Comparison.from_pretrained(tmp_path / "nowhere")


def test_what_the_card_is_told():
    card = Comparison(**OF_VERSION_0_1_0, output_dir=Path("x")).card_arguments()
    assert card == {
        "dataset": "me/photos",
        "dataset_split": "test",
        "teacher_name": "me/big",
        "teacher_metrics": {"accuracy": 0.5},
        "plain_student_metrics": None,
        "other_metrics": {},
        "verdict": None,
        "differences": {},
        "seeds": None,
    }


@pytest.mark.parametrize(
    ("ours", "plain", "is_pushed"),
    [
        ((0.5, 0.5, 0.5), (0.6, 0.6, 0.6), False),
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), True),
        ((0.5, 0.4, 0.6), (0.6, 0.8, 0.1), True),  # the head loses, the tail gains more
        ((0.5, 0.2, 0.3), (0.6, 0.8, 0.2), False),
        ((0.5, 0.5, None), (0.6, 0.6, None), False),
        ((0.5, 0.5, 0.5), None, True),
    ],
)
def test_a_student_that_is_worse_than_the_plain_one(ours, plain, is_pushed):
    names = ("accuracy", "head_accuracy", "tail_accuracy")
    accuracy = {"this student": dict(zip(names, ours, strict=True))}
    if plain is not None:
        accuracy["plain student"] = dict(zip(names, plain, strict=True))
    comparison = Comparison(dataset="x", dataset_split="test", accuracy=accuracy, output_dir=Path("x"))
    if is_pushed:
        comparison.check_is_better()
    else:
        with pytest.raises(ValueError, match=r"is not pushed. Another student does better: .* --push_anyway"):
            comparison.check_is_better()
        comparison.accuracy["teacher"] = accuracy["plain student"]
        with pytest.raises(ValueError, match=r"is not pushed. Distilling did not pay: .* --push_anyway"):
            comparison.check_is_better()


def test_accuracies_of_a_trainer():
    groups = ClassGroups([0, 1], names=("many", "few"))
    metrics = {"eval_loss": 1.0, "eval_accuracy": 0.5, "eval_many_accuracy": 0.75, "eval_few_accuracy": 0.25}
    assert accuracies(metrics, groups) == {"accuracy": 0.5, "many_accuracy": 0.75, "few_accuracy": 0.25}


def test_a_folder_is_not_named_like_a_dataset_of_the_hub(home):
    images = load_images(SourceArguments(home.photos), {"image_size": 8}, None)
    assert name_dataset(images.data) == "photos (local folder)"
    images.data.args.dataset_name = "me/photos"
    assert name_dataset(images.data) == "me/photos"


@pytest.mark.usefixtures("pictures")
def test_the_losses_are_drawn_below_the_bias(home, tmp_path):
    images = load_images(SourceArguments(home.photos), {}, home.teacher)
    teacher = AutoModelForImageClassification.from_pretrained(home.teacher)
    draw_bias(teacher, images, tmp_path / "bias.png")
    draw_bias(teacher, images, tmp_path / "both.png", {"KD": [0.5, 0.25, 0.15, 0.1]})
    bias, both = (np.asarray(Image.open(tmp_path / name)) for name in ("bias.png", "both.png"))
    assert both.shape[0] > 1.2 * bias.shape[0] and bias.std() > 0
