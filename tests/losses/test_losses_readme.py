"""The Python of the room's README runs as it is printed, and its table of losses is complete."""

import re
from pathlib import Path

import pytest
import torch
from losses.cases import GROUPS
from transformers.modeling_outputs import ImageClassifierOutput

import hf_ltkd
from hf_ltkd import DistillationLoss, create_loss
from hf_ltkd.losses import LOSSES


README = (Path(hf_ltkd.__file__).parent / "losses" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def names():
    namespace: dict = {}
    for block in BLOCKS:
        exec(block, namespace)
    return namespace


def test_a_loss_of_ones_own(names, monkeypatch):
    monkeypatch.setitem(LOSSES, "mse", names["LogitMSELoss"])
    loss = create_loss("mse", GROUPS, mse_weight=2.0, ce="balanced_softmax")
    student, teacher = (ImageClassifierOutput(logits=logits) for logits in torch.randn(2, 4, 10))
    terms = loss(student, teacher, torch.tensor([1, 2, -100, 3]))
    valid = torch.tensor([0, 1, 3])
    assert list(terms) == ["balanced_softmax", "logit_mse"]
    torch.testing.assert_close(terms["logit_mse"], 2 * (student.logits - teacher.logits)[valid].square().mean())
    assert loss.hyper_parameters()["mse_weight"] == 2.0


def test_tables():
    losses, _, contract = README.partition("| what a loss may have |")
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\w+)`", losses, flags=re.MULTILINE))
    assert rows == {name: loss.__name__ for name, loss in LOSSES.items()}
    for name in re.findall(r"^\| `(\w+)[(`]", contract, flags=re.MULTILINE):
        assert hasattr(DistillationLoss, name)
