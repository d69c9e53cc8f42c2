"""Result lines in, the cells of an experiment's tables out; and what the paper has in the same cells."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from experiment import Experiment
from job import read_json_lines
from methods import FOLDER, default_arguments, with_values
from plan import Cell, Run, digest, plan, setting

from hf_ltkd.losses import LOSSES
from hf_ltkd.utils import read_json


PUBLISHED = yaml.safe_load((FOLDER / "published.yaml").read_text(encoding="utf-8"))

Line = dict[str, Any]


def read_results(path: Path) -> list[Line]:
    """The lines of a file; those of before, from `reproduce.py` and `sweep.py`, in the form of today."""
    lines = read_json_lines(path)
    if lines and "loss_args" in lines[0]:
        return _lines_of_old_sweep(path, lines)
    return [{"experiment": line["recipe"], **line} if "recipe" in line else line for line in lines]


def _lines_of_old_sweep(path: Path, lines: list[Line]) -> list[Line]:
    settings = read_json(path.with_name("settings.json"))  # what all runs of the folder share
    new = []
    for line in lines:
        loss, arguments = line["loss"], line["loss_args"]
        defaults = default_arguments(LOSSES.get(loss))
        others = [defaults, *(other["loss_args"] for other in lines if other["loss"] == loss)]
        named = {k: v for k, v in arguments.items() if any(k in other and other[k] != v for other in others)}
        run = {"role": "student", "model": settings.get("student", "student"), "loss": loss, "arguments": arguments}
        run |= {"seed": line["seed"], "teacher": None, "data": {}, "training": {}, "of": settings}
        where = {"experiment": f"{path.parent.name}/{path.stem}", "overrides": {}, "pair": run["model"], "run": run}
        where |= {"method": with_values(loss, named), "imbalance_factor": None}
        new.append({**line, **where, "evaluated_on": settings.get("evaluated_on")})
    return new


@dataclass(frozen=True)
class Outcome:
    """What the runs of a cell gave."""

    seeds: tuple[int, ...]  # of the runs that finished
    accuracy: dict[str, np.ndarray]  # by metric (head, medium, tail, all), in % and by seed; NaN without a test image
    failed: int  # runs whose loss was not finite


class Results:
    """
    The lines of one or more files; where two have the same run, the first counts. But a teacher that was trained again
    on another machine has other weights and is another teacher: both count.
    """

    def __init__(self, lines: list[Line]):
        self.all_lines = lines  # those with the speeds too
        first = {}
        for line in reversed([line for line in lines if "run" in line]):
            weights = line.get("teacher_fingerprint") if line["run"]["role"] == "teacher" else None
            first[digest(line["run"]), weights] = line
        self.lines = sorted(first.values(), key=lambda line: line["seed"])
        self._of_setting: dict[str, list[Line]] = {}
        for line in self.lines:
            self._of_setting.setdefault(setting(line["run"]), []).append(line)

    def of(self, run: Run) -> list[Line]:
        """The lines of a run with any seed and draw. All else is equal: no other protocol can come in."""
        return self._of_setting.get(setting(run), [])

    def outcome(self, run: Run) -> Outcome | None:
        lines = [line for line in self.of(run) if "metrics" in line]
        failed = sum("error" in line for line in self.of(run))
        if not lines and not failed:
            return None
        groups = [name for name in lines[0]["metrics"] if name != "accuracy"] if lines else []
        names = {**{name.removesuffix("_accuracy"): name for name in groups}, "all": "accuracy"}
        values = {name: [line["metrics"][key] for line in lines] for name, key in names.items()}
        accuracy = {name: 100 * np.array(column, dtype=float) for name, column in values.items()}  # None becomes NaN
        return Outcome(tuple(line["seed"] for line in lines), accuracy, failed)

    def grids(self, experiment: Experiment) -> list["Grid"]:
        """An experiment's own protocol, and each that was made of it by overriding training arguments."""
        protocols: list[dict[str, Any]] = [{}]
        for line in self.lines:
            if line["experiment"] == experiment.name and line["overrides"] not in protocols:
                protocols.append(line["overrides"])
        return [Grid(experiment, overrides, self) for overrides in protocols]

    def other_grids(self, known: set[str]) -> Iterator["Grid"]:
        """What was run by experiments whose files are not here, sweeps for example: the lines hold all of it."""
        for name in dict.fromkeys(line["experiment"] for line in self.lines if line["experiment"] not in known):
            lines = [line for line in self.lines[::-1] if line["experiment"] == name]  # as they were written
            for number, protocol in enumerate(dict.fromkeys(_protocol(line) for line in lines if line["pair"]), 1):
                cells: dict[tuple, Cell] = {}
                for line in lines:
                    if line["pair"] and _protocol(line) != protocol:
                        continue
                    *teacher, student = (line["pair"] or f"{line['run'].get('model')}:").split(":")
                    names = (teacher or [None])[0], student or None
                    cell = Cell(line["method"], *names, line["imbalance_factor"], line["seed"], line["run"])
                    while setting(cells.get(cell.place, cell).run) != setting(cell.run):
                        cell.method += " (other settings)"
                    cells.setdefault(cell.place, cell)
                students = sorted((cell for cell in cells.values() if cell.pair), key=_by_arguments)
                methods, pairs, factors = map(dict.fromkeys, zip(*(cell.place for cell in students), strict=True))
                file_name = name if number == 1 else f"{name}_{number}"
                experiment = Experiment(file_name, f"{name} {protocol}", [*pairs], methods, [*factors])
                yield Grid(experiment, {}, self, [*cells.values()])


