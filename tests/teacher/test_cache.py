"""Cached logits are those of the live teacher for the same pixels."""

import contextlib
import multiprocessing
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModelForImageClassification, TrainingArguments, set_seed

from hf_ltkd import DistillationTrainer, ImageDataset, KDLoss, LazyImageDataset, create_model, read_image_list
from hf_ltkd.teacher.cache import CachedTeacherDataset, TeacherCache
from hf_ltkd.teacher.live import ask_teacher


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
    """40 examples in batches of 16, 16 and 8."""
    defaults = {"views": 2, "batch_size": 16, "progress": False}
    return TeacherCache.build(directory, teacher or network(), dataset or images(), **defaults | kwargs)


def live(teacher, dataset, indices, view):
    dataset.set_epoch(view)
    pixels = torch.stack([item["pixel_values"] for item in dataset.__getitems__(indices)])
    return ask_teacher(teacher, {"pixel_values": pixels}, contextlib.nullcontext()).logits


def contents(directory):
    return {path.name: path.read_bytes() for path in Path(directory).iterdir() if path.suffix != ".lock"}


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


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
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


def test_files_and_the_reported_size(tmp_path, capsys):
    build(tmp_path / "new" / "folder", dtype="float16", progress=True)
    assert "40 examples × 2 views × 6 classes × 2 bytes = 0.0 MB, of which 0.0 MB are" in capsys.readouterr().err
    arrays = {path.name: np.load(path) for path in (tmp_path / "new" / "folder").glob("*.npy")}
    assert {name: (a.shape, a.dtype) for name, a in arrays.items()} == {
        f"view-000{view}.npy": ((40, 6), np.float16) for view in range(2)
    }
    assert contents(tmp_path / "new" / "folder").keys() == {*arrays, "manifest.json"}


def test_building_leaves_everything_else_as_it_was(tmp_path):
    teacher, data = network().train(), images()
    data.set_epoch(7)
    state = torch.get_rng_state()
    build(tmp_path, teacher, data)
    assert data.view == 7 and torch.equal(torch.get_rng_state(), state)
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())


def test_autocast_around_the_build_does_not_touch_the_logits(tmp_path):
    with torch.autocast("cpu", torch.bfloat16):
        inside = build(tmp_path / "inside")
    assert torch.equal(inside.logits(range(40), 1), build(tmp_path / "outside").logits(range(40), 1))


def test_views_in_any_order_and_pickling(tmp_path):
    cache = build(tmp_path)
    expected = torch.stack([cache.logits(range(40), view) for view in range(2)])
    for view in (0, 1, 0):
        assert torch.equal(cache.logits(range(39, -1, -1), view).flip(0), expected[view])
    assert len(pickle.dumps(cache)) < 2500
    assert torch.equal(pickle.loads(pickle.dumps(cache)).logits([5], 1)[0], expected[1, 5])


def test_shard_examples_of_earlier_versions(tmp_path):
    with pytest.warns(FutureWarning, match="shard_examples has no effect"):
        build(tmp_path, shard_examples=15)


class Noisy(ImageDataset):
    """Its pixels are no function of seed, view and index."""

    def __getitems__(self, indices):
        items = super().__getitems__(indices)
        return [{**item, "pixel_values": item["pixel_values"] + 0.01 * torch.randn(3, 8, 8)} for item in items]


class Counting(ImageDataset):
    """Its pixels depend on how often they were asked for."""

    asked = 0

    def __getitems__(self, indices):
        self.asked += 1
        return [{**item, "pixel_values": item["pixel_values"] * self.asked} for item in super().__getitems__(indices)]


@pytest.mark.parametrize("kind", [Noisy, Counting])
def test_a_dataset_with_randomness_of_its_own_is_refused(tmp_path, kind):
    plain = images()
    data = kind(torch.zeros(40, 3, 8, 8, dtype=torch.uint8), plain.labels, mean=[0.5] * 3, std=[0.25] * 3)
    data.set_epoch(3)
    with pytest.raises(ValueError, match=f"This {kind.__name__} hands out other pixels of the same view"):
        build(tmp_path, dataset=data)
    assert data.view == 3 and not contents(tmp_path)


def test_forked_ranks_have_a_view_of_their_own(tmp_path):
    """As `accelerate.notebook_launcher` starts them, each with workers that outlive an epoch."""
    data = images()
    cached = CachedTeacherDataset(data, build(tmp_path, dataset=data, views=4))
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(2), context.Queue()

    def rank(number):
        torch.set_num_threads(1)
        loader = DataLoader(cached, 20, num_workers=1, persistent_workers=True, multiprocessing_context="fork")
        seen = []
        for epoch in range(2):
            barrier.wait(30)
            cached.set_epoch(2 * epoch + number)  # the ranks are never at the same view
            barrier.wait(30)
            batches = list(loader)
            logits = torch.cat([batch["teacher_logits"] for batch in batches])
            means = torch.cat([batch["pixel_values"].mean((1, 2, 3)) for batch in batches])
            seen.append((logits.tolist(), means.tolist()))
        answers.put((number, seen))

    ranks = [context.Process(target=rank, args=(number,)) for number in (0, 1)]
    for process in ranks:
        process.start()
    seen = dict(answers.get(timeout=60) for _ in ranks)
    for process in ranks:
        process.join(30)
    assert data.view == 0
    for view in range(4):
        logits, means = seen[view % 2][view // 2]
        assert torch.equal(torch.tensor(logits), cached.cache.logits(range(40), view))
        data.set_epoch(view)
        pixels = torch.stack([item["pixel_values"] for item in data.__getitems__(range(40))])
        assert torch.equal(torch.tensor(means), pixels.mean((1, 2, 3)))


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

    with pytest.raises(ValueError, match=r"logits of shape \(16, 3, 8, 8\), expected \[batch, classes\]"):
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
    before = {path: path.stat().st_mtime_ns for path in cache.directory.glob("*[!k]")}  # not the lock, "build.lock"
    build(tmp_path / "cache", loaded)
    assert {path: path.stat().st_mtime_ns for path in cache.directory.glob("*[!k]")} == before


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


@pytest.mark.parametrize("argument", [{"views": 3}, {"dtype": "float16"}, {"batch_size": 8}])
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


def test_changed_bytes_are_refused(tmp_path):
    cache = build(tmp_path)
    data = bytearray((tmp_path / "view-0001.npy").read_bytes())
    data[-1] ^= 0x40
    (tmp_path / "view-0001.npy").write_bytes(data)
    for use in (build, TeacherCache.open):
        with pytest.raises(ValueError, match="view-0001.npy' is damaged: its CRC-32 is .*Delete this file and call"):
            use(tmp_path)
    for unread in (build(tmp_path, verify=False), TeacherCache.open(tmp_path, verify=False)):
        assert not torch.equal(unread.logits([39], 1), cache.logits([39], 0))
    (tmp_path / "view-0001.npy").unlink()
    assert torch.equal(build(tmp_path).logits([39], 1), live(network(), images(), list(range(24, 40)), 1)[-1:])


def test_too_small_a_disk_is_noticed_before_the_build(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=2 * 40 * 6 * 4 - 1))
    with pytest.raises(OSError, match="logits need 0.0 MB more"):
        build(tmp_path / "a" / "new" / "folder")
    assert not (tmp_path / "a").exists()
