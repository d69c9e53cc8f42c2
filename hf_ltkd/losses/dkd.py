"""Zhao et al.: Decoupled Knowledge Distillation (CVPR 2022). https://arxiv.org/abs/2203.08679"""

from typing import Any

import torch
from torch import Tensor

from .base import values_of
from .checks import check_class_ids, check_labels, check_logits, check_not_negative, check_temperature, reduced
from .on_logits import LogitLoss


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    reduction: str = "mean",
) -> Tensor:
    """
    `T² · mean over the batch of (alpha · TCKD + beta · NCKD)` (Eq. 7): the divergence of target against the rest, and
    that among the other classes. Computed in the log domain, so that it is finite where a probability underflows. With
    two classes NCKD is 0.

    Args:
        student_logits, teacher_logits (`torch.Tensor` of shape `[batch, classes]`):
            fp16 and bf16 are computed in float32. No gradient flows to the teacher.
        labels (`torch.Tensor` of shape `[batch]`, int64): The target class of each example.
        alpha (`float`, *optional*, defaults to 1.0): Weight of the target-class term (TCKD).
        beta (`float`, *optional*, defaults to 8.0): Weight of the non-target-class term (NCKD).
        temperature (`float`, *optional*, defaults to 4.0): Both logits are divided by it.
        reduction (`str`, *optional*, defaults to `"mean"`): `"none"` gives the loss of each example.

    Returns:
        `torch.Tensor`: a scalar, or `[batch]`.

    Raises:
        `ValueError`: if the shapes differ, there is only one class, a weight is negative, `temperature <= 0`, or the
            labels are soft: there is no one target class then.
    """
    check_not_negative(alpha=alpha, beta=beta)
    target_class, non_target_class = _dkd_terms(student_logits, teacher_logits, labels, temperature)
    return reduced(alpha * target_class + beta * non_target_class, reduction)


class DKDLoss(LogitLoss):
    """
    [`dkd_loss`] beside the student's cross-entropy. Terms: `cross_entropy`, `target_class`, `non_target_class`.

    Args:
        alpha (`float`, *optional*, defaults to 1.0): Weight of the target-class term.
        beta (`float`, *optional*, defaults to 8.0): Weight of the non-target-class term.
        temperature (`float`, *optional*, defaults to 4.0): See [`dkd_loss`].
        kwargs: `prior`, `standardize` of [`LogitLoss`], and the rest of [`DistillationLoss`]. The authors warm up
            over 20 epochs on CIFAR-100 ([`~DKDLoss.for_pair`] does).
    """

    needs_labels = True

    def __init__(self, *, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, **kwargs):
        super().__init__(**kwargs)
        check_not_negative(alpha=alpha, beta=beta)
        check_temperature(temperature)
        self.alpha, self.beta, self.temperature = alpha, beta, temperature

    def hyper_parameters(self) -> dict[str, Any]:
        return values_of(alpha=self.alpha, beta=self.beta, temperature=self.temperature, **super().hyper_parameters())

    def distillation_terms(self, student_outputs, teacher_outputs, labels, step_statistics) -> dict[str, Tensor]:
        logits = self.both(student_outputs, teacher_outputs)
        target_class, non_target_class = _dkd_terms(*logits, labels, self.temperature)
        return {"target_class": self.alpha * target_class, "non_target_class": self.beta * non_target_class}


def _dkd_terms(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """TCKD and NCKD of each example, `[batch]`, times `T²`."""
    check_temperature(temperature)
    student_logits, teacher_logits = check_logits(student_logits, teacher_logits)
    check_labels(labels, student_logits)
    check_class_ids("DKD", labels)
    if student_logits.shape[1] < 2:
        raise ValueError("DKD needs two classes or more: with a single one there is nothing beside the target.")
    is_target = torch.zeros_like(student_logits, dtype=torch.bool).scatter(1, labels[:, None], True)
    student_binary, student_others = _decoupled_log_probs(student_logits / temperature, labels, is_target)
    teacher_binary, teacher_others = _decoupled_log_probs(teacher_logits / temperature, labels, is_target)
    target_class = (teacher_binary.exp() * (teacher_binary - student_binary)).sum(1)
    # The target's own entry is -inf on both sides; its probability there is 0.
    difference = (teacher_others - student_others).masked_fill(is_target, 0.0)
    non_target_class = (teacher_others.exp() * difference).sum(1)
    return temperature**2 * target_class, temperature**2 * non_target_class


def _decoupled_log_probs(logits: Tensor, labels: Tensor, is_target: Tensor) -> tuple[Tensor, Tensor]:
    """`log (p_target, p_rest)` of shape `[batch, 2]`, and `log p̂` over the other classes, -inf at the target."""
    others = logits.masked_fill(is_target, -torch.inf)
    rest = others.logsumexp(1, keepdim=True)
    return torch.cat([logits.gather(1, labels[:, None]), rest], dim=1).log_softmax(1), others - rest
