"""A classifier trained by cross-entropy."""

import json
from pathlib import Path

import pytest
from photos import COUNTS, TRAINING, accuracy_by_hand
from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

from hf_ltkd import ClassGroups, LongTailSplit, create_model, train_teacher
from hf_ltkd.workflow.plan import plan_teacher


def test_what_is_saved_and_what_is_returned(home, tmp_path):
    settings = {"image_size": 8, "crop_padding": 1, "num_train_epochs": 1, "output_dir": str(tmp_path / "new")}
    result = train_teacher("resnet8", home.photos, **settings, **TRAINING)
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "new")
    assert model.config.id2label == dict(enumerate(COUNTS)) and model.config.depth == 8
    assert LongTailSplit.from_pretrained(tmp_path / "new").class_counts == [38, 18, 8]
    assert ClassGroups.from_pretrained(tmp_path / "new").class_counts == (38, 18, 8)
    assert (tmp_path / "new" / "train_results.json").is_file()
    by_hand = accuracy_by_hand(str(tmp_path / "new"), home.photos)
    assert [result.accuracy[f"{group}_accuracy"] for group in ("head", "medium", "tail")] == pytest.approx(by_hand)
    assert result.model == str(tmp_path / "new")


@pytest.mark.parametrize(
    "settings, ce, reason",
    [
        ({}, "balanced_softmax", "the counts are skewed"),
        ({"recommend": False}, "cross_entropy", ""),
        ({"ce": "cross_entropy"}, "cross_entropy", ""),
        ({"ce": "ldam", "loss_args": ["drw_epoch=3"]}, "ldam", ""),
        ({"loss_args": {"ce": "logit_adjusted", "tau": 1.5}}, "logit_adjusted", ""),
        ({"label_smoothing_factor": 0.1}, "cross_entropy", "label_smoothing_factor goes with"),
    ],
)
def test_which_cross_entropy(home, tmp_path, settings, ce, reason):
    plan = plan_teacher(model="resnet8", data=home.photos, image_size=8, output_dir=tmp_path, **settings, **TRAINING)
    assert plan.loss.ce == ce and plan.loss_reason.startswith(reason) and bool(reason) == bool(plan.loss_reason)


def test_it_goes_on_from_the_last_checkpoint(home, tmp_path):
    settings = {"image_size": 8, "output_dir": tmp_path, "save_strategy": "steps", "save_steps": 2, **TRAINING}
    train_teacher("resnet8", home.photos, max_steps=2, **settings)
    first = json.loads((tmp_path / "checkpoint-2" / "distillation.json").read_text())["training"]
    with pytest.raises(ValueError, match="holds a model or an unfinished training already"):
        train_teacher("resnet8", home.photos, max_steps=4, **settings)
    for resume in ("true", True):
        train_teacher("resnet8", home.photos, max_steps=4, resume_from_checkpoint=resume, **settings)
    last = json.loads((tmp_path / "distillation.json").read_text())["training"]
    assert last["seconds"] > first["seconds"] > 0 and (first["steps"], last["steps"]) == (2, 4)
    log = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    assert log["global_step"] == 4 and (tmp_path / "checkpoint-4").stat().st_mtime > 0


def test_a_model_in_memory_at_its_own_size(home, tmp_path):
    model = create_model("resnet8", 3, image_size=16, id2label=dict(enumerate(COUNTS)))
    result = train_teacher(model, home.photos, max_steps=1, output_dir=tmp_path, **TRAINING)
    assert result.images.data.args.image_size == 16
    assert AutoModelForImageClassification.from_pretrained(tmp_path).config.image_size == 16


def test_multiply_adds_are_those_of_the_images_it_is_trained_on(home, tmp_path):
    """The config of Transformers' ResNet knows no size, and another network's may know another one."""
    names = {"id2label": dict(enumerate(COUNTS)), "label2id": {name: i for i, name in enumerate(COUNTS)}}
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", **names)
    train_teacher(
        ResNetForImageClassification(config), home.photos, max_steps=1, image_size=16, output_dir=tmp_path, **TRAINING
    )
    network = json.loads((tmp_path / "distillation.json").read_text())["student"]
    # the stem at 8 × 8; at 4 × 4 and 2 × 2 two convolutions a stage, with a shortcut where the size changes; the head
    convolutions = 64 * 3 * 49 * 8 + 16 * 2 * 9 * 64 + 4 * (2 * 9 + 1) * 64
    assert network["input"] == [3, 16, 16] and network["macs"] == convolutions + 8 * 3


def test_a_finetuned_model_keeps_its_pixels(home, tmp_path):
    result = train_teacher(home.teacher, home.photos, max_steps=1, output_dir=tmp_path, **TRAINING)
    processor = json.loads((Path(home.teacher) / "preprocessor_config.json").read_text())
    assert result.images.data.mean == processor["image_mean"] and result.images.data.args.image_size == 8


def test_an_unknown_setting_is_named(home):
    with pytest.raises(ValueError, match="no setting 'outputdir', did you mean 'output_dir'"):
        train_teacher("resnet8", home.photos, outputdir="x")
