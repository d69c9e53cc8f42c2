"""Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (2015). https://arxiv.org/abs/1503.02531"""

import torch.nn.functional as F
from torch import Tensor

from .base import DistillationLoss, check_logits, check_not_negative, check_temperature, logits_of


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    r"""
    `T² · mean over the batch of KL(pᵀ ‖ pˢ)`, with `p = softmax(z / T)` (Eq. 2 of the LTKD paper).

    Args:
        student_logits, teacher_logits (`torch.Tensor` of shape `[batch, classes]`):
            fp16 and bf16 are computed in float32. No gradient flows to the teacher.
        temperature (`float`, *optional*, defaults to 4.0): `T`.

    Returns:
        `torch.Tensor`: a scalar.

    Raises:
        `ValueError`: if the shapes differ or `temperature` is not above 0.
    """
    check_temperature(temperature)
    student_logits, teacher_logits = check_logits(student_logits, teacher_logits)
    student_log_probs = (student_logits / temperature).log_softmax(1)
    teacher_log_probs = (teacher_logits / temperature).log_softmax(1)
    divergence = F.kl_div(student_log_probs, teacher_log_probs, log_target=True, reduction="batchmean")
    return temperature**2 * divergence


class KDLoss(DistillationLoss):
    """
    [`kd_loss`] beside the student's cross-entropy. Terms: `cross_entropy`, `kd`.

    Args:
        temperature (`float`, *optional*, defaults to 4.0): `T`.
        kd_weight (`float`, *optional*, defaults to 1.0): Weight of the KD term.
        ce_weight (`float`, *optional*, defaults to 1.0):
            Weight of the cross-entropy. Public CIFAR-100 code of this family uses 0.1 with `kd_weight=0.9`.
        warmup_epochs (`float`, *optional*, defaults to 0.0): See [`DistillationLoss`].
    """

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        kd_weight: float = 1.0,
        ce_weight: float = 1.0,
        warmup_epochs: float = 0.0,
    ):
        super().__init__(ce_weight=ce_weight, warmup_epochs=warmup_epochs)
        check_temperature(temperature)
        check_not_negative(kd_weight=kd_weight)
        self.temperature = temperature
        self.kd_weight = kd_weight

    def distillation_terms(self, student_outputs, teacher_outputs, labels, step_statistics) -> dict[str, Tensor]:
        loss = kd_loss(logits_of(student_outputs), logits_of(teacher_outputs), temperature=self.temperature)
        return {"kd": self.kd_weight * loss}
