"""YAML files: what they may say, and a loss of one's own."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from experiment import check_training, experiment_files, load_experiment
from methods import default_arguments, expand, find_loss, make_loss
from plan import digest, plan
from tiny import FOLDER, TINY

from hf_ltkd import LTKDLoss
from hf_ltkd.data import long_tailed_counts


def write(folder: Path, name="own.yaml", **values) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


# ---- Nothing is ignored in silence ----


def with_method(**method):
    return {"methods": {"A": {"loss": "ltkd", **method}}}


@pytest.mark.parametrize(
    ("values", "key", "known"),
    [
        ({"seedz": [0]}, "seedz", "pairs, methods, imbalance_factors, seeds"),
        ({"data": {"image_sise": 8}}, "image_sise", "image_size"),
        ({"data": {"data_dir": "photos"}}, "data_dir", "benchmark"),  # a flag
        ({"data": {"evaluate_on": "train"}}, "train", "test, validation"),
        ({"group_losses": {"T": 4}}, "T", "temperature"),
        ({"teacher_logits": "float64"}, "float64", "float32, float16, live"),
        (with_method(argumnets={"alpha": 1}), "argumnets", "loss, arguments"),
        (with_method(num_group=10), "num_group", "num_groups"),
        (with_method(arguments={"alhpa": 1}), "alhpa", "alpha, beta, temperature"),
        (with_method(grid={"alhpa": [1]}), "alhpa", "alpha"),
        (with_method(search={"trails": 3, "space": {"alpha": [1, 2]}}), "trails", "trials, space, metric"),
        (with_method(search={"trials": 3, "space": {"alhpa": [1, 2]}}), "alhpa", "alpha"),
        (with_method(search={"trials": 3, "space": {"alpha": [1, 2]}, "metric": "loss"}), "loss", "tail_accuracy"),
        (with_method(training={"learning_rte": 1}), "learning_rte", "learning_rate"),
        ({"training": {"learning_rte": 1}}, "learning_rte", "learning_rate"),
        ({"teacher_training": {"seed": 1}}, "seed", "but for seed and output_dir"),
        ({"training_of_students": {"resnet8": {"epochs": 1}}}, "epochs", "num_train_epochs"),
        ({"running": {"batch": 1}}, "batch", "DistillationTrainingArguments"),
        ({"methods": {"A": {"measure": "group_mass", "batchsize": 1}}}, "batchsize", "batch_size"),
        ({"tables": {"All": ["LTKD", "KD"]}}, "KD", "Student, LTKD, ReviewKD"),
        ({"trends": [["LTKD", "KD"]]}, "KD", "Student, LTKD, ReviewKD"),
        ({"trends": [["table_9", "LTKD", "Student"]]}, "table_9", "table_1, table_2"),
        ({"names_in_paper": {"tabel_1": {}}}, "tabel_1", "table_1"),
    ],
)
def test_an_unknown_key_is_refused_and_the_known_ones_named(tmp_path, values, key, known):
    with pytest.raises(ValueError, match=re.escape(repr(key))) as caught:
        load_experiment(write(tmp_path, **{**TINY, **values}))
    assert known in str(caught.value)


def test_an_unknown_key_of_the_file_below(tmp_path):
    write(tmp_path, "below.yaml", **TINY, seedz=[0])
    with pytest.raises(ValueError, match="The experiment below.yaml: there is no 'seedz'"):
        load_experiment(write(tmp_path, extends="below.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pairs: [", "own.yaml' is no YAML"),
        ("- a", "must hold lines of the form name: value"),
        ("methods: {A: {loss: ce}}", "has no pairs"),
        ("pairs: [resnet8]", "has no methods"),
        ("{pairs: resnet8, methods: {A: {loss: ce}}}", "pairs must be a list, not 'resnet8'"),
        ("{pairs: [resnet8], methods: {A: ce}}", "A of The experiment own must hold lines"),
        ("{pairs: [resnet8], methods: {A: {arguments: {}}}}", "has no loss"),
        ("{pairs: [resnet8], methods: {A: {loss: kdd}}}", "There is no loss 'kdd'"),
        ("{pairs: [resnet8], methods: {A: {measure: bias}}}", "must be measure: group_mass"),
        ("{pairs: [resnet8], methods: {A: {loss: kd, grid: {temperature: 4}}}}", "name a list of values"),
        ("{pairs: [resnet8], methods: {A: {loss: kd, search: {trials: 0, space: {}}}}}", "trials, 1 or more"),
        ("extends: nothing.yaml", "extends 'nothing.yaml', which is neither beside it nor in"),
        ("extends: own.yaml", "extends 'own.yaml', which is neither"),
    ],
)
def test_what_is_no_experiment_is_explained(tmp_path, text, message):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_experiment(tmp_path / "own.yaml")


def test_one_anywhere_extends_ours_and_takes_its_protocol_but_not_its_report(tmp_path):
    own = load_experiment(write(tmp_path, "reduced.yaml", extends="reduced.yaml", seeds=[7], methods=TINY["methods"]))
    ours = load_experiment(FOLDER / "reduced.yaml")
    assert (own.name, own.seeds, own.title, own.training) == ("reduced", [7], ours.title, ours.training)
    assert ours.trends and ours.tables and not own.trends and not own.tables


def test_recipe_is_the_old_name_of_preset(tmp_path):
    training = {**TINY["training"], "recipe": "paper"}
    del training["preset"]
    with pytest.warns(FutureWarning, match="training of The experiment own: recipe is now called preset"):
        own = load_experiment(write(tmp_path, **{**TINY, "training": training}))
    assert own.training == TINY["training"]
    assert check_training("--training", {"use_cpu": True}) == {"use_cpu": True}


# ---- Methods ----


def test_a_grid_and_a_search_are_as_many_methods():
    methods = {
        "A": {"loss": "kd", "arguments": {"ce_weight": 1}, "grid": {"temperature": [1, 4], "kd_weight": [0.5, 1]}},
        "B": {"loss": "ltkd", "search": {"trials": 2, "space": {"alpha": [1, 6]}}, "num_groups": 4},
        "C": {"loss": "ce"},
    }
    expanded = expand(methods)
    assert [*expanded] == [
        *(f"A temperature={t} kd_weight={w}" for t in (1, 4) for w in (0.5, 1)),
        *("B trial 0", "B trial 1", "C"),
    ]
    assert expanded["A temperature=4 kd_weight=0.5"] == {
        "loss": "kd",
        "arguments": {"ce_weight": 1, "temperature": 4, "kd_weight": 0.5},
    }
    search = {"space": {"alpha": [1, 6]}, "metric": "accuracy"}  # more trials are the same search
    assert expanded["B trial 1"] == {"loss": "ltkd", "num_groups": 4, "search": search, "trial": 1}
    assert expanded["C"] == {"loss": "ce"}


OWN_LOSS = """
from hf_ltkd import LTKDLoss

