"""BKD: the authors' number, and its limit."""

import pytest
import torch
from losses.tolerance import assert_close, largest_log_prob
from losses.waves import wave_logits

from hf_ltkd import BKDLoss, ClassGroups, bkd_loss, kd_loss


STUDENT, TEACHER = wave_logits()
COUNTS = [500, 200, 80, 30, 12, 5]


def test_authors_value():
    """losses.py of EricZsy/BalancedKnowledgeDistillation (160e545), the same input in float64, torch 2.13."""
    weights = torch.tensor([0.2, 0.4, 0.6, 1.0, 1.5, 2.3], dtype=torch.float64)
    value = bkd_loss(STUDENT, TEACHER, weights, temperature=2.0).item()
    assert value == pytest.approx(1.831403818680241, rel=1e-9)


def test_equal_weights_are_kd():
    value = bkd_loss(STUDENT, TEACHER, torch.ones(6), temperature=2.0)
    assert_close(value, kd_loss(STUDENT, TEACHER, temperature=2.0), 24, 4 * largest_log_prob(STUDENT, TEACHER))


def test_number_of_classes():
    assert BKDLoss(COUNTS).num_classes == 6


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: BKDLoss(COUNTS, bkd_weight=-1), "bkd_weight=-1"),
        (lambda: BKDLoss(COUNTS, temperature=0), "temperature=0"),
        (lambda: BKDLoss.from_groups(ClassGroups([0, 1, 1])), "make the groups with ClassGroups.from_counts"),
        (lambda: bkd_loss(STUDENT, TEACHER, torch.ones(5)), "class_weights has the shape"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
