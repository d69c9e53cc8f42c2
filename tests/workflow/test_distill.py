"""A student from a teacher and a folder of images, as one Python call."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import DatasetDict
from photos import COUNTS, TRAINING, accuracy_by_hand
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_ltkd import ClassGroups, CrossEntropyLoss, DistillationTrainer, LongTailSplit, create_model, distill
from hf_ltkd.data import read_class_folders
from hf_ltkd.data.holdout import Holdout
from hf_ltkd.metrics.answers import is_settled
from hf_ltkd.workflow.distill import publish, run
from hf_ltkd.workflow.plan import make_plan


MODELS = ["teacher", "adjusted teacher", "plain student", "adjusted plain student", "balanced softmax student"]
MODELS += ["this student"]
SHORT = {"plain_student": False, "max_steps": 2, **TRAINING}


def test_the_comparison_is_what_the_file_holds_and_what_the_saved_models_do(home):
    file = json.loads((home.folder / "student" / "comparison.json").read_text())
    assert home.comparison.to_dict() == file and home.comparison.output_dir == Path(home.student)
    assert list(file["accuracy"]) == MODELS
    for name, model in (("teacher", home.teacher), ("this student", home.student)):
        by_hand, written = accuracy_by_hand(model, home.photos), file["accuracy"][name]
        assert [written[f"{group}_accuracy"] for group in ("head", "medium", "tail")] == pytest.approx(by_hand)
        assert written["accuracy"] == pytest.approx(by_hand.mean())
    results = json.loads((home.folder / "student" / "eval_results.json").read_text())
    assert results["eval_accuracy"] == file["accuracy"]["this student"]["accuracy"]
    assert (file["dataset"], file["dataset_split"]) == ("photos (local folder)", "held-out training images")
    assert file["teacher_name"] is None and sum(file["teacher_probability"].values()) == pytest.approx(1)


def test_adjusted_is_by_logits_less_the_log_prior(home):
    counts = torch.tensor([38.0, 18.0, 8.0])  # of test_files
    by_hand = accuracy_by_hand(home.teacher, home.photos, (counts / counts.sum()).log())
    assert home.comparison.accuracy["adjusted teacher"]["accuracy"] == pytest.approx(by_hand.mean())


def test_files(home):
    student = Path(home.student)
    expected = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "comparison.json"}
    expected |= {"class_groups.json", "long_tail.json", "holdout.json", "eval_results.json", "teacher_bias.png"}
    assert expected | {"group_accuracy.png", "confusion.png"} <= {path.name for path in student.iterdir()}
    assert Holdout.from_pretrained(student).per_class == 2
    assert LongTailSplit.from_pretrained(student).class_counts == [38, 18, 8]
    assert ClassGroups.from_pretrained(student).group_of_class.tolist() == [0, 1, 2]
    teacher, processor = (AutoImageProcessor.from_pretrained(path) for path in (home.teacher, student))
    assert processor.image_mean == teacher.image_mean and processor.image_std == teacher.image_std
    assert dict(processor.size) == dict(teacher.size)
    assert str(home.folder) not in (student / "README.md").read_text()


def test_the_report_of_each_class(home):
    """By name, and the same as by hand; and what differs by no more than chance is not stated."""
    report = json.loads((home.folder / "student" / "class_report.json").read_text())
    by_hand = accuracy_by_hand(home.student, home.photos)
    assert [row["class"] for row in report["classes"]] == list(COUNTS)
    assert [row["recall"] for row in report["classes"]] == pytest.approx(by_hand)
    assert [row["support"] for row in report["classes"]] == [2, 2, 2]
    assert sum(pair["images"] for pair in report["confused"]) == round(6 * (1 - by_hand.mean()))
    low, high = report["accuracy"]["tail_accuracy"]["interval"]
    assert low <= by_hand[2] <= high and report["accuracy"]["accuracy"]["images"] == 6
    assert home.comparison.classes == report["classes"]
    scores = home.comparison.scores
    assert list(scores) == MODELS and scores["this student"]["balanced_accuracy"] == pytest.approx(by_hand.mean())
    assert scores["this student"]["worst_class_accuracy"] == pytest.approx(by_hand.min())
    assert all("expected_calibration_error" in of_model for of_model in scores.values())
    assert report["scores"]["macro_f1"]["value"] == scores["this student"]["macro_f1"]
    assert report["scores"]["macro_f1"]["interval"] == home.comparison.intervals["this student"]["macro_f1"]
    values = " | ".join(f"{100 * value:.1f}" for value in scores["teacher"].values())
    assert f"| teacher | {values} |" in (home.folder / "student" / "README.md").read_text()
    card, differences = (home.folder / "student" / "README.md").read_text(), home.comparison.differences
    assert list(differences) == MODELS[:-1]
    stated = [name for name, changes in differences.items() if any(is_settled(d) for d in changes.values())]
    assert card.count("accuracy changes by") == len(stated)
    assert "the test set is too small to tell a difference" in card and "Wilson" in card


def test_the_plain_student_starts_from_the_same_weights(home, tmp_path, monkeypatch):
    """After no step at all both are what `create_model` made, so they answer alike."""
    plan = make_plan(
        teacher=home.teacher, student="resnet8", data=home.photos, output_dir=str(tmp_path), max_steps=1, **TRAINING
    )
    monkeypatch.setattr("hf_ltkd.workflow.distill.DistillPlan.trainer", _trainer_that_does_not_train(plan))
    accuracy = run(plan).accuracy
    assert accuracy["plain student"] == accuracy["balanced softmax student"] == accuracy["this student"]


def _trainer_that_does_not_train(plan):
    make = type(plan).trainer

    def trainer(self, *args, **changes):
        made = make(self, *args, **changes)
        made.train = lambda **_: type("Result", (), {"metrics": {}})
        return made

    return trainer


@pytest.mark.parametrize("error", [FloatingPointError, KeyboardInterrupt])
def test_a_student_without_a_teacher_that_fails_leaves_the_comparison(home, tmp_path, monkeypatch, caplog, error):
    """What was measured is written: all but the one that diverges, or all before an interruption."""
    plan = make_plan(
        teacher=home.teacher, student="resnet8", data=home.photos, output_dir=str(tmp_path), max_steps=1, **TRAINING
    )
    make = type(plan).trainer

    def fail(**_):
        raise error("the loss is nan")

    def trainer(self, network, loss, *args, **changes):
        made = make(self, network, loss, *args, **changes)
        if isinstance(loss, CrossEntropyLoss) and loss.ce == "cross_entropy":
            made.train = fail
        return made

    monkeypatch.setattr("hf_ltkd.workflow.distill.DistillPlan.trainer", trainer)
    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            run(plan)
        expected = ["teacher", "adjusted teacher", "this student"]
    else:
        run(plan)
        expected = ["teacher", "adjusted teacher", "balanced softmax student", "this student"]
        assert "The plain student is left out of the comparison: the loss is nan" in caplog.text
    assert list(json.loads((tmp_path / "comparison.json").read_text())["accuracy"]) == expected
    assert "| adjusted teacher |" in (tmp_path / "README.md").read_text() and (tmp_path / "teacher_bias.png").is_file()


def test_without_the_plain_student_and_from_cached_logits(home, tmp_path):
    cache = {"teacher_cache": str(tmp_path / "cache"), "teacher_cache_views": 1}
    comparison = distill(
        home.teacher, "resnet8", home.photos, loss="kd", num_groups=2, output_dir=tmp_path / "s", **cache, **SHORT
    )
    assert (tmp_path / "cache" / "manifest.json").is_file()
    assert list(comparison.accuracy) == ["teacher", "adjusted teacher", "this student"]
    assert list(comparison.teacher_probability) == ["group_0", "group_1"]


@pytest.mark.parametrize(
    "run",
    [
        {"loss": {"class": "CrossEntropyLoss", "hyper_parameters": {"ce": "balanced_softmax"}}},
        {"loss": {"class": "LTKDLoss", "hyper_parameters": {}}},
        {"loss": {"class": "SumLoss", "hyper_parameters": {"losses": [{"loss": "kd"}, {"loss": "ltkd"}]}}},
        {"logit_adjustment": {"tau": 1.0}},
    ],
)
def test_a_teacher_is_not_corrected_twice(home, tmp_path, run):
    """One whose files say that it was corrected is no row more, and --adjust_teacher says what it would do."""
    teacher = shutil.copytree(home.teacher, tmp_path / "teacher")
    (teacher / "distillation.json").write_text(json.dumps(run))
    how = {"loss": "kd", "plain_student": False, **SHORT}
    with pytest.warns(UserWarning, match="--adjust_teacher corrects .*: corrected twice, it may favour rare classes"):
        comparison = distill(teacher, "resnet8", home.photos, output_dir=tmp_path / "s", adjust_teacher=True, **how)
    assert list(comparison.accuracy) == ["teacher", "this student"]


def test_objects_in_memory_give_what_their_names_give(home, tmp_path):
    """A teacher, a student and a `DatasetDict` that are loaded already: the same weights, bit for bit."""
    distill(home.teacher, home.student, home.photos, output_dir=tmp_path / "names", seed=7, **SHORT)
    teacher, student = (AutoModelForImageClassification.from_pretrained(m) for m in (home.teacher, home.student))
    data = DatasetDict(train=read_class_folders(Path(home.photos)))
    comparison = distill(teacher, student, data, output_dir=tmp_path / "objects", seed=7, **SHORT)
    by_name, by_object = (load_file(tmp_path / name / "model.safetensors") for name in ("names", "objects"))
    assert all(torch.equal(by_name[name], by_object[name]) for name in by_name)
    assert comparison.accuracy["teacher"] == home.comparison.accuracy["teacher"]
    assert comparison.dataset == "dataset in memory" and comparison.teacher_name is None


def test_a_student_in_memory_must_have_the_classes(home, tmp_path):
    with pytest.raises(ValueError, match="has 4 classes, the data 3"):
        distill(home.teacher, create_model("resnet8", 4), home.photos, output_dir=tmp_path / "x", **SHORT)
    with pytest.raises(ValueError, match="is a Linear: give a PreTrainedModel"):
        distill(torch.nn.Linear(1, 1), "resnet8", home.photos, output_dir=tmp_path / "x", **SHORT)
    assert not list(tmp_path.iterdir())


def test_networks_of_transformers(home, tmp_path):
    """A Vision Transformer with its image processor teaches a ResNet that was trained for other classes."""
    names = {"id2label": dict(enumerate(COUNTS)), "label2id": {name: i for i, name in enumerate(COUNTS)}}
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    teacher = ViTForImageClassification(ViTConfig(image_size=72, patch_size=36, **small, **names))
    teacher.save_pretrained(tmp_path / "vit")
    processor = ViTImageProcessor(size={"height": 72, "width": 72}, image_mean=[0.4] * 3, image_std=[0.3] * 3)
    processor.save_pretrained(tmp_path / "vit")
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=5)
    ResNetForImageClassification(config).save_pretrained(tmp_path / "resnet")
    plan = make_plan(
        teacher=tmp_path / "vit", student=tmp_path / "resnet", data=home.photos, output_dir=tmp_path / "s", **SHORT
    )
    assert (
        plan.images.data.args.image_size == 72 and str(plan.args.optim.value).startswith("adamw") and not plan.unseen
    )
    run(plan)
    student = AutoModelForImageClassification.from_pretrained(tmp_path / "s")
    assert student.config.id2label == names["id2label"]
    processor = AutoImageProcessor.from_pretrained(tmp_path / "s")
    assert list(processor.image_mean) == [0.4] * 3 and processor.size["height"] == 72


def test_without_a_teacher(home, tmp_path):
    comparison = distill(
        None, "resnet8", home.photos, loss="ce", image_size=8, output_dir=tmp_path, **{**SHORT, "plain_student": True}
    )
    assert (
        list(comparison.accuracy) == ["balanced softmax student", "this student"]
        and comparison.teacher_probability is None
    )
    assert not (tmp_path / "teacher_bias.png").exists() and (tmp_path / "README.md").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rat": 1}, "no setting 'learning_rat', did you mean 'learning_rate'?"),
        ({"image_siz": 8}, "did you mean 'image_size'?"),
        ({"alpha": 1}, "an argument of the loss goes into loss_args"),
        ({"loss_args": {"alpa": 1}}, "does not take these arguments"),
        ({"student": "resnet9000x"}, "There is no network 'resnet9000x'"),
        ({"teacher": None}, "--teacher is missing, which --loss ltkd needs"),
        ({"data": None}, "--data is missing"),
    ],
)
def test_errors_come_before_anything_is_written(home, tmp_path, settings, message):
    given = {"teacher": home.teacher, "student": "resnet8", "data": home.photos, **SHORT, **settings}
    with pytest.raises(ValueError) as error:
        distill(**given, output_dir=tmp_path / "student")
    assert message in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", [{"push": "me/small"}, {"push_to_hub": True, "hub_model_id": "me/small"}], ids=str)
def test_push_at_the_end(home, tmp_path, monkeypatch, how):
    """However it was asked for: the Trainer would push before it is known whether distilling paid."""
    sent = []

    def push(folder, to, **how):
        sent.append((folder, to, how))
        return type("Commit", (), {"commit_url": "https://example.org/commit"})

    def run(plan):
        assert not plan.args.push_to_hub
        return replace(home.comparison)

    monkeypatch.setattr("hf_ltkd.workflow.beforehand.get_token", lambda: None)
    monkeypatch.setattr("hf_ltkd.workflow.distill.run", run)
    monkeypatch.setattr("hf_ltkd.workflow.distill.push", push)
    settings = {"output_dir": tmp_path / "s", "hub_private_repo": True, "hub_token": "t", "hub_revision": "b", **SHORT}
    comparison = distill(home.teacher, "resnet8", home.photos, **settings, **how)
    assert comparison.pushed == "https://example.org/commit" and "pushed" not in comparison.to_dict()
    expected = {"private": True, "revision": "b", "token": "t", "timeout": 60.0, "push_anyway": False}
    assert sent == [(tmp_path / "s", "me/small", expected)]


def test_nothing_is_pushed_unless_asked(home, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_ltkd.workflow.distill.push", None)
    plan = make_plan(teacher=home.teacher, student="resnet8", data=home.photos, output_dir=str(tmp_path), **SHORT)
    assert publish(plan) is None


def test_a_checkpoint_is_chosen_on_validation_images_and_reported_on_test_images(home, tmp_path):
    """Log and card say which; on the reported images there is a warning."""
    for split, first in (("train", 0), ("test", 4), ("validation", 7)):
        for name in COUNTS:
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(first, first + (4 if split == "train" else 2)):
                file = tmp_path / "data" / split / name / f"{number}.png"
                file.symlink_to(f"{home.photos}/{name}/{number}.png")
    best = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 3}
    best |= {"metric_for_best_model": "accuracy", "loss": "ce", "student": "resnet8", "image_size": 8, **TRAINING}
    plan = make_plan(data=tmp_path / "data", output_dir=tmp_path / "one", **best)
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        evaluate = DistillationTrainer.evaluation_loop
        patch.setattr(
            DistillationTrainer,
            "evaluation_loop",
            lambda self, loader, *a, **k: asked.append(loader.dataset) or evaluate(self, loader, *a, **k),
        )
        run(plan)
    assert asked == [plan.images.data.validation] * 3 + [plan.images.data.test]
    card = (tmp_path / "one" / "README.md").read_text()
    training = json.loads((tmp_path / "one" / "distillation.json").read_text())["training"]
    assert f"that of epoch {training['evaluated']['epoch']:g} of 3, the best by `accuracy`" in card
    assert "chosen on validation images." in card and "student" not in card
    assert "This model cannot be told from chance" in card  # 3 of 6 answers are right
    shutil.rmtree(tmp_path / "data" / "validation")
    with pytest.warns(UserWarning, match="chosen by accuracy on the images that are reported, which flatters it"):
        distill(data=tmp_path / "data", output_dir=tmp_path / "two", **best)
    assert "chosen on these very test images" in (tmp_path / "two" / "README.md").read_text()
