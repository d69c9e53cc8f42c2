"""Made-up scenes of 24 × 32 pixels, each with a class, for the workflow's and the command's tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features
from datasets import Image as ImageColumn
from photos import CPU
from PIL import Image


NAMES = ["road", "building", "car", "person", "bicycle"]
TASK = ["--task", "semantic-segmentation"]
SHORT: dict[str, Any] = {"max_steps": 2, "per_device_train_batch_size": 4, "warmup_steps": 0, **CPU}
FLAGS = [str(item) for name, value in SHORT.items() for item in (f"--{name}", value)]


SHARES = (0.5, 0.3, 0.1, 0.06, 0.04)


def scenes(count: int, seed: int, shares: Sequence[float] = SHARES) -> Dataset:
    """Stripes of classes, the last of few pixels, a row that is ignored, colours that tell five classes apart."""
    random = np.random.default_rng(seed)
    classes = random.choice(len(shares), (count, 24), p=shares)
    masks = np.repeat(np.sort(classes, axis=1)[..., None], 32, axis=2)
    masks[:, -1], masks[:, 0] = np.arange(32) % len(shares), 255
    noise = random.integers(0, 60, masks.shape)
    pixels = np.stack([masks * 40, 200 - masks * 40, noise], axis=-1).clip(0, 255).astype(np.uint8)
    columns = {"image": [*map(Image.fromarray, pixels)], "mask": [*map(Image.fromarray, masks.astype(np.uint8))]}
    return Dataset.from_dict(columns, features=Features({"image": ImageColumn(), "mask": ImageColumn()}))


def write_streets(folder: Path) -> None:
    """12 scenes to train on, 3 to validate and 21 to test."""
    folder.mkdir()
    for seed, (split, count) in enumerate({"train": 12, "validation": 3, "test": 21}.items()):
        scenes(count, seed).to_parquet(folder / f"{split}.parquet")
