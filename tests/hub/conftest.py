"""A training of four steps, as small as it can be, for the tests of what is written beside a student."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import ViTImageProcessorPil, set_seed

from hf_ltkd import (
    ClassGroups,
    DistillationTrainer,
    DistillationTrainingArguments,
    ImageDataset,
    LTKDLoss,
    create_model,
    group_accuracy,
)


COUNTS = [60, 50, 40, 30, 20, 10]
NAMES = ["<b>red", "a|b", "`c`", "*d*", "[e](f)", "g\n---\nh: 1"]


def images(seed=0):
    """36 images of 8 × 8 pixels, six of each class."""
    pixels = torch.randint(0, 256, (36, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return ImageDataset(pixels, torch.arange(36) % 6, mean=[0.5] * 3, std=[0.25] * 3)


@pytest.fixture(scope="session")
def make_trainer():
    """`make_trainer(folder, loss, **arguments)`: a DistillationTrainer that knows nothing yet."""

    def make(folder, loss=None, **arguments):
        set_seed(0)
        names = {"id2label": dict(enumerate(NAMES))}
        groups = ClassGroups.from_counts(COUNTS)
        args = DistillationTrainingArguments(
            folder, per_device_train_batch_size=8, use_cpu=True, report_to="none", disable_tqdm=True,
            dataloader_pin_memory=False, **{"max_steps": 4, "save_steps": 2, "learning_rate": 0.01, **arguments},
        )  # fmt: skip
        return DistillationTrainer(
            create_model("resnet8", 6, image_size=8, **names),
            create_model("resnet14", 6, image_size=8, **names),
            args,
            distillation_loss=loss or LTKDLoss(groups, alpha=1.5),
            train_dataset=images(),
            eval_dataset=images(1),
            compute_metrics=group_accuracy(groups),
            processing_class=ViTImageProcessorPil(
                size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.25] * 3
            ),
        )

    return make


@pytest.fixture(scope="session")
def trained(make_trainer, tmp_path_factory):
    """A trainer after its training and evaluation, with its student's folder; not to be changed."""
    trainer = make_trainer(tmp_path_factory.mktemp("trained"), save_strategy="no")
    trainer.train()
    trainer.save_model()
    trainer.evaluate()
    return trainer


@pytest.fixture
def student(trained, tmp_path):
    """A copy of that folder, of one's own."""
    return Path(shutil.copytree(trained.args.output_dir, tmp_path / "student"))
