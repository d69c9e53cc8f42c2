"""Arguments of the loss that change over the epochs, in logs and checkpoints."""

import pytest
import torch
from test_checkpoints import make_trainer
from test_trainer import GROUPS, images

from hf_ltkd import KDLoss, LTKDLoss, Schedule, SumLoss


def scheduled(last=1.0):
    """At temperatures of their own, with one that is summed over the step."""
    falling = Schedule({0: 4.0, 2: last})
    return SumLoss(
        [LTKDLoss(GROUPS, temperature=falling), KDLoss(temperature=Schedule({1: 2.0, 1.5: 8.0}))], [1, falling]
    )


def test_values_are_logged_and_a_run_is_resumed_within_an_epoch(tmp_path):
    arguments = {"max_steps": 7, "save_total_limit": None, "data": images(24), "logging_strategy": "steps"}
    arguments |= {"logging_steps": 1, "gradient_accumulation_steps": 1}  # 3 steps an epoch
    whole = make_trainer(tmp_path, loss=scheduled(), **arguments)
    whole.train()
    logs = [entry for entry in whole.state.log_history if "loss" in entry]
    assert len(logs) == 7
    for entry in logs:
        expected = max(4 - 1.5 * entry["epoch"], 1)
        assert entry["temperature_1"] == entry["weight_2"] == pytest.approx(expected)
        terms = sum(entry[name] for name in ("cross_entropy", "cross_group", "within_group", "kd"))
        assert entry["loss"] == pytest.approx(terms, rel=1e-5)
    assert [entry["temperature_2"] for entry in logs] == pytest.approx([2, 2, 2, 6, 8, 8, 8])
    resumed = make_trainer(tmp_path, loss=scheduled(), **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[name]), name
    assert {**resumed.state.log_history[-2]} == pytest.approx({**logs[-1]}, nan_ok=True)
    with pytest.raises(ValueError, match="its loss was another one: losses .*'temperature': {'0.0': 4.0, '2.0': 2.0}"):
        make_trainer(tmp_path, loss=scheduled(2.0), **arguments).train(resume_from_checkpoint=True)
