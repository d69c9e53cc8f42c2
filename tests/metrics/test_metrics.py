"""Group accuracies against a plain loop, in the Trainer's form and as an `evaluate` module."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from PIL import Image
from scipy.stats import hmean
from sklearn.datasets import load_digits
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, recall_score
from transformers import EvalPrediction, ViTImageProcessorPil, pipeline, set_seed

import hf_ltkd.metrics
from hf_ltkd import ClassGroups, create_model, group_accuracy
from hf_ltkd.metrics import GroupAccuracy
from hf_ltkd.metrics.group_accuracy.group_accuracy import group_accuracies, groups_from_counts


GROUP_OF_CLASS = [2, 0, 1, 1, 0, 2, 2]
NAMES = ["head", "medium", "tail"]


@pytest.fixture
def example():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 200)
    logits = rng.normal(size=(200, 7))
    logits[np.arange(200), labels] += 1.5 * (labels % 3)
    return logits, labels


def plain(logits, labels, class_counts=None):
    """Everything that the Trainer's metric gives: the accuracies and the calibration error by plain loops."""
    right, seen, bins = {}, {}, [[] for _ in range(15)]
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        is_right = row.index(max(row)) == label
        keys = ["accuracy", f"{NAMES[GROUP_OF_CLASS[label]]}_accuracy"]
        if class_counts is not None:
            count = class_counts[label]
            keys.append("many_shot_accuracy" if count > 100 else "few_shot_accuracy" if count < 20 else SHOT)
        for key in keys:
            seen[key] = seen.get(key, 0) + 1
            right[key] = right.get(key, 0) + is_right
        confidence = math.exp(max(row)) / sum(map(math.exp, row))
        bins[next(b for b in range(15) if confidence <= (b + 1) / 15)].append((is_right, confidence))
    gaps = [abs(sum(r for r, _ in rows) - sum(c for _, c in rows)) for rows in bins]
    return {
        **{key: right[key] / seen[key] for key in seen},
        **plain_class_scores(logits.argmax(1), labels),
        "expected_calibration_error": sum(gaps) / len(labels),
    }


SHOT = "medium_shot_accuracy"


def plain_class_scores(predictions, references):
    """Those in which every class counts alike, by scikit-learn and SciPy."""
    classes = sorted({*references.tolist()})
    recalls = recall_score(references, predictions, labels=classes, average=None)
    return {
        "balanced_accuracy": recalls.mean(),
        "macro_f1": f1_score(references, predictions, labels=classes, average="macro", zero_division=0),
        "worst_class_accuracy": recalls.min(),
        "harmonic_mean_accuracy": hmean(recalls),
    }


@pytest.mark.parametrize("wrap", [lambda z: z, lambda z: (z, np.zeros((200, 3)))], ids=["logits", "tuple"])
def test_against_a_plain_loop(example, wrap):
    logits, labels = example
    result = group_accuracy(ClassGroups(GROUP_OF_CLASS))(EvalPrediction(wrap(logits), labels))
    expected = plain(logits, labels)
    assert len(set(expected.values())) == 9  # a mix-up would show
    assert result == pytest.approx(expected)
    assert all(type(value) is float for value in result.values())


def test_group_without_an_example_is_left_out(example):
    logits, labels = example
    kept = ~np.isin(labels, [0, 5, 6])
    result = group_accuracy(ClassGroups(GROUP_OF_CLASS))(EvalPrediction(logits[kept], labels[kept]))
    assert "tail_accuracy" not in result
    assert result == pytest.approx(plain(logits[kept], labels[kept]))


def test_own_names(example):
    logits, labels = example
    result = group_accuracy(ClassGroups(GROUP_OF_CLASS, names=["a", "b", "c"]))(EvalPrediction(logits, labels))
    assert [*result][:4] == ["accuracy", "a_accuracy", "b_accuracy", "c_accuracy"]


@pytest.mark.parametrize("name", ["balanced", "worst_class", "harmonic_mean", "class", "few_shot"])
def test_a_group_does_not_hide_a_score(name):
    with pytest.raises(ValueError, match=f"A group is called '{name}', as one of the scores is: give .* other names"):
        group_accuracy(ClassGroups([0, 1], names=["a", name]))


