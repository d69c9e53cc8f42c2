"""Models that give each pixel a class, by the names that a user gives, and what does not go with them."""

import copy
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSemanticSegmentation, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME
from transformers.utils.hub import has_file

from ..data.arguments import MaskArguments
from ..data.image_files import class_name
from ..models import create_model
from ..teacher.loading import class_names_of, explained, load_config, load_model
from ..trainer.segmenters import is_segmenter
from ..trainer.training_args import DistillationTrainingArguments
from ..utils import listed
from .arguments import SEGMENTATION
from .beforehand import check_weights
from .classes import check_answer
from .images import Images
from .inputs import Model, find_data, is_pretrained, model_name, new_classifier
from .masked_images import ranges
from .scenes import Scenes


STUDENT, TEACHER = "upernet_16", "upernet_32"  # where none is named
FOR_PIXELS: dict[str, Any] = {"batch_eval_metrics": True}  # an evaluation keeps neither logits nor masks
# What a user may set elsewhere, and why not here.
REFUSED = {
    "there is nothing published for pixels": ("pair",),
    "logits of all pixels are too many to keep": ("teacher_cache", "teacher_cache_views", "teacher_cache_dtype"),
    "it needs cached logits": ("tune",),
    "it is made for classes of whole images": ("seeds", "match_labels", "unlabelled", "teacher_weights", "peft"),
    "it says which images have which class, and masks do that": (
        *("benchmark", "train_list", "test_list", "label_column", "group_column", "min_class_images", "rare"),
        *("imbalance_factor", "split_rule", "group_rule", "check_images", "skip_damaged"),
    ),
    "masks have to follow": ("augment", "mixup_alpha", "cutmix_alpha", "data_device"),
    "give --size and --crop_size, a height and a width each": ("image_size", "crop", "crop_padding"),
}


def masks_of(given: Mapping[str, Any], others: Mapping[str, Any]) -> MaskArguments | None:
    """
    What masks hold, where the task is to give each pixel a class; else `None`.

    Args:
        given (`dict`): Fields of [`MaskArguments`] that the user set.
        others (`dict`): All other settings.

    Raises:
        `ValueError`: if a setting is for the other task, or a field is not valid.
    """
    masks, flag = MaskArguments(**given), f"--task {SEGMENTATION}"
    if masks.task != SEGMENTATION:
        for name in given:
            if name != "task":
                raise ValueError(f"--{name} is for {flag}: add that, or leave it out.")
        return None
    for reason, names in REFUSED.items():
        for name in names:
            if others.get(name) is not None:
                raise ValueError(f"--{name} does not go with {flag}: {reason}; leave it out.")
    if isinstance(data := others.get("data"), str) and "benchmark" in find_data(data):
        raise ValueError(f"--data {data!r} does not go with {flag}: its images have no masks; give data that have.")
    if others.get("train_sampling_strategy") in ("class_balanced", "square_root"):
        raise ValueError(f"--train_sampling_strategy by class does not go with {flag}: an image has several classes.")
    if isinstance(others.get("teacher"), list) and len(others["teacher"]) > 1:
        raise ValueError(f"{len(others['teacher'])} teachers do not go with {flag}: give one.")
    return masks


def names_segmenter(model: Model, trust_remote_code: bool = False) -> bool:
    """Whether a model gives each pixel a class, by its class or its config."""
    if isinstance(model, PreTrainedModel):
        return is_segmenter(model)
    config = load_config(model, trust_remote_code=trust_remote_code)
    return any(name.endswith("ForSemanticSegmentation") for name in config.architectures or [])


def has_weights(model: Model, trust_remote_code: bool = False) -> bool:
    """Whether a model was trained: there are weights beside its config.json, here or on the Hub."""
    if not is_pretrained(model):
        return False
    if isinstance(model, PreTrainedModel):
        return True
    files = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
    load_config(model, trust_remote_code=trust_remote_code)  # says if there is no such model at all
    return any(has_file(os.fspath(model), file) for file in files)


def check_segmenter(flag: str, model: Model, trust_remote_code: bool = False) -> None:
    """
    Raises:
        `ValueError`: if there is no such network, or it cannot give each pixel a class.
    """
    if isinstance(model, PreTrainedModel):
        load_segmenter(model, flag)
    elif is_pretrained(model):
        config = load_config(model, trust_remote_code=trust_remote_code)
        own_code = "AutoModelForSemanticSegmentation" in (getattr(config, "auto_map", None) or {})
        if not own_code and type(config) not in AutoModelForSemanticSegmentation._model_mapping:
            raise ValueError(_of_another_kind(flag, model_name(model), f"of the kind {config.model_type!r}"))
    elif not is_segmenter(network := create_model(model_name(model), 2)):
        raise ValueError(_of_another_kind(flag, model_name(model), type(network).__name__) + f" Or take {STUDENT}.")


