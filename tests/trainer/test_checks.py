"""What does not fit is refused before training, by one sentence that names it."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from test_trainer import GROUPS, QUIET, images, network, trainer_for
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_ltkd import (
    CrossEntropyLoss,
    DistillationTrainer,
    DistillationTrainingArguments,
    KDLoss,
    LTKDLoss,
    create_model,
)


def make(tmp_path, student, teacher=None, loss=None):
    arguments = DistillationTrainingArguments(tmp_path, **QUIET)
    return DistillationTrainer(student, teacher, arguments, distillation_loss=loss or CrossEntropyLoss())


GPT2 = GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
BERT = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
T5 = T5Config(vocab_size=20, d_model=8, d_kv=8, d_ff=8, num_layers=1, num_heads=1, decoder_start_token_id=0)


def test_models_that_write_text_with_a_decoder_of_their_own_are_refused_by_name(tmp_path):
    model = T5ForConditionalGeneration(T5)
    with pytest.raises(ValueError, match="The student is a T5ForConditionalGeneration, which writes text"):
        make(tmp_path, model)
    with pytest.raises(ValueError, match="The teacher is a T5ForConditionalGeneration, which writes text"):
        make(tmp_path, nn.Linear(2, 20), model, KDLoss())


@pytest.mark.parametrize("model", [GPT2ForSequenceClassification(GPT2), BertForMaskedLM(BERT), GPT2LMHeadModel(GPT2)])
def test_classifiers_and_language_models_are_not(tmp_path, model):
    make(tmp_path, model)


class OneOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, 1)

    def forward(self, pixel_values):
        return self.layer(pixel_values.flatten(1))


def test_one_class_is_refused(tmp_path):
    message = "The student has 1 output class, and every loss on it is 0: create it with num_labels of 2 or more"
    with pytest.raises(ValueError, match=message):
        make(tmp_path, create_model("resnet8", 1), create_model("resnet8", 1), KDLoss())
    with pytest.raises(ValueError, match=message):  # of a plain module only its logits tell
        trainer_for(tmp_path, model=OneOutput(), loss=CrossEntropyLoss()).train()


# ---- Label smoothing ----


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), KDLoss(), LTKDLoss(GROUPS)])
def test_label_smoothing_is_that_of_the_student_s_own_cross_entropy(tmp_path, loss):
    rows = images(8).__getitems__(range(8))
    batch = {name: torch.stack([row[name] for row in rows]) for name in ("pixel_values", "labels")}
    logs = []
    for amount in (0.3, 0.0):  # the second shows that a loss remembers no smoothing
        args = {"label_smoothing_factor": amount, "max_steps": 1, "logging_steps": 1}
        trainer = trainer_for(tmp_path, loss=loss, args=args, train_dataset=rows)
        with torch.no_grad():
            log_p = trainer.model.train()(batch["pixel_values"]).logits.double().log_softmax(1)
        trainer.model.load_state_dict(network(1).state_dict())
        target = (1 - amount) * F.one_hot(batch["labels"], 6) + amount / 6
        trainer.train()
        logs.append(trainer.state.log_history[0])
        assert logs[-1]["cross_entropy"] == pytest.approx(-(target * log_p).sum(1).mean().item(), rel=1e-5)
    for name in {"kd", "cross_group", "within_group"} & logs[0].keys():
        assert logs[0][name] == pytest.approx(logs[1][name], rel=1e-6)


def test_label_smoothing_of_another_cross_entropy_is_refused(tmp_path):
    loss = KDLoss(ce="balanced_softmax", class_counts=GROUPS.class_counts)
    with pytest.raises(
        ValueError, match="label_smoothing_factor=0.1 goes with the plain cross-entropy, not with ce='bal"
    ):
        trainer_for(tmp_path, loss=loss, args={"label_smoothing_factor": 0.1})


# ---- Weights that share memory ----


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(192, 6), nn.Linear(192, 6), nn.Conv2d(3, 3, 3, padding=1)
        self.b.weight = self.a.weight
        self.register_buffer("view", self.c.weight.data[0])
        self.c.to(memory_format=torch.channels_last)

    def forward(self, pixel_values):
        pixel_values = self.c(pixel_values).flatten(1)
        return self.a(pixel_values) + self.b(pixel_values)


def test_tied_weights_of_a_plain_module_are_saved_and_resumed(tmp_path):
    args = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    torch.manual_seed(0)
    start = Tied().state_dict()
    trained = []
    for checkpoint in (None, str(tmp_path / "checkpoint-2")):
        student = Tied()
        student.load_state_dict(start)
        trainer = trainer_for(tmp_path, model=student, args=args)
        trainer.train(resume_from_checkpoint=checkpoint)
        trained.append(trainer.model.state_dict())
    trainer.save_model()
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == start.keys() and torch.equal(saved["a.weight"], saved["b.weight"])
    for name, value in saved.items():
        assert torch.equal(value, trained[0][name]) and torch.equal(value, trained[1][name]), name
    assert not torch.equal(saved["a.weight"], start["a.weight"])
    assert student.b.weight is student.a.weight


def test_a_best_checkpoint_by_what_is_not_measured_is_refused(tmp_path):
    args = {"metric_for_best_model": "eval_tail", "eval_strategy": "epoch"}
    with pytest.raises(ValueError, match="metric_for_best_model='eval_tail' is not measured: use one of loss, cross_"):
        trainer_for(tmp_path, args=args)
    for name, greater in (("macro_f1", True), ("eval_cross_entropy", False), ("expected_calibration_error", False)):
        args["metric_for_best_model"] = name
        assert trainer_for(tmp_path, args=args).args.greater_is_better is greater
    with pytest.raises(
        ValueError, match="early_stopping_patience=2 has nothing to watch: set eval_strategy and metric"
    ):
        trainer_for(tmp_path, args={"early_stopping_patience": 2})
    with pytest.raises(
        ValueError, match="early_stopping_patience=0 is not valid: it must be a whole number, 1 or more"
    ):
        trainer_for(tmp_path, args={**args, "early_stopping_patience": 0})
