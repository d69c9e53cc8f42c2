"""Pictures of a teacher's bias and of what distillation gained per group."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from torch import Tensor

from ..groups import ClassGroups
from ..utils import replacing
from .bias import GroupReport


# Okabe and Ito's colours, told apart with every kind of colour vision.
COLORS = ("#E69F00", "#009E73", "#0072B2", "#CC79A7", "#D55E00", "#56B4E9", "#999999")


def plot_teacher_bias(
    mass_balanced: Tensor,
    mass_long_tailed: Tensor,
    groups: ClassGroups,
    path: str | os.PathLike,
    *,
    loss_shares: Mapping[str, Sequence[float]] | None = None,
    of_pixels: GroupReport | None = None,
) -> None:
    """
    Fig. 3: the teacher's group probabilities per batch, on balanced (solid) and long-tailed data (dotted).

    Args:
        mass_balanced, mass_long_tailed (`torch.Tensor` of shape `[batches, groups]`): From [`teacher_group_mass`].
        groups ([`ClassGroups`]): Their names go into the legend.
        path (`str` or `os.PathLike`): Where the picture goes; the ending chooses the format.
        loss_shares (`Mapping`, *optional*): Loss name to what part of it is cross-group and within each group, from
            [`LossParts`]: a bar each, below.
        of_pixels ([`GroupReport`], *optional*): Of a model that gives each pixel a class, its answers to the first
            images: probabilities are then drawn as parts of a batch's pixels, beside the part that each group has of
            the first images' pixels (dashed), and below the IoU of each group.
    """
    heights = [4.2, *[1.2] * (of_pixels is not None), *[1.6] * (loss_shares is not None)]
    figure = _figure(7.5, sum(heights) + 0.4 * (len(heights) - 1))
    axes = [*figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]]
    masses = (mass_balanced, mass_long_tailed)
    if of_pixels is None:
        _draw_mass(axes[0], masses, groups)
    else:
        percent = [100 * mass / mass.sum(1, keepdim=True).clamp_min(1) for mass in masses]
        _draw_mass(axes[0], percent, groups, ("evaluation", "training"))
        due = 100 * np.array(of_pixels.images) / sum(of_pixels.images)
        for group, part in enumerate(due):
            axes[0].axhline(part, color=COLORS[group % len(COLORS)], linestyle="--", linewidth=1)
        drawn = np.concatenate([due, *(mass.flatten() for mass in percent)])
        axes[0].set_yscale("log")
        axes[0].set_ylim(drawn[drawn > 0].min() / 1.5, 120)
        _plain_logs(axes[0].yaxis)
        axes[0].set_ylabel("part of a batch's pixels (%)")
        axes[0].set_title("Probability of each group (dashed: its pixels)")
        _draw_iou(axes[1], of_pixels.answers.scores(groups), groups)
    if loss_shares is not None:
        _draw_shares(axes[-1], loss_shares, groups)
    _save(figure, path)


def _draw_iou(axes: Axes, scores: Mapping[str, float | None], groups: ClassGroups) -> None:
    values = [scores[f"{name}_iou"] for name in groups.names]
    colors = [COLORS[group % len(COLORS)] for group in range(groups.num_groups)]
    bars = axes.barh([*map(_plain, groups.names)], [100 * (iou or 0) for iou in values], color=colors)
    axes.bar_label(bars, ["not measured" if iou is None else f"{100 * iou:.1f}" for iou in values], padding=3)
    axes.set_xlim(0, 110)
    axes.invert_yaxis()
    axes.set_xlabel("IoU (%)")
    axes.set_title("How right it is: mean over the classes of a group")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_mass(
    axes: Axes, masses: Sequence[Tensor], groups: ClassGroups, kinds: Sequence[str] = ("balanced", "long-tailed")
) -> None:
    for group, name in enumerate(groups.names):
        color = COLORS[group % len(COLORS)]
        for mass, style, kind in zip(masses, "-:", kinds, strict=True):
            values = mass[:, group].numpy()
            label = f"{_plain(name)}, {kind} (mean {values.mean():.1f})"
            axes.plot(np.arange(1, len(values) + 1), values, style, color=color, marker=".", label=label)
    axes.set_xlabel("batch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(f"sum of group probability, batch of {masses[0].sum(1).mean():.0f}")
    axes.set_title("The teacher's bias: probability it gives to each group")
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _draw_shares(axes: Axes, loss_shares: Mapping[str, Sequence[float]], groups: ClassGroups) -> None:
    parts = [("between groups", "#999999")]
    parts += [(f"within {_plain(name)}", COLORS[group % len(COLORS)]) for group, name in enumerate(groups.names)]
    names, table = [_plain(name) for name in loss_shares], 100 * np.array(list(loss_shares.values()))
    left = np.zeros(len(names))
    for values, (label, color) in zip(table.T, parts, strict=True):
        bars = axes.barh(names, values, left=left, color=color, label=label)
        numbers = [f"{value:.0f}" if value >= 3 else "" for value in values]
        axes.bar_label(bars, numbers, label_type="center", color="w")
        left += values
    axes.set_xlim(0, 100)
    axes.invert_yaxis()
    axes.set_xlabel("part of the loss (%)")
    axes.set_title("Where the loss of a student goes")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def plot_group_accuracy(
    results: Mapping[str, Mapping[str, Sequence[float]]],
    groups: ClassGroups,
    path: str | os.PathLike,
    *,
    metrics: Sequence[str] | None = None,
    what: str = "accuracy",
) -> None:
    """
    Accuracy per group and over all classes, one bar a model, with the deviation over the seeds if there are several.

    Args:
        results (`Mapping`): Model name to metric name (`accuracy`, `tail_accuracy`, ...) to one fraction per seed.
        groups ([`ClassGroups`]): Their names and order.
        path (`str` or `os.PathLike`): Where the picture goes; the ending chooses the format.
        metrics (`Sequence[str]`, *optional*): Names of other metrics, one a group and one over all classes.
        what (`str`, *optional*, defaults to `"accuracy"`): What they measure.
    """
    metrics = metrics or [f"{name}_accuracy" for name in groups.names] + ["accuracy"]
    figure = _figure(7.5, 4.2)
    axes = figure.add_subplot()
    width = 0.8 / len(results)
    positions = np.arange(len(metrics))
    for rank, (model, values) in enumerate(results.items()):
        means = [100 * np.mean(values[metric]) for metric in metrics]
        seeds = max(len(values[metric]) for metric in metrics)
        deviations = [100 * sample_deviation(values[metric]) for metric in metrics] if seeds > 1 else None
        center, color = positions + (rank - (len(results) - 1) / 2) * width, COLORS[::-1][rank % len(COLORS)]
        bars = axes.bar(center, means, width * 0.92, yerr=deviations, capsize=2, color=color, label=_plain(model))
        axes.bar_label(bars, fmt="%.0f", fontsize=8 if len(results) < 6 else 7, padding=2)
    axes.set_xticks(positions, [*map(_plain, groups.names), "all classes"])
    axes.set_ylabel(f"test {what} (%)")
    axes.set_ylim(0, 105)
    _legend_below(figure, results)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def plot_class_accuracy(
    results: Mapping[str, Sequence[float | None]],
    groups: ClassGroups,
    path: str | os.PathLike,
    *,
    what: str = "accuracy",
) -> None:
    """
    Accuracy of each class over its rank by training count, and its running mean; lines part the groups.

    Args:
        results (`Mapping`): Model name to one fraction per class id, `None` for a class without a test example.
        groups ([`ClassGroups`]): With `class_counts` the classes are ranked by them within each group.
        path (`str` or `os.PathLike`): Where the picture goes; the ending chooses the format.
        what (`str`, *optional*, defaults to `"accuracy"`): What the fractions measure.

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
    axes.set_ylabel(f"test {what} (%)")
    axes.set_ylim(-3, 112)
    _legend_below(figure, results)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def plot_confusion(
    confusion: np.ndarray, names: Sequence[str], path: str | os.PathLike, *, of: str = "images"
) -> None:
    """
    Which classes (rows) are taken for which (columns): of each class's images the part, and up to 20 classes their
    number, too.

    Args:
        confusion (`np.ndarray` of shape `[classes, classes]`): Images of a class (row) that are taken for another.
        names (`Sequence[str]`): By class id.
        path (`str` or `os.PathLike`): Where the picture goes; the ending chooses the format.
        of (`str`, *optional*, defaults to `"images"`): What the numbers count.
    """
    size = max(4.0, 0.22 * len(names) + 2.5)
    figure = _figure(size, size)
    axes = figure.add_subplot()
    parts = confusion / confusion.sum(1, keepdims=True).clip(1)
    axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= 20:
        size = min(8.0, 20 / len(str(confusion.max())))
        for row, column in zip(*confusion.nonzero(), strict=True):
            color = "white" if parts[row, column] > 0.5 else "black"
            axes.text(column, row, confusion[row, column], ha="center", va="center", color=color, fontsize=size)
    labels = [_plain(name if len(name) <= 24 else f"{name[:23]}…") for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), labels, fontsize=8)
    axes.set_xlabel(f"is taken for\n(the darker, the more of the class's {of})")
    axes.set_ylabel("class")
    _save(figure, path)


