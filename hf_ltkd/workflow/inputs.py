"""Models and images by the names that a user gives, or as they are in memory."""

import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ..data.arguments import PRESETS, DataArguments
from ..data.augment import LabelledImages
from ..data.holdout import load_or_hold_out
from ..data.image_files import class_name
from ..data.images import ImageData
from ..data.pixels import Pixels
from ..data.processors import choose_pixels, pixels_of, resized
from ..groups import ClassGroups
from ..models import create_model
from ..teacher.ensemble import TeacherEnsemble
from ..teacher.live import networks_of
from ..teacher.loading import base_of, class_names_of, explained, load_config, load_model
from ..utils import check_model_files, read_json
from .arguments import SourceArguments
from .classes import check_answer, order_by_name, with_classes
from .images import Images
from .recommend import recommend_images


logger = logging.getLogger(__name__)
Model = str | os.PathLike | PreTrainedModel


def is_main_process() -> bool:
    """Whether this process shows progress; also before a Trainer has set up the others."""
    return os.environ.get("RANK", "0") == "0"


def find_data(name: str | os.PathLike) -> dict[str, str]:
    """
    The field of `DataArguments` that a folder, a benchmark's name or a Hub id belongs to.

    Raises:
        `ValueError`: if `name` is a file, or can be none of them.
    """
    if not isinstance(name, str | os.PathLike):
        raise ValueError(f"The data is a {type(name).__name__}: give a folder, a name, or a DatasetDict with 'train'.")
    name = os.fspath(name)
    if os.path.isdir(os.path.expanduser(name)):
        return {"data_dir": name}
    if name in PRESETS:
        return {"benchmark": name}
    if os.path.isfile(os.path.expanduser(name)):
        raise ValueError(
            f"--data {name!r} is a file: give the folder that it is in; a list of images goes into --train_list."
        )
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
    """
    The name, folder or Hub id of a model; its class where it has none.

    Raises:
        `ValueError`: if it is no model, nor the name of one.
    """
    if not isinstance(model, str | os.PathLike | PreTrainedModel):
        raise ValueError(f"The model is a {type(model).__name__}: give a PreTrainedModel, a folder or a Hub id.")
    return model.name_or_path or type(model).__name__ if isinstance(model, PreTrainedModel) else os.fspath(model)


def is_pretrained(model: Model) -> bool:
    """Whether a model has been trained: it comes from a folder or the Hub, not from [`create_model`]."""
    if isinstance(model, PreTrainedModel):
        return bool(model.name_or_path)
    return "/" in model_name(model) or os.path.isdir(model)


def load_classifier(
    model: Model,
    *,
    class_names: Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    fresh_head: bool = False,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """
    A trained image classifier; one that is loaded already is returned as it is. Arguments as in [`load_model`].

    Args:
        fresh_head (`bool`, *optional*, defaults to `False`): Whether weights may be missing, because they are trained.

    Raises:
        `ValueError`: if there is none in the folder or on the Hub, it cannot be loaded, or a file of it is damaged.
    """
    if isinstance(model, PreTrainedModel):
        return model
    return load_model(
        model_name(model),
        AutoModelForImageClassification,
        class_names=class_names,
        dtype=dtype,
        fresh_head=fresh_head,
        trust_remote_code=trust_remote_code,
    )


def load_processor(name: str | os.PathLike, trust_remote_code: bool = False) -> BaseImageProcessor | None:
    """
    The image processor saved with a model, if there is one; models of timm have theirs in `config.json`, and that of
    an adapter may lie with its base.

    Raises:
        `ValueError`: if a library is missing that it needs, or code that is not trusted.
    """
    files = ("preprocessor_config.json", "processor_config.json")
    check_model_files(name)
    if os.path.isdir(name) and not any(os.path.exists(os.path.join(name, file)) for file in files):
        with explained(name):
            base = base_of(name)
        if base is not None:
            return load_processor(base, trust_remote_code)
        if "pretrained_cfg" not in read_json(os.path.join(name, "config.json")):
            return None
    with explained(name, "image processor"):
        return AutoImageProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)


