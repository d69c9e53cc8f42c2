"""The commands and their arguments: shown without importing torch, read with it."""

import argparse
import json
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn

from ..workflow.arguments import (
    AdjustArguments,
    DataArguments,
    DiagnoseArguments,
    DistillArguments,
    EvaluateArguments,
    ExportArguments,
    MaskArguments,
    ModelArguments,
    PushArguments,
    SourceArguments,
    TrainingChoices,
    TrainTeacherArguments,
    nearest,
)


@dataclass
class DryRunArguments:
    """What the command alone can do: the functions of `workflow` say nothing."""

    dry_run: bool = field(
        default=False, metadata={"help": "Say what would be done and how long it would take, and write nothing."}
    )


@dataclass(frozen=True)
class Command:
    """What a command does, how it is called, its argument classes, and whether it trains."""

    help: str
    example: str
    arguments: tuple[type, ...]
    trains: bool = False


SCENES = (SourceArguments, DataArguments, MaskArguments)
COMMANDS = {
    "distill": Command(
        "Distils a teacher into a student, compares it with the teacher and with a student that had none.",
        "hf-ltkd distill --teacher me/big-vit --student microsoft/resnet-18 --data ./photos --push me/small",
        (DistillArguments, ModelArguments, DryRunArguments, *SCENES, TrainingChoices),
        trains=True,
    ),
    "train-teacher": Command(
        "Trains a classifier by cross-entropy.",
        "hf-ltkd train-teacher --model resnet32x4 --data ./photos --image_size 64 --output_dir teacher",
        (TrainTeacherArguments, ModelArguments, DryRunArguments, *SCENES, TrainingChoices),
        trains=True,
    ),
    "diagnose": Command(
        "Says and draws how much of its probability a teacher gives to head, medium and tail; of pixels the IoU too.",
        "hf-ltkd diagnose --teacher me/big-vit --data ./photos",
        (DiagnoseArguments, ModelArguments, *SCENES),
    ),
    "check": Command(
        "Opens every image once: which files are used for what, which are damaged, skipped, or there twice; of masks "
        "the pixels of each class.",
        "hf-ltkd check --data ./photos",
        SCENES,
    ),
    "evaluate": Command(
        "Accuracy of a saved model for head, medium and tail; of one for pixels its IoU.",
        "hf-ltkd evaluate --model student --data ./photos",
        (EvaluateArguments, ModelArguments, *SCENES),
    ),
    "adjust": Command(
        "Takes the class prior of the training data out of a trained model's logits, in the bias of its head.",
        "hf-ltkd adjust --model teacher --data ./photos --output_dir adjusted",
        (AdjustArguments, ModelArguments, *SCENES),
    ),
    "push": Command(
        "Sends a student's folder to the Hub, with its model card.",
        "hf-ltkd push --model student --to me/small",
        (PushArguments, ModelArguments),
    ),
    "export": Command(
        "Exports a student to ONNX, checks its logits, and measures it beside its teacher; needs hf_ltkd[onnx].",
        "hf-ltkd export --model student --teacher teacher --images ./photos",
        (ExportArguments, ModelArguments),
    ),
}

# What the help shows of DistillationTrainingArguments, unless all is asked for.
TRAINING_HELP = {
    "output_dir": "Where everything is written (default: student or teacher).",
    "preset": "'paper': SGD 0.9, 240 epochs, steps at 150/180/210, weight decay on all parameters.",
    "num_train_epochs": "Epochs (default: recommended by the number of images).",
    "max_steps": "Steps to train for, instead of epochs.",
    "per_device_train_batch_size": "Training batch size per device (default: 64).",
    "learning_rate": "Learning rate (default: recommended for the network).",
    "seed": "Of the initial weights, the order of the images and their augmentation (default: 42).",
    "bf16": "Train in bfloat16 where the device can.",
    "dataloader_num_workers": "Processes that make images beside the training (default: recommended).",
    "resume_from_checkpoint": "true: go on from the last complete checkpoint in output_dir; or its folder.",
}
OWN_HELP = {
    "image_size": "Side in pixels that images are resized to (default: the teacher's or the model's, else 32).",
    "split_seed": "Which training images are held out, and which the long-tailed split keeps (default: 0).",
}


