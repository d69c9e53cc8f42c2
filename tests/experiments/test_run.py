"""The runs of a recipe: on tiny images, interrupted, and shared by processes."""

import gc
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from datasets import ClassLabel, Dataset, Features, Image
from filelock import FileLock
from PIL import Image as PILImage

from hf_ltkd import DistillationTrainer
from hf_ltkd.data import long_tailed_counts


FOLDER = Path(__file__).parents[1] / "examples" / "paper"
sys.path.insert(0, str(FOLDER))

import recipes  # noqa: E402
import reproduce  # noqa: E402
import runs  # noqa: E402


TINY = {
    "title": "Six colours",
    "data": {"label_column": "colour", "image_size": 8, "crop_padding": 1},
    "classes": 6,
    "images_per_class": 20,
    "pairs": ["resnet8x2:resnet8"],
    "imbalance_factors": [4],
    "seeds": [0, 1],
    "teacher_seed": 0,
    "teacher_logits": "float32",
    "training": {"recipe": "paper", "num_train_epochs": 2, "per_device_train_batch_size": 16},
    "running": {"per_device_eval_batch_size": 48, "use_cpu": True},
    "methods": {
        "Student": {"loss": "ce"},
        "LTKD": {"loss": "ltkd", "arguments": {"alpha": 1, "beta": 1}, "num_groups": 2},
        "ReviewKD": {"loss": "reviewkd", "published": True},
    },
}


@pytest.fixture(scope="module", autouse=True)
def quick_and_quiet():
    """No look at all that was ever imported after each training; and the log level as it was."""
    verbosity = transformers.logging.get_verbosity()
    gc.freeze()
    yield
    gc.unfreeze()
    transformers.logging.set_verbosity(verbosity)
    transformers.logging.enable_progress_bar()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    colours = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]])
    features = Features({"img": Image(), "colour": ClassLabel(num_classes=6)})
    random = np.random.default_rng(0)
    for split, size in (("train", 20), ("test", 8)):
        labels = np.repeat(np.arange(6), size)
        pixels = random.integers(0, 216, (len(labels), 8, 8, 3)) + 40 * colours[labels][:, None, None]
        columns = {"img": [PILImage.fromarray(image) for image in pixels.astype(np.uint8)], "colour": labels}
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}.parquet")
    too_much = {"loss": "ltkd", "arguments": {"alpha": 1e39}}
    mass = {"measure": "group_mass", "batch_size": 16, "batches": 100, "temperatures": [1, 4]}
    for name, recipe in {
        "tiny": TINY,
        "more": {"extends": "tiny.yaml", "methods": {**TINY["methods"], "too much": too_much}},
        "figure_3": {"extends": "tiny.yaml", "seeds": [0], "methods": {"mass": mass}},
        "figure_4": {
            "extends": "tiny.yaml",
            "group_losses": {"temperature": 4},
            "methods": {"LTKD": TINY["methods"]["LTKD"]},
        },
    }.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder


runs_alone = reproduce.take_one_gpu


@pytest.fixture
def start(images, monkeypatch):
    """Runs the script in this process."""
    monkeypatch.setattr(reproduce, "take_one_gpu", lambda: 0)

    def start(output_dir, *arguments, recipe="tiny.yaml"):
        command = ["reproduce.py", "--data_dir", images, "--output_dir", output_dir, *arguments]
        command += [] if recipe is None else ["--recipe", images / recipe]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reproduce.main()

    return start


def in_a_process(function, *arguments):
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def lines_of(folder):
    return recipes.read_lines(folder / "results.jsonl")


