"""What sweep.py keeps in its folder, and the table and pictures that it makes of it."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from hf_ltkd import ClassGroups, create_loss
from hf_ltkd.plots import plot_sensitivity


Run = dict[str, Any]  # loss, loss_args (all that are in force) and seed; with what came out, a line of results.jsonl


def report(folder: Path) -> None:
    """Writes and prints the tables of what is in the folder, and draws Fig. 5."""
    settings = read_settings(folder)
    if settings is None:
        raise ValueError(f"There is no sweep in {str(folder)!r}: give the --output_dir that one was started with.")
    groups = ClassGroups.from_dict(settings["groups"])
    advice = "The teacher may have been trained on these images: choose by them, and report the choice on test images."
    if settings["evaluated_on"].endswith("test images"):
        advice = "To choose a setting without the test images, sweep another folder with --evaluate_on validation."
    for source, target in (("results.jsonl", "table.md"), ("search.jsonl", "search.md")):
        lines = read_lines(folder / source)
        if lines:
            title = (
                f"Accuracy (%) of {settings['student']} on {settings['evaluated_on']}, mean ± deviation over the seeds"
            )
            text = "\n".join([f"{title}; **best**, *second best*.", "", *table(lines, groups), "", advice])
            write_text(folder / target, text + "\n")
            print(f"\n{text}\n\n{folder / target}", flush=True)
    draw_sensitivity(read_lines(folder / "results.jsonl"), groups, folder)


def table(lines: list[Run], groups: ClassGroups) -> list[str]:
    """A Markdown table with a row a setting."""
    settings = by_setting(lines, groups)
    columns = {**{name: f"{name}_accuracy" for name in groups.names}, "all": "accuracy"}
    rows = [[name, str(len(some))] for name, some in settings.items()]
    for metric in columns.values():
        values = [100 * np.array([line["metrics"][metric] for line in some]) for some in settings.values()]
        ranking = sorted({f"{v.mean():.1f}" for v in values}, key=float, reverse=True)
        marks = dict(zip(ranking, ("**", "*"), strict=False)) if len(settings) > 1 else {}
        for row, v in zip(rows, values, strict=True):
            mark, deviation = marks.get(f"{v.mean():.1f}", ""), f" ± {v.std():.1f}" if len(v) > 1 else ""
            row.append(f"{mark}{v.mean():.1f}{deviation}{mark}")
    head = [["loss", "seeds", *columns], ["---"] * (2 + len(columns))]
    return [f"| {' | '.join(row)} |" for row in head + rows]


def draw_sensitivity(lines: list[Run], groups: ClassGroups, folder: Path) -> None:
    """Fig. 5 of each loss whose alpha and beta were varied, once for each choice of its other arguments."""
    curves: dict[str, dict] = {}
    names = {}
    for name, some in by_setting(lines, groups).items():
        others = dict(some[0]["loss_args"])
        point = (others.pop("alpha"), others.pop("beta")) if {"alpha", "beta"} <= others.keys() else ()
        key = " ".join([some[0]["loss"], *map(short, others.values())])
        values = {metric: [line["metrics"][metric] for line in some] for metric in some[0]["metrics"]}
        curves.setdefault(key, {})[point] = values
        names[key] = name
    baselines = {names[key]: [*curve.values()][0] for key, curve in curves.items() if len(curve) == 1}
    drawn = [curve for curve in curves.values() if any(len({*axis}) < len(curve) for axis in zip(*curve, strict=True))]
    for number, curve in enumerate(drawn, 1):
        path = folder / ("sensitivity.png" if len(drawn) == 1 else f"sensitivity_{number}.png")
        plot_sensitivity(curve, groups, path, baselines=baselines)
        print(path)


def by_setting(lines: list[Run], groups: ClassGroups) -> dict[str, list[Run]]:
    """The runs of each setting by its name, ordered by loss and values."""

    def order(line: Run) -> tuple:
        return line["loss"], [value for value in line["loss_args"].values() if type(value) in (int, float)]

    settings: dict[str, list[Run]] = {}
    for line in sorted(lines, key=order):
        settings.setdefault(describe_setting(line, lines, groups), []).append(line)
    return settings


def describe_setting(run: Run, runs: list[Run], groups: ClassGroups) -> str:
    """The loss, and those of its arguments that are not its defaults or not the same in all runs of it."""
    defaults = as_json(create_loss(run["loss"], groups).hyper_parameters())
    tried = [other["loss_args"] for other in runs if other["loss"] == run["loss"]]
    shown = {
        name: value
        for name, value in run["loss_args"].items()
        if value != defaults[name] or any(args[name] != value for args in tried)
    }
    return " ".join([run["loss"], *(f"{name}={short(value)}" for name, value in shown.items())])


def short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def as_json(values: Any) -> Any:
    """As it will be read back: lists for tuples."""
    return json.loads(json.dumps(values))


def read_settings(folder: Path) -> dict[str, Any] | None:
    path = folder / "settings.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def read_lines(path: Path) -> list[Run]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def missing_runs(folder: Path, runs: list[Run]) -> list[Run]:
    lines = read_lines(folder / "results.jsonl")
    done = [{name: line[name] for name in ("loss", "loss_args", "seed")} for line in lines]
    return [run for run in runs if run not in done]


def write_text(path: Path, text: str) -> None:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
