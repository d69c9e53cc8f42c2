"""What distillation adds to checkpoints, and whether one can be resumed from: complete, and of the same run."""

import hashlib
import json
import logging
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.views import SeededViews
from ..groups import ClassGroups
from ..hub.names import ARGUMENTS_NAME
from ..losses.base import DistillationLoss
from ..teacher.cache import CachedTeacherDataset, TeacherCache
from ..teacher.live import teacher_fingerprint
from ..utils import file_crc32, is_damaged, read_json, replacing, write_json
from .checks import check_finite, labels_at_hand


logger = logging.getLogger(__name__)

MANIFEST_NAME = "distillation_state.json"
LOSS_NAME = "distillation_loss.safetensors"  # in checkpoints, never beside the published student
OPTIMIZER_NAMES = ("optimizer.pt", "optimizer.bin", "optimizer_0", "latest")  # the last three are FSDP's, DeepSpeed's
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


def describe_data(dataset: Any) -> dict[str, Any]:
    """
    What tells a training set from another, as JSON values: number and labels of its examples where they are at hand,
    and of images how they are transformed and the mean of some. It is the same wherever the files lie.
    """
    description: dict[str, Any] = {"kind": type(dataset).__name__}
    if isinstance(dataset, CachedTeacherDataset):
        description["views"] = dataset.cache.views
        dataset = dataset.dataset
    if hasattr(dataset, "__len__"):
        description["examples"] = len(dataset)
    labels = labels_at_hand(dataset)
    if labels is not None:
        description["labels"] = hashlib.sha256(labels.astype(np.int64).tobytes()).hexdigest()[:16]
    if isinstance(dataset, SeededViews) and len(dataset):
        description["transform"] = dataset.augmentation
        view = dataset.view
        dataset.set_epoch(0)
        some = np.linspace(0, len(dataset) - 1, num=min(16, len(dataset))).round().astype(int).tolist()
        items = dataset.__getitems__(some)
        for name, means in (("pixel_values", "means"), ("teacher_pixel_values", "teacher_means")):
            if name in items[0]:
                description[means] = [item[name].mean().item() for item in items]
        dataset.set_epoch(view)
    return description


def describe_loss(loss: DistillationLoss) -> dict[str, Any]:
    """What tells a loss from another, as JSON values: hyper-parameters, and a digest of groups and class counts."""
    digest = hashlib.sha256()
    for name, value in (item for module in loss.modules() for item in sorted(vars(module).items())):
        for part in [*value.args, *value.keywords.values()] if isinstance(value, partial) else [value]:
            if isinstance(part, ClassGroups):
                digest.update(f"{name} {part.to_dict()}".encode())
            elif isinstance(part, Tensor):
                digest.update(f"{name} {part.tolist()}".encode())
    return {"class": type(loss).__name__, **loss.hyper_parameters(), "groups and counts": digest.hexdigest()[:16]}


# What may be changed between two parts of a run, but hardly without meaning to.
TRAINING_ARGUMENTS = (
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "lr_milestones", "lr_decay", "warmup_steps"),
    *("num_train_epochs", "max_steps", "optim", "optim_args", "weight_decay", "weight_decay_on_all", "adam_beta1"),
    *("adam_beta2", "adam_epsilon", "max_grad_norm", "bf16", "fp16", "dataloader_drop_last", "neftune_noise_alpha"),
    *("train_sampling_strategy", "full_determinism", "mixup_alpha", "cutmix_alpha"),
)


