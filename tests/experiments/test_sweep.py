"""Sweeps and searches: from flags and from YAML, with a given teacher."""

import itertools
import math
import shutil

import pytest
import sweep
import torch
import train
import yaml
from tiny import TINY, lines_of, settled

from hf_ltkd import ClassGroups, DistillationTrainer, TeacherCache, create_loss
from hf_ltkd.losses import LOSSES
from hf_ltkd.teacher import teacher_fingerprint


DATA = ["--data", "label_column=colour", "image_size=8", "crop_padding=1", "--imbalance_factors", "4"]
TRAINING = ["preset=paper", "num_train_epochs=2", "per_device_train_batch_size=16", "use_cpu=true", "save_strategy=no"]


@pytest.fixture
def start_sweep(start, images):
    """Starts a sweep with the given teacher; gives the lines that it added."""

    def start_sweep(output_dir, *arguments, training=(), teacher="teacher0"):
        before = lines_of(output_dir)
        command = [*DATA, "--training", *TRAINING, *training, *(["--teacher", images / teacher] if teacher else [])]
        return start(output_dir, *command, *arguments, experiment=None)[len(before) :]

    return start_sweep


def runs_of(lines):
    return [(line["run"]["loss"], line["run"]["arguments"], line["seed"]) for line in lines]


def test_every_combination_and_seed_once(start_sweep, tmp_path):
    grid = ["--grid", "alpha=1,6", "beta=0.5,2", "--loss_args", "temperature=2", "--seeds", "0"]
    lines = start_sweep(tmp_path, "--losses", "ltkd", "kd", "ce", *grid)
    points = [{"temperature": 2, "alpha": a, "beta": b} for a, b in itertools.product((1, 6), (0.5, 2))]
    expected = [("ltkd", point) for point in points] + [("kd", {"temperature": 2}), ("ce", {})]
    assert runs_of(lines) == [(*setting, 0) for setting in expected]
    assert lines[0]["method"] == "ltkd temperature=2 alpha=1 beta=0.5"
    assert len({str(line["class_accuracy"]) for line in lines}) > 3  # the settings do something
    (teacher,) = (tmp_path / "teachers").iterdir()  # asked once, not trained
    assert [path.name for path in teacher.iterdir() if path.is_dir()] == ["logits_2_float32"]
    assert TeacherCache.open(teacher / "logits_2_float32").views == 2
    assert lines[-1]["teacher_fingerprint"] is None and lines[0]["teacher_fingerprint"]

    # More values, seeds and losses are added; what is there stays.
    assert runs_of(
        start_sweep(tmp_path, "--losses", "kd", "dkd", "--seeds", "0", "2", "--loss_args", "temperature=2")
    ) == [("dkd", {"temperature": 2}, 0), ("kd", {"temperature": 2}, 2), ("dkd", {"temperature": 2}, 2)]


@pytest.mark.slow
def test_a_seed_has_its_initial_weights_and_order_for_every_loss(start_sweep, tmp_path, monkeypatch):
    """`reviewkd`, with the live teacher, draws random numbers for its own modules before the training begins."""
    weights, batches = {}, {}
    compute_loss = DistillationTrainer.compute_loss

    def remember(self, model, inputs, *args, **kwargs):
        key = type(self.distillation_loss).__name__, self.args.seed
        if model.training:
            weights.setdefault(key, teacher_fingerprint(model))
            batches.setdefault(key, []).append((inputs["pixel_values"].clone(), inputs["labels"].clone()))
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "compute_loss", remember)
    losses = ["ltkd", "ce", "reviewkd"]
    lines = start_sweep(tmp_path / "a", "--losses", *losses, "--seeds", "0", "1")
    names = [LOSSES[loss].__name__ for loss in losses]
    for seed in (0, 1):
        assert len({weights[name, seed] for name in names}) == 1
        first, *others = (batches[name, seed] for name in names)
        assert len(first) == 2 * math.ceil(70 / 16)  # epochs × batches
        for other in others:
            for (pixels, labels), (other_pixels, other_labels) in zip(first, other, strict=True):
                assert torch.equal(pixels, other_pixels) and torch.equal(labels, other_labels)
    assert weights["LTKDLoss", 0] != weights["LTKDLoss", 1]
    assert not torch.equal(batches["LTKDLoss", 0][0][0], batches["LTKDLoss", 1][0][0])
    again = start_sweep(tmp_path / "b", "--losses", "reviewkd", "ltkd", "--seeds", "1")
    assert settled(again) == settled(lines[i] for i in (3, 5))  # whatever was trained before


