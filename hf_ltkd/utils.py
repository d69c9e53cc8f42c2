"""Small helpers that several modules share."""

import json
import math
import numbers
import os
import platform
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import yaml
from safetensors import SafetensorError, safe_open
from torch import nn


T = TypeVar("T")


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
    """Writes `values` to `path`, atomically; NaN and infinite numbers, which JSON has not, as null."""
    with replacing(path) as file:
        file.write_text(json.dumps(_as_json(values), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _as_json(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _as_json(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_as_json(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """
    What `path` holds; an empty dict if there is no such file.

    Raises:
        `ValueError`: if it holds no JSON object.
    """
    return load_json(path, dict) if Path(path).is_file() else {}


def load_json(path: str | os.PathLike, make: Callable[..., T]) -> T:
    """
    `make(**values)` of what `path` holds.

    Raises:
        `FileNotFoundError`: if there is no such file.
        `ValueError`: if it holds no JSON object, or not what `make` takes.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}: give the folder that holds {Path(path).name}.")
    text = Path(path).read_bytes()
    try:
        return make(**json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        reason = "it is empty" if not text.strip() else one_line(error)
        raise ValueError(
            f"{str(path)!r} is damaged, or of another kind ({reason}): write it again, or remove it."
        ) from error


def on_main_process(function: Callable[[], T]) -> T:
    """What `function` returns on the first of several ranks, which alone calls it; its error is raised on all."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return function()
    answer: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            answer[0] = function()
        except Exception as error:
            answer[1] = error
    dist.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def file_crc32(path: str | os.PathLike) -> int:
    """The CRC-32 of a file, which any damage changes but one in 4 billion; about 1 GB a second."""
    crc32 = 0
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            crc32 = zlib.crc32(block, crc32)
    return crc32


def is_damaged(path: Path) -> bool:
    """Whether a file that nobody has a checksum of can't be read: what torch writes is a zip archive, with its own."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                return False
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        return path.suffix in (".pt", ".pth", ".bin") and zipfile.ZipFile(path).testzip() is not None
    except (SafetensorError, ValueError, zipfile.BadZipFile):
        return True


def check_model_files(folder: str | os.PathLike) -> None:
    """
    Raises:
        `ValueError`: if a file of a saved model, in a folder here, is damaged; it names the file.
    """
    for name in ("config.json", "preprocessor_config.json", "processor_config.json"):
        read_json(Path(folder) / name)
    for path in sorted(Path(folder).glob("*.safetensors")):
        if is_damaged(path):
            raise ValueError(f"{str(path)!r} is damaged or not complete: save the model again, or get another copy.")


def parse_values(flag: str, items: Sequence[str]) -> dict[str, Any]:
    """
    `["alpha=1", "ce=balanced_softmax"]` as a dict; values are read as JSON, lists and dicts as YAML, else as words.

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
            if value.startswith(("{", "[")):  # {0: 4, 10: 1} is YAML and no JSON
                with suppress(yaml.YAMLError):
                    values[name] = yaml.safe_load(value)
    return values


def check_number(
    name: str,
    value: Any,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    whole: bool = False,
) -> None:
    """
    Raises:
        `ValueError`: if an argument is no finite number (a whole one), or beyond its limits; it names the argument.
    """
    kind = "a whole number" if whole else "a number"
    is_number = type(value) in ((int,) if whole else (int, float)) or (
        isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
    )
    if (
        not is_number
        or not -math.inf < value < math.inf
        or (least is not None and value < least)
        or (most is not None and value > most)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
    ):
        limits = {"{} or more": least, "above {}": above, "at most {}": most, "below {}": below}
        words = " and ".join(text.format(limit) for text, limit in limits.items() if limit is not None)
        raise ValueError(f"{name}={value!r} is not valid: it must be {kind}{words and ', '}{words}.")


def one_line(text: Any) -> str:
    """Any text on one line, without characters that cannot be printed."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def listed(items: Sequence[Any], limit: int = 5) -> str:
    """The first `limit` items for an error message: `"3, 7, 8"`, `"0, 1, 2, 3, 4, ..."`."""
    return ", ".join(str(item) for item in items[:limit]) + (", ..." if len(items) > limit else "")


def student_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """What of a batch the student sees: all that is not named `teacher_*`."""
    return {name: value for name, value in batch.items() if not name.startswith("teacher_")}


def teacher_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """What of a batch the teacher sees: `teacher_pixel_values` instead of the student's `pixel_values`, and so on."""
    own = {name.removeprefix("teacher_"): value for name, value in batch.items() if name.startswith("teacher_")}
    return {**student_inputs(batch), **own}


def placed_for(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs on a model's device, floating-point ones in the type of its weights, which may be bfloat16."""
    weights: list[torch.Tensor] = [p for p in model.parameters() if p.is_floating_point()] or [torch.empty(0)]
    return {
        name: value.to(weights[0].device, weights[0].dtype if value.is_floating_point() else None)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in inputs.items()
    }


def cpu_name() -> str:
    """The processor's model; `platform.processor()` is empty on Linux."""
    facts = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.+)$", facts.read_text(), re.MULTILINE) if facts.is_file() else None
    return model.group(1) if model else platform.processor() or platform.machine()


def describe_machine(device: str = "cpu") -> str:
    """The GPU, or the processor and its cores, and the version of torch, for a figure that was measured there."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"{cpu_name()}, {os.cpu_count()} cores"
    return f"{name}, torch {torch.__version__}"
