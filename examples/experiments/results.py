"""Result lines in, the cells of a recipe's tables out; and what the paper has in the same cells."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from recipes import FOLDER, Cell, Recipe, Run, digest, plan


PUBLISHED = yaml.safe_load((FOLDER / "published.yaml").read_text(encoding="utf-8"))
METRICS = {"head": "head_accuracy", "medium": "medium_accuracy", "tail": "tail_accuracy", "all": "accuracy"}

Line = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """
    What the runs of a cell gave.

    Attributes:
        seeds (`tuple[int]`): Of the runs that finished.
        accuracy (`dict[str, numpy.ndarray]`): By metric (`head`, `medium`, `tail`, `all`), in % and by seed.
        failed (`int`): Runs whose loss was not finite.
    """

    seeds: tuple[int, ...]
    accuracy: dict[str, np.ndarray]
    failed: int


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
            self._of_setting.setdefault(digest({**line["run"], "seed": None}), []).append(line)

    def of(self, run: Run) -> list[Line]:
        """The lines of a run with any seed. All else is equal: no other protocol can come in."""
        return self._of_setting.get(digest({**run, "seed": None}), [])

    def outcome(self, run: Run) -> Outcome | None:
        lines = [line for line in self.of(run) if "metrics" in line]
        failed = sum("error" in line for line in self.of(run))
        if not lines and not failed:
            return None
        accuracy = {name: np.array([100 * line["metrics"][key] for line in lines]) for name, key in METRICS.items()}
        return Outcome(tuple(line["seed"] for line in lines), accuracy, failed)

    def grids(self, recipe: Recipe) -> list["Grid"]:
        """A recipe's own protocol, and each that was made of it by overriding training arguments."""
        protocols: list[dict[str, Any]] = [{}]
        for line in self.lines:
            if line["recipe"] == recipe["name"] and line["overrides"] not in protocols:
                protocols.append(line["overrides"])
        return [Grid(recipe, overrides, self) for overrides in protocols]


class Grid:
    """
    The cells of a recipe in one protocol, without regard to seeds, and what filled them.

    Attributes:
        cells (`list[Cell]`): Those of the recipe, then pairs and factors that were run beyond it.
        pairs, factors, methods (`list`): Of the students.
    """

    def __init__(self, recipe: Recipe, overrides: dict[str, Any], results: Results):
        self.recipe, self.overrides, self.results = recipe, overrides, results
        lines = [line for line in results.lines if (line["recipe"], line["overrides"]) == (recipe["name"], overrides)]
        pairs = [*recipe["pairs"], *(line["pair"] for line in lines if line["pair"])]
        factors = [*map(float, recipe["imbalance_factors"]), *(line["imbalance_factor"] for line in lines)]
        self.pairs, self.factors = [*dict.fromkeys(pairs)], [*dict.fromkeys(factors)]
        self.methods = [*recipe["methods"]]
        self.cells = plan(recipe, overrides, pairs=self.pairs, factors=self.factors, seeds=recipe["seeds"][:1])
        self._runs = {(c.method, c.pair or c.teacher, c.imbalance_factor): c.run for c in self.cells}

    @property
    def is_papers(self) -> bool:
        """Whether this is the paper's protocol, as far as it is known."""
        return not self.overrides and self.recipe.get("paper") == self.recipe["name"]

    @property
    def has_runs(self) -> bool:
        return any(self.lines(cell) for cell in self.students)

    @property
    def students(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.pair is not None]

    @property
    def name(self) -> str:
        """For files."""
        return "_".join([self.recipe["name"], *(f"{name}_{value}" for name, value in self.overrides.items())])

    def lines(self, cell: Cell) -> list[Line]:
        return self.results.of(cell.run)

    def outcome(self, method: str, pair: str, factor: float) -> Outcome | None:
        run = self._runs.get((method, pair.split(":")[0] if method == "Teacher" else pair, factor))
        return None if run is None else self.results.outcome(run)

    def has_results(self, factor: float) -> bool:
        return bool(self.means(self.methods, self.pairs[0], factor, "all"))

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
