"""Cui et al.: Class-Balanced Loss Based on Effective Number of Samples (CVPR 2019). https://arxiv.org/abs/1901.05555"""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ..utils import check_number
from .checks import (
    as_targets,
    at_least_float32,
    check_class_counts,
    check_labels,
    check_per_class,
    check_tensor,
    reduced,
)


def class_balanced_weights(class_counts: Sequence[int] | Tensor, *, beta: float = 0.9999) -> Tensor:
    """
    The inverse effective number of examples of each class, `(1 - beta) / (1 - beta ** n)`, scaled to sum to the number
    of classes.

    Args:
        class_counts (`Sequence[int]` or `torch.Tensor` of shape `[classes]`): Training examples per class.
        beta (`float`, *optional*, defaults to 0.9999): 0 gives equal weights, towards 1 the inverse frequency.

    Returns:
        `torch.Tensor` of shape `[classes]`, float64.

    Raises:
        `ValueError`: if a count is below 1 or `beta` is outside 0 (included) to 1 (excluded).
    """
    check_number("beta", beta, 0, below=1)
    counts = check_class_counts(class_counts)
    if beta == 0:
        return counts.new_ones(len(counts))
    weights = (1 - beta) / -(counts * math.log(beta)).expm1()  # 1 - beta ** n without cancellation
    return weights * len(counts) / weights.sum()


def class_balanced_loss(logits: Tensor, labels: Tensor, class_weights: Tensor, *, reduction: str = "mean") -> Tensor:
    """
    Cross-entropy weighted by the weight of each example's class, averaged over the batch.

    The mean is over the examples, not over their weights: a batch full of head classes counts little, as it should,
    and splitting a batch does not change the sum.

    Args:
        logits (`torch.Tensor` of shape `[batch, classes]`): fp16 and bf16 are computed in float32.
        labels (`torch.Tensor` of shape `[batch]`, int64):
            The class of each example; or soft labels `[batch, classes]`, probabilities in floating point.
        class_weights (`torch.Tensor` of shape `[classes]`): [`class_balanced_weights`].
        reduction (`str`, *optional*, defaults to `"mean"`): `"none"` gives the loss of each example.

    Returns:
        `torch.Tensor`: a scalar, or `[batch]`.

    Raises:
        `ValueError`: if there is not one weight per class.
    """
    check_tensor("Logits", logits, "[batch, classes]")
    check_labels(labels, logits)
    logits = at_least_float32(logits)
    weights = check_per_class("class_weights", class_weights, logits)
    if labels.is_floating_point():  # each class counts by its weight and its probability
        return reduced(-(weights * as_targets(labels, logits) * logits.log_softmax(1)).sum(1), reduction)
    return reduced(weights[labels] * F.cross_entropy(logits, labels, reduction="none"), reduction)
