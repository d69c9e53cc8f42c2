"""Kim: Distilling Balanced Knowledge from a Biased Teacher (CVPR 2026). https://arxiv.org/abs/2506.18496

Everything stays in the log domain: group probabilities come from a logsumexp over their classes, and no probability
that may have underflowed is ever put into a logarithm.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..groups import ClassGroups, check_groups
from ..utils import check_number
from ._ltkd_fused import LTKDTerms, Weights, can_be_fused
from .base import values_of
from .checks import check_logits, check_not_negative, check_temperature, check_tensor, placed_with, reduced
from .on_logits import LogitLoss


def ltkd_terms(student_logits: Tensor, teacher_logits: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """
    The summands of Eq. 14 of each example, `[batch]`, times `T²`: the formula, differentiable in all of its tensors.
    """
    groups, alpha, beta, temperature, rebalance, reweight, log_mass = weights
    student, teacher, within = _decompose(student_logits, teacher_logits, groups, temperature)
    target = teacher
    if rebalance:
        log_mass = teacher.logsumexp(0) if log_mass is None else log_mass.to(teacher)  # sums over the batch, p_G^B
        log_average = log_mass.logsumexp(0) - math.log(groups.num_groups)  # Eq. 9: p_avg^B
        log_scale = log_average - log_mass  # Eq. 10: s_G
        target = (log_scale + teacher).log_softmax(1)  # Eq. 11: p̂_G^T
    cross = _kl(target, student)
    within = within if reweight else teacher.exp() * within  # Eq. 13, or Eq. 12
    return temperature**2 * alpha * cross.sum(1), temperature**2 * beta * within.sum(1)  # Eq. 14


def _decompose(
    student_logits: Tensor, teacher_logits: Tensor, groups: ClassGroups, temperature: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """`log p_G` of student and teacher, and `KL(p̃_Gᵀ ‖ p̃_Gˢ)`, each of shape `[batch, groups]`."""
    student_group, student_within = _group_log_probs(student_logits / temperature, groups)
    teacher_group, teacher_within = _group_log_probs(teacher_logits / temperature, groups)
    return student_group, teacher_group, _sum_by_group(_kl(teacher_within, student_within), groups)  # Eq. 7


def _group_log_probs(logits: Tensor, groups: ClassGroups) -> tuple[Tensor, Tensor]:
    """`log p_G` of shape `[batch, groups]` (Eq. 3) and `log p̃` of shape `[batch, classes]` (Eq. 4)."""
    group_of_class = placed_with(groups.group_of_class, logits)
    # Each group's own maximum, not the row's: a group far below the row's maximum must not underflow.
    maxima = logits.new_full((logits.shape[0], groups.num_groups), -torch.inf)
    maxima = maxima.scatter_reduce(1, group_of_class.expand_as(logits), logits.detach(), "amax")
    logsumexp = maxima + _sum_by_group((logits - maxima[:, group_of_class]).exp(), groups).log()
    return logsumexp.log_softmax(1), logits - logsumexp[:, group_of_class]  # Eq. 3, Eq. 4


def _sum_by_group(values: Tensor, groups: ClassGroups) -> Tensor:
    """Sums `[batch, classes]` over the classes of each group: `[batch, groups]`."""
    sums = values.new_zeros(values.shape[0], groups.num_groups)
    return sums.index_add(1, placed_with(groups.group_of_class, values), values)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The summands of `KL(p ‖ q)`; 0 where `p` underflows, since its logarithm is finite."""
    return log_p.exp() * (log_p - log_q)


