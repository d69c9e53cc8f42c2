"""Turns result lines into the paper's tables and figures: Markdown, one HTML page with its pictures inside, and PNGs.

python examples/experiments/report.py paper_runs/*.jsonl reduced_runs/*.jsonl --output_dir report

`results.jsonl` holds the runs; with `speeds.jsonl`, what `run.py` measured for its plan, the report also says what the
missing runs would cost. Lines of an experiment whose YAML file is neither here nor given with `--experiments`, such as
those of a sweep, get a table all the same. `--readme examples/experiments/README.md` writes the finalists and what has
been reproduced into that file, too.
"""

import argparse
import os
import sys
from itertools import product
from pathlib import Path

import numpy as np
from experiment import Experiment, experiment_files, load_experiment
from figures import draw_group_losses, draw_group_mass, draw_overview, draw_sensitivity
from finalists import finalists_section
from pages import Part, Section, Table, arrow, markdown_table, parts_to_markdown, to_html, to_markdown
from results import PUBLISHED, Grid, Outcome, Results, best_and_second, paper_accuracy, read_results
from trends import NOTE, signed, status_table, trend_tables

from hf_ltkd.cli.tables import duration
from hf_ltkd.utils import replacing


TITLE = "Distilling Balanced Knowledge from a Biased Teacher: the paper's numbers and ours"
PAPER_NOTE = (
    "Each cell: ours, mean ± sample deviation over the seeds (number of seeds), of the last epoch; below, the paper's "
    "number and ours less the paper's. A dash stands for what was not run, or is not in the paper. <b>Best</b> and "
    "<u>second-best</u> method as the paper marks them, in ours and in the paper's numbers; Teacher and Student "
    "(trained without a teacher) are not ranked."
)
OWN_NOTE = (
    "This is not the paper's protocol: these numbers cannot be compared with the paper's, only their order. Accuracy "
    "(%), mean ± sample deviation over the seeds (number of seeds), of the last epoch; <b>best</b> and "
    "<u>second-best</u> student of each table."
)
HELD_OUT_NOTE = "On training images that were held out: choose by them, and report the choice on the test images."


def main(argv: list[str] | None = None) -> None:
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("results", nargs="+", type=Path, help="Files of result lines, and of speeds.")
    add("--experiments", "--recipes", nargs="+", type=Path, default=[], help="YAML files beside those of this folder.")
    add("--output_dir", type=Path, default=Path("report"), help="For report.md, report.html, PNGs.")
    add("--readme", type=Path, help="A file in which to replace the tables of finalists and of what was reproduced.")
    args = parser.parse_args(argv)
    for path in [*args.results, *args.experiments]:
        if not path.is_file():
            parser.error(f"there is no file {str(path)!r}: give results.jsonl of run.py's --output_dir.")
    experiments = [load_experiment(path) for path in [*experiment_files(), *args.experiments]]
    tables = write_report(args.results, experiments, args.output_dir)
    for name, text in tables.items() if args.readme is not None else ():
        start, end = f"<!-- {name}, written by report.py -->", f"<!-- end of {name} -->"
        before, _, rest = args.readme.read_text(encoding="utf-8").partition(start)
        _, found, after = rest.partition(end)
        if not found:
            parser.error(f"{str(args.readme)!r} needs {start} and {end} to write between.")
        with replacing(args.readme) as file:
            file.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def write_report(paths: list[Path], experiments: list[Experiment], folder: Path) -> dict[str, str]:
    """
    Writes `report.md`, `report.html` and the pictures into `folder`, of these files of lines and the experiments whose
    tables are wanted. Gives what `--readme` writes, as far as it was run: `"status"`, what has been reproduced of the
    paper, and `"finalists"`.

    Raises:
        `ValueError`: if the files hold no runs.
    """
    results = Results([line for path in paths for line in read_results(path)])
    if not results.lines:
        raise ValueError(f"There are no runs in {', '.join(map(str, paths))}: give results.jsonl of run.py.")
    folder.mkdir(parents=True, exist_ok=True)
    planned = [grid for experiment in experiments for grid in results.grids(experiment)]
    grids = [grid for grid in planned if grid.has_runs]
    sections: list[Section] = []
    tables: dict[str, str] = {}
    finalists = finalists_section(grids)
    if finalists is not None:
        sections.append(finalists)
        tables["finalists"] = parts_to_markdown(finalists)
    if any(grid.experiment.paper or grid.experiment.paper_pair for grid in grids):
        status = status_table(experiments, results)
        sections.append(Section("What has been reproduced", [NOTE, status]))
        tables["status"] = markdown_table(status)
        grids += [g for g in planned if g.is_papers and not g.has_runs and g.name.startswith("table")]
    grids += results.other_grids({experiment.name for experiment in experiments})
    sections += [*(section_of(grid, folder) for grid in grids), about_the_runs(grids, results)]
    title = TITLE if "status" in tables else "Results"
    for name, text in (("report.md", to_markdown(title, sections)), ("report.html", to_html(title, sections))):
        with replacing(folder / name) as file:
            file.write_text(text, encoding="utf-8")
    print(f"{len(results.lines)} runs: {folder / 'report.md'}, {folder / 'report.html'}")
    return tables


