"""Every method in a file of its own: the pure function first, the module for the trainer below."""

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from inspect import signature
from math import isfinite
from pathlib import Path
from typing import Any

from ..groups import ClassGroups, check_groups
from ..utils import one_line
from .balanced_softmax import balanced_softmax_loss
from .base import DistillationLoss
from .bkd import BKDLoss, bkd_loss
from .catkd import CATKDLoss, class_attention_loss
from .ce import CrossEntropyLoss
from .class_balanced import class_balanced_loss, class_balanced_weights
from .cwd import CWDLoss, channel_wise_loss
from .dist import DISTLoss, dist_loss
from .dkd import DKDLoss, dkd_loss
from .gkl import GKLLoss, gkl_loss
from .ifvd import IFVDLoss, intra_class_variation_loss
from .kd import KDLoss, kd_loss
from .ldam import ldam_loss
from .logit_adjustment import log_class_prior, logit_adjusted_loss
from .ltkd import KLDecomposition, LTKDLoss, kl_decomposition, ltkd_loss
from .on_logits import LogitLoss, standardize_logits
from .published import PublishedValues, published_values
from .reviewkd import ReviewKDLoss, hierarchical_context_loss
from .schedule import Schedule
from .sum import SumLoss
from .wttm import WTTMLoss, wttm_loss


LOSSES: dict[str, type[DistillationLoss]] = {
    "ce": CrossEntropyLoss,
    "kd": KDLoss,
    "ltkd": LTKDLoss,
    "dkd": DKDLoss,
    "dist": DISTLoss,
    "reviewkd": ReviewKDLoss,
    "catkd": CATKDLoss,
    "bkd": BKDLoss,
    "gkl": GKLLoss,
    "wttm": WTTMLoss,
    "cwd": CWDLoss,
    "ifvd": IFVDLoss,
}
# What arguments of the cross-entropy go with.
NEEDS = {
    "tau": ", as it goes with ce='logit_adjusted' or prior",
    "effective_number_beta": ", as it goes with ce='class_balanced' or drw_epoch",
    "max_margin": ", as it goes with ce='ldam'",
    "ldam_scale": ", as it goes with ce='ldam'",
}


def create_loss(
    name: str, groups: ClassGroups, *, pair: tuple[str, str] | None = None, dataset: str = "cifar100", **arguments
) -> DistillationLoss:
    """
    A loss by its name, for scripts; with a warning of each argument that has no effect beside the others, such as
    `tau` without `ce="logit_adjusted"`.

    Args:
        name (`str`): A key of `LOSSES`, which you may add to, or `"package.module:Class"` or `"file.py:Class"` for a
            loss of your own; modules are looked for in the working directory, too.
        groups ([`ClassGroups`]): With class counts, which the losses that correct for them read.
        pair (`tuple[str, str]`, *optional*):
            Names of teacher and student: takes their published hyper-parameters ([`DistillationLoss.for_pair`]).
        dataset (`str`, *optional*, defaults to `"cifar100"`): That `pair` was published for.
        arguments: Arguments of the loss; they win over published ones.

    Raises:
        `ValueError`: if there is no such loss, it does not take an argument, or nothing is published for `pair`.
    """
    loss_class = find_loss(name)
    check_groups(groups)
    if pair and (isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2):
        raise ValueError(f"pair={pair!r} is not valid: it must be two names, the teacher's and the student's.")
    arguments = _checked_values(loss_class, arguments)
    published = published_values(loss_class, dataset, *pair) if pair else PublishedValues({}, "")
    try:
        loss = loss_class.from_groups(groups, **{**published.arguments, **arguments})
    except TypeError as error:
        unknown = [argument for argument in arguments if argument not in loss_arguments(loss_class)]
        reason = f"{', '.join(unknown)} is not known" if unknown else error
        raise ValueError(
            f"{loss_class.__name__} does not take these arguments: {reason}: {', '.join(loss_arguments(loss_class))}."
        ) from error
    loss.source = published.source
    used, defaults = loss.used_hyper_parameters(), loss_arguments(loss_class)
    for argument in (a for a in loss.hyper_parameters() if a in arguments and a not in used):
        if arguments[argument] != defaults[argument]:
            warnings.warn(
                f"{argument}={arguments[argument]!r} has no effect beside the other arguments of this "
                f"{loss_class.__name__}{NEEDS.get(argument, '')}: leave it out.",
                stacklevel=1,  # one place, so that Python says it once
            )
    return loss


