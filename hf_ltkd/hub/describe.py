"""A network, and the ONNX file made of it, in the numbers of a card."""

import copy
import os
import re
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.utils.sha import sha_fileobj
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from ..utils import read_json
from .names import ONNX_FILES


def network_class(model: nn.Module) -> type[nn.Module]:
    """The class of a network, also where FSDP has put its own before it."""
    return next(c for c in type(model).__mro__ if not c.__name__.startswith("FSDP"))


def describe_model(model: nn.Module, input_shape: Sequence[int] | None = None) -> dict[str, Any]:
    """
    What a card says of a network: `class`, `parameters` and `weight_bytes` of what is saved, `name` if it came from
    the Hub, and for a network on images `macs`, the multiply-adds of its convolutions and matrix products for one
    image of shape `input`: `input_shape`, else what the config says. They are counted on a copy without weights; a
    network that does not run that way has none.
    """
    network = network_class(model)
    description: dict[str, Any] = {"class": network.__name__}
    if not isinstance(model, PreTrainedModel):
        return {**description, **_sizes(model)}
    config = copy.deepcopy(model.config)
    if hub_id(model) is not None:
        description["name"] = hub_id(model)
    try:
        with torch.device("meta"):
            empty = network(config).to(dtype=model.dtype).eval()  # type: ignore[call-arg]
            description |= _sizes(empty)
            if model.main_input_name == "pixel_values":
                size = getattr(config, "image_size", 224)  # the size of ImageNet's networks, whose configs name none
                height, width = size if isinstance(size, list | tuple) else (size, size)
                description["input"] = [*(input_shape or (getattr(config, "num_channels", 3), height, width))]
                with FlopCounterMode(display=False) as counter, torch.no_grad():
                    empty(torch.empty(1, *description["input"], dtype=model.dtype))
                description["macs"] = counter.get_total_flops() // 2
    except Exception:  # whatever a network of one's own may raise: a number less in a card, and no checkpoint lost
        description |= _sizes(model)
    return description


def _sizes(model: nn.Module) -> dict[str, int]:
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "weight_bytes": sum(t.numel() * t.element_size() for t in model.state_dict().values()),
    }


def weights_digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each safetensors file of a model, by its name."""
    digests = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with path.open("rb") as file:
            digests[path.name] = sha_fileobj(file).hex()
    return digests


def onnx_measurements(folder: Path) -> dict[str, Any] | None:
    """
    What was measured of the ONNX file in a student's folder, or `None` if there is none, or, with a warning, if it was
    made from other weights than those that are there now.
    """
    measured = read_json(folder / ONNX_FILES[-1])
    if not measured or not (folder / ONNX_FILES[0]).is_file():
        return None
    if measured["weights_sha256"] != weights_digests(folder):
        warnings.warn(
            f"The ONNX file in {str(folder / 'onnx')!r} was made from other weights than those that are there now: it "
            "is left out of the card and of what is published; make it again: hf-ltkd export --model "
            + shlex.quote(str(folder)),
            stacklevel=1,  # one place, hence one warning for card and push
        )
        return None
    return measured


def hub_id(model: PreTrainedModel) -> str | None:
    """
    The repository that a model was loaded from, `None` if that was a folder, also one that is gone by now: of what
    comes from the Hub there is a copy in its cache.
    """
    name = model.config.name_or_path or ""
    if os.path.exists(name) or not is_hub_id(name) or "/" not in name:
        return None
    return name if isinstance(try_to_load_from_cache(name, "config.json"), str) else None


def is_hub_id(name: str) -> bool:
    """Whether a repository of the Hub may have this name."""
    return re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) is not None
