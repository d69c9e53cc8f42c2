"""KD: its limits, and a teacher whose class prior is divided out."""

import pytest
import torch
from losses.cases import COUNTS
from losses.tolerance import assert_close, largest_log_prob
from losses.waves import wave_logits

from hf_ltkd import KDLoss, kd_loss, log_class_prior


STUDENT, TEACHER = wave_logits()
ROUNDING = 24, 16 * largest_log_prob(STUDENT, TEACHER)


def test_equal_logits_give_zero():
    assert_close(kd_loss(STUDENT, STUDENT), 0.0, *ROUNDING)


def test_a_logit_adjusted_teacher():
    """A teacher whose probabilities are the balanced ones times the prior gives the balanced ones back."""
    prior = log_class_prior(COUNTS[:6])
    assert_close(kd_loss(STUDENT, TEACHER + prior, teacher_log_prior=prior), kd_loss(STUDENT, TEACHER), *ROUNDING)


def test_temperature_gets_a_gradient():
    temperature = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: kd_loss(STUDENT, TEACHER, temperature=t), temperature)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: KDLoss(kd_weight=-1), "kd_weight=-1"),
        (lambda: kd_loss(STUDENT, TEACHER, temperature=0), "temperature=0"),
        (lambda: kd_loss(STUDENT, TEACHER[:, :5]), r"\(4, 6\) and teacher logits of shape \(4, 5\)"),
        (lambda: KDLoss(teacher_log_prior=torch.tensor([0.5, 0.0]).log()), "NaN or Inf"),
        (lambda: kd_loss(STUDENT, TEACHER, teacher_log_prior=torch.zeros(2)), "teacher_log_prior has the shape"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
