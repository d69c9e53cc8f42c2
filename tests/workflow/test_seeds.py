"""Several students of each kind: means and deviations are compared, and the best on validation images is kept."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from photos import TRAINING
from safetensors.torch import load_file
from scipy.stats import ttest_1samp

from hf_ltkd import ClassGroups, DistillationTrainer
from hf_ltkd.cli.text import print_comparison
from hf_ltkd.metrics.answers import Answers
from hf_ltkd.workflow import seeds as module
from hf_ltkd.workflow.distill import run
from hf_ltkd.workflow.outputs import Comparison
from hf_ltkd.workflow.plan import DistillPlan, make_plan
from hf_ltkd.workflow.seeds import OURS, SEED_RESULTS, differences


METRICS = ["accuracy", "head_accuracy", "medium_accuracy", "tail_accuracy"]


def plan_in(home, folder: Path, **settings) -> DistillPlan:
    given = {"teacher": home.teacher, "student": "resnet8", "data": home.photos, "output_dir": str(folder), "seeds": 2}
    return make_plan(**{**given, "max_steps": 4, "seed": 5, "save_strategy": "no", **TRAINING, **settings})


def no_pictures(monkeypatch) -> None:
    for name in ("distill.draw_bias", "distill.write_model_card", "outputs.write_report"):
        monkeypatch.setattr(f"hf_ltkd.workflow.{name}", lambda *args, **kwargs: None)


@pytest.fixture(scope="module")
def trained(home, tmp_path_factory) -> Comparison:
    return run(plan_in(home, tmp_path_factory.mktemp("seeds") / "s"))


def seed_results(folder: Path, seed: int) -> dict:
    return json.loads((folder / f"seed-{seed}" / SEED_RESULTS).read_text())


def test_means_and_sample_deviations_of_all_seeds(trained):
    """From the answers of each seed, by hand."""
    file = json.loads((trained.output_dir / "comparison.json").read_text())
    assert trained.to_dict() == file and Comparison.from_pretrained(trained.output_dir).seeds == trained.seeds
    models = ["plain student", "adjusted plain student", "balanced softmax student", "this student"]
    assert list(file["accuracy"]) == ["teacher", "adjusted teacher", *models]
    assert sorted(file["seeds"]["accuracy"]) == sorted(models)
    for model in models:
        answers = [seed_results(trained.output_dir, seed)["models"][model] for seed in (5, 6)]
        right = [np.equal(a["labels"], a["predictions"]).reshape(3, 2) for a in answers]  # two images a class
        by_hand = [[r.mean(), *r.mean(1)] for r in right]
        for seed, values in zip(("5", "6"), by_hand, strict=True):
            assert [*file["seeds"]["accuracy"][model][seed].values()] == pytest.approx(values)
        assert [*file["accuracy"][model].values()] == pytest.approx(np.mean(by_hand, 0))
        assert [*file["seeds"]["deviation"][model].values()] == pytest.approx(np.std(by_hand, 0, ddof=1))
        assert model not in file["intervals"]


def test_the_best_on_validation_images_is_kept(trained):
    """Of equals the first; with all its files, and without the others' checkpoints and answers."""
    seeds, folder = trained.seeds, trained.output_dir
    validation = {seed: seed_results(folder, seed)["models"][OURS]["validation"] for seed in (5, 6)}
    assert {int(seed): value for seed, value in seeds["validation"].items()} == validation
    assert seeds["kept"] == max(validation, key=validation.get)
    one, kept = (load_file(path / "model.safetensors") for path in (folder, folder / f"seed-{seeds['kept']}"))
    assert all(torch.equal(one[name], kept[name]) for name in one)
    other = load_file(folder / f"seed-{11 - seeds['kept']}" / "model.safetensors")
    assert any(not torch.equal(one[name], other[name]) for name in one)
    results = json.loads((folder / "eval_results.json").read_text())
    assert results["eval_accuracy"] == seeds["accuracy"][OURS][str(seeds["kept"])]["accuracy"]
    assert json.loads((folder / "training_arguments.json").read_text())["seed"] == seeds["kept"]
    assert not (folder / SEED_RESULTS).exists() and (folder / "class_report.json").is_file()


def test_card_and_terminal_say_mean_deviation_and_number(trained, capsys):
    card = (trained.output_dir / "README.md").read_text()
    mean, deviation = trained.accuracy[OURS]["accuracy"], trained.seeds["deviation"][OURS]["accuracy"]
    cell = f"{100 * mean:.1f} ± {100 * deviation:.1f}"
    row = next(line for line in card.splitlines() if line.startswith("| this student |"))
    assert row.endswith(f"| {cell} |")
    assert "with n = 2 seeds (5, 6)" in card and f"that of seed {trained.seeds['kept']}" in card
    assert "trainings with 2 seeds" in card and "one training with one seed" not in card
    kept = trained.seeds["accuracy"][OURS][str(trained.seeds["kept"])]["accuracy"]
    assert f"\n    - type: accuracy\n      value: {kept}\n      name: Accuracy\n" in card  # of what is in the folder
    print_comparison(trained)
    out = capsys.readouterr().out
    for model, scores in trained.scores.items():  # the same means in one order, of each kind with a calibration error
        values = [f"{100 * value:.1f}" for value in scores.values()]
        assert "expected_calibration_error" in scores and f"| {model} | {' | '.join(values)} |" in card
        assert any(line.split() == [*model.split(), *values] for line in out.splitlines())
    rows = [line.split("|")[1].strip() for line in card.splitlines() if line.startswith("| ")]
    assert [row for row in rows if row in trained.scores][: 2 * len(trained.scores)] == 2 * [*trained.scores]
    said = " ".join(out.split())
    assert cell in said and "± over n = 2 seeds" in said and f"student of seed {trained.seeds['kept']}" in said


