"""GKL: pairs of classes by loops, its limits, and the class means of an epoch."""

import pytest
import torch
from losses import loops
from losses.cases import COUNTS, GROUPS
from losses.tolerance import assert_close, largest_log_prob
from losses.waves import wave, wave_logits

from hf_ltkd import ClassGroups, GKLLoss, gkl_loss, kd_loss


STUDENT, TEACHER = wave_logits()
ROUNDING = 24, 16 * largest_log_prob(STUDENT, TEACHER) ** 2  # additions, magnitude: squares of differences
LABELS = torch.tensor([0, 3, 1, 5])


@pytest.mark.parametrize("gamma", [0.0, 0.05, 1.0])
def test_all_pairs(gamma):
    """O(classes) for each example gives what O(classes²) does."""
    class_probs = wave(6, 6).softmax(1)
    value = gkl_loss(STUDENT, TEACHER, alpha=0.5, beta=2, gamma=gamma, temperature=3, weight_probs=class_probs[LABELS])
    weights = [[p**gamma for p in row] for row in class_probs[LABELS].tolist()]
    entropy, squares = loops.gkl(STUDENT.tolist(), TEACHER.tolist(), 3.0, weights)
    assert_close(value, 0.5 * entropy + 2 * squares, *ROUNDING)


def test_an_offset_of_all_logits_is_nothing():
    """Differences of large numbers: nothing is subtracted that is larger than the differences themselves."""
    value = gkl_loss(STUDENT + 1e6, TEACHER - 1e6, alpha=0)
    torch.testing.assert_close(value, gkl_loss(STUDENT, TEACHER, alpha=0), rtol=1e-8, atol=0)


def test_without_squares_it_has_the_gradient_of_kd():
    student = STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(4 * gkl_loss(student, TEACHER, beta=0, temperature=2), student)
    (expected,) = torch.autograd.grad(kd_loss(student, TEACHER, temperature=2), student)
    assert_close(gradient, expected, *ROUNDING)


def epoch_of(loss, epoch, size):
    """60 examples in batches: their labels, and the teacher's logits."""
    teacher = 3 * wave(60, 10, frequency=epoch + 1.3)
    labels = torch.arange(60) % 9  # no example of class 9
    for i, (t, y) in enumerate(zip(teacher.split(size), labels.split(size), strict=True)):
        loss(torch.zeros_like(t), t, y, epoch=epoch + i * size / 60)
    return teacher, labels


@pytest.mark.parametrize("size", [60, 7])
def test_class_means_are_those_of_the_last_epoch(size):
    loss = GKLLoss(GROUPS, weight_temperature=2.0).double()
    teacher, labels = epoch_of(loss, 0, size)
    assert (loss.class_probs - 0.1).abs().max() < 1e-8
    epoch_of(loss, 1, size)
    means = torch.stack([(teacher[labels == c] / 2).softmax(1).mean(0) for c in range(9)])
    torch.testing.assert_close(loss.class_probs[:9], means)
    assert (loss.class_probs[9] - 0.1).abs().max() < 1e-8  # kept


def test_class_means_survive_a_checkpoint():
    """In the middle of an epoch, at its end, and at its beginning, the epoch begun again."""
    for last in (0.3, 0.95, 1.0):
        whole, loss = GKLLoss(GROUPS), GKLLoss(GROUPS)
        batches = [(3 * wave(6, 10, frequency=i + 1.0), torch.arange(6)) for i in range(20)]
        for i, (teacher, labels) in enumerate(batches):
            if abs(i / 10 - last) < 0.05:
                resumed = GKLLoss(GROUPS)
                resumed.load_state_dict(loss.state_dict())
                loss = resumed
                loss.begin_epoch(i / 10)
            for one in (whole, loss):
                one(teacher, teacher, labels, epoch=i / 10)
        assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), loss.buffers(), strict=True))
        assert (whole.counts[:6] == 10).all() and not torch.equal(whole.class_probs, torch.full((10, 10), 0.1))


def test_a_loss_that_was_trained_already_goes_on_from_a_checkpoint():
    """The epoch that it begins is the one that it was in itself."""
    one, again = GKLLoss(GROUPS), GKLLoss(GROUPS)
    epoch_of(one, 1, 60)
    state = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    for loss in (one, again):
        loss.begin_epoch(2.0)
        loss.load_state_dict(state)
        loss.begin_epoch(2.0)
        assert loss.counts.sum() == 0 and loss.epoch == 2
    assert torch.equal(one.class_probs, again.class_probs)


def test_evaluation_adds_nothing():
    loss = GKLLoss(GROUPS).eval()
    loss(STUDENT.new_zeros(2, 10), STUDENT.new_ones(2, 10), torch.tensor([1, 2]), epoch=3.0)
    assert loss.counts.sum() == 0 and loss.epoch == 0


def test_groups_without_counts():
    assert GKLLoss.from_groups(ClassGroups([0, 1, 1])).class_probs.shape == (3, 3)
    assert GKLLoss(ClassGroups.from_counts(COUNTS), class_wise=False).state_dict() == {}


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: GKLLoss(GROUPS, alpha=-1), "alpha=-1"),
        (lambda: GKLLoss(GROUPS, weight_temperature=0), "^weight_temperature=0"),
        (lambda: gkl_loss(STUDENT, TEACHER, gamma=-1), "gamma=-1"),
        (lambda: gkl_loss(STUDENT, TEACHER, temperature=0), "^temperature=0"),
        (lambda: gkl_loss(STUDENT, TEACHER, weight_probs=torch.ones(6)), r"weight_probs has the shape \(6,\)"),
        (lambda: gkl_loss(STUDENT, TEACHER[:, :5]), r"\(4, 6\) and teacher logits of shape \(4, 5\)"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
