"""The networks: their sizes, what they return, and the way through the Auto classes."""

import functools
import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForImageClassification, ResNetForImageClassification

from hf_ltkd import create_model
from hf_ltkd.models import (
    CifarBottleneckResNetConfig,
    CifarBottleneckResNetForImageClassification,
    CifarMobileNetV2Config,
    CifarResNetConfig,
    CifarShuffleNetV1Config,
    CifarVGGConfig,
    CifarWideResNetConfig,
)


# Parameters with 100 classes, multiply-adds for one image of 32 × 32, then with 200 classes and 64 × 64.
SIZES = {
    "resnet32x4": (7_433_860, 1_083_040_768, 7_459_560, 4_332_111_872),
    "resnet8x4": (1_233_540, 177_071_104, 1_259_240, 708_233_216),
    "vgg13": (9_462_180, 284_936_192, 9_513_480, 913_149_952),
    "vgg8": (3_965_028, 96_192_512, 4_016_328, 271_421_440),
    "wrn_40_2": (2_255_156, 327_610_880, 2_268_056, 1_310_417_920),
    "wrn_40_1": (569_780, 83_286_272, 576_280, 333_132_288),
    "shufflenet_v1": (949_258, 38_691_456, 1_045_358, 154_573_824),
    "mobilenet_v2": (812_836, 6_523_648, 940_936, 25_838_592),
    "resnet50": (23_705_252, 1_298_014_208, 23_910_152, 5_191_647_232),
}
# (channels, side) of the hidden states at 32 × 32.
MAPS = {
    "resnet32x4": [(32, 32), (64, 32), (128, 16), (256, 8)],
    "resnet8x4": [(32, 32), (64, 32), (128, 16), (256, 8)],
    "vgg13": [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)],
    "vgg8": [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)],
    "wrn_40_2": [(16, 32), (32, 32), (64, 16), (128, 8)],
    "wrn_40_1": [(16, 32), (16, 32), (32, 16), (64, 8)],
    "shufflenet_v1": [(24, 32), (240, 16), (480, 8), (960, 4)],
    "mobilenet_v2": [(16, 16), (12, 16), (16, 8), (48, 4), (160, 2), (1280, 2)],
    "resnet50": [(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)],
}
# A light member of every family.
SMALL = {
    "resnet8": {},
    "vgg8": {"hidden_sizes": [8, 16, 16, 32, 32]},
    "wrn_10_1": {},
    "shufflenet_v1": {"hidden_sizes": [48, 96, 192], "depths": [2, 1, 2]},
    "mobilenet_v2": {},
    "resnet50": {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 2, 1, 1]},
}


@functools.cache
def network(name):
    torch.manual_seed(0)
    return create_model(name, num_labels=7)


def small(name, **kwargs):
    torch.manual_seed(0)
    return create_model(name, **{"num_labels": 5, **SMALL[name], **kwargs})


def pixels(batch=3, size=32, channels=3):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def parameters_and_multiply_adds(name, num_labels, size):
    """Counted on the meta device, which computes shapes alone; also gives the outputs."""
    multiply_adds = []

    def count(module, inputs, output):
        multiply_adds.append(output.numel() * module.weight[0].numel())

    with torch.device("meta"):
        model = create_model(name, num_labels, image_size=size).eval()
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.register_forward_hook(count)
        outputs = model(torch.empty(1, 3, size, size), output_hidden_states=True)
    assert outputs.logits.shape == (1, num_labels)
    return model.num_parameters(), sum(multiply_adds), outputs.hidden_states


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    parameters, multiply_adds, hidden_states = parameters_and_multiply_adds(name, 100, 32)
    assert (parameters, multiply_adds) == SIZES[name][:2]
    assert [tuple(h.shape[1:]) for h in hidden_states] == [(c, side, side) for c, side in MAPS[name]]

    parameters, multiply_adds, hidden_states = parameters_and_multiply_adds(name, 200, 64)
    assert (parameters, multiply_adds) == SIZES[name][2:]
    sides = [2 * side for _, side in MAPS[name]]
    if name.startswith("vgg"):
        sides[-1] = 4  # a fourth max-pool
    assert [tuple(h.shape[2:]) for h in hidden_states] == [(side, side) for side in sides]


@pytest.mark.parametrize(
    "name, parameters, multiply_adds",
    [
        ("resnet18", 11_689_512, 1_814_073_344),
        ("resnet34", 21_797_672, 3_663_761_408),
        ("resnet50", 25_557_032, 4_089_184_256),
        ("mobilenet_v1", 4_231_976, 568_740_352),
    ],
)
def test_imagenet_sizes(name, parameters, multiply_adds):
    assert parameters_and_multiply_adds(name, 1000, 224)[:2] == (parameters, multiply_adds)


