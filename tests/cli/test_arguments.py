"""What is read from the command line, and what the help says."""

import json
import shlex
import subprocess
import sys
from dataclasses import fields

import pytest
import yaml

from hf_ltkd import DistillationTrainingArguments
from hf_ltkd.cli.arguments import COMMANDS, TRAINING_HELP, help_text, parse
from hf_ltkd.losses import LOSSES
from hf_ltkd.workflow.arguments import DistillArguments


# Every flag of version 0.1.0 beside those of TrainingArguments: of the commands, and of the scripts in examples/.
DATA_FLAGS = """benchmark dataset_name dataset_config_name data_dir train_list test_list image_column label_column
    eval_split imbalance_factor split_seed group_rule image_size crop crop_padding horizontal_flip no_horizontal_flip
    data_device""".split()
FLAGS = {
    "distill": """teacher student push dry_run plain_student no_plain_student loss loss_args pair adjust_teacher
        teacher_cache teacher_cache_views teacher_cache_dtype num_groups data eval_share recipe lr_milestones
        eval_with_teacher resume_from_checkpoint""".split(),
    "train-teacher": "model data eval_share recipe push_to_hub hub_model_code".split(),
    "diagnose": "teacher picture batch_size data eval_share num_groups student".split(),
    "check": ["data"],  # not in 0.1.0
    "adjust": "model output_dir tau batch_size data".split(),  # not in 0.1.0
    "evaluate": "model batch_size data eval_share".split(),
    "push": "model to private".split(),
    "export": "model teacher images output_dir threads runs".split(),
}
SWITCHES = {"dry_run", "plain_student", "no_plain_student", "adjust_teacher", "horizontal_flip", "no_horizontal_flip"}
SWITCHES |= {"eval_with_teacher", "push_to_hub", "hub_model_code", "private"}
VALUES = {"benchmark": "cifar100_lt", "group_rule": "thirds", "crop": "padded", "loss": "ce", "recipe": "paper"}
VALUES |= {"teacher_cache_dtype": "float16", "loss_args": "a=1", "pair": "a"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_of_before_is_read(command):
    names = FLAGS[command] + (DATA_FLAGS if command not in ("push", "export") else [])
    required = {"diagnose": ["--teacher", "x"], "evaluate": ["--model", "x"], "push": ["--model", "x", "--to", "x/y"]}
    required["export"] = required["adjust"] = ["--model", "x"]
    for name in names:
        for flag in {f"--{name}", "--" + name.replace("_", "-")}:
            given = [flag] if name in SWITCHES else [flag, VALUES.get(name, "1")]
            read = parse(command, [*required.get(command, []), *given])
            key = name.removeprefix("no_")
            assert read[key] is not None and (not name.startswith("no_") or read[key] is False)


def test_only_what_was_given_is_read():
    arguments = ["--data", "photos", "--loss_args", "alpha=1", "beta=2", "--dry_run", "--learning_rate", "5e-4"]
    assert parse("distill", arguments) == {
        "data": "photos", "loss_args": ["alpha=1", "beta=2"], "dry_run": True, "learning_rate": 5e-4
    }  # fmt: skip


def test_configuration_file_and_flags_over_it(tmp_path):
    config = tmp_path / "settings.yaml"
    config.write_text(
        "teacher: t\nstudent: vgg8\ndata: photos\nloss_args: [alpha=1, beta=2]\nlearning_rate: 5e-4\ndry_run: true\n"
        "plain_student: false\nlr_scheduler_kwargs: {min_lr: 0.1}\nnum_groups:\n"
    )
    both = parse("distill", ["--config", str(config), "--student", "resnet8", "--loss_args", "alpha=3"])
    assert both == {
        "teacher": ["t"],
        "student": "resnet8",
        "data": "photos",
        "loss_args": ["alpha=3"],
        "dry_run": True,
        "plain_student": False,
        "learning_rate": 5e-4,
        "lr_scheduler_kwargs": '{"min_lr": 0.1}',
    }
    assert parse("distill", [str(config)]) == {**both, "student": "vgg8", "loss_args": ["alpha=1", "beta=2"]}
    config.write_text(yaml.safe_dump({"loss_args": {"alpha": 1, "ce": "balanced_softmax"}}))
    (text,) = parse("distill", [str(config)])["loss_args"]
    assert json.loads(text) == {"alpha": 1, "ce": "balanced_softmax"}
    config.write_text("teachr: t\n")
    with pytest.raises(ValueError, match="--teachr=t, did you mean '--teacher'"):
        parse("distill", [str(config)])
    config.write_text("- teacher\n")
    with pytest.raises(ValueError, match="lines of the form name: value"):
        parse("distill", [str(config)])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_an_example_that_parses(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as done:
        parse(name, ["--help"])
    text = capsys.readouterr().out
    assert done.value.code == 0 and f"example: {COMMANDS[name].example}" in text and "adam_beta1" not in text
    program, command, *arguments = shlex.split(COMMANDS[name].example)
    assert (program, command) == ("hf-ltkd", name)
    assert len(parse(name, arguments)) == sum(argument.startswith("--") for argument in arguments)
    assert all(f"--{flag}" in text for flag in [*FLAGS[name][:3], "config"] if flag != "eval_share")
    assert ("--help_all" in text) == COMMANDS[name].trains


def test_help_shows_defaults_and_choices(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = help_text("distill")
    assert "--teacher_cache_dtype {float32" in text and "(default: resnet8x4)" in text
    assert "33/34/33 % of the classes" in text and "--no_plain_student" in text
    assert "--adam_beta1" in help_text("distill", show_all=True)


def test_help_and_classes_agree():
    """The names that are written down here, so that the help needs no torch, are those of the real classes."""
    assert set(TRAINING_HELP) <= {f.name for f in fields(DistillationTrainingArguments)}
    said = DistillArguments.__dataclass_fields__["loss"].metadata["help"].partition(" (the")[0]
    known = {name for name, loss in LOSSES.items() if not loss.needs_pixels}
    assert set(said.removeprefix("The method: ").split(", ")) == known


def test_help_imports_no_torch():
    """In a new process, since this one has imported it."""
    heavy = "torch", "transformers", "datasets", "numpy", "matplotlib"
    code = (
        "import sys\nfrom hf_ltkd.cli import main\n"
        f"for arguments in ['--help'], ['--version'], *([name, '--help'] for name in {[*COMMANDS]!r}):\n"
        "  try: main(arguments)\n  except SystemExit: pass\n"
        f"  print('imported:', *arguments, [name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = [line for line in done.stdout.splitlines() if line.startswith("imported: ")]
    assert len(said) == 2 + len(COMMANDS) and all(line.endswith(" []") for line in said), said
    assert len(done.stdout) > 20 * len(said)


def test_errors_say_where_the_arguments_are_listed():
    with pytest.raises(ValueError, match=r"argument --max_steps: invalid int value: 'many' \(hf-ltkd distill --help"):
        parse("distill", ["--max_steps", "many"])
    with pytest.raises(ValueError, match="unrecognized arguments: --colour red"):
        parse("distill", ["--colour", "red"])
    with pytest.raises(ValueError, match="required: --model"):
        parse("evaluate", ["--data", "x"])
