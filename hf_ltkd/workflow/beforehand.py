"""What can be known to go wrong before an image is decoded or a teacher is asked."""

import json
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedModel
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from ..groups import ClassGroups
from ..losses import DistillationLoss, create_loss, find_loss, loss_arguments
from ..models import create_model
from ..trainer.checks import broken_tensors
from ..utils import listed, parse_values
from .arguments import SEGMENTATION, DistillArguments
from .inputs import Model, is_pretrained, load_classifier, model_name
from .recommend import SPACES, Recommendation, recommend_training, training_arguments


def check_training(given: Mapping[str, Any], model: Model, recommend: bool) -> None:
    """
    Raises:
        `ValueError`: if a training argument makes no sense, or what reports to is not installed.
    """
    # The number of images is not known yet, and decides nothing that could be wrong.
    recommended = Recommendation()
    if recommend:
        recommended = recommend_training(10_000, model_name(model), is_pretrained(model))
    args = training_arguments(dict(given), recommended, crop="padded")
    if args.learning_rate > 10:
        raise ValueError(f"learning_rate={args.learning_rate} is not valid: usual ones lie between 1e-5 and 1.")
    available = get_available_reporting_integrations()
    for tracker in args.report_to or []:
        if tracker not in INTEGRATION_TO_CALLBACK:
            raise ValueError(
                f"--report_to {tracker} is not known: use none, all, or some of {', '.join(INTEGRATION_TO_CALLBACK)}."
            )
        if tracker not in available:
            raise ValueError(
                f"--report_to {tracker} needs a package that is not installed here: pip install "
                f"{tracker.replace('_', '-')}, or leave it out; there {_are(available)}."
            )


def _are(available: list[str]) -> str:
    return f"are {', '.join(available)}" if available else "is none"


def check_network(flag: str, model: Model, image_size: int | None, trust_remote_code: bool = False) -> None:
    """
    Raises:
        `ValueError`: if there is no such network, or its weights are broken.
    """
    if is_pretrained(model) or not isinstance(model, str):
        check_weights(load_classifier(model, fresh_head=True, trust_remote_code=trust_remote_code), flag)
        return
    try:
        with torch.device("meta"):
            create_model(model, 2, image_size or 32)
    except ValueError as error:
        raise ValueError(f"--{flag} {model}: {error}") from error


