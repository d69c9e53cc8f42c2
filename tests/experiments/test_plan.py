"""From an experiment to its runs."""

import json

import pytest
from experiment import experiment_files, load_experiment, make_experiment
from plan import digest, plan, setting
from results import PUBLISHED, paper_accuracy
from tiny import FOLDER, TINY


TABLES = ("table_1", "table_2", "table_3", "table_4", "table_5", "table_6")


def run_of(name, method, pair="resnet32x4:resnet8x4", factor=20.0):
    cells = plan(load_experiment(FOLDER / f"{name}.yaml"), pairs=[pair], factors=[factor], seeds=[1])
    return next(digest(cell.run) for cell in cells if cell.method == method)


def test_runs_that_tables_share_are_the_same_runs():
    assert run_of("table_1", "LTKD") == run_of("table_5", "Both") == run_of("figure_5", "alpha 6, beta 6")
    assert run_of("table_4", "Ours") == run_of("table_5", "Cross") != run_of("table_4", "Biased")
    assert run_of("table_1", "LTKD", factor=100.0) == run_of("table_6", "3 groups", factor=100.0)
    assert run_of("reduced", "LTKD") == run_of("reduced_figure_5", "alpha 6, beta 6")
    # Without a teacher, whichever the pair's is; and figure 4 notes more than table 1.
    assert run_of("table_2", "Student", "vgg13:vgg8") == run_of("table_2", "Student", "resnet32x4:vgg8")
    assert run_of("table_1", "LTKD") != run_of("figure_4", "LTKD")


def test_every_line_of_before_is_a_run_of_today():
    """The results of the folder were written by `reproduce.py`; each is found by what its experiment plans now."""
    planned = {}
    for path in experiment_files():
        experiment = load_experiment(path)
        planned[experiment.name] = {digest(cell.run) for cell in plan(experiment, seeds=[0, 1, 2])}
    lines = [json.loads(line) for path in (FOLDER / "results").glob("red*") for line in path.read_text().splitlines()]
    assert len(lines) == 142
    for line in lines:
        assert digest(line["run"]) in planned[line["recipe"]], (line["recipe"], line["method"])
    # So that teachers of before are found: the name of a folder that reproduce.py left.
    assert digest(lines[0]["run"]) == OLD_DIGEST == digest({**lines[0]["run"], "training": preset(lines[0]["run"])})


OLD_DIGEST = "f3bbd7b6067d33da"


def preset(run):
    return {"preset" if name == "recipe" else name: value for name, value in run["training"].items()}


def test_experiments_have_what_the_paper_shows():
    for table in TABLES:
        experiment, published = load_experiment(FOLDER / f"{table}.yaml"), PUBLISHED[table]
        assert experiment.pairs == [f"{p['teacher']}:{p['student']}" for p in published["pairs"]]
        factors = published.get("imbalance_factors") or [published["imbalance_factor"]]
        assert experiment.imbalance_factors == factors and experiment.seeds == [0, 1, 2]
        shown = [m for m in experiment.methods if paper_accuracy(table, experiment.pairs[0], factors[0], m)]
        left_out = ["KD"] if table == "table_1" else []  # a method more than the paper's Table 1
        assert shown == [m for m in experiment.methods if m not in left_out]
        assert experiment.data["benchmark"] == f"{published['dataset']}_lt"


def test_training_arguments_win_in_this_order():
    values = {
        **TINY,
        "training": {"learning_rate": 1, "weight_decay": 1},
        "teacher_training": {"learning_rate": 2},
        "student_training": {"learning_rate": 3},
        "training_of_students": {"resnet8": {"learning_rate": 4}},
        "methods": {"A": {"loss": "ce"}, "B": {"loss": "kd", "training": {"learning_rate": 5}}},
        "pairs": ["resnet14:resnet8", "resnet14:resnet20"],
        "seeds": [0],
    }
    cells = plan(make_experiment(values, "own", FOLDER))
    rates = [(cell.method, cell.run["model"], cell.run["training"]["learning_rate"]) for cell in cells]
    students = [("A", "resnet8", 4), ("B", "resnet8", 5), ("A", "resnet20", 3), ("B", "resnet20", 5)]
    assert rates == [("Teacher", "resnet14", 2), *students]
    assert {cell.run["training"]["weight_decay"] for cell in cells} == {1}
    cells = plan(make_experiment(values, "own", FOLDER), {"learning_rate": 6}, methods=["B"])
    assert [cell.run["training"]["learning_rate"] for cell in cells] == [6, 6, 6]


