"""The Python of the room's README runs as it is printed, and its table of losses is complete."""

import re
from pathlib import Path

import pytest
import torch
from losses.cases import GROUPS
from one_step import tiny_vit
from test_trainer import GROUPS as SIX
from test_trainer import images, trainer_for
from transformers.modeling_outputs import ImageClassifierOutput

import hf_ltkd
from hf_ltkd import DistillationLoss, create_loss
from hf_ltkd.losses import LOSSES


README = (Path(hf_ltkd.__file__).parent / "losses" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def names_of_the_page():
    namespace: dict = {}
    for block in BLOCKS:
        exec(block, namespace)
    return namespace


@pytest.fixture
def names():
    return names_of_the_page()


def test_a_loss_of_ones_own(names, monkeypatch):
    monkeypatch.setitem(LOSSES, "mse", names["LogitMSELoss"])
    loss = create_loss("mse", GROUPS, mse_weight=2.0, ce="balanced_softmax")
    student, teacher = (ImageClassifierOutput(logits=logits) for logits in torch.randn(2, 4, 10))
    terms = loss(student, teacher, torch.tensor([1, 2, -100, 3]))
    valid = torch.tensor([0, 1, 3])
    assert list(terms) == ["balanced_softmax", "logit_mse"]
    torch.testing.assert_close(terms["logit_mse"], 2 * (student.logits - teacher.logits)[valid].square().mean())
    assert loss.hyper_parameters()["mse_weight"] == 2.0


EXAMPLES = {
    "StandardizedLTKDLoss": ["cross_entropy", "cross_group", "within_group"],
    "ProjectedFeaturesLoss": ["cross_entropy", "features"],
    "EvenTeacherLoss": ["cross_entropy", "even_kd"],
}


def one_step(folder, batch_size, accumulation):
    """By example: what is trained in a step of 32, and its terms; and the built-in form of the first."""
    results = {}
    losses = {name: create_loss_of(name) for name in EXAMPLES}
    losses["ltkd"] = hf_ltkd.LTKDLoss(SIX, standardize=True)
    for name, loss in losses.items():
        args = {"max_steps": 1, "logging_steps": 1, "per_device_train_batch_size": batch_size}
        args |= {"gradient_accumulation_steps": accumulation}
        torch.manual_seed(0)  # of the projection
        models = {"model": tiny_vit(1), "teacher": tiny_vit(2, confidence=100.0)}
        trainer = trainer_for(f"{folder}/{name}", loss=loss, args=args, **models)
        trainer.train()
        trained = {**dict(trainer.model.named_parameters()), **{f"loss.{n}": p for n, p in loss.named_parameters()}}
        logs = {key: value for key, value in trainer.state.log_history[0].items() if key in EXAMPLES.get(name, ())}
        results[name] = {n: p.detach().numpy() for n, p in trained.items()}, logs
    return results


def create_loss_of(name):
    loss = names_of_the_page()[name]
    return loss.from_groups(SIX) if name != "ProjectedFeaturesLoss" else loss()


def test_the_worked_examples_train_and_a_step_is_one_batch(two_ranks, tmp_path):
    expected = one_step(tmp_path / "1x32", 32, 1)
    assert {name: list(logs) for name, (_, logs) in expected.items() if name in EXAMPLES} == EXAMPLES
    others = [one_step(tmp_path / "4x8", 8, 4), *two_ranks(one_step, tmp_path / "2x16", 16, 1)]
    for found in others:
        for name, (weights, logs) in expected.items():
            assert found[name][1] == pytest.approx(logs, rel=1e-4), name
            for key, value in weights.items():
                actual = torch.from_numpy(found[name][0][key])
                torch.testing.assert_close(actual, torch.from_numpy(value), rtol=1e-4, atol=2e-6, msg=f"{name} {key}")
    ours, built_in = expected["StandardizedLTKDLoss"][0], expected["ltkd"][0]
    for key, value in built_in.items():
        torch.testing.assert_close(*map(torch.from_numpy, (ours[key], value)), rtol=1e-4, atol=2e-6, msg=key)


def test_the_worked_examples_by_hand(names, tmp_path):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 8, 6)
    labels = torch.arange(8) % 6
    outputs = [ImageClassifierOutput(logits=logits) for logits in (student, teacher)]
    mass = teacher.double().softmax(1).sum(0)
    even = (teacher.double() - mass.log()) / 4
    expected = 16 * (even.softmax(1) * (even.log_softmax(1) - (student.double() / 4).log_softmax(1))).sum(1).mean()
    found = names["EvenTeacherLoss"]()(*outputs, labels)["even_kd"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    loss = names["ProjectedFeaturesLoss"]()
    trainer = trainer_for(tmp_path, loss=loss, args={"max_steps": 1}, train_dataset=images())
    before = loss.projection.weight.detach().clone()
    trainer.train()
    assert not torch.equal(loss.projection.weight, before)


def test_tables():
    losses, _, contract = README.partition("| what a loss may have |")
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\w+)`", losses, flags=re.MULTILINE))
    assert rows == {name: loss.__name__ for name, loss in LOSSES.items()}
    for name in re.findall(r"^\| `(\w+)[(`]", contract, flags=re.MULTILINE):
        assert hasattr(DistillationLoss, name)
