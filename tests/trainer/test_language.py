"""Language models: shifted labels, a chunk of tokens at a time, perplexity by group."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from helpers import ONE_STEP
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForTokenClassification,
    BertLMHeadModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    XLNetConfig,
    XLNetLMHeadModel,
    set_seed,
)

from hf_ltkd import (
    ClassGroups,
    CrossEntropyLoss,
    DistillationTrainer,
    DistillationTrainingArguments,
    DKDLoss,
    GKLLoss,
    KDLoss,
    LTKDLoss,
    ReviewKDLoss,
    group_perplexity,
    kd_loss,
    ltkd_loss,
    token_counts,
)
from hf_ltkd.trainer import language


VOCABULARY = 40
COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
LLAMA = COMMON | {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 16,
                  "max_position_embeddings": 32, "head_dim": 8}  # fmt: skip
GPT2 = COMMON | {"n_positions": 32, "n_embd": 16, "n_head": 2, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
OPT = COMMON | {"hidden_size": 16, "num_attention_heads": 2, "ffn_dim": 16, "max_position_embeddings": 32,
                "word_embed_proj_dim": 8, "dropout": 0}  # fmt: skip
BERT = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16,
        "max_position_embeddings": 32, "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}  # fmt: skip
CAUSAL = {
    "gpt2": lambda layers: GPT2LMHeadModel(GPT2Config(n_layer=layers, **GPT2)),
    "llama": lambda layers: LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, **LLAMA)),
    "qwen2": lambda layers: Qwen2ForCausalLM(Qwen2Config(num_hidden_layers=layers, **LLAMA)),
    "gemma2": lambda layers: Gemma2ForCausalLM(Gemma2Config(num_hidden_layers=layers, **LLAMA)),
    "opt": lambda layers: OPTForCausalLM(OPTConfig(num_hidden_layers=layers, **OPT)),
}


def network(name="gpt2", layers=1, seed=1):
    """A tiny model that is sure of something: a flat teacher has nothing to teach."""
    set_seed(seed)
    model = CAUSAL[name](layers)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(10)
    return model


def sentences(num_examples=32):
    """Texts of 3 to 12 tokens, some of them not to be learned."""
    rng = np.random.default_rng(0)
    ids = [rng.choice(np.arange(1, 30), 3 + i * 7 % 10, p=np.arange(29, 0, -1) / 435) for i in range(num_examples)]
    labels = [np.where(rng.random(len(row)) < 0.2, -100, row) for row in ids]
    return [{"input_ids": row.tolist(), "labels": some.tolist()} for row, some in zip(ids, labels, strict=True)]


def padded(rows, left=False):
    longest = max(len(row["input_ids"]) for row in rows)

    def fill(values, value):
        missing = longest - len(values)
        return torch.tensor([value] * missing * left + [*values] + [value] * missing * (not left))

    columns = {"input_ids": 0, "labels": -100}
    batch = {name: torch.stack([fill(row[name], value) for row in rows]) for name, value in columns.items()}
    batch["attention_mask"] = torch.stack([fill([1] * len(row["input_ids"]), 0) for row in rows])
    return batch


ROWS = sentences()
COUNTS = token_counts(Dataset.from_list(ROWS), VOCABULARY)
GROUPS = ClassGroups.from_token_counts(COUNTS)
LOSSES = {
    "ltkd": lambda: LTKDLoss(GROUPS, alpha=1.0, beta=1.0, temperature=2.0),
    "ltkd_momentum": lambda: LTKDLoss(GROUPS, group_mass_momentum=0.5, ce="balanced_softmax"),
    "kd": lambda: KDLoss(temperature=2.0),
    "dkd": lambda: DKDLoss(temperature=2.0),
    "gkl": lambda: GKLLoss(GROUPS, beta=0.01),
    "ce": lambda: CrossEntropyLoss(),
}


def trainer_for(folder, loss, student=None, teacher=None, rows=ROWS, collator=padded, **arguments):
    arguments = {"per_device_train_batch_size": 32, "per_device_eval_batch_size": 5, **ONE_STEP, **arguments}
    return DistillationTrainer(
        student or network(),
        (teacher or network(layers=2, seed=2)) if loss.needs_teacher else None,
        DistillationTrainingArguments(str(folder), **arguments),
        distillation_loss=loss,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=collator,
        compute_metrics=group_perplexity(GROUPS),
    )


def in_chunks(monkeypatch, tokens):
    monkeypatch.setattr(language, "LOGITS_AT_ONCE", tokens * VOCABULARY + 1)


# ---- What is compared ----


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("name", CAUSAL)
def test_loss_is_the_models_own(tmp_path, monkeypatch, name, left):
    """`eval_loss` is what the model says of itself, and the first step's loss what the formulas give of its logits."""
    in_chunks(monkeypatch, 50)
    student, teacher = network(name), network(name, layers=2, seed=2)
    batch = padded(ROWS, left)
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with torch.no_grad():
        own = student.eval()(**batch)
        logits, teacher_logits = own.logits[:, :-1], teacher.eval()(**inputs).logits[:, :-1]
    counted = batch["labels"][:, 1:] != -100
    expected = own.loss + kd_loss(logits[counted], teacher_logits[counted], temperature=2.0)
    collator = lambda rows: padded(rows, left)  # noqa: E731
    arguments = {"per_device_eval_batch_size": 32}
    trainer = trainer_for(tmp_path, KDLoss(temperature=2.0), student, teacher, collator=collator, **arguments)
    assert trainer.calls.heads_are_apart == (name != "gemma2")  # which bends its logits after the head
    assert trainer.evaluate()["eval_loss"] == pytest.approx(own.loss.item(), rel=1e-6)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses == [pytest.approx(expected.item(), rel=1e-5)]
    assert not student._forward_pre_hooks and not student.get_output_embeddings()._forward_pre_hooks


