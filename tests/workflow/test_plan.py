"""What is decided before anything is trained or written."""

import json
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photos import CPU, TRAINING

from hf_ltkd import DistillationTrainingArguments
from hf_ltkd.workflow import recommend
from hf_ltkd.workflow.plan import LOCK_NAME, TrainingPlan, make_plan, plan_teacher


@pytest.fixture
def plan_of(home, tmp_path):
    """`make_plan` for the teacher and the photos of `home`; nothing may be written."""

    def plan(**settings):
        given = {"teacher": home.teacher, "student": "resnet8", "data": home.photos, "output_dir": tmp_path / "s"}
        before = home.files()
        made = make_plan(**{**given, **TRAINING, **settings})
        assert home.files() == before and not list(tmp_path.iterdir())
        return made

    return plan


def test_what_is_not_set_is_recommended(plan_of, monkeypatch):
    monkeypatch.setattr(recommend, "SHARP", 1.1)  # no teacher is
    plan = plan_of(loss_args={"alpha": 2})
    values = plan.loss.hyper_parameters()
    assert (values["alpha"], values["beta"], values["temperature"], values["warmup_epochs"]) == (2, 1, 1, 16)
    assert values["ce"] == "balanced_softmax"
    assert plan.args.num_train_epochs == plan.epochs == 240 and plan.args.learning_rate == 0.05
    assert "beside a balanced softmax" in plan.loss_reason and "the paper's preset" in plan.reason
    assert plan.images.data.args.image_size == 8  # the teacher's
    assert plan.unseen and plan.bias.images == [2, 2, 2]
    assert plan.images.groups.names == ("head", "medium", "tail") and plan.teacher.config.depth == 14
    assert plan.cache_views == 240 and plan.cache_bytes == 64 * 240 * 3 * 4
    accuracy = np.mean([plan.bias.accuracy[f"{name}_accuracy"] for name in plan.images.groups.names])  # a class each
    monkeypatch.setattr(recommend, "SHARP", accuracy)
    assert plan_of().loss.hyper_parameters()["temperature"] == 2
    assert plan_of(loss_args={"temperature": 3}).loss.hyper_parameters()["temperature"] == 3


def test_what_is_set_wins(plan_of):
    plan = plan_of(num_train_epochs=3, learning_rate=0.2, image_size=16, num_groups=2, loss_args=["alpha=2"])
    assert plan.loss.hyper_parameters()["alpha"] == 2 and plan.loss.hyper_parameters()["warmup_epochs"] == 0.2
    assert plan.args.num_train_epochs == 3 and plan.args.learning_rate == 0.2
    assert plan.images.data.args.image_size == 16 and plan.images.groups.num_groups == 2


def test_without_recommendations_the_defaults_hold(plan_of):
    plan = plan_of(recommend=False)
    values = plan.loss.hyper_parameters()
    assert (values["alpha"], values["beta"], values["warmup_epochs"]) == (6, 6, 0)
    assert plan.args.num_train_epochs == 3 and plan.args.learning_rate == 5e-5 and plan.reason == ""


def test_the_weights_follow_the_seed(plan_of):
    one, same, other = (plan_of(seed=seed).network.state_dict() for seed in (1, 1, 2))
    name = "classifier.weight"
    assert torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name])


@pytest.mark.parametrize("given", [{"alpha": 3}, ["alpha=3"], [json.dumps({"alpha": 3})]])
def test_arguments_of_the_loss_as_python_flags_and_yaml_have_them(plan_of, given):
    assert plan_of(loss_args=given).loss.hyper_parameters()["alpha"] == 3


def test_the_plain_student_is_not_trained_twice(plan_of):
    assert [*plan_of(loss="ce", max_steps=1).without_teacher] == ["balanced softmax student"]
    plan = plan_of(loss="ce", loss_args={"ce": "balanced_softmax"}, max_steps=1)
    assert [*plan.without_teacher] == ["plain student"] and plan.cache_bytes is None
    assert [*plan_of(max_steps=1).without_teacher] == ["plain student", "balanced softmax student"]
    assert [*plan_of(max_steps=1, label_smoothing_factor=0.1).without_teacher] == ["plain student"]
    assert not plan_of(max_steps=1, plain_student=False).without_teacher


def test_kd_from_an_adjusted_teacher(plan_of):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".* has no effect")
        loss = plan_of(loss="kd", adjust_teacher=True, loss_args={"tau": 0.5}).loss
    assert loss.prior == "teacher" and loss.tau == 0.5
    assert loss.log_prior.exp() == pytest.approx(torch.tensor([38, 18, 8]) / 64)


