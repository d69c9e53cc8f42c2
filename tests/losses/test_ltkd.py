"""The formulas of the paper against plain loops in float64, known limits, and extreme input."""

import math

import pytest
import torch
import torch.nn.functional as F

from hf_ltkd import (
    BKDLoss,
    ClassGroups,
    CrossEntropyLoss,
    DISTLoss,
    DKDLoss,
    KDLoss,
    LTKDLoss,
    kd_loss,
    kl_decomposition,
    ltkd_loss,
)


def softmax(row):
    top = max(row)
    exps = [math.exp(value - top) for value in row]
    return [value / sum(exps) for value in exps]


def plain_ltkd(student, teacher, group_of_class, alpha, beta, temperature, rebalance=True, reweight=True):
    """Eq. 3, 4 and 9 to 14 as they stand in the paper, one number at a time."""
    num_groups = max(group_of_class) + 1
    members = [[c for c, g in enumerate(group_of_class) if g == group] for group in range(num_groups)]
    p_student = [softmax([z / temperature for z in row]) for row in student.tolist()]
    p_teacher = [softmax([z / temperature for z in row]) for row in teacher.tolist()]
    mass = [sum(row[c] for row in p_teacher for c in members[g]) for g in range(num_groups)]  # Eq. 9
    factors = [sum(mass) / num_groups / m for m in mass]  # Eq. 10
    cross = within = 0.0
    for ps, pt in zip(p_student, p_teacher, strict=True):
        group_s = [sum(ps[c] for c in members[g]) for g in range(num_groups)]
        group_t = [sum(pt[c] for c in members[g]) for g in range(num_groups)]
        target = group_t
        if rebalance:
            scaled = [s * p for s, p in zip(factors, group_t, strict=True)]
            target = [value / sum(scaled) for value in scaled]  # Eq. 11
        cross += sum(t * math.log(t / s) for t, s in zip(target, group_s, strict=True))
        for g in range(num_groups):
            kl = sum(pt[c] / group_t[g] * math.log(pt[c] / group_t[g] / (ps[c] / group_s[g])) for c in members[g])
            within += kl if reweight else group_t[g] * kl
    return temperature**2 * (alpha * cross + beta * within) / len(p_student)


