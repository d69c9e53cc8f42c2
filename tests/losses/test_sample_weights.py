"""Weights of the examples: 2 is the example twice, 0 is none; and other columns of the batch that a loss names."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from losses.cases import CASES, COUNTS, GROUPS, Case
from losses.test_every_loss import assert_same_terms, every_loss, total
from losses.tolerance import assert_close, largest_log_prob

from hf_ltkd import CrossEntropyLoss, CWDLoss, DistillationLoss, DISTLoss, GKLLoss, KDLoss, LTKDLoss


TIMES = [2, 1, 0, 3, 1, 1]
ROWS = [row for row, times in enumerate(TIMES) for _ in range(times)]
STUDENT, TEACHER, LABELS = Case(CrossEntropyLoss, 1).batch()


def terms_and_gradient(case, student, teacher, labels, rows=None, **columns):
    """Of a loss that is made afresh, as some remember what they have seen."""
    loss, student_model, teacher_model = case.ready()
    student = student.clone().requires_grad_()
    rows = list(range(len(labels))) if rows is None else rows
    terms = loss(student_model(student[rows]), teacher_model(teacher[rows]), labels[rows], **columns)
    return terms, torch.autograd.grad(total(terms), student)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64], ids=str)
@every_loss
def test_a_weight_is_the_example_that_many_times(case, dtype):
    student, teacher, labels = case.batch()
    weights = torch.tensor(TIMES, dtype=dtype)
    found, gradient = terms_and_gradient(case, student, teacher, labels, sample_weights=weights)
    expected, slope = terms_and_gradient(case, student, teacher, labels, ROWS)
    if not case.splits:  # DIST's authors add 1e-8 to sums over the batch, of however many examples
        case = replace(case, scale=1e7 * case.scale)
    assert_same_terms(case, found, expected, student, teacher)
    assert_close(gradient, slope, 2 * student.numel(), case.scale * largest_log_prob(student, teacher))
    if case.by_loops:
        by_loops = case.by_loops(student[ROWS].tolist(), teacher[ROWS].tolist(), labels[ROWS].tolist())
        assert_same_terms(case, found, by_loops, student, teacher)


@every_loss
def test_only_ratios_of_weights_count(case):
    student, teacher, labels = case.batch()
    each = [terms_and_gradient(case, student, teacher, labels, sample_weights=w)[0] for w in (
        torch.full((6,), 1e-7), torch.full((6,), 1.0))]  # fmt: skip
    plain, _ = terms_and_gradient(case, student, teacher, labels)
    for terms in each:
        assert_same_terms(case, terms, plain, student, teacher)


@pytest.mark.parametrize(
    "case", [c for c in CASES.values() if c.splits], ids=[n for n, c in CASES.items() if c.splits]
)
def test_one_optimizer_step_is_one_batch(case):
    loss, student_model, teacher_model = case.ready()
    student, teacher, labels = case.batch()
    weights = torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0, 0.25]).double()
    whole, _ = terms_and_gradient(case, student, teacher, labels, sample_weights=weights)
    parts = [(student_model(s), teacher_model(t), y, w) for s, t, y, w in zip(
        *(x.split([3, 1, 2]) for x in (student, teacher, labels, weights)), strict=True)]  # fmt: skip
    statistics = [loss.statistics_of(t, y, sample_weights=w) for _, t, y, w in parts]
    statistics = None if statistics[0] is None else loss.begin_step(torch.stack(statistics))
    in_parts = sum(
        w.sum() / weights.sum() * total(loss(s, t, y, step_statistics=statistics, sample_weights=w))
        for s, t, y, w in parts
    )
    assert_close(in_parts, total(whole), 2 * student.numel(), 2 * case.scale * largest_log_prob(student, teacher))


def test_the_cross_entropy_is_a_mean_over_the_weights_of_those_with_a_class():
    weights, labels = torch.tensor([2.0, 1, 4, 3, 1, 5]), LABELS.clone()
    labels[2], labels[5] = -1, -100
    terms = KDLoss()(STUDENT, TEACHER, labels, sample_weights=weights)
    each = F.cross_entropy(STUDENT[[0, 1, 3, 4]], LABELS[[0, 1, 3, 4]], reduction="none")
    assert_close(terms["cross_entropy"], (each @ torch.tensor([2.0, 1, 3, 1]).double()) / 7, 60, 30)
    rows = [0, 0, 1, 2, 2, 2, 2, 3, 3, 3, 4]
    assert_close(terms["kd"], KDLoss()(STUDENT[rows], TEACHER[rows], LABELS[rows])["kd"], 110, 16 * 30)


@pytest.mark.parametrize("per_token", [False, True])
def test_a_token_weighs_what_its_example_does(per_token):
    weights = torch.tensor([2.0, 1.0])
    tokens = STUDENT.view(2, 3, 10), TEACHER.view(2, 3, 10), LABELS.view(2, 3)
    found = LTKDLoss(GROUPS)(*tokens, sample_weights=weights[:, None].expand(2, 3) if per_token else weights)
    each = weights.repeat_interleave(3)
    assert_same_terms(CASES["ltkd"], found, LTKDLoss(GROUPS)(STUDENT, TEACHER, LABELS, sample_weights=each), STUDENT, TEACHER)  # fmt: skip  # noqa: E501


def test_soft_labels_are_weighed():
    soft, weights = F.one_hot(LABELS, 10).double(), torch.tensor(TIMES)
    found = LTKDLoss(GROUPS)(STUDENT, TEACHER, soft, sample_weights=weights)
    expected = LTKDLoss(GROUPS)(STUDENT, TEACHER, LABELS, sample_weights=weights)
    assert_same_terms(CASES["ltkd"], found, expected, STUDENT, TEACHER)


@every_loss
def test_a_batch_without_weight_is_no_loss(case):
    student, teacher, labels = case.batch()
    terms, gradient = terms_and_gradient(case, student, teacher, labels, sample_weights=torch.zeros(6))
    assert total(terms).item() == 0.0 and not gradient.any()


@pytest.mark.parametrize(
    "weights, message",
    [
        (torch.tensor([1.0, -0.5, 1, 1, 1, 1]), "sample_weights hold -0.5: give finite numbers of 0 or more"),
        (torch.tensor([1.0, torch.nan, 1, 1, 1, 1]), "sample_weights hold nan"),
        (torch.tensor([1.0, torch.inf, 1, 1, 1, 1]), "sample_weights hold inf"),
        (
            torch.ones(5),
            r"sample_weights are torch.Size\(\[5\]\): give a tensor of one number of 0 or more per",
        ),
        (torch.ones(6, 10), r"sample_weights are torch.Size\(\[6, 10\]\)"),
        ([1.0] * 6, "sample_weights are list: give a tensor"),
    ],
)
def test_weights_that_are_none(weights, message):
    with pytest.raises(ValueError, match=message):
        KDLoss()(STUDENT, TEACHER, LABELS, sample_weights=weights)


# ---- Columns of a loss's own ----


class Scalar(DistillationLoss):
    def distillation_terms(self, student_outputs, teacher_outputs, labels, step_statistics):
        return {"logit_mse": F.mse_loss(student_outputs, teacher_outputs)}


class OfEach(DistillationLoss):
    def distillation_terms(self, student_outputs, teacher_outputs, labels, step_statistics, *, group_id, note=None):
        assert note == "as it is"
        return {"logit_mse": group_id * (student_outputs - teacher_outputs).square().mean(1)}


class Further(OfEach):
    def distillation_terms(self, student_outputs, teacher_outputs, labels, step_statistics, index=None, **columns):
        terms = super().distillation_terms(student_outputs, teacher_outputs, labels, step_statistics, **columns)
        return {**terms, "index": index.double()}


class HandsOn(DISTLoss):
    def distillation_terms(self, *args, **kwargs):
        return super().distillation_terms(*args, **kwargs)


class Sums(KDLoss):
    def batch_statistics(self, teacher_outputs, labels):
        return teacher_outputs.sum(0)


def test_a_loss_gets_the_columns_that_it_names():
    labels, columns = LABELS.clone(), {"group_id": torch.arange(6), "note": "as it is"}
    labels[1] = -100
    valid = labels != -100
    terms = OfEach(ce_weight=0)(STUDENT, TEACHER, labels, **columns)
    expected = (torch.arange(6)[:, None] * (STUDENT - TEACHER).square())[valid].mean()
    assert_close(terms["logit_mse"], expected, 60, 5 * 100)
    assert HandsOn.columns == {"sample_weights"} and HandsOn()(STUDENT, TEACHER, LABELS, sample_weights=torch.ones(6))
    assert Further.columns == {"sample_weights", "group_id", "note", "index"}
    terms = Further(ce_weight=0)(STUDENT, TEACHER, labels, **columns, index=torch.arange(6))
    assert_close(terms["logit_mse"], expected, 60, 5 * 100)
    assert terms["index"] == (0 + 2 + 3 + 4 + 5) / 5


@pytest.mark.parametrize(
    "loss, columns, message",
    [
        (OfEach, {}, "OfEach reads the column 'group_id', which the batch does not have: let the dataset or the data"),
        (KDLoss, {"sample_weight": torch.ones(6)}, r"KDLoss reads \['sample_weights'\], not \['sample_weight'\]"),
        (
            Scalar,
            {"sample_weights": torch.ones(6)},
            "The term 'logit_mse' is a mean already, which sample_weights can",
        ),
        (Sums, {"sample_weights": torch.ones(6)}, "Sums sums over the batch without its sample_weights"),
    ],
)
def test_columns_that_do_not_fit(loss, columns, message):
    with pytest.raises(ValueError, match=message):
        loss()(STUDENT, TEACHER, LABELS, **columns)


def test_a_term_that_is_neither_of_each_example_nor_their_mean():
    class Wrong(Scalar):
        def distillation_terms(self, student_outputs, *args):
            return {"wrong": student_outputs}

    with pytest.raises(
        ValueError, match=r"The term 'wrong' has the shape \(6, 10\): return one value per example, \[6\]"
    ):
        Wrong()(STUDENT, TEACHER, LABELS)


def test_class_means_are_of_weights_below_1_too():
    loss, weights = GKLLoss(GROUPS, weight_temperature=1.0).double(), torch.tensor([0.1, 0.3, 0.2, 0.5, 0.1, 0.1])
    labels = torch.tensor([3, 3, 0, 0, 0, 9])
    loss(STUDENT, TEACHER, labels, epoch=0.0, sample_weights=weights)
    loss.begin_epoch(1.0)
    probs = TEACHER.softmax(1)
    assert_close(loss.class_probs[3], (0.1 * probs[0] + 0.3 * probs[1]) / 0.4, 1e9, 1)  # weights are float32
    assert_close(loss.class_probs[9], probs[5], 1e9, 1)
    assert torch.equal(loss.class_probs[1], torch.full((10,), 0.1).double())  # without an example: as before


def test_the_counts_of_the_cross_entropies_weigh_too():
    for ce in ("balanced_softmax", "logit_adjusted", "class_balanced", "ldam"):
        loss = CrossEntropyLoss(ce=ce, class_counts=COUNTS)
        found = loss(STUDENT, None, LABELS, sample_weights=torch.tensor(TIMES))[ce]
        assert_close(found, loss(STUDENT[ROWS], None, LABELS[ROWS])[ce], 80, 10 * largest_log_prob(STUDENT))


def test_an_image_that_weighs_twice_is_there_twice():
    """Of pixels `[12]` of three images; a weight is that of the image, whose softmax it leaves alone."""
    student, teacher = torch.randn(2, 12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels, image_ids = torch.arange(12) % 5, torch.arange(3).repeat_interleave(4)
    weights = torch.tensor([2.0, 1.0, 3.0], dtype=torch.float64)[image_ids]
    pixels = torch.cat([torch.arange(4) + 4 * image for image in (0, 0, 1, 2, 2, 2)])
    loss = CWDLoss()
    found = loss(student, teacher, labels, image_ids=image_ids, sample_weights=weights)
    copies = {"image_ids": torch.arange(6).repeat_interleave(4)}
    expected = loss(student[pixels], teacher[pixels], labels[pixels], **copies)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)  # of float32 sums of weights
