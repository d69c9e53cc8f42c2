"""Differences between methods, and what has been reproduced of the paper."""

import numpy as np
import pytest
from experiment import load_experiment, make_experiment
from results import Grid, Outcome, Results
from tiny import FOLDER, TINY, made_up
from trends import Trend, cost_of_missing, differences, find_trends, paper_status, reduced_status, trend_tables


def grid_of(name, lines):
    return Grid(load_experiment(FOLDER / f"{name}.yaml"), {}, Results(lines))


VALUES = {
    "LTKD": [(20, 30), (21, 31.5), (22, 33)],
    "KD": [(10, 31), (12, 31), (11, 31)],
    "Within": [(30, 29)],
    "DKD": [(12, 29), (12, 29), (12, 29)],
}


def test_differences_beside_the_papers():
    grid = grid_of("reduced", made_up("reduced", VALUES, factors=[20]))
    found = {(t.first, t.second, t.factor): t for t in find_trends(grid)}
    both = found["LTKD", "KD", 20.0]
    # Differences of the seeds: tail 10, 9, 11 (deviation 1); all -1, 0.5, 2 (1.5). Student's t with 2 degrees: 4.3027.
    assert both.ours["tail"] == pytest.approx((10, 4.3027 / 3**0.5), rel=1e-4)
    assert both.ours["all"] == pytest.approx((0.5, 4.3027 * 1.5 / 3**0.5), rel=1e-4)
    assert both.paper == pytest.approx({"tail": 49.70 - 36.81, "all": 62.54 - 57.41})
    assert both.verdicts == {"tail": "as the paper", "all": "not settled"}
    assert found["LTKD", "Within", 20.0].verdicts == {"tail": "opposite (one seed)", "all": "as the paper (one seed)"}
    assert found["LTKD", "KD", 100.0].ours == {} and found["LTKD", "KD", 100.0].paper == {}
    assert found["Cross", "KD", 20.0].verdicts == {}
    table, orders = trend_tables(grid)
    row = next(row for row in table.rows if row[:3] == ["LTKD less KD", "table 5", "20"])
    assert row[3:] == ["+10.00 ± 2.48", "+12.89", "as the paper", "+0.50 ± 3.73", "+5.13", "not settled"]
    assert "resnet32x4 → resnet8x4" in table.caption
    ranking = ["tail, factor 20", "LTKD > DKD", "LTKD > ReviewKD > DIST > DKD > CAT-KD > Student"]
    assert ranking in orders.rows
    counts = "1 as the paper, 2 as the paper (one seed), 1 not settled, 2 opposite (one seed)"
    assert reduced_status(grid, "table_5") == f"`reduced`: {counts}"


def test_only_seeds_that_both_have_are_compared():
    first = Outcome((0, 2, 3), {"tail": np.array([1.0, 3.0, 9.0]), "all": np.array([5.0, 5.0, 5.0])}, 0)
    second = Outcome((2, 0), {"tail": np.array([2.0, 2.0]), "all": np.array([5.0, 4.0])}, 1)
    ours = differences(first, second)
    # By seed, tail: -1 and 1; all: 1 and 0, with a deviation of sqrt(1/2). Student's t with one degree: 12.706.
    assert ours["tail"] == pytest.approx((0, 12.706 * 2**0.5 / 2**0.5), rel=1e-4)
    assert ours["all"] == pytest.approx((0.5, 12.706 * 0.5**0.5 / 2**0.5), rel=1e-4)
    assert differences(first, Outcome((1,), second.accuracy, 0)) == differences(first, None) == {}


@pytest.mark.parametrize(
    ("table", "mean", "margin", "verdict"),
    [
        (None, 2.0, 1.9, "better"),
        (None, -2.0, 1.9, "worse"),
        (None, 2.0, 2.0, "not settled"),
        (None, -2.0, 2.1, "not settled"),
        (None, -2.0, None, "worse (one seed)"),
        ("table_1", -2.0, 1.0, "opposite"),
        ("table_1", 2.0, 1.0, "as the paper"),
    ],
)
def test_a_finding_is_where_the_interval_leaves_zero_out(table, mean, margin, verdict):
    paper = {} if table is None else {"tail": 3.0}
    assert Trend(table, "A", "B", 20, {"tail": (mean, margin)}, paper).verdicts == {"tail": verdict}
    assert Trend("table_1", "A", "B", 20, {"tail": (mean, margin)}, {}).verdicts == {}


def test_trends_of_an_own_experiment():
    experiment = make_experiment({**TINY, "trends": [["LTKD", "Student"]]}, "own", FOLDER)
    (trend,) = find_trends(Grid(experiment, {}, Results([])))
    assert (trend.table, trend.ours, trend.paper, trend.factor) == (None, {}, {}, 4.0)
    (table,) = trend_tables(Grid(experiment, {}, Results([])))
    assert table.rows[1] == ["LTKD less Student", "–", "4", "–", "–", "", "–", "–", ""]
    assert "paper" not in table.caption


def test_paper_status():
    where = {"pairs": ["resnet32x4:resnet8x4"], "factors": [100]}
    values = {"Student": [(13, 43)], "DKD": [(14.5, 47)], "LTKD": [(28, 51)], "DIST": [None]}
    text = paper_status(grid_of("table_1", made_up("table_1", values, **where)))
    # The paper: 13.38, 42.48; 13.25, 46.11; 27.21, 51.08.
    assert text == "4 of 84 cells; tail +0.55 (−0.38 to +1.25); all +0.44 (−0.08 to +0.89)"
    assert paper_status(grid_of("table_2", [])) == "not yet run"


def test_cost_of_what_is_missing():
    """Figure 4 needs a teacher, its logits and three students: 240 epochs of 16,046 images each."""
    experiment = load_experiment(FOLDER / "figure_4.yaml")
    data = {"data": experiment.data, "device": "a GPU"}
    rates = {
        "teacher resnet32x4, batch 64": 1000,
        "logits of resnet32x4": 4000,
        "student resnet8x4 by logits, batch 64": 2000,
    }
    lines = [{"kind": kind, "examples_per_second": rate, **data} for kind, rate in rates.items()]
    hours = 240 * 16046 * (1 / 1000 + 1 / 4000 + 3 / 2000) / 3600
    text = cost_of_missing(experiment, Results(lines))
    assert text == f"4 runs, {hours:.1f} h on one process of a GPU"
    done = made_up("figure_4", {"KD": [(1, 2)]})
    hours = 240 * 16046 * (1 / 1000 + 1 / 4000 + 2 / 2000) / 3600
    assert cost_of_missing(experiment, Results(lines + done)) == f"3 runs, {hours:.1f} h on one process of a GPU"
    assert "has not been measured" in cost_of_missing(experiment, Results(lines[:2]))
