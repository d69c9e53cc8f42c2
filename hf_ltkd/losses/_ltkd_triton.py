"""LTKD on a GPU in two kernels: one reads both logits once for all that a group has, one writes the gradient."""

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..groups import ClassGroups


LARGEST_TILE = 2048  # classes that a program looks at together


class SortedClasses(NamedTuple):
    """The classes group by group."""

    classes: Tensor  # [classes]
    first: Tensor  # [groups + 1]: where each group starts
    group_of_class: Tensor  # [classes]
    largest: int  # classes of the largest group


@lru_cache(maxsize=64)
def sorted_classes(groups: ClassGroups, device: torch.device) -> SortedClasses:
    """The [`SortedClasses`] of these groups on a device."""
    sizes = groups.group_of_class.bincount()
    first = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    order = groups.group_of_class.argsort(stable=True)
    order, first, group_of_class = (x.to(device, torch.int32) for x in (order, first, groups.group_of_class))
    return SortedClasses(order, first, group_of_class, int(sizes.max()))


def group_statistics(
    student_logits: Tensor, teacher_logits: Tensor, groups: ClassGroups, temperature: float
) -> tuple[Tensor, Tensor]:
    """The logsumexp of each group in student and teacher `[2, batch, groups]`, and Eq. 7 `[batch, groups]`."""
    student_logits, teacher_logits = student_logits.contiguous(), teacher_logits.contiguous()
    batch, num_classes = student_logits.shape
    order = sorted_classes(groups, student_logits.device)
    logsumexp = student_logits.new_empty(2, batch, groups.num_groups)
    within = student_logits.new_empty(batch, groups.num_groups)
    if batch:
        _statistics_kernel[(batch * groups.num_groups,)](
            *(student_logits, teacher_logits, order.classes, order.first, logsumexp, within),
            *(num_classes, groups.num_groups, 1 / temperature),
            TILE=_tile(order.largest),
        )
    return logsumexp, within


def logit_gradient(
    student_logits: Tensor,
    teacher_logits: Tensor,
    logsumexp: Tensor,
    of_student: Tensor,
    of_teacher: Tensor,
    groups: ClassGroups,
    temperature: float,
) -> Tensor:
    """`of_student · p̃ˢ - of_teacher · p̃ᵀ`, `[batch, classes]`, from factors per group `[batch, groups]`."""
    student_logits, teacher_logits = student_logits.contiguous(), teacher_logits.contiguous()
    batch, num_classes = student_logits.shape
    gradient = torch.empty_like(student_logits)
    order, tile = sorted_classes(groups, student_logits.device), _tile(num_classes)
    if batch:
        _gradient_kernel[(batch * triton.cdiv(num_classes, tile),)](
            *(student_logits, teacher_logits, order.group_of_class, logsumexp),
            *(of_student.contiguous(), of_teacher.contiguous(), gradient),
            *(num_classes, groups.num_groups, batch * groups.num_groups, 1 / temperature),
            TILE=tile,
        )
    return gradient


def _tile(classes: int) -> int:
    return min(LARGEST_TILE, max(16, triton.next_power_of_2(classes)))


@triton.jit
def _statistics_kernel(
    student, teacher, classes, first, logsumexp, within, num_classes, num_groups, scale, TILE: tl.constexpr
):
    """One example and one group: two sweeps over its classes, the second out of the cache."""
    cell = tl.program_id(0)
    row, group = (cell // num_groups).to(tl.int64), cell % num_groups
    begin, end = tl.load(first + group), tl.load(first + group + 1)
    student += row * num_classes
    teacher += row * num_classes
    student_max = tl.full((TILE,), float("-inf"), tl.float32)
    teacher_max = tl.full((TILE,), float("-inf"), tl.float32)
    for start in range(begin, end, TILE):
        place = start + tl.arange(0, TILE)
        inside = place < end
        column = tl.load(classes + place, inside, 0)
        student_max = tl.maximum(student_max, tl.load(student + column, inside, float("-inf")))
        teacher_max = tl.maximum(teacher_max, tl.load(teacher + column, inside, float("-inf")))
    student_top = tl.max(student_max, 0)
    teacher_top = tl.max(teacher_max, 0)

    student_sum = tl.zeros((TILE,), tl.float32)
    teacher_sum = tl.zeros((TILE,), tl.float32)
    difference = tl.zeros((TILE,), tl.float32)
    for start in range(begin, end, TILE):
        place = start + tl.arange(0, TILE)
        inside = place < end
        column = tl.load(classes + place, inside, 0)
        s = (tl.load(student + column, inside, float("-inf")) - student_top) * scale
        t = (tl.load(teacher + column, inside, float("-inf")) - teacher_top) * scale
        probability = tl.exp(t)
        student_sum += tl.exp(s)
        teacher_sum += probability
        difference += tl.where(inside, probability * (t - s), 0.0)
    student_total = tl.sum(student_sum, 0)
    teacher_total = tl.sum(teacher_sum, 0)
    tl.store(logsumexp + cell, student_top * scale + tl.log(student_total))
    tl.store(logsumexp + tl.num_programs(0) + cell, teacher_top * scale + tl.log(teacher_total))
    tl.store(within + cell, tl.sum(difference, 0) / teacher_total + tl.log(student_total) - tl.log(teacher_total))


@triton.jit
def _gradient_kernel(
    student,
    teacher,
    group_of_class,
    logsumexp,
    of_student,
    of_teacher,
    gradient,
    num_classes,
    num_groups,
    cells,
    scale,
    TILE: tl.constexpr,
):
    """One example and one tile of classes."""
    tiles = tl.cdiv(num_classes, TILE)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    column = tl.program_id(0) % tiles * TILE + tl.arange(0, TILE)
    inside = column < num_classes
    cell = row * num_groups + tl.load(group_of_class + column, inside, 0)
    place = row * num_classes + column
    s = tl.load(student + place, inside, 0.0) * scale - tl.load(logsumexp + cell, inside, 0.0)
    t = tl.load(teacher + place, inside, 0.0) * scale - tl.load(logsumexp + cells + cell, inside, 0.0)
    of_s = tl.load(of_student + cell, inside, 0.0)
    of_t = tl.load(of_teacher + cell, inside, 0.0)
    tl.store(gradient + place, of_s * tl.exp(s) - of_t * tl.exp(t), inside)
