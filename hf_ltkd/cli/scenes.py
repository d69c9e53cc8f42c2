"""What is found in images with a class for each pixel, as lines of text."""

import numpy as np

from ..groups import ClassGroups
from ..utils import listed
from ..workflow.plan import GroupReport
from ..workflow.recommend import SKEWED
from ..workflow.scenes import FEWEST_IMAGES, Scenes
from .tables import number


def describe_scenes(scenes: Scenes) -> list[str]:
    """How many images, classes and pixels there are, and how long the tail is."""
    data, groups = scenes.data, scenes.groups
    counts, masks = np.array(data.class_counts), data.masks
    ratio = counts.max() / max(1, counts.min())
    (height, width), (crop_height, crop_width) = masks.size, masks.crop_size  # type: ignore[misc]
    low, high = masks.scale
    lines = [
        f"{len(counts)} classes in the masks of {number(len(data.train), 'training image')}, evaluated at {height} × "
        f"{width} pixels (--size)",
        f"Training views: {crop_height} × {crop_width} pixels of it (--crop_size), scaled by {low:g} to {high:g} "
        f"(--scale){', half of them mirrored' if data.train.horizontal_flip else ''}",
        f"{counts.max():,} to {counts.min():,} pixels a class: imbalance ratio {ratio:.3g}",
    ]
    for group, name in enumerate(groups.names):
        members = np.flatnonzero(groups.group_of_class.numpy() == group)
        members = members[np.argsort(-counts[members], kind="stable")]
        share = counts[members].sum() / counts.sum()
        lines.append(f"{name:<8}{share:>7.1%} of the pixels: {listed([data.class_names[c] for c in members], 12)}")
    rule = "equal parts of the classes (--num_groups)"
    if groups.names == ("head", "medium", "tail"):
        rule = "33, 34 and 33 % of the classes, as in the paper (--num_groups)"
    lines += [f"Groups by pixels: {rule}", *data.sources]
    if ratio < SKEWED:
        lines.append("There is hardly a tail: --loss kd is made for such data, LTKD has little to gain.")
    return lines


def describe_scene_evaluation(scenes: Scenes) -> list[str]:
    """What is evaluated on, and how far its figures can be trusted."""
    data, groups, counts = scenes.data, scenes.groups, scenes.data.test_counts
    lines = [f"{number(len(data.test), 'image')} of the data's own split, {counts.sum():,} pixels with a class"]
    if scenes.holdout is not None:
        lines = [
            f"{number(len(data.test), 'image')}, {counts.sum():,} pixels, split off the training images (there is no "
            f"test split): {scenes.holdout.eval_fraction:.0%} of them (--eval_fraction), chosen with seed "
            f"{scenes.holdout.seed} (--split_seed)",
            "Frames of one film on both sides flatter a model: give a test split, if these are some.",
        ]
    without = [data.class_names[c] for c in np.flatnonzero(counts.sum(0) == 0)]
    if without:
        lines.append(
            f"No pixel there is of {listed(without, 10)}: an IoU of 0 where a model names one, else not measured."
        )
    images = (counts > 0).astype(int) @ np.eye(groups.num_groups, dtype=int)[groups.group_of_class.numpy()] > 0
    for name, of_group in zip(groups.names, images.sum(0), strict=True):
        if of_group < FEWEST_IMAGES:
            few = f"Only {number(int(of_group), 'image')}" if of_group else "No image"
            lines.append(f"{few} there show{'' if of_group > 1 else 's'} the {name}: its IoU says little.")
    if len(data.test) < FEWEST_IMAGES:
        lines.append(f"No intervals are said of fewer than {FEWEST_IMAGES} images.")
    return lines


def describe_scene_bias(report: GroupReport, groups: ClassGroups) -> list[str]:
    """Whom a teacher favours, and how right it is."""
    total, scores = sum(report.images), report.answers.scores(groups)
    lines = []
    for name, share, pixels in zip(groups.names, report.probability, report.images, strict=True):
        iou = scores[f"{name}_iou"]
        said = "not measured" if iou is None else f"IoU {iou:.1%}"
        lines.append(
            f"{name:<8}gets {share:>6.1%} of its probability for {pixels / total:>6.1%} of the pixels, {said}"
        )
    lines.append(
        f"Its mean IoU over all classes is {scores['mean_iou']:.1%}, {scores['accuracy']:.1%} of the pixels are right."
    )
    last, name = report.favour[-1], groups.names[-1]
    if last is not None:
        lines.append(
            f"In probability the {name} gets {last:.0%} of its due"
            + (", but the IoU says better what is known of it." if last >= 0.8 else ": it is biased.")
        )
    return lines
