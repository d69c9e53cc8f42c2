"""Cached logits are those of the live teacher for the same pixels; run as a script it builds a cache (two ranks)."""

import contextlib
import errno
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import PartialState
from datasets import Dataset
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModelForImageClassification, TrainingArguments, set_seed

from hf_ltkd import DistillationTrainer, ImageDataset, KDLoss, LazyImageDataset, create_model, read_image_list
from hf_ltkd.teacher.cache import CachedTeacherDataset, TeacherCache
from hf_ltkd.teacher.live import ask_teacher
from hf_ltkd.teacher.logit_files import LogitFiles


def images(count=40, content_seed=0, **kwargs):
    generator = torch.Generator().manual_seed(content_seed)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 6, (count,), generator=generator)
    return ImageDataset(
        pixels, kwargs.pop("labels", labels), **{"mean": [0.5] * 3, "std": [0.25] * 3, "augment": True} | kwargs
    )


def network(seed=2, **kwargs):
    set_seed(seed)
    return create_model("resnet8", 6, image_size=8, **kwargs)


def build(directory, teacher=None, dataset=None, **kwargs):
    """40 examples in shards of 14, 14 and 12."""
    defaults = {"views": 2, "batch_size": 16, "shard_examples": 15, "progress": False}
    return TeacherCache.build(directory, teacher or network(), dataset or images(), **defaults | kwargs)


def live(teacher, dataset, indices, view):
    dataset.set_epoch(view)
    pixels = torch.stack([item["pixel_values"] for item in dataset.__getitems__(indices)])
    return ask_teacher(teacher, {"pixel_values": pixels}, contextlib.nullcontext()).logits


def contents(directory):
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


# ---- What is in it ----


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_logits_are_those_of_the_live_teacher_bit_for_bit(tmp_path, dtype):
    teacher, data = network(), images()
    cache = build(tmp_path, teacher, data, views=3, dtype=dtype)
    assert (cache.num_examples, cache.num_classes, cache.views, cache.dtype) == (40, 6, 3, dtype)
    order = torch.randperm(40, generator=torch.manual_seed(1))
    for view in range(3):
        for some in order.split(20):  # another size, order and company than when it was built
            logits = cache.logits(some, view)
            expected = live(teacher, data, some.tolist(), view)
            assert logits.dtype == torch.float32
            assert torch.equal(logits, expected.to(getattr(torch, dtype)).float())
    assert not torch.equal(cache.logits([0, 1], 0), cache.logits([0, 1], 1))


@pytest.mark.parametrize("workers", [0, 2])
def test_training_gives_the_same_weights_as_with_the_live_teacher(tmp_path, workers):
    teacher = network()

    def train(teacher, name):
        args = TrainingArguments(
            output_dir=tmp_path / name, num_train_epochs=3, per_device_train_batch_size=20, learning_rate=0.05,
            save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False, use_cpu=True,
            dataloader_num_workers=workers, dataloader_persistent_workers=workers > 0, seed=3,
        )  # fmt: skip
        trainer = DistillationTrainer(network(1), teacher, args, distillation_loss=KDLoss(), train_dataset=images())
        assert trainer.train().global_step == 6
        return trainer.model.state_dict()

    expected = train(teacher, "live")
    cached = train(build(tmp_path / "cache", teacher, views=3), "cached")
    assert all(torch.equal(cached[name], expected[name]) for name in expected)
    fewer = train(build(tmp_path / "fewer", teacher, views=1), "fewer")
    assert not torch.equal(fewer["classifier.weight"], expected["classifier.weight"])


def test_epochs_go_round_the_views_in_workers_that_stay_alive(tmp_path):
    data = images()
    cached = CachedTeacherDataset(data, build(tmp_path, dataset=data))
    loader = DataLoader(cached, 16, num_workers=2, persistent_workers=True)
    for epoch, view in enumerate([0, 1, 0, 1]):
        cached.set_epoch(epoch)
        batches = list(loader)
        assert torch.equal(torch.cat([b["teacher_logits"] for b in batches]), cached.cache.logits(range(40), view))
        expected = images()
        expected.set_epoch(view)
        pixels = torch.stack([item["pixel_values"] for item in expected.__getitems__(range(40))])
        assert torch.equal(torch.cat([b["pixel_values"] for b in batches]), pixels)
        assert torch.equal(torch.cat([b["labels"] for b in batches]), cached.labels)


