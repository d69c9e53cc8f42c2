"""The pictures are written, whole, and show what they were given."""

import matplotlib
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from hf_ltkd import ClassGroups
from hf_ltkd.plots import plot_class_accuracy, plot_group_accuracy, plot_teacher_bias


GROUPS = ClassGroups([0, 1, 2], names=["many", "some", "few"])
RESULTS = {
    "KD": {"many_accuracy": [0.8, 0.6], "some_accuracy": [0.5], "few_accuracy": [0.1], "accuracy": [0.45]},
    "LTKD": {"many_accuracy": [0.7], "some_accuracy": [0.55], "few_accuracy": [0.3], "accuracy": [0.5, 0.54]},
}


@pytest.fixture
def axes(monkeypatch):
    """The axes of every figure that was saved."""
    saved, savefig = [], Figure.savefig

    def remember(self, *args, **kwargs):
        saved.extend(self.axes)
        return savefig(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", remember)
    return saved


def check_file(path):
    with Image.open(path) as image:
        image.load()
        assert min(image.size) > 300
        assert len(image.convert("RGB").getcolors(1 << 24)) > 10
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_teacher_bias(axes, tmp_path):
    balanced = torch.tensor([[20.0, 22.0, 22.0], [24.0, 20.0, 20.0]])
    tailed = torch.tensor([[44.0, 15.0, 5.0], [40.0, 16.0, 8.0], [42.0, 14.0, 8.0]])
    path = tmp_path / "new" / "bias.png"
    plot_teacher_bias(balanced, tailed, GROUPS, path)
    check_file(path)
    lines = axes[0].get_lines()
    expected = [m[:, g].tolist() for g in range(3) for m in (balanced, tailed)]
    assert [line.get_ydata().tolist() for line in lines] == expected
    assert [line.get_linestyle() for line in lines] == ["-", ":"] * 3
    texts = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert texts[:2] == ["many, balanced (mean 22.0)", "many, long-tailed (mean 42.0)"]
    assert texts[5] == "few, long-tailed (mean 7.0)"


def test_group_accuracy(axes, tmp_path):
    path = tmp_path / "new" / "groups.png"
    plot_group_accuracy(RESULTS, GROUPS, path)
    check_file(path)
    bars = [c for c in axes[0].containers if hasattr(c, "patches")]
    heights = {c.get_label(): [bar.get_height() for bar in c.patches] for c in bars}
    assert heights == {
        "KD": pytest.approx([70, 50, 10, 45]),
        "LTKD": pytest.approx([70, 55, 30, 52]),
    }
    error = bars[0].errorbar.lines[2][0].get_segments()[0]
    assert error[:, 1].tolist() == pytest.approx([60, 80])  # one deviation of 80 % and 60 %, which is 10
    assert [tick.get_text() for tick in axes[0].get_xticklabels()] == ["many", "some", "few", "all classes"]


def test_any_format_and_the_callers_backend_stays(tmp_path):
    before = matplotlib.rcParams._get_backend_or_none()
    plot_group_accuracy(RESULTS, GROUPS, tmp_path / "groups.svg")
    assert "<svg" in (tmp_path / "groups.svg").read_text(encoding="utf-8")
    assert matplotlib.rcParams._get_backend_or_none() == before


def test_class_accuracy(axes, tmp_path):
    path = tmp_path / "new" / "classes.png"
    groups = ClassGroups([1, 0, 0, 1], names=["$many$", "_few"], class_counts=[5, 60, 50, 9])
    plot_class_accuracy({"teacher": [0.1, 0.9, 0.8, None], "_student": [0.3, 0.8, 0.7, 0.5]}, groups, path)
    check_file(path)
    points = [line for line in axes[0].get_lines() if line.get_linestyle() == "None"]
    # Ranked by count: classes 1, 2, 3, 0; class 3 has no test example for the teacher.
    assert points[0].get_xdata().tolist() == [1, 2, 4] and points[0].get_ydata() == pytest.approx([90, 80, 10])
    assert points[1].get_ydata() == pytest.approx([80, 70, 50, 30])
    legend = [text.get_text().lstrip("\u200b") for text in axes[0].get_legend().get_texts()]
    assert legend == ["teacher", "_student"]
    with pytest.raises(ValueError, match="'x' has the accuracy of 2 classes, the groups are of 4"):
        plot_class_accuracy({"x": [0.1, 0.2]}, groups, path)
