"""The fused form of LTKD against the plain formula, over every layout of groups, and its kernels where Triton is."""

import math
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from losses.tolerance import assert_close, largest_log_prob

from hf_ltkd import ClassGroups, ltkd_loss
from hf_ltkd.losses import _ltkd_fused as fused
from hf_ltkd.losses.ltkd import ltkd_terms


SIZES = {
    "three groups": [33, 34, 33],
    "one group": [7],
    "one class a group": [1] * 9,
    "more groups than classes in each": [2, 3, 2, 2, 3, 2, 2],
    "sizes of all kinds": [1, 40, 2, 3, 17, 1, 9, 1, 25, 2],
    "large groups": [1100, 30, 1500],
}
every_size = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())


def groups_of(sizes: list[int], shuffled: bool = False) -> ClassGroups:
    group_of_class = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    if shuffled:
        group_of_class = group_of_class[
            torch.randperm(len(group_of_class), generator=torch.Generator().manual_seed(1))
        ]
    return ClassGroups(group_of_class)


def random_logits(sizes, spread, batch=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(len(sizes))
    return [spread * torch.randn(batch, sum(sizes), generator=generator).to(dtype) for _ in range(2)]


def fused_terms(student, teacher, weights):
    return [term.mean() for term in fused.LTKDTerms.apply(student, teacher, weights, ltkd_terms)]


def plain_terms(student, teacher, weights):
    return [term.mean() for term in ltkd_terms(student, teacher, weights)]


def value_and_gradient(terms, student, *arguments):
    student = student.clone().requires_grad_()
    value = sum(terms(student, *arguments))
    return value.detach(), *torch.autograd.grad(value, student)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("spread", [1.0, 30.0, 10_000.0])
@pytest.mark.parametrize("shuffled", [False, True])
@every_size
@pytest.mark.parametrize("few_logits", [0, 10**9], ids=["many", "few"])  # as many logits, and as few
def test_is_the_plain_formula(sizes, shuffled, spread, dtype, few_logits, monkeypatch):
    monkeypatch.setattr(fused, "FEW_LOGITS", few_logits)
    student, teacher = random_logits(sizes, spread, dtype=dtype)
    log_mass = torch.linspace(-1, 1, len(sizes))
    largest = largest_log_prob(student, teacher, temperature=4.0) + 1
    for rebalance, reweight, mass in [(True, True, None), (True, True, log_mass), (False, False, None)]:
        weights = fused.Weights(groups_of(sizes, shuffled), 2.0, 3.0, 4.0, rebalance, reweight, mass)
        value, gradient = value_and_gradient(fused_terms, student, teacher, weights)
        expected, slope = value_and_gradient(plain_terms, student.double(), teacher.double(), weights)
        assert value.dtype == gradient.dtype == dtype
        assert_close(value, expected, sum(sizes), 16 * (2 + 3 * len(sizes)) * largest)
        assert_close(gradient, slope, sum(sizes), 4 / 5 * (2 + 3) * largest)


@pytest.mark.parametrize("sizes", [[2, 3, 2], [1, 1, 1, 1], [1, 4]], ids=str)
def test_gradcheck(sizes):
    student, teacher = random_logits(sizes, 1.0, batch=3)
    student.requires_grad_()
    for rebalance, reweight in [(True, True), (False, False)]:
        weights = fused.Weights(groups_of(sizes, shuffled=True), 1.5, 0.5, 2.0, rebalance, reweight, None)
        assert torch.autograd.gradcheck(lambda s, w=weights: fused_terms(s, teacher, w), student)
        assert torch.autograd.gradgradcheck(lambda s, w=weights: fused_terms(s, teacher, w), student)


def test_padding_stays_below_the_logits():
    """A block holds at most half as many places again as classes, whatever the sizes of the groups."""
    for sizes in SIZES.values():
        layout = fused.layout_of(groups_of(sizes), torch.device("cpu"))
        assert sum(len(block.classes) for block in layout.blocks) <= 1.5 * sum(sizes)
        assert sorted(layout.group_order.tolist()) == list(range(len(sizes)))


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, True),
        ({"dtype": torch.float16}, True),  # computed in float32
        ({"alpha": torch.tensor(2.0)}, True),
        ({"alpha": torch.tensor(2.0, requires_grad=True)}, False),
        ({"temperature": torch.tensor(2.0, requires_grad=True)}, False),
        ({"group_mass": torch.ones(2)}, True),
        ({"group_mass": torch.ones(2, requires_grad=True)}, False),
        ({"teacher_dtype": torch.float64}, False),
    ],
    ids=str,
)
def test_where_it_is_chosen(given, expected, monkeypatch):
    dtype = given.pop("dtype", torch.float32)
    teacher_dtype = given.pop("teacher_dtype", dtype)
    used = []
    apply = fused.LTKDTerms.apply
    monkeypatch.setattr(fused.LTKDTerms, "apply", lambda *args: used.append(True) or apply(*args))
    ltkd_loss(torch.randn(2, 5, dtype=dtype), torch.randn(2, 5, dtype=teacher_dtype), groups_of([2, 3]), **given)
    assert bool(used) == expected