def plot_tuning(
    trials: Sequence[Mapping[str, Any]], space: Mapping[str, Sequence[float]], chosen: int, path: str | os.PathLike
) -> None:
    """
    A search of a loss's arguments: how each trial went, and below over each argument where it ended.

    Args:
        trials (`Sequence[Mapping]`): Of each trial its `number`, its `arguments`, and its `curve` of
            `[step, objective]`, a fraction; the first is where the search began.
        space (`Mapping`): By argument the ends between which it was chosen.
        chosen (`int`): The number of the trial that was chosen.
        path (`str` or `os.PathLike`): Where the picture goes; the ending chooses the format.
    """
    figure = _figure(7.5, 6.6)
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.1, 1])
    above, below = parts
    curves, panels = above.add_subplot(), below.subplots(1, len(space), sharey=True, squeeze=False)[0]
    whole = max((len(trial["curve"]) for trial in trials), default=0)
    for trial in sorted(trials, key=lambda trial: trial["number"] == chosen):  # the chosen one on top
        if not trial["curve"]:
            continue
        steps, values = np.array(trial["curve"]).T * [[1], [100]]
        color, label = "#999999" if len(values) == whole else "#CCCCCC", None
        if trial["number"] == 0:
            color, label = "#0072B2", "first"
        if trial["number"] == chosen:
            color, label = "#D55E00", "chosen" if label is None else "first, and chosen"
        curves.plot(steps, values, color=color, label=label, marker=".", linewidth=1 if label is None else 2)
        for axes, name in zip(panels, space, strict=True):
            fill = color if len(values) == whole else "white"
            axes.plot(trial["arguments"][name], values[-1], "o", color=color, markerfacecolor=fill)
    curves.set_xlabel("optimizer steps")
    curves.set_title("Trials: a line that ends early was stopped")
    curves.legend(frameon=False)
    for axes, (name, ends) in zip(panels, space.items(), strict=True):
        axes.set_xscale("log")
        axes.set_xlim(ends[0] / 1.15, ends[1] * 1.15)
        _plain_logs(axes.xaxis)
        axes.set_xlabel(_plain(name))
    for axes in (curves, panels[0]):
        axes.set_ylabel("validation accuracy,\nmean over groups (%)")
    for axes in (curves, *panels):
        axes.spines[["top", "right"]].set_visible(False)
    below.suptitle("Where they ended (white: stopped early)", fontsize="large")
    _save(figure, path)