def test_old_names_work_with_a_warning(plan_of):
    with pytest.warns(FutureWarning, match="eval_share is now called eval_fraction"):
        assert plan_of(eval_share=0.4).images.holdout.per_class == 4
    with pytest.warns(FutureWarning, match="recipe is now called preset"):
        assert plan_of(recipe="paper").args.preset == "paper"


def test_none_is_what_was_not_set(plan_of):
    assert plan_of(num_train_epochs=None, loss_args=None).epochs == 240


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_fraction": 0.01}, "too few to hold out 1% of it for evaluation"),
        ({"data": "nowhere"}, "--data 'nowhere' is no folder here"),
        ({"pair": ["vgg13"]}, "must be two names"),
        (
            {"adjust_teacher": True, "loss": "catkd"},
            "goes with losses that compare logits alone, not with --loss catkd",
        ),
        ({"loss_args": ["alpha"]}, "must have the form name=value"),
        ({"lr_decay": 2}, "lr_decay=2 is not valid"),
        ({"loss": "mine"}, "There is no loss 'mine'"),
    ],
)
def test_errors_are_one_sentence(plan_of, settings, message):
    with pytest.raises(ValueError) as error:
        plan_of(**settings)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_push_needs_a_login(plan_of, monkeypatch):
    monkeypatch.setattr("hf_ltkd.workflow.beforehand.get_token", lambda: None)
    with pytest.raises(ValueError, match="needs a login: run `hf auth login`"):
        plan_of(push="me/small")
    with pytest.raises(ValueError, match="--hub_strategy checkpoint does not go with distilling"):
        plan_of(push_to_hub=True, hub_token="x", hub_strategy="checkpoint")
    assert plan_of(push="me/small", hub_token="x").args.hub_model_id == "me/small"


def test_nothing_is_overwritten(plan_of, home, tmp_path):
    with pytest.raises(ValueError, match="holds a model or an unfinished training already"):
        plan_of(output_dir=home.student)
    assert plan_of(output_dir=home.student, resume_from_checkpoint="true").args.resume_from_checkpoint is True
    with pytest.raises(ValueError, match="holds a model"):
        plan_teacher(model="resnet8", data=home.photos, output_dir=home.teacher)


def test_another_number_or_order_of_classes(plan_of, home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    for name in ("blue", "green"):
        (folder / name).symlink_to(f"{home.photos}/{name}")
    with pytest.raises(ValueError, match="has 3 classes, the data 2: train one on them first: hf-ltkd train-teacher"):
        plan_of(data=folder)
    (folder / "blue").rename(folder / "yellow")
    (folder / "orange").symlink_to(f"{home.photos}/red")
    with pytest.raises(ValueError, match="Class 0 is 'blue' for the model"):
        plan_of(data=folder)


# ---- One training a folder ----


def plan_into(folder: Path, **arguments) -> TrainingPlan:
    nothing: Any = {"network": None, "loss": None, "images": None}
    args = DistillationTrainingArguments(output_dir=str(folder), **CPU, **arguments)
    return TrainingPlan(name="resnet8", args=args, reason="", **nothing)


def test_a_second_training_in_a_folder_ends_and_names_the_first(tmp_path):
    first, second = plan_into(tmp_path / "a"), plan_into(tmp_path / "a")
    with first.holding_folder(), plan_into(tmp_path / "b").holding_folder():
        for _ in range(2):  # the first one to be refused leaves the holder's name where it is
            with pytest.raises(
                ValueError, match=f"a' .process {os.getpid()} on .* since .*choose another --output_dir"
            ):
                with second.holding_folder():
                    pytest.fail("both train")
    with second.holding_folder():
        (tmp_path / "a" / "config.json").touch()
    with pytest.raises(ValueError, match="holds a model or an unfinished training already"):
        with first.holding_folder():  # planned before the second one wrote its model
            pytest.fail("it would be overwritten")
    with plan_into(tmp_path / "a", resume_from_checkpoint="checkpoint-1").holding_folder():
        pass


def test_a_killed_training_holds_no_folder_and_its_leftovers_go(tmp_path):
    process = os.fork()
    if process == 0:
        with plan_into(tmp_path).holding_folder():
            (tmp_path / "comparison.json.1.tmp").touch()
            (tmp_path / "_push-x").mkdir()
            (tmp_path / "_push-x" / "model.safetensors").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 3
    with plan_into(tmp_path).holding_folder():
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]


def test_only_the_main_rank_holds_the_folder(tmp_path, monkeypatch):
    plan = plan_into(tmp_path / "new")
    monkeypatch.setattr(DistillationTrainingArguments, "process_index", 1)
    with plan.holding_folder():
        assert not (tmp_path / "new").exists()
