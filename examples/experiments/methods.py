"""The methods of an experiment: what each may say, its loss, and grids and searches as many methods."""

import importlib
import importlib.util
import inspect
import itertools
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from hf_ltkd import ClassGroups, create_loss, log_class_prior
from hf_ltkd.losses import LOSSES, DistillationLoss


FOLDER = Path(__file__).parent
NEAREST = yaml.safe_load((FOLDER / "published_pairs.yaml").read_text(encoding="utf-8"))

KEYS = ("loss", "arguments", "published", "num_groups", "adjust_teacher", "training", "grid", "search")
MEASURE_KEYS = ("measure", "batch_size", "batches", "temperatures")
SEARCH_KEYS = ("trials", "space", "metric")
METRICS = ("accuracy", "head_accuracy", "medium_accuracy", "tail_accuracy")


def check_keys(where: str, given: Any, known: Collection[str]) -> None:
    """
    Raises:
        `ValueError`: if `given` is no mapping, or has a key that nothing reads.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} must hold lines of the form name: value, not {given!r}.")
    for key in given:
        if key not in known:
            raise ValueError(f"{where} has the key {key!r}, which nothing reads: use any of {', '.join(known)}.")


def check_method(where: str, method: dict[str, Any], folder: Path) -> None:
    """
    Raises:
        `ValueError`: if a key is misspelt, or the loss does not exist or does not take an argument.
    """
    if "measure" in method:
        check_keys(where, method, MEASURE_KEYS)
        if method["measure"] != "group_mass" or len(method) < len(MEASURE_KEYS):
            raise ValueError(f"{where} must be measure: group_mass with {', '.join(MEASURE_KEYS[1:])}.")
        return
    check_keys(where, method, KEYS)
    if "loss" not in method:
        raise ValueError(f"{where} has no loss: use any of {', '.join(LOSSES)}, module:Class or file.py:Class.")
    grid, search = method.get("grid", {}), method.get("search", {})
    check_keys(f"search of {where}", search, SEARCH_KEYS)
    space = search.get("space", {})
    for kind, values in (("arguments", method.get("arguments", {})), ("grid", grid), ("space", space)):
        check_keys(f"{kind} of {where}", values, default_arguments(find_loss(method["loss"], folder)))
    for name, values in {**grid, **space}.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{where}: {name} must be a list of the values to try, not {values!r}.")
    if search.get("metric", "accuracy") not in METRICS:
        raise ValueError(f"{where}: the metric {search['metric']!r} is not measured: use one of {', '.join(METRICS)}.")
    trials = search.get("trials", 1)
    if (grid and search) or ("search" in method and not space) or not isinstance(trials, int) or trials < 1:
        raise ValueError(f"{where} must have a grid, or a search with its trials (1 or more) and its space, not both.")


def find_loss(name: str, folder: Path | None = None) -> type[DistillationLoss]:
    """
    The class of a loss: one of `LOSSES`, or `my_module:MyLoss` or `my_file.py:MyLoss`, looked for beside the experiment
    and from where the script was started; such a one joins `LOSSES`, so that [`create_loss`] makes it too.

    Raises:
        `ValueError`: if there is none.
    """
    if name in LOSSES:
        return LOSSES[name]
    source, _, class_name = name.rpartition(":")
    if not source:
        raise ValueError(f"There is no loss {name!r}: use {', '.join(LOSSES)}, module:Class or file.py:Class.")
    folders = [*([] if folder is None else [folder]), Path(os.getcwd())]
    try:
        if source.endswith(".py"):
            path = next((path for path in (parent / source for parent in folders) if path.is_file()), None)
            if path is None:
                raise ValueError(
                    f"The loss {name!r} is not there: no file {source!r} in {' or '.join(map(str, folders))}."
                )
            spec = importlib.util.spec_from_file_location(path.stem, path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            sys.path += [str(parent) for parent in folders if str(parent) not in sys.path]
            module = importlib.import_module(source)
        loss = vars(module)[class_name]
    except (ImportError, KeyError) as error:
        raise ValueError(f"The loss {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not (inspect.isclass(loss) and issubclass(loss, DistillationLoss)):
        raise ValueError(f"The loss {name!r} is no subclass of DistillationLoss.")
    LOSSES[name] = loss
    return loss


def default_arguments(loss_class: type[DistillationLoss]) -> dict[str, Any]:
    """The arguments that an experiment may give to a loss, with their defaults."""
    defaults: dict[str, Any] = {}
    for parent in loss_class.__mro__[: loss_class.__mro__.index(nn.Module)]:
        if "__init__" not in vars(parent):
            continue
        parameters = inspect.signature(parent.__init__).parameters.values()
        for parameter in parameters:
            if parameter.name not in ("self", "groups", "class_counts") and parameter.kind not in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            ):
                defaults.setdefault(parameter.name, parameter.default)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return defaults


def expand(methods: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A method with a `grid` as one for each of its points, one with a `search` as one for each of its trials."""
    expanded: dict[str, dict[str, Any]] = {}
    for name, method in methods.items():
        plain = {key: value for key, value in method.items() if key not in ("grid", "search")}
        if "search" in method:
            search = {"space": method["search"]["space"], "metric": method["search"].get("metric", "accuracy")}
            for trial in range(method["search"]["trials"]):
                expanded[f"{name} trial {trial}"] = {**plain, "search": search, "trial": trial}
            continue
        grid = method.get("grid", {})
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            arguments = {"arguments": {**plain.get("arguments", {}), **point}} if point else {}
            expanded[with_values(name, point)] = {**plain, **arguments}
    return expanded


def with_values(name: str, values: dict[str, Any]) -> str:
    """`ltkd alpha=1 beta=0.5`"""
    return " ".join([name, *(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())])


def make_loss(run: dict[str, Any], counts: list[int], groups: ClassGroups | None = None) -> DistillationLoss:
    """
    The loss of a run.

    Args:
        run (`dict`): With `loss`, `arguments`, `published_for`, `num_groups` and `adjust_teacher`.
        counts (`list[int]`): Training images per class.
        groups ([`ClassGroups`], *optional*): Head, medium and tail, where they are not the thirds of the classes.
    """
    find_loss(run["loss"])
    arguments, published = dict(run["arguments"]), {}
    if run["adjust_teacher"]:
        arguments["teacher_log_prior"] = log_class_prior(counts)
    if run["published_for"]:
        dataset, pair = (
            (run["data"].get("benchmark") or "cifar100_lt").removesuffix("_lt"),
            ":".join(run["published_for"]),
        )
        dataset, pair = NEAREST.get(run["loss"], {}).get(f"{dataset} {pair}", f"{dataset} {pair}").split()
        published = {"pair": tuple(pair.split(":")), "dataset": dataset}
    if groups is None or run["num_groups"] != 3:
        groups = ClassGroups.from_counts(counts, run["num_groups"])
    return create_loss(run["loss"], groups, **published, **arguments)
