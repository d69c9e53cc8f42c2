"""Class balance: its limits, and why the mean is over the examples."""

import pytest
import torch
from losses.tolerance import assert_close, largest_log_prob
from losses.waves import wave_logits

from hf_ltkd import class_balanced_loss, class_balanced_weights


COUNTS = [500, 200, 80, 30, 12, 5]
LABELS = torch.tensor([0, 3, 1, 5])


def test_limits_of_the_weights():
    assert class_balanced_weights(COUNTS, beta=0.0).tolist() == [1.0] * 6
    inverse = torch.tensor([1 / n for n in COUNTS], dtype=torch.float64)
    # (1 - beta) / (1 - beta ** n) = 1 / n + O(1 - beta)
    torch.testing.assert_close(
        class_balanced_weights(COUNTS, beta=1 - 1e-12), 6 * inverse / inverse.sum(), rtol=500 * 1e-12, atol=0
    )


def test_a_batch_can_be_split():
    logits, _ = wave_logits()
    weights = class_balanced_weights(COUNTS)
    whole = class_balanced_loss(logits, LABELS, weights)
    halves = [class_balanced_loss(logits[i : i + 2], LABELS[i : i + 2], weights) for i in (0, 2)]
    assert_close(sum(halves) / 2, whole, 24, weights.max().item() * largest_log_prob(logits))


def test_bad_beta():
    with pytest.raises(ValueError, match="beta=1.0 is not valid"):
        class_balanced_weights(COUNTS, beta=1.0)
