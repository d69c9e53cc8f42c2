import numpy as np
from datasets import Dataset

from hf_ltkd import ClassGroups, token_counts


ROWS = [[5, 1, 1, 2], [], [1, 3, -100], [2, 1]]


def test_counts_against_a_plain_loop():
    data = Dataset.from_dict({"input_ids": ROWS, "labels": ROWS[::-1]})
    expected = [sum(row.count(token) for row in ROWS) for token in range(8)]
    assert token_counts(data, 8).tolist() == expected == [0, 4, 2, 1, 0, 1, 0, 0]
    assert token_counts(data.select([1, 3]), 8, column="labels").tolist() == [0, 3, 1, 1, 0, 1, 0, 0]
    assert token_counts(data.with_format("torch"), 8, special_ids=[1, 50]).tolist() == [0, 0, 2, 1, 0, 1, 0, 0]
    assert token_counts(data.filter(lambda row: False), 3).tolist() == [0, 0, 0]


def test_groups_of_a_vocabulary():
    counts = np.array([0, 4, 2, 1, 0, 1, 9, 0])
    groups = ClassGroups.from_token_counts(counts)
    seen = ClassGroups.from_counts([4, 2, 1, 1, 9])
    assert groups.group_of_class[[1, 2, 3, 5, 6]].tolist() == seen.group_of_class.tolist()
    assert groups.group_of_class[[0, 4, 7]].tolist() == [2, 2, 2]
    assert groups.names == ("head", "medium", "tail") and groups.class_counts == (1, 4, 2, 1, 1, 1, 9, 1)
    assert ClassGroups.from_token_counts([3, 0, 1], 2).group_of_class.tolist() == [0, 1, 1]