def random_logits(batch=6, classes=10, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(batch, classes, generator=generator, dtype=torch.float64) * scale
    teacher = torch.randn(batch, classes, generator=generator, dtype=torch.float64) * scale
    teacher[:, :3] += 2  # a biased teacher
    return student, teacher


GROUPINGS = {
    "three": ClassGroups.from_counts(range(10, 0, -1)),
    "any order": ClassGroups([2, 0, 1, 1, 0, 2, 2, 1, 0, 0]),
    "one": ClassGroups([0] * 10),
    "each": ClassGroups.from_counts(range(10, 0, -1), num_groups=10),
}


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("reweight", [True, False])
@pytest.mark.parametrize("rebalance", [True, False])
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_ltkd_equals_the_paper_written_as_a_loop(grouping, rebalance, reweight, temperature):
    groups = GROUPINGS[grouping]
    student, teacher = random_logits()
    switches = {"rebalance": rebalance, "reweight": reweight, "temperature": temperature, "alpha": 2.0, "beta": 3.0}
    value = ltkd_loss(student, teacher, groups, **switches)
    assert value.item() == pytest.approx(
        plain_ltkd(student, teacher, groups.group_of_class.tolist(), **switches), rel=1e-12
    )


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_decomposition_sums_to_kl(grouping):
    student, teacher = random_logits()
    parts = kl_decomposition(student, teacher, GROUPINGS[grouping], temperature=2.0)
    kl = F.kl_div((student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(parts.cross + (parts.teacher_group_probs * parts.within).sum(1), kl)  # Eq. 8


def test_biased_unweighted_ltkd_is_kd():
    student, teacher = random_logits()
    value = ltkd_loss(
        student, teacher, GROUPINGS["three"], alpha=1, beta=1, rebalance=False, reweight=False, temperature=4.0
    )
    torch.testing.assert_close(value, kd_loss(student, teacher, temperature=4.0))


def test_one_group_is_kd_and_one_group_per_class_has_no_within_term():
    student, teacher = random_logits()
    torch.testing.assert_close(
        ltkd_loss(student, teacher, GROUPINGS["one"], alpha=5, beta=1), kd_loss(student, teacher)
    )
    within = kl_decomposition(student, teacher, GROUPINGS["each"]).within
    torch.testing.assert_close(within, torch.zeros_like(within))


def test_target_and_rest_as_groups_is_dkd():
    """TCKD + beta · NCKD (Zhao et al. 2022): the cross term and the rest's within term, without rebalancing."""
    student, teacher = random_logits(batch=1)
    groups = ClassGroups([0] + [1] * 9)
    p_s, p_t = student.softmax(1)[0], teacher.softmax(1)[0]
    tckd = p_t[0] * (p_t[0] / p_s[0]).log() + (1 - p_t[0]) * ((1 - p_t[0]) / (1 - p_s[0])).log()
    rest_s, rest_t = p_s[1:] / p_s[1:].sum(), p_t[1:] / p_t[1:].sum()
    nckd = (rest_t * (rest_t / rest_s).log()).sum()
    value = ltkd_loss(student, teacher, groups, alpha=1, beta=8, temperature=1, rebalance=False)
    torch.testing.assert_close(value, tckd + 8 * nckd)


def test_equal_logits_give_zero_unless_rebalanced():
    logits, _ = random_logits()
    assert ltkd_loss(logits, logits, GROUPINGS["three"], rebalance=False).item() == pytest.approx(0, abs=1e-12)
    assert kd_loss(logits, logits).item() == pytest.approx(0, abs=1e-12)
    biased = random_logits()[1]
    assert ltkd_loss(biased, biased, GROUPINGS["three"]).item() > 0.01


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_gradient(grouping):
    student, teacher = random_logits(batch=3)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: ltkd_loss(s, teacher, GROUPINGS[grouping], temperature=2.0), student)
    assert torch.autograd.gradcheck(lambda s: kd_loss(s, teacher, temperature=2.0), student)


def test_no_gradient_reaches_the_teacher():
    student, teacher = random_logits()
    teacher.requires_grad_()
    student.requires_grad_()
    (ltkd_loss(student, teacher, GROUPINGS["three"]) + kd_loss(student, teacher)).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


def test_class_order_does_not_matter():
    student, teacher = random_logits()
    groups = GROUPINGS["any order"]
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    permuted = ClassGroups(groups.group_of_class[order])
    torch.testing.assert_close(
        ltkd_loss(student[:, order], teacher[:, order], permuted), ltkd_loss(student, teacher, groups)
    )


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_finite_at_extreme_logits(grouping, batch):
    """|logit| up to 1e4, and a group that the teacher gives no mass in float32."""
    student, teacher = (logits[:batch].float().sign() * 1e4 for logits in random_logits())
    teacher[:, GROUPINGS[grouping].group_of_class == 0] = 1e4
    teacher[:, GROUPINGS[grouping].group_of_class == 2] = -1e4
    student.requires_grad_()
    for loss in (
        ltkd_loss(student, teacher, GROUPINGS[grouping], temperature=1.0),
        ltkd_loss(student, teacher, GROUPINGS[grouping], temperature=1.0, reweight=False, rebalance=False),
        kd_loss(student, teacher, temperature=1.0),
    ):
        (gradient,) = torch.autograd.grad(loss, student)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher = (logits.to(dtype) for logits in random_logits())
    value = ltkd_loss(student, teacher, GROUPINGS["three"])
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, ltkd_loss(student.float(), teacher.float(), GROUPINGS["three"]))


def test_group_mass_stands_for_more_than_this_batch():
    student, teacher = random_logits(batch=8)
    groups = GROUPINGS["three"]
    mass = kl_decomposition(student, teacher, groups, temperature=4.0).teacher_group_probs.sum(0)
    parts = [ltkd_loss(student[i : i + 2], teacher[i : i + 2], groups, group_mass=mass) for i in range(0, 8, 2)]
    torch.testing.assert_close(torch.stack(parts).mean(), ltkd_loss(student, teacher, groups))
    zero = ltkd_loss(student, teacher, groups, group_mass=torch.tensor([1.0, 0.0, 1.0]))
    assert torch.isfinite(zero)


def test_modules_name_their_terms_and_sum_to_the_functions():
    student, teacher = random_logits()
    labels = torch.arange(6)
    groups = GROUPINGS["three"]
    terms = LTKDLoss(groups, alpha=2.0, beta=3.0, ce_weight=0.5)(student, teacher, labels)
    assert list(terms) == ["cross_entropy", "cross_group", "within_group"]
    torch.testing.assert_close(terms["cross_entropy"], 0.5 * F.cross_entropy(student, labels))
    torch.testing.assert_close(terms["cross_group"], ltkd_loss(student, teacher, groups, alpha=2.0, beta=0.0))
    torch.testing.assert_close(terms["within_group"], ltkd_loss(student, teacher, groups, alpha=0.0, beta=3.0))
    terms = KDLoss(kd_weight=0.9, ce_weight=0.1)(student, teacher, labels)
    torch.testing.assert_close(terms["kd"], 0.9 * kd_loss(student, teacher))
    assert list(CrossEntropyLoss()(student, None, labels)) == ["cross_entropy"]
    assert list(KDLoss(ce_weight=0)(student, teacher, labels)) == ["kd"]


def test_step_statistics_make_micro_batches_exact():
    student, teacher = random_logits(batch=8)
    labels = torch.zeros(8, dtype=torch.long)
    loss = LTKDLoss(GROUPINGS["three"], temperature=1.0)
    chunks = [slice(0, 3), slice(3, 4), slice(4, 8)]
    statistics = torch.stack([loss.batch_statistics(teacher[chunk]) for chunk in chunks])
    total = 0
    for chunk in chunks:
        terms = loss(student[chunk], teacher[chunk], labels[chunk], step_statistics=statistics)
        total = total + torch.stack(list(terms.values())).sum() * (chunk.stop - chunk.start) / 8
    whole = torch.stack(list(loss(student, teacher, labels).values())).sum()
    torch.testing.assert_close(total, whole)
    assert LTKDLoss(GROUPINGS["three"], rebalance=False).batch_statistics(teacher) is None


def test_warmup_scales_the_distillation_terms_alone():
    student, teacher = random_logits()
    labels = torch.arange(6)
    loss = KDLoss(warmup_epochs=4)
    full = loss(student, teacher, labels)
    early = loss(student, teacher, labels, epoch=1.0)
    torch.testing.assert_close(early["kd"], full["kd"] / 4)
    torch.testing.assert_close(early["cross_entropy"], full["cross_entropy"])
    torch.testing.assert_close(loss(student, teacher, labels, epoch=7.5)["kd"], full["kd"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -1.0}, "alpha=-1.0"),
        ({"beta": float("nan")}, "beta=nan"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"ce_weight": -0.1}, "ce_weight=-0.1"),
        ({"warmup_epochs": -2}, "warmup_epochs=-2"),
    ],
)
def test_bad_hyperparameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        LTKDLoss(GROUPINGS["three"], **arguments)


