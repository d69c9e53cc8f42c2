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
    assert comparison.to_dict() == OF_VERSION_0_1_0 and comparison.output_dir == tmp_path
    comparison.save_pretrained(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "comparison.json").read_text()) == OF_VERSION_0_1_0
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
    }


def test_accuracies_of_a_trainer():
    groups = ClassGroups([0, 1], names=("many", "few"))
    metrics = {"eval_loss": 1.0, "eval_accuracy": 0.5, "eval_many_accuracy": 0.75, "eval_few_accuracy": 0.25}
    assert accuracies(metrics, groups) == {"accuracy": 0.5, "many_accuracy": 0.75, "few_accuracy": 0.25}


def test_a_folder_is_not_named_like_a_dataset_of_the_hub(home):
    images = load_images(SourceArguments(home.photos), {"image_size": 8}, None)
    assert name_dataset(images.data) == "photos (local folder)"
    images.data.args.dataset_name = "me/photos"
    assert name_dataset(images.data) == "me/photos"


def test_the_losses_are_drawn_below_the_bias(home, tmp_path):
    images = load_images(SourceArguments(home.photos), {}, home.teacher)
    teacher = AutoModelForImageClassification.from_pretrained(home.teacher)
    draw_bias(teacher, images, tmp_path / "bias.png")
    draw_bias(teacher, images, tmp_path / "both.png", {"KD": [0.5, 0.25, 0.15, 0.1]})
    bias, both = (np.asarray(Image.open(tmp_path / name)) for name in ("bias.png", "both.png"))
    assert both.shape[0] > 1.2 * bias.shape[0] and bias.std() > 0
