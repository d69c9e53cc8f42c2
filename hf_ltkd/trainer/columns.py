"""Which columns of a batch its networks take, and which nobody does."""

import re
from typing import Any

from torch import nn

from ..teacher.columns import forward_names


def unused_columns(batch: dict[str, Any], networks: list[nn.Module]) -> list[str]:
    """The columns of a batch, but for its labels, that no network takes; those of `teacher_*` are the teacher's."""
    names = [forward_names(network) for network in networks]
    taken = {"labels", "logits"}.union(*(some for some in names if some is not None))
    return [] if None in names else [name for name in batch if re.sub(r"^teacher_(\d+_)?", "", name) not in taken]


def columns_of(networks: list[nn.Module]) -> list[str]:
    """The columns that a student (the first) and its teachers take by name, the teachers' own ones among them."""
    names = [name for network in networks for name in forward_names(network) or ()]
    prefixes = ["", "teacher_", *(f"teacher_{k}_" for k in range(len(networks) - 1))]
    return [f"{prefix}{name}" for prefix in prefixes for name in dict.fromkeys(names)]
