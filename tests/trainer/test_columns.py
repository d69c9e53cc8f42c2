"""Networks get the columns that their forward names, and no others."""

import pytest
import torch
from datasets import Dataset
from test_trainer import QUIET
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    TrainingArguments,
    set_seed,
)

from hf_ltkd import CrossEntropyLoss, DistillationTrainer, KDLoss, kd_loss
from hf_ltkd.trainer.columns import forward_names, inputs_of, unused_columns


SIZE = {"vocab_size": 20, "num_labels": 3}


def teacher(model_class=BertForSequenceClassification):
    set_seed(1)
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, **SIZE)
    return model_class(config).eval()


def student():
    set_seed(2)
    dropout = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    config = DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=16, **SIZE, **dropout)
    return DistilBertForSequenceClassification(config)


def pairs(**columns):
    """Two sentences each, which only `token_type_ids` tells apart."""
    ids = [[2, 5 + i, 3, 6, 7, 3] for i in range(8)]
    types = [[0, 0, 0, 1, 1, 1] if i % 2 else [0, 0, 0, 0, 0, 1] for i in range(8)]
    data = {
        "input_ids": ids,
        "attention_mask": [[1] * 6] * 8,
        "token_type_ids": types,
        "label": [i % 3 for i in range(8)],
    }
    return Dataset.from_dict({**data, **columns})


def trainer_for(tmp_path, student, teacher, data, loss=None, **args):
    arguments = {"output_dir": tmp_path, "max_steps": 1, "logging_steps": 1, "save_strategy": "no", **QUIET, **args}
    loss = loss or KDLoss(ce_weight=0.0)
    return DistillationTrainer(
        student, teacher, TrainingArguments(**arguments), distillation_loss=loss, train_dataset=data
    )


class Passes(BertForSequenceClassification):
    """Names nothing itself."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


@pytest.mark.parametrize("model_class", [BertForSequenceClassification, Passes])
@pytest.mark.parametrize("removes", [True, False])
def test_the_teacher_gets_its_columns_and_nobody_the_others(tmp_path, removes, model_class):
    """The logged loss is that of the teacher with `token_type_ids`, though the student knows none."""
    data, asked = pairs(number=list(range(8)), weight=[0.5] * 8), {"student": set(), "teacher": set()}
    models = {"student": student(), "teacher": teacher(model_class)}
    for name, model in models.items():
        model.register_forward_pre_hook(lambda m, a, k, name=name: asked[name].update(k), with_kwargs=True)
    trainer = trainer_for(tmp_path, *models.values(), data, remove_unused_columns=removes)
    order = torch.utils.data.SequentialSampler(data)
    trainer._get_train_sampler = lambda *args: order
    batch = {name: torch.tensor(data[name]) for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        expected = teacher()(**batch).logits
        batch.pop("token_type_ids")
        expected = kd_loss(student().train()(**batch).logits, expected)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert asked == {
        "student": {"input_ids", "attention_mask"},
        "teacher": set(data.column_names) - {"number", "weight", "label"},
    }


def test_columns_without_effect_are_named_once(tmp_path, caplog):
    trainer = trainer_for(
        tmp_path, student(), teacher(), pairs(weight=[0.5] * 8), remove_unused_columns=False, max_steps=3
    )
    trainer.train()
    messages = [record.message for record in caplog.records if "have no effect" in record.message]
    assert messages == ["Nobody takes these columns of the batch, which have no effect: weight."]


class ByGroup(KDLoss):
    """KD that notes which columns it is given."""

    seen: list = []

    def distillation_terms(self, student_outputs, teacher_outputs, labels, step_statistics, *, group_id, number=None):
        self.seen.append((group_id.tolist(), number))
        return super().distillation_terms(student_outputs, teacher_outputs, labels, step_statistics)


@pytest.mark.parametrize("removes", [True, False])
def test_the_loss_gets_the_columns_that_it_names(tmp_path, caplog, removes):
    data, loss = pairs(group_id=list(range(8)), weight=[0.5] * 8), ByGroup()
    loss.seen = []
    trainer = trainer_for(tmp_path, student(), teacher(), data, loss, remove_unused_columns=removes)
    trainer.train()
    ((group_id, number),) = loss.seen
    assert sorted(group_id) == list(range(8)) and number is None
    assert ("effect: weight." in caplog.text) != removes and "group_id" not in caplog.text.replace("ByGroup", "")
    with pytest.raises(ValueError, match="ByGroup reads the column 'group_id', which the batch does not have"):
        trainer_for(tmp_path, student(), teacher(), pairs(), loss).train()


def test_predictions_without_labels_are_logits_alone(tmp_path):
    data = pairs(number=list(range(8))).remove_columns("label")
    trainer = trainer_for(tmp_path, student(), teacher(), pairs(), remove_unused_columns=False)
    predictions = trainer.predict(data).predictions
    batch = {name: torch.tensor(data[name]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(predictions), student().eval()(**batch).logits)


class Closed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, pixel_values, *, scale=1.0):
        return self.layer(pixel_values * scale)


class Open(Closed):
    """Whatever it hands on, nobody else knows."""

    def forward(self, **kwargs):
        return super().forward(kwargs["pixel_values"], scale=kwargs["scale"])


def test_names():
    assert forward_names(Closed()) == {"pixel_values", "scale"} and forward_names(Open()) is None
    assert "token_type_ids" in forward_names(Passes.__new__(Passes)) and "labels" in forward_names(student())
    batch = {"pixel_values": 1, "scale": 2, "other": 3, "labels": 4}
    assert inputs_of(Closed(), batch) == {"pixel_values": 1, "scale": 2}
    assert inputs_of(Open(), batch) == {"pixel_values": 1, "scale": 2, "other": 3}
    assert unused_columns({**batch, "teacher_scale": 5, "teacher_logits": 6}, [Closed()]) == ["other"]
    assert unused_columns(batch, [Closed(), Open()]) == []
    assert unused_columns({**batch, "group_id": 7}, [Closed()], {"group_id", "sample_weights"}) == ["other"]
    assert inputs_of(Closed(), {**batch, "scale": 2}, {"scale", "other"}) == {"pixel_values": 1, "scale": 2}
    assert inputs_of(Open(), batch, {"other"}) == {"pixel_values": 1, "scale": 2}


def test_a_plain_module_that_takes_anything_gets_everything(tmp_path):
    rows = [{"pixel_values": torch.randn(4), "scale": torch.tensor([2.0]), "labels": i % 3} for i in range(8)]
    arguments = TrainingArguments(output_dir=tmp_path, max_steps=1, remove_unused_columns=False, **QUIET)
    trainer = DistillationTrainer(Open(), args=arguments, distillation_loss=CrossEntropyLoss(), train_dataset=rows)
    assert trainer.train().global_step == 1
