"""One optimizer step over the same 32 examples, however they are split: on one rank or two (test_trainer.py)."""

import torch
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
        "reviewkd": ReviewKDLoss(),
    }


def one_step(
    folder: str, names: list[str], batch_size: int, accumulation: int, world_size: int
) -> dict[str, tuple[dict, dict]]:
    """Trains and evaluates once a loss. Returns the weights and what was logged by name of the loss."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 5, (32,), generator=generator)
    labels[labels == 4], labels[7] = 0, 5  # a single example of the tail: one rank has none
    data = ImageDataset(images, labels, mean=[0.5] * 3, std=[0.25] * 3)
    groups = ClassGroups.from_counts([60, 50, 40, 30, 20, 10])
    results = {}
    for name in names:
        args = DistillationTrainingArguments(
            output_dir=folder, max_steps=1, per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=5, gradient_accumulation_steps=accumulation, learning_rate=0.1, optim="sgd",
            max_grad_norm=0.0, use_cpu=True, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
            dataloader_pin_memory=False, lr_milestones=[0.9], eval_with_teacher=True,
        )  # fmt: skip
        loss = losses(groups)[name]
        trainer = DistillationTrainer(
            tiny_vit(1),
            tiny_vit(2, confidence=500.0),  # a flat teacher would give every split the same group mass
            args,
            distillation_loss=loss,
            train_dataset=data,
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
