"""Small helpers that several modules share."""

import json
import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """
    A new file, `path.<process>.tmp`, to write what `path` is to hold: a reader sees the old file or the new one, never
    half of it. After an error the old one stays and nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, values: Any) -> None:
    """Writes `values` to `path`, atomically."""
    with replacing(path) as file:
        file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """What `path` holds; an empty dict if there is no such file."""
    path = Path(path)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def parse_values(flag: str, items: Sequence[str]) -> dict[str, Any]:
    """
    `["alpha=1", "ce=balanced_softmax"]` as a dict; values are read as JSON, else as words.

    Raises:
        `ValueError`: if an item is not of the form `name=value`; it names the `flag`.
    """
    values = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"{flag} {item} must have the form name=value, e.g. beta=8.")
        try:
            values[name] = json.loads(value.lower() if value in ("True", "False") else value)
        except json.JSONDecodeError:
            values[name] = value
    return values


def listed(items: Sequence[Any], limit: int = 5) -> str:
    """The first `limit` items for an error message: `"3, 7, 8"`, `"0, 1, 2, 3, 4, ..."`."""
    return ", ".join(str(item) for item in items[:limit]) + (", ..." if len(items) > limit else "")


def cpu_name() -> str:
    """The processor's model; `platform.processor()` is empty on Linux."""
    facts = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.+)$", facts.read_text(), re.MULTILINE) if facts.is_file() else None
    return model.group(1) if model else platform.processor() or platform.machine()


def describe_machine(device: str = "cpu") -> str:
    """The GPU, or the processor and its cores, and the version of torch, for a figure that was measured there."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"{cpu_name()}, {os.cpu_count()} cores"
    return f"{name}, torch {torch.__version__}"
