"""Class by class: what a model is right about, and what it takes for what."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.plots import plot_confusion
from ..groups import ClassGroups
from ..hub.names import CONFUSION_PICTURE, REPORT_NAME
from ..metrics.answers import LEVEL, SCORES, Answers
from ..utils import write_json
from .inputs import Images


MOST_CLASSES = 50  # that a picture of confusions can show


def scores_beside(answers: Answers, groups: ClassGroups) -> dict[str, float | None]:
    """What is said beside the accuracy of each group: those of `SCORES` that are known."""
    return {name: value for name, value in answers.scores(groups).items() if name in SCORES}


def class_report(answers: Answers, images: Images) -> dict[str, Any]:
    """
    What `class_report.json` holds: accuracies and the other scores with their 95 % intervals, precision, recall, F1
    and support of each class, and each pair of classes that is confused, the most frequent first.
    """
    groups, names = images.groups, images.data.class_names
    intervals = answers.intervals(groups)
    correct = {name: answers.correct[mask] for name, mask in answers.masks(groups).items()}
    confusion = answers.confusion(groups.num_classes)
    np.fill_diagonal(confusion, 0)
    pairs = sorted(zip(*confusion.nonzero(), strict=True), key=lambda pair: -confusion[pair])
    return {
        "images": len(answers.labels),
        "interval_level": LEVEL,
        "accuracy": {
            name: {"value": float(r.mean()) if len(r) else None, "interval": intervals[name], "images": len(r)}
            for name, r in correct.items()
        },
        "scores": {
            name: {"value": value, "interval": intervals.get(name)}
            for name, value in answers.scores(groups).items()
            if name not in correct
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
