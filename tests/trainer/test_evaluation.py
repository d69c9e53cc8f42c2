"""What one evaluation leaves to the next (nothing), the forms of predictions, and broken students."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_trainer import GROUPS, images, network, trainer_for
from torch import nn
from transformers import EvalPrediction, TrainerCallback

from hf_ltkd import group_accuracy
from hf_ltkd.trainer.checkpoints import last_complete_checkpoint


def hard(num_examples=20):
    """Other labels than the images of `images()`, whose loss is another one."""
    return images(num_examples, seed=5)


def fails(trainer):
    trainer.compute_metrics = lambda prediction: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.evaluate(hard())
    trainer.compute_metrics = group_accuracy(GROUPS)


EARLIER = {
    "predict": lambda trainer: trainer.predict(hard()),
    "prefix": lambda trainer: trainer.evaluate(hard(), metric_key_prefix="train"),
    "two sets": lambda trainer: trainer.evaluate({"a": hard(8), "b": hard(12)}),
    "failed": fails,
}


@pytest.mark.parametrize("batch_by_batch", [False, True])
def test_an_evaluation_is_that_of_its_set_alone(tmp_path, batch_by_batch):
    args = {"eval_with_teacher": True, "batch_eval_metrics": batch_by_batch}
    trainer = trainer_for(tmp_path, args=args)
    names = ["loss", "cross_entropy", "cross_group", "within_group", "accuracy", "head_accuracy"]
    expected = trainer.evaluate()
    others = trainer.evaluate(hard())
    assert abs(others["eval_loss"] - expected["eval_loss"]) > 1e-3  # a mix would show
    for name, evaluate_before in EARLIER.items():
        if name == "failed" and batch_by_batch:
            continue  # group_accuracy itself has to be interrupted, see below
        evaluate_before(trainer)
        metrics = trainer.evaluate()
        for key in names:
            assert metrics[f"eval_{key}"] == pytest.approx(expected[f"eval_{key}"], rel=1e-6), (name, key)


def test_an_evaluation_that_was_interrupted_leaves_no_batches(tmp_path):
    trainer = trainer_for(tmp_path, args={"batch_eval_metrics": True})
    expected = trainer.evaluate()["eval_accuracy"]

    def interrupted(args, state, control, **kwargs):
        raise KeyboardInterrupt

    callback = trainer.callback_handler.callbacks[0]
    callback.on_prediction_step = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.evaluate(hard())
    del callback.on_prediction_step
    assert trainer.evaluate()["eval_accuracy"] == expected


class Predicts(TrainerCallback):
    def __init__(self, trainer):
        self.trainer = trainer

    def on_save(self, args, state, control, **kwargs):
        self.trainer.predict(hard())


class Breaks(TrainerCallback):
    """Puts an infinite weight into the student after the optimizer's last step."""

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == args.max_steps - 1:
            model.classifier.weight.data[0, 0] = torch.inf


def test_the_best_checkpoint_is_chosen_by_the_loss_of_its_set(tmp_path):
    """A callback that predicts after every evaluation must not change what is compared."""
    args = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    args |= {"load_best_model_at_end": True}
    histories = []
    for predicts in (False, True):
        trainer = trainer_for(tmp_path / str(predicts), args=args)
        if predicts:
            trainer.add_callback(Predicts(trainer))
        trainer.train()
        histories.append([entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry])
    assert histories[0] == histories[1] and len(histories[0]) == 3


# ---- Forms of predictions ----


