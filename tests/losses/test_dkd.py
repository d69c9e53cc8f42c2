"""DKD: the authors' numbers, and its limits."""

import pytest
import torch
from losses.tolerance import assert_close, largest_log_prob
from losses.waves import wave_logits

from hf_ltkd import ClassGroups, DKDLoss, dkd_loss, kd_loss, ltkd_loss


LABELS = torch.tensor([0, 3, 1, 5])
STUDENT, TEACHER = wave_logits()
ROUNDING = 24, 16 * 9 * largest_log_prob(STUDENT, TEACHER)  # additions, magnitude: T² (alpha + beta)


# By the DKD code of megvii-research/mdistiller (e8c5bb3) in float64 on wave_logits() and LABELS, torch 2.13. It takes
# logarithms of probabilities, with an eps of 1e-8 in some.
@pytest.mark.parametrize(
    "alpha, beta, temperature, authors", [(1, 8, 4, 11.942499131077662), (0.5, 2, 1, 1.3503243430586247)]
)
def test_authors_value(alpha, beta, temperature, authors):
    value = dkd_loss(STUDENT, TEACHER, LABELS, alpha=alpha, beta=beta, temperature=temperature).item()
    assert value == pytest.approx(authors, rel=1e-9)


def test_target_and_rest_as_two_groups_of_ltkd():
    """For one target class, LTKD with the groups {target}, {rest}, unrebalanced, is DKD."""
    groups = ClassGroups([1, 1, 0, 1, 1, 1])
    labels = torch.full((4,), 2)
    ltkd = ltkd_loss(STUDENT, TEACHER, groups, alpha=1.5, beta=2.5, temperature=3.0, rebalance=False)
    assert_close(dkd_loss(STUDENT, TEACHER, labels, alpha=1.5, beta=2.5, temperature=3.0), ltkd, *ROUNDING)


def test_two_classes_leave_the_target_term_which_is_kd():
    student, teacher = STUDENT[:, :2], TEACHER[:, :2]
    dkd = dkd_loss(student, teacher, torch.tensor([0, 1, 1, 0]), alpha=1.0, beta=8.0, temperature=2.0)
    assert_close(dkd, kd_loss(student, teacher, temperature=2.0), *ROUNDING)


def test_equal_logits_give_zero():
    assert_close(dkd_loss(STUDENT, STUDENT, LABELS), 0.0, *ROUNDING)


def test_order_of_classes_does_not_matter():
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = dkd_loss(STUDENT[:, order], TEACHER[:, order], order.argsort()[LABELS])
    assert_close(moved, dkd_loss(STUDENT, TEACHER, LABELS), *ROUNDING)


def test_terms_are_those_of_the_function():
    terms = DKDLoss(alpha=0.5, beta=2.0, temperature=1.0, ce_weight=0.0)(STUDENT, TEACHER, LABELS)
    expected = dkd_loss(STUDENT, TEACHER, LABELS, alpha=0.5, beta=2.0, temperature=1.0)
    assert_close(sum(terms.values()), expected, *ROUNDING)


@pytest.mark.parametrize(
    "arguments, message",
    [({"alpha": -1}, "alpha=-1"), ({"beta": -1}, "beta=-1"), ({"temperature": 0}, "temperature=0")],
)
def test_bad_arguments(arguments, message):
    for call in (lambda: DKDLoss(**arguments), lambda: dkd_loss(STUDENT, TEACHER, LABELS, **arguments)):
        with pytest.raises(ValueError, match=message):
            call()


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="two classes or more"):
        dkd_loss(torch.zeros(3, 1), torch.zeros(3, 1), torch.zeros(3, dtype=torch.long))