def settled(lines):
    """Without what depends on the moment."""
    moment = ("seconds", "examples_per_second", "resumed_at_step")
    return sorted(({k: v for k, v in line.items() if k not in moment} for line in lines), key=json.dumps)


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """What comes out without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "take_one_gpu", lambda: 0)
        command = ["reproduce.py", "--recipe", images / "tiny.yaml", "--data_dir", images, "--output_dir", folder]
        patch.setattr(sys, "argv", list(map(str, command)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reproduce.main()
    return folder


def test_result_lines(whole):
    lines = lines_of(whole)
    order = [("Teacher", 0)] + [(m, s) for s in (0, 1) for m in ("Student", "LTKD", "ReviewKD")]
    assert [(line["method"], line["seed"]) for line in lines] == order
    for line in lines:
        accuracy = line["class_accuracy"]
        assert line["metrics"]["accuracy"] == pytest.approx(np.mean(accuracy))
        assert line["metrics"]["tail_accuracy"] == pytest.approx(np.mean(accuracy[4:]))  # 33 % of 6 classes, not of 2
        assert line["training_images"] == sum(long_tailed_counts([20] * 6, 4))
        assert line["seconds"] > 0 and line["examples_per_second"] > 0 and line["best_epoch"] is None
        has_teacher = line["method"] != "Student"
        assert line["teacher_fingerprint"] == (lines[0]["teacher_fingerprint"] if has_teacher else None)
        assert line["versions"]["torch"] == torch.__version__ and "torch" in line["device"]
    assert len({str(line["class_accuracy"]) for line in lines}) > 3  # methods and seeds do something
    review = next(line for line in lines if line["method"] == "ReviewKD")
    assert review["hyper_parameters"]["review_weight"] == 5 and "reviewKD.sh" in review["source"]
    assert not list((whole / "unfinished").iterdir())  # the checkpoints of finished runs are gone
    (teacher,) = (whole / "teachers").iterdir()
    assert (teacher / "model.safetensors").exists() and (teacher / "logits_2_float32").is_dir()


def test_killed_in_the_teacher_and_in_a_student_and_continued(whole, start, tmp_path):
    def start_and_die(at):
        saved = []
        save = DistillationTrainer._save_checkpoint

        def observed(self, *args, **kwargs):
            save(self, *args, **kwargs)
            saved.append(self.state.global_step)
            if len(saved) == at:
                os.kill(os.getpid(), signal.SIGKILL)

        DistillationTrainer._save_checkpoint = observed
        start(tmp_path)

    for at in (4, 10 - 4 + 13):  # ten steps a run: step 4 of the teacher; step 3 of the second student
        process = in_a_process(start_and_die, at)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
    assert [line["method"] for line in lines_of(tmp_path)] == ["Teacher", "Student"]
    start(tmp_path)
    lines = lines_of(tmp_path)
    assert settled(lines) == settled(lines_of(whole))
    assert [line["resumed_at_step"] for line in lines] == [4, None, 3, None, None, None, None]
    start(tmp_path)
    assert lines_of(tmp_path) == lines


def test_two_processes_share_the_runs(whole, start, tmp_path):
    def start_and_count(name):
        train = reproduce.train
        reproduce.train = lambda job, run: (tmp_path / name).open("a").write("run\n") and train(job, run)
        start(tmp_path)

    processes = [in_a_process(start_and_count, name) for name in ("first", "second")]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert settled(lines_of(tmp_path)) == settled(lines_of(whole))
    counts = [len((tmp_path / name).read_text().splitlines()) for name in ("first", "second")]
    assert sum(counts) == 7 and min(counts) > 0


def test_students_wait_for_a_teacher_that_another_process_trains(whole, start, tmp_path):
    def start_impatiently():
        reproduce.time.sleep = lambda seconds: os.sched_yield()
        start(tmp_path)

    teacher = recipes.plan({**TINY, "name": "tiny"})[0].run
    (tmp_path / "locks").mkdir()
    with FileLock(tmp_path / "locks" / recipes.digest(teacher)):
        process = in_a_process(start_impatiently)
        process.join(0.5)
        while process.is_alive() and len(lines_of(tmp_path)) < 2:
            process.join(0.1)
        process.join(0.5)
        assert process.is_alive()
        assert [line["method"] for line in lines_of(tmp_path)] == ["Student", "Student"]  # these need none
    process.join(120)
    assert process.exitcode == 0
    assert settled(lines_of(tmp_path)) == settled(lines_of(whole))


def test_more_runs_of_a_finished_protocol(whole, start, tmp_path, capsys):
    """A part of the recipe; then what a loss that diverges, another protocol and a measured student leave behind."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    start(tmp_path, "--methods", "LTKD", "--seeds", "1")
    assert lines_of(tmp_path) == lines_of(whole)
    text = capsys.readouterr().out
    assert "Runs        2, of which 2 are done" in text and "seed (1) of LTKD" in text and "Cost" not in text

    start(tmp_path, "--seeds", "2", "--methods", "LTKD", "too much", recipe="more.yaml")
    ltkd, failed = lines_of(tmp_path)[7:]
    assert (ltkd["method"], ltkd["seed"]) == ("LTKD", 2)
    assert "The loss is not finite at step" in failed["error"] and "metrics" not in failed
    start(tmp_path, "--seeds", "2", "--methods", "LTKD", "too much", recipe="more.yaml")
    assert len(lines_of(tmp_path)) == 9  # it would diverge again

    # What changes nothing but the speed is not another protocol, and is noted with the epoch that was best.
    start(tmp_path, "--seeds", "0", "--methods", "Student", "--training", "eval_strategy=epoch", "save_steps=0.5")
    assert len(lines_of(tmp_path)) == 9
    arguments = ("--seeds", "0", "--methods", "Student", "--training", "num_train_epochs=1", "eval_strategy=epoch")
    start(tmp_path, *arguments)
    (student,) = lines_of(tmp_path)[9:]  # no teacher: nothing needs it
    assert student["overrides"] == {"num_train_epochs": 1} and student["run"]["training"]["num_train_epochs"] == 1
    assert student["best_epoch"] == {"epoch": 1.0, **student["metrics"]}


