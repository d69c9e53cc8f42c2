"""Differences between methods, beside the paper's where it has them, and what has been reproduced of the paper."""

import itertools
from dataclasses import dataclass

import numpy as np
from cost import read_rates, work_of
from experiment import Experiment
from pages import Table
from plan import digest, plan
from results import Grid, Outcome, Results, paper_accuracy
from scipy.stats import sem
from scipy.stats import t as student_t

from hf_ltkd.cli.tables import duration


VERDICTS = ("as the paper", "as the paper (one seed)", "not settled", "opposite", "opposite (one seed)")
NOTE = (
    "The paper's protocol: cells (a method on a pair at a factor) with at least one run, and ours less the paper's "
    "number on the tail and over all classes (mean, and from the lowest to the highest). A reduced protocol: of the "
    "differences between methods that this part of the paper shows, on the tail and over all classes, how many have "
    "the paper's sign, settled at 95 % (Student's t over the seeds) or seen with one seed. The cost is images per "
    "second, measured in finished runs or in a few steps, times the images to train on."
)


@dataclass(frozen=True)
class Trend:
    """
    First less second, one of the experiment's `trends`; `table` is the part of the paper that compares them too.

    Attributes:
        ours (`dict`): By metric the mean over the seeds that both have, which start from the same weights, and the
            half width of its 95 % confidence interval by Student's t (`None` with one seed).
        paper (`dict`): By metric the paper's difference, where it has one for this factor.
    """

    table: str | None
    first: str
    second: str
    factor: float
    ours: dict[str, tuple[float, float | None]]
    paper: dict[str, float]

    @property
    def verdicts(self) -> dict[str, str]:
        """By metric, where there is something to say; a difference whose confidence interval holds 0 has no sign."""
        verdicts = {}
        for metric, (mean, margin) in self.ours.items():
            kinds = ("better", "worse") if self.table is None else ("as the paper", "opposite")
            sign = 1.0 if self.table is None else self.paper.get(metric, 0.0)
            if sign:
                verdict = kinds[mean * sign <= 0] + (" (one seed)" if margin is None else "")
                verdicts[metric] = "not settled" if margin is not None and abs(mean) <= margin else verdict
        return verdicts


def find_trends(grid: Grid) -> list[Trend]:
    """The experiment's `trends` at each factor, for its first pair."""
    found = []
    for *tables, first, second in grid.experiment.trends:
        table = tables[0] if tables else None
        for factor in grid.factors:
            outcomes = [grid.outcome(method, grid.pairs[0], factor) for method in (first, second)]
            one, other = (in_paper(grid.experiment, table, factor, method) for method in (first, second))
            paper = {metric: one[metric] - other[metric] for metric in one.keys() & other.keys()}
            found.append(Trend(table, first, second, factor, differences(*outcomes), paper))
    return found


def in_paper(experiment: Experiment, table: str | None, factor: float, method: str) -> dict[str, float]:
    if table is None or experiment.paper_pair is None:
        return {}
    name = experiment.names_in_paper.get(table, {}).get(method, method)
    return paper_accuracy(table, experiment.paper_pair, factor, name)


def differences(first: Outcome | None, second: Outcome | None) -> dict[str, tuple[float, float | None]]:
    ours: dict[str, tuple[float, float | None]] = {}
    for metric in ("tail", "all"):
        values = paired_differences(first, second, metric)
        if len(values):
            margin = float(student_t.ppf(0.975, len(values) - 1) * sem(values)) if len(values) > 1 else None
            ours[metric] = float(values.mean()), margin
    return ours


def paired_differences(first: Outcome | None, second: Outcome | None, metric: str) -> np.ndarray:
    """First less second of the seeds that both have; empty where there are none, or two classes have other groups."""
    if first is None or second is None or metric not in first.accuracy:
        return np.empty(0)
    common = sorted(set(first.seeds) & set(second.seeds))
    a, b = (o.accuracy[metric][[o.seeds.index(seed) for seed in common]] for o in (first, second))
    return a - b


