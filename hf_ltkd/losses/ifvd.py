"""
Wang et al.: Intra-class Feature Variation Distillation for Semantic Segmentation (ECCV 2020).
https://www.ecva.net/papers/eccv_2020/papers_ECCV/papers/123520341.pdf
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import DistillationLoss, values_of
from .checks import (
    at_least_float32,
    check_classes,
    check_logits,
    check_not_negative,
    check_tensor,
    logits_of,
    reduced,
    select_valid,
)


def intra_class_variation_loss(student_maps: Tensor, teacher_maps: Tensor, labels: Tensor) -> Tensor:
    """
    The mean over pixels of `(mˢ - mᵀ)²` (Eq. 2), with `m` the cosine of a pixel's features and the mean of those of
    its class in its image (Eq. 1): how much a class varies, whatever the features are.

    Args:
        student_maps, teacher_maps (`torch.Tensor` of shape `[batch, channels, height, width]`):
            Features, each of as many channels as it has, or logits. fp16 and bf16 are computed in float32. No gradient
            flows to the teacher.
        labels (`torch.Tensor` of shape `[batch, height, width]`, int64): Class ids; pixels of -100 are left out.

    Returns:
        `torch.Tensor`: a scalar, 0 without any pixel.

    Raises:
        `ValueError`: if the shapes do not fit, or a pixel has soft labels or the label -1.
    """
    for whose, maps in (("Student", student_maps), ("Teacher", teacher_maps)):
        check_tensor(f"{whose} maps", maps, "[batch, channels, height, width]")
        if maps.ndim != 4:
            raise ValueError(
                f"{whose} maps have the shape {tuple(maps.shape)}: give [batch, channels, height, width]."
            )
    check_classes("IFVD", labels)
    rows = (at_least_float32(maps).permute(0, 2, 3, 1) for maps in (student_maps, teacher_maps.detach()))
    image_ids = torch.arange(len(labels), device=labels.device)
    labels, student, teacher, columns = select_valid(labels, *rows, {"image_ids": image_ids})
    _, parts = torch.stack([columns["image_ids"], labels]).unique(dim=1, return_inverse=True)
    return reduced(_differences(student, teacher, parts, len(labels)), "mean")


def _differences(student: Tensor, teacher: Tensor, parts: Tensor, count: int, times: Tensor | None = None) -> Tensor:
    """
    Eq. 2's summands, `[pixels]`, of features `[pixels, channels]` of which each belongs to one of `count` parts, a
    class in an image. A pixel is there so many `times`, `[pixels]`; by default once.
    """
    likeness = []
    for features in (student, teacher):
        weighted = features if times is None else features * times.to(features)[:, None]
        sums = features.new_zeros(count, features.shape[1]).index_add(0, parts, weighted)
        likeness.append(F.cosine_similarity(features, sums[parts], dim=1))  # a cosine has no use for the counts
    return (likeness[0] - likeness[1]).square()


class IFVDLoss(DistillationLoss):
    """
    [`intra_class_variation_loss`] on the logits of segmentation models beside the student's cross-entropy. Terms:
    `cross_entropy`, `intra_class_variation`.

    The authors compare the features below the last layer, which models of different families keep in different places;
    here it is logits, the one map that all have. Pixels without a class are left out (in the authors' code they are
    zeros of the mean).

    Args:
        ifvd_weight (`float`, *optional*, defaults to 200.0):
            Weight of the term, `--lambda-ifv` in options.py of YukangWang/IFVD: for features, beside KD of weight 10.
        kwargs: `ce_weight`, `ce`, `class_counts`, `warmup_epochs` and the rest of [`DistillationLoss`].
    """

    needs_labels = True
    needs_pixels = True

    def __init__(self, *, ifvd_weight: float = 200.0, **kwargs):
        super().__init__(**kwargs)
        check_not_negative(ifvd_weight=ifvd_weight)
        self.ifvd_weight = ifvd_weight

    def hyper_parameters(self) -> dict[str, Any]:
        return values_of(ifvd_weight=self.ifvd_weight, **super().hyper_parameters())

    def distillation_terms(
        self, student_outputs, teacher_outputs, labels, step_statistics, sample_weights=None, image_ids=None
    ) -> dict[str, Tensor]:
        student, teacher = check_logits(logits_of(student_outputs), logits_of(teacher_outputs))
        parts, count = labels, student.shape[1]
        if image_ids is not None:
            parts, count = image_ids * count + labels, (int(image_ids.max()) + 1) * count
        differences = _differences(student, teacher, parts, count, sample_weights)
        return {"intra_class_variation": self.ifvd_weight * differences}
