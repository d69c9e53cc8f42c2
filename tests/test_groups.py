"""Groups of classes: how they are cut, what they refuse, and how they are stored."""

import dataclasses
import json
import random

import pytest
import torch

from hf_ltkd import ClassGroups


def plain_groups(counts, sizes):
    """Group index per class from a plain sort: most examples first, then the smaller class id."""
    ranking = sorted(range(len(counts)), key=lambda c: (-counts[c], c))
    group_of_class, start = [None] * len(counts), 0
    for group, size in enumerate(sizes):
        for class_id in ranking[start : start + size]:
            group_of_class[class_id] = group
        start += size
    return group_of_class


@pytest.mark.parametrize("most", [5, 1000])
def test_hundred_classes_make_33_34_33(most):
    rng = random.Random(most)
    counts = [rng.randint(1, most) for _ in range(100)]  # most=5: nearly all ranks are ties
    groups = ClassGroups.from_counts(counts)
    assert groups.group_of_class.tolist() == plain_groups(counts, [33, 34, 33])
    assert groups.names == ("head", "medium", "tail")
    assert groups.class_counts == tuple(counts)
    assert (groups.num_groups, groups.num_classes) == (3, 100)


@pytest.mark.parametrize(
    "num_classes, num_groups, sizes",
    [
        (3, 3, [1, 1, 1]),
        (4, 3, [1, 2, 1]),
        (10, 3, [3, 4, 3]),
        (1000, 3, [330, 340, 330]),
        (100, 1, [100]),
        (100, 2, [50, 50]),
        (100, 5, [20] * 5),
        (6, 6, [1] * 6),
    ],
)
def test_sizes(num_classes, num_groups, sizes):
    groups = ClassGroups.from_counts([7] * num_classes, num_groups)  # all tied: the order of the class ids
    assert groups.group_of_class.tolist() == plain_groups([7] * num_classes, sizes)
    if num_groups != 3:
        assert groups.names == tuple(f"group_{g}" for g in range(num_groups))


@pytest.mark.parametrize("num_classes", range(1, 30))
def test_equal_parts_differ_by_one_at_most_and_none_is_empty(num_classes):
    for num_groups in set(range(1, num_classes + 1)) - {3}:
        sizes = ClassGroups.from_counts([1] * num_classes, num_groups).group_of_class.bincount()
        assert len(sizes) == num_groups and sizes.min() >= 1 and sizes.max() - sizes.min() <= 1


def test_counts_may_be_a_tensor():
    counts = [5, 9, 1, 7]
    assert ClassGroups.from_counts(torch.tensor(counts)) == ClassGroups.from_counts(counts)


def test_thresholds_take_their_borders_into_the_medium_group():
    groups = ClassGroups.from_thresholds([19, 20, 100, 101, 500])
    assert groups.group_of_class.tolist() == [2, 1, 1, 0, 0]
    own = ClassGroups.from_thresholds([19, 20, 100, 101, 500], many=150, few=101)
    assert own.group_of_class.tolist() == [2, 2, 2, 1, 0]


def test_own_grouping():
    groups = ClassGroups([1, 0, 1], names=["rich", "poor"])
    assert groups.names == ("rich", "poor")
    assert groups.class_counts is None
    assert groups.group_of_class.dtype == torch.int64


def test_own_grouping_is_copied():
    mine = torch.tensor([0, 1, 2])
    groups = ClassGroups(mine)
    mine[0] = 2
    assert groups.group_of_class.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "groups",
    [ClassGroups.from_counts([9, 5, 1]), ClassGroups([1, 0, 1], names=["rich", "poor"])],
    ids=["from_counts", "own"],
)
def test_round_trips(groups, tmp_path):
    assert ClassGroups.from_dict(json.loads(json.dumps(groups.to_dict()))) == groups
    groups.save_pretrained(tmp_path / "new" / "folder")
    again = ClassGroups.from_pretrained(tmp_path / "new" / "folder")
    assert again == groups and hash(again) == hash(groups)
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["class_groups.json"]


def test_equality_tells_groups_apart():
    groups = ClassGroups([0, 1], names=["a", "b"], class_counts=[2, 1])
    assert groups != ClassGroups([1, 0], names=["a", "b"], class_counts=[2, 1])
    assert groups != ClassGroups([0, 1], names=["a", "c"], class_counts=[2, 1])
    assert groups != ClassGroups([0, 1], names=["a", "b"], class_counts=[3, 1])


@pytest.mark.parametrize("name", ["group_of_class", "names", "class_counts"])
def test_frozen(name):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(ClassGroups([0, 1]), name, None)


def test_nothing_saved(tmp_path):
    with pytest.raises(FileNotFoundError, match="class_groups.json"):
        ClassGroups.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"group_of_class": [0, 2, 3]}, "Group 1 has no class: number the groups 0 to 2"),
        ({"group_of_class": [0, 10**12]}, "Group 1 has no class: .* 0 to 1 .*largest index is 1000000000000"),
        ({"group_of_class": [1, 2, 2]}, "Group 0 has no class: number the groups 0 to 1"),
        ({"group_of_class": []}, r"got the shape \(0,\)"),
        ({"group_of_class": [[0, 1]]}, r"got the shape \(1, 2\)"),
        ({"group_of_class": [0.0, 1.0]}, "must hold integers"),
        ({"group_of_class": [True, False]}, "must hold integers"),
        ({"group_of_class": [-1, 0]}, "must hold integers from 0"),
        ({"group_of_class": [0, 1], "names": ["a", "b", "c"]}, "2 groups need 2 different names, got .*'c'"),
        ({"group_of_class": [0, 1], "names": ["a", "a"]}, "2 groups need 2 different names"),
        ({"group_of_class": [0, 1], "class_counts": [1]}, "class_counts holds 1 classes, group_of_class 2"),
        ({"group_of_class": [0, 1], "class_counts": [4, 0]}, r"1 of 2 classes .*\(class 1\)"),
        ({"group_of_class": [0, 1], "class_counts": [4, 1.5]}, "whole numbers"),
    ],
)
def test_constructor_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ClassGroups(**kwargs)


@pytest.mark.parametrize(
    "counts, num_groups, message",
    [
        ([3, 0, 2, 0], 3, r"2 of 4 classes have no training example \(class 1, 3\)"),
        ([3, -1], 2, r"\(class 1\)"),
        ([3, 2], 3, "num_groups=3 cannot group 2 classes: choose from 1 to 2"),
        ([3, 2], 0, "num_groups=0 cannot group"),
        ([], 3, "empty"),
        ([2.5, 1], 2, "whole numbers"),
    ],
)
def test_from_counts_errors(counts, num_groups, message):
    with pytest.raises(ValueError, match=message):
        ClassGroups.from_counts(counts, num_groups)


@pytest.mark.parametrize(
    "counts, message",
    [
        ([100, 50, 5], "No class has more than 100 .*counts run from 5 to 100"),
        ([500, 5], "No class has 20 to 100"),
        ([500, 20], "No class has fewer than 20"),
    ],
)
def test_empty_threshold_group(counts, message):
    with pytest.raises(ValueError, match=message):
        ClassGroups.from_thresholds(counts)


def test_thresholds_in_the_wrong_order():
    with pytest.raises(ValueError, match="few=30 is above many=10"):
        ClassGroups.from_thresholds([50, 20, 5], many=10, few=30)
