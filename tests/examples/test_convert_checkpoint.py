"""Checkpoints of the reference zoo: the same outputs after conversion, and what is refused.

`reference_checkpoints.json` has the names and shapes of one state dict a family of megvii-research/mdistiller (folder
mdistiller/models/cifar at commit e8c5bb331e78c9d79a8894ca233caae78531cf7f) with 5 classes, in their order; an integer
stands for the five tensors of a BatchNorm2d with that many channels.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import EXAMPLES, load_script, run_script
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_ltkd import create_model


CHECKPOINTS = json.loads((EXAMPLES.parent / "tests" / "models" / "reference_checkpoints.json").read_text())
script = load_script("convert_checkpoint.py")

# What mdistiller's networks, filled by `reference_state_dict`, gave in float64 and eval mode with torch 2.13.0 on a
# CPU for the image of `test_same_outputs_as_the_reference`: the logits, and the mean absolute value of every entry of
# `preact_feats` (for mobilenet_v2, which has none, of `feats` and of the map that is pooled).
REFERENCE_OUTPUTS = {
    "resnet8": (
        [0.241501492, 1.13706868, -0.324254663, 0.769505893, 0.122047865],
        [0.50411125, 0.991696517, 1.45385867, 1.50887608],
    ),
    "vgg8": (
        [0.316757174, 1.80506668, 0.090508228, -1.47206395, 0.682851859],
        [0.544531016, 1.48837138, 1.37145855, 1.27950534, 0.957842104],
    ),
    "wrn_16_2": (
        [-0.216488146, -1.75674686, 0.513300464, -2.20656264, -1.97519246],
        [0.909628757, 1.18250557, 1.13165048, 1.23932808],
    ),
    "shufflenet_v1": (
        [-1.32170543, 0.671445302, 1.1910411, 0.166516544, 2.79144012],
        [0.457500354, 1.1264103, 1.5652601, 1.51004779],
    ),
    "mobilenet_v2": (
        [1.08332716, 0.947092916, 0.664078952, -0.652080608, 0.573745394],
        [0.500238767, 0.543971311, 1.04401784, 1.15425755, 0.727169412, 0.439049233],
    ),
    "resnet50": (
        [1.14257915, -2.26275885, -5.44331109, 2.37041937, -11.8586076],
        [0.52702837, 1.22039962, 1.65186065, 3.12973105, 3.17614684],
    ),
}


def reference_state_dict(name):
    """A state dict with the reference's names, filled in order from NumPy's frozen legacy generator with seed 0."""
    random = np.random.RandomState(0)
    state_dict = {}
    for key, shape in CHECKPOINTS[name].items():
        if isinstance(shape, int):
            state_dict[f"{key}.weight"] = random.uniform(0.5, 1.5, shape)
            state_dict[f"{key}.bias"] = random.uniform(-0.5, 0.5, shape)
            state_dict[f"{key}.running_mean"] = random.uniform(-0.5, 0.5, shape)
            state_dict[f"{key}.running_var"] = random.uniform(0.5, 1.5, shape)
            state_dict[f"{key}.num_batches_tracked"] = np.array(7)
        elif len(shape) == 1:
            state_dict[key] = random.uniform(-0.5, 0.5, shape)
        else:
            state_dict[key] = random.uniform(-1, 1, shape) * np.sqrt(3 / np.prod(shape[1:]))
    return {key: torch.tensor(value) for key, value in state_dict.items()}


@pytest.mark.parametrize("name", CHECKPOINTS)
@torch.no_grad()
def test_same_outputs_as_the_reference(name):
    model = create_model(name, num_labels=5).double().eval()
    script.convert_state_dict(reference_state_dict(name), model)
    image = torch.tensor(np.random.RandomState(1).uniform(-2, 2, (1, 3, 32, 32)))
    outputs = model(image, output_hidden_states=True)
    logits, means = REFERENCE_OUTPUTS[name]
    torch.testing.assert_close(outputs.logits, torch.tensor([logits], dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert [h.abs().mean().item() for h in outputs.hidden_states] == pytest.approx(means, rel=1e-6)


def test_command_writes_a_folder_for_the_auto_classes(tmp_path):
    state_dict = reference_state_dict("wrn_16_2")
    # The layout of RepDistiller's last checkpoint, from a data parallel run.
    checkpoint = {
        "opt": argparse.Namespace(lr_decay_epochs=[150, 180, 210]),
        "model": {f"module.{key}": value.float() for key, value in state_dict.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.05}]},
    }
    torch.save(checkpoint, tmp_path / "last.pth")
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\nfox\nbee\n")
    arguments = ["--checkpoint", tmp_path / "last.pth", "--model", "wrn_16_2", "--output_dir", tmp_path / "teacher"]
    run_script(
        "convert_checkpoint.py", *arguments, "--label_names", tmp_path / "names.txt", "--mean", "0.5", "0.4", "0.3"
    )
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "teacher")
    assert model.config.label2id == {"cat": 0, "dog": 1, "owl": 2, "fox": 3, "bee": 4}
    assert torch.equal(model.classifier.weight, state_dict["fc.weight"].float())
    processor = AutoImageProcessor.from_pretrained(tmp_path / "teacher")
    assert list(processor.image_mean) == [0.5, 0.4, 0.3] and list(processor.image_std) == [0.2675, 0.2565, 0.2761]
    assert processor.size["height"] == processor.size["width"] == 32


def test_command_explains_a_wrong_number_of_classes(tmp_path):
    torch.save(reference_state_dict("resnet8"), tmp_path / "best.pth")
    arguments = ["--checkpoint", tmp_path / "best.pth", "--model", "resnet8", "--output_dir", tmp_path / "x"]
    with pytest.raises(ValueError, match=r"classifier.weight has shape \[5, 64\] instead of \[100, 64\].*--model"):
        run_script("convert_checkpoint.py", *arguments)
    assert not (tmp_path / "x").exists()


def test_missing_and_left_over_names():
    state_dict = reference_state_dict("resnet8")
    state_dict["extra.weight"] = state_dict.pop("layer1.0.conv1.weight")
    message = "missing stages.0.0.conv1.weight, left over extra.weight. Check"
    with pytest.raises(ValueError, match=message):
        script.convert_state_dict(state_dict, create_model("resnet8", num_labels=5))


def test_another_network():
    with pytest.raises(ValueError, match="does not fit the network: missing .*, and [0-9]+ more"):
        script.convert_state_dict(reference_state_dict("resnet8"), create_model("resnet14", num_labels=5))
    with pytest.raises(ValueError, match="ResNetForImageClassification is not of the reference zoo"):
        script.convert_state_dict({}, create_model("resnet18", num_labels=5))


class RunsCode:
    def __reduce__(self):
        return (os.mkdir, ("code_ran",))


def test_pickles_with_code_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": RunsCode()}, "evil.pth")
    with pytest.raises(ValueError, match="evil.pth was not loaded: expected a file of torch.save with tensors alone"):
        script.read_state_dict("evil.pth")
    assert not Path("code_ran").exists()


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"epoch": 3}, {"model": torch.zeros(2)}])
def test_files_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ValueError, match="file.pth holds no state dict"):
        script.read_state_dict(str(tmp_path / "file.pth"))