def test_masked_models_are_not_shifted(tmp_path):
    def bert(seed):
        set_seed(seed)
        return BertForMaskedLM(BertConfig(num_hidden_layers=1, **BERT))

    student, batch = bert(1), padded(ROWS)
    trainer = trainer_for(tmp_path, LOSSES["ltkd"](), student, bert(2), per_device_eval_batch_size=32)
    with torch.no_grad():
        own = student.eval()(**batch)
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(own.loss.item(), rel=1e-6)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(own.loss.item()), rel=1e-5)
    trainer.train()


def test_next_token_is_learned(tmp_path):
    """As in the plain Trainer: a text in which each token says the next one."""
    rows = [{"input_ids": [(start + 3 * i) % 40 for i in range(10)]} for start in range(40)]
    rows = [{**row, "labels": row["input_ids"]} for row in rows]
    arguments = {"max_steps": 60, "learning_rate": 0.02, "optim": "adamw_torch"}
    loss = KDLoss(kd_weight=0.1)
    trainer = trainer_for(tmp_path, loss, rows=rows, teacher=network("gpt2", seed=5), **arguments)
    trainer.train()
    batch = padded(rows)
    with torch.no_grad():
        said = trainer.model.eval()(input_ids=batch["input_ids"]).logits.argmax(-1)
    assert (said[:, :-1] == batch["labels"][:, 1:]).float().mean() > 0.9


# ---- Chunks ----


@pytest.mark.parametrize("name", LOSSES)
def test_chunks_are_the_whole_batch(monkeypatch, name):
    """Value and gradient in float64, of the head's weights too, and what the loss remembers."""
    torch.manual_seed(0)
    labels = torch.randint(0, 30, (4, 9)).masked_fill(torch.rand(4, 9) < 0.3, -100)
    if name != "dkd" and name != "gkl":
        labels[0, :3] = -1  # distilled, without a cross-entropy
    start = torch.randn(4, 9, 8, dtype=torch.float64)
    results = []
    for tokens in (1000, 5):
        in_chunks(monkeypatch, tokens)
        torch.manual_seed(1)
        head, teacher_head = (nn.Linear(8, VOCABULARY).double() for _ in range(2))
        student = language.TokenOutputs(start.clone().requires_grad_(), head, VOCABULARY)
        teacher = language.TokenOutputs(start.flip(0), teacher_head.requires_grad_(False), VOCABULARY)
        loss = LOSSES[name]().double().train()
        if name == "ce":
            teacher = None
        calls = language.LanguageCalls("causal", [], False, False, nullcontext)
        terms = calls.terms(loss, student, teacher, labels, epoch=0.5)
        sum(terms.values()).backward()
        results.append((terms, student.states.grad, head.weight.grad, loss.state_dict()))
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-14)
    whole = LOSSES[name]().double().train()
    logits = [None if o is None else o.logits for o in (student, teacher)]
    expected = whole(*logits, labels, epoch=0.5)
    assert expected.keys() == terms.keys()
    torch.testing.assert_close(terms, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["ltkd", "kd"])
def test_logits_of_a_chunk_are_all_there_are(tmp_path, monkeypatch, name):
    """The heads of both models never make more than a chunk of logits, in training and in evaluation."""
    in_chunks(monkeypatch, 20)
    student, teacher = network(), network(layers=2, seed=2)
    trainer = trainer_for(tmp_path, LOSSES[name](), student, teacher, eval_with_teacher=True)
    most = []
    for model in (student, teacher):
        model.get_output_embeddings().register_forward_hook(lambda m, i, output: most.append(output.numel()))
    trainer.train()
    trainer.evaluate()
    assert len(most) > 20 and max(most) == 20 * VOCABULARY


