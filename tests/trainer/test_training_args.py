"""The paper's preset, what wins over it, and the defaults without it."""

from dataclasses import fields

import pytest
from transformers import HfArgumentParser, TrainingArguments

from hf_ltkd import DistillationTrainingArguments


PAPER = {
    "num_train_epochs": 240,
    "per_device_train_batch_size": 64,
    "learning_rate": 0.05,
    "weight_decay": 5e-4,
    "weight_decay_on_all": True,
    "optim": "sgd",
    "optim_args": "momentum=0.9",
    "max_grad_norm": 0,
    "lr_milestones": [0.625, 0.75, 0.875],  # epochs 150, 180, 210 of 240
    "lr_decay": 0.1,
}


def make(tmp_path, **kwargs):
    return DistillationTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **kwargs)


def test_paper_preset(tmp_path):
    args = make(tmp_path, preset="paper")
    assert {name: getattr(args, name) for name in PAPER} == PAPER


@pytest.mark.parametrize(
    "name, value",
    [
        ("num_train_epochs", 3.0),
        ("per_device_train_batch_size", 8),
        ("learning_rate", 5e-5),
        ("weight_decay", 0.0),
        ("weight_decay_on_all", False),
        ("optim", "adamw_torch"),
        ("optim_args", "momentum=0.0"),
        ("max_grad_norm", 1.0),
        ("lr_milestones", []),
        ("lr_milestones", [0.5]),
        ("lr_decay", 0.2),
    ],
)
def test_own_value_wins(tmp_path, name, value):
    args = make(tmp_path, preset="paper", **{name: value})
    assert {n: getattr(args, n) for n in PAPER} == PAPER | {name: value}


def test_own_value_without_the_preset(tmp_path):
    assert make(tmp_path, learning_rate=0.3).learning_rate == 0.3


def test_defaults_are_those_of_training_arguments(tmp_path):
    ours, theirs = make(tmp_path), TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    different = {f.name for f in fields(TrainingArguments) if getattr(ours, f.name) != getattr(theirs, f.name)}
    assert different == {"remove_unused_columns"} and ours.remove_unused_columns is False
    assert ours.lr_milestones is None and ours.weight_decay_on_all is False and ours.eval_with_teacher is False


def test_command_line(tmp_path):
    command = ["--output_dir", str(tmp_path), "--use_cpu", "--preset", "paper", "--learning_rate", "0.01"]
    (args,) = HfArgumentParser(DistillationTrainingArguments).parse_args_into_dataclasses(command)
    assert {name: getattr(args, name) for name in PAPER} == PAPER | {"learning_rate": 0.01}
    (args,) = HfArgumentParser(DistillationTrainingArguments).parse_args_into_dataclasses(
        [*command, "--lr_milestones", "0.5", "0.9", "--weight_decay_on_all", "false"]
    )
    assert args.lr_milestones == [0.5, 0.9] and args.weight_decay_on_all is False


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"lr_milestones": [0.5, 1.0]}, r"lr_milestones=\[0.5, 1.0\] is not valid"),
        ({"lr_milestones": [0.0]}, "lr_milestones=.* between 0 and 1"),
        ({"lr_milestones": [150, 180]}, r"lr_milestones=\[150, 180\] is not valid"),
        ({"lr_decay": 0.0}, "lr_decay=0.0 is not valid"),
        ({"lr_decay": 1.5}, "lr_decay=1.5 is not valid"),
        ({"preset": "papers"}, "preset='papers' is not known: use 'paper'"),
    ],
)
def test_errors(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **kwargs)


def test_a_schedule_of_ones_own_wins_over_the_preset(tmp_path):
    args = DistillationTrainingArguments(tmp_path, preset="paper", lr_scheduler_type="cosine", use_cpu=True)
    assert not args.lr_milestones
