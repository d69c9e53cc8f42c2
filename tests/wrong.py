"""Wrong values, and what the sentence that refuses one has to be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from datasets import Dataset, Features

import hf_ltkd


PACKAGE = str(Path(hf_ltkd.__file__).parent)
NAN, INF = float("nan"), float("inf")
NO_NUMBER: tuple[Any, ...] = (None, "4", [4.0], NAN, INF)
NO_WEIGHT = (-1, *NO_NUMBER)
NO_COUNT = (0, -1, 1.5, *NO_NUMBER)


class Wrong(NamedTuple):
    """What is called with each of the values, and a word that its message must hold."""

    call: Callable[..., Any]
    values: tuple[Any, ...]
    word: str

    def check(self, errors: tuple[type[Exception], ...], *arguments: Any) -> None:
        """Each value is refused by one of these errors, in one sentence of ours."""
        for value in self.values:
            with pytest.raises(errors) as caught:
                self.call(value, *arguments)
                pytest.fail(f"{value!r} was taken for right")
            message = str(caught.value)
            assert any(part in message for part in self.word.split("|")), message
            assert 20 < len(message) < 700 and "\n" not in message, message
            path = str(caught.traceback[-1].path)
            assert path.startswith(PACKAGE), f"raised by {path}: {message}"


def table(labels: Any, kind: Any = None) -> Dataset:
    features = None if kind is None else Features({"label": kind})
    return Dataset.from_dict({"label": labels}, features=features)
