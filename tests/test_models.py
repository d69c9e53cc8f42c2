"""The CIFAR ResNets: their sizes, what they return, and the way through the Auto classes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForImageClassification

from hf_ltkd import create_model
from hf_ltkd.models import CifarResNetConfig


@pytest.fixture(scope="module")
def resnet8x4():
    torch.manual_seed(0)
    return create_model("resnet8x4", num_labels=7).eval()


def pixels(batch=3, size=32, channels=3):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name, parameters", [("resnet8x4", 1_233_540), ("resnet32x4", 7_433_860)])
def test_parameter_counts(name, parameters):
    assert sum(p.numel() for p in create_model(name, num_labels=100).parameters()) == parameters


@pytest.mark.parametrize("name, depth", [("resnet8", 8), ("resnet20", 20), ("resnet32", 32), ("resnet8x4", 8)])
def test_depth_is_the_convolutions_and_the_head(name, depth):
    modules = list(create_model(name, num_labels=10).modules())
    convolutions = [m for m in modules if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) + sum(isinstance(m, nn.Linear) for m in modules) == depth


@pytest.mark.parametrize("name, widths", [("resnet20", [16, 16, 32, 64]), ("resnet8x4", [32, 64, 128, 256])])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_shapes(name, widths, size):
    model = create_model(name, num_labels=7).eval()
    with torch.no_grad():
        outputs = model(pixels(size=size), output_hidden_states=True)
    assert outputs.logits.shape == (3, 7)
    sides = [size, size, size // 2, size // 4]
    assert [tuple(h.shape) for h in outputs.hidden_states] == [
        (3, w, s, s) for w, s in zip(widths, sides, strict=True)
    ]


@torch.no_grad()
def test_hidden_states_are_before_the_relu_and_give_the_logits(resnet8x4):
    outputs = resnet8x4(pixels(), output_hidden_states=True)
    stem, *stages = outputs.hidden_states
    assert stem.min() >= 0
    assert all(stage.min() < 0 for stage in stages)
    pooled = F.adaptive_avg_pool2d(F.relu(stages[-1]), 1).flatten(1)
    head = resnet8x4.classifier
    torch.testing.assert_close(pooled @ head.weight.T + head.bias, outputs.logits)


@torch.no_grad()
def test_hidden_states_only_on_request(resnet8x4):
    assert resnet8x4(pixels()).hidden_states is None


@torch.no_grad()
def test_tuple(resnet8x4):
    (logits,) = resnet8x4(pixels(), return_dict=False)
    torch.testing.assert_close(logits, resnet8x4(pixels()).logits)


@torch.no_grad()
def test_labels_give_the_cross_entropy(resnet8x4):
    labels = torch.tensor([4, 0, 6])
    outputs = resnet8x4(pixels(), labels=labels)
    expected = -outputs.logits.log_softmax(1)[range(3), labels].mean()
    torch.testing.assert_close(outputs.loss, expected)
    assert resnet8x4(pixels()).loss is None


@torch.no_grad()
def test_save_and_load_through_the_auto_class(resnet8x4, tmp_path):
    model = create_model("resnet8", num_labels=2, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    model.train()(5 * pixels())  # moves the running statistics
    model.eval().save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(model)
    assert torch.equal(loaded(pixels()).logits, model(pixels()).logits)
    assert loaded.config.id2label == {0: "cat", 1: "dog"}


@torch.no_grad()
def test_bfloat16_weights():
    model = create_model("resnet8", num_labels=5).eval()
    expected = model(pixels()).logits
    logits = model.bfloat16()(pixels()).logits  # float32 pixels, as a data loader gives them
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.1)


def test_every_parameter_gets_a_gradient():
    model = create_model("resnet14", num_labels=5)
    model(pixels(), labels=torch.tensor([0, 1, 2])).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@torch.no_grad()
def test_grey_images():
    assert create_model("resnet8", num_labels=5, num_channels=1)(pixels(channels=1)).logits.shape == (3, 5)


@pytest.mark.parametrize(
    "name, message",
    [
        ("vgg8", "no network 'vgg8'"),
        ("resnet", "no network 'resnet'"),
        ("resnet20x", "no network 'resnet20x'"),
        ("resnet18", "depth=18 is not valid"),
        ("resnet2", "depth=2 is not valid"),
        ("resnet8x0", "'resnet8x0' would have no channels"),
    ],
)
def test_unknown_networks(name, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, num_labels=5)


def test_three_stages():
    with pytest.raises(ValueError, match=r"hidden_sizes=\[16, 32\] is not valid"):
        CifarResNetConfig(hidden_sizes=[16, 32])
