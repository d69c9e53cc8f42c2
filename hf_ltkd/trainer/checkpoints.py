"""What distillation adds to checkpoints, and whether one can be resumed from: complete, same teacher, same steps."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..losses.base import DistillationLoss
from ..utils import replacing, write_json


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


def load_loss(checkpoint: str | os.PathLike, distillation_loss: DistillationLoss) -> None:
    """
    Reads it back.

    Raises:
        `ValueError`: if the checkpoint was made with a loss that trains and remembers nothing, or something else.
    """
    expected = distillation_loss.state_dict()
    if not expected:
        return
    path = Path(checkpoint) / LOSS_NAME
    state = load_file(path) if path.is_file() else {}
    if {name: tensor.shape for name, tensor in state.items()} != {n: tensor.shape for n, tensor in expected.items()}:
        raise ValueError(
            f"{str(checkpoint)!r} has no {LOSS_NAME} that fits {type(distillation_loss).__name__}, which trains or "
            "remembers something beside the student: resume from a checkpoint of the same loss, or start anew."
        )
    distillation_loss.load_state_dict(state)


def write_manifest(checkpoint: str | os.PathLike, run: dict[str, Any]) -> None:
    """
    Writes `distillation_state.json` into a checkpoint: what the run is made of, and the size of each file so far.

    Args:
        checkpoint (`str` or `os.PathLike`): The folder.
        run (`dict`): JSON values that [`check_checkpoint`] compares: `teacher`, `examples_per_step`, `world_size`.
    """
    folder = Path(checkpoint)
    # The other ranks write their random states at their own pace.
    sizes = {p.name: p.stat().st_size for p in sorted(folder.iterdir()) if p.is_file() and "rng_state" not in p.name}
    write_json(folder / MANIFEST_NAME, {**run, "files": sizes})


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
    path = Path(checkpoint) / MANIFEST_NAME
    if not path.is_file():
        return  # a checkpoint of the plain Trainer
    saved = json.loads(path.read_text(encoding="utf-8"))
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
    """What is missing from a checkpoint, for instance because the run was killed while it was written, or `None`."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        return "there is no such folder"
    try:
        json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"it has no {TRAINER_STATE_NAME}, which is written last, so it is not complete"
    except ValueError:
        return f"its {TRAINER_STATE_NAME} is cut short"
    if not (folder / MANIFEST_NAME).is_file():
        return None  # a checkpoint of the plain Trainer
    for name, size in json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))["files"].items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else None
        if found != size:
            return f"its {name} is missing" if found is None else f"its {name} has {found} instead of {size} bytes"
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
