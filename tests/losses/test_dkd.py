"""DKD against its equations written as loops, the authors' numbers, and its limits."""

import math

import pytest
import torch
from waves import wave_logits

from hf_ltkd import ClassGroups, DKDLoss, dkd_loss, kd_loss, ltkd_loss


LABELS = torch.tensor([0, 3, 1, 5])


def softmax(row):
    exps = [math.exp(value - max(row)) for value in row]
    return [value / sum(exps) for value in exps]


def plain_dkd(student, teacher, labels, alpha, beta, temperature):
    total = 0.0
    for s_row, t_row, target in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        ps, pt = (softmax([z / temperature for z in row]) for row in (s_row, t_row))
        tckd = pt[target] * math.log(pt[target] / ps[target])
        tckd += (1 - pt[target]) * math.log((1 - pt[target]) / (1 - ps[target]))
        nckd = 0.0
        for c in range(len(ps)):
            if c != target:
                qs, qt = ps[c] / (1 - ps[target]), pt[c] / (1 - pt[target])
                nckd += qt * math.log(qt / qs)
        total += alpha * tckd + beta * nckd
    return temperature**2 * total / len(labels)


# By the DKD code of megvii-research/mdistiller (e8c5bb3) in float64 on wave_logits() and LABELS, torch 2.13.
@pytest.mark.parametrize(
    "alpha, beta, temperature, authors", [(1, 8, 4, 11.942499131077662), (0.5, 2, 1, 1.3503243430586247)]
)
def test_value(alpha, beta, temperature, authors):
    student, teacher = wave_logits()
    value = dkd_loss(student, teacher, LABELS, alpha=alpha, beta=beta, temperature=temperature).item()
    assert value == pytest.approx(plain_dkd(student, teacher, LABELS, alpha, beta, temperature), rel=1e-12)
    assert value == pytest.approx(authors, rel=1e-9)


def test_target_and_rest_as_two_groups_of_ltkd():
    """For one target class, LTKD with the groups {target}, {rest}, unrebalanced, is DKD."""
    student, teacher = wave_logits()
    groups = ClassGroups([1, 1, 0, 1, 1, 1])
    labels = torch.full((4,), 2)
    ltkd = ltkd_loss(student, teacher, groups, alpha=1.5, beta=2.5, temperature=3.0, rebalance=False)
    dkd = dkd_loss(student, teacher, labels, alpha=1.5, beta=2.5, temperature=3.0)
    torch.testing.assert_close(dkd, ltkd)


def test_two_classes_leave_the_target_term_which_is_kd():
    student, teacher = (logits[:, :2] for logits in wave_logits())
    labels = torch.tensor([0, 1, 1, 0])
    dkd = dkd_loss(student, teacher, labels, alpha=1.0, beta=8.0, temperature=2.0)
    torch.testing.assert_close(dkd, kd_loss(student, teacher, temperature=2.0))


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="two classes or more"):
        dkd_loss(torch.zeros(3, 1), torch.zeros(3, 1), torch.zeros(3, dtype=torch.long))


def test_equal_logits_give_zero():
    student, _ = wave_logits()
    assert dkd_loss(student, student, LABELS).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_finite_where_probabilities_underflow(scale):
    student, teacher = ((scale * logits).float().requires_grad_() for logits in wave_logits())
    loss = dkd_loss(student, teacher, LABELS, temperature=1.0)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()
    assert teacher.grad is None


def test_gradient():
    student, teacher = wave_logits()
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: dkd_loss(z, teacher, LABELS, beta=3.0, temperature=2.0), student)


def test_order_of_classes_does_not_matter():
    student, teacher = wave_logits()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = dkd_loss(student[:, order], teacher[:, order], order.argsort()[LABELS])
    torch.testing.assert_close(moved, dkd_loss(student, teacher, LABELS))


def test_module_gives_named_terms_that_sum_to_the_loss():
    student, teacher = wave_logits()
    terms = DKDLoss(alpha=0.5, beta=2.0, temperature=1.0, ce_weight=0.0)(student, teacher, LABELS)
    assert list(terms) == ["target_class", "non_target_class"]
    expected = dkd_loss(student, teacher, LABELS, alpha=0.5, beta=2.0, temperature=1.0)
    torch.testing.assert_close(sum(terms.values()), expected)


@pytest.mark.parametrize(
    "arguments, message",
    [({"alpha": -1}, "alpha=-1"), ({"beta": -1}, "beta=-1"), ({"temperature": 0}, "temperature=0")],
)
def test_bad_arguments(arguments, message):
    student, teacher = wave_logits()
    for call in (lambda: DKDLoss(**arguments), lambda: dkd_loss(student, teacher, LABELS, **arguments)):
        with pytest.raises(ValueError, match=message):
            call()