COUNTS = [101, 900, 100, 20, 10, 19, 1]  # on both sides of each threshold


def test_many_medium_few(example):
    logits, labels = example
    groups = ClassGroups(GROUP_OF_CLASS, class_counts=COUNTS)
    result = group_accuracy(groups)(EvalPrediction(logits, labels))
    assert result == pytest.approx(plain(logits, labels, COUNTS)) and len(result) == 12
    kept = ~np.isin(labels, [4, 5, 6])  # no example of a few-shot class
    result = group_accuracy(groups)(EvalPrediction(logits[kept], labels[kept]))
    assert "few_shot_accuracy" not in result and "many_shot_accuracy" in result
    for same in (ClassGroups.from_thresholds(COUNTS), ClassGroups(GROUP_OF_CLASS, class_counts=[200] * 7)):
        result = group_accuracy(same)(EvalPrediction(logits, labels))
        assert not any("shot" in name for name in result)  # they are the groups, or all classes


def test_in_every_form_the_same(example):
    """Logits, class ids, batches of either, in one call or in several; ids have no calibration error."""
    logits, labels = example[0].astype(np.float32), example[1]
    groups = ClassGroups(GROUP_OF_CLASS, class_counts=COUNTS)
    metric, expected = group_accuracy(groups), plain(logits, labels, COUNTS)
    parts = np.split(np.arange(200), [30, 31, 150])
    for predictions, error in ((logits, True), (logits.argmax(1), False)):
        batches = [predictions[part] for part in parts], [labels[part] for part in parts]
        once = metric(EvalPrediction(*batches))
        for batch in [*zip(*batches, strict=True)][:-1]:
            assert metric(EvalPrediction(*map(torch.tensor, batch)), compute_result=False) == {}
        last = [torch.tensor(part[-1]) for part in batches]
        whole = {name: value for name, value in expected.items() if error or name != "expected_calibration_error"}
        assert (
            once == metric(EvalPrediction(*last), compute_result=True) == metric(EvalPrediction(predictions, labels))
        )
        assert once == pytest.approx(whole)


def test_logits_of_16_bits_and_infinite_ones(example):
    logits, labels = example
    metric = group_accuracy(ClassGroups(GROUP_OF_CLASS))
    half = (30 * logits).astype(np.float16)  # whose exponentials it cannot hold
    assert metric(EvalPrediction(half, labels)) == pytest.approx(plain(half.astype(float), labels))
    logits[0, 3] = np.inf  # a class without a doubt: it counts, and has no probability
    assert "expected_calibration_error" not in metric(EvalPrediction(logits, labels))
    assert "expected_calibration_error" in metric(EvalPrediction(np.where(np.isinf(logits), -np.inf, logits), labels))


def test_wrong_number_of_classes(example):
    logits, labels = example
    with pytest.raises(ValueError, match="The logits have 7 classes, the groups 4"):
        group_accuracy(ClassGroups([0, 1, 2, 2]))(EvalPrediction(logits, labels))


FOLDER = Path(hf_ltkd.metrics.__file__).parent / "group_accuracy"


@pytest.fixture
def metric():
    return evaluate.load(str(FOLDER))


def plain_module(predictions, references, group_of_class, names):
    """Everything that the `evaluate` module returns, by plain loops."""
    classes = [[] for _ in group_of_class]
    for prediction, reference in zip(predictions, references, strict=True):
        if reference != -100:
            classes[reference].append(prediction == reference)
    groups = {name: [] for name in names}
    for group, hits in zip(group_of_class, classes, strict=True):
        groups[names[group]] += hits
    per_class = [sum(hits) / len(hits) if hits else None for hits in classes]
    every = sum(groups.values(), [])
    valid = np.asarray(references) != -100
    predictions, references = np.asarray(predictions)[valid], np.asarray(references)[valid]
    precisions = precision_score(
        references, predictions, labels=range(len(classes)), average=None, zero_division=np.nan
    )
    missing = [not hits or math.isnan(value) for hits, value in zip(classes, precisions, strict=True)]
    return {
        "accuracy": sum(every) / len(every),
        **{f"{name}_accuracy": sum(hits) / len(hits) if hits else math.nan for name, hits in groups.items()},
        **plain_class_scores(predictions, references),
        "class_accuracy": per_class,
        "class_precision": [None if none else value for none, value in zip(missing, precisions, strict=True)],
    }


