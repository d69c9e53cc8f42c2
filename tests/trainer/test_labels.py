"""Soft labels, unlabelled examples and no labels at all, in training and in evaluation."""

import numpy as np
import pytest
import torch
from one_step import tiny_vit
from test_trainer import GROUPS, images, network, trainer_for
from transformers import EvalPrediction

from hf_ltkd import CrossEntropyLoss, DKDLoss, GKLLoss, KDLoss, LTKDLoss, TeacherCache, group_accuracy


class Rows(torch.utils.data.Dataset):
    """Items of `images`, with labels of another kind."""

    def __init__(self, labels=None, count=32):
        self.rows, self.labels_of_rows = images(count).__getitems__([*range(count)]), labels

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        own = {} if self.labels_of_rows is None else {"labels": self.labels_of_rows[index]}
        return {"pixel_values": self.rows[index]["pixel_values"], **own}


def soft(labels):
    return torch.nn.functional.one_hot(torch.as_tensor(labels), 6).float()


def run(tmp_path, **kwargs):
    args = {"max_steps": 2, "gradient_accumulation_steps": 2, **kwargs.pop("args", {})}
    trainer = trainer_for(tmp_path, model=tiny_vit(1), teacher=kwargs.pop("teacher", tiny_vit(2)), args=args, **kwargs)
    trainer.train()
    return trainer


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_soft_labels_of_one_class_train_and_evaluate_as_class_ids(tmp_path):
    labels = images(32).labels
    metrics = []
    for given in (labels, soft(labels)):
        trainer = run(tmp_path, train_dataset=Rows(given), eval_dataset=Rows(given), loss=LTKDLoss(GROUPS))
        metrics.append({k: v for k, v in trainer.evaluate().items() if "accuracy" in k or "loss" in k})
        metrics[-1]["weights"] = weights(trainer).norm().item()
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-5)
    assert "eval_tail_accuracy" in metrics[0]


def test_unlabelled_examples_are_distilled_and_count_in_no_metric(tmp_path):
    """The cross-entropy logged is that of those with a class, over the whole step."""
    data = images(32)
    data.labels[8:] = -1
    args = {"max_steps": 1, "gradient_accumulation_steps": 4, "logging_steps": 1, "per_device_train_batch_size": 8}
    trainer = trainer_for(tmp_path, loss=KDLoss(temperature=1.0), args=args, train_dataset=data,
                          model=tiny_vit(1), teacher=tiny_vit(2))  # fmt: skip
    with torch.no_grad():
        pixels = torch.stack([data[i]["pixel_values"] for i in range(32)])
        student, teacher = trainer.model(pixels).logits.double(), trainer.teacher_model(pixels).logits.double()
    trainer.train()
    logs = trainer.state.log_history[0]
    cross_entropy = torch.nn.functional.cross_entropy(student[:8], data.labels[:8])
    kd = (teacher.softmax(1) * (teacher.log_softmax(1) - student.log_softmax(1))).sum(1).mean()
    assert logs["cross_entropy"] == pytest.approx(cross_entropy.item(), rel=1e-4)
    assert logs["kd"] == pytest.approx(kd.item(), rel=1e-4)
    partly = trainer.evaluate(Rows(data.labels))
    alone = trainer.evaluate([Rows(data.labels)[i] for i in range(8)])
    for name in ("eval_loss", "eval_accuracy"):
        assert partly[name] == pytest.approx(alone[name], rel=1e-5)


def test_unlabelled_examples_with_a_teacher_cache(tmp_path):
    data = images(32)
    data.labels[8:] = -1
    teacher = tiny_vit(2)
    cache = TeacherCache.build(tmp_path / "cache", teacher, data, views=1, batch_size=8, progress=False)
    live = run(tmp_path, train_dataset=data, teacher=teacher)
    cached = run(tmp_path, train_dataset=data, teacher=cache)
    assert torch.equal(weights(live), weights(cached))


