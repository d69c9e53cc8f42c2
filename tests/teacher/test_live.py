"""The teacher never trains, and knows the student's classes."""

import contextlib

import pytest
import torch
from torch import nn

from hf_ltkd import create_model
from hf_ltkd.teacher.live import ask_teacher, check_same_classes, load_teacher


def model(names=None, num_labels=3):
    labels = {} if names is None else {"id2label": dict(enumerate(names))}
    return create_model("resnet8", num_labels=num_labels, **labels)


def test_a_loaded_teacher_is_frozen_and_in_eval_mode(tmp_path):
    saved = model(["a", "b", "c"])
    saved.save_pretrained(tmp_path)
    for teacher in (load_teacher(str(tmp_path)), load_teacher(saved.train())):
        assert not any(module.training for module in teacher.modules())
        assert not any(p.requires_grad for p in teacher.parameters())
    loaded = load_teacher(str(tmp_path)).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in saved.state_dict().items())


def test_asking_sets_eval_mode_and_gives_no_gradient():
    teacher = model().train()  # parameters that want gradients, statistics that would move
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    inputs = {"pixel_values": torch.randn(2, 3, 8, 8)}
    logits = ask_teacher(teacher, inputs, contextlib.nullcontext()).logits
    assert not logits.requires_grad and not logits.is_inference()
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    torch.testing.assert_close(logits, teacher.eval()(**inputs).logits.detach())


def test_asking_uses_the_autocast():
    inputs = {"pixel_values": torch.randn(2, 3, 8, 8)}
    assert ask_teacher(model(), inputs, torch.autocast("cpu", torch.bfloat16)).logits.dtype == torch.bfloat16


def test_other_number_of_classes():
    with pytest.raises(ValueError, match="The teacher has 4 classes, the student 3: .*num_labels=4"):
        check_same_classes(model(num_labels=3), model(num_labels=4))


@pytest.mark.parametrize("student, at", [(["a", "c", "b"], 1), (["a", "b", "d"], 2)])
def test_other_names(student, at):
    names = ["a", "b", "c"]
    message = f"Class {at} is '{names[at]}' for the teacher and '{student[at]}' for the student"
    with pytest.raises(ValueError, match=message):
        check_same_classes(model(student), model(names))


@pytest.mark.parametrize(
    "student, teacher",
    [(["a", "b", "c"], ["a", "b", "c"]), (None, ["a", "b", "c"]), (["a", "b", "c"], None), (None, None)],
)
def test_same_or_unnamed_classes_pass(student, teacher):
    check_same_classes(model(student), model(teacher))


def test_plain_modules_pass():
    check_same_classes(nn.Linear(2, 3), model(num_labels=4))
