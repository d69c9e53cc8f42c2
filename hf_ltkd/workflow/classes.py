"""Whether a model tells apart the classes of the data, in their order, and what can be done where it does not."""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel

from ..data.image_files import class_name
from ..data.views import SeededViews
from ..losses.checks import logits_of
from ..teacher.columns import inputs_of
from ..teacher.live import ask_teacher
from ..teacher.loading import class_names_of
from ..trainer.segmenters import is_segmenter
from ..utils import listed


def order_by_name(model: PreTrainedModel, names: Sequence[str]) -> list[int]:
    """
    The model's class id of each class of the data.

    Args:
        model (`PreTrainedModel`): Its config has `id2label`.
        names (`Sequence[str]`): The data's classes.

    Raises:
        `ValueError`: if the model lacks one of the names, or has it twice.
    """
    own, wanted = class_names_of(model), [class_name(name) for name in names]
    missing = [name for name in wanted if name not in own]
    if missing:
        others = [name for name in own if name is not None and name not in wanted]
        has = f"beside the common ones it has {listed(others)}" if others else "it has no others"
        has = has if any(own) else "its classes have no names"
        raise ValueError(
            f"The classes cannot be matched by name: the model has no {listed(missing, 10)} of the data ({has}): "
            "rename the classes of the data, or id2label in the model's config.json."
        )
    twice = [name for name in wanted if own.count(name) > 1]
    if twice:
        raise ValueError(f"The classes cannot be matched by name: the model has {listed(twice)} more than once.")
    return [own.index(name) for name in wanted]


def with_classes(model: PreTrainedModel, order: Sequence[int], names: Sequence[str]) -> PreTrainedModel:
    """The model, with logits for these of its classes alone, in this order; the model stays as it was."""
    matched = copy.copy(model)
    matched.config = copy.deepcopy(model.config)
    matched.config.id2label = dict(enumerate(names))
    matched.config.label2id = {name: class_id for class_id, name in enumerate(names)}
    matched._forward_hooks = OrderedDict(model._forward_hooks)

    def select(module: Any, args: Any, outputs: Any) -> Any:
        logits = logits_of(outputs)
        logits = logits[..., torch.tensor(order, device=logits.device)]
        return logits if isinstance(outputs, torch.Tensor) else replace(outputs, logits=logits)

    matched.register_forward_hook(select)
    return matched


def check_answer(name: str, model: PreTrainedModel, images: SeededViews) -> None:
    """
    Asks a model for one image, before work starts.

    Args:
        name (`str`): The model's.
        model (`PreTrainedModel`): Its mode is left in eval.
        images ([`ImageDataset`] or the like): What it will see as `pixel_values`.

    Raises:
        `ValueError`: if it takes no such pixels, or gives no logits of its classes.
    """
    batch = {"pixel_values": images[0]["pixel_values"][None]}
    try:
        logits = logits_of(ask_teacher(model, inputs_of(model, batch), nullcontext()))
    except Exception as error:  # whatever a network raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        shape = list(batch["pixel_values"].shape)
        if is_segmenter(model) and hasattr(model.config, "image_size"):
            reason += f"; its config says image_size={model.config.image_size}, so try that height and width as --size"
        raise ValueError(f"The model {name!r} cannot be asked for pixel_values of shape {shape}: {reason}") from error
    if logits.shape[:2] != (1, model.config.num_labels) or logits.ndim != (4 if is_segmenter(model) else 2):
        raise ValueError(
            f"The model {name!r} gives logits of shape {list(logits.shape)} for one image, where its config says "
            f"{model.config.num_labels} classes: choose a classifier of whole images, or one of pixels with --task "
            "semantic-segmentation."
        )
