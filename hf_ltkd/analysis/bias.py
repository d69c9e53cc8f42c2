"""
How biased a teacher is (Sec. 3.2 and Fig. 3 of the LTKD paper), and where a student's loss goes (Eq. 8).

Of a model that gives each pixel a class, the examples are the pixels whose label is a class (not 255 or -100). Logits
are brought to the size of the labels (bilinear), an image at a time, as by [`mean_iou`]; sums are kept, no pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import default_data_collator

from ..groups import ClassGroups
from ..losses.checks import IGNORED_LABEL, at_least_float32, logits_of
from ..losses.ltkd import kl_decomposition, ltkd_loss
from ..metrics import answers_of, mean_iou
from ..metrics.answers import Answers
from ..metrics.pixel_answers import PixelAnswers, counts_of
from ..utils import placed_for, student_inputs, teacher_inputs


@dataclass(frozen=True)
class GroupReport:
    """
    A model's answers to a set of images, by group.

    Attributes:
        accuracy (`dict`): `accuracy` and `{group}_accuracy`, fractions; `None` for a group without an image.
        probability (`list[float]`): The share of the model's probability that each group gets; they sum to 1.
        images (`list[int]`): Images of each group; pixels, where each has a class.
        answers ([`Answers`] or [`PixelAnswers`]): The answers themselves, whose `scores` have the IoU of pixels.
    """

    accuracy: dict[str, float | None]
    probability: list[float]
    images: list[int]
    answers: Answers | PixelAnswers

    @property
    def favour(self) -> list[float | None]:
        """
        `probability` over the group's share of the images: 1 without a bias, below 1 where too little is given; `None`
        for a group without an image.
        """
        total = sum(self.images)
        return [p * total / n if n else None for p, n in zip(self.probability, self.images, strict=True)]


def group_report(model: nn.Module, dataset: Dataset, groups: ClassGroups, *, batch_size: int = 64) -> GroupReport:
    """
    Asks a model for every image once. Balanced images show the bias that training on long-tailed ones has left.

    Args:
        model (`torch.nn.Module`): A teacher or a student; its mode is left in eval.
        dataset (`torch.utils.data.Dataset`): Gives the model's inputs and `labels`, for instance [`ImageDataset`], or
            [`SegmentationDataset`] for a model that gives each pixel a class.
            Where items hold pixels for both, the teacher's are taken: give `dataset.for_student()` for a student.
        groups ([`ClassGroups`]): The groups of the classes.
        batch_size (`int`, *optional*, defaults to 64): Images that the model is asked for at once.
    """
    answered: list[Answers] = []
    confusions: list[np.ndarray] = []  # of each image
    mass = torch.zeros(groups.num_groups, dtype=torch.float64)
    metric = mean_iou(groups)
    loader: DataLoader = DataLoader(dataset, batch_size, collate_fn=default_data_collator)
    for labels, logits in _answers([model], loader):
        mass += _mass(labels, logits, groups).cpu()
        if logits[0].ndim == 4:
            of_images = metric.confusions(logits[0], labels).cpu().numpy()
            confusions.append(of_images.reshape(-1, groups.num_classes, groups.num_classes))
        else:
            answered.append(answers_of(logits[0], labels, groups.num_classes))
    answers: Answers | PixelAnswers
    if confusions:
        answers = PixelAnswers(sum(c.sum(0) for c in confusions), np.concatenate([counts_of(c) for c in confusions]))
        examples = answers.confusion.sum(1)
    else:
        answers = Answers.joined(answered)
        examples = np.bincount(answers.labels, minlength=groups.num_classes)
    scores = answers.scores(groups)
    accuracy = {name: scores[name] for name in ("accuracy", *(f"{group}_accuracy" for group in groups.names))}
    images = np.bincount(groups.group_of_class.numpy(), examples, groups.num_groups).astype(int)
    return GroupReport(accuracy, (mass / mass.sum()).tolist(), images.tolist(), answers)


def teacher_group_mass(
    teacher: nn.Module,
    dataset: Dataset,
    groups: ClassGroups,
    *,
    batch_size: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    max_batches: int | None = None,
) -> Tensor:
    """
    The sums of `p_Gᵀ` over each shuffled batch (Eq. 9), in the unit of Fig. 3: a row sums to `batch_size`, or to the
    batch's pixels that have a class.

    Args:
        teacher (`torch.nn.Module`): The teacher; its mode is left in eval.
        dataset (`torch.utils.data.Dataset`): Gives the model's inputs and `labels`, for instance [`ImageDataset`].
        groups ([`ClassGroups`]): The groups of the classes.
        batch_size (`int`, *optional*, defaults to 64): The paper's. A last, smaller batch is left out.
        temperature (`float`, *optional*, defaults to 1.0): The teacher's logits are divided by it.
        seed (`int`, *optional*, defaults to 0): Of the order of the examples.
        max_batches (`int`, *optional*, defaults to all): Batches to stop after.

    Returns:
        `torch.Tensor` of shape `[batches, groups]`.
    """
    loader = _shuffled(dataset, batch_size, seed)
    batches = islice(_answers([teacher], loader), max_batches)
    return torch.stack([_mass(labels, logits, groups, temperature) for labels, logits in batches]).float().cpu()


@dataclass(frozen=True)
class LossParts:
    """
    The parts that Eq. 8 splits a student's loss into: means over images or pixels, without `alpha`, `beta` and `T²`.

    Attributes:
        cross (`float`): `KL(p_Gᵀ ‖ p_Gˢ)` (Eq. 6).
        rebalanced_cross (`float`): The same with the teacher's side calibrated over each batch (Eq. 9 to 11).
        within (`list[float]`): `KL(p̃_Gᵀ ‖ p̃_Gˢ)` of each group (Eq. 7).
        weighted_within (`list[float]`): The same times `p_Gᵀ`, as it stands in KD's loss (Eq. 8).
    """

    cross: float
    rebalanced_cross: float
    within: list[float]
    weighted_within: list[float]

    def kd_shares(self) -> list[float]:
        """What part of KD's loss is cross-group, and within each group (Eq. 8); they sum to 1."""
        return _shares([self.cross, *self.weighted_within])

    def ltkd_shares(self, alpha: float, beta: float) -> list[float]:
        """The same for LTKD (Eq. 14)."""
        return _shares([alpha * self.rebalanced_cross, *(beta * within for within in self.within)])


