"""The contract of every distillation loss, and what all share: the student's own cross-entropy and the warm-up."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DistillationLoss(nn.Module):
    """
    Base class: student outputs, teacher outputs and labels in, a dict of named terms out whose sum is the loss.

    A subclass implements [`~DistillationLoss.distillation_terms`] and, if its formula sums over the batch,
    [`~DistillationLoss.batch_statistics`]. It knows nothing of trainers and can be used in any training loop.

    Args:
        ce_weight (`float`, *optional*, defaults to 1.0): Weight of the student's own cross-entropy with the labels.
        warmup_epochs (`float`, *optional*, defaults to 0.0):
            The distillation terms grow linearly from 0 to their full weight over this many epochs.

    Attributes:
        needs_teacher (`bool`): Whether `teacher_outputs` is read at all.
        num_classes (`int` or `None`): The number of classes the loss was made for, `None` if it fits any.

    Raises:
        `ValueError`: if a weight or `warmup_epochs` is negative.
    """

    needs_teacher: bool = True
    num_classes: int | None = None

    def __init__(self, *, ce_weight: float = 1.0, warmup_epochs: float = 0.0):
        super().__init__()
        check_not_negative(ce_weight=ce_weight, warmup_epochs=warmup_epochs)
        self.ce_weight = ce_weight
        self.warmup_epochs = warmup_epochs

    def forward(
        self,
        student_outputs: Any,
        teacher_outputs: Any,
        labels: Tensor,
        *,
        epoch: float | None = None,
        step_statistics: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """
        Args:
            student_outputs, teacher_outputs (`ModelOutput` or `torch.Tensor`):
                What the models returned, or their logits of shape `[batch, classes]`.
            labels (`torch.Tensor` of shape `[batch]`, int64): The class of each example.
            epoch (`float`, *optional*):
                Epochs trained so far, fractions included, for `warmup_epochs`. `None` means after the warm-up.
            step_statistics (`torch.Tensor` of shape `[micro_batches, k]`, *optional*):
                [`~DistillationLoss.batch_statistics`] of every micro-batch of the optimizer step, on all ranks. `None`
                means that this batch is the whole step.

        Returns:
            `dict[str, torch.Tensor]`: scalars, each weighted and averaged over the batch, that sum to the loss.
        """
        student_logits = logits_of(student_outputs)
        terms = {}
        if self.ce_weight:
            terms["cross_entropy"] = self.ce_weight * F.cross_entropy(at_least_float32(student_logits), labels)
        warmup = 1.0 if epoch is None or epoch >= self.warmup_epochs else epoch / self.warmup_epochs
        for name, term in self.distillation_terms(student_outputs, teacher_outputs, labels, step_statistics).items():
            terms[name] = warmup * term
        return terms

    def distillation_terms(
        self, student_outputs: Any, teacher_outputs: Any, labels: Tensor, step_statistics: Tensor | None
    ) -> dict[str, Tensor]:
        """The method's own weighted terms by name; arguments as in `forward`."""
        raise TypeError(f"{type(self).__name__} must implement distillation_terms().")

    def batch_statistics(self, teacher_outputs: Any) -> Tensor | None:
        """What the formula sums over the batch, as a tensor of shape `[k]`; `None` if it sums nothing."""
        return None


class CrossEntropyLoss(DistillationLoss):
    """No teacher at all: the student's cross-entropy with the labels. Trains teachers and plain students."""

    needs_teacher = False

    def __init__(self):
        super().__init__()

    def distillation_terms(self, student_outputs, teacher_outputs, labels, step_statistics) -> dict[str, Tensor]:
        return {}


def logits_of(outputs: Any) -> Tensor:
    """The logits of a model's output; a tensor is taken to be the logits."""
    return outputs if isinstance(outputs, Tensor) else outputs.logits


def at_least_float32(tensor: Tensor) -> Tensor:
    """fp16 and bf16 become float32, because a softmax over them loses digits; float64 stays."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def check_logits(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """
    Both logits in float32 (or float64), the teacher's without gradient.

    Raises:
        `ValueError`: if they are not two tensors of the same shape `[batch, classes]`.
    """
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"Student logits of shape {tuple(student_logits.shape)} and teacher logits of shape "
            f"{tuple(teacher_logits.shape)} do not fit: both must be [batch, classes] over the same classes."
        )
    return at_least_float32(student_logits), at_least_float32(teacher_logits.detach())


def check_not_negative(**values: float) -> None:
    """Raises `ValueError`, naming the argument, for a weight below 0 (NaN included)."""
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name}={value} is not valid: it must be 0 or more.")


def check_temperature(temperature: float) -> None:
    """Raises `ValueError` unless the temperature is above 0."""
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} is not valid: it must be above 0.")
