"""What tests of several rooms share."""

import importlib.util
import os
import runpy
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedModel, set_seed

from hf_ltkd.hub.describe import describe_model


# A step of plain SGD, by which gradients show in the weights; nothing is written.
ONE_STEP = {"max_steps": 1, "logging_steps": 1, "learning_rate": 0.1, "optim": "sgd", "max_grad_norm": 0.0}
ONE_STEP |= {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
ONE_STEP |= {"dataloader_pin_memory": False}
EXAMPLES = Path(__file__).parents[1] / "examples"
# A fork starts in a moment, where another process would import torch for seconds.
trains_in_a_fork = pytest.mark.skipif(
    torch.backends.cuda.is_built(),
    reason="autograd has threads in a torch for GPUs, which no fork survives",
)


def load_script(name: str) -> ModuleType:
    """`examples/<name>` as a module, without running what it does as a command."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(name: str, *arguments: object) -> None:
    """The command `python examples/<name> <arguments>` in this process: another one needs seconds for its imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def user_environment() -> dict[str, str]:
    """The environment without the ACCELERATE_* variables that trainers made in this process leave behind."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}


def write_image(path: Path, seed: int, width: int = 64, height: int = 64, mode: str = "RGB") -> None:
    """A JPEG of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width) if mode == "L" else (height, width, 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path, "JPEG")


def black(dataset, *args, **kwargs) -> list[torch.Tensor]:
    """In place of `hf_ltkd.data.images._decode`, which takes seconds for a benchmark: as many images of one pixel."""
    return [torch.zeros(len(dataset), 3, 1, 1, dtype=torch.uint8)]


def touch(root: Path, *paths: str) -> None:
    """Empty files, which cannot be decoded."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def write_list(folder: Path, lines: list[str], name: str = "train.txt") -> Path:
    """A text file of these lines."""
    (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return folder / name


def with_random_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Weights and statistics with which the logits depend on the pixels; those of deep fresh networks hardly do."""
    set_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            torch.nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.3)
        else:
            torch.nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    model.train()(torch.randn(16, *describe_model(model)["input"]))
    return model.eval()
