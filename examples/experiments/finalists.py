"""The methods that a user would choose between, over all settings: accuracies, and paired differences."""

from itertools import product
from typing import Any

import numpy as np
from pages import Section, Table, arrow
from results import Grid, Outcome
from scipy.stats import sem, ttest_1samp
from scipy.stats import t as student_t
from trends import paired_differences, signed

from hf_ltkd.workflow.recommend import SHARP


AT_1, AT_2 = (f"LTKD(1,1), T {temperature} + balanced softmax" for temperature in (1, 2))
RECIPE = "recipe"  # what `hf-ltkd distill` starts from: one of the two
PAPERS, KD, BKD = "LTKD", "KD from a logit-adjusted teacher + balanced softmax", "BKD"
OF_BALANCED = ", balanced teacher"
KD_OF_BALANCED = f"KD, T 2 + balanced softmax{OF_BALANCED}"
METHODS = {  # in experiments with `finalists`, and what the tables call them
    "Teacher": "teacher",
    "Teacher, adjusted": "teacher, adjusted",
    "Teacher, balanced_softmax": "teacher, BS",
    "Student": "plain",
    "Student, adjusted": "plain, adjusted",
    "Balanced softmax": "BS",
    PAPERS: "LTKD(6, 6, T 4)",
    AT_1: "recipe at T 1",
    f"{AT_1}{OF_BALANCED}": "recipe at T 1, BS teacher",
    AT_2: "recipe at T 2",
    f"{AT_2}{OF_BALANCED}": "recipe at T 2, BS teacher",
    KD_OF_BALANCED: "KD + BS, BS teacher",
    KD: "KD + BS, adjusted teacher",
    BKD: "BKD",
    # See tempered_groups.py; tried afterwards, and compared with nothing.
    "LTKD(1,1), T 2, prior for rebalancing + balanced softmax": "recipe at T 2, prior for rebalancing",
    "LTKD(1,1), T 2, not rebalanced + balanced softmax, balanced teacher": "recipe at T 2, BS teacher, not rebalanced",
}
LABELS = {**METHODS, RECIPE: "recipe", f"{RECIPE}{OF_BALANCED}": "recipe, BS teacher"}
COMPARED = [  # first less second
    *((method, "Balanced softmax") for method in (PAPERS, RECIPE, f"{RECIPE}{OF_BALANCED}", KD, KD_OF_BALANCED, BKD)),
    *((RECIPE, method) for method in (PAPERS, KD, BKD)),
    *((f"{RECIPE}{OF_BALANCED}", method) for method in (PAPERS, KD_OF_BALANCED, BKD, RECIPE)),
    (AT_2, AT_1),
    (f"{AT_2}{OF_BALANCED}", f"{AT_1}{OF_BALANCED}"),
]
ACCURACIES = (
    "Accuracy (%) over all classes, below on the tail: mean ± sample deviation (number of seeds), of the last epoch; "
    "the highest student in bold. BS is a balanced softmax, the recipe LTKD(1, 1) beside it; KD is at T 2; adjusted "
    "are logits less the log prior."
)
DIFFERENCES = (
    "Differences, over all classes, below on the tail: the mean over the seeds that both have, and half of its 95 % "
    "confidence interval (Student's t). Bold are the findings: what Holm's procedure keeps at 5 % over all "
    "comparisons of a column. The recipe is at T 2 where its teacher is right about half of the images or more, and "
    "at T 1 elsewhere."
)
METRICS = ("all", "tail")
Column = dict[str, Outcome]  # of a setting: a pair of networks on a dataset


def finalists_section(grids: list[Grid]) -> Section | None:
    """Of the experiments with `finalists`, a column for each pair and factor that has students of the recipe."""
    columns: dict[str, Column] = {}
    for grid in (grid for grid in grids if grid.experiment.finalists and not grid.overrides):
        for pair, factor in product(grid.pairs, grid.factors):
            found = {name: grid.outcome(name, pair, factor) for name in METHODS}
            outcomes = {name: outcome for name, outcome in found.items() if outcome is not None and outcome.seeds}
            for kind, teacher in (("", "Teacher"), (OF_BALANCED, "Teacher, balanced_softmax")):
                is_sharp = teacher in outcomes and outcomes[teacher].accuracy["all"].mean() >= 100 * SHARP
                chosen = f"{AT_2 if is_sharp else AT_1}{kind}"
                if chosen in outcomes:
                    outcomes[RECIPE + kind] = outcomes[chosen]
            if RECIPE in outcomes:
                columns[f"{grid.experiment.finalists}{f', {factor:g}' * (factor != 1)}<br>{arrow(pair)}"] = outcomes
    if not columns:
        return None
    return Section("The finalists", [ACCURACIES, accuracies(columns), DIFFERENCES, differences(columns)])


def accuracies(columns: dict[str, Column]) -> Table:
    rows = [["", *columns], *([label] for label in METHODS.values())]
    for column in columns.values():
        means = {name: {m: round(float(o.accuracy[m].mean()), 1) for m in METRICS} for name, o in column.items()}
        best = {m: max(mean[m] for name, mean in means.items() if not name.startswith("Teacher")) for m in METRICS}
        for row, name in zip(rows[1:], METHODS, strict=True):
            texts = []
            for metric in METRICS if name in column else ():
                values, mean = column[name].accuracy[metric], means[name][metric]
                is_best = mean == best[metric] and not name.startswith("Teacher")
                texts.append(f"<b>{mean:.1f}</b>" if is_best else f"{mean:.1f}")
                texts[-1] += f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
            row.append(f"{'<br>'.join(texts)} ({len(column[name].seeds)})" if texts else "–")
    return Table("", rows)


def differences(columns: dict[str, Column]) -> Table:
    rows = [["", *columns], *([f"{LABELS[first]} less {LABELS[second]}"] for first, second in COMPARED)]
    for column in columns.values():
        paired = {
            (*names, metric): values
            for names in COMPARED
            for metric in METRICS
            if len(values := paired_differences(*map(column.get, names), metric))
        }
        found = holm({names: p_value(values) for names, values in paired.items() if len(values) > 1})
        for row, names in zip(rows[1:], COMPARED, strict=True):
            texts = []
            for metric in METRICS if (*names, METRICS[0]) in paired else ():
                values = paired[(*names, metric)]
                texts.append(signed(values.mean(), 1))
                if len(values) > 1:
                    texts[-1] += f" ± {student_t.ppf(0.975, len(values) - 1) * sem(values):.1f}"
                texts[-1] = f"<b>{texts[-1]}</b>" if (*names, metric) in found else texts[-1]
            row.append("<br>".join(texts) or "–")
    return Table("", rows)


def p_value(differences: np.ndarray) -> float:
    """Of Student's t for a mean of zero; 1 where all are equal, as with so few test images they may be."""
    return float(ttest_1samp(differences, 0).pvalue) if differences.std() else 1.0


def holm(p_values: dict[Any, float], level: float = 0.05) -> set[Any]:
    """The comparisons that Holm's procedure rejects: at most `level` is the chance of one that it should not."""
    rejected: set[Any] = set()
    for name in sorted(p_values, key=p_values.__getitem__):
        if p_values[name] > level / (len(p_values) - len(rejected)):
            break
        rejected.add(name)
    return rejected
