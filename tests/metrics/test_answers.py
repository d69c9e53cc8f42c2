"""Intervals and reports of a classifier's answers, beside other ways to compute them."""

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import classification_report, confusion_matrix, f1_score

from hf_ltkd import ClassGroups
from hf_ltkd.metrics.answers import Answers, calibration_error, is_settled, newcombe, wilson


GROUPS = ClassGroups([0, 0, 1, 1, 2], class_counts=[50, 40, 30, 20, 10])
NAMES = ["ant", "bee", "cat", "dog", "eel"]


def answers(right: float, seed: int, size: int = 400) -> Answers:
    random = np.random.default_rng(seed)
    labels = np.random.default_rng(9).integers(0, 4, size)  # no eel
    return Answers(labels, np.where(random.random(size) < right, labels, random.integers(0, 5, size)))


def test_wilson_by_its_formula():
    z, n, p = 1.959963985, 40, 0.3
    centre, half = p + z**2 / 2 / n, z * (p * (1 - p) / n + z**2 / 4 / n**2) ** 0.5
    expected = [(centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)]
    assert wilson(12, 40) == pytest.approx(expected, rel=1e-8)
    assert wilson(0, 3)[0] == 0 and wilson(3, 3)[1] == 1


def test_each_accuracy_has_one():
    intervals = answers(0.5, 0).intervals(GROUPS)
    shots = ["medium_shot_accuracy", "few_shot_accuracy"]
    names = ["accuracy", "head_accuracy", "medium_accuracy", "tail_accuracy", *shots, "balanced_accuracy", "macro_f1"]
    assert list(intervals) == names
    assert intervals["tail_accuracy"] is None  # no eel
    low, high = intervals["head_accuracy"]
    assert low < answers(0.5, 0).correct[answers(0.5, 0).labels < 2].mean() < high


def test_the_bootstrap_by_all_resamples():
    """Of four examples there are 4⁴ resamples: the quantiles of all of them, by scikit-learn."""
    labels, predictions = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0])
    scores = []
    for chosen in itertools.product(range(4), repeat=4):
        truth, found = labels[[*chosen]], predictions[[*chosen]]
        classes = sorted({*truth.tolist()})
        balanced = np.mean([(found[truth == c] == c).mean() for c in classes])
        scores.append([balanced, f1_score(truth, found, labels=classes, average="macro", zero_division=0)])
    balanced, f1 = np.quantile(scores, [0.025, 0.975], axis=0).T.tolist()
    intervals = Answers(labels, predictions).intervals(ClassGroups([0, 0, 1, 1, 2]))
    assert intervals["balanced_accuracy"] == pytest.approx(balanced)
    assert intervals["macro_f1"] == pytest.approx(f1)


def test_the_bootstrap_is_seeded_and_needs_two_examples():
    given = answers(0.5, 0)
    intervals, scores = given.intervals(GROUPS), given.scores(GROUPS)
    assert intervals == given.intervals(GROUPS)
    for name in ("balanced_accuracy", "macro_f1"):
        low, high = intervals[name]
        assert low < scores[name] < high and high - low == pytest.approx(4 * (0.6 * 0.4 / 400) ** 0.5, rel=0.15)
    one = Answers(np.array([1]), np.array([1]))
    assert one.intervals(GROUPS)["macro_f1"] is None and one.scores(GROUPS)["macro_f1"] == 1
    none = Answers(np.zeros(0, int), np.zeros(0, int), np.zeros(0))
    assert set(none.scores(GROUPS).values()) == {None} and none.intervals(GROUPS)["balanced_accuracy"] is None


def test_calibration_error_at_the_edges_of_bins():
    """A bin holds its upper edge: with 2 bins .5 is in the first, where .2 is (Guo et al., their code)."""
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0
    assert calibration_error(np.array([0.5, 0.2]), np.array([True, False]), bins=2) == pytest.approx(0.3 / 2)
    assert calibration_error(np.array([0.51, 0.2]), np.array([True, False]), bins=2) == pytest.approx(0.69 / 2)
    assert calibration_error(np.array([0.0]), np.array([True])) == 1


def test_joined_answers_are_sure_only_if_all_are():
    one, other = Answers(np.array([0]), np.array([1]), np.array([0.7])), Answers(np.array([1]), np.array([1]))
    both = Answers.joined([one, other])
    assert (both.labels.tolist(), both.predictions.tolist(), both.confidences) == ([0, 1], [1, 1], None)
    assert Answers.joined([one, one]).confidences.tolist() == [0.7, 0.7]