def loss_parts(
    teacher: nn.Module,
    dataset: Dataset,
    groups: ClassGroups,
    *,
    student: nn.Module | None = None,
    temperature: float = 4.0,
    batch_size: int = 64,
    seed: int = 0,
    max_batches: int | None = None,
) -> LossParts:
    """
    Where the loss of a student would go: the parts of Eq. 8, averaged over shuffled batches.

    Args:
        teacher (`torch.nn.Module`): The teacher; its mode is left in eval.
        dataset (`torch.utils.data.Dataset`): The training images: gives the model's inputs and `labels`.
        groups ([`ClassGroups`]): The groups of the classes.
        student (`torch.nn.Module`, *optional*): A student, left in eval mode. `None` is one that knows nothing yet and
            gives every class the same probability.
        temperature (`float`, *optional*, defaults to 4.0): Both logits are divided by it.
        batch_size (`int`, *optional*, defaults to 64): Eq. 9 sums over it. A last, smaller batch is left out.
        seed (`int`, *optional*, defaults to 0): Of the order of the examples.
        max_batches (`int`, *optional*, defaults to all): Batches to stop after.
    """
    models = [teacher] if student is None else [teacher, student]
    sums, count = torch.zeros(2 + 2 * groups.num_groups, dtype=torch.float64), 0
    for labels, logits in islice(_answers(models, _shuffled(dataset, batch_size, seed)), max_batches):
        mass = _mass(labels, logits, groups, temperature)
        for teacher_rows, *others in _rows(labels, logits):
            rows = others[0] if others else torch.zeros_like(teacher_rows)
            kl = kl_decomposition(rows, teacher_rows, groups, temperature=temperature)
            how: dict[str, Any] = {"temperature": temperature, "group_mass": mass, "reduction": "none"}
            rebalanced = ltkd_loss(rows, teacher_rows, groups, alpha=1, beta=0, **how) / temperature**2
            parts = [kl.cross[:, None], rebalanced[:, None], kl.within, kl.teacher_group_probs * kl.within]
            sums += torch.cat(parts, dim=1).double().sum(0).cpu()
            count += len(rows)
    cross, rebalanced_cross, *within = (sums / count).tolist()
    return LossParts(cross, rebalanced_cross, within[: groups.num_groups], within[groups.num_groups :])


def _shares(parts: list[float]) -> list[float]:
    return [part / (sum(parts) or 1.0) for part in parts]


def _shuffled(dataset: Dataset, batch_size: int, seed: int) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        drop_last=len(dataset) >= batch_size,  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(seed),
        collate_fn=default_data_collator,
    )


def _mass(labels: Tensor, logits: Sequence[Tensor], groups: ClassGroups, temperature: float = 1.0) -> Tensor:
    """Eq. 9's sums of `p_G` over a batch by the first model, `[groups]`, in float64."""
    sums = torch.zeros(groups.num_groups, dtype=torch.float64, device=logits[0].device)
    for [rows] in _rows(labels, logits[:1]):
        of_class = (rows / temperature).softmax(1).sum(0).double()
        sums.index_add_(0, groups.group_of_class.to(of_class.device), of_class)
    return sums


def _rows(labels: Tensor, logits: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The logits of each model as `[examples, classes]`: of a batch, or of the pixels of one image after another."""
    if logits[0].ndim == 2:
        yield [*logits]
        return
    for mask, *maps in zip(labels, *logits, strict=True):
        counts = (mask != IGNORED_LABEL).to(maps[0].device)
        if counts.any():
            full = (F.interpolate(one[None], mask.shape, mode="bilinear", align_corners=False) for one in maps)
            yield [one[0][:, counts].t() for one in full]


@torch.no_grad()
def _answers(models: Sequence[nn.Module], loader: DataLoader) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Labels of each batch, and the logits of each model, finite: of a teacher, and perhaps its student."""
    for model in models:
        model.eval()
    for batch in loader:
        labels = batch.pop("labels")
        logits = []
        for model, seen in zip(models, (teacher_inputs(batch), student_inputs(batch)), strict=False):
            logits.append(at_least_float32(logits_of(model(**placed_for(model, seen)))))
            if not torch.isfinite(logits[-1]).all():
                raise FloatingPointError(
                    f"The {type(model).__name__} gives logits of NaN or Inf, which are of no class: it is broken, or "
                    "its inputs are; train it again, or take another checkpoint."
                )
        if logits[0].ndim == 4:  # 255, or what else is ignored, is no class
            labels = labels.masked_fill((labels < 0) | (labels >= logits[0].shape[1]), IGNORED_LABEL)
        yield labels, logits
