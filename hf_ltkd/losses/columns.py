"""What of a batch reaches a loss beside outputs and labels: columns by name, and the weights of its examples."""

import math
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor

from .checks import IGNORED_LABEL, at_least_float32, is_eager, is_example, reduced


def further_arguments(loss_class: type, method: str, own: int) -> dict[str, Any]:
    """The arguments of a method after its own, with their defaults; `**kwargs` hands on what the base class names."""
    found: dict[str, Any] = {}
    for base in loss_class.__mro__:
        if method in vars(base):
            arguments = list(signature(vars(base)[method]).parameters.values())
            further = [a for a in arguments[own:] if a.kind not in (a.VAR_POSITIONAL, a.VAR_KEYWORD)]
            found = {a.name: a.default for a in further} | found
            if not any(a.kind is a.VAR_KEYWORD for a in arguments):
                break
    return found


def taken(loss: str, arguments: dict[str, Any], columns: dict[str, Any]) -> dict[str, Any]:
    """
    Those of the columns that are [`further_arguments`] of a method of a loss.

    Raises:
        `ValueError`: if one without a default is missing.
    """
    for name, default in arguments.items():
        if default is Parameter.empty and name not in columns:
            raise ValueError(
                f"{loss} reads the column {name!r}, which the batch does not have: let the dataset or the data "
                "collator give it."
            )
    return {name: columns[name] for name in arguments if name in columns}


def check_is_weighed(loss: str, arguments: dict[str, Any], columns: dict[str, Any]) -> None:
    """
    Raises:
        `ValueError`: if there are sample weights, and sums over the batch are made without them.
    """
    if "sample_weights" in columns and "sample_weights" not in arguments:
        raise ValueError(
            f"{loss} sums over the batch without its sample_weights: let its batch_statistics take them as a further "
            "argument, or leave the column out."
        )


def weigh(labels: Tensor, sample_weights: Any = None) -> tuple[Tensor, Tensor]:
    """
    An example of weight 2 counts as if it were there twice, one of weight 0 as if it were not there.

    Args:
        labels (`torch.Tensor`): Of shape `[*batch]`, or soft ones `[*batch, classes]`.
        sample_weights (`torch.Tensor` of shape `[batch]` or `[*batch]`, *optional*):
            Of examples, or of tokens. `None` is 1 for each.

    Returns:
        `tuple`: the labels, -100 where the weight is 0, and the weights `[*batch]` in floating point.

    Raises:
        `ValueError`: if the weights are not one finite number of 0 or more for each example (or token).
    """
    shape = is_example(labels).shape
    if sample_weights is None:
        return labels, torch.ones(shape, device=labels.device)
    if not isinstance(sample_weights, Tensor) or sample_weights.shape not in (shape, shape[:1]):
        given = getattr(sample_weights, "shape", type(sample_weights).__name__)
        raise ValueError(
            f"sample_weights are {given}: give a tensor of one number of 0 or more per example, [{shape[0]}]."
        )
    weights = at_least_float32(sample_weights) if sample_weights.is_floating_point() else sample_weights.float()
    weights = weights.view(weights.shape + (1,) * (len(shape) - weights.ndim)).expand(shape)
    if is_eager(weights):
        wrong = ~((weights >= 0) & (weights < math.inf))  # NaN, too
        if wrong.any():
            raise ValueError(f"sample_weights hold {weights[wrong][0].item()}: give finite numbers of 0 or more.")
    left_out = weights == 0
    left_out = left_out[..., None] if labels.is_floating_point() else left_out
    return labels.masked_fill(left_out, IGNORED_LABEL), weights


def weighted_mean(name: str, losses: Tensor, weights: Tensor | None, labels: Tensor, is_weighed: bool) -> Tensor:
    """
    The mean of a term over the examples; a scalar is taken to be the mean already.

    Raises:
        `ValueError`: if the term is neither, or a mean that was taken without the weights (not `is_weighed`).
    """
    if losses.shape not in ((), labels.shape[:1]):
        raise ValueError(
            f"The term {name!r} has the shape {tuple(losses.shape)}: return one value per example, [{len(labels)}], "
            "or their mean."
        )
    if losses.ndim == 0 and weights is not None and not is_weighed:
        raise ValueError(
            f"The term {name!r} is a mean already, which sample_weights cannot weigh: return one value per example, "
            "[batch], or let distillation_terms take sample_weights as a further argument."
        )
    if losses.ndim == 0:
        return losses
    if weights is None or losses.shape[0] == 0:
        return reduced(losses, "mean")
    weights = weights.to(losses)
    return (weights * losses).sum() / weights.sum()
