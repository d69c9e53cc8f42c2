"""`hf-ltkd`: reads the command line, and says in one sentence what is wrong with it."""

import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .. import __version__
from .arguments import COMMANDS, parse


HELP = """\
usage: hf-ltkd COMMAND ...

From a biased teacher and a long-tailed folder of images to a small student.

  distill         plan, distil, compare, write the model card
  train-teacher   train a classifier by cross-entropy
  diagnose        whom a teacher favours: head, medium or tail
  check           what is used, damaged, skipped, or twice of images and masks
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
    """The console script; 0 if all went well, 2 after an error, 128 and the signal's number after an interruption."""
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
    settings: dict[str, Any] = {}
    try:
        with sigterm_interrupts():
            if name not in COMMANDS:
                raise ValueError(f"there is no command {name!r}: use {', '.join(COMMANDS)} (hf-ltkd --help).")
            settings = parse(name, rest)
            from .commands import run  # here: it imports torch, which the help does without

            run(name, settings)
    except KeyboardInterrupt as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"\nhf-ltkd: interrupted{how_to_go_on(name, settings)}", file=sys.stderr)
        return 128 + int(error.args[0] if error.args else signal.SIGINT)
    except Exception as error:
        text = str(error)
        if show_traceback:
            text = traceback.format_exc()
        elif not isinstance(error, ValueError | OSError | FloatingPointError):  # of another package, or a fault here
            text = f"{type(error).__name__}: {text or 'no message'} (--traceback shows where it comes from)"
        text = without_credentials(text)
        print(text if show_traceback else f"hf-ltkd: {' '.join(text.split())}", file=sys.stderr)
        return 2
    return 0


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """
    SIGTERM ends a command as Ctrl-C does. Not among ranks: one that waits for another in a collective would not hear
    of it.
    """
    if "RANK" in os.environ or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def how_to_go_on(command: str, settings: dict[str, Any]) -> str:
    """What to do after an interruption, for the commands that train."""
    if not settings or not COMMANDS[command].trains:  # the first: nothing has begun
        return "."
    folder = str(settings.get("output_dir") or ("teacher" if command == "train-teacher" else "student"))
    if not any(name.startswith("checkpoint-") for name in (os.listdir(folder) if os.path.isdir(folder) else ())):
        return f"; there is no checkpoint in {folder!r} yet: start again."
    return f"; to go on from the last checkpoint in {folder!r}, add --resume_from_checkpoint true to the same command."


def without_credentials(text: str) -> str:
    """Names and passwords in addresses (HF_ENDPOINT, HTTPS_PROXY) and tokens of the Hub are nobody's to read."""
    return re.sub(r"(?<=://)[^/@\s]+(?=@)|\bhf_[A-Za-z0-9]{20,}", "***", text)