def test_upernet():
    """A class for each pixel, of images of any size; the width is that of the first stage."""
    model = create_model("upernet_4", 3, id2label={0: "road", 1: "car", 2: "sky"}).eval()
    assert type(model).__name__ == "UperNetForSemanticSegmentation" and model.config.label2id["car"] == 1
    assert model.config.backbone_config.hidden_sizes == [4, 8, 16, 32] and model.auxiliary_head is None
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 40, 64)).logits.shape == (1, 3, 40, 64)


def test_resnet50_by_image_size():
    with torch.device("meta"):
        assert isinstance(create_model("resnet50", 5, image_size=64), CifarBottleneckResNetForImageClassification)
        imagenet = create_model("resnet50", 2, image_size=65, id2label={0: "cat", 1: "dog"})
        assert isinstance(imagenet, ResNetForImageClassification) and imagenet.config.label2id == {"cat": 0, "dog": 1}
        assert create_model("resnet50x2", 5).config.depth == 50  # a plain CIFAR ResNet, 50 = 6 × 8 + 2


def test_mobilenet_v1():
    """As the distillation literature trains it, and with running statistics that are more than the last batch's."""
    model = create_model("mobilenet_v1", num_labels=5)
    normalizations = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in normalizations} == {(1e-5, 0.1)}
    assert sum(isinstance(m, nn.ReLU) for m in model.modules()) == len(normalizations) == 27
    assert model.dropout.p == 0 and not model.config.tf_padding


@pytest.mark.parametrize("name, depth", [("resnet8", 8), ("resnet20", 20), ("resnet32", 32), ("resnet8x4", 8)])
def test_depth_is_the_convolutions_and_the_head(name, depth):
    modules = list(create_model(name, num_labels=10).modules())
    convolutions = [m for m in modules if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) + sum(isinstance(m, nn.Linear) for m in modules) == depth


