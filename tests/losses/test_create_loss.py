"""Losses by name: built-in, registered, of a module of one's own, with published values; and what is refused."""

import re
import sys
import types
import warnings

import pytest
from losses.cases import GROUPS

from hf_ltkd import DKDLoss, LTKDLoss, create_loss
from hf_ltkd.losses import LOSSES, find_loss, loss_arguments


class OwnLoss(LTKDLoss):
    def __init__(self, groups, *, steepness=2.0, **kwargs):
        super().__init__(groups, **kwargs)
        self.steepness = steepness

    def hyper_parameters(self):
        return {"steepness": self.steepness, **super().hyper_parameters()}


@pytest.mark.parametrize("name", LOSSES)
def test_every_name(name):
    loss = create_loss(name, GROUPS, ce_weight=0.5)
    assert type(loss) is LOSSES[name] and loss.ce_weight == 0.5 and loss.source == ""


def test_a_loss_of_ones_own(monkeypatch):
    module = types.ModuleType("my_package_of_losses")
    module.OwnLoss = OwnLoss
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(LOSSES, "own", OwnLoss)
    for name in ("own", "my_package_of_losses:OwnLoss"):
        loss = create_loss(name, GROUPS, steepness=3.0, alpha=1.0)
        assert type(loss) is OwnLoss and loss.groups is GROUPS
        assert loss.hyper_parameters().items() >= {"steepness": 3.0, "alpha": 1.0, "beta": 6.0}.items()


def test_published_values_and_those_that_win_over_them():
    loss = create_loss("dkd", GROUPS, pair=("vgg13", "vgg8"), temperature=2.0)
    assert (loss.beta, loss.temperature, loss.source) == (6.0, 2.0, "mdistiller, configs/cifar100/dkd")
    loss = create_loss("ltkd", GROUPS, pair=("resnet32x4", "resnet8x4"))
    assert loss.groups is GROUPS and loss.source


def test_arguments():
    assert list(loss_arguments(OwnLoss).items())[:3] == [("steepness", 2.0), ("alpha", 6.0), ("beta", 6.0)]
    for loss in LOSSES.values():
        defaults = loss.from_groups(GROUPS).hyper_parameters()
        assert {name: defaults[name] for name in loss_arguments(loss)} == loss_arguments(loss) == defaults


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("focal", {}, "There is no loss 'focal': use one of ce, kd, ltkd"),
        ("no_such_module:Loss", {}, "There is no loss 'no_such_module:Loss'"),
        ("math:Loss", {}, "There is no loss 'math:Loss'"),
        (
            "ltkd",
            {"alfa": 1},
            "LTKDLoss does not take these arguments: alfa is not known: alpha, beta, temperature, reb",
        ),
        ("kd", {"temperature": "hot"}, "temperature='hot' of KDLoss is not valid: it must be a number, such as 4"),
        ("dkd", {"pair": ("vgg13", "vgg11")}, "No hyper-parameters of DKDLoss are published for vgg13 -> vgg11"),
    ],
)
def test_what_is_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        create_loss(name, GROUPS, **arguments)


@pytest.mark.parametrize(
    "name, arguments, without_effect",
    [
        ("kd", {"tau": 4}, "tau"),
        ("cwd", {"tau": 4}, "tau"),
        ("ce", {"ce": "balanced_softmax", "tau": 2}, "tau"),
        ("ce", {"ce": "logit_adjusted", "tau": 2}, None),
        ("kd", {"prior": "student", "tau": 2}, None),
        ("ltkd", {"effective_number_beta": 0.9}, "effective_number_beta"),
        ("ltkd", {"ce": "class_balanced", "effective_number_beta": 0.9}, None),
        ("ce", {"ce": "ldam", "drw_epoch": 3, "effective_number_beta": 0.9}, None),
        ("bkd", {"effective_number_beta": 0.9}, None),  # its own
        ("kd", {"max_margin": 0.4}, "max_margin"),
        ("kd", {"ce": "logit_adjusted", "ldam_scale": 30}, "ldam_scale"),
        ("kd", {"ce": "ldam", "max_margin": 0.4, "ldam_scale": 30}, None),
        ("kd", {"ce_weight": 0, "ce": "balanced_softmax"}, "ce"),
        ("ce", {"warmup_epochs": 3}, "warmup_epochs"),
        ("ltkd", {"rebalance": False, "group_mass_momentum": 0.5}, "group_mass_momentum"),
        ("hf_ltkd:SumLoss", {"losses": [{"loss": "kd", "tau": 4}]}, "tau"),
        ("hf_ltkd:SumLoss", {"losses": [{"loss": "kd"}], "ce": "logit_adjusted", "tau": 4}, None),
        ("kd", {"tau": 1.0}, None),  # as it is anyway: values that are read back hold them all
    ],
)
def test_an_argument_without_effect_is_warned_of(name, arguments, without_effect):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loss = create_loss(name, GROUPS, **arguments)
        create_loss(name, GROUPS, **loss.hyper_parameters() if ":" not in name else arguments)
    said = [str(warning.message) for warning in caught]
    assert len(said) == (0 if without_effect is None else 2)
    beginning = rf"{without_effect}=\S+ has no effect beside the other arguments of this \w+Loss.*: leave it out"
    assert all(re.match(beginning, sentence) for sentence in said)


def test_find_loss():
    assert find_loss("ltkd") is LTKDLoss and find_loss("hf_ltkd.losses.dkd:DKDLoss") is DKDLoss


OWN = "from hf_ltkd import KDLoss\n\n\nclass Mine(KDLoss):\n    pass\n"


def test_a_loss_of_a_file_or_of_a_module_beside_it(tmp_path, monkeypatch):
    (tmp_path / "own_loss_beside.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    for name in ("own_loss_beside:Mine", "own_loss_beside.py:Mine", f"{tmp_path / 'own_loss_beside.py'}:Mine"):
        loss = create_loss(name, GROUPS, temperature=2.0)
        assert type(loss).__name__ == "Mine" and loss.temperature == 2.0
    assert type(loss) is type(create_loss("own_loss_beside.py:Mine", GROUPS))  # read once
    (tmp_path / "broken.py").write_text("class Mine(:\n")
    (tmp_path / "lacking.py").write_text("import not_installed_anywhere\n")
    for name, reason in {
        "nowhere.py:Mine": "FileNotFoundError",
        "own_loss_beside.py:Yours": "has no attribute 'Yours'",
        "broken.py:Mine": "SyntaxError",
        "lacking:Mine": "No module named 'not_installed_anywhere'",
        "math:sqrt": "",
        ":Mine": "",
    }.items():
        with pytest.raises(ValueError, match=f"There is no loss '{name}':.* file.py:Class.*{reason}"):
            create_loss(name, GROUPS)