def check_checkpoint(checkpoint: str | os.PathLike, run: dict[str, Any]) -> None:
    """
    Looks whether a run may go on from a checkpoint. Another number of ranks, or other training arguments, are warned
    of.

    Raises:
        `ValueError`: if the checkpoint is not a folder or not complete, or was made with another teacher, loss,
            training set, seed or number of examples per optimizer step.
    """
    problem = incomplete(checkpoint)
    if problem is not None:
        raise ValueError(
            f"Cannot resume from {str(checkpoint)!r}: {problem}. Resume from an earlier checkpoint, or start anew."
        )
    saved = read_json(Path(checkpoint) / MANIFEST_NAME)  # that of the plain Trainer has none
    for name, value in run.items():
        if name in saved and not _same(saved[name], value):
            if name == "world_size":
                logger.warning(
                    "Resuming on %d ranks what was trained on %d: a step has as many examples as before, but they are "
                    "drawn and normalised in other portions, so the result is not bit for bit that of an "
                    "uninterrupted run.",
                    value,
                    saved[name],
                )
            elif name == "arguments":
                logger.warning(
                    "Resuming with other arguments than the checkpoint's: %s. What the optimizer and its schedule "
                    "remember (learning rate, weight decay) stays the checkpoint's.",
                    _differences(saved[name], value),
                )
            else:
                raise ValueError(f"Cannot resume from {str(checkpoint)!r}: {_refusal(name, saved, run)}")


def _same(saved: Any, value: Any) -> bool:
    return not _differing(saved, value) if isinstance(value, dict) else saved == value


def _differing(saved: dict[str, Any], value: dict[str, Any]) -> list[str]:
    """The names that both have, with other values."""
    names = [name for name in value if name in saved and saved[name] != value[name]]
    for means in ("means", "teacher_means"):
        if means in names and np.allclose(saved[means], value[means], rtol=0, atol=0.01):  # by another decoder
            names.remove(means)
    return names


def _differences(saved: dict[str, Any], value: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value[name]} (was {saved[name]})" for name in _differing(saved, value))


