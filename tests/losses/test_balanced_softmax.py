"""Balanced softmax: its limit, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from losses.tolerance import assert_close, largest_log_prob
from losses.waves import wave_logits

from hf_ltkd import balanced_softmax_loss


LABELS = torch.tensor([0, 3, 1, 5])


def test_equal_counts_are_the_plain_cross_entropy():
    logits, _ = wave_logits()
    rounding = 24, largest_log_prob(logits)
    assert_close(balanced_softmax_loss(logits, LABELS, [7] * 6), F.cross_entropy(logits, LABELS), *rounding)


@pytest.mark.parametrize(
    "counts, message", [([4, 5], "one value per class"), ([4, 5, 0], "1 or more"), (None, "1 or more")]
)
def test_bad_counts(counts, message):
    with pytest.raises(ValueError, match=message):
        balanced_softmax_loss(torch.zeros(1, 3), torch.tensor([0]), counts)
