"""Distilling, training a teacher and evaluating where each pixel has a class, on made-up scenes of 24 × 32 pixels."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, load_dataset
from datasets import Image as ImageColumn
from hub_server import use_hub
from photos import CPU, Home
from PIL import Image
from streets import FLAGS, NAMES, SHORT, TASK, scenes, write_streets
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, SegformerConfig

import hf_ltkd
from hf_ltkd import ClassGroups, create_model
from hf_ltkd.cli import main
from hf_ltkd.data.holdout import Holdout
from hf_ltkd.workflow.evaluate import evaluate
from hf_ltkd.workflow.plan import make_plan, plan_teacher
from hf_ltkd.workflow.push import push
from hf_ltkd.workflow.scenes import _half


MODELS = ["teacher", "adjusted teacher", "plain student", "adjusted plain student", "balanced softmax student"]
MODELS += ["this student"]


class Streets(Home):
    """With streets/ instead of photos/."""

    @property
    def data(self) -> str:
        return str(self.folder / "streets")


@pytest.fixture(scope="module")
def streets(tmp_path_factory, drawing) -> Streets:
    folder = tmp_path_factory.mktemp("streets")
    write_streets(folder / "streets")
    data, teacher, student = (str(folder / name) for name in ("streets", "teacher", "student"))
    arguments = ["--data", data, "--model", "upernet_8", "--class_names", *NAMES, "--output_dir", teacher]
    arguments += ["--ce", "cross_entropy"]
    assert main(["train-teacher", *TASK, *arguments, *FLAGS, "--learning_rate", "0.02", "--max_steps", "12"]) == 0
    with drawing():
        comparison = hf_ltkd.distill(teacher, "upernet_4", data, task=TASK[1], output_dir=student, **SHORT)
    return Streets(folder, comparison)


def confusion_by_hand(folder: str, data: str, less: np.ndarray | float = 0.0) -> np.ndarray:
    """A pixel at a time, of what the saved model and its own image processor say of the test images."""
    model = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    confusion = np.zeros((5, 5), int)
    for example in load_dataset(data, split="test"):
        mask = np.asarray(example["mask"])
        with torch.no_grad():
            logits = model(**processor(example["image"], return_tensors="pt")).logits
        logits = logits - torch.as_tensor(less).reshape(-1, 1, 1)
        logits = torch.nn.functional.interpolate(logits, mask.shape, mode="bilinear", align_corners=False)
        for true, said in zip(mask.ravel().tolist(), logits[0].argmax(0).flatten().tolist(), strict=True):
            if true != 255:
                confusion[true, said] += 1
    return confusion


def iou_by_hand(confusion: np.ndarray) -> list[float]:
    return [confusion[c, c] / (confusion[c].sum() + confusion[:, c].sum() - confusion[c, c]) for c in range(5)]


def test_the_comparison_is_what_the_saved_models_do(streets):
    file = json.loads((Path(streets.student) / "comparison.json").read_text())
    assert streets.comparison.to_dict() == file and list(file["accuracy"]) == list(file["scores"]) == MODELS
    groups = ClassGroups.from_pretrained(streets.student)
    assert groups.group_of_class.tolist() == [0, 0, 1, 2, 2]
    for name, model in (("teacher", streets.teacher), ("this student", streets.student)):
        confusion = confusion_by_hand(model, streets.data)
        iou, scores = iou_by_hand(confusion), file["scores"][name]
        assert scores["mean_iou"] == pytest.approx(np.mean(iou))
        assert scores["head_iou"] == pytest.approx(np.mean(iou[:2])) and scores["tail_iou"] == pytest.approx(
            np.mean(iou[3:])
        )
        assert file["accuracy"][name]["accuracy"] == pytest.approx(confusion.trace() / confusion.sum())
        found = [file["accuracy"][name][f"{group}_accuracy"] for group in ("head", "medium", "tail")]
        parts = [[0, 1], [2], [3, 4]]
        assert found == pytest.approx([confusion[p, p].sum() / confusion[p].sum() for p in parts])
    prior = np.log(np.array(groups.class_counts) / sum(groups.class_counts))
    adjusted = iou_by_hand(confusion_by_hand(streets.teacher, streets.data, prior.astype(np.float32)))
    assert file["scores"]["adjusted teacher"]["mean_iou"] == pytest.approx(np.mean(adjusted))
    assert (file["dataset"], file["dataset_split"]) == ("streets (local folder)", "test")
    difference, low, high = file["differences"]["teacher"]["mean_iou"]
    ours, theirs = (file["scores"][name]["mean_iou"] for name in ("this student", "teacher"))
    assert difference == pytest.approx(ours - theirs) and low <= difference <= high
    assert sum(file["teacher_probability"].values()) == pytest.approx(1)


def test_files(streets):
    student = Path(streets.student)
    expected = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "comparison.json"}
    expected |= {"class_groups.json", "class_report.json", "confusion.png", "eval_results.json", "examples.png"}
    expected |= {"group_iou.png", "class_iou.png", "distillation.json", "training_arguments.json"}
    names = {path.name for path in student.iterdir()}
    assert (
        expected <= names and not {"group_accuracy.png", "long_tail.json", "holdout.json", "teacher_bias.png"} & names
    )
    report = json.loads((student / "class_report.json").read_text())
    iou = iou_by_hand(confusion_by_hand(streets.student, streets.data))
    assert [row["class"] for row in report["classes"]] == NAMES  # the teacher's
    assert [row["iou"] for row in report["classes"]] == pytest.approx(iou)
    assert report["iou"]["mean_iou"]["value"] == pytest.approx(np.mean(iou)) and report["images"] == 21
    low, high = report["iou"]["mean_iou"]["interval"]
    assert low <= np.mean(iou) <= high
    card = (student / "README.md").read_text(encoding="utf-8")
    assert "A segmentation model distilled from" in card and "pipeline_tag: image-segmentation" in card
    for name, scores in streets.comparison.scores.items():
        cells = [f"{100 * scores[metric]:.1f}" for metric in ("head_iou", "medium_iou", "tail_iou", "mean_iou")]
        assert f"| {name} | {' | '.join(cells)} |" in card
    assert re.search(rf"\| bicycle \| tail \| \d+ \| [\d.]+ \| [\d.]* \| {100 * iou[4]:.1f} \|", card)
    ends = [report["iou"][f"{group}_iou"]["interval"] for group in ("head", "medium", "tail", "mean")]
    assert "| 95 % interval | " + " | ".join(f"{100 * low:.0f}–{100 * high:.0f}" for low, high in ends) + " |" in card
    assert "type: mean_iou" in card and "![Images, their masks" in card and "on 21 test examples" in card
    assert str(streets.folder) not in card
    with Image.open(student / "examples.png") as picture:
        assert picture.width > picture.height  # image, truth, teacher, both students in each row
    assert AutoImageProcessor.from_pretrained(student).size == {"height": 24, "width": 32}


def test_evaluation_finds_the_task_and_gives_the_same(streets, tmp_path, capsys):
    found = evaluate(streets.student, streets.data, output_dir=tmp_path, batch_size=5)
    assert found.accuracy == streets.comparison.accuracy["this student"]
    assert found.scores == streets.comparison.scores["this student"]
    assert [path.name for path in found.files] == ["class_report.json", "confusion.png"]
    assert main(["evaluate", "--model", streets.student, "--data", streets.data]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "IoU (%), and its 95 % interval" in out and "bicycle tail" in out
    model = AutoModelForSemanticSegmentation.from_pretrained(streets.student)
    assert evaluate(model, streets.data, eval_split="validation").images.data.sources[2] == "test: not used"


def test_a_plan_says_it_all_and_writes_nothing(streets, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--teacher", streets.teacher, "--data", streets.data, "--push", "me/small", "--dry_run"]
    assert main(["distill", *TASK, *arguments, *FLAGS]) == 0 and not list(tmp_path.iterdir())
    out = " ".join(capsys.readouterr().out.split())
    for words in (
        "5 classes in the masks of 12 training images, evaluated at 24 × 32 pixels (--size)",
        "Training views: 24 × 32 pixels of it (--crop_size), scaled by 0.5 to 2 (--scale), half of them mirrored",
        "of the pixels: road, building", "Groups by pixels: 33, 34 and 33 %", "validation: 3 images to choose",
        "21 images of the data's own split", "of its probability for", "Its mean IoU over all classes is",
        "Student upernet_16:", "ltkd: alpha 1.0, beta 1.0, temperature 1.0", "ce balanced_softmax",
        "2 steps in batches of 4", "Time about", "Memory about", "writes to 'student' and pushes it to me/small",
    ):  # fmt: skip
        assert words in out, words


def test_images_and_masks_in_folders_without_a_test_split(streets, tmp_path):
    """Images are held out, by the seed; the masks' own ids are counted; a class that is never seen is named."""
    for row, example in enumerate(scenes(10, 5)):
        for name in ("image", "mask"):
            (tmp_path / "data" / f"{name}s").mkdir(parents=True, exist_ok=True)
            example[name].save(tmp_path / "data" / f"{name}s" / f"{row}.png")
    how = {"data": tmp_path / "data", "task": TASK[1], "model": "upernet_4", "ce": "cross_entropy", **SHORT}
    plan = plan_teacher(output_dir=tmp_path / "x", eval_fraction=0.3, size=[16, 24], crop_size=[16, 16], **how)
    images = plan.images
    held_out = sorted(np.random.default_rng(0).permutation(10)[:3].tolist())
    assert [images.data.test._files[i]["image"]["path"].split("/")[-1] for i in range(3)] == [
        f"{i}.png" for i in held_out
    ]
    assert len(images.data.train) == 7 and images.data.class_names == [f"class {c}" for c in range(5)]
    counts = np.stack([np.bincount(np.asarray(e["mask"]).ravel(), minlength=256)[:5] for e in scenes(10, 5)])
    assert images.data.class_counts == np.delete(counts, held_out, axis=0).sum(0).tolist()
    assert images.holdout == Holdout((counts[held_out] > 0).sum(0).tolist(), 0.3, 0, (counts > 0).sum(0).tolist())
    assert images.data.train[0]["labels"].shape == (16, 16) and images.data.test[0]["labels"].shape == (16, 24)
    assert [_half(side) for side in (180, 240, 24)] == [96, 120, 24]  # views of a network from scratch
    assert images.data.train.scale == (0.75, 3.0)  # 1 is the size of the evaluation, 24 / 16 of a view
    hf_ltkd.train_teacher(output_dir=tmp_path / "x", eval_fraction=0.3, **how)
    assert Holdout.from_pretrained(tmp_path / "x").seed == 0
    with pytest.raises(ValueError, match="too few to hold out 5%"):
        plan_teacher(output_dir=tmp_path / "y", eval_fraction=0.05, **how)
    with pytest.raises(ValueError, match=r"2 of 7 classes have no pixel in the training masks \(class 5, 6\)"):
        plan_teacher(output_dir=tmp_path / "y", num_classes=7, **how)


