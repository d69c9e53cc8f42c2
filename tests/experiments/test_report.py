"""The report on made-up results, on those of this repository and of a sweep; and its page."""

import functools
import json
import re
import shutil

import figures
import pages
import pytest
import report
from experiment import experiment_files, load_experiment
from job import read_json_lines
from PIL import Image
from test_results import OLD_SWEEP, line
from tiny import FOLDER, made_up


PAIR = {"pairs": ["resnet32x4:resnet8x4"], "factors": [100]}
TABLE_1 = {
    "Teacher": [(15, 45)],
    "Student": [(13, 42), (13, 43), (13, 44)],
    "DKD": [(14, 46), (14.5, 47), (15, 48)],
    "DIST": [(14, 45), None],
    "LTKD": [(27, 50), (28, 51), (29, 52)],
}


def make_report(folder, lines, *arguments):
    """The sections of report.md, by their titles."""
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report.main([*map(str, [folder / "results.jsonl", "--output_dir", folder / "report", *arguments])])
    text = (folder / "report" / "report.md").read_text()
    return {part.splitlines()[0]: part for part in text.split("\n## ")[1:]}


def cells_of(section, caption, row):
    table = section.split(f"{caption}\n\n")[1]
    line = next(line for line in table.splitlines() if line.startswith(f"| {row} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture(scope="module", autouse=True)
def read_once():
    """Reading the experiments of the repository takes longer than their report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "load_experiment", functools.cache(load_experiment))
        yield


@pytest.fixture
def no_pictures(monkeypatch):
    """Only their names: drawing is what takes the time."""
    for name in ("_save", "plot_sensitivity", "plot_teacher_bias"):
        monkeypatch.setattr(figures, name, lambda figure, path, *others, **options: path)
    monkeypatch.setattr(report, "to_html", lambda title, sections: "")


def test_the_repositorys_results_give_the_repositorys_report(tmp_path, no_pictures):
    results = sorted((FOLDER / "results").glob("*.jsonl"))
    report.main([*map(str, [*results, "--output_dir", tmp_path])])
    assert (tmp_path / "report.md").read_text() == (FOLDER / "report" / "report.md").read_text()


def test_a_table_of_the_paper(tmp_path, no_pictures):
    sections = make_report(tmp_path, made_up("table_1", TABLE_1, **PAIR))
    table = sections["Table 1, CIFAR-100-LT"]
    # Means and deviations by hand: 50, 51, 52 have the mean 51 and the deviation 1.
    expected = {
        "LTKD": [
            "<b>28.00 ± 1.00 (3)</b><br><small>paper <b>27.21</b>, +0.79</small>",
            "<b>51.00 ± 1.00 (3)</b><br><small>paper <b>51.08</b>, −0.08</small>",
        ],
        "DKD": [
            "<u>14.50 ± 0.50 (3)</u><br><small>paper 13.25, +1.25</small>",
            "<u>47.00 ± 1.00 (3)</u><br><small>paper <u>46.11</u>, +0.89</small>",
        ],
        "DIST": [
            "14.00 (1, 1 diverged)<br><small>paper 13.86, +0.14</small>",
            "45.00 (1, 1 diverged)<br><small>paper 45.21, −0.21</small>",
        ],
        "ReviewKD": ["–<br><small>paper <u>15.09</u></small>", "–<br><small>paper 45.91</small>"],
        "Student": [
            "13.00 ± 0.00 (3)<br><small>paper 13.38, −0.38</small>",
            "43.00 ± 1.00 (3)<br><small>paper 42.48, +0.52</small>",
        ],
        "Teacher": [
            "15.00 (1)<br><small>paper 15.28, −0.28</small>",
            "45.00 (1)<br><small>paper 45.35, −0.35</small>",
        ],
    }
    for method, cells in expected.items():
        assert cells_of(table, "resnet32x4 → resnet8x4", method)[5:] == cells
    assert cells_of(table, "vgg13 → vgg8", "LTKD")[1] == "–<br><small>paper <b>53.95</b></small>"
    status_row = cells_of(sections["What has been reproduced"], "to train on.", "Table 1, CIFAR-100-LT")
    assert status_row[1].startswith("4 of 84 cells; tail +0.45 (−0.38 to +1.25); all +0.28 (−0.21 to +0.89)")
    # The same LTKD is a cell of Table 6, and nothing of it is in Table 5, which is for factor 20.
    six = sections["Table 6, the number of groups on CIFAR-100-LT"]
    assert cells_of(six, "Imbalance factor 100", "3 groups")[1].startswith("51.00 ± 1.00 (3)<br>")
    assert "51.00" not in sections["Table 5, the two terms on CIFAR-100-LT"]


def test_nothing_of_one_protocol_in_anothers_table(tmp_path, no_pictures):
    lines = made_up("table_1", TABLE_1, **PAIR)
    short = {"LTKD": [(99, 99)], "DKD": [(98, 98)], "Student": [(98, 98)], "Teacher": [(98, 98)]}
    lines += made_up("table_1", short, {"num_train_epochs": 3}, **PAIR)
    lines += made_up("table_1", {"LTKD": [(97, 97)]}, {"per_device_train_batch_size": 128}, **PAIR)
    lines += made_up("reduced", {"LTKD": [(96, 96)], "KD": [(95, 95)]}, factors=[100])
    sections = make_report(tmp_path, lines)
    other = [
        f"Table 1, CIFAR-100-LT: another protocol, {name}"
        for name in ("num_train_epochs=3", "per_device_train_batch_size=128")
    ]
    reduced = "CIFAR-100-LT at 16 pixels, resnet20 -> resnet8, 30 epochs"
    student = cells_of(sections["Table 1, CIFAR-100-LT"], "resnet32x4 → resnet8x4", "Student")
    assert student[5].startswith("13.00 ± 0.00 (3)<br>")  # its run has no teacher in it that would tell them apart
    numbers = {name: set(re.findall(r"\b9[5-9]\.00", text)) for name, text in sections.items()}
    assert numbers[other[0]] == {"99.00", "98.00"} and numbers[other[1]] == {"97.00"}
    assert numbers[reduced] == {"96.00", "95.00"}
    ours = {"Table 1, CIFAR-100-LT": "28.00", "Table 6, the number of groups on CIFAR-100-LT": "51.00"}
    for name, value in ours.items():
        assert not numbers[name] and value in sections[name]
    for name in (*other, reduced):
        assert "28.00" not in sections[name] and "This is not the paper's protocol" in sections[name]
        assert "<small>paper" not in sections[name]


def test_trends_of_two_experiments_in_one_row(tmp_path, no_pictures):
    lines = made_up("reduced", {"Cross": [(5, 20)], "Biased cross": [(9, 18)]}, factors=[20])
    lines += made_up("reduced_search", {"Cross, T 1": [(20, 30)], "Biased cross, T 1": [(10, 20)]}, factors=[20])
    sections = make_report(tmp_path, lines)
    title, one = "Table 4, the cross-group term alone on CIFAR-100-LT", "as the paper (one seed)"
    row = cells_of(sections["What has been reproduced"], "to train on.", title)
    assert row[2] == f"`reduced`: 1 {one}, 1 opposite (one seed); `reduced_search`: 2 {one}"
    search = sections["A search around LTKD and KD in the reduced protocol"]
    assert "| Cross, T 1 less Biased cross, T 1 | table 4 | 20 | +10.00 | +2.21 |" in search
    assert "from best to worst" not in search


def test_lines_that_are_not_shown_are_counted(tmp_path, no_pictures):
    lines = made_up("table_1", {"Teacher": [(15, 45)], "LTKD": [(27, 50), (28, 51)]}, **PAIR)
    again = made_up("table_1", {"LTKD": [(29, 52)]}, **PAIR)
    lines[1]["run"]["arguments"] = {"alpha": 99}  # as if the experiment had been changed since
    about = make_report(tmp_path, [*lines, *again, *again])["About the runs"]
    assert "| `table_1.yaml` | 4 |" in about and "1 runs belong to no experiment as it is now" in about
    assert "Lines of runs that an earlier line has already: 1; the first counts." in about


@pytest.mark.usefixtures("pictures")
def test_figures_page_and_readme(tmp_path):
    four = made_up("reduced_figure_4", {"LTKD": [(20, 30)], "KD": [(18, 30)]})
    for each in four:
        curve = [[3.0, 2.0, 1.0], [1.0, 1.0, 0.5]]
        each["group_losses"] = {"temperature": 4, "within": curve, "by_label": curve}
    three = made_up("reduced_figure_3", {"Group probabilities": [(0, 0)]}, factors=[20])
    for each in three:
        del each["metrics"]
        sums = {"balanced": [[22.0, 21.0, 21.0]] * 3, "long_tailed": [[30.0, 20.0, 14.0]] * 3}
        each["group_mass"] = {"temperature 4": sums}
    five = {f"alpha {a}, beta 1": [(a, 10 + a)] for a in (2, 4)} | {"ReviewKD": [(5, 9)]}
    readme = tmp_path / "README.md"
    start, end = "<!-- status, written by report.py -->", "<!-- end of status -->"
    readme.write_text(f"before\n{start}\nold\n{end}\nafter\n")
    speed = {"kind": "student resnet8, batch 128", "data": {"benchmark": "cifar100_lt"}, "device": "a CPU"}
    lines = [*four, *three, *made_up("reduced_figure_5", five), {**speed, "examples_per_second": 5}]
    sections = make_report(tmp_path, lines, "--readme", readme)
    three = sections["Figure 3, the teacher's group probabilities over batches, in the reduced protocol"]
    assert "| resnet20, 20, 4 | 22.00, 21.00, 21.00 | 30.00, 20.00, 14.00 |" in three
    assert "| paper, one batch (Sec. 3.2) | 22.54, 20.76, 20.70 | 27.88, 19.28, 16.83 |" in three
    four = sections["Figure 4, distillation loss per group over the training, in the reduced protocol"]
    assert "| LTKD | 1.000 | 1.000 | 0.500 | 1.000 | 1.000 | 0.500 |" in four
    pictures = {path.name: Image.open(path).size for path in (tmp_path / "report").glob("*.png")}
    assert set(pictures) == {
        "reduced_20.png",  # figure 5's ReviewKD is that of the table, too
        "reduced_figure_3_resnet20_20_temperature_4.png",
        "reduced_figure_4_20.png",
        "reduced_figure_5_20.png",
    }
    assert min(min(size) for size in pictures.values()) > 150
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 4 and "http" not in page and 'src="reduced' not in page
    text = readme.read_text()
    assert text.startswith(f"before\n{start}\n\n|  | the paper's protocol |") and text.endswith("\nafter\n")
    assert "old" not in text and "| 1 of 2 cells drawn |" in text and "| 3 of 12 cells drawn |" in text


# ---- Sweeps and experiments of one's own ----


def test_an_old_sweep(tmp_path, monkeypatch):
    """Its Fig. 5 was drawn of alpha and beta at temperature 2, with the other losses as lines to compare with."""
    drawn = []
    plot = figures.plot_sensitivity
    monkeypatch.setattr(figures, "plot_sensitivity", lambda *a, **k: drawn.append((a, k)) or plot(*a, **k))
    assert report.write_report([OLD_SWEEP / "results.jsonl"], [], tmp_path) == {}
    text = (tmp_path / "report.md").read_text()
    assert "# Results\n" in text and "All methods (resnet8)" in text and "![old_sweep_results]" in text
    row = "| ltkd alpha=6 beta=0.5 temperature=2 | 75.00 ± 17.68 (2) | <u>25.00 ± 8.84 (2)</u> | "
    assert row + "<u>12.50 ± 0.00 (2)</u> | <b>37.50 ± 2.95 (2)</b> |" in text
    (((points, groups, _), options),) = drawn
    assert set(points) == {(a, b) for a in (1, 6) for b in (0.5, 2)} and groups.names == ("head", "medium", "tail")
    assert set(options["baselines"]) == {"ce", "kd temperature=2"}
    assert points[6, 2]["tail_accuracy"] == pytest.approx([0.25, 0.25])


def test_fig_5_for_each_choice_of_the_other_arguments(tmp_path, no_pictures):
    lines = [line(f"{a} {t}", 0.5, alpha=a, beta=1, temperature=t) for a in (1, 6) for t in (2, 4)]
    for each in lines:
        each["run"]["loss"] = "ltkd"
    (section, _) = make_report(tmp_path, lines).values()
    assert re.findall(r"!\[(.*?)\]", section) == ["own_4_1", "own_4_2"]


def test_an_experiment_of_ones_own(start, whole, images, tmp_path):
    """Anywhere on the disk: with its file the report has its title and trends, without it the same numbers."""
    own = tmp_path / "mine.yaml"
    own.write_text((images / "tiny.yaml").read_text() + "trends: [[LTKD, Student]]\ntables: {Two: [LTKD, Student]}\n")
    out = shutil.copytree(whole, tmp_path / "out")  # its runs are those of tiny.yaml
    start(out, "--experiment", own, "--methods", "LTKD", "Student", experiment=None, report=True)
    at_the_end = (out / "report.md").read_text()
    section = at_the_end.split("\n## ")[1]
    assert section.startswith("Six colours\n") and "Two (resnet8x2 → resnet8)" in section
    row = next(row for row in section.splitlines() if row.startswith("| LTKD less Student |"))
    assert "paper" not in row and row.count("±") == 2  # a paired interval of two seeds
    numbers = re.findall(r"\d+\.\d\d ± \d+\.\d\d \(2\)", section)
    assert len(numbers) == 8  # two methods, three groups and all
    report.main([str(out / "results.jsonl"), "--output_dir", str(out / "again"), "--experiments", str(own)])
    assert (out / "again" / "report.md").read_text() == at_the_end
    report.main([str(out / "results.jsonl"), "--output_dir", str(out / "without")])
    without = (out / "without" / "report.md").read_text()
    assert set(re.findall(r"\d+\.\d\d ± \d+\.\d\d \(2\)", without)) >= set(numbers) and "## tiny" in without


def test_held_out_images_are_named(tmp_path, no_pictures):
    lines = [{**line("A", 0.5), "evaluated_on": "36 held-out training images"}]
    assert report.HELD_OUT_NOTE in make_report(tmp_path, lines)["own num_train_epochs=2"]
    assert report.HELD_OUT_NOTE not in make_report(tmp_path, [line("A", 0.5)])["own num_train_epochs=2"]


# ---- Wrong inputs, the page ----


def test_wrong_inputs_are_explained(tmp_path, capsys, no_pictures):
    with pytest.raises(SystemExit):
        report.main([str(tmp_path / "results.jsonl")])
    assert "give results.jsonl of run.py's --output_dir" in capsys.readouterr().err
    with pytest.raises(ValueError, match="There are no runs in"):
        make_report(tmp_path, [])
    readme = tmp_path / "README.md"
    readme.write_text("nothing to write between")
    with pytest.raises(SystemExit):
        make_report(tmp_path, made_up("table_1", {"LTKD": [(27, 50)]}, **PAIR), "--readme", readme)
    assert readme.read_text() == "nothing to write between"


def test_the_page_is_escaped():
    table = pages.Table("c & d", [["", "x"], ["<b>1</b>", "<script>"], ["`a`", "b" * 41 + "<br>c"]])
    page = pages.to_html("t", [pages.Section("a < b", [table, "`e < f`"])])
    assert "<h2>a &lt; b</h2>" in page and "<p>c &amp; d</p>" in page and '<td class="number"><b>1</b></td>' in page
    assert "&lt;script&gt;" in page and "<code>e &lt; f</code>" in page
    assert f'<td class="text">{"b" * 41}<br>c</td>' in page and '<th class="text">x</th>' in page


def test_speeds_of_the_repository_are_known():
    """Each kind of work of the paper's tables on CIFAR-100 and Tiny ImageNet has been measured."""
    kinds = {each["kind"] for each in read_json_lines(FOLDER / "results" / "speeds.jsonl")}
    experiments = [load_experiment(path) for path in experiment_files() if path.stem in ("table_1", "table_2")]
    assert {f"logits of {pair.split(':')[0]}" for e in experiments for pair in e.pairs} <= kinds
