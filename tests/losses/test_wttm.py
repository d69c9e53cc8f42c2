"""WTTM: its limits."""

import pytest
import torch
from losses.tolerance import assert_close, largest_log_prob
from losses.waves import wave_logits

from hf_ltkd import WTTMLoss, kd_loss, wttm_loss


STUDENT, TEACHER = wave_logits()
ROUNDING = 24, 6 * largest_log_prob(STUDENT, TEACHER)


def test_the_first_power_is_kd():
    assert_close(wttm_loss(STUDENT, TEACHER, gamma=1.0), kd_loss(STUDENT, TEACHER, temperature=1.0), *ROUNDING)


def test_power_0_is_uniform_with_the_number_of_classes_as_weight():
    uniform = kd_loss(STUDENT, torch.zeros_like(TEACHER), temperature=1.0)
    assert_close(wttm_loss(STUDENT, TEACHER, gamma=0.0), 6 * uniform, *ROUNDING)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: WTTMLoss(gamma=-1), "gamma=-1"),
        (lambda: WTTMLoss(wttm_weight=-1), "wttm_weight=-1"),
        (lambda: wttm_loss(STUDENT, TEACHER[:, :5]), r"\(4, 6\) and teacher logits of shape \(4, 5\)"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
