"""Between KD and LTKD: both ends, and the gradient that is stated."""

import pytest
import torch
from tempered_groups import TemperedGroupsLoss

from hf_ltkd import ClassGroups, kd_loss, log_class_prior, ltkd_loss


GROUPS = ClassGroups.from_counts([50, 30, 20, 9, 5, 2])
STUDENT, TEACHER = torch.randn(2, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
LABELS = torch.zeros(8, dtype=torch.long)


def loss_of(student, gamma):
    terms = TemperedGroupsLoss(GROUPS, gamma=gamma, prior="teacher", ce_weight=0.0)(student, TEACHER, LABELS)
    return terms["cross_group"] + terms["within_group"]


def test_both_ends():
    adjusted = TEACHER - log_class_prior(GROUPS.class_counts)
    even = ltkd_loss(STUDENT, adjusted, GROUPS, alpha=1.0, beta=1.0, temperature=2.0, rebalance=False)
    assert loss_of(STUDENT, 0).item() == pytest.approx(even.item(), rel=1e-12)
    assert loss_of(STUDENT, 1).item() == pytest.approx(kd_loss(STUDENT, adjusted, temperature=2.0).item(), rel=1e-12)


def test_the_gradient():
    student, group = STUDENT.clone().requires_grad_(), GROUPS.group_of_class
    loss_of(student, 0.5).backward()
    p = (STUDENT / 2).softmax(1)
    q = ((TEACHER - log_class_prior(GROUPS.class_counts)) / 2).softmax(1)
    p_group, q_group = (torch.zeros(8, 3, dtype=torch.float64).index_add(1, group, x)[:, group] for x in (p, q))
    expected = 2 * (p / p_group * (p_group - q_group) + q_group**0.5 * (p / p_group - q / q_group)) / len(STUDENT)
    torch.testing.assert_close(student.grad, expected, rtol=1e-9, atol=1e-12)
