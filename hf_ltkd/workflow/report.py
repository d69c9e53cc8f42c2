"""Class by class: what a model is right about, and what it takes for what."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.plots import plot_confusion
from ..groups import ClassGroups
from ..hub.names import CONFUSION_PICTURE, REPORT_NAME
from ..metrics.answers import LEVEL, SCORES, Answers
from ..metrics.pixel_answers import PixelAnswers
from ..utils import write_json
from .images import Images


MOST_CLASSES = 50  # that a picture of confusions can show


def scores_beside(answers: Answers | PixelAnswers, groups: ClassGroups) -> dict[str, float | None]:
    """What is said beside the accuracy of each group: those of `SCORES` that are known, and of pixels the IoU."""
    scores = answers.scores(groups).items()
    return {name: value for name, value in scores if name in SCORES or name.endswith("_iou")}


def class_report(answers: Answers | PixelAnswers, images: Images) -> dict[str, Any]:
    """
    What `class_report.json` holds: accuracies and the other scores with their 95 % intervals, precision, recall, F1
    and support of each class, and each pair of classes that is confused, the most frequent first.
    """
    groups, names = images.groups, images.data.class_names
    intervals = answers.intervals(groups)
    if isinstance(answers, PixelAnswers):
        return _pixel_report(answers, images, intervals)
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


def _pixel_report(answers: PixelAnswers, images: Images, intervals: dict[str, Any]) -> dict[str, Any]:
    """The same of pixels: with the IoU of each class and group, and pixels where there were images."""
    groups, names = images.groups, images.data.class_names
    measured = {name: {"value": v, "interval": intervals[name]} for name, v in answers.scores(groups).items()}
    others = answers.confusion.copy()
    np.fill_diagonal(others, 0)
    pairs = sorted(zip(*others.nonzero(), strict=True), key=lambda pair: -others[pair])
    return {
        "images": len(answers.counts),
        "pixels": int(answers.confusion.sum()),
        "interval_level": LEVEL,
        "iou": {name: value for name, value in measured.items() if name.endswith("_iou")},
        "accuracy": {n: v for n, v in measured.items() if n.endswith("accuracy") and n != "balanced_accuracy"},
        "scores": {"balanced_accuracy": measured["balanced_accuracy"]},
        "at_chance": answers.at_chance,
        "classes": answers.class_report(groups, names),
        "confused": [{"class": names[a], "taken_for": names[b], "pixels": int(others[a, b])} for a, b in pairs],
    }


def write_report(folder: str | os.PathLike, answers: Answers | PixelAnswers, images: Images) -> list[str]:
    """Writes `class_report.json` and, of up to 50 classes, `confusion.png`; their names."""
    folder, names = Path(folder), images.data.class_names
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / REPORT_NAME, class_report(answers, images))
    (folder / CONFUSION_PICTURE).unlink(missing_ok=True)
    if len(names) > MOST_CLASSES:
        return [REPORT_NAME]
    if isinstance(answers, PixelAnswers):  # their numbers are too long for a picture
        percent = 100 * answers.confusion / answers.confusion.sum(1, keepdims=True).clip(1)
        plot_confusion(np.rint(percent).astype(int), names, folder / CONFUSION_PICTURE, of="pixels, in %")
    else:
        plot_confusion(answers.confusion(len(names)), names, folder / CONFUSION_PICTURE)
    return [REPORT_NAME, CONFUSION_PICTURE]