def test_every_loss_is_made_again_from_its_hyper_parameters():
    groups = ClassGroups.from_counts([30, 20, 10])
    for name in LOSSES:
        values = create_loss(name, groups, ce_weight=0.5).hyper_parameters()
        assert values["ce_weight"] == 0.5
        assert create_loss(name, groups, **values).hyper_parameters() == values


def test_another_teacher_under_the_same_name_is_refused(start_sweep, images, tmp_path):
    def start(name):
        shutil.copytree(images / name, tmp_path / "teacher", dirs_exist_ok=True)
        # A path of its own, so that nothing but the weights changes; DIST asks the teacher itself.
        live = ["--losses", "dist", "--teacher_logits", "live", "--teacher", tmp_path / "teacher"]
        return start_sweep(tmp_path / "out", *live, "--seeds", name[-1], teacher=None)

    assert len(start("teacher0")) == 1
    with pytest.raises(ValueError, match="teacher_fingerprint [0-9a-f]{16}, not with [0-9a-f]{16}: use what"):
        start("teacher1")
    assert len(lines_of(tmp_path / "out")) == 1


def test_held_out_images(start_sweep, tmp_path):
    """Of 20 images of each class 30 % are held out, before the imbalance factor cuts the rest: 14, ..., 4."""
    arguments = ["--evaluate_on", "validation", "--eval_fraction", "0.3", "--seeds", "0", "--losses", "ce"]
    grid = ["--grid", "ce=cross_entropy,balanced_softmax"]
    lines = start_sweep(tmp_path, *arguments, *grid, teacher=None)
    assert [line["method"] for line in lines] == ["ce ce=cross_entropy", "ce ce=balanced_softmax"]
    assert {line["evaluated_on"] for line in lines} == {"36 held-out training images"}
    assert {line["training_images"] for line in lines} == {49}
    assert lines[0]["pair"] == "resnet8" and not (tmp_path / "teachers").exists()


def test_a_given_teacher_lends_its_normalisation_to_every_student(start_sweep, tmp_path, monkeypatch):
    seen = []
    make = train.new_classifier
    monkeypatch.setattr(
        train, "new_classifier", lambda name, data: seen.append((data.mean, data.std)) or make(name, data)
    )
    start_sweep(tmp_path, "--losses", "ce", "kd", "--seeds", "0")
    assert seen == [([0.5] * 3, [0.25] * 3)] * 2


def test_views_and_dtype_of_the_cache(start_sweep, tmp_path):
    """Arguments that change the speed alone are none of the runs'."""
    flags = ["--losses", "kd", "--seeds", "0", "--teacher_views", "1", "--teacher_logits", "float16"]
    (line,) = start_sweep(tmp_path, *flags)
    assert (line["run"]["teacher_views"], line["run"]["teacher_logits"]) == (1, "float16")
    assert line["run"]["training"] == {"preset": "paper", "num_train_epochs": 2, "per_device_train_batch_size": 16}
    assert line["running"] == {"use_cpu": True, "save_strategy": "no"}
    assert next((tmp_path / "teachers").glob("*/logits_1_float16")).is_dir()


# ---- Optuna ----


def test_search(start_sweep, images, start, tmp_path):
    optuna = pytest.importorskip("optuna")
    space = ["--grid", "alpha=0.5,16", "temperature=2,4", "ce=cross_entropy,balanced_softmax"]
    search = ["--losses", "ltkd", "--seeds", "0", *space, "--loss_args", "beta=2", "--metric", "tail_accuracy"]
    lines = start_sweep(tmp_path, "--search", "2", *search)
    chosen = [line["chosen"] for line in lines]
    assert len({each["alpha"] for each in chosen}) == 2
    for line, each in zip(lines, chosen, strict=True):
        assert (
            0.5 <= each["alpha"] <= 16
            and 2 <= each["temperature"] <= 4
            and set(each) == {"alpha", "temperature", "ce"}
        )
        # What a trial is said to have tried is what it trained with.
        assert line["hyper_parameters"] | each | {"beta": 2} == line["hyper_parameters"]
    by_hand = [f"{name}={value}" for name, value in chosen[0].items()]
    (same,) = start_sweep(tmp_path / "by hand", "--losses", "ltkd", "--seeds", "0", "--loss_args", "beta=2", *by_hand)
    assert same["class_accuracy"] == lines[0]["class_accuracy"]

    # More trials go on from those that there are, also after a stop; the sampler is told of all of them.
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna.study.Study, "add_trial", lambda self, trial: told.append((trial.params, trial.value)))
        (third,) = start_sweep(tmp_path, "--search", "3", *search)
    assert told == [(line["chosen"], line["metrics"]["tail_accuracy"]) for line in lines]
    assert third["chosen"]["alpha"] not in [each["alpha"] for each in chosen]
    assert start_sweep(tmp_path, "--search", "3", *search) == []


