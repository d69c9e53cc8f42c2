"""The numbers of a network, against a plain count."""

import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from hf_ltkd import create_model
from hf_ltkd.hub.describe import describe_model


def macs_by_hooks(model, pixel_values):
    """Multiply-adds of convolutions and linear layers, by a plain count."""
    total = []

    def count(module, inputs, output):
        if isinstance(module, nn.Conv2d):
            kernel = module.weight[0].numel()
            total.append(output.numel() * kernel)
        elif isinstance(module, nn.Linear):
            total.append(output.numel() * module.in_features)

    for module in model.modules():
        module.register_forward_hook(count)
    model.eval()(pixel_values)
    return sum(total)


@pytest.mark.parametrize("name", ["resnet8x4", "vgg8", "shufflenet_v1", "mobilenet_v2", "wrn_16_2"])
def test_describe_model(name):
    model = create_model(name, 10)
    description = describe_model(model)
    assert description["parameters"] == sum(p.numel() for p in model.parameters())
    assert description["weight_bytes"] == sum(t.nbytes for t in model.state_dict().values())
    assert description["input"] == [3, 32, 32]
    assert description["macs"] == macs_by_hooks(model, torch.zeros(1, 3, 32, 32))


def test_describe_other_models():
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
    model = ResNetForImageClassification(config).to(torch.bfloat16)
    description = describe_model(model)
    assert description["input"] == [3, 224, 224] and "name" not in description
    assert description["macs"] == macs_by_hooks(model, torch.zeros(1, 3, 224, 224, dtype=torch.bfloat16))
    assert describe_model(nn.Linear(3, 2)) == {"class": "Linear", "parameters": 8, "weight_bytes": 32}


class Odd(ResNetForImageClassification):
    def forward(self, pixel_values):
        raise KeyError("an argument that only its own script knows")


def test_a_network_that_cannot_be_counted_is_described_all_the_same():
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
    description = describe_model(Odd(config))
    assert "macs" not in description and description["class"] == "Odd" and description["parameters"] > 0


def test_a_teacher_from_a_folder_is_not_named(tmp_path, monkeypatch):
    create_model("resnet8", 3, image_size=8).save_pretrained(tmp_path / "a" / "b")
    monkeypatch.chdir(tmp_path)
    cached = tmp_path / "cache" / "models--me--teacher"
    for file, text in (("refs/main", "0" * 40), (f"snapshots/{'0' * 40}/config.json", "{}")):
        (cached / file).parent.mkdir(parents=True)
        (cached / file).write_text(text)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    local = (str(tmp_path / "a" / "b"), "a/b", "runs/that_is_gone", "./runs/teacher", "../teacher", "teacher", "")
    for name, expected in (("me/teacher", "me/teacher"), *((name, None) for name in local)):
        model = create_model("resnet8", 3, image_size=8)
        model.config._name_or_path = name
        assert describe_model(model).get("name") == expected
