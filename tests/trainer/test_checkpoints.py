"""Checkpoints that are cut short, of another teacher or another batch, and runs that are killed at any moment."""

import json
import multiprocessing
import re
import resource
import signal
import time

import pytest
import torch
from helpers import trains_in_a_fork
from safetensors.torch import load_file, save

from hf_ltkd import (
    ClassGroups,
    DistillationTrainer,
    DistillationTrainingArguments,
    GKLLoss,
    ImageDataset,
    KDLoss,
    LTKDLoss,
    create_model,
)
from hf_ltkd.teacher.live import teacher_fingerprint
from hf_ltkd.trainer.checkpoints import check_checkpoint, incomplete, last_complete_checkpoint, seal


RUN = {"teacher": "abc", "examples_per_step": 64, "world_size": 1}


def checkpoint(folder, step=10, run=RUN, state=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(save({"weight": torch.zeros(5)}))
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({}, path / name)
    (path / "distillation_state.json").write_text(json.dumps(run))
    if state:
        (path / "trainer_state.json").write_text('{"epoch": 1}')
        seal(path)
    return path


def test_a_complete_checkpoint_passes(tmp_path):
    path = checkpoint(tmp_path)
    assert incomplete(path) is None
    check_checkpoint(path, RUN)


def test_a_checkpoint_of_the_plain_trainer_passes(tmp_path):
    path = checkpoint(tmp_path)
    (path / "distillation_state.json").unlink()
    check_checkpoint(path, RUN)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda p: (p / "model.safetensors").write_bytes(b"0" * 60), "model.safetensors has 60 instead of 92 bytes"),
        (lambda p: (p / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda p: (p / "trainer_state.json").unlink(), "has no trainer_state.json"),
        (lambda p: (p / "trainer_state.json").write_text('{"epoch": 1'), "trainer_state.json is cut short"),
        (lambda p: (p / "distillation_state.json").write_text(""), "distillation_state.json is cut short"),
        (
            lambda p: (p / "model.safetensors").write_bytes(b"0" * 91 + b"1"),
            "model.safetensors is damaged: its CRC-32",
        ),
        (lambda p: (p / "trainer_state.json").write_text('{"epoch": 2}'), "trainer_state.json is damaged: its CRC-32"),
    ],
)
def test_damaged_checkpoints_are_refused_and_skipped(tmp_path, damage, message, caplog):
    good, bad = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    damage(bad)
    with pytest.raises(ValueError, match=message):
        check_checkpoint(bad, RUN)
    assert last_complete_checkpoint(tmp_path) == str(good)
    assert message in caplog.text


def test_a_manifest_of_an_earlier_version_passes(tmp_path):
    path = checkpoint(tmp_path)
    manifest = json.loads((path / "distillation_state.json").read_text())
    del manifest["crc32"], manifest["files"]["trainer_state.json"]
    (path / "distillation_state.json").write_text(json.dumps(manifest))
    check_checkpoint(path, RUN)


def test_a_run_killed_before_it_seals_a_whole_checkpoint_goes_on_from_it(tmp_path):
    path = checkpoint(tmp_path)
    (path / "distillation_state.json").write_text(json.dumps(RUN))
    assert last_complete_checkpoint(tmp_path) == str(path)


def test_no_complete_checkpoint(tmp_path):
    checkpoint(tmp_path, state=False)
    with pytest.raises(ValueError, match="no complete checkpoint"):
        last_complete_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        check_checkpoint(tmp_path / "checkpoint-11", RUN)


@pytest.mark.parametrize(
    "run, message",
    [
        ({**RUN, "teacher": "xyz"}, "its teacher had other weights"),
        ({**RUN, "examples_per_step": 32}, "an optimizer step had 64 examples on 1 ranks, now 32 on 1"),
        ({**RUN, "examples_per_step": 128, "world_size": 2}, "now 128 on 2"),
    ],
)
def test_another_run_is_refused(tmp_path, run, message):
    with pytest.raises(ValueError, match=message):
        check_checkpoint(checkpoint(tmp_path), run)


