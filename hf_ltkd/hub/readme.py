"""A README.md that a person and this package write: our part lies between two marks, all else is the person's."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.utils import yaml_dump

from ..utils import replacing


BEGIN = "<!-- hf_ltkd writes this part again, up to its end; what stands above and below is yours. -->"
END = "<!-- End of the part that hf_ltkd writes. Front matter as it wrote it:{} -->"
FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\n(.*?\n)??---[ \t]*(?:\n|\Z)", re.DOTALL)
OURS = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END).replace(r"\{\}", r"([^>]*)") + r"\n?", re.DOTALL)
# A card of version 0.1.0, which had no marks, from its title to the last line that it wrote.
OURS_BEFORE = re.compile(
    r"^# [^\n]*\n+A classifier (?:distilled from|trained with) .*?note {6}= \{arXiv:2506\.18496\}\n\}\n```()\n?",
    re.DOTALL | re.MULTILINE,
)
KEYS_BEFORE = {"library_name", "pipeline_tag", "tags", "datasets", "metrics", "model-index", "co2_eq_emissions"}


def read_readme(path: Path) -> tuple[dict[str, Any], str]:
    """
    The front matter of a README.md, and the text below; empty if there is no such file.

    Raises:
        `ValueError`: if it is not UTF-8, or its front matter is not YAML of the form `name: value`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
        front = FRONT_MATTER.match(text)
        metadata = yaml.safe_load(front[1] or "") if front else {}
        if not isinstance(metadata or {}, dict):
            raise ValueError("it must hold lines of the form name: value")
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{str(path)!r} cannot be read: {reason}; mend it, or remove it.") from error
    return metadata or {}, text[front.end() if front else 0 :].lstrip("\n")


def write_readme(path: Path, metadata: Mapping[str, Any], text: str, wishes: Mapping[str, Any]) -> None:
    """
    Writes our part of a README.md and keeps the person's: what stands outside of the marks, and what was set or
    changed in the front matter since we wrote it.

    Args:
        path (`Path`): The file, which may exist.
        metadata (`Mapping`): The front matter that we would write.
        text (`str`): Our part.
        wishes (`Mapping`): Front matter that the caller asks for now, which wins over that of the file; `tags` are
            added to those of the file.

    Raises:
        `ValueError`: as [`read_readme`].
    """
    metadata = yaml.safe_load(yaml_dump(dict(metadata), sort_keys=False))  # as it will be read again
    old, body = read_readme(path)
    persons, ours = persons_part(old, body)
    asked = {name: value for name, value in wishes.items() if value}
    merged = {**asked, **metadata, **persons, **asked}
    merged = {name: merged[name] for name in dict.fromkeys([*old, *merged]) if name in merged}  # in the file's order
    tags = [persons.get("tags", metadata.get("tags")), asked.get("tags")]
    if any(tags):
        merged["tags"] = list(dict.fromkeys(tag for some in tags for tag in _listed(some)))
    record = "".join(f" {name}={_digest(value)}" for name, value in metadata.items())
    part = f"{BEGIN}\n\n{text.strip()}\n\n{END.format(record)}\n"
    if ours is not None:
        body = body[: ours.start()] + part + body[ours.end() :]
    else:
        body = "\n\n".join(filter(None, [body.strip(), part]))
    _write(path, merged, body)


def take_over(path: Path, other: Path) -> None:
    """
    Brings what a person wrote into another copy of a README.md, such as the Hub's, into this one; where both were
    edited, this one's front matter and text win.

    Raises:
        `ValueError`: as [`read_readme`].
    """
    (front, body), (other_front, other_body) = read_readme(path), read_readme(other)
    persons, ours = persons_part(front, body)
    others, _ = persons_part(other_front, other_body)
    if not (body if ours is None else body[: ours.start()] + body[ours.end() :]).strip():
        front, body = other_front, other_body
    _write(path, {**front, **others, **persons}, body)


def persons_part(metadata: Mapping[str, Any], body: str) -> tuple[dict[str, Any], re.Match | None]:
    """The front matter that a person wrote, and where our part lies in the text, if it is there."""
    ours = OURS.search(body)
    if ours is not None:
        record = dict(re.findall(r"([\w-]+)=([0-9a-f]{8})", ours[1]))
        return {name: value for name, value in metadata.items() if record.get(name) != _digest(value)}, ours
    ours = OURS_BEFORE.search(body)
    known = KEYS_BEFORE if ours is not None else set()
    return {name: value for name, value in metadata.items() if name not in known}, ours


def _write(path: Path, metadata: Mapping[str, Any], body: str) -> None:
    front = f"---\n{yaml_dump(dict(metadata), sort_keys=False)}---\n\n" if metadata else ""
    with replacing(path) as file:
        file.write_text(front + body, encoding="utf-8", newline="\n")


def _listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values] if values else []


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]
