"""LTKD: the paper's identities and limits, and all that the plain formula can be put through."""

import pytest
import torch
import torch.nn.functional as F
from losses.cases import GROUPINGS, GROUPS
from losses.tolerance import assert_close, largest_log_prob
from torch._subclasses.fake_tensor import FakeTensorMode

from hf_ltkd import ClassGroups, LTKDLoss, kd_loss, kl_decomposition, ltkd_loss
from hf_ltkd.losses._ltkd_fused import Weights
from hf_ltkd.losses.checks import reduced
from hf_ltkd.losses.ltkd import ltkd_terms


def random_logits(batch=6, classes=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(batch, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    teacher[:, :3] += 2  # a biased teacher
    return student, teacher


STUDENT, TEACHER = random_logits()
ROUNDING = 60, 16 * 12 * largest_log_prob(STUDENT, TEACHER)  # additions, magnitude: T² (alpha + beta · groups)


def plain(student, teacher, alpha=6.0, beta=6.0, temperature=4.0, log_mass=None, **switches):
    switches = {"rebalance": True, "reweight": True} | switches
    weights = Weights(GROUPS, alpha, beta, temperature, *switches.values(), log_mass)
    return reduced(sum(ltkd_terms(student, teacher, weights)), "mean")


# ---- Identities and limits ----


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_decomposition_sums_to_kl(grouping):
    parts = kl_decomposition(STUDENT, TEACHER, GROUPINGS[grouping], temperature=2.0)
    kl = F.kl_div((STUDENT / 2).log_softmax(1), (TEACHER / 2).softmax(1), reduction="none").sum(1)
    assert_close(parts.cross + (parts.teacher_group_probs * parts.within).sum(1), kl, *ROUNDING)  # Eq. 8


def test_biased_and_weighted_is_kd():
    value = ltkd_loss(STUDENT, TEACHER, GROUPS, alpha=1, beta=1, rebalance=False, reweight=False)
    assert_close(value, kd_loss(STUDENT, TEACHER), *ROUNDING)


def test_one_group_is_kd_and_one_group_per_class_has_no_within_term():
    assert_close(
        ltkd_loss(STUDENT, TEACHER, GROUPINGS["one group"], alpha=5, beta=1), kd_loss(STUDENT, TEACHER), *ROUNDING
    )
    within = kl_decomposition(STUDENT, TEACHER, GROUPINGS["a group a class"]).within
    assert_close(within, torch.zeros_like(within), *ROUNDING)


def test_equal_logits_give_zero_unless_rebalanced():
    assert_close(ltkd_loss(TEACHER, TEACHER, GROUPS, rebalance=False), 0.0, *ROUNDING)
    assert ltkd_loss(TEACHER, TEACHER, GROUPS).item() > 0.01


def test_class_order_does_not_matter():
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    groups = GROUPINGS["any order"]
    permuted = ltkd_loss(STUDENT[:, order], TEACHER[:, order], ClassGroups(groups.group_of_class[order]))
    assert_close(permuted, ltkd_loss(STUDENT, TEACHER, groups), *ROUNDING)


def test_no_gradient_reaches_the_teacher():
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    alpha = torch.tensor(2.0, requires_grad=True)
    for loss in (ltkd_loss(student, teacher, GROUPS), ltkd_loss(student, teacher, GROUPS, alpha=alpha)):
        loss.backward()
        assert teacher.grad is None


def test_an_empty_batch_is_zero():
    student = torch.zeros(0, 10, requires_grad=True)
    for loss in (ltkd_loss(student, torch.zeros(0, 10), GROUPS), plain(student, torch.zeros(0, 10))):
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.item() == 0 and gradient.shape == (0, 10)


def test_group_mass_stands_for_more_than_this_batch():
    mass = kl_decomposition(STUDENT, TEACHER, GROUPS, temperature=4.0).teacher_group_probs.sum(0)
    parts = [ltkd_loss(STUDENT[i : i + 2], TEACHER[i : i + 2], GROUPS, group_mass=mass) for i in range(0, 6, 2)]
    assert_close(torch.stack(parts).mean(), ltkd_loss(STUDENT, TEACHER, GROUPS), *ROUNDING)
    zero = ltkd_loss(STUDENT, TEACHER, GROUPS, group_mass=torch.tensor([1.0, 0.0, 1.0]))
    assert torch.isfinite(zero)


# ---- The plain formula is differentiable in everything ----


@pytest.mark.parametrize("switches", [{}, {"rebalance": False, "reweight": False}], ids=str)
def test_weights_get_gradients(switches):
    """`gradcheck` compares with finite differences, of first and second order."""
    inputs = [
        STUDENT[:2].clone(),
        *torch.tensor([2.0, 3.0, 1.5, 1.0, 2.0, 0.5], dtype=torch.float64).split([1, 1, 1, 3]),
    ]
    inputs = [x.squeeze().requires_grad_() for x in inputs]

    def loss(student, alpha, beta, temperature, mass):
        weights = {"alpha": alpha, "beta": beta, "temperature": temperature, "group_mass": mass}
        return ltkd_loss(student, TEACHER[:2], GROUPS, **weights, **switches)

    assert torch.autograd.gradcheck(loss, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(loss, inputs, fast_mode=True)


def test_a_weight_that_is_trained_with_the_student():
    loss = LTKDLoss(GROUPS, alpha=torch.nn.Parameter(torch.tensor(2.0)))
    terms = loss(STUDENT, TEACHER, torch.arange(6))
    terms["cross_group"].backward()
    torch.testing.assert_close(loss.alpha.grad, (terms["cross_group"] / 2).float().detach())
    assert loss.hyper_parameters()["alpha"] == 2.0


def test_function_transforms():
    def loss(student, temperature=2.0):
        return ltkd_loss(student, TEACHER, GROUPS, temperature=temperature)

    student = STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(student), student)
    close = {"rtol": 1e-9, "atol": 1e-12}  # far above the rounding of float64, far below any mistake
    torch.testing.assert_close(torch.func.grad(loss)(STUDENT), gradient, **close)
    value, vjp = torch.func.vjp(loss, STUDENT)
    torch.testing.assert_close(vjp(torch.ones_like(value))[0], gradient, **close)
    _, along = torch.func.jvp(loss, (STUDENT,), (TEACHER,))
    torch.testing.assert_close(along, (gradient * TEACHER).sum(), **close)
    hessian = torch.func.hessian(loss)(STUDENT)
    (row,) = torch.autograd.grad(torch.autograd.grad(loss(student), student, create_graph=True)[0][1, 2], student)
    torch.testing.assert_close(hessian[1, 2], row, **close)

    stack = torch.stack([STUDENT, TEACHER, STUDENT.flip(0)])
    torch.testing.assert_close(torch.func.vmap(loss)(stack), torch.stack([loss(s) for s in stack]), **close)
    temperatures = torch.tensor([1.0, 2.0, 4.0])
    expected = torch.stack([loss(STUDENT, t) for t in temperatures])
    torch.testing.assert_close(torch.func.vmap(loss, (None, 0))(STUDENT, temperatures), expected, **close)


def test_compiles_with_weights_as_tensors():
    alpha = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    value = torch.compile(ltkd_loss, fullgraph=True, backend="aot_eager")(STUDENT, TEACHER, GROUPS, alpha=alpha)
    assert_close(value, ltkd_loss(STUDENT, TEACHER, GROUPS, alpha=2.0), *ROUNDING)
    value.backward()
    assert_close(alpha.grad, ltkd_loss(STUDENT, TEACHER, GROUPS, alpha=1.0, beta=0.0), *ROUNDING)


def test_fake_tensors():
    with FakeTensorMode():
        student = torch.randn(4, 10, requires_grad=True)
        loss = ltkd_loss(student, torch.randn(4, 10), GROUPS, temperature=torch.tensor(2.0))
        loss.backward()
        assert loss.shape == () and student.grad.shape == (4, 10)
        assert kl_decomposition(student, student, GROUPS).within.shape == (4, 3)


def test_export_for_any_batch():
    class Loss(torch.nn.Module):
        def forward(self, student, teacher, temperature):
            return ltkd_loss(student, teacher, GROUPS, temperature=temperature)

    temperature, batch = torch.tensor(2.0), torch.export.Dim.DYNAMIC
    shapes = {"student": {0: batch}, "teacher": {0: batch}, "temperature": None}
    program = torch.export.export(Loss(), (STUDENT, TEACHER, temperature), dynamic_shapes=shapes)
    value = program.module()(STUDENT[:4], TEACHER[:4], temperature)
    assert_close(value, ltkd_loss(STUDENT[:4], TEACHER[:4], GROUPS, temperature=2.0), *ROUNDING)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_plain_formula_is_finite_at_extreme_logits(grouping, batch):
    """The fused form is what the tester puts through this."""
    groups = GROUPINGS[grouping]
    student, teacher = (1e4 * logits[:batch].float().sign() for logits in (STUDENT, TEACHER))
    teacher[:, groups.group_of_class == 0] = 1e4
    teacher[:, groups.group_of_class == 2] = -1e4  # no mass in float32
    temperature = torch.tensor(1.0, requires_grad=True)
    student.requires_grad_()
    loss = ltkd_loss(student, teacher, groups, temperature=temperature)
    gradient = torch.autograd.grad(loss, (student, temperature), create_graph=True)
    second = torch.autograd.grad(gradient[0].square().sum() + gradient[1], student)
    assert all(torch.isfinite(x).all() for x in (loss, *gradient, *second))


# ---- The module ----


def test_terms_are_those_of_the_function():
    terms = LTKDLoss(GROUPS, alpha=2.0, beta=3.0)(STUDENT, TEACHER, torch.arange(6))
    assert_close(terms["cross_group"], ltkd_loss(STUDENT, TEACHER, GROUPS, alpha=2.0, beta=0.0), *ROUNDING)
    assert_close(terms["within_group"], ltkd_loss(STUDENT, TEACHER, GROUPS, alpha=0.0, beta=3.0), *ROUNDING)


def test_batch_statistics_are_the_sums_of_equation_9():
    probs = (TEACHER / 4).softmax(1)
    mass = torch.stack([probs[:, GROUPS.group_of_class == group].sum() for group in range(3)])
    assert_close(LTKDLoss(GROUPS).batch_statistics(TEACHER), mass.log(), *ROUNDING)
    assert LTKDLoss(GROUPS, rebalance=False).batch_statistics(TEACHER) is None


def test_running_group_mass():
    """After steps 1, 2, 3 with a momentum of 1/2, the running mean weighs their shares 1 : 2 : 4."""
    loss = LTKDLoss(GROUPS, temperature=1.0, group_mass_momentum=0.5, ce_weight=0.0).double()
    weighted = torch.zeros(3, dtype=torch.float64)
    for step in range(3):
        student, teacher = random_logits(seed=step)
        mass = torch.stack([teacher.softmax(1)[:, GROUPS.group_of_class == g].sum() for g in range(3)])
        weighted += 2**step * mass / mass.sum()
        terms = loss(student, teacher, torch.zeros(6, dtype=torch.long))
        expected = ltkd_loss(student, teacher, GROUPS, temperature=1.0, group_mass=weighted)
        assert_close(sum(terms.values()), expected, *ROUNDING)


def test_running_group_mass_rests_in_evaluation_and_is_forgotten_by_prepare():
    loss = LTKDLoss(GROUPS, group_mass_momentum=0.9)
    labels = torch.zeros(6, dtype=torch.long)
    loss.eval()(STUDENT, TEACHER, labels)
    assert torch.isneginf(loss.log_group_mass).all()
    loss.train()(STUDENT, TEACHER, labels)
    assert torch.isfinite(loss.log_group_mass).all()
    loss.prepare(None, None)
    assert torch.isneginf(loss.log_group_mass).all()
    assert LTKDLoss(GROUPS).state_dict() == {}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"alpha": -1.0}, "alpha=-1.0"),
        ({"beta": float("nan")}, "beta=nan"),
        ({"alpha": torch.tensor(-1.0, requires_grad=True)}, "alpha=-1.0"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"group_mass_momentum": -0.1}, "group_mass_momentum=-0.1 is not valid"),
        ({"group_mass_momentum": 1.0}, "group_mass_momentum=1.0 is not valid"),
    ],
)
def test_bad_hyper_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        LTKDLoss(GROUPS, **arguments)


def test_bad_shapes():
    with pytest.raises(ValueError, match=r"\(6, 10\) and teacher logits of shape \(6, 9\)"):
        ltkd_loss(STUDENT, TEACHER[:, :9], GROUPS)
    with pytest.raises(ValueError, match="10 classes, the groups 3"):
        ltkd_loss(STUDENT, TEACHER, ClassGroups([0, 1, 2]))
    with pytest.raises(ValueError, match="group_mass has the shape"):
        ltkd_loss(STUDENT, TEACHER, GROUPS, group_mass=torch.ones(2))