def step(folder, name, batch_size, accumulation, tokens):
    """One step: the weights, the logs, what an evaluation says, and the number of ranks."""
    language.LOGITS_AT_ONCE = tokens * VOCABULARY + 1
    arguments = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
    if name == "kd":  # a term is a mean over a batch: of batches that are not filled up with examples of others
        arguments["per_device_eval_batch_size"] = 4
    trainer = trainer_for(folder, LOSSES[name](), eval_with_teacher=name == "kd", **arguments)
    trainer.train()
    metrics = {key: value for key, value in trainer.evaluate().items() if "_per_" not in key and "time" not in key}
    logs = {key: value for key, value in trainer.state.log_history[0].items() if key not in ("epoch", "learning_rate")}
    weights = {key: value.detach().numpy() for key, value in trainer.model.named_parameters()}
    return weights, logs, metrics, trainer.accelerator.num_processes


@pytest.mark.parametrize("name", ["ltkd", "ltkd_momentum", "kd", "ce"])
def test_one_step_is_one_batch(two_ranks, tmp_path, monkeypatch, name):
    """1 x 32, 4 x 8 accumulated and 2 ranks x 16 texts of different lengths, in chunks of any size."""
    in_chunks(monkeypatch, 1000)  # which sets it back, too
    weights, logs, metrics, _ = step(tmp_path / "one", name, 32, 1, 1000)
    start = {key: value.detach().numpy() for key, value in network().named_parameters()}
    assert max(np.abs(weights[key] - start[key]).max() for key in start) > 1e-3
    others = [step(tmp_path / "four", name, 8, 4, 11), two_ranks(step, tmp_path / "two", name, 16, 1, 13)[0]]
    assert [other[-1] for other in others] == [1, 2]
    for other_weights, other_logs, other_metrics, _ in others:
        assert other_logs == pytest.approx(logs, rel=1e-4, abs=1e-5)
        assert other_metrics == pytest.approx(metrics, rel=1e-4)
        for key, value in weights.items():
            torch.testing.assert_close(*map(torch.from_numpy, (other_weights[key], value)), rtol=1e-4, atol=1e-5)


def test_padding_and_a_batch_of_it_cost_nothing(tmp_path):
    trainer = trainer_for(tmp_path, LOSSES["ltkd"]())
    trainer.model.train()
    batch = padded(ROWS)
    fill = {"input_ids": 0, "labels": -100, "attention_mask": 0}
    longer = {name: F.pad(value, (0, 6), value=fill[name]) for name, value in batch.items()}
    torch.testing.assert_close(*(trainer.compute_loss(trainer.model, b) for b in (batch, longer)), rtol=1e-5, atol=0)
    loss = trainer.compute_loss(trainer.model, {**batch, "labels": torch.full_like(batch["labels"], -100)})
    loss.backward()
    assert loss.item() == 0 and all(p.grad is None or not p.grad.any() for p in trainer.model.parameters())


def test_logits_of_a_column(tmp_path):
    """A teacher that is a column of the dataset: `teacher_logits` `[batch, length, vocabulary]`."""
    teacher = network(layers=2, seed=2)
    losses = []
    for with_column in (False, True):
        trainer = trainer_for(tmp_path, LOSSES["ltkd"](), teacher=teacher)
        trainer.model.train()
        batch = padded(ROWS)
        if with_column:
            trainer.teacher_model = None
            with torch.no_grad():
                inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
                batch["teacher_logits"] = teacher.eval()(**inputs).logits
        losses.append(trainer.compute_loss(trainer.model, batch))
    torch.testing.assert_close(*losses)


def test_first_loss_is_ltkd_of_the_next_tokens(tmp_path):
    student, teacher, batch = network(), network(layers=2, seed=2), padded(ROWS)
    labels = batch.pop("labels")[:, 1:]
    with torch.no_grad():
        logits = [model.eval()(**batch).logits[:, :-1][labels != -100] for model in (student, teacher)]
    expected = F.cross_entropy(logits[0], labels[labels != -100])
    expected += ltkd_loss(*logits, GROUPS, alpha=1.0, beta=1.0, temperature=2.0)
    trainer = trainer_for(tmp_path, LOSSES["ltkd"](), student, teacher)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)


# ---- Evaluation ----


