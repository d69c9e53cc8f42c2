"""The pictures are written, whole, and show what they were given."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from hf_ltkd import ClassGroups
from hf_ltkd.analysis.bias import GroupReport
from hf_ltkd.analysis.plots import (
    plot_class_accuracy,
    plot_group_accuracy,
    plot_sensitivity,
    plot_teacher_bias,
    plot_tuning,
)
from hf_ltkd.metrics.pixel_answers import PixelAnswers, counts_of


pytestmark = pytest.mark.usefixtures("pictures")
GROUPS = ClassGroups([0, 1, 2], names=["many", "some", "few"])
RESULTS = {
    "KD": {"many_accuracy": [0.8, 0.6], "some_accuracy": [0.5], "few_accuracy": [0.1], "accuracy": [0.45]},
    "LTKD": {"many_accuracy": [0.7], "some_accuracy": [0.55], "few_accuracy": [0.3], "accuracy": [0.5, 0.54]},
}


@pytest.fixture
def axes(pictures, monkeypatch):
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


def test_teacher_bias_of_pixels(axes, tmp_path):
    """In percent of the pixels of a batch, beside those of each group, with the IoU of each."""
    confusion = np.array([[60, 10, 10], [5, 5, 5], [0, 0, 0]])
    answers = PixelAnswers(confusion, counts_of(confusion[None]))
    report = GroupReport(answers.scores(GROUPS), [0.7, 0.2, 0.1], [80, 15, 0], answers)
    evaluation, training = torch.tensor([[60.0, 30.0, 10.0], [14.0, 5.0, 1.0]]), torch.tensor([[180.0, 18.0, 2.0]])
    path = tmp_path / "new" / "bias.png"
    plot_teacher_bias(evaluation, training, GROUPS, path, loss_shares={"KD": [0.4, 0.3, 0.2, 0.1]}, of_pixels=report)
    check_file(path)
    mass, iou, shares = axes
    lines = [line for line in mass.get_lines() if line.get_linestyle() != "--"]
    expected = [[60, 70], [90], [30, 25], [9], [10, 5], [1]]
    assert [line.get_ydata().tolist() for line in lines] == [pytest.approx(values) for values in expected]
    dashed = [line.get_ydata()[0] for line in mass.get_lines() if line.get_linestyle() == "--"]
    assert dashed == pytest.approx([100 * 80 / 95, 100 * 15 / 95, 0])
    low, high = mass.get_ylim()
    assert 0.5 < low < 1 and 100 < high  # all of them are seen
    assert [bar.get_width() for bar in iou.patches] == pytest.approx([100 * 60 / 85, 100 * 5 / 25, 0])
    assert [text.get_text() for text in iou.texts] == ["70.6", "20.0", "0.0"]
    assert len(shares.patches) == 4


def test_group_accuracy(axes, tmp_path):
    path = tmp_path / "new" / "groups.png"
    plot_group_accuracy(RESULTS, GROUPS, path)
    check_file(path)
    bars = [c for c in axes[0].containers if hasattr(c, "patches")]
    heights = {c.get_label(): [bar.get_height() for bar in c.patches] for c in bars}
    assert heights == {"KD": pytest.approx([70, 50, 10, 45]), "LTKD": pytest.approx([70, 55, 30, 52])}
    error = bars[0].errorbar.lines[2][0].get_segments()[0]
    # One sample deviation of 80 % and 60 %: the root of (10² + 10²) / (2 - 1).
    assert error[:, 1].tolist() == pytest.approx([70 - 200**0.5, 70 + 200**0.5])
    assert [tick.get_text() for tick in axes[0].get_xticklabels()] == ["many", "some", "few", "all classes"]


def test_one_seed_has_no_error_bars(axes, tmp_path):
    single = {metric: [0.5] for metric in RESULTS["KD"]}
    plot_group_accuracy({"one": single, "KD": RESULTS["KD"]}, GROUPS, tmp_path / "groups.png")
    bars = [container for container in axes[0].containers if hasattr(container, "patches")]
    assert [container.errorbar is None for container in bars] == [True, False]


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
    legend = [text.get_text().lstrip("\u200b") for text in axes[0].figure.legends[0].get_texts()]
    assert legend == ["teacher", "_student"]
    with pytest.raises(ValueError, match="'x' has the accuracy of 2 classes, the groups are of 4"):
        plot_class_accuracy({"x": [0.1, 0.2]}, groups, path)


def test_tuning_shows_the_chosen_trial_and_the_first(axes, tmp_path):
    curves = [[[1, 0.2], [2, 0.3], [3, 0.4]], [[1, 0.1]], [[1, 0.3], [2, 0.5], [3, 0.6]], []]
    trials = [{"number": n, "arguments": {"alpha": n + 1, "beta": 1}, "curve": c} for n, c in enumerate(curves)]
    plot_tuning(trials, {"alpha": [0.1, 10], "beta": [0.1, 10]}, 2, tmp_path / "tuning.png")
    check_file(tmp_path / "tuning.png")
    lines, ends, _ = (panel.get_lines() for panel in axes)
    named = {line.get_label(): line for line in lines if not line.get_label().startswith("_")}
    assert named["chosen"].get_xdata().tolist() == [1, 2, 3] and named["first"].get_ydata() == pytest.approx(
        [20, 30, 40]
    )
    assert [point.get_xdata()[0] for point in ends] == [1, 2, 3]  # of a trial without an evaluation there is none
    assert [point.get_markerfacecolor() == "white" for point in ends] == [False, True, False]


def sensitivity(points):
    """Two seeds, 0.01 from their mean, which grows by 0.01 with alpha and by 0.02 with beta; the tail 0.2 below."""
    mean = {(alpha, beta): 0.3 + 0.01 * alpha + 0.02 * beta for alpha, beta in points}
    return {
        point: {"accuracy": [m - 0.01, m + 0.01], "few_accuracy": [m - 0.21, m - 0.19]} for point, m in mean.items()
    }


def test_sensitivity_as_in_the_paper(axes, tmp_path):
    path = tmp_path / "new" / "sensitivity.png"
    cross = [(alpha, 1) for alpha in (1, 2, 6, 4)] + [(4, beta) for beta in (2, 8)]
    results = sensitivity(cross)
    results[4, 1] = {"accuracy": [0.9, 0.9], "few_accuracy": [0.8]}  # the most accurate, and met by the most betas
    plot_sensitivity(results, GROUPS, path, baselines={"_KD": {"accuracy": [0.2, 0.4], "few_accuracy": [0.1]}})
    check_file(path)
    assert [panel.get_title() for panel in axes] == ["all classes", "few"]
    for panel, below, height in ((axes[0], 0, 30), (axes[1], 20, 10)):
        varied_alpha, varied_beta = panel.containers
        best = 90 if panel is axes[0] else 80
        x, y = varied_alpha.lines[0].get_data()
        assert [*x] == [1, 2, 4, 6] and [*y] == pytest.approx([33 - below, 34 - below, best, 38 - below])
        x, y = varied_beta.lines[0].get_data()
        assert [*x] == [1, 2, 8] and [*y] == pytest.approx([best, 38 - below, 50 - below])
        bars = [segment[:, 1].tolist() for segment in varied_beta.lines[2][0].get_segments()]
        assert bars[2] == pytest.approx([50 - below - 2**0.5, 50 - below + 2**0.5])  # of 49 % and 51 %
        (baseline,) = [line for line in panel.get_lines() if line.get_linestyle() == "--"]
        assert [*baseline.get_ydata()] == pytest.approx([height, height])
    labels = [text.get_text().lstrip("\u200b") for text in axes[0].figure.legends[0].get_texts()]
    assert labels == [r"$\alpha$ varied, $\beta$ = 1", r"$\beta$ varied, $\alpha$ = 4", "_KD"]


def test_sensitivity_over_a_grid(axes, tmp_path):
    path = tmp_path / "sensitivity.png"
    plot_sensitivity(sensitivity((alpha, beta) for beta in (6, 0.5) for alpha in (2, 1, 4)), GROUPS, path)
    check_file(path)
    maps = [panel for panel in axes if panel.images]
    for panel, below in zip(maps, (0, 20), strict=True):
        expected = [[30 + alpha + 2 * beta - below for beta in (0.5, 6)] for alpha in (1, 2, 4)]
        assert panel.images[0].get_array().tolist() == [pytest.approx(row) for row in expected]
        assert [float(text.get_text()) for text in panel.texts] == pytest.approx(sum(expected, []), abs=0.05)
        assert [tick.get_text() for tick in panel.get_xticklabels()] == ["0.5", "6"]
        assert [tick.get_text() for tick in panel.get_yticklabels()] == ["1", "2", "4"]
    # Beta stays at the smallest of those that met all alphas, alpha at the best there.
    assert [c.get_label() for c in axes[0].containers] == [
        r"$\alpha$ varied, $\beta$ = 0.5",
        r"$\beta$ varied, $\alpha$ = 4",
    ]


def test_sensitivity_to_one_of_both_and_to_none(axes, tmp_path):
    results = {
        point: {name: value[:1] for name, value in v.items()} for point, v in sensitivity([(6, 1), (6, 2)]).items()
    }
    plot_sensitivity(results, GROUPS, tmp_path / "beta.svg")
    (line,) = axes[0].containers
    assert line.get_label() == r"$\beta$ varied, $\alpha$ = 6" and not line.has_yerr  # one seed
    with pytest.raises(ValueError, match="No two of the 2 results share alpha or beta, .* vary one of them"):
        plot_sensitivity(sensitivity([(1, 1), (2, 2)]), GROUPS, tmp_path / "none.png")


@pytest.mark.parametrize("models", [2, 6, 9])
@pytest.mark.parametrize("plot", [plot_group_accuracy, plot_class_accuracy])
def test_the_legend_of_many_models_is_on_the_page(axes, tmp_path, models, plot):
    names = [f"student {n}, LTKD with a balanced softmax" for n in range(models)]
    values = [0.3, 0.8, 0.7, 0.5] if plot is plot_class_accuracy else {"first_accuracy": [0.3], "accuracy": [0.5]}
    plot(dict.fromkeys(names, values), ClassGroups([0] * 4, names=["first"]), tmp_path / "a.png")
    figure = axes[0].figure
    page, legend = figure.bbox, figure.legends[0].get_window_extent()
    assert page.x0 <= legend.x0 and legend.x1 <= page.x1 and page.y0 <= legend.y0
    assert axes[0].get_window_extent().width > 0.7 * page.width
    assert legend.y1 < axes[0].get_window_extent().y0
