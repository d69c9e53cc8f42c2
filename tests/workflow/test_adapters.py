"""A teacher trained through LoRA is saved whole, and differs from its base where LoRA may change it alone."""

from importlib.util import find_spec

import pytest
import torch
from photos import TRAINING
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_ltkd import create_model, distill, evaluate, train_teacher
from hf_ltkd.teacher.loading import load_model
from hf_ltkd.workflow import adapters
from hf_ltkd.workflow.adapters import add_lora


needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
SMALL = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


@needs_peft
def test_only_linear_layers_and_the_head_change(home, tmp_path):
    """Each layer by a matrix of rank 16 at most, which here is any; norms, embeddings and biases stay."""
    base, out = tmp_path / "base", tmp_path / "teacher"
    ViTForImageClassification(ViTConfig(**SMALL, intermediate_size=32, num_labels=5)).save_pretrained(base)
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(base)
    trained = train_teacher(
        str(base), home.photos, peft="lora", output_dir=str(out), max_steps=3, learning_rate=0.01, **TRAINING
    )
    before, after = (load_model(folder) for folder in (base, out))
    layers = [name for name, module in before.named_modules() if isinstance(module, torch.nn.Linear)]
    before, after = before.state_dict(), after.state_dict()
    changed = {name for name, value in before.items() if not value.equal(after[name])}
    assert changed == {"classifier.bias"} | {f"{layer}.weight" for layer in layers}
    assert after["classifier.weight"].shape == (3, 8)
    assert not list(out.glob("adapter*")) and list(out.glob("checkpoint-*/adapter_model.safetensors"))
    assert evaluate(str(out), home.photos).accuracy == trained.accuracy
    short = {"plain_student": False, "max_steps": 1, **TRAINING}
    comparison = distill(str(out), "resnet8", home.photos, output_dir=str(tmp_path / "student"), **short)
    assert comparison.accuracy["teacher"] == trained.accuracy


@needs_peft
def test_networks_without_linear_layers():
    with pytest.raises(ValueError, match=r"'me' \(CifarResNet.*\) has no linear layer beside its head"):
        add_lora(create_model("resnet8", 3), "me")


def test_what_is_asked_for(monkeypatch, home, tmp_path):
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'peft, which is not installed here: pip install "hf_ltkd\[peft\]"'):
        add_lora(torch.nn.Linear(1, 1), "x")
    with pytest.raises(ValueError, match="peft='lorra' is not valid: it must be one of lora"):
        train_teacher("resnet8", home.photos, peft="lorra", output_dir=str(tmp_path / "t"))
