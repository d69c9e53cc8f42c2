"""Group accuracies against a plain loop, in the Trainer's form and as an `evaluate` module."""

import math
from pathlib import Path

import evaluate
import numpy as np
import pytest
from transformers import EvalPrediction

import hf_ltkd.metrics
from hf_ltkd import ClassGroups, group_accuracy
from hf_ltkd.metrics.group_accuracy.group_accuracy import group_accuracies


GROUP_OF_CLASS = [2, 0, 1, 1, 0, 2, 2]
NAMES = ["head", "medium", "tail"]


@pytest.fixture
def example():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 200)
    logits = rng.normal(size=(200, 7))
    logits[np.arange(200), labels] += 1.5 * (labels % 3)
    return logits, labels


def plain(logits, labels):
    right, seen = {}, {}
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        for key in ("accuracy", f"{NAMES[GROUP_OF_CLASS[label]]}_accuracy"):
            seen[key] = seen.get(key, 0) + 1
            right[key] = right.get(key, 0) + (row.index(max(row)) == label)
    return {key: right[key] / seen[key] for key in seen}


@pytest.mark.parametrize("wrap", [lambda z: z, lambda z: (z, np.zeros((200, 3)))], ids=["logits", "tuple"])
def test_against_a_plain_loop(example, wrap):
    logits, labels = example
    result = group_accuracy(ClassGroups(GROUP_OF_CLASS))(EvalPrediction(wrap(logits), labels))
    expected = plain(logits, labels)
    assert len(set(expected.values())) == 4  # a mix-up of the groups would show
    assert result == pytest.approx(expected)
    assert all(type(value) is float for value in result.values())


def test_group_without_an_example_is_nan(example):
    logits, labels = example
    kept = ~np.isin(labels, [0, 5, 6])
    result = group_accuracy(ClassGroups(GROUP_OF_CLASS))(EvalPrediction(logits[kept], labels[kept]))
    assert math.isnan(result.pop("tail_accuracy"))
    assert result == pytest.approx(plain(logits[kept], labels[kept]))


def test_own_names(example):
    logits, labels = example
    result = group_accuracy(ClassGroups(GROUP_OF_CLASS, names=["a", "b", "c"]))(EvalPrediction(logits, labels))
    assert set(result) == {"accuracy", "a_accuracy", "b_accuracy", "c_accuracy"}


def test_wrong_number_of_classes(example):
    logits, labels = example
    with pytest.raises(ValueError, match="The logits have 7 classes, the groups 4"):
        group_accuracy(ClassGroups([0, 1, 2, 2]))(EvalPrediction(logits, labels))


@pytest.fixture
def metric():
    return evaluate.load(str(Path(hf_ltkd.metrics.__file__).parent / "group_accuracy"))


def test_evaluate_module(example, metric):
    logits, labels = example
    inputs = {"predictions": logits.argmax(1), "references": labels, "group_of_class": GROUP_OF_CLASS}
    assert metric.compute(**inputs) == pytest.approx(plain(logits, labels))
    named = metric.compute(**inputs, group_names=["a", "b", "c"])
    assert named["c_accuracy"] == pytest.approx(plain(logits, labels)["tail_accuracy"])


def test_evaluate_module_names_other_numbers_of_groups(metric):
    result = metric.compute(predictions=[0, 0, 1], references=[0, 1, 1], group_of_class=[0, 1])
    assert result == pytest.approx({"accuracy": 2 / 3, "group_0_accuracy": 1.0, "group_1_accuracy": 0.5})


def test_tokens_with_padding(example):
    """Logits `[examples, length, classes]` give what the counted tokens alone give; padding may hold anything."""
    logits, labels = example
    metric = group_accuracy(ClassGroups(GROUP_OF_CLASS))
    labels = np.where(np.arange(200) % 3 == 0, -100, labels)
    result = metric(EvalPrediction(logits.reshape(20, 10, 7), labels.reshape(20, 10)))
    assert result == pytest.approx(plain(logits[labels != -100], labels[labels != -100]))
    longer = np.pad(logits.reshape(20, 10, 7), [(0, 0), (0, 5), (0, 0)], constant_values=-100)  # as the Trainer pads
    assert metric(EvalPrediction(longer, np.pad(labels.reshape(20, 10), [(0, 0), (0, 5)], constant_values=-100))) == (
        result
    )


def test_padding_alone_is_nan():
    result = group_accuracy(ClassGroups([0, 1]))(EvalPrediction(np.zeros((2, 3, 2)), np.full((2, 3), -100)))
    assert all(math.isnan(value) for value in result.values()) and len(result) == 3


def test_labels_that_do_not_fit_the_logits(example):
    logits, labels = example
    with pytest.raises(
        ValueError, match=r"Predictions of shape \(200,\) and references of shape \(200, 1\) do not fit"
    ):
        group_accuracy(ClassGroups(GROUP_OF_CLASS))(EvalPrediction(logits, labels[:, None]))


def test_ignored_and_foreign_references():
    assert group_accuracies([0, 1, 1], [0, -100, 0], [0, 1], ["a", "b"])["accuracy"] == 0.5
    with pytest.raises(ValueError, match="references run from 0 to 2, outside the classes 0 to 1"):
        group_accuracies([0, 1], [0, 2], [0, 1], ["a", "b"])
