"""The prior in or out, and standardised logits: the same for every loss on logits."""

import pytest
import torch
from losses.cases import COUNTS, GROUPS, Case
from losses.tolerance import assert_close, largest_log_prob

from hf_ltkd import KDLoss, LogitLoss, create_loss, log_class_prior, standardize_logits
from hf_ltkd.losses import LOSSES


STUDENT, TEACHER, LABELS = Case(KDLoss, 1).batch()
PRIOR = log_class_prior(COUNTS)
ON_LOGITS = [name for name, loss in LOSSES.items() if issubclass(loss, LogitLoss)]


def total(loss, student, teacher):
    return sum(loss(student, teacher, LABELS).values())


def test_which_losses_they_are():
    assert ON_LOGITS == ["kd", "ltkd", "dkd", "dist", "bkd", "gkl", "wttm"]


@pytest.mark.parametrize("name", ON_LOGITS)
def test_what_is_compared(name):
    plain = create_loss(name, GROUPS, ce_weight=0)
    rounding = 200, 2000 * largest_log_prob(STUDENT, TEACHER)
    for arguments, student, teacher in (
        ({"prior": "teacher", "tau": 1.5}, STUDENT, TEACHER - 1.5 * PRIOR),
        ({"prior": "student", "tau": 0.5}, STUDENT + 0.5 * PRIOR, TEACHER),
        ({"standardize": True}, standardize_logits(STUDENT), standardize_logits(TEACHER)),
        ({"standardize": True, "prior": "student"}, standardize_logits(STUDENT + PRIOR), standardize_logits(TEACHER)),
    ):
        loss = create_loss(name, GROUPS, ce_weight=0, **arguments)
        expected = total(plain, student, teacher)
        assert abs(expected - total(plain, STUDENT, TEACHER)) > 1e-4
        assert_close(total(loss, STUDENT, TEACHER), expected, *rounding)


def test_a_student_that_answers_as_the_teacher_without_its_prior():
    """The student is balanced where its answer times the prior is the teacher's: nothing is left to learn."""
    for side in ("teacher", "student"):
        loss = KDLoss(prior=side, class_counts=COUNTS, ce_weight=0)
        assert_close(total(loss, TEACHER - PRIOR, TEACHER), 0.0, 60, 16 * largest_log_prob(TEACHER))


def test_standardized_logits():
    logits = standardize_logits(STUDENT.half())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.mean(1), torch.zeros(6), rtol=0, atol=1e-6)
    torch.testing.assert_close(logits.std(1), torch.ones(6))
    student = torch.zeros(6, 10, requires_grad=True)  # a head that starts at 0
    total(KDLoss(standardize=True), student, TEACHER).backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: KDLoss(prior="teacher"), "prior='teacher' needs class_counts"),
        (
            lambda: KDLoss(prior="both", class_counts=COUNTS),
            "prior='both' is not known: use 'teacher', 'student'",
        ),
        (
            lambda: KDLoss(prior="student", class_counts=COUNTS[:4])(STUDENT, TEACHER, LABELS),
            "class_counts has the",
        ),
        (lambda: KDLoss(prior="teacher", class_counts=COUNTS, teacher_log_prior=PRIOR), "leave one out"),
        (lambda: create_loss("reviewkd", GROUPS, standardize=True), "standardize is not known"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
