"""Long-tailed splits against a plain loop over Eq. 15, without ever decoding an image."""

import json
import math
import warnings

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, IterableDatasetDict, Value

from hf_ltkd import LongTailSplit, class_counts, long_tailed_counts, make_long_tailed
from hf_ltkd.data import DataArguments
from hf_ltkd.data.holdout import hold_out
from hf_ltkd.data.sources import find_source


FULL = [60, 40, 50, 30]


def image_dataset(counts=FULL, feature=None, column="label"):
    """Rows in mixed order, with images that raise as soon as one is decoded."""
    labels = [c for rank in range(max(counts)) for c in range(len(counts)) if rank < counts[c]]
    feature = feature or ClassLabel(names=[f"name_{c}" for c in range(len(counts))])
    return Dataset.from_dict(
        {"img": [{"bytes": b"no image", "path": None}] * len(labels), column: labels, "row": list(range(len(labels)))},
        features=Features({"img": Image(), column: feature, "row": Value("int64")}),
    )


def labels_only(values, feature):
    return Dataset.from_dict({"label": values}, features=Features({"label": feature}))


def plain_counts(labels, num_classes):
    return [sum(1 for label in labels if label == c) for c in range(num_classes)]


@pytest.mark.parametrize("gamma, total", [(1, 50000), (10, 19718), (20, 16046), (100, 10948)])
def test_cifar100_totals(gamma, total):
    counts = long_tailed_counts([500] * 100, gamma)
    assert sum(counts) == total
    assert counts[0] == 500 and counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(
    "images, classes, gamma, total",
    [
        (500, 100, 100, 10847),
        (500, 100, 50, 12608),
        (500, 100, 10, 19573),
        (5000, 10, 100, 12406),
        (5000, 10, 10, 20431),
    ],
)
def test_totals_of_ldam(images, classes, gamma, total):
    """CIFAR-100-LT and CIFAR-10-LT as papers count them; each class by the line of LDAM's code."""
    counts = long_tailed_counts([images] * classes, gamma, rule="ldam")
    assert sum(counts) == total and counts[0] == gamma * counts[-1] == images
    assert counts == [int(images * (1 / gamma) ** (c / (classes - 1.0))) for c in range(classes)]


def test_rule_of_a_split(tmp_path):
    assert long_tailed_counts([7], 10, "ldam") == [7]  # no division by C - 1
    cut = make_long_tailed(image_dataset([60] * 4), 8, rule="ldam")
    assert class_counts(cut) == [60, 30, 15, 7] != class_counts(make_long_tailed(image_dataset([60] * 4), 8))
    split = LongTailSplit.of(image_dataset([60] * 4), 8, rule="ldam")
    split.save_pretrained(tmp_path)
    assert LongTailSplit.from_pretrained(tmp_path) == split and split.rule == "ldam"
    older = {
        name: value for name, value in json.loads((tmp_path / "long_tail.json").read_text()).items() if name != "rule"
    }
    (tmp_path / "long_tail.json").write_text(json.dumps(older))
    assert LongTailSplit.from_pretrained(tmp_path).rule == "paper"
    with pytest.raises(ValueError, match=r"rule='lt' is not valid: use 'paper' \(Eq. 15\) or 'ldam'"):
        long_tailed_counts([5, 5], 2, "lt")


@pytest.mark.parametrize("gamma", [1, 1.5, 7, 30])
def test_each_class_is_cut_from_its_own_count(gamma):
    full = [37, 520, 64, 1000, 250, 91, 80]
    expected = []
    for c, count in enumerate(full):
        expected.append(math.floor(count * math.exp(-math.log(gamma) * c / len(full)) + 1e-9))
    assert min(expected) >= 1
    assert long_tailed_counts(full, gamma) == expected


# gamma ** (j / k) is the whole number `root`; in floats 4 * 32 ** (-2/5) comes out below 1.
@pytest.mark.filterwarnings("ignore:imbalance_factor")
@pytest.mark.parametrize("gamma, j, k, root", [(1000, 2, 3, 100), (1000, 1, 3, 10), (32, 2, 5, 4), (100, 1, 2, 10)])
@pytest.mark.parametrize("repeats", [1, 2, 10])
def test_whole_products_are_not_rounded_down(gamma, j, k, root, repeats):
    for count in (root, 3 * root, 50 * root, 50 * root + root - 1):
        kept = long_tailed_counts([count] * (k * repeats), gamma)
        assert kept[j * repeats] == count // root


def test_one_example_is_kept_and_the_class_named():
    with pytest.warns(UserWarning, match=r"imbalance_factor=100 leaves no example of 1 classes \(class 2\)"):
        assert long_tailed_counts([500, 500, 3], 100) == [500, 107, 1]


def test_no_warning_when_nothing_is_emptied():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert long_tailed_counts([10, 10], 100) == [10, 1]


