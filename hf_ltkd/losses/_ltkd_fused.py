"""`ltkd_terms` of `ltkd.py` with the gradient in closed form: as exact as the formula, at the price of a plain KL.

With `d = p_Gˢ - p̂_Gᵀ`, and `w` the weight of the group (1 in Eq. 13, `p_Gᵀ` in Eq. 12), the gradient to a student
logit of group G is `T · (alpha · d · p̃ˢ + beta · w · (p̃ˢ - p̃ᵀ))`.

The classes are laid out group by group, so that every softmax and logsumexp is one of a group: nothing is subtracted
that another group made large, and nothing underflows that counts. Many groups of about the same size are one block,
padded to the largest; large groups are a block each, without copies where their classes are neighbours.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..groups import ClassGroups
from .checks import is_eager


LARGE_GROUP = 1024  # classes: from here on the gain of a group without padding outweighs more launches
SIMILAR_SIZE = 1.5  # largest to smallest group of a padded block
FEW_LOGITS = 2**15  # of student and teacher: up to here fewer operations are faster, from here on fewer exponentials
PADDING = -1e30  # a logit whose probability is 0, and whose difference to itself is 0


class Block(NamedTuple):
    """Classes of one or more groups as an array, groups × classes of the group, or the other way round."""

    classes: Tensor  # [size of the array]: the class at each place
    first: int | None  # where the classes start, if they are a range
    shape: tuple[int, int]
    dim: int  # of the shape, from the end: along the classes of a group
    padding: Tensor | None  # [*shape]: what to add to the logits, 0 or PADDING

    def to(self, device: torch.device) -> "Block":
        padding = None if self.padding is None else self.padding.to(device)
        return self._replace(classes=self.classes.to(device), padding=padding)


class Layout(NamedTuple):
    """All groups in blocks."""

    blocks: tuple[Block, ...]
    group_order: Tensor  # [groups]: the group at each place of the blocks
    place_of_class: Tensor | None  # [classes]: where a class is in all blocks, one after the other; None: as it was


@lru_cache(maxsize=64)
def layout_of(groups: ClassGroups, device: torch.device) -> Layout:
    """The [`Layout`] of these groups on a device."""
    sizes = groups.group_of_class.bincount().tolist()
    members = groups.group_of_class.argsort(stable=True).split(sizes)
    alike: list[list[int]] = []  # the groups of each block
    for group in sorted(range(groups.num_groups), key=lambda group: sizes[group]):
        if alike and sizes[group] < LARGE_GROUP and sizes[group] <= SIMILAR_SIZE * sizes[alike[-1][0]]:
            alike[-1].append(group)
        else:
            alike.append([group])
    alike = sorted(map(sorted, alike))
    blocks = [_block([members[group] for group in block]) for block in alike]

    # Padding repeats the first class of its group; stable: the class itself comes before.
    places = torch.cat([block.classes for block in blocks])
    order = places.argsort(stable=True)
    place_of_class = order[places.bincount().cumsum(0) - places.bincount()]
    return Layout(
        tuple(block.to(device) for block in blocks),
        torch.tensor(sum(alike, []), device=device),
        None if torch.equal(place_of_class, torch.arange(len(places))) else place_of_class.to(device),
    )


def _block(members: list[Tensor]) -> Block:
    largest = max(map(len, members))
    classes = torch.stack([torch.cat([group, group[:1].expand(largest - len(group))]) for group in members])
    is_padding = torch.arange(largest) >= torch.tensor([len(group) for group in members])[:, None]
    padding = is_padding * PADDING if is_padding.any() else None
    dim = -1
    if len(members) > largest:  # the longer side last: that is where CPUs vectorise
        classes, padding, dim = classes.t(), None if padding is None else padding.t().contiguous(), -2
    shape, classes = tuple(classes.shape), classes.flatten()
    is_range = torch.equal(classes, torch.arange(len(classes)) + classes[0])
    return Block(classes, int(classes[0]) if is_range else None, shape, dim, padding)  # type: ignore[arg-type]


class Weights(NamedTuple):
    """What LTKD is computed with, beside the logits."""

    groups: ClassGroups
    alpha: Any  # float, or a scalar tensor
    beta: Any
    temperature: Any
    rebalance: bool
    reweight: bool
    log_mass: Tensor | None  # [groups]: the logarithm of Eq. 9's sums over more than the batch


def can_be_fused(student_logits: Tensor, teacher_logits: Tensor, weights: Weights) -> bool:
    """Whether [`LTKDTerms`] gives what the formula does: nothing but the student's logits may get a derivative."""
    constants = weights.alpha, weights.beta, weights.temperature, weights.log_mass
    return (
        student_logits.dtype == teacher_logits.dtype
        and student_logits.dtype in (torch.float32, torch.float64)
        and is_eager(student_logits, teacher_logits)
        and forward_ad._current_level < 0
        and not any(isinstance(value, Tensor) and (value.requires_grad or not is_eager(value)) for value in constants)
    )


