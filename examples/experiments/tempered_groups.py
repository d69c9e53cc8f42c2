"""A formula of ours between LTKD and KD, which the searches tried and did not settle on.

With `q = softmax((t - tau · log prior) / T)`, what the teacher should have answered, and `p` the student's softmax,

    L = T² · (KL(q_G ‖ p_G) + sum over groups of q_G^gamma · KL(q̃_G ‖ p̃_G)).

The class prior stands for the rebalancing over the batch (Eq. 9 to 11); `gamma=0` weighs groups equally (Eq. 13),
`gamma=1` gives KD from the adjusted teacher (Eq. 8). The gradient to the student's logit of class k in group G is
`T · (p̃_k · (p_G - q_G) + q_G^gamma · (p̃_k - q̃_k))`.
"""

from typing import Any

from torch import Tensor

from hf_ltkd import ClassGroups
from hf_ltkd.losses.base import values_of
from hf_ltkd.losses.ltkd import kl_decomposition
from hf_ltkd.losses.on_logits import LogitLoss


class TemperedGroupsLoss(LogitLoss):
    def __init__(self, groups: ClassGroups, *, gamma: float = 0.5, temperature: float = 2.0, **kwargs):
        super().__init__(**{"class_counts": groups.class_counts, **kwargs})
        self.groups, self.gamma, self.temperature = groups, gamma, temperature

    @classmethod
    def from_groups(cls, groups: ClassGroups, **arguments) -> "TemperedGroupsLoss":
        return cls(groups, **arguments)

    def hyper_parameters(self) -> dict[str, Any]:
        return values_of(gamma=self.gamma, temperature=self.temperature, **super().hyper_parameters())

    def distillation_terms(self, student_outputs, teacher_outputs, labels, step_statistics) -> dict[str, Tensor]:
        logits = self.both(student_outputs, teacher_outputs)
        parts = kl_decomposition(*logits, self.groups, temperature=self.temperature)
        within = (parts.teacher_group_probs**self.gamma * parts.within).sum(1)
        return {"cross_group": self.temperature**2 * parts.cross, "within_group": self.temperature**2 * within}
