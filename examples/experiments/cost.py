"""What has been reproduced, by how much, and what the rest would cost."""

import numpy as np
from pages import Table
from recipes import Recipe, digest, plan, read_rates, work_of
from results import Grid, Results, paper_accuracy
from trends import VERDICTS, find_trends, signed

from hf_ltkd.report import duration


NOTE = (
    "The paper's protocol: cells (a method on a pair at a factor) with at least one run, and ours less the paper's "
    "number on the tail and over all classes (mean, and from the lowest to the highest). A reduced protocol: of the "
    "differences between methods that this part of the paper shows, on the tail and over all classes, how many have "
    "the paper's sign, settled at 95 % (Student's t over the seeds) or seen with one seed. The cost is images per "
    "second, measured in finished runs or in a few steps, times the images to train on."
)


def status_table(recipes: list[Recipe], results: Results) -> Table:
    """A row for each table and figure of the paper."""
    rows = [["", "the paper's protocol", "a reduced protocol", "what is missing of the paper's"]]
    for recipe in recipes:
        if recipe.get("paper") != recipe["name"]:
            continue
        others = [Grid(other, {}, results) for other in recipes if other is not recipe]
        reduced = "; ".join(filter(None, (reduced_status(grid, recipe["name"]) for grid in others)))
        full = paper_status(Grid(recipe, {}, results))
        rows.append([recipe["title"], full, reduced or "not yet run", cost_of_missing(recipe, results)])
    return Table("", rows)


def paper_status(grid: Grid) -> str:
    found = [cell for cell in grid.students if grid.lines(cell)]
    if not found:
        return "not yet run"
    text = f"{len(found)} of {len(grid.students)} cells"
    for metric in ("tail", "all"):
        gaps = []
        for cell in found if grid.recipe["name"] not in ("figure_3", "figure_4") else []:
            paper = paper_accuracy(grid.recipe["name"], cell.pair or "", cell.imbalance_factor, cell.method)
            outcome = grid.results.outcome(cell.run)
            if metric in paper and outcome is not None and outcome.seeds:
                gaps.append(outcome.accuracy[metric].mean() - paper[metric])
        if gaps:
            text += f"; {metric} {signed(float(np.mean(gaps)))} ({signed(min(gaps))} to {signed(max(gaps))})"
    return text


def reduced_status(grid: Grid, item: str) -> str:
    if grid.recipe.get("paper") == item:
        runs = [bool(grid.lines(cell)) for cell in grid.students]
        return f"{sum(runs)} of {len(runs)} cells drawn" if any(runs) else ""
    trends = find_trends(grid) if "trends" in grid.recipe else []
    verdicts = [verdict for trend in trends if trend.table == item for verdict in trend.verdicts.values()]
    counts = [f"{verdicts.count(kind)} {kind}" for kind in VERDICTS if kind in verdicts]
    return f"`{grid.recipe['name']}`: {', '.join(counts)}" if counts else ""


def cost_of_missing(recipe: Recipe, results: Results) -> str:
    """Time on each machine whose speed is known for every kind of work that is missing."""
    done = {digest(line["run"]) for line in results.lines}
    missing = [cell.run for cell in plan(recipe) if digest(cell.run) not in done]
    if not missing:
        return "nothing"
    work = work_of(recipe, missing)
    if not work:
        return f"{len(missing)} runs, which train nothing"
    costs = []
    for machine in dict.fromkeys(line["device"] for line in results.all_lines):
        rates = read_rates(results.all_lines, recipe["data"], machine)
        if work.keys() <= rates.keys():
            seconds = sum(images / rates[kind] for kind, (_, images) in work.items())
            costs.append(f"{duration(seconds)} on one process of {machine}")
    return f"{len(missing)} runs, " + ("; ".join(costs) or "whose speed has not been measured")