class LTKDTerms(torch.autograd.Function):
    """
    `LTKDTerms.apply(student_logits, teacher_logits, weights, formula)`: what `formula(student_logits, teacher_logits,
    weights)` gives ([`ltkd_terms`]), where [`can_be_fused`] says so. Higher derivatives are those of the formula.
    """

    @staticmethod
    def forward(
        ctx, student_logits: Tensor, teacher_logits: Tensor, weights: Weights, formula: Callable
    ) -> tuple[Tensor, Tensor]:
        alpha, beta, temperature = float(weights.alpha), float(weights.beta), float(weights.temperature)
        groups, log_mass = weights.groups, weights.log_mass
        kernels, layout = _triton_kernels(student_logits), None
        if kernels is not None:
            logsumexp, within = kernels.group_statistics(student_logits, teacher_logits, groups, temperature)
            kept = (logsumexp,)
        else:
            layout = layout_of(groups, student_logits.device)
            parts = [_block_terms(student_logits, teacher_logits, block, temperature) for block in layout.blocks]
            kept, logsumexp, within = zip(*parts, strict=True)
            logsumexp, within = _joined(logsumexp), _joined(within)
            if log_mass is not None:
                log_mass = log_mass[layout.group_order]

        student_cross, teacher_cross = logsumexp.log_softmax(-1).unbind()  # Eq. 3
        group_weights = None if weights.reweight else teacher_cross.exp()  # Eq. 13, or Eq. 12
        if weights.rebalance:
            # Eq. 9 to 11: p_avg is the same in every factor s_G and cancels in the normalisation over the groups.
            by_mass = teacher_cross.log_softmax(0) if log_mass is None else teacher_cross - log_mass.to(teacher_cross)
            teacher_cross = by_mass.log_softmax(-1)
        teacher_probs = teacher_cross.exp()
        cross_term = (teacher_cross - student_cross).mul_(teacher_probs).sum(1)  # Eq. 6
        within_term = (within if group_weights is None else within * group_weights).sum(1)

        ctx.kernels, ctx.layout, ctx.weights, ctx.formula = kernels, layout, weights, formula
        ctx.alpha, ctx.beta, ctx.temperature = alpha * temperature, beta * temperature, temperature
        ctx.save_for_backward(
            student_logits, teacher_logits, student_cross.exp().sub_(teacher_probs), group_weights, *kept
        )
        return cross_term * (ctx.alpha * temperature), within_term * (ctx.beta * temperature)

    @staticmethod
    def backward(ctx, cross_gradient: Tensor, within_gradient: Tensor):
        student_logits, teacher_logits, difference, group_weights, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the gradient itself will be differentiated
            terms = ctx.formula(student_logits, teacher_logits, ctx.weights)
            gradients = cross_gradient, within_gradient
            return *torch.autograd.grad(terms, student_logits, gradients, create_graph=True), None, None, None
        of_teacher = (within_gradient * ctx.beta)[:, None]
        of_teacher = of_teacher.expand_as(difference) if group_weights is None else group_weights * of_teacher
        of_student = torch.addcmul(of_teacher, difference, (cross_gradient * ctx.alpha)[:, None])
        if ctx.kernels is not None:
            gradient = ctx.kernels.logit_gradient(
                student_logits, teacher_logits, *kept, of_student, of_teacher, ctx.weights.groups, ctx.temperature
            )
        else:
            gradient = _gradient(kept, of_student, of_teacher, ctx.layout)
        return gradient, None, None, None