def trend_tables(grid: Grid) -> list[Table]:
    """The differences; where Table 1 is among them, its methods from best to worst."""
    head = ["first less second", "the paper's", "factor"]
    rows = [[*head, *(title for metric in ("tail", "all") for title in (f"{metric}: ours", "paper", ""))]]
    for trend in find_trends(grid):
        row = [f"{trend.first} less {trend.second}", (trend.table or "–").replace("_", " "), f"{trend.factor:g}"]
        for metric in ("tail", "all"):
            mean, margin = trend.ours.get(metric, (None, None))
            ours = "–" if mean is None else signed(mean) + ("" if margin is None else f" ± {margin:.2f}")
            paper = signed(trend.paper[metric]) if metric in trend.paper else "–"
            row += [ours, paper, trend.verdicts.get(metric, "")]
        rows.append(row)
    pair = (grid.experiment.paper_pair or "").replace(":", " → ")
    beside, caution = (f" beside the paper's for {pair}", " The paper has no deviations.") if pair else ("", "")
    caption = (
        f"Differences{beside}. Ours: the mean over the seeds that both methods have ± half of its 95 % confidence "
        f"interval (Student's t), below which a difference is not settled.{caution}"
    )
    tables = [Table(caption, rows)]
    if any(trend.table == "table_1" for trend in find_trends(grid)):
        rows = [["", "ours", "paper"]]
        for factor, metric in itertools.product(grid.factors, ("tail", "all")):
            values = {method: in_paper(grid.experiment, "table_1", factor, method) for method in grid.methods}
            paper = {method: value[metric] for method, value in values.items() if value}
            ours = grid.means([*paper], grid.pairs[0], factor, metric)
            by_rank = [" > ".join(sorted(some, key=some.__getitem__, reverse=True)) or "–" for some in (ours, paper)]
            rows.append([f"{metric}, factor {factor:g}", *by_rank])
        tables.append(Table("Table 1's methods from best to worst", rows))
    return tables


# ---- What has been reproduced ----


def status_table(experiments: list[Experiment], results: Results) -> Table:
    """A row for each table and figure of the paper."""
    rows = [["", "the paper's protocol", "a reduced protocol", "what is missing of the paper's"]]
    grids = [Grid(experiment, {}, results) for experiment in experiments]
    for experiment, full in zip(experiments, grids, strict=True):
        if experiment.paper != experiment.name:
            continue
        others = (reduced_status(grid, experiment.name) for grid in grids if grid is not full)
        cells = [paper_status(full), "; ".join(filter(None, others)) or "not yet run"]
        rows.append([experiment.title, *cells, cost_of_missing(experiment, results)])
    return Table("", rows)


def paper_status(grid: Grid) -> str:
    found, name = [cell for cell in grid.students if grid.lines(cell)], grid.experiment.name
    if not found:
        return "not yet run"
    text = f"{len(found)} of {len(grid.students)} cells"
    for metric in ("tail", "all"):
        gaps = []
        for cell in found if name not in ("figure_3", "figure_4") else []:
            paper = paper_accuracy(name, cell.pair or "", cell.imbalance_factor, cell.method)
            outcome = grid.results.outcome(cell.run)
            if metric in paper and outcome is not None and outcome.seeds:
                gaps.append(outcome.accuracy[metric].mean() - paper[metric])
        if gaps:
            text += f"; {metric} {signed(float(np.mean(gaps)))} ({signed(min(gaps))} to {signed(max(gaps))})"
    return text


def reduced_status(grid: Grid, item: str) -> str:
    if grid.experiment.paper == item:
        runs = [bool(grid.lines(cell)) for cell in grid.students]
        return f"{sum(runs)} of {len(runs)} cells drawn" if any(runs) else ""
    verdicts = [v for trend in find_trends(grid) if trend.table == item for v in trend.verdicts.values()]
    counts = [f"{verdicts.count(kind)} {kind}" for kind in VERDICTS if kind in verdicts]
    return f"`{grid.experiment.name}`: {', '.join(counts)}" if counts else ""


def cost_of_missing(experiment: Experiment, results: Results) -> str:
    """Time on each machine whose speed is known for every kind of work that is missing."""
    done = {digest(line["run"]) for line in results.lines}
    missing = [cell.run for cell in plan(experiment) if digest(cell.run) not in done]
    if not missing:
        return "nothing"
    work = work_of(experiment, missing)
    if not work:
        return f"{len(missing)} runs, which train nothing"
    costs = []
    for machine in dict.fromkeys(line["device"] for line in results.all_lines):
        rates = read_rates(results.all_lines, experiment.data, machine)
        if work.keys() <= rates.keys():
            seconds = sum(images / rates[kind] for kind, (_, images) in work.items())
            costs.append(f"{duration(seconds)} on one process of {machine}")
    return f"{len(missing)} runs, " + ("; ".join(costs) or "whose speed has not been measured")


def signed(value: float, decimals: int = 2) -> str:
    return f"{value:+.{decimals}f}".replace("-", "−")