def test_a_weight_beyond_float32_gives_an_infinite_loss():
    """It ends a training with the trainer's message instead of an error of torch's."""
    student = torch.randn(3, 4, requires_grad=True)
    loss = ltkd_loss(student, torch.randn(3, 4), groups_of([2, 2]), alpha=1e39)
    loss.backward()
    assert loss.item() == math.inf


# ---- Triton ----

KERNEL_SIZES = [*SIZES.values(), [3000, 10]]


def test_triton_kernels_in_the_interpreter():
    """Triton's interpreter runs the kernels on a CPU, in a process of its own: it has to be chosen before import."""
    pytest.importorskip("triton", reason="pip install triton")
    command = [sys.executable, *"-m pytest -q -m= -k check_triton -p no:cacheprovider".split(), __file__]
    run = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    if "only 0-dimensional arrays can be converted" in run.stdout:
        pytest.skip("the interpreter of this Triton needs an older NumPy: pip install 'numpy<2.4'")
    assert run.returncode == 0 and "skipped" not in run.stdout, run.stdout + run.stderr


def compare_kernels(sizes, device, spread):
    from hf_ltkd.losses._ltkd_triton import group_statistics, logit_gradient

    groups = groups_of(sizes, shuffled=True)
    student, teacher = random_logits(sizes, spread, batch=4, dtype=torch.float32)
    of_student, of_teacher = torch.rand(2, 4, len(sizes), generator=torch.Generator().manual_seed(3))
    logsumexp, within = group_statistics(student.to(device), teacher.to(device), groups, 4.0)
    gradient = logit_gradient(
        *(student.to(device), teacher.to(device), logsumexp, of_student.to(device), of_teacher.to(device)), groups, 4.0
    )
    rounding = sum(sizes), largest_log_prob(student, teacher, temperature=4.0)
    expected = torch.zeros(4, sum(sizes), dtype=torch.float64)
    for group in range(len(sizes)):
        members = groups.group_of_class == group
        s, t = student.double()[:, members] / 4, teacher.double()[:, members] / 4
        for found, logits in zip(logsumexp.cpu(), (s, t), strict=True):
            assert_close(found[:, group], logits.logsumexp(1), *rounding)
        log_t, log_s = t.log_softmax(1), s.log_softmax(1)
        assert_close(within.cpu()[:, group], (log_t.exp() * (log_t - log_s)).sum(1), *rounding)
        expected[:, members] = of_student[:, group, None] * s.softmax(1) - of_teacher[:, group, None] * t.softmax(1)
    assert_close(gradient.cpu(), expected, *rounding)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="runs in the process of the test above")
@pytest.mark.parametrize("spread", [3.0, 1000.0])
@pytest.mark.parametrize("sizes", KERNEL_SIZES, ids=str)
def test_check_triton(sizes, spread):
    compare_kernels(sizes, "cpu", spread)


@pytest.mark.gpu
@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
@pytest.mark.parametrize("spread", [3.0, 1000.0])
@pytest.mark.parametrize("sizes", KERNEL_SIZES, ids=str)
def test_triton_kernels_on_a_gpu(sizes, spread):
    compare_kernels(sizes, "cuda", spread)
