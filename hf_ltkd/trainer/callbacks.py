"""What [`DistillationTrainer`] does between the steps."""

import math

from transformers import TrainerCallback


class SetEpochCallback(TrainerCallback):
    """Tells the training dataset its epoch, which Accelerate does only for some samplers and never across ranks."""

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        if hasattr(getattr(train_dataloader, "dataset", None), "set_epoch"):
            train_dataloader.dataset.set_epoch(math.floor(state.epoch + 1e-6))
