"""The cross-entropy by itself."""

from typing import Any

from torch import Tensor

from .base import DistillationLoss


class CrossEntropyLoss(DistillationLoss):
    """
    No teacher at all: the student's cross-entropy with the labels. Trains teachers and plain students.

    Args:
        kwargs: `ce`, `class_counts` and the other arguments of [`DistillationLoss`], for instance
            `CrossEntropyLoss(ce="balanced_softmax", class_counts=counts)`.
    """

    needs_teacher = False

    def distillation_terms(self, student_outputs, teacher_outputs, labels, step_statistics) -> dict[str, Tensor]:
        return {}

    def used_hyper_parameters(self) -> dict[str, Any]:
        return {name: value for name, value in super().used_hyper_parameters().items() if name != "warmup_epochs"}
