"""The losses that correct for class counts: balanced softmax, logit adjustment, class balance, balanced KD."""

import math

import pytest
import torch
import torch.nn.functional as F
from waves import wave_logits

from hf_ltkd import (
    BKDLoss,
    ClassGroups,
    CrossEntropyLoss,
    DKDLoss,
    KDLoss,
    LTKDLoss,
    balanced_softmax_loss,
    bkd_loss,
    class_balanced_loss,
    class_balanced_weights,
    kd_loss,
    log_class_prior,
    logit_adjusted_loss,
)


COUNTS = [500, 200, 80, 30, 12, 5]
LABELS = torch.tensor([0, 3, 1, 5])


def plain_adjusted_cross_entropy(logits, labels, offsets):
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        shifted = [z + offset for z, offset in zip(row, offsets, strict=True)]
        total += math.log(sum(math.exp(z) for z in shifted)) - shifted[label]
    return total / len(labels)


def test_balanced_softmax():
    logits, _ = wave_logits()
    expected = plain_adjusted_cross_entropy(logits, LABELS, [math.log(n) for n in COUNTS])
    assert balanced_softmax_loss(logits, LABELS, COUNTS).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_logit_adjusted(tau):
    logits, _ = wave_logits()
    expected = plain_adjusted_cross_entropy(logits, LABELS, [tau * math.log(n / sum(COUNTS)) for n in COUNTS])
    assert logit_adjusted_loss(logits, LABELS, COUNTS, tau=tau).item() == pytest.approx(expected, rel=1e-12)


def test_limits_of_logit_adjustment():
    logits, _ = wave_logits()
    plain = F.cross_entropy(logits, LABELS)
    torch.testing.assert_close(logit_adjusted_loss(logits, LABELS, COUNTS, tau=0.0), plain)
    torch.testing.assert_close(balanced_softmax_loss(logits, LABELS, [7] * 6), plain)
    torch.testing.assert_close(
        logit_adjusted_loss(logits, LABELS, COUNTS), balanced_softmax_loss(logits, LABELS, COUNTS)
    )


def test_log_class_prior():
    assert log_class_prior([3, 1]).exp().tolist() == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("beta", [0.9, 0.999, 0.9999])
def test_class_balanced_weights(beta):
    weights = [(1 - beta) / (1 - beta**n) for n in COUNTS]
    expected = [len(COUNTS) * w / sum(weights) for w in weights]
    assert class_balanced_weights(COUNTS, beta=beta).tolist() == pytest.approx(expected, rel=1e-9)


def test_limits_of_class_balanced_weights():
    assert class_balanced_weights(COUNTS, beta=0.0).tolist() == [1.0] * 6
    inverse = torch.tensor([1 / n for n in COUNTS], dtype=torch.float64)
    torch.testing.assert_close(class_balanced_weights(COUNTS, beta=1 - 1e-12), 6 * inverse / inverse.sum())


def test_class_balanced_loss_is_a_mean_over_examples():
    logits, _ = wave_logits()
    weights = class_balanced_weights(COUNTS)
    per_example = -logits.log_softmax(1)[range(4), LABELS]
    expected = sum(weights[label] * loss for label, loss in zip(LABELS, per_example, strict=True)) / 4
    torch.testing.assert_close(class_balanced_loss(logits, LABELS, weights), expected)
    halves = [class_balanced_loss(logits[i : i + 2], LABELS[i : i + 2], weights) for i in (0, 2)]
    torch.testing.assert_close(sum(halves) / 2, expected)  # however a batch is split


def test_balanced_kd_value():
    student, teacher = wave_logits()
    weights = torch.tensor([0.2, 0.4, 0.6, 1.0, 1.5, 2.3], dtype=torch.float64)
    total = 0.0
    for s_row, t_row in zip(student.tolist(), teacher.tolist(), strict=True):
        target = [math.exp(z / 2) * w for z, w in zip(t_row, weights.tolist(), strict=True)]
        target = [value / sum(target) for value in target]
        log_normaliser = math.log(sum(math.exp(z / 2) for z in s_row))
        total += sum(p * (math.log(p) - (z / 2 - log_normaliser)) for p, z in zip(target, s_row, strict=True))
    value = bkd_loss(student, teacher, weights, temperature=2.0).item()
    assert value == pytest.approx(4 * total / 4, rel=1e-12)
    # losses.py of EricZsy/BalancedKnowledgeDistillation (160e545), the same input in float64, torch 2.13
    assert value == pytest.approx(1.831403818680241, rel=1e-9)


