"""Soft labels, and examples without a class beside those with one."""

import pytest
import torch
from losses import loops
from losses.cases import CASES, COUNTS
from losses.tolerance import assert_close, largest_log_prob

from hf_ltkd import (
    CrossEntropyLoss,
    DKDLoss,
    KDLoss,
    balanced_softmax_loss,
    class_balanced_loss,
    class_balanced_weights,
    dkd_loss,
    logit_adjusted_loss,
)


TAKES_ANY = {name: case for name, case in CASES.items() if not case.make().needs_labels}
any_label = pytest.mark.parametrize("case", TAKES_ANY.values(), ids=TAKES_ANY.keys())


def total(terms):
    return torch.stack(list(terms.values())).sum()


def one_hot(labels):
    return torch.nn.functional.one_hot(labels, 10).double()


# ---- Soft labels ----


@pytest.mark.parametrize(
    "loss, options",
    [
        (CrossEntropyLoss()._cross_entropy, {}),
        (lambda z, y: balanced_softmax_loss(z, y, COUNTS), {"offsets": loops.log_prior(COUNTS)}),
        (lambda z, y: logit_adjusted_loss(z, y, COUNTS, tau=1.0), {"offsets": loops.log_prior(COUNTS)}),
        (
            lambda z, y: class_balanced_loss(z, y, class_balanced_weights(COUNTS, beta=0.99)),
            {"weights": loops.class_balanced_weights(COUNTS, 0.99)},
        ),
    ],
    ids=["cross_entropy", "balanced_softmax", "logit_adjusted", "class_balanced"],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_a_mixed_label_is_the_mixture_of_two_losses(loss, options, dtype):
    """What mixup is defined by; the labels stay float32."""
    logits, _, labels = CASES["kd"].batch(dtype=dtype)
    others, share = labels.flip(0), 0.3
    rows = logits.double().tolist()
    expected = share * loops.cross_entropy(rows, labels.tolist(), **options)
    expected += (1 - share) * loops.cross_entropy(rows, others.tolist(), **options)
    value = loss(logits, (share * one_hot(labels) + (1 - share) * one_hot(others)).float())
    # The shares are float32 themselves: each of the two losses is off by as much of itself.
    assert_close(value.float(), expected, 2 * logits.numel(), 10 * largest_log_prob(logits))


@any_label
def test_one_class_as_a_soft_label(case):
    loss, student_model, teacher_model = case.ready()
    student, teacher, labels = case.batch()
    hard = loss(student_model(student), teacher_model(teacher), labels)
    soft = loss(student_model(student), teacher_model(teacher), one_hot(labels))
    assert list(soft) == list(hard)
    for name in hard:
        assert_close(soft[name], hard[name], 2 * student.numel(), case.scale * largest_log_prob(student, teacher))


def test_label_smoothing_of_soft_labels():
    logits, _, labels = CASES["kd"].batch()
    loss = CrossEntropyLoss()
    loss.smooth_labels(0.2)
    assert total(loss(logits, None, one_hot(labels))).item() == pytest.approx(total(loss(logits, None, labels)).item())


def test_rows_of_marks():
    """A row of -100 counts nowhere, a row of -1 has no class."""
    student, teacher, labels = CASES["kd"].batch()
    soft = one_hot(labels)
    labels[[1, 4]], soft[[1, 4]] = torch.tensor([-100, -1]), torch.tensor([-100.0, -1.0], dtype=soft.dtype)[:, None]
    hard_terms, soft_terms = (KDLoss()(student, teacher, y) for y in (labels, soft))
    for name in hard_terms:
        assert soft_terms[name].item() == pytest.approx(hard_terms[name].item(), rel=1e-12)


@pytest.mark.parametrize("row, message", [
    ([1.0, 1.0] + [0.0] * 8, r"sum to 2: .* probabilities that sum to 1\. Examples of several classes at once"),
    ([2.0, -0.5, -0.5] + [0.0] * 7, "soft labels are probabilities"),
])  # fmt: skip
def test_several_classes_at_once_are_refused(row, message):
    student, teacher, labels = CASES["kd"].batch()
    soft = one_hot(labels)
    soft[2] = torch.tensor(row)
    with pytest.raises(ValueError, match=message):
        KDLoss()(student, teacher, soft)
    with pytest.raises(ValueError, match="do not fit: .* Examples of several classes at once"):
        KDLoss()(student, teacher, (soft > 0).long())
    with pytest.raises(ValueError, match="one probability per class"):
        KDLoss()(student, teacher, torch.full((6, 4), 0.25))


# ---- Examples without a class ----


@any_label
def test_without_a_class_only_the_cross_entropy_leaves_it_out(case):
    loss, student_model, teacher_model = case.ready()
    student, teacher, labels = case.batch()
    student.requires_grad_()
    full = loss(student_model(student), teacher_model(teacher), labels)
    known = torch.tensor([True, False, True, True, False, True])
    terms = loss(student_model(student), teacher_model(teacher), labels.where(known, -1))
    assert list(terms) == list(full)
    for name, term in terms.items():
        if name != loss.ce:
            assert torch.equal(term, full[name])  # as if they had a class
    if loss.ce_weight:
        alone = loss(student_model(student[known]), teacher_model(teacher[known]), labels[known])
        assert_close(terms[loss.ce], alone[loss.ce], 60, case.scale * largest_log_prob(student))


@any_label
def test_no_class_at_all(case):
    loss, student_model, teacher_model = case.ready()
    student, teacher, labels = case.batch()
    student.requires_grad_()
    terms = loss(student_model(student), teacher_model(teacher), torch.full_like(labels, -1))
    if loss.ce_weight:
        assert terms[loss.ce].item() == 0.0
    total(terms).backward()
    assert student.grad.any() == loss.needs_teacher


@pytest.mark.parametrize("name", [name for name, case in TAKES_ANY.items() if case.splits])
def test_marks_split_as_a_step_is(name):
    """Each term is a mean over what it counts: the cross-entropy over those with a class, the others over all."""
    case = CASES[name]
    loss, student_model, teacher_model = case.ready()
    student, teacher, labels = case.batch()
    labels[[0, 1, 2]], labels[4] = torch.tensor([-1, -1, 7]), -100
    whole = loss(student_model(student), teacher_model(teacher), labels)
    parts = list(zip(student.split(2), teacher.split(2), labels.split(2), strict=True))
    valid = [(y != -100) for _, _, y in parts]
    statistics = [loss.batch_statistics(teacher_model(t[v]), y[v]) for (_, t, y), v in zip(parts, valid, strict=True)]
    statistics = None if statistics[0] is None else loss.begin_step(torch.stack(statistics))
    summed = dict.fromkeys(whole, 0.0)
    for (s, t, y), v in zip(parts, valid, strict=True):
        for name, term in loss(student_model(s), teacher_model(t), y, step_statistics=statistics).items():
            share = (y >= 0).sum().item() / 3 if name == loss.ce else v.sum().item() / 5
            summed[name] = summed[name] + share * term
    for name, term in whole.items():
        assert_close(summed[name], term, 2 * student.numel(), 2 * case.scale * largest_log_prob(student, teacher))


def test_a_loss_on_the_target_class_says_so():
    student, teacher, labels = CASES["dkd"].batch()
    with pytest.raises(ValueError, match=r"DKDLoss needs the class of each example, and some have none \(label -1\)"):
        DKDLoss()(student, teacher, labels.where(labels > 3, -1))
    for compute in (DKDLoss(), dkd_loss):
        with pytest.raises(ValueError, match="DKD.* needs the class of each example and cannot take soft labels"):
            compute(student, teacher, one_hot(labels))
    padded = labels.where(labels > 3, -100)
    assert torch.isfinite(total(DKDLoss()(student, teacher, padded)))


def test_another_negative_label_is_an_error():
    """Only -1 stands for no class."""
    student, teacher, labels = CASES["kd"].batch()
    with pytest.raises(ValueError, match=r"hold -2, outside the classes 0 to 9 \(or -100, -1\)"):
        KDLoss()(student, teacher, labels.where(labels > 3, -2))