def test_bad_shapes():
    student, teacher = random_logits()
    with pytest.raises(ValueError, match=r"\(6, 10\) and teacher logits of shape \(6, 9\)"):
        kd_loss(student, teacher[:, :9])
    with pytest.raises(ValueError, match="10 classes, the groups 3"):
        ltkd_loss(student, teacher, ClassGroups([0, 1, 2]))
    with pytest.raises(ValueError, match="group_mass has the shape"):
        ltkd_loss(student, teacher, GROUPINGS["three"], group_mass=torch.ones(2))


# ---- What does not count, and what is remembered ----


def test_running_group_mass():
    """After steps 1, 2, 3 with a momentum of 1/2, the running mean weighs their shares 1 : 2 : 4."""
    groups = GROUPINGS["three"]
    loss = LTKDLoss(groups, temperature=1.0, group_mass_momentum=0.5, ce_weight=0.0)
    weighted = torch.zeros(3, dtype=torch.float64)
    for step in range(3):
        student, teacher = random_logits(seed=step)
        mass = torch.stack([teacher.softmax(1)[:, groups.group_of_class == g].sum() for g in range(3)])
        weighted += 2**step * mass / mass.sum()
        terms = loss(student, teacher, torch.zeros(6, dtype=torch.long))
        expected = ltkd_loss(student, teacher, groups, temperature=1.0, group_mass=weighted)
        torch.testing.assert_close(sum(terms.values()), expected, rtol=1e-5, atol=1e-6)


