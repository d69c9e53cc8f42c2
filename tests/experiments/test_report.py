"""The report on made-up results: the paper's tables, trends, figures, costs."""

import json
import re
import sys
from pathlib import Path

import pytest


FOLDER = Path(__file__).parents[1] / "examples" / "paper"
sys.path.insert(0, str(FOLDER))

import pages  # noqa: E402
import recipes  # noqa: E402
import report  # noqa: E402
import results  # noqa: E402
import status  # noqa: E402
import trends  # noqa: E402


def made_up(recipe_name, values, overrides=None, **where):
    """Result lines with these accuracies in %: method to one (tail, all) a seed, or `None` for one that diverged."""
    recipe = recipes.load_recipe(FOLDER / f"{recipe_name}.yaml")
    methods = [method for method in values if method != "Teacher"]
    lines = []
    for cell in recipes.plan(recipe, overrides, methods=methods, seeds=[0, 1, 2], **where):
        seeds = values.get(cell.method, [])
        if cell.seed >= len(seeds):
            continue
        line = {"recipe": recipe_name, "overrides": overrides or {}, "method": cell.method, "pair": cell.pair}
        line |= {"imbalance_factor": cell.imbalance_factor, "seed": cell.seed, "run": cell.run}
        line |= {"device": "a CPU", "versions": {"torch": "2.0"}}
        if seeds[cell.seed] is None:
            line["error"] = "The loss is not finite"
        else:
            tail, everything = (value / 100 for value in seeds[cell.seed])
            line["metrics"] = {
                "accuracy": everything,
                "head_accuracy": 0.9,
                "medium_accuracy": 0.5,
                "tail_accuracy": tail,
            }
            line |= {"seconds": 60.0, "examples_per_second": 1000.0}
        lines.append(line)
    return lines


PAIR = {"pairs": ["resnet32x4:resnet8x4"], "factors": [100]}
TABLE_1 = {
    "Teacher": [(15, 45)],
    "Student": [(13, 42), (13, 43), (13, 44)],
    "DKD": [(14, 46), (14.5, 47), (15, 48)],
    "DIST": [(14, 45), None],
    "LTKD": [(27, 50), (28, 51), (29, 52)],
}


def write(folder, lines):
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "results.jsonl"


def make_report(folder, lines, monkeypatch, *arguments):
    command = ["report.py", write(folder, lines), "--output_dir", folder / "report", *arguments]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    report.main()
    text = (folder / "report" / "report.md").read_text()
    return {part.splitlines()[0]: part for part in text.split("\n## ")[1:]}


