"""What a loss that compares logits alone can do to them first: the class prior in or out, standardisation."""

from typing import Any, Literal, get_args

from torch import Tensor

from .base import DistillationLoss
from .checks import at_least_float32, check_per_class, logits_of
from .logit_adjustment import log_class_prior


Side = Literal["teacher", "student"]


def standardize_logits(logits: Tensor) -> Tensor:
    """
    `(z - mean(z)) / (std(z) + 1e-7)` over the classes of each example, the deviation with n - 1: the step before any
    loss on logits of Sun et al., Logit Standardization in Knowledge Distillation (CVPR 2024, arXiv 2403.01427,
    Algorithm 1).

    Args:
        logits (`torch.Tensor` of shape `[..., classes]`): fp16 and bf16 are computed in float32.

    Returns:
        `torch.Tensor` of the same shape. Equal logits give zeros.
    """
    logits = at_least_float32(logits)
    return (logits - logits.mean(-1, keepdim=True)) / (logits.std(-1, keepdim=True) + 1e-7)


class LogitLoss(DistillationLoss):
    """
    Base class of the losses that compare logits alone. `distillation_terms` takes them from [`~LogitLoss.both`].

    Args:
        prior (`str`, *optional*):
            A teacher trained on long-tailed data answers `p(x | y) · prior(y)`. `"teacher"` takes the prior out of its
            logits, `t - tau · log prior` (post-hoc logit adjustment, arXiv 2007.07314, Eq. 9); `"student"` lets the
            student answer as long-tailed as the teacher, `z + tau · log prior` (the balanced softmax of arXiv
            2007.10740, Theorem 1, with the teacher's probabilities for the label), so that `z` by itself suits
            balanced data. `None` leaves both as they are. Needs `class_counts`; an extension of this package.
        standardize (`bool`, *optional*, defaults to `False`):
            [`standardize_logits`] on both, after the prior. Its authors train KD at `temperature=2, kd_weight=9,
            ce_weight=0.1` on CIFAR-100.
        kwargs: `ce_weight`, `ce`, `class_counts`, `tau` (of `prior` too), `warmup_epochs` of [`DistillationLoss`].

    Raises:
        `ValueError`: if `prior` is unknown or lacks its `class_counts`, or `standardize` is no `bool`.
    """

    def __init__(self, *, prior: Side | None = None, standardize: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.prior, self.standardize = prior, standardize
        if not isinstance(standardize, bool):
            raise ValueError(f"standardize={standardize!r} is not valid: it must be True or False.")
        if prior is None:
            return
        if prior not in get_args(Side):
            raise ValueError(f"prior={prior!r} is not known: use 'teacher', 'student' or None.")
        if kwargs.get("class_counts") is None:
            raise ValueError(
                f"prior={prior!r} needs class_counts, the training examples per class: pass "
                "class_counts=class_counts(train_dataset), or groups made by ClassGroups.from_counts."
            )
        self.log_prior = log_class_prior(kwargs["class_counts"])
        self.num_classes = len(self.log_prior)

    def hyper_parameters(self) -> dict[str, Any]:
        return {"prior": self.prior, "standardize": self.standardize, **super().hyper_parameters()}

    def used_hyper_parameters(self) -> dict[str, Any]:
        used = super().used_hyper_parameters() | ({} if self.prior is None else {"tau": self.tau})
        return {name: value for name, value in used.items() if name != "standardize" or value}

    def both(self, student_outputs: Any, teacher_outputs: Any) -> tuple[Tensor, Tensor]:
        """The logits that are compared, `[batch, classes]` each."""
        return self.compared(student_outputs, "student"), self.compared(teacher_outputs, "teacher")

    def compared(self, outputs: Any, side: Side) -> Tensor:
        """The logits of one side, as they are compared."""
        logits = logits_of(outputs)
        if self.prior == side:
            logits = at_least_float32(logits)
            shift = self.tau * check_per_class("class_counts", self.log_prior, logits)
            logits = logits - shift if side == "teacher" else logits + shift
        return standardize_logits(logits) if self.standardize else logits
