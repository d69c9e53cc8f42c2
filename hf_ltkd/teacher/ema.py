"""A teacher that is an exponential mean of the student."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..utils import check_number


class EMATeacher(AveragedModel):
    """
    The exponential mean of a student's weights over its steps, as a teacher of that student (Tarvainen and Valpola,
    Mean teachers are better role models, NeurIPS 2017): `DistillationTrainer(student, EMATeacher(student), ...)`,
    which updates it after each optimizer step and keeps it in checkpoints.

    Running statistics of batch normalisation are averaged like weights. In step `t` the decay is
    `min(decay, 1 - 1 / t)`: at the start it is the plain mean of the few students there were.

    Args:
        student (`torch.nn.Module`): The student. It is copied.
        decay (`float`, *optional*, defaults to 0.999): From 0 (the student after the last step) to below 1.

    Attributes:
        module (`torch.nn.Module`): The mean, a network like the student, to be evaluated or saved.

    Raises:
        `ValueError`: if `decay` is not valid.
    """

    def __init__(self, student: nn.Module, decay: float = 0.999):
        check_number("decay", decay, 0.0, below=1.0)
        if not isinstance(student, nn.Module):
            raise ValueError(f"The student is {type(student).__name__}: give the model that is trained.")
        super().__init__(student, multi_avg_fn=self._average, use_buffers=True)
        self.decay = decay

    def _average(self, mean: Any, student: Any, num_averaged: Tensor | int) -> None:
        steps = int(num_averaged) + 1
        get_ema_multi_avg_fn(min(self.decay, 1 - 1 / steps))(mean, student, num_averaged)

    def get_base_model(self) -> nn.Module:
        """The mean itself: it is what takes columns and has a config."""
        return self.module

    def check_follows(self, student: nn.Module | None) -> None:
        """
        Raises:
            `ValueError`: if this is the mean of another network.
        """
        if student is None:
            raise ValueError("An EMATeacher follows the student it was made from: give that as model, not model_init.")
        own, others = ({n: t.shape for n, t in m.state_dict().items()} for m in (self.module, student))
        if own != others:
            raise ValueError(
                f"The EMATeacher is the mean of a {type(self.module).__name__} with other weights than this "
                f"{type(student).__name__}: make it from the student that is trained."
            )

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """After an optimizer step. Statistics of batch normalisation, which differ by rank, are the first rank's."""
        super().update_parameters(model)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            for buffer in self.module.buffers():
                dist.broadcast(buffer, 0)
