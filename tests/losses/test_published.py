"""`for_pair`: the values of the literature, where they come from, and the error where there are none."""

import warnings

import pytest

from hf_ltkd import (
    BKDLoss,
    CATKDLoss,
    ClassGroups,
    CrossEntropyLoss,
    DISTLoss,
    DKDLoss,
    KDLoss,
    LTKDLoss,
    ReviewKDLoss,
)
from hf_ltkd.losses import LOSSES
from hf_ltkd.losses.published import published_table


# Read off the configuration files that `source` names.
@pytest.mark.parametrize(
    "loss_class, dataset, teacher, student, expected",
    [
        (
            DKDLoss,
            "cifar100",
            "resnet32x4",
            "resnet8x4",
            {"alpha": 1, "beta": 8, "temperature": 4, "warmup_epochs": 20},
        ),
        (DKDLoss, "cifar100", "vgg13", "vgg8", {"beta": 6}),
        (DKDLoss, "cifar100", "wrn_40_2", "shufflenet_v1", {"beta": 8}),
        (DKDLoss, "imagenet", "resnet34", "resnet18", {"beta": 0.5, "temperature": 1, "warmup_epochs": 1}),
        (DISTLoss, "cifar100", "resnet32x4", "resnet8x4", {"temperature": 4, "dist_weight": 2}),
        (DISTLoss, "imagenet", "resnet50", "mobilenet_v1", {"temperature": 1, "dist_weight": 2}),
        (ReviewKDLoss, "cifar100", "resnet32x4", "resnet8x4", {"review_weight": 5, "warmup_epochs": 20}),
        (ReviewKDLoss, "cifar100", "wrn_40_2", "wrn_40_1", {"review_weight": 5, "student_relu": False}),
        (ReviewKDLoss, "imagenet", "resnet50", "mobilenet_v1", {"review_weight": 8}),
        (CATKDLoss, "cifar100", "resnet32x4", "resnet8x4", {"cat_weight": 15, "resolution": 2, "normalize": False}),
        (CATKDLoss, "cifar100", "wrn_40_2", "shufflenet_v1", {"cat_weight": 80, "resolution": 4, "normalize": True}),
        (CATKDLoss, "imagenet", "resnet50", "mobilenet_v2", {"cat_weight": 10}),
        (KDLoss, "cifar100", "resnet50", "mobilenet_v2", {"temperature": 4, "ce_weight": 0.1, "kd_weight": 0.9}),
        (KDLoss, "imagenet", "resnet34", "resnet18", {"temperature": 1, "ce_weight": 0.5, "kd_weight": 0.5}),
    ],
)
def test_published_pairs(loss_class, dataset, teacher, student, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = loss_class.for_pair(teacher, student, dataset=dataset)
    assert {name: getattr(loss, name) for name in expected} == expected
    assert loss.source


def test_positional_arguments_and_overrides():
    groups = ClassGroups.from_counts([9, 5, 1])
    loss = LTKDLoss.for_pair("resnet32x4", "resnet8x4", groups, beta=8.0)
    assert (loss.alpha, loss.beta, loss.groups) == (6.0, 8.0, groups)
    assert BKDLoss.for_pair("resnet32", "resnet32", [9, 5, 1]).temperature == 2.0


@pytest.mark.parametrize(
    "loss_class, dataset, teacher, student, known",
    [
        (DKDLoss, "tiny_imagenet", "resnet32x4", "resnet8x4", r"resnet32x4 -> resnet8x4 \(cifar100\)"),
        (DISTLoss, "cifar100", "wrn_40_2", "shufflenet_v1", r"resnet34 -> resnet18 \(imagenet\)"),
        (LTKDLoss, "cifar100", "vgg13", "vgg8", r"that are: resnet32x4 -> resnet8x4 \(cifar100\)\.$"),
        (CrossEntropyLoss, "cifar100", "resnet32x4", "resnet8x4", "that are: none"),
    ],
)
def test_unpublished_pairs_are_refused_with_those_there_are(loss_class, dataset, teacher, student, known):
    with pytest.raises(ValueError, match=f"published for {teacher} -> {student} on {dataset}: .*{known}"):
        loss_class.for_pair(teacher, student, dataset=dataset)


def test_values_of_somebody_else_than_the_authors_say_so():
    with pytest.warns(UserWarning, match="The authors of ReviewKDLoss publish no values.*a user's report"):
        loss = ReviewKDLoss.for_pair("resnet50", "mobilenet_v2")
    assert loss.review_weight == 30.0 and "issue 39" in loss.source


def test_a_loss_that_extends_another_has_its_values():
    class OwnLoss(DKDLoss):
        pass

    assert OwnLoss.for_pair("vgg13", "vgg8").beta == 6.0


@pytest.mark.parametrize("name", published_table())
def test_every_published_row_is_valid(name):
    loss_class = {loss.__name__: loss for loss in LOSSES.values()}[name]
    for values in published_table()[name].values():
        loss = loss_class.from_groups(ClassGroups.from_counts([9, 5, 1]), **values.arguments)
        assert loss.hyper_parameters().items() >= values.arguments.items()
        assert values.source
