"""LDAM and its deferred re-weighting."""

import pytest
import torch
import torch.nn.functional as F
from losses.cases import COUNTS, Case
from losses.tolerance import assert_close, largest_log_prob
from losses.waves import wave

from hf_ltkd import CrossEntropyLoss, KDLoss, class_balanced_loss, class_balanced_weights, ldam_loss


LOGITS, _, LABELS = Case(CrossEntropyLoss, 1).batch()
ROUNDING = 20, 30 * 10 * largest_log_prob(LOGITS)


def test_without_margin_it_is_a_cross_entropy():
    assert_close(
        ldam_loss(LOGITS, LABELS, COUNTS, max_margin=0, scale=3), F.cross_entropy(3 * LOGITS, LABELS), *ROUNDING
    )


def test_the_rarest_class_has_the_largest_margin():
    """16 times the examples, half the margin."""
    for label, margin in ((0, 0.25), (1, 0.5)):
        logits = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
        moved = logits.clone()
        moved[0, label] -= margin
        label = torch.tensor([label])
        assert_close(ldam_loss(logits, label, [160, 10]), F.cross_entropy(30 * moved, label), *ROUNDING)


@pytest.mark.parametrize("epoch, weighted", [(0.0, False), (1.99, False), (2.0, True), (5.0, True), (None, True)])
def test_classes_are_weighted_from_the_epoch_on(epoch, weighted):
    arguments = {"ce": "ldam", "class_counts": COUNTS, "max_margin": 0.0, "ldam_scale": 1.0}
    loss = KDLoss(**arguments, drw_epoch=2, effective_number_beta=0.99)
    expected = F.cross_entropy(LOGITS, LABELS)
    if weighted:
        weights, counts = class_balanced_weights(COUNTS, beta=0.99), torch.tensor(COUNTS, dtype=torch.float64)
        expected = class_balanced_loss(LOGITS, LABELS, weights) * counts.sum() / (counts * weights).sum()
    assert_close(loss(LOGITS, LOGITS, LABELS, epoch=epoch)["ldam"], expected, *ROUNDING)


def test_weighted_classes_leave_the_size_of_the_loss():
    """On all training examples at once it is what the authors compute: a mean that is divided by the weights."""
    labels = torch.tensor([0] * 7 + [1] * 4 + [2])
    logits = wave(12, 3)
    loss = CrossEntropyLoss(ce="ldam", class_counts=[7, 4, 1], max_margin=0.0, drw_epoch=1)
    expected = F.cross_entropy(logits, labels, weight=class_balanced_weights([7, 4, 1]))
    assert_close(loss(logits, None, labels, epoch=1.0)["ldam"], expected, *ROUNDING)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ldam_loss(LOGITS, LABELS, COUNTS[:3]), "class_counts has the shape"),
        (lambda: ldam_loss(LOGITS, LABELS, COUNTS, scale=-1), "scale=-1"),
        (lambda: CrossEntropyLoss(ce="ldam"), "needs class_counts"),
        (lambda: CrossEntropyLoss(ce="ldam", class_counts=COUNTS, max_margin=-1), "max_margin=-1"),
        (lambda: CrossEntropyLoss(drw_epoch=5), "drw_epoch=5 goes with ce='ldam', not with ce='cross_entropy'"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
