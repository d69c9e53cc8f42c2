"""Training that people expect, as one call: unlabelled images, own augmentation, best checkpoint, early stopping."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from photos import COUNTS, TRAINING, write_photos
from PIL import Image, ImageOps

from hf_ltkd import distill
from hf_ltkd.cli import main
from hf_ltkd.workflow.plan import make_plan


SHORT = {"plain_student": False, "max_steps": 2, **TRAINING}


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """Images without a class, some in a folder inside."""
    folder = tmp_path_factory.mktemp("more")
    random = np.random.default_rng(1)
    for number in range(30):
        path = folder / ("night" if number % 2 else "") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return folder


def plan(home, **settings):
    return make_plan(**{"teacher": home.teacher, "student": "resnet8", "data": home.photos, **SHORT, **settings})


def test_unlabelled_images_change_no_count_group_or_normalisation(home, more, tmp_path):
    before, after = plan(home, output_dir=str(tmp_path)), plan(home, output_dir=str(tmp_path), unlabelled=str(more))
    assert after.images.data.split == before.images.data.split
    assert after.images.groups.to_dict() == before.images.groups.to_dict()
    assert torch.equal(after.images.data.test.labels, before.images.data.test.labels)
    assert (after.images.data.mean, after.images.data.std) == (before.images.data.mean, before.images.data.std)
    train, labelled = after.images.data.train, after.images.data.train.labelled()
    assert len(train) == 64 + 30 and train.labels[64:].tolist() == [-1] * 30
    for view in (0, 5):
        train.set_epoch(view), before.images.data.train.set_epoch(view)
        for index in (0, 63):
            expected = before.images.data.train[index]["pixel_values"]
            assert torch.equal(train[index]["pixel_values"], expected)
            assert torch.equal(labelled[index]["pixel_values"], expected)
    said = f"30 images without a class, distilled without cross-entropy: {more} (--unlabelled)"
    assert said in after.images.data.sources and len(labelled) == 64


def test_distilled_on_them_too_and_with_a_cache(home, more, tmp_path):
    """94 images are 6 batches of 16; the plain student sees the 64 with a class alone."""
    settings = {"unlabelled": str(more), "max_steps": -1, "num_train_epochs": 1, "plain_student": True}
    settings |= {"teacher_cache": str(tmp_path / "cache"), "loss_args": {"ce": "balanced_softmax"}}
    distill(home.teacher, "resnet8", home.photos, output_dir=str(tmp_path / "student"), **{**SHORT, **settings})
    assert json.loads((tmp_path / "cache" / "manifest.json").read_text())["num_examples"] == 94
    state = json.loads(next((tmp_path / "student").glob("checkpoint-*/trainer_state.json")).read_text())
    assert state["global_step"] == 6 and "balanced_softmax" in state["log_history"][0]
    card = (tmp_path / "student" / "long_tail.json").read_text()
    assert json.loads(card)["class_counts"] == [38, 18, 8]


def test_what_unlabelled_images_cannot_be(home, more, tmp_path):
    def refused(match, **settings):
        with pytest.raises(ValueError, match=match):
            plan(home, output_dir=str(tmp_path / "student"), **settings)
        assert not (tmp_path / "student").exists()

    refused(
        "--unlabelled .* does not go with --loss dkd, which learns from the class", unlabelled=str(more), loss="dkd"
    )
    refused("--unlabelled 'nowhere' is no folder here", unlabelled="nowhere")
    (tmp_path / "empty").mkdir()
    refused("holds no images", unlabelled=str(tmp_path / "empty"))
    refused("holds training images, such as '.*blue", unlabelled=str(Path(home.photos, "blue")))
    (tmp_path / "empty" / "broken.png").write_bytes(b"no image")
    refused(
        r"1 of 1 images of --unlabelled cannot be decoded: .*broken.png \(it is none of",
        unlabelled=str(tmp_path / "empty"),
    )


def test_unlabelled_images_that_are_evaluated_on_are_left_out(home, tmp_path):
    """In memory, with a split of its own to evaluate on."""
    write_photos(tmp_path / "data" / "test")
    write_photos(tmp_path / "unlabelled")
    random = np.random.default_rng(3)
    for name in COUNTS:
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        for number in range(3):
            image = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            image.save(tmp_path / "data" / "train" / name / f"{number}.png")
            image.save(tmp_path / "unlabelled" / f"{name}{number}.png")
    made = plan(
        home, data=str(tmp_path / "data"), output_dir=str(tmp_path / "s"), unlabelled=str(tmp_path / "unlabelled")
    )
    assert len(made.images.data.train) == 9 + 9
    assert any("since they are images to evaluate on, too, 70 of them" in line for line in made.images.data.sources)
    rows = [{"path": None, "bytes": (tmp_path / "unlabelled" / "red0.png").read_bytes()}] * 2
    data = Dataset.from_dict({"photo": rows}, features=Features({"photo": ImageFeature()}))
    made = plan(home, data=str(tmp_path / "data"), output_dir=str(tmp_path / "s"), unlabelled=data)
    assert made.images.data.train.labels[9:].tolist() == [-1, -1]


def test_own_augmentation(home, tmp_path):
    for augment in ("PIL.ImageOps:invert", ImageOps.invert):
        made = plan(home, output_dir=str(tmp_path), augment=augment)
        assert made.images.data.train.transform is ImageOps.invert and made.images.data.test.transform is None


def test_mixing_cached_logits_is_refused_before_the_cache_is_built(home, tmp_path):
    with pytest.raises(ValueError, match="--mixup_alpha needs the teacher itself, not its cached logits"):
        plan(home, output_dir=str(tmp_path / "s"), teacher_cache=str(tmp_path / "cache"), mixup_alpha=0.2)
    assert not (tmp_path / "cache").exists()


def test_best_checkpoint_early_stopping_and_bf16_as_flags(home, tmp_path, capsys):
    """A learning rate of next to 0 changes no accuracy: the second evaluation is no better, the training ends."""
    flags = {"teacher": home.teacher, "data": home.photos, "student": "resnet8", "output_dir": tmp_path / "s"}
    flags |= {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    flags |= {"load_best_model_at_end": True, "metric_for_best_model": "tail_accuracy", "early_stopping_patience": 1}
    flags |= {"learning_rate": 1e-30, "bf16": True, "plain_student": False, "mixup_alpha": 0.2, "cutmix_alpha": 1.0}
    flags |= {"augment": "PIL.ImageOps:mirror", "save_total_limit": 2, **TRAINING}
    arguments = [str(item) for name, value in flags.items() for item in (f"--{name}", value)]
    assert main(["distill", *arguments]) == 0, capsys.readouterr().err
    state = json.loads((tmp_path / "s" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["global_step"] == 2 and state["best_global_step"] == 1
    assert not (tmp_path / "s" / "checkpoint-3").exists()


def test_early_stopping_needs_something_to_watch(home, tmp_path, capsys):
    flags = {"teacher": home.teacher, "data": home.photos, "output_dir": tmp_path / "s", "early_stopping_patience": 3}
    assert main(["distill", *[str(i) for name, value in flags.items() for i in (f"--{name}", value)]]) != 0
    assert "early_stopping_patience=3 has nothing to watch: set eval_strategy and metric_for_best_model" in (
        " ".join(capsys.readouterr().err.split())
    )
