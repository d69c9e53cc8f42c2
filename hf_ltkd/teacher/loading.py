"""Classifiers by folder or Hub id: of transformers and timm, quantised, with an adapter, with code of their own."""

import copy
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from ..data.image_files import class_name
from ..utils import check_model_files, listed, one_line, read_json


# The last words of a saved model's class name, and the class that loads it.
AUTO_CLASSES: dict[str, Any] = {
    "ForImageClassification": transformers.AutoModelForImageClassification,
    "ForSequenceClassification": transformers.AutoModelForSequenceClassification,
    "ForTokenClassification": transformers.AutoModelForTokenClassification,
    "ForAudioClassification": transformers.AutoModelForAudioClassification,
    "ForAudioFrameClassification": transformers.AutoModelForAudioFrameClassification,
    "ForVideoClassification": transformers.AutoModelForVideoClassification,
    "ForCausalLM": transformers.AutoModelForCausalLM,
    "LMHeadModel": transformers.AutoModelForCausalLM,
    "ForMaskedLM": transformers.AutoModelForMaskedLM,
    "ForSemanticSegmentation": transformers.AutoModelForSemanticSegmentation,
}
# What may be missing, and what installs it.
PACKAGES = {
    "timm": '"hf_ltkd[timm]"',
    "torchvision": '"hf_ltkd[timm]"',
    "peft": '"hf_ltkd[peft]"',
    "bitsandbytes": "bitsandbytes",
}


def load_config(
    name: str | os.PathLike, *, class_names: Sequence[str] | None = None, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """
    The config of a model; that of an adapter's base, since adapters have none.

    Args:
        name (`str` or `os.PathLike`): Hub id or folder.
        class_names (`Sequence[str]`, *optional*): Its classes, where the model is to get a new head.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether its own code may be run.

    Raises:
        `ValueError`: if there is none, or it needs what is not installed, or code that is not trusted.
    """
    check_model_files(name)
    with explained(name):
        return _config(base_of(name) or name, class_names, trust_remote_code)


def load_model(
    name: str | os.PathLike,
    auto_class: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    fresh_head: bool = False,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """
    A classifier as it was saved, or with a new head; an adapter is merged into its base.

    Args:
        name (`str` or `os.PathLike`): Hub id or folder.
        auto_class (*optional*): The class of transformers that loads it; by default that of its architecture.
        class_names, trust_remote_code: As in [`load_config`].
        dtype (`torch.dtype`, *optional*): Of the weights; as they were saved by default.
        fresh_head (`bool`, *optional*, defaults to `False`): Whether weights may be missing, as they are for a new
            head.

    Raises:
        `ValueError`: as [`load_config`], or if it is no classifier, lacks weights, or a file of it is damaged.
    """
    check_model_files(name)
    kinds = {None: "classifier", transformers.AutoModelForSemanticSegmentation: "segmentation model"}
    what = kinds.get(auto_class, "image classifier")
    with explained(name, what):
        base = base_of(name)
        config = _config(base or name, class_names, trust_remote_code)
    auto_class = auto_class or _auto_class(name, config)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code} | ({} if dtype is None else {"dtype": dtype})
    new_head = class_names is not None
    with explained(name, what):
        if base is None:
            options |= {"config": config, "ignore_mismatched_sizes": new_head, "output_loading_info": True}
            model, report = auto_class.from_pretrained(name, **options)
            missing = sorted(report["missing_keys"])
        else:
            model, missing = _with_adapter(os.fspath(name), base, auto_class, config, new_head, options)
    if missing and not (fresh_head or new_head):
        raise ValueError(
            f"{os.fspath(name)!r} is no trained classifier: it lacks {listed(missing, 3)}, which would be random "
            f"numbers; train it on your classes first: hf-ltkd train-teacher --model {shlex.quote(os.fspath(name))} "
            "--data FOLDER"
        )
    return model


def _config(name: str | os.PathLike, class_names: Sequence[str] | None, trust_remote_code: bool) -> PreTrainedConfig:
    config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    config.architectures = config.architectures or []  # transformers iterates over them where there are two heads
    config.return_dict = True
    if class_names is not None:
        config.id2label = dict(enumerate(class_names))
        config.label2id = {label: class_id for class_id, label in enumerate(class_names)}
        if config.model_type == "timm_wrapper":
            config.label_names = [*class_names]  # saved in the place of id2label; those of before would come back
        config.problem_type = "single_label_classification"  # a pipeline would show the sigmoid of several labels
    if config.model_type == "timm_wrapper" and config.model_args:
        # timm writes it beside num_classes, and the wrapper would give it to timm twice.
        config.model_args = {key: value for key, value in config.model_args.items() if key != "num_classes"}
    return config


def _auto_class(name: str | os.PathLike, config: PreTrainedConfig) -> Any:
    """The class that loads a classifier: by its architecture or, where that is not saved, by its kind of model."""
    saved_as = (config.architectures or ["unknown"])[0]
    for suffix, auto_class in AUTO_CLASSES.items():
        knows = type(config) in auto_class._model_mapping
        if not saved_as.endswith(suffix) and not (saved_as == "unknown" and knows):
            continue
        if suffix == "ForSequenceClassification" and not knows:
            return transformers.AutoModelForAudioClassification  # Wav2Vec2 and its kin use that name too
        return auto_class
    raise ValueError(
        f"The teacher {os.fspath(name)!r} was saved as {saved_as}, which is no classifier: expected a class whose "
        f"name ends with {', '.join(AUTO_CLASSES)}; fine-tune it on the classes first, or load it and pass the model."
    )


def base_of(name: str | os.PathLike) -> str | None:
    """
    The model that an adapter of PEFT belongs to, as a Hub id or folder; `None` if `name` is no adapter.

    Raises:
        `ImportError`: if PEFT is not installed.
        `OSError`: if a folder that the adapter names does not exist.
    """
    file = find_adapter_config_file(os.fspath(name))
    if file is None or (Path(name) / "config.json").is_file():  # a whole model, which an adapter lies beside
        return None
    if find_spec("peft") is None:
        raise ImportError("an adapter needs peft")
    base = read_json(file)["base_model_name_or_path"]
    beside = Path(name) / base
    if not os.path.isdir(base) and beside.is_dir():
        return str(beside)
    if not os.path.isdir(base) and (base[:1] in "./~" or base.count("/") > 1):
        raise OSError(
            f"its adapter_config.json names the base model {base!r}, which is no folder here; put it there, or "
            "correct base_model_name_or_path"
        )
    return base


def _with_adapter(
    name: str, base: str, auto_class: Any, config: PreTrainedConfig, new_head: bool, options: dict[str, Any]
) -> tuple[PreTrainedModel, list[str]]:
    """The model, and the tensors that neither adapter nor base has."""
    from peft import PeftModel
    from peft.utils import load_peft_weights

    weights = {key.removeprefix("base_model.model."): w for key, w in load_peft_weights(name, device="cpu").items()}
    if not new_head:  # as many classes as the adapter's own head has
        make = partial(auto_class.from_config, trust_remote_code=options["trust_remote_code"])
        sizes = {weights[key].shape[dim] for key, dim in head_tensors(config, make).items() if key in weights}
        if sizes and sizes != {config.num_labels}:
            config.num_labels = sizes.pop()
    options |= {"config": config, "ignore_mismatched_sizes": True, "output_loading_info": True}
    model, report = auto_class.from_pretrained(base, **options)
    missing = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])} - set(weights)
    adapted: Any = PeftModel.from_pretrained(model, name, ignore_mismatched_sizes=new_head)
    # Merged into 4 or 8 bits it would be rounded.
    model = adapted.get_base_model() if is_quantised(model) else adapted.merge_and_unload().requires_grad_()
    model.name_or_path = model.config.name_or_path = name
    return model, sorted(missing)


