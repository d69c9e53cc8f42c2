"""Pictures of a teacher's bias and of what distillation gained per group."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from .groups import ClassGroups


# Okabe and Ito's colours, told apart with every kind of colour vision.
COLORS = ("#E69F00", "#009E73", "#0072B2", "#CC79A7", "#D55E00", "#56B4E9", "#999999")


def plot_teacher_bias(
    mass_balanced: Tensor, mass_long_tailed: Tensor, groups: ClassGroups, path: str | os.PathLike
) -> None:
    """
    Fig. 3: the teacher's group probabilities per batch, on balanced (solid) and long-tailed data (dotted).

    Args:
        mass_balanced, mass_long_tailed (`torch.Tensor` of shape `[batches, groups]`): From [`teacher_group_mass`].
        groups ([`ClassGroups`]): Their names go into the legend.
        path (`str` or `os.PathLike`): Where the picture goes; the ending chooses the format.
    """
    figure = _figure(7.5, 4.2)
    axes = figure.add_subplot()
    for group, name in enumerate(groups.names):
        color = COLORS[group % len(COLORS)]
        for mass, style, kind in ((mass_balanced, "-", "balanced"), (mass_long_tailed, ":", "long-tailed")):
            values = mass[:, group].numpy()
            label = f"{_plain(name)}, {kind} (mean {values.mean():.1f})"
            axes.plot(np.arange(1, len(values) + 1), values, style, color=color, marker=".", label=label)
    axes.set_xlabel("batch")
    axes.set_ylabel(f"sum of group probability, batch of {mass_balanced.sum(1).mean():.0f}")
    axes.set_title("The teacher's bias: probability it gives to each group")
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    _save(figure, path)


def plot_group_accuracy(
    results: Mapping[str, Mapping[str, Sequence[float]]], groups: ClassGroups, path: str | os.PathLike
) -> None:
    """
    Accuracy per group and over all classes, one bar a model, with the deviation over the seeds.

    Args:
        results (`Mapping`): Model name to metric name (`accuracy`, `tail_accuracy`, ...) to one fraction per seed.
        groups ([`ClassGroups`]): Their names and order.
        path (`str` or `os.PathLike`): Where the picture goes; the ending chooses the format.
    """
    metrics = [f"{name}_accuracy" for name in groups.names] + ["accuracy"]
    figure = _figure(7.5, 4.2)
    axes = figure.add_subplot()
    width = 0.8 / len(results)
    positions = np.arange(len(metrics))
    for rank, (model, values) in enumerate(results.items()):
        means = [100 * np.mean(values[metric]) for metric in metrics]
        deviations = [100 * np.std(values[metric]) for metric in metrics]
        bars = axes.bar(
            positions + (rank - (len(results) - 1) / 2) * width,
            means,
            width * 0.92,
            yerr=deviations,
            capsize=2,
            color=COLORS[::-1][rank % len(COLORS)],
            label=_plain(model),
        )
        axes.bar_label(bars, fmt="%.0f", fontsize=8, padding=2)
    axes.set_xticks(positions, [*map(_plain, groups.names), "all classes"])
    axes.set_ylabel("test accuracy (%)")
    axes.set_ylim(0, 105)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=len(results), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def plot_class_accuracy(
    results: Mapping[str, Sequence[float | None]], groups: ClassGroups, path: str | os.PathLike
) -> None:
    """
    Accuracy of each class over its rank by training count, and its running mean; lines part the groups.

    Args:
        results (`Mapping`): Model name to one fraction per class id, `None` for a class without a test example.
        groups ([`ClassGroups`]): With `class_counts` the classes are ranked by them within each group.
        path (`str` or `os.PathLike`): Where the picture goes; the ending chooses the format.

    Raises:
        `ValueError`: if a model has another number of classes than the groups.
    """
    counts = np.asarray(groups.class_counts or [0] * groups.num_classes)
    group_of_class = groups.group_of_class.numpy()
    ranking = np.lexsort((np.arange(len(counts)), -counts, group_of_class))
    ranks = np.arange(1, len(counts) + 1)
    window = max(1, len(counts) // 10)
    figure = _figure(7.5, 4.2)
    axes = figure.add_subplot()
    for index, (model, values) in enumerate(results.items()):
        if len(values) != len(counts):
            raise ValueError(
                f"{model!r} has the accuracy of {len(values)} classes, the groups are of {len(counts)}: give one "
                "fraction per class id."
            )
        accuracy = 100 * np.array(values, dtype=float)[ranking]  # None becomes NaN
        known = ~np.isnan(accuracy)
        color = COLORS[::-1][index % len(COLORS)]
        axes.plot(ranks[known], accuracy[known], "o", color=color, markersize=3, alpha=0.5)
        near = np.abs(ranks[:, None] - ranks) <= window / 2
        means = (near[:, known] * accuracy[known]).sum(1) / near[:, known].sum(1).clip(1)
        axes.plot(ranks[known], means[known], color=color, label=_plain(model))
    for edge in np.flatnonzero(np.diff(group_of_class[ranking])):
        axes.axvline(edge + 1.5, color="0.7", linewidth=0.8)
    for group, name in enumerate(groups.names):
        middle = ranks[group_of_class[ranking] == group].mean()
        axes.text(middle, 104, _plain(name), ha="center", color="0.4", fontsize=9)
    axes.set_xlabel("class, most frequent first" if groups.class_counts else "class, by group")
    axes.set_ylabel("test accuracy (%)")
    axes.set_ylim(-3, 112)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=len(results), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _plain(text: str) -> str:
    """A name as it is: no formula between dollar signs, and not left out of the legend for an underscore before it."""
    return ("\u200b" if text.startswith("_") else "") + text.replace("$", r"\$")


def _figure(width: float, height: float) -> Figure:
    # Not pyplot: a library must not touch the caller's backend or open figures.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | os.PathLike) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished-{os.getpid()}-{path.name}")
    figure.savefig(unfinished, dpi=150)
    os.replace(unfinished, path)
