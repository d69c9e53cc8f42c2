"""Chen et al.: Distilling Knowledge via Knowledge Review (CVPR 2021). https://arxiv.org/abs/2104.09044"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import DistillationLoss, values_of
from .checks import at_least_float32, check_not_negative, check_tensor, reduced
from .features import before_relu, feature_maps, final_map, mse_of_each, try_model


def hierarchical_context_loss(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], *, reduction: str = "mean"
) -> Tensor:
    """
    Hierarchical context loss (Sec. 3.4): of each pair of maps the mean-squared difference at full size and pooled to
    grids of 4 × 4, 2 × 2 and 1 × 1 where these are smaller, with weights 1, 1/2, 1/4, 1/8 (as many as there are grids)
    divided by their sum; added over the pairs.

    Args:
        student_features, teacher_features (`Sequence[torch.Tensor]`, each of shape `[batch, channels, height,
        width]`):
            Maps of the same shapes. fp16 and bf16 are computed in float32. No gradient flows to the teacher.
        reduction (`str`, *optional*, defaults to `"mean"`): `"none"` gives the loss of each example.

    Returns:
        `torch.Tensor`: a scalar, or `[batch]`.

    Raises:
        `ValueError`: if the numbers or shapes of the maps differ.
    """
    for whose, maps in (("Student", student_features), ("Teacher", teacher_features)):
        if isinstance(maps, Tensor) or not isinstance(maps, Sequence):
            raise ValueError(f"{whose} maps are of type {type(maps).__name__}: give a list of tensors.")
        for map_ in maps:
            check_tensor(f"{whose} maps", map_, "[batch, channels, height, width] each")
            if map_.ndim != 4:
                raise ValueError(f"{whose} maps of shape {tuple(map_.shape)}: give [batch, channels, height, width].")
    student_shapes = [tuple(features.shape) for features in student_features]
    teacher_shapes = [tuple(features.shape) for features in teacher_features]
    if not student_shapes or student_shapes != teacher_shapes:
        raise ValueError(f"Student maps {student_shapes} and teacher maps {teacher_shapes} must have equal shapes.")
    losses = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        student, teacher = at_least_float32(student), at_least_float32(teacher.detach())
        loss, weight, total_weight = mse_of_each(student, teacher), 1.0, 1.0
        for grid in (4, 2, 1):
            if grid >= student.shape[2]:
                continue
            weight /= 2
            total_weight += weight
            pooled = F.adaptive_avg_pool2d(student, grid), F.adaptive_avg_pool2d(teacher, grid)
            loss = loss + weight * mse_of_each(*pooled)
        losses.append(loss / total_weight)
    return reduced(torch.stack(losses).sum(0), reduction)


class AttentionBasedFusion(nn.Module):
    """
    One step of the review (Sec. 3.3, ABF): a student map is fused with what was gathered from the deeper levels, by
    attention over the two, and turned into a map of the teacher's shape.

    Args:
        in_channels (`int`): Channels of the student's map.
        mid_channels (`int`): Channels of what is passed on to the shallower level.
        out_channels (`int`): Channels of the teacher's map.
        fuses (`bool`): `False` for the deepest level, which has nothing to be fused with.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, *, fuses: bool):
        super().__init__()
        self.project_in = nn.Sequential(
            nn.Conv2d(in_channels, mid_channels, 1, bias=False), nn.BatchNorm2d(mid_channels)
        )
        self.project_out = nn.Sequential(
            nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.attention = nn.Sequential(nn.Conv2d(2 * mid_channels, 2, 1), nn.Sigmoid()) if fuses else None
        for projection in (self.project_in, self.project_out):
            nn.init.kaiming_uniform_(projection[0].weight, a=1)  # type: ignore[arg-type]

    def forward(self, features: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The map to compare with the teacher's, of its `size`, and the fused map to pass on."""
        fused = self.project_in(features)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, fused.shape[2:], mode="nearest")
            own, other = self.attention(torch.cat([fused, deeper], dim=1)).split(1, dim=1)
            fused = own * fused + other * deeper
        if fused.shape[2:] != size:
            fused = F.interpolate(fused, size, mode="nearest")
        return self.project_out(fused), fused


class ReviewKDLoss(DistillationLoss):
    """
    [`hierarchical_context_loss`] between the teacher's maps and the student's fused ones, beside the student's
    cross-entropy. Terms: `cross_entropy`, `review`.

    The compared levels are the stages of both models and, last, the pooled features. The modules that fuse are trained
    with the student (`prepare` makes them, `parameters()` gives them) and are not part of it. Any model that returns
    `hidden_states` will do.

    Args:
        review_weight (`float`, *optional*, defaults to 1.0): Weight of the term.
        student_stages, teacher_stages (`Sequence[int]`, *optional*):
            Which `hidden_states` to compare, shallow to deep, equally many. `None` takes all after the first (the stem
            or the embeddings); where one model has more than the other, those at the same relative depth.
        student_relu (`bool`, *optional*):
            Whether the student's maps are compared after their ReLU. `None` applies it where the student's hidden
            states lack it (`hidden_states_before_relu`), as in the authors' CIFAR-100 code. The teacher's are taken as
            they are.
        kwargs: `ce_weight`, `ce`, `class_counts`, `warmup_epochs` and the rest of [`DistillationLoss`]. The authors
            warm up over 20 epochs on CIFAR-100 ([`~ReviewKDLoss.for_pair`] does).

    Raises:
        `ValueError`: if `review_weight` is negative or the numbers of stages differ.
    """

    needs_hidden_states = True

    def __init__(
        self,
        *,
        review_weight: float = 1.0,
        student_stages: Sequence[int] | None = None,
        teacher_stages: Sequence[int] | None = None,
        student_relu: bool | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_not_negative(review_weight=review_weight)
        if student_stages is not None and teacher_stages is not None and len(student_stages) != len(teacher_stages):
            raise ValueError(
                f"student_stages={list(student_stages)} and teacher_stages={list(teacher_stages)} must be equally "
                "many: each stage of the one is compared with a stage of the other."
            )
        self.review_weight, self.student_relu = review_weight, student_relu
        self.student_stages, self.teacher_stages = student_stages, teacher_stages
        self.fusion = nn.ModuleList()  # shallow to deep; made by prepare()

    def hyper_parameters(self) -> dict[str, Any]:
        return values_of(
            review_weight=self.review_weight,
            student_stages=self.student_stages,
            teacher_stages=self.teacher_stages,
            student_relu=self.student_relu,
            **super().hyper_parameters(),
        )

    def prepare(self, student: nn.Module, teacher: nn.Module, pixel_values: Tensor | None = None) -> None:
        """
        Makes the fusion modules for these two models, with fresh weights; arguments as in [`DistillationLoss`].

        Raises:
            `ValueError`: if a model returns no hidden states, or there is no such stage.
        """
        _, student_maps = try_model(student, pixel_values)
        _, teacher_maps = try_model(teacher, pixel_values)
        self._stages = _matched_stages(len(student_maps), len(teacher_maps), self.student_stages, self.teacher_stages)
        self._student_relu = before_relu(student) if self.student_relu is None else self.student_relu
        self._pools_after_relu = before_relu(student), before_relu(teacher)
        student_levels, teacher_levels = self._levels(student_maps, teacher_maps)
        in_channels = [level.shape[1] for level in student_levels]
        mid_channels = min(512, in_channels[-1])
        self.fusion = nn.ModuleList(
            AttentionBasedFusion(channels, mid_channels, target.shape[1], fuses=level < len(in_channels) - 1)
            for level, (channels, target) in enumerate(zip(in_channels, teacher_levels, strict=True))
        ).to(student_maps[-1].device)

    def distillation_terms(self, student_outputs, teacher_outputs, labels, step_statistics) -> dict[str, Tensor]:
        if len(self.fusion) == 0:
            raise ValueError(
                "ReviewKDLoss has no fusion modules yet: call loss.prepare(student, teacher) before the optimizer is "
                "made (DistillationTrainer does)."
            )
        student_levels, teacher_levels = self._levels(feature_maps(student_outputs), feature_maps(teacher_outputs))
        reviewed, deeper = [], None
        for fusion, features, target in zip(
            reversed(self.fusion), reversed(student_levels), reversed(teacher_levels), strict=True
        ):
            output, deeper = fusion(features, deeper, target.shape[2:])
            reviewed.append(output)
        loss = hierarchical_context_loss(reviewed, teacher_levels[::-1], reduction="none")
        return {"review": self.review_weight * loss}

    def _levels(self, student_maps: list[Tensor], teacher_maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The compared stages of both, and the pooled features as a last map of 1 × 1."""
        student_stages, teacher_stages = self._stages
        student = [student_maps[i].relu() if self._student_relu else student_maps[i] for i in student_stages]
        teacher = [teacher_maps[i] for i in teacher_stages]
        student_pool, teacher_pool = self._pools_after_relu
        return (
            [*student, final_map(student_maps, student_pool).mean((2, 3), keepdim=True)],
            [*teacher, final_map(teacher_maps, teacher_pool).mean((2, 3), keepdim=True)],
        )


def _matched_stages(
    student_count: int, teacher_count: int, student_stages: Any, teacher_stages: Any
) -> tuple[list[int], list[int]]:
    """Indices of the hidden states to compare; see the arguments of [`ReviewKDLoss`]."""
    given = [None if stages is None else list(stages) for stages in (student_stages, teacher_stages)]
    matched = []
    for stages, count in zip(given, (student_count, teacher_count), strict=True):
        if stages is None:
            levels = min([len(s) for s in given if s is not None] or [student_count - 1, teacher_count - 1])
            stages = [(level + 1) * (count - 1) // levels for level in range(levels)]
        if not stages or min(stages) < 0 or max(stages) >= count or sorted(set(stages)) != stages:
            raise ValueError(
                f"The stages {stages} cannot be taken from {count} hidden states: give indices from 0 to {count - 1}, "
                "shallow to deep."
            )
        matched.append(stages)
    return matched[0], matched[1]
