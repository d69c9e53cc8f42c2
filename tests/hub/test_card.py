"""The card says what was measured, and nothing else; names from users stay names."""

import csv
import hashlib
import json
import math
import re

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from transformers import ViTImageProcessorPil, set_seed

from hf_ltkd import ClassGroups, CrossEntropyLoss, DistillationTrainingArguments, LongTailSplit, create_model
from hf_ltkd.hub.accuracy import iou_rows
from hf_ltkd.hub.card import escape, write_model_card
from hf_ltkd.hub.names import PICTURES
from hf_ltkd.hub.readme import BEGIN, END
from hf_ltkd.trainer.training_args import public_arguments
from hf_ltkd.utils import write_json


COUNTS = [60, 50, 40, 30, 20, 10]
GROUPS = ClassGroups.from_counts(COUNTS)
HOSTILE = [
    "</td><script>alert(1)</script>",
    "a | b |\n| c",
    "---\nlicense: mit\n---",
    "![x](http://e.x/p.png) [y](javascript:z)",
    "``` `x` *y* _z_ ~~w~~ $q$ @me",
    "\"quoted\": '{}' {{ card_data }} {% if %}",
]
STUDENT = {"eval_accuracy": 0.5, "eval_head_accuracy": 0.7, "eval_medium_accuracy": 0.5, "eval_tail_accuracy": 0.3}
TEACHER = {"accuracy": 0.4, "head_accuracy": 0.8, "medium_accuracy": 0.35, "tail_accuracy": 0.05}
PLAIN = {"accuracy": 0.375, "head_accuracy": 0.725, "medium_accuracy": 0.3, "tail_accuracy": 0.1}


@pytest.fixture
def folder(tmp_path):
    """A folder as a script leaves it that knew nothing of cards."""
    set_seed(0)
    create_model("resnet8", 6, image_size=8, id2label=dict(enumerate(HOSTILE))).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(tmp_path)
    GROUPS.save_pretrained(tmp_path)
    LongTailSplit(6.0, 3, "label", [60] * 6, COUNTS).save_pretrained(tmp_path)
    write_json(tmp_path / "eval_results.json", STUDENT)
    return tmp_path


def card_of(folder, **kwargs):
    return ModelCard(write_model_card(folder, **kwargs).read_text(encoding="utf-8"))


