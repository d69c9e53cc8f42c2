"""A group without an image to evaluate on: its accuracy is not measured, wherever it could be read."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from hf_ltkd import ClassGroups, CrossEntropyLoss, DistillationTrainer, DistillationTrainingArguments, create_model
from hf_ltkd import group_accuracy as group_accuracy_of
from hf_ltkd.analysis.bias import GroupReport, group_report
from hf_ltkd.cli.describe import describe_bias
from hf_ltkd.data import ImageDataset
from hf_ltkd.metrics import without_prefix
from hf_ltkd.metrics.answers import Answers
from hf_ltkd.utils import write_json


GROUPS = ClassGroups([0, 1, 2])


def images(labels):
    pixels = torch.zeros(len(labels), 3, 32, 32, dtype=torch.uint8)
    return ImageDataset(pixels, labels, mean=[0.5] * 3, std=[0.5] * 3)


@pytest.mark.parametrize("missing, name", [(0, "head"), (1, "medium"), (2, "tail")])
def test_report_of_a_model(missing, name, tmp_path):
    labels = [c for c in (0, 1, 2, 0, 1, 2) if c != missing]
    report = group_report(create_model("resnet8", 3), images(labels), GROUPS)
    assert report.accuracy[f"{name}_accuracy"] is None and report.favour[missing] is None
    assert all(value is not None for key, value in report.accuracy.items() if key != f"{name}_accuracy")
    write_json(tmp_path / "comparison.json", {"accuracy": report.accuracy})
    assert json.loads((tmp_path / "comparison.json").read_text())["accuracy"][f"{name}_accuracy"] is None
    lines = describe_bias(report, GROUPS)
    assert "no test image: not measured" in lines[missing] and "nan" not in " ".join(lines).split()
    assert ("is not known" in lines[-1]) == (name != "medium")  # the verdict compares head and tail


@pytest.mark.parametrize(
    "images, verdict",
    [
        ((10, 10, 10), "It is biased: the tail gets 30% of its due, the head 180%."),
        ((10, 10, 0), "Whether it is biased is not known: there is no test image of the tail."),
        ((0, 10, 10), "Whether it is biased is not known: there is no test image of the head."),
    ],
)
def test_verdict(images, verdict):
    accuracy = {name: 0.5 for name in ("accuracy", "head_accuracy", "medium_accuracy", "tail_accuracy")}
    labels = np.repeat(np.arange(3), images)
    report = GroupReport(accuracy, [0.6, 0.3, 0.1], [*images], Answers(labels, labels))
    assert describe_bias(report, GROUPS)[-1] == verdict


def test_metrics_leave_it_out():
    result = group_accuracy_of(GROUPS)(EvalPrediction(np.eye(3)[[0, 1]], np.array([0, 1])))
    assert {"accuracy": 1.0, "head_accuracy": 1.0, "medium_accuracy": 1.0, "macro_f1": 1.0}.items() <= result.items()
    assert "tail_accuracy" not in result
    assert without_prefix({"eval_accuracy": 0.5, "eval_tail_accuracy": None, "eval_x": math.nan}) == {"accuracy": 0.5}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_null_for_what_is_no_number(value, tmp_path):
    write_json(tmp_path / "a.json", {"a": [value, {"b": (1.5, value)}], "c": "NaN"})
    refuse = lambda name: pytest.fail(f"{name} is no JSON")  # noqa: E731
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse) == {
        "a": [None, {"b": [1.5, None]}],
        "c": "NaN",
    }


@pytest.mark.parametrize("metric", ["tail_accuracy", "eval_tail_accuracy"])
def test_no_best_checkpoint_by_it(metric, tmp_path):
    def trainer(labels):
        args = DistillationTrainingArguments(
            str(tmp_path), metric_for_best_model=metric, report_to=[], dataloader_pin_memory=False
        )
        return DistillationTrainer(
            create_model("resnet8", 3),
            args=args,
            distillation_loss=CrossEntropyLoss(),
            train_dataset=images([0, 1, 2]),
            eval_dataset=images(labels),
            compute_metrics=group_accuracy_of(GROUPS),
        )

    trainer([0, 1, 2])
    with pytest.raises(
        ValueError, match=f"metric_for_best_model='{metric}' cannot be measured.*no test image of .*'tail'"
    ):
        trainer([0, 1, 1])


def test_padding_alone_is_nan():
    result = group_accuracy_of(ClassGroups([0, 1]))(EvalPrediction(np.zeros((2, 3, 2)), np.full((2, 3), -100)))
    assert [*result] == ["accuracy"] and math.isnan(result["accuracy"])
