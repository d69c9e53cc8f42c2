"""A classifier's answers to a test set: how right it is, how sure that is, and whether it beats another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..groups import ClassGroups
from .group_accuracy.group_accuracy import SHOTS, class_scores, scores_of_counts, shot_of_class


LEVEL = 0.95  # of every interval
RESAMPLES = 1000  # of a bootstrap
BOOTSTRAPPED = ("balanced_accuracy", "macro_f1")
CALIBRATION_ERROR = "expected_calibration_error"
# What is shown of a model beside the accuracy of each group, and what its column is called.
SCORES = {
    **{f"{shot}_accuracy": shot.replace("_shot", "") for shot in SHOTS},
    "balanced_accuracy": "balanced",
    "macro_f1": "macro-F1",
    "worst_class_accuracy": "worst",
    "harmonic_mean_accuracy": "harmonic",
    CALIBRATION_ERROR: "ECE",
}


@dataclass(frozen=True)
class Answers:
    """
    What a classifier says of examples whose class is known.

    Attributes:
        labels, predictions (`np.ndarray` of shape `[examples]`): Class ids, in the order of the test set.
        confidences (`np.ndarray` of shape `[examples]`, *optional*): The probability of each prediction.
    """

    labels: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray | None = None

    @classmethod
    def joined(cls, parts: Sequence["Answers"]) -> "Answers":
        """One after another; without confidences where a part has none."""
        labels, predictions = (np.concatenate([getattr(p, f) for p in parts]) for f in ("labels", "predictions"))
        sure = [part.confidences for part in parts if part.confidences is not None]
        return cls(labels, predictions, np.concatenate(sure) if len(sure) == len(parts) else None)

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
        """
        The examples behind each accuracy: `accuracy`, `{group}_accuracy`, and `many_shot_accuracy` and so on of each
        shot that has a class, where the training counts are known and the shots are neither the groups nor one alone.
        """
        partitions = [(groups.group_of_class.numpy(), groups.names)]
        if groups.class_counts is not None:
            shots = shot_of_class(groups.class_counts)
            if len({*shots}) > 1 and not np.array_equal(shots, partitions[0][0]):
                partitions.append((shots, SHOTS))
        masks = {"accuracy": np.ones(len(self.labels), dtype=bool)}
        for of_class, names in partitions:
            part = of_class[self.labels]
            masks |= {f"{names[index]}_accuracy": part == index for index in sorted({*of_class})}
        return masks

    def scores(self, groups: ClassGroups) -> dict[str, float | None]:
        """
        Each accuracy of [`~Answers.masks`], `None` without an example; where there is one, [`scores_of_counts`], in
        which every class counts alike; and [`calibration_error`], where confidences are known.
        """
        right = {name: self.correct[mask] for name, mask in self.masks(groups).items()}
        scores = {name: float(r.mean()) if len(r) else None for name, r in right.items()}
        if len(self.labels):
            scores |= class_scores(self.predictions, self.labels, groups.num_classes)
            if self.confidences is not None:
                scores[CALIBRATION_ERROR] = calibration_error(self.confidences, self.correct)
        return scores

    def intervals(self, groups: ClassGroups) -> dict[str, list[float] | None]:
        """
        The 95 % interval of each accuracy, `None` without an example, and those of balanced accuracy and macro-F1.

        An accuracy has Wilson's, which holds where few or no answers are right; a bootstrap would give no width there.
        Balanced accuracy and macro-F1 have a bootstrap's (percentiles of 1,000 resamples of all examples, seeded). The
        resamples are not stratified by class: within a class of one example nothing would vary. Worst class, harmonic
        mean and calibration error have none: their estimates are biased by few examples, and no bootstrap of them that
        we tried kept its level (on 200 examples of 10 classes it covered the truth in 88, 86 and 0 %).
        """
        right = {name: self.correct[mask] for name, mask in self.masks(groups).items()}
        wilsons = {name: [*wilson(int(r.sum()), len(r))] if len(r) else None for name, r in right.items()}
        return wilsons | self._bootstrap(groups.num_classes)

    def _bootstrap(self, num_classes: int) -> dict[str, list[float] | None]:
        """The 95 % interval of each score of `BOOTSTRAPPED`, `None` of fewer than two examples."""
        from scipy.stats import bootstrap

        def scores(labels: np.ndarray, predictions: np.ndarray, axis: int) -> np.ndarray:
            """Of shape `[scores, resamples]`, from class ids of shape `[resamples, examples]`."""
            first = num_classes * np.arange(len(labels))[:, None]  # of the class ids of each resample
            ids = (labels + first)[labels == predictions], labels + first, predictions + first
            sizes = len(labels) * num_classes
            counts = (np.bincount(i.ravel(), minlength=sizes).reshape(-1, num_classes) for i in ids)
            found = scores_of_counts(*counts)
            return np.stack([found[name] for name in BOOTSTRAPPED])

        if len(self.labels) < 2:
            return dict.fromkeys(BOOTSTRAPPED)
        how: Any = {"method": "percentile", "confidence_level": LEVEL, "n_resamples": RESAMPLES, "rng": 0}
        how |= {"paired": True, "batch": max(1, 200_000 // len(self.labels))}
        found = bootstrap((self.labels, self.predictions), scores, **how).confidence_interval
        return {n: [float(a), float(b)] for n, a, b in zip(BOOTSTRAPPED, found.low, found.high, strict=True)}

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


def calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """
    The expected calibration error `Σ_b n_b / n · |accuracy_b − confidence_b|` over equally wide bins
    `(b / bins, (b + 1) / bins]` of the confidence (Guo et al., ICML 2017, arXiv 1706.04599, Eq. 3). Few examples make
    it too large.

    Args:
        confidences (`np.ndarray` of shape `[examples]`): The probability of each prediction.
        correct (`np.ndarray` of shape `[examples]`): Whether each is right.
        bins (`int`, *optional*, defaults to 15): As in most papers.
    """
    bin_of_example = np.ceil(np.asarray(confidences, dtype=np.float64) * bins).clip(1, bins).astype(int) - 1
    return float(np.abs(np.bincount(bin_of_example, correct - confidences)).sum() / len(correct))


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
