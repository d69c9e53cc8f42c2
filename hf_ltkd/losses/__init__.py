from .balanced_softmax import balanced_softmax_loss
from .base import CrossEntropyLoss, DistillationLoss
from .bkd import BKDLoss, bkd_loss
from .catkd import CATKDLoss, class_attention_loss
from .class_balanced import class_balanced_loss, class_balanced_weights
from .dist import DISTLoss, dist_loss
from .dkd import DKDLoss, dkd_loss
from .kd import KDLoss, kd_loss
from .logit_adjustment import log_class_prior, logit_adjusted_loss
from .ltkd import KLDecomposition, LTKDLoss, kl_decomposition, ltkd_loss
from .reviewkd import ReviewKDLoss, hierarchical_context_loss


__all__ = [
    "BKDLoss",
    "CATKDLoss",
    "CrossEntropyLoss",
    "DISTLoss",
    "DKDLoss",
    "DistillationLoss",
    "KDLoss",
    "KLDecomposition",
    "LTKDLoss",
    "ReviewKDLoss",
    "balanced_softmax_loss",
    "bkd_loss",
    "class_attention_loss",
    "class_balanced_loss",
    "class_balanced_weights",
    "dist_loss",
    "dkd_loss",
    "hierarchical_context_loss",
    "kd_loss",
    "kl_decomposition",
    "log_class_prior",
    "logit_adjusted_loss",
    "ltkd_loss",
]