def test_items(tmp_path):
    cached = CachedTeacherDataset(images(), build(tmp_path))
    assert len(cached) == 40 and set(cached[3]) == {"pixel_values", "labels", "teacher_logits"}
    assert torch.equal(cached[-1]["teacher_logits"], cached.cache.logits([39], 0)[0])


def test_shards_and_the_reported_size(tmp_path, capsys):
    build(tmp_path / "new" / "folder", dtype="float16", progress=True)
    assert "40 examples × 2 views × 6 classes × 2 bytes = 0.0 MB, of which 0.0 MB are" in capsys.readouterr().err
    shapes = {path.name: np.load(path).shape for path in (tmp_path / "new" / "folder").glob("*.npy")}
    assert shapes == {
        f"view-{view:04d}-{start:08d}.npy": (count, 6)
        for view in range(2)
        for start, count in {0: 14, 14: 14, 28: 12}.items()
    }
    assert set(contents(tmp_path / "new" / "folder")) == {*shapes, "manifest.json"}


def test_building_leaves_everything_else_as_it_was(tmp_path):
    teacher, data = network().train(), images()
    data.set_epoch(7)
    state = torch.get_rng_state()
    build(tmp_path, teacher, data)
    assert int(data._view) == 7 and torch.equal(torch.get_rng_state(), state)
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())


def test_autocast_around_the_build_does_not_touch_the_logits(tmp_path):
    with torch.autocast("cpu", torch.bfloat16):
        inside = build(tmp_path / "inside")
    assert torch.equal(inside.logits(range(40), 1), build(tmp_path / "outside").logits(range(40), 1))


def test_more_shards_than_are_kept_open_and_pickling(tmp_path, monkeypatch):
    cache = build(tmp_path, shard_examples=4)
    expected = torch.stack([cache.logits(range(40), view) for view in range(2)])
    monkeypatch.setattr("hf_ltkd.teacher.logit_files.MAX_MAPPED", 3)
    cache = TeacherCache.open(tmp_path)
    for view in (0, 1, 0):
        assert torch.equal(cache.logits(range(39, -1, -1), view).flip(0), expected[view])
        assert len(cache._files._mapped) <= 3
    assert len(pickle.dumps(cache)) < 2500
    assert torch.equal(pickle.loads(pickle.dumps(cache)).logits([5], 1)[0], expected[1, 5])


def test_a_plain_module_that_gives_a_tensor(tmp_path):
    class Plain(nn.Module):
        def __init__(self, dropout):
            super().__init__()
            set_seed(0)
            self.classifier = nn.Linear(192, 3)
            self.dropout = nn.Dropout(dropout)

        def forward(self, pixel_values):
            return self.dropout(self.classifier(pixel_values.flatten(1)))

    cache = build(tmp_path, Plain(0.5))
    assert cache.num_classes == 3
    cache.check(teacher=Plain(0.5))
    with pytest.raises(ValueError, match="built with teacher_config Plain [0-9a-f]{16}, not with Plain"):
        cache.check(teacher=Plain(0.1))


def test_a_teacher_without_classes(tmp_path):
    class Maps(nn.Module):
        def forward(self, pixel_values):
            return pixel_values

    with pytest.raises(ValueError, match=r"logits of shape \(1, 3, 8, 8\), expected \[batch, classes\]"):
        build(tmp_path, Maps())


@pytest.mark.parametrize("workers", [0, 2])
def test_images_decoded_on_demand(tmp_path, workers):
    data = files(tmp_path)
    cache = build(tmp_path / "cache", dataset=data, num_workers=workers)
    torch.testing.assert_close(cache.logits([4, 1], 1), live(network(), data, [4, 1], 1))  # batches of 16 and of 2