def read_loss_args(given: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """`{"alpha": 1}` as it is, `["alpha=1"]` of the command line, or `['{"alpha": 1}']` of a YAML file."""
    if isinstance(given, Mapping):
        return dict(given)
    if not isinstance(given, list | tuple) or not all(isinstance(item, str) for item in given):
        raise ValueError(f"loss_args={given!r} is not valid: give a dict such as {{'alpha': 1}}, or name=value items.")
    if len(given) == 1 and given[0].startswith("{"):
        return json.loads(given[0])
    return parse_values("--loss_args", given)


def new_loss(
    choices: DistillArguments, groups: ClassGroups, loss_args: Mapping[str, Any], benchmark: str | None
) -> DistillationLoss:
    """The loss that was asked for."""
    if choices.adjust_teacher and "prior" in loss_arguments(find_loss(choices.loss)):
        loss_args = {"prior": "teacher", **loss_args}
    dataset = (benchmark or "cifar100_lt").removesuffix("_lt")
    pair: Any = choices.pair and tuple(choices.pair)
    return create_loss(choices.loss, groups, pair=pair, dataset=dataset, **loss_args)


def check_loss(
    choices: DistillArguments, loss: DistillationLoss, given: Mapping[str, Any], of_pixels: bool = False
) -> None:
    """
    Args:
        choices ([`DistillArguments`]): What was asked for.
        loss ([`DistillationLoss`]): The loss of that name, which may be the user's own.
        given (`Mapping[str, Any]`): Its arguments that were set.
        of_pixels (`bool`, *optional*, defaults to `False`): Whether each pixel has a class.

    Raises:
        `ValueError`: if the loss lacks a teacher, or something was asked for that does not go with it.
    """
    name, count = f"--loss {choices.loss}", len(choices.teachers)
    if loss.needs_pixels and not of_pixels:
        raise ValueError(f"{name} is for models that give each pixel a class: choose another loss, such as kd.")
    if given.get("mass_per_image") and not of_pixels:
        raise ValueError("--loss_args mass_per_image is for models that give each pixel a class: leave it out.")
    if loss.needs_hidden_states and of_pixels:
        raise ValueError(f"{name} compares features of classifiers of whole images: choose another loss, such as kd.")
    if loss.needs_teacher and not count:
        raise ValueError(
            f"--teacher is missing, which {name} needs: give the Hub id or the folder of a classifier, or train one "
            f"first: hf-ltkd train-teacher{f' --task {SEGMENTATION}' if of_pixels else ''} --data FOLDER --output_dir "
            "teacher"
        )
    if loss.needs_hidden_states and count > 1:
        raise ValueError(
            f"{name} compares hidden states, which {count} teachers do not have in common: give one teacher, or "
            "choose another loss, such as kd."
        )
    if choices.unlabelled is not None and (loss.needs_labels or not loss.needs_teacher):
        raise ValueError(
            f"--unlabelled {choices.unlabelled} does not go with {name}, which learns from the class of each image: "
            "choose another loss, such as kd, or leave it out."
        )
    if choices.adjust_teacher and "prior" not in loss_arguments(type(loss)):
        raise ValueError(f"--adjust_teacher goes with losses that compare logits alone, not with {name}.")
    if choices.adjust_teacher and given.get("prior", "teacher") != "teacher":
        raise ValueError(f"--adjust_teacher and --loss_args prior={given['prior']} are two: give one of them.")


def check_cached(loss: DistillationLoss, training: Mapping[str, Any]) -> None:
    """
    Raises:
        `ValueError`: if the loss, or a training argument, does not go with cached logits of the teacher.
    """
    if loss.needs_hidden_states or not loss.needs_teacher:
        raise ValueError(
            f"--teacher_cache keeps a teacher's logits, which {type(loss).__name__} does not compare: leave it out."
        )
    for name in ("eval_with_teacher", "overlap_teacher", "mixup_alpha", "cutmix_alpha"):
        if training.get(name):
            raise ValueError(
                f"--{name} needs the teacher itself, not its cached logits: leave --teacher_cache and --tune out."
            )


def check_search(
    choices: DistillArguments, given: Mapping[str, Any], training: Mapping[str, Any]
) -> dict[str, tuple[float, float]]:
    """
    What `--tune` will choose: the arguments in `SPACES` that are not `given`, with their ends.

    Raises:
        `ValueError`: if there is nothing to choose, or `--tune` or `--seeds` does not go with something else.
    """
    if choices.seeds is not None and training.get("resume_from_checkpoint"):
        raise ValueError(
            "--resume_from_checkpoint does not go with --seeds, whose command goes on by itself when it is given "
            "again: leave it out."
        )
    if choices.tune is None:
        return {}
    if choices.loss not in SPACES:
        raise ValueError(
            f"--tune has nothing to choose for --loss {choices.loss}: it chooses weights and temperature of "
            f"{', '.join(SPACES)}, which compare cached logits."
        )
    space = {name: ends for name, ends in SPACES[choices.loss].items() if name not in given}
    if not space:
        names = ", ".join(SPACES[choices.loss])
        raise ValueError(f"--loss_args sets all that --tune would choose ({names}): leave one of them out.")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            "--tune runs in one process, which is where a trial is stopped early: run it without torchrun, and give "
            "what it chooses to --loss_args."
        )
    if find_spec("optuna") is None:
        raise ValueError('--tune needs optuna, which is not installed here: pip install "hf_ltkd[tune]"')
    return space


def check_weights(model: PreTrainedModel, role: str) -> None:
    """
    Raises:
        `ValueError`: if a weight is NaN or infinite: whatever the model is shown, its answer is no class.
    """
    if wrong := broken_tensors(model):
        raise ValueError(
            f"The {role} {model_name(model)!r} is broken: {len(wrong)} of its tensors hold NaN or Inf "
            f"({listed(wrong, 3)}): give another checkpoint, or train it again with a lower learning rate."
        )


def check_hub_id(flag: str, name: Any) -> None:
    """
    Raises:
        `ValueError`: if no repository of the Hub can have this name.
    """
    try:
        validate_repo_id(name or "")  # it lets None pass
    except HFValidationError as error:
        raise ValueError(
            f"--{flag} {name!r} is no name of a repository on the Hub: expected owner/name, of letters, digits, '-', "
            "'_' and '.', at most 96 of them."
        ) from error


