"""Short trainings choose the loss's weights on validation images."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from photos import TRAINING, Home
from transformers import TrainerCallback

from hf_ltkd import ClassGroups, TeacherCache, create_loss
from hf_ltkd.cli.text import print_plan
from hf_ltkd.workflow import tune as module
from hf_ltkd.workflow.estimate import Estimate
from hf_ltkd.workflow.plan import DistillPlan, make_plan
from hf_ltkd.workflow.recommend import SPACES
from hf_ltkd.workflow.tune import (
    TrialTrainer,
    Tuning,
    mean_over_groups,
    seconds_of_tuning,
    steps_of_trial,
    tune,
    with_arguments,
)


pytest.importorskip("optuna")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Two evaluations a trial."""
    monkeypatch.setattr(module, "EVALUATIONS", 2)


def plan_in(home: Home, folder: Path, **settings) -> DistillPlan:
    given = {"teacher": home.teacher, "student": "resnet8", "data": home.photos, "output_dir": str(folder), "tune": 3}
    return make_plan(**{**given, "max_steps": 4, "seed": 3, **TRAINING, **settings})


def cache_of(plan: DistillPlan) -> TeacherCache:
    data = plan.images.data.train
    return TeacherCache.build(plan.choices.teacher_cache, plan.teacher, data, views=1, batch_size=16, progress=False)