def files(folder, count=5):
    """Images on disk, or those that are there already."""
    for i in range(count):
        if not (folder / f"{i}.png").exists():
            pixels = np.random.default_rng(i).integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "list.txt").write_text("".join(f"{i}.png {i % 2}\n" for i in range(count)))
    listed = read_image_list(folder / "list.txt", folder)
    return LazyImageDataset(
        listed, "image", listed["label"], image_size=8, mean=[0.5] * 3, std=[0.25] * 3, augment=True
    )


# ---- Fingerprints ----


def test_the_same_teacher_and_dataset_again(tmp_path):
    cache = build(tmp_path / "cache")
    network().save_pretrained(tmp_path / "teacher")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "teacher")
    TeacherCache.open(tmp_path / "cache", teacher=loaded, dataset=images())
    before = {path: path.stat().st_mtime_ns for path in cache.directory.iterdir()}
    build(tmp_path / "cache", loaded)
    assert {path: path.stat().st_mtime_ns for path in cache.directory.iterdir()} == before


CHANGES = {
    "weights": ({"teacher": network(3)}, "built with teacher [0-9a-f]{16}, not with [0-9a-f]{16}"),
    "config": ({"teacher": network(2, id2label=dict(enumerate("abcdef")))}, "teacher_config CifarResNetForImage"),
    "images": ({"dataset": images(content_seed=1)}, "built with dataset ImageDataset"),
    "fewer images": ({"dataset": images(39)}, r"40 examples, .* not with ImageDataset\(39 examples"),
    "labels": ({"dataset": images(labels=[0] * 40)}, "built with dataset"),
    "mean": ({"dataset": images(mean=[0.4] * 3)}, "built with dataset"),
    "std": ({"dataset": images(std=[0.3] * 3)}, "built with dataset"),
    "augment": ({"dataset": images(augment=False)}, "augment=True, .* not with .*augment=False"),
    "flip": ({"dataset": images(horizontal_flip=False)}, "horizontal_flip=True, .* not with .*horizontal_flip=False"),
    "padding": ({"dataset": images(padding=2)}, r"padding=4\) .* not with .*padding=2\)"),
    "seed": ({"dataset": images(seed=1)}, "seed=0, .* not with .*seed=1"),
}


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return build(tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("change", CHANGES)
def test_another_teacher_or_dataset_is_refused(shared_cache, change):
    given, message = CHANGES[change]
    before = contents(shared_cache.directory)
    for use in (lambda **given: TeacherCache.open(shared_cache.directory, **given), shared_cache.check):
        with pytest.raises(ValueError, match=f"(?s){message}.*use what it was built with, choose another folder"):
            use(**given)
    with pytest.raises(ValueError, match=message):
        build(shared_cache.directory, **given)
    if "dataset" in given:
        with pytest.raises(ValueError, match=message):
            CachedTeacherDataset(given["dataset"], shared_cache)
    assert contents(shared_cache.directory) == before


@pytest.mark.parametrize("argument", [{"views": 3}, {"dtype": "float16"}, {"batch_size": 8}, {"shard_examples": 40}])
def test_a_folder_of_another_layout_is_not_overwritten(shared_cache, argument):
    before = contents(shared_cache.directory)
    with pytest.raises(ValueError, match=f"built with {next(iter(argument))} .* choose another folder, or delete"):
        build(shared_cache.directory, **argument)
    assert contents(shared_cache.directory) == before


def test_fingerprint_of_files_and_of_embedded_images(tmp_path):
    data = files(tmp_path)
    assert data.fingerprint == files(tmp_path).fingerprint
    status = (tmp_path / "1.png").stat()
    os.utime(tmp_path / "1.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
    assert data.fingerprint != files(tmp_path, count=4).fingerprint
    changed = data.fingerprint
    assert changed == files(tmp_path).fingerprint and "image_size=8" in changed
    (tmp_path / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match="1.png"):
        _ = data.fingerprint
    embedded = [
        LazyImageDataset(
            Dataset.from_dict({"image": [Image.new("RGB", (12, 12), color)]}), "image", [0], mean=[0.5] * 3,
            std=[0.25] * 3,
        ).fingerprint
        for color in ("red", "red", "blue")
    ]  # fmt: skip
    assert embedded[0] == embedded[1] != embedded[2]


# ---- Interrupted, damaged, foreign ----


def build_in_another_process(directory, before_replace):
    """`before_replace(n)` is called before the n-th file is put in its place."""
    replace, calls = os.replace, []

    def observed(*paths):
        calls.append(paths)
        before_replace(len(calls))
        replace(*paths)

    def build_observed():
        os.replace = observed
        build(directory)

    process = multiprocessing.get_context("fork").Process(target=build_observed)
    process.start()
    return process


@pytest.mark.parametrize("number", [1, 2, 5])  # the manifest, the first shard, one in the second view
def test_a_killed_build_goes_on_where_it_stopped(tmp_path, shared_cache, number):
    process = build_in_another_process(tmp_path, lambda n: n == number and os.kill(os.getpid(), signal.SIGKILL))
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(list(tmp_path.glob("*.tmp"))) == 1
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")}
    assert len(finished) == max(0, number - 2)
    message = "holds no teacher cache" if number == 1 else rf"has {number - 2} of 6 shards, .* to finish it"
    with pytest.raises(ValueError, match=message):
        TeacherCache.open(tmp_path)
    build(tmp_path)
    assert contents(tmp_path) == contents(shared_cache.directory)
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in finished.items())


def test_a_build_killed_from_outside(tmp_path, shared_cache):
    process = build_in_another_process(tmp_path, lambda n: time.sleep(0.1))
    while not list(tmp_path.glob("*.npy")):
        assert process.is_alive()
    process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL and 1 <= len(list(tmp_path.glob("*.npy"))) < 6
    build(tmp_path)
    assert contents(tmp_path) == contents(shared_cache.directory)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def other_shape(path):
    np.save(path, np.zeros((13, 6), dtype=np.float32))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, other_shape, empty])
