import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from PIL import Image

from hf_ltkd.data import DataArguments
from hf_ltkd.data.holdout import Holdout, hold_out, load_or_hold_out


COUNTS = {"bird": 40, "cat": 21, "dog": 10}


@pytest.fixture
def dataset():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [*COUNTS.values()]))
    features = Features({"row": Value("int64"), "label": ClassLabel(names=[*COUNTS])})
    return Dataset.from_dict({"row": range(len(labels)), "label": labels}, features=features)


def write_images(folder, counts=COUNTS, size=8):
    random = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 255, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    return folder


def test_same_number_of_every_class_and_nothing_twice(dataset):
    train, test, holdout = hold_out(dataset, eval_fraction=0.3, seed=1)
    assert holdout == Holdout(per_class=3, eval_fraction=0.3, seed=1, full_class_counts=[40, 21, 10])
    assert np.bincount(test["label"]).tolist() == [3, 3, 3]
    assert np.bincount(train["label"]).tolist() == [37, 18, 7]
    assert sorted([*train["row"], *test["row"]]) == list(range(len(dataset)))
    assert list(train["row"]) == sorted(train["row"]) and list(test["row"]) == sorted(test["row"])


def test_seed_decides_and_parts_are_nested(dataset):
    parts = [set(hold_out(dataset, seed=seed)[1]["row"]) for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
    assert parts[0] < set(hold_out(dataset, eval_fraction=0.5, seed=0)[1]["row"])


@pytest.mark.parametrize(("share", "per_class"), [(0.1, 1), (0.19, 1), (0.2, 2), (0.99, 9)])
def test_never_more_than_the_share_of_the_smallest_class(dataset, share, per_class):
    assert hold_out(dataset, eval_fraction=share)[2].per_class == per_class


def test_too_small_a_class(dataset):
    with pytest.raises(ValueError, match="smallest class, 'dog', has 10 images.*--eval_fraction 0.11"):
        hold_out(dataset, eval_fraction=0.05)
    hold_out(dataset, eval_fraction=0.11)  # the fix
    only_one = dataset.select([*np.flatnonzero(np.array(dataset["label"]) < 2), dataset["label"].index(2)])
    with pytest.raises(ValueError, match=r"'dog', has 1 images.*add images of it, add a test split\.$"):
        hold_out(only_one)


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_share_that_is_none(dataset, share):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        hold_out(dataset, eval_fraction=share)


def test_one_class(dataset):
    with pytest.raises(ValueError, match="one class only"):
        hold_out(dataset.select_columns("label").cast_column("label", Value("int64")).map(lambda _: {"label": 0}))


def test_saved_and_read_back(dataset, tmp_path):
    holdout = hold_out(dataset)[2]
    holdout.save_pretrained(tmp_path)
    assert Holdout.from_pretrained(tmp_path) == holdout


@pytest.mark.parametrize("inside", [".", "train"])
def test_folders_without_a_test_split(tmp_path, inside):
    write_images(tmp_path / "photos" / inside)
    args = DataArguments(data_dir=str(tmp_path / "photos"), image_size=8)
    data, holdout = load_or_hold_out(args, eval_fraction=0.2, progress=False)
    assert holdout is not None and holdout.per_class == 2 and data.class_names == [*COUNTS]
    assert data.split.class_counts == [38, 19, 8] and len(data.train) == 65 and len(data.test) == 6
    # The normalisation is that of the training images, and the evaluation images are among the files.
    files = {Image.open(path).tobytes() for path in (tmp_path / "photos").rglob("*.png")}
    images = np.stack([item["pixel_values"] for item in data.test.__getitems__(list(range(6)))])
    pixels = images * np.array(data.std)[:, None, None] + np.array(data.mean)[:, None, None]
    assert {np.rint(255 * image).astype(np.uint8).transpose(1, 2, 0).tobytes() for image in pixels} < files


def test_a_class_called_train(tmp_path):
    write_images(tmp_path, {"car": 10, "test": 10, "train": 10})
    data, holdout = load_or_hold_out(DataArguments(data_dir=str(tmp_path), image_size=8), progress=False)
    assert data.class_names == ["car", "test", "train"] and holdout is not None


def test_images_that_are_decoded_later(tmp_path):
    args = DataArguments(data_dir=str(write_images(tmp_path / "photos")), image_size=8, crop="resized")
    data, _ = load_or_hold_out(args, progress=False)
    assert data.test[0]["pixel_values"].shape == (3, 8, 8) and len(data.train) == 65


def test_cut_after_the_split(tmp_path):
    args = DataArguments(
        data_dir=str(write_images(tmp_path / "photos", {"a": 20, "b": 20, "c": 20})), image_size=8, imbalance_factor=4
    )
    data, holdout = load_or_hold_out(args, progress=False)
    assert (
        holdout is not None
        and holdout.full_class_counts == [20, 20, 20]
        and data.split.full_class_counts == [16, 16, 16]
    )
    assert data.split.class_counts == [16, 10, 6] and np.bincount(data.test.labels).tolist() == [4, 4, 4]


def test_a_split_of_its_own_is_taken(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path / "test", {"bird": 3, "cat": 3, "dog": 3})
    data, holdout = load_or_hold_out(DataArguments(data_dir=str(tmp_path), image_size=8), progress=False)
    assert holdout is None and len(data.train) == sum(COUNTS.values()) and len(data.test) == 9


def test_parquet_of_any_name(tmp_path):
    from datasets import load_dataset

    write_images(tmp_path / "photos")
    folder = tmp_path / "files"
    folder.mkdir()
    images = load_dataset("imagefolder", data_dir=str(tmp_path / "photos"), split="train")
    images.to_parquet(folder / "data-00000.parquet")
    data, holdout = load_or_hold_out(DataArguments(data_dir=str(folder), image_size=8), progress=False)
    assert holdout is not None and data.split.class_counts == [38, 19, 8] and data.class_names == [*COUNTS]
    images.to_parquet(folder / "train.parquet")
    (folder / "data-00000.parquet").unlink()
    assert load_or_hold_out(DataArguments(data_dir=str(folder), image_size=8), progress=False)[1] == holdout


def test_a_folder_without_classes(tmp_path):
    write_images(tmp_path / "photos")
    (tmp_path / "photos" / "notes.txt").write_text("beside the classes")
    with pytest.raises(ValueError, match="can be told into classes.*Files beside the class folders"):
        load_or_hold_out(DataArguments(data_dir=str(tmp_path / "photos")), progress=False)


def test_an_eval_split_that_is_named_has_to_exist(tmp_path):
    write_images(tmp_path / "train")
    args = DataArguments(data_dir=str(tmp_path), eval_split="dev")
    with pytest.raises(ValueError, match="no 'dev' split"):
        load_or_hold_out(args, progress=False)
