"""Cao et al.: Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss (NeurIPS 2019).

https://arxiv.org/abs/1906.07413
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import (
    as_targets,
    at_least_float32,
    check_class_counts,
    check_labels,
    check_not_negative,
    check_per_class,
    check_tensor,
    reduced,
)


def ldam_loss(
    logits: Tensor,
    labels: Tensor,
    class_counts: Sequence[int] | Tensor,
    *,
    max_margin: float = 0.5,
    scale: float = 30.0,
    class_weights: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """
    Cross-entropy of `scale · (z - margin of the label at the label)`, with margins in proportion to `n ** -1/4`
    (Eq. 11, Eq. 13) of which the largest is `max_margin`.

    The authors' head has features and weights of length 1, whose logits lie in -1 to 1: the scale is for such logits.
    With a plain linear head it is 1 (the `ldam_scale` of [`DistillationLoss`]).

    Args:
        logits (`torch.Tensor` of shape `[batch, classes]`): fp16 and bf16 are computed in float32.
        labels (`torch.Tensor` of shape `[batch]`, int64):
            The class of each example; or soft labels `[batch, classes]`, probabilities in floating point, which share
            margin and weight.
        class_counts (`Sequence[int]` or `torch.Tensor` of shape `[classes]`): `n`, training examples per class.
        max_margin (`float`, *optional*, defaults to 0.5): The margin of the rarest class; 0 is none.
        scale (`float`, *optional*, defaults to 30.0): Multiplies the logits, as in the authors' code.
        class_weights (`torch.Tensor` of shape `[classes]`, *optional*):
            Of each example's class, as in [`class_balanced_loss`]: the second part of deferred re-weighting (DRW).
            The authors divide by the sum of the batch's weights (Algorithm 1); `drw_epoch` of [`DistillationLoss`] by
            their mean over the training examples, so that splitting a batch changes nothing.
        reduction (`str`, *optional*, defaults to `"mean"`): `"none"` gives the loss of each example.

    Returns:
        `torch.Tensor`: a scalar, the mean over the examples, or `[batch]`.

    Raises:
        `ValueError`: if there is not one count per class, each 1 or more, or an argument is negative.
    """
    check_not_negative(max_margin=max_margin, scale=scale)
    check_tensor("Logits", logits, "[batch, classes]")
    check_labels(labels, logits)
    logits = at_least_float32(logits)
    margins = check_class_counts(class_counts) ** -0.25
    margins = check_per_class("class_counts", max_margin * margins / margins.max(), logits)
    is_soft, targets = labels.is_floating_point(), as_targets(labels, logits)
    share = targets if is_soft else torch.zeros_like(logits).scatter(1, labels[:, None], 1.0)
    losses = -share * (scale * (logits - margins * share)).log_softmax(1)
    if class_weights is not None:
        losses = losses * check_per_class("class_weights", class_weights, logits)
    return reduced(losses.sum(1), reduction)
