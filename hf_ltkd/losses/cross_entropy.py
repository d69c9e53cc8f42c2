"""The student's own cross-entropy, in the forms that a loss may have it beside its method."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .balanced_softmax import balanced_softmax_loss
from .checks import IGNORED_LABEL, UNLABELLED, as_targets, at_least_float32, check_labels, is_labelled
from .class_balanced import class_balanced_loss
from .ldam import ldam_loss
from .logit_adjustment import logit_adjusted_loss


CrossEntropyName = Literal["cross_entropy", "balanced_softmax", "logit_adjusted", "class_balanced", "ldam"]


def plain_cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """The cross-entropy in float32, averaged over the batch; labels are class ids or soft."""
    logits = at_least_float32(logits)
    return F.cross_entropy(logits, as_targets(labels, logits), label_smoothing=label_smoothing, reduction=reduction)


def cross_entropy_of_each(logits: Tensor, labels: Tensor) -> Tensor:
    """That of each example or token, `[*batch]` for logits `[*batch, classes]`; NaN where there is no class."""
    check_labels(labels, logits, IGNORED_LABEL, UNLABELLED)
    logits, labelled = at_least_float32(logits), is_labelled(labels)
    targets = as_targets(labels, logits) if labels.is_floating_point() else labels.where(labelled, IGNORED_LABEL)
    losses = F.cross_entropy(logits.flatten(0, -2), targets.flatten(0, labelled.ndim - 1), reduction="none")
    return losses.view(labelled.shape).masked_fill(~labelled, torch.nan)


def corrected_cross_entropy(
    ce: str, counts: Tensor, class_weights: Tensor, tau: float, max_margin: float, ldam_scale: float
) -> Callable[..., Tensor]:
    """One of those that correct for the class counts."""
    return {
        "balanced_softmax": partial(balanced_softmax_loss, class_counts=counts),
        "logit_adjusted": partial(logit_adjusted_loss, class_counts=counts, tau=tau),
        "class_balanced": partial(class_balanced_loss, class_weights=class_weights),
        "ldam": partial(ldam_loss, class_counts=counts, max_margin=max_margin, scale=ldam_scale),
    }[ce]


def own_cross_entropy(ce: Any) -> tuple[str, str, Callable[..., Tensor]]:
    """
    A function of a user's own, `(logits, labels)` to one value per example or their mean, or `"module:function"`.

    Returns:
        `tuple`: the name of its term, `"module:function"`, and the function as [`plain_cross_entropy`] is called.

    Raises:
        `ValueError`: if there is no such function, or it is called as a form that there is.
    """
    function: Any = ce
    if isinstance(ce, str):
        module, _, name = ce.partition(":")
        try:
            function = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError):
            function = None
    if not callable(function):
        raise ValueError(
            f"ce={ce!r} is not known: use one of {', '.join(get_args(CrossEntropyName))}, a function of logits and "
            "labels, or its 'module:function'."
        )
    name = getattr(function, "__name__", type(function).__name__)
    if name in (*get_args(CrossEntropyName), "loss"):
        raise ValueError(
            f"The function given as ce is called {name!r}, which is taken: rename it, or use ce={name!r}."
        )
    return name, f"{function.__module__}:{name}", partial(_call, function=function)


def _call(logits: Tensor, labels: Tensor, *, function: Callable[[Tensor, Tensor], Tensor], reduction: str) -> Tensor:
    return function(at_least_float32(logits), labels)