def test_students_of_every_kind(streets, tmp_path):
    """A config alone is trained from scratch, a model of other classes gets a new head, one in memory stays."""
    small = {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [8, 16]}
    small |= {"patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2]}
    config = SegformerConfig(decoder_hidden_size=16, num_labels=9, **small)
    config.save_pretrained(tmp_path / "config")
    torch.manual_seed(0)
    other = AutoModelForSemanticSegmentation.from_config(config)
    other.save_pretrained(tmp_path / "other")
    how = {"teacher": streets.teacher, "data": streets.data, "task": TASK[1], **SHORT}
    names = dict(enumerate(NAMES))
    for kind, learning_rate in (("config", 2e-3), ("other", 1e-4)):
        plan = make_plan(student=tmp_path / kind, output_dir=tmp_path / f"of_{kind}", **how)
        assert plan.network.config.id2label == names and plan.args.learning_rate == learning_rate
        weights = dict(plan.network.named_parameters())
        of_encoder = [n for n, weight in other.named_parameters() if weight.ndim == 4 and "decode" not in n]
        same = all(torch.equal(weights[name], other.state_dict()[name]) for name in of_encoder)
        assert same == (kind == "other") and plan.images.data.masks.size == [24, 32]
    mine, void = create_model("upernet_4", 5), {255: 200, **{c: c for c in range(5)}}

    def other(example):
        return {"mask": Image.fromarray(np.vectorize(void.get)(np.asarray(example["mask"])).astype(np.uint8))}

    how |= {"data": DatasetDict(train=scenes(12, 0).map(other)), "ignore_index": 200}
    plan = make_plan(student=mine, output_dir=tmp_path / "mine", **how)
    assert plan.network is mine and mine.config.loss_ignore_index == 200 and plan.args.batch_eval_metrics


def test_masks_of_colours_and_a_dataset_in_memory(tmp_path):
    """Colours are told on the command line as R,G,B; other columns and ids that count from 1."""
    colors = ["0,0,0", "255,0,0", "0,255,0", "0,0,255", "9,9,9", "255,255,255=255"]
    table = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]] + [[255] * 3] * 251, np.uint8)
    grey = scenes(8, 3)

    def other(example):
        mask = np.asarray(example["mask"])
        one = np.where(mask == 255, 0, mask + 1).astype(np.uint8)
        return {"photo": example["image"], "colour": Image.fromarray(table[mask]), "from_one": Image.fromarray(one)}

    kinds = Features({name: ImageColumn() for name in ("photo", "colour", "from_one")})
    data = DatasetDict(train=grey.map(other, remove_columns=["image", "mask"], features=kinds))
    how = {"data": data, "task": TASK[1], "model": "upernet_4", "output_dir": tmp_path / "x", **SHORT}
    by_id = plan_teacher(**{**how, "data": DatasetDict(train=grey)})
    for settings in ({"mask_column": "colour", "colors": colors}, {"mask_column": "from_one", "reduce_labels": True}):
        plan = plan_teacher(**how, **settings)
        assert plan.images.class_counts == by_id.images.class_counts
        assert torch.equal(plan.images.data.test[0]["labels"], by_id.images.data.test[0]["labels"])


