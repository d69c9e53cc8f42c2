"""Ranks whose batches have no label: every collective meets on both, and the step is that of the labels there are."""

import json
from pathlib import Path

import pytest
import torch
from one_step import tiny_vit
from test_trainer import GROUPS, images, trainer_for

from hf_ltkd import BKDLoss, CATKDLoss, CrossEntropyLoss, GKLLoss, KDLoss, LTKDLoss, ReviewKDLoss, group_accuracy


LOSSES = {
    "ce": lambda: CrossEntropyLoss(),
    "kd": lambda: KDLoss(),
    "ltkd": lambda: LTKDLoss(GROUPS, group_mass_momentum=0.5),
    "bkd": lambda: BKDLoss(GROUPS.class_counts),
    "gkl": lambda: GKLLoss(GROUPS, beta=0.1),
    "reviewkd": lambda: ReviewKDLoss(),
    "catkd": lambda: CATKDLoss(),
}


class HalfLabelled(torch.utils.data.Dataset):
    """Batches of 8 of which every second, which goes to rank 1, has no label."""

    def __init__(self):
        self.images = images(32)

    def __len__(self):
        return len(self.images)

    def __getitems__(self, indices):
        rows = self.images.__getitems__(indices)
        return [
            {**row, "labels": row["labels"] if i // 8 % 2 == 0 else torch.tensor(-100)}
            for i, row in zip(indices, rows, strict=True)
        ]

    def __getitem__(self, index):
        return self.__getitems__([index])[0]


def train(folder, name, half):
    """Two steps with rank 1 of no label, or of rank 0's examples alone: weights, metrics, and the number of ranks."""
    data, loss = HalfLabelled(), LOSSES[name]()
    if not half:
        data = [data[i] for i in range(32) if i // 8 % 2 == 0]
    args = {
        "max_steps": 2,
        "logging_steps": 2,
        "eval_with_teacher": name != "ce",
        "train_sampling_strategy": "sequential",
    }
    trainer = trainer_for(folder, loss=loss, args=args, train_dataset=data, eval_dataset=data)
    trainer.train()
    metrics = {key: value for key, value in trainer.evaluate().items() if "_per_" not in key and "time" not in key}
    weights = {**dict(trainer.model.named_parameters()), **{f"loss.{n}": p for n, p in loss.named_parameters()}}
    return {n: w.detach().numpy() for n, w in weights.items()}, metrics, trainer.accelerator.num_processes


@pytest.mark.parametrize("name", LOSSES)
def test_a_rank_without_a_label_changes_nothing(two_ranks, tmp_path, name):
    weights, metrics, _ = train(tmp_path / "one", name, half=False)
    (first, first_metrics, ranks), (second, second_metrics, _) = two_ranks(train, tmp_path / "two", name, True)
    assert ranks == 2 and weights.keys() == first.keys()
    for key, value in weights.items():
        assert (first[key] == second[key]).all()
        torch.testing.assert_close(*map(torch.from_numpy, (first[key], value)), rtol=1e-4, atol=2e-6, msg=key)
    assert first_metrics == second_metrics == pytest.approx(metrics, rel=1e-4)
    others = [key for key in metrics if key.removeprefix("eval_") not in group_accuracy(GROUPS).names]
    assert len(others) == {"ce": 3, "ltkd": 5, "gkl": 5}.get(name, 4)  # the loss's own terms too


def step(folder, batch_size, accelerator_config):
    """One step of the first examples: the student, and how many examples the manifest says they are."""
    args = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1, "train_sampling_strategy": "sequential"}
    args |= {"per_device_train_batch_size": batch_size, "accelerator_config": accelerator_config}
    trainer = trainer_for(folder, model=tiny_vit(1), teacher=tiny_vit(2, confidence=500.0), args=args)
    trainer.train()
    manifest = json.loads((Path(folder) / "checkpoint-1" / "distillation_state.json").read_text())
    return {n: p.detach().numpy() for n, p in trainer.model.named_parameters()}, manifest["examples_per_step"]


@pytest.mark.parametrize("config", [{"split_batches": True}, {"dispatch_batches": True, "split_batches": True}])
def test_ranks_that_share_a_batch(two_ranks, tmp_path, config):
    expected, _ = step(tmp_path / "one", 16, None)
    found, examples = two_ranks(step, tmp_path / "two", 16, config)[0]
    assert examples == 16
    for name, value in expected.items():
        torch.testing.assert_close(*map(torch.from_numpy, (found[name], value)), rtol=1e-4, atol=2e-6, msg=name)
