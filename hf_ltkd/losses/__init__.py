from .base import CrossEntropyLoss, DistillationLoss
from .kd import KDLoss, kd_loss
from .ltkd import KLDecomposition, LTKDLoss, kl_decomposition, ltkd_loss


__all__ = [
    "CrossEntropyLoss",
    "DistillationLoss",
    "KDLoss",
    "KLDecomposition",
    "LTKDLoss",
    "kd_loss",
    "kl_decomposition",
    "ltkd_loss",
]
