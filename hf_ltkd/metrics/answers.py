"""A classifier's answers to a test set: how right it is, how sure that is, and whether it beats another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..groups import ClassGroups


LEVEL = 0.95  # of every interval


@dataclass(frozen=True)
class Answers:
    """
    What a classifier says of examples whose class is known.

    Attributes:
        labels, predictions (`np.ndarray` of shape `[examples]`): Class ids, in the order of the test set.
    """

    labels: np.ndarray
    predictions: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """A mask of the right answers."""
        return self.labels == self.predictions

    @property
    def chance(self) -> float:
        """The accuracy of answers that are drawn at random, each class as often as this classifier gives it."""
        size = 1 + int(max(self.labels.max(), self.predictions.max()))
        labels, predictions = (np.bincount(ids, minlength=size) for ids in (self.labels, self.predictions))
        return float(labels @ predictions) / len(self.labels) ** 2

    @property
    def at_chance(self) -> bool:
        """Whether the accuracy may be chance: a binomial test against `chance` gives more than 5 %."""
        from scipy.stats import binomtest

        test = binomtest(int(self.correct.sum()), len(self.labels), self.chance, "greater")
        return bool(test.pvalue > 1 - LEVEL)

    def describe(self, who: str = "It") -> str:
        """How right it is; said where that may be chance."""
        told = "cannot be told from chance" if self.at_chance else "is better than chance"
        return (
            f"{who} {told}: {self.correct.mean():.1%} of its {len(self.labels):,} answers are right, "
            f"{self.chance:.1%} would be if they were drawn at random."
        )

    def masks(self, groups: ClassGroups) -> dict[str, np.ndarray]:
        """The examples behind each accuracy: `accuracy` and `{group}_accuracy`."""
        group = groups.group_of_class.numpy()[self.labels]
        by_group = {f"{name}_accuracy": group == index for index, name in enumerate(groups.names)}
        return {"accuracy": np.ones(len(self.labels), dtype=bool), **by_group}

    def intervals(self, groups: ClassGroups) -> dict[str, list[float] | None]:
        """Wilson's 95 % interval of each accuracy, `None` without an example."""
        right = {name: self.correct[mask] for name, mask in self.masks(groups).items()}
        return {name: [*wilson(int(r.sum()), len(r))] if len(r) else None for name, r in right.items()}

    def differences(self, other: "Answers", groups: ClassGroups) -> dict[str, list[float] | None]:
        """
        By how much each accuracy is above that of `other`, who answered the same examples: `[difference, low, high]`
        with a 95 % interval that leaves 0 out only where McNemar's exact test finds a difference; `None` without an
        example.

        Raises:
            `ValueError`: if the examples are others.
        """
        if not np.array_equal(self.labels, other.labels):
            raise ValueError("The answers are to other examples: compare models on the same ones, in the same order.")
        return {name: _paired(self.correct[m], other.correct[m]) for name, m in self.masks(groups).items()}

    def class_report(self, groups: ClassGroups, names: Sequence[str]) -> list[dict[str, Any]]:
        """
        Precision, recall and F1 of each class, and how many test images (`support`) they are of. A class without one
        is not measured, nor is the precision of a class that is never answered: `None`.
        """
        from sklearn.metrics import precision_recall_fscore_support

        ids = range(groups.num_classes)
        scores = precision_recall_fscore_support(self.labels, self.predictions, labels=ids, zero_division=np.nan)
        counts = groups.class_counts or [None] * groups.num_classes
        return [
            {
                "class": names[c],
                "group": groups.names[int(groups.group_of_class[c])],
                "training_images": counts[c],
                **{
                    score: None if support == 0 or np.isnan(value) else float(value)
                    for score, value in (("precision", precision), ("recall", recall), ("f1", f1))
                },
                "support": int(support),
            }
            for c, precision, recall, f1, support in zip(ids, *scores, strict=True)
        ]

    def confusion(self, num_classes: int) -> np.ndarray:
        """How often each class (row) is taken for each (column): `[classes, classes]`."""
        pairs = np.bincount(self.labels * num_classes + self.predictions, minlength=num_classes**2)
        return pairs.reshape(num_classes, num_classes)


def wilson(correct: int, examples: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy."""
    from scipy.stats import binomtest  # here: it takes half a second to import

    interval = binomtest(correct, examples).proportion_ci(LEVEL, "wilson")
    return float(interval.low), float(interval.high)


def newcombe(ours: float, theirs: float, examples: int, correlation: float = 0.0) -> list[float]:
    """
    `[difference, low, high]` of two accuracies on `examples` examples each: Newcombe's interval of 95 %, from Wilson's
    of both (Statistics in Medicine 17, 1998: page 873, method 10; on the same examples page 2635, method 8).

    Args:
        correlation (`float`, *optional*, defaults to 0.0): Of what is right on the same examples.
    """
    (low, high), (low2, high2) = (wilson(round(p * examples), examples) for p in (ours, theirs))
    difference = ours - theirs

    def length(a: float, b: float) -> float:
        return float(np.sqrt(max(0.0, a**2 - 2 * correlation * a * b + b**2)))

    return [
        difference,
        difference - length(ours - low, high2 - theirs),
        difference + length(high - ours, theirs - low2),
    ]


def _paired(ours: np.ndarray, theirs: np.ndarray) -> list[float] | None:
    """
    The difference of two accuracies on the same examples, with the wider of two intervals: Newcombe's, and that which
    follows from Clopper and Pearson's for how often ours is right where one alone is, as in McNemar's exact test.
    """
    from scipy.stats import binomtest

    if not len(ours):
        return None
    better, either = int((ours & ~theirs).sum()), int((ours != theirs).sum())
    if not either:
        return [0.0, 0.0, 0.0]
    constant = ours.all() or theirs.all() or not (ours.any() and theirs.any())
    correlation = 0.0 if constant else float(np.corrcoef(ours, theirs)[0, 1])
    difference, low, high = newcombe(ours.mean(), theirs.mean(), len(ours), correlation)
    part = binomtest(better, either).proportion_ci(LEVEL, "exact")
    exact = [(2 * float(p) - 1) * either / len(ours) for p in (part.low, part.high)]
    return [float(difference), min(float(low), exact[0]), max(float(high), exact[1])]


def is_settled(difference: Sequence[float] | None) -> bool:
    """Whether the interval of `[difference, low, high]` leaves 0 out."""
    return difference is not None and (difference[1] > 0 or difference[2] < 0)
