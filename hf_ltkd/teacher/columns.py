"""Which columns of a batch a network takes: those that its forward names."""

import functools
import inspect
from collections.abc import Collection
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from .language import network_of


def inputs_of(model: nn.Module, batch: dict[str, Any], of_loss: Collection[str] = ()) -> dict[str, Any]:
    """
    What of a batch goes into a network: no labels, and nothing that it does not name. One that takes anything gets no
    column that the loss reads (`of_loss`).
    """
    names = forward_names(model)
    not_given = {"labels", *(of_loss if names is None else ())}
    return {n: v for n, v in batch.items() if n not in not_given and (names is None or n in names)}


def forward_names(model: nn.Module) -> frozenset[str] | None:
    """The arguments that the forward of a network names, `None` if it takes any."""
    return _forward_names(network_of(model).__class__)


@functools.cache
def _forward_names(network: type[nn.Module]) -> frozenset[str] | None:
    names: set[str] = set()
    for base in network.__mro__:
        if "forward" not in vars(base) or base is nn.Module:  # whose own is a stand-in
            continue
        arguments = list(inspect.signature(base.forward).parameters.values())[1:]  # type: ignore[attr-defined]
        names |= {a.name for a in arguments if a.kind in (a.POSITIONAL_OR_KEYWORD, a.KEYWORD_ONLY)}
        if not any(a.kind is a.VAR_KEYWORD for a in arguments):
            return frozenset(names)
        if not issubclass(network, PreTrainedModel):
            return None
    # Transformers' own `**kwargs` are options, not columns; a subclass may hand on what its parent names.
    return frozenset(names) or None
