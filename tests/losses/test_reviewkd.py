"""ReviewKD: the hierarchical context loss by loops, the review against the authors' numbers, the models it takes."""

import pytest
import torch
from losses.tolerance import assert_close
from losses.waves import wave
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from hf_ltkd import ReviewKDLoss, create_model, hierarchical_context_loss
from hf_ltkd.losses.features import feature_maps
from hf_ltkd.losses.reviewkd import _matched_stages


def mean_pool(grid, size):
    """[height][width] numbers to size × size cells; the sides are multiples of it."""
    step = len(grid) // size
    return [
        [
            sum(grid[y][x] for y in range(i * step, (i + 1) * step) for x in range(j * step, (j + 1) * step)) / step**2
            for j in range(size)
        ]
        for i in range(size)
    ]


def plain_hierarchical_context(students, teachers):
    total = 0.0
    for student, teacher in zip(students, teachers, strict=True):
        batch, channels, height, _ = student.shape
        weighted, weights = 0.0, 0.0
        for level, size in enumerate([height] + [size for size in (4, 2, 1) if size < height]):
            squares = 0.0
            for b in range(batch):
                for c in range(channels):
                    s, t = (mean_pool(m[b, c].tolist(), size) for m in (student, teacher))
                    squares += sum((x - y) ** 2 for u, v in zip(s, t, strict=True) for x, y in zip(u, v, strict=True))
            weighted += 0.5**level * squares / (batch * channels * size**2)
            weights += 0.5**level
        total += weighted / weights
    return total


def test_hierarchical_context_value():
    students = [wave(2, 3, 8, 8, frequency=0.3), wave(2, 5, 1, 1, frequency=0.7)]
    teachers = [wave(2, 3, 8, 8, frequency=0.9), wave(2, 5, 1, 1, frequency=0.2)]
    value = hierarchical_context_loss(students, teachers)
    # Means of squares of at most 2² over 2 · 3 · 8 · 8 numbers, of two pairs of maps
    assert_close(value, plain_hierarchical_context(students, teachers), 384, 2 * 4)
    # hcl_loss of megvii-research/mdistiller (e8c5bb3), the same maps in float64, torch 2.13
    assert value.item() == pytest.approx(1.9366983099046318, rel=1e-9)


def test_equal_maps_give_zero():
    maps = [wave(2, 2, 4, 4)]
    assert hierarchical_context_loss(maps, maps).item() == 0.0


@pytest.mark.parametrize("teacher_shape", [(2, 3, 4, 4), (2, 2, 8, 8)])
def test_maps_of_different_shapes_are_refused(teacher_shape):
    with pytest.raises(ValueError, match="must have equal shapes"):
        hierarchical_context_loss([torch.zeros(2, 2, 4, 4)], [torch.zeros(teacher_shape)])


class Returns(nn.Module):
    """A model that returns given feature maps."""

    def __init__(self, maps):
        super().__init__()
        self.maps = maps
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, pixel_values, output_hidden_states=True):
        return ImageClassifierOutputWithNoAttention(logits=torch.zeros(2, 3), hidden_states=self.maps)


def test_review_against_the_authors_value():
    """
    ABF modules and hcl_loss of megvii-research/mdistiller (e8c5bb3) in float64 with the same maps and weights, torch
    2.13: student levels 6 × 8 × 8, 10 × 4 × 4 and 10 × 1 × 1, teacher levels 4 × 8 × 8, 8 × 8 × 8 and 8 × 1 × 1.
    """
    student_maps = [torch.zeros(2, 1, 8, 8), wave(2, 6, 8, 8, frequency=0.3), wave(2, 10, 4, 4, frequency=0.5)]
    teacher_maps = [torch.zeros(2, 1, 8, 8), wave(2, 4, 8, 8, frequency=0.9), wave(2, 8, 8, 8, frequency=1.1)]
    student, teacher = Returns(student_maps), Returns(teacher_maps)
    loss = ReviewKDLoss(ce_weight=0.0, review_weight=2.0)
    loss.prepare(student, teacher, pixel_values=torch.zeros(2, 3, 8, 8))
    # The pooled level of the authors' run has waves of its own instead of the mean of the last map.
    pooled = wave(2, 10, 1, 1, frequency=0.7), wave(2, 8, 1, 1, frequency=0.4)
    levels = loss._levels
    loss._levels = lambda s, t: tuple([*maps[:-1], pool] for maps, pool in zip(levels(s, t), pooled, strict=True))
    loss.double()
    with torch.no_grad():
        for level, fusion in enumerate(loss.fusion):
            for i, parameter in enumerate(fusion.parameters()):
                values = 0.3 * wave(*parameter.shape, frequency=0.1 * (level + 1) + 0.01 * i)
                parameter.copy_(values + (1.0 if parameter.ndim == 1 else 0.0))
    terms = loss(student(None), teacher(None), torch.zeros(2).long())
    assert list(terms) == ["review"]
    assert terms["review"].item() == pytest.approx(2 * 8.35071936605409, rel=1e-9)


def tiny(family):
    if family == "ours":
        return create_model("resnet8", 5, image_size=16)
    if family == "resnet":
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12, 16], depths=[1, 1, 1], num_labels=5)
        return ResNetForImageClassification(config)
    if family == "convnext":
        return ConvNextForImageClassification(
            ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], num_labels=5, image_size=64)
        )
    if family == "swin":
        config = SwinConfig(
            image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, num_labels=5
        )
        return SwinForImageClassification(config)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        num_labels=5,
    )  # fmt: skip
    return ViTForImageClassification(config)


