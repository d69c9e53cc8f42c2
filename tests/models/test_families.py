"""Families of classifiers, made from a config: each as teacher and as student, with a head of another size."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset, Features, Image
from PIL import Image as PILImage
from transformers import AutoImageProcessor, AutoModelForImageClassification, TrainingArguments

from hf_ltkd import ClassGroups, DistillationTrainer, LazyImageDataset, LTKDLoss
from hf_ltkd.data.processors import pixels_of
from hf_ltkd.workflow.inputs import load_classifier, load_processor


SIDE = 32
NAMES = ["a", "b", "c"]
SHORT = {"size": {"shortest_edge": SIDE}}
SQUARE = {"size": {"height": SIDE, "width": SIDE}}
CROPPED = {"size": {"shortest_edge": 36}, "crop_size": {"height": SIDE, "width": SIDE}}
TOKENS = {
    "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8,
    "image_size": SIDE, "patch_size": 8,
}  # fmt: skip
DINO = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": SIDE, "patch_size": 8}
WINDOWS = {
    "image_size": SIDE,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 1],
    "window_size": 4,
}
TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 16}
STAGES = {"hidden_sizes": [8] * 4, "depths": [1] * 4}
MOBILEVIT = {"image_size": SIDE, "hidden_sizes": [8] * 3, "neck_hidden_sizes": [8] * 7, "num_attention_heads": 1}
LEVIT = {
    "image_size": SIDE, "hidden_sizes": [16] * 3, "num_attention_heads": [1] * 3, "depths": [1] * 3,
    "key_dim": [8] * 3, "attention_ratio": [1] * 3, "mlp_ratio": [1] * 3,
    "down_ops": [["Subsample", 8, 2, 1, 1, 2]] * 2,
}  # fmt: skip
# The config's class and fields, and the image processor's.
FAMILIES = {
    "convnext": ("ConvNextConfig", STAGES, "ConvNextImageProcessor", SHORT),
    "convnextv2": ("ConvNextV2Config", STAGES, "ConvNextImageProcessor", SHORT),
    "swin": ("SwinConfig", WINDOWS, "ViTImageProcessor", SQUARE),
    "swinv2": ("Swinv2Config", WINDOWS, "ViTImageProcessor", SQUARE),
    "dinov2": ("Dinov2Config", DINO, "BitImageProcessor", CROPPED),
    "dinov2_with_registers": ("Dinov2WithRegistersConfig", DINO, "BitImageProcessor", CROPPED),
    "efficientnet": (
        "EfficientNetConfig",
        {"image_size": SIDE, "width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320},
        "EfficientNetImageProcessor",
        SQUARE,
    ),
    "mobilevit": ("MobileViTConfig", MOBILEVIT, "MobileViTImageProcessor", CROPPED),
    "mobilenet_v2": (
        "MobileNetV2Config",
        {"image_size": SIDE, "depth_multiplier": 0.25},
        "MobileNetV2ImageProcessor",
        CROPPED,
    ),
    "regnet": ("RegNetConfig", {"embedding_size": 8, "groups_width": 8, **STAGES}, "ConvNextImageProcessor", SHORT),
    "levit": ("LevitConfig", LEVIT, "LevitImageProcessor", CROPPED),
    "beit": ("BeitConfig", {**TOKENS, "num_hidden_layers": 4}, "BeitImageProcessor", SQUARE),
    "siglip": (
        "SiglipConfig",
        {"vision_config": TOKENS, "text_config": {**TEXT, "projection_size": 8}},
        "SiglipImageProcessor",
        SQUARE,
    ),
    "clip": (
        "CLIPConfig",
        {"vision_config": {**TOKENS, "projection_dim": 8}, "text_config": TEXT},
        "CLIPImageProcessor",
        {**CROPPED, "size": {"shortest_edge": SIDE}},
    ),
    "vit": ("ViTConfig", TOKENS, "ViTImageProcessor", SQUARE),
    "resnet": ("ResNetConfig", {"embedding_size": 8, **STAGES}, "ConvNextImageProcessor", SHORT),
    "deit": ("DeiTConfig", TOKENS, "DeiTImageProcessor", {**CROPPED, "size": {"height": 36, "width": 36}}),
}


@pytest.fixture(scope="module")
def photos():
    """Eight images that are not square."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 40, 60, 3), dtype=np.uint8)
    return Dataset.from_dict({"image": [PILImage.fromarray(p) for p in pixels]}, features=Features({"image": Image()}))


