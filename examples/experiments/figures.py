"""The pictures of the report."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from methods import default_arguments
from pages import arrow
from plan import Cell
from results import Grid, Line

from hf_ltkd import ClassGroups
from hf_ltkd.analysis.plots import COLORS, plot_sensitivity, plot_teacher_bias
from hf_ltkd.losses import LOSSES
from hf_ltkd.utils import replacing


def draw_group_mass(grid: Grid, cell: Cell, line: Line, folder: Path) -> list[Path]:
    """Fig. 3, one picture a temperature."""
    paths = []
    for temperature, sums in line["group_mass"].items():
        name = f"{grid.name}_{cell.teacher}_{cell.imbalance_factor:g}_{temperature.replace(' ', '_')}.png"
        masses = (torch.tensor(sums[data]) for data in ("balanced", "long_tailed"))
        plot_teacher_bias(*masses, groups_of(grid), folder / name)
        paths.append(folder / name)
    return paths


def draw_group_losses(losses: dict[str, dict[str, Any]], grid: Grid, factor: float, folder: Path) -> Path:
    """Fig. 4: a panel a group, a line a method; above the KL within the group, below that of the group's images."""
    figure = _figure(10, 6)
    panels = figure.subplots(2, 3, squeeze=False)
    for row, (key, title) in enumerate({"within": "KL within the group", "by_label": "KL of its images"}.items()):
        for column, group in enumerate(("head", "medium", "tail")):
            axes = panels[row, column]
            for color, (method, values) in zip(COLORS, losses.items(), strict=False):
                curve = np.array(values[key])[:, column]
                axes.plot(range(1, len(curve) + 1), curve, color=color, label=method)
            axes.set(xlabel="epoch", ylabel="KL", ylim=(0, None))
            axes.set_title(f"{group}: {title}", fontsize=10)
            axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return _save(figure, folder / f"{grid.name}_{factor:g}.png")


def draw_sensitivity(grid: Grid, folder: Path) -> list[Path]:
    """Fig. 5, as soon as two runs of a loss share alpha or beta; once for each choice of its other arguments."""
    paths = []
    for pair, factor in itertools.product(grid.pairs, grid.factors):
        curves: dict[str, dict[tuple[float, float], dict[str, Any]]] = {}
        baselines = {}
        for cell in grid.students:
            outcome = grid.results.outcome(cell.run)
            if (cell.pair, cell.imbalance_factor) != (pair, factor) or outcome is None or not outcome.seeds:
                continue
            names = {name: "accuracy" if name == "all" else f"{name}_accuracy" for name in outcome.accuracy}
            values = {names[name]: accuracy / 100 for name, accuracy in outcome.accuracy.items()}
            others = default_arguments(LOSSES.get(cell.run["loss"])) | cell.run["arguments"]
            if "alpha" in others and "beta" in others:
                point = others.pop("alpha"), others.pop("beta")
                curves.setdefault(f"{cell.run['loss']} {others}", {})[point] = values
            else:
                baselines[cell.method] = values
        lines = [c for c in curves.values() if any(len({*axis}) < len(c) for axis in zip(*c, strict=True))]
        where = [grid.name, *([pair.replace(":", "_").replace("/", "_")] if len(grid.pairs) > 1 else [])]
        where += [] if factor is None else [f"{factor:g}"]
        for number, points in enumerate(lines, 1):
            path = folder / f"{'_'.join([*where, *([str(number)] if len(lines) > 1 else [])])}.png"
            plot_sensitivity(points, groups_of(grid), path, baselines=baselines)
            paths.append(path)
    return paths


def draw_overview(grid: Grid, pair: str, factor: float, folder: Path) -> Path:
    """Tail and all classes with the sample deviation over the seeds (their number), ordered by all classes."""
    means = grid.means(grid.methods, pair, factor, "all")
    ranking = sorted(means, key=means.__getitem__)
    outcomes = [grid.outcome(method, pair, factor) for method in ranking]
    figure = _figure(8, 1.4 + 0.27 * len(ranking))
    axes = figure.add_subplot()
    for metric, color, marker, label in (("tail", COLORS[4], "o", "tail"), ("all", COLORS[2], "s", "all classes")):
        values = [outcome.accuracy[metric] for outcome in outcomes]
        deviations = [v.std(ddof=1) if len(v) > 1 else 0.0 for v in values]
        axes.errorbar(
            [v.mean() for v in values], range(len(ranking)), xerr=deviations, fmt=marker, color=color, label=label
        )
    labels = [f"{method} ({len(o.seeds)})" for method, o in zip(ranking, outcomes, strict=True)]
    axes.set_yticks(range(len(ranking)), labels)
    axes.set_xlabel("test accuracy (%)")
    title = f"{grid.experiment.title}{f', imbalance factor {factor:g}' * (factor != 1)}"
    figure.suptitle(f"{title}\n{arrow(pair)}" if len(grid.pairs) > 1 else title, fontsize=10)
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    name = [grid.name, *([pair.replace(":", "_").replace("/", "_")] if len(grid.pairs) > 1 else []), f"{factor:g}"]
    return _save(figure, folder / f"{'_'.join(name)}.png")


def groups_of(grid: Grid) -> ClassGroups:
    """One class a group: the pictures take the names alone."""
    names = [name for name in grid.metrics if name != "all"]
    return ClassGroups([*range(len(names))], names)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")
    return path
