"""Numbers and tables, as one would say and read them."""

from collections.abc import Mapping, Sequence

from ..groups import ClassGroups


def share_table(shares: Mapping[str, Sequence[float]], groups: ClassGroups) -> list[str]:
    """What part of each loss is cross-group and within each group, one loss a row."""
    parts = ["between groups", *(f"within {name}" for name in groups.names)]
    width = max(map(len, [*shares, "part of the loss"])) + 2
    rows = [f"{'part of the loss':<{width}}" + "".join(f"{part:>{len(part) + 2}}" for part in parts)]
    for name, values in shares.items():
        cells = (f"{value:>{len(part) + 2}.1%}" for part, value in zip(parts, values, strict=True))
        rows.append(f"{name:<{width}}" + "".join(cells))
    return rows


def group_table(results: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Accuracy in percent, one model a row."""
    columns = _columns(next(iter(results.values())))
    width = max(14, *(len(name) + 2 for name in results))
    rows = [f"{'accuracy (%)':<{width}}" + "".join(f"{column:>9}" for column in columns)]
    for name, metrics in results.items():
        rows.append(f"{name:<{width}}" + "".join(f"{_percent(metrics[metric]):>9}" for metric in columns.values()))
    return rows


def changes(ours: Mapping[str, float | None], others: Mapping[str, float | None]) -> str:
    """`+5.1 tail, -0.3 head` and so on, in points."""
    columns = _columns(ours)
    both = {name: (ours[metric], others[metric]) for name, metric in columns.items()}
    known = {name: a - b for name, (a, b) in both.items() if a is not None and b is not None}
    return ", ".join(f"{100 * difference:+.1f} {name}" for name, difference in known.items())


def _percent(value: float | None) -> str:
    return "no image" if value is None else f"{100 * value:.1f}"


def _columns(metrics: Mapping[str, float | None]) -> dict[str, str]:
    """The metric behind each column: the groups, then all classes."""
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