def test_running_group_mass_rests_in_evaluation_and_is_forgotten_by_prepare():
    loss = LTKDLoss(GROUPINGS["three"], group_mass_momentum=0.9)
    student, teacher = random_logits()
    labels = torch.zeros(6, dtype=torch.long)
    loss.eval()(student, teacher, labels)
    assert torch.isneginf(loss.log_group_mass).all()
    loss.train()(student, teacher, labels)
    assert torch.isfinite(loss.log_group_mass).all()
    loss.prepare(None, None)
    assert torch.isneginf(loss.log_group_mass).all()
    assert LTKDLoss(GROUPINGS["three"]).state_dict() == {}


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_bad_momentum(momentum):
    with pytest.raises(ValueError, match=f"group_mass_momentum={momentum} is not valid"):
        LTKDLoss(GROUPINGS["three"], group_mass_momentum=momentum)


EVERY_LOSS = {
    "ltkd": LTKDLoss(GROUPINGS["three"], temperature=1.0),
    "kd": KDLoss(),
    "dkd": DKDLoss(temperature=1.0),
    "dist": DISTLoss(),
    "bkd": BKDLoss(range(10, 0, -1), ce="class_balanced"),
    "ce": CrossEntropyLoss(),
}


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_labels_of_minus_100_count_nowhere(name):
    loss = EVERY_LOSS[name]
    student, teacher = random_logits(batch=6)
    student.requires_grad_()
    labels = torch.tensor([3, -100, 0, 9, -100, 5])
    terms = loss(student, teacher, labels)
    sum(terms.values()).backward()
    counts = labels != -100
    assert (student.grad[~counts] == 0).all() and (student.grad[counts] != 0).any()
    expected = loss(student[counts], teacher[counts], labels[counts])
    assert {k: v.item() for k, v in terms.items()} == pytest.approx({k: v.item() for k, v in expected.items()})


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_tokens_are_examples(name):
    loss = EVERY_LOSS[name]
    student, teacher = random_logits(batch=6)
    labels = torch.tensor([3, 7, 0, 9, 1, 5])
    flat = loss(student, teacher, labels)
    tokens = loss(student.view(2, 3, 10), teacher.view(2, 3, 10), labels.view(2, 3))
    assert {k: v.item() for k, v in tokens.items()} == pytest.approx({k: v.item() for k, v in flat.items()})


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_a_batch_without_labels_is_no_loss(name):
    student, teacher = random_logits(batch=4)
    student.requires_grad_()
    terms = EVERY_LOSS[name](student, teacher, torch.full((4,), -100))
    total = sum(terms.values())
    total.backward()
    assert total.item() == 0.0 and torch.equal(student.grad, torch.zeros_like(student))


def test_labels_that_do_not_fit_the_logits():
    with pytest.raises(ValueError, match=r"Logits of shape \(2, 3, 10\) and labels of shape \(2, 4\) do not fit"):
        KDLoss()(torch.zeros(2, 3, 10), torch.zeros(2, 3, 10), torch.zeros(2, 4, dtype=torch.long))


@pytest.mark.parametrize("name", ["kd", "dkd", "bkd", "ce"])
def test_means_over_halves_are_the_mean_over_the_whole(name):
    """What the trainer relies on to make any split of a step the same step."""
    student, teacher = random_logits(batch=6)
    labels = torch.tensor([3, 7, 0, 9, 1, 5])
    whole = sum(EVERY_LOSS[name](student, teacher, labels).values())
    parts = [sum(EVERY_LOSS[name](student[s], teacher[s], labels[s]).values()) for s in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close((2 * parts[0] + 4 * parts[1]) / 6, whole)
