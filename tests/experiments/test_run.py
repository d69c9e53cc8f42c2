"""The runs of an experiment: on tiny images, interrupted, shared by processes, and with what a user may get wrong."""

import multiprocessing
import os
import re
import shutil
import signal

import numpy as np
import pytest
import run
import torch
from experiment import make_experiment
from filelock import FileLock
from helpers import trains_in_a_fork
from job import Job
from plan import digest, plan
from tiny import TINY, lines_of, settled
from transformers import AutoModelForImageClassification

from hf_ltkd import DistillationTrainer
from hf_ltkd.data import long_tailed_counts


RUNS = [("Teacher", 0)] + [(method, seed) for seed in (0, 1) for method in ("Student", "LTKD", "ReviewKD")]


def test_result_lines(whole):
    lines = lines_of(whole)
    assert [(line["method"], line["seed"]) for line in lines] == RUNS
    for line in lines:
        accuracy = line["class_accuracy"]
        assert line["metrics"]["accuracy"] == pytest.approx(np.mean(accuracy))
        assert line["metrics"]["tail_accuracy"] == pytest.approx(np.mean(accuracy[4:]))  # 33 % of 6 classes, not of 2
        assert line["training_images"] == sum(long_tailed_counts([20] * 6, 4))
        assert line["seconds"] > 0 and line["examples_per_second"] > 0 and line["best_epoch"] is None
        has_teacher = line["method"] != "Student"
        assert line["teacher_fingerprint"] == (lines[0]["teacher_fingerprint"] if has_teacher else None)
        assert line["evaluated_on"] == "48 test images"
        assert line["versions"]["torch"] == torch.__version__ and "torch" in line["device"]
    assert len({str(line["class_accuracy"]) for line in lines}) > 3  # methods and seeds do something
    review = next(line for line in lines if line["method"] == "ReviewKD")
    assert review["hyper_parameters"]["review_weight"] == 5 and "reviewKD.sh" in review["source"]
    assert not list((whole / "unfinished").iterdir())  # the checkpoints of finished runs are gone
    (teacher,) = (whole / "teachers").iterdir()
    assert (teacher / "model.safetensors").exists() and (teacher / "logits_2_float32").is_dir()


def test_adjusted_scores_are_those_of_logits_less_the_log_prior(start, images, tmp_path):
    lines = {line["method"]: line for line in start(tmp_path, experiment="adjusted")}
    assert [*lines] == ["Teacher", "Teacher, adjusted", "Student, adjusted", "LTKD"]
    job = Job(make_experiment(TINY, "tiny", tmp_path), {}, {}, str(images), None, tmp_path)
    test = job.images(lines["Teacher"]["run"]).data.test
    (teacher,) = (tmp_path / "teachers").iterdir()
    network = AutoModelForImageClassification.from_pretrained(teacher).eval()
    batch = [test[i] for i in range(len(test))]
    with torch.no_grad():
        logits = network(torch.stack([example["pixel_values"] for example in batch])).logits.double()
    labels, counts = torch.tensor([int(e["labels"]) for e in batch]), torch.tensor(long_tailed_counts([20] * 6, 4))
    for method, scores in (("Teacher", logits), ("Teacher, adjusted", logits - (counts / counts.sum()).log())):
        right = scores.argmax(1) == labels
        expected = [right[labels == label].double().mean().item() for label in range(6)]
        assert lines[method]["class_accuracy"] == pytest.approx(expected), method
    assert lines["Teacher"]["class_accuracy"] != lines["Teacher, adjusted"]["class_accuracy"]


def test_a_plain_student_that_diverges_is_noted_where_it_is_to_be_adjusted(start, tmp_path):
    (line,) = start(tmp_path, experiment="diverging")
    assert line["method"] == "Student, adjusted" and "finite" in line["error"] and "metrics" not in line
    assert start(tmp_path, experiment="diverging") == [line]


# ---- Killed, continued, shared, extended ----

PART = ("--methods", "Student", "LTKD")


@pytest.fixture
def start_in_a_process(start, tmp_path):
    """Starts a part of the experiment in another process, after what `prepare` changes there."""

    def start_in_a_process(prepare=lambda: None, seeds=(0, 1)):
        def start_there():
            run.time.sleep = lambda seconds: os.sched_yield()
            prepare()
            start(tmp_path, *PART, "--seeds", *seeds)

        process = multiprocessing.get_context("fork").Process(target=start_there)
        process.start()
        return process

    return start_in_a_process