@pytest.mark.parametrize("teacher_family", ["ours", "resnet", "convnext", "vit", "swin"])
@pytest.mark.parametrize("student_family", ["ours", "resnet", "convnext", "vit"])
def test_any_model_that_returns_hidden_states(student_family, teacher_family):
    torch.manual_seed(0)
    student, teacher = tiny(student_family), tiny(teacher_family).eval()
    pixels = torch.randn(3, 3, 64, 64) if "convnext" in (student_family, teacher_family) else torch.randn(3, 3, 32, 32)
    if "vit" in (student_family, teacher_family) or teacher_family == "swin":
        pixels = pixels[:, :, :32, :32]  # these take one size alone
    loss = ReviewKDLoss()
    loss.prepare(student, teacher, pixel_values=pixels)
    outputs = student(pixel_values=pixels, output_hidden_states=True)
    with torch.no_grad():
        teacher_outputs = teacher(pixel_values=pixels, output_hidden_states=True)
    loss(outputs, teacher_outputs, torch.tensor([0, 1, 2]))["review"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in loss.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_tokens_become_a_grid_without_the_class_token():
    model = tiny("vit").eval()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loss = ReviewKDLoss()
    loss.prepare(model, model, pixel_values=pixels)
    outputs = model(pixel_values=pixels, output_hidden_states=True)
    states, maps = outputs.hidden_states, feature_maps(outputs)
    assert maps[2].shape == (2, 16, 4, 4)
    assert torch.equal(maps[2][1, :, 2, 3], states[2][1, 1 + 2 * 4 + 3])


def test_levels_of_our_networks_are_those_of_the_authors():
    """Student maps after their ReLU, teacher maps before it, and the pooled vector; the stem is left out."""
    student, teacher = create_model("resnet8", 5, image_size=16), create_model("resnet8x4", 5, image_size=16)
    loss = ReviewKDLoss.for_pair("resnet32x4", "resnet8x4")
    loss.prepare(student.eval(), teacher.eval())
    assert [tuple(f.project_in[0].weight.shape[:2]) for f in loss.fusion] == [(64, 16), (64, 32), (64, 64), (64, 64)]
    assert [f.project_out[0].weight.shape[0] for f in loss.fusion] == [64, 128, 256, 256]
    assert [f.attention is None for f in loss.fusion] == [False, False, False, True]
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        states = [m(pixels, output_hidden_states=True).hidden_states for m in (student, teacher)]
        student_levels, teacher_levels = loss._levels(*map(list, states))
    assert all(level.min() >= 0 for level in student_levels)
    assert all(level.min() < 0 for level in teacher_levels[:-1])
    last = states[1][-1].relu()
    assert_close(teacher_levels[-1][:, :, 0, 0], last.mean((2, 3)), last[0, 0].numel(), last.max().item())


@pytest.mark.parametrize(
    "arguments, counts, expected",
    [
        ({}, (4, 4), ([1, 2, 3], [1, 2, 3])),
        ({}, (4, 13), ([1, 2, 3], [4, 8, 12])),
        ({}, (6, 5), ([1, 2, 3, 5], [1, 2, 3, 4])),
        ({"student_stages": (1, 2, 3, 4)}, (6, 5), ([1, 2, 3, 4], [1, 2, 3, 4])),
        ({"teacher_stages": (3, 12)}, (4, 13), ([1, 3], [3, 12])),
    ],
)
def test_stages(arguments, counts, expected):
    given = arguments.get("student_stages"), arguments.get("teacher_stages")
    assert _matched_stages(*counts, *given) == expected


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"review_weight": -1.0}, "review_weight=-1.0"),
        ({"student_stages": (1, 2), "teacher_stages": (1,)}, "must be equally many"),
        ({"student_stages": (1, 9)}, r"\[1, 9\] cannot be taken from 4 hidden states"),
        ({"student_stages": (2, 1)}, "shallow to deep"),
    ],
)
def test_bad_arguments(arguments, message):
    model = create_model("resnet8", 5, image_size=16)
    with pytest.raises(ValueError, match=message):
        ReviewKDLoss(**arguments).prepare(model, model)


def test_models_without_hidden_states_are_refused():
    class Plain(nn.Module):
        def forward(self, pixel_values):
            return pixel_values

    class NoConfig(nn.Linear):
        def forward(self, pixel_values, output_hidden_states=False):
            return pixel_values

    model = create_model("resnet8", 5, image_size=16)
    with pytest.raises(ValueError, match="Plain cannot return hidden_states"):
        ReviewKDLoss().prepare(Plain(), model)
    with pytest.raises(ValueError, match="give prepare\\(\\) some pixel_values"):
        ReviewKDLoss().prepare(NoConfig(1, 1), model)
    loss = ReviewKDLoss()
    pixels = torch.randn(2, 3, 16, 16)
    with pytest.raises(ValueError, match="no fusion modules yet"):
        loss(model(pixels), model(pixels), torch.tensor([0, 1]))
    loss.prepare(model, create_model("resnet8", 5, image_size=16))
    with pytest.raises(ValueError, match="has no hidden_states"):
        loss(model(pixels), model(pixels), torch.tensor([0, 1]))


def test_looking_at_the_models_changes_nothing():
    model = create_model("resnet8", 5, image_size=16).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ReviewKDLoss().prepare(model, create_model("resnet8", 5, image_size=16))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_models_of_text_are_refused():
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, num_labels=5
    )
    with pytest.raises(ValueError, match="reads input_ids, and this loss compares feature maps of images"):
        ReviewKDLoss().prepare(BertForSequenceClassification(config), create_model("resnet8", 5, image_size=16))