def test_a_difference_is_settled_where_mcnemar_finds_one():
    """Never without; the exact test on the examples that one has right and the other wrong, by its definition."""
    found = set()
    for right in (0.5, 0.52, 0.55, 0.6, 0.8):
        ours, theirs = answers(right, 1), answers(0.5, 2)
        difference = ours.differences(theirs, GROUPS)["accuracy"]
        better, worse = (ours.correct & ~theirs.correct).sum(), (~ours.correct & theirs.correct).sum()
        assert difference[0] == pytest.approx((better - worse) / 400)
        assert difference[1] < difference[0] < difference[2]
        assert not is_settled(difference) or binomtest(better, better + worse).pvalue < 0.05
        found.add(is_settled(difference))
    assert found == {True, False}
    same = ours.differences(ours, GROUPS)
    assert same["accuracy"] == [0, 0, 0] and same["tail_accuracy"] is None and not is_settled(same["accuracy"])
    with pytest.raises(ValueError, match="to other examples"):
        ours.differences(Answers(ours.predictions, ours.labels), GROUPS)


def test_newcombe_by_its_published_example():
    """Newcombe (1998), table II: 56/70 against 48/80 has other sizes; of 5/56 and 0/56 the limits are by Wilson's."""
    (l1, u1), (l2, u2) = wilson(5, 56), wilson(0, 56)
    p, q = 5 / 56, 0.0
    expected = [p - q, p - q - ((p - l1) ** 2 + (u2 - q) ** 2) ** 0.5, p - q + ((u1 - p) ** 2 + (q - l2) ** 2) ** 0.5]
    assert newcombe(p, q, 56) == pytest.approx(expected)


def test_newcombe_on_the_same_examples_by_its_formula():
    """Counts of both right, one, the other, none; and as from independent examples where nothing is shared."""
    both, ours_alone, theirs_alone, none = 20, 12, 2, 6
    ours = np.repeat([True, True, False, False], [both, ours_alone, theirs_alone, none])
    theirs = np.repeat([True, False, True, False], [both, ours_alone, theirs_alone, none])
    labels = np.zeros(40, int)
    found = Answers(labels, (~ours).astype(int)).differences(Answers(labels, (~theirs).astype(int)), GROUPS)
    phi = (both * none - ours_alone * theirs_alone) / (32 * 8 * 22 * 18) ** 0.5
    (l1, u1), (l2, u2) = wilson(32, 40), wilson(22, 40)
    below = ((0.8 - l1) ** 2 - 2 * phi * (0.8 - l1) * (u2 - 0.55) + (u2 - 0.55) ** 2) ** 0.5
    above = ((u1 - 0.8) ** 2 - 2 * phi * (u1 - 0.8) * (0.55 - l2) + (0.55 - l2) ** 2) ** 0.5
    exact = binomtest(12, 14).proportion_ci(0.95)
    low, high = ((2 * part - 1) * 14 / 40 for part in exact)
    expected = [0.25, min(0.25 - below, low), max(0.25 + above, high)]
    assert found["accuracy"] == pytest.approx(expected) == found["head_accuracy"]


def test_the_report_is_scikit_learns():
    given = answers(0.6, 3)
    report = given.class_report(GROUPS, NAMES)
    expected = classification_report(
        given.labels, given.predictions, labels=range(5), target_names=NAMES, output_dict=True, zero_division=np.nan
    )
    for row in report[:4]:
        other = expected[row["class"]]
        assert row["precision"] == other["precision"] and row["recall"] == other["recall"]
        assert row["f1"] == other["f1-score"] and row["support"] == other["support"]
    unmeasured = {"precision": None, "recall": None, "f1": None, "support": 0}
    assert report[4] == {"class": "eel", "group": "tail", "training_images": 10, **unmeasured}
    never = Answers(np.array([0, 1]), np.array([0, 0])).class_report(GROUPS, NAMES)[1]
    assert never["precision"] is None and never["recall"] == never["f1"] == 0
    assert (given.confusion(5) == confusion_matrix(given.labels, given.predictions, labels=range(5))).all()


@pytest.mark.parametrize("right", [0.0, 0.6])
def test_chance(right):
    """Random answers are right as often as labels and answers agree by chance."""
    given = answers(right, 4, size=4000)
    assert given.at_chance == (right == 0) and given.chance == pytest.approx(0.2 + 0.05 * right, abs=0.02)
    assert Answers(given.labels, np.zeros_like(given.labels)).at_chance  # always the same class
    assert not Answers(given.labels[:10], given.labels[:10]).at_chance