def cells_of(section, caption, row):
    table = section.split(f"{caption}\n\n")[1]
    line = next(line for line in table.splitlines() if line.startswith(f"| {row} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_table_of_the_paper(tmp_path, monkeypatch):
    sections = make_report(tmp_path, made_up("table_1", TABLE_1, **PAIR), monkeypatch)
    table = sections["Table 1, CIFAR-100-LT"]
    # Means and deviations by hand: 50, 51, 52 have the mean 51 and the deviation sqrt(2 / 3).
    expected = {
        "LTKD": [
            "<b>28.00 ± 0.82 (3)</b><br><small>paper <b>27.21</b>, +0.79</small>",
            "<b>51.00 ± 0.82 (3)</b><br><small>paper <b>51.08</b>, −0.08</small>",
        ],
        "DKD": [
            "<u>14.50 ± 0.41 (3)</u><br><small>paper 13.25, +1.25</small>",
            "<u>47.00 ± 0.82 (3)</u><br><small>paper <u>46.11</u>, +0.89</small>",
        ],
        "DIST": [
            "14.00 (1, 1 diverged)<br><small>paper 13.86, +0.14</small>",
            "45.00 (1, 1 diverged)<br><small>paper 45.21, −0.21</small>",
        ],
        "ReviewKD": ["–<br><small>paper <u>15.09</u></small>", "–<br><small>paper 45.91</small>"],
        "Student": [
            "13.00 ± 0.00 (3)<br><small>paper 13.38, −0.38</small>",
            "43.00 ± 0.82 (3)<br><small>paper 42.48, +0.52</small>",
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
    assert cells_of(six, "Imbalance factor 100", "3 groups")[1].startswith("51.00 ± 0.82 (3)<br>")
    assert "51.00" not in sections["Table 5, the two terms on CIFAR-100-LT"]


def test_nothing_of_one_protocol_in_anothers_table(tmp_path, monkeypatch):
    lines = made_up("table_1", TABLE_1, **PAIR)
    short = {"LTKD": [(99, 99)], "DKD": [(98, 98)], "Student": [(98, 98)], "Teacher": [(98, 98)]}
    lines += made_up("table_1", short, {"num_train_epochs": 3}, **PAIR)
    lines += made_up("table_1", {"LTKD": [(97, 97)]}, {"per_device_train_batch_size": 128}, **PAIR)
    lines += made_up("reduced", {"LTKD": [(96, 96)], "KD": [(95, 95)]}, factors=[100])
    sections = make_report(tmp_path, lines, monkeypatch)
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
    for name, ours in {
        "Table 1, CIFAR-100-LT": "28.00",
        "Table 6, the number of groups on CIFAR-100-LT": "51.00",
    }.items():
        assert not numbers[name] and ours in sections[name]
    for name in (*other, reduced):
        assert "28.00" not in sections[name] and "This is not the paper's protocol" in sections[name]
        assert "<small>paper" not in sections[name]


def test_the_same_run_twice(tmp_path, monkeypatch):
    """Of a student the first line counts; a teacher that was trained again is another teacher."""
    first = made_up("table_1", {"Teacher": [(15, 45)], "LTKD": [(27, 50)]}, **PAIR)
    second = made_up("table_1", {"Teacher": [(17, 47)], "LTKD": [(29, 52)]}, **PAIR)
    second[0]["teacher_fingerprint"] = "of other weights"
    grid = results.Grid(recipes.load_recipe(FOLDER / "table_1.yaml"), {}, results.Results(first + second))
    outcomes = [grid.outcome(method, *PAIR["pairs"], 100.0) for method in ("Teacher", "LTKD")]
    assert [sorted(outcome.accuracy["all"]) for outcome in outcomes] == [pytest.approx([45, 47]), pytest.approx([50])]
    about = make_report(tmp_path, first + second, monkeypatch)["About the runs"]
    assert "| `table_1.yaml` | 3 |" in about and "Lines of runs that an earlier line has already: 1;" in about


def test_trends_beside_the_papers(tmp_path, monkeypatch):
    values = {
        "LTKD": [(20, 30), (21, 31.5), (22, 33)],
        "KD": [(10, 31), (12, 31), (11, 31)],
        "Within": [(30, 29)],
        "DKD": [(12, 29), (12, 29), (12, 29)],
    }
    lines = made_up("reduced", values, factors=[20])
    recipe = recipes.load_recipe(FOLDER / "reduced.yaml")
    grid = results.Grid(recipe, {}, results.Results(lines))
    found = {(t.first, t.second, t.factor): t for t in trends.find_trends(grid)}
    both = found["LTKD", "KD", 20.0]
    # Differences of the seeds: tail 10, 9, 11 (deviation 1); all -1, 0.5, 2 (1.5). Student's t with 2 degrees: 4.3027.
    assert both.ours["tail"] == pytest.approx((10, 4.3027 / 3**0.5), rel=1e-4)
    assert both.ours["all"] == pytest.approx((0.5, 4.3027 * 1.5 / 3**0.5), rel=1e-4)
    assert both.paper == pytest.approx({"tail": 49.70 - 36.81, "all": 62.54 - 57.41})
    assert both.verdicts == {"tail": "as the paper", "all": "not settled"}
    assert found["LTKD", "Within", 20.0].verdicts == {"tail": "opposite (one seed)", "all": "as the paper (one seed)"}
    assert found["LTKD", "KD", 100.0].ours == {} and found["LTKD", "KD", 100.0].paper == {}
    assert found["Cross", "KD", 20.0].verdicts == {}
    sections = make_report(tmp_path, lines, monkeypatch)
    reduced = sections["CIFAR-100-LT at 16 pixels, resnet20 -> resnet8, 30 epochs"]
    row = next(line for line in reduced.splitlines() if line.startswith("| LTKD less KD | table 5 | 20 |"))
    assert "| +10.00 ± 2.48 | +12.89 | as the paper | +0.50 ± 3.73 | +5.13 | not settled |" in row
    order = next(line for line in reduced.splitlines() if line.startswith("| tail, factor 20"))
    assert order == ("| tail, factor 20 | LTKD > DKD | LTKD > ReviewKD > DIST > DKD > CAT-KD > Student |")
    assert (tmp_path / "report" / "reduced_20.png").exists() and not (tmp_path / "report" / "reduced_100.png").exists()
    row = cells_of(sections["What has been reproduced"], "to train on.", "Table 5, the two terms on CIFAR-100-LT")
    assert row[2] == "`reduced`: 1 as the paper, 2 as the paper (one seed), 1 not settled, 2 opposite (one seed)"


def test_trends_of_two_recipes_in_one_row(tmp_path, monkeypatch):
    lines = made_up("reduced", {"Cross": [(5, 20)], "Biased cross": [(9, 18)]}, factors=[20])
    lines += made_up("reduced_search", {"Cross, T 1": [(20, 30)], "Biased cross, T 1": [(10, 20)]}, factors=[20])
    sections = make_report(tmp_path, lines, monkeypatch)
    row = cells_of(
        sections["What has been reproduced"], "to train on.", "Table 4, the cross-group term alone on CIFAR-100-LT"
    )
    one = "as the paper (one seed)"
    assert row[2] == f"`reduced`: 1 {one}, 1 opposite (one seed); `reduced_search`: 2 {one}"
    search = sections["A search around LTKD and KD in the reduced protocol"]
    assert "| Cross, T 1 less Biased cross, T 1 | table 4 | 20 | +10.00 | +2.21 |" in search
    assert "from best to worst" not in search


def test_figures_page_and_readme(tmp_path, monkeypatch):
    steps = {"LTKD": [(20, 30)], "KD": [(18, 30)]}
    four = made_up("reduced_figure_4", steps)
    for line in four:
        curve = [[3.0, 2.0, 1.0], [1.0, 1.0, 0.5]]
        line["group_losses"] = {"temperature": 4, "within": curve, "by_label": curve}
    three = made_up("reduced_figure_3", {"Group probabilities": [(0, 0)]}, factors=[20])
    for line in three:
        del line["metrics"]
        line["group_mass"] = {
            "temperature 4": {"balanced": [[22.0, 21.0, 21.0]] * 3, "long_tailed": [[30.0, 20.0, 14.0]] * 3}
        }
    five = {f"alpha {a}, beta 1": [(a, 10 + a)] for a in (2, 4)} | {"ReviewKD": [(5, 9)]}
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.START}\nold\n{report.END}\nafter\n")
    lines = [*four, *three, *made_up("reduced_figure_5", five)]
    speed = {"kind": "student resnet8, batch 128", "data": {"benchmark": "cifar100_lt"}, "device": "a CPU"}
    sections = make_report(tmp_path, [*lines, {**speed, "examples_per_second": 5}], monkeypatch, "--readme", readme)
    name = "the teacher's group probabilities over batches, in the reduced protocol"
    assert "| resnet20, 20, 4 | 22.00, 21.00, 21.00 | 30.00, 20.00, 14.00 |" in sections[f"Figure 3, {name}"]
    assert (
        "| paper, one batch (Sec. 3.2) | 22.54, 20.76, 20.70 | 27.88, 19.28, 16.83 |" in sections[f"Figure 3, {name}"]
    )
    four = sections["Figure 4, distillation loss per group over the training, in the reduced protocol"]
    assert "| LTKD | 1.000 | 1.000 | 0.500 | 1.000 | 1.000 | 0.500 |" in four
    pictures = {path.name for path in (tmp_path / "report").glob("*.png")}
    assert pictures == {
        "reduced_20.png",  # figure 5's ReviewKD is that of the table, too
        "reduced_figure_3_resnet20_20_temperature_4.png",
        "reduced_figure_4_20.png",
        "reduced_figure_5_20.png",
    }
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 4 and "http" not in page and 'src="reduced' not in page
    text = readme.read_text()
    assert text.startswith(f"before\n{report.START}\n\n|  | the paper's protocol |") and text.endswith("\nafter\n")
    assert "old" not in text and "| 1 of 2 cells drawn |" in text and "| 3 of 12 cells drawn |" in text
    readme.write_text("nothing to write between")
    with pytest.raises(SystemExit):
        make_report(tmp_path, lines, monkeypatch, "--readme", readme)


def test_cost_of_what_is_missing(tmp_path):
    """Figure 4 needs a teacher, its logits and three students: 240 epochs of 16,046 images each."""
    recipe = recipes.load_recipe(FOLDER / "figure_4.yaml")
    data = {"data": recipe["data"], "device": "a GPU"}
    rates = {
        "teacher resnet32x4, batch 64": 1000,
        "logits of resnet32x4": 4000,
        "student resnet8x4 by logits, batch 64": 2000,
    }
    lines = [{"kind": kind, "examples_per_second": rate, **data} for kind, rate in rates.items()]
    hours = 240 * 16046 * (1 / 1000 + 1 / 4000 + 3 / 2000) / 3600
    text = status.cost_of_missing(recipe, results.Results(lines))
    assert text == f"4 runs, {hours:.1f} h on one process of a GPU"
    done = made_up("figure_4", {"KD": [(1, 2)]})
    hours = 240 * 16046 * (1 / 1000 + 1 / 4000 + 2 / 2000) / 3600
    assert (
        status.cost_of_missing(recipe, results.Results(lines + done))
        == f"3 runs, {hours:.1f} h on one process of a GPU"
    )
    assert "has not been measured" in status.cost_of_missing(recipe, results.Results(lines[:2]))


def test_tables_in_html_are_escaped():
    section = pages.Section("a < b", [pages.Table("c & d", [["", "x"], ["<b>1</b>", "<script>"]]), "`e < f`"])
    page = pages.to_html("t", [section])
    assert "<h2>a &lt; b</h2>" in page and "<p>c &amp; d</p>" in page and "<td><b>1</b></td>" in page
    assert "&lt;script&gt;" in page and "<code>e &lt; f</code>" in page