def test_a_damaged_shard_is_named(tmp_path, shared_cache, damage):
    folder = shutil.copytree(shared_cache.directory, tmp_path / "copy")
    damage(folder / "view-0001-00000014.npy")
    message = r"view-0001-00000014.npy' is damaged: expected float32 of shape \(14, 6\), found .*Delete this file"
    with pytest.raises(ValueError, match=message):
        TeacherCache.open(folder)
    with pytest.raises(ValueError, match=message):
        build(folder)
    (folder / "view-0001-00000014.npy").unlink()
    build(folder)
    assert contents(folder) == contents(shared_cache.directory)


FOREIGN = {
    "files": ({"model.safetensors": "x"}, "no teacher cache: it holds model.safetensors, but no manifest.json"),
    "manifest": ({"manifest.json": json.dumps({"format": "web app"})}, "is not the manifest of a teacher cache"),
    "cut manifest": ({"manifest.json": '{"format": "hf_l'}, "is not the manifest of a teacher cache"),
    "list": ({"manifest.json": "[]"}, "is not the manifest of a teacher cache"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_folder_is_refused(tmp_path, case):
    texts, message = FOREIGN[case]
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    before = contents(tmp_path)
    for use in (build, TeacherCache.open):
        with pytest.raises(ValueError, match=message):
            use(tmp_path)
    assert contents(tmp_path) == before


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match="nowhere' holds no teacher cache: build it with TeacherCache.build"):
        TeacherCache.open(tmp_path / "nowhere")


# ---- Disk and numbers ----


def test_too_small_a_disk_is_noticed_before_the_build(tmp_path, monkeypatch):
    build(tmp_path)
    (tmp_path / "view-0001-00000028.npy").unlink()  # 12 examples × 6 classes × 4 bytes
    usage = SimpleNamespace(free=12 * 6 * 4 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match=r"logits need 0.0 MB more in .*, where 0.0 MB are free: free some space"):
        build(tmp_path)
    with pytest.raises(OSError, match="logits need"):
        build(tmp_path / "a" / "new" / "folder")
    assert not (tmp_path / "a").exists()
    usage.free += 1
    build(tmp_path)


def test_a_disk_that_fills_up_keeps_the_finished_shards(tmp_path, monkeypatch, shared_cache):
    save, calls = np.save, []

    def full(file, array):
        calls.append(array)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, array)

    monkeypatch.setattr(np, "save", full)
    message = r"view-0000-00000028.npy' cannot be written \(.*No space left on device\): free some space"
    with pytest.raises(OSError, match=message):
        build(tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2 and not list(tmp_path.glob("*.tmp"))
    build(tmp_path)
    assert contents(tmp_path) == contents(shared_cache.directory)


@pytest.mark.parametrize(
    "value, dtype, message",
    [
        (float("nan"), "float32", "NaN or infinite: check the teacher's weights"),
        (1e5, "float16", "too large for float16: choose dtype='float32'"),
    ],
)
def test_wrong_logits_are_named_with_example_and_view(tmp_path, value, dtype, message):
    class Poisoned(nn.Module):
        calls = 0

        def forward(self, pixel_values):
            self.calls += 1
            logits = torch.zeros(len(pixel_values), 6)
            if self.calls == 6:  # the first tells the number of classes, three more make view 0, then two of view 1
                logits[3, 1] = value
            return logits

    data = images()
    data.set_epoch(5)
    with pytest.raises(FloatingPointError, match=f"example 17 in view 1 are {message}"):
        build(tmp_path, Poisoned(), data, dtype=dtype)
    assert int(data._view) == 5 and len(list(tmp_path.glob("*.npy"))) == 4


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"views": 0}, "views=0 is not valid"),
        ({"batch_size": 0}, "batch_size=0 is not valid"),
        ({"shard_examples": -1}, "shard_examples=-1 is not valid"),
        ({"dtype": "bfloat16"}, "dtype='bfloat16' is not valid: choose 'float32' or 'float16'"),
        ({"dataset": images(0, augment=False)}, r"dataset is empty or of another kind \(ImageDataset\)"),
        ({"dataset": Dataset.from_dict({"a": [1]})}, r"of another kind \(Dataset\): give an ImageDataset"),
    ],
)
def test_arguments(tmp_path, arguments, message):
    arguments = {"dataset": images(), "views": 2} | arguments
    with pytest.raises(ValueError, match=message):
        TeacherCache.build(tmp_path, network(), **arguments)
    assert not contents(tmp_path)