def _refusal(name: str, saved: dict[str, Any], run: dict[str, Any]) -> str:
    if name == "teacher":
        return (
            f"its teacher had other weights (fingerprint {saved[name]}, now {run[name]}). Resume with the teacher "
            "that it was trained with, or start anew."
        )
    if name == "examples_per_step":
        return (
            f"an optimizer step had {saved[name]} examples on {saved['world_size']} ranks, now {run[name]} on "
            f"{run['world_size']}. Choose per_device_train_batch_size and gradient_accumulation_steps so that the "
            "product is the same."
        )
    what = {"loss": "its loss", "data": "its training set", "seed": "its seed"}[name]
    return (
        f"{what} was another one: {_differences(saved[name], run[name])}. Resume with what it was trained with, or "
        "start anew (from the checkpoint's weights: from_pretrained)."
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
    for name in (TRAINER_STATE_NAME, MANIFEST_NAME):
        try:
            manifest = read_json(folder / name)
        except ValueError:
            return f"its {name} is cut short or damaged"
    sizes, crc32 = manifest.get("files", {}), manifest.get("crc32", {})
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            return f"its {name} is missing"
        if path.stat().st_size != size:
            return f"its {name} has {path.stat().st_size} instead of {size} bytes"
        if name in crc32 and file_crc32(path) != crc32[name]:
            return f"its {name} is damaged: its CRC-32 is not that which was written"
    if not any((folder / name).exists() for name in OPTIMIZER_NAMES):
        return "it has no state of the optimizer, which save_only_model=True leaves out"
    is_ours = (folder / ARGUMENTS_NAME).is_file()  # the plain Trainer's have no manifest
    if is_ours and "examples_per_step" not in manifest:
        return f"its {MANIFEST_NAME} is missing or damaged"
    if not sizes:  # of the plain Trainer, or of a run that was killed before it sealed the checkpoint
        patterns = {
            "model.safetensors": "*.safetensors",
            "rng_state.pth": "rng_state*.pth",
            "scheduler.pt": "scheduler.pt",
        }
        for name, pattern in patterns.items():
            if (folder / "optimizer.pt").is_file() and not any(folder.glob(pattern)):
                return f"its {name} is missing"
        return next((f"its {path.name} is damaged" for path in sorted(folder.iterdir()) if is_damaged(path)), None)
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


class CheckpointMixin(Trainer):
    """The part of [`DistillationTrainer`] that adds to checkpoints, and looks at those that it resumes from."""

    distillation_loss: DistillationLoss
    teacher_model: nn.Module | None
    teacher_cache: TeacherCache | None
    resumed_from: str | None = None
    unsealed: Path | None = None  # a checkpoint that is being written

    @property
    def examples_per_step(self) -> int:
        """Those of one optimizer step, on all ranks."""
        args, found = self.args, self.state.train_batch_size if self.args.auto_find_batch_size else None
        ranks = 1 if self.accelerator.split_batches else args.world_size  # they share each batch, or have one each
        return (found or args.train_batch_size) * args.gradient_accumulation_steps * ranks

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """As `Trainer.train`; `True` resumes from the last checkpoint that is complete."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)  # type: ignore[arg-type]
        self.resumed_from, self.unsealed = resume_from_checkpoint or None, None
        if self.resumed_from is not None or self.args.save_strategy != "no":
            self._run = self._describe_run()  # before workers read the training set
        if self.resumed_from is not None:
            check_checkpoint(self.resumed_from, self._run)
            check_loss_state(self.resumed_from, self.distillation_loss)
        elif self.args.resume_from_checkpoint:
            logger.warning(
                "resume_from_checkpoint=%s of the arguments is for scripts; train() starts anew: give it to train().",
                self.args.resume_from_checkpoint,
            )
        try:
            return super().train(self.resumed_from, *args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:
            if self.unsealed is None:
                raise
            folder = self.args.output_dir or "."
            raise OSError(
                f"The checkpoint of step {self.state.global_step} could not be written to {folder!r} ({error}; "
                f"{shutil.disk_usage(folder).free / 1e9:.1f} GB are free). Earlier checkpoints are untouched: make "
                "room (save_total_limit keeps fewer of them) and train with resume_from_checkpoint=True."
            ) from error

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        is_checkpoint = _internal_call and output_dir is not None
        for network in (self.model, self.distillation_loss):
            check_finite(network, f"saved to {str(output_dir or self.args.output_dir)!r}")  # type: ignore[arg-type]
        if is_checkpoint:
            self.unsealed = Path(output_dir)  # type: ignore[arg-type]
        super().save_model(output_dir, _internal_call)
        if is_checkpoint and self.args.should_save and not self.args.save_only_model:
            save_loss(output_dir, self.distillation_loss)  # type: ignore[arg-type]
            run = {**self._run, "examples_per_step": self.examples_per_step}
            write_json(Path(output_dir) / MANIFEST_NAME, run)  # type: ignore[arg-type]

    def _describe_run(self) -> dict[str, Any]:
        """What a checkpoint must have in common with the run that resumes from it, as JSON values."""
        args, teacher, found = self.args, None, None
        if self.teacher_model is not None:
            teacher = teacher_fingerprint(self.teacher_model)
        elif self.teacher_cache is not None:
            teacher = self.teacher_cache.manifest["teacher"]
        if self.resumed_from is not None and args.auto_find_batch_size:  # the Trainer goes on with what was found
            found = read_json(Path(self.resumed_from) / TRAINER_STATE_NAME).get("train_batch_size")
        arguments = {name: str(value) for name, value in args.to_dict().items() if name in TRAINING_ARGUMENTS}
        run = {
            "teacher": teacher,
            "loss": {**describe_loss(self.distillation_loss), "label_smoothing": args.label_smoothing_factor},
            "data": describe_data(self.train_dataset),
            "seed": {"seed": args.seed, "data_seed": args.data_seed},
            "examples_per_step": self.examples_per_step // args.train_batch_size * (found or args.train_batch_size),
            "world_size": args.world_size,
            "arguments": arguments,
        }
        return json.loads(json.dumps(run, default=str))