def same(result, expected):
    """All but the shots, which have a test of their own."""
    result, expected = ({n: v for n, v in d.items() if "shot" not in n} for d in (result, expected))
    lists = [name for name, value in expected.items() if isinstance(value, list)]
    pairs = [pair for name in lists for pair in zip(result.pop(name), expected.pop(name), strict=True)]
    return result == pytest.approx(expected, nan_ok=True) and all(a == pytest.approx(b) for a, b in pairs)


@pytest.mark.parametrize("convert", [list, np.array, torch.tensor], ids=["list", "numpy", "torch"])
def test_evaluate_module(example, metric, convert):
    logits, labels = example
    inputs = {"predictions": logits.argmax(1), "references": labels, "group_of_class": convert(GROUP_OF_CLASS)}
    assert same(metric.compute(**inputs), plain_module(logits.argmax(1), labels, GROUP_OF_CLASS, NAMES))
    named = metric.compute(**inputs, group_names=["a", "b", "c"])
    assert same(named, plain_module(logits.argmax(1), labels, GROUP_OF_CLASS, ["a", "b", "c"]))


def test_evaluate_module_names_other_numbers_of_groups(metric):
    result = metric.compute(predictions=[0, 0, 1], references=[0, 1, 1], group_of_class=[0, 1])
    groups = ["accuracy", "group_0_accuracy", "group_1_accuracy", "balanced_accuracy", "macro_f1"]
    assert [*result] == [
        *groups,
        "worst_class_accuracy",
        "harmonic_mean_accuracy",
        "class_accuracy",
        "class_precision",
    ]


def test_evaluate_module_has_shots_of_counts(example, metric):
    logits, labels = example
    result = metric.compute(predictions=logits.argmax(1), references=labels, class_counts=COUNTS)
    expected = plain(logits, labels, COUNTS)
    for shot in ("many_shot", "medium_shot", "few_shot"):
        assert result[f"{shot}_accuracy"] == pytest.approx(expected[f"{shot}_accuracy"])
    few = metric.compute(predictions=[0, 1], references=[0, 1], class_counts=[5, 5], num_groups=1)
    assert few["few_shot_accuracy"] == 1 and math.isnan(few["many_shot_accuracy"])


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_classes_and_groups_without_an_example(example, metric):
    logits, labels = example
    references = np.where(np.isin(labels, [0, 5, 6]), -100, labels)  # class 0, 5, 6: the tail
    result = metric.compute(predictions=logits.argmax(1), references=references, group_of_class=GROUP_OF_CLASS)
    counted = references != -100
    balanced = balanced_accuracy_score(references[counted], logits.argmax(1)[counted])
    assert result["balanced_accuracy"] == pytest.approx(balanced)
    assert json.dumps(result["class_accuracy"]).count("null") == 3
    assert same(result, plain_module(logits.argmax(1), references, GROUP_OF_CLASS, NAMES))
    nothing = metric.compute(predictions=[0], references=[-100], class_counts=[3, 2, 1])
    assert math.isnan(nothing["accuracy"]) and math.isnan(nothing["balanced_accuracy"])


def test_groups_from_counts_are_those_of_class_groups():
    rng = np.random.default_rng(0)
    for _ in range(300):
        counts = rng.integers(1, rng.choice([3, 50, 5000]), rng.integers(1, 130)).tolist()  # small ranges have ties
        for num_groups in {3, int(rng.integers(1, len(counts) + 1))}:
            if num_groups > len(counts):
                for group in (groups_from_counts, ClassGroups.from_counts):
                    with pytest.raises(ValueError, match=f"num_groups=3 cannot group {len(counts)} class"):
                        group(counts, num_groups)
            else:
                expected = ClassGroups.from_counts(counts, num_groups).group_of_class.tolist()
                assert groups_from_counts(counts, num_groups).tolist() == expected