def _block_logits(sources: tuple[Tensor, ...], block: Block, temperature: float) -> Tensor:
    """The classes of a block out of each `[batch, classes]`, divided by the temperature: a new array."""
    if block.first is None:
        logits = torch.cat(sources).index_select(1, block.classes)
    else:
        logits = sources[0].new_empty(len(sources), len(sources[0]), len(block.classes))
        for source, part in zip(sources, logits.unbind(), strict=True):
            torch.mul(source.narrow(1, block.first, len(block.classes)), 1 / temperature, out=part)
    logits = logits.view(len(sources), len(sources[0]), *block.shape)
    if block.padding is not None:
        torch.add(block.padding, logits, alpha=1 / temperature, out=logits)
    elif block.first is None:
        logits.mul_(1 / temperature)
    return logits


def _block_terms(
    student_logits: Tensor, teacher_logits: Tensor, block: Block, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Of the groups of a block: `p̃` of student and teacher (Eq. 4) `[2, batch, *shape]`, their logsumexp
    `[2, batch, groups]`, and `KL(p̃ᵀ ‖ p̃ˢ)` (Eq. 7) `[batch, groups]`.
    """
    logits = _block_logits((student_logits, teacher_logits), block, temperature)
    if logits.numel() <= FEW_LOGITS:
        log_probs = logits.log_softmax(block.dim)
        probs, logsumexp = log_probs.exp(), logits.select(block.dim, 0) - log_probs.select(block.dim, 0)
        student, teacher = log_probs.unbind()
        return probs, logsumexp, teacher.sub_(student).mul_(probs[1]).sum(block.dim)
    maxima = logits.amax(block.dim, keepdim=True)
    logits.sub_(maxima)
    probs = logits.softmax(block.dim)
    # The largest probability is exp(0) over the sum: its logarithm is the logsumexp of what is left, negated.
    minus_logsumexp = probs.amax(block.dim).log_()
    student, teacher = logits.unbind()
    within = teacher.sub_(student).mul_(probs[1]).sum(block.dim)
    within.add_(minus_logsumexp[1]).sub_(minus_logsumexp[0])
    return probs, maxima.squeeze(block.dim).sub_(minus_logsumexp), within


def _gradient(probs: list[Tensor], of_student: Tensor, of_teacher: Tensor, layout: Layout) -> Tensor:
    """`of_student · p̃ˢ - of_teacher · p̃ᵀ`, `[batch, classes]`, from factors per group, `[batch, groups]`."""
    if len(layout.blocks) == 1:
        gradient = _block_gradient(probs[0], of_student, of_teacher, layout.blocks[0])
    else:
        places = [len(block.classes) for block in layout.blocks]
        groups = [block.shape[0 if block.dim == -1 else 1] for block in layout.blocks]
        gradient = of_student.new_empty(len(of_student), sum(places))
        factors = of_student.split(groups, 1), of_teacher.split(groups, 1)
        for parts in zip(probs, *factors, layout.blocks, gradient.split(places, 1), strict=True):
            _block_gradient(*parts)
    return gradient if layout.place_of_class is None else gradient.index_select(1, layout.place_of_class)


def _block_gradient(
    probs: Tensor, of_student: Tensor, of_teacher: Tensor, block: Block, out: Tensor | None = None
) -> Tensor:
    student_probs, teacher_probs = probs.unbind()
    if out is not None:
        out = out.view(student_probs.shape)
    gradient = torch.mul(student_probs, of_student.unsqueeze(block.dim), out=out)
    gradient.addcmul_(teacher_probs, of_teacher.unsqueeze(block.dim), value=-1)
    return gradient.flatten(1)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), -1)


def _triton_kernels(logits: Tensor):
    """The module with the kernels for these logits, or `None` where they cannot run."""
    if not logits.is_cuda or logits.dtype != torch.float32 or find_spec("triton") is None:
        return None
    from . import _ltkd_triton

    return _ltkd_triton
