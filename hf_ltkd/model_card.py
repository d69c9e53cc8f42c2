"""The card of a student, from what was logged and measured; what is not known is left out."""

import copy
import csv
import html
import json
import math
import os
import platform
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils.sha import sha_fileobj
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from .data.long_tail import RECIPE_NAME, LongTailRecipe
from .groups import CLASS_GROUPS_NAME, ClassGroups


if TYPE_CHECKING:
    from .hub_trainer import HubTrainer

RUN_NAME = "distillation.json"
GROUP_PICTURE, CLASS_PICTURE = PICTURES = ("group_accuracy.png", "class_accuracy.png")
# What examples/export_onnx.py writes; the second file holds the weights of a network above 1.5 GB.
ONNX_FILES = ("onnx/model.onnx", "onnx/model.onnx.data", "onnx/measurements.json")
TEMPLATE = Path(__file__).parent / "templates" / "student_card.md"
# The last words of a model's class name, and the Hub's name of the task.
TASKS = {
    "ForImageClassification": "image-classification",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForAudioClassification": "audio-classification",
    "ForVideoClassification": "video-classification",
}


def network_class(model: nn.Module) -> type[nn.Module]:
    """The class of a network, also where FSDP has put its own before it."""
    return next(c for c in type(model).__mro__ if not c.__name__.startswith("FSDP"))


def describe_model(model: nn.Module) -> dict[str, Any]:
    """
    What a card says of a network: `class`, `parameters` and `weight_bytes` of what is saved, `name` if it came from
    the Hub, and for a network on images `macs`, the multiply-adds of its convolutions and matrix products for one
    image of shape `input`. They are counted on a copy without weights; a network that does not run that way has none.
    """
    network = network_class(model)
    description: dict[str, Any] = {"class": network.__name__}
    if not isinstance(model, PreTrainedModel):
        return {**description, **_sizes(model)}
    config = copy.deepcopy(model.config)
    name = config.name_or_path or ""
    if "/" in name and _is_hub_id(name) and not os.path.exists(name):
        description["name"] = name  # on the Hub, not a folder
    try:
        with torch.device("meta"):
            empty = network(config).to(dtype=model.dtype).eval()  # type: ignore[call-arg]
            description |= _sizes(empty)
            if model.main_input_name == "pixel_values":
                size = getattr(config, "image_size", 224)  # the size of ImageNet's networks, whose configs name none
                height, width = size if isinstance(size, list | tuple) else (size, size)
                description["input"] = [getattr(config, "num_channels", 3), height, width]
                with FlopCounterMode(display=False) as counter, torch.no_grad():
                    empty(torch.empty(1, *description["input"], dtype=model.dtype))
                description["macs"] = counter.get_total_flops() // 2
    except Exception:  # whatever a network of one's own may raise: a number less in a card, and no checkpoint lost
        description |= _sizes(model)
    return description


def _sizes(model: nn.Module) -> dict[str, int]:
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "weight_bytes": sum(t.numel() * t.element_size() for t in model.state_dict().values()),
    }


def describe_run(trainer: "HubTrainer") -> dict[str, Any]:
    """What a trainer knows of its run, as JSON values without paths; it is saved as `distillation.json`."""
    import hf_ltkd  # here: its version is set after this file is imported

    args, state, evaluation = trainer.args, trainer.state, trainer.evaluation or {}
    loss, device = trainer.distillation_loss, args.device.type
    name = torch.cuda.get_device_name() if device == "cuda" else f"{device.upper()} ({platform.machine()})"
    runtime = [entry["train_runtime"] for entry in state.log_history if "train_runtime" in entry]
    return {
        "student": trainer.student_description,
        "teacher": trainer.teacher_description,
        "loss": {"class": type(loss).__name__, "source": loss.source, "hyper_parameters": loss.hyper_parameters()},
        "metrics": _without_prefix(evaluation.get("metrics", {})),
        "class_accuracy": evaluation.get("class_accuracy"),
        "test_examples": evaluation.get("examples"),
        "training": {
            "steps": state.global_step,
            "epochs": state.epoch,
            "seconds": runtime[-1] if runtime else None,
            "examples_per_step": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "hardware": f"{args.world_size} × {name}",
            "versions": {package.__name__: package.__version__ for package in (hf_ltkd, torch, transformers)},
        },
    }


