"""Numbers and tables, as one would say and read them."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..groups import ClassGroups
from ..workflow.report import SCORES


Interval = Sequence[float] | None


def share_table(shares: Mapping[str, Sequence[float]], groups: ClassGroups) -> list[str]:
    """What part of each loss is cross-group and within each group, one loss a row."""
    parts = ["between groups", *(f"within {name}" for name in groups.names)]
    width = max(map(len, [*shares, "part of the loss"])) + 2
    rows = [f"{'part of the loss':<{width}}" + "".join(f"{part:>{len(part) + 2}}" for part in parts)]
    for name, values in shares.items():
        cells = (f"{value:>{len(part) + 2}.1%}" for part, value in zip(parts, values, strict=True))
        rows.append(f"{name:<{width}}" + "".join(cells))
    return rows


def group_table(
    results: Mapping[str, Mapping[str, float | None]],
    intervals: Mapping[str, Mapping[str, Interval]] | None = None,
    deviations: Mapping[str, Mapping[str, float | None]] | None = None,
    what: str = "accuracy",
) -> list[str]:
    """
    Accuracy, or what else is measured (`"IoU"`), in percent, one model a row, with its deviation over seeds or its
    95 % interval, where it is known.
    """
    columns = _columns(next(iter(results.values())))
    width = max(14, *(len(name) + 2 for name in results))
    intervals, deviations = intervals or {}, deviations or {}
    if not any(interval is not None for row in intervals.values() for interval in row.values()):
        intervals = {}  # of so few images none is said
    cells = {
        name: [
            _percent(metrics[metric], intervals.get(name, {}).get(metric), deviations.get(name, {}).get(metric))
            for metric in columns.values()
        ]
        for name, metrics in results.items()
    }
    widths = [2 + max(map(len, column)) for column in zip(columns, *cells.values(), strict=True)]
    title = f"{what} (%), and its 95 % interval" if intervals else f"{what} (%)"
    title += " or ± the sample deviation" if deviations else ""
    rows = [] if not intervals else [title]
    rows.append(f"{'' if intervals else title:<{width}}" + "".join(map(str.rjust, columns, widths)))
    return rows + [f"{name:<{width}}" + "".join(map(str.rjust, row, widths)) for name, row in cells.items()]


def score_table(
    results: Mapping[str, Mapping[str, float | None]], intervals: Mapping[str, Interval] | None = None
) -> list[str]:
    """The scores beside the accuracy of each group in percent, one model a row; the 95 % intervals of a lone one."""
    names = [name for name in SCORES if any(name in metrics for metrics in results.values())]
    if not names:
        return []
    rows = [["(%)", *(SCORES[name] for name in names)]]
    rows += [[model, *(_percent(m[n]) if n in m else "" for n in names)] for model, m in results.items()]
    known = [(intervals or {}).get(name) for name in names]
    if any(known):
        rows.append(["95 % interval", *("" if i is None else f"{100 * i[0]:.0f}–{100 * i[1]:.0f}" for i in known)])
    shots = "many, medium, few: classes of more than 100, of 20 to 100, of fewer than 20 training images"
    return [
        *_aligned(rows),
        *[shots] * any("shot" in name for name in names),
        "balanced, worst, harmonic: mean, lowest and harmonic mean of the accuracies of the classes",
        *["ECE: expected calibration error, better if small"] * ("ECE" in rows[0]),
    ]


def class_table(classes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Precision, recall and F1 in percent, and test images, one class a row; of pixels IoU, accuracy and precision."""
    if "iou" in classes[0]:
        table = [["class", "group", "training pixels", "test pixels", "IoU", "accuracy", "precision"]]
        for row in classes:
            pixels = (f"{row[name]:,}" if row[name] is not None else "" for name in ("training_pixels", "support"))
            scores = ("not measured" if row[s] is None else _percent(row[s]) for s in ("iou", "accuracy", "precision"))
            table.append([row["class"], row["group"], *pixels, *scores])
        return _aligned(table, left=2)
    rows = [["class", "group", "train", "test", "precision", "recall", "F1"]]
    for row in classes:
        train = "" if row["training_images"] is None else f"{row['training_images']:,}"
        missing = "never answered" if row["support"] else "not measured"
        cells = (missing if row[score] is None else _percent(row[score]) for score in ("precision", "recall", "f1"))
        rows.append([row["class"], row["group"], train, f"{row['support']:,}", *cells])
    return _aligned(rows, left=2)


def _aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Cells in columns, those of the first `left` flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides: list[Any] = [str.ljust] * left + [str.rjust] * (len(widths) - left)
    return ["  ".join(side(*c) for side, *c in zip(sides, row, widths, strict=True)) for row in rows]


def changes(ours: Mapping[str, float | None], differences: Mapping[str, Interval], few: str = "test images") -> str:
    """`+5.1 tail (+1.0 to +9.2); too few test images to tell: head` and so on, in points."""
    known = {name: differences[metric] for name, metric in _columns(ours).items() if differences.get(metric)}
    settled = {name: d for name, d in known.items() if d is not None and (d[1] > 0 or d[2] < 0)}
    told = [f"{100 * d[0]:+.1f} {name} ({100 * d[1]:+.1f} to {100 * d[2]:+.1f})" for name, d in settled.items()]
    open_ = [name for name in known if name not in settled]
    parts = [", ".join(told)] * bool(told) + [f"too few {few} to tell: {', '.join(open_)}"] * bool(open_)
    return "; ".join(parts)


def _percent(value: float | None, interval: Interval = None, deviation: float | None = None) -> str:
    if value is None:
        return "not measured"
    if deviation is not None:
        return f"{100 * value:.1f} ± {100 * deviation:.1f}"
    between = "" if interval is None else f" ({100 * interval[0]:.0f}–{100 * interval[1]:.0f})"
    return f"{100 * value:.1f}{between}"


def _columns(metrics: Mapping[str, float | None]) -> dict[str, str]:
    """The metric behind each column: the groups, then all classes; the IoU, where that was measured."""
    if "mean_iou" in metrics:
        groups = {name.removesuffix("_iou"): name for name in metrics if name.endswith("_iou") and name != "mean_iou"}
        return {**groups, "all": "mean_iou"}
    groups = {name.removesuffix("_accuracy"): name for name in metrics if name.endswith("_accuracy")}
    return {**groups, "all": "accuracy"}


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`, `1,200 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:,.0f} days"


def size(num_bytes: float) -> str:
    """`4.2 MB`, `1.05 GB`."""
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.2f} GB"


def number(count: int, one: str, many: str | None = None) -> str:
    """`1 image`, `1,200 images`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