def part_of(folder, seeds=(0, 1)):
    return settled(line for line in lines_of(folder) if line["method"] != "ReviewKD" and line["seed"] in seeds)


@trains_in_a_fork
def test_killed_in_the_teacher_and_in_a_student_and_continued(whole, start, start_in_a_process, tmp_path):
    def die(at):
        saved = []
        save = DistillationTrainer._save_checkpoint

        def observed(self, *args, **kwargs):
            save(self, *args, **kwargs)
            saved.append(self.state.global_step)
            if len(saved) == at:
                os.kill(os.getpid(), signal.SIGKILL)

        DistillationTrainer._save_checkpoint = observed

    # Ten steps a run, saved at 3, 6, 9 and 10: step 3 of the teacher, then of the second student.
    for at in (1, 3 + 4 + 1):
        process = start_in_a_process(lambda at=at: die(at))
        process.join(300)
        assert process.exitcode == -signal.SIGKILL
    assert [line["method"] for line in lines_of(tmp_path)] == ["Teacher", "Student"]
    lines = start(tmp_path, *PART)
    assert settled(lines) == part_of(whole)
    assert [line["resumed_at_step"] for line in lines] == [3, None, 3, None, None]
    assert start(tmp_path, *PART) == lines


@trains_in_a_fork
def test_two_processes_share_the_runs(whole, start_in_a_process, tmp_path):
    def count(name):
        perform = run.perform
        run.perform = lambda job, each: (tmp_path / name).open("a").write("run\n") and perform(job, each)

    processes = [start_in_a_process(lambda name=name: count(name)) for name in ("first", "second")]
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    assert settled(lines_of(tmp_path)) == part_of(whole)
    counts = [len((tmp_path / name).read_text().splitlines()) for name in ("first", "second")]
    assert sum(counts) >= 5 and min(counts) > 0  # one that has to wait for the logits of another process begins again


@trains_in_a_fork
def test_students_wait_for_a_teacher_that_another_process_trains(whole, start_in_a_process, tmp_path):
    teacher = plan(make_experiment({**TINY}, "tiny", tmp_path))[0].run
    (tmp_path / "locks").mkdir()
    with FileLock(tmp_path / "locks" / digest(teacher)):
        process = start_in_a_process(seeds=[0])
        while process.is_alive() and not lines_of(tmp_path):
            process.join(0.1)
        process.join(0.5)
        assert process.is_alive()
        assert [line["method"] for line in lines_of(tmp_path)] == ["Student"]  # which needs none
    process.join(300)
    assert process.exitcode == 0
    assert settled(lines_of(tmp_path)) == part_of(whole, seeds=[0])


def test_more_runs_of_a_finished_protocol(whole, start, tmp_path, capsys):
    """A part of the experiment; then what a loss that diverges, another protocol and a measured student leave."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    assert start(tmp_path, "--methods", "LTKD", "--seeds", "1", cost=True) == lines_of(whole)
    text = capsys.readouterr().out
    assert "Runs        2, of which 2 are done" in text and "seed (1) of LTKD" in text and "Cost" not in text

    arguments = ("--seeds", "2", "--methods", "LTKD", "too much")
    ltkd, failed = start(tmp_path, *arguments, experiment="more")[7:]
    assert (ltkd["method"], ltkd["seed"]) == ("LTKD", 2)
    assert "The loss is not finite at step" in failed["error"] and "metrics" not in failed
    assert len(start(tmp_path, *arguments, experiment="more")) == 9  # it would diverge again

    # What changes nothing but the speed is not another protocol, and is noted with the epoch that was best.
    arguments = ("--seeds", "0", "--methods", "Student", "--training", "eval_strategy=epoch")
    assert len(start(tmp_path, *arguments, "save_steps=0.5")) == 9
    (student,) = start(tmp_path, *arguments, "num_train_epochs=1")[9:]  # no teacher: nothing needs it
    assert student["overrides"] == {"num_train_epochs": 1} and student["run"]["training"]["num_train_epochs"] == 1
    assert student["best_epoch"] == {"epoch": 1.0, **student["metrics"]}


def test_lines_and_teachers_of_before_are_gone_on_with(whole, start, tmp_path):
    """A folder of `reproduce.py`: lines say `recipe`, in the training too; folders are named by the same digest."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    text = (tmp_path / "results.jsonl").read_text()
    old = text.replace('"preset": "paper"', '"recipe": "paper"').replace('"experiment": ', '"recipe": ')
    assert '"recipe": "tiny"' in old and "preset" not in old
    (tmp_path / "results.jsonl").write_text("".join(line + "\n" for line in old.splitlines()[:-1]))
    lines = start(tmp_path)
    assert [(line["method"], line["seed"]) for line in lines] == RUNS
    assert settled(lines[-1:]) == settled(lines_of(whole)[-1:])


