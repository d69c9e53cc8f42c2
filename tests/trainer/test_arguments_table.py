"""Every field of TrainingArguments works, is refused, or warned of, as the table of hf_ltkd/trainer/README.md says."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import transformers
from one_step import tiny_vit
from test_trainer import QUIET, images, network, trainer_for
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

import hf_ltkd.trainer
from hf_ltkd import CrossEntropyLoss, DistillationTrainer, DistillationTrainingArguments, KDLoss, ReviewKDLoss


README = Path(hf_ltkd.trainer.__file__).with_name("README.md").read_text(encoding="utf-8")


def test_the_table_holds_every_field():
    table = README.partition("## Every training argument")[2].partition("\n## ")[0]
    listed = {
        name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    names = {f.name for f in fields(DistillationTrainingArguments)}
    tested_with = re.search(r"transformers (\d+\.\d+)", table)[1]
    if transformers.__version__.startswith(f"{tested_with}."):
        assert names - listed == set()
    # Versions before or after this one have some more or less.
    assert len(names - listed) <= 5, f"new in transformers {transformers.__version__}: {names - listed}"


def weights(tmp_path, loss=None, **args):
    trainer = trainer_for(tmp_path, loss=loss, args={"max_steps": 3, "per_device_train_batch_size": 4, **args})
    trainer.train()
    return trainer, torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("plain"))[1]


@pytest.fixture(scope="module")
def adam(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("adam"), optim="adamw_torch", learning_rate=0.01)[1]


CHANGES = [
    {"per_device_train_batch_size": 8},
    {"num_train_epochs": 0.5, "max_steps": -1},
    {"max_steps": 2},
    {"learning_rate": 0.01},
    {"lr_scheduler_type": "cosine"},
    {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.04}},
    {"lr_milestones": [0.4]},
    {"lr_milestones": [0.4], "lr_decay": 0.5},
    {"warmup_steps": 2},
    {"optim": "rmsprop"},
    {"optim": "adafactor"},
    {"optim_args": "momentum=0.9"},
    {"weight_decay": 0.5},
    {"weight_decay": 0.5, "weight_decay_on_all": True},
    {"gradient_accumulation_steps": 2},
    {"max_grad_norm": 0.1},
    {"label_smoothing_factor": 0.3},
    {"bf16": True},
    {"seed": 1},
    {"data_seed": 1},
    {"train_sampling_strategy": "sequential"},
    {"accelerator_config": {"use_seedable_sampler": False}},
    {"preset": "paper"},
]


@pytest.mark.parametrize("args", CHANGES, ids=lambda args: "-".join(args))
def test_it_changes_what_is_learned(tmp_path, plain, args):
    assert not torch.equal(weights(tmp_path, **args)[1], plain)


@pytest.mark.parametrize("args", [{"adam_beta1": 0.5}, {"adam_beta2": 0.5}, {"adam_epsilon": 0.1}])
def test_it_changes_what_adam_learns(tmp_path, adam, args):
    assert not torch.equal(weights(tmp_path, optim="adamw_torch", learning_rate=0.01, **args)[1], adam)


KEEPS = [
    {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 2, "dataloader_multiprocessing_context": "fork"},
    {"logging_strategy": "epoch", "logging_first_step": True, "logging_nan_inf_filter": False, "log_level": "info"},
    {"disable_tqdm": False, "log_on_each_node": False, "log_level_replica": "error", "run_name": "a", "project": "b"},
    {"eval_strategy": "steps", "eval_steps": 1, "eval_delay": 2, "eval_on_start": True},
    {"eval_strategy": "epoch", "per_device_eval_batch_size": 3, "eval_accumulation_steps": 2},
    {"eval_use_gather_object": True, "eval_strategy": "steps", "eval_steps": 2, "include_for_metrics": ["loss"]},
    {"batch_eval_metrics": True, "eval_strategy": "steps", "eval_steps": 2},
    {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "save_only_model": True},
    {"save_strategy": "epoch", "save_on_each_node": True, "restore_callback_states_from_checkpoint": True},
    {"include_num_input_tokens_seen": "all", "torch_empty_cache_steps": 1},
    {"debug": "underflow_overflow", "use_cache": True, "remove_unused_columns": True, "ddp_timeout": 60},
    {"auto_find_batch_size": True, "enable_jit_checkpoint": False, "ignore_data_skip": True, "do_train": True},
    {"accelerator_config": {"non_blocking": True}, "label_names": ["labels"]},
    {"eval_with_teacher": True, "eval_strategy": "steps", "eval_steps": 2},
]


# Watching memory traces every allocation, which takes long.
WATCHED = pytest.param({"skip_memory_metrics": False}, marks=pytest.mark.slow)
PERSISTENT = pytest.param(  # they end five seconds after the training
    {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}, marks=pytest.mark.slow
)
OUT_OF_ORDER = pytest.param({"dataloader_num_workers": 1, "dataloader_in_order": False}, marks=pytest.mark.slow)


@pytest.mark.parametrize("args", [*KEEPS, WATCHED, PERSISTENT, OUT_OF_ORDER], ids=lambda args: "-".join(args))
def test_it_changes_nothing_that_is_learned(tmp_path, plain, args):
    trainer, found = weights(tmp_path, **args)
    assert torch.equal(found, plain)
    entries = trainer.state.log_history
    if args.get("eval_steps") == 1:
        assert [entry["step"] for entry in entries if "eval_loss" in entry] == [
            0,
            2,
            3,
        ]  # at the start, after the delay
    if "save_total_limit" in args:
        (checkpoint,) = tmp_path.glob("checkpoint-*")
        assert not (checkpoint / "optimizer.pt").exists()
        with pytest.raises(ValueError, match="no state of the optimizer, which save_only_model=True leaves out"):
            trainer.train(resume_from_checkpoint=str(checkpoint))


def test_the_schedule_by_a_metric(tmp_path):
    args = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 1, "max_steps": 4}
    args |= {"lr_scheduler_kwargs": {"patience": 0, "threshold": 1e9}, "metric_for_best_model": "loss"}
    trainer, _ = weights(tmp_path, **args, logging_steps=1)
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates[0] == 0.05 and rates[-1] < 0.05


@pytest.mark.parametrize("loss", [None, ReviewKDLoss])
def test_full_determinism_gives_the_same_twice(tmp_path, loss):
    found = [weights(tmp_path, loss=loss and loss(), full_determinism=True)[1] for _ in range(2)]
    torch.use_deterministic_algorithms(False)
    assert torch.equal(*found)


def test_drop_last(tmp_path):
    steps = [
        trainer_for(
            tmp_path,
            args={"dataloader_drop_last": drops, "max_steps": -1, "num_train_epochs": 1},
            train_dataset=images(20),
        )
        .train()
        .global_step
        for drops in (False, True)
    ]
    assert steps == [3, 2]


REFUSED = {
    "use_liger_kernel": (True, "use_liger_kernel=True cannot be used: it fuses a loss of the model's own"),
    "label_names": (["target"], "label_names=.'target'.* the losses read the column 'labels'"),
    "neftune_noise_alpha": (5.0, "neftune_noise_alpha=5.0 cannot be used: the student has no embeddings of tokens"),
    "learning_rate": (float("inf"), "learning_rate=inf is not valid: it must be a number"),
    "weight_decay": (float("nan"), "weight_decay=nan is not valid"),
    "overlap_teacher": (True, "overlap_teacher=True needs a live teacher on a GPU"),
    "gradient_checkpointing": (True, "does not support"),
}


@pytest.mark.parametrize("plain_arguments", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(tmp_path, name, plain_arguments):
    value, message = REFUSED[name]
    kind = TrainingArguments if plain_arguments else DistillationTrainingArguments
    if name not in {f.name for f in fields(kind)}:
        pytest.skip(f"{kind.__name__} has no {name}")
    with pytest.raises(ValueError, match=message):
        arguments = kind(tmp_path, max_steps=1, **{**QUIET, name: value})
        DistillationTrainer(
            network(1), network(2), arguments, distillation_loss=KDLoss(), train_dataset=images()
        ).train()


@pytest.mark.parametrize(
    "args, message",
    [
        ({"lr_milestones": [0.5], "lr_scheduler_type": "cosine"}, "are two schedules: leave one of them out"),
        ({"lr_milestones": [0.5], "lr_scheduler_kwargs": {"a": 1}}, "are two schedules"),
    ],
)
def test_two_schedules_are_refused(tmp_path, args, message):
    with pytest.raises(ValueError, match=message):
        DistillationTrainingArguments(tmp_path, **args)


WARNED = {
    "average_tokens_across_devices": (False, "examples count alike on whatever rank they are"),
    "prediction_loss_only": (True, "compute_metrics is not called"),
    "bf16_full_eval": (True, "leaves the student in bfloat16"),
    "dataloader_drop_last": (True, "whose examples are not scored"),
    "resume_from_checkpoint": ("checkpoint-3", "is for scripts; train.. starts anew"),
}


@pytest.mark.parametrize("name", WARNED)
def test_it_is_warned_of(tmp_path, name, caplog):
    value, message = WARNED[name]
    trainer_for(tmp_path, args={name: value, "max_steps": 1}).train()
    assert [r.message for r in caplog.records if r.message.startswith(name) and re.search(message, r.message)]


@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
def test_checkpointed_activations_give_the_same(tmp_path, name):
    if name not in {f.name for f in fields(TrainingArguments)}:
        pytest.skip(f"this transformers has no {name}")
    found = []
    for value in (False, True):
        trainer = trainer_for(tmp_path, model=tiny_vit(1), teacher=tiny_vit(2), args={name: value, "max_steps": 2})
        trainer.train()
        found.append(trainer.model.classifier.weight.detach())
    assert trainer.model.is_gradient_checkpointing and torch.equal(*found)


def test_noise_on_the_embeddings_of_text(tmp_path):
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, num_labels=6)
    rows = [{"input_ids": torch.tensor([2, 5, 3]), "labels": i % 6} for i in range(8)]
    found = []
    for alpha in (None, 5.0):
        torch.manual_seed(0)
        trainer = trainer_for(
            tmp_path, model=BertForSequenceClassification(config), loss=CrossEntropyLoss(), train_dataset=rows,
            args={"max_steps": 1, "neftune_noise_alpha": alpha},
        )  # fmt: skip
        torch.manual_seed(1)
        trainer.train()
        found.append(trainer.model.classifier.weight.detach().clone())
    assert not torch.equal(*found)
