"""Text, sound and tokens: the trainer and the losses on logits know nothing of images."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from helpers import ONE_STEP
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
    default_data_collator,
    set_seed,
)

from hf_ltkd import (
    CATKDLoss,
    ClassGroups,
    CrossEntropyLoss,
    DistillationTrainer,
    DistillationTrainingArguments,
    KDLoss,
    LTKDLoss,
    ReviewKDLoss,
    group_accuracy,
    kd_loss,
    ltkd_loss,
)


COUNTS = [60, 50, 40, 30, 20, 10]
GROUPS = ClassGroups.from_counts(COUNTS)
ALPHA, BETA, TEMPERATURE = 2.0, 3.0, 4.0
SMALL = {
    "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_labels": 6, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
NO_MASKING = {"layerdrop": 0.0, "mask_time_prob": 0.0, "activation_dropout": 0.0, "hidden_dropout": 0.0,
              "attention_dropout": 0.0, "feat_proj_dropout": 0.0, "final_dropout": 0.0}  # fmt: skip
LISTENING = {"conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2,
             "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8}  # fmt: skip
SEEING = {"patch_size": 4, "frequency_stride": 4, "time_stride": 4, "max_length": 16, "num_mel_bins": 8}
READING = {"vocab_size": 40, "max_position_embeddings": 32}


def network(model_class, layers, seed):
    set_seed(seed)
    config_class, arguments = {
        BertForSequenceClassification: (BertConfig, READING),
        BertForTokenClassification: (BertConfig, READING),
        Wav2Vec2ForSequenceClassification: (Wav2Vec2Config, LISTENING | NO_MASKING),
        ASTForAudioClassification: (ASTConfig, SEEING),
    }[model_class]
    model = model_class(config_class(num_hidden_layers=layers, **SMALL, **arguments))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "classifier" in name and parameter.ndim == 2:
                parameter.mul_(30)  # a flat teacher has nothing to teach
    return model


def student_of(model_class):
    return network(model_class, layers=1, seed=1)


def teacher_of(model_class):
    return network(model_class, layers=2, seed=2)


def sentences(num_examples=16):
    """Texts of 5 to 11 random tokens, between BERT's [CLS] and [SEP]."""
    rng = np.random.default_rng(0)
    ids = [[2, *rng.integers(5, 40, 3 + i % 7).tolist(), 3] for i in range(num_examples)]
    return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}


def labelled(num_examples=16):
    return np.random.default_rng(1).integers(0, 6, num_examples).tolist()


def texts():
    return Dataset.from_dict({**sentences(), "labels": labelled()})


def tagged_texts(num_examples=6):
    """As a tagger is trained: special tokens and some words (later pieces of a word) have no label."""
    data = sentences(num_examples)
    rng = np.random.default_rng(2)
    labels = [np.where(rng.random(len(row)) < 0.3, -100, rng.integers(0, 6, len(row))) for row in data["input_ids"]]
    for row in labels:
        row[[0, -1]] = -100
    return Dataset.from_dict({**data, "labels": [row.tolist() for row in labels]})


def sounds(*shape):
    values = np.random.default_rng(3).normal(size=(16, *shape)).astype("float32")
    return Dataset.from_dict({"input_values": values, "labels": labelled()}).with_format("torch")


def trainer_for(tmp_path, student, teacher, loss, data, collator, **arguments):
    arguments = {"per_device_train_batch_size": 16, "per_device_eval_batch_size": 16, **ONE_STEP, **arguments}
    return DistillationTrainer(
        student,
        teacher,
        DistillationTrainingArguments(str(tmp_path), **arguments),
        distillation_loss=loss,
        train_dataset=data,
        eval_dataset=data,
        data_collator=collator,
        compute_metrics=group_accuracy(GROUPS),
        processing_class=BertTokenizer(),
    )


LTKD = LTKDLoss(GROUPS, alpha=ALPHA, beta=BETA, temperature=TEMPERATURE)


