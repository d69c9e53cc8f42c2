"""Guo et al.: Class Attention Transfer Based Knowledge Distillation (CVPR 2023). https://arxiv.org/abs/2304.12777"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils import check_number
from .base import DistillationLoss, values_of
from .checks import at_least_float32, check_not_negative, check_tensor, reduced
from .features import before_relu, feature_maps, final_map, mse_of_each, try_model


def class_attention_loss(
    student_maps: Tensor,
    teacher_maps: Tensor,
    *,
    resolution: int = 2,
    normalize: bool = True,
    reduction: str = "mean",
) -> Tensor:
    """
    The mean-squared difference of class activation maps, pooled to a small grid.

    Args:
        student_maps, teacher_maps (`torch.Tensor` of shape `[batch, classes, height, width]`):
            One map per class; height and width may differ. fp16 and bf16 are computed in float32. No gradient flows to
            the teacher.
        resolution (`int`, *optional*, defaults to 2): Side of the grid that both are pooled to.
        normalize (`bool`, *optional*, defaults to `True`): Whether each pooled map is divided by its L2 norm.
        reduction (`str`, *optional*, defaults to `"mean"`): `"none"` gives the loss of each example.

    Returns:
        `torch.Tensor`: a scalar, the mean over batch, classes and grid, or `[batch]`.

    Raises:
        `ValueError`: if the maps are not four-dimensional or differ in batch or classes, or `resolution < 1`.
    """
    for whose, maps in (("Student", student_maps), ("Teacher", teacher_maps)):
        check_tensor(f"{whose} maps", maps, "[batch, classes, height, width]")
    if student_maps.ndim != 4 or teacher_maps.ndim != 4 or student_maps.shape[:2] != teacher_maps.shape[:2]:
        raise ValueError(
            f"Student maps {tuple(student_maps.shape)} and teacher maps {tuple(teacher_maps.shape)} do not fit: both "
            "must be [batch, classes, height, width] over the same classes."
        )
    check_number("resolution", resolution, 1, whole=True)
    student = F.adaptive_avg_pool2d(at_least_float32(student_maps), resolution)
    teacher = F.adaptive_avg_pool2d(at_least_float32(teacher_maps.detach()), resolution)
    if normalize:
        student, teacher = F.normalize(student.flatten(2), dim=2), F.normalize(teacher.flatten(2), dim=2)
    return reduced(mse_of_each(student, teacher), reduction)


class CATKDLoss(DistillationLoss):
    """
    [`class_attention_loss`] beside the student's cross-entropy. Terms: `cross_entropy`, `class_attention`.

    The method turns the linear head of both models into a 1 × 1 convolution without bias before the pooling, whose
    outputs are the class activation maps. Convolution and average pooling commute, so the student stays as it is here:
    its maps are its last feature map convolved with its head's weights, and what is published predicts what was
    trained. The student's head loses its bias as the authors' does: `prepare` sets it to 0 and freezes it.

    Works with models whose head is a linear layer on the average-pooled last feature map: all of [`create_model`] and
    Transformers' ResNets. ConvNeXt normalises between pooling and head and ViT classifies by a class token, so they
    have no exact class activation maps.

    Args:
        cat_weight (`float`, *optional*, defaults to 1.0): Weight of the term.
        resolution (`int`, *optional*, defaults to 2): See [`class_attention_loss`].
        normalize (`bool`, *optional*, defaults to `True`): See [`class_attention_loss`].
        kwargs: `ce_weight`, `ce`, `class_counts`, `warmup_epochs` and the rest of [`DistillationLoss`].
    """

    needs_hidden_states = True

    def __init__(self, *, cat_weight: float = 1.0, resolution: int = 2, normalize: bool = True, **kwargs):
        super().__init__(**kwargs)
        check_not_negative(cat_weight=cat_weight)
        check_number("resolution", resolution, 1, whole=True)
        self.cat_weight, self.resolution, self.normalize = cat_weight, resolution, normalize
        # A tuple, not submodules: the heads belong to the models, not to the loss.
        self._heads: tuple[nn.Linear, nn.Linear] | None = None

    def hyper_parameters(self) -> dict[str, Any]:
        return values_of(
            cat_weight=self.cat_weight,
            resolution=self.resolution,
            normalize=self.normalize,
            **super().hyper_parameters(),
        )

    def prepare(self, student: nn.Module, teacher: nn.Module, pixel_values: Tensor | None = None) -> None:
        """
        Finds the heads of both models, and sets the bias of the student's to 0 and freezes it; arguments as in
        [`DistillationLoss`].

        Raises:
            `ValueError`: if a model returns no hidden states, or its head is not a linear layer on its pooled last
            map.
        """
        self._heads = _find_head(student, pixel_values), _find_head(teacher, pixel_values)
        self._pools_after_relu = before_relu(student), before_relu(teacher)
        if self._heads[0].bias is not None:
            self._heads[0].bias.requires_grad_(False).zero_()

    def distillation_terms(self, student_outputs, teacher_outputs, labels, step_statistics) -> dict[str, Tensor]:
        if self._heads is None:
            raise ValueError(
                "CATKDLoss does not know the models' heads yet: call loss.prepare(student, teacher) before the "
                "optimizer is made (DistillationTrainer does)."
            )
        student_maps, teacher_maps = (
            _class_maps(final_map(feature_maps(outputs), apply_relu), head)
            for outputs, apply_relu, head in zip(
                (student_outputs, teacher_outputs), self._pools_after_relu, self._heads, strict=True
            )
        )
        loss = class_attention_loss(
            student_maps, teacher_maps, resolution=self.resolution, normalize=self.normalize, reduction="none"
        )
        return {"class_attention": self.cat_weight * loss}


def _class_maps(features: Tensor, head: nn.Linear) -> Tensor:
    """The head as a 1 × 1 convolution without bias: `[batch, classes, height, width]`."""
    return F.conv2d(features, head.weight.to(features.dtype)[:, :, None, None])


@torch.no_grad()
def _find_head(model: nn.Module, pixel_values: Tensor | None) -> nn.Linear:
    logits, maps = try_model(model, pixel_values)
    features = final_map(maps, before_relu(model))
    fitting = (features.shape[1], logits.shape[1])
    for head in model.modules():
        if isinstance(head, nn.Linear) and (head.in_features, head.out_features) == fitting:
            rebuilt = _class_maps(features, head).mean((2, 3))
            rebuilt = rebuilt if head.bias is None else rebuilt + head.bias
            tolerance = 1e-3 if head.weight.dtype == torch.float32 else 0.1
            if torch.allclose(rebuilt.to(logits), logits, rtol=tolerance, atol=tolerance):
                return head
    raise ValueError(
        f"{type(model).__name__} has no exact class activation maps, which CAT-KD compares: that takes a linear head "
        "on the average-pooled last feature map, as in the networks of create_model and in Transformers' ResNets."
    )
