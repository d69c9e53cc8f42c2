"""Mean IoU of a confusion matrix against plain loops, `evaluate`'s own example, in the Trainer and on two ranks."""

import ast
import math
import re
import shutil
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from torch import nn
from transformers import EvalPrediction, Trainer, TrainingArguments
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

import hf_ltkd.metrics
from hf_ltkd import ClassGroups, mean_iou
from hf_ltkd.metrics import GroupMeanIoU
from hf_ltkd.metrics.group_mean_iou.group_mean_iou import iou_scores


FOLDER = Path(hf_ltkd.metrics.__file__).parent / "group_mean_iou"
GROUP_OF_CLASS = [2, 0, 1, 1, 0, 2, 2]
GROUPS = ClassGroups(GROUP_OF_CLASS)
NAMES = ["head", "medium", "tail"]


def maps(seed=0, images=3, size=(5, 6), classes=7, present=range(7)):
    """Predictions and labels, of which some are ignored, and of which not all classes are `present`."""
    random = np.random.default_rng(seed)
    labels = random.choice([*present], (images, *size))
    predictions = np.where(random.random(labels.shape) < 0.5, labels, random.choice([*present], labels.shape))
    labels[:, 0, :2], labels[:, 1, 1] = 255, -100
    return predictions, labels


def plain(predictions, labels, leave_out=()):
    """Everything, by sets of pixels, as IoU is defined."""
    pixels = [*np.ndindex(labels.shape)]
    counted = [p for p in pixels if labels[p] not in (255, -100)]
    iou, accuracy, result = {}, {}, {}
    for c in range(7):
        true = {p for p in counted if labels[p] == c}
        taken = {p for p in counted if predictions[p] == c}
        iou[c] = len(true & taken) / len(true | taken) if true | taken else None
        accuracy[c] = len(true & taken) / len(true) if true else None

    def mean(values):
        values = [value for value in values if value is not None]
        return sum(values) / len(values) if values else math.nan

    def right(classes):
        return mean([predictions[p] == labels[p] for p in counted if labels[p] in classes])

    kept = [c for c in range(7) if c not in leave_out]
    for g, name in enumerate(NAMES):
        members = [c for c in kept if GROUP_OF_CLASS[c] == g]
        result |= {f"{name}_iou": mean([iou[c] for c in members]), f"{name}_accuracy": right(members)}
    return {
        "mean_iou": mean([iou[c] for c in kept]),
        "accuracy": right(kept),
        "balanced_accuracy": mean([accuracy[c] for c in kept]),
        **result,
        "class_iou": [iou[c] for c in range(7)],
        "class_accuracy": [accuracy[c] for c in range(7)],
    }


def same(result, expected):
    lists = [(result.pop(name), expected.pop(name)) for name in ("class_iou", "class_accuracy")]
    exact = result == pytest.approx(expected, rel=1e-14, nan_ok=True)
    return exact and all(a == pytest.approx(b) for pair in lists for a, b in zip(*pair, strict=True))


CASES = [{}, {"present": [1, 2, 3, 4]}, {"leave_out": [1]}, {"leave_out": [2, 3]}]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_module_by_a_plain_loop(case):
    leave_out = case.get("leave_out", [])
    predictions, labels = maps(present=case.get("present", range(7)))
    arguments = {"group_of_class": GROUP_OF_CLASS, "leave_out": leave_out}
    loaded = evaluate.load(str(FOLDER), **arguments)
    expected = plain(predictions, labels, leave_out)
    assert len({round(value, 6) for name, value in expected.items() if not name.startswith("class_")}) >= 5
    assert same(loaded.compute(predictions=predictions, references=labels), dict(expected))
    assert same(GroupMeanIoU().compute(predictions=predictions, references=labels, **arguments), dict(expected))
    for one in range(3):
        loaded.add_batch(predictions=predictions[[one]].tolist(), references=labels[[one]].tolist())
    assert same(loaded.compute(), dict(expected))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_trainers_form_is_the_modules(case):
    """Class ids, all at once and in batches; what is not measured is left out."""
    leave_out = case.get("leave_out", [])
    predictions, labels = maps(present=case.get("present", range(7)))
    expected = plain(predictions, labels, leave_out)
    metric = mean_iou(GROUPS, leave_out=leave_out)
    whole = metric(EvalPrediction(predictions, labels))
    assert whole == pytest.approx({n: v for n, v in expected.items() if n in metric.names and not math.isnan(v)})
    assert metric(EvalPrediction(predictions[:1], labels[:1]), compute_result=False) == {}
    assert metric(EvalPrediction(predictions[1:], labels[1:]), compute_result=True) == whole
    assert metric(EvalPrediction([*predictions[:, None]], [*labels[:, None]])) == whole
    assert metric.confusion.sum() == ((labels != 255) & (labels != -100)).sum()
    assert same(metric.scores(), expected)


