"""Models and images by the names that a user gives on the command line."""

import os
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ..data.arguments import PRESETS, DataArguments
from ..data.holdout import Holdout, load_or_hold_out
from ..data.images import ImageData
from ..groups import ClassGroups
from ..models import create_model
from .recommend import normalisation, recommend_images


def find_data(name: str) -> dict[str, str]:
    """
    The field of `DataArguments` that a folder, a benchmark's name or a Hub id belongs to.

    Raises:
        `ValueError`: if `name` can be none of them.
    """
    if os.path.isdir(os.path.expanduser(name)):
        return {"data_dir": name}
    if name in PRESETS:
        return {"benchmark": name}
    if name.count("/") == 1 and name[0] not in "./~":
        return {"dataset_name": name}
    benchmarks = ", ".join(benchmark for benchmark in PRESETS if benchmark)
    raise ValueError(
        f"--data {name!r} is no folder here: give a folder of images, a benchmark ({benchmarks}), or a dataset of the "
        "Hub as owner/name."
    )


def is_pretrained(name: str) -> bool:
    """Whether a model's name is a folder or a Hub id, not one of [`create_model`]."""
    return "/" in name or os.path.isdir(name)


def load_classifier(name: str, **kwargs: Any) -> PreTrainedModel:
    """
    A trained image classifier.

    Raises:
        `ValueError`: if there is none in the folder or on the Hub.
    """
    try:
        return AutoModelForImageClassification.from_pretrained(name, **kwargs)
    except (OSError, ValueError) as error:
        where = "in this folder" if os.path.isdir(name) else "as a folder here or on the Hub"
        raise ValueError(f"There is no image classifier {name!r} {where}: {str(error).splitlines()[0]}") from error


def load_processor(name: str) -> BaseImageProcessor | None:
    """The image processor saved with a model, if there is one."""
    files = ("preprocessor_config.json", "processor_config.json")
    if os.path.isdir(name) and not any(os.path.exists(os.path.join(name, file)) for file in files):
        return None
    return AutoImageProcessor.from_pretrained(name)


def load_images(
    given: dict[str, Any], model: str | None, *, eval_fraction: float, seed: int, progress: bool
) -> tuple[ImageData, Holdout | None]:
    """
    The images, in the size and with the normalisation that a model was trained with.

    Args:
        given (`dict`): Fields of `DataArguments` that the user set; they win over the model's.
        model (`str`, *optional*): Folder or Hub id of the model; `None` or a name of [`create_model`] says nothing.
        eval_fraction (`float`): As in [`hold_out`].
        seed (`int`): Of the augmentation.
        progress (`bool`): Whether decoding shows a bar.

    Raises:
        `ValueError`: as [`load_or_hold_out`], or if the Hub has no such dataset.
    """
    processor = config = None
    if model is not None and is_pretrained(model):
        config, processor = AutoConfig.from_pretrained(model), load_processor(model)
    args = DataArguments(**{**recommend_images(processor, config, given.get("image_size")), **given})
    try:
        return load_or_hold_out(
            args, eval_fraction=eval_fraction, seed=seed, progress=progress, **normalisation(processor)
        )
    except (ConnectionError, FileNotFoundError) as error:
        if args.dataset_name is None:
            raise
        reason = str(error).splitlines()[0]
        raise ValueError(f"The dataset {args.dataset_name!r} cannot be loaded from the Hub: {reason}") from error


def make_groups(data: ImageData, num_groups: int | None = None) -> ClassGroups:
    """Head, medium and tail, or `num_groups` equal groups; two where there are two classes."""
    if num_groups is None and len(data.class_names) >= 3:
        return data.groups
    return ClassGroups.from_counts(data.split.class_counts, num_groups or len(data.class_names))


def new_classifier(name: str, data: ImageData) -> PreTrainedModel:
    """A network of [`create_model`], or a trained one with a new head, for the classes of `data`."""
    names = dict(enumerate(data.class_names))
    labels = {"id2label": names, "label2id": {label: class_id for class_id, label in names.items()}}
    if is_pretrained(name):
        return load_classifier(name, ignore_mismatched_sizes=True, **labels)
    return create_model(name, len(names), data.args.image_size, **labels)


def data_name(data: ImageData) -> str:
    """What `--data` was."""
    return str(data.args.data_dir or data.args.benchmark or data.args.dataset_name)


def check_classes(model: PreTrainedModel, name: str, data: ImageData) -> None:
    """
    Raises:
        `ValueError`: if the model does not tell apart exactly the classes of the data, in their order.
    """
    advice = f"train one on them first: hf-ltkd train-teacher --model {name} --data {data_name(data)}"
    if model.config.num_labels != len(data.class_names):
        raise ValueError(
            f"The model {name!r} has {model.config.num_labels} classes, the data {len(data.class_names)}: {advice}"
        )
    model_names = dict(model.config.id2label or {})
    for class_id, class_name in enumerate(data.class_names):
        model_class = model_names[class_id]  # type: ignore[index]
        if model_class not in (class_name, f"LABEL_{class_id}") and not class_name.isdecimal():
            raise ValueError(
                f"Class {class_id} is {model_class!r} for the model {name!r} and {class_name!r} in the data: rename "
                f"the class folders so that both have the same order, or {advice}"
            )