def check_push(choices: DistillArguments, training: dict[str, Any]) -> None:
    """
    Makes `--push_to_hub` a `--push`: there is one, at the end, when it is known whether distilling paid.

    Raises:
        `ValueError`: if no repository can have the name that is pushed to, or nobody is logged in.
    """
    if training.pop("push_to_hub", False) and choices.push is None:
        choices.push = training.get("hub_model_id") or Path(training["output_dir"]).absolute().name
    if choices.push is None:
        return
    check_hub_id("push", choices.push)
    if get_token() is None and training.get("hub_token") is None:
        raise ValueError(f"--push {choices.push} needs a login: run `hf auth login`, or set HF_TOKEN.")
    if training.get("hub_strategy", "every_save") not in ("every_save", "end"):
        raise ValueError(
            f"--hub_strategy {training['hub_strategy']} does not go with distilling, which pushes the student once: "
            "leave it out."
        )
    training["hub_model_id"] = choices.push


def check_apart(flag: str, path: str | os.PathLike, others: Mapping[str, Any]) -> None:
    """
    Args:
        flag (`str`): What `path` was given as.
        path (`str` or `os.PathLike`): Where something will be written.
        others (`Mapping[str, Any]`): By flag what is read, or a list; all but folders here are passed over.

    Raises:
        `ValueError`: if `path` is one of the `others` or inside, which would change it;
            or if nothing can be written there.
    """
    place = Path(path).expanduser().resolve()
    for other, name in [(flag, one) for flag, n in others.items() for one in (n if isinstance(n, list) else [n])]:
        if not isinstance(name, str | os.PathLike) or not Path(name).expanduser().is_dir():
            continue
        folder = Path(name).expanduser().resolve()
        if place == folder or folder in place.parents:
            raise ValueError(
                f"--{flag} {str(path)!r} is {'' if place == folder else 'inside '}the folder of --{other} "
                f"({str(name)!r}), whose content it would change: choose one outside."
            )
    above = next(above for above in (place, *place.parents) if above.exists())
    if flag == "picture" and above == place:  # that of an earlier run
        above = place.parent
    if above.is_file() or not os.access(above, os.W_OK):
        what = "is a file" if above.is_file() else "cannot be written to"
        raise ValueError(f"--{flag} {str(path)!r}: {str(above)!r} {what}; choose another place.")


def prepare_folder(training: dict[str, Any], output_dir: str, read: Mapping[str, Any]) -> None:
    """
    Looks at the folder of a training, and makes a bool of `resume_from_checkpoint`, which may be a word.

    Raises:
        `ValueError`: if a model or a training is there already that would be overwritten, or what is read.
    """
    resume = training.get("resume_from_checkpoint")
    if str(resume).lower() in ("true", "false"):  # from the command line it comes as a word
        resume = training["resume_from_checkpoint"] = str(resume).lower() == "true"
    folder = training.setdefault("output_dir", output_dir)
    if not isinstance(folder, str | os.PathLike):
        raise ValueError(f"output_dir={folder!r} is not valid: it must be the path of a folder.")
    check_apart("output_dir", folder, read)
    if training.get("hub_model_id") is not None:
        check_hub_id("hub_model_id", training["hub_model_id"])
    check_free(Path(folder), resume)
    candidates = Path(folder).glob("checkpoint-*") if resume is True else [Path(resume or folder)]
    if resume and not any(path.is_dir() for path in candidates):
        raise ValueError(
            f"resume_from_checkpoint={resume} finds nothing: there is no checkpoint in {str(folder)!r}, nor a folder "
            "of that name; leave it out to start anew."
        )


def check_free(folder: Path, resume: Any) -> None:
    """
    Raises:
        `ValueError`: if a folder holds a model or a training already, and `resume` does not say to go on with it.
    """
    if not resume and ((folder / "config.json").exists() or any(folder.glob("checkpoint-*"))):
        raise ValueError(
            f"{str(folder)!r} holds a model or an unfinished training already: choose another --output_dir, go on "
            "with --resume_from_checkpoint true (of one student, not of --seeds), or remove the folder."
        )
