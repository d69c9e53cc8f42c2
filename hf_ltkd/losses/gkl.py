"""Cui et al.: Generalized Kullback-Leibler Divergence Loss (2025), and Decoupled KL Divergence Loss (NeurIPS 2024).

https://arxiv.org/abs/2503.08038, https://arxiv.org/abs/2305.13948
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..groups import ClassGroups, check_groups
from .base import values_of
from .checks import check_labels, check_logits, check_not_negative, check_temperature, check_tensor
from .on_logits import LogitLoss


def gkl_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 16.0,
    gamma: float = 0.05,
    temperature: float = 4.0,
    weight_temperature: float = 4.0,
    weight_probs: Tensor | None = None,
) -> Tensor:
    """
    The generalised KL divergence as its authors compute it, without `T²`:
    `alpha · mean over the batch of -Σ softmax(t/T) · log softmax(s/T)`, and
    `beta / 4 · Σ_b Σ_ij w_bi w_bj ((t_i - t_j) - (s_i - s_j))² / Σ_b Σ_ij w_bi w_bj` with `w_b = probs_b ** gamma`.
    `gamma=1` with class-wise probabilities is the improved KL divergence (IKL).

    Args:
        student_logits, teacher_logits (`torch.Tensor` of shape `[batch, classes]`):
            fp16 and bf16 are computed in float32. No gradient flows to the teacher.
        alpha (`float`, *optional*, defaults to 1.0): Weight of the cross-entropy with the teacher's probabilities.
        beta (`float`, *optional*, defaults to 16.0): Weight of the squared differences.
        gamma (`float`, *optional*, defaults to 0.05): Power of the probabilities; 0 weighs all pairs equally.
        temperature (`float`, *optional*, defaults to 4.0): `T`.
        weight_temperature (`float`, *optional*, defaults to 4.0): That of the weights' `softmax(t / T2)`.
        weight_probs (`torch.Tensor` of shape `[batch, classes]`, *optional*):
            What the weights are made of: the teacher's mean probabilities over the class of each example, for
            instance. `None` takes `softmax(t / T2)` of the example itself.

    Returns:
        `torch.Tensor`: a scalar.

    Raises:
        `ValueError`: if the shapes differ, `alpha`, `beta` or `gamma` is negative, or a temperature is not above 0.
    """
    check_not_negative(alpha=alpha, beta=beta, gamma=gamma)
    check_temperature(temperature)
    check_temperature(weight_temperature, "weight_temperature")
    student_logits, teacher_logits = check_logits(student_logits, teacher_logits)
    weights = pair_weights(teacher_logits, gamma, weight_temperature, weight_probs)
    squares = squared_differences(student_logits, teacher_logits, weights, weights.sum(1).square().mean())
    return (alpha * soft_cross_entropy(student_logits, teacher_logits, temperature) + beta * squares).mean()


def pair_weights(teacher_logits: Tensor, gamma: float, temperature: float, probs: Tensor | None) -> Tensor:
    """`w` of shape `[batch, classes]`."""
    if probs is None:
        return (gamma * (teacher_logits / temperature).log_softmax(1)).exp()
    check_tensor("weight_probs", probs, "[batch, classes]")
    if probs.shape != teacher_logits.shape:
        raise ValueError(
            f"weight_probs has the shape {tuple(probs.shape)}, the logits {tuple(teacher_logits.shape)}: give the "
            "probabilities of each example, class_probs[labels] for instance."
        )
    return probs.to(teacher_logits) ** gamma


def squared_differences(student: Tensor, teacher: Tensor, weights: Tensor, mean_square: Tensor) -> Tensor:
    """
    A quarter of the squared differences of each example, `[batch]`; their mean is weighted. The weights of a pair are
    a product, so that with `d = t - s` and `m = Σ w d / Σ w` the sum over its pairs is `2 · Σ w · Σ w (d - m)²`.

    Args:
        mean_square: `(Σ w)²`, averaged over the examples.
    """
    difference, total = teacher - student, weights.sum(1, keepdim=True)
    centred = difference - (weights * difference).sum(1, keepdim=True) / total
    return (total * weights * centred.square()).sum(1) / (2 * mean_square)


def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """The cross-entropy of each example with the teacher's softened probabilities, `[batch]`."""
    check_temperature(temperature)
    log_probs = (student_logits / temperature).log_softmax(1)
    return -((teacher_logits / temperature).softmax(1) * log_probs).sum(1)


