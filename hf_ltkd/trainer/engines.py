"""What FSDP and DeepSpeed need beside Accelerate: losses that fit, and students that Accelerate can shard."""

from typing import Any

from torch import nn
from transformers import Trainer


def check_engine(trainer: Trainer, distillation_loss: Any) -> None:
    """
    Raises:
        `ValueError`: if the engine shards what the loss reads as a whole, or would save no student.
    """
    if distillation_loss.needs_hidden_states and (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
        raise ValueError(
            f"{type(distillation_loss).__name__} reads features and weights of the whole student and cannot run on a "
            "sharded one: train without FSDP and DeepSpeed (several GPUs by torchrun alone), or use a loss on logits."
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
