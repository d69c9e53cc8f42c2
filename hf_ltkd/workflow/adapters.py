"""A big model trained through small matrices (LoRA, Hu et al. 2021) on one small machine."""

from importlib.util import find_spec
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..teacher.loading import head_tensors


def add_lora(model: PreTrainedModel, name: str) -> nn.Module:
    """
    Freezes a classifier but for its head, and adds a matrix of rank 16 to each of its other linear layers.

    Args:
        model (`PreTrainedModel`): It is changed in place.
        name (`str`): What it is called.

    Returns:
        `peft.PeftModel`: The same with adapters.

    Raises:
        `ValueError`: if PEFT is not installed, or no linear layer is left beside the head.
    """
    if find_spec("peft") is None:
        raise ValueError('--peft lora needs peft, which is not installed here: pip install "hf_ltkd[peft]"')
    from peft import LoraConfig, get_peft_model

    heads = sorted({tensor.rpartition(".")[0] for tensor in head_tensors(model.config, type(model))})
    layers = [key for key, module in model.named_modules() if isinstance(module, nn.Linear) and key not in heads]
    if not layers:
        raise ValueError(
            f"The model {name!r} ({type(model).__name__}) has no linear layer beside its head, which LoRA would "
            "adapt: train it without --peft, or choose a transformer."
        )
    config = LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", exclude_modules=heads, modules_to_save=heads)
    return get_peft_model(model, config)


def merge_adapters(trainer: Any) -> None:
    """Puts what was trained beside a model into its weights, so that it is saved and loaded like any other."""
    if hasattr(trainer.model, "merge_and_unload"):
        trainer.model = trainer.model_wrapped = trainer.model.merge_and_unload()
