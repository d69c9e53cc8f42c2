"""Zhang et al.: Balanced Knowledge Distillation for Long-tailed Learning (Neurocomputing 2023).

https://arxiv.org/abs/2104.10510
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .base import values_of
from .checks import check_class_counts, check_logits, check_not_negative, check_per_class, check_temperature, reduced
from .class_balanced import class_balanced_weights
from .on_logits import LogitLoss


def bkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    class_weights: Tensor,
    *,
    temperature: float = 2.0,
    reduction: str = "mean",
) -> Tensor:
    """
    KD from a teacher whose softened probabilities are multiplied by a weight per class and normalised again, times
    `T²`, averaged over the batch.

    Args:
        student_logits, teacher_logits (`torch.Tensor` of shape `[batch, classes]`):
            fp16 and bf16 are computed in float32. No gradient flows to the teacher.
        class_weights (`torch.Tensor` of shape `[classes]`):
            Above 0, larger for rare classes, for instance [`class_balanced_weights`].
        temperature (`float`, *optional*, defaults to 2.0): Both logits are divided by it.
        reduction (`str`, *optional*, defaults to `"mean"`): `"none"` gives the loss of each example.

    Returns:
        `torch.Tensor`: a scalar, or `[batch]`.

    Raises:
        `ValueError`: if the shapes do not fit or `temperature <= 0`.
    """
    check_temperature(temperature)
    student_logits, teacher_logits = check_logits(student_logits, teacher_logits)
    log_weights = check_per_class("class_weights", class_weights.log(), teacher_logits)
    student_log_probs = (student_logits / temperature).log_softmax(1)
    teacher_log_probs = (teacher_logits / temperature + log_weights).log_softmax(1)
    divergence = F.kl_div(student_log_probs, teacher_log_probs, log_target=True, reduction="none").sum(1)
    return reduced(temperature**2 * divergence, reduction)


class BKDLoss(LogitLoss):
    """
    [`bkd_loss`] with class-balanced weights beside the student's cross-entropy. Terms: `cross_entropy`, `balanced_kd`.

    The weights act from the first epoch on (the rule `Reweight` of the authors' code).

    Args:
        class_counts (`Sequence[int]` of length `classes`): Training examples per class.
        temperature (`float`, *optional*, defaults to 2.0): See [`bkd_loss`].
        bkd_weight (`float`, *optional*, defaults to 1.0): Weight of the KD term.
        effective_number_beta (`float`, *optional*, defaults to 0.9999): See [`class_balanced_weights`].
        kwargs: `prior`, `standardize` of [`LogitLoss`], and the rest of [`DistillationLoss`].
    """

    def __init__(
        self,
        class_counts: Sequence[int] | Tensor,
        *,
        temperature: float = 2.0,
        bkd_weight: float = 1.0,
        effective_number_beta: float = 0.9999,
        **kwargs,
    ):
        super().__init__(class_counts=class_counts, effective_number_beta=effective_number_beta, **kwargs)
        check_temperature(temperature)
        check_not_negative(bkd_weight=bkd_weight)
        self.class_weights = class_balanced_weights(check_class_counts(class_counts), beta=effective_number_beta)
        self.num_classes = len(self.class_weights)
        self.temperature, self.bkd_weight = temperature, bkd_weight

    def hyper_parameters(self) -> dict[str, Any]:
        return values_of(temperature=self.temperature, bkd_weight=self.bkd_weight, **super().hyper_parameters())

    def distillation_terms(self, student_outputs, teacher_outputs, labels, step_statistics) -> dict[str, Tensor]:
        logits = self.both(student_outputs, teacher_outputs)
        loss = bkd_loss(*logits, self.class_weights, temperature=self.temperature, reduction="none")
        return {"balanced_kd": self.bkd_weight * loss}