@pytest.mark.slow  # test_train_teacher.py and trainer/test_checkpoints.py have it for classes of images
def test_it_goes_on_from_the_last_checkpoint(streets, tmp_path):
    """The same weights, bit for bit, whether it was interrupted or not; two at once into one folder are refused."""
    how = {
        "model": "upernet_4",
        "data": streets.data,
        "task": TASK[1],
        "save_strategy": "steps",
        "save_steps": 2,
        **SHORT,
    }
    how |= {"lr_scheduler_type": "constant"}
    hf_ltkd.train_teacher(output_dir=tmp_path / "a", **how)
    with pytest.raises(ValueError, match="holds a model or an unfinished training already"):
        hf_ltkd.train_teacher(output_dir=tmp_path / "a", **how)
    (tmp_path / "a" / "model.safetensors").unlink()
    how |= {"max_steps": 4}
    hf_ltkd.train_teacher(output_dir=tmp_path / "a", resume_from_checkpoint=True, **how)
    hf_ltkd.train_teacher(output_dir=tmp_path / "b", **how)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    plan = plan_teacher(output_dir=tmp_path / "c", **how)
    with plan.holding_folder(), pytest.raises(ValueError, match="Another training writes into"), plan.holding_folder():
        pass


def test_a_last_batch_of_one_image(streets, tmp_path):
    """UperNet's pooled pixel of one image has no variance: refused before, not at the end of an epoch."""
    how = {"data": DatasetDict(train=scenes(11, 0)), "task": TASK[1], "model": "upernet_4", "eval_fraction": 0.2}
    with pytest.raises(ValueError, match="last of the batches of 9 images is one image, which a UperNet"):
        plan_teacher(output_dir=tmp_path / "x", **{**how, **SHORT})
    whole = {**how, **SHORT, "dataloader_drop_last": True}
    assert plan_teacher(output_dir=tmp_path / "x", **whole).args.train_batch_size == 4
    assert plan_teacher(output_dir=tmp_path / "x", **CPU, **how).args.train_batch_size == 7
    with pytest.raises(ValueError, match="Each of the batches of 9 images is one image"):
        plan_teacher(output_dir=tmp_path / "x", **{**how, **SHORT, "per_device_train_batch_size": 1})
    how["data"] = DatasetDict(train=scenes(1, 0), test=scenes(1, 1))
    with pytest.raises(ValueError, match="batch_size than 4 and add images"):
        plan_teacher(output_dir=tmp_path / "x", **{**how, **SHORT})


