"""DIST: the authors' numbers, and its limits."""

import pytest
import torch
from losses.tolerance import tolerance
from losses.waves import wave_logits

from hf_ltkd import DISTLoss, dist_loss


STUDENT, TEACHER = wave_logits()
AUTHORS_EPS = 1e-8  # in the denominator: what a correlation of norms of 0.01 and more may lose to it is below 1e-4


# Computed with the formula of hunto/DIST_KD (2418f18) in float64 on wave_logits(), torch 2.13.
@pytest.mark.parametrize(
    "beta, gamma, temperature, authors", [(1, 1, 4, 13.019530600087664), (2, 0.5, 1, 1.2604229563435645)]
)
def test_authors_value(beta, gamma, temperature, authors):
    value = dist_loss(STUDENT, TEACHER, beta=beta, gamma=gamma, temperature=temperature).item()
    # Norms divide out what the softmax and the means were rounded by: 24 additions of numbers up to 1, over 0.01.
    assert value == pytest.approx(authors, rel=0, abs=tolerance(24, temperature**2 / 0.01, torch.float64))


def test_any_positive_linear_map_of_probabilities_is_no_loss():
    """Pearson's correlation ignores scale and offset: log(a · p + b) has a correlation of 1 with p."""
    teacher = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.3, 0.4, 0.3]], dtype=torch.float64)
    student = 0.4 * teacher + 0.2  # rows still sum to 1
    loss = dist_loss(student.log(), teacher.log(), temperature=1.0).item()
    assert loss == pytest.approx(0.0, abs=AUTHORS_EPS / 0.01**2)


def test_opposite_probabilities_give_two():
    teacher = torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64).log()
    loss = dist_loss(teacher.flip(1), teacher, gamma=0.0, temperature=1.0).item()
    assert loss == pytest.approx(2.0, abs=AUTHORS_EPS / 0.1**2)


def test_one_example_has_no_intra_class_correlation():
    student = STUDENT[:1].clone().requires_grad_()
    loss = dist_loss(student, TEACHER[:1], beta=0.0, gamma=1.0, temperature=4.0)
    loss.backward()
    assert loss.item() == 16.0  # T²
    assert torch.equal(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"beta": -1}, "beta=-1"),
        ({"gamma": -1}, "gamma=-1"),
        ({"temperature": 0}, "temperature=0"),
        ({"dist_weight": -1}, "dist_weight=-1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DISTLoss(**arguments)
    if "dist_weight" not in arguments:
        with pytest.raises(ValueError, match=message):
            dist_loss(STUDENT, TEACHER, **arguments)