class GKLLoss(LogitLoss):
    """
    [`gkl_loss`] beside the student's cross-entropy. Terms: `cross_entropy`, `soft_cross_entropy`,
    `squared_differences`.

    The teacher's mean probabilities of each class are those over the training examples of the epoch before (equal in
    the first), over all ranks and micro-batches, and are kept in checkpoints. A training loop of your own has to give
    `epoch` to the loss.

    Args:
        groups ([`ClassGroups`]): Their classes; GKL itself knows no groups.
        alpha, beta, gamma, temperature, weight_temperature (`float`, *optional*, default to 1, 16, 0.05, 4, 4):
            See [`gkl_loss`]. Defaults are the authors' for ResNet32x4 to ResNet8x4 on CIFAR-100; on ImageNet-LT they
            have 4, 4, 0.3, 1, 1.
        class_wise (`bool`, *optional*, defaults to `True`):
            Whether the weights of an example are made of its class's mean probabilities, or of its own.
        kwargs: `prior`, `standardize` of [`LogitLoss`], and the rest of [`DistillationLoss`].

    Raises:
        `ValueError`: if a weight is negative or a temperature not above 0.
    """

    class_probs: Tensor
    sums: Tensor
    counts: Tensor
    epoch: Tensor

    def __init__(
        self,
        groups: ClassGroups,
        *,
        alpha: float = 1.0,
        beta: float = 16.0,
        gamma: float = 0.05,
        temperature: float = 4.0,
        weight_temperature: float = 4.0,
        class_wise: bool = True,
        **kwargs,
    ):
        check_groups(groups)
        kwargs.setdefault("class_counts", groups.class_counts)
        super().__init__(**kwargs)
        check_not_negative(alpha=alpha, beta=beta, gamma=gamma)
        check_temperature(temperature)
        check_temperature(weight_temperature, "weight_temperature")
        self.num_classes = groups.num_classes
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.temperature, self.weight_temperature = temperature, weight_temperature
        self.class_wise = self.needs_labels = class_wise
        self._begun: int | None = None  # the epoch that was begun last, known without asking the device
        if class_wise:
            classes = groups.num_classes
            self.register_buffer("class_probs", torch.zeros(classes, classes))  # of the epoch before
            self.register_buffer("sums", torch.zeros(classes, classes))  # of this epoch
            self.register_buffer("counts", torch.zeros(classes))
            self.register_buffer("epoch", torch.zeros((), dtype=torch.long))
            self.prepare(None, None)

    @classmethod
    def from_groups(cls, groups: ClassGroups, **arguments) -> "GKLLoss":
        return cls(groups, **arguments)

    def hyper_parameters(self) -> dict[str, Any]:
        return values_of(
            alpha=self.alpha,
            beta=self.beta,
            gamma=self.gamma,
            temperature=self.temperature,
            weight_temperature=self.weight_temperature,
            class_wise=self.class_wise,
            **super().hyper_parameters(),
        )

    def prepare(self, student, teacher, pixel_values=None) -> None:
        """Forgets what earlier epochs left; arguments as in [`DistillationLoss`]."""
        if self.class_wise:
            self.class_probs.fill_(1 / len(self.counts))
            for buffer in (self.sums, self.counts, self.epoch):
                buffer.zero_()
        self._begun = None

    def load_state_dict(self, *args, **kwargs):
        self._begun = None
        return super().load_state_dict(*args, **kwargs)

    def begin_epoch(self, epoch: float) -> None:
        """In a new epoch the class means of the last one hold. A class without an example keeps its own."""
        begun, self._begun = self._begun, math.floor(epoch + 1e-6)
        if self.class_wise and self._begun != begun and self._begun != self.epoch:
            means = self.sums / self.counts[:, None]  # NaN without an example
            self.class_probs.copy_(torch.where(self.counts[:, None] > 0, means, self.class_probs))
            self.sums.zero_()
            self.counts.zero_()
            self.epoch.fill_(self._begun)

    def batch_statistics(self, teacher_outputs, labels, sample_weights=None) -> Tensor | None:
        """
        The number of examples (each counts by its weight) and the sum of their `(Σ w)²`; class-wise, also the number
        of examples of each class and the sums of their `softmax(t / T2)`: `[2]` or `[2 + classes + classes²]`. The
        ranks exchange that for every micro-batch: 10,102 numbers (40 kB) for 100 classes, 1,001,002 (4 MB) for 1000.
        """
        teacher = self.compared(teacher_outputs, "teacher")
        if self.class_wise:
            check_labels(labels, teacher)
        weights = self._weights(teacher, labels)
        each = weights.new_ones(len(weights)) if sample_weights is None else sample_weights.to(weights)
        of_step = torch.stack([each.sum(), (each * weights.sum(1).square()).sum()])
        if not self.class_wise:
            return of_step
        probs = (check_logits(teacher, teacher)[1] / self.weight_temperature).softmax(1)
        sums = probs.new_zeros(self.sums.shape).index_add(0, labels, each[:, None] * probs)
        counts = probs.new_zeros(self.counts.shape).index_add(0, labels, each)
        return torch.cat([of_step, counts, sums.flatten()])

    def begin_step(self, step_statistics: Tensor) -> Tensor:
        """The sums over the whole step, `[1, 2]`; those of the classes are added to the epoch's."""
        total = step_statistics.sum(0)
        if self.class_wise and self.training:
            self.counts += total[2 : 2 + len(self.counts)]
            self.sums += total[2 + len(self.counts) :].view_as(self.sums)
        return total[None, :2]

    def distillation_terms(self, student_outputs, teacher_outputs, labels, step_statistics) -> dict[str, Tensor]:
        student, teacher = check_logits(*self.both(student_outputs, teacher_outputs))
        weights = self._weights(teacher, labels)
        examples, squares = step_statistics.sum(0).to(weights)
        terms = squared_differences(student, teacher, weights, squares / examples)
        return {
            "soft_cross_entropy": self.alpha * soft_cross_entropy(student, teacher, self.temperature),
            "squared_differences": self.beta * terms,
        }

    def _weights(self, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        teacher_logits = check_logits(teacher_logits, teacher_logits)[1]
        probs = self.class_probs[labels] if self.class_wise else None
        return pair_weights(teacher_logits, self.gamma, self.weight_temperature, probs)