@pytest.mark.parametrize("path", [FOLDER, FOLDER / "group_accuracy.py"], ids=["folder", "file"])
def test_groups_given_once_at_load(example, path):
    logits, labels = example
    inputs = {"predictions": logits.argmax(1), "references": labels}
    counts = [5, 40, 7, 7, 90, 1, 2]
    groups = ClassGroups.from_counts(counts)
    loaded = evaluate.load(str(path), class_counts=counts)
    expected = plain_module(logits.argmax(1), labels, groups.group_of_class, groups.names)
    assert same(loaded.compute(**inputs), dict(expected))
    assert same(evaluate.load(str(path)).compute(**inputs, class_counts=counts), dict(expected))
    assert same(GroupAccuracy(class_counts=torch.tensor(counts)).compute(**inputs), dict(expected))
    four = ClassGroups.from_counts(counts, num_groups=4)
    result = loaded.compute(**inputs, class_counts=counts, num_groups=4)  # replaces what was loaded
    assert same(result, plain_module(logits.argmax(1), labels, four.group_of_class, four.names))


def test_batches_and_processes(example, tmp_path):
    logits, labels = example
    predictions, expected = logits.argmax(1), plain_module(logits.argmax(1), labels, GROUP_OF_CLASS, NAMES)
    whole = evaluate.load(str(FOLDER), group_of_class=GROUP_OF_CLASS)
    for part in np.split(np.arange(200), [30, 31, 150]):
        whole.add_batch(predictions=predictions[part], references=labels[part])
    assert same(whole.compute(), dict(expected))

    def rank(process_id):
        shared = {"num_process": 2, "process_id": process_id, "cache_dir": tmp_path, "experiment_id": "both"}
        own = GroupAccuracy(group_of_class=GROUP_OF_CLASS, **shared)
        return own.compute(predictions=predictions[process_id::2], references=labels[process_id::2])

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(rank, range(2))
    assert second is None and same(first, dict(expected))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "class_counts .* or group_of_class .* got neither"),
        ({"group_names": ["a", "b"]}, "got neither"),
        ({"class_counts": [2, 1], "group_of_class": [0, 1]}, "got both"),
        ({"group_of_class": [0, 1], "num_groups": 2}, "num_groups=2 goes with class_counts"),
        ({"class_counts": [2, 1], "num_groups": 3}, "num_groups=3 cannot group 2 classes: choose from 1 to 2"),
        ({"class_counts": [2, 0, 1]}, "class_counts must hold the number .* at least 1 each"),
        ({"class_counts": [2.5, 1.0, 1.0]}, "class_counts must hold the number"),
        ({"group_of_class": [0, 2]}, r"numbered from 0 without a gap; .* values are \[0, 2\]"),
        ({"group_of_class": [[0, 1]]}, r"its shape is \(1, 2\)"),
        ({"group_of_class": [0, 1], "group_names": ["a"]}, r"2 groups need 2 different names, .* got \['a'\]"),
        ({"group_of_class": [0, 1], "group_names": ["a", "a"]}, "2 groups need 2 different names"),
        (
            {"group_of_class": [0, 1], "group_names": ["class", "a"]},
            "none of them balanced, class, few_shot, harmonic_mean",
        ),
        ({"group_of_class": [0, 0]}, "references run from 0 to 2, outside the classes 0 to 1"),
        ({"group_of_class": [0, 0, 0]}, "predictions run from 0 to 3, outside the classes 0 to 2"),
    ],
)
def test_errors_of_the_evaluate_module(arguments, message):
    metric = evaluate.load(str(FOLDER), keep_in_memory=True)  # on disk a lock would be waited for after an error
    inputs = {"predictions": [0, 3, 9], "references": [0, 2, -100]}
    with pytest.raises(ValueError, match=message):
        metric.compute(**inputs, **arguments)
    assert metric.compute(**inputs, class_counts=[4, 3, 2, 1])["accuracy"] == 0.5  # it goes on
    if arguments and "run from" not in message:
        with pytest.raises(ValueError, match=message):
            evaluate.load(str(FOLDER), **arguments)


