"""Long-tailed knowledge distillation for the Hugging Face stack."""

from .data import (
    ImageDataset,
    LazyImageDataset,
    LongTailRecipe,
    cifar100_lt,
    class_counts,
    imagenet_lt,
    long_tailed_counts,
    make_long_tailed,
    read_image_list,
    tiny_imagenet_lt,
)
from .groups import ClassGroups
from .losses import (
    BKDLoss,
    CATKDLoss,
    CrossEntropyLoss,
    DistillationLoss,
    DISTLoss,
    DKDLoss,
    KDLoss,
    KLDecomposition,
    LTKDLoss,
    ReviewKDLoss,
    balanced_softmax_loss,
    bkd_loss,
    class_attention_loss,
    class_balanced_loss,
    class_balanced_weights,
    create_loss,
    dist_loss,
    dkd_loss,
    hierarchical_context_loss,
    kd_loss,
    kl_decomposition,
    log_class_prior,
    logit_adjusted_loss,
    ltkd_loss,
)
from .metrics import group_accuracy
from .models import create_model
from .teacher_cache import CachedTeacherDataset, TeacherCache
from .trainer import DistillationTrainer
from .training_args import DistillationTrainingArguments


__version__ = "0.1.0"

__all__ = [
    "BKDLoss",
    "CATKDLoss",
    "CachedTeacherDataset",
    "ClassGroups",
    "CrossEntropyLoss",
    "DISTLoss",
    "DKDLoss",
    "DistillationLoss",
    "DistillationTrainer",
    "DistillationTrainingArguments",
    "ImageDataset",
    "KDLoss",
    "KLDecomposition",
    "LTKDLoss",
    "LazyImageDataset",
    "LongTailRecipe",
    "ReviewKDLoss",
    "TeacherCache",
    "balanced_softmax_loss",
    "bkd_loss",
    "cifar100_lt",
    "class_attention_loss",
    "class_balanced_loss",
    "class_balanced_weights",
    "class_counts",
    "create_loss",
    "create_model",
    "dist_loss",
    "dkd_loss",
    "group_accuracy",
    "hierarchical_context_loss",
    "imagenet_lt",
    "kd_loss",
    "kl_decomposition",
    "log_class_prior",
    "logit_adjusted_loss",
    "long_tailed_counts",
    "ltkd_loss",
    "make_long_tailed",
    "read_image_list",
    "tiny_imagenet_lt",
]
