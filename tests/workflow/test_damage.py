"""Damaged files: one sentence that names the file, and the checkpoint before where there is one."""

import os
import shutil
from pathlib import Path

import pytest
from photos import CPU
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

from hf_ltkd import (
    ClassGroups,
    DistillationTrainer,
    DistillationTrainingArguments,
    ImageDataset,
    LTKDLoss,
    TeacherCache,
    create_model,
)
from hf_ltkd.cli import main
from hf_ltkd.hub.card import write_model_card
from hf_ltkd.trainer.checkpoints import incomplete, last_complete_checkpoint


DAMAGES = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "garbage": lambda path: path.write_bytes(bytes(range(255, 0, -1))),
}
OURS = (
    *("rng_state.pth", "distillation_state.json", "distillation_loss.safetensors", "optimizer.pt", "scheduler.pt"),
    *("config.json", "model.safetensors", "trainer_state.json", "training_arguments.json", "class_groups.json"),
    "distillation.json",
)
PLAIN = ("rng_state.pth", "optimizer.pt", "scheduler.pt", "model.safetensors", "trainer_state.json", "config.json")


def images() -> ImageDataset:
    import torch

    pixels = torch.randint(0, 256, (8, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageDataset(pixels, [0, 1, 2, 0, 1, 2, 0, 1], mean=[0.5] * 3, std=[0.5] * 3)


def network():
    return create_model("resnet8", 3, image_size=8)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The checkpoints of a run of ours and of the plain Trainer."""
    folder = tmp_path_factory.mktemp("runs")
    training = {"max_steps": 2, "save_steps": 1, "per_device_train_batch_size": 8, **CPU}
    loss = LTKDLoss(ClassGroups.from_counts([3, 3, 2]), group_mass_momentum=0.5)
    args = DistillationTrainingArguments(output_dir=str(folder / "ours"), **training)
    DistillationTrainer(network(), network(), args, distillation_loss=loss, train_dataset=images()).train()
    Trainer(network(), TrainingArguments(output_dir=str(folder / "plain"), **training), train_dataset=images()).train()
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("run", "name"), [*(("ours", name) for name in OURS), *(("plain", name) for name in PLAIN)])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(runs, tmp_path, caplog, run, name, damage):
    if (run, name, damage) == ("plain", "config.json", "missing"):
        pytest.skip("the Trainer goes on without it")
    shutil.copytree(runs / run, tmp_path / run)
    assert incomplete(tmp_path / run / "checkpoint-2") is None
    DAMAGES[damage](tmp_path / run / "checkpoint-2" / name)
    problem = incomplete(tmp_path / run / "checkpoint-2")
    assert problem is not None and Path(name).stem in problem
    assert last_complete_checkpoint(tmp_path / run) == str(tmp_path / run / "checkpoint-1")
    assert f"Skipping {tmp_path / run / 'checkpoint-2'}: {problem}" in caplog.text


def damaged(home, tmp_path, name: str, damage: str) -> Path:
    folder = tmp_path / "student"
    shutil.copytree(home.student, folder)
    DAMAGES[damage](folder / name)
    return folder


@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json", "class_groups.json"])
def test_a_damaged_model_is_named(home, tmp_path, capsys, name, damage):
    folder = damaged(home, tmp_path, name, damage)
    assert main(["evaluate", "--model", str(folder), "--data", home.photos]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hf-ltkd")]
    assert f"{str(folder / name)!r} is damaged" in line


@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage"])
@pytest.mark.parametrize(
    "name",
    (
        *("config.json", "preprocessor_config.json", "class_groups.json", "long_tail.json", "holdout.json"),
        *("comparison.json", "distillation.json", "training_arguments.json", "eval_results.json"),
    ),
)
def test_a_damaged_file_is_named_before_a_push(home, tmp_path, capsys, name, damage):
    folder = damaged(home, tmp_path, name, damage)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["push", "--model", str(folder), "--to", "me/small"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hf-ltkd")]
    assert f"{str(folder / name)!r} is damaged" in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage"])
@pytest.mark.parametrize("name", ["long_tail.json", "class_groups.json", "distillation.json", "config.json"])
def test_a_damaged_file_is_named_by_the_card(home, tmp_path, name, damage):
    folder = damaged(home, tmp_path, name, damage)
    with pytest.raises(ValueError, match=f"{name}' is damaged"):
        write_model_card(folder)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["manifest.json", "view-0000.npy"])
def test_a_damaged_cache_is_named(tmp_path, name, damage):
    TeacherCache.build(tmp_path / "cache", network(), images(), views=1, batch_size=8, progress=False)
    DAMAGES[damage](tmp_path / "cache" / name)
    with pytest.raises(ValueError, match="cache|damaged") as caught:
        TeacherCache.open(tmp_path / "cache")
    assert name in str(caught.value) or damage == "missing"


@pytest.mark.parametrize("text", [b"teacher: [a", b"\xff\xfe\x00", b"teacher: a\n  data: b\n", b"- a", b"just words"])
def test_a_damaged_configuration_is_named(tmp_path, monkeypatch, capsys, text):
    monkeypatch.chdir(tmp_path)
    Path("settings.yaml").write_bytes(text)
    assert main(["distill", "--config", "settings.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hf-ltkd: The configuration 'settings.yaml'")
    assert os.listdir() == ["settings.yaml"]


@pytest.mark.parametrize("command", ["evaluate", "diagnose", "push", "export", "distill"])
def test_a_model_of_nan_is_neither_scored_nor_published(home, tmp_path, capsys, command):
    model = AutoModelForImageClassification.from_pretrained(home.student)
    next(model.parameters()).data[0] = float("nan")
    model.save_pretrained(tmp_path / "student")
    shutil.copy(Path(home.student, "preprocessor_config.json"), tmp_path / "student")
    name = {"diagnose": "--teacher", "distill": "--teacher"}.get(command, "--model")
    more = {"push": ["--to", "me/small"], "export": [], "distill": ["--data", home.photos, "--use_cpu", "true"]}
    more["distill"] += ["--output_dir", str(tmp_path / "new")]
    assert main([command, name, str(tmp_path / "student"), *more.get(command, ["--data", home.photos])]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hf-ltkd")]
    assert "NaN or Inf" in line


def test_a_postscript_file_called_png_is_drawn_by_nobody(home, tmp_path, capsys):
    (tmp_path / "photo.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    assert main(["export", "--model", home.student, "--images", str(tmp_path / "photo.png"), "--runs", "1"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hf-ltkd")]
    assert "photo.png cannot be read as JPEG, PNG" in line