@pytest.mark.parametrize("name", SIZES)
def test_gradients_and_running_statistics(name):
    """Every parameter gets a gradient, and a training step moves every running statistic once."""
    model = network(name).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    model(pixels(batch=2), labels=torch.tensor([0, 6])).loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    counts = [m.num_batches_tracked.item() for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert counts and set(counts) == {1}
    model.zero_grad()


@pytest.mark.parametrize("name", SIZES)
@torch.no_grad()
def test_hidden_states_give_the_logits(name):
    model = network(name).eval()
    outputs = model(pixels(batch=2), output_hidden_states=True)
    stem, *maps = outputs.hidden_states
    assert (stem.min() >= 0) == (not name.startswith("wrn"))
    last = maps[-1]
    if model.hidden_states_before_relu:
        assert all(hidden_state.min() < 0 for hidden_state in maps)
        last = F.relu(last)
    else:
        assert last.min() >= 0
    assert type(model.classifier) is nn.Linear
    torch.testing.assert_close(model.classifier(last.mean((2, 3))), outputs.logits)


@pytest.mark.parametrize("name", sorted(set(SMALL) - {"mobilenet_v2"}))  # its bottlenecks are linear
def test_a_map_before_its_relu_is_what_the_next_stage_reads(name):
    model = small(name).eval()
    read = []
    for stage in model.stages[1:]:
        convolution = next(m for m in stage.modules() if isinstance(m, nn.Conv2d))
        convolution.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    maps = model(pixels(), output_hidden_states=True).hidden_states
    if name.startswith("vgg"):  # its first entry is the first stage's, and max-pools come between
        maps = [F.max_pool2d(maps[0], 2), *(F.max_pool2d(h.relu(), 2) for h in maps[1:3]), maps[3].relu()]
    else:
        maps = [h.relu() for h in maps[1:-1]]
    assert len(read) == len(maps)
    for given, expected in zip(read, maps, strict=True):
        torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_outputs(name):
    """Hidden states only on request, plain tuples, and the cross-entropy with labels."""
    model = small(name).eval()
    outputs = model(pixels())
    assert outputs.hidden_states is None and outputs.loss is None
    (logits,) = model(pixels(), return_dict=False)
    torch.testing.assert_close(logits, outputs.logits)
    labels = torch.tensor([4, 0, 2])
    loss, logits = model(pixels(), labels=labels, return_dict=False)
    torch.testing.assert_close(loss, -outputs.logits.log_softmax(1)[range(3), labels].mean())
    assert model.accepts_loss_kwargs is False


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_any_image_size_and_number_of_channels(name):
    model = small(name, num_channels=1).eval()
    for size in (8, 17, 32, 96):
        logits = model(pixels(size=size, channels=1)).logits
        assert logits.shape == (3, 5) and logits.isfinite().all()


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_save_and_load_through_the_auto_class(name, tmp_path):
    model = small(name, num_labels=2, id2label={0: "cat", 1: "dog"})
    model.train()(5 * pixels())  # moves the running statistics
    model.eval().save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(model)
    assert torch.equal(loaded(pixels()).logits, model(pixels()).logits)
    assert loaded.config.id2label == {0: "cat", 1: "dog"} and loaded.config.label2id == {"cat": 0, "dog": 1}


@pytest.mark.slow
@torch.no_grad()
def test_remote_code(tmp_path, monkeypatch):
    """With its code in the folder, a network loads where this package is not installed."""
    logits = {}
    for name in SMALL:
        model = small(name).eval()
        monkeypatch.setattr(type(model), "_auto_class", None)  # undone after the test
        monkeypatch.setattr(type(model.config), "_auto_class", None)
        type(model.config).register_for_auto_class()
        type(model).register_for_auto_class("AutoModelForImageClassification")
        model.save_pretrained(tmp_path / name)
        logits[name] = model(pixels()).logits
    torch.save((pixels(), logits), tmp_path / "logits.pt")
    code = """
import sys
sys.modules["hf_ltkd"] = None  # importing it fails
import torch
from transformers import AutoModelForImageClassification
pixels, logits = torch.load("logits.pt")
for name, expected in logits.items():
    model = AutoModelForImageClassification.from_pretrained(name, trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules"), type(model)
    with torch.no_grad():
        assert torch.equal(model(pixels).logits, expected), name
"""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_bfloat16_weights(name):
    model = small(name).eval()
    expected = model(pixels()).logits
    logits = model.bfloat16()(pixels()).logits  # float32 pixels, as a data loader gives them
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", ["resnet8x4", "vgg8", "wrn_40_2", "shufflenet_v1", "mobilenet_v2", "resnet50"])
def test_initialisation(name):
    model = network(name)
    convolution = [m for m in model.modules() if isinstance(m, nn.Conv2d)][-1]
    if name == "shufflenet_v1":  # torch's default
        expected = 1 / math.sqrt(3 * convolution.weight[0].numel())
    else:
        expected = math.sqrt(2 / convolution.weight[:, 0].numel())
    assert convolution.weight.std().item() == pytest.approx(expected, rel=0.05)
    head = model.classifier
    normal = name in ("vgg8", "mobilenet_v2")
    assert head.weight.std().item() == pytest.approx(0.01 if normal else 1 / math.sqrt(3 * head.in_features), rel=0.1)
    assert head.bias.any() == (not normal and name != "wrn_40_2")


@pytest.mark.parametrize(
    "name, message",
    [
        ("vgg9", "no network 'vgg9': use resnet20, .*, vgg13, .*, mobilenet_v2, resnet50, .*resnet18, "),
        ("resnet", "no network 'resnet'"),
        ("resnet20x", "no network 'resnet20x'"),
        ("resnet19", "depth=19 is not valid: it must be 6n \\+ 2"),
        ("resnet2", "depth=2 is not valid"),
        ("resnet8x0", "'resnet8x0' would have no channels"),
        ("wrn_40", "no network 'wrn_40'"),
        ("wrn_20_2", "depth=20 is not valid: it must be 6n \\+ 4"),
        ("wrn_40_0", "widen_factor=0 is not valid"),
    ],
)
def test_unknown_networks(name, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, num_labels=5)


@pytest.mark.parametrize(
    "config_class, fields, message",
    [
        (CifarResNetConfig, {"hidden_sizes": [16, 32]}, r"hidden_sizes=\[16, 32\] is not valid"),
        (CifarVGGConfig, {"depths": [1, 1]}, r"depths=\[1, 1\] are not valid: the network has five"),
        (CifarVGGConfig, {"depths": [1, 1, 0, 1, 1]}, r"depths=\[1, 1, 0, 1, 1\] is not valid"),
        (CifarWideResNetConfig, {"depth": 4}, "depth=4 is not valid"),
        (CifarShuffleNetV1Config, {"depths": [4, 8]}, r"depths=\[4, 8\] is not valid: .* each of the 3 stages"),
        (CifarShuffleNetV1Config, {"groups": 4}, "with groups=4 they must be growing multiples of 16"),
        (CifarShuffleNetV1Config, {"hidden_sizes": [240, 240, 480]}, "must be growing"),
        (CifarMobileNetV2Config, {"width_multiplier": 0.05}, "width_multiplier=0.05 is not valid"),
        (CifarMobileNetV2Config, {"expand_ratio": 0}, "expand_ratio=0 is not valid"),
        (CifarBottleneckResNetConfig, {"depths": [3, 4, 6, 0]}, r"depths=\[3, 4, 6, 0\] is not valid"),
        (CifarBottleneckResNetConfig, {"hidden_sizes": [6, 8, 8, 8]}, r"hidden_sizes=\[6, 8, 8, 8\] is not valid"),
    ],
)
def test_invalid_configs(config_class, fields, message):
    with pytest.raises(ValueError, match=message):
        config_class(**fields)
