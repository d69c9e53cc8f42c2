"""Shu et al.: Channel-wise Knowledge Distillation for Dense Prediction (ICCV 2021). https://arxiv.org/abs/2011.13256"""

from typing import Any

import torch
from torch import Tensor

from .base import DistillationLoss, values_of
from .checks import check_logits, check_not_negative, check_same_shape, check_temperature, logits_of


def channel_wise_loss(student_maps: Tensor, teacher_maps: Tensor, *, temperature: float = 4.0) -> Tensor:
    """
    `T² · mean over images and channels of KL(pᵀ ‖ pˢ)`, with `p` the softmax of a channel's map over its pixels
    (Eq. 3 and 4): which pixels a class is found at, whatever the others are.

    Args:
        student_maps, teacher_maps (`torch.Tensor` of shape `[batch, channels, height, width]`):
            Logits, or features of equally many channels. fp16 and bf16 are computed in float32. No gradient flows to
            the teacher.
        temperature (`float`, *optional*, defaults to 4.0): `T`, as in [`CWDLoss`].

    Returns:
        `torch.Tensor`: a scalar.

    Raises:
        `ValueError`: if the shapes differ or `temperature` is not above 0.
    """
    check_temperature(temperature)
    check_same_shape("maps", student_maps, teacher_maps, "[batch, channels, height, width]", "of equal size")
    batch, channels, height, width = student_maps.shape
    image_ids = torch.arange(batch, device=student_maps.device).repeat_interleave(height * width)
    rows = (maps.permute(0, 2, 3, 1).reshape(-1, channels) for maps in (student_maps, teacher_maps))
    return _divergences(*check_logits(*rows), image_ids, temperature).sum() / (batch * channels)


def _divergences(
    student: Tensor, teacher: Tensor, image_ids: Tensor | None, temperature: Any, times: Tensor | None = None
) -> Tensor:
    """
    The summands of `T² · KL` of each pixel, `[pixels]`, for logits `[pixels, channels]`: over all channels. A pixel is
    in its image so many `times`, `[pixels]`; by default once.
    """
    student_log_probs = _log_softmax_over_images(student / temperature, image_ids, times)
    teacher_log_probs = _log_softmax_over_images(teacher / temperature, image_ids, times)
    return temperature**2 * (teacher_log_probs.exp() * (teacher_log_probs - student_log_probs)).sum(1)


def _log_softmax_over_images(logits: Tensor, image_ids: Tensor | None, times: Tensor | None) -> Tensor:
    """The logarithm of the softmax of each channel over the pixels of each image, `[pixels, channels]`."""
    if image_ids is None:
        return logits - (logits if times is None else logits + times.to(logits).log()[:, None]).logsumexp(0)
    images = int(image_ids.max()) + 1
    shape = images, logits.shape[1]
    maxima = logits.new_full(shape, -torch.inf)
    maxima = maxima.scatter_reduce(0, image_ids[:, None].expand_as(logits), logits.detach(), "amax")
    logits = logits - maxima[image_ids]
    summands = logits.exp() if times is None else logits.exp() * times.to(logits)[:, None]
    return logits - logits.new_zeros(shape).index_add(0, image_ids, summands).log()[image_ids]


class CWDLoss(DistillationLoss):
    """
    [`channel_wise_loss`] on the logits of segmentation models beside the student's cross-entropy. Terms:
    `cross_entropy`, `channel_wise`.

    The softmax is over the pixels that count: those without a class are left out, as they are of every other loss
    here (the authors' code takes them in). Images weigh equally over the whole optimizer step.

    Args:
        temperature (`float`, *optional*, defaults to 4.0): `T`.
        cwd_weight (`float`, *optional*, defaults to 3.0):
            Weight of the term. Both defaults are those of the authors' command for logits alone, `exp_cwd.sh channel
            kl 3 4` in the README of irfanICMLL/TorchDistiller.
        kwargs: `ce_weight`, `ce`, `class_counts`, `warmup_epochs` and the rest of [`DistillationLoss`].
    """

    needs_pixels = True

    def __init__(self, *, temperature: float = 4.0, cwd_weight: float = 3.0, **kwargs):
        super().__init__(**kwargs)
        check_temperature(temperature)
        check_not_negative(cwd_weight=cwd_weight)
        self.temperature, self.cwd_weight = temperature, cwd_weight

    def hyper_parameters(self) -> dict[str, Any]:
        return values_of(temperature=self.temperature, cwd_weight=self.cwd_weight, **super().hyper_parameters())

    def batch_statistics(self, teacher_outputs, labels, sample_weights=None, image_ids=None) -> Tensor:
        """
        How many images have a pixel that counts, and how many pixels there are: `[2]`; an image counts as often as it
        weighs. `image_ids=None`: all are of one.
        """
        weights = torch.ones(len(labels), device=labels.device) if sample_weights is None else sample_weights
        images = weights.mean() if image_ids is None else (weights / image_ids.bincount()[image_ids]).sum()
        return torch.stack([images, weights.sum()])

    def distillation_terms(
        self, student_outputs, teacher_outputs, labels, step_statistics, sample_weights=None, image_ids=None
    ) -> dict[str, Tensor]:
        images, pixels = step_statistics.sum(0)
        student, teacher = check_logits(logits_of(student_outputs), logits_of(teacher_outputs))
        times = sample_weights
        if times is not None and image_ids is not None:  # an image weighs the mean of its pixels' weights
            counts = image_ids.bincount()
            times = times / (times.new_zeros(len(counts)).index_add(0, image_ids, times) / counts)[image_ids]
        elif times is not None:
            times = times / times.mean()
        divergences = _divergences(student, teacher, image_ids, self.temperature, times) / student.shape[1]
        # A mean over pixels as every term is, whose sum over the step is that over images.
        return {"channel_wise": self.cwd_weight * pixels / images * divergences}
