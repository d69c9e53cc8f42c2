"""What distillation adds to checkpoints, and whether one can be resumed from: complete, same teacher, same steps."""

import logging
import os
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..losses.base import DistillationLoss
from ..utils import file_crc32, read_json, replacing, write_json


logger = logging.getLogger(__name__)

MANIFEST_NAME = "distillation_state.json"
LOSS_NAME = "distillation_loss.safetensors"  # in checkpoints, never beside the published student
TRAINER_STATE_NAME = "trainer_state.json"  # the Trainer writes it last


def save_loss(checkpoint: str | os.PathLike, distillation_loss: DistillationLoss) -> None:
    """Writes what a loss trains or remembers into a checkpoint, atomically; nothing if that is nothing."""
    state = {name: tensor.contiguous() for name, tensor in distillation_loss.state_dict().items()}
    if state:
        with replacing(Path(checkpoint) / LOSS_NAME) as file:
            save_file(state, file)


def check_loss_state(checkpoint: str | os.PathLike, distillation_loss: DistillationLoss) -> None:
    """
    Raises:
        `ValueError`: if the checkpoint was made with a loss that trains and remembers nothing, or something else.
    """
    path = Path(checkpoint) / LOSS_NAME
    state = load_file(path) if path.is_file() else {}
    expected = distillation_loss.state_dict()
    if expected and {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in expected.items()}:
        raise ValueError(
            f"{str(checkpoint)!r} has no {LOSS_NAME} that fits {type(distillation_loss).__name__}, which trains or "
            "remembers something beside the student: resume from a checkpoint of the same loss, or start anew."
        )


def load_loss(checkpoint: str | os.PathLike, distillation_loss: DistillationLoss) -> None:
    """Reads back what [`save_loss`] wrote."""
    if distillation_loss.state_dict():
        distillation_loss.load_state_dict(load_file(Path(checkpoint) / LOSS_NAME))


def write_manifest(checkpoint: str | os.PathLike, run: dict[str, Any]) -> None:
    """
    Writes `distillation_state.json` into a checkpoint: what the run is made of.

    Args:
        checkpoint (`str` or `os.PathLike`): The folder.
        run (`dict`): JSON values that [`check_checkpoint`] compares: `teacher`, `examples_per_step`, `world_size`.
    """
    write_json(Path(checkpoint) / MANIFEST_NAME, run)


def seal(checkpoint: str | os.PathLike) -> None:
    """Adds size and CRC-32 of each file to the manifest of a checkpoint that is whole, if it has one."""
    folder = Path(checkpoint)
    run = read_json(folder / MANIFEST_NAME)
    if run:
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST_NAME)
        names = [path.relative_to(folder).as_posix() for path in files]
        sizes = dict(zip(names, [path.stat().st_size for path in files], strict=True))
        crc32 = dict(zip(names, map(file_crc32, files), strict=True))
        write_json(folder / MANIFEST_NAME, {**run, "files": sizes, "crc32": crc32})


def check_checkpoint(checkpoint: str | os.PathLike, run: dict[str, Any]) -> None:
    """
    Raises:
        `ValueError`: if the checkpoint is not a folder or not complete, or was made with another teacher or another
            number of examples per optimizer step.
    """
    problem = incomplete(checkpoint)
    if problem is not None:
        raise ValueError(
            f"Cannot resume from {str(checkpoint)!r}: {problem}. Resume from an earlier checkpoint, or start anew."
        )
    saved = read_json(Path(checkpoint) / MANIFEST_NAME)
    if not saved:
        return  # a checkpoint of the plain Trainer
    if saved["teacher"] != run["teacher"]:
        raise ValueError(
            f"Cannot resume from {str(checkpoint)!r}: its teacher had other weights (fingerprint {saved['teacher']}, "
            f"now {run['teacher']}). Resume with the teacher that it was trained with, or start anew."
        )
    if saved["examples_per_step"] != run["examples_per_step"]:
        raise ValueError(
            f"Cannot resume from {str(checkpoint)!r}: an optimizer step had {saved['examples_per_step']} examples on "
            f"{saved['world_size']} ranks, now {run['examples_per_step']} on {run['world_size']}. Choose "
            "per_device_train_batch_size and gradient_accumulation_steps so that the product is the same."
        )
    if saved["world_size"] != run["world_size"]:
        logger.warning(
            "Resuming on %d ranks what was trained on %d: a step has as many examples as before, but they are drawn "
            "and normalised in other portions, so the result is not bit for bit that of an uninterrupted run.",
            run["world_size"],
            saved["world_size"],
        )


def incomplete(checkpoint: str | os.PathLike) -> str | None:
    """
    What is missing from a checkpoint or damaged, for instance because the run was killed while it was written, or
    `None`. Reads every file, about a second per GB.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        return "there is no such folder"
    if not (folder / TRAINER_STATE_NAME).is_file():
        return f"it has no {TRAINER_STATE_NAME}, which is written last, so it is not complete"
    for name in (TRAINER_STATE_NAME, MANIFEST_NAME):  # the plain Trainer's have no manifest
        try:
            manifest = read_json(folder / name)
        except ValueError:
            return f"its {name} is cut short"
    for name, size in manifest.get("files", {}).items():
        path = folder / name
        if not path.is_file():
            return f"its {name} is missing"
        if path.stat().st_size != size:
            return f"its {name} has {path.stat().st_size} instead of {size} bytes"
        if file_crc32(path) != manifest.get("crc32", {}).get(name, file_crc32(path)):
            return f"its {name} is damaged: its CRC-32 is not that which was written"
    return None


def last_complete_checkpoint(output_dir: str | os.PathLike) -> str:
    """
    The newest complete `checkpoint-<step>` of a run; newer ones that are not complete are named in a warning.

    Raises:
        `ValueError`: if there is none.
    """
    folders = [p for p in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if p.name.rpartition("-")[2].isdecimal()]
    for folder in sorted(folders, key=lambda p: int(p.name.rpartition("-")[2]), reverse=True):
        problem = incomplete(folder)
        if problem is None:
            return str(folder)
        logger.warning("Skipping %s: %s.", folder, problem)
    raise ValueError(
        f"There is no complete checkpoint in {str(output_dir)!r} to resume from: start without resume_from_checkpoint."
    )
