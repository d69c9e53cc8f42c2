"""What is in a batch: the columns that a network takes (those that its forward names) or the loss, and labels."""

import functools
import inspect
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..losses.base import DistillationLoss
from ..losses.checks import UNLABELLED, logits_of


@dataclass
class StepContext:
    """What a micro-batch has to know of the whole optimizer step; travels in the batch under [`STEP_CONTEXT`]."""

    teacher_outputs: Any = None
    step_statistics: Any = None  # what the loss makes of [micro-batches of all ranks, k]
    weight: Tensor | float = 1.0  # weight of this micro-batch's examples / its mean over those of the step
    label_weight: Tensor | float = 1.0  # the same of those with a class, over which the cross-entropy is a mean
    micro_batches: int = 1  # of this rank in the step


STEP_CONTEXT = "distillation_step_context"
CACHED_LOGITS = "teacher_logits"  # the teacher's answer travels in the batch where it is cached


def inputs_of(model: nn.Module, batch: dict[str, Any], of_loss: Collection[str] = ()) -> dict[str, Any]:
    """
    What of a batch goes into a network: no labels, and nothing that it does not name. One that takes anything gets no
    column that the loss reads (`of_loss`).
    """
    names = forward_names(model)
    not_given = {"labels", *(of_loss if names is None else ())}
    return {n: v for n, v in batch.items() if n not in not_given and (names is None or n in names)}


def unused_columns(batch: dict[str, Any], networks: list[nn.Module], of_loss: Collection[str] = ()) -> list[str]:
    """
    The columns of a batch, but for its labels, that neither a network nor the loss takes; those of `teacher_*` are the
    teacher's.
    """
    names = [forward_names(network) for network in networks]
    taken = {"labels", "logits", "image_ids", *of_loss}.union(*(some for some in names if some is not None))
    return [] if None in names else [name for name in batch if name.removeprefix("teacher_") not in taken]


def labels_of(batch: dict[str, Any], loss: DistillationLoss, teacher_outputs: Any = None) -> Tensor:
    """
    The labels of a batch. Without a cross-entropy no class is needed: the teacher's answers say how many examples
    there are.

    Raises:
        `ValueError`: if there are none, and the loss needs them.
    """
    if "labels" in batch:
        return batch["labels"]
    logits = None if teacher_outputs is None else logits_of(teacher_outputs)
    if loss.ce_weight or loss.needs_labels or logits is None or logits.ndim != 2:
        there = [name for name in batch if name != STEP_CONTEXT]
        raise ValueError(
            f"The batch has no 'labels', only {there}: let the dataset or the data collator name them so, or distil "
            "without them (ce_weight=0)."
        )
    return torch.full(logits.shape[:1], UNLABELLED, device=logits.device)


def forward_names(model: nn.Module) -> frozenset[str] | None:
    """The arguments that the forward of a network names, `None` if it takes any."""
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]  # PEFT
    return _forward_names(type(base))  # type: ignore[arg-type]


@functools.cache
def _forward_names(network: type[nn.Module]) -> frozenset[str] | None:
    names: set[str] = set()
    for base in network.__mro__:
        if "forward" not in vars(base):
            continue
        arguments = list(inspect.signature(base.forward).parameters.values())[1:]  # type: ignore[attr-defined]
        names |= {a.name for a in arguments if a.kind in (a.POSITIONAL_OR_KEYWORD, a.KEYWORD_ONLY)}
        if not any(a.kind is a.VAR_KEYWORD for a in arguments):
            return frozenset(names)
        if not issubclass(network, PreTrainedModel):
            return None
    # Transformers' own `**kwargs` are options, not columns; a subclass may hand on what its parent names.
    return frozenset(names) or None