@pytest.mark.parametrize("gamma", [0.99, 0, -5, math.inf, math.nan])
def test_bad_factor(gamma):
    with pytest.raises(ValueError, match="imbalance_factor=.* is not valid"):
        long_tailed_counts([5, 5], gamma)


def test_counts_without_an_example():
    with pytest.raises(ValueError, match=r"1 of 3 classes have no training example \(class 1\)"):
        long_tailed_counts([5, 0, 5], 2)


@pytest.mark.parametrize("feature", [None, Value("int64"), Value("int32"), Value("uint8")])
def test_cut_selects_rows_in_order_and_decodes_nothing(feature):
    full = image_dataset(feature=feature, column="fine_label")
    cut = make_long_tailed(full, 8, label_column="fine_label")
    cut_labels = cut.select_columns("fine_label")["fine_label"]
    expected = [math.floor(n * 8 ** (-c / 4) + 1e-9) for c, n in enumerate(FULL)]
    assert plain_counts(cut_labels, 4) == expected
    rows = list(cut.select_columns("row")["row"])
    assert rows == sorted(set(rows))
    assert [list(full.select_columns("fine_label")["fine_label"])[r] for r in rows] == list(cut_labels)
    assert cut.features == full.features
    with pytest.raises(Exception, match="cannot identify image"):  # so the images would have raised
        cut[0]


def test_factor_one_keeps_everything():
    assert list(make_long_tailed(image_dataset(), 1).select_columns("row")["row"]) == list(range(sum(FULL)))


def rows_kept(gamma, seed=0):
    return set(make_long_tailed(image_dataset(), gamma, seed=seed).select_columns("row")["row"])


def test_nested_across_factors():
    assert rows_kept(20) < rows_kept(8) < rows_kept(2) < rows_kept(1)


def test_seeded():
    assert rows_kept(8) == rows_kept(8)
    assert rows_kept(8, seed=1) != rows_kept(8)


def test_kept_rows_are_spread_over_the_class():
    full = image_dataset([10, 1000])
    kept = make_long_tailed(full, 100).select_columns(["label", "row"])
    rows = [r for label, r in zip(kept["label"], kept["row"], strict=True) if label == 1]
    assert len(rows) == 100
    assert 400 < sum(rows) / len(rows) < 620  # the first 100 would average below 120, the last 100 above 900


def test_dataset_dict_cuts_only_train():
    splits = DatasetDict(train=image_dataset(), test=image_dataset())
    cut = make_long_tailed(splits, 8)
    assert type(cut) is DatasetDict and list(cut) == ["train", "test"]
    assert len(cut["train"]) < sum(FULL) and len(cut["test"]) == sum(FULL)
    assert set(cut["train"].select_columns("row")["row"]) == rows_kept(8)


def test_dataset_dict_without_train():
    with pytest.raises(ValueError, match=r"\['valid'\].* must be called 'train'"):
        make_long_tailed(DatasetDict(valid=image_dataset()), 8)


def test_split_round_trip(tmp_path):
    split = LongTailSplit.of(image_dataset(), 8, seed=3)
    assert split.full_class_counts == FULL and split.seed == 3 and split.imbalance_factor == 8
    split.save_pretrained(tmp_path / "run")
    again = LongTailSplit.from_pretrained(tmp_path / "run")
    assert again == split
    cut = again.apply(image_dataset()).select_columns(["label", "row"])
    assert set(cut["row"]) == rows_kept(8, seed=3)
    assert plain_counts(cut["label"], 4) == split.class_counts


@pytest.mark.parametrize("other", [[60, 40, 50, 29], [40, 60, 50, 30], [60, 40, 50], [60, 40, 50, 15, 15]])
def test_split_refuses_another_dataset(other):
    with pytest.raises(ValueError, match="made from 180 examples of 4 classes.*full training split"):
        LongTailSplit.of(image_dataset(), 8).apply(image_dataset(other))


def test_split_refuses_its_own_cut():
    split = LongTailSplit.of(image_dataset(), 8)
    with pytest.raises(ValueError, match="full training split"):
        split.apply(split.apply(image_dataset()))


def test_class_counts_follow_a_selection():
    full = image_dataset()
    selected = full.select(range(100, 180))
    assert class_counts(selected) == plain_counts(list(selected.select_columns("label")["label"]), 4)


def test_class_counts_count_an_unused_class_as_zero():
    assert class_counts(labels_only([0, 2, 2], ClassLabel(num_classes=4))) == [1, 0, 2, 0]


def test_missing_column_lists_the_columns():
    with pytest.raises(ValueError, match=r"no column 'fine'.*\['img', 'label', 'row'\]"):
        make_long_tailed(image_dataset(), 8, label_column="fine")


