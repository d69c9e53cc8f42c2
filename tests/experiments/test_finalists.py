"""The finalists' tables on made-up results."""

import pytest
from experiment import load_experiment
from finalists import AT_1, AT_2, finalists_section, holm
from results import Grid, Results
from tiny import FOLDER, made_up


def test_holm_rejects_until_the_first_that_is_kept():
    # 0.05 / 4 = 0.0125, / 3 = 0.0167, / 2 = 0.025: Bonferroni would reject "a" alone, no correction all four.
    assert holm({"c": 0.03, "a": 0.01, "d": 0.04, "b": 0.015}) == {"a", "b"}
    assert holm({"a": 0.03, "b": 0.03}) == set()
    assert holm({}) == set()


def test_accuracies_and_paired_differences():
    values = {
        "Balanced softmax": [(10, 20), (11, 22), (12, 24)],
        AT_1: [(14, 25.0), (15.01, 27.01), (16.02, 29.02)],
        "LTKD": [(30, 20), (10, 23)],
        "BKD": [(9, 21)],
    }
    lines = made_up("recipe_superclasses", values, factors=[100])
    grid = Grid(load_experiment(FOLDER / "recipe_superclasses.yaml"), {}, Results(lines))
    _, accuracies, _, differences = finalists_section([grid]).parts
    rows = {row[0]: row[1] for row in accuracies.rows}
    assert rows[""] == "superclasses, 100<br>resnet20 → resnet8"
    assert (
        rows["BS"] == "22.0 ± 2.0<br>11.0 ± 1.0 (3)" and rows["recipe at T 1"] == "<b>27.0</b> ± 2.0<br>15.0 ± 1.0 (3)"
    )
    assert rows["LTKD(6, 6, T 4)"] == "21.5 ± 2.1<br><b>20.0</b> ± 14.1 (2)" and rows["BKD"] == "21.0<br>9.0 (1)"
    assert rows["plain"] == "–"
    rows = {row[0]: row[1] for row in differences.rows}
    # Over all classes 5, 5.01 and 5.02: mean 5.01, deviation 0.01, half width 4.303 * 0.01 / sqrt(3).
    assert rows["recipe less BS"] == "<b>+5.0 ± 0.0</b><br><b>+4.0 ± 0.0</b>"
    # 0 and 1: one degree of freedom has 12.706, times 0.5.
    assert rows["LTKD(6, 6, T 4) less BS"] == "+0.5 ± 6.4<br>+9.5 ± 133.4"
    assert rows["BKD less BS"] == "+1.0<br>−1.0" and rows["recipe, BS teacher less BS"] == "–"


@pytest.mark.parametrize(
    ("of_teacher", "gain"), [(49.9, "+1.0<br>+2.0"), (50.0, "+3.0<br>+4.0"), (None, "+1.0<br>+2.0")]
)
def test_the_teacher_sets_the_temperature_of_the_recipe(of_teacher, gain):
    values = {"Balanced softmax": [(10, 20)], AT_1: [(12, 21)], AT_2: [(14, 23)]}
    if of_teacher:
        values["Teacher"] = [(of_teacher - 1, of_teacher), (of_teacher + 1, of_teacher)]
    lines = made_up("recipe_superclasses", values, factors=[100])
    grid = Grid(load_experiment(FOLDER / "recipe_superclasses.yaml"), {}, Results(lines))
    rows = {row[0]: row[1] for row in finalists_section([grid]).parts[-1].rows}
    assert rows["recipe less BS"] == gain and rows["recipe, BS teacher less BS"] == "–"
    assert rows["recipe at T 2 less recipe at T 1"] == "+2.0<br>+2.0"


def test_without_the_recipe_there_is_no_table():
    lines = made_up("recipe_superclasses", {"LTKD": [(1, 2)]}, factors=[100])
    assert finalists_section([Grid(load_experiment(FOLDER / "recipe_superclasses.yaml"), {}, Results(lines))]) is None
