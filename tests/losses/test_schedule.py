"""Arguments of a loss that change over the epochs."""

import json

import pytest
import torch
from losses.cases import COUNTS, GROUPS, Case

from hf_ltkd import CrossEntropyLoss, DISTLoss, KDLoss, LTKDLoss, ReviewKDLoss, Schedule, create_loss
from hf_ltkd.utils import parse_values


STUDENT, TEACHER, LABELS = Case(CrossEntropyLoss, 1).batch()
FALLING = Schedule({0: 4.0, 10: 1.0})


@pytest.mark.parametrize("epoch, value", [(0, 4.0), (2.5, 3.25), (5, 2.5), (10, 1.0), (99.0, 1.0), (None, 1.0)])
def test_a_straight_line_from_epoch_to_epoch(epoch, value):
    assert FALLING.at(epoch) == value
    assert Schedule({"10": 1, "0": 4}).at(epoch) == value  # as JSON has it
    assert json.loads(json.dumps(FALLING)) == {"0.0": 4.0, "10.0": 1.0}


def test_a_jump():
    jump = Schedule({159.999: 0.0, 160: 1.0})
    assert [jump.at(epoch) for epoch in (0, 159, 160, 200)] == [0, 0, 1, 1]


def made(temperature, weight, tau):
    return KDLoss(temperature=temperature, kd_weight=weight, ce="logit_adjusted", class_counts=COUNTS, tau=tau)


@pytest.mark.parametrize("epoch", [0.0, 2.5, 10.0, None])
def test_the_loss_of_an_epoch_is_that_of_its_numbers(epoch):
    weight, tau = Schedule({5: 0.0, 6: 2.0}), Schedule({0: 0.0, 5: 1.0})
    loss = made(FALLING, weight, tau)
    expected = made(FALLING.at(epoch), weight.at(epoch), tau.at(epoch))
    assert loss(STUDENT, TEACHER, LABELS, epoch=epoch) == expected(STUDENT, TEACHER, LABELS)
    assert loss.scheduled(epoch) == {n: getattr(expected, n) for n in ("temperature", "kd_weight", "tau")}
    assert loss.hyper_parameters()["temperature"] == FALLING  # what it is, not where it is


@pytest.mark.parametrize("beta, epoch", [(0.0, 0.0), (0.99, 4.0)])
def test_deferred_re_weighting_by_a_schedule(beta, epoch):
    common = {"ce": "class_balanced", "class_counts": COUNTS}
    loss = CrossEntropyLoss(effective_number_beta=Schedule({3: 0.0, 4: 0.99}), **common)
    assert loss(STUDENT, None, LABELS, epoch=epoch) == CrossEntropyLoss(effective_number_beta=beta, **common)(
        STUDENT, None, LABELS
    )


def test_sums_over_the_step_are_of_the_same_epoch():
    loss, plain = LTKDLoss(GROUPS, temperature=FALLING), LTKDLoss(GROUPS, temperature=2.5)
    statistics = loss.statistics_of(TEACHER, LABELS, epoch=5.0)
    assert torch.equal(statistics, plain.batch_statistics(TEACHER))
    found = loss(STUDENT, TEACHER, LABELS, epoch=5.0, step_statistics=statistics[None])
    assert found == plain(STUDENT, TEACHER, LABELS, step_statistics=statistics[None])


def test_by_name_and_from_a_command_line():
    given = parse_values("--loss_args", ["temperature={0: 4, 10: 1}", "ce=balanced_softmax", "standardize=True"])
    loss = create_loss("ltkd", GROUPS, **given)
    assert loss.temperature == FALLING and loss.standardize is True
    again = create_loss("ltkd", GROUPS, **json.loads(json.dumps(loss.hyper_parameters())))
    assert again.hyper_parameters() == loss.hyper_parameters()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Schedule({}), "The schedule {} is not valid: give a"),
        (lambda: Schedule({"soon": 1}), "The schedule {'soon': 1} is not valid"),
        (lambda: Schedule({0: "much"}), "The value of epoch 0='much' is not valid: it must be a number"),
        (lambda: Schedule({-1: 2.0}), "An epoch of a schedule=-1.0 is not valid"),
        (
            lambda: KDLoss(temperature=Schedule({0: 4, 9: 0})),
            "temperature=0.0 is not valid: it must be",
        ),
        (lambda: DISTLoss(beta=Schedule({0: -1})), "beta=-1.0 is not valid"),
        (lambda: CrossEntropyLoss(effective_number_beta=Schedule({0: 1})), "effective_number_beta=1.0 is not valid"),
        (lambda: KDLoss(warmup_epochs=Schedule({0: 1})), "warmup_epochs={0.0: 1.0} is not valid"),
        (
            lambda: LTKDLoss(GROUPS, group_mass_momentum=Schedule({0: 0.5})),
            "group_mass_momentum={0.0: 0.5} is",
        ),
        (lambda: create_loss("kd", GROUPS, temperature={0: "hot"}), "The value of epoch 0='hot' is not valid"),
        (
            lambda: create_loss("catkd", GROUPS, resolution={0: 2, 3: 4}),
            "resolution={0.0: 2.0, 3.0: 4.0} is",
        ),
        (lambda: create_loss("kd", GROUPS, standardize={0: 1}), "standardize={0: 1} of KDLoss is not valid"),
    ],
)
def test_schedules_that_are_none(make, message):
    with pytest.raises(ValueError, match=message.replace("{", r"\{").replace("(", r"\(")):
        make()


def test_a_weight_of_zero_for_some_epochs_is_no_cross_entropy():
    loss = ReviewKDLoss(ce_weight=Schedule({0: 1.0, 4: 0.0}))
    assert loss.ce_weight and loss.used_hyper_parameters()["ce_weight"] == {0.0: 1.0, 4.0: 0.0}
