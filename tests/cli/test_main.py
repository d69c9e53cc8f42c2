"""The console command as a user calls it, on made-up images of three colours."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BitImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_ltkd import ClassGroups, LongTailSplit
from hf_ltkd.cli.main import COMMANDS, HELP, SourceArguments, main, parse
from hf_ltkd.data import DataArguments
from hf_ltkd.data.holdout import Holdout, load_or_hold_out
from hf_ltkd.trainer.training_args import DistillationTrainingArguments
from hf_ltkd.workflow import commands, distill
from hf_ltkd.workflow.estimate import Estimate
from hf_ltkd.workflow.recommend import (
    merge_training,
    recommend_images,
    recommend_training,
    recommend_weights,
)


COUNTS = {"blue": 40, "green": 20, "red": 10}
TRAINING = ["--per_device_train_batch_size", "16", "--use_cpu", "true", "--dataloader_pin_memory", "false"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """photos/, teacher/ and student/, each made by the command."""
    folder = tmp_path_factory.mktemp("cli")
    random = np.random.default_rng(0)
    for channel, (name, count) in zip((2, 1, 0), COUNTS.items(), strict=True):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 200, (8, 8, 3), dtype=np.uint8)
            pixels[..., channel] += 40
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number}.png")
    size = ["--image_size", "8", "--crop_padding", "1"]
    run("train-teacher", folder, "--model", "resnet14", *size, "--max_steps", "30")
    run("distill", folder, "--teacher", folder / "teacher", "--student", "resnet8", "--max_steps", "10")
    return folder


def run(command, folder, *arguments, code=0):
    where = ["--output_dir", folder / ("teacher" if command == "train-teacher" else "student"), *TRAINING]
    where = where if command in ("distill", "train-teacher") else []
    data = [] if command == "push" else ["--data", folder / "photos"]
    assert main([command, *map(str, [*data, *where, *arguments])]) == code


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def accuracy_by_hand(model_folder, folder):
    """Accuracy per class, an image at a time, from the files and the saved image processor alone."""
    model = AutoModelForImageClassification.from_pretrained(model_folder).eval()
    processor = AutoImageProcessor.from_pretrained(model_folder)
    _, holdout = images(folder)
    assert holdout == Holdout.from_pretrained(model_folder)
    labels = [label for label, count in enumerate(COUNTS.values()) for _ in range(count)]
    paths = [path for name in COUNTS for path in sorted((folder / "photos" / name).iterdir())]
    order = np.random.default_rng(holdout.seed).permutation(len(paths))
    correct = []
    for label in range(3):
        held_out = [row for row in order if labels[row] == label][: holdout.per_class]
        for row in held_out:
            with torch.no_grad():
                logits = model(**processor(Image.open(paths[row]), return_tensors="pt")).logits
            correct.append(logits.argmax().item() == label)
    return np.reshape(correct, (3, -1)).mean(1)


def images(folder):
    return load_or_hold_out(DataArguments(data_dir=str(folder / "photos"), image_size=8), progress=False)


def test_help_fits_a_screen(capsys):
    assert main([]) == main(["--help"]) == 0
    lines = HELP.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert all(f"  {name} " in HELP for name in COMMANDS) and HELP in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_an_example_that_parses(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as done:
        main([name, "--help"])
    text = capsys.readouterr().out
    assert done.value.code == 0 and f"example: {COMMANDS[name].example}" in text and "adam_beta1" not in text
    program, command, *arguments = shlex.split(COMMANDS[name].example)
    assert (program, command) == ("hf-ltkd", name)
    given = {key: value for values in parse(name, arguments).values() for key, value in values.items()}
    assert len(given) == sum(argument.startswith("--") for argument in arguments)


def test_all_arguments_on_request(capsys):
    with pytest.raises(SystemExit):
        main(["distill", "--help_all"])
    assert "--adam_beta1" in capsys.readouterr().out


def test_files(folder):
    files = {path.name for path in (folder / "student").iterdir()}
    expected = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "comparison.json"}
    expected |= {"class_groups.json", "long_tail.json", "holdout.json", "eval_results.json", "teacher_bias.png"}
    assert expected | {"group_accuracy.png"} <= files
    assert Holdout.from_pretrained(folder / "student").per_class == 2
    assert LongTailSplit.from_pretrained(folder / "student").class_counts == [38, 18, 8]
    assert ClassGroups.from_pretrained(folder / "student").group_of_class.tolist() == [0, 1, 2]
    assert Image.open(folder / "student" / "teacher_bias.png").width > 500
    teacher, student = (AutoImageProcessor.from_pretrained(folder / name) for name in ("teacher", "student"))
    assert student.image_mean == teacher.image_mean and student.image_std == teacher.image_std
    assert dict(student.size) == dict(teacher.size)
    assert str(folder) not in (folder / "student" / "README.md").read_text()


def test_numbers(folder, capsys):
    """What is written is what the saved models do."""
    comparison = json.loads((folder / "student" / "comparison.json").read_text())["accuracy"]
    assert list(comparison) == ["teacher", "plain student", "this student"]
    for name, model in (("teacher", "teacher"), ("this student", "student")):
        by_hand = accuracy_by_hand(folder / model, folder)
        written = [comparison[name][f"{group}_accuracy"] for group in ("head", "medium", "tail")]
        assert written == pytest.approx(by_hand) and comparison[name]["accuracy"] == pytest.approx(by_hand.mean())
    results = json.loads((folder / "student" / "eval_results.json").read_text())
    assert results["eval_accuracy"] == comparison["this student"]["accuracy"]
    run("evaluate", folder, "--model", folder / "student")
    shown = capsys.readouterr().out.splitlines()[-1].split()[1:]
    assert [float(x) / 100 for x in shown] == pytest.approx([*written, by_hand.mean()], abs=6e-4)


def test_diagnosis(folder, tmp_path, capsys):
    picture = tmp_path / "bias.png"
    run("diagnose", folder, "--teacher", folder / "teacher", "--picture", picture)
    assert Image.open(picture).width > 500
    data, _ = images(folder)
    teacher = AutoModelForImageClassification.from_pretrained(folder / "teacher").eval()
    pixels = torch.stack([item["pixel_values"] for item in data.test.__getitems__(list(range(6)))])
    with torch.no_grad():
        share = teacher(pixels).logits.softmax(1).mean(0)
    out = capsys.readouterr().out
    assert all(f"gets {float(part):>6.1%} of its probability" in out for part in share)
    assert re.search(r"\n +KD +100.0% +0.0% +0.0%", out)  # three classes, three groups: nothing within them
    assert "Start with  alpha 1, beta 1, temperature 4: 1 and 1 is what the quickstart" in out
    written = json.loads((folder / "student" / "comparison.json").read_text())["teacher_probability"]
    assert list(written.values()) == pytest.approx(share.tolist(), abs=1e-5)


def test_dry_run_says_it_all_and_writes_nothing(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = files_of(folder)
    main(["distill", "--teacher", str(folder / "teacher"), "--data", str(folder / "photos"), "--dry_run", *TRAINING])
    assert files_of(folder) == before and not list(tmp_path.iterdir())
    out = " ".join(capsys.readouterr().out.split())
    for figure in (
        "3 classes, 64 training images, used at 8 pixels (--image_size) 38 to 8 images a class: imbalance ratio 4.75",
        "tail 1 class 8 images",
        "Groups: 33, 34 and 33 % of the classes by training count, as in the paper",
        "6 images, 2 of every class, split off the training images",
        "20% of the smallest class, at most 20% (--eval_fraction), chosen with seed 0",
        "The teacher was trained without them.",
        "ltkd: alpha 1.0, beta 1.0, temperature 4.0, rebalance True, reweight True, ",
        "ce_weight 1.0, warmup_epochs 16.0 1 and 1",
        "1 and 1 is what the quickstart runs on handwritten digits (10 classes)",
        "240 epochs in batches of 16, sgd, learning rate 0.05",
        "(960 batches each;",
        f"240 epochs would take {64 * 240 * 3 * 4 / 1e6:.1f} MB",
        "A real run writes to 'student' and pushes nothing (no --push).",
    ):
        assert figure in out


def test_what_the_user_sets_wins(folder, capsys):
    arguments = ["--teacher", folder / "teacher", "--loss_args", "alpha=2", "--num_train_epochs", "3", "--dry_run"]
    run("distill", folder, *arguments, "--output_dir", folder / "new", "--learning_rate", "0.2", "--image_size", "16")
    out = " ".join(capsys.readouterr().out.split())
    assert "alpha 2, beta 1.0, temperature 4.0" in out and "warmup_epochs 0.2" in out and "used at 16 pixels" in out
    assert "3 epochs in batches of 16, sgd, learning rate 0.2, weight decay 0.0005" in out


def test_configuration_file_and_flags_over_it(tmp_path):
    config = tmp_path / "settings.yaml"
    config.write_text("teacher: t\nstudent: vgg8\ndata: photos\nloss_args: [alpha=1, beta=2]\nlearning_rate: 5e-4\n"
                      "dry_run: true\nplain_student: false\nlr_scheduler_kwargs: {min_lr: 0.1}\n")  # fmt: skip
    values = parse("distill", ["--config", str(config), "--student", "resnet8", "--loss_args", "alpha=3"])
    assert values[distill.DistillArguments] == {
        "teacher": "t", "student": "resnet8", "loss_args": ["alpha=3"], "dry_run": True, "plain_student": False
    }  # fmt: skip
    assert values[SourceArguments] == {"data": "photos"}
    training = values[DistillationTrainingArguments]
    assert training.pop("learning_rate") == 5e-4 and training == {"lr_scheduler_kwargs": '{"min_lr": 0.1}'}
    config.write_text("teachr: t\n")
    with pytest.raises(ValueError, match="--teachr=t"):
        parse("distill", ["--config", str(config)])
    config.write_text("- teacher\n")
    with pytest.raises(ValueError, match="lines of the form name: value"):
        parse("distill", ["--config", str(config)])


def test_without_the_plain_student_and_from_cached_logits(folder, tmp_path):
    arguments = ["--teacher", folder / "teacher", "--student", "resnet8", "--no_plain_student", "--max_steps", "1"]
    arguments += ["--loss", "kd", "--num_groups", "2", "--teacher_cache", tmp_path / "cache"]
    run("distill", folder, *arguments, "--teacher_cache_views", "1", "--output_dir", tmp_path / "student")
    assert (tmp_path / "cache" / "manifest.json").is_file()
    comparison = json.loads((tmp_path / "student" / "comparison.json").read_text())
    assert list(comparison["accuracy"]) == ["teacher", "this student"]
    assert list(comparison["teacher_probability"]) == ["group_0", "group_1"]


def test_networks_of_transformers(folder, tmp_path, capsys):
    """A Vision Transformer with its image processor teaches a ResNet that was trained for other classes."""
    names = {"id2label": dict(enumerate(COUNTS)), "label2id": {name: i for i, name in enumerate(COUNTS)}}
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    teacher = ViTForImageClassification(ViTConfig(image_size=72, patch_size=36, **small, **names))
    teacher.save_pretrained(tmp_path / "vit")
    processor = ViTImageProcessor(size={"height": 72, "width": 72}, image_mean=[0.4] * 3, image_std=[0.3] * 3)
    processor.save_pretrained(tmp_path / "vit")
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=5)
    ResNetForImageClassification(config).save_pretrained(tmp_path / "resnet")
    arguments = ["--teacher", tmp_path / "vit", "--student", tmp_path / "resnet", "--no_plain_student"]
    run("distill", folder, *arguments, "--max_steps", "2", "--output_dir", tmp_path / "student")
    out = " ".join(capsys.readouterr().out.split())
    assert "used at 72 pixels" in out and "adamw_torch" in out and "flatters it" in out
    student = AutoModelForImageClassification.from_pretrained(tmp_path / "student")
    assert student.config.id2label == names["id2label"]
    processor = AutoImageProcessor.from_pretrained(tmp_path / "student")
    assert list(processor.image_mean) == [0.4] * 3 and processor.size["height"] == 72


def test_push_sends_the_folder_with_its_card(folder, monkeypatch, capsys):
    sent = {}

    def push_folder(folder, to, private):
        sent.update(folder=folder, to=to, private=private, card=(folder / "README.md").read_text())
        return type("Commit", (), {"commit_url": "https://example.org/commit"})

    monkeypatch.setattr(commands, "push_folder", push_folder)
    run("push", folder, "--model", folder / "student", "--to", "me/small", "--private")
    assert sent["folder"] == folder / "student" and sent["to"] == "me/small" and sent["private"] is True
    assert "me/small" in sent["card"] and "https://example.org/commit" in capsys.readouterr().out


def test_push_at_the_end_of_distilling(folder, tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(distill, "get_token", lambda: "token")
    monkeypatch.setattr(
        distill.DistillationTrainer, "push_to_hub", lambda self, **card: pushed.append((self.args.hub_model_id, card))
    )
    arguments = ["--teacher", folder / "teacher", "--student", "resnet8", "--no_plain_student", "--max_steps", "1"]
    run("distill", folder, *arguments, "--output_dir", tmp_path, "--push", "me/small")
    (name, card), = pushed  # fmt: skip
    assert name == "me/small" and card["dataset"] == "photos (local folder)"
    assert (tmp_path / "config.json").exists()  # saved before


TEACHER = ["distill", "--teacher", "{folder}/teacher", "--data", "{folder}/photos"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distil"], "there is no command 'distil': use distill, train-teacher"),
        (["distill", "--data", "{folder}/photos"], "--teacher is missing"),
        (["distill", "--teacher", "{folder}/teacher"], "--data is missing"),
        (["evaluate", "--data", "{folder}/photos"], "required: --model"),
        (["distill", "--teacher", "{folder}/teacher", "--data", "nowhere"], "--data 'nowhere' is no folder here"),
        (["distill", "--teacher", "{folder}/photos", "--data", "{folder}/photos"], "no image classifier"),
        (["evaluate", "--model", "{folder}/teacher", "--data", "{folder}"], "can be told into classes"),
        ([*TEACHER, "--colour", "red"], "unrecognized arguments: --colour red (hf-ltkd distill --help"),
        ([*TEACHER, "--max_steps", "many"], "argument --max_steps: invalid int value: 'many'"),
        ([*TEACHER, "--loss_args", "alpha"], "must have the form name=value"),
        ([*TEACHER, "--loss_args", "speed=9"], "does not take these arguments"),
        ([*TEACHER, "--student", "resnet9000x"], "There is no network 'resnet9000x'"),
        ([*TEACHER, "--pair", "vgg13"], "must be two names"),
        ([*TEACHER, "--adjust_teacher"], "goes with --loss kd alone"),
        ([*TEACHER, "--eval_fraction", "0.01"], "smallest class, 'red', has 10 images"),
        ([*TEACHER, "--output_dir", "{folder}/student"], "holds a model or an unfinished training already"),
        ([*TEACHER, "--push", "me/small"], "needs a login: run `hf auth login`"),
        ([*TEACHER, "--config", "{folder}/none.yaml"], "No such file or directory"),
        (["push", "--model", "{folder}/photos", "--to", "me/small"], "no image classifier"),
    ],
)
def test_errors_are_one_sentence(folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(distill, "get_token", lambda: None)
    before = files_of(folder)
    assert main([argument.format(folder=folder) for argument in arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("hf-ltkd: ") and message in error
    assert files_of(folder) == before and not list(tmp_path.iterdir())


def test_another_number_or_order_of_classes(folder, tmp_path, capsys):
    for name in ("blue", "green"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{number}.png")
    teacher = str(folder / "teacher")
    assert main(["diagnose", "--teacher", teacher, "--data", str(tmp_path)]) == 2
    assert "has 3 classes, the data 2: train one on them first: hf-ltkd train-teacher" in capsys.readouterr().err
    (tmp_path / "blue").rename(tmp_path / "yellow")
    (tmp_path / "orange").mkdir()
    for number in range(5):
        Image.new("RGB", (8, 8)).save(tmp_path / "orange" / f"{number}.png")
    assert main(["diagnose", "--teacher", teacher, "--data", str(tmp_path)]) == 2
    assert "Class 0 is 'blue' for the model" in capsys.readouterr().err


def test_traceback_on_request(monkeypatch):
    with pytest.raises(ValueError, match="--data is missing"):
        main(["diagnose", "--teacher", "x", "--traceback"])
    monkeypatch.setenv("HF_LTKD_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no command"):
        main(["nothing"])


def test_estimate_adds_up():
    times = Estimate(images=0.5, teacher=1.0, student=2.0, batches=10, workers=0)
    assert times.training() == 35 and times.training(with_teacher=False) == 25 and times.asking_the_teacher == 10
    # Workers make images while the models compute, and set the pace where they are slower.
    assert Estimate(4.0, 1.0, 2.0, 10, workers=2).training() == 30
    assert Estimate(16.0, 1.0, 2.0, 10, workers=2).training() == 80


def test_large_images_are_not_kept_in_memory():
    assert recommend_images(None, None) == {}
    assert recommend_images(None, None, 224) == {"image_size": 224, "crop": "resized"}
    size = {"height": 32, "width": 32}
    processor = ViTImageProcessor(size=size)
    assert recommend_images(processor, None) == {"image_size": 32, "crop_padding": 4}
    assert recommend_images(processor, None, 16)["image_size"] == 16
    assert recommend_images(BitImageProcessor(crop_size=size), None)["image_size"] == 32


def test_recommendations():
    assert recommend_weights(10, 30).values == {"alpha": 1, "beta": 1, "temperature": 4, "warmup_epochs": 2}
    assert recommend_weights(100, 60).values == {"alpha": 6, "beta": 6, "temperature": 4, "warmup_epochs": 4}
    fresh = recommend_training(10_948, "resnet8x4", is_pretrained=False).values
    assert fresh["num_train_epochs"] == 58 and fresh["learning_rate"] == 0.05 and fresh["preset"] == "paper"
    assert recommend_training(100, "mobilenet_v2", False).values["learning_rate"] == 0.01
    assert [recommend_training(n, "x", False).values["num_train_epochs"] for n in (100, 10**6)] == [240, 30]
    tuned = recommend_training(10_948, "microsoft/resnet-18", is_pretrained=True)
    assert "preset" not in tuned.values and tuned.values["num_train_epochs"] == 17
    own = merge_training(tuned, {"preset": "paper"})
    assert DistillationTrainingArguments("x", **own, use_cpu=True).num_train_epochs == 240