def test_evaluates_own_example():
    """The numbers that the documentation of `evaluate`'s `mean_iou` prints for these maps, with `ignore_index=255`."""
    predictions = [[[1, 2], [3, 4], [5, 255]], [[2, 7], [9, 2], [3, 6]], [[2, 2, 3], [8, 2, 4], [3, 255, 2]]]
    labels = [[[0, 3], [5, 4], [6, 255]], [[1, 7], [9, 2], [3, 6]], [[1, 2, 2], [8, 2, 1], [3, 255, 1]]]
    result = GroupMeanIoU(group_of_class=[0] * 10).compute(predictions=predictions, references=labels)
    assert result["mean_iou"] == pytest.approx(0.47750000000000004, rel=1e-14)
    assert result["balanced_accuracy"] == pytest.approx(0.5916666666666666, rel=1e-14)
    assert result["accuracy"] == pytest.approx(0.5263157894736842, rel=1e-14)
    assert result["class_iou"] == pytest.approx([0, 0, 0.375, 0.4, 0.5, 0, 0.5, 1, 1, 1])
    assert result["class_accuracy"] == pytest.approx([0, 0, 0.75, 0.66666667, 1, 0, 0.5, 1, 1, 1])
    assert result["group_0_iou"] == result["mean_iou"] and result["group_0_accuracy"] == result["accuracy"]


def test_the_modules_own_page(tmp_path, monkeypatch):
    """What it prints is what its example gives."""
    python, printed = re.findall(r"```(?:python)?\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)[:2]
    shutil.copy(FOLDER / "group_mean_iou.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(python, names)
    assert names["results"] == ast.literal_eval(printed)


@pytest.mark.parametrize("present", [range(7), [1, 2, 3, 4]])
def test_evaluates_formula(present):
    """Areas of intersection and union by class, summed over images, 0 / 0 left out of the mean: its definition."""
    predictions, labels = maps(1, present=present)
    areas = np.zeros((3, 7))
    for p, r in zip(predictions, labels, strict=True):
        p, r = p[r < 255], r[r < 255]
        p, r = p[r != -100], r[r != -100]
        areas += [[np.sum(mask == c) for c in range(7)] for mask in (p[p == r], p, r)]
    with np.errstate(invalid="ignore"):
        iou, accuracy = areas[0] / (areas[1] + areas[2] - areas[0]), areas[0] / areas[2]
    result = mean_iou(GROUPS)(EvalPrediction(predictions, labels))
    assert result["mean_iou"] == pytest.approx(np.nanmean(iou), rel=1e-14)
    assert result["balanced_accuracy"] == pytest.approx(np.nanmean(accuracy), rel=1e-14)
    assert result["accuracy"] == areas[0].sum() / areas[2].sum()


def test_background_out_is_no_ignored_background():
    """What is taken for a class on the background still counts against that class."""
    labels, predictions = np.array([[[0, 0, 0, 1]]]), np.array([[[1, 1, 0, 1]]])
    metric = mean_iou(ClassGroups([0, 1]), leave_out=["sky"], class_names=["sky", "car"])
    result = metric(EvalPrediction(predictions, labels))
    assert result["mean_iou"] == result["group_1_iou"] == result["iou_car"] == pytest.approx(1 / 3)
    assert result["accuracy"] == 1 and "group_0_iou" not in result
    assert result["iou_sky"] == result["accuracy_sky"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("size", [(2, 3), (4, 5), (7, 9), (14, 18)], ids=str)
def test_logits_of_another_size_as_the_models_own_processor(size):
    logits = torch.randn(3, 7, *size, generator=torch.Generator().manual_seed(0))
    labels = torch.from_numpy(maps(2, size=(7, 9))[1])
    outputs = SemanticSegmenterOutput(logits=logits)
    own = SegformerImageProcessorPil().post_process_semantic_segmentation(outputs, [(7, 9)] * 3)
    expected = plain(torch.stack(own).numpy(), labels.numpy())
    metric = mean_iou(GROUPS)
    for given in (logits, (logits, logits[:1]), logits.numpy()):
        assert metric(EvalPrediction(given, labels)) == pytest.approx({n: expected[n] for n in metric.names})
    counts = metric.confusions((logits,), labels)
    assert counts.shape == (3, 49) and counts.dtype == torch.int64
    assert metric(EvalPrediction(counts, labels)) == pytest.approx({n: expected[n] for n in metric.names})


class Painter(nn.Module):
    """Says the class of each pixel by the colour of its image, in logits of half the size."""

    def forward(self, pixel_values, labels=None):
        self.asked = pixel_values.shape[0]
        logits = -(pixel_values[:, :1] - torch.arange(7.0).view(1, 7, 1, 1)).abs()
        logits = nn.functional.interpolate(logits, scale_factor=0.5, mode="bilinear")
        return {"loss": logits.mean(), "logits": logits}


def pictures(count=7):
    predictions, labels = maps(3, count, (8, 8))
    colours = torch.from_numpy(predictions).float()[:, None]
    return [{"pixel_values": c, "labels": y} for c, y in zip(colours, torch.from_numpy(labels), strict=True)]


def evaluated(folder, batch_size=2, **arguments):
    """Metrics and confusion matrix by the Trainer; arrays, because they come from ranks through pickle."""
    metric = mean_iou(GROUPS)
    settings = {"batch_eval_metrics": True, "per_device_eval_batch_size": batch_size, "use_cpu": True} | arguments
    args = TrainingArguments(folder, report_to="none", disable_tqdm=True, **settings)
    hooks = {"compute_metrics": metric, "preprocess_logits_for_metrics": metric.confusions}
    trainer = Trainer(Painter(), args, eval_dataset=pictures(), **hooks)
    metrics = trainer.evaluate()
    return {name: metrics[f"eval_{name}"] for name in metric.names}, metric.confusion


def test_any_batches_give_the_same(tmp_path):
    expected, confusion = evaluated(tmp_path, 7)
    assert confusion.sum() == sum(int(torch.isin(p["labels"], torch.arange(7)).sum()) for p in pictures())
    for arguments in ({"batch_size": 1}, {"batch_size": 3}, {"batch_eval_metrics": False}):
        result = evaluated(tmp_path, **arguments)
        assert result[0] == expected and (result[1] == confusion).all()


@pytest.mark.distributed
def test_two_ranks_give_the_same(two_ranks, tmp_path):
    """7 images on 2 × 2: the last batches are padded with images that do not count twice."""
    expected, confusion = evaluated(tmp_path, 7)
    for metrics, counts in two_ranks(evaluated, str(tmp_path)):
        assert metrics == expected and (counts == confusion).all()


def test_an_evaluation_that_failed_leaves_nothing():
    predictions, labels = maps()
    metric = mean_iou(GROUPS)
    expected = metric(EvalPrediction(predictions, labels))
    metric(EvalPrediction(predictions, labels), compute_result=False)
    with pytest.raises(ValueError, match="The predictions run from 3 to 9, outside the classes 0 to 6"):
        metric(EvalPrediction(predictions + 3, labels), compute_result=False)
    assert metric(EvalPrediction(predictions, labels)) == expected
    metric(EvalPrediction(predictions, labels), compute_result=False)
    metric.reset()
    assert metric(EvalPrediction(predictions, labels)) == expected


NAN_LOGITS = torch.full((1, 7, 2, 2), math.nan)
ZEROS = torch.zeros(1, 2, 2, dtype=torch.long)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(1, 5, 2, 2), ZEROS, "The logits have 5 classes, the groups 7"),
        (torch.zeros(1, 7), ZEROS, r"Logits of shape \(1, 7\) and labels of shape \(1, 2, 2\) do not fit"),
        (torch.zeros(2, 7, 2, 2), ZEROS, "do not fit"),
        (torch.zeros(1, 7, 2, 2), ZEROS + 7, "The references run from 7 to 7, outside the classes 0 to 6"),
        (torch.zeros(1, 7, 2, 2), ZEROS - 1, "The references run from -1 to -1"),
        (NAN_LOGITS, ZEROS, "The logits of 4 of 4 pixels are NaN"),
    ],
)
def test_wrong_predictions(logits, labels, message):
    with pytest.raises((ValueError, FloatingPointError), match=message):
        mean_iou(GROUPS)(EvalPrediction(logits, labels))


