"""Language models: which models are, and how many classes they have."""

from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)


LanguageModelKind = Literal["causal", "masked"]


def network_of(model: Any) -> Any:
    """The model itself, without the wrapper of PEFT."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def language_model_kind(model: nn.Module | None) -> LanguageModelKind | None:
    """Whether a model of transformers gives logits over its vocabulary, for the next token or for the masked ones."""
    network = network_of(model)
    if not isinstance(network, PreTrainedModel) or network.config.is_encoder_decoder:
        return None
    name = type(network).__name__
    if name.endswith("ForCausalLM") or name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        return "causal"
    if name.endswith("ForMaskedLM") or name in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values():
        return "masked"
    return None


def num_classes_of(model: PreTrainedModel) -> int:
    """The classes of a model's logits: the tokens of a language model's vocabulary."""
    if language_model_kind(model) is not None:
        return int(model.config.get_text_config().vocab_size)
    return int(model.config.num_labels)  # type: ignore[arg-type]
