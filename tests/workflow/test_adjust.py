"""A model whose logits are adjusted after its training: in memory, saved, and what is refused."""

import json
import re

import pytest
import torch
from photos import accuracy_by_hand
from transformers import (
    AutoModelForImageClassification,
    BertConfig,
    BertForSequenceClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    GPT2Config,
    GPT2ForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SegformerConfig,
    SegformerForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
)

from hf_ltkd import ClassGroups, adjust, create_model
from hf_ltkd.losses.base import CrossEntropyName
from hf_ltkd.workflow.adjust import adjust_head
from hf_ltkd.workflow.arguments import TrainTeacherArguments


COUNTS = [38, 18, 8]
SHIFT = -torch.log(torch.tensor(COUNTS) / sum(COUNTS))
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "num_labels": 3}
VISION = {**TINY, "image_size": 8, "patch_size": 4}
TEXT = {**TINY, "vocab_size": 20}
MODELS = {
    **{name: lambda name=name: create_model(name, 3, image_size=16) for name in ("resnet8", "vgg8", "mobilenet_v2")},
    "ViT": lambda: ViTForImageClassification(ViTConfig(**VISION)),
    "ResNet": lambda: ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
    ),
    "DeiT of two heads": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**VISION)),
    "Segformer": lambda: SegformerForImageClassification(
        SegformerConfig(hidden_sizes=[8, 8, 8, 8], num_attention_heads=[1, 1, 1, 1], depths=[1] * 4, num_labels=3)
    ),
    "BERT": lambda: BertForSequenceClassification(BertConfig(**TEXT)),
}


def inputs_of(model):
    if model.main_input_name != "pixel_values":
        return {"input_ids": torch.tensor([[3, 4, 5], [9, 8, 7]])}
    size = 16 if model.config.model_type.startswith("cifar") else getattr(model.config, "image_size", 64)
    return {"pixel_values": torch.rand(2, 3, size, size)}


@torch.no_grad()
def logits_of(model, inputs):
    return model.eval()(**inputs).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_logits_are_moved_by_the_prior(make, dtype):
    torch.manual_seed(0)
    model = make().to(dtype)
    inputs = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs_of(model).items()}
    before = logits_of(model, inputs)
    adjust_head(model, COUNTS, tau=1.5)
    rounding = 8 * torch.finfo(dtype).eps
    moved = logits_of(model, inputs).float()
    torch.testing.assert_close(moved, before.float() + 1.5 * SHIFT, rtol=rounding, atol=4 * rounding)


def without_bias():
    model = create_model("resnet8", 3, image_size=8)
    model.classifier = torch.nn.Linear(64, 3, bias=False)
    return model


class Halved(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) / 2


def halved():
    model = create_model("resnet8", 3, image_size=8)
    model.classifier = Halved(64, 3)
    return model


def gpt2():
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20, num_labels=3, pad_token_id=0)
    return GPT2ForSequenceClassification(config)


def of_sound():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    convolutions = {"conv_dim": (8,), "conv_stride": (5,), "conv_kernel": (5,), "num_conv_pos_embeddings": 4}
    config = Wav2Vec2Config(**sizes, **convolutions, num_conv_pos_embedding_groups=2, num_labels=3)
    return Wav2Vec2ForSequenceClassification(config)