@pytest.mark.parametrize(
    "args, kwargs",
    [
        ({}, {"preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1)}),
        ({"batch_eval_metrics": True}, {}),
        ({"batch_eval_metrics": True}, {"preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1)}),
        ({"eval_do_concat_batches": False}, {}),
        ({"eval_accumulation_steps": 1}, {}),
        ({"bf16_full_eval": True, "eval_accumulation_steps": 1}, {}),
    ],
)
def test_predictions_in_any_form_give_the_same_accuracies(tmp_path, args, kwargs):
    expected = trainer_for(tmp_path).evaluate()
    metrics = trainer_for(tmp_path, args=args, **kwargs).evaluate()
    *names, error = group_accuracy(GROUPS).names
    for name in names:
        assert metrics[f"eval_{name}"] == expected[f"eval_{name}"]
    assert error == "expected_calibration_error" and (f"eval_{error}" in metrics) == (not kwargs)
    if not kwargs and "bf16_full_eval" not in args:  # whose rounding moves examples to other bins
        assert metrics[f"eval_{error}"] == pytest.approx(expected[f"eval_{error}"], rel=1e-5)


def test_as_many_examples_as_classes_are_no_class_ids():
    """6 examples of 6 classes: the shape alone would not tell logits from ids."""
    logits = np.eye(6)[[0, 1, 2, 3, 4, 0]]
    metric = group_accuracy(GROUPS)
    assert metric(EvalPrediction(logits, np.arange(6)))["accuracy"] == 5 / 6
    assert metric(EvalPrediction(np.array([0, 1, 2, 3, 4, 0]), np.arange(6)))["accuracy"] == 5 / 6


@pytest.mark.parametrize(
    "predictions, message",
    [
        (np.zeros((4, 3)), "The logits have 3 classes, the groups 6"),
        (np.zeros((3, 6)), r"Predictions of shape \(3, 6\) and labels of shape \(4,\) do not fit"),
        (np.zeros(4), "The logits have 4 classes"),
        (np.full((4, 6), np.nan), "The logits of 4 of 4 examples are NaN"),
    ],
)
def test_predictions_that_do_not_fit(predictions, message):
    with pytest.raises((ValueError, FloatingPointError), match=message):
        group_accuracy(GROUPS)(EvalPrediction(predictions, np.arange(4)))


def test_nan_where_there_is_no_label_is_no_fault():
    logits = np.eye(6)[:4]
    logits[1] = np.nan
    assert group_accuracy(GROUPS)(EvalPrediction(logits, np.array([0, -100, 2, 3])))["accuracy"] == 1.0


# ---- Broken students ----


def poisoned(where):
    student = network(1)
    with torch.no_grad():
        state = {**dict(student.named_parameters()), **dict(student.named_buffers())}
        state[where].view(-1)[0] = float("nan") if "bias" in where else float("inf")
    return student


BROKEN = ["conv1.weight", "classifier.bias", "bn1.running_var", "stages.2.0.bn1.running_mean"]


@pytest.mark.parametrize("where", BROKEN)
def test_a_broken_student_is_not_saved_and_not_scored(tmp_path, where):
    trainer = trainer_for(tmp_path, model=poisoned(where))
    with pytest.raises(FloatingPointError, match=f"not saved to '{tmp_path}', because 1 of its tensors .*: {where}"):
        trainer.save_model()
    assert not list(tmp_path.rglob("*.safetensors"))
    for evaluate in (trainer.evaluate, lambda: trainer.predict(images())):
        with pytest.raises(
            FloatingPointError, match=f"student is not evaluated, because 1 of its tensors .*: {where}"
        ):
            evaluate()


def test_logits_that_are_no_number_are_not_scored(tmp_path):
    """Finite weights may overflow too: in a layer, or on the way to it."""
    student = network(1)
    with torch.no_grad():
        student.classifier.weight.fill_(3e38)
    with pytest.raises(FloatingPointError, match="student's logits hold NaN or Inf for 8 of 8 examples"):
        trainer_for(tmp_path, model=student).evaluate()


def test_a_mask_of_minus_infinity_is_saved(tmp_path):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(192, 6)
            self.register_buffer("mask", torch.full((3,), -torch.inf))

        def forward(self, pixel_values):
            return self.layer(pixel_values.flatten(1))

    trainer = trainer_for(tmp_path, model=Masked())
    trainer.save_model()
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "values, callbacks", [({"max_steps": 3}, [Breaks()]), ({"max_steps": 12, "learning_rate": 10.0}, [])]
)
def test_checkpoints_of_a_broken_student_do_not_replace_good_ones(tmp_path, values, callbacks):
    """A weight breaks in the last step; batch normalisation's variance overflows while the loss is still finite."""
    args = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "max_grad_norm": 0.0} | values
    args["lr_scheduler_type"] = "constant"
    with pytest.raises(FloatingPointError, match="not saved to .*checkpoint-.* hold NaN or Inf"):
        trainer_for(tmp_path, args=args, callbacks=callbacks).train()
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert all(torch.isfinite(tensor).all() for tensor in load_file(checkpoint / "model.safetensors").values())
    assert last_complete_checkpoint(tmp_path) == str(checkpoint)