@pytest.mark.parametrize("loss", [LTKD, KDLoss(temperature=TEMPERATURE)], ids=["ltkd", "kd"])
@pytest.mark.parametrize(
    ("model_class", "data", "collator"),
    [
        (BertForSequenceClassification, texts, DataCollatorWithPadding(BertTokenizer())),
        (Wav2Vec2ForSequenceClassification, lambda: sounds(400), default_data_collator),
        (ASTForAudioClassification, lambda: sounds(16, 8), default_data_collator),
    ],
    ids=["text", "waveforms", "spectrograms"],
)
def test_classifiers_of_text_and_sound(tmp_path, model_class, data, collator, loss):
    """The first step's loss is the formula's, training lowers it, and the metric is that of the student's logits."""
    data, student, teacher = data(), student_of(model_class), teacher_of(model_class)
    batch = collator([data[i] for i in range(16)])
    labels = batch.pop("labels")
    with torch.no_grad():
        logits, teacher_logits = student.eval()(**batch).logits, teacher.eval()(**batch).logits
    expected = F.cross_entropy(logits, labels)
    if loss is LTKD:
        expected += ltkd_loss(logits, teacher_logits, GROUPS, alpha=ALPHA, beta=BETA, temperature=TEMPERATURE)
    else:
        expected += kd_loss(logits, teacher_logits, temperature=TEMPERATURE)

    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    arguments = {"max_steps": 30, "learning_rate": 1e-2, "optim": "adamw_torch"}
    trainer = trainer_for(tmp_path, student, teacher, loss, data, collator, **arguments)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(expected.item(), rel=1e-4)
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    metrics = trainer.evaluate()
    with torch.no_grad():
        logits = student.eval()(**batch).logits
    assert metrics["eval_accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert metrics["eval_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert {"eval_head_accuracy", "eval_medium_accuracy", "eval_tail_accuracy"} <= set(metrics)


def test_student_folder_of_text(tmp_path):
    student = student_of(BertForSequenceClassification)
    collator = DataCollatorWithPadding(BertTokenizer())
    trainer = trainer_for(tmp_path, student, teacher_of(BertForSequenceClassification), LTKD, texts(), collator)
    trainer.train()
    trainer.save_model()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in student.state_dict().items())
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == BertTokenizer().get_vocab()
    assert ClassGroups.from_pretrained(tmp_path) == GROUPS


@pytest.mark.parametrize("loss", [ReviewKDLoss, CATKDLoss])
def test_losses_on_feature_maps_refuse_text(tmp_path, loss):
    models = student_of(BertForSequenceClassification), teacher_of(BertForSequenceClassification)
    with pytest.raises(ValueError, match="BertForSequenceClassification"):
        trainer_for(tmp_path, *models, loss(), texts(), DataCollatorWithPadding(BertTokenizer()))


@pytest.mark.parametrize(
    "model_class",
    [
        BertForSequenceClassification,
        BertForTokenClassification,
        Wav2Vec2ForSequenceClassification,
        ASTForAudioClassification,
    ],
)
def test_teacher_by_its_folder(tmp_path, model_class):
    teacher = teacher_of(model_class)
    teacher.save_pretrained(tmp_path / "teacher")
    trainer = trainer_for(tmp_path, student_of(model_class), str(tmp_path / "teacher"), KDLoss(), None, None)
    assert type(trainer.teacher_model) is model_class
    loaded = trainer.teacher_model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in teacher.state_dict().items())


# ---- One label per token ----

TAGGER = DataCollatorForTokenClassification(BertTokenizer())


def tagging_trainer(tmp_path, loss=LTKD, data=None, **arguments):
    models = student_of(BertForTokenClassification), teacher_of(BertForTokenClassification)
    return trainer_for(tmp_path, *models, loss, data or tagged_texts(), TAGGER, **arguments)


def tagged_batch():
    return TAGGER(tagged_texts().to_list())


