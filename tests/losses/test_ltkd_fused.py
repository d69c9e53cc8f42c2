"""The fast path of LTKD against the plain formula, over every layout of groups, and its kernels where Triton is."""

import math
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from hf_ltkd import ClassGroups, ltkd_loss
from hf_ltkd.losses import closed_form
from hf_ltkd.losses.closed_form import LTKDTerms, Weights, layout_of, log_group_mass


SIZES = {
    "three groups": [33, 34, 33],
    "one group": [7],
    "one class a group": [1] * 9,
    "more groups than classes in each": [2, 3, 2, 2, 3, 2, 2],
    "sizes of all kinds": [1, 40, 2, 3, 17, 1, 9, 1, 25, 2],
    "large groups": [1100, 30, 1500],
}


def groups_of(sizes: list[int], shuffled: bool = False) -> ClassGroups:
    group_of_class = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    if shuffled:
        group_of_class = group_of_class[torch.randperm(len(group_of_class), generator=torch.manual_seed(1))]
    return ClassGroups(group_of_class)


def plain_ltkd(student, teacher, groups, temperature, alpha, beta, rebalance, reweight, log_mass):
    """Eq. 3 to 14 group by group in float64, with PyTorch's gradient."""
    student, teacher = student.double() / temperature, teacher.double() / temperature
    members = [groups.group_of_class == group for group in range(groups.num_groups)]

    def parts(logits):
        cross = torch.stack([logits[:, m].logsumexp(1) for m in members], 1) - logits.logsumexp(1, keepdim=True)
        return cross, [logits[:, m].log_softmax(1) for m in members]

    student_cross, student_within = parts(student)
    teacher_cross, teacher_within = parts(teacher)
    weights = torch.ones_like(teacher_cross) if reweight else teacher_cross.exp()
    if rebalance:
        mass = teacher_cross.logsumexp(0) if log_mass is None else log_mass.double()
        teacher_cross = teacher_cross - mass + mass.logsumexp(0) - math.log(groups.num_groups)  # s_G = p_avg / mass
        teacher_cross = teacher_cross - teacher_cross.logsumexp(1, keepdim=True)
    cross = (teacher_cross.exp() * (teacher_cross - student_cross)).sum(1).mean()
    within = torch.stack([(t.exp() * (t - s)).sum(1) for s, t in zip(student_within, teacher_within, strict=True)], 1)
    return temperature**2 * (alpha * cross + beta * (weights * within).sum(1).mean())


def value_and_gradient(loss, student):
    student = student.clone().requires_grad_()
    value = loss(student)
    value.backward()
    return value.detach(), student.grad


@pytest.mark.parametrize("spread", [1.0, 30.0, 10_000.0])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("few_logits", [0, 10**9])  # as many logits, and as few
def test_is_the_plain_formula(sizes, shuffled, spread, few_logits, monkeypatch):
    monkeypatch.setattr(closed_form, "FEW_LOGITS", few_logits)
    groups = groups_of(sizes, shuffled)
    generator = torch.manual_seed(len(sizes))
    student, teacher = (spread * torch.randn(5, sum(sizes), generator=generator) for _ in range(2))
    log_mass = torch.randn(len(sizes), generator=generator)
    for rebalance, reweight, mass in [(True, True, None), (True, True, log_mass), (False, False, None)]:
        weights = Weights(groups, 4.0, 2.0, 3.0, rebalance, reweight, mass)
        value, gradient = value_and_gradient(lambda s, w=weights: sum(LTKDTerms.apply(s, teacher, w)), student)
        expected, slope = value_and_gradient(lambda s, w=weights: plain_ltkd(s, teacher, *w), student.double())
        torch.testing.assert_close(value, expected.float(), rtol=2e-6 * max(1, spread / 30), atol=1e-6)
        torch.testing.assert_close(gradient, slope.float(), rtol=1e-4, atol=2e-6 * max(1, spread / 30))


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_group_mass_of_every_layout(sizes):
    groups = groups_of(sizes, shuffled=True)
    teacher = 5 * torch.randn(6, sum(sizes), generator=torch.manual_seed(0))
    probs = (teacher.double() / 2).softmax(1)
    mass = torch.zeros(len(sizes), dtype=torch.float64).index_add(0, groups.group_of_class, probs.sum(0))
    torch.testing.assert_close(log_group_mass(teacher, groups, 2.0).exp(), mass.float())


