"""Accuracies as a card says them: with their intervals, and differences only where they are more than chance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..groups import ClassGroups
from ..metrics.answers import SCORES, is_settled, newcombe, wilson


Results = Mapping[str, Mapping[str, Any]]


def metric_names(groups: ClassGroups | None) -> list[str]:
    """The accuracy of each group, then that over all classes."""
    return [*(f"{name}_accuracy" for name in (groups.names if groups else ())), "accuracy"]


def iou_names(groups: ClassGroups | None) -> list[str]:
    """The IoU of each group, then that over all classes."""
    return [*(f"{name}_iou" for name in (groups.names if groups else ())), "mean_iou"]


def example_counts(groups: ClassGroups | None, class_examples: Sequence[int] | None) -> dict[str, int]:
    """How many test examples each accuracy is of; empty where nobody knows."""
    if groups is None or not class_examples:
        return {}
    counts = np.bincount(groups.group_of_class.numpy(), class_examples, groups.num_groups).astype(int).tolist()
    return dict(zip(metric_names(groups), [*counts, sum(class_examples)], strict=True))


def accuracy_rows(
    groups: ClassGroups | None, results: Results, examples: Mapping[str, int], deviations: Results | None = None
) -> dict[str, list[str]]:
    """
    By model a cell a metric: percent, and the deviation over seeds where there is one, else the 95 % interval where
    the number of examples is known.
    """
    ours, deviations = [*results.values()][-1] if results else {}, deviations or {}
    return {
        model: [_cell(metrics, ours, n, examples, deviations.get(model, {})) for n in metric_names(groups)]
        for model, metrics in results.items()
    }


def iou_rows(groups: ClassGroups | None, results: Results, report: Mapping[str, Any]) -> dict[str, list[str]]:
    """
    By model a cell a group and one over all classes: the mean IoU in percent, if it was measured; the 95 % intervals
    of the last model where `class_report.json` (`report`) has them of these very values.
    """
    names = iou_names(groups)
    rows = {
        model: [f"{100 * metrics[name]:.1f}" if name in metrics else "not measured" for name in names]
        for model, metrics in results.items()
        if "mean_iou" in metrics
    }
    *_, ours = results.values() if results else [{}]
    return rows | _interval_row([report.get("iou", {}).get(name, {}) for name in names], names, ours)


def _cell(
    metrics: Mapping[str, Any],
    ours: Mapping[str, Any],
    name: str,
    examples: Mapping[str, int],
    deviations: Mapping[str, Any],
) -> str:
    value = metrics.get(name)
    if value is None:
        return "not measured" if ours.get(name) is None else ""
    if deviations.get(name) is not None:
        return f"{100 * value:.1f} ± {100 * deviations[name]:.1f}"
    if not examples.get(name):
        return f"{100 * value:.1f}"
    low, high = wilson(round(value * examples[name]), examples[name])
    return f"{100 * value:.1f} ({100 * low:.0f}–{100 * high:.0f})"


def score_rows(results: Results, report: Mapping[str, Any]) -> dict[str, list[str]]:
    """
    By model a cell a score in percent, titles first; the 95 % intervals of the last model where `class_report.json`
    (`report`) has them of these very values. Empty where the last model has none.
    """
    *_, ours = results.values() if results else [{}]
    names = [name for name in SCORES if name in ours]
    if not names:
        return {}
    rows = {"": [SCORES[name] for name in names]}
    for model, metrics in results.items():
        rows[model] = [f"{100 * metrics[name]:.1f}" if name in metrics else "" for name in names]
    measured = [{**report.get("accuracy", {}), **report.get("scores", {})}.get(name, {}) for name in names]
    return rows | _interval_row(measured, names, ours)


def _interval_row(
    measured: Sequence[Mapping[str, Any]], names: Sequence[str], ours: Mapping[str, Any]
) -> dict[str, list[str]]:
    """What was measured of each score, where that is the very value; nothing where none is."""
    known = [
        m.get("interval") if name in ours and m.get("value") == ours[name] else None
        for m, name in zip(measured, names, strict=True)
    ]
    cells = ["" if i is None else f"{100 * i[0]:.0f}–{100 * i[1]:.0f}" for i in known]
    return {"95 % interval": cells} if any(known) else {}


def sentences_on_changes(
    groups: ClassGroups | None,
    results: Results,
    examples: Mapping[str, int],
    differences: Mapping[str, Mapping[str, Sequence[float] | None]],
    seeds: Mapping[str, Any] | None = None,
) -> list[str]:
    """
    How the accuracy of the last model, or its IoU, where that was measured, differs from that of the others, where the
    95 % interval leaves 0 out.

    Args:
        differences (`Mapping`): By other model and metric `[difference, low, high]` on the same images. Without them
            the test sets count as independent, which makes intervals wider.
        seeds (`Mapping`, *optional*): Where the differences are of means over seeds.
    """
    sentences = []
    *others, ours = results.items() if results else [("", {})]
    names, what, why = metric_names(groups), "accuracy", "nobody has noted how many test examples a group has"
    if "mean_iou" in ours[1]:
        names, what, why = iou_names(groups), "IoU", "no interval was measured, as on fewer than 20 images"
    name_of = {name: name.rpartition("_")[0] for name in names} | {names[-1]: "all"}
    for other, metrics in others:
        found: dict[str, Sequence[float]] = {}
        for name in names:
            own, other_one = ours[1].get(name), metrics.get(name)
            if own is None or other_one is None:
                continue
            paired = differences.get(other, {}).get(name)
            if paired is not None:
                found[name] = paired
            elif examples.get(name):
                found[name] = newcombe(own, other_one, examples[name])
        settled = [
            f"{100 * d:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}) on {name_of[name]}"
            for name, (d, low, high) in found.items()
            if is_settled((d, low, high))
        ]
        open_ = [name_of[name] for name in found if not is_settled(found[name])]
        if settled:
            sentences.append(f"Against the {other}, {what} changes by {', '.join(settled)} classes (95 % intervals).")
        if open_:
            sentences.append(
                f"Against the {other}, on {', '.join(open_)} classes "
                + ("seeds and test images are too few" if seeds else "the test set is too small")
                + " to tell a difference."
            )
        if not found:
            sentences.append(f"Whether it differs from the {other} by more than chance is not known: {why}.")
    return sentences
