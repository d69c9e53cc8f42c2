"""The card of a student, from what was logged and measured; what is not known is left out."""

import csv
import html
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..data.long_tail import LongTailSplit
from ..groups import ClassGroups
from ..metrics import without_prefix
from ..utils import one_line, read_json
from .accuracy import (
    accuracy_rows,
    example_counts,
    iou_names,
    iou_rows,
    metric_names,
    score_rows,
    sentences_on_changes,
)
from .describe import is_hub_id, onnx_measurements
from .names import (
    ARGUMENTS_NAME,
    CARD_NAME,
    CLASS_GROUPS_NAME,
    CLASS_IOU_PICTURE,
    CLASS_PICTURE,
    CONFUSION_PICTURE,
    EMISSIONS_NAME,
    EVALUATION_NAME,
    EXAMPLES_PICTURE,
    GROUP_IOU_PICTURE,
    GROUP_PICTURE,
    ONNX_FILES,
    PICTURES,
    REPORT_NAME,
    RUN_NAME,
    SPLIT_NAME,
    TUNING_NAME,
    TUNING_PICTURE,
)
from .readme import read_readme, write_readme


TEMPLATE = Path(__file__).parent / "templates" / "student_card.md"
CAPTIONS = {
    GROUP_PICTURE: "Accuracy by group of classes",
    CLASS_PICTURE: "Accuracy of each class, the most frequent first",
    GROUP_IOU_PICTURE: "IoU by group of classes",
    CLASS_IOU_PICTURE: "IoU of each class, the most frequent first",
    EXAMPLES_PICTURE: "Images, their masks, and what the networks see in them",
    CONFUSION_PICTURE: "Which classes are taken for which",
}
# The last words of a model's class name, and the Hub's name of the task.
TASKS = {
    "ForImageClassification": "image-classification",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForAudioClassification": "audio-classification",
    "ForVideoClassification": "video-classification",
    "ForSemanticSegmentation": "image-segmentation",
}


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
    other_metrics: Mapping[str, Mapping[str, Any]] | None = None,
    verdict: str | None = None,
    differences: Mapping[str, Mapping[str, Any]] | None = None,
    seeds: Mapping[str, Any] | None = None,
    language: str | None = None,
    license: str | None = None,
    tags: str | list[str] | None = None,
    tasks: str | list[str] | None = None,
    finetuned_from: str | None = None,
) -> Path:
    """
    Writes `README.md` and its pictures into a student's folder, and keeps what a person wrote into it (outside of the
    two marks, and in the front matter).

    Everything measured comes from the folder's own files: `distillation.json` and `training_arguments.json` (written
    by [`DistillationTrainer`]), `class_groups.json`, `long_tail.json`, `eval_results.json`, `class_report.json`,
    `tuning.json`, `onnx/measurements.json` (of `hf-ltkd export`), `emissions.csv` of codecarbon, the config and the
    weights. A file that is missing leaves its part out.

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
        other_metrics (`Mapping`, *optional*): By name those of other models to compare with.
        verdict (`str`, *optional*): A sentence on what the comparison means.
        differences (`Mapping`, *optional*):
            By other model and by metric `[difference, low, high]`, measured on the same images.
            A difference is stated where the interval leaves 0 out.
        seeds (`Mapping`, *optional*):
            Where the folder's student is the best of several on validation images and the other accuracies are means:
            what `comparison.json` says of them, and this student's `mean` accuracies and scores.
        language, license, tags, tasks, finetuned_from: As in `Trainer.create_model_card`.

    Returns:
        `Path`: of the card.

    Raises:
        `ValueError`: if the folder's `README.md` cannot be read; before anything is written.
    """
    folder = Path(folder)
    read_readme(folder / CARD_NAME)
    run, config, arguments = (read_json(folder / n) for n in (RUN_NAME, "config.json", ARGUMENTS_NAME))
    groups = ClassGroups.from_pretrained(folder) if (folder / CLASS_GROUPS_NAME).is_file() else None
    cut = LongTailSplit.from_pretrained(folder) if (folder / SPLIT_NAME).is_file() else None
    if cut is not None and cut.class_counts == cut.full_class_counts:
        cut = None  # nothing was cut
    # The run's own evaluation is of the very weights; the file is what a script wrote after saving them.
    student = without_prefix(run.get("metrics") or read_json(folder / EVALUATION_NAME))
    student |= {name: run.get(name) for name in ("class_accuracy", "class_iou")}
    is_distilled = not run or bool(run.get("teacher") or teacher_name or teacher_metrics or plain_student_metrics)
    ours = "this student" if is_distilled else "this model"
    results = {
        "teacher": without_prefix(teacher_metrics or {}),
        "plain student": without_prefix(plain_student_metrics or {}),
        **{name: without_prefix(metrics) for name, metrics in (other_metrics or {}).items()},
        ours: student,
    }
    kept, seeds = student, seeds or {}
    if seeds:
        results[ours] = student = {**student, **without_prefix(seeds["mean"])}
    results = {name: metrics for name, metrics in results.items() if "accuracy" in metrics}
    results = dict(sorted(results.items(), key=lambda item: "teacher" not in item[0]))  # those first
    examples = example_counts(groups, run.get("class_examples"))
    _draw(folder, results, groups, seeds.get("accuracy", {}))

    datasets, repo_id = _as_list(dataset), repo_id if is_hub_id(repo_id or "") else None
    name = one_line(model_name or (repo_id or folder.absolute().name).split("/")[-1])
    architecture = (config.get("architectures") or [""])[0]
    kind = next((kind for kind in TASKS if architecture.endswith(kind)), "")
    task = _as_list(tasks)[0] if tasks else TASKS.get(kind)
    split_args: dict[str, Any] = {}
    if cut is not None:
        split_args = {"imbalance_factor": cut.imbalance_factor, "split_seed": cut.seed}
        split_args |= {"split_rule": cut.rule} if cut.rule != "paper" else {}
    if "seed" in arguments:
        split_args["training_seed"] = arguments["seed"]
    measured = []
    for kind_of, (*of_groups, over_all) in (("mean_iou", iou_names(groups)), ("accuracy", metric_names(groups))):
        measured += [(kind_of, metric) for metric in (over_all, *of_groups) if kept.get(metric) is not None]
    eval_results = [
        EvalResult(
            task_type=task or "other",
            dataset_type=one_line((_as_list(dataset_tags) or datasets)[0]),
            dataset_name=one_line(datasets[0]),
            dataset_config=", ".join(map(one_line, _as_list(dataset_args))) or None,
            dataset_split=one_line(dataset_split),
            dataset_args=split_args or None,
            metric_type=kind_of,
            metric_name=one_line(metric.replace("_", " ").capitalize().replace("iou", "IoU")),
            metric_value=kept[metric],
        )
        for kind_of, metric in measured
        if datasets
    ]
    emissions = _emissions(folder)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        tags=["hf_ltkd", *["knowledge-distillation"] * is_distilled, "long-tailed"],
        datasets=[name for name in map(one_line, _as_list(dataset_tags) or datasets) if is_hub_id(name)] or None,
        metrics=[*dict.fromkeys(kind_of for kind_of, _ in measured)] or None,
        model_name=name,
        eval_results=eval_results or None,
        co2_eq_emissions=emissions and {"emissions": emissions["grams"], "source": "codecarbon"},
    )
    teacher = {**(run.get("teacher") or {}), **({"name": teacher_name} if teacher_name else {})}
    named = config.get("id2label") or dict(enumerate(config.get("label_names") or []))  # the latter is timm's
    labels = {int(i): str(label) for i, label in named.items()}
    report = read_json(folder / REPORT_NAME)
    of_class = {"accuracy (%)": student.get("class_accuracy"), "precision (%)": _precisions(report, student)}
    of_class |= {"IoU (%)": run.get("class_iou")}
    of_class = {title: values for title, values in of_class.items() if values is not None or title == "accuracy (%)"}
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=escape(name),
        repo_id=repo_id or "path/to/this/folder",
        on_hub=repo_id is not None,
        task=task,
        auto_class=f"AutoModel{kind}",
        prepares_input=any((folder / name).is_file() for name in ("preprocessor_config.json", "tokenizer_config.json"))
        or "pretrained_cfg" in config,  # of timm
        remote_code=bool(config.get("auto_map")),
        needs_package=not config.get("auto_map") and str(config.get("model_type")).startswith("cifar_"),
        run=run,
        teacher=teacher,
        file_bytes=sum(path.stat().st_size for path in folder.glob("model*.safetensors")),
        networks=[
            (n, d) for n, d in (("teacher", teacher), (ours.split()[1], run.get("student"))) if d and "parameters" in d
        ],
        loss=run.get("loss"),
        training=run.get("training") or {},
        arguments=arguments,
        dataset=", ".join(map(escape, datasets)),
        split=escape(one_line(dataset_split)),
        ours=ours,
        groups=groups and _group_rows(groups),
        results=accuracy_rows(groups, results, examples, seeds.get("deviation", {})),
        seeds=seeds,
        kept=dict(
            zip([*(groups.names if groups else ()), "all"], accuracy_rows(groups, {ours: kept}, {})[ours], strict=True)
        ),
        tuning=read_json(folder / TUNING_NAME),
        tuning_picture=TUNING_PICTURE,
        has_intervals=bool(examples),
        scores=score_rows(results, report),
        counts=groups.class_counts if groups else None,
        cut=cut,
        class_columns=of_class,
        class_rows=_class_rows(labels, groups, of_class.values()),
        ious=iou_rows(groups, results, report),
        pictures=[p for p in (*PICTURES, CONFUSION_PICTURE, EXAMPLES_PICTURE) if (folder / p).is_file()],
        captions=CAPTIONS,
        verdict=verdict and escape(verdict),
        changes=[escape(s) for s in sentences_on_changes(groups, results, examples, differences or {}, seeds)],
        emissions=emissions,
        onnx=onnx_measurements(folder),
        onnx_files=[name for name in ONNX_FILES[:-1] if (folder / name).is_file()],
        escape=escape,
        milliseconds=lambda times: f"{times['median']:.3g} ({times['p90']:.3g})",
        brief=_brief,
    )
    wishes = {"language": language, "license": license, "base_model": finetuned_from, "tags": _as_list(tags)}
    write_readme(folder / CARD_NAME, data.to_dict(), card.text, wishes)
    return folder / CARD_NAME