def test_images_and_masks_that_are_arrays(tmp_path):
    """The same as of image files."""
    images, masks = ([np.asarray(one) for one in scenes(12, 0)[name]] for name in ("image", "mask"))
    how = {"task": TASK[1], "model": "upernet_4", "output_dir": tmp_path / "x", **SHORT}
    plans = []
    for data in (scenes(12, 0), Dataset.from_dict({"image": images, "mask": masks})):
        plans.append(plan_teacher(data=DatasetDict(train=data), **how).images.data)
    assert plans[0].class_counts == plans[1].class_counts
    assert torch.equal(plans[0].test[0]["pixel_values"], plans[1].test[0]["pixel_values"])
    with pytest.raises(ValueError, match="There is no column of images in the train split"):
        plan_teacher(data=Dataset.from_dict({"mask": masks}), **how)
    for wrong in (["a.png"] * 12, [image / 255 for image in images]):
        with pytest.raises(ValueError, match="The column 'image' holds .*, no images.*: expected"):
            plan_teacher(data=Dataset.from_dict({"image": wrong, "mask": masks}), **how)


def test_a_checkpoint_is_chosen_on_validation_images(streets, tmp_path):
    best = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    best |= {"metric_for_best_model": "tail_iou", "loss": "ce", "plain_student": False, "student": "upernet_4"}
    hf_ltkd.distill(data=streets.data, task=TASK[1], output_dir=tmp_path / "x", **{**SHORT, "max_steps": 6}, **best)
    card = (tmp_path / "x" / "README.md").read_text(encoding="utf-8")
    assert "the best by `tail_iou` of those saved, chosen on validation images" in card


