"""Training examples drawn by how frequent their class is."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from one_step import assert_same_step, one_step, tiny_vit
from test_checkpoints import make_trainer
from test_trainer import images, trainer_for

from hf_ltkd import DistillationTrainingArguments, KDLoss, TeacherCache
from hf_ltkd.trainer.sampling import ClassSampler


LABELS = np.repeat([0, 1, 2], [90, 9, 1])


ROOTS = np.sqrt([90, 9, 1])


@pytest.mark.parametrize("strategy, shares", [("class_balanced", [1 / 3] * 3), ("square_root", ROOTS / ROOTS.sum())])
def test_frequencies_are_those_of_the_formula(strategy, shares):
    sampler, drawn = ClassSampler(LABELS, strategy, seed=1), np.zeros(100)
    for epoch in range(100):
        sampler.set_epoch(epoch)
        drawn += np.bincount(list(sampler), minlength=100)
    assert len(sampler) == 100 and drawn.sum() == 10_000
    for label, share in enumerate(shares):
        assert abs(drawn[label == LABELS].sum() - 10_000 * share) < 5 * np.sqrt(10_000 * share * (1 - share))
    # Within a class all are drawn equally often.
    each = 10_000 * shares[0] / 90
    assert np.abs(drawn[:90] - each).max() < 5 * np.sqrt(each)


def test_a_draw_is_a_function_of_seed_and_epoch():
    def draw(seed, epoch):
        sampler = ClassSampler(LABELS, "square_root", seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert draw(1, 2) == draw(1, 2) and len({tuple(draw(*x)) for x in [(1, 2), (1, 3), (2, 2), (2, 1)]}) == 4


def test_a_step_has_the_same_examples_however_it_is_split(tmp_path, two_ranks):
    arguments = "plain", "class_balanced"
    whole = one_step(str(tmp_path), ["ltkd"], 32, 1, 1, *arguments)["ltkd"]
    for name, others in {
        "accumulated": [one_step(str(tmp_path), ["ltkd"], 8, 4, 1, *arguments)],
        "ranks": two_ranks(one_step, str(tmp_path), ["ltkd"], 16, 1, 2, *arguments),
    }.items():
        assert_same_step(name, whole, others[0]["ltkd"])
    usual = one_step(str(tmp_path), ["ltkd"], 32, 1, 1)["ltkd"]
    assert whole[1]["loss"] != usual[1]["loss"] and whole[1]["eval_loss"] != usual[1]["eval_loss"]


def test_resumed_within_an_epoch(tmp_path):
    arguments = {"max_steps": 7, "save_total_limit": None, "data": images(24)}  # 3 steps an epoch
    arguments |= {"train_sampling_strategy": "square_root"}
    whole = make_trainer(tmp_path, **arguments)
    whole.train()
    resumed = make_trainer(tmp_path, **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[name]), name


def drawn(trainer):
    return [label for batch in trainer.get_train_dataloader() for label in batch["labels"].tolist()]


def test_cached_logits_are_those_of_the_drawn_examples(tmp_path):
    teacher, data = tiny_vit(2), images(32)
    cache = TeacherCache.build(tmp_path / "cache", teacher, data, views=1, batch_size=8, progress=False)
    args = {"train_sampling_strategy": "class_balanced"}
    trainer = trainer_for(tmp_path, teacher=cache, args=args, loss=KDLoss())
    for batch in trainer.get_train_dataloader():
        with torch.no_grad():
            torch.testing.assert_close(batch["teacher_logits"], teacher(batch["pixel_values"]).logits)
    live = trainer_for(tmp_path, teacher=teacher, args=args, loss=KDLoss())
    assert drawn(live) == drawn(trainer) and len(drawn(live)) == 32


def test_of_a_dataset_with_a_transform_it_is_the_column_as_stored(tmp_path):
    rows = images(100).__getitems__([*range(100)])
    data = Dataset.from_dict({"index": [*range(100)], "label": LABELS.tolist()})
    data.set_transform(lambda batch: {
        "pixel_values": [rows[i]["pixel_values"] for i in batch["index"]], "labels": batch["label"]})  # fmt: skip
    trainer = trainer_for(
        tmp_path, train_dataset=data, eval_dataset=None, args={"train_sampling_strategy": "class_balanced"}
    )
    assert np.bincount(drawn(trainer), minlength=3).min() > 15


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from images(8)


def unlabelled():
    data = images(8)
    data.labels[3] = -1
    return data


@pytest.mark.parametrize(
    "data, reason",
    [
        (Stream, "and a Stream does not tell: give a datasets.Dataset with the column label"),
        (lambda: images(8).__getitems__([0, 1]), "and a list does not tell"),
        (unlabelled, "and some have no class: give"),
    ],
)
def test_data_that_it_cannot_draw_from(tmp_path, data, reason):
    args = {"train_sampling_strategy": "square_root"}
    with pytest.raises(ValueError, match=f"train_sampling_strategy='square_root' draws by the class.*{reason}"):
        trainer_for(tmp_path, train_dataset=data(), loss=KDLoss(), args=args)


def test_a_strategy_that_is_not_known():
    with pytest.raises(ValueError, match="train_sampling_strategy='balanced' is not known: use one of random"):
        DistillationTrainingArguments(train_sampling_strategy="balanced")
