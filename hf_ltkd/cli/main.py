"""`hf-ltkd`: argument classes to the functions of `distill.py` and `commands.py`."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser
from transformers.utils.logging import disable_progress_bar

from ..data.arguments import DataArguments
from ..hub.names import BIAS_PICTURE
from ..trainer.training_args import DistillationTrainingArguments
from ..workflow import commands
from ..workflow.distill import DistillArguments, distill
from ..workflow.export import export
from ..workflow.hub_arguments import ExportArguments, PushArguments
from ..workflow.inputs import find_data
from ..workflow.push import push
from .text import describe_export, say


HELP = """\
usage: hf-ltkd COMMAND ...

From a biased teacher and a long-tailed folder of images to a small student.

  distill         look at images and teacher, choose groups and weights, distil,
                  compare, write the model card
  train-teacher   train a classifier by cross-entropy
  diagnose        whom a teacher favours: head, medium or tail
  evaluate        accuracy of a saved model for head, medium and tail
  push            send a student's folder to the Hub
  export          write a student as ONNX, check and measure it

example (leave out --dry_run to do it):
  hf-ltkd distill --teacher me/big-vit --student microsoft/resnet-18 \\
      --data ./photos --dry_run

--data takes a folder (one folder per class, also in train/ and test/; or
parquet files), a benchmark (cifar100_lt, tiny_imagenet_lt, imagenet_lt) or a
dataset of the Hub. --config settings.yaml reads arguments from a file; those on
the command line win. hf-ltkd COMMAND --help shows the arguments of a command,
--help_all really all. --traceback, or HF_LTKD_TRACEBACK=1, shows where an
error comes from."""

# What the help shows of DistillationTrainingArguments, unless all is asked for.
SHOWN = "output_dir preset num_train_epochs max_steps per_device_train_batch_size learning_rate seed bf16".split()
SHOWN += ["dataloader_num_workers", "resume_from_checkpoint"]

OWN_HELP = {
    "output_dir": "Where everything is written (default: student or teacher).",
    "max_steps": "Steps to train for, instead of epochs.",
    "resume_from_checkpoint": "true: go on from the last complete checkpoint in output_dir; or its folder.",
    "image_size": "Side in pixels that images are resized to (default: the teacher's or the model's, else 32).",
    "split_seed": "Which training images are held out, and which the long-tailed split keeps (default: 0).",
    "num_train_epochs": "Epochs (default: recommended by the number of images).",
    "per_device_train_batch_size": "Training batch size per device (default: 64).",
    "learning_rate": "Learning rate (default: recommended for the network).",
}


@dataclass
class SourceArguments:
    data: str | None = field(
        default=None, metadata={"help": "The images: a folder, a benchmark's name, or a dataset of the Hub."}
    )
    eval_fraction: float = field(
        default=0.2,
        metadata={
            "help": "Without a test split, as many images of every class are held out as this part of the smallest "
            "class."
        },
    )


@dataclass
class TrainTeacherArguments:
    model: str = field(
        default="resnet32x4",
        metadata={"help": "A network of the paper (resnet32x4, vgg13, ...), or the Hub id or folder of any other."},
    )


@dataclass
class EvaluateArguments:
    model: str = field(metadata={"help": "Hub id or folder of the model."})
    batch_size: int = field(default=128, metadata={"help": "Images that the model is asked for at once."})


@dataclass
class DiagnoseArguments:
    teacher: str = field(metadata={"help": "Hub id or folder of the teacher."})
    picture: str = field(default=BIAS_PICTURE, metadata={"help": "Where the picture goes."})
    batch_size: int = field(default=128, metadata={"help": "Images that the teacher is asked for at once."})


@dataclass(frozen=True)
class Command:
    """What a command does, its argument classes, and how it is called."""

    help: str
    example: str
    arguments: tuple[type, ...]
    run: Callable[[dict[type, dict[str, Any]]], Any]


def _training(values: dict[type, dict[str, Any]]) -> dict[str, Any]:
    return {"training": values[DistillationTrainingArguments], **_images(values)}


def _images(values: dict[type, dict[str, Any]]) -> dict[str, Any]:
    source = SourceArguments(**values[SourceArguments])
    images = values[DataArguments]
    if source.data is not None:
        images = {**images, **find_data(source.data)}
    elif not {"data_dir", "dataset_name", "benchmark"} & set(images):
        raise ValueError("--data is missing: give a folder of images, a benchmark's name or a dataset of the Hub.")
    return {"images": images, "eval_fraction": source.eval_fraction}


IMAGES = (SourceArguments, DataArguments)
COMMANDS = {
    "distill": Command(
        "Distils a teacher into a student, compares it with the teacher and with a student that had none.",
        "hf-ltkd distill --teacher me/big-vit --student microsoft/resnet-18 --data ./photos --push me/small",
        (DistillArguments, *IMAGES, DistillationTrainingArguments),
        lambda values: distill(DistillArguments(**values[DistillArguments]), **_training(values)),
    ),
    "train-teacher": Command(
        "Trains a classifier by cross-entropy.",
        "hf-ltkd train-teacher --model resnet32x4 --data ./photos --image_size 64 --output_dir teacher",
        (TrainTeacherArguments, *IMAGES, DistillationTrainingArguments),
        lambda values: commands.train_teacher(
            TrainTeacherArguments(**values[TrainTeacherArguments]).model, **_training(values)
        ),
    ),
    "diagnose": Command(
        "Says how much of its probability a teacher gives to head, medium and tail, and draws it.",
        "hf-ltkd diagnose --teacher me/big-vit --data ./photos",
        (DiagnoseArguments, *IMAGES),
        lambda values: commands.diagnose(**values[DiagnoseArguments], **_images(values)),
    ),
    "evaluate": Command(
        "Accuracy of a saved model for head, medium and tail.",
        "hf-ltkd evaluate --model student --data ./photos",
        (EvaluateArguments, *IMAGES),
        lambda values: commands.evaluate(**values[EvaluateArguments], **_images(values)),
    ),
    "push": Command(
        "Sends a student's folder to the Hub, with its model card.",
        "hf-ltkd push --model student --to me/small",
        (PushArguments,),
        lambda values: say("Pushed", push(**values[PushArguments]).commit_url),
    ),
    "export": Command(
        "Exports a student to ONNX, checks its logits, and measures it beside its teacher; needs hf_ltkd[onnx].",
        "hf-ltkd export --model student --teacher teacher --images ./photos",
        (ExportArguments,),
        lambda values: say("ONNX", *describe_export(export(**values[ExportArguments]))),
    ),
}


class Parser(HfArgumentParser):
    """Keeps only what the user gave, so that everything else can be recommended; shows what matters in its help."""

    def __init__(self, name: str, show_all: bool = False):
        command = COMMANDS[name]
        super().__init__(
            command.arguments,  # type: ignore[arg-type]  # dataclasses all
            prog=f"hf-ltkd {name}",
            usage=f"hf-ltkd {name} [--config FILE.yaml] [--NAME VALUE ...]",
            description=command.help,
            epilog=f"example: {command.example}",
            formatter_class=argparse.HelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--config", action="append", default=[], help="YAML file of arguments; flags win over it.")
        self.add_argument("--help_all", action="help", help="Show the arguments of TrainingArguments, too.")
        hidden = {f.name for f in fields(DistillationTrainingArguments)} - set(SHOWN)
        hidden = hidden if DistillationTrainingArguments in command.arguments and not show_all else set()
        own_help = OWN_HELP if len(command.arguments) > 1 else {}
        for action in self._actions:
            text = (action.help or "").replace("%%", "%").replace("%", "%%")  # argparse formats it
            if isinstance(action.default, str | float) and action.default not in ("", argparse.SUPPRESS):
                text += f" (default: {action.default})"
            if action.option_strings[0].startswith("--no_"):
                text = f"Turns --{action.dest} off."
            action.help = argparse.SUPPRESS if action.dest in hidden else own_help.get(action.dest, text)
            action.default = argparse.SUPPRESS
            action.option_strings = action.option_strings[:1]  # --dry-run is taken too, but not shown

    def error(self, message: str):
        raise ValueError(f"{message} ({self.prog} --help lists the arguments).")


def parse(name: str, argv: list[str]) -> dict[type, dict[str, Any]]:
    """
    What the user set, by argument class.

    Raises:
        `ValueError`: if an argument is not known or not valid.
        `FileNotFoundError`: if a configuration file does not exist.
    """
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--config", action="append", default=[])
    known, rest = files.parse_known_args(argv)
    from_files = [item for file in known.config for item in read_config(file)]
    given = vars(Parser(name, "--help_all" in argv).parse_args([*from_files, *rest]))  # the last one wins
    classes = COMMANDS[name].arguments
    return {c: {f.name: given[f.name] for f in fields(c) if f.name in given} for c in classes}


def read_config(path: str) -> list[str]:
    """A YAML file as command line arguments, so that both are checked alike."""
    values = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8")) or {}
    if not isinstance(values, dict):
        raise ValueError(f"The configuration {path!r} must hold lines of the form name: value.")
    arguments = []
    for name, value in values.items():
        if isinstance(value, list):
            arguments += [f"--{name}", *map(str, value)]
        elif value is not None:
            arguments.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """The console script; 0 if all went well, 2 after an error of the user's."""
    given = sys.argv[1:] if argv is None else argv
    show_traceback = "--traceback" in given or bool(os.environ.get("HF_LTKD_TRACEBACK"))
    argv = [argument for argument in given if argument != "--traceback"]
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP)
        return 0
    name, *rest = argv
    try:
        if name not in COMMANDS:
            raise ValueError(f"there is no command {name!r}: use {', '.join(COMMANDS)} (hf-ltkd --help).")
        disable_progress_bar()  # of loading weights; those of decoding and training stay
        logging.getLogger("transformers.utils.import_utils").setLevel(logging.ERROR)  # Torchvision is not needed
        COMMANDS[name].run(parse(name, rest))
    except (ValueError, OSError, FloatingPointError) as error:
        if show_traceback:
            raise
        print(f"hf-ltkd: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0