def escape(text: Any) -> str:
    """Any text as plain words in Markdown and HTML, on one line."""
    return re.sub(r"([\\`*_{}\[\]#!|~$@:])", r"\\\1", html.escape(one_line(text), quote=False))


def _brief(value: Any) -> str:
    """A hyper-parameter in a table cell."""
    if isinstance(value, list | tuple) and len(value) > 10:
        return f"{len(value)} values from {min(value):.4g} to {max(value):.4g}"
    return escape(value)


def _as_list(values: str | list[str] | None) -> list[str]:
    return [values] if isinstance(values, str) else list(values or [])


def _emissions(folder: Path) -> dict[str, float] | None:
    """The last run in codecarbon's table: kilograms of CO2 equivalents and kilowatt-hours."""
    path = folder / EMISSIONS_NAME
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else []
    if not rows or not rows[-1].get("emissions"):
        return None
    return {"grams": 1000 * float(rows[-1]["emissions"]), "kwh": float(rows[-1].get("energy_consumed") or 0)}


def _group_rows(groups: ClassGroups) -> list[dict[str, Any]]:
    rows = []
    for index, name in enumerate(groups.names):
        classes = (groups.group_of_class == index).nonzero().flatten().tolist()
        images = [groups.class_counts[c] for c in classes] if groups.class_counts else None
        rows.append({"name": escape(name), "classes": len(classes), "images": images})
    return rows