def _protocol(line: Line) -> str:
    shared = {**line["run"]["data"], **line["run"].get("training", {})}
    return ", ".join(f"{name}={value}" for name, value in shared.items())


def _by_arguments(cell: Cell) -> tuple:
    return cell.run.get("loss", ""), [v for v in cell.run.get("arguments", {}).values() if type(v) in (int, float)]


class Grid:
    """
    The cells of an experiment in one protocol, without regard to seeds, and what filled them: those that it plans, and
    pairs and factors that were run beyond it; or `cells` alone, where its file is not there.
    """

    def __init__(
        self, experiment: Experiment, overrides: dict[str, Any], results: Results, cells: list[Cell] | None = None
    ):
        self.experiment, self.overrides, self.results = experiment, overrides, results
        self.pairs, self.factors = experiment.pairs, experiment.imbalance_factors
        self.methods, self.is_planned = [*experiment.methods], cells is None
        if cells is None:
            of_this = (experiment.name, overrides)
            lines = [line for line in results.lines if (line["experiment"], line["overrides"]) == of_this]
            pairs = [*self.pairs, *(line["pair"] for line in lines if line["pair"])]
            factors = [*map(float, self.factors), *(line["imbalance_factor"] for line in lines)]
            self.pairs, self.factors = [*dict.fromkeys(pairs)], [*dict.fromkeys(factors)]
            cells = plan(experiment, overrides, pairs=self.pairs, factors=self.factors, seeds=experiment.seeds[:1])
        self.cells = cells
        self._runs = {cell.place: cell.run for cell in cells}

    @property
    def is_papers(self) -> bool:
        """Whether this is the paper's protocol, as far as it is known."""
        return not self.overrides and self.experiment.paper == self.experiment.name

    @property
    def has_runs(self) -> bool:
        return any(self.lines(cell) for cell in self.students)

    @property
    def students(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.pair is not None]

    @property
    def teachers(self) -> list[str]:
        """`"Teacher"`, and those trained with another cross-entropy."""
        return [*dict.fromkeys(cell.method for cell in self.cells if cell.pair is None)]

    @property
    def is_held_out(self) -> bool:
        """Whether the accuracy is that of training images."""
        lines = (line for cell in self.students for line in self.lines(cell))
        return any("held-out" in (line.get("evaluated_on") or "") for line in lines)

    @property
    def name(self) -> str:
        """For files."""
        name = "_".join([self.experiment.name, *(f"{name}_{value}" for name, value in self.overrides.items())])
        return name.replace("/", "_")

    @property
    def metrics(self) -> list[str]:
        """The groups, most frequent first, and `all`."""
        outcomes = (self.results.outcome(cell.run) for cell in self.students)
        return next((o.accuracy for o in outcomes if o is not None and o.seeds), ["head", "medium", "tail", "all"])

    def lines(self, cell: Cell) -> list[Line]:
        return self.results.of(cell.run)

    def label(self, method: str) -> str:
        """The method, with what a search chose for it."""
        lines = (line for cell in self.students if cell.method == method for line in self.lines(cell))
        chosen = next((line["chosen"] for line in lines if "chosen" in line), None)
        return with_values(f"{method}:", chosen) if chosen else method

    def outcome(self, method: str, pair: str, factor: float) -> Outcome | None:
        run = self._runs.get((method, pair.split(":")[0] if method in self.teachers else pair, factor))
        return None if run is None else self.results.outcome(run)

    def means(self, methods: list[str], pair: str, factor: float, metric: str) -> dict[str, float]:
        """The mean accuracy of those methods that have one."""
        outcomes = {method: self.outcome(method, pair, factor) for method in methods}
        return {name: float(o.accuracy[metric].mean()) for name, o in outcomes.items() if o is not None and o.seeds}


def paper_accuracy(table: str, pair: str, factor: float, method: str) -> dict[str, float]:
    """What the paper has in a cell, by metric; empty if it has no such cell."""
    if table == "figure_5" and method == "ReviewKD":
        table = "table_1"  # the line to compare with (Sec. 4.4)
    published = PUBLISHED[table]
    if table == "figure_5":
        point = [*map(float, re.findall(r"\d+", method))]
        points = [p for p in published["points"] if [p["alpha"], p["beta"]] == point]
        return {name: p[name] for p in points for name in ("tail", "all") if name in p}
    factors = published.get("imbalance_factors") or [published["imbalance_factor"]]
    entry = next((p for p in published["pairs"] if f"{p['teacher']}:{p['student']}" == pair), None)
    if entry is None or factor not in factors:
        return {}
    if table == "table_6":
        accuracy = {f"{n} groups": value for n, value in zip(published["num_groups"], entry["accuracy"], strict=True)}
        return {"all": accuracy[method]} if method in accuracy else {}
    if table in ("table_4", "table_5"):
        values = entry.get(method.lower())
    else:
        values = entry["accuracy"][method][factors.index(factor)] if method in entry["accuracy"] else None
    return {} if values is None else dict(zip(("tail", "all"), values, strict=True))


def best_and_second(values: dict[str, float]) -> tuple[set[str], set[str]]:
    """The names of the highest and of the second-highest values, as printed with two decimals."""
    ranking = sorted({round(value, 2) for value in values.values()}, reverse=True)
    best, second = ({name for name, v in values.items() if round(v, 2) in ranking[i : i + 1]} for i in (0, 1))
    return best, second