def help_text(name: str, show_all: bool = False) -> str:
    """The help of a command, from its argument classes alone; `show_all` imports those of Transformers, too."""
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(
        prog=f"hf-ltkd {name}",
        usage=f"hf-ltkd {name} [--config FILE.yaml] [--NAME VALUE ...]",
        description=command.help,
        epilog=f"example: {command.example}",
    )
    for argument_class in command.arguments:
        _show_fields(parser, argument_class, OWN_HELP)
    if command.trains and show_all:
        from ..workflow.recommend import DistillationTrainingArguments

        _show_fields(parser, DistillationTrainingArguments, TRAINING_HELP)
    elif command.trains:
        for flag, text in TRAINING_HELP.items():
            parser.add_argument(f"--{flag}", help=text)
    parser.add_argument("--config", metavar="FILE.yaml", help="YAML file of arguments; flags win over it.")
    if command.trains:
        parser.add_argument("--help_all", action="help", help="Show the arguments of TrainingArguments, too.")
    return parser.format_help()


def _show_fields(parser: argparse.ArgumentParser, argument_class: type, own_help: dict[str, str]) -> None:
    types = typing.get_type_hints(argument_class)
    for f in fields(argument_class):  # type: ignore[arg-type]  # a dataclass
        name, kind = f.name, types[f.name]
        text = own_help.get(name) or f.metadata.get("help", "")
        if isinstance(f.default, str | float) and not isinstance(f.default, bool) and f.default != "":
            text += f" (default: {f.default})"
        options: dict[str, Any] = {"help": text.replace("%%", "%").replace("%", "%%")}  # argparse formats it
        kinds = [kind, *typing.get_args(kind)]
        choices = next((typing.get_args(k) for k in kinds if typing.get_origin(k) is Literal), None)
        if choices is not None:
            options["choices"] = choices
        elif list in [typing.get_origin(k) for k in kinds]:
            options["nargs"] = "+"
        elif bool in kinds:
            options.update(nargs="?", metavar="true|false")
        flags = [f"--{name}", f"--no_{name}"] if f.default is True else [f"--{name}"]
        parser.add_argument(*flags, **options)


def parse(name: str, argv: Sequence[str]) -> dict[str, Any]:
    """
    What the user set for a command, and nothing else, so that the rest can be recommended.

    Args:
        name (`str`): The command.
        argv (`Sequence[str]`): Flags, or a YAML file alone.

    Raises:
        `ValueError`: if an argument is not known or not valid.
        `FileNotFoundError`: if a configuration file does not exist.
        `SystemExit`: after the help, if that was asked for.
    """
    if {"-h", "--help", "--help_all"} & set(argv):
        print(help_text(name, "--help_all" in argv), end="")
        raise SystemExit(0)
    from transformers import HfArgumentParser

    from ..workflow.recommend import DistillationTrainingArguments

    def fail(message: str) -> NoReturn:
        raise ValueError(f"{message} (hf-ltkd {name} --help lists the arguments).")

    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.error = fail  # type: ignore[method-assign]
    files.add_argument("--config", action="append", default=[])
    is_file = len(argv) == 1 and argv[0].endswith((".yaml", ".yml"))
    known, rest = files.parse_known_args(["--config", *argv] if is_file else argv)
    from_files = [item for file in known.config for item in read_config(file)]

    classes = (*COMMANDS[name].arguments, *[DistillationTrainingArguments] * COMMANDS[name].trains)
    parser = HfArgumentParser(classes, allow_abbrev=False, add_help=False)  # type: ignore[arg-type]
    if SourceArguments in classes:
        parser.add_argument("--eval_share", "--eval-share", type=float)

    parser.error = fail  # type: ignore[method-assign]
    for action in parser._actions:
        action.default = argparse.SUPPRESS
        action.option_strings = action.option_strings[:1]  # --dry-run is taken too, but not named
    given, unknown = parser.parse_known_args([*from_files, *rest])  # the last one wins
    if unknown:
        flag = unknown[0].partition("=")[0]
        fail(f"unrecognized arguments: {' '.join(unknown)}{nearest(flag, parser._option_string_actions)}")
    return vars(given)


def read_config(path: str) -> list[str]:
    """A YAML file as command line arguments, so that both are checked alike."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).expanduser().read_bytes()) or {}
    except (yaml.YAMLError, UnicodeError) as error:
        raise ValueError(f"The configuration {path!r} is no YAML: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"The configuration {path!r} must hold lines of the form name: value.")
    arguments = []
    for name, value in values.items():
        if isinstance(value, list):
            arguments += [f"--{name}", *map(str, value)]
        elif value is not None:
            arguments.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return arguments
