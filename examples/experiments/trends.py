"""Differences between methods beside the paper's: what a protocol of other numbers can be compared by."""

from dataclasses import dataclass

import numpy as np
from pages import Table
from recipes import Recipe
from results import Grid, Outcome, paper_accuracy
from scipy.stats import t as student_t


VERDICTS = ("as the paper", "as the paper (one seed)", "not settled", "opposite", "opposite (one seed)")


@dataclass(frozen=True)
class Trend:
    """
    First less second, one of the recipe's `trends`.

    Attributes:
        table, first, second (`str`), factor (`float`): What the paper compares, by our names of the methods.
        ours (`dict`): By metric the mean over the seeds that both have, which start from the same weights, and the
            half width of its 95 % confidence interval by Student's t (`None` with one seed).
        paper (`dict`): By metric the paper's difference, where it has one for this factor.
    """

    table: str
    first: str
    second: str
    factor: float
    ours: dict[str, tuple[float, float | None]]
    paper: dict[str, float]

    @property
    def verdicts(self) -> dict[str, str]:
        """By metric, where both have a difference; one of ours whose confidence interval holds 0 has no sign."""
        verdicts = {}
        for metric in ("tail", "all"):
            if metric not in self.ours or metric not in self.paper:
                continue
            mean, margin = self.ours[metric]
            if margin is not None and abs(mean) <= margin:
                verdicts[metric] = "not settled"
            else:
                verdict = "as the paper" if mean * self.paper[metric] > 0 else "opposite"
                verdicts[metric] = verdict + (" (one seed)" if margin is None else "")
        return verdicts


def find_trends(grid: Grid) -> list[Trend]:
    """The recipe's `trends` at each factor, for its first pair."""
    found = []
    for table, *methods in grid.recipe["trends"]:
        for factor in grid.factors:
            first, second = (grid.outcome(method, grid.pairs[0], factor) for method in methods)
            theirs = [in_paper(grid.recipe, table, factor, method) for method in methods]
            paper = {metric: theirs[0][metric] - theirs[1][metric] for metric in theirs[0].keys() & theirs[1].keys()}
            found.append(Trend(table, methods[0], methods[1], factor, differences(first, second), paper))
    return found


def in_paper(recipe: Recipe, table: str, factor: float, method: str) -> dict[str, float]:
    name = recipe["names_in_paper"].get(table, {}).get(method, method)
    return paper_accuracy(table, recipe["paper_pair"], factor, name)


def differences(first: Outcome | None, second: Outcome | None) -> dict[str, tuple[float, float | None]]:
    if first is None or second is None or not set(first.seeds) & set(second.seeds):
        return {}
    common = sorted(set(first.seeds) & set(second.seeds))
    n, ours = len(common), {}
    for metric in ("tail", "all"):
        a, b = (o.accuracy[metric][[o.seeds.index(seed) for seed in common]] for o in (first, second))
        margin = float(student_t.ppf(0.975, n - 1) * (a - b).std(ddof=1) / np.sqrt(n)) if n > 1 else None
        ours[metric] = (float((a - b).mean()), margin)
    return ours


def trend_tables(grid: Grid) -> list[Table]:
    """The differences; where Table 1 is among them, its methods from best to worst."""
    rows = [["first less second", "the paper's", "factor", *("tail: ours", "paper", ""), *("all: ours", "paper", "")]]
    for trend in find_trends(grid):
        row = [f"{trend.first} less {trend.second}", trend.table.replace("_", " "), f"{trend.factor:g}"]
        for metric in ("tail", "all"):
            mean, margin = trend.ours.get(metric, (None, None))
            ours = "–" if mean is None else signed(mean) + ("" if margin is None else f" ± {margin:.2f}")
            paper = signed(trend.paper[metric]) if metric in trend.paper else "–"
            row += [ours, paper, trend.verdicts.get(metric, "")]
        rows.append(row)
    caption = (
        f"Differences beside the paper's for {grid.recipe['paper_pair'].replace(':', ' → ')}. Ours: the mean over the "
        "seeds that both methods have ± half of its 95 % confidence interval (Student's t), below which a difference "
        "is not settled. The paper has no deviations."
    )
    has_table_1 = any(table == "table_1" for table, *_ in grid.recipe["trends"])
    return [Table(caption, rows), *([orders(grid)] if has_table_1 else [])]


def orders(grid: Grid) -> Table:
    rows = [["", "ours", "paper"]]
    for factor in grid.factors:
        for metric in ("tail", "all"):
            values = {method: in_paper(grid.recipe, "table_1", factor, method) for method in grid.methods}
            paper = {method: value[metric] for method, value in values.items() if value}
            ours = grid.means([*paper], grid.pairs[0], factor, metric)
            by_rank = [" > ".join(sorted(some, key=some.__getitem__, reverse=True)) or "–" for some in (ours, paper)]
            rows.append([f"{metric}, factor {factor:g}", *by_rank])
    return Table("Table 1's methods from best to worst", rows)


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
