"""Class by class: what a model is right about, and what it takes for what."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.plots import plot_confusion
from ..hub.names import CONFUSION_PICTURE, REPORT_NAME
from ..metrics.answers import LEVEL, Answers
from ..utils import write_json
from .inputs import Images


MOST_CLASSES = 50  # that a picture of confusions can show


def class_report(answers: Answers, images: Images) -> dict[str, Any]:
    """
    What `class_report.json` holds: accuracies with their 95 % intervals, precision, recall, F1 and support of each
    class, and each pair of classes that is confused, the most frequent first.
    """
    groups, names = images.groups, images.data.class_names
    correct = {name: answers.correct[mask] for name, mask in answers.masks(groups).items()}
    confusion = answers.confusion(groups.num_classes)
    np.fill_diagonal(confusion, 0)
    pairs = sorted(zip(*confusion.nonzero(), strict=True), key=lambda pair: -confusion[pair])
    return {
        "images": len(answers.labels),
        "interval_level": LEVEL,
        "accuracy": {
            name: {"value": float(right.mean()) if len(right) else None, "interval": interval, "images": len(right)}
            for (name, right), interval in zip(correct.items(), answers.intervals(groups).values(), strict=True)
        },
        "at_chance": answers.at_chance,
        "classes": answers.class_report(groups, names),
        "confused": [{"class": names[a], "taken_for": names[b], "images": int(confusion[a, b])} for a, b in pairs],
    }


def write_report(folder: str | os.PathLike, answers: Answers, images: Images) -> list[str]:
    """Writes `class_report.json` and, of up to 50 classes, `confusion.png`; their names."""
    folder, names = Path(folder), images.data.class_names
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / REPORT_NAME, class_report(answers, images))
    (folder / CONFUSION_PICTURE).unlink(missing_ok=True)
    if len(names) > MOST_CLASSES:
        return [REPORT_NAME]
    plot_confusion(answers.confusion(len(names)), names, folder / CONFUSION_PICTURE)
    return [REPORT_NAME, CONFUSION_PICTURE]