class KLDecomposition(NamedTuple):
    """
    The parts of Eq. 8, per example: `KL(pᵀ ‖ pˢ) = cross + sum over groups of teacher_group_probs · within`.

    Attributes:
        cross (`torch.Tensor` of shape `[batch]`): `KL(p_Gᵀ ‖ p_Gˢ)` (Eq. 6).
        within (`torch.Tensor` of shape `[batch, groups]`): `KL(p̃_Gᵀ ‖ p̃_Gˢ)` of each group (Eq. 7).
        teacher_group_probs (`torch.Tensor` of shape `[batch, groups]`): `p_Gᵀ` (Eq. 3).
    """

    cross: Tensor
    within: Tensor
    teacher_group_probs: Tensor


def kl_decomposition(
    student_logits: Tensor, teacher_logits: Tensor, groups: ClassGroups, *, temperature: float = 1.0
) -> KLDecomposition:
    """
    Splits `KL(pᵀ ‖ pˢ)` into its cross-group and within-group parts (Eq. 8), without any factor of `T²`.

    Args:
        student_logits, teacher_logits (`torch.Tensor` of shape `[batch, classes]`):
            fp16 and bf16 are computed in float32. No gradient flows to the teacher.
        groups ([`ClassGroups`]): The groups of the classes.
        temperature (`float`, *optional*, defaults to 1.0): Both logits are divided by it.

    Returns:
        [`KLDecomposition`]: per example, not averaged.

    Raises:
        `ValueError`: if the shapes differ, the groups are for another number of classes, or `temperature <= 0`.
    """
    student_logits, teacher_logits = _checked(student_logits, teacher_logits, groups, temperature)
    student, teacher, within = _decompose(student_logits, teacher_logits, groups, temperature)
    return KLDecomposition(_kl(teacher, student).sum(1), within, teacher.exp())  # Eq. 6, Eq. 7, Eq. 3


def ltkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    groups: ClassGroups,
    *,
    alpha: float = 6.0,
    beta: float = 6.0,
    temperature: float = 4.0,
    rebalance: bool = True,
    reweight: bool = True,
    group_mass: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """
    Long-tailed knowledge distillation (Eq. 14), times `T²`, averaged over the batch:
    `T² · mean(alpha · KL(p̂_Gᵀ ‖ p_Gˢ) + beta · sum over groups of KL(p̃_Gᵀ ‖ p̃_Gˢ))`.

    `alpha` and `beta` are the paper's best overall (Fig. 5). The paper does not state the temperature, the factor
    `T²` or the reduction: those three defaults are ours.

    Args:
        student_logits, teacher_logits (`torch.Tensor` of shape `[batch, classes]`):
            fp16 and bf16 are computed in float32. No gradient flows to the teacher.
        groups ([`ClassGroups`]): The groups of the classes.
        alpha (`float` or scalar `torch.Tensor`, *optional*, defaults to 6.0): Weight of the cross-group term.
        beta (`float` or scalar `torch.Tensor`, *optional*, defaults to 6.0): Weight of the within-group term.
        temperature (`float` or scalar `torch.Tensor`, *optional*, defaults to 4.0): Both logits are divided by it.
        rebalance (`bool`, *optional*, defaults to `True`):
            `True` calibrates the teacher's group probabilities over the batch (Eq. 9 to 11); `False` takes them as
            they are (Tab. 4, "Biased").
        reweight (`bool`, *optional*, defaults to `True`):
            `True` weighs all groups equally (Eq. 13); `False` weighs them by `p_Gᵀ` (Eq. 12).
        group_mass (`torch.Tensor` of shape `[groups]`, *optional*):
            Sums of `p_Gᵀ`, at this temperature, over more than this batch (other ranks, accumulated micro-batches).
            `None` sums over this batch (Eq. 9).
        reduction (`str`, *optional*, defaults to `"mean"`): `"none"` gives the loss of each example.

    Returns:
        `torch.Tensor`: a scalar, or `[batch]`; differentiable any number of times, also in `alpha`, `beta` and
        `temperature` where they are tensors that require a gradient.

    Raises:
        `ValueError`: if shapes or groups do not fit, a weight is negative, or `temperature <= 0`.
    """
    check_not_negative(alpha=alpha, beta=beta)
    log_mass = None
    if group_mass is not None:
        check_tensor("group_mass", group_mass, f"of one sum per group, ({groups.num_groups},)")
        if group_mass.shape != (groups.num_groups,):
            raise ValueError(
                f"group_mass has the shape {tuple(group_mass.shape)}: expected one sum per group, "
                f"({groups.num_groups},)."
            )
        # A sum that underflowed to 0 counts as the smallest number there is.
        log_mass = group_mass.clamp_min(torch.finfo(group_mass.dtype).tiny).log()
    weights = Weights(groups, alpha, beta, temperature, rebalance, reweight, log_mass)
    cross, within = _checked_terms(student_logits, teacher_logits, weights)
    return reduced(cross + within, reduction)


