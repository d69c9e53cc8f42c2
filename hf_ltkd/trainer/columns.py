"""What is in a batch: the columns that networks and loss take, those that nobody does, and labels."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..losses.base import DistillationLoss
from ..losses.checks import UNLABELLED, logits_of
from ..teacher.columns import forward_names


@dataclass
class StepContext:
    """What a micro-batch has to know of the whole optimizer step; travels in the batch under [`STEP_CONTEXT`]."""

    teacher_outputs: Any = None
    step_statistics: Any = None  # what the loss makes of [micro-batches of all ranks, k]
    weight: Tensor | float = 1.0  # weight of this micro-batch's examples / its mean over those of the step
    label_weight: Tensor | float = 1.0  # the same of those with a class, over which the cross-entropy is a mean
    micro_batches: int = 1  # of this rank in the step


STEP_CONTEXT = "distillation_step_context"


def unused_columns(batch: dict[str, Any], networks: list[nn.Module], of_loss: Collection[str] = ()) -> list[str]:
    """
    The columns of a batch, but for its labels, that neither a network nor the loss takes; those of `teacher_*` are the
    teacher's.
    """
    names = [forward_names(network) for network in networks]
    taken = {"labels", "logits", "image_ids", *of_loss}.union(*(some for some in names if some is not None))
    return [] if None in names else [name for name in batch if re.sub(r"^teacher_(\d+_)?", "", name) not in taken]


def columns_of(networks: list[nn.Module]) -> list[str]:
    """The columns that a student (the first) and its teachers take by name, the teachers' own ones among them."""
    names = [name for network in networks for name in forward_names(network) or ()]
    prefixes = ["", "teacher_", *(f"teacher_{k}_" for k in range(len(networks) - 1))]
    return [f"{prefix}{name}" for prefix in prefixes for name in dict.fromkeys(names)]


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
