"""Made-up images of three colours, a teacher and a student of them, for the workflow's and the command's tests."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

import hf_ltkd
from hf_ltkd.data.holdout import Holdout
from hf_ltkd.workflow.outputs import Comparison


COUNTS = {"blue": 40, "green": 20, "red": 10}
CPU: dict[str, Any] = {"use_cpu": True, "dataloader_pin_memory": False, "disable_tqdm": True}
TRAINING: dict[str, Any] = {"per_device_train_batch_size": 16, **CPU}


@dataclass(frozen=True)
class Home:
    """A folder with photos/, teacher/ and student/, and what came out when the student was distilled."""

    folder: Path
    comparison: Comparison

    @property
    def photos(self) -> str:
        return str(self.folder / "photos")

    @property
    def teacher(self) -> str:
        return str(self.folder / "teacher")

    @property
    def student(self) -> str:
        return str(self.folder / "student")

    def files(self) -> dict[Path, int]:
        """Every file and when it was written."""
        return {path: path.stat().st_mtime_ns for path in self.folder.rglob("*")}


def write_photos(folder: Path) -> None:
    """8 × 8 pixels, a class a folder, told apart by their colour."""
    random = np.random.default_rng(0)
    for channel, (name, count) in zip((2, 1, 0), COUNTS.items(), strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 200, (8, 8, 3), dtype=np.uint8)
            pixels[..., channel] += 40
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def make_home(folder: Path) -> Home:
    photos, teacher, student = (str(folder / name) for name in ("photos", "teacher", "student"))
    write_photos(folder / "photos")
    size = {"image_size": 8, "crop_padding": 1}
    plain = {"ce": "cross_entropy", "max_steps": 60}  # and biased
    hf_ltkd.train_teacher("resnet14", photos, output_dir=teacher, **plain, **size, **TRAINING)
    return Home(folder, hf_ltkd.distill(teacher, "resnet8", photos, output_dir=student, max_steps=10, **TRAINING))


def accuracy_by_hand(model_folder: str, photos: str, less: torch.Tensor | float = 0.0) -> np.ndarray:
    """Accuracy per class by logits `less` something, an image at a time, from files and image processor alone."""
    model = AutoModelForImageClassification.from_pretrained(model_folder).eval()
    processor = AutoImageProcessor.from_pretrained(model_folder)
    holdout = Holdout.from_pretrained(model_folder)
    labels = [label for label, count in enumerate(COUNTS.values()) for _ in range(count)]
    paths = [path for name in COUNTS for path in sorted((Path(photos) / name).iterdir())]
    order = np.random.default_rng(holdout.seed).permutation(len(paths))
    correct = []
    for label in range(3):
        held_out = [row for row in order if labels[row] == label][: holdout.per_class]
        for row in held_out:
            with torch.no_grad():
                logits = model(**processor(Image.open(paths[row]), return_tensors="pt")).logits
            correct.append((logits - less).argmax().item() == label)
    return np.reshape(correct, (3, -1)).mean(1)
