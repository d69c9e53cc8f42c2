"""What FSDP and DeepSpeed need beside Accelerate: losses that fit, and students that Accelerate can shard."""

from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ..teacher.ema import EMATeacher


def check_engine(trainer: Any, distillation_loss: Any) -> None:
    """
    Raises:
        `ValueError`: if the engine shards what the loss reads as a whole, or would save no student.
    """
    if distillation_loss.needs_hidden_states and (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
        raise ValueError(
            f"{type(distillation_loss).__name__} reads features and weights of the whole student and cannot run on a "
            "sharded one: train without FSDP and DeepSpeed (several GPUs by torchrun alone), or use a loss on logits."
        )
    if isinstance(trainer.teacher_model, EMATeacher) and (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
        raise ValueError(
            "An EMATeacher is the mean of a whole student and cannot follow a sharded one: train without FSDP and "
            "DeepSpeed (several GPUs by torchrun alone)."
        )
    plugin = trainer.accelerator.state.fsdp_plugin if trainer.is_fsdp_enabled else None
    if plugin is not None and "FULL_STATE_DICT" not in str(plugin.state_dict_type):
        raise ValueError(
            f"fsdp_state_dict_type={plugin.state_dict_type} would save no student that from_pretrained can load: set "
            "it to FULL_STATE_DICT, as in examples/accelerate/fsdp2.yaml."
        )


def make_shardable(student: nn.Module) -> None:
    """Accelerate asks every model for its embeddings before FSDP shards it; networks for images have none to name."""
    try:
        student.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        student.get_input_embeddings = lambda: None  # type: ignore[assignment]


def mean_gradients(accelerator: Accelerator, parameters: Iterable[nn.Parameter]) -> None:
    """The mean over the ranks. A rank without a valid label has no gradient, and takes part all the same."""
    trained = [p for p in parameters if p.requires_grad]
    if not trained or accelerator.num_processes == 1:
        return
    given = torch.tensor([float(p.grad is not None) for p in trained], device=accelerator.device)
    gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in trained]
    mean = accelerator.reduce(torch.cat([given, *gradients]), "mean")
    given, *gradients = mean.split([len(trained), *(p.numel() for p in trained)])
    for parameter, gradient, ranks in zip(trained, gradients, given.tolist(), strict=True):
        parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if ranks else None