@pytest.fixture(scope="module")
def searched(home, tmp_path_factory):
    """A plan, its cache, and what three trials found; the images that were evaluated on."""
    plan, seen = plan_in(home, tmp_path_factory.mktemp("tune") / "s"), []
    cache = cache_of(plan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EVALUATIONS", 2)
        evaluate = TrialTrainer.evaluate

        def noted(self, eval_dataset=None, *args, **kwargs):
            seen.append(self.eval_dataset if eval_dataset is None else eval_dataset)
            return evaluate(self, eval_dataset, *args, **kwargs)

        patch.setattr(TrialTrainer, "evaluate", noted)
        return plan, cache, tune(plan, cache), seen


def test_the_first_trial_is_the_plan_itself_and_the_best_is_chosen(searched):
    plan, _, tuning, _ = searched
    assert (
        tuning.start == {"alpha": 1, "beta": 1, "temperature": plan.loss.temperature} == tuning.trials[0]["arguments"]
    )
    assert [trial["number"] for trial in tuning.trials] == [0, 1, 2]
    complete = [trial for trial in tuning.trials if trial["state"] == "complete"]
    assert tuning.chosen == max(complete, key=lambda trial: trial["value"])["arguments"]
    for trial in tuning.trials:
        assert all(low <= trial["arguments"][name] <= high for name, (low, high) in SPACES["ltkd"].items())
        assert [step for step, _ in trial["curve"]] == [1, 2][: len(trial["curve"])]
        assert trial["value"] == trial["curve"][-1][1]
    assert Tuning.from_pretrained(plan.output_dir) == tuning
    assert (plan.output_dir / "tuning.png").is_file()
    # One validation image of each of three classes: sqrt(3 · 0.25) / 3.
    assert tuning.images == 3 and tuning.standard_error == pytest.approx(0.75**0.5 / 3)


def test_the_test_images_are_never_looked_at(searched):
    """Every evaluation is of validation images; tests/data/test_holdout.py has that these are others."""
    plan, _, _, seen = searched
    data = plan.images.data
    assert seen and all(part is data.validation for part in seen)
    assert data.validation.labels.tolist() == [0, 1, 2] and data.split.class_counts == [37, 17, 7]


def test_validation_images_choose_the_temperature(searched):
    plan = searched[0]
    pixels = torch.stack([item["pixel_values"] for item in plan.images.data.validation.__getitems__([0, 1, 2])])
    with torch.no_grad():
        right = plan.teacher.eval()(pixels).logits.argmax(1) == torch.arange(3)
    assert plan.images.teacher_accuracy(plan.teacher, plan.bias, 2) == pytest.approx(right.double().mean().item())
    assert plan.loss.temperature == (2 if right.sum() > 1 else 1)


def test_a_trial_is_the_same_training_but_shorter(searched):
    """What the first trial came to is what its loss and its steps come to by themselves."""
    plan, cache, tuning, _ = searched
    fresh = make_plan(**_settings(plan))
    loss = create_loss(
        "ltkd", fresh.images.groups, ce="balanced_softmax", alpha=1, beta=1, temperature=plan.loss.temperature
    )
    part = 2 / 4  # of the steps
    loss.warmup_epochs = part * fresh.loss.warmup_epochs
    trainer = fresh.trainer(fresh.network, loss, cache, max_steps=2, save_strategy="no")
    trainer.train()
    assert mean_over_groups(trainer.evaluate(), fresh.images.groups) == tuning.trials[0]["value"]


def _settings(plan: DistillPlan) -> dict:
    choices, args = plan.choices, plan.args
    where = {"teacher": choices.teacher, "student": "resnet8", "data": plan.images.data.args.data_dir}
    return {
        **where,
        "output_dir": str(plan.output_dir) + "2",
        "tune": 3,
        "max_steps": 4,
        "seed": args.seed,
        **TRAINING,
    }


def test_the_same_command_goes_on(searched, tmp_path, monkeypatch):
    """Nothing is done twice; a trial that was interrupted is done again; more trials go on from there."""
    plan, cache, tuning, _ = searched
    folder = tmp_path / "s"
    shutil.copytree(plan.output_dir, folder)
    begun = []

    class Interruption(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    def train(self, *args, trial=None, **kwargs):
        begun.append(trial.number)
        return TrialTrainer.__mro__[1].train(self, *args, trial=trial, **kwargs)

    monkeypatch.setattr(TrialTrainer, "train", train)
    args = replace(plan.args, output_dir=str(folder))
    again = replace(plan, args=args)
    assert tune(again, cache).trials == tuning.trials and not begun  # the same number of trials
    again.choices.tune = 4
    try:
        with pytest.MonkeyPatch.context() as patch:
            make = DistillPlan.trainer

            def trainer(self, *args, **kwargs):
                made = make(self, *args, **kwargs)
                made.add_callback(Interruption())
                return made

            patch.setattr(DistillPlan, "trainer", trainer)
            with pytest.raises(KeyboardInterrupt):
                tune(again, cache)
        more = tune(again, cache)
        assert begun == [3, 4] and more.trials[:3] == tuning.trials and len(more.trials) == 4
        assert tune(again, cache).trials == more.trials and begun == [3, 4]
    finally:
        again.choices.tune = 3


def test_a_trial_that_diverges_ends_and_the_search_goes_on(searched, tmp_path, monkeypatch):
    plan, cache, _, _ = searched
    args = replace(plan.args, output_dir=str(tmp_path))
    step = TrialTrainer.training_step

    def training_step(self, *args, **kwargs):
        if self.distillation_loss.alpha != 1:
            raise FloatingPointError("the loss is nan at step 1")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(TrialTrainer, "training_step", training_step)
    tuning = tune(replace(plan, args=args), cache)
    assert [trial["state"] for trial in tuning.trials] == ["complete", "diverged", "diverged"]
    assert tuning.chosen == tuning.start and tuning.trials[1]["value"] is None

    def fail(*args, **kwargs):
        raise FloatingPointError("the loss is nan at step 1")

    monkeypatch.setattr(TrialTrainer, "training_step", fail)
    with pytest.raises(ValueError, match=r"None of the 3 short trainings .* nan at step 1\): try a lower"):
        tune(replace(plan, args=replace(args, seed=4)), cache)


@pytest.mark.parametrize("name", SPACES)
def test_every_space_is_of_arguments_that_the_loss_has(name, searched):
    """Ends and start are valid, and nothing but what is chosen changes."""
    groups = ClassGroups.from_counts([30, 20, 10])
    loss = create_loss(name, groups, ce="balanced_softmax", warmup_epochs=3, prior="teacher")
    plan = replace(searched[0], loss=loss)
    for end in (0, 1):
        chosen = {argument: ends[end] for argument, ends in SPACES[name].items()}
        other = with_arguments(plan, **chosen)
        assert type(other) is type(loss)
        assert other.hyper_parameters() == {**loss.hyper_parameters(), **chosen}
    for argument, (low, high) in SPACES[name].items():
        assert 0 < low <= loss.hyper_parameters()[argument] <= high


def test_mean_over_groups_leaves_out_what_is_not_measured():
    groups = ClassGroups.from_counts([30, 20, 10])
    metrics = {"eval_accuracy": 0.9, "eval_head_accuracy": 1.0, "eval_tail_accuracy": 0.25}
    assert mean_over_groups(metrics, groups) == pytest.approx(0.625)


def test_time_is_said_beforehand(searched, monkeypatch, capsys):
    """Three trials of the fourth part of 400 steps: all steps, or what successive halving leaves of eight parts."""
    monkeypatch.setattr(module, "EVALUATIONS", 8)
    plan = replace(searched[0], args=replace(searched[0].args, max_steps=400))
    assert steps_of_trial(plan) == 96  # 8 · round(400 / 32)
    times = Estimate(images=1.0, teacher=5.0, student=2.0, batches=400, workers=0)
    least, most = seconds_of_tuning(plan, times)
    evaluated = 8 * 3 / 16 / 3  # three images in batches of 16, each a third of the training's work
    assert most == pytest.approx(3 * 3.0 * (96 + evaluated))
    assert least == pytest.approx(most * (1 / 8 + 2 / 8 / 3 + 5 / 8 / 9))
    print_plan(plan, times)
    said = " ".join(capsys.readouterr().out.split())
    assert "3 short trainings of 96 steps or fewer, from the teacher's cached logits" in said
    assert (
        "choose alpha 0.1 to 10, beta 0.1 to 10, temperature 1 to 8, by validation accuracy in the mean over" in said
    )
    assert "before it 4 min to tune, or 14 min if no trial is stopped early" in said


def test_what_is_given_stays(home, tmp_path):
    plan = plan_in(home, tmp_path / "s", loss_args={"temperature": 2})
    assert list(plan.space) == ["alpha", "beta"] and plan.loss.temperature == 2
    assert plan.choices.teacher_cache == str(tmp_path / "s" / "teacher_cache") and not list(tmp_path.iterdir())


WRONG = [
    ({"loss": "ce"}, "nothing to choose for --loss ce: it chooses weights and temperature of ltkd, kd"),
    ({"loss": "reviewkd"}, "nothing to choose for --loss reviewkd"),
    ({"loss": "kd", "loss_args": {"kd_weight": 1, "temperature": 2}}, r"sets all that --tune .* \(kd_weight, temp"),
    ({"tune": 1}, "tune=1 is not valid: it must be a whole number, 2 or more"),
    ({"tune": 0}, "tune=0 is not valid"),
    ({"seeds": -1}, "seeds=-1 is not valid: it must be a whole number, 2 or more"),
    (
        {"seeds": 2, "resume_from_checkpoint": "true"},
        "--resume_from_checkpoint does not go with --seeds|finds nothing",
    ),
    ({"eval_with_teacher": True}, "leave --teacher_cache and --tune out"),
    ({"mixup_alpha": 0.5}, "--mixup_alpha needs the teacher itself, not its cached logits"),
]


@pytest.mark.parametrize("settings, said", WRONG)
def test_wrong_is_said_before_an_image_is_opened(home, tmp_path, monkeypatch, settings, said):
    def opened(*args, **kwargs):
        raise AssertionError("images were looked at")

    monkeypatch.setattr("hf_ltkd.data.check.look_at", opened)
    with pytest.raises(ValueError, match=said):
        plan_in(home, tmp_path / "s", **settings)
    assert not list(tmp_path.iterdir())


def test_several_ranks_and_a_missing_package(home, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_ltkd.workflow.beforehand.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "hf_ltkd\[tune\]"'):
        plan_in(home, tmp_path / "s")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="--tune runs in one process"):
        plan_in(home, tmp_path / "s")


def test_the_file_is_of_json_alone(searched):
    file = json.loads((searched[0].output_dir / "tuning.json").read_text())
    assert file["objective"] == "validation accuracy in the mean over the groups" and len(file["trials"]) == 3
    assert torch.tensor([trial["seconds"] for trial in file["trials"]]).min() > 0
