"""Where to start, for someone without time to search."""

import json
import re
from pathlib import Path
from statistics import mean, stdev

import pytest
import yaml
from transformers import BitImageProcessor, ViTImageProcessor

from hf_ltkd import DistillationTrainingArguments
from hf_ltkd.workflow.recommend import (
    epochs_of,
    merge_training,
    recommend_ce,
    recommend_images,
    recommend_num_groups,
    recommend_pixel_training,
    recommend_training,
    recommend_weights,
    training_arguments,
)


EXPERIMENTS = Path(__file__).parents[2] / "examples" / "experiments"


def test_weights():
    values = {"alpha": 1, "beta": 1, "temperature": 1, "ce": "balanced_softmax"}
    assert recommend_weights([90, 30], 30).values == {**values, "warmup_epochs": 2}
    assert recommend_weights([90, 30]).values == values
    assert "ce" not in recommend_weights([9, 5]).values  # nearly even
    assert "ce" not in recommend_weights([90, 30], label_smoothing=0.1).values
    for accuracy, temperature in ((0.49, 1), (0.5, 2), (None, 1)):
        assert recommend_weights([90, 30], teacher_accuracy=accuracy).values == {**values, "temperature": temperature}


def test_cross_entropy_of_a_teacher():
    assert recommend_ce([9, 5]).values == {"ce": "cross_entropy"}
    assert recommend_ce([10, 5]).values == {"ce": "balanced_softmax"}
    assert recommend_ce([10, 5], label_smoothing=0.1).values == {"ce": "cross_entropy"}


def test_figures_are_those_of_the_results():
    """Accuracies of teachers in a recommendation are those of the project's result lines."""
    figures = []
    for experiment in ("superclasses", "texts", "traffic_signs"):
        lines = map(json.loads, (EXPERIMENTS / "results" / f"recipe_{experiment}.jsonl").read_text().splitlines())
        metrics = [(line["method"], line["metrics"]) for line in lines if line["pair"] is None]
        for teacher in ("Teacher, balanced_softmax", "Teacher"):
            for name in ("accuracy", "tail_accuracy"):
                figures.append(f"{100 * mean(values[name] for method, values in metrics if method == teacher):.1f}")
    assert re.findall(r"\d+\.\d", recommend_ce([10, 5]).reason) == figures


def test_gains_are_those_of_the_results():
    """And the differences in the recommendation of weights: paired over the seeds, with Student's interval."""
    at, papers, alone = "LTKD(1,1), T {} + balanced softmax", "LTKD", "Balanced softmax"
    figures = []
    for experiment, method, other in (
        *(("traffic_signs", at.format(2), alone), ("texts", at.format(2), alone)),
        *(("texts", at.format(2), papers), ("superclasses", at.format(1), papers)),
    ):
        lines = map(json.loads, (EXPERIMENTS / "results" / f"recipe_{experiment}.jsonl").read_text().splitlines())
        found = {(line["method"], line["seed"]): 100 * line["metrics"]["accuracy"] for line in lines}
        gains = [found[method, seed] - found[other, seed] for seed in range(5)]
        figures += [
            f"{mean(gains):.1f}",
            f"{2.776445 * stdev(gains) / 5**0.5:.1f}",
        ]  # Student's t, 4 degrees of freedom
    reason = recommend_weights([90, 30]).reason
    assert re.findall(r"\d+\.\d", reason) == figures
    assert "is not known" in reason and "is 87%" in recommend_weights([90, 30], teacher_accuracy=0.871).reason


def test_pixels():
    """No last batch is of one image, which batch normalisation may not stand; what was not measured is not said."""
    assert [recommend_pixel_training(n, False).values["per_device_train_batch_size"] for n in (367, 369, 57)] == [
        8,
        7,
        6,
    ]
    assert recommend_pixel_training(367, False).values["num_train_epochs"] == round(4000 / 46)
    assert recommend_weights([900, 9], of_pixels=True).values == recommend_weights([900, 9]).values
    assert "CamVid" in recommend_weights([900, 9], of_pixels=True).reason
    assert recommend_ce([900, 9], of_pixels=True).values == {"ce": "balanced_softmax"}


def test_groups():
    assert recommend_num_groups(2).values == {"num_groups": 2}
    reason = recommend_num_groups(100).reason
    assert "20 groups are worth a second run" in reason
    table = yaml.safe_load((EXPERIMENTS / "published.yaml").read_text())["table_6"]
    for groups in (20, 100):
        gains = [p["accuracy"][table["num_groups"].index(groups)] - p["accuracy"][0] for p in table["pairs"]]
        assert f"by {min(gains):+.1f} to {max(gains):+.1f}" in reason


def test_training():
    fresh = recommend_training(10_948, "resnet8x4", is_pretrained=False).values
    assert fresh["num_train_epochs"] == 58 and fresh["learning_rate"] == 0.05 and fresh["preset"] == "paper"
    for name in ("mobilenet_v2", "CifarShuffleNetV1ForImageClassification"):
        assert recommend_training(100, name, False).values["learning_rate"] == 0.01
    assert [recommend_training(n, "x", False).values["num_train_epochs"] for n in (100, 10**6)] == [240, 30]
    tuned = recommend_training(10_948, "microsoft/resnet-18", is_pretrained=True)
    assert "preset" not in tuned.values and tuned.values["num_train_epochs"] == 17
    own = merge_training(tuned, {"preset": "paper"})
    assert DistillationTrainingArguments("x", **own, use_cpu=True).num_train_epochs == 240


def test_images_that_are_decoded_each_time_get_workers(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    recommended = recommend_training(100, "resnet8", False)
    assert training_arguments({"output_dir": "x"}, recommended, "resized").dataloader_num_workers == 4
    assert training_arguments({"output_dir": "x"}, recommended, "padded").dataloader_num_workers == 0
    given = {"output_dir": "x", "dataloader_num_workers": 1}
    assert training_arguments(given, recommended, "resized").dataloader_num_workers == 1


def test_epochs_of_a_number_of_steps():
    args = {"output_dir": "x", "per_device_train_batch_size": 16, "use_cpu": True}
    assert epochs_of(DistillationTrainingArguments(num_train_epochs=7, **args), 100) == 7
    # 100 images are 7 batches; 14 steps of two batches are four epochs.
    steps = DistillationTrainingArguments(max_steps=14, gradient_accumulation_steps=2, **args)
    assert epochs_of(steps, 100) == pytest.approx(4)


def test_large_images_are_not_kept_in_memory():
    assert recommend_images(None, None) == {}
    assert recommend_images(None, None, 224) == {"image_size": 224, "crop": "resized"}
    size = {"height": 32, "width": 32}
    processor = ViTImageProcessor(size=size)
    assert recommend_images(processor, None) == {"image_size": 32, "crop_padding": 4}
    assert recommend_images(processor, None, 16)["image_size"] == 16
    assert recommend_images(BitImageProcessor(crop_size=size), None)["image_size"] == 32


def test_steps_that_are_given_count():
    """They would say nothing beside a recommended strategy by epochs, or none."""
    recommended = recommend_training(1_000, "resnet8", False)
    for what, instead in (("save", "epoch"), ("logging", "epoch"), ("eval", None)):
        assert recommended.values.get(f"{what}_strategy") == instead
        assert merge_training(recommended, {f"{what}_steps": 5})[f"{what}_strategy"] == "steps"
        given = {f"{what}_steps": 5, f"{what}_strategy": "no"}
        assert merge_training(recommended, given)[f"{what}_strategy"] == "no"
