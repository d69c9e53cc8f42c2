"""The segmentation script as a user starts it, and the experiment that is made of it, on small parquet files."""

import json

import pytest
from helpers import run_script
from streets import scenes

from hf_ltkd import ClassGroups


COMMON = "--num_classes 11 --crop_size 24 32 --max_steps 2 --use_cpu --disable_tqdm true --report_to none".split()
COMMON += "--per_device_train_batch_size 4 --save_strategy no".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of 11 classes."""
    folder = tmp_path_factory.mktemp("scenes")
    for seed, (split, count) in enumerate({"train": 6, "validation": 3, "test": 3}.items()):
        scenes(count, seed, [0.3] + [0.07] * 10).to_parquet(folder / f"{split}.parquet")
    return folder


def test_a_teacher_and_its_student(folder, tmp_path, capsys):
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    distil = ["distill_semantic_segmentation.py", "--data", folder, *COMMON]
    run_script(*distil, "--loss", "ce", "--student", "upernet_8", "--output_dir", teacher)
    taught = ["--teacher", teacher, "--student", "upernet_4", "--loss_args", "temperature=1"]
    run_script(*distil, *taught, "--output_dir", student)
    assert capsys.readouterr().out.count("IoU (%)") == 2
    run = json.loads((student / "distillation.json").read_text())
    assert len(run["class_iou"]) == 11 and run["loss"]["hyper_parameters"]["temperature"] == 1
    assert "Mean IoU (%)" in (student / "README.md").read_text(encoding="utf-8")
    assert ClassGroups.from_pretrained(student).num_classes == 11
    assert (student / "examples.png").is_file()


def test_the_experiment(folder, tmp_path, capsys):
    """Students of a teacher, and of one that goes on from its weights."""
    small = {"width": 4, "epochs": 1.0, "warmup_steps": 0}
    teachers = [small, {"from": small, "epochs": 1.0, "warmup_steps": 0, "crop": [36, 48], "ce": "balanced_softmax"}]
    command = ["experiments/segmentation.py", "--data", folder, "--output_dir", tmp_path, "--seeds", "0"]
    command += ["--methods", "LTKD", "--teachers", *map(json.dumps, teachers), "--student", json.dumps(small)]
    run_script(*command)
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    runs = [json.loads(line) for line in lines]
    assert [run["method"] for run in runs] == 2 * ["teacher"] + 2 * ["LTKD"]
    assert [run["teacher"] for run in runs] == [None, None, *teachers]
    assert runs[1]["arguments"] == {"ce": "balanced_softmax"} and runs[1]["scores"] != runs[0]["scores"]
    run_script(*command, "--diagnose")  # nothing is trained again
    assert (tmp_path / "results.jsonl").read_text().splitlines() == lines
    said = capsys.readouterr().out
    assert "| pixels of | share | cross |" in said and said.count("| tail, edge |") == 2
    assert f"| LTKD, {json.dumps(teachers[1])} teacher | " in said
