"""What holds for every loss; what is special of one is tested in its own file."""

import json

import pytest
import torch
from losses.cases import CASES, GROUPS, Case
from losses.tolerance import assert_close, largest_log_prob


every_loss = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
on_logits = pytest.mark.parametrize(
    "case", [c for c in CASES.values() if c.by_loops], ids=[name for name, c in CASES.items() if c.by_loops]
)


def total(terms):
    return torch.stack(list(terms.values())).sum()


def assert_same_terms(case: Case, actual, expected, student, teacher):
    """Two ways of the same computation: each may be off."""
    assert list(actual) == list(expected)
    for name, term in actual.items():
        assert_close(term, expected[name], 2 * student.numel(), case.scale * largest_log_prob(student, teacher))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@on_logits
def test_value_and_type(case, dtype):
    """Half precision is computed in float32, in autocast too: nothing is lost beyond the rounding of the logits."""
    loss, *_ = case.ready()
    student, teacher, labels = case.batch(dtype=dtype)
    expected = case.by_loops(student.tolist(), teacher.tolist(), labels.tolist())
    with torch.autocast("cpu", dtype=dtype, enabled=dtype.itemsize == 2):
        terms = loss(student, teacher, labels)
    assert {term.dtype for term in terms.values()} == {torch.float64 if dtype == torch.float64 else torch.float32}
    assert_same_terms(case, terms, expected, student, teacher)


@every_loss
def test_gradient_and_second_derivative(case):
    loss, student_model, teacher_model = case.ready()
    student, teacher, labels = case.batch(size=2)
    student.requires_grad_()
    teacher.requires_grad_()

    def value(x):
        return total(loss(student_model(x), teacher_model(teacher), labels))

    value(student).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None
    assert torch.autograd.gradcheck(value, student)
    assert torch.autograd.gradgradcheck(value, student, fast_mode=True)


@pytest.mark.parametrize("splits", [[3, 1, 2], [1] * 6], ids=str)
@pytest.mark.parametrize(
    "case", [c for c in CASES.values() if c.splits], ids=[n for n, c in CASES.items() if c.splits]
)
def test_one_optimizer_step_is_one_batch(case, splits):
    """However a step is split, each part weighted by its share: the same loss, the same gradient."""
    loss, student_model, teacher_model = case.ready()
    student, teacher, labels = case.batch()
    student.requires_grad_()
    whole = total(loss(student_model(student), teacher_model(teacher), labels))
    (gradient,) = torch.autograd.grad(whole, student)

    parts = list(zip(student.split(splits), teacher.split(splits), labels.split(splits), strict=True))
    statistics = [loss.batch_statistics(teacher_model(t), y) for _, t, y in parts]
    statistics = None if statistics[0] is None else loss.begin_step(torch.stack(statistics))
    losses = [total(loss(student_model(s), teacher_model(t), y, step_statistics=statistics)) for s, t, y in parts]
    in_parts = sum(len(y) / 6 * value for value, (_, _, y) in zip(losses, parts, strict=True))
    (gradient_in_parts,) = torch.autograd.grad(in_parts, student)
    magnitude = case.scale * largest_log_prob(student, teacher)
    assert_close(in_parts, whole, 2 * student.numel(), 2 * magnitude)
    assert_close(gradient_in_parts, gradient, 2 * student.numel(), 2 * magnitude)


@pytest.mark.parametrize("size", [1, 4])
@on_logits
def test_finite_at_extreme_logits(case, size):
    """|logit| up to 1e4, a student that is sure of the wrong class, a teacher that gives some groups no mass."""
    loss, *_ = case.ready()
    student, teacher, labels = case.batch(size, dtype=torch.float32)
    student, teacher = 1e4 * student.sign(), 1e4 * teacher.sign()
    for sure in (False, True):
        if sure:
            teacher[:], teacher[:, 0], student[:], student[:, 1] = -1e4, 1e4, -1e4, 1e4
        student.requires_grad_()
        terms = loss(student, teacher, labels)
        (gradient,) = torch.autograd.grad(total(terms), student)
        assert all(torch.isfinite(term) for term in terms.values()) and torch.isfinite(gradient).all()
        student = student.detach()


@every_loss
def test_labels_of_minus_100_count_nowhere(case):
    loss, student_model, teacher_model = case.ready()
    student, teacher, labels = case.batch()
    student.requires_grad_()
    labels[[1, 4]] = -100
    valid = labels != -100
    terms = loss(student_model(student), teacher_model(teacher), labels)
    (gradient,) = torch.autograd.grad(total(terms), student)
    expected = loss(student_model(student[valid]), teacher_model(teacher[valid]), labels[valid])
    assert_same_terms(case, terms, expected, student, teacher)
    assert (gradient[~valid] == 0).all() and (gradient[valid] != 0).any()


@pytest.mark.parametrize("labels", [[], [-100, -100]], ids=str)
@every_loss
def test_a_batch_without_labels_is_no_loss(case, labels):
    loss, student_model, teacher_model = case.ready()
    student, teacher, _ = case.batch(len(labels))
    student.requires_grad_()
    value = total(loss(student_model(student), teacher_model(teacher), torch.tensor(labels, dtype=torch.long)))
    value.backward()
    assert value.item() == 0.0 and torch.equal(student.grad, torch.zeros_like(student))


@on_logits
def test_tokens_are_examples(case):
    loss, *_ = case.ready()
    student, teacher, labels = case.batch()
    tokens = loss(student.view(2, 3, 10), teacher.view(2, 3, 10), labels.view(2, 3))
    assert_same_terms(case, tokens, loss(student, teacher, labels), student, teacher)


def compiles(name, case):
    """By Dynamo alone, which takes half a second; by inductor, and what takes longer, only when asked for."""
    if name != "reviewkd" and ", " not in name:
        yield pytest.param(case, "eager", id=name)
    yield pytest.param(case, "inductor", id=f"{name}, inductor", marks=pytest.mark.slow)


@pytest.mark.parametrize("case, backend", [p for name, case in CASES.items() for p in compiles(name, case)])
def test_compiles_as_one_graph(case, backend):
    loss, student_model, teacher_model = case.ready()
    student, teacher, labels = case.batch()
    student.requires_grad_()
    torch._dynamo.reset()
    outputs = student_model(student), teacher_model(teacher.detach())
    terms = torch.compile(loss, fullgraph=True, backend=backend)(*outputs, labels)
    expected = loss(*outputs, labels)
    assert_same_terms(case, terms, expected, student, teacher)
    gradients = [torch.autograd.grad(total(t), student, retain_graph=True)[0] for t in (terms, expected)]
    assert_close(*gradients, 2 * student.numel(), case.scale * largest_log_prob(student, teacher))


@every_loss
def test_made_again_from_its_hyper_parameters(case):
    """Result lines and cards keep them as JSON."""
    loss = case.make()
    again = type(loss).from_groups(getattr(loss, "groups", GROUPS), **json.loads(json.dumps(loss.hyper_parameters())))
    assert again.hyper_parameters() == loss.hyper_parameters()
    again.double().load_state_dict(loss.state_dict())
    if case.by_loops:
        student, teacher, labels = case.batch()
        assert_same_terms(case, again(student, teacher, labels), loss(student, teacher, labels), student, teacher)