def test_other_ranks_with_the_same_step_are_warned_of(tmp_path, caplog):
    check_checkpoint(checkpoint(tmp_path), {**RUN, "world_size": 2})
    assert "Resuming on 2 ranks what was trained on 1" in caplog.text


def test_fingerprint_changes_with_any_weight():
    teacher = create_model("resnet8", 3)
    fingerprint = teacher_fingerprint(teacher)
    assert fingerprint == teacher_fingerprint(teacher)
    with torch.no_grad():
        teacher.bn1.running_mean[3] += 1e-6
    assert fingerprint != teacher_fingerprint(teacher)


GROUPS = ClassGroups.from_counts([60, 50, 40, 30, 20, 10])
REVERSED = ClassGroups.from_counts([10, 20, 30, 40, 50, 60])


def images(count=60, content_seed=0, seed=0, labels=None):
    generator = torch.Generator().manual_seed(content_seed)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 6 if labels is None else labels
    return ImageDataset(pixels, labels, mean=[0.5] * 3, std=[0.25] * 3, augment=True, padding=1, seed=seed)


def make_trainer(folder, teacher_seed=0, loss=None, data=None, **arguments):
    """Dropout in the student and augmented views: a resumed run is the same only if all random states are."""
    torch.manual_seed(1)
    student = create_model("resnet8", 6, image_size=8)
    student.classifier = torch.nn.Sequential(torch.nn.Dropout(0.5), student.classifier)
    torch.manual_seed(teacher_seed)
    teacher = create_model("resnet8", 6, image_size=8)
    defaults = {"num_train_epochs": 12, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "save_steps": 1}
    defaults |= {"save_strategy": "steps", "save_total_limit": 2, "report_to": "none", "disable_tqdm": True}
    defaults |= {"use_cpu": True, "dataloader_pin_memory": False, "logging_strategy": "no"}
    return DistillationTrainer(
        student,
        teacher,
        DistillationTrainingArguments(str(folder), **{**defaults, **arguments}),
        distillation_loss=loss or LTKDLoss(GROUPS, group_mass_momentum=0.9),
        train_dataset=data or images(),
    )


def test_what_a_loss_remembers_is_resumed_within_an_epoch(tmp_path):
    arguments = {"max_steps": 7, "save_total_limit": None, "data": images(24)}  # 3 steps an epoch
    whole = make_trainer(tmp_path, loss=GKLLoss(GROUPS), **arguments)
    whole.train()
    for step in (3, 5):  # between two epochs, and within one
        resumed = make_trainer(tmp_path, loss=GKLLoss(GROUPS), **arguments)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        for part in (lambda trainer: trainer.distillation_loss, lambda trainer: trainer.model):
            expected = part(whole).state_dict()
            for name, value in part(resumed).state_dict().items():
                assert torch.equal(value, expected[name]), name


def test_resume_with_a_changed_teacher_or_batch_is_refused(tmp_path):
    make_trainer(tmp_path, max_steps=2).train()
    with pytest.raises(ValueError, match="its teacher had other weights"):
        make_trainer(tmp_path, teacher_seed=5, max_steps=4).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="an optimizer step had 8 examples on 1 ranks, now 16 on 1"):
        make_trainer(tmp_path, max_steps=4, gradient_accumulation_steps=2).train(resume_from_checkpoint=True)
    assert make_trainer(tmp_path, max_steps=4).train(resume_from_checkpoint=True).global_step == 4


def test_any_flipped_bit_of_a_checkpoint_is_refused(tmp_path):
    make_trainer(tmp_path, max_steps=1).train()
    files = [path for path in (tmp_path / "checkpoint-1").iterdir() if path.name != "distillation_state.json"]
    assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "distillation_loss.safetensors"} <= {
        path.name for path in files
    }
    for number, path in enumerate(files):
        whole = path.read_bytes()
        data = bytearray(whole)
        data[7919 * (number + 1) % len(data)] ^= 1
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"its {path.name} is (damaged|cut short)"):
            check_checkpoint(path.parent, {})
        path.write_bytes(whole)
    assert incomplete(tmp_path / "checkpoint-1") is None


