"""`group_perplexity` without a trainer; in one: tests/trainer/test_language.py."""

import math

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from hf_ltkd import ClassGroups, group_perplexity


GROUPS = ClassGroups.from_counts([9, 5, 2])


def test_value_by_hand():
    losses = np.array([[-100, 1.0, 2.0, -100], [-100, 3.0, 5.0, 7.0]], dtype=np.float32)
    labels = np.array([[0, 0, 1, -100], [2, 0, 1, -100]])
    expected = {"perplexity": math.exp(11 / 4), "head_loss": 2.0, "head_perplexity": math.exp(2)}
    expected |= {"medium_loss": 3.5, "medium_perplexity": math.exp(3.5)}  # no token of the tail: left out
    metric = group_perplexity(GROUPS)
    assert metric(EvalPrediction(losses, labels)) == pytest.approx(expected)
    assert metric(EvalPrediction([losses[:1], losses[1:]], [labels[:1], labels[1:]])) == pytest.approx(expected)
    assert metric(EvalPrediction(losses[:1], labels[:1]), compute_result=False) == {}
    assert metric(EvalPrediction(losses[1:], labels[1:])) == pytest.approx(expected)
    assert metric(EvalPrediction(losses[:, :1], labels[:, :1])) == {}
    assert metric(EvalPrediction(losses + 800, np.zeros_like(labels)))["perplexity"] == math.inf


def test_losses_of_a_plain_trainer():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 3), torch.tensor([[0, 1, 2, -100], [-100, 2, 0, 1]])
    losses = group_perplexity.token_losses((logits, None), labels)
    log_probs = logits.log_softmax(-1)
    expected = [
        [-100, *(-log_probs[b, i - 1, labels[b, i]].item() if labels[b, i] >= 0 else -100 for i in range(1, 4))]
        for b in range(2)
    ]
    torch.testing.assert_close(losses, torch.tensor(expected))


@pytest.mark.parametrize(
    ("losses", "labels", "error", "message"),
    [
        (np.zeros((1, 2, 3)), np.zeros((1, 2), int), ValueError, "takes the loss of each label"),
        (np.zeros((1, 2), int), np.zeros((1, 2), int), ValueError, "takes the loss of each label"),
        (np.zeros((1, 2)), np.array([[0, 3]]), ValueError, "the token 3, the groups are for 3"),
        (np.array([[0, math.nan]]), np.array([[0, 1]]), FloatingPointError, "1 of 2 tokens are NaN"),
    ],
)
def test_what_does_not_fit_is_refused_and_forgotten(losses, labels, error, message):
    metric = group_perplexity(GROUPS)
    with pytest.raises(error, match=message):
        metric(EvalPrediction(losses, labels))
    right = EvalPrediction(np.full((1, 2), 2.0), np.array([[0, 1]]))
    assert metric(right)["perplexity"] == pytest.approx(math.exp(2))