@pytest.mark.parametrize("indices, view", [([0, 40], 0), ([-1], 0), ([0], 2), ([0], -1)])
def test_beyond_the_cache(shared_cache, indices, view):
    message = f"examples 0 to 39 in the views 0 to 1, not {indices[0]}.* in view {view}: set the epoch of Cached"
    with pytest.raises(IndexError, match=message):
        shared_cache.logits(indices, view)


# ---- Two ranks ----


@pytest.mark.distributed
def test_two_ranks_build_it_together(tmp_path, shared_cache):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    # Trainers made in this process leave ACCELERATE_* variables behind, which are not the user's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    environment["OMP_NUM_THREADS"] = "1"
    for _ in range(2):  # a second start only if the ranks could not talk to each other, as a busy port can cause
        command = [*launcher, __file__, str(tmp_path / "cache"), "2"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        if not any(error in done.stderr for error in ("DistNetworkError", "DistBackendError", "RendezvousConn")):
            break
    assert done.returncode == 0, done.stderr[-6000:]
    assert contents(tmp_path / "cache") == contents(shared_cache.directory)
    written = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert written == [[[0, 0], [0, 28], [1, 14]], [[0, 14], [1, 0], [1, 28]]]


def main(directory: str, world_size: str) -> None:
    torch.set_num_threads(1)
    write, written = LogitFiles.write_shard, []

    def recording(self, view, start, logits):
        write(self, view, start, logits)
        written.append((view, start))

    LogitFiles.write_shard = recording
    build(directory)
    state = PartialState()
    assert state.num_processes == int(world_size), "started with another number of ranks"
    (Path(directory).parent / f"rank{state.process_index}.json").write_text(json.dumps(written))
    # All ranks leave together: one that is torn down while the other still talks to it can end with an error.
    state.wait_for_everyone()
    state.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
