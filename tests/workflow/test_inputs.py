"""Models and images by the names that a user gives."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage

from hf_ltkd import create_model
from hf_ltkd.workflow.arguments import SourceArguments
from hf_ltkd.workflow.inputs import find_data, is_pretrained, load_images, make_groups, model_name


def test_what_data_may_be(tmp_path):
    assert find_data(tmp_path) == {"data_dir": str(tmp_path)}
    assert find_data("cifar100_lt") == {"benchmark": "cifar100_lt"}
    assert find_data("me/photos") == {"dataset_name": "me/photos"}
    with pytest.raises(ValueError, match="is no folder here: give a folder of images, a benchmark"):
        find_data("./me/photos")


def test_names_of_models(home):
    fresh = create_model("resnet8", 3)
    assert model_name(Path("a/b")) == "a/b" and model_name(fresh) == "CifarResNetForImageClassification"
    assert [is_pretrained(model) for model in ("resnet8", "me/resnet8", home.teacher, Path(home.teacher), fresh)] == [
        False, True, True, True, False
    ]  # fmt: skip


def two_colours(per_class):
    """Made-up images of two classes in memory."""
    images = [
        PILImage.new("RGB", (4, 4), (9 * n + per_class, 7 * n, 200 * c)) for c in (0, 1) for n in range(per_class)
    ]
    features = Features({"image": Image(), "label": ClassLabel(names=["red", "blue"])})
    return Dataset.from_dict({"image": images, "label": [0] * per_class + [1] * per_class}, features=features)


def test_datasets_in_memory():
    split = DatasetDict(train=two_colours(10), test=two_colours(3))
    images = load_images(SourceArguments(split), {"image_size": 4}, None)
    assert images.holdout is None and len(images.data.test) == 6 and images.data.class_names == ["red", "blue"]
    for alone in (two_colours(10), DatasetDict(train=two_colours(10))):
        images = load_images(SourceArguments(alone, eval_fraction=0.5), {"image_size": 4}, None)
        assert images.holdout.per_class == 5 and len(images.data.train) == 10
    with pytest.raises(ValueError, match="no column 'kind'"):
        load_images(SourceArguments(split), {"label_column": "kind"}, None)


def test_two_classes_are_two_groups(home):
    images = load_images(SourceArguments(two_colours(10)), {"image_size": 4}, None)
    assert images.groups.num_groups == 2
    three = load_images(SourceArguments(home.photos), {"image_size": 8}, None)
    assert three.groups.names == ("head", "medium", "tail") and make_groups(three.data, 2).num_groups == 2


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
def test_a_timm_network_alone_sees_its_own_pixels(tmp_path, home):
    """As its folder says, which is what any reader of it takes; a student of another network gets a copy to save."""
    config = {"input_size": (3, 8, 8), "interpolation": "bicubic", "crop_pct": 0.9, "mean": (0.1,) * 3}
    folder = {"architecture": "resnet10t", "model_type": "timm_wrapper", "num_classes": 3, "pretrained_cfg": config}
    (tmp_path / "config.json").write_text(json.dumps(folder))
    alone, both = (
        load_images(SourceArguments(home.photos), {}, str(tmp_path), student=student).data
        for student in (None, "resnet8")
    )
    assert type(alone.image_processor).__name__ == "TimmWrapperImageProcessor"
    assert {*alone.test[0]} == {"pixel_values", "labels"}
    assert type(both.image_processor).__name__ != "TimmWrapperImageProcessor"


def test_no_images_or_none_on_the_hub():
    with pytest.raises(ValueError, match="--data is missing"):
        load_images(SourceArguments(), {"image_size": 8}, None)
    with pytest.raises(ValueError, match="'me/photos' cannot be loaded from the Hub"):
        load_images(SourceArguments("me/photos"), {}, None)
