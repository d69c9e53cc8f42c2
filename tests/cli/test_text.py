"""What the user is told, line by line."""

import re

import numpy as np
import pytest
from photos import TRAINING

from hf_ltkd import ClassGroups
from hf_ltkd.analysis.bias import GroupReport
from hf_ltkd.cli import describe, text
from hf_ltkd.cli.tables import changes, class_table, duration, group_table, number, score_table, share_table, size
from hf_ltkd.metrics.answers import Answers
from hf_ltkd.workflow.estimate import Estimate
from hf_ltkd.workflow.outputs import Comparison
from hf_ltkd.workflow.plan import make_plan


GROUPS = ClassGroups([0, 1, 2], names=("head", "medium", "tail"), class_counts=[60, 30, 10])
TEACHER = {"accuracy": 0.5, "head_accuracy": 0.75, "medium_accuracy": 0.5, "tail_accuracy": 0.25}
STUDENT = {"accuracy": 0.525, "head_accuracy": 0.7, "medium_accuracy": 0.5, "tail_accuracy": 0.375}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(40, "40 s"), (89, "89 s"), (90, "2 min"), (720, "12 min"), (12_600, "3.5 h"), (103_680_000, "1,200 days")],
)
def test_duration_in_the_unit_one_would_say_it_in(seconds, said):
    assert duration(seconds) == said


def test_sizes_and_numbers():
    assert (size(4_200_000), size(1_050_000_000)) == ("4.2 MB", "1.05 GB")
    assert (number(1, "class", "classes"), number(1200, "image")) == ("1 class", "1,200 images")


def test_tables():
    assert group_table({"teacher": TEACHER, "this student": STUDENT}) == [
        "accuracy (%)    head  medium  tail   all",
        "teacher         75.0    50.0  25.0  50.0",
        "this student    70.0    50.0  37.5  52.5",
    ]
    intervals = {"x": {"accuracy": [0.4, 0.6], "tail_accuracy": [0.1, 0.5]}}
    assert group_table({"x": {"accuracy": 0.5, "tail_accuracy": 0.25, "head_accuracy": None}}, intervals) == [
        "accuracy (%), and its 95 % interval",
        "                        tail          head           all",
        "x               25.0 (10–50)  not measured  50.0 (40–60)",
    ]
    differences = {"head_accuracy": [-0.05, -0.1, 0.0], "tail_accuracy": [0.125, 0.05, 0.2], "medium_accuracy": None}
    assert changes(STUDENT, differences) == "+12.5 tail (+5.0 to +20.0); too few test images to tell: head"
    row = {"class": "cat", "group": "head", "training_images": 1200, "precision": None, "recall": 0.5, "f1": 0.0}
    assert class_table([{**row, "support": 12}]) == [
        "class  group  train  test       precision  recall   F1",
        "cat    head   1,200    12  never answered    50.0  0.0",
    ]
    assert share_table({"KD": [0.5, 0.25, 0.15, 0.1]}, GROUPS) == [
        "part of the loss    between groups  within head  within medium  within tail",
        "KD                           50.0%        25.0%          15.0%        10.0%",
    ]


def test_table_of_scores():
    scores = {"few_shot_accuracy": 0.1, "macro_f1": 0.5, "expected_calibration_error": 0.0312}
    ours = {"few_shot_accuracy": None, "macro_f1": 0.525}
    legend = "many, medium, few: classes of more than 100, of 20 to 100, of fewer than 20 training images"
    means = "balanced, worst, harmonic: mean, lowest and harmonic mean of the accuracies of the classes"
    assert score_table({"teacher": scores, "this student": ours}) == [
        "(%)                    few  macro-F1  ECE",
        "teacher               10.0      50.0  3.1",
        "this student  not measured      52.5     ",
        legend,
        means,
        "ECE: expected calibration error, better if small",
    ]
    assert score_table({"x": {"macro_f1": 0.5}}, {"macro_f1": [0.4, 0.625]}) == [
        "(%)            macro-F1",
        "x                  50.0",
        "95 % interval     40–62",
        means,
    ]
    assert score_table({}) == score_table({"x": {}}) == []  # of a file of before