def test_table_1_trains_small_students_at_the_rate_of_mdistiller():
    cells = plan(load_experiment(FOLDER / "table_1.yaml"), seeds=[0])
    rates = {cell.run["model"]: cell.run["training"]["learning_rate"] for cell in cells}
    assert {name for name, rate in rates.items() if rate == 0.01} == {"shufflenet_v1", "mobilenet_v2"}
    assert set(rates.values()) == {0.05, 0.01}


def test_a_given_teacher_is_not_trained():
    cells = plan(make_experiment({**TINY, "pairs": ["me/teacher:resnet8"], "seeds": [0]}, "own", FOLDER))
    assert [cell.method for cell in cells] == ["Student", "LTKD", "ReviewKD"]
    assert {cell.run["pixels_of"] for cell in cells} == {"me/teacher"}
    given = {"role": "given", "model": "me/teacher", "data": TINY["data"], "imbalance_factor": 4.0}
    assert [cell.run["teacher"] for cell in cells] == [None, given, given]


def test_a_teacher_with_another_cross_entropy_is_another_teacher():
    methods = {"LTKD": {"loss": "ltkd"}, "From a balanced one": {"loss": "ltkd", "teacher_ce": "balanced_softmax"}}
    cells = plan(make_experiment({**TINY, "methods": methods}, "own", FOLDER), seeds=[0])
    assert [cell.method for cell in cells] == ["Teacher", "Teacher, balanced_softmax", *methods]
    plain, balanced, *students = [cell.run for cell in cells]
    assert {**plain, "arguments": {"ce": "balanced_softmax"}} == balanced
    assert [student["teacher"] for student in students] == [plain, balanced]


def test_a_seed_has_the_teacher_and_the_images_of_its_draw():
    values = {**TINY, "seeds": [0, 1, 2], "teacher_seeds": [0, 5]}
    cells = plan(make_experiment(values, "own", FOLDER), methods=["Student", "LTKD"])
    teachers, students = [c.run for c in cells if c.pair is None], [c.run for c in cells if c.pair]
    assert [(run["seed"], run.get("draw")) for run in teachers] == [(0, None), (5, 5)]
    draws = [(run["seed"], run.get("draw"), run["teacher"]) for run in students if run["loss"] == "ltkd"]
    assert draws == [(0, None, teachers[0]), (1, 5, teachers[1]), (2, None, teachers[0])]
    assert [run.get("draw") for run in students if run["loss"] == "ce"] == [None, 5, None]
    assert len({setting(run) for run in students}) == 2 and len({setting(run) for run in teachers}) == 1
    one_teacher = plan(make_experiment({**TINY, "seeds": [0]}, "own", FOLDER), methods=["Student", "LTKD"])
    assert {digest(cell.run) for cell in one_teacher} <= {digest(cell.run) for cell in cells}  # lines of before count


def test_a_student_alone_needs_no_teacher():
    methods = {"Student": {"loss": "ce"}}
    (cell,) = plan(make_experiment({**TINY, "pairs": ["resnet8"], "methods": methods, "seeds": [0]}, "own", FOLDER))
    assert (cell.pair, cell.teacher, cell.run["teacher"]) == ("resnet8", None, None)


@pytest.mark.parametrize("pair", ["resnet8", "a:b:c", ":resnet8", "resnet8:"])
def test_a_pair_must_be_two_networks(pair):
    with pytest.raises(ValueError, match="must be two networks, e.g. resnet32x4:resnet8x4"):
        plan(make_experiment({**TINY, "pairs": [pair]}, "own", FOLDER))


def test_a_schedule_is_the_same_run_in_a_line_that_was_read_back():
    """Its epochs are numbers in a YAML file and strings in a line, which sort otherwise."""
    run = {"loss": "kd", "arguments": {"temperature": {0: 4.0, 5: 2.0, 10: 1.0}}}
    assert digest(json.loads(json.dumps(run))) == digest(run)
