from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from one_step import assert_same_step, one_step
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, TrainingArguments, set_seed

from hf_ltkd import (
    ClassGroups,
    CrossEntropyLoss,
    DistillationTrainer,
    DistillationTrainingArguments,
    GKLLoss,
    ImageDataset,
    KDLoss,
    LTKDLoss,
    create_model,
    group_accuracy,
    ltkd_loss,
)


GROUPS = ClassGroups.from_counts([60, 50, 40, 30, 20, 10])
QUIET = {"report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False, "use_cpu": True}


def images(num_examples=32, seed=0, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (num_examples, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 6, (num_examples,), generator=generator)
    return ImageDataset(pixels, labels, mean=[0.5] * 3, std=[0.25] * 3, **kwargs)


def network(seed=0, num_labels=6, **kwargs):
    set_seed(seed)
    return create_model("resnet8", num_labels, image_size=8, **kwargs)


def trainer_for(tmp_path, *, model=None, teacher=None, loss=None, args=None, **kwargs):
    arguments = {"output_dir": tmp_path, "max_steps": 4, "per_device_train_batch_size": 8, "logging_steps": 2}
    arguments |= {"learning_rate": 0.05, "optim": "sgd", "save_strategy": "no"} | QUIET
    arguments |= args or {}
    kwargs = {
        "train_dataset": images(),
        "eval_dataset": images(seed=1),
        "compute_metrics": group_accuracy(GROUPS),
    } | kwargs
    if "model_init" not in kwargs:
        model = model or network(1)
    return DistillationTrainer(
        model,
        teacher or network(2),
        DistillationTrainingArguments(**arguments),
        distillation_loss=loss or LTKDLoss(GROUPS),
        **kwargs,
    )


def test_named_terms_are_logged_and_sum_to_the_loss(tmp_path):
    trainer = trainer_for(tmp_path)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 2
    for entry in logs:
        assert entry["loss"] == pytest.approx(
            entry["cross_entropy"] + entry["cross_group"] + entry["within_group"], rel=1e-5
        )
        assert entry["cross_group"] > 0 and entry["within_group"] > 0


def test_terms_sum_to_the_loss_with_an_unfinished_window(tmp_path):
    """28 examples as micro-batches of 8, 8, 8 and 4, three to a step: the second step has one alone."""
    args = {"gradient_accumulation_steps": 3, "logging_steps": 4}
    trainer = trainer_for(tmp_path, args=args, train_dataset=images(28))
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert entry["loss"] == pytest.approx(
        entry["cross_entropy"] + entry["cross_group"] + entry["within_group"], rel=1e-5
    )


def test_evaluation_is_the_cross_entropy_and_does_not_ask_the_teacher(tmp_path):
    trainer = trainer_for(tmp_path)
    calls = []
    trainer.teacher_model.register_forward_hook(lambda *_: calls.append(1))
    metrics = trainer.evaluate()
    data = images(seed=1)
    batch = data.__getitems__(range(32))
    pixels, labels = (torch.stack([example[k] for example in batch]) for k in ("pixel_values", "labels"))
    with torch.no_grad():
        logits = trainer.model.eval()(pixels).logits
    assert not calls
    assert metrics["eval_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert metrics["eval_cross_entropy"] == metrics["eval_loss"]
    assert metrics["eval_accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    predictions = trainer.predict(data).predictions
    torch.testing.assert_close(torch.from_numpy(predictions), logits, rtol=1e-4, atol=1e-4)


def test_evaluation_with_the_teacher_logs_its_terms(tmp_path):
    trainer = trainer_for(tmp_path, args={"eval_with_teacher": True, "per_device_eval_batch_size": 32})
    metrics = trainer.evaluate()
    batch = images(seed=1).__getitems__(range(32))
    pixels = torch.stack([example["pixel_values"] for example in batch])
    with torch.no_grad():
        student, teacher = trainer.model.eval()(pixels).logits, trainer.teacher_model(pixels).logits
    assert metrics["eval_cross_group"] == pytest.approx(ltkd_loss(student, teacher, GROUPS, beta=0).item(), rel=1e-4)
    assert metrics["eval_within_group"] == pytest.approx(ltkd_loss(student, teacher, GROUPS, alpha=0).item(), rel=1e-4)


def test_teacher_never_trains_and_is_never_saved(tmp_path):
    teacher = network(2).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    trainer = trainer_for(tmp_path, teacher=teacher)
    trainer.train()
    trainer.save_model()
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    saved = load_file(tmp_path / "model.safetensors")
    assert set(saved) == set(trainer.model.state_dict())
    assert not torch.equal(saved["classifier.weight"], network(1).classifier.weight)


def test_student_folder_loads_and_carries_its_groups(tmp_path):
    trainer = trainer_for(tmp_path)
    trainer.train()
    trainer.save_model()
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    pixels = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(loaded(pixels).logits, trainer.model.eval()(pixels).logits)
    assert ClassGroups.from_pretrained(tmp_path) == GROUPS


def test_resume_gives_the_same_weights_as_no_interruption(tmp_path):
    straight = {"max_steps": 6, "save_steps": 3, "save_strategy": "steps"}
    augmented = images(augment=True, padding=2)
    whole = trainer_for(tmp_path / "whole", args=straight, train_dataset=augmented)
    whole.train()
    resumed = trainer_for(tmp_path / "resumed", args=straight, train_dataset=images(augment=True, padding=2))
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for (name, value), other in zip(
        whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name


def test_best_model_by_tail_accuracy(tmp_path):
    args = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    args |= {"load_best_model_at_end": True, "metric_for_best_model": "tail_accuracy"}
    trainer = trainer_for(tmp_path, args=args)
    trainer.train()
    tails = [entry["eval_tail_accuracy"] for entry in trainer.state.log_history if "eval_tail_accuracy" in entry]
    assert len(tails) == 2 and trainer.state.best_metric == max(tails)
    best = load_file(Path(trainer.state.best_model_checkpoint) / "model.safetensors")
    assert torch.equal(best["classifier.weight"], trainer.model.classifier.weight)


def test_plain_training_arguments_and_a_teacher_folder(tmp_path):
    network(2).save_pretrained(tmp_path / "teacher")
    same = {"output_dir": tmp_path / "student", "max_steps": 2, "learning_rate": 0.01, "logging_steps": 1, **QUIET}
    students = []
    for teacher, args in (
        (str(tmp_path / "teacher"), TrainingArguments(**same)),
        (network(2), DistillationTrainingArguments(**same)),
        (network(3), DistillationTrainingArguments(**same)),
    ):
        student = network(1)
        DistillationTrainer(student, teacher, args, distillation_loss=KDLoss(), train_dataset=images()).train()
        students.append(student.classifier.weight.detach())
    assert torch.equal(students[0], students[1]) and not torch.equal(students[0], students[2])


def test_datasets_with_a_transform(tmp_path):
    rows = images(12).__getitems__(range(12))
    data = Dataset.from_dict({"pixels": [row["pixel_values"].flatten().tolist() for row in rows]})
    data = data.add_column("label", [int(row["labels"]) for row in rows])

    def transform(batch):
        return {"pixel_values": [torch.tensor(p).view(3, 8, 8) for p in batch["pixels"]], "labels": batch["label"]}

    students = []
    for dataset in (data.with_transform(transform), rows):
        trainer = trainer_for(tmp_path, train_dataset=dataset, eval_dataset=None)
        trainer.train()
        students.append(trainer.model.classifier.weight.detach())
    assert torch.equal(*students) and not torch.equal(students[0], network(1).classifier.weight)


def test_cross_entropy_alone_trains_without_a_teacher(tmp_path):
    trainer = trainer_for(tmp_path, loss=CrossEntropyLoss())
    assert trainer.teacher_model is None
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert entry["loss"] == pytest.approx(entry["cross_entropy"], rel=1e-6)


def test_bf16(tmp_path):
    trainer = trainer_for(tmp_path, args={"bf16": True})
    losses = trainer.train().training_loss
    reference = trainer_for(tmp_path).train().training_loss
    assert losses == pytest.approx(reference, rel=0.02) and losses != reference


def test_hyperparameter_search(tmp_path):
    optuna = pytest.importorskip("optuna")
    trainer = trainer_for(tmp_path, model_init=lambda: network(1), args={"max_steps": 2})
    losses = []
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [1e-3, 1e-1])},
        compute_objective=lambda metrics: losses.append(metrics["eval_loss"]) or metrics["eval_loss"],
        sampler=optuna.samplers.GridSampler({"learning_rate": [1e-3, 1e-1]}),
        n_trials=2,
    )
    assert len(set(losses)) == 2 and best.objective == min(losses)
    args = {"max_steps": 2, **best.hyperparameters}
    again = trainer_for(tmp_path, model_init=lambda: network(1), args=args)
    again.train()
    assert again.evaluate()["eval_loss"] == pytest.approx(best.objective, rel=1e-6)


def test_paper_preset_decays_everything_and_steps_the_rate(tmp_path):
    args = {"preset": "paper", "max_steps": 8, "optim": None, "learning_rate": None, "logging_steps": 1}
    trainer = trainer_for(tmp_path, args=args)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([0.05] * 5 + [0.005, 0.0005, 0.00005])
    groups = [group for group in trainer.optimizer.param_groups if group["params"]]
    assert len(groups) == 1 and groups[0]["weight_decay"] == 5e-4
    assert groups[0]["momentum"] == 0.9 and not groups[0]["nesterov"]
    assert len(groups[0]["params"]) == len(list(trainer.model.parameters()))


def test_nan_in_the_teacher_is_named_with_its_step(tmp_path):
    teacher = network(2)
    trainer = trainer_for(tmp_path, teacher=teacher)
    calls = []

    def poison(module, inputs, outputs):
        calls.append(1)
        if len(calls) == 3:
            outputs.logits[0, 0] = float("nan")

    teacher.register_forward_hook(poison)
    with pytest.raises(FloatingPointError, match="teacher's logits hold NaN or Inf at step 3"):
        trainer.train()


def test_diverging_student_is_named(tmp_path):
    student = network(1)
    student.classifier.weight.data.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="step 1 .*student's logits"):
        trainer_for(tmp_path, model=student).train()


NAMES = dict(enumerate("abcdef"))
WRONG = {
    "classes": ({"teacher": network(2, num_labels=7)}, "teacher has 7 classes, the student 6"),
    "order": (
        {"teacher": network(2, id2label=NAMES), "model": network(1, id2label=NAMES | {1: "c", 2: "b"})},
        "Class 1 is 'b' for the teacher and 'c' for the student",
    ),
    "groups": ({"loss": LTKDLoss(ClassGroups([0, 1, 2]))}, "LTKDLoss are for 3 classes, the student has 6"),
    "loss": ({"loss": F.cross_entropy}, "distillation_loss is a function"),
    "label": (
        {"train_dataset": Dataset.from_dict({"pixel_values": [[0.0]] * 2, "labels": [0, 6]})},
        "train_dataset has the label 6, outside the student's classes 0 to 5",
    ),
    "negative label": (
        {"eval_dataset": Dataset.from_dict({"pixel_values": [[0.0]] * 2, "labels": [0, -1]})},
        "label -1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_before_training(tmp_path, case):
    arguments, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        trainer_for(tmp_path, **arguments)


def test_missing_teacher_and_teacher_as_student(tmp_path):
    arguments = TrainingArguments(output_dir=tmp_path, **QUIET)
    with pytest.raises(ValueError, match="KDLoss needs a teacher"):
        DistillationTrainer(network(1), None, arguments, distillation_loss=KDLoss())
    model = network(1)
    with pytest.raises(ValueError, match="same object"):
        DistillationTrainer(model, model, arguments, distillation_loss=KDLoss())


def test_batches_without_labels_are_refused(tmp_path):
    data = Dataset.from_dict({"pixel_values": torch.zeros(4, 3, 8, 8).tolist()})
    with pytest.raises(ValueError, match="batch has no 'labels'"):
        trainer_for(tmp_path, train_dataset=data, eval_dataset=None).train()


def test_one_optimizer_step_is_one_batch(tmp_path, two_ranks):
    """The same 32 examples at once, as 12 + 12 + 8, and as 4 × 4 on each of two ranks move the student equally."""
    losses = ["ltkd", "ltkd_momentum", "kd", "dkd", "bkd", "gkl", "gkl_of_examples", "sum"]
    whole = one_step(str(tmp_path), losses, 32, 1, 1)
    for name, others in {
        "accumulated": [one_step(str(tmp_path), losses, 12, 3, 1)],
        "ranks": two_ranks(one_step, str(tmp_path), losses, 4, 4, 2),
    }.items():
        for loss in losses:
            assert_same_step(f"{name} {loss}", whole[loss], others[0][loss])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_what_a_loss_remembers_of_an_epoch(tmp_path, accumulation):
    """GKL's class means are those of the epoch before, whatever is evaluated in between."""
    loss = GKLLoss(GROUPS, weight_temperature=1.0)
    args = {"num_train_epochs": 2, "max_steps": -1, "gradient_accumulation_steps": accumulation}
    args |= {"eval_strategy": "steps", "eval_steps": 1, "eval_with_teacher": True}
    trainer = trainer_for(tmp_path, loss=loss, args=args)
    trainer.train()
    rows = trainer.train_dataset.__getitems__(range(32))
    with torch.no_grad():
        probs = trainer.teacher_model(torch.stack([row["pixel_values"] for row in rows])).logits.softmax(1)
    labels = torch.stack([row["labels"] for row in rows])
    means = torch.stack([probs[labels == c].mean(0) for c in range(6)])
    torch.testing.assert_close(loss.class_probs, means, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss.sums, means * loss.counts[:, None], rtol=1e-4, atol=1e-5)
    assert torch.equal(loss.counts, labels.bincount().float())


def test_an_evaluation_between_two_steps_changes_nothing_that_a_loss_remembers(tmp_path):
    masses = []
    for eval_strategy in ("no", "steps"):
        loss = LTKDLoss(GROUPS, group_mass_momentum=0.5)
        trainer_for(tmp_path, loss=loss, args={"eval_strategy": eval_strategy, "eval_steps": 1}).train()
        masses.append(loss.log_group_mass)
    assert torch.equal(*masses)


def test_overlap_needs_a_gpu_and_a_live_teacher(tmp_path):
    with pytest.raises(
        ValueError, match="overlap_teacher=True needs a live teacher on a GPU; this training runs on cpu"
    ):
        trainer_for(tmp_path, args={"overlap_teacher": True})


@pytest.mark.gpu
@pytest.mark.parametrize("accumulation", [1, 2])
def test_overlap_changes_nothing(tmp_path, accumulation):
    weights = []
    for overlap in (False, True):
        args = {"overlap_teacher": overlap, "gradient_accumulation_steps": accumulation, "use_cpu": False}
        trainer = trainer_for(tmp_path, args=args)
        trainer.train()
        weights.append(trainer.model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_images_on_another_device_go_with_neither_workers_nor_pinned_memory(tmp_path):
    data = ImageDataset(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), [0, 1, 2, 3], mean=[0.5] * 3, std=[0.5] * 3)
    data.device = torch.device("cuda")  # stands in for images of a GPU
    args = DistillationTrainingArguments(str(tmp_path), dataloader_num_workers=1, use_cpu=True, report_to=[])
    model = create_model("resnet8", num_labels=4, image_size=8)
    with pytest.raises(ValueError, match="dataloader_num_workers=0 and dataloader_pin_memory=False"):
        DistillationTrainer(model, args=args, distillation_loss=CrossEntropyLoss(), train_dataset=data)
