"""Builds of a cache that are killed, run beside each other, are shared by two ranks; and what a user may get wrong."""

import multiprocessing
import os
import signal
import time

import pytest
import torch
from datasets import Dataset
from test_cache import build, contents, images, network
from torch import nn

from hf_ltkd.teacher.cache import TeacherCache
from hf_ltkd.teacher.logit_files import LogitFiles


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return build(tmp_path_factory.mktemp("cache"))


def build_in_another_process(directory, before_batch):
    """`before_batch(n)` is called before the n-th batch is written, the header of each view included."""
    blocks, calls = LogitFiles._blocks, []

    def observed(self, view, batches):
        for block in blocks(self, view, batches):
            calls.append(view)
            before_batch(len(calls))
            yield block

    def build_observed():
        LogitFiles._blocks = observed
        build(directory)

    process = multiprocessing.get_context("fork").Process(target=build_observed)
    process.start()
    return process


# Before the first view, within it, when it is whole, within the second. A view is a header and three batches.
@pytest.mark.parametrize("number, whole", [(1, 0), (3, 0), (5, 1), (7, 1)])
def test_a_killed_build_goes_on_where_it_stopped(tmp_path, shared_cache, number, whole):
    process = build_in_another_process(tmp_path, lambda n: n == number and os.kill(os.getpid(), signal.SIGKILL))
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.npy"))[:whole]}
    with pytest.raises(ValueError, match=rf"has {whole} of 2 views, .* to finish it"):
        TeacherCache.open(tmp_path)
    build(tmp_path)
    assert contents(tmp_path) == contents(shared_cache.directory)
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in finished.items())


def test_a_build_killed_before_its_manifest(tmp_path, shared_cache):
    def killed():
        os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
        build(tmp_path)

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL and len(list(tmp_path.glob("*.tmp"))) == 1
    with pytest.raises(ValueError, match="holds no teacher cache"):
        TeacherCache.open(tmp_path)
    build(tmp_path)
    assert contents(tmp_path) == contents(shared_cache.directory)


def test_a_build_killed_from_outside(tmp_path, shared_cache):
    process = build_in_another_process(tmp_path, lambda n: time.sleep(0.1))
    while not list(tmp_path.glob("*.npy")):
        assert process.is_alive()
    process.kill()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    build(tmp_path)
    assert contents(tmp_path) == contents(shared_cache.directory)


def test_two_builds_in_one_folder_wait_for_each_other(tmp_path, shared_cache):
    first = build_in_another_process(tmp_path, lambda n: time.sleep(0.1))
    while not list(tmp_path.glob("*.npy")):
        assert first.is_alive()
    second = build_in_another_process(tmp_path, lambda n: os.kill(os.getpid(), signal.SIGKILL))  # it must ask nothing
    first.join(60)
    second.join(60)
    assert first.exitcode == second.exitcode == 0
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
    with pytest.raises(FloatingPointError, match=f"example 19 in view 1 are {message}"):
        build(tmp_path, Poisoned(), data, dtype=dtype)
    assert data.view == 5 and [path.name for path in tmp_path.glob("*.npy")] == ["view-0000.npy"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"views": 0}, "views=0 is not valid"),
        ({"batch_size": 0}, "batch_size=0 is not valid"),
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


def build_and_record(directory):
    """Builds the cache on this rank and returns how many examples the teacher was asked for, batch by batch."""
    asked = []
    teacher = network()
    teacher.register_forward_hook(lambda module, inputs, outputs: asked.append(len(outputs.logits)))
    build(directory, teacher)
    return asked


def test_two_ranks_build_it_together(tmp_path, shared_cache, two_ranks):
    asked = two_ranks(build_and_record, tmp_path / "cache")
    assert contents(tmp_path / "cache") == contents(shared_cache.directory)
    # One batch tells the number of classes; then each rank is asked for two of the four that fill up 40 examples.
    assert asked == [[16] * 5] * 2
