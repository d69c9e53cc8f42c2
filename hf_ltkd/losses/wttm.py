"""Zheng, Yang: Knowledge Distillation Based on Transformed Teacher Matching (ICLR 2024).

https://arxiv.org/abs/2402.11148
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .base import values_of
from .checks import check_logits, check_not_negative, reduced
from .on_logits import LogitLoss


def wttm_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, gamma: float = 0.1, reduction: str = "mean"
) -> Tensor:
    """
    Weighted transformed teacher matching: `mean over the batch of U · KL(q ‖ softmax(s))`, with the teacher's
    probabilities to the power `gamma`, `U` their sum and `q` their shares. The student has no temperature.

    Args:
        student_logits, teacher_logits (`torch.Tensor` of shape `[batch, classes]`):
            fp16 and bf16 are computed in float32. No gradient flows to the teacher.
        gamma (`float`, *optional*, defaults to 0.1): `1 / T` of the teacher. `U` is larger for flat answers.
        reduction (`str`, *optional*, defaults to `"mean"`): `"none"` gives the loss of each example.

    Returns:
        `torch.Tensor`: a scalar, or `[batch]`.

    Raises:
        `ValueError`: if the shapes differ or `gamma` is negative.
    """
    check_not_negative(gamma=gamma)
    student_logits, teacher_logits = check_logits(student_logits, teacher_logits)
    powers = gamma * teacher_logits.log_softmax(1)
    log_sum = powers.logsumexp(1, keepdim=True)
    divergence = F.kl_div(student_logits.log_softmax(1), powers - log_sum, log_target=True, reduction="none").sum(1)
    return reduced(log_sum.exp().squeeze(1) * divergence, reduction)


class WTTMLoss(LogitLoss):
    """
    [`wttm_loss`] beside the student's cross-entropy. Terms: `cross_entropy`, `transformed_teacher`.

    Args:
        gamma (`float`, *optional*, defaults to 0.1): See [`wttm_loss`].
        wttm_weight (`float`, *optional*, defaults to 1.0):
            Weight of the term. The authors publish none for this loss by itself; beside CRD, VGG13 to VGG8, they have
            `gamma=0.2` and 4, and 45 for their unweighted loss.
        kwargs: `prior`, `standardize` of [`LogitLoss`], and the rest of [`DistillationLoss`].
    """

    def __init__(self, *, gamma: float = 0.1, wttm_weight: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        check_not_negative(gamma=gamma, wttm_weight=wttm_weight)
        self.gamma, self.wttm_weight = gamma, wttm_weight

    def hyper_parameters(self) -> dict[str, Any]:
        return values_of(gamma=self.gamma, wttm_weight=self.wttm_weight, **super().hyper_parameters())

    def distillation_terms(self, student_outputs, teacher_outputs, labels, step_statistics) -> dict[str, Tensor]:
        loss = wttm_loss(*self.both(student_outputs, teacher_outputs), gamma=self.gamma, reduction="none")
        return {"transformed_teacher": self.wttm_weight * loss}
