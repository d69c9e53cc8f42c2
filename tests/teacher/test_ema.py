"""A teacher that is the exponential mean of its student, by a plain loop; resumed, and however a step is split."""

import json
from pathlib import Path

import pytest
import torch
from one_step import tiny_vit
from test_trainer import images, network, trainer_for
from transformers import TrainerCallback

from hf_ltkd import CATKDLoss, EMATeacher, KDLoss, TeacherCache, TeacherEnsemble


class Snapshots(TrainerCallback):
    def __init__(self):
        self.states = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})


def ema_trainer(folder, student, decay=0.9, **args):
    snapshots = Snapshots()
    arguments = {"max_steps": 6, "save_steps": 3, "save_strategy": "steps"} | args
    trainer = trainer_for(
        folder,
        model=student,
        teacher=EMATeacher(student, decay),
        loss=KDLoss(temperature=1.0),
        args=arguments,
        train_dataset=images(augment=True, padding=2),
        callbacks=[snapshots],
    )
    return trainer, snapshots


@pytest.mark.parametrize("decay", [0.0, 0.6, 0.999])
def test_the_mean_by_a_plain_loop(tmp_path, decay):
    trainer, snapshots = ema_trainer(tmp_path, network(1), decay)
    trainer.train()
    assert len(snapshots.states) == 6
    for name, found in trainer.teacher_model.module.state_dict().items():
        mean = snapshots.states[0][name].double()
        for step, state in enumerate(snapshots.states[1:], start=2):
            now = min(decay, 1 - 1 / step)
            mean = now * mean + (1 - now) * state[name].double()
        if found.is_floating_point():  # 5 additions of float32, of numbers up to 1
            torch.testing.assert_close(found.double(), mean, rtol=5 * 2**-23, atol=5 * 2**-23)
    assert not any(p.requires_grad for p in trainer.teacher_model.parameters())


def test_a_resumed_training_has_the_same_student_and_mean(tmp_path):
    whole, _ = ema_trainer(tmp_path, network(1))
    whole.train()
    checkpoint = tmp_path / "checkpoint-3"
    manifest = json.loads((checkpoint / "distillation_state.json").read_text())
    assert manifest["teacher"] == "mean of the student with decay 0.9" and "teacher.safetensors" in manifest["crc32"]
    resumed, _ = ema_trainer(tmp_path, network(3))
    resumed.train(resume_from_checkpoint=str(checkpoint))
    for found, expected in ((resumed.model, whole.model), (resumed.teacher_model, whole.teacher_model)):
        expected = expected.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())
    other, _ = ema_trainer(tmp_path, network(1), decay=0.8)
    with pytest.raises(ValueError, match="mean of the student with decay 0.9, now mean of the student with decay 0.8"):
        other.train(resume_from_checkpoint=str(checkpoint))


def three_steps(folder, model, batch_size, accumulation):
    student = tiny_vit(1) if model == "vit" else network(1)
    args = {"max_steps": 3, "per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
    trainer, _ = ema_trainer(Path(folder), student, **args)
    trainer.train()
    return {name: tensor.numpy() for name, tensor in trainer.teacher_model.state_dict().items()}


def test_a_step_is_one_batch(two_ranks, tmp_path):
    expected = three_steps(tmp_path / "1x32", "vit", 32, 1)
    assert expected["n_averaged"] == 3
    accumulated = three_steps(tmp_path / "4x8", "vit", 8, 4)
    first, second = two_ranks(three_steps, tmp_path / "2x16", "vit", 16, 1)
    for name, value in expected.items():
        assert (first[name] == second[name]).all()
        for found in (accumulated, first):
            torch.testing.assert_close(*map(torch.as_tensor, (found[name], value)), rtol=1e-4, atol=2e-6, msg=name)


def test_ranks_have_one_mean_of_batch_normalisation(two_ranks, tmp_path):
    first, second = two_ranks(three_steps, tmp_path, "resnet", 16, 1)
    assert any("running_var" in name for name in first)
    assert all((first[name] == second[name]).all() for name in first)


def test_what_does_not_fit(tmp_path):
    student, features = network(1), CATKDLoss()
    wrong = [
        (lambda: EMATeacher(student, 1.0), "decay=1.0"),
        (lambda: EMATeacher("resnet8"), "The student is str"),
        (lambda: trainer_for(tmp_path, model=tiny_vit(1), teacher=EMATeacher(student)), "is the mean of a "),
        (lambda: trainer_for(tmp_path, model_init=network, teacher=EMATeacher(student)), "give that as model"),
        (
            lambda: trainer_for(tmp_path, model=student, teacher=EMATeacher(student), loss=features),
            "a mean changes",
        ),
        (lambda: trainer_for(tmp_path, model=student, teacher=[network(2), student]), "are the same object"),
        (lambda: TeacherEnsemble([EMATeacher(student), student]), "Teacher 0 is of type EMATeacher"),
        (lambda: TeacherCache.build(tmp_path, EMATeacher(student), images(), views=1), "changes with each step"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()