def test_grid_search_and_own_loss_in_yaml(start, images, tmp_path):
    pytest.importorskip("optuna")
    methods = {
        "KD": {"loss": "kd", "grid": {"temperature": [1, 4], "kd_weight": [0.5]}},
        "LTKD": {"loss": "ltkd", "arguments": {"beta": 1}, "search": {"trials": 1, "space": {"alpha": [1, 6]}}},
        "Own": {"loss": "own_loss.py:Own", "arguments": {"kd_weight": 3}},
    }
    own = "from hf_ltkd import KDLoss\n\n\nclass Own(KDLoss):\n    needs_teacher = True\n"
    (tmp_path / "own_loss.py").write_text(own)
    path = tmp_path / "own.yaml"
    path.write_text(
        yaml.safe_dump({**TINY, "pairs": [f"{images / 'teacher0'}:resnet8"], "methods": methods}, sort_keys=False)
    )
    lines = start(tmp_path, "--experiment", path, "--seeds", "0", experiment=None)
    names = ["KD temperature=1 kd_weight=0.5", "KD temperature=4 kd_weight=0.5", "LTKD trial 0", "Own"]
    assert [line["method"] for line in lines] == names
    assert lines[1]["run"]["arguments"] == {"temperature": 4, "kd_weight": 0.5}
    assert 1 <= lines[2]["chosen"]["alpha"] <= 6 and lines[2]["hyper_parameters"]["beta"] == 1
    assert lines[3]["hyper_parameters"]["kd_weight"] == 3 and lines[3]["metrics"]["accuracy"] > 0


# ---- Wrong arguments ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--losses", "ltkd", "speed"], "There is no loss 'speed': use one of ce, kd, ltkd"),
        (["--losses", "ltkd", "--grid", "alpha"], "--grid alpha must have the form name=value"),
        (["--losses", "kd", "--grid", "alpha=1,2"], "there is no 'alpha', use any of .*temperature"),
        (["--losses", "ltkd", "--loss_args", "alpha=-1"], "alpha=-1"),
        (["--losses", "ltkd", "--search", "2"], "--search takes the number of trials, 1 or more, one loss, one seed"),
        (["--losses", "ltkd", "--search", "0", "--seeds", "0", "--grid", "alpha=1,2"], "--search takes the number"),
        (
            ["--losses", "ltkd", "--search", "1", "--seeds", "0", "--grid", "alpha=1,2", "--metric", "loss"],
            "there is no 'loss', use any of accuracy, head_accuracy",
        ),
        (["--losses", "ltkd", "--teacher_views", "-1"], "views=-1 is not valid"),
        (["--losses", "ltkd", "--data", "size=3"], "there is no 'size', use any of augment, benchmark"),
        (["--losses", "ltkd", "--student", "resnet9"], "depth=9 is not valid"),
        (["--losses", "ltkd", "--evaluate_on", "train"], "there is no 'train', use any of test, validation"),
    ],
)
def test_wrong_arguments_are_explained(start_sweep, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        start_sweep(tmp_path, *arguments)
    assert lines_of(tmp_path) == []


def test_a_loss_that_needs_a_teacher(start_sweep, tmp_path):
    with pytest.raises(ValueError, match="The pair 'resnet8' must be two networks"):
        start_sweep(tmp_path, "--losses", "ltkd", teacher=None)


def test_parse_grid():
    assert sweep.parse_grid(["alpha=1,6", "ce=cross_entropy", "beta=0.5"]) == {
        "alpha": [1, 6],
        "ce": ["cross_entropy"],
        "beta": [0.5],
    }