# ---- Images and teachers ----


def test_another_order_of_the_classes(images):
    def load(**data):
        experiment = make_experiment({**TINY, "data": {**TINY["data"], **data}}, "tiny", images)
        return Job(experiment, {}, {}, str(images), None, images).images({"imbalance_factor": 1.0}).data

    plain, other = load(), load(class_order_seed=1)
    order = [plain.class_names.index(name) for name in other.class_names]
    assert sorted(order) == list(range(6)) != order
    for before, after in ((plain.train, other.train), (plain.test, other.test)):
        assert torch.equal(torch.tensor(order)[after.labels], before.labels)  # the same images
        assert torch.equal(before[7]["pixel_values"], after[7]["pixel_values"])
    assert load(class_order_seed=2).class_names != other.class_names


def test_a_teacher_whose_weights_are_gone(whole, start, tmp_path):
    shutil.copy(whole / "results.jsonl", tmp_path)
    with pytest.raises(ValueError, match="teacher whose weights are missing"):
        start(tmp_path, "--seeds", "2", "--methods", "LTKD")


def test_other_images_in_the_same_folder_are_refused(whole, start, images, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    other = tmp_path / "images"
    other.mkdir()
    shutil.copy(images / "train.parquet", other / "test.parquet")
    shutil.copy(images / "train.parquet", other / "train.parquet")
    assert start(tmp_path, "--data_dir", other) == lines_of(whole)  # nothing to do
    (other / "train.parquet").write_bytes((images / "test.parquet").read_bytes())
    with pytest.raises(ValueError, match=r"made with images ImageDataset\(70 examples, .*, not with ImageDataset\(28"):
        start(tmp_path, "--data_dir", other, "--seeds", "2", "--methods", "Student")


# ---- The command line ----


def test_each_process_of_a_launcher_takes_one_gpu(monkeypatch):
    launcher = {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "4", "MASTER_PORT": "1", "TORCHELASTIC_X": "1"}
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert run.take_one_gpu() == 3 and os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    assert not set(launcher) & set(os.environ)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give one of --table"),
        (["--table", "1", "--figure", "3"], "Give one of --table"),
        (["--table", "7"], "There is no experiment 'table_7.yaml'"),
        (["--table", "1", "--methods", "KDD"], "there is no 'KDD', use any of Student, KD, DKD"),
        (["--table", "1", "--pairs", "vgg13"], "'vgg13' must be two networks"),
        (["--table", "1", "--pairs", "vgg13:vgg9"], "There is no network 'vgg9'"),
        (["--table", "1", "--training", "epochs"], "must have the form name=value"),
        (["--table", "1", "--training", "epochs=3"], "--training: there is no 'epochs'"),
        (["--table", "1", "--training", "seed=3"], "--training: there is no 'seed'"),
        (["--table", "1", "--training", "lr_milestones=[2]"], "lr_milestones=[2] is not valid"),
    ],
)
def test_wrong_arguments_are_explained(arguments, message, start, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        start(tmp_path, *arguments, experiment=None)
    assert not list(tmp_path.iterdir())


def test_the_old_name_of_the_flag_works_with_a_warning(start, images, tmp_path, whole):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    with pytest.warns(FutureWarning, match="--recipe is now called --experiment"):
        assert start(tmp_path, "--recipe", images / "tiny.yaml", experiment=None) == lines_of(whole)
    with pytest.raises(SystemExit):  # no flag
        start(tmp_path, "--epochs", "3")
