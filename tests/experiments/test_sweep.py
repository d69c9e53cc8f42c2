"""Sweeps over a tiny dataset in the layout of the Hub's CIFAR-100, in this process."""

import gc
import itertools
import json
import math
import multiprocessing
import os
import signal
import sqlite3
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from filelock import FileLock
from PIL import Image as PILImage
from transformers import Trainer, ViTImageProcessor, set_seed

from hf_ltkd import ClassGroups, DistillationTrainer, TeacherCache, create_loss, create_model
from hf_ltkd.losses import LOSSES
from hf_ltkd.teacher import teacher_fingerprint


sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import sweep  # noqa: E402
import sweep_report  # noqa: E402


NAMES = ["red", "green", "blue", "yellow", "cyan", "magenta"]
COLORS = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]]
COMMON = ["--label_column", "fine_label", "--imbalance_factor", "4", "--image_size", "8", "--crop_padding", "1"]
COMMON += ["--num_train_epochs", "2", "--recipe", "paper", "--per_device_train_batch_size", "16", "--use_cpu"]
COMMON += ["--per_device_eval_batch_size", "48", "--disable_tqdm", "true", "--dataloader_pin_memory", "false"]
GRID = ["--grid", "alpha=1,6", "beta=0.5,2", "--seeds", "0", "1"]
SMALL = ["--losses", "ltkd", "ce", "--seeds", "0", "1"]