OTHERS = {
    "loss": (lambda: {"loss": KDLoss()}, "its loss was another one: class KDLoss .was LTKDLoss."),
    "alpha": (lambda: {"loss": LTKDLoss(GROUPS, alpha=1.0, group_mass_momentum=0.9)}, r"alpha 1.0 \(was 6.0\)"),
    "groups": (lambda: {"loss": LTKDLoss(REVERSED, group_mass_momentum=0.9)}, "groups and counts [0-9a-f]+ .was"),
    "counts": (
        lambda: {"loss": LTKDLoss(GROUPS, group_mass_momentum=0.9, ce="balanced_softmax", class_counts=[9] * 6)},
        "ce balanced_softmax .was cross_entropy.*, groups and counts",
    ),
    "images": (lambda: {"data": images(content_seed=1)}, "its training set was another one: means"),
    "labels": (lambda: {"data": images(labels=[0] * 60)}, "its training set was another one: labels"),
    "twice as many": (lambda: {"data": images(120)}, r"examples 120 \(was 60\)"),
    "views": (lambda: {"data": images(seed=3)}, "transform .*'seed': 3.* .was .*'seed': 0"),
    "kind": (lambda: {"data": list(images().__getitems__(range(60)))}, "kind list .was ImageDataset"),
    "seed": (lambda: {"seed": 1}, r"its seed was another one: seed 1 \(was 42\)"),
    "data seed": (lambda: {"data_seed": 1}, r"data_seed 1 \(was None\)"),
    "smoothing": (lambda: {"label_smoothing_factor": 0.1}, r"label_smoothing 0.1 \(was 0.0\)"),
}


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    make_trainer(folder, max_steps=2).train()
    return folder


@pytest.mark.parametrize("change", OTHERS)
def test_resume_with_what_changes_the_result_is_refused(two_steps, change):
    arguments, message = OTHERS[change]
    with pytest.raises(ValueError, match=f"(?s)Cannot resume from .*{message}.*start anew"):
        make_trainer(two_steps, **arguments()).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"learning_rate": 0.1, "max_steps": 2},
            r"arguments than the checkpoint's: learning_rate 0.1 \(was 0.001\). What",
        ),
        ({"max_steps": 3}, r"checkpoint's: max_steps 3 \(was 2\)"),
        (
            {"max_steps": 2, "optim": "sgd", "weight_decay": 0.1},
            "optim sgd .was adamw_torch.*, weight_decay 0.1 .was 0.0",
        ),
    ],
)
def test_other_training_arguments_are_warned_of(two_steps, caplog, arguments, message):
    trainer = make_trainer(two_steps, **arguments)
    check_checkpoint(two_steps / "checkpoint-2", trainer._describe_run())
    assert re.search(message, caplog.text)


