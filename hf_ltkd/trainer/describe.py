"""What a card says of a teacher."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..hub.describe import describe_model
from ..teacher.ema import EMATeacher
from ..teacher.live import networks_of


def describe_teacher(teacher: nn.Module, input_shape: Sequence[int] | None = None) -> dict[str, Any]:
    """[`describe_model`] of a teacher; of several the sums, with each of them in `teachers` and in the `name`."""
    if isinstance(teacher, EMATeacher):
        name = f"the exponential mean of its own weights (decay {teacher.decay})"
        return {**describe_model(teacher.module, input_shape), "name": name}
    every = [describe_model(network, input_shape) for network in networks_of(teacher)]
    if len(every) == 1:
        return every[0]
    sums = {n: sum(d[n] for d in every) for n in ("parameters", "weight_bytes", "macs") if all(n in d for d in every)}
    if "macs" in sums:
        sums["input"] = every[0]["input"]
    name = " and ".join(d.get("name", f"a {d['class']}") for d in every)
    return {"class": type(teacher).__name__, "name": name, **sums, "teachers": every}