@pytest.mark.parametrize(
    "values, feature", [(["cat", "dog"], Value("string")), ([0.0, 1.0], Value("float32")), ([True, False], None)]
)
def test_labels_that_are_no_class_ids(values, feature):
    with pytest.raises(ValueError, match=r"not class ids: .*class_encode_column\('label'\)"):
        make_long_tailed(labels_only(values, feature or Value("bool")), 8)


@pytest.mark.parametrize("feature", [ClassLabel(num_classes=3), Value("int64")])
def test_label_outside_the_classes(feature):
    with pytest.raises(ValueError, match=r"Row 2 has the label -1 .*outside the classes 0 to 2 \(2 such rows\)"):
        make_long_tailed(labels_only([0, 1, -1, 2, -1], feature), 8)


@pytest.mark.parametrize("feature", [ClassLabel(num_classes=3), Value("int64")])
def test_class_with_no_image(feature):
    with pytest.raises(ValueError, match=r"1 of 3 classes have no training example \(class 1\)"):
        make_long_tailed(labels_only([0, 2, 2], feature), 8)


def test_no_rows():
    with pytest.raises(ValueError, match="no rows"):
        make_long_tailed(image_dataset().select([]), 8)


def test_imagenet_without_decoding():
    """A tenth of its 1.28 million paths, of files that do not exist: any decoding would fail."""
    labels = np.sort(np.arange(128_117) % 1000)
    paths = pa.array([f"nowhere/{label}.JPEG" for label in labels.tolist()])
    features = Features({"image": Image(), "label": ClassLabel(num_classes=1000)})
    columns = {"image": Image().cast_storage(paths), "label": pa.array(labels)}
    full = Dataset.from_dict(columns, features=features)
    cut = make_long_tailed(full, 20)
    full_counts = np.bincount(labels).tolist()
    assert class_counts(cut) == [math.floor(n * 20 ** (-c / 1000) + 1e-9) for c, n in enumerate(full_counts)]
    with pytest.raises(FileNotFoundError):  # so the images would have raised
        cut[0]


def test_labels_of_a_selection_are_read_without_its_images():
    rows = {"img": [{"bytes": bytes(10**6), "path": None}] * 20, "label": [0, 1] * 10}
    cut = Dataset.from_dict(rows, features=Features({"img": Image(), "label": Value("int64")})).select([3, 2, 8, 15])
    pool, usual = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        assert class_counts(cut) == [2, 2]
    finally:
        pa.set_memory_pool(usual)
    assert pool.max_memory() < 10**6


@pytest.mark.parametrize(
    "gamma, rule, total, last",
    [(10, "paper", 19718, 51), (20, "paper", 16046, 25), (100, "paper", 10948, 5)]
    + [(10, "ldam", 19573, 50), (100, "ldam", 10847, 5)],
)
def test_real_cifar100(data_dir, gamma, rule, total, last):
    full = Dataset.from_parquet(str(data_dir / "cifar100" / "train.parquet"))
    cut = make_long_tailed(full, gamma, label_column="fine_label", rule=rule)
    assert len(cut) == total
    counts = np.bincount(cut.select_columns("fine_label")["fine_label"])
    assert counts[0] == 500 and counts[99] == last


def test_missing_labels_are_named():
    data = Dataset.from_dict({"label": [0, None, 1]})
    with pytest.raises(ValueError, match="1 rows have no label in column 'label'"):
        make_long_tailed(data, 2)


STREAM = Dataset.from_dict({"label": [0, 1] * 8}).to_iterable_dataset()
SPLITS = DatasetDict(train=Dataset.from_dict({"label": [0, 1]}))


@pytest.mark.parametrize(
    "call",
    [
        lambda: class_counts(STREAM),
        lambda: class_counts(IterableDatasetDict(train=STREAM)),
        lambda: make_long_tailed(STREAM, 2),
        lambda: make_long_tailed(IterableDatasetDict(train=STREAM), 2),
        lambda: LongTailSplit.of(STREAM, 2),
        lambda: LongTailSplit.of(SPLITS["train"], 1).apply(STREAM),
        lambda: hold_out(STREAM),
        lambda: find_source(DataArguments(dataset_name="x"), IterableDatasetDict(train=STREAM)),
    ],
)
def test_streams_are_refused(call):
    with pytest.raises(ValueError, match="streaming dataset .* cannot be counted or cut.*without streaming=True"):
        call()


@pytest.mark.parametrize("call", [class_counts, lambda splits: LongTailSplit.of(splits, 2), hold_out])
def test_several_splits_are_refused(call):
    with pytest.raises(ValueError, match=r"a DatasetDict of \['train'\]: give one split"):
        call(SPLITS)


@pytest.mark.parametrize("call", [class_counts, lambda data: make_long_tailed(data, 2), hold_out])
def test_an_id_as_a_label_asks_for_no_memory(call):
    with pytest.raises(ValueError, match="Row 2 has the label 3000000000 .*count from 0, to 999999 at most"):
        call(Dataset.from_dict({"label": [0, 1, 3_000_000_000]}))