@pytest.mark.parametrize(
    ("probability", "verdict"),
    [
        ([0.5, 0.3, 0.2], "It is biased: the tail gets 60% of its due, the head 150%."),
        ([0.4, 0.32, 0.28], "It is mildly biased: the tail gets 84% of its due, the head 120%."),
        ([0.33, 0.33, 0.34], "It is not biased against the tail: LTKD has little to correct."),
    ],
)
def test_whom_a_teacher_favours(probability, verdict):
    labels = np.repeat([0, 1, 2], 20)
    report = GroupReport(TEACHER, probability, [20, 20, 20], Answers(labels, labels))
    *rows, last = describe.describe_bias(report, GROUPS)
    assert last == verdict
    assert (
        rows[2] == f"tail    gets {probability[2]:>6.1%} of its probability for  33.3% of the images, accuracy 25.0%"
    )


def test_of_a_teacher_at_chance_nothing_is_said_of_its_bias():
    """Whatever it answers most often, and however it shares its probability."""
    labels = np.repeat([0, 1, 2], 20)
    for predictions in (np.zeros(60, int), np.tile([0, 1, 2, 1, 0], 12)):
        report = GroupReport(TEACHER, [0.3, 0.3, 0.4], [20, 20, 20], Answers(labels, predictions))
        *_, last = describe.describe_bias(report, GROUPS)
        assert (
            "cannot be told from chance: 33.3% of its 60 answers are right, 33.3% would be" in last
            and "biased against" not in last
        )
    *_, last = describe.describe_bias(GroupReport(TEACHER, [0.3] * 3, [20] * 3, Answers(labels, labels)), GROUPS)
    assert "chance" not in last


def test_how_long_it_takes_and_what_a_cache_would_save():
    times = Estimate(images=0.1, teacher=0.2, student=0.3, batches=400, workers=0)
    assert describe.describe_estimate(times, ["plain student"], 4_000_000, views=4) == [
        "about 4 min to distil and 3 min for the plain student",
        "(400 batches each; a batch took 100 ms to make, 200 ms of the teacher, 300 ms of the student)",
        "A teacher cache (--teacher_cache FOLDER) with a view for each of 4 epochs would take 4.0 MB, save nothing in "
        "this training and 80 s in each later one; with --teacher_cache_views 1, 1.0 MB and 60 s in this one.",
    ]
    assert describe.describe_estimate(times, [], None, views=4)[0] == "about 4 min to distil"
    alone = Estimate(images=0.1, teacher=0.0, student=0.3, batches=400, workers=0)
    assert describe.describe_batches(alone) == "(400 batches each; a batch took 100 ms to make, 300 ms to train on)"


def test_a_plan_is_said_in_order(home, tmp_path, capsys):
    plan = make_plan(
        teacher=home.teacher, student="resnet8", data=home.photos, output_dir=tmp_path / "s", max_steps=9, **TRAINING
    )
    assert capsys.readouterr().out == ""  # the plan is silent
    text.print_plan(plan, Estimate(0.1, 0.2, 0.3, 9, 0))
    text.print_start(plan)
    out = capsys.readouterr().out
    titles = re.findall(r"^(\S.*?)  ", out, flags=re.MULTILINE)
    assert titles == [
        "Images", "Evaluation", "Teacher", "Student", "Method", "Training", "Time", "Memory", "Distilling", "Compare"
    ]  # fmt: skip
    assert "9 steps in batches of 16, sgd, learning rate 0.05, weight decay 0.0005" in out
    assert max(map(len, out.splitlines())) <= 110


def test_a_comparison_is_said(tmp_path, capsys):
    results = {"teacher": TEACHER, "this student": STUDENT}
    more = {"differences": {"teacher": {"head_accuracy": [-0.05, -0.08, -0.02]}}, "output_dir": tmp_path}
    text.print_comparison(Comparison(dataset="x", dataset_split="test", accuracy=results, **more))
    out = capsys.readouterr().out
    assert (
        "against the teacher: -5.0 head (-8.0 to -2.0)" in out
        and "against the plain" not in out
        and str(tmp_path) in out
    )


def test_only_the_first_process_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    text.say("Title", "line")
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("RANK", "0")
    text.say("Title", "line", "another")
    assert capsys.readouterr().out == "Title       line\n            another\n"