def head_tensors(config: PreTrainedConfig, make: Callable[[PreTrainedConfig], nn.Module]) -> dict[str, int]:
    """
    The tensors of a classifier whose shape depends on the number of classes, and the dimension that does.

    Args:
        config (`PreTrainedConfig`): Its config.
        make (`Callable`): Makes the model from a config: its class.
    """
    shapes = []
    for more in (0, 1):
        changed = copy.deepcopy(config)
        changed.num_labels = int(config.num_labels) + more  # type: ignore[arg-type]
        with torch.device("meta"):
            shapes.append({name: tensor.shape for name, tensor in make(changed).state_dict().items()})
    before, after = shapes
    return {
        name: next(dim for dim, size in enumerate(shape) if size != after[name][dim])
        for name, shape in before.items()
        if shape != after[name]
    }


def class_names_of(model: PreTrainedModel) -> list[str | None]:
    """The names of a model's classes in the Unicode form in which they are compared; `None` for one without a name."""
    names: dict = dict(model.config.id2label or {})
    return [
        None if names.get(c, f"LABEL_{c}") == f"LABEL_{c}" else class_name(str(names[c]))
        for c in range(int(model.config.num_labels))  # type: ignore[arg-type]
    ]


def is_quantised(model: Any) -> bool:
    """Whether the weights have 4 or 8 bits, which stay where they were loaded."""
    return getattr(model, "is_quantized", False)


@contextmanager
def explained(name: str | os.PathLike, what: str = "image classifier") -> Iterator[None]:
    """
    Args:
        name (`str` or `os.PathLike`): Hub id or folder of what is loaded.
        what (`str`, *optional*, defaults to `"image classifier"`): What it is.

    Raises:
        `ValueError`: in one sentence, whatever loading a model raises.
    """
    name = os.fspath(name)
    try:
        yield
    except Exception as error:  # code of a model's own may raise anything
        text = one_line(error)
        for package, install in PACKAGES.items():
            if re.search(rf"\b{package}\b", text) and find_spec(package) is None:  # not timm_wrapper in a list
                raise ValueError(
                    f"The model {name!r} needs {package}, which is not installed here: pip install {install}"
                ) from error
        if "trust_remote_code" in text:
            where = os.path.abspath(name) if os.path.isdir(name) else f"https://hf.co/{name}"
            raise ValueError(
                f"The model {name!r} comes with code of its own, which is run only if you say so: read it in {where}, "
                "then add --trust_remote_code true (in Python trust_remote_code=True, or load it and pass the model)."
            ) from error
        if "ignore_mismatched_sizes" in text:
            raise ValueError(
                f"The weights of the model {name!r} do not fit its config.json: mend that; its id2label may have "
                "another number of classes than the head."
            ) from error
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, OSError | ValueError):
            where = "in this folder" if os.path.isdir(name) else "as a folder here or on the Hub"
            raise ValueError(f"There is no {what} {name!r} {where}: {first}") from error
        raise ValueError(f"The model {name!r} cannot be loaded ({type(error).__name__}): {first}") from error
