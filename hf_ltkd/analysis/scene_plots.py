"""Pictures of segmentations: images, their masks, and what models see in them."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.patches import Patch

from ..groups import ClassGroups
from .plots import _figure, _plain, _save


MOST_IN_LEGEND = 40  # classes; those with the most pixels in the picture


def class_colors(groups: ClassGroups) -> np.ndarray:
    """A colour for each class, `[classes, 3]` uint8: neighbours by frequency differ."""
    name = "tab20" if groups.num_classes <= 20 else "nipy_spectral"
    picked: Any = np.arange(groups.num_classes) if name == "tab20" else np.linspace(0.05, 0.95, groups.num_classes)
    colors = np.rint(255 * colormaps[name](picked)[:, :3]).astype(np.uint8)
    ranking = np.argsort(-np.asarray(groups.class_counts or [0] * groups.num_classes), kind="stable")
    placed = np.empty_like(colors)
    placed[ranking] = colors
    return placed


def plot_scenes(
    scenes: Sequence[Mapping[str, np.ndarray]],
    groups: ClassGroups,
    class_names: Sequence[str],
    path: str | os.PathLike,
    *,
    notes: Sequence[str] | None = None,
) -> None:
    """
    A row for each scene, and a legend of the classes by group, the most frequent first.

    Args:
        scenes (`Sequence[Mapping]`): By the title of a column an image (uint8 `[height, width, 3]`), or class ids
            (int `[height, width]`, -1 where there is none, which is black); the same columns in each.
        groups ([`ClassGroups`]): The groups of the classes.
        class_names (`Sequence[str]`): By class id.
        path (`str` or `os.PathLike`): Where the picture goes; the ending chooses the format.
        notes (`Sequence[str]`, *optional*): What is said of each row, at its left.
    """
    titles, colors = [*scenes[0]], class_colors(groups)
    height, width = next(iter(scenes[0].values())).shape[:2]
    cell = 2.6
    figure = _figure(cell * len(titles) + 0.4, cell * len(scenes) * height / width + 1.6)
    panels = figure.subplots(len(scenes), len(titles), squeeze=False)
    shown = np.zeros(groups.num_classes, int)
    for row, scene in enumerate(scenes):
        for column, (title, picture) in enumerate(scene.items()):
            if picture.ndim == 2:
                shown += np.bincount(picture[picture >= 0], minlength=groups.num_classes)
                picture = np.where(picture[..., None] < 0, 0, colors[picture]).astype(np.uint8)
            axes = panels[row, column]
            axes.imshow(picture)
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title(_plain(title), fontsize=10)
            if column == 0 and notes:
                axes.set_ylabel(_plain(notes[row]), fontsize=8)
    told = {*np.argsort(-shown, kind="stable")[:MOST_IN_LEGEND].tolist()}
    counts = np.asarray(groups.class_counts or [0] * groups.num_classes)
    order = [c for c in np.lexsort((-counts, groups.group_of_class.numpy())) if shown[c] and c in told]
    handles = [
        Patch(color=colors[c] / 255, label=_plain(f"{class_names[c]} ({groups.names[int(groups.group_of_class[c])]})"))
        for c in order
    ]
    columns = min(len(handles), max(1, int(figure.get_figwidth() / 1.8)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    _save(figure, path)