def load_images(
    source: SourceArguments,
    given: Mapping[str, Any],
    model: Model | list[PreTrainedModel] | None,
    *,
    student: Model | None = None,
    seed: int = 0,
    num_groups: int | None = None,
    unlabelled: Any = None,
    match_labels: bool = False,
    validation: bool = False,
    trust_remote_code: bool = False,
) -> Images:
    """
    The images as a model's own image processor makes them, and for a teacher and its student as each has it.

    Args:
        source ([`SourceArguments`]): Its `data` is a folder, a benchmark's name, a dataset of the Hub or one in
            memory, or `None` where `given` names the images.
        given (`dict`): Fields of `DataArguments` that the user set; they win over the model's.
        model (`str`, `PreTrainedModel` or a list of these, *optional*):
            A name of [`create_model`] says nothing of its pixels. Of several teachers all see the same.
        student (`str` or `PreTrainedModel`, *optional*): The same of a student that is to learn from `model`. One
            without an image processor of its own sees what the teacher sees, in `image_size` if that is given.
        seed (`int`, *optional*, defaults to 0): Of the augmentation.
        num_groups (`int`, *optional*): Equal groups of classes; head, medium and tail by default.
        unlabelled (`str` or `datasets.Dataset`, *optional*): Images without a class, as [`load_image_data`] takes.
        match_labels (`bool`, *optional*, defaults to `False`):
            Whether `model` may have more classes than the data, or another order.
        validation (`bool`, *optional*, defaults to `False`): Whether images to choose on are needed.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether code may be run that models come with.

    Raises:
        `ValueError`: as [`load_or_hold_out`], or if no images are named, or the Hub has no such dataset.
    """
    splits, given = name_data(source, given)
    models = model if isinstance(model, list) else [] if model is None else [model]
    config = models[0].config if models and isinstance(models[0], PreTrainedModel) else None
    if models and config is None and is_pretrained(models[0]):
        config = load_config(model_name(models[0]), trust_remote_code=trust_remote_code)
    own, students = _pixels_of_all(models, trust_remote_code), load_pixels(student, trust_remote_code)
    size, pixels, teacher_pixels = given.get("image_size"), own, None
    if student is not None:
        pixels, teacher_pixels = choose_pixels(own, students, size)
    elif own is not None and size is not None:
        pixels = resized(own, size)
    args = DataArguments(**{**recommend_images(pixels, config, size, teacher_pixels), **given})

    def check_names(names: list[str], named: bool) -> None:
        if num_groups is not None:
            ClassGroups.from_counts([1] * len(names), num_groups)
        for classifier in (*models, student):
            if isinstance(classifier, PreTrainedModel):
                if match_labels:
                    order_by_name(classifier, names)
                else:
                    _check_names(classifier, names, named, args)

    try:
        images, holdout = load_or_hold_out(
            args,
            splits=splits,
            eval_fraction=source.eval_fraction,
            validation=validation,
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


def load_pixels(model: Model | None, trust_remote_code: bool) -> Pixels | None:
    """What a trained model sees, where it was saved with an image processor."""
    if model is None or not is_pretrained(model):
        return None
    processor = load_processor(model_name(model), trust_remote_code)
    return None if processor is None else pixels_of(processor)


def _pixels_of_all(models: list[Any], trust_remote_code: bool) -> Pixels | None:
    """
    What trained models see, each of several teachers the same.

    Raises:
        `ValueError`: if that differs: an item holds pixels of a student and of a teacher.
    """
    models = [one for model in models for one in (networks_of(model) if isinstance(model, nn.Module) else [model])]
    seen = [load_pixels(model, trust_remote_code) for model in models]
    kinds = [[p and p.description(augment) for augment in (True, False)] for p in seen]
    for model, kind in zip(models, kinds, strict=True):
        if kind != kinds[0]:
            raise ValueError(
                f"The teachers {model_name(models[0])!r} and {model_name(model)!r} see different pixels (their image "
                "processors differ), and only one kind beside the student's is made here: give teachers of one image "
                "processor, or DistillationTrainer a dataset with teacher_0_pixel_values, teacher_1_pixel_values, ..."
            )
    return seen[0] if seen else None


def make_groups(data: ImageData, num_groups: int | None = None) -> ClassGroups:
    """Head, medium and tail, or `num_groups` equal groups; two where there are two classes."""
    if num_groups is None and len(data.class_names) >= 3:
        return data.groups
    return ClassGroups.from_counts(data.split.class_counts, num_groups or len(data.class_names))


def new_classifier(model: Model, data: ImageData, trust_remote_code: bool = False) -> PreTrainedModel:
    """
    A network of [`create_model`], or a trained one with a new head, for the classes of `data`; in float32.

    Raises:
        `ValueError`: if it cannot be loaded, or not trained on these images.
    """
    if isinstance(model, PreTrainedModel):
        check_classes(model, data)
        return model
    names = data.class_names
    if is_pretrained(model):
        how: dict[str, Any] = {"class_names": names, "dtype": torch.float32, "trust_remote_code": trust_remote_code}
        config = load_config(model, trust_remote_code=trust_remote_code)
        if getattr(config, "quantization_config", None) is not None:
            raise ValueError(
                f"The model {model_name(model)!r} is quantised, and weights of 4 or 8 bits cannot be trained: give "
                "the model that it was made from."
            )
        network = load_classifier(model, **how)
    else:
        network = create_model(model_name(model), len(names), data.args.image_size, id2label=dict(enumerate(names)))
    check_answer(model_name(model), network, data.test.for_student())
    return network


def data_name(args: DataArguments) -> str:
    """What `--data` was."""
    return str(args.data_dir or args.benchmark or args.dataset_name)


def check_classes(model: PreTrainedModel, data: ImageData) -> None:
    """
    Raises:
        `ValueError`: if the model does not tell apart exactly the classes of the data, in their order.
    """
    _check_names(model, data.class_names, data.named, data.args)


def _check_names(model: PreTrainedModel, names: list[str], named: bool, args: DataArguments) -> None:
    name = model_name(model)
    advice = (
        f"train one on them first: hf-ltkd train-teacher --model {shlex.quote(name)} --data "
        f"{shlex.quote(data_name(args))}, or take its classes by name, if it knows all of them: --match_labels true"
    )
    if model.config.num_labels != len(names):
        raise ValueError(f"The model {name!r} has {model.config.num_labels} classes, the data {len(names)}: {advice}")
    if not named:
        return  # its labels are class ids
    for class_id, (own, given) in enumerate(zip(class_names_of(model), names, strict=True)):
        if own not in (None, class_name(given)):
            raise ValueError(f"Class {class_id} is {own!r} for the model {name!r} and {given!r} in the data: {advice}")


def fit_teachers(
    teachers: list[PreTrainedModel], data: ImageData, match_labels: bool, weights: Sequence[float] | None = None
) -> tuple[PreTrainedModel | None, bool]:
    """
    Teachers whose logits are those of the data's classes, as one, and whether one of them had to be matched; arguments
    as in [`fit_classes`], and `weights` of [`TeacherEnsemble`].
    """
    fitted = [fit_classes(teacher, data, match_labels) for teacher in teachers]
    matched = any(model is not teacher for model, teacher in zip(fitted, teachers, strict=True))
    if len(fitted) > 1:
        return TeacherEnsemble(fitted, weights=weights), matched
    return (fitted[0] if fitted else None), matched


def fit_classes(
    model: PreTrainedModel, data: ImageData, match_labels: bool, images: LabelledImages | None = None
) -> PreTrainedModel:
    """
    A trained model whose logits are those of the data's classes: as it is, or matched by the names of the classes.

    Args:
        model (`PreTrainedModel`): It stays as it is.
        data ([`ImageData`]): Its classes, and an image to ask the model for.
        match_labels (`bool`): Whether the model may have more classes, or another order.
        images ([`LabelledImages`], *optional*, defaults to what a teacher sees): What the model sees.

    Raises:
        `ValueError`: if the model is not for these classes, or not for images of this size.
    """
    check_answer(model_name(model), model, images or data.test.for_teacher())
    if model.config.problem_type == "multi_label_classification":
        logger.warning(
            "%s was trained for several classes an image: its logits are taken as those of a softmax over one.",
            model_name(model),
        )
    if not match_labels:
        check_classes(model, data)
        return model
    order = order_by_name(model, data.class_names)
    if order == list(range(model.config.num_labels)):  # type: ignore[arg-type]
        return model
    logger.warning(
        "Matched by name: the %d classes of the data among the %d of %s.",
        *(len(order), model.config.num_labels, model_name(model)),
    )
    return with_classes(model, order, data.class_names)
