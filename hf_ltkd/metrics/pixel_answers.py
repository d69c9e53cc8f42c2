"""A segmentation model's answers to a test set: its IoU, how sure that is, and whether it beats another's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..groups import ClassGroups
from .answers import LEVEL, RESAMPLES
from .group_mean_iou.group_mean_iou import iou_scores


FEWEST_IMAGES = 20  # of fewer, resampled images vary less than new ones would


@dataclass(frozen=True)
class PixelAnswers:
    """
    What a model says of the pixels of images whose masks are known. Beside [`Answers`], which it stands in for, it
    knows images: pixels of one image are not independent, so that intervals resample images.

    Attributes:
        confusion (`np.ndarray` of shape `[classes, classes]`): Pixels of each class (row) that are taken for each.
        counts (`np.ndarray` of shape `[images, 3, classes]`): Pixels of each class in each image that are right, that
            are of the class, and that are taken for it; images in the order of the test set.
    """

    confusion: np.ndarray
    counts: np.ndarray

    def scores(self, groups: ClassGroups) -> dict[str, float | None]:
        """`mean_iou`, `accuracy`, `balanced_accuracy`, `{group}_iou`, `{group}_accuracy`; `None` without a pixel."""
        scores = iou_scores(self.confusion, groups.group_of_class.numpy(), groups.names)
        return {
            name: None if np.isnan(value) else value
            for name, value in scores.items()
            if name not in ("class_iou", "class_accuracy")
        }

    def intervals(self, groups: ClassGroups) -> dict[str, list[float] | None]:
        """
        The 95 % interval of each score: percentiles of 1,000 resamples of the images, seeded. `None` of fewer than 20
        images, of which these would be too narrow.
        """
        return {name: self._ends(values) for name, values in self._resampled(groups).items()}

    def differences(self, other: "PixelAnswers", groups: ClassGroups) -> dict[str, list[float] | None]:
        """
        By how much each score is above that of `other`, who answered the same images: `[difference, low, high]`, with
        the 95 % interval over the same resamples as in [`~PixelAnswers.intervals`].

        Raises:
            `ValueError`: if the images are others.
        """
        if not np.array_equal(self.counts[:, 1], other.counts[:, 1]):
            raise ValueError("The answers are to other images: compare models on the same ones, in the same order.")
        ours, theirs = self.scores(groups), other.scores(groups)
        mine, others = self._resampled(groups), other._resampled(groups)
        found: dict[str, list[float] | None] = {}
        for name, value in ours.items():
            ends, instead = self._ends(mine[name] - others[name]), theirs[name]
            found[name] = None if ends is None or value is None or instead is None else [value - instead, *ends]
        return found

    def _resampled(self, groups: ClassGroups) -> dict[str, np.ndarray]:
        """Each score of [`~PixelAnswers.scores`] of 1,000 resamples of the images."""
        images = len(self.counts)
        weights = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), RESAMPLES)
        right, true, taken = np.moveaxis(np.tensordot(weights, self.counts, 1), 1, 0)  # [resamples, classes] each
        every, group_of_class = np.ones(groups.num_classes, bool), groups.group_of_class.numpy()
        members = {"": every, **{f"{name}_": group_of_class == g for g, name in enumerate(groups.names)}}
        with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0: the class is not in the resample
            iou, accuracy = right / (true + taken - right), right / true
            found = {f"{name or 'mean_'}iou": _mean(iou[:, of]) for name, of in members.items()}
            found |= {f"{name}accuracy": right[:, of].sum(1) / true[:, of].sum(1) for name, of in members.items()}
        return {**found, "balanced_accuracy": _mean(accuracy)}

    def _ends(self, values: np.ndarray) -> list[float] | None:
        known = values[~np.isnan(values)]
        if len(self.counts) < FEWEST_IMAGES or not len(known):
            return None
        return [float(end) for end in np.percentile(known, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])]

    @property
    def chance(self) -> float:
        """The part of right pixels, if they were drawn at random, each class as often as this model gives it."""
        return float(self.confusion.sum(0) @ self.confusion.sum(1)) / float(self.confusion.sum()) ** 2

    @property
    def right(self) -> float:
        """The part of right pixels."""
        return float(self.confusion.trace() / self.confusion.sum())

    @property
    def at_chance(self) -> bool:
        """Whether no more pixels are right than by chance: a model that gives all of them one class, for instance."""
        return self.right <= self.chance + 1e-12

    def describe(self, who: str = "It") -> str:
        """How right it is; said where that may be chance."""
        told = "cannot be told from chance" if self.at_chance else "is better than chance"
        return (
            f"{who} {told}: {self.right:.1%} of its {self.confusion.sum():,} pixels are right, {self.chance:.1%} "
            "would be if they were drawn at random."
        )

    def class_report(self, groups: ClassGroups, names: Sequence[str]) -> list[dict[str, Any]]:
        """
        IoU, accuracy (the part of its pixels that are found) and precision of each class, and how many test pixels
        (`support`) they are of; `None` where it is not measured.
        """
        right, true, taken = self.confusion.diagonal(), self.confusion.sum(1), self.confusion.sum(0)
        counts = groups.class_counts or [None] * groups.num_classes

        def part(of: int, whole: int) -> float | None:
            return float(of / whole) if whole else None

        return [
            {
                "class": names[c],
                "group": groups.names[int(groups.group_of_class[c])],
                "training_pixels": counts[c],
                "iou": part(right[c], true[c] + taken[c] - right[c]),
                "accuracy": part(right[c], true[c]),
                "precision": part(right[c], taken[c]),
                "support": int(true[c]),
            }
            for c in range(groups.num_classes)
        ]


def counts_of(confusions: np.ndarray) -> np.ndarray:
    """`[images, 3, classes]` of confusion matrices `[images, classes, classes]`: see [`PixelAnswers`]."""
    return np.stack([np.diagonal(confusions, axis1=1, axis2=2), confusions.sum(2), confusions.sum(1)], axis=1)


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the classes (the last axis) that are there; NaN where none is."""
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(-1) / known.sum(-1)