def _precisions(report: Mapping[str, Any], student: Mapping[str, Any]) -> list | None:
    """Those of `class_report.json`, if it is of these very accuracies."""
    classes = report.get("classes", [])
    accuracy = [row.get("recall", row.get("accuracy")) for row in classes]
    return [row["precision"] for row in classes] if classes and accuracy == student.get("class_accuracy") else None


def _class_rows(labels: dict[int, str], groups: ClassGroups | None, columns: Iterable[list | None]) -> list[tuple]:
    if groups is None or len(labels) != groups.num_classes:
        return []
    counts = groups.class_counts or [""] * groups.num_classes
    return [
        (
            escape(labels[c]),
            escape(groups.names[groups.group_of_class[c]]),
            counts[c],
            *("" if values is None or values[c] is None else f"{100 * values[c]:.1f}" for values in columns),
        )
        for c in sorted(labels)
    ]


def _draw(
    folder: Path,
    results: Mapping[str, Mapping[str, Any]],
    groups: ClassGroups | None,
    of_seeds: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> None:
    from ..analysis.plots import plot_class_accuracy, plot_group_accuracy  # here: importing matplotlib takes its time

    for picture in PICTURES:  # of earlier numbers
        (folder / picture).unlink(missing_ok=True)
    if groups is None:
        return
    ours, names, pictures = [*results][-1:], metric_names(groups), (GROUP_PICTURE, CLASS_PICTURE)
    of_class, what = "class_accuracy", "accuracy"
    if ours and "mean_iou" in results[ours[0]]:
        names, pictures = iou_names(groups), (GROUP_IOU_PICTURE, CLASS_IOU_PICTURE)
        of_class, what = "class_iou", "IoU"
    bars = {
        m: {n: [accuracy[n] for accuracy in of_seeds.get(m, {"": v}).values()] for n in names}
        for m, v in results.items()
        if all(n in v for n in names)
    }
    if {*ours} & {*bars}:
        plot_group_accuracy(bars, groups, folder / pictures[0], metrics=names, what=what)
    classes = {m: v[of_class] for m, v in results.items() if len(v.get(of_class) or []) > 1}
    if {*ours} & {*classes}:
        plot_class_accuracy(classes, groups, folder / pictures[1], what=what)
