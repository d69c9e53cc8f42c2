"""Several teachers in the workflow and the command: their mean, named in the card, and what does not fit."""

import json

import pytest
import torch
from photos import TRAINING, Home
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

import hf_ltkd
from hf_ltkd import TeacherEnsemble
from hf_ltkd.cli import main
from hf_ltkd.workflow.diagnose import diagnose
from hf_ltkd.workflow.plan import make_plan


@pytest.fixture
def teachers(home: Home, tmp_path) -> list[str]:
    """The home's teacher, and one of other weights."""
    other = AutoModelForImageClassification.from_pretrained(home.teacher)
    with torch.no_grad():
        other.classifier.weight.add_(torch.randn(other.classifier.weight.shape, generator=torch.manual_seed(0)))
    folder = str(tmp_path / "other")
    other.save_pretrained(folder)
    AutoImageProcessor.from_pretrained(home.teacher).save_pretrained(folder)
    return [home.teacher, folder]


def test_the_command_takes_several(home, teachers, tmp_path, capsys):
    output = tmp_path / "student"
    arguments = ["--student", "resnet8", "--data", home.photos, "--output_dir", str(output), "--max_steps", "2"]
    arguments += ["--use_cpu", "true", "--plain_student", "false", "--teacher_cache", str(tmp_path / "cache")]
    assert main(["distill", "--teacher", *teachers, "--teacher_weights", "3", "1", *arguments]) == 0
    said = capsys.readouterr().out
    assert f"{teachers[0]}+{teachers[1]}" in "".join(said.split())
    manifest = json.loads((tmp_path / "cache" / "manifest.json").read_text())
    assert manifest["teacher"].startswith("probabilities of 0.75 * ")


def test_the_plan_asks_for_their_mean_and_the_card_names_them(home, teachers, tmp_path):
    settings = {"student": "resnet8", "data": home.photos, "plain_student": False, "max_steps": 1, **TRAINING}
    plan = make_plan(teacher=teachers, output_dir=str(tmp_path / "planned"), **settings)
    processor = AutoImageProcessor.from_pretrained(home.teacher)
    image = Image.open(next((home.folder / "photos" / "red").iterdir()))
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    models = [AutoModelForImageClassification.from_pretrained(name).eval() for name in teachers]
    with torch.no_grad():
        expected = sum(model(pixels).logits.softmax(-1) for model in models) / 2
        torch.testing.assert_close(plan.teacher(pixel_values=pixels).logits.softmax(-1), expected)
    ensemble = TeacherEnsemble(models, mean_of="logits")
    hf_ltkd.distill(teacher=ensemble, output_dir=str(tmp_path / "made"), **settings)
    run = json.loads((tmp_path / "made" / "distillation.json").read_text())["teacher"]
    assert run["class"] == "TeacherEnsemble" and len(run["teachers"]) == 2
    assert run["parameters"] == sum(model.num_parameters() for model in models)
    card = (tmp_path / "made" / "README.md").read_text()
    assert "a CifarResNetForImageClassification and a CifarResNetForImageClassification" in card.replace("\\", "")
    found = diagnose(teachers, home.photos, picture=str(tmp_path / "bias.png"))
    assert sum(found.bias.probability) == pytest.approx(1)


def test_what_does_not_fit(home, teachers, tmp_path):
    small = str(tmp_path / "small")
    AutoModelForImageClassification.from_pretrained(home.teacher).save_pretrained(small)
    processor = AutoImageProcessor.from_pretrained(home.teacher)
    processor.image_mean = [0.0, 0.0, 0.0]
    processor.save_pretrained(small)
    reversed_folder = str(tmp_path / "reversed")
    model = AutoModelForImageClassification.from_pretrained(home.teacher)
    model.config.id2label = {0: "red", 1: "green", 2: "blue"}
    model.save_pretrained(reversed_folder)
    AutoImageProcessor.from_pretrained(home.teacher).save_pretrained(reversed_folder)
    wrong = [
        ({"teacher": [home.teacher, small]}, "see different pixels"),
        ({"teacher": [home.teacher, reversed_folder]}, "Class 0 is 'red' for the model"),
        ({"teacher": [home.teacher, str(tmp_path / "none")]}, "none"),
        ({"teacher": teachers, "loss": "reviewkd"}, "several|2 teachers"),
        ({"teacher": home.teacher, "teacher_weights": [1.0]}, "two teachers or more"),
        ({"teacher": teachers, "teacher_weights": [1.0]}, "a number for each of 2 teachers"),
        ({"teacher": teachers, "output_dir": teachers[1]}, "is the folder of --teacher"),
    ]
    for settings, message in wrong:
        settings = {"output_dir": str(tmp_path / "out"), "student": "resnet8", "data": home.photos} | settings
        with pytest.raises(ValueError, match=message):
            make_plan(**settings, **TRAINING)
    settings = {"teacher": [home.teacher, reversed_folder], "match_labels": True, "data": home.photos}
    plan = make_plan(**settings, student="resnet8", output_dir=str(tmp_path / "out"), **TRAINING)
    assert [*plan.teacher.config.id2label.values()] == ["blue", "green", "red"]