def load_segmenter(model: Model, role: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """
    A trained model that gives each pixel a class; one that is loaded already is returned as it is.

    Raises:
        `ValueError`: if there is none in the folder or on the Hub, it is of another kind, or its weights are broken.
    """
    if not isinstance(model, PreTrainedModel):
        name = model_name(model)
        config = load_config(name, trust_remote_code=trust_remote_code)
        saved_as = (config.architectures or ["a model of an unknown class"])[0]
        if not saved_as.endswith("ForSemanticSegmentation"):
            raise ValueError(_of_another_kind(role, name, saved_as))
        model = load_model(name, AutoModelForSemanticSegmentation, trust_remote_code=trust_remote_code)
    if not is_segmenter(model):
        raise ValueError(_of_another_kind(role, model_name(model), type(model).__name__))
    check_weights(model, role)
    return model


def _of_another_kind(role: str, name: str, found: str) -> str:
    return (
        f"The {role} {name!r} is {found}, which does not give each pixel a class: expected a class of transformers "
        f"whose name ends with ForSemanticSegmentation; train one: hf-ltkd train-teacher --task {SEGMENTATION} --data "
        "FOLDER."
    )


def new_segmenter(model: Model, scenes: Scenes, trust_remote_code: bool = False) -> PreTrainedModel:
    """
    A network for the classes of `scenes`, in float32: of [`create_model`], of a config.json without weights, or a
    trained one, with a new head where it has other classes.

    Raises:
        `ValueError`: if it cannot be loaded, is of another kind, or not for these images.
    """
    data, name = scenes.data, model_name(model)
    labels: dict[str, Any] = {
        "id2label": dict(enumerate(data.class_names)),
        "label2id": {n: c for c, n in enumerate(data.class_names)},
    }
    network: Any
    if isinstance(model, PreTrainedModel):
        network = load_segmenter(model, "model")
        check_mask_classes(network, scenes)
    elif not is_pretrained(model):
        network = create_model(name, len(data.class_names), **labels)
    elif has_weights(model, trust_remote_code):
        how: dict[str, Any] = {"class_names": data.class_names, "dtype": torch.float32}
        network = load_model(name, AutoModelForSemanticSegmentation, trust_remote_code=trust_remote_code, **how)
        check_weights(network, "model")
    else:
        config = load_config(name, class_names=data.class_names, trust_remote_code=trust_remote_code)
        with explained(name, "model for pixels"):
            network = AutoModelForSemanticSegmentation.from_config(config, trust_remote_code=trust_remote_code)
    if not is_segmenter(network):
        raise ValueError(_of_another_kind("model", name, type(network).__name__))
    # What UperNet calls otherwise: pixels of masks that count nowhere.
    field = "loss_ignore_index" if hasattr(network.config, "loss_ignore_index") else "semantic_loss_ignore_index"
    setattr(network.config, field, data.masks.ignore_index)
    check_answer(name, network, data.test.for_student())
    return network


def new_network(
    model: Model, images: Images, args: DistillationTrainingArguments, trust_remote_code: bool = False
) -> PreTrainedModel:
    """A network to train on these images; errors as of [`new_segmenter`] and [`new_classifier`]."""
    if isinstance(images, Scenes):
        network = new_segmenter(model, images, trust_remote_code)
        check_last_batch(network, images, args)
        return network
    return new_classifier(model, images.data, trust_remote_code)


def check_last_batch(network: PreTrainedModel, scenes: Scenes, args: DistillationTrainingArguments) -> None:
    """
    Raises:
        `ValueError`: if a batch is one image, and the network cannot be trained on that.
    """
    images, size = len(scenes.data.train), args.train_batch_size
    if size > 1 and (images % size != 1 or args.dataloader_drop_last):
        return
    try:
        copy.deepcopy(network).train()(pixel_values=scenes.data.train[0]["pixel_values"][None])
    except ValueError as error:  # batch normalisation of one value
        raise ValueError(
            f"{'Each' if size == 1 else 'The last'} of the batches of {images} images is one image, which a "
            f"{type(network).__name__} cannot be trained on: choose another --per_device_train_batch_size than "
            f"{size}{' and add images' if images == 1 else ''}."
        ) from error


def check_mask_classes(model: PreTrainedModel, scenes: Scenes) -> None:
    """
    Raises:
        `ValueError`: if a model does not tell apart exactly the classes of the masks, in their order.
    """
    names, name = scenes.data.class_names, model_name(model)
    if model.config.num_labels != len(names):
        known = [own or f"class {class_id}" for class_id, own in enumerate(class_names_of(model))]
        held = np.flatnonzero(scenes.data.class_counts + scenes.data.test_counts.sum(0))
        raise ValueError(
            f"The model {name!r} has {len(known)} classes ({listed(known)}), the masks {len(names)} (they hold "
            f"{ranges(held)}): give a model of these classes, or say with --num_classes and --ignore_index what the "
            "masks hold (hf-ltkd check names those that hold something else)."
        )
    for class_id, (own, given) in enumerate(zip(class_names_of(model), names, strict=True)):
        if scenes.data.named and own not in (None, class_name(given)):
            raise ValueError(
                f"Class {class_id} is {own!r} for the model {name!r} and {given!r} in --class_names: give a model of "
                "these classes, or its own names."
            )