class LTKDLoss(LogitLoss):
    """
    [`ltkd_loss`] beside the student's cross-entropy. Terms: `cross_entropy`, `cross_group`, `within_group`.

    The paper's ablations are arguments: `beta=0` leaves the cross-group term alone, `alpha=0` the within-group term,
    `rebalance=False` is Tab. 4's "Biased", and `groups` may have from one group to one per class (Tab. 6).

    Args:
        groups ([`ClassGroups`]): The groups of the classes.
        alpha (`float`, *optional*, defaults to 6.0): Weight of the cross-group term.
        beta (`float`, *optional*, defaults to 6.0): Weight of the within-group term.
        temperature (`float`, *optional*, defaults to 4.0): See [`ltkd_loss`].
        rebalance, reweight (`bool`, *optional*, default to `True`): See [`ltkd_loss`].
        group_mass_momentum (`float`, *optional*, defaults to 0.0):
            With more than 0, Eq. 9's sums (as shares) are a running mean over the optimizer steps: this part of the
            old one and the rest of the new. For steps of few examples, whose own sums jump about; an extension of
            ours. The running mean is kept in checkpoints.
        mass_per_image (`bool`, *optional*, defaults to `False`):
            Of segmentation: whether Eq. 9 sums over images, with the mean of each one's pixels, instead of over
            pixels, so that one image of sky decides no more than any other; an extension of ours.
        kwargs: `ce_weight` (1.0: our choice, not in the paper), `ce`, `warmup_epochs` and the rest of
            [`DistillationLoss`]; `prior`, with which `rebalance=False` is at hand, and `standardize` of [`LogitLoss`].
            `class_counts` are those of the groups if not given: `LTKDLoss(groups,
            ce="balanced_softmax")`, an extension of ours and not the paper's, corrects the cross-entropy too.

    Raises:
        `ValueError`: if a weight is negative or `temperature <= 0`.
    """

    log_group_mass: Tensor

    def __init__(
        self,
        groups: ClassGroups,
        *,
        alpha: float = 6.0,
        beta: float = 6.0,
        temperature: float = 4.0,
        rebalance: bool = True,
        reweight: bool = True,
        group_mass_momentum: float = 0.0,
        mass_per_image: bool = False,
        **kwargs,
    ):
        check_groups(groups)
        kwargs.setdefault("class_counts", groups.class_counts)
        super().__init__(**kwargs)
        check_not_negative(alpha=alpha, beta=beta)
        check_temperature(temperature)
        self.groups, self.num_classes = groups, groups.num_classes
        self.alpha, self.beta, self.temperature = alpha, beta, temperature
        self.rebalance, self.reweight = rebalance, reweight
        check_number("group_mass_momentum", group_mass_momentum, 0, below=1)
        self.group_mass_momentum = group_mass_momentum
        self.mass_per_image = mass_per_image
        self.sums_itself = not (group_mass_momentum or mass_per_image)  # the fused form does it faster
        if group_mass_momentum:
            # The logarithm of the running shares, up to a constant that cancels in Eq. 11; -inf: no step yet.
            self.register_buffer("log_group_mass", torch.full((groups.num_groups,), -torch.inf))

    @classmethod
    def from_groups(cls, groups: ClassGroups, **arguments) -> "LTKDLoss":
        return cls(groups, **arguments)

    def hyper_parameters(self) -> dict[str, Any]:
        return values_of(
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
            rebalance=self.rebalance,
            reweight=self.reweight,
            group_mass_momentum=self.group_mass_momentum,
            mass_per_image=self.mass_per_image,
            **super().hyper_parameters(),
        )

    def used_hyper_parameters(self) -> dict[str, Any]:
        of_mass = () if self.rebalance else ("group_mass_momentum", "mass_per_image")
        return {name: value for name, value in super().used_hyper_parameters().items() if name not in of_mass}

    def prepare(self, student, teacher, pixel_values=None) -> None:
        """Forgets the running group mass; arguments as in [`DistillationLoss`]."""
        if self.group_mass_momentum:
            self.log_group_mass.fill_(-torch.inf)

    def batch_statistics(self, teacher_outputs, labels=None, sample_weights=None, image_ids=None) -> Tensor | None:
        """The logarithm of Eq. 9's sums of `p_Gᵀ` over this batch, `[groups]`; `None` without rebalancing."""
        if not self.rebalance:
            return None
        logits = self.compared(teacher_outputs, "teacher")
        _, teacher_logits = _checked(logits, logits, self.groups, self.temperature)
        teacher, _ = _group_log_probs(teacher_logits / self.temperature, self.groups)
        if sample_weights is not None:
            teacher = teacher + sample_weights.to(teacher).log()[:, None]
        if self.mass_per_image and image_ids is not None:
            teacher = teacher - image_ids.bincount()[image_ids].to(teacher).log()[:, None]
        return teacher.logsumexp(0)

    def begin_step(self, step_statistics: Tensor) -> Tensor:
        """Eq. 9's sums over the whole step, and over earlier ones with `group_mass_momentum`: `[1, groups]`."""
        log_mass = step_statistics.logsumexp(0)
        if self.group_mass_momentum and self.training:
            kept = self.log_group_mass + math.log(self.group_mass_momentum)
            # NaN where nothing counted in the whole step
            share = log_mass.log_softmax(0).nan_to_num(-torch.inf, neginf=-torch.inf)
            new = share + math.log1p(-self.group_mass_momentum)
            log_mass = torch.logaddexp(kept, new)
            self.log_group_mass.copy_(log_mass)
        return log_mass[None]

    def distillation_terms(self, student_outputs, teacher_outputs, labels, step_statistics) -> dict[str, Tensor]:
        log_mass = None if step_statistics is None else step_statistics.logsumexp(0)
        weights = Weights(
            self.groups, self.alpha, self.beta, self.temperature, self.rebalance, self.reweight, log_mass
        )
        cross, within = _checked_terms(*self.both(student_outputs, teacher_outputs), weights)
        return {"cross_group": cross, "within_group": within}


def _checked_terms(student_logits: Tensor, teacher_logits: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """[`ltkd_terms`], by its fused form where that gives the same."""
    logits = _checked(student_logits, teacher_logits, weights.groups, weights.temperature)
    if can_be_fused(*logits, weights):
        return LTKDTerms.apply(*logits, weights, ltkd_terms)
    return ltkd_terms(*logits, weights)


def _checked(
    student_logits: Tensor, teacher_logits: Tensor, groups: ClassGroups, temperature: Any
) -> tuple[Tensor, Tensor]:
    check_groups(groups)
    check_temperature(temperature)
    student_logits, teacher_logits = check_logits(student_logits, teacher_logits)
    if student_logits.shape[1] != groups.num_classes:
        raise ValueError(
            f"The logits have {student_logits.shape[1]} classes, the groups {groups.num_classes}: "
            "make the groups from the counts of all classes of the model."
        )
    return student_logits, teacher_logits
