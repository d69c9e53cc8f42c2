"""The hyper-parameters that are published for a loss, a teacher and a student; the values are in `published.yaml`."""

import warnings
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml


class PublishedValues(NamedTuple):
    arguments: dict[str, Any]  # of the loss, as far as they differ from its defaults
    source: str  # where they are published
    by_authors: bool = True  # of the method, or by somebody else


@cache
def published_table() -> dict[str, dict[tuple[str, str, str], PublishedValues]]:
    """For each class of loss its values by (dataset, teacher, student)."""
    entries = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    return {
        loss: {
            (entry["dataset"], *pair.split()): PublishedValues(
                {**entry.get("arguments", {}), **(of_pair or {})}, entry["source"], entry.get("by_authors", True)
            )
            for entry in of_loss
            for pair, of_pair in entry["pairs"].items()
        }
        for loss, of_loss in entries.items()
    }


def published_values(loss_class: type, dataset: str, teacher: str, student: str) -> PublishedValues:
    """
    The values for this pair, of the loss or of the class that it extends; with a warning where somebody else than the
    authors published them.

    Raises:
        `ValueError`: if there are none.
    """
    table = next((published_table()[c.__name__] for c in loss_class.__mro__ if c.__name__ in published_table()), {})
    if (dataset, teacher, student) not in table:
        known = ", ".join(f"{t} -> {s} ({d})" for d, t, s in table) or "none"
        raise ValueError(
            f"No hyper-parameters of {loss_class.__name__} are published for {teacher} -> {student} on {dataset}: "
            f"give them as arguments, or take the pair of those that are: {known}."
        )
    values = table[dataset, teacher, student]
    if not values.by_authors:
        warnings.warn(
            f"The authors of {loss_class.__name__} publish no values for {teacher} -> {student} on {dataset}; "
            f"{values.arguments} are from {values.source}.",
            stacklevel=3,
        )
    return values