def softmax(values):
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def plain_loss(student_rows, teacher_rows, labels):
    """Cross-entropy and Eq. 9 to 14, token by token in Python's own floats."""
    members = [[c for c in range(6) if GROUPS.group_of_class[c] == g] for g in range(3)]
    student = [softmax([z / TEMPERATURE for z in row]) for row in student_rows]
    teacher = [softmax([z / TEMPERATURE for z in row]) for row in teacher_rows]
    teacher_groups = [[sum(p[c] for c in group) for group in members] for p in teacher]
    mass = [sum(p[g] for p in teacher_groups) for g in range(3)]
    total = 0.0
    for row, p, q, p_groups, label in zip(student_rows, student, teacher, teacher_groups, labels, strict=True):
        total -= math.log(softmax(row)[label])
        scaled = [p_groups[g] / mass[g] for g in range(3)]
        for g, group in enumerate(members):
            balanced, student_group = scaled[g] / sum(scaled), sum(p[c] for c in group)
            total += TEMPERATURE**2 * ALPHA * balanced * math.log(balanced / student_group)
            for c in group:
                target = q[c] / p_groups[g]
                total += TEMPERATURE**2 * BETA * target * math.log(target / (p[c] / student_group))
    return total / len(labels)


def test_loss_of_tokens_against_a_plain_loop(tmp_path):
    trainer = tagging_trainer(tmp_path)
    batch = tagged_batch()
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = [model.eval()(**batch).logits for model in (trainer.model, trainer.teacher_model)]
    counted = labels != -100
    assert 0 < counted.sum() < labels.numel() / 2  # much of the batch is padding
    rows = [z[counted].double().tolist() for z in logits]
    expected = plain_loss(*rows, labels[counted].tolist())
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [LTKD, KDLoss(ce="balanced_softmax", class_counts=COUNTS), CrossEntropyLoss()],
    ids=["ltkd", "kd", "ce"],
)
def test_padding_changes_neither_loss_nor_gradient(tmp_path, loss):
    trainer = tagging_trainer(tmp_path, loss)
    batch = dict(tagged_batch())
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    longer = {name: F.pad(value, (0, 9), value=fill[name]) for name, value in batch.items()}
    results = []
    for inputs in (batch, longer):
        trainer.model.train().zero_grad()
        value = trainer.compute_loss(trainer.model, inputs)
        value.backward()
        results.append((value.detach(), [p.grad.clone() for p in trainer.model.parameters()]))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_a_batch_without_a_label_costs_nothing(tmp_path):
    trainer = tagging_trainer(tmp_path)
    batch = dict(tagged_batch())
    batch["labels"] = torch.full_like(batch["labels"], -100)
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or (p.grad == 0).all() for p in trainer.model.parameters())


def test_accumulated_micro_batches_weigh_by_their_labels(tmp_path):
    """Texts one by one, of different numbers of labels and one without any, are the same step as all of them."""
    data = tagged_texts().to_list()
    data[2]["labels"] = [-100] * len(data[2]["labels"])
    steps = []
    for size, accumulation in ((6, 1), (1, 6)):
        arguments = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        trainer = tagging_trainer(tmp_path, data=Dataset.from_list(data), **arguments)
        trainer.train()
        steps.append((trainer.state.log_history[0]["loss"], dict(trainer.model.named_parameters())))
    assert steps[1][0] == pytest.approx(steps[0][0], rel=1e-4)
    start = dict(student_of(BertForTokenClassification).named_parameters())
    moved = [{name: (value - start[name]).detach() for name, value in parameters.items()} for _, parameters in steps]
    assert max(value.abs().max() for value in moved[0].values()) > 1e-2
    torch.testing.assert_close(moved[1], moved[0], rtol=1e-3, atol=1e-5)


def test_evaluation_of_tokens(tmp_path):
    trainer = tagging_trainer(tmp_path)
    batch = tagged_batch()
    labels = batch.pop("labels").flatten()
    with torch.no_grad():
        logits = trainer.model.eval()(**batch).logits.flatten(0, 1)[labels != -100]
    labels = labels[labels != -100]
    metrics = trainer.evaluate()
    right = logits.argmax(1) == labels
    assert metrics["eval_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert metrics["eval_accuracy"] == pytest.approx(right.float().mean().item())
    in_tail = GROUPS.group_of_class[labels] == 2
    assert metrics["eval_tail_accuracy"] == pytest.approx(right[in_tail].float().mean().item())