def save(folder, family):
    """The network with five classes, its image processor, and a config without `architectures`."""
    config_class, fields, processor_class, sizes = FAMILIES[family]
    config = getattr(transformers, config_class)(num_labels=5, **fields)
    config.architectures = []  # without, transformers cannot make a model that comes with two heads
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    getattr(transformers, processor_class)(**sizes).save_pretrained(folder)


def distilled(old, folder, photos):
    """A network distilled for one step into another of its kind, both with a new head; saved in `folder`/student."""
    dataset = LazyImageDataset(photos, "image", [0, 0, 0, 0, 1, 1, 2, 2], pixels=pixels_of(load_processor(old)))
    load_classifier(old, class_names=NAMES).save_pretrained(folder / "teacher")
    student = load_classifier(old, class_names=NAMES)
    before = {name: value.clone() for name, value in student.named_parameters()}
    groups = ClassGroups.from_counts([4, 2, 2])
    args = TrainingArguments(
        output_dir=str(folder / "student"), max_steps=1, use_cpu=True, disable_tqdm=True, save_strategy="no",
        logging_strategy="no", dataloader_pin_memory=False, learning_rate=0.01,
    )  # fmt: skip
    trainer = DistillationTrainer(
        student,
        str(folder / "teacher"),
        args,
        distillation_loss=LTKDLoss(groups),
        train_dataset=dataset,
        eval_dataset=dataset,
    )
    trainer.train()
    assert np.isfinite(trainer.evaluate()["eval_loss"])
    trainer.save_model()
    assert any(not torch.equal(value, before[name]) for name, value in student.named_parameters())
    return dataset, student.eval()


def check(old, folder, photos):
    dataset, student = distilled(old, folder, photos)
    expected = AutoImageProcessor.from_pretrained(old)(photos[0]["image"], return_tensors="pt")["pixel_values"]
    pixels = dataset[0]["pixel_values"][None]
    # A processor with torchvision resizes in other arithmetic than Pillow: half a level of 255, std of 0.2 or more.
    torch.testing.assert_close(pixels, expected.float(), rtol=0, atol=0.6 / 255 / 0.2)
    saved = load_classifier(folder / "student").eval()
    assert saved.config.id2label == dict(enumerate(NAMES)) and saved.config.num_labels == 3
    with torch.no_grad():
        logits = saved(pixel_values=pixels).logits
        assert logits.shape == (1, 3) and torch.equal(logits, student(pixel_values=pixels).logits)


# Of two families of one kind one is quick enough for every run; the pixels of the last two are in data/test_pixels.py.
ALIKE = ("convnext", "swin", "dinov2", "mobilenet_v2", "regnet", "resnet", "deit", "mobilevit", "efficientnet")


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.slow] * (name in ALIKE)) for name in FAMILIES]
)
def test_teacher_and_student_with_a_head_of_another_size(family, tmp_path, photos):
    save(tmp_path / "old", family)
    check(tmp_path / "old", tmp_path, photos)


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
def test_timm_as_its_own_files_and_as_transformers_saves_them(name, tmp_path, photos):
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=5)  # newer versions of timm write num_classes twice
    save_for_hf(network, str(tmp_path / "hub"), safe_serialization=True)
    pixels = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        loaded = load_classifier(tmp_path / "hub").eval()
        torch.testing.assert_close(loaded(pixel_values=pixels).logits, network.eval()(pixels))
    check(tmp_path / "hub", tmp_path, photos)
    check(tmp_path / "student", tmp_path / "again", photos)
    for names in (["ant", "bee"], ["cat", "dog", "eel"]):  # each new head takes its names with it
        load_classifier(tmp_path / "hub", class_names=names).save_pretrained(tmp_path / "hub")
        assert load_classifier(tmp_path / "hub").config.id2label == dict(enumerate(names))
