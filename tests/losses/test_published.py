"""`for_pair`: the values of the literature, where they come from, and what happens where there are none."""

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
    "loss_class, dataset, teacher, student, nearest",
    [
        (DKDLoss, "tiny_imagenet", "resnet32x4", "resnet8x4", "resnet32x4 -> resnet8x4 on cifar100"),  # the same pair
        (DISTLoss, "cifar100", "wrn_40_2", "shufflenet_v1", "resnet32x4 -> shufflenet_v1 on cifar100"),  # same student
        (ReviewKDLoss, "cifar100", "vgg13", "mobilenet_v2", "resnet50 -> mobilenet_v2 on cifar100"),
        (DKDLoss, "cifar100", "vgg13", "vgg11", "vgg13 -> vgg8 on cifar100"),  # same teacher
        (CATKDLoss, "imagenet", "resnet50", "mobilenet_v1", "resnet50 -> mobilenet_v2 on imagenet"),
        (ReviewKDLoss, "cifar100", "vgg13", "vgg8", "resnet32x4 -> resnet8x4 on cifar100"),  # nothing in common
        (ReviewKDLoss, "cifar100", "resnet50", "mobilenet_v2", "a user's report"),  # not the authors' value
    ],
)
def test_unpublished_pairs_say_so_and_take_the_nearest(loss_class, dataset, teacher, student, nearest):
    with pytest.warns(UserWarning, match=f"publish no values for {teacher} -> {student} on {dataset}") as caught:
        loss = loss_class.for_pair(teacher, student, dataset=dataset)
    assert nearest in str(caught[0].message)
    assert loss.source


def test_nothing_published():
    with pytest.raises(ValueError, match="CrossEntropyLoss has no published hyper-parameters"):
        CrossEntropyLoss.for_pair("resnet32x4", "resnet8x4")


@pytest.mark.parametrize("loss_class", [KDLoss, DKDLoss, DISTLoss, ReviewKDLoss, CATKDLoss])
def test_every_published_row_is_valid(loss_class):
    for values in loss_class.published.values():
        loss_class(**values.arguments)
        assert values.source
