"""Menon et al.: Long-tail Learning via Logit Adjustment (ICLR 2021). https://arxiv.org/abs/2007.07314"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .checks import (
    IGNORED_LABEL,
    as_targets,
    at_least_float32,
    check_class_counts,
    check_labels,
    check_not_negative,
    check_per_class,
    check_tensor,
)


def log_class_prior(class_counts: Sequence[int] | Tensor) -> Tensor:
    """
    The logarithm of each class's share of the training examples, `log(n / sum(n))`.

    Args:
        class_counts (`Sequence[int]` or `torch.Tensor` of shape `[classes]`): Training examples per class.

    Returns:
        `torch.Tensor` of shape `[classes]`, float64.

    Raises:
        `ValueError`: if a count is below 1.
    """
    return check_class_counts(class_counts).log().log_softmax(0)


def logit_adjusted_loss(
    logits: Tensor, labels: Tensor, class_counts: Sequence[int] | Tensor, *, tau: float = 1.0, reduction: str = "mean"
) -> Tensor:
    """
    Cross-entropy of `softmax(z + tau · log prior)` (Eq. 10). With `tau=1` this is the balanced softmax.

    Args:
        logits (`torch.Tensor` of shape `[batch, classes]`): fp16 and bf16 are computed in float32.
        labels (`torch.Tensor` of shape `[batch]`, int64):
            The class of each example; or soft labels `[batch, classes]`, probabilities in floating point.
        class_counts (`Sequence[int]` or `torch.Tensor` of shape `[classes]`): Training examples per class.
        tau (`float`, *optional*, defaults to 1.0): How strongly the prior counts; 0 is the plain cross-entropy.
        reduction (`str`, *optional*, defaults to `"mean"`): `"none"` gives the loss of each example.

    Returns:
        `torch.Tensor`: a scalar, or `[batch]`.

    Raises:
        `ValueError`: if there is not one count per class, each 1 or more, or if `tau` is negative.
    """
    check_not_negative(tau=tau)
    check_tensor("Logits", logits, "[batch, classes]")
    check_labels(labels, logits, IGNORED_LABEL)
    logits = at_least_float32(logits)
    log_prior = check_per_class("class_counts", log_class_prior(class_counts), logits)
    return F.cross_entropy(logits + tau * log_prior, as_targets(labels, logits), reduction=reduction)  # Eq. 10
