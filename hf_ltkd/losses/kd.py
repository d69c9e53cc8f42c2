"""Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (2015). https://arxiv.org/abs/1503.02531"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import values_of
from .checks import check_logits, check_not_negative, check_per_class, check_temperature, reduced
from .on_logits import LogitLoss


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 4.0,
    teacher_log_prior: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""
    `T² · mean over the batch of KL(pᵀ ‖ pˢ)`, with `p = softmax(z / T)` (Eq. 2 of the LTKD paper).

    Args:
        student_logits, teacher_logits (`torch.Tensor` of shape `[batch, classes]`):
            fp16 and bf16 are computed in float32. No gradient flows to the teacher.
        temperature (`float`, *optional*, defaults to 4.0): `T`.
        teacher_log_prior (`torch.Tensor` of shape `[classes]`, *optional*):
            Subtracted from the teacher's logits before softening, for instance [`log_class_prior`]: the class prior
            that the teacher learned is divided out of its probabilities (post-hoc logit adjustment, arXiv 2007.07314,
            Eq. 9).
        reduction (`str`, *optional*, defaults to `"mean"`): `"none"` gives the loss of each example.

    Returns:
        `torch.Tensor`: a scalar, or `[batch]`.

    Raises:
        `ValueError`: if the shapes differ or `temperature` is not above 0.
    """
    check_temperature(temperature)
    student_logits, teacher_logits = check_logits(student_logits, teacher_logits)
    if teacher_log_prior is not None:
        teacher_logits = teacher_logits - check_per_class("teacher_log_prior", teacher_log_prior, teacher_logits)
    student_log_probs = (student_logits / temperature).log_softmax(1)
    teacher_log_probs = (teacher_logits / temperature).log_softmax(1)
    divergence = F.kl_div(student_log_probs, teacher_log_probs, log_target=True, reduction="none").sum(1)
    return reduced(temperature**2 * divergence, reduction)


class KDLoss(LogitLoss):
    """
    [`kd_loss`] beside the student's cross-entropy. Terms: `cross_entropy`, `kd`.

    Args:
        temperature (`float`, *optional*, defaults to 4.0): `T`.
        kd_weight (`float`, *optional*, defaults to 1.0):
            Weight of the KD term. Public CIFAR-100 code of this family uses 0.9 with `ce_weight=0.1`.
        teacher_log_prior (`torch.Tensor` or `Sequence[float]` of length `classes`, *optional*):
            See [`kd_loss`]: for a teacher of other training data. That of the `class_counts` is `prior="teacher"`.
        kwargs: `prior`, `standardize` of [`LogitLoss`], and the rest of [`DistillationLoss`].
    """

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        kd_weight: float = 1.0,
        teacher_log_prior: Tensor | Sequence[float] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_temperature(temperature)
        check_not_negative(kd_weight=kd_weight)
        self.temperature, self.kd_weight = temperature, kd_weight
        self.teacher_log_prior = None
        if teacher_log_prior is not None:
            try:
                self.teacher_log_prior = torch.as_tensor(teacher_log_prior, dtype=torch.float64).detach()
            except (TypeError, ValueError, RuntimeError):  # no numbers
                self.teacher_log_prior = torch.tensor(torch.nan)
            if self.teacher_log_prior.ndim != 1 or not torch.isfinite(self.teacher_log_prior).all():
                raise ValueError(
                    "teacher_log_prior must hold a finite number per class, no NaN or Inf: make it with "
                    "log_class_prior(class_counts)."
                )
            self.num_classes = len(self.teacher_log_prior)
            if self.prior == "teacher" or self.standardize:
                raise ValueError("teacher_log_prior goes without prior='teacher' and standardize=True: leave one out.")

    def hyper_parameters(self) -> dict[str, Any]:
        return values_of(
            temperature=self.temperature,
            kd_weight=self.kd_weight,
            teacher_log_prior=self.teacher_log_prior,
            **super().hyper_parameters(),
        )

    def distillation_terms(self, student_outputs, teacher_outputs, labels, step_statistics) -> dict[str, Tensor]:
        loss = kd_loss(
            *self.both(student_outputs, teacher_outputs),
            temperature=self.temperature,
            teacher_log_prior=self.teacher_log_prior,
            reduction="none",
        )
        return {"kd": self.kd_weight * loss}
