"""A teacher's classes are those of the data, by name; where they are not, both lists' difference is said."""

import unicodedata
from types import SimpleNamespace

import pytest
import torch
from photos import CPU
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_ltkd import TeacherCache, distill, evaluate
from hf_ltkd.teacher.loading import class_names_of
from hf_ltkd.workflow.classes import check_answer, order_by_name, with_classes
from hf_ltkd.workflow.diagnose import diagnose
from hf_ltkd.workflow.inputs import check_classes, new_classifier
from hf_ltkd.workflow.plan import make_plan


SMALL = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
MORE = ["red", "cat", "green", "dog", "blue"]  # the photos have blue, green, red
SHORT = {"plain_student": False, "max_steps": 1, "per_device_train_batch_size": 16, **CPU}


def model(names, num_labels=3):
    torch.manual_seed(0)
    labels = {"num_labels": num_labels}
    if names is not None:
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    config = ViTConfig(**SMALL, intermediate_size=8, initializer_range=0.5, **labels)
    return ViTForImageClassification(config).eval()


def data(names, named=True):
    args = SimpleNamespace(data_dir="my photos", benchmark=None, dataset_name=None)
    return SimpleNamespace(class_names=names, named=named, args=args)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("more")
    model(MORE).save_pretrained(folder)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
    return str(folder)


def test_matched_logits_are_those_of_the_names():
    whole, pixels = model(MORE), torch.randn(5, 3, 8, 8)
    order = order_by_name(whole, ["blue", "green", "red"])
    matched = with_classes(whole, order, ["blue", "green", "red"])
    with torch.no_grad():
        logits, ours = whole(pixel_values=pixels).logits, matched(pixel_values=pixels).logits
    for class_id, name in enumerate(["blue", "green", "red"]):
        assert torch.equal(ours[:, class_id], logits[:, MORE.index(name)])
    assert class_names_of(matched) == ["blue", "green", "red"] and matched.config.num_labels == 3
    assert logits.shape == (5, 5) and class_names_of(whole) == MORE  # the user's own model is as it was


def test_matched_in_evaluation_training_cache_and_comparison(home, teacher, tmp_path):
    """Accuracy and cached logits, from the whole model's columns."""
    found = {"teacher_cache": str(tmp_path / "cache"), "teacher_cache_views": 1, "match_labels": True}
    settings = {"output_dir": tmp_path / "s", "loss": "kd", **found, **SHORT}
    plan = make_plan(teacher=teacher, student="resnet8", data=home.photos, **settings)
    test = plan.images.data.test
    with torch.no_grad():
        seen = torch.stack([test[i]["pixel_values"] for i in range(len(test))])
        logits = model(MORE)(pixel_values=seen).logits[:, [4, 2, 0]]
    accuracy = (logits.argmax(1) == test.labels).double().mean().item()
    comparison = distill(teacher, "resnet8", home.photos, **settings)
    assert comparison.accuracy["teacher"]["accuracy"] == pytest.approx(accuracy)
    assert evaluate(teacher, home.photos, match_labels=True).accuracy["accuracy"] == pytest.approx(accuracy)
    train = plan.images.data.train
    with torch.no_grad():
        expected = model(MORE)(pixel_values=torch.stack([train[i]["pixel_values"] for i in range(16)])).logits
    cached = TeacherCache.open(tmp_path / "cache").logits(range(16), 0)
    torch.testing.assert_close(cached, expected[:, [4, 2, 0]])
    picture = {"picture": tmp_path / "p.png", "match_labels": True}
    assert diagnose(teacher, home.photos, **picture).bias.accuracy["accuracy"] == pytest.approx(accuracy)


def test_refused_unless_asked_for(home, teacher):
    with pytest.raises(ValueError, match="has 5 classes, the data 3: train one .* by name, .*: --match_labels true$"):
        evaluate(teacher, home.photos)
    with pytest.raises(ValueError, match="catkd, which reads the teacher's head"):
        make_plan(teacher=teacher, data=home.photos, loss="catkd", match_labels=True, output_dir="x", **CPU)
    with pytest.raises(ValueError, match="--match_labels needs a --teacher"):
        make_plan(data=home.photos, loss="ce", match_labels=True)


@pytest.mark.parametrize(
    "names, wanted, message",
    [
        (
            ["a", "b", "x"],
            ["a", "b", "c", "d"],
            r"has no c, d of the data \(beside the common ones it has x\)",
        ),
        (["a", "b"], ["a", "b", "c"], r"no c of the data \(it has no others\)"),
        (["a", "b", "a"], ["a", "b"], "the model has a more than once"),
        (None, ["a", "b", "c"], "its classes have no names"),
    ],
)
def test_what_cannot_be_matched(names, wanted, message):
    with pytest.raises(ValueError, match=message):
        order_by_name(model(names), wanted)


def test_numbers_are_names_too():
    """Folders are sorted as text: 10 comes before 2."""
    folders = ["1", "10", "2"]
    with pytest.raises(ValueError, match="Class 1 is '2' for the model .* and '10' in the data"):
        check_classes(model(["1", "2", "10"]), data(folders))
    assert order_by_name(model(["1", "2", "10"]), folders) == [0, 2, 1]
    check_classes(model(folders), data(folders))
    check_classes(model(["cat", "dog", "cow"]), data(["0", "1", "2"], named=False))  # class ids, which have no names


def test_one_unicode_form():
    names = ["Öland", "ålesund", "c"]
    other = [unicodedata.normalize("NFD", name) for name in names]
    assert other != names
    check_classes(model(other), data(names))
    assert order_by_name(model(other[::-1]), names) == [2, 1, 0]


def test_a_model_is_asked_before_work_starts(home, tmp_path):
    model(None).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"asked for pixel_values of shape \[1, 3, 12, 12\]: Input image size"):
        new_classifier(tmp_path, _with_images(12))
    network = model(None)
    network.forward = lambda pixel_values: (torch.zeros(1, 3),)
    with pytest.raises(ValueError, match="returns a tuple without logits"):
        check_answer("x", network, _with_images(8).test)
    network.forward = lambda pixel_values: torch.zeros(1, 16, 3)
    with pytest.raises(ValueError, match=r"of shape \[1, 16, 3\] for one image, where its config says 3 classes"):
        check_answer("x", network, _with_images(8).test)


def _with_images(side):
    from hf_ltkd import ImageDataset

    images = ImageDataset(torch.zeros(1, 3, side, side, dtype=torch.uint8), [0], mean=[0.5] * 3, std=[0.5] * 3)
    return SimpleNamespace(class_names=["a", "b", "c"], test=images)
