"""How long a training will take, from a few of its real steps."""

from types import SimpleNamespace

import pytest
import torch
from photos import TRAINING

from hf_ltkd.workflow.estimate import Estimate, estimate
from hf_ltkd.workflow.plan import make_plan, plan_teacher


def test_it_adds_up():
    times = Estimate(images=0.5, teacher=1.0, student=2.0, batches=10, workers=0)
    assert times.training() == 35 and times.training(with_teacher=False) == 25 and times.asking_the_teacher == 10
    # Workers make images while the models compute, and set the pace where they are slower.
    assert Estimate(4.0, 1.0, 2.0, 10, workers=2).training() == 30
    assert Estimate(16.0, 1.0, 2.0, 10, workers=2).training() == 80


def test_what_is_slow_is_named(home, tmp_path, monkeypatch):
    """Time passes in one part after the other; each has to be seen in its own time."""
    plan = make_plan(
        teacher=home.teacher, student="resnet8", data=home.photos, output_dir=tmp_path / "s", max_steps=9, **TRAINING
    )
    dataset, clock = type(plan.images.data.train), SimpleNamespace(seconds=0.0)
    monkeypatch.setattr("hf_ltkd.workflow.estimate.time", SimpleNamespace(perf_counter=lambda: clock.seconds))

    def slowed(owner, name):
        method = getattr(owner, name)

        def slow(*args, **kwargs):
            clock.seconds += 0.4
            return method(*args, **kwargs)

        return slow

    for part, owner, name in (
        ("images", dataset, "__getitems__"),
        ("teacher", plan.teacher, "forward"),
        ("student", type(plan.loss), "forward"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, slowed(owner, name))
            times = estimate(plan, plan.teacher, steps=1)
        seconds = {other: getattr(times, other) for other in ("images", "teacher", "student")}
        assert seconds == pytest.approx({"images": 0, "teacher": 0, "student": 0, part: 0.4})
    assert times.batches == 9 and times.workers == 0


def test_nothing_is_changed_and_nothing_written(home, tmp_path, capsys):
    """The student is the same bit for bit, whether its training was timed before or not."""
    students = []
    for timed in (True, False):
        plan = make_plan(
            teacher=home.teacher,
            student="resnet8",
            data=home.photos,
            loss="reviewkd",  # trains modules beside the student
            plain_student=False,
            output_dir=tmp_path / str(timed),
            max_steps=1,
            **TRAINING,
        )
        if timed:
            before = {name: tensor.clone() for name, tensor in plan.network.state_dict().items()}
            capsys.readouterr()
            times = estimate(plan, plan.teacher, steps=1)
            assert times.teacher > 0 and capsys.readouterr().out == "" and not list(tmp_path.iterdir())
            assert all(torch.equal(tensor, before[name]) for name, tensor in plan.network.state_dict().items())
            assert plan.images.data.train.view == 0
        plan.trainer(plan.network, plan.loss, plan.teacher).train()
        students.append(plan.network.state_dict())
    assert all(torch.equal(students[0][name], students[1][name]) for name in students[0])


def test_memory_is_what_a_step_keeps(home, tmp_path):
    """Weights, their gradients and momenta, and for the backward pass what grows with the batch."""
    memory = {}
    for batch in (8, 16):
        how = {"image_size": 8, "ce": "cross_entropy", **TRAINING, "per_device_train_batch_size": batch}
        plan = plan_teacher(model="resnet8", data=home.photos, output_dir=tmp_path / "t", **how)
        memory[batch] = estimate(plan, steps=1).memory
    weights = 3 * 4 * plan.network.num_parameters()  # SGD with momentum
    # The first two maps of 16 channels at 8 × 8 pixels are kept, of each image.
    assert memory[8] > weights + 8 * 2 * 16 * 64 * 4
    assert memory[16] - memory[8] == pytest.approx(memory[8] - weights, rel=0.2)


def test_a_training_without_a_teacher(home, tmp_path):
    plan = plan_teacher(
        model="resnet8", data=home.photos, image_size=8, num_train_epochs=5, output_dir=tmp_path / "t", **TRAINING
    )
    times = estimate(plan, steps=1)
    assert times.teacher == 0 and times.batches == 5 * 4  # 64 images in batches of 16
    assert times.training() == pytest.approx(20 * (times.images + times.student))