def section_of(grid: Grid, folder: Path) -> Section:
    title = grid.experiment.title
    if grid.overrides:
        title += ": another protocol, " + ", ".join(f"{name}={value}" for name, value in grid.overrides.items())
    if grid.experiment.paper == "figure_3":
        return Section(title, group_mass(grid, folder))
    if grid.experiment.paper == "figure_4":
        return Section(title, group_losses(grid, folder))
    if grid.is_papers:
        parts: list[Part] = [PAPER_NOTE, *paper_tables(grid)]
    else:
        parts = [OWN_NOTE, *([HELD_OUT_NOTE] if grid.is_held_out else []), *own_tables(grid)]
        if grid.experiment.trends and not grid.overrides:
            parts += trend_tables(grid)
        if (grid.experiment.trends or grid.experiment.finalists) and not grid.overrides:
            for pair, factor in product(grid.pairs, grid.factors):
                if grid.means(grid.methods, pair, factor, "all"):
                    parts.append(draw_overview(grid, pair, factor, folder))
    if grid.experiment.paper == "figure_5" or not grid.is_planned:
        parts += draw_sensitivity(grid, folder)
    return Section(title, parts)


def paper_tables(grid: Grid) -> list[Table]:
    """As the paper lays them out: several factors are columns of a table for each pair, else the pairs are columns."""
    table, metrics = grid.experiment.paper, grid.experiment.metrics
    methods = ["Teacher", *grid.methods] if "Student" in grid.methods else grid.methods
    if len(grid.factors) > 1:
        blocks = {arrow(pair): {f"factor {f:g}": (pair, f) for f in grid.factors} for pair in grid.pairs}
    else:
        caption = f"Imbalance factor {grid.factors[0]:g}"
        blocks = {caption: {arrow(pair, "<br>"): (pair, grid.factors[0]) for pair in grid.pairs}}
    tables = []
    for caption, columns in blocks.items():
        rows = [[""], *([method] for method in methods)]
        for title, (pair, factor) in columns.items():
            for metric in metrics:
                values = {method: paper_accuracy(table, pair, factor, method) for method in methods}
                paper = {method: value[metric] for method, value in values.items() if metric in value}
                paper_texts = mark({method: f"{value:.2f}" for method, value in paper.items()}, paper, grid.experiment)
                means = grid.means(methods, pair, factor, metric)
                ours = {method: describe(grid.outcome(method, pair, factor), metric) for method in methods}
                ours = mark(ours, means, grid.experiment)
                rows[0].append(f"{title}<br>{metric}")
                for row, method in zip(rows[1:], methods, strict=True):
                    both = method in means and method in paper
                    gap = f", {signed(means[method] - paper[method])}" if both else ""
                    row.append(f"{ours[method]}<br><small>paper {paper_texts.get(method, '–')}{gap}</small>")
        tables.append(Table(caption, rows))
    return tables


def own_tables(grid: Grid) -> list[Table]:
    """For each pair a table of each list of methods under the experiment's `tables`, or one of all; no empty ones."""
    tables = []
    for caption, methods in (grid.experiment.tables or {"All methods": grid.methods}).items():
        for pair in grid.pairs:
            names = [*grid.teachers, *methods]
            rows = [[""], *([grid.label(name)] for name in names)]
            for factor in grid.factors:
                for metric in grid.metrics:
                    rows[0].append(metric if factor is None else f"factor {factor:g}<br>{metric}")
                    texts = {name: describe(grid.outcome(name, pair, factor), metric) for name in names}
                    texts = mark(texts, grid.means(methods, pair, factor, metric))
                    for row, name in zip(rows[1:], names, strict=True):
                        row.append(texts[name])
            if any(grid.outcome(name, pair, factor) for name in methods for factor in grid.factors):
                tables.append(Table(f"{caption} ({arrow(pair)})", rows))
    return tables