def test_the_same_run_elsewhere_is_neither_refused_nor_warned_of(two_steps, caplog):
    trainer = make_trainer(
        two_steps.parent / "elsewhere", max_steps=2, per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    check_checkpoint(two_steps / "checkpoint-2", trainer._describe_run())
    assert not [record for record in caplog.records if record.name.startswith("hf_ltkd")]


def test_the_step_that_auto_find_batch_size_found_is_recorded(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2, per_device_train_batch_size=32, auto_find_batch_size=True)
    sizes, forward = [], trainer.model.forward

    def limited(pixel_values, **kwargs):
        if len(pixel_values) > 30:
            raise RuntimeError("CUDA out of memory.")
        sizes.append(len(pixel_values))
        return forward(pixel_values=pixel_values, **kwargs)

    trainer.model.forward = limited
    trainer.train()
    assert set(sizes) == {sizes[0]} and sizes[0] < 30
    checkpoint = tmp_path / "checkpoint-2"
    assert json.loads((checkpoint / "distillation_state.json").read_text())["examples_per_step"] == sizes[0]
    assert json.loads((checkpoint / "distillation.json").read_text())["training"]["examples_per_step"] == sizes[0]
    with pytest.raises(ValueError, match=f"had {sizes[0]} examples on 1 ranks, now 32 on 1"):
        make_trainer(tmp_path, max_steps=3, per_device_train_batch_size=32).train(resume_from_checkpoint=True)
    for arguments in ({"per_device_train_batch_size": sizes[0]}, {"auto_find_batch_size": True}):
        again = make_trainer(tmp_path, max_steps=3, **arguments)
        assert again.train(resume_from_checkpoint=str(checkpoint)).global_step == 3


def test_running_group_mass_is_resumed(tmp_path):
    whole = make_trainer(tmp_path / "whole", max_steps=4)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", max_steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert torch.equal(whole.distillation_loss.log_group_mass, resumed.distillation_loss.log_group_mass)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def train(folder, epochs):
    trainer = make_trainer(folder, num_train_epochs=epochs)
    trainer.train(resume_from_checkpoint=any(folder.glob("checkpoint-*/trainer_state.json")))
    trainer.save_model()


def forked(function, *arguments):
    """A process of its own, without the seconds that imports take."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


@trains_in_a_fork
@pytest.mark.parametrize(("epochs", "most"), [(3, 2), pytest.param(12, 3, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_again_and_again_gives_the_same_student(tmp_path, epochs, most):
    """`kill -9` at moments that have nothing to do with steps, a checkpoint after each of 8 steps an epoch."""
    train(tmp_path / "whole", epochs)
    kills, between = 0, 8 * epochs // (most + 2)
    while True:
        process = forked(train, tmp_path / "killed", epochs)
        started = time.monotonic()
        while process.is_alive():
            steps = list((tmp_path / "killed").glob("checkpoint-*"))
            newest = max((int(step.name.rpartition("-")[2]) for step in steps), default=0)
            if kills < most and newest >= between * (kills + 1) + kills:
                time.sleep(0.013 * (kills + 1))
                process.kill()
                kills += 1
                break
            time.sleep(0.005)
            assert time.monotonic() - started < 300
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert kills == most
    whole, killed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def train_on_a_full_disk(folder, report):
    trainer = make_trainer(folder, max_steps=2)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # a file that may not grow, as on a full disk
    try:
        trainer.train()
    except OSError as error:
        report.write_text(str(error))


@trains_in_a_fork
def test_a_full_disk_is_explained_and_leaves_earlier_checkpoints(tmp_path):
    make_trainer(tmp_path, max_steps=1).train()
    forked(train_on_a_full_disk, tmp_path, tmp_path / "error.txt").join()
    error = (tmp_path / "error.txt").read_text()
    assert "could not be written" in error and "train with resume_from_checkpoint=True" in error
    assert json.loads((tmp_path / "checkpoint-1" / "trainer_state.json").read_text())["global_step"] == 1


def test_a_trained_student_is_kept_where_there_is_room(tmp_path, monkeypatch, caplog):
    trainer = make_trainer(tmp_path / "full", max_steps=1, save_strategy="no")
    trainer.train()
    (tmp_path / "full").rmdir() if (tmp_path / "full").exists() else None
    (tmp_path / "full").touch()  # nothing can be written there
    (tmp_path / "spare").touch()  # nor, at first, among the temporary files
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spare"))
    waits = []

    def make_room(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            (tmp_path / "spare").unlink()
            (tmp_path / "spare").mkdir()

    monkeypatch.setattr("hf_ltkd.trainer.student_files.time.sleep", make_room)
    with pytest.raises(OSError, match="could not be written to .*full' .* and is in '(.*)': make room and") as caught:
        trainer.save_model()
    elsewhere = re.search("and is in '(.*?)'", str(caught.value)).group(1)
    assert waits == [60, 60] and caplog.text.count("can be written neither to") == 2
    saved = load_file(f"{elsewhere}/model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in trainer.model.state_dict().items())


def test_a_student_waits_for_room_in_its_own_folder_too(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path / "full", max_steps=1, save_strategy="no")
    (tmp_path / "full").rmdir() if (tmp_path / "full").exists() else None
    (tmp_path / "full").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "full"))
    monkeypatch.setattr("hf_ltkd.trainer.student_files.time.sleep", lambda seconds: (tmp_path / "full").unlink())
    trainer.save_model()
    assert (tmp_path / "full" / "model.safetensors").is_file()