def plot_sensitivity(
    results: Mapping[tuple[float, float], Mapping[str, Sequence[float]]],
    groups: ClassGroups,
    path: str | os.PathLike,
    *,
    baselines: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> None:
    """
    Fig. 5: accuracy over `alpha` with `beta` fixed and over `beta` with `alpha` fixed, of all classes and of the last
    group, with the deviation over the seeds. Below, where every `alpha` met every `beta`, both as maps.

    As in the paper, `alpha` is varied first: `beta` is fixed where the most values of `alpha` were tried, at the
    smallest of these; then `alpha` where the most values of `beta` were tried, at the most accurate of these.

    Args:
        results (`Mapping`):
            `(alpha, beta)` to metric name (`accuracy`, `tail_accuracy`, ...) to one fraction per seed.
        groups ([`ClassGroups`]): The name of the last group.
        path (`str` or `os.PathLike`): Where the picture goes; the ending chooses the format.
        baselines (`Mapping`, *optional*): Other models to compare with, as in [`plot_group_accuracy`].

    Raises:
        `ValueError`: if no two results share `alpha` or `beta`.
    """
    alphas, betas = (sorted({point[axis] for point in results}) for axis in (0, 1))
    lines = _sensitivity_lines(results, alphas, betas)
    is_grid = len(results) == len(alphas) * len(betas) and min(len(alphas), len(betas)) > 1
    figure = _figure(9, 7.6 if is_grid else 4)
    panels = figure.subplots(2 if is_grid else 1, 2, squeeze=False)
    metrics = {"accuracy": "all classes", f"{groups.names[-1]}_accuracy": _plain(groups.names[-1])}
    for column, (metric, name) in enumerate(metrics.items()):
        axes = panels[0, column]
        handles: list[Any] = []
        for color, (label, line) in zip(("#0072B2", "#D55E00"), lines.items(), strict=False):
            values = [100 * np.array(results[point][metric]) for point in line.values()]
            deviations = [sample_deviation(v) for v in values] if max(map(len, values)) > 1 else None
            means = [v.mean() for v in values]
            handles.append(axes.errorbar([*line], means, deviations, color=color, marker="o", capsize=3, label=label))
        for index, (model, accuracy) in enumerate((baselines or {}).items()):
            color = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")[index % 5]
            height = 100 * np.mean(accuracy[metric])
            handles.append(axes.axhline(height, color=color, linestyle="--", label=_plain(model)))
        axes.set_xlabel(r"$\alpha$ or $\beta$")
        axes.set_ylabel("accuracy (%)")
        axes.set_title(name)
        axes.spines[["top", "right"]].set_visible(False)
        if is_grid:
            table = np.array([[100 * np.mean(results[a, b][metric]) for b in betas] for a in alphas])
            _draw_map(panels[1, column], table, alphas, betas)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    _save(figure, path)


def _sensitivity_lines(
    results: Mapping[tuple[float, float], Mapping[str, Sequence[float]]], alphas: list[float], betas: list[float]
) -> dict[str, dict[float, tuple[float, float]]]:
    """The curves of Fig. 5 by their label: the value that varies to its `(alpha, beta)`."""
    mean = {point: float(np.mean(values["accuracy"])) for point, values in results.items()}
    beta = max(betas, key=lambda beta: (sum((a, beta) in mean for a in alphas), -beta))
    alpha = max(alphas, key=lambda alpha: (sum((alpha, b) in mean for b in betas), mean.get((alpha, beta), -1.0)))
    lines = {
        rf"$\alpha$ varied, $\beta$ = {beta:g}": {a: (a, beta) for a in alphas if (a, beta) in mean},
        rf"$\beta$ varied, $\alpha$ = {alpha:g}": {b: (alpha, b) for b in betas if (alpha, b) in mean},
    }
    lines = {label: line for label, line in lines.items() if len(line) > 1}
    if not lines:
        raise ValueError(
            f"No two of the {len(results)} results share alpha or beta, so that there is no line to draw: vary one of "
            "them while the other stays the same."
        )
    return lines


def _draw_map(axes: Axes, means: np.ndarray, alphas: list[float], betas: list[float]) -> None:
    """Means of shape `[alphas, betas]`, each written into its field."""
    axes.imshow(means, cmap="cividis", origin="lower", aspect="auto")
    for row, column in np.ndindex(means.shape):
        color = "black" if means[row, column] > (means.min() + means.max()) / 2 else "white"
        axes.text(column, row, f"{means[row, column]:.1f}", ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(len(betas)), [f"{beta:g}" for beta in betas])
    axes.set_yticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    axes.set_xlabel(r"$\beta$")
    axes.set_ylabel(r"$\alpha$")


def sample_deviation(values: Sequence[float] | np.ndarray) -> float:
    """The sample standard deviation (divided by n - 1); 0 of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _plain(text: str) -> str:
    """A name as it is: no formula between dollar signs, and not left out of the legend for an underscore before it."""
    return ("\u200b" if text.startswith("_") else "") + text.replace("$", r"\$")


def _plain_logs(axis: Axis) -> None:
    """Numbers at 1, 2 and 5 of each power of ten, as they are: no powers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _legend_below(figure: Figure, names: Collection[str]) -> None:
    """A legend under the axes, in as many columns as the longest of `names` leaves room for."""
    columns = int(figure.get_figwidth() / (0.5 + 0.085 * max(map(len, names))))  # inches: a handle, a letter
    figure.legend(loc="outside lower center", ncols=min(max(1, columns), len(names)), frameon=False)


def _figure(width: float, height: float) -> Figure:
    # Not pyplot: a library must not touch the caller's backend or open figures.
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: str | os.PathLike) -> None:
    with replacing(path) as file:
        figure.savefig(file, dpi=150, format=Path(path).suffix[1:] or "png")