@pytest.mark.usefixtures("pictures")
def test_what_is_given_and_measured_is_in_the_card(folder):
    kwargs = {"dataset": "me/data", "dataset_split": "validation", "license": "mit", "tags": "mine", "language": "en"}
    card = card_of(folder, repo_id="me/it", teacher_metrics=TEACHER, plain_student_metrics=PLAIN, **kwargs)
    results = {result.metric_name: result for result in card.data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {
        "Accuracy": 0.5,
        "Head accuracy": 0.7,
        "Medium accuracy": 0.5,
        "Tail accuracy": 0.3,
    }
    accuracy = results["Tail accuracy"]
    assert (accuracy.dataset_type, accuracy.dataset_split, accuracy.task_type) == (
        "me/data",
        "validation",
        "image-classification",
    )
    assert accuracy.dataset_args == {"imbalance_factor": 6.0, "split_seed": 3}
    assert card.data.license == "mit" and card.data.datasets == ["me/data"] and "mine" in card.data.tags
    assert len(yaml.safe_load(card.data.to_yaml())["model-index"][0]["results"]) == 1
    text = card.text
    assert "| training examples | 110 | 70 | 30 | 210 |" in text and "| classes | 2 | 2 | 2 | 6 |" in text
    assert "| teacher | 80.0 | 35.0 | 5.0 | 40.0 |" in text
    assert "| plain student | 72.5 | 30.0 | 10.0 | 37.5 |" in text
    assert "| this student | 70.0 | 50.0 | 30.0 | 50.0 |" in text
    assert "Whether it differs from the plain student by more than chance is not known" in text
    assert "imbalance factor of 6.0 and seed 3 from 360 examples" in text
    assert "import hf_ltkd" in text and 'pipeline("image-classification", "me/it")' in text
    assert "trust_remote_code" not in text
    assert "kim2026distilling" in text
    with Image.open(folder / "group_accuracy.png") as picture:
        assert min(picture.size) > 300
    assert "(group_accuracy.png)" in text and not (folder / "class_accuracy.png").exists()
    assert not list(folder.glob("*.tmp"))


def test_differences_are_stated_where_they_are_more_than_chance(folder):
    """On 20 images a class -2.5 points are chance and 20 are not; on the same images, as measured."""
    write_json(folder / "distillation.json", {"class_examples": [20] * 6, "metrics": STUDENT})
    text = card_of(folder, teacher_metrics=TEACHER, plain_student_metrics=PLAIN).text
    # Wilson's interval of 28 of 40, and Newcombe's of 12 and 4 of 40, by their formulas
    assert "| this student | 70.0 (55–82) | 50.0 (35–65) | 30.0 (18–45) | 50.0 (41–59) |" in text
    assert "| plain student | 72.5 (57–84) |" in text
    assert "Against the plain student, accuracy changes by +20.0 points (+2.3 to +36.6) on tail classes" in text
    assert "Against the plain student, on head, medium, all classes the test set is too small to tell" in text
    paired = {"plain student": {"head_accuracy": [-0.025, -0.04, -0.01], "tail_accuracy": [0.2, -0.01, 0.3]}}
    text = card_of(folder, plain_student_metrics=PLAIN, differences=paired).text
    assert "-2.5 points (-4.0 to -1.0) on head" in text and "on medium, tail, all classes the test" in text


def test_a_teacher_is_no_student(folder):
    """And no argument is listed that had no effect."""
    loss = CrossEntropyLoss()
    used = {"class": "CrossEntropyLoss", "hyper_parameters": loss.used_hyper_parameters()}
    training = {"epochs": 3.0, "steps": 6, "evaluated": {"epoch": 2.0, "chosen_by": "accuracy", "chosen_apart": False}}
    run = {"loss": used, "student": {}, "teacher": None, "metrics": STUDENT, "training": training}
    write_json(folder / "distillation.json", run)
    card = card_of(folder, model_name="it")
    assert "student" not in card.text and "| this model | 70.0 |" in card.text
    assert "knowledge-distillation" not in card.data.tags
    assert "`tau`" not in card.text and "warmup" not in card.text and "`ce_weight` | 1.0" in card.text
    assert "is that of epoch 2 of 3, the best by `accuracy` of those saved, chosen on these very" in card.text


def test_what_is_not_known_is_left_out(folder):
    """Nothing but a model: no numbers, no license, no pictures, no sentence about them."""
    for path in folder.glob("*.json"):
        if path.name != "config.json":
            path.unlink()
    for picture in PICTURES:  # of numbers that no longer hold
        (folder / picture).write_text("old")
    card = card_of(folder, dataset="me/data")
    assert card.data.eval_results is None and card.data.license is None and card.data.get("co2_eq_emissions") is None
    headings = re.findall(r"^#+ (.*)", card.text, flags=re.MULTILINE)
    assert headings[1:] == ["Use", "Limits", "Citation"]
    for word in ("None", "nan", "undefined", "png)", "teacher", "Hardware", "CO₂", "%)", "multiply"):
        assert word not in card.text, word
    assert 'AutoModelForImageClassification.from_pretrained("path/to/this/folder")' in card.text
    assert "No image processor or tokenizer" in card.text and "pipeline(" not in card.text
    assert "is not known" in card.text and not list(folder.glob("*.png"))


def test_a_split_that_was_not_cut(folder):
    LongTailSplit(1.0, 3, "label", COUNTS, COUNTS).save_pretrained(folder)
    card = card_of(folder, dataset="me/data")
    assert card.data.eval_results[0].dataset_args is None
    assert "imbalance factor" not in card.text and "long_tail.json" not in card.text


def test_a_split_by_another_rule(folder):
    LongTailSplit(6.0, 3, "label", [60] * 6, COUNTS, "ldam").save_pretrained(folder)
    card = card_of(folder, dataset="me/data")
    assert card.data.eval_results[0].dataset_args == {"imbalance_factor": 6.0, "split_seed": 3, "split_rule": "ldam"}
    assert "an imbalance factor of 6.0 by the rule of LDAM and seed 3" in card.text


def test_onnx(folder):
    """The numbers of the file, as long as it was made from the weights that are there."""
    times = {"onnxruntime_ms": {"median": 0.12345, "p90": 2.5}, "pytorch_ms": {"median": 10.04, "p90": 123.4}}
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    measured = {
        "weights_sha256": {"model.safetensors": digest}, "examples": "10 images", "batch_sizes": [1, 2, 7],
        "max_difference": 2.5e-6, "max_logit": 12.34, "threads": 2, "runs": 50, "cpu": "An | odd <CPU>",
        "networks": {who: {"input": [3, 8, 8], "onnx_bytes": size, **times}
                     for who, size in (("student", 1_230_000), ("teacher", 45_600_000))},
        "versions": {"onnxruntime": "1.2"},
    }  # fmt: skip
    write_json(folder / "onnx" / "measurements.json", measured)
    assert "ONNX" not in card_of(folder).text  # the file itself is gone
    (folder / "onnx" / "model.onnx").write_bytes(b"x")
    text = card_of(folder, repo_id="me/it").text
    assert "On 10 images, in batches of 1, 2, 7, its logits differ\nfrom PyTorch's by at most 2.5e-06;" in text
    assert 'hf_hub_download("me/it", "onnx/model.onnx")' in text and "`[batch, 3, 8, 8]`" in text
    assert "| teacher | 3 × 8 × 8 | 45.60 | 0.123 (2.5) | 10 (123) |\n| student | 3 × 8 × 8 | 1.23 |" in text
    assert r"50 runs, and in brackets the 90th percentile, on 2 threads of An \| odd &lt;CPU&gt;" in text
    create_model("resnet8", 6, image_size=8).save_pretrained(folder)  # trained again
    with pytest.warns(UserWarning, match="The ONNX file in .* was made from other weights"):
        assert "ONNX" not in card_of(folder).text


def test_scores_beside_the_groups(folder):
    """Of every model that has them; the student's intervals from its report, if that is of these very values."""
    ours = {"eval_few_shot_accuracy": 0.25, "eval_macro_f1": 0.5, "eval_expected_calibration_error": 0.125}
    write_json(folder / "eval_results.json", STUDENT | ours)
    report = (
        {"few_shot_accuracy": {"value": 0.25, "interval": [0.1, 0.4]}},
        {"macro_f1": {"value": 0.5, "interval": [0, 1]}},
    )
    write_json(folder / "class_report.json", {"accuracy": report[0], "scores": report[1]})
    text = card_of(folder, teacher_metrics=TEACHER | {"macro_f1": 0.375}, plain_student_metrics=PLAIN).text
    lines = [
        "|  | few | macro-F1 | ECE |",
        "|---|---|---|---|",
        "| teacher |  | 37.5 |  |",
        "| plain student |  |  |  |",
    ]
    lines += ["| this student | 25.0 | 50.0 | 12.5 |", "| 95 % interval | 10–40 | 0–100 |  |"]
    assert "\n".join(["", *lines, ""]) in text
    assert "fewer than 20 training examples; balanced, worst" in text and "ECE: expected calibration error" in text
    write_json(folder / "eval_results.json", STUDENT | ours | {"eval_macro_f1": 0.75, "eval_few_shot_accuracy": 0.5})
    assert "95 % interval |" not in card_of(folder).text  # of other weights
    write_json(folder / "eval_results.json", STUDENT)
    assert "macro-F1" not in card_of(folder, teacher_metrics=TEACHER | {"macro_f1": 0.375}).text


def test_precision_of_each_class(folder):
    """Beside the accuracy that it was measured with."""
    accuracy, precision = [1.0, 0.5, 0.25, 0.0, 0.0, None], [0.75, 1.0, 0.5, 0.125, None, None]
    write_json(folder / "distillation.json", {"metrics": STUDENT, "class_accuracy": accuracy})
    rows = [{"recall": r, "precision": p} for r, p in zip(accuracy, precision, strict=True)]
    write_json(folder / "class_report.json", {"classes": rows})
    text = card_of(folder).text
    assert "| class | group | training examples | accuracy (%) | precision (%) |\n|---|---|---|---|---|\n" in text
    assert "| head | 60 | 100.0 | 75.0 |" in text and "| tail | 20 | 0.0 |  |" in text
    write_json(folder / "class_report.json", {"classes": [{**row, "recall": 0.5} for row in rows]})
    assert "| head | 60 | 100.0 |\n" in card_of(folder).text  # the report is of other weights


def test_without_a_dataset_there_is_no_model_index(folder):
    assert card_of(folder).data.eval_results is None


def test_a_group_without_test_examples_has_no_number(folder):
    write_json(folder / "eval_results.json", STUDENT | {"eval_tail_accuracy": math.nan})
    card = card_of(folder, dataset="me/data")
    assert "Tail accuracy" not in {result.metric_name for result in card.data.eval_results}
    assert "| this student | 70.0 | 50.0 | not measured | 50.0 |" in card.text and "nan" not in card.text.lower()


def test_hostile_names(folder):
    names = ClassGroups(GROUPS.group_of_class, names=["<i>head</i>", "$a$ | b", "_tail\n---\n"], class_counts=COUNTS)
    names.save_pretrained(folder)
    metrics = dict(zip([f"{name}_accuracy" for name in names.names] + ["accuracy"], [0.1, 0.2, 0.3, 0.2], strict=True))
    write_json(folder / "eval_results.json", metrics)
    evil = "x\n---\nlicense: gpl\n# head"
    card = card_of(
        folder, dataset=evil, model_name=evil, teacher_name="<img src=x>", tags=[evil], repo_id='"); evil("'
    )
    assert card.data.license is None and card.data.model_name == "x --- license: gpl # head"
    assert card.data.eval_results[0].dataset_name == "x --- license: gpl # head"
    assert card.data.datasets is None  # no Hub id
    text = card.text
    assert "evil(" not in text and "path/to/this/folder" in text
    body = text.replace("<details>", "").replace("</details>", "").replace("<summary>Classes</summary>", "")
    body = body.replace(BEGIN, "").replace(END.partition("{}")[0], "")
    assert not re.search(r"<[a-z/!]", body, flags=re.IGNORECASE)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    table = [row for row in rows if re.search(r"\| \d+ \|  \|$", row)]
    assert len(table) == 6  # one line a class, each of four cells
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in table)
    assert not re.findall(r"(?<!\\)(`x|\]\(http|\*y|\$q|@me)", text)
    assert "{{ card_data }}" not in text and r"\{\{ card\_data" in text
    assert (folder / "group_accuracy.png").is_file()