def test_nan_where_nothing_counts():
    labels = torch.tensor([[[255, 0], [0, 0]]])
    logits = torch.zeros(1, 7, 2, 2)
    logits[0, :, 0, 0] = math.nan
    assert mean_iou(GROUPS)(EvalPrediction(logits, labels))["accuracy"] == 1
    nothing = iou_scores(np.zeros((7, 7), int), GROUP_OF_CLASS, NAMES)
    assert math.isnan(nothing["mean_iou"]) and math.isnan(nothing["accuracy"]) and nothing["class_iou"] == [None] * 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"leave_out": [7]}, r"leave_out=\[7\] is not valid"),
        ({"leave_out": ["sky"]}, r"leave_out=\['sky'\] is not valid"),
        ({"leave_out": "sky"}, "leave_out='sky' is not valid"),
        ({"leave_out": range(7)}, "give a list of some of the 7 classes"),
        ({"class_names": ["a", "b"]}, "7 classes need 7 different class_names, got a, b"),
        ({"ignore_index": None}, "ignore_index=None is not valid"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        mean_iou(GROUPS, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "group_of_class must hold one group index per class.* got none"),
        ({"group_of_class": [0, 2]}, r"numbered from 0 without a gap.*got \[0, 2\]"),
        ({"group_of_class": [0, 1], "group_names": ["a"]}, "2 groups need 2 different names"),
        ({"group_of_class": [0, 1], "group_names": ["mean", "a"]}, "none of them 'mean'"),
        ({"group_of_class": [0, 1], "leave_out": [2]}, r"leave_out=\[2\] is not valid"),
        ({"group_of_class": [0, 1], "leave_out": [0, 1]}, "not all of them"),
    ],
)
def test_wrong_arguments_of_the_module(arguments, message):
    with pytest.raises(ValueError, match=message):
        GroupMeanIoU(keep_in_memory=True).compute(predictions=[[[0]]], references=[[[0]]], **arguments)
    if arguments:
        with pytest.raises(ValueError, match=message):
            GroupMeanIoU(**arguments)
