"""IoU of a test set with its intervals, and the difference of two models."""

import numpy as np
import pytest

from hf_ltkd import ClassGroups
from hf_ltkd.metrics.group_mean_iou.group_mean_iou import iou_scores
from hf_ltkd.metrics.pixel_answers import PixelAnswers, counts_of


GROUPS = ClassGroups.from_counts([900, 90, 30, 9])


def answers(seed: int, images: int = 30, right: float = 0.6) -> PixelAnswers:
    """Of images of 4 classes of 100 pixels in all, the third in every fourth image alone; the rest is never seen."""
    random, confusions = np.random.default_rng(seed), np.zeros((images, 4, 4), int)
    for image, confusion in enumerate(confusions):
        for label, pixels in enumerate((60, 30, 10 * (image % 4 == 0))):
            said = np.where(random.random(pixels) < right, label, random.integers(0, 3, pixels))
            confusion[label] = np.bincount(said, minlength=4)
    return PixelAnswers(confusions.sum(0), counts_of(confusions))


def iou_of(counts: np.ndarray) -> list[float]:
    """The classes that are there, one by one."""
    return [r / (t + p - r) for r, t, p in counts.sum(0).T if t + p - r]


def test_scores_and_the_intervals_of_resampled_images():
    """Against a loop over the resamples that sums whole images again."""
    ours = answers(0)
    expected = iou_scores(ours.confusion, GROUPS.group_of_class.numpy(), GROUPS.names)
    scores = ours.scores(GROUPS)
    assert scores["mean_iou"] == expected["mean_iou"] == pytest.approx(np.mean(iou_of(ours.counts)))
    assert scores["tail_iou"] is None and "class_iou" not in scores and scores["medium_accuracy"] is not None
    weights = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), 1000)
    means = [np.mean(iou_of(np.repeat(ours.counts, times, axis=0))) for times in weights]
    intervals = ours.intervals(GROUPS)
    assert intervals["mean_iou"] == pytest.approx(np.percentile(means, [2.5, 97.5]))
    assert intervals["tail_iou"] is None and set(intervals) == set(scores)
    low, high = intervals["accuracy"]
    assert low < scores["accuracy"] < high
    assert set(answers(0, images=19).intervals(GROUPS).values()) == {None}  # too few


def test_differences_are_paired():
    ours, theirs = answers(1, right=0.7), answers(2, right=0.4)
    found = ours.differences(theirs, GROUPS)
    for name, value in ours.scores(GROUPS).items():
        if value is None:
            assert found[name] is None
            continue
        difference, low, high = found[name]
        assert difference == pytest.approx(value - theirs.scores(GROUPS)[name]) and 0 < low < difference < high
    assert ours.differences(ours, GROUPS)["mean_iou"] == [0, 0, 0]
    with pytest.raises(ValueError, match="other images"):
        ours.differences(answers(1, images=25), GROUPS)


def test_chance():
    """A model that gives all pixels one class is right by chance alone."""
    confusion = np.array([[60, 0], [40, 0]])
    lazy = PixelAnswers(confusion, counts_of(confusion[None]))
    assert lazy.chance == lazy.right == 0.6 and lazy.at_chance and "cannot be told from chance" in lazy.describe()
    assert not answers(0).at_chance


def test_the_report_of_each_class():
    confusion = np.array([[6, 2, 0, 0], [1, 3, 0, 0], [0, 4, 0, 0], [0, 0, 0, 0]])
    rows = PixelAnswers(confusion, counts_of(confusion[None])).class_report(GROUPS, ["a", "b", "c", "d"])
    assert [row["iou"] for row in rows] == [6 / 9, 3 / 10, 0, None]
    assert [row["accuracy"] for row in rows] == [6 / 8, 3 / 4, 0, None]
    assert [row["precision"] for row in rows] == [6 / 7, 3 / 9, None, None]
    assert [(row["group"], row["training_pixels"], row["support"]) for row in rows] == [
        ("head", 900, 8), ("medium", 90, 4), ("medium", 30, 4), ("tail", 9, 0)
    ]  # fmt: skip
