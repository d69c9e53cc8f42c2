"""How often a loss waits for a GPU, counted by the operations whose result the host has to know."""

import pytest
import torch
from losses.cases import CASES
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_ltkd.losses.base import DistillationLoss
from hf_ltkd.losses.checks import select_valid
from hf_ltkd.losses.cross_entropy import cross_entropy_of_each
from hf_ltkd.trainer.calls import ModelCalls


class CountedSyncs(TorchDispatchMode):
    """`.item()` and its kin, and tensors whose size depends on values. Checks that only a CPU makes are off in it."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = tree_leaves(args[1]) if name.startswith("index") else []
        by_mask = any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices)
        self.count += by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_batch_of_labelled_examples_waits_once(case):
    loss, student_model, teacher_model = case.ready()
    student, teacher, labels = case.batch()
    outputs = student_model(student), teacher_model(teacher)
    with CountedSyncs() as syncs:
        loss(*outputs, labels)
    assert syncs.count == 1  # are all labelled?
    with CountedSyncs() as syncs:  # ... has one no class?, which are valid?, which are labelled?
        loss(*outputs, labels.where(labels > 3, -100))
    assert syncs.count == 1 + loss.needs_labels + 1 + bool(loss.ce_weight)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_micro_batch_of_a_step_waits_once_if_the_loss_sums_over_it(case):
    loss, _, teacher_model = case.ready()
    _, teacher, labels = case.batch()
    outputs = teacher_model(teacher)
    with CountedSyncs() as syncs:  # which are valid?, has one no class?
        ModelCalls().rows(loss, outputs, labels, 0.0, {})
    sums = type(loss).batch_statistics is not DistillationLoss.batch_statistics
    assert syncs.count == (1 + loss.needs_labels if sums else 0)


def test_a_look_at_tokens_and_at_evaluations():
    logits, labels = torch.randn(2, 3, 4), torch.tensor([[0, 1, -100], [-1, 2, 3]])
    with CountedSyncs() as syncs:
        select_valid(labels, logits, logits)
    assert syncs.count == 1
    with CountedSyncs() as syncs:
        losses = cross_entropy_of_each(logits, labels)
    assert syncs.count == 0
    assert losses.isnan().tolist() == [[False, False, True], [True, False, False]]
