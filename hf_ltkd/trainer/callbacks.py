"""What [`DistillationTrainer`] does between the steps."""

import math
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from .checkpoints import load_loss, seal
from .training_args import DistillationTrainingArguments


class SetEpochCallback(TrainerCallback):
    """Tells the training dataset its epoch, which Accelerate does only for some samplers and never across ranks."""

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        if hasattr(getattr(train_dataloader, "dataset", None), "set_epoch"):
            train_dataloader.dataset.set_epoch(math.floor(state.epoch + 1e-6))


class CheckpointCallback(TrainerCallback):
    """Tells the loss its epoch, gives it back what a checkpoint holds of it, and seals checkpoints that are whole."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.forget_terms()  # of an earlier training, or of batches that did not fit (auto_find_batch_size)
        if self.trainer.resumed_from is not None:
            load_loss(self.trainer.resumed_from, self.trainer.distillation_loss)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.distillation_loss.begin_epoch(state.epoch)
        if self.trainer.teacher_stream is not None:  # the next step's statistics are taken there
            self.trainer.teacher_stream.wait_stream(torch.cuda.current_stream())

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
