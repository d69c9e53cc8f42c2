"""Several losses as one."""

import json

import pytest
import torch
from losses.cases import COUNTS, GROUPS, Case
from losses.test_base import OwnLoss

from hf_ltkd import (
    CrossEntropyLoss,
    CWDLoss,
    DKDLoss,
    GKLLoss,
    KDLoss,
    LTKDLoss,
    ReviewKDLoss,
    Schedule,
    SumLoss,
    create_loss,
)


STUDENT, TEACHER, LABELS = Case(CrossEntropyLoss, 1).batch()


def terms(loss, **arguments):
    return loss(STUDENT, TEACHER, LABELS, **arguments)


def test_terms_are_those_of_the_losses_beside_one_cross_entropy():
    found = terms(
        SumLoss([KDLoss(), LTKDLoss(GROUPS)], [0.5, 2], ce="balanced_softmax", class_counts=COUNTS, ce_weight=3)
    )
    ltkd = terms(LTKDLoss(GROUPS, ce="balanced_softmax", ce_weight=3))
    assert found == {
        "balanced_softmax": ltkd["balanced_softmax"],
        "kd": 0.5 * terms(KDLoss())["kd"],
        "cross_group": 2 * ltkd["cross_group"],
        "within_group": 2 * ltkd["within_group"],
    }


def test_names_that_several_have_get_a_number():
    loss = SumLoss([KDLoss(temperature=Schedule({0: 2.0})), KDLoss(temperature=Schedule({0: 8.0})), OwnLoss()])
    found = terms(loss)
    assert list(found) == ["cross_entropy", "kd_1", "kd_2", "logit_mse"]
    assert found["kd_2"] == terms(KDLoss(temperature=8.0))["kd"]
    assert loss.scheduled(0) == {"temperature_1": 2.0, "temperature_2": 8.0}


def test_warm_ups_and_schedules_of_each_and_of_the_sum():
    loss = SumLoss([KDLoss(warmup_epochs=4), DKDLoss()], [1, Schedule({0: 0, 2: 1})], warmup_epochs=8)
    found, plain = terms(loss, epoch=1.0), terms(SumLoss([KDLoss(), DKDLoss()]))
    assert found["kd"] == plain["kd"] / 4 / 8 and found["target_class"] == plain["target_class"] / 2 / 8
    assert found["cross_entropy"] == plain["cross_entropy"] and loss.scheduled(1.0) == {"weight_2": 0.5}


def test_what_it_needs_is_what_they_need():
    loss = SumLoss([KDLoss(), DKDLoss(), ReviewKDLoss(), LTKDLoss(GROUPS, group_mass_momentum=0.5), CWDLoss()])
    assert loss.needs_teacher and loss.needs_labels and loss.needs_hidden_states and loss.needs_pixels
    assert not loss.sums_itself and SumLoss([KDLoss(), LTKDLoss(GROUPS)]).sums_itself
    assert loss.num_classes == 10 and "losses.3.log_group_mass" in loss.state_dict()
    assert not SumLoss([CrossEntropyLoss()]).needs_teacher and not SumLoss([KDLoss()]).needs_labels
    with pytest.raises(ValueError, match="DKDLoss needs the class of each example, and some have none"):
        SumLoss([KDLoss(), DKDLoss()])(STUDENT, TEACHER, torch.full((6,), -1))


def test_what_they_remember_and_sum_over_the_step():
    """Of two micro-batches: Eq. 9's sums of one loss, the class means of another, none of a third."""

    def members():
        return [LTKDLoss(GROUPS, group_mass_momentum=0.5), KDLoss(), GKLLoss(GROUPS)]

    loss, alone = SumLoss(members()), members()
    parts = list(zip(STUDENT.split([4, 2]), TEACHER.split([4, 2]), LABELS.split([4, 2]), strict=True))
    of_step = loss.begin_step(torch.stack([loss.batch_statistics(t, y) for _, t, y in parts]))
    for place, member in enumerate(alone):
        member.ce_weight = 0
        statistics = [member.batch_statistics(t, y) for _, t, y in parts]
        statistics = None if statistics[0] is None else member.begin_step(torch.stack(statistics))
        for s, t, y in parts:
            found = loss(s, t, y, step_statistics=of_step, epoch=0.0)
            for name, term in member(s, t, y, step_statistics=statistics, epoch=0.0).items():
                assert found[name] == term
        for name, tensor in member.state_dict().items():
            assert torch.equal(loss.state_dict()[f"losses.{place}.{name}"], tensor)


def test_made_by_name_and_again():
    members = [{"loss": "kd", "temperature": {0: 4, 10: 1}}, {"loss": "ltkd", "alpha": 2}, {"loss": "kd"}]
    loss = create_loss("hf_ltkd:SumLoss", GROUPS, losses=members, weights=[1, {0: 0, 5: 2}, 1], ce="balanced_softmax")
    assert isinstance(loss.losses[1], LTKDLoss) and loss.losses[0].temperature == Schedule({0: 4, 10: 1})
    again = SumLoss.from_groups(GROUPS, **json.loads(json.dumps(loss.hyper_parameters())))
    assert again.hyper_parameters() == loss.hyper_parameters() and terms(again) == terms(loss)
    used = loss.used_hyper_parameters()
    assert used["losses"][2] == {"loss": "kd", "temperature": 4.0, "kd_weight": 1.0, "warmup_epochs": 0.0}
    assert used["ce"] == "balanced_softmax"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SumLoss([]), "SumLoss has 0 losses and 0 weights: give a weight per loss"),
        (lambda: SumLoss([KDLoss()], [1, 2]), "SumLoss has 1 losses and 2 weights"),
        (lambda: SumLoss([KDLoss()], [-1]), "weight 1=-1 is not valid"),
        (lambda: SumLoss(["kd"]), "'kd' is no loss: give a DistillationLoss"),
        (
            lambda: SumLoss([KDLoss(ce_weight=0.1)]),
            "KDLoss has ce='cross_entropy' and ce_weight=0.1, but a",
        ),
        (
            lambda: SumLoss([KDLoss(teacher_log_prior=[0.0] * 9), LTKDLoss(GROUPS)]),
            r"The losses are for \[9, 10\] classes",
        ),
    ],
)
def test_sums_that_are_none(make, message):
    with pytest.raises(ValueError, match=message):
        make()
