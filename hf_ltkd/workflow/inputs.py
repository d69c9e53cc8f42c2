"""Models and images by the names that a user gives, or as they are in memory."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, DatasetDict
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ..data.arguments import PRESETS, DataArguments
from ..data.holdout import Holdout, load_or_hold_out
from ..data.images import ImageData
from ..data.pixels import Pixels
from ..data.processors import choose_pixels, pixels_of
from ..groups import ClassGroups
from ..models import create_model
from ..utils import listed, read_json
from .arguments import SourceArguments
from .recommend import recommend_images


Model = str | os.PathLike | PreTrainedModel


@dataclass(frozen=True)
class Images:
    """
    What every job looks at.

    Attributes:
        data ([`ImageData`]): Training and evaluation images.
        groups ([`ClassGroups`]): Groups of their classes.
        holdout ([`Holdout`], *optional*): How the evaluation images were split off; `None` where the data has its own.
    """

    data: ImageData
    groups: ClassGroups
    holdout: Holdout | None


def is_main_process() -> bool:
    """Whether this process shows progress; also before a Trainer has set up the others."""
    return os.environ.get("RANK", "0") == "0"


def find_data(name: str | os.PathLike) -> dict[str, str]:
    """
    The field of `DataArguments` that a folder, a benchmark's name or a Hub id belongs to.

    Raises:
        `ValueError`: if `name` can be none of them.
    """
    name = os.fspath(name)
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


def name_data(source: SourceArguments, given: Mapping[str, Any]) -> tuple[DatasetDict | None, dict[str, Any]]:
    """
    The splits, where they are in memory, and all fields of `DataArguments` that the user set.

    Raises:
        `ValueError`: if no images are named, or they can't be these, or a field is not valid.
    """
    data: Any = source.data  # the fields of the class name what a command line can hold
    splits = DatasetDict(train=data) if isinstance(data, Dataset) else data if isinstance(data, DatasetDict) else None
    if splits:
        given = {"dataset_name": next(iter(splits.values())).info.dataset_name or "dataset in memory", **given}
    elif data is not None:
        given = {**given, **find_data(data)}
    elif not {"data_dir", "dataset_name", "benchmark"} & set(given):
        raise ValueError("--data is missing: give a folder of images, a benchmark's name or a dataset of the Hub.")
    DataArguments(**given)
    return splits, dict(given)


def model_name(model: Model) -> str:
    """The name, folder or Hub id of a model; its class where it has none."""
    return model.name_or_path or type(model).__name__ if isinstance(model, PreTrainedModel) else os.fspath(model)


def is_pretrained(model: Model) -> bool:
    """Whether a model has been trained: it comes from a folder or the Hub, not from [`create_model`]."""
    if isinstance(model, PreTrainedModel):
        return bool(model.name_or_path)
    return "/" in model_name(model) or os.path.isdir(model)


def load_classifier(model: Model, *, fresh_head: bool = False, **kwargs: Any) -> PreTrainedModel:
    """
    A trained image classifier; one that is loaded already is returned as it is.

    Args:
        fresh_head (`bool`, *optional*, defaults to `False`): Whether weights may be missing, because they are trained.

    Raises:
        `ValueError`: if there is none in the folder or on the Hub, or it lacks weights.
    """
    if isinstance(model, PreTrainedModel):
        return model
    if isinstance(model, nn.Module):
        raise ValueError(f"The model is a {type(model).__name__}: give a PreTrainedModel, a folder or a Hub id.")
    try:
        network, report = AutoModelForImageClassification.from_pretrained(model, output_loading_info=True, **kwargs)
    except (OSError, ValueError) as error:
        where = "in this folder" if os.path.isdir(model) else "as a folder here or on the Hub"
        reason = str(error).splitlines()[0]
        raise ValueError(f"There is no image classifier {os.fspath(model)!r} {where}: {reason}") from error
    if report["missing_keys"] and not fresh_head:
        raise ValueError(
            f"{os.fspath(model)!r} is no trained classifier: it lacks {listed(sorted(report['missing_keys']), 3)}, "
            "which would be random numbers; train it on your classes first: hf-ltkd train-teacher --model "
            f"{shlex.quote(os.fspath(model))} --data FOLDER"
        )
    return network


def load_processor(name: str | os.PathLike) -> BaseImageProcessor | None:
    """
    The image processor saved with a model, if there is one; models of timm have theirs in `config.json`.

    Raises:
        `ValueError`: if a library is missing that it needs.
    """
    files = ("preprocessor_config.json", "processor_config.json")
    if os.path.isdir(name) and not any(os.path.exists(os.path.join(name, file)) for file in files):
        config = read_json(os.path.join(name, "config.json"))
        if "pretrained_cfg" not in config:
            return None
    try:
        return AutoImageProcessor.from_pretrained(name)
    except ImportError as error:
        reason = str(error).strip().split(". ")[0]
        raise ValueError(
            f"The image processor of {name!r} cannot be loaded ({reason}): pip install timm torchvision"
        ) from error


def load_images(
    source: SourceArguments,
    given: Mapping[str, Any],
    model: Model | None,
    *,
    student: Model | None = None,
    seed: int = 0,
    num_groups: int | None = None,
    unlabelled: Any = None,
) -> Images:
    """
    The images as a model's own image processor makes them, and for a teacher and its student as each has it.

    Args:
        source ([`SourceArguments`]): Its `data` is a folder, a benchmark's name, a dataset of the Hub or one in
            memory, or `None` where `given` names the images.
        given (`dict`): Fields of `DataArguments` that the user set; they win over the model's.
        model (`str` or `PreTrainedModel`, *optional*): A name of [`create_model`] says nothing of its pixels.
        student (`str` or `PreTrainedModel`, *optional*): The same of a student that is to learn from `model`. One
            without an image processor of its own sees what the teacher sees, in `image_size` if that is given.
        seed (`int`, *optional*, defaults to 0): Of the augmentation.
        num_groups (`int`, *optional*): Equal groups of classes; head, medium and tail by default.
        unlabelled (`str` or `datasets.Dataset`, *optional*): Images without a class, as [`load_image_data`] takes.

    Raises:
        `ValueError`: as [`load_or_hold_out`], or if no images are named, or the Hub has no such dataset.
    """
    splits, given = name_data(source, given)
    config = model.config if isinstance(model, PreTrainedModel) else None
    if model is not None and config is None and is_pretrained(model):
        config = AutoConfig.from_pretrained(model_name(model))
    pixels, teacher_pixels = choose_pixels(_pixels_of(model), _pixels_of(student), given.get("image_size"))
    args = DataArguments(**{**recommend_images(pixels, config, given.get("image_size"), teacher_pixels), **given})

    def check_names(names: list[str]) -> None:
        if num_groups is not None:
            ClassGroups.from_counts([1] * len(names), num_groups)
        for classifier in (model, student):
            if isinstance(classifier, PreTrainedModel):
                _check_names(classifier, names, args)

    try:
        images, holdout = load_or_hold_out(
            args,
            splits=splits,
            eval_fraction=source.eval_fraction,
            processor=pixels,
            teacher_processor=teacher_pixels,
            seed=seed,
            progress=is_main_process(),
            unlabelled=unlabelled,
            check_names=check_names,
        )
    except (ConnectionError, FileNotFoundError) as error:
        if args.dataset_name is None:
            raise
        reason = str(error).splitlines()[0]
        raise ValueError(f"The dataset {args.dataset_name!r} cannot be loaded from the Hub: {reason}") from error
    return Images(images, make_groups(images, num_groups), holdout)


def _pixels_of(model: Model | None) -> Pixels | None:
    """What a trained model sees, where it was saved with an image processor."""
    processor = None if model is None or not is_pretrained(model) else load_processor(model_name(model))
    return None if processor is None else pixels_of(processor)


def make_groups(data: ImageData, num_groups: int | None = None) -> ClassGroups:
    """Head, medium and tail, or `num_groups` equal groups; two where there are two classes."""
    if num_groups is None and len(data.class_names) >= 3:
        return data.groups
    return ClassGroups.from_counts(data.split.class_counts, num_groups or len(data.class_names))


def new_classifier(model: Model, data: ImageData) -> PreTrainedModel:
    """A network of [`create_model`], or a trained one with a new head, for the classes of `data`."""
    if isinstance(model, PreTrainedModel):
        check_classes(model, data)
        return model
    names = dict(enumerate(data.class_names))
    labels = {"id2label": names, "label2id": {label: class_id for class_id, label in names.items()}}
    if is_pretrained(model):
        return load_classifier(model, fresh_head=True, ignore_mismatched_sizes=True, **labels)
    return create_model(model_name(model), len(names), data.args.image_size, **labels)


def data_name(args: DataArguments) -> str:
    """What `--data` was."""
    return str(args.data_dir or args.benchmark or args.dataset_name)


def check_classes(model: PreTrainedModel, data: ImageData) -> None:
    """
    Raises:
        `ValueError`: if the model does not tell apart exactly the classes of the data, in their order.
    """
    _check_names(model, data.class_names, data.args)


def _check_names(model: PreTrainedModel, names: list[str], args: DataArguments) -> None:
    name = model_name(model)
    command = shlex.join(["hf-ltkd", "train-teacher", "--model", name, "--data", data_name(args)])
    advice = f"train one on them first: {command}"
    if model.config.num_labels != len(names):
        raise ValueError(f"The model {name!r} has {model.config.num_labels} classes, the data {len(names)}: {advice}")
    model_names = dict(model.config.id2label or {})
    for class_id, class_name in enumerate(names):
        model_class = model_names[class_id]  # type: ignore[index]
        if model_class not in (class_name, f"LABEL_{class_id}") and not class_name.isdecimal():
            raise ValueError(
                f"Class {class_id} is {model_class!r} for the model {name!r} and {class_name!r} in the data: rename "
                f"the class folders so that both have the same order, or {advice}"
            )
