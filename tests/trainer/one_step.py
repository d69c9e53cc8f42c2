"""One optimizer step over the same 32 examples, however they are split: on one rank or two (test_trainer.py)."""

import pytest
import torch
from helpers import ONE_STEP
from transformers import ViTConfig, ViTForImageClassification, set_seed

from hf_ltkd import (
    BKDLoss,
    ClassGroups,
    DistillationLoss,
    DistillationTrainer,
    DistillationTrainingArguments,
    DKDLoss,
    GKLLoss,
    ImageDataset,
    KDLoss,
    LTKDLoss,
    ReviewKDLoss,
    Schedule,
    SumLoss,
    group_accuracy,
    log_class_prior,
)


def tiny_vit(seed: int, confidence: float = 1.0) -> ViTForImageClassification:
    """No batch normalisation, whose own statistics would depend on the split."""
    set_seed(seed)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        num_labels=6, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    with torch.no_grad():
        model.classifier.weight.mul_(confidence)
    return model


def losses(groups: ClassGroups) -> dict[str, DistillationLoss]:
    counts = groups.class_counts
    return {
        "ltkd": LTKDLoss(groups, alpha=1.0, beta=1.0, temperature=1.0),
        "ltkd_momentum": LTKDLoss(groups, temperature=1.0, group_mass_momentum=0.5, ce="balanced_softmax"),
        "kd": KDLoss(temperature=1.0, teacher_log_prior=log_class_prior(counts)),
        "dkd": DKDLoss(temperature=1.0, ce="class_balanced", class_counts=counts),
        "bkd": BKDLoss(counts, ce="logit_adjusted"),
        "gkl": GKLLoss(groups, beta=0.01, prior="teacher"),
        "gkl_of_examples": GKLLoss(groups, beta=0.01, gamma=0.5, class_wise=False, standardize=True),
        "sum": SumLoss(
            [GKLLoss(groups, beta=0.01), LTKDLoss(groups, temperature=Schedule({0: 2.0, 1: 1.0})), KDLoss()],
            weights=[1, Schedule({0: 0.5, 1: 2.0}), 2],
        ),
        "reviewkd": ReviewKDLoss(),
    }


class WeightedImages(ImageDataset):
    """Every example has a weight, and some 0."""

    def __getitems__(self, indices):
        weights, items = torch.tensor(WEIGHTS), super().__getitems__(indices)
        return [{**item, "sample_weights": weights[i]} for i, item in zip(indices, items, strict=True)]


WEIGHTS = [float(i % 4) for i in range(32)]


def one_step(
    folder: str,
    names: list[str],
    batch_size: int,
    accumulation: int,
    world_size: int,
    kind: str = "plain",
    sampling: str = "random",
) -> dict[str, tuple[dict, dict]]:
    """
    Trains and evaluates once a loss. Returns the weights and what was logged by name of the loss. The examples are
    `"plain"`, `"weighted"`, or `"repeated"` as many times as they weigh.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 5, (32,), generator=generator)
    labels[labels == 4], labels[7] = 0, 5  # a single example of the tail: one rank has none
    pixels = {"mean": [0.5] * 3, "std": [0.25] * 3}
    data = (WeightedImages if kind == "weighted" else ImageDataset)(images, labels, **pixels)
    times, training = torch.tensor(WEIGHTS).int(), data
    if kind == "repeated":
        training = ImageDataset(images.repeat_interleave(times, 0), labels.repeat_interleave(times), **pixels)
    groups = ClassGroups.from_counts([60, 50, 40, 30, 20, 10])
    results = {}
    for name in names:
        args = DistillationTrainingArguments(
            folder, per_device_train_batch_size=batch_size, per_device_eval_batch_size=12,
            gradient_accumulation_steps=accumulation, lr_milestones=[0.9], eval_with_teacher=True,
            train_sampling_strategy=sampling, **ONE_STEP,
        )  # fmt: skip
        loss = losses(groups)[name]
        trainer = DistillationTrainer(
            tiny_vit(1),
            tiny_vit(2, confidence=500.0),  # a flat teacher would give every split the same group mass
            args,
            distillation_loss=loss,
            train_dataset=training,
            eval_dataset=data,
            compute_metrics=group_accuracy(groups),
        )
        assert trainer.accelerator.num_processes == world_size, "started with another number of ranks"
        trainer.train()
        trainer.evaluate()
        trained = {f"loss.{key}": tensor for key, tensor in loss.state_dict().items()}
        logs = {key: value for entry in trainer.state.log_history for key, value in entry.items()}
        results[name] = {**trainer.model.state_dict(), **trained}, logs
    return results


def assert_same_step(name: str, one: tuple[dict, dict], other: tuple[dict, dict]) -> None:
    """Weights and terms of two runs of [`one_step`]."""
    (weights, logs), (other_weights, other_logs) = one, other
    for key, value in weights.items():
        torch.testing.assert_close(other_weights[key], value, rtol=1e-4, atol=2e-6, msg=f"{name} {key}")
    terms = [key for key in logs if f"eval_{key}" in logs and key != "runtime"]
    assert len(terms) >= 3  # the loss and its named terms
    for key in terms:
        assert other_logs[key] == pytest.approx(logs[key], rel=1e-4), (name, key)
    for key in ("eval_loss", "eval_accuracy", "eval_tail_accuracy"):
        assert other_logs[key] == pytest.approx(logs[key], rel=1e-3), (name, key)