@pytest.mark.parametrize("arguments", [{}, {"batch_eval_metrics": True}, {"eval_do_concat_batches": False}], ids=str)
def test_perplexity_by_group(tmp_path, arguments):
    """Against a plain loop over the tokens, whatever the batches, and nothing of the vocabulary's size is kept."""
    trainer = trainer_for(tmp_path, KDLoss(), **arguments)
    losses = [[] for _ in range(3)]
    for row in ROWS:
        ids, labels = torch.tensor([row["input_ids"]]), row["labels"]
        with torch.no_grad():
            log_probs = trainer.model.eval()(input_ids=ids).logits[0].double().log_softmax(-1)
        for place in range(1, len(labels)):
            if labels[place] != -100:
                losses[GROUPS.group_of_class[labels[place]]].append(-log_probs[place - 1, labels[place]].item())
    metrics = trainer.evaluate()
    everything = sum(losses, [])
    assert metrics["eval_loss"] == pytest.approx(np.mean(everything), rel=1e-6)
    assert metrics["eval_perplexity"] == pytest.approx(np.exp(np.mean(everything)), rel=1e-6)
    for name, some in zip(GROUPS.names, losses, strict=True):
        assert metrics[f"eval_{name}_loss"] == pytest.approx(np.mean(some), rel=1e-6)
        assert metrics[f"eval_{name}_perplexity"] == pytest.approx(np.exp(np.mean(some)), rel=1e-6)
    predictions = trainer.predict(ROWS).predictions
    assert np.shape(predictions[0] if isinstance(predictions, list) else predictions)[-1] <= 12


def test_student_folder_holds_groups_and_card(tmp_path):
    trainer = trainer_for(tmp_path, KDLoss())
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    trainer.create_model_card()
    assert ClassGroups.from_pretrained(tmp_path) == GROUPS
    assert "perplexity" in (tmp_path / "distillation.json").read_text()
    again = trainer_for(tmp_path, KDLoss(), student=GPT2LMHeadModel.from_pretrained(tmp_path), teacher=None)
    assert again.evaluate()["eval_loss"] == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-6)


def test_teacher_by_its_folder(tmp_path):
    for name, model_class in (("gpt2", GPT2LMHeadModel), ("llama", LlamaForCausalLM)):
        network(name).save_pretrained(tmp_path / name)
        trainer = trainer_for(tmp_path, KDLoss(), network(name), str(tmp_path / name))
        assert type(trainer.teacher_model) is model_class


# ---- Refusals ----


def other_vocabulary():
    return GPT2LMHeadModel(GPT2Config(**GPT2 | {"vocab_size": 48}, n_layer=1))


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "message"),
    [
        (KDLoss(), network, lambda: BertForTokenClassification(BertConfig(**BERT)), "teacher is a BertForToken"),
        (KDLoss(), lambda: nn.Linear(2, 40), network, "The teacher is a GPT2LMHeadModel and the student a Linear"),
        (KDLoss(), network, lambda: BertForMaskedLM(BertConfig(**BERT)), "teacher is a BertForMaskedLM"),
        (KDLoss(), network, lambda: [network(), network()], "Several teachers are classifiers .* a GPT2LMHeadModel"),
        (KDLoss(), network, other_vocabulary, r"has 48 tokens, the student's 40: .*resize_token_embeddings\(40\)"),
        (ReviewKDLoss(), network, network, "ReviewKDLoss compares hidden states, and a GPT2LMHeadModel"),
        (LTKDLoss(ClassGroups.from_counts([3, 2, 1])), network, network, "are for 3 classes, the student has 40"),
        (CrossEntropyLoss(), lambda: XLNetLMHeadModel(XLNetConfig(vocab_size=40, d_model=16, n_layer=1, n_head=2,
         d_inner=16)), None, "The loss of a XLNetLMHeadModel is .* where the cross-entropy of the next token"),
    ],
)  # fmt: skip
def test_models_that_do_not_fit(tmp_path, loss, student, teacher, message):
    with pytest.raises(ValueError, match=message):
        trainer_for(tmp_path, loss, student(), teacher and teacher())


def test_labels_that_are_no_tokens(tmp_path):
    trainer = trainer_for(tmp_path, KDLoss())
    batch = padded(ROWS)
    with pytest.raises(ValueError, match=r"labels of a language model have the shape \(32,\)"):
        trainer.compute_loss(trainer.model, {**batch, "labels": batch["labels"][:, 0]})
    with pytest.raises(ValueError, match="The batch holds the token 40, and the vocabulary of GPT2LMHeadModel has 40"):
        trainer.compute_loss(trainer.model, {**batch, "input_ids": batch["input_ids"].clamp_min(40)})
    with pytest.raises(ValueError, match="The batch has no 'labels'"):
        trainer.compute_loss(trainer.model, {name: v for name, v in batch.items() if name != "labels"})


def test_a_decoder_of_bert_is_one(tmp_path):
    """It is a causal model by its place in transformers' mapping, not by its name."""
    set_seed(1)
    student = BertLMHeadModel(BertConfig(is_decoder=True, num_hidden_layers=1, **BERT))
    trainer_for(tmp_path, CrossEntropyLoss(), student).train()
