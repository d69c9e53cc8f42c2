"""Accuracy per group of a saved model."""

import json

import pytest
from photos import accuracy_by_hand
from PIL import Image
from transformers import AutoModelForImageClassification

from hf_ltkd import ClassGroups, evaluate


def test_what_the_saved_model_does(home):
    result = evaluate(home.student, home.photos)
    by_hand = accuracy_by_hand(home.student, home.photos)
    assert [result.accuracy[f"{group}_accuracy"] for group in ("head", "medium", "tail")] == pytest.approx(by_hand)
    assert result.accuracy == home.comparison.accuracy["this student"] and result.model == home.student
    assert result.images.holdout.per_class == 2


def test_a_model_in_memory_in_batches_of_one(home):
    model = AutoModelForImageClassification.from_pretrained(home.teacher)
    assert evaluate(model, home.photos, batch_size=1).accuracy == home.comparison.accuracy["teacher"]


def test_the_groups_are_those_it_was_saved_with(home, tmp_path):
    AutoModelForImageClassification.from_pretrained(home.student).save_pretrained(tmp_path)
    settings = {"image_size": 8, "eval_fraction": 0.4}
    assert list(evaluate(tmp_path, home.photos, **settings).accuracy)[1:] == [
        f"{group}_accuracy" for group in ("head", "medium", "tail")
    ]
    ClassGroups([0, 1, 1], names=("many", "few")).save_pretrained(tmp_path)
    result = evaluate(tmp_path, home.photos, **settings)
    assert set(result.accuracy) == {"accuracy", "many_accuracy", "few_accuracy"}
    assert result.images.holdout.per_class == 4


@pytest.mark.usefixtures("pictures")
def test_the_report_is_written_where_it_is_asked_for(home, tmp_path):
    result = evaluate(home.student, home.photos, output_dir=tmp_path / "report")
    assert [path.name for path in result.files] == ["class_report.json", "confusion.png"]
    assert Image.open(result.files[1]).width > 300
    ours = json.loads((tmp_path / "report" / "class_report.json").read_text())
    trained = json.loads((home.folder / "student" / "class_report.json").read_text())
    errors = [report["scores"].pop("expected_calibration_error")["value"] for report in (ours, trained)]
    assert ours == trained and errors[0] == pytest.approx(errors[1], abs=1e-6)  # float32, in other batches
    assert ours["classes"] == result.classes
    assert result.scores["expected_calibration_error"] == errors[0]


def test_errors(home):
    with pytest.raises(ValueError, match="There is no image classifier"):
        evaluate(home.photos, home.photos)
    with pytest.raises(ValueError, match="no setting 'batchsize', did you mean 'batch_size'"):
        evaluate(home.student, home.photos, batchsize=1)
    with pytest.raises(ValueError, match="Class 0 is 'blue' for the model"):
        evaluate(home.student, str(home.folder))
