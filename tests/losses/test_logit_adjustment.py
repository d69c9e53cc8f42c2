"""Logit adjustment: its limits, and the prior of the classes."""

import pytest
import torch
import torch.nn.functional as F
from losses.tolerance import assert_close, largest_log_prob
from losses.waves import wave_logits

from hf_ltkd import balanced_softmax_loss, log_class_prior, logit_adjusted_loss


COUNTS = [500, 200, 80, 30, 12, 5]
LABELS = torch.tensor([0, 3, 1, 5])


def test_tau_0_is_the_plain_cross_entropy_and_1_the_balanced_softmax():
    logits, _ = wave_logits()
    rounding = 24, largest_log_prob(logits) + 7  # log 500
    assert_close(logit_adjusted_loss(logits, LABELS, COUNTS, tau=0.0), F.cross_entropy(logits, LABELS), *rounding)
    balanced = balanced_softmax_loss(logits, LABELS, COUNTS)
    assert_close(logit_adjusted_loss(logits, LABELS, COUNTS), balanced, *rounding)


def test_log_class_prior():
    assert log_class_prior([3, 1]).exp().tolist() == pytest.approx([0.75, 0.25])


def test_negative_tau_is_refused():
    with pytest.raises(ValueError, match="tau=-1"):
        logit_adjusted_loss(torch.zeros(1, 6), torch.zeros(1).long(), COUNTS, tau=-1)
