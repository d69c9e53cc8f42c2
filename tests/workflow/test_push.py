"""A student's folder, sent to the Hub."""

import shutil

import pytest

from hf_ltkd.workflow import push


def test_it_sends_the_folder_with_its_card(home, tmp_path, monkeypatch):
    sent = {}

    def push_folder(folder, to, private):
        sent.update(folder=folder, to=to, private=private, card=(folder / "README.md").read_text())
        return type("Commit", (), {"commit_url": "https://example.org/commit"})

    monkeypatch.setattr(push, "push_folder", push_folder)
    folder = shutil.copytree(home.student, tmp_path / "student")
    assert push.push(folder, "me/small", private=True) == "https://example.org/commit"
    assert sent["folder"] == folder and sent["to"] == "me/small" and sent["private"] is True
    plain = 100 * home.comparison.accuracy["plain student"]["accuracy"]
    assert "me/small" in sent["card"] and f"| {plain:.1f} |" in sent["card"]


def test_no_student(home):
    with pytest.raises(ValueError, match="There is no image classifier"):
        push.push(home.photos, "me/small")
