"""Files of logits: damage of every kind is named, foreign folders stay as they are, full disks are explained."""

import json
import resource
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hf_ltkd.teacher.logit_files import LogitFiles


def logits(view):
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(view))


@pytest.fixture
def files(tmp_path):
    manifest = {"teacher": "abc", "num_examples": 40, "num_classes": 6, "views": 3, "dtype": "float32"}
    files = LogitFiles(tmp_path / "cache", manifest)
    with files.locked():
        files.begin(files.missing())
        for view in range(3):
            files.write(view, logits(view).split(16))
    return files


def test_what_was_written_is_read(files):
    found = LogitFiles.open(files.directory)
    assert found.manifest == files.manifest and not found.missing()
    found.verify()
    for view in (2, 0, 1):
        assert np.array_equal(np.load(files.path(view)), logits(view).numpy())
        assert np.array_equal(found.read(np.array([3, 39, 3]), view), logits(view)[[3, 39, 3]].numpy())


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def other_shape(path):
    np.save(path, np.zeros((13, 6), dtype=np.float32))


def other_type(path):
    np.save(path, np.zeros((40, 6), dtype=np.int32))


def empty(path):
    path.write_bytes(b"")


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def zeros(path):
    data = path.read_bytes()
    path.write_bytes(data[:512] + bytes(128) + data[640:])


def another_view(path):
    shutil.copy(path.with_name("view-0002.npy"), path)


def other_order(path):
    np.save(path, np.asfortranarray(np.load(path)))


def flipped_header(path):
    data = bytearray(path.read_bytes())
    data[7] ^= 1  # the format's minor version
    path.write_bytes(data)


CHEAP = [truncate, other_shape, other_type, empty]
FULL = [flip, zeros, another_view, other_order]


@pytest.mark.parametrize("damage", CHEAP + FULL)
def test_a_damaged_view_is_named(files, damage):
    damage(files.path(1))
    found = LogitFiles.open(files.directory)
    reason = r"expected float32 of shape \(40, 6\), found" if damage in CHEAP else "its CRC-32 is [0-9a-f]{8}, when"
    with pytest.raises(ValueError, match=f"view-0001.npy' is damaged: {reason} .*Delete this file"):
        found.missing()
        found.verify()
    found.path(1).unlink()
    assert found.missing() == [1]


def test_a_view_that_is_not_in_the_manifest_does_not_count(files):
    del files.manifest["crc32"]["2"]
    assert files.missing() == [2]
    files.begin([2])
    assert not files.path(2).exists() and files.path(1).exists()
    with pytest.raises(ValueError, match="has 2 of 3 views, because its build was interrupted"):
        files.check_complete()


FOREIGN = {
    "files": ({"model.safetensors": "x"}, "no teacher cache: it holds model.safetensors, but no manifest.json"),
    "manifest": ({"manifest.json": json.dumps({"format": "web app"})}, "is not the manifest of a teacher cache"),
    "cut manifest": ({"manifest.json": '{"format": "hf_l'}, "is not the manifest of a teacher cache"),
    "list": ({"manifest.json": "[]"}, "is not the manifest of a teacher cache"),
    "version 1": (
        {"manifest.json": json.dumps({"format": "hf_ltkd teacher logits, version 1"}), "view-0000-00000000.npy": ""},
        "found 'hf_ltkd teacher logits, version 1'.* delete this one if it is a cache of an earlier version",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_folder_is_refused(tmp_path, case):
    texts, message = FOREIGN[case]
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        LogitFiles.open(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == texts


def test_no_folder(tmp_path):
    assert LogitFiles.open(tmp_path / "nowhere") is None and LogitFiles.open(tmp_path) is None


def test_too_small_a_disk(files, monkeypatch):
    usage = SimpleNamespace(free=40 * 6 * 4 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match=r"logits need 0.0 MB more in .*, where 0.0 MB are free: free some space"):
        files.check_space([1])
    usage.free += 1
    assert "40 examples × 3 views × 6 classes × 4 bytes = 0.0 MB" in files.check_space([1])


def test_a_disk_that_fills_up_keeps_the_finished_views(files):
    before = files.path(0).read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))  # 128 bytes of header, 384 a batch
    try:
        with pytest.raises(OSError, match=r"view-0001.npy' cannot be written \(.*File too large\): free some space"):
            files.write(1, logits(1).split(16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not files.path(1).exists() and files.path(0).read_bytes() == before
    files.write(1, logits(1).split(16))
    files.verify()


@pytest.mark.parametrize(
    "value, dtype, message",
    [
        (float("nan"), "float32", "NaN or infinite: check the teacher's weights"),
        (float("-inf"), "float32", "NaN or infinite: check the teacher's weights"),
        (1e5, "float16", "too large for float16: choose dtype='float32'"),
    ],
)
def test_wrong_logits_are_named_with_example_and_view(files, value, dtype, message):
    wrong = logits(0)
    wrong[17, 3] = value
    files.manifest["dtype"] = dtype
    with pytest.raises(FloatingPointError, match=f"example 17 in view 1 are {message}"):
        files.write(1, wrong.split(16))
    assert not files.path(1).exists()
