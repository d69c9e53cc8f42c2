"""`hf-ltkd`: reads the command line, and says in one sentence what is wrong with it."""

import os
import sys

from .. import __version__
from .arguments import COMMANDS, parse


HELP = """\
usage: hf-ltkd COMMAND ...

From a biased teacher and a long-tailed folder of images to a small student.

  distill         plan, distil, compare, write the model card
  train-teacher   train a classifier by cross-entropy
  diagnose        whom a teacher favours: head, medium or tail
  check           which image files are used, damaged, skipped, or there twice
  evaluate        accuracy of a saved model for head, medium and tail
  adjust          take the class prior out of a trained model's logits
  push            send a student's folder to the Hub
  export          write a student as ONNX, check and measure it

example (leave out --dry_run to do it):
  hf-ltkd distill --teacher me/big-vit --student microsoft/resnet-18 \\
      --data ./photos --dry_run

--data takes a folder (of classes, or images and metadata.csv, also in train/
and test/; or parquet), a benchmark (cifar100_lt, tiny_imagenet_lt, imagenet_lt)
or a dataset of the Hub. --config settings.yaml reads arguments from a file;
those on the command line win. hf-ltkd COMMAND --help shows the arguments of a
command, --help_all really all. --traceback, or HF_LTKD_TRACEBACK=1, shows where
an error comes from."""


def main(argv: list[str] | None = None) -> int:
    """The console script; 0 if all went well, 2 after an error of the user's."""
    given = sys.argv[1:] if argv is None else argv
    show_traceback = "--traceback" in given or bool(os.environ.get("HF_LTKD_TRACEBACK"))
    argv = [argument for argument in given if argument != "--traceback"]
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP)
        return 0
    if argv[0] == "--version":
        print(f"hf-ltkd {__version__}")
        return 0
    name, *rest = argv
    try:
        if name not in COMMANDS:
            raise ValueError(f"there is no command {name!r}: use {', '.join(COMMANDS)} (hf-ltkd --help).")
        settings = parse(name, rest)
        from .commands import run  # here: it imports torch, which the help does without

        run(name, settings)
    except (ValueError, OSError, FloatingPointError) as error:
        if show_traceback:
            raise
        print(f"hf-ltkd: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0
