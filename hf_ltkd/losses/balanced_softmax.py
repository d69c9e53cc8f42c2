"""Ren et al.: Balanced Meta-Softmax for Long-Tailed Visual Recognition (NeurIPS 2020). https://arxiv.org/abs/2007.10740"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .checks import (
    IGNORED_LABEL,
    as_targets,
    at_least_float32,
    check_class_counts,
    check_labels,
    check_per_class,
    check_tensor,
)


def balanced_softmax_loss(
    logits: Tensor, labels: Tensor, class_counts: Sequence[int] | Tensor, *, reduction: str = "mean"
) -> Tensor:
    """
    Cross-entropy of `softmax(z + log n)` (Theorem 1): trained on unbalanced data, `softmax(z)` suits balanced data.

    Args:
        logits (`torch.Tensor` of shape `[batch, classes]`): fp16 and bf16 are computed in float32.
        labels (`torch.Tensor` of shape `[batch]`, int64):
            The class of each example; or soft labels `[batch, classes]`, probabilities in floating point.
        class_counts (`Sequence[int]` or `torch.Tensor` of shape `[classes]`): `n`, training examples per class.
        reduction (`str`, *optional*, defaults to `"mean"`): `"none"` gives the loss of each example.

    Returns:
        `torch.Tensor`: a scalar, or `[batch]`.

    Raises:
        `ValueError`: if there is not one count per class, each 1 or more.
    """
    check_tensor("Logits", logits, "[batch, classes]")
    check_labels(labels, logits, IGNORED_LABEL)
    logits = at_least_float32(logits)
    log_counts = check_per_class("class_counts", check_class_counts(class_counts).log(), logits)
    return F.cross_entropy(logits + log_counts, as_targets(labels, logits), reduction=reduction)  # Theorem 1
