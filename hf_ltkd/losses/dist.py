"""Huang et al.: Knowledge Distillation from A Stronger Teacher (NeurIPS 2022). https://arxiv.org/abs/2205.10536"""

from typing import Any

from torch import Tensor

from .base import values_of
from .checks import check_logits, check_not_negative, check_temperature
from .on_logits import LogitLoss


def dist_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 4.0
) -> Tensor:
    """
    `T² · (beta · inter + gamma · intra)` (Sec. 3): one minus the Pearson correlation of student and teacher
    probabilities, of each example over the classes (inter) and of each class over the examples (intra).

    The intra-class term correlates over the batch that it is given: in [`DistillationTrainer`] that is one micro-batch
    of one process, not the whole optimizer step. A batch of one example has no correlation and gives 1, without
    gradient.

    Args:
        student_logits, teacher_logits (`torch.Tensor` of shape `[batch, classes]`):
            fp16 and bf16 are computed in float32. No gradient flows to the teacher.
        beta (`float`, *optional*, defaults to 1.0): Weight of the inter-class term.
        gamma (`float`, *optional*, defaults to 1.0): Weight of the intra-class term.
        temperature (`float`, *optional*, defaults to 4.0):
            Both logits are divided by it. The factor `T²` is that of the authors' code.

    Returns:
        `torch.Tensor`: a scalar.

    Raises:
        `ValueError`: if the shapes differ, a weight is negative, or `temperature <= 0`.
    """
    check_not_negative(beta=beta, gamma=gamma)
    inter, intra = _dist_terms(student_logits, teacher_logits, temperature)
    return beta * inter.mean() + gamma * intra


class DISTLoss(LogitLoss):
    """
    [`dist_loss`] beside the student's cross-entropy. Terms: `cross_entropy`, `inter_class`, `intra_class`.

    The intra-class term correlates over one micro-batch of one process (see [`dist_loss`]): unlike the other losses it
    changes with the way an optimizer step is split.

    Args:
        beta (`float`, *optional*, defaults to 1.0): Weight of the inter-class term.
        gamma (`float`, *optional*, defaults to 1.0): Weight of the intra-class term.
        temperature (`float`, *optional*, defaults to 4.0): See [`dist_loss`].
        dist_weight (`float`, *optional*, defaults to 1.0): Weight of both terms together. The authors train with 2.
        kwargs: `prior`, `standardize` of [`LogitLoss`], and the rest of [`DistillationLoss`].
    """

    def __init__(
        self, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 4.0, dist_weight: float = 1.0, **kwargs
    ):
        super().__init__(**kwargs)
        check_not_negative(beta=beta, gamma=gamma, dist_weight=dist_weight)
        check_temperature(temperature)
        self.beta, self.gamma, self.temperature, self.dist_weight = beta, gamma, temperature, dist_weight

    def hyper_parameters(self) -> dict[str, Any]:
        return values_of(
            beta=self.beta,
            gamma=self.gamma,
            temperature=self.temperature,
            dist_weight=self.dist_weight,
            **super().hyper_parameters(),
        )

    def distillation_terms(
        self, student_outputs, teacher_outputs, labels, step_statistics, sample_weights=None
    ) -> dict[str, Tensor]:
        inter, intra = _dist_terms(*self.both(student_outputs, teacher_outputs), self.temperature, sample_weights)
        return {
            "inter_class": self.dist_weight * self.beta * inter,
            "intra_class": self.dist_weight * self.gamma * intra,
        }


def _dist_terms(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, sample_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Of each example, `[batch]`, and of the classes over the (weighted) batch, a scalar, times `T²`."""
    check_temperature(temperature)
    student_logits, teacher_logits = check_logits(student_logits, teacher_logits)
    student_probs = (student_logits / temperature).softmax(1)
    teacher_probs = (teacher_logits / temperature).softmax(1)
    inter = 1 - _pearson(student_probs, teacher_probs)
    intra = 1 - _pearson(student_probs.t(), teacher_probs.t(), sample_weights).mean()
    return temperature**2 * inter, temperature**2 * intra


def _pearson(a: Tensor, b: Tensor, weights: Tensor | None = None, eps: float = 1e-8) -> Tensor:
    """Pearson correlation along the last axis, with the authors' `eps`; 0 where one of the two is constant."""
    weights = a.new_ones(a.shape[1]) if weights is None else weights.to(a) / weights.to(a).mean()
    a, b = (weights.sqrt() * (x - (weights * x).sum(1, keepdim=True) / weights.sum()) for x in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + eps)
