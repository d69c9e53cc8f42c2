"""The contract: the cross-entropy of each kind, the warm-up, names of terms, labels and outputs that do not fit."""

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from losses.cases import COUNTS, GROUPS, Case, focal, focal_mean
from losses.tolerance import assert_close, largest_log_prob

from hf_ltkd import (
    ClassGroups,
    CrossEntropyLoss,
    DistillationLoss,
    DKDLoss,
    KDLoss,
    LTKDLoss,
    balanced_softmax_loss,
    class_balanced_loss,
    class_balanced_weights,
    create_loss,
    ldam_loss,
    logit_adjusted_loss,
)
from hf_ltkd.losses.cross_entropy import CrossEntropyName


STUDENT, TEACHER, LABELS = Case(CrossEntropyLoss, 1).batch()


class OwnLoss(DistillationLoss):
    """A term under a name that is given."""

    def __init__(self, name="logit_mse", **kwargs):
        super().__init__(**kwargs)
        self.name = name

    def distillation_terms(self, student_outputs, teacher_outputs, labels, step_statistics):
        return {self.name: F.mse_loss(student_outputs, teacher_outputs)}


@pytest.mark.parametrize("name", ["ce", "kd", "ltkd", "dkd", "dist", "bkd", "gkl", "wttm"])
@pytest.mark.parametrize("ce", get_args(CrossEntropyName))
def test_every_loss_takes_every_cross_entropy(name, ce):
    expected = {
        "cross_entropy": lambda: F.cross_entropy(STUDENT, LABELS),
        "balanced_softmax": lambda: balanced_softmax_loss(STUDENT, LABELS, COUNTS),
        "logit_adjusted": lambda: logit_adjusted_loss(STUDENT, LABELS, COUNTS, tau=1.5),
        "class_balanced": lambda: class_balanced_loss(STUDENT, LABELS, class_balanced_weights(COUNTS, beta=0.99)),
        "ldam": lambda: ldam_loss(STUDENT, LABELS, COUNTS, scale=1.0),
    }[ce]()
    of_ce = {"logit_adjusted": {"tau": 1.5}, "class_balanced": {"effective_number_beta": 0.99}}
    loss = create_loss(name, GROUPS, ce=ce, ce_weight=0.5, **of_ce.get(ce, {}))
    terms = loss(STUDENT, TEACHER, LABELS)
    assert next(iter(terms)) == ce and "cross_entropy" not in list(terms)[1:]
    assert_close(terms[ce], 0.5 * expected, 60, 30 * largest_log_prob(STUDENT))
    assert ce == "cross_entropy" or loss.num_classes == 10


@pytest.mark.parametrize("ce", [focal, "losses.cases:focal", focal_mean])
def test_a_cross_entropy_of_one_s_own(ce):
    loss = create_loss("ltkd", GROUPS, ce=ce, ce_weight=0.5)
    name = "focal_mean" if ce is focal_mean else "focal"
    terms = loss(STUDENT, TEACHER, LABELS)
    assert loss.ce == name and list(terms) == [name, "cross_group", "within_group"]
    assert_close(terms[name], 0.5 * focal_mean(STUDENT, LABELS), 60, largest_log_prob(STUDENT))
    again = create_loss("ltkd", GROUPS, **loss.hyper_parameters())
    assert again.hyper_parameters()["ce"] == f"losses.cases:{name}" and again(STUDENT, TEACHER, LABELS) == terms
    with pytest.raises(ValueError, match=f"label_smoothing_factor=0.1 goes with the plain .* not with ce='{name}'"):
        loss.smooth_labels(0.1)


def test_no_weight_no_cross_entropy():
    assert list(KDLoss(ce_weight=0)(STUDENT, TEACHER, LABELS)) == ["kd"]
    assert list(CrossEntropyLoss()(STUDENT, None, LABELS)) == ["cross_entropy"]


@pytest.mark.parametrize("epoch, share", [(0.0, 0.0), (1.0, 0.25), (4.0, 1.0), (7.5, 1.0), (None, 1.0)])
def test_warmup_scales_the_distillation_terms_alone(epoch, share):
    full = KDLoss()(STUDENT, TEACHER, LABELS)
    early = KDLoss(warmup_epochs=4)(STUDENT, TEACHER, LABELS, epoch=epoch)
    assert early["kd"] == share * full["kd"]  # a power of two: exact
    assert early["cross_entropy"] == full["cross_entropy"]


@pytest.mark.parametrize("name", ["cross_entropy", "loss"])
def test_names_of_terms_that_are_taken(name):
    with pytest.raises(ValueError, match=f"OwnLoss has a term called '{name}', which is taken"):
        OwnLoss(name)(STUDENT, TEACHER, LABELS)


def test_a_loss_without_terms_of_its_own():
    with pytest.raises(TypeError, match="DistillationLoss must implement distillation_terms"):
        DistillationLoss()(STUDENT, TEACHER, LABELS)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: KDLoss(ce_weight=-0.1), "ce_weight=-0.1"),
        (lambda: KDLoss(warmup_epochs=-2), "warmup_epochs=-2"),
        (lambda: KDLoss(tau=-1), "tau=-1"),
        (lambda: KDLoss(ce="focal"), "ce='focal' is not known: use one of .*, or its 'module:function'"),
        (lambda: KDLoss(ce="losses.cases:vocal"), "ce='losses.cases:vocal' is not known"),
        (lambda: KDLoss(ce=F.cross_entropy), "called 'cross_entropy', which is taken: rename it"),
        (lambda: KDLoss(ce=3), "ce=3 is not known"),
        (lambda: CrossEntropyLoss(ce="balanced_softmax"), "needs class_counts"),
        (lambda: LTKDLoss(ClassGroups([0, 1, 2]), ce="balanced_softmax"), "needs class_counts"),
        (lambda: CrossEntropyLoss(ce="balanced_softmax", class_counts=[3, 0]), "1 or more"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_statistics_without_labels_as_in_earlier_versions():
    with pytest.warns(FutureWarning, match=r"Old.batch_statistics\(teacher_outputs\) is now batch_statistics"):

        class Old(KDLoss):
            def batch_statistics(self, teacher_outputs):
                return teacher_outputs.sum(0)

    assert torch.equal(Old().batch_statistics(TEACHER, LABELS), TEACHER.sum(0))


def test_labels_that_do_not_fit_the_logits():
    with pytest.raises(ValueError, match=r"Logits of shape \(2, 3, 10\) and labels of shape \(2, 4\) do not fit"):
        KDLoss()(torch.zeros(2, 3, 10), torch.zeros(2, 3, 10), torch.zeros(2, 4, dtype=torch.long))


def test_a_compiled_loss_says_that_it_takes_no_ignored_labels():
    torch._dynamo.reset()
    labels = LABELS.clone()
    labels[2] = -100
    compiled = torch.compile(DKDLoss(), fullgraph=True, backend="eager")
    with pytest.raises(RuntimeError, match="A compiled loss takes no labels of -100"):
        compiled(STUDENT, TEACHER, labels)
