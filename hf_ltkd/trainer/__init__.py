"""The Trainer whose loss distils, its arguments, its checkpoints, and what it writes beside a student."""

from .callbacks import SetEpochCallback
from .trainer import DistillationTrainer
from .training_args import DistillationTrainingArguments


__all__ = ["DistillationTrainer", "DistillationTrainingArguments", "SetEpochCallback"]