@pytest.mark.parametrize("sizes", [[2, 3, 2], [1, 1, 1, 1], [1, 4]])
def test_gradcheck(sizes):
    groups = groups_of(sizes, shuffled=True)
    student = torch.randn(3, sum(sizes), dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, sum(sizes), dtype=torch.float64)
    for rebalance, reweight in [(True, True), (False, False)]:
        weights = Weights(groups, 2.0, 1.5, 0.5, rebalance, reweight, None)
        assert torch.autograd.gradcheck(lambda s, w=weights: LTKDTerms.apply(s, teacher, w), student)


def test_padding_stays_below_the_logits():
    """A block holds at most half as many places again as classes, whatever the sizes of the groups."""
    for sizes in SIZES.values():
        layout = layout_of(groups_of(sizes), torch.device("cpu"))
        assert sum(len(block.classes) for block in layout.blocks) <= 1.5 * sum(sizes)
        assert sorted(layout.group_order.tolist()) == list(range(len(sizes)))


def test_a_second_derivative_is_refused():
    student = torch.randn(2, 4, requires_grad=True)
    loss = ltkd_loss(student, torch.randn(2, 4), groups_of([2, 2]))
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, student, create_graph=True)


def test_an_empty_batch_is_zero():
    student = torch.zeros(0, 4, requires_grad=True)
    loss = ltkd_loss(student, torch.zeros(0, 4), groups_of([2, 2]))
    loss.backward()
    assert loss.item() == 0 and student.grad.shape == (0, 4)


def test_triton_kernels_in_the_interpreter():
    """Triton's interpreter runs the kernels on a CPU, in a process of its own: it has to be chosen before import."""
    pytest.importorskip("triton")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "",
        "-k",
        "check_triton",
        __file__,
        "-p",
        "no:cacheprovider",
    ]
    run = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0 and "skipped" not in run.stdout, run.stdout + run.stderr


def _compare_kernels(sizes, device, spread):
    from hf_ltkd.losses.triton_kernels import group_statistics, logit_gradient

    groups = groups_of(sizes, shuffled=True)
    generator = torch.manual_seed(3)
    student, teacher = (spread * torch.randn(4, sum(sizes), generator=generator) for _ in range(2))
    of_student, of_teacher = torch.rand(2, 4, len(sizes), generator=generator)
    logsumexp, within = group_statistics(student.to(device), teacher.to(device), groups, 4.0)
    gradient = logit_gradient(
        *(student.to(device), teacher.to(device), logsumexp, of_student.to(device), of_teacher.to(device)), groups, 4.0
    )
    expected = torch.zeros(4, sum(sizes), dtype=torch.float64)
    for group in range(len(sizes)):
        members = groups.group_of_class == group
        s, t = student.double()[:, members] / 4, teacher.double()[:, members] / 4
        for found, logits in zip(logsumexp.cpu(), (s, t), strict=True):
            torch.testing.assert_close(found[:, group], logits.logsumexp(1).float())
        log_t, log_s = t.log_softmax(1), s.log_softmax(1)
        kl = (log_t.exp() * (log_t - log_s)).sum(1)
        torch.testing.assert_close(within.cpu()[:, group], kl.float(), rtol=1e-5, atol=1e-6 * max(1, spread))
        expected[:, members] = of_student[:, group, None] * s.softmax(1) - of_teacher[:, group, None] * t.softmax(1)
    torch.testing.assert_close(gradient.cpu(), expected.float(), rtol=1e-4, atol=2e-6 * max(1, spread))


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="runs in the process of the test above")
@pytest.mark.parametrize("spread", [3.0, 1000.0])
@pytest.mark.parametrize("sizes", [*SIZES.values(), [3000, 10]])
def test_check_triton(sizes, spread):
    _compare_kernels(sizes, "cpu", spread)


@pytest.mark.gpu
@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
@pytest.mark.parametrize("spread", [3.0, 1000.0])
@pytest.mark.parametrize("sizes", [*SIZES.values(), [3000, 10]])
def test_triton_kernels_on_a_gpu(sizes, spread):
    _compare_kernels(sizes, "cuda", spread)


def test_a_weight_beyond_float32_gives_an_infinite_loss():
    """It ends a training with the trainer's message instead of an error of torch's."""
    student = torch.randn(3, 4, requires_grad=True)
    loss = ltkd_loss(student, torch.randn(3, 4), groups_of([2, 2]), alpha=1e39)
    loss.backward()
    assert loss.item() == math.inf