@pytest.fixture(scope="module", autouse=True)
def quick_garbage_collection():
    """Every training ends with one, which otherwise looks at all that was ever imported: half of the time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six classes told apart by their colour, 20 training and 8 test images each, and two teachers, not trained."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    features = Features({"img": Image(), "fine_label": ClassLabel(names=NAMES)})
    for split, size in (("train", 20), ("test", 8)):
        labels = np.repeat(np.arange(6), size)
        pixels = random.integers(0, 216, (len(labels), 8, 8, 3)) + 40 * np.array(COLORS)[labels][:, None, None]
        images = [PILImage.fromarray(image) for image in pixels.astype(np.uint8)]
        data = Dataset.from_dict({"img": images, "fine_label": labels}, features=features)
        data.to_parquet(folder / f"{split}.parquet")
    for seed in (0, 1):
        set_seed(seed)
        teacher = create_model("resnet8x2", 6, image_size=8, id2label=dict(enumerate(NAMES)))
        teacher.save_pretrained(folder / f"teacher{seed}")
        processor = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
        processor.save_pretrained(folder / f"teacher{seed}")
    return folder


@pytest.fixture
def start(folder, monkeypatch):
    """Starts the script in this process; gives the seeds and losses that were trained."""
    trained = []
    train = Trainer.train

    def remember(self, *args, **kwargs):
        trained.append((type(self.distillation_loss).__name__, self.args.seed))
        return train(self, *args, **kwargs)

    def start(output_dir, *arguments):
        trained.clear()
        teacher = ["--data_dir", folder, "--teacher", folder / "teacher0"]
        command = ["sweep.py", *COMMON, *teacher, "--output_dir", output_dir, *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        sweep.main()
        return list(trained)

    monkeypatch.setattr(Trainer, "train", remember)
    return start


def results(folder, name="results.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def settled(lines):
    """Without what differs from one machine or moment to the other."""
    return sorted(({**line, "seconds": None} for line in lines), key=json.dumps)


# ---- What is run ----


def test_every_combination_and_seed_once(start, tmp_path, capsys):
    trained = start(tmp_path, "--losses", "ltkd", "kd", "ce", *GRID, "--loss_args", "temperature=2")
    assert sorted(trained) == sorted(
        4 * [("LTKDLoss", 0), ("LTKDLoss", 1)]
        + [(name, seed) for name in ("KDLoss", "CrossEntropyLoss") for seed in (0, 1)]
    )
    lines = results(tmp_path)
    points = [
        (line["loss_args"]["alpha"], line["loss_args"]["beta"], line["seed"]) for line in lines[:4] + lines[6:10]
    ]
    assert points == [(a, b, s) for s in (0, 1) for a in (1, 6) for b in (0.5, 2)]
    assert [line["loss_args"].get("temperature") for line in lines] == 2 * [2, 2, 2, 2, 2, None]
    for line in lines:
        assert line["metrics"]["accuracy"] == pytest.approx(np.mean(line["class_accuracy"]))
        assert line["metrics"]["tail_accuracy"] == pytest.approx(np.mean(line["class_accuracy"][4:]))
        assert line["seconds"] > 0 and line["versions"]["torch"] == torch.__version__ and line["device"] == "cpu"
    assert len({str(line["class_accuracy"]) for line in lines}) > 6  # the settings do something
    text = capsys.readouterr().out
    assert "12 (8 of ltkd, 2 of kd, 2 of ce): 0 exist, 12 to do" in text and "from a few real steps" in text
    assert "evaluated on 48 test images" in text and "2 views of each image" in text
    assert TeacherCache.open(tmp_path / "teacher_logits").views == 2
    assert not list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("checkpoint-*"))


def test_every_loss_is_made_again_from_its_line():
    groups = ClassGroups.from_counts([30, 20, 10])
    for name in LOSSES:
        loss_args = sweep_report.as_json(create_loss(name, groups, ce_weight=0.5).hyper_parameters())
        assert loss_args["ce_weight"] == 0.5
        assert sweep_report.as_json(create_loss(name, groups, **loss_args).hyper_parameters()) == loss_args


def test_a_seed_has_its_initial_weights_and_order_for_every_loss(start, tmp_path, monkeypatch):
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
    start(tmp_path / "a", "--losses", *losses, "--seeds", "0", "1")
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

    start(tmp_path / "b", "--losses", *losses[::-1], "--seeds", "1", "0")
    assert settled(results(tmp_path / "a")) == settled(results(tmp_path / "b"))


# ---- Killed, continued, extended, shared ----


def test_a_killed_sweep_goes_on_with_what_is_missing(start, tmp_path):
    start(tmp_path / "whole", *SMALL)

    def start_and_die():
        replace, calls = os.replace, []

        def observed(source, target):
            calls.extend([target] if Path(target).name == "results.jsonl" else [])
            if len(calls) == 3:  # two runs are on disk, the third is trained and about to be
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        os.replace = observed
        start(tmp_path / "killed", *SMALL)

    process = multiprocessing.get_context("fork").Process(target=start_and_die)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert len(results(tmp_path / "killed")) == 2
    assert start(tmp_path / "killed", *SMALL) == [("LTKDLoss", 1), ("CrossEntropyLoss", 1)]
    assert settled(results(tmp_path / "killed")) == settled(results(tmp_path / "whole"))
    assert start(tmp_path / "killed", *SMALL) == []
    assert (tmp_path / "killed" / "table.md").read_text() == (tmp_path / "whole" / "table.md").read_text()


def test_a_run_that_is_missing_in_the_middle(start, tmp_path, capsys):
    start(tmp_path, *SMALL)
    lines = (tmp_path / "results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_text("".join(lines[:2] + lines[3:]))
    capsys.readouterr()
    assert start(tmp_path, *SMALL) == [("LTKDLoss", 1)]
    assert settled(results(tmp_path)) == settled(map(json.loads, lines))
    assert "3 exist, 1 to do" in capsys.readouterr().out


def test_more_values_seeds_and_losses_are_added(start, tmp_path):
    start(tmp_path, "--grid", "alpha=1", "--seeds", "0")
    assert start(tmp_path, "--grid", "alpha=1,2", "--seeds", "0", "1") == [
        ("LTKDLoss", 0), ("LTKDLoss", 1), ("LTKDLoss", 1)
    ]  # fmt: skip
    assert start(tmp_path, "--losses", "ce", "--seeds", "0") == [("CrossEntropyLoss", 0)]
    assert start(tmp_path, "--loss_args", "alpha=1.0", "beta=6", "--seeds", "0") == []  # the first by another name
    assert [row.split("|")[1:3] for row in table_of(tmp_path)] == [
        [" ce ", " 1 "],
        [" ltkd alpha=1 ", " 2 "],
        [" ltkd alpha=2 ", " 2 "],
    ]


def test_a_run_of_another_process_is_left_to_it(start, tmp_path, capsys):
    start(tmp_path, "--losses", "ce", "--seeds", "0")
    (lock,) = (tmp_path / "locks").iterdir()
    (tmp_path / "results.jsonl").unlink()
    with FileLock(lock):
        assert start(tmp_path, "--losses", "ce", "--seeds", "0", "1") == [("CrossEntropyLoss", 1)]
    assert "ce, seed 0: another process trains it" in capsys.readouterr().out
    assert start(tmp_path, "--losses", "ce", "--seeds", "0", "1") == [("CrossEntropyLoss", 0)]


def test_two_processes_share_the_runs(start, tmp_path):
    arguments = ["--losses", "ltkd", "kd", "dkd", "ce", "--seeds", "0", "1"]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=start, args=(tmp_path, *arguments)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    runs = {(line["loss"], line["seed"]) for line in results(tmp_path)}
    assert len(results(tmp_path)) == len(runs) == 8
    assert start(tmp_path, *arguments) == []


def test_a_run_that_diverges_does_not_end_the_sweep(start, tmp_path, capsys):
    start(tmp_path, "--grid", "alpha=1e39,1", "--seeds", "0")
    assert [line["loss_args"]["alpha"] for line in results(tmp_path)] == [1]
    text = " ".join(capsys.readouterr().out.split())
    assert "Left out ltkd alpha=1e+39, seed 0: The loss is not finite at step 1" in text


def test_other_settings_are_refused(start, folder, tmp_path):
    start(tmp_path, "--losses", "ce", "--seeds", "0")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for change, message in [
        (
            ["--teacher", folder / "teacher1"],
            "teacher [0-9a-f]{16}, not with [0-9a-f]{16}: use what they were made with",
        ),
        (["--student", "wrn_10_1"], "student resnet8, not with wrn_10_1"),
        (["--learning_rate", "0.01"], "learning_rate 0.05, not with 0.01"),
        (["--num_train_epochs", "3"], "teacher_cache_views 2, not with 3"),
        (["--num_train_epochs", "3", "--teacher_cache_views", "2"], "num_train_epochs 2.0, not with 3.0"),
        (["--per_device_train_batch_size", "8"], "train_batch_size 16, not with 8"),
        (
            ["--imbalance_factor", "2"],
            r"train_images ImageDataset\(70 examples, .*, not with ImageDataset\(89 examples",
        ),
        (["--seed", "1"], "train_images .*seed=42.*, not with .*seed=1"),
        (["--evaluate_on", "validation"], "train_images"),
    ]:
        with pytest.raises(ValueError, match=f"were made with {message}"):
            start(tmp_path, "--losses", "ce", "--seeds", "0", *change)
        assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


# ---- The report ----


def table_of(folder, name="table.md"):
    return [row for row in (folder / name).read_text().splitlines() if row.startswith("|")][2:]


def test_table_and_pictures(start, tmp_path, monkeypatch, capsys):
    start(tmp_path, "--losses", "ltkd", "ce", *GRID)
    (tmp_path / "table.md").unlink()
    (tmp_path / "sensitivity.png").unlink()
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--report_only", "--output_dir", str(tmp_path)])
    drawn = {}
    plot = sweep_report.plot_sensitivity
    monkeypatch.setattr(
        sweep_report,
        "plot_sensitivity",
        lambda *args, **kwargs: [drawn.update(args[0], **kwargs), plot(*args, **kwargs)],
    )
    capsys.readouterr()
    sweep.main()
    text = (tmp_path / "table.md").read_text()
    assert text in capsys.readouterr().out and "of resnet8 on 48 test images" in text

    # Once more from the accuracy of each class: the groups of 6 classes are the first two, the next two, the last two.
    names = ["ce", *(f"ltkd alpha={a} beta={b}" for a in (1, 6) for b in (0.5, 2))]
    groups = {"head": slice(0, 2), "medium": slice(2, 4), "tail": slice(4, 6), "all": slice(0, 6)}
    accuracy = {}
    for line in results(tmp_path):
        loss_args = line["loss_args"]
        name = f"ltkd alpha={loss_args['alpha']} beta={loss_args['beta']}" if line["loss"] == "ltkd" else "ce"
        for group, classes in groups.items():
            accuracy.setdefault((name, group), []).append(100 * statistics.fmean(line["class_accuracy"][classes]))
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table_of(tmp_path)]
    assert [row[:2] for row in rows] == [[name, "2"] for name in names]
    for column, group in enumerate(groups, 2):
        means = {name: f"{statistics.fmean(accuracy[name, group]):.1f}" for name in names}
        best, second = [*sorted(set(means.values()), key=float, reverse=True), None][:2]
        for row, name in zip(rows, names, strict=True):
            mark = "**" if means[name] == best else "*" if means[name] == second else ""
            deviation = statistics.pstdev(accuracy[name, group])
            assert row[column] == f"{mark}{means[name]} ± {deviation:.1f}{mark}"

    with PILImage.open(tmp_path / "sensitivity.png") as image:
        assert min(image.size) > 500
    baselines = drawn.pop("baselines")
    assert set(drawn) == set(itertools.product((1, 6), (0.5, 2))) and set(baselines) == {"ce"}
    for name, values in [*baselines.items(), *((f"ltkd alpha={a} beta={b}", drawn[a, b]) for a, b in drawn)]:
        assert [100 * value for value in values["tail_accuracy"]] == pytest.approx(accuracy[name, "tail"])


def test_a_picture_for_each_choice_of_the_other_arguments(start, tmp_path):
    start(tmp_path, "--grid", "alpha=1,6", "temperature=2,4", "--seeds", "0")
    assert {path.name for path in tmp_path.glob("*.png")} == {"sensitivity_1.png", "sensitivity_2.png"}
    assert all("±" not in row for row in table_of(tmp_path)) and len(table_of(tmp_path)) == 4


def test_held_out_images_from_yaml(folder, tmp_path, monkeypatch):
    values = dict(zip([flag.removeprefix("--") for flag in COMMON[:10:2]], COMMON[1:10:2], strict=True))
    lines = [f"{name}: {value}" for name, value in values.items()] + ["use_cpu: true", "disable_tqdm: true"]
    lines += [f"data_dir: {folder}", "losses: [ce]", "seeds: [0]", "learning_rate: 0.05", "eval_share: 0.3"]
    lines += ["grid: ['ce=cross_entropy,balanced_softmax']", "evaluate_on: validation", f"output_dir: {tmp_path}"]
    (tmp_path / "recipe.yaml").write_text("\n".join(lines))
    monkeypatch.setattr(sys, "argv", ["sweep.py", str(tmp_path / "recipe.yaml")])
    sweep.main()
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["evaluated_on"] == "36 held-out training images, 6 of each class"
    assert settings["teacher"] is None and settings["train_images"].startswith("ImageDataset(49 examples")
    assert "report the choice on test images" in (tmp_path / "table.md").read_text()
    assert [row.split("|")[1] for row in table_of(tmp_path)] == [" ce ce=cross_entropy ", " ce ce=balanced_softmax "]
    assert not (tmp_path / "teacher_logits").exists()


# ---- Optuna ----


def test_search(start, tmp_path):
    pytest.importorskip("optuna")
    space = ["--seeds", "0", "--grid", "alpha=0.5,16", "temperature=2,4", "ce=cross_entropy,balanced_softmax"]
    space += ["--metric_for_best_model", "tail_accuracy", "--loss_args", "beta=2"]
    assert len(start(tmp_path, "--search", "2", *space)) == 2
    lines = results(tmp_path, "search.jsonl")
    alphas = [line["loss_args"]["alpha"] for line in lines]
    assert len(set(alphas)) == 2 and all(0.5 <= alpha <= 16 for alpha in alphas)
    assert all(2 <= line["loss_args"]["temperature"] <= 4 and line["loss_args"]["beta"] == 2 for line in lines)
    with sqlite3.connect(tmp_path / "search.db") as database:
        values = [value for (value,) in database.execute("SELECT value FROM trial_values ORDER BY trial_id")]
    assert values == [line["metrics"]["tail_accuracy"] for line in lines]
    assert len(table_of(tmp_path, "search.md")) == 2 and not (tmp_path / "results.jsonl").exists()

    # What a trial is said to have tried is what it trained with: the same run by hand gives the same student.
    for line in lines:
        loss_args = [f"{name}={line['loss_args'][name]!r}".replace("'", "") for name in ("alpha", "temperature", "ce")]
        start(tmp_path, "--seeds", "0", "--loss_args", "beta=2", *loss_args)
    assert settled(results(tmp_path)) == settled(lines)

    assert len(start(tmp_path, "--search", "3", *space)) == 1
    assert len({line["loss_args"]["alpha"] for line in results(tmp_path, "search.jsonl")}) == 3
    assert start(tmp_path, "--search", "3", *space) == []


# ---- Wrong arguments ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--losses", "ltkd", "speed"], "--losses speed: there is no such loss, use any of ce, kd, ltkd"),
        (["--grid", "alpha"], "--grid alpha must have the form name=value"),
        (["--losses", "kd", "--grid", "alpha=1,2"], "kd have no argument 'alpha': use any of temperature"),
        (["--loss_args", "alpha=-1"], "alpha=-1"),
        (["--search", "2"], "--search takes the number of trials, 1 or more, one loss, one seed and the ends"),
        (["--search", "0", "--seeds", "0", "--grid", "alpha=1,2"], "--search takes the number of trials"),
        (["--metric_for_best_model", "loss"], "loss is not measured: use one of accuracy, head_accuracy"),
        (["--teacher_cache_views", "-1"], "views=-1 is not valid"),
    ],
)
def test_wrong_arguments_are_explained(start, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        start(tmp_path, *arguments)
    assert not (tmp_path / "results.jsonl").exists()


def test_what_is_missing_is_explained(start, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "is_optuna_available", lambda: False)
    with pytest.raises(ValueError, match="--search needs Optuna: pip install optuna"):
        start(tmp_path, "--search", "2", "--seeds", "0", "--grid", "alpha=1,2")
    monkeypatch.setattr(sys, "argv", ["sweep.py", *COMMON, "--data_dir", str(folder), "--output_dir", str(tmp_path)])
    with pytest.raises(ValueError, match="--losses ltkd needs --teacher"):
        sweep.main()
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--report_only", "--output_dir", str(tmp_path)])
    with pytest.raises(ValueError, match="There is no sweep in"):
        sweep.main()
