"""Feature maps out of what a model returns as `hidden_states`, for the methods that distil them."""

import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import at_least_float32


def feature_maps(outputs: Any) -> list[Tensor]:
    """
    The hidden states as maps of shape `[batch, channels, height, width]` in float32, the stem or embeddings first.

    Tokens `[batch, tokens, channels]` are laid out on their square grid, without the class token and its like before
    it.

    Raises:
        `ValueError`: if the outputs have no hidden states, or they are no maps of an image.
    """
    hidden_states = getattr(outputs, "reshaped_hidden_states", None)  # Swin's maps beside its tokens
    hidden_states = getattr(outputs, "hidden_states", None) if hidden_states is None else hidden_states
    if hidden_states is None:
        raise ValueError(
            f"This method compares feature maps, and {type(outputs).__name__} has no hidden_states: call the model "
            "with output_hidden_states=True, or choose one that returns them."
        )
    return [_as_map(at_least_float32(state)) for state in hidden_states]


def _as_map(state: Tensor) -> Tensor:
    if state.ndim == 4:
        return state
    if state.ndim != 3:
        raise ValueError(f"A hidden state of shape {tuple(state.shape)} is neither a feature map nor image tokens.")
    side = math.isqrt(state.shape[1])
    return state[:, -(side**2) :].transpose(1, 2).unflatten(2, (side, side))


def before_relu(model: nn.Module) -> bool:
    """Whether the model's hidden states still lack the ReLU that its next layer applies, as those of our networks."""
    return getattr(model, "hidden_states_before_relu", False)


def final_map(maps: list[Tensor], apply_relu: bool) -> Tensor:
    """The last map as the model pools it."""
    return maps[-1].relu() if apply_relu else maps[-1]


def mse_of_each(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean-squared difference of each example's maps: `[batch]`."""
    return F.mse_loss(student, teacher, reduction="none").flatten(1).mean(1)


@torch.no_grad()
def try_model(model: nn.Module, pixel_values: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
    """
    The logits and feature maps of an example input, in eval mode, so that nothing in the model changes.

    Raises:
        `ValueError`: if the model returns no hidden states, or an input cannot be made from its config.
    """
    name = type(model).__name__
    accepted = inspect.signature(model.forward).parameters
    if "output_hidden_states" not in accepted and not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        raise ValueError(
            f"{name} cannot return hidden_states (its forward has no output_hidden_states): feature distillation "
            "needs a model that can, such as those of create_model or Transformers' image classifiers."
        )
    if getattr(model, "main_input_name", "pixel_values") != "pixel_values":
        raise ValueError(
            f"{name} reads {model.main_input_name}, and this loss compares feature maps of images: use a loss on "
            "logits, such as LTKDLoss or KDLoss."
        )
    parameter = next(model.parameters())
    if pixel_values is None:
        config = getattr(model, "config", None)
        if config is None or not hasattr(config, "num_channels"):
            raise ValueError(f"{name} has no config that tells its input: give prepare() some pixel_values.")
        size = getattr(config, "image_size", 64)
        height, width = size if isinstance(size, list | tuple) else (size, size)
        pixel_values = torch.randn(2, config.num_channels, height, width, generator=torch.Generator().manual_seed(0))
    was_training = model.training
    try:
        outputs = model.eval()(pixel_values=pixel_values.to(parameter), output_hidden_states=True)
    finally:
        model.train(was_training)
    return at_least_float32(outputs.logits), feature_maps(outputs)