def test_finished_seeds_are_not_trained_again(home, trained, tmp_path, monkeypatch):
    """An interruption in the second seed: what the first has is taken as it is, and the result is the same."""
    folder = tmp_path / "s"
    shutil.copytree(trained.output_dir / "seed-5", folder / "seed-5")
    shutil.copytree(trained.output_dir / "seed-6", folder / "seed-6")
    done = seed_results(folder, 6)
    del done["models"]["balanced softmax student"]
    (folder / "seed-6" / SEED_RESULTS).write_text(json.dumps(done))
    no_pictures(monkeypatch)
    began = []
    train = DistillationTrainer.train

    def noted(self, *args, **kwargs):
        began.append((self.args.seed, self.distillation_loss.ce))
        return train(self, *args, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "train", noted)
    again = run(plan_in(home, folder))
    assert began == [(6, "balanced_softmax")]
    assert again.to_dict() == trained.to_dict()


def test_a_seed_goes_on_from_its_checkpoint(home, tmp_path, monkeypatch):
    settings = {"save_strategy": "steps", "save_steps": 2, "plain_student": False}
    no_pictures(monkeypatch)
    step = DistillationTrainer.training_step

    def stop(self, *args, **kwargs):
        if self.args.seed == 6 and self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "training_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run(plan_in(home, tmp_path / "s", **settings))
    steps = []

    def noted(self, *args, **kwargs):
        steps.append((self.args.seed, self.state.global_step))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "training_step", noted)
    assert run(plan_in(home, tmp_path / "s", **settings)).seeds["kept"] in (5, 6)
    assert steps == [(6, 2), (6, 3)]


def test_a_folder_of_another_training_is_refused(home, trained, tmp_path):
    shutil.copytree(trained.output_dir / "seed-5", tmp_path / "s" / "seed-5")
    with pytest.raises(ValueError, match="seed-5' holds the student of another training: choose another --output_dir"):
        run(plan_in(home, tmp_path / "s", loss_args={"alpha": 2}))


def test_what_a_seed_decides(home, tmp_path):
    """Weights and, with a live teacher, augmentation; cached answers are for one augmentation. A student in memory
    keeps its weights."""
    plan = plan_in(home, tmp_path / "s")
    first, second = (module._student(plan, seed).state_dict() for seed in (5, 6))
    assert not torch.equal(first["conv1.weight"], second["conv1.weight"])
    assert torch.equal(first["conv1.weight"], plan.network.conv1.weight)
    other = module._plan_of(plan, 6, plan.teacher)
    assert (other.args.seed, other.images.data.train.seed, plan.images.data.train.seed) == (6, 6, 5)
    in_memory = replace(plan, choices=replace(plan.choices, student=plan.network))
    assert torch.equal(module._student(in_memory, 6).conv1.weight, plan.network.conv1.weight)


def test_differences_of_means():
    """Student's t over the seeds where these differ more than chance among the images allows, else the images'."""
    groups = ClassGroups.from_counts([3, 2, 1])
    labels = np.arange(3).repeat(400)
    rng = np.random.default_rng(0)

    def students(parts):
        guess = [np.where(rng.random(1200) < part, labels, (labels + 1) % 3) for part in parts]
        return {seed: ({}, Answers(labels, answers)) for seed, answers in enumerate(guess)}

    ours, theirs = students([0.9, 0.7, 0.8]), students([0.6, 0.6, 0.6])
    by_seed = [float(ours[s][1].correct.mean() - theirs[s][1].correct.mean()) for s in range(3)]
    difference, low, high = differences(ours, theirs, groups)["accuracy"]
    interval = ttest_1samp(by_seed, 0).confidence_interval(0.95)
    assert difference == pytest.approx(np.mean(by_seed))
    assert (low, high) == pytest.approx((interval.low, interval.high))
    same = {seed: ours[0] for seed in range(3)}
    alone = ours[0][1].differences(theirs[0][1], groups)
    for metric, found in differences(same, {None: theirs[0]}, groups).items():
        assert found == pytest.approx(alone[metric])
    assert differences({None: ours[0]}, {None: theirs[0]}, groups) == alone


def test_files_of_before_are_read(home):
    file = json.loads((Path(home.student) / "comparison.json").read_text())
    assert file.pop("seeds") is None
    assert Comparison(**file, output_dir=Path(home.student)).card_arguments()["seeds"] is None
    assert [*file["accuracy"]["this student"]] == METRICS