def test_balanced_kd_with_equal_weights_is_kd():
    student, teacher = wave_logits()
    torch.testing.assert_close(
        bkd_loss(student, teacher, torch.ones(6), temperature=2.0), kd_loss(student, teacher, temperature=2.0)
    )


def test_balanced_kd_module():
    student, teacher = wave_logits()
    terms = BKDLoss(COUNTS, bkd_weight=0.5)(student, teacher, LABELS)
    assert list(terms) == ["cross_entropy", "balanced_kd"]
    expected = 0.5 * bkd_loss(student, teacher, class_balanced_weights(COUNTS))
    torch.testing.assert_close(terms["balanced_kd"], expected)
    assert BKDLoss(COUNTS).num_classes == 6


def test_kd_from_a_logit_adjusted_teacher():
    """A teacher whose probabilities are the balanced ones times the prior gives the balanced ones back."""
    student, balanced = wave_logits()
    prior = log_class_prior(COUNTS)
    adjusted = kd_loss(student, balanced + prior, teacher_log_prior=prior)
    torch.testing.assert_close(adjusted, kd_loss(student, balanced))
    terms = KDLoss(teacher_log_prior=prior)(student, balanced + prior, LABELS)
    torch.testing.assert_close(terms["kd"], adjusted)


@pytest.mark.parametrize(
    "function",
    [
        lambda z, t: balanced_softmax_loss(z, LABELS, COUNTS),
        lambda z, t: logit_adjusted_loss(z, LABELS, COUNTS, tau=1.5),
        lambda z, t: class_balanced_loss(z, LABELS, class_balanced_weights(COUNTS)),
        lambda z, t: bkd_loss(z, t, class_balanced_weights(COUNTS)),
        lambda z, t: kd_loss(z, t, teacher_log_prior=log_class_prior(COUNTS)),
    ],
)
def test_gradients_and_large_logits(function):
    student, teacher = wave_logits()
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: function(z, teacher), student)
    huge = (3e3 * student.detach()).float().requires_grad_()
    loss = function(huge, 3e3 * teacher.float())
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(huge.grad).all()


@pytest.mark.parametrize("ce", ["balanced_softmax", "logit_adjusted", "class_balanced"])
def test_every_loss_takes_a_balanced_cross_entropy(ce):
    student, teacher = wave_logits()
    expected = {
        "balanced_softmax": balanced_softmax_loss(student, LABELS, COUNTS),
        "logit_adjusted": logit_adjusted_loss(student, LABELS, COUNTS, tau=1.5),
        "class_balanced": class_balanced_loss(student, LABELS, class_balanced_weights(COUNTS, beta=0.99)),
    }[ce]
    arguments = {"ce": ce, "ce_weight": 0.5, "tau": 1.5, "effective_number_beta": 0.99}
    for loss in (
        CrossEntropyLoss(class_counts=COUNTS, **arguments),
        DKDLoss(class_counts=COUNTS, **arguments),
        LTKDLoss(ClassGroups.from_counts(COUNTS), **arguments),
        BKDLoss(COUNTS, **arguments),
    ):
        terms = loss(student, teacher, LABELS)
        assert next(iter(terms)) == ce and "cross_entropy" not in terms
        torch.testing.assert_close(terms[ce], 0.5 * expected)
        assert loss.num_classes == 6


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: CrossEntropyLoss(ce="balanced_softmax"), "needs class_counts"),
        (lambda: LTKDLoss(ClassGroups([0, 1, 2]), ce="balanced_softmax"), "needs class_counts"),
        (lambda: KDLoss(ce="focal"), "ce='focal' is not known"),
        (lambda: CrossEntropyLoss(ce="balanced_softmax", class_counts=[3, 0]), "1 or more"),
        (lambda: balanced_softmax_loss(torch.zeros(1, 3), torch.zeros(1).long(), [4, 5]), "one value per class"),
        (lambda: class_balanced_weights(COUNTS, beta=1.0), "beta=1.0 is not valid"),
        (lambda: logit_adjusted_loss(torch.zeros(1, 6), torch.zeros(1).long(), COUNTS, tau=-1), "tau=-1"),
        (lambda: KDLoss(teacher_log_prior=torch.tensor([0.5, 0.0]).log()), "NaN or Inf"),
        (lambda: kd_loss(torch.zeros(1, 3), torch.zeros(1, 3), teacher_log_prior=torch.zeros(2)), "teacher_log_prior"),
        (lambda: BKDLoss(COUNTS, bkd_weight=-1), "bkd_weight=-1"),
        (lambda: BKDLoss(COUNTS, temperature=0), "temperature=0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