def test_push(streets, hub, tmp_path):
    """A student that a student without a teacher beats is sent on demand only, and says so."""
    folder = tmp_path / "student"
    shutil.copytree(streets.student, folder)
    file = json.loads((folder / "comparison.json").read_text())
    file["scores"]["plain student"] = {name: 1.0 for name in file["scores"]["plain student"]}
    (folder / "comparison.json").write_text(json.dumps(file))
    with use_hub(hub, tmp_path / "home"):
        with pytest.raises(ValueError) as error:
            push(folder, "me/streets")
        assert "Distilling did not pay: the plain student, without a teacher, has a mean IoU of 100.0%" in str(
            error.value
        )
        assert "hf-ltkd train-teacher --task semantic-segmentation --model STUDENT" in str(error.value)
        push(folder, "me/streets", push_anyway=True, dataset="me/scenes")
    sent = hub.repos.pop("me/streets")
    assert {"model.safetensors", "examples.png", "group_iou.png", "class_report.json", "README.md"} <= {*sent}
    card = sent["README.md"].decode()
    assert "Distilling did not pay" in card and '"me/streets"' in card and "name: Mean IoU" in card


def test_adjusting(streets, tmp_path, capsys):
    """What is said instead of a student that did not pay can be done."""
    arguments = ["adjust", "--model", streets.teacher, "--data", streets.data]
    assert main([*arguments, "--output_dir", str(tmp_path / "new")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    counts = np.array(ClassGroups.from_pretrained(streets.teacher).class_counts)
    prior = np.log(counts / counts.sum()).astype(np.float32)
    by_hand = confusion_by_hand(streets.teacher, streets.data, prior)
    adjusted = confusion_by_hand(str(tmp_path / "new"), streets.data)
    assert np.abs(adjusted - by_hand).sum() <= 4  # rounding at an edge
    iou = [iou_by_hand(confusion) for confusion in (confusion_by_hand(streets.teacher, streets.data), adjusted)]
    for name, values in zip(("before", "adjusted"), iou, strict=True):
        cells = [f"{100 * np.mean(part):.1f}" for part in (values[:2], values[2:3], values[3:], values)]
        assert f"{name} {' '.join(cells)}" in out
    assert json.loads((tmp_path / "new" / "distillation.json").read_text())["class_iou"] == pytest.approx(iou[1])
    (tmp_path / "plain").mkdir()  # without groups, the training masks are counted
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        shutil.copy(Path(streets.teacher) / name, tmp_path / "plain")
    arguments = ["adjust", "--model", str(tmp_path / "plain"), "--output_dir", str(tmp_path / "again")]
    assert main(arguments) == 2 and "give the images that it was trained on with --data" in capsys.readouterr().err
    assert main([*arguments, "--data", streets.data]) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("new", "again")]
    assert weights[0] == weights[1]