def weights_digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each safetensors file of a model, by its name."""
    digests = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with path.open("rb") as file:
            digests[path.name] = sha_fileobj(file).hex()
    return digests


def onnx_measurements(folder: Path) -> dict[str, Any] | None:
    """
    What was measured of the ONNX file in a student's folder, or `None` if there is none, or, with a warning, if it was
    made from other weights than those that are there now.
    """
    measured = _read(folder / ONNX_FILES[-1])
    if not measured or not (folder / ONNX_FILES[0]).is_file():
        return None
    if measured["weights_sha256"] != weights_digests(folder):
        warnings.warn(
            f"The ONNX file in {str(folder / 'onnx')!r} was made from other weights than those that are there now: it "
            "is left out of the card and of what is published; run examples/export_onnx.py again.",
            stacklevel=1,  # one place, hence one warning for card and push
        )
        return None
    return measured


def write_model_card(
    folder: str | os.PathLike,
    *,
    repo_id: str | None = None,
    model_name: str | None = None,
    dataset: str | list[str] | None = None,
    dataset_split: str = "test",
    dataset_tags: str | list[str] | None = None,
    dataset_args: str | list[str] | None = None,
    teacher_name: str | None = None,
    teacher_metrics: Mapping[str, Any] | None = None,
    plain_student_metrics: Mapping[str, Any] | None = None,
    language: str | None = None,
    license: str | None = None,
    tags: str | list[str] | None = None,
    tasks: str | list[str] | None = None,
    finetuned_from: str | None = None,
) -> Path:
    """
    Writes `README.md` and its pictures into a student's folder.

    Everything measured comes from the folder's own files: `distillation.json` and `training_arguments.json` (written
    by [`DistillationTrainer`]), `class_groups.json`, `long_tail.json`, `eval_results.json`,
    `onnx/measurements.json` (of `examples/export_onnx.py`), `emissions.csv` of codecarbon, the config and the weights.
    A file that is missing leaves its part out.

    Args:
        folder (`str` or `os.PathLike`): The student's folder.
        repo_id (`str`, *optional*): Where it will lie on the Hub, for the lines that load it.
        model_name (`str`, *optional*): The title; the last part of `repo_id` or the folder's name by default.
        dataset (`str` or `list[str]`, *optional*): The name of the full dataset, its Hub id where it has one. Without
            it the card has no `model-index`, which must name one.
        dataset_split (`str`, *optional*, defaults to `"test"`): The split that was evaluated on.
        dataset_tags, dataset_args (`str` or `list[str]`, *optional*): Its Hub id if `dataset` is none; its
            configuration.
        teacher_name (`str`, *optional*): The teacher's Hub id, where it was loaded from a folder.
        teacher_metrics, plain_student_metrics (`Mapping`, *optional*):
            Accuracies as fractions of the teacher and of the same student trained without one, named as those of
            [`group_accuracy`] with or without `eval_`, such as an `eval_results.json`; with `class_accuracy`, a list
            of one fraction a class, they are drawn too.
        language, license, tags, tasks, finetuned_from: As in `Trainer.create_model_card`.

    Returns:
        `Path`: of the card.
    """
    folder = Path(folder)
    run, config, arguments = (_read(folder / n) for n in (RUN_NAME, "config.json", "training_arguments.json"))
    groups = ClassGroups.from_pretrained(folder) if (folder / CLASS_GROUPS_NAME).is_file() else None
    recipe = LongTailRecipe.from_pretrained(folder) if (folder / RECIPE_NAME).is_file() else None
    if recipe is not None and recipe.counts == recipe.full_counts:
        recipe = None  # nothing was cut
    # The run's own evaluation is of the very weights; the file is what a script wrote after saving them.
    student = _without_prefix(run.get("metrics") or _read(folder / "eval_results.json"))
    student["class_accuracy"] = run.get("class_accuracy")
    results = {
        "teacher": _without_prefix(teacher_metrics or {}),
        "plain student": _without_prefix(plain_student_metrics or {}),
        "this student": student,
    }
    results = {name: metrics for name, metrics in results.items() if "accuracy" in metrics}
    _draw(folder, results, groups)

    datasets, repo_id = _as_list(dataset), repo_id if _is_hub_id(repo_id or "") else None
    name = _one_line(model_name or (repo_id or folder.absolute().name).split("/")[-1])
    architecture = (config.get("architectures") or [""])[0]
    kind = next((kind for kind in TASKS if architecture.endswith(kind)), "")
    task = _as_list(tasks)[0] if tasks else TASKS.get(kind)
    split_args: dict[str, Any] = {}
    if recipe is not None:
        split_args = {"imbalance_factor": recipe.imbalance_factor, "split_seed": recipe.seed}
    if "seed" in arguments:
        split_args["training_seed"] = arguments["seed"]
    metrics = ["accuracy", *(f"{group}_accuracy" for group in (groups.names if groups else ()))]
    eval_results = [
        EvalResult(
            task_type=task or "other",
            dataset_type=_one_line((_as_list(dataset_tags) or datasets)[0]),
            dataset_name=_one_line(datasets[0]),
            dataset_config=", ".join(map(_one_line, _as_list(dataset_args))) or None,
            dataset_split=_one_line(dataset_split),
            dataset_args=split_args or None,
            metric_type="accuracy",
            metric_name=_one_line(metric.replace("_", " ").capitalize()),
            metric_value=student[metric],
        )
        for metric in metrics
        if datasets and metric in student
    ]
    emissions = _emissions(folder)
    data = ModelCardData(
        language=language,
        license=license,
        library_name="transformers",
        pipeline_tag=task,
        tags=list(dict.fromkeys(["hf_ltkd", "knowledge-distillation", "long-tailed", *_as_list(tags)])),
        datasets=[name for name in map(_one_line, _as_list(dataset_tags) or datasets) if _is_hub_id(name)] or None,
        base_model=finetuned_from,
        metrics=["accuracy"] if student.get("accuracy") is not None else None,
        model_name=name,
        eval_results=eval_results or None,
        co2_eq_emissions=emissions and {"emissions": emissions["grams"], "source": "codecarbon"},
    )
    teacher = {**(run.get("teacher") or {}), **({"name": teacher_name} if teacher_name else {})}
    labels = {int(i): str(label) for i, label in (config.get("id2label") or {}).items()}
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=escape(name),
        repo_id=repo_id or "path/to/this/folder",
        on_hub=repo_id is not None,
        task=task,
        auto_class=f"AutoModel{kind}",
        prepares_input=any(
            (folder / name).is_file() for name in ("preprocessor_config.json", "tokenizer_config.json")
        ),
        remote_code=bool(config.get("auto_map")),
        needs_package=not config.get("auto_map") and str(config.get("model_type")).startswith("cifar_"),
        run=run,
        teacher=teacher,
        file_bytes=sum(path.stat().st_size for path in folder.glob("model*.safetensors")),
        networks=[
            (n, d) for n, d in (("teacher", teacher), ("student", run.get("student"))) if d and "parameters" in d
        ],
        loss=run.get("loss"),
        training=run.get("training") or {},
        arguments=arguments,
        dataset=", ".join(map(escape, datasets)),
        split=escape(_one_line(dataset_split)),
        groups=groups and _group_rows(groups, results),
        results={name: metrics["accuracy"] for name, metrics in results.items()},
        counts=groups.class_counts if groups else None,
        recipe=recipe,
        class_rows=_class_rows(labels, groups, student.get("class_accuracy")),
        pictures=[picture for picture in PICTURES if (folder / picture).is_file()],
        changes=_changes(groups, results),
        emissions=emissions,
        onnx=onnx_measurements(folder),
        onnx_files=[name for name in ONNX_FILES[:-1] if (folder / name).is_file()],
        escape=escape,
        milliseconds=lambda times: f"{times['median']:.3g} ({times['p90']:.3g})",
        percent=lambda fraction: f"{100 * fraction:.1f}",
        points=lambda difference: f"{100 * difference:+.1f}",
        brief=_brief,
    )
    unfinished = folder / f"README.md.{os.getpid()}.tmp"
    card.save(unfinished)
    os.replace(unfinished, folder / "README.md")
    return folder / "README.md"


def escape(text: Any) -> str:
    """Any text as plain words in Markdown and HTML, on one line."""
    return re.sub(r"([\\`*_{}\[\]#!|~$@:])", r"\\\1", html.escape(_one_line(text), quote=False))


def _one_line(text: Any) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def _brief(value: Any) -> str:
    """A hyper-parameter in a table cell."""
    if isinstance(value, list | tuple) and len(value) > 10:
        return f"{len(value)} values from {min(value):.4g} to {max(value):.4g}"
    return escape(value)


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is not None


def _as_list(values: str | list[str] | None) -> list[str]:
    return [values] if isinstance(values, str) else list(values or [])


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _without_prefix(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Without `eval_` before the names, and without the NaN of groups that have no test example."""
    finite = {n: v for n, v in metrics.items() if not isinstance(v, float) or math.isfinite(v)}
    return {name.removeprefix("eval_"): value for name, value in finite.items()}


