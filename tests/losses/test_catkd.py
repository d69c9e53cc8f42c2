"""CAT-KD: class activation maps and their loss by loops, and which heads it can read."""

import math

import pytest
import torch
from losses.tolerance import assert_close
from losses.waves import wave
from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_ltkd import CATKDLoss, class_attention_loss, create_model


def plain_class_attention(student, teacher, resolution, normalize):
    total = 0.0
    batch, classes = student.shape[:2]
    for b in range(batch):
        for c in range(classes):
            pooled = []
            for maps in (student, teacher):
                grid = maps[b, c].tolist()
                step = len(grid) // resolution
                cells = [
                    sum(grid[i * step + y][j * step + x] for y in range(step) for x in range(step)) / step**2
                    for i in range(resolution)
                    for j in range(resolution)
                ]
                norm = math.sqrt(sum(cell**2 for cell in cells)) if normalize else 1.0
                pooled.append([cell / norm for cell in cells])
            total += sum((s - t) ** 2 for s, t in zip(*pooled, strict=True))
    return total / (batch * classes * resolution**2)


# CAT_loss of GzyAftermath/CAT-KD (2657a68) on the same maps in float64, torch 2.13.
@pytest.mark.parametrize("normalize, authors", [(True, 0.5522774632871189), (False, 0.3940452376007148)])
def test_value(normalize, authors):
    student, teacher = wave(2, 3, 4, 4, frequency=0.3), wave(2, 3, 8, 8, frequency=0.9)
    value = class_attention_loss(student, teacher, resolution=2, normalize=normalize)
    # Means of squares of at most 2²: 16 numbers in a cell, 24 cells
    assert_close(value, plain_class_attention(student, teacher, 2, normalize), 16 + 24, 4)
    assert value.item() == pytest.approx(authors, rel=1e-9)


def test_equal_maps_give_zero_and_empty_maps_stay_finite():
    maps = wave(2, 3, 4, 4)
    assert class_attention_loss(maps, maps).item() == 0.0
    empty = torch.zeros(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    class_attention_loss(empty, maps).backward()
    assert torch.isfinite(empty.grad).all()


def test_maps_are_the_head_as_a_convolution():
    """Averaged over the image, the class maps are the logits without bias: what the authors train and publish."""
    student, teacher = (create_model(name, 5, image_size=16).double().eval() for name in ("resnet8", "resnet8x4"))
    loss = CATKDLoss(ce_weight=0.0, resolution=1, normalize=False)
    pixels = wave(3, 3, 16, 16)
    with torch.no_grad():
        loss.prepare(student, teacher)
        s, t = (model(pixels, output_hidden_states=True) for model in (student, teacher))
        terms = loss(s, t, torch.tensor([0, 1, 2]))
        expected = ((s.logits - (t.logits - teacher.classifier.bias)) ** 2).mean()
    # A logit is a sum over 256 channels of the mean of 16 numbers.
    weights, features = teacher.classifier.weight.abs().max(), t.hidden_states[-1].abs().max()
    largest = 256 * (weights * features).item() + s.logits.abs().max().item()
    assert_close(terms["class_attention"], expected, 256 * 16, largest**2)


def test_the_students_bias_is_frozen_at_zero_and_the_head_is_not_part_of_the_loss():
    student, teacher = create_model("resnet8", 5, image_size=16), create_model("resnet8", 5, image_size=16)
    bias = teacher.classifier.bias.clone()
    loss = CATKDLoss()
    loss.prepare(student, teacher)
    assert not student.classifier.bias.requires_grad and student.classifier.bias.abs().sum() == 0
    assert torch.equal(teacher.classifier.bias, bias)
    assert list(loss.parameters()) == [] and loss.state_dict() == {}


def small(family):
    if family == "resnet":
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=5)
        return ResNetForImageClassification(config)
    if family == "convnext":
        return ConvNextForImageClassification(
            ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], num_labels=5, image_size=64)
        )
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        num_labels=5,
    )  # fmt: skip
    return ViTForImageClassification(config)


def test_transformers_resnet():
    student, teacher = small("resnet"), create_model("resnet8", 5, image_size=64).eval()
    loss = CATKDLoss()
    loss.prepare(student, teacher)
    pixels = torch.randn(2, 3, 64, 64)
    outputs = student(pixel_values=pixels, output_hidden_states=True)
    with torch.no_grad():
        teacher_outputs = teacher(pixels, output_hidden_states=True)
    loss(outputs, teacher_outputs, torch.tensor([0, 1]))["class_attention"].backward()
    head = student.classifier[1]
    assert head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("family", ["convnext", "vit"])
def test_heads_without_class_activation_maps_are_refused(family):
    with pytest.raises(ValueError, match="has no exact class activation maps"):
        CATKDLoss().prepare(create_model("resnet8", 5, image_size=32), small(family))


def test_a_head_of_two_layers_is_refused():
    model = create_model("resnet8", 5, image_size=16)
    model.classifier = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    with pytest.raises(ValueError, match="has no exact class activation maps"):
        CATKDLoss().prepare(model, model)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: CATKDLoss(cat_weight=-1), "cat_weight=-1"),
        (lambda: CATKDLoss(resolution=0), "resolution=0"),
        (lambda: class_attention_loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4)), "over the same classes"),
        (lambda: class_attention_loss(torch.zeros(1, 2), torch.zeros(1, 2)), "must be"),
        (lambda: class_attention_loss(wave(1, 2, 4, 4), wave(1, 2, 4, 4), resolution=0), "resolution=0"),
        (lambda: CATKDLoss()(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0])), "call loss.prepare"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
