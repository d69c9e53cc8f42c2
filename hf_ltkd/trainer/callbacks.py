"""What [`DistillationTrainer`] does between the steps."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from ..hub.names import RUN_NAME
from ..teacher.ema import EMATeacher
from ..utils import read_json
from .checkpoints import load_loss, load_mean, seal
from .training_args import DistillationTrainingArguments


@dataclass
class Clock:
    """Seconds of a training that may be resumed; what was trained after the checkpoint and is lost does not count."""

    before: float = 0.0
    begun: float | None = None

    def start(self, resumed_from: str | None) -> None:
        """Begins a part; an earlier one has left its seconds in the checkpoint."""
        run = read_json(Path(resumed_from) / RUN_NAME) if resumed_from else {}
        self.before, self.begun = run.get("training", {}).get("seconds") or 0.0, time.monotonic()

    def stop(self) -> None:
        self.before, self.begun = self.seconds or 0.0, None

    @property
    def seconds(self) -> float | None:
        """`None` before the training."""
        return (self.before + (time.monotonic() - self.begun if self.begun is not None else 0.0)) or None


class SetEpochCallback(TrainerCallback):
    """Tells the training dataset its epoch, which Accelerate does only for some samplers and never across ranks."""

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        if hasattr(getattr(train_dataloader, "dataset", None), "set_epoch"):
            train_dataloader.dataset.set_epoch(math.floor(state.epoch + 1e-6))


class CheckpointCallback(TrainerCallback):
    """
    Tells the loss its epoch, and the student's mean of each step; gives both back what a checkpoint holds of them, and
    seals checkpoints that are whole.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.clock.start(self.trainer.resumed_from)
        if self.trainer.model_init is not None:
            self.trainer.make_calls()
        self.trainer.forget_terms()  # of an earlier training, or of batches that did not fit (auto_find_batch_size)
        if self.trainer.resumed_from is not None:
            load_loss(self.trainer.resumed_from, self.trainer.distillation_loss)
            load_mean(self.trainer.resumed_from, self.trainer.teacher_model)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.distillation_loss.begin_epoch(state.epoch)
        if self.trainer.teacher_stream is not None:  # the next step's statistics are taken there
            self.trainer.teacher_stream.wait_stream(torch.cuda.current_stream())

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if isinstance(self.trainer.teacher_model, EMATeacher):
            self.trainer.teacher_model.update_parameters(model)

    def on_train_end(self, args, state, control, **kwargs):
        self.trainer.clock.stop()

    def on_save(self, args, state, control, **kwargs):
        folder, self.trainer.unsealed = self.trainer.unsealed, None
        self.trainer.accelerator.wait_for_everyone()  # each rank has written its random state
        if args.should_save and folder is not None:
            seal(folder)


def callbacks_of(trainer: Any, args: TrainingArguments | None) -> list[TrainerCallback]:
    """Those that every [`DistillationTrainer`] has, and early stopping where it is asked for."""
    callbacks = [SetEpochCallback(), CheckpointCallback(trainer)]
    if isinstance(args, DistillationTrainingArguments) and args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience, args.early_stopping_threshold))
    return callbacks