def _emissions(folder: Path) -> dict[str, float] | None:
    """The last run in codecarbon's table: kilograms of CO2 equivalents and kilowatt-hours."""
    path = folder / "emissions.csv"
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else []
    if not rows or not rows[-1].get("emissions"):
        return None
    return {"grams": 1000 * float(rows[-1]["emissions"]), "kwh": float(rows[-1].get("energy_consumed") or 0)}


def _group_rows(groups: ClassGroups, results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for index, name in enumerate(groups.names):
        classes = (groups.group_of_class == index).nonzero().flatten().tolist()
        images = [groups.class_counts[c] for c in classes] if groups.class_counts else None
        accuracy = [metrics.get(f"{name}_accuracy") for metrics in results.values()]
        rows.append({"name": escape(name), "classes": len(classes), "images": images, "accuracy": accuracy})
    return rows


def _class_rows(labels: dict[int, str], groups: ClassGroups | None, accuracy: list | None) -> list[tuple]:
    if groups is None or len(labels) != groups.num_classes:
        return []
    counts = groups.class_counts or [""] * groups.num_classes
    return [
        (
            escape(labels[c]),
            escape(groups.names[groups.group_of_class[c]]),
            counts[c],
            "" if not accuracy or accuracy[c] is None else f"{100 * accuracy[c]:.1f}",
        )
        for c in sorted(labels)
    ]


def _changes(
    groups: ClassGroups | None, results: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[tuple[str, float]]]:
    """Accuracy of this student less that of the others, by group."""
    changes = {}
    ours = results.get("this student", {})
    for other in ("plain student", "teacher"):
        metrics = results.get(other, {})
        names = [n for n in (groups.names if groups else ()) if f"{n}_accuracy" in metrics and f"{n}_accuracy" in ours]
        if names:
            changes[other] = [(escape(n), ours[f"{n}_accuracy"] - metrics[f"{n}_accuracy"]) for n in names]
    return changes


def _draw(folder: Path, results: Mapping[str, Mapping[str, Any]], groups: ClassGroups | None) -> None:
    from .plots import plot_class_accuracy, plot_group_accuracy  # here: importing matplotlib takes its time

    for picture in PICTURES:  # of earlier numbers
        (folder / picture).unlink(missing_ok=True)
    if groups is None:
        return
    names = [f"{name}_accuracy" for name in groups.names] + ["accuracy"]
    bars = {m: {n: [v[n]] for n in names} for m, v in results.items() if all(n in v for n in names)}
    if "this student" in bars:
        plot_group_accuracy(bars, groups, folder / GROUP_PICTURE)
    classes = {m: v["class_accuracy"] for m, v in results.items() if len(v.get("class_accuracy") or []) > 1}
    if "this student" in classes:
        plot_class_accuracy(classes, groups, folder / CLASS_PICTURE)
