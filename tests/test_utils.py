"""Helpers that several rooms share: files are replaced whole, JSON is JSON, text stays on its line."""

import json
import os
import random
import zlib

import pytest

from hf_ltkd import utils


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    for text in ("first", "second"):
        with utils.replacing(path) as unfinished:
            unfinished.write_text(text)
            assert unfinished.parent == path.parent and str(os.getpid()) in unfinished.name
            assert not path.exists() if text == "first" else path.read_text() == "first"
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_after_an_error_the_old_file_stays_and_nothing_is_left_behind(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(type(error)), utils.replacing(path) as unfinished:
        unfinished.write_text("ne")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_json_round_trip_and_numbers_that_json_has_not(tmp_path):
    values = {"text": "schön", "list": [1, 2.5, None], "nested": {"nan": float("nan"), "inf": [float("inf")]}}
    utils.write_json(tmp_path / "values.json", values)
    text = (tmp_path / "values.json").read_text(encoding="utf-8")
    assert text.endswith("}\n") and "NaN" not in text and "Infinity" not in text
    expected = {**values, "nested": {"nan": None, "inf": [None]}}
    assert utils.read_json(tmp_path / "values.json") == json.loads(text) == expected
    assert utils.read_json(tmp_path / "nothing.json") == {}


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, (1 << 20) + 1])
def test_crc32_of_a_file(tmp_path, size):
    content = random.Random(0).randbytes(size)
    (tmp_path / "file").write_bytes(content)
    assert utils.file_crc32(tmp_path / "file") == zlib.crc32(content)


def test_values_of_the_command_line():
    items = ["alpha=1", "beta=0.5", "ce=balanced_softmax", "rebalance=False", "list=[1, 2]", "path=a=b", "none=null"]
    assert utils.parse_values("--loss_args", items) == {
        "alpha": 1,
        "beta": 0.5,
        "ce": "balanced_softmax",
        "rebalance": False,
        "list": [1, 2],
        "path": "a=b",
        "none": None,
    }
    with pytest.raises(ValueError, match="--loss_args beta must have the form name=value, e.g. beta=8"):
        utils.parse_values("--loss_args", ["alpha=1", "beta"])


def test_text_for_a_message():
    assert utils.one_line(ValueError("two\n  lines\x1b[31m and\ttabs")) == "two lines [31m and tabs"
    assert (
        utils.listed([3, 7, 8]) == "3, 7, 8" and utils.listed(range(9), 3) == "0, 1, 2, ..." and not utils.listed([])
    )


def test_what_student_and_teacher_see_of_a_batch():
    batch = {"pixel_values": 1, "labels": 2, "teacher_pixel_values": 3}
    assert utils.student_inputs(batch) == {"pixel_values": 1, "labels": 2}
    assert utils.teacher_inputs(batch) == {"pixel_values": 3, "labels": 2}
    plain = {"pixel_values": 1, "labels": 2}
    assert utils.student_inputs(plain) == utils.teacher_inputs(plain) == plain


def test_the_machine_of_a_figure():
    name = utils.cpu_name()
    assert name and "\n" not in name
    described = utils.describe_machine()
    assert described.startswith(f"{name}, {os.cpu_count()} cores, torch 2.")