def test_loss_per_group_of_figure_4(whole, start, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    start(tmp_path, "--seeds", "1", recipe="figure_4.yaml")
    (line,) = lines_of(tmp_path)[7:]
    plain = next(line for line in lines_of(whole) if (line["method"], line["seed"]) == ("LTKD", 1))
    assert line["class_accuracy"] == plain["class_accuracy"]  # looking changes nothing
    losses = {name: np.array(value) for name, value in line["group_losses"].items()}
    assert losses["within"].shape == losses["weighted"].shape == losses["by_label"].shape == (2, 3)
    counts = np.array(long_tailed_counts([20] * 6, 4))
    share = np.array([counts[:2].sum(), counts[2:4].sum(), counts[4:].sum()]) / counts.sum()
    # Eq. 8: the whole KL is the sum of its parts, and the mean over the images of all groups.
    assert losses["cross"] + losses["weighted"].sum(1) == pytest.approx(losses["by_label"] @ share, rel=1e-5)
    assert (losses["by_label"] > 0).all()


def test_group_probabilities_of_figure_3(whole, start, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    start(tmp_path, recipe="figure_3.yaml")
    (line,) = lines_of(tmp_path)[7:]
    assert list(line["group_mass"]) == ["temperature 1", "temperature 4"]
    for sums in line["group_mass"].values():
        for name, batches in (("balanced", 120 // 16), ("long_tailed", 70 // 16)):
            assert np.shape(sums[name]) == (batches, 3)
            assert np.sum(sums[name], 1) == pytest.approx(16, abs=0.001)
    spread = [np.ptp(np.mean(sums["balanced"], 0)) for sums in line["group_mass"].values()]
    assert spread[1] < spread[0]  # softened probabilities are flatter


def test_another_order_of_the_classes(images):
    def load(**data):
        recipe = {**TINY, "data": {**TINY["data"], **data}}
        return runs.Job(recipe, {}, {}, str(images), None, images).data(1.0)

    plain, other = load(), load(class_order_seed=1)
    order = [plain.class_names.index(name) for name in other.class_names]
    assert sorted(order) == list(range(6)) != order
    for before, after in ((plain.train, other.train), (plain.test, other.test)):
        assert torch.equal(torch.tensor(order)[after.labels], before.labels)  # the same images
        assert torch.equal(before[7]["pixel_values"], after[7]["pixel_values"])
    assert load(class_order_seed=2).class_names != other.class_names


def test_plan_without_running(images, start, tmp_path, capsys):
    start(tmp_path, "--dry_run")
    text = capsys.readouterr().out
    assert "Runs        7, of which 0 are done" in text and "seed 0 1 of Student, LTKD, ReviewKD" in text
    for kind in ("teacher resnet8x2, batch 16", "student resnet8 by logits, batch 16", "by reviewkd from resnet8x2"):
        assert kind in text
    assert not (tmp_path / "results.jsonl").exists() and not (tmp_path / "teachers").exists()
    speeds = {line["kind"]: line["examples_per_second"] for line in recipes.read_lines(tmp_path / "speeds.jsonl")}
    assert len(speeds) == 5 and min(speeds.values()) > 0
    before = (tmp_path / "speeds.jsonl").read_text()
    start(tmp_path, "--dry_run")
    assert (tmp_path / "speeds.jsonl").read_text() == before  # measured once
    # The images of the plan, counted by hand: 70 a epoch; 2 epochs; the teacher once, 2 seeds of each student.
    work = recipes.work_of(TINY, [cell.run for cell in recipes.plan(TINY)])
    assert {kind: images for kind, (_, images) in work.items()} == {
        "teacher resnet8x2, batch 16": 140,
        "logits of resnet8x2": 140,
        "student resnet8, batch 16": 280,
        "student resnet8 by logits, batch 16": 280,
        "student resnet8 by reviewkd from resnet8x2, batch 16": 280,
    }


def test_teacher_whose_weights_are_gone(whole, start, tmp_path):
    shutil.copy(whole / "results.jsonl", tmp_path)
    with pytest.raises(ValueError, match="teacher whose weights are missing"):
        start(tmp_path, "--seeds", "2", "--methods", "LTKD")


def test_each_process_of_a_launcher_takes_one_gpu(monkeypatch):
    for name, value in {
        "RANK": "3",
        "LOCAL_RANK": "3",
        "WORLD_SIZE": "4",
        "MASTER_PORT": "1",
        "TORCHELASTIC_X": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert runs_alone() == 3 and os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_X"} & set(os.environ)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give one of --table"),
        (["--table", "1", "--figure", "3"], "Give one of --table"),
        (["--table", "7"], "There is no recipe 'table_7.yaml'"),
        (["--table", "1", "--methods", "KDD"], "has no method 'KDD'"),
        (["--table", "1", "--pairs", "vgg13"], "must be two networks"),
        (["--table", "1", "--training", "epochs"], "must have the form name=value"),
        (["--table", "1", "--training", "epochs=3"], "--training epochs is no argument of"),
        (["--table", "1", "--training", "seed=3"], "--training seed is no argument of"),
    ],
)
def test_wrong_arguments_are_explained(arguments, message, start):
    with pytest.raises(ValueError, match=re.escape(message)):
        start("x", *arguments, recipe=None)
