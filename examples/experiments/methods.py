"""The methods of an experiment: what each may say, its loss, and grids and searches as many methods."""

import inspect
import itertools
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from hf_ltkd import ClassGroups, create_loss, losses
from hf_ltkd.losses import LOSSES, DistillationLoss, loss_arguments


FOLDER = Path(__file__).parent
NEAREST = yaml.safe_load((FOLDER / "published_pairs.yaml").read_text(encoding="utf-8"))

# `published` is true, or the pair whose published values are taken; `adjust_teacher` divides the class prior out of
# the teacher's probabilities; `teacher_ce` is the cross-entropy of another teacher; `adjust_student` scores a plain
# student by its logits less the log prior (Menon et al. 2021); `grid` (argument to values) stands for a method each,
# `search` for Optuna's trials.
KEYS = ("loss", "arguments", "published", "num_groups", "adjust_teacher", "teacher_ce", "adjust_student")
KEYS += ("training", "grid", "search")
MEASURE_KEYS = ("measure", "batch_size", "batches", "temperatures")
SEARCH_KEYS = ("trials", "space", "metric")
OF_FILES: dict[str, str] = {}  # losses of files, by the name that experiments give them
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
            raise ValueError(f"{where}: there is no {key!r}, use any of {', '.join(known)}.")


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
    if method.get("adjust_student") and (method["loss"], method.get("arguments")) != ("ce", None):
        raise ValueError(f"{where}: adjust_student goes with loss: ce alone, without arguments.")
    if "teacher_ce" in method:
        create_loss("ce", ClassGroups.from_counts([2, 1], 2), ce=method["teacher_ce"])  # which raises
    grid, search = method.get("grid", {}), method.get("search", {"trials": 1, "space": {}})
    check_keys(f"{where}, search", search, SEARCH_KEYS)
    check_keys(f"{where}, metric", {search.get("metric", "accuracy"): None}, METRICS)
    values = {"arguments": method.get("arguments", {}), "grid": grid, "space": search.get("space")}
    for kind, names in values.items():
        check_keys(f"{where}, {kind}", names, default_arguments(find_loss(method["loss"], folder)))
    if not all(isinstance(tried, list) and tried for tried in [*grid.values(), *search["space"].values()]):
        raise ValueError(f"{where}: grid and space must name a list of values for each argument.")
    if type(search.get("trials")) is not int or search["trials"] < 1 or (grid and "search" in method):
        raise ValueError(f"{where} must have a grid, or a search with its trials, 1 or more, not both.")


def find_loss(name: str, folder: Path = FOLDER) -> type[DistillationLoss]:
    """
    The class of a loss: one of `LOSSES`, or one's own as `my_module:MyLoss` or `my_file.py:MyLoss`, looked for in
    `folder` and where the script was started.

    Raises:
        `ValueError`: if there is none.
    """
    source, _, class_name = name.rpartition(":")
    sys.path += [str(parent) for parent in (folder, Path.cwd()) if str(parent) not in sys.path]
    path = next((parent / source for parent in (folder, Path.cwd()) if (parent / source).is_file()), None)
    if path is not None:
        OF_FILES[name] = f"{path}:{class_name}"
    return losses.find_loss(OF_FILES.get(name, name))


def default_arguments(loss: type[DistillationLoss] | None) -> dict[str, Any]:
    """The arguments that an experiment may give to a loss, with their defaults; none of one that is not known."""
    bases = [base for base in loss.__mro__ if issubclass(base, DistillationLoss)] if loss else []
    defaults = {k: p.default for base in bases[::-1] for k, p in inspect.signature(base).parameters.items()}
    return {k: defaults[k] for k in (loss_arguments(loss) if loss else []) if k not in ("groups", "class_counts")}


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


def make_loss(run: dict[str, Any], class_counts: list[int], groups: ClassGroups | None = None) -> DistillationLoss:
    """
    The loss of a run.

    Args:
        run (`dict`): With `loss`, `arguments`, `published_for`, `num_groups` and `adjust_teacher`.
        class_counts (`list[int]`): Training images per class.
        groups ([`ClassGroups`], *optional*): Head, medium and tail, where they are not the thirds of the classes.
    """
    find_loss(run["loss"])
    arguments, published = dict(run["arguments"]), {}
    if run["adjust_teacher"]:
        arguments["prior"] = "teacher"
    if run["published_for"]:
        dataset = (run["data"].get("benchmark") or "cifar100_lt").removesuffix("_lt")
        own = f"{dataset} {':'.join(run['published_for'])}"
        dataset, pair = NEAREST.get(run["loss"], {}).get(own, own).split()
        published = {"pair": tuple(pair.split(":")), "dataset": dataset}
    if groups is None or run["num_groups"] != 3:
        groups = ClassGroups.from_counts(class_counts, run["num_groups"])
    return create_loss(OF_FILES.get(run["loss"], run["loss"]), groups, **published, **arguments)