def describe(outcome: Outcome | None, metric: str) -> str:
    """`51.10 ± 0.21 (3)`"""
    if outcome is None:
        return "–"
    if not outcome.seeds:
        return f"diverged ({outcome.failed})"
    values = outcome.accuracy[metric]
    deviation = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{deviation} ({len(values)}{f', {outcome.failed} diverged' * bool(outcome.failed)})"


def mark(texts: dict[str, str], values: dict[str, float], experiment: Experiment | None = None) -> dict[str, str]:
    """The best in bold and the second-best underlined; in a table of the paper as it marks them."""
    not_ranked = ("Teacher", "Student") if experiment else ()
    ranked = {name: value for name, value in values.items() if name not in not_ranked}
    if len(ranked) < 2:
        return texts
    best, second = best_and_second(ranked)
    marks_second = experiment is None or "second" in experiment.marks
    tags = dict.fromkeys(best, "b") | (dict.fromkeys(second, "u") if marks_second else {})
    return {name: f"<{tags[name]}>{text}</{tags[name]}>" if name in tags else text for name, text in texts.items()}


def group_mass(grid: Grid, folder: Path) -> list[Part]:
    """Fig. 3."""
    rows = [["teacher, factor, temperature", "the full training set", "the long-tailed one"]]
    pictures: list[Path] = []
    for cell in grid.students:
        for line in grid.lines(cell):
            pictures += draw_group_mass(grid, cell, line, folder)
            for temperature, sums in line["group_mass"].items():
                means = [triple(np.mean(sums[name], 0)) for name in ("balanced", "long_tailed")]
                rows.append([f"{cell.teacher}, {cell.imbalance_factor:g}, {temperature.split()[1]}", *means])
    paper = PUBLISHED["figure_3"]
    rows.append(["paper, one batch (Sec. 3.2)", triple(paper["balanced"]), triple(paper["long_tailed"])])
    return [Table("The teacher's probability of head, medium and tail summed over a batch of 64", rows), *pictures]


def group_losses(grid: Grid, folder: Path) -> list[Part]:
    """Fig. 4."""
    parts: list[Part] = [
        "After each epoch, on the training images as the epoch showed them: KL(teacher ‖ student) of probabilities "
        "softened alike for all methods, within each group of classes (Eq. 7), and of the images of its classes."
    ]
    for factor in grid.factors:
        cells = [cell for cell in grid.students if cell.imbalance_factor == factor]
        lines = {cell.method: line for cell in cells for line in grid.lines(cell)[:1] if "metrics" in line}
        losses = {method: line["group_losses"] for method, line in lines.items()}
        if not losses:
            continue
        names = [f"{what}<br>{group}" for what in ("within", "images of") for group in ("head", "medium", "tail")]
        rows = [["last epoch", *names]]
        for method, values in losses.items():
            rows.append([method, *(f"{value:.3f}" for value in values["within"][-1] + values["by_label"][-1])])
        parts += [Table(f"Imbalance factor {factor:g}", rows), draw_group_losses(losses, grid, factor, folder)]
    return parts


def about_the_runs(grids: list[Grid], results: Results) -> Section:
    rows = [["started by", "runs", "training and evaluation", "on", "with"]]
    for name in dict.fromkeys(line["experiment"] for line in results.lines):
        lines = [line for line in results.lines if line["experiment"] == name]
        time = duration(sum(line.get("seconds", 0) for line in lines))
        machines = "; ".join(dict.fromkeys(line["device"] for line in lines))
        versions = dict.fromkeys(", ".join(f"{k} {v}" for k, v in line["versions"].items()) for line in lines)
        rows.append([f"`{name}.yaml`", str(len(lines)), time, machines, "; ".join(versions)])
    parts: list[Part] = [Table("", rows)]
    shown = {id(line) for grid in grids for cell in grid.cells for line in grid.lines(cell)}
    others = sum(id(line) not in shown for line in results.lines)
    if others:
        parts.append(f"{others} runs belong to no experiment as it is now, and are not shown.")
    repeated = sum("run" in line for line in results.all_lines) - len(results.lines)
    if repeated:
        parts.append(f"Lines of runs that an earlier line has already: {repeated}; the first counts.")
    return Section("About the runs", parts)


def triple(values) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        if os.environ.get("HF_LTKD_TRACEBACK"):
            raise
        sys.exit(f"report.py: {' '.join(str(error).split())}")