class Own(LTKDLoss):
    def __init__(self, groups, *, gain=3.0, **kwargs):
        super().__init__(groups, **kwargs)
        self.gain = gain

NotALoss = dict
"""


@pytest.fixture
def as_before(monkeypatch):
    """What Python has found, after a test as before it."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("methods.OF_FILES", {})


@pytest.mark.parametrize("name", ["own_loss_file.py:Own", "own_loss_module:Own"])
def test_a_loss_of_ones_own(tmp_path, name, as_before):
    """Beside the experiment, by file or by module, without a change of the package."""
    (tmp_path / f"{name.split(':')[0].removesuffix('.py')}.py").write_text(OWN_LOSS)
    values = {**TINY, "methods": {"Own": {"loss": name, "arguments": {"gain": 2, "alpha": 5}}}}
    (*_, cell) = plan(load_experiment(write(tmp_path, **values)))
    assert cell.run["loss"] == name and cell.run["teacher"] is not None
    loss = make_loss(cell.run, [9, 6, 3])
    assert (type(loss).__name__, loss.gain, loss.alpha) == ("Own", 2, 5)
    assert list(default_arguments(type(loss)))[:3] == ["gain", "alpha", "beta"]
    with pytest.raises(ValueError, match="there is no 'gian', use any of gain, alpha"):
        values["methods"]["Own"]["arguments"] = {"gian": 2}
        load_experiment(write(tmp_path, **values))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_loss_2.py:Other", "own_loss_2.py:Other': use one of ce, kd"),
        ("own_loss_2.py:NotALoss", "for a DistillationLoss of your own"),
        ("own_loss_2:NotALoss", "for a DistillationLoss of your own"),
        ("nothing.py:Own", "There is no loss 'nothing.py:Own': use one of ce, kd"),
        ("no_module:Own", "There is no loss 'no_module:Own': use one of ce, kd"),
    ],
)
def test_a_loss_that_is_not_there(tmp_path, name, message, as_before):
    (tmp_path / "own_loss_2.py").write_text(OWN_LOSS)
    with pytest.raises(ValueError, match=re.escape(message)):
        find_loss(name, tmp_path)


# ---- Those of this folder ----


@pytest.mark.parametrize("path", experiment_files(), ids=lambda path: path.stem)
def test_every_method_makes_its_loss(path, recwarn):
    experiment = load_experiment(path)
    cells = plan(experiment, seeds=[0])
    taught = [cell for cell in cells if cell.run["teacher"] or cell.pair is None]  # two pairs may share the others
    assert len({digest(cell.run) for cell in taught}) == len(taught)
    for cell in cells:
        if cell.run["role"] == "measure":
            assert cell.run["measure"] == "group_mass" and cell.run["teacher"]["role"] == "teacher"
            continue
        counts = long_tailed_counts([experiment.images_per_class] * experiment.classes, cell.imbalance_factor)
        loss = make_loss(cell.run, counts)
        values = loss.hyper_parameters()
        assert {name: values[name] for name in cell.run["arguments"]} == cell.run["arguments"]
        if isinstance(loss, LTKDLoss):
            assert loss.groups.num_groups == cell.run["num_groups"] and loss.groups.class_counts == tuple(counts)
        assert loss.needs_teacher == (cell.run["teacher"] is not None)
        assert not loss.needs_hidden_states or cell.run["teacher_logits"] == "live"
        assert bool(cell.run["published_for"]) == bool(loss.source)