def test_escape():
    assert escape("a|b\n*c*") == r"a\|b \*c\*"
    assert escape("<b>&") == "&lt;b&gt;&amp;"
    assert escape("a\u2028b\x00c") == "a b c"
    assert escape("plain words, 12.5 %") == "plain words, 12.5 %"


def test_emissions_of_codecarbon(folder):
    with open(folder / "emissions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["timestamp", "emissions", "energy_consumed"])
        writer.writeheader()
        writer.writerow({"emissions": 9, "energy_consumed": 9})
        writer.writerow({"emissions": 0.0125, "energy_consumed": 0.03})
    card = card_of(folder)
    assert card.data.co2_eq_emissions == {"emissions": 12.5, "source": "codecarbon"}
    assert "12.5 g CO₂ equivalents, 0.03 kWh" in card.text


def test_card_of_a_trainer(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, save_strategy="no")
    trainer.train()
    trainer.save_model()
    assert json.loads((tmp_path / "distillation.json").read_text())["metrics"] == {}  # not evaluated yet
    metrics = trainer.evaluate()
    classes = {"class_accuracy": [0.9, 0.8, 0.7, 0.5, 0.3, None]}
    trainer.create_model_card(dataset="me/data", teacher_metrics=TEACHER | classes, dataset_args="v1", tags="x")
    card = ModelCard.load(tmp_path / "README.md")
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert results["Tail accuracy"] == metrics["eval_tail_accuracy"]
    run = json.loads((tmp_path / "distillation.json").read_text())
    predictions = trainer.predict(trainer.eval_dataset)
    right = predictions.predictions.argmax(-1) == predictions.label_ids
    assert run["class_accuracy"] == pytest.approx([right[predictions.label_ids == c].mean() for c in range(6)])
    assert "| `alpha` | 1.5 |" in card.text and "on 36 test examples" in card.text
    assert "| teacher | CifarResNetForImageClassification | 174,998 |" in card.text
    assert "(class_accuracy.png)" in card.text and (tmp_path / "class_accuracy.png").is_file()
    assert "4 steps of 8 examples" in card.text and "learning rate 0.01" in card.text
    assert str(tmp_path) not in card.text


def test_numbers_of_other_weights_do_not_count(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, save_strategy="no")
    trainer.evaluate()
    assert trainer.evaluation["step"] == 0
    trainer.train()
    assert trainer.evaluation is None  # these are other weights now
    metrics = trainer.evaluate()
    trainer.evaluate(trainer.train_dataset, metric_key_prefix="other")
    assert trainer.evaluation["metrics"]["eval_accuracy"] == metrics["eval_accuracy"]


def test_numbers_of_the_best_checkpoint(make_trainer, tmp_path):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(tmp_path, **steps, **best)
    trainer.train()
    assert trainer.evaluation["step"] == trainer.state.best_global_step
    loss = trainer.evaluation["metrics"]["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-4)


def test_public_arguments(tmp_path):
    args = DistillationTrainingArguments(
        tmp_path, hub_token="hf_secret", hub_model_id="me/x", run_name="host-7", use_cpu=True, learning_rate=0.3,
        resume_from_checkpoint="there", logging_steps=7, lr_scheduler_kwargs={"path": "/home/me/x", "num_cycles": 2},
    )  # fmt: skip
    values = public_arguments(args)
    assert values["learning_rate"] == 0.3 and values["logging_steps"] == 7
    assert values["lr_scheduler_kwargs"] == {"num_cycles": 2} and "average_tokens_across_devices" in values
    text = json.dumps(values)
    for private in ("hf_secret", str(tmp_path), "me/x", "host-7", "there", "/home"):
        assert private not in text


def test_an_iou_that_was_not_measured():
    groups = ClassGroups.from_counts([9, 3, 1])
    rows = iou_rows(groups, {"teacher": {"mean_iou": 0.5, "head_iou": 0.6, "medium_iou": 0.4}}, {})
    assert rows == {"teacher": ["60.0", "40.0", "not measured", "50.0"]}