def _checked_values(loss_class: type[DistillationLoss], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """
    The arguments; a dict in place of a number is a [`Schedule`].

    Raises:
        `ValueError`: if an argument is a word or a switch where the loss has a number, or the other way round.
    """
    defaults, checked = loss_arguments(loss_class), dict(arguments)
    for name, value in arguments.items():
        default = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(default, int | float) and not isinstance(default, bool):
            checked[name] = Schedule(value)
            continue
        if isinstance(default, bool):
            wrong, expected = not isinstance(value, bool), "true or false"
        else:
            wrong = isinstance(value, str | bool) or isinstance(value, float) and not isfinite(value)
            wrong, expected = wrong and isinstance(default, int | float), f"a number, such as {default}"
        if wrong:
            raise ValueError(f"{name}={value!r} of {loss_class.__name__} is not valid: it must be {expected}.")
    return checked


def find_loss(name: str) -> type[DistillationLoss]:
    """The class of a loss by its name, as in [`create_loss`]; raises `ValueError` if there is none."""
    error: Exception | None = None
    try:
        source, _, class_name = name.rpartition(":")
        found = getattr(_module(source), class_name) if source else LOSSES[class_name]
        if isinstance(found, type) and issubclass(found, DistillationLoss):
            return found
    except Exception as caught:  # a file of one's own may raise anything
        error = caught
    reason = f" ({type(error).__name__}: {one_line(error)})" if error and ":" in str(name) else ""
    raise ValueError(
        f"There is no loss {name!r}: use one of {', '.join(LOSSES)}, or package.module:Class or file.py:Class for a "
        f"DistillationLoss of your own{reason}."
    ) from error


def _module(source: str) -> Any:
    """A module by its name, from the working directory too, or by its file."""
    if source.endswith(".py"):
        path = str(Path(source).resolve())
        if path not in sys.modules:
            spec: Any = spec_from_file_location(path, path)
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            sys.modules[path] = module
        return sys.modules[path]
    if os.getcwd() not in sys.path:  # a console script's own folder is there instead
        sys.path.append(os.getcwd())
    return import_module(source)


def loss_arguments(loss_class: type[DistillationLoss]) -> dict[str, Any]:
    """The arguments that [`create_loss`] takes for a loss, its own first, with their defaults."""
    defaults: dict[str, Any] = {}
    for base in loss_class.__mro__[: loss_class.__mro__.index(DistillationLoss) + 1]:
        for name, parameter in signature(base).parameters.items():
            if name not in ("groups", "class_counts") and parameter.kind is not parameter.VAR_KEYWORD:
                defaults.setdefault(name, parameter.default)
    return defaults


__all__ = [
    "BKDLoss",
    "CATKDLoss",
    "CWDLoss",
    "CrossEntropyLoss",
    "DISTLoss",
    "DKDLoss",
    "DistillationLoss",
    "GKLLoss",
    "IFVDLoss",
    "KDLoss",
    "KLDecomposition",
    "LOSSES",
    "LTKDLoss",
    "LogitLoss",
    "ReviewKDLoss",
    "Schedule",
    "SumLoss",
    "WTTMLoss",
    "balanced_softmax_loss",
    "bkd_loss",
    "channel_wise_loss",
    "class_attention_loss",
    "class_balanced_loss",
    "class_balanced_weights",
    "create_loss",
    "dist_loss",
    "dkd_loss",
    "find_loss",
    "gkl_loss",
    "hierarchical_context_loss",
    "intra_class_variation_loss",
    "kd_loss",
    "kl_decomposition",
    "ldam_loss",
    "log_class_prior",
    "logit_adjusted_loss",
    "loss_arguments",
    "ltkd_loss",
    "standardize_logits",
    "wttm_loss",
]