@pytest.mark.parametrize(
    "make, counts, message",
    [
        (of_sound, COUNTS, "takes input_values, and an adjustment is tried on images or tokens alone: predict with"),
        (without_bias, COUNTS, "last layer of CifarResNetForImageClassification has no bias.*predict with logits"),
        (gpt2, COUNTS, "last layer of GPT2ForSequenceClassification has no bias"),
        (halved, COUNTS, "logits of CifarResNet.* are not those of its last linear layer: predict"),
        (MODELS["resnet8"], [3, 2], "has 3 classes, and there are counts of 2"),
        (MODELS["resnet8"], [3, 2, 0], "1 or more"),
    ],
)
def test_heads_that_cannot_hold_it(make, counts, message):
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        adjust_head(model, counts)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_saved_model(home, tmp_path):
    """By its own counts; nothing of the accuracy before is left beside it, and both are evaluated."""
    result = adjust(home.student, home.photos, tmp_path / "new", tau=2.0)
    pixels = {"pixel_values": torch.rand(4, 3, 8, 8)}
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "new")
    expected = logits_of(AutoModelForImageClassification.from_pretrained(home.student), pixels) + 2 * SHIFT
    torch.testing.assert_close(logits_of(model, pixels), expected, rtol=1e-5, atol=1e-5)
    assert result.class_counts == tuple(COUNTS)
    names = ["head_accuracy", "medium_accuracy", "tail_accuracy"]
    assert [result.before[name] for name in names] == pytest.approx(accuracy_by_hand(home.student, home.photos))
    after = accuracy_by_hand(str(tmp_path / "new"), home.photos)
    assert [result.after[name] for name in names] == pytest.approx(after)
    run = json.loads((tmp_path / "new" / "distillation.json").read_text())
    assert (
        run["logit_adjustment"] == {"tau": 2.0, "class_counts": COUNTS}
        and result.after.items() <= run["metrics"].items()
    )
    assert run["metrics"]["balanced_accuracy"] == pytest.approx(after.mean())
    assert run["class_accuracy"] == pytest.approx(after) and not (tmp_path / "new" / "eval_results.json").exists()
    assert ClassGroups.from_pretrained(tmp_path / "new").class_counts == tuple(COUNTS)
    card = " ".join((tmp_path / "new" / "README.md").read_text(encoding="utf-8").split())
    assert "2 · log of its share of the 64 training examples was taken" in card
    assert f"| this student | {100 * after[0]:.1f} (" in card
    report = json.loads((tmp_path / "new" / "class_report.json").read_text())
    assert [row["recall"] for row in report["classes"]] == pytest.approx(after)  # each group is one class
    assert "already (ce=balanced_softmax, LTKDLoss): corrected twice" in result.caution
    with pytest.raises(ValueError, match=r"has been adjusted already \(tau 2.0\): adjust the model that it was made"):
        adjust(tmp_path / "new", output_dir=tmp_path / "newer")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_model_that_was_saved_without_counts(home, tmp_path):
    model = create_model("resnet8", 3, image_size=8)
    model.save_pretrained(tmp_path / "old")
    with pytest.raises(ValueError, match=r"without the training examples of each class.*with --data"):
        adjust(tmp_path / "old", output_dir=tmp_path / "new")
    with pytest.raises(ValueError, match="There is something in .*old' already"):
        adjust(tmp_path / "old", output_dir=tmp_path / "old")
    with pytest.raises(ValueError, match="is inside the folder of --model"):
        adjust(tmp_path / "old", output_dir=tmp_path / "old" / "new")
    with pytest.raises(ValueError, match="--tau 0 must be a number above 0"):
        adjust(tmp_path / "old", tau=0)
    for name, message in (
        ("nowhere", "no model 'nowhere' as a folder here or on the Hub"),
        (home.photos, "no trained"),
    ):
        with pytest.raises(ValueError, match=message):
            adjust(name, output_dir=tmp_path / "new")
    (tmp_path / "new").mkdir()  # empty
    result = adjust(tmp_path / "old", home.photos, tmp_path / "new", image_size=8)
    assert result.class_counts == tuple(COUNTS) and result.caution is None
    difference = (
        AutoModelForImageClassification.from_pretrained(tmp_path / "new").classifier.bias - model.classifier.bias
    )
    torch.testing.assert_close(difference.detach(), SHIFT, rtol=1e-5, atol=1e-5)


def test_forms_of_the_cross_entropy_are_those_of_the_losses():
    assert set(re.findall(r"'(\w+)'", str(CrossEntropyName))) == set(
        re.findall(r"'(\w+)'", str(TrainTeacherArguments.__annotations__["ce"]))
    )