@pytest.mark.parametrize("loss", [KDLoss(ce_weight=0), LTKDLoss(GROUPS, ce_weight=0)], ids=["kd", "ltkd"])
def test_without_any_label(tmp_path, loss):
    """As if each were -1."""
    none = run(tmp_path, loss=loss, train_dataset=Rows(), eval_dataset=None, compute_metrics=None)
    marked = run(tmp_path, loss=loss, train_dataset=Rows(torch.full((32,), -1)))
    assert torch.equal(weights(none), weights(marked))
    assert "cross_entropy" not in none.state.log_history[0]


def test_without_any_label_a_cross_entropy_is_impossible(tmp_path):
    with pytest.raises(ValueError, match=r"has no 'labels', .* or distil without them \(ce_weight=0\)"):
        run(tmp_path, train_dataset=Rows(), eval_dataset=None)


@pytest.mark.parametrize("loss", [DKDLoss(), CrossEntropyLoss()], ids=["dkd", "ce"])
def test_losses_that_need_a_class_say_so_before_training(tmp_path, loss):
    data = images(32)
    data.labels[8:] = -1
    with pytest.raises(ValueError, match="24 of 32 examples of train_dataset have no class .* learns nothing without"):
        trainer_for(tmp_path, loss=loss, train_dataset=data)
    with pytest.raises(ValueError, match="eval_dataset has the label -1"):
        trainer_for(tmp_path, eval_dataset=data)


@pytest.mark.parametrize("loss", [DKDLoss(), GKLLoss(GROUPS)], ids=["dkd", "gkl"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_losses_that_need_a_class_say_so_where_labels_are_not_at_hand(tmp_path, loss, accumulation):
    """In the step, also before its statistics are taken."""
    labels = images(32).labels
    kinds = {r"some have none \(label -1\)": labels.where(labels > 2, -1), "cannot take soft labels": soft(labels)}
    for message, given in kinds.items():
        with pytest.raises(ValueError, match=f"needs the class of each example.* {message}"):
            run(tmp_path, loss=loss, train_dataset=Rows(given), eval_dataset=None,
                args={"gradient_accumulation_steps": accumulation})  # fmt: skip


def test_multi_label_is_refused(tmp_path):
    several = soft(images(32).labels)
    several[:, 0] = 1
    with pytest.raises(ValueError, match="The labels of an example sum to 2: .*multi-label"):
        run(tmp_path, train_dataset=Rows(several))
    with pytest.raises(ValueError, match="do not fit: .*multi-label"):
        run(tmp_path, train_dataset=Rows(several.long()))
    teacher = network(2)
    teacher.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match="The teacher's config says .*multi-label"):
        trainer_for(tmp_path, teacher=teacher)


@pytest.mark.parametrize("args", [{}, {"mixup_alpha": 1.0}], ids=["plain", "mixup"])
def test_labels_that_do_not_fit_where_they_are_not_at_hand(tmp_path, args):
    """In training, mixed or not, and in evaluation."""
    right = images(32).labels
    for wrong, message in (
        (right + 3, "outside the classes 0 to 5"),
        (soft(right).long(), "do not fit: .*multi-label"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tmp_path, train_dataset=Rows(wrong), eval_dataset=None, args=args)
        with pytest.raises(ValueError, match=message):
            trainer_for(tmp_path, eval_dataset=Rows(wrong), compute_metrics=None).evaluate()


def test_group_accuracy_of_soft_labels():
    """The most probable class counts; rows of -100 and of -1 do not, as these do among class ids."""
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(20, 6)), random.integers(0, 6, 20)
    rows = 0.4 * np.eye(6)[labels] + 0.1
    labels[[3, 5]], rows[[3, 5]] = [-100, -1], [[-100], [-1]]
    expected = group_accuracy(GROUPS)(EvalPrediction(logits, labels))
    assert group_accuracy(GROUPS)(EvalPrediction(logits, rows)) == expected
    known = labels >= 0
    assert expected == group_accuracy(GROUPS)(EvalPrediction(logits[known], labels[known]))
