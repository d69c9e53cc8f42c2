"""DIST against its definition with the statistics module of Python, the authors' numbers, and its limits."""

import math
import statistics

import pytest
import torch
from waves import wave_logits

from hf_ltkd import DISTLoss, dist_loss


def softmax(row):
    exps = [math.exp(value - max(row)) for value in row]
    return [value / sum(exps) for value in exps]


def correlation(x, y):
    return 0.0 if len(set(x)) == 1 or len(set(y)) == 1 else statistics.correlation(x, y)  # one is constant


def plain_dist(student, teacher, beta, gamma, temperature):
    ps, pt = ([softmax([z / temperature for z in row]) for row in logits.tolist()] for logits in (student, teacher))
    inter = 1 - statistics.mean(map(correlation, ps, pt))
    intra = 1 - statistics.mean(map(correlation, zip(*ps, strict=True), zip(*pt, strict=True)))
    return temperature**2 * (beta * inter + gamma * intra)


# Computed with the formula of hunto/DIST_KD (2418f18) in float64 on wave_logits(), torch 2.13. Its eps of 1e-8 in the
# denominator, which ours has too, makes the small difference to the plain correlation.
@pytest.mark.parametrize(
    "beta, gamma, temperature, authors", [(1, 1, 4, 13.019530600087664), (2, 0.5, 1, 1.2604229563435645)]
)
def test_value(beta, gamma, temperature, authors):
    student, teacher = wave_logits()
    value = dist_loss(student, teacher, beta=beta, gamma=gamma, temperature=temperature).item()
    assert value == pytest.approx(plain_dist(student, teacher, beta, gamma, temperature), rel=1e-5)
    assert value == pytest.approx(authors, rel=1e-12)


def test_any_positive_linear_map_of_probabilities_is_no_loss():
    """Pearson's correlation ignores scale and offset: log(a · p + b) has a correlation of 1 with p."""
    teacher = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.3, 0.4, 0.3]], dtype=torch.float64)
    student = 0.4 * teacher + 0.2  # rows still sum to 1
    assert dist_loss(student.log(), teacher.log(), temperature=1.0).item() == pytest.approx(0.0, abs=1e-5)


def test_opposite_probabilities_give_two():
    teacher = torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64).log()
    assert dist_loss(teacher.flip(1), teacher, gamma=0.0, temperature=1.0).item() == pytest.approx(2.0, abs=1e-5)


def test_one_example_has_no_intra_class_correlation():
    student, teacher = (logits[:1].clone().requires_grad_() for logits in wave_logits())
    loss = dist_loss(student, teacher, beta=0.0, gamma=1.0, temperature=4.0)
    loss.backward()
    assert loss.item() == pytest.approx(16.0)
    assert torch.equal(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_finite_for_large_logits(scale):
    student, teacher = ((scale * logits).float().requires_grad_() for logits in wave_logits())
    loss = dist_loss(student, teacher, temperature=1.0)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()
    assert teacher.grad is None


def test_gradient():
    student, teacher = wave_logits()
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: dist_loss(z, teacher, beta=2.0, temperature=2.0), student)


def test_module_gives_named_terms_that_sum_to_the_loss():
    student, teacher = wave_logits()
    terms = DISTLoss(beta=0.5, gamma=2.0, dist_weight=3.0, ce_weight=0.0)(student, teacher, torch.zeros(4).long())
    assert list(terms) == ["inter_class", "intra_class"]
    torch.testing.assert_close(sum(terms.values()), 3 * dist_loss(student, teacher, beta=0.5, gamma=2.0))


@pytest.mark.parametrize(
    "arguments, message",
    [({"beta": -1}, "beta=-1"), ({"gamma": -1}, "gamma=-1"), ({"temperature": 0}, "temperature=0")],
)
def test_bad_arguments(arguments, message):
    student, teacher = wave_logits()
    for call in (lambda: DISTLoss(**arguments), lambda: dist_loss(student, teacher, **arguments)):
        with pytest.raises(ValueError, match=message):
            call()