def test_predictions_and_references_of_other_lengths(metric):
    with pytest.raises(ValueError, match=r"predictions \(1\) and references \(2\)"):
        metric.compute(predictions=[0], references=[0, 1], class_counts=[3, 2, 1])


@pytest.fixture(scope="module")
def digits():
    """A network after a few steps on handwritten digits, its image processor, and 50 test images."""
    images = [Image.fromarray((pixels * 255 / 16).astype("uint8")).convert("RGB") for pixels in load_digits().images]
    labels = load_digits().target
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    set_seed(0)
    names = {class_id: f"digit {class_id}" for class_id in range(10)}
    model = create_model("resnet8", 10, image_size=8, id2label=names, label2id={v: k for k, v in names.items()})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for rows in np.split(np.arange(640), 10):
        inputs = processor([images[row] for row in rows], return_tensors="pt")
        model(**inputs, labels=torch.tensor(labels[rows])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), processor, images[-50:], labels[-50:].tolist()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # scipy's: no interval for a class that is always right
def test_evaluator(digits, tmp_path, monkeypatch):
    model, processor, images, labels = digits
    counts = [100, 80, 60, 50, 40, 30, 20, 10, 5, 2]
    groups = ClassGroups.from_counts(counts)
    with torch.no_grad():
        predictions = [model(**processor(image, return_tensors="pt")).logits.argmax().item() for image in images]
    expected = plain_module(predictions, labels, groups.group_of_class, groups.names)
    assert len(set(expected["class_accuracy"])) > 3 and 0.2 < expected["accuracy"] < 0.98
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    data = Dataset.from_dict({"image": images, "label": labels})
    metric = evaluate.load(str(FOLDER), class_counts=counts, keep_in_memory=True)

    def results(network, data=data, **kwargs):
        return evaluate.evaluator("image-classification").compute(
            model_or_pipeline=network, data=data, metric=metric, label_mapping=model.config.label2id, **kwargs
        )

    found = results(str(tmp_path))
    assert same({key: found[key] for key in expected}, dict(expected))
    # With a pipeline evaluate 0.4.6 looks up TensorFlow's class, which transformers 5 no longer has.
    monkeypatch.setattr(transformers, "TFPreTrainedModel", (), raising=False)
    found = results(pipeline("image-classification", model, image_processor=processor, device="cpu"))
    assert same({key: found[key] for key in expected}, dict(expected))


def test_tokens_with_padding(example):
    """Logits `[examples, length, classes]` give what the counted tokens alone give; padding may hold anything."""
    logits, labels = example
    metric = group_accuracy(ClassGroups(GROUP_OF_CLASS))
    labels = np.where(np.arange(200) % 3 == 0, -100, labels)
    result = metric(EvalPrediction(logits.reshape(20, 10, 7), labels.reshape(20, 10)))
    assert result == pytest.approx(plain(logits[labels != -100], labels[labels != -100]))
    longer = np.pad(logits.reshape(20, 10, 7), [(0, 0), (0, 5), (0, 0)], constant_values=-100)  # as the Trainer pads
    assert metric(EvalPrediction(longer, np.pad(labels.reshape(20, 10), [(0, 0), (0, 5)], constant_values=-100))) == (
        result
    )


def test_labels_that_do_not_fit_the_logits(example):
    logits, labels = example
    with pytest.raises(ValueError, match=r"Predictions of shape \(200, 7\) and labels of shape \(200, 1\) do not fit"):
        group_accuracy(ClassGroups(GROUP_OF_CLASS))(EvalPrediction(logits, labels[:, None]))


def test_ignored_and_foreign_references():
    assert group_accuracies([0, 1, 1], [0, -100, 0], [0, 1], ["a", "b"])["accuracy"] == 0.5
    with pytest.raises(ValueError, match="references run from 0 to 2, outside the classes 0 to 1"):
        group_accuracies([0, 1], [0, 2], [0, 1], ["a", "b"])
    with pytest.raises(ValueError, match="predictions run from -1 to 0, outside the classes 0 to 1"):
        group_accuracies([0, -1], [0, 1], [0, 1], ["a", "b"])
