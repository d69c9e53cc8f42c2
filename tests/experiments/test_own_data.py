"""Digits, and texts as rows of token ids: a whole experiment on them."""

import json

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Value
from own_data import BagOfWords, load_digits_splits, load_texts
from tiny import TINY

from hf_ltkd import create_model
from hf_ltkd.data import DataArguments


def write_texts(folder):
    """Six intents, each with a word of its own; a seventh class has no text."""
    names = [*"abcdef", "nothing"]
    features = Features({"text": Value("string"), "intent": ClassLabel(names=["nothing", *"abcdef"])})
    for split, size in (("train", 10), ("test", 4)):
        texts = [f"Please, the {names[label]}{label} thing {i}" for label in range(6) for i in range(size)]
        columns = {"text": texts, "intent": np.repeat(np.arange(1, 7), size)}
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}_all.parquet")


def test_digits():
    splits = load_digits_splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 1297, "test": 500}
    assert 48 <= np.bincount(splits["test"]["label"]).min() <= np.bincount(splits["test"]["label"]).max() <= 51
    assert splits["train"][0]["image"].size == (8, 8) and np.max(splits["train"][0]["image"]) == 255


def test_texts_are_token_ids_of_classes_with_a_text(tmp_path):
    write_texts(tmp_path)
    images = load_texts(DataArguments(data_dir=str(tmp_path), label_column="intent", imbalance_factor=2), "text")
    data = images.data
    assert data.class_names == [*"abcdef"] and data.split.class_counts == [10, 8, 7, 7, 6, 5]
    assert data.train.labels.tolist() == np.repeat(np.arange(6), data.split.class_counts).tolist()
    first, second = (item["pixel_values"] for item in data.train.__getitems__([0, 1]))
    assert torch.equal(first[:4], second[:4]) and first[5:].sum() == 0  # "please the a0 thing", and then the number
    assert sorted(first[:5].tolist()) != sorted(second[:5].tolist())
    network = create_model("bag_16", 6).eval()
    assert isinstance(network, BagOfWords)
    padded = torch.cat([first, torch.zeros(3)])
    assert torch.allclose(network(first[None]).logits, network(padded[None]).logits)  # padding does not count


def test_held_out_texts_are_of_the_training_texts_and_of_every_class(tmp_path):
    write_texts(tmp_path)
    args = DataArguments(data_dir=str(tmp_path), label_column="intent", imbalance_factor=2)
    images = load_texts(args, "text", held_out=0.2)
    assert images.data.test.labels.tolist() == np.repeat(np.arange(6), 2).tolist()
    assert images.holdout.class_counts == [2] * 6 and images.data.split.full_class_counts == [8] * 6
    texts = {tuple(row) for row in images.data.train.tokens.tolist()}
    assert len(texts) == len(images.data.train) and not texts & {tuple(r) for r in images.data.test.tokens.tolist()}


def test_an_experiment_on_texts(start, tmp_path):
    write_texts(tmp_path)
    methods = {"Student": {"loss": "ce"}, "KD": {"loss": "kd"}}
    values = {**TINY, "data": {"label_column": "intent", "text_column": "text"}, "pairs": ["bag_128:bag_16"]}
    values |= {"images_per_class": 10, "imbalance_factors": [2], "teacher_seeds": [0, 3], "methods": methods}
    values["running"] = {"use_cpu": True, "save_strategy": "no"}
    values["training"] = {"num_train_epochs": 8, "learning_rate": 0.05, "per_device_train_batch_size": 8}
    (tmp_path / "texts.yaml").write_text(json.dumps(values))
    lines = start(tmp_path / "out", "--experiment", tmp_path / "texts.yaml", "--data_dir", tmp_path, experiment=None)
    assert [(line["method"], line["seed"]) for line in lines] == [
        *(("Teacher", 0), ("Teacher", 3), ("Student", 0), ("KD", 0), ("Student", 1), ("KD", 1))
    ]
    by_draw = {line["run"].get("draw", 0): line["images"] for line in lines}
    assert len(set(by_draw.values())) == 2  # other training texts
    for line in lines:
        assert line["images"] == by_draw[line["run"].get("draw", 0)]
        assert line["metrics"]["accuracy"] > 0.4  # chance is 1 in 6
    teachers, kd = lines[:2], [line for line in lines if line["method"] == "KD"]
    assert [line["teacher_fingerprint"] for line in kd] == [line["teacher_fingerprint"] for line in teachers]
