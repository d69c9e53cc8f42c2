"""The cross-entropy by itself."""

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
