"""Long-tailed knowledge distillation for the Hugging Face stack."""

from .data import ImageDataset, LongTailRecipe, class_counts, long_tailed_counts, make_long_tailed
from .groups import ClassGroups
from .losses import (
    CrossEntropyLoss,
    DistillationLoss,
    KDLoss,
    KLDecomposition,
    LTKDLoss,
    kd_loss,
    kl_decomposition,
    ltkd_loss,
)
from .metrics import group_accuracy
from .models import create_model
from .trainer import DistillationTrainer
from .training_args import DistillationTrainingArguments


__version__ = "0.1.0"

__all__ = [
    "ClassGroups",
    "CrossEntropyLoss",
    "DistillationLoss",
    "DistillationTrainer",
    "DistillationTrainingArguments",
    "ImageDataset",
    "KDLoss",
    "KLDecomposition",
    "LTKDLoss",
    "LongTailRecipe",
    "class_counts",
    "create_model",
    "group_accuracy",
    "kd_loss",
    "kl_decomposition",
    "long_tailed_counts",
    "ltkd_loss",
    "make_long_tailed",
]
