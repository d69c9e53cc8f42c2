"""Logits of examples and views: a file a view, and a manifest that says what they are and which views are whole."""

import io
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from torch import Tensor

from ..utils import file_crc32, listed, write_json


MANIFEST = "manifest.json"
LOCK = "build.lock"
FORMAT = "hf_ltkd teacher logits, version 2"


class LogitFiles:
    """
    A folder of `view-<view>.npy`, each of shape `[examples, classes]`.

    Args:
        directory (`str` or `os.PathLike`): The folder.
        manifest (`dict`): JSON values: what the logits come from, `num_examples`, `num_classes`, `views`, `dtype`. Its
            `crc32` lists the views that are whole, with the CRC-32 of their files.
    """

    def __init__(self, directory: str | os.PathLike, manifest: dict[str, Any]):
        self.directory = Path(directory)
        self.manifest = {"format": FORMAT, "crc32": {}, **manifest}
        self._mapped: tuple[int, np.ndarray] | None = None  # the view that was read last

    @classmethod
    def open(cls, directory: str | os.PathLike) -> "LogitFiles | None":
        """
        What is in the folder, complete or not; `None` if there is no folder, or nothing in it.

        Raises:
            `ValueError`: if it holds something else, or a cache of an earlier version.
        """
        if not isinstance(directory, str | os.PathLike):
            raise ValueError(f"The directory of a teacher cache is {directory!r}: give the path of a folder.")
        path = Path(directory) / MANIFEST
        if not path.exists():
            found = path.parent.iterdir() if path.parent.exists() else []
            if files := [file.name for file in found if file.name != LOCK and file.suffix != ".tmp"]:
                raise ValueError(
                    f"{str(directory)!r} is no teacher cache: it holds {listed(files)}, but no {MANIFEST}. Choose a "
                    "new or an empty folder."
                )
            return None
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            found_format = manifest["format"]
        except (ValueError, TypeError, KeyError):
            found_format = "no format"
        if found_format != FORMAT:
            raise ValueError(
                f"{str(path)!r} is not the manifest of a teacher cache ({FORMAT!r}, found {found_format!r}): choose "
                "another folder, or delete this one if it is a cache of an earlier version and build it again."
            )
        return cls(directory, manifest)

    @contextmanager
    def locked(self):
        """Waits for another process that builds in this folder."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.directory / LOCK):
            yield

    def path(self, view: int) -> Path:
        return self.directory / f"view-{view:04d}.npy"

    @property
    def _shape(self) -> tuple[int, int]:
        return self.manifest["num_examples"], self.manifest["num_classes"]

    def map(self, view: int) -> np.ndarray:
        """
        A view, mapped into memory.

        Raises:
            `ValueError`: if it is cut short, or not of the shape and type that it should have.
        """
        dtype = self.manifest["dtype"]
        try:
            array = np.load(self.path(view), mmap_mode="r")
            found = f"{array.dtype} of shape {array.shape}"
        except (ValueError, EOFError) as error:
            array, found = None, str(error)
        if array is None or array.shape != self._shape or array.dtype != dtype:
            raise self._damaged(view, f"expected {dtype} of shape {self._shape}, found {found}")
        return array

    def read(self, index: np.ndarray, view: int) -> np.ndarray:
        """
        The logits of these examples in one view, in float32, of shape `[len(index), classes]`.

        Raises:
            `IndexError`: if an example or the view is not there.
        """
        num_examples, views = self.manifest["num_examples"], self.manifest["views"]
        if not 0 <= view < views or ((index < 0) | (index >= num_examples)).any():
            raise IndexError(
                f"The cache holds the examples 0 to {num_examples - 1} in the views 0 to {views - 1}, not "
                f"{listed(index.tolist())} in view {view}: set the epoch of CachedTeacherDataset, which goes round "
                "the views, or build a cache with more."
            )
        if self._mapped is None or self._mapped[0] != view:
            self._mapped = view, self.map(view)
        return self._mapped[1][index].astype(np.float32)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": None}  # a pickled map would be a copy of the file

    def missing(self) -> list[int]:
        """The views that are not there; of those that are, shape and type have been looked at."""
        missing = []
        for view in range(self.manifest["views"]):
            if str(view) in self.manifest["crc32"] and self.path(view).exists():
                self.map(view)
            else:
                missing.append(view)
        return missing

    def verify(self) -> None:
        """
        Reads every view that is there, about 1 GB a second from memory.

        Raises:
            `ValueError`: if its content is not that which was written.
        """
        for view, expected in self.manifest["crc32"].items():
            path = self.path(int(view))
            if path.exists() and (crc32 := file_crc32(path)) != expected:
                raise self._damaged(int(view), f"its CRC-32 is {crc32:08x}, when it was written it was {expected:08x}")

    def _damaged(self, view: int, problem: str) -> ValueError:
        return ValueError(
            f"{str(self.path(view))!r} is damaged: {problem}. Delete this file and call TeacherCache.build with the "
            "same arguments, which makes it again."
        )

    def check_complete(self) -> None:
        """
        Raises:
            `ValueError`: if a view is missing or damaged.
        """
        views, missing = self.manifest["views"], len(self.missing())
        if missing:
            raise ValueError(
                f"The teacher cache in {str(self.directory)!r} has {views - missing} of {views} views, because its "
                "build was interrupted: call TeacherCache.build with the same arguments to finish it."
            )

    def compare(self, given: dict[str, Any]) -> None:
        """
        Raises:
            `ValueError`: if a value of the manifest is another one than in `given`.
        """
        for name, value in given.items():
            if self.manifest[name] != value:
                raise ValueError(
                    f"The teacher cache in {str(self.directory)!r} was built with {name} {self.manifest[name]}, not "
                    f"with {value}: use what it was built with, choose another folder, or delete this one to build it "
                    "again."
                )

    def check_space(self, missing: list[int]) -> str:
        """
        What the logits take on disk, in words.

        Raises:
            `OSError`: if what is missing does not fit on the disk.
        """
        (num_examples, num_classes), views = self._shape, self.manifest["views"]
        size = np.dtype(self.manifest["dtype"]).itemsize
        view_size = num_examples * num_classes * size / 1e6
        folders = (self.directory.absolute(), *self.directory.absolute().parents)
        free = shutil.disk_usage(next(folder for folder in folders if folder.is_dir())).free / 1e6
        if len(missing) * view_size > free:
            raise OSError(
                f"The teacher's logits need {len(missing) * view_size:,.1f} MB more in {str(self.directory)!r}, where "
                f"{free:,.1f} MB are free: free some space, or choose another folder, fewer views or dtype='float16'."
            )
        return (
            f"{num_examples:,} examples × {views} views × {num_classes} classes × {size} bytes = "
            f"{views * view_size:,.1f} MB, of which {(views - len(missing)) * view_size:,.1f} MB are there already"
        )

    def begin(self, missing: list[int]) -> None:
        """Removes what a killed build has left behind, and writes the manifest."""
        for path in [*map(self.path, missing), *self.directory.glob("*.tmp")]:
            path.unlink(missing_ok=True)
        if not (self.directory / MANIFEST).exists():
            self._write_manifest()

    def write(self, view: int, batches: Iterable[Tensor]) -> None:
        """
        Args:
            batches (`Iterable[torch.Tensor]`): Logits `[batch, classes]` in float32 of all examples in their order;
                what follows is left out.

        Raises:
            `FloatingPointError`: if one is NaN, infinite, or too large for the type on disk.
            `OSError`: if the file cannot be written.
        """
        path, crc32 = self.path(view), 0
        try:
            with path.open("wb", buffering=0) as file:
                for block in self._blocks(view, batches):
                    crc32 = zlib.crc32(block, crc32)
                    rest = memoryview(block)
                    try:
                        while rest:
                            rest = rest[file.write(rest) :]
                    except OSError as error:
                        raise OSError(
                            f"{str(path)!r} cannot be written ({error}): free some space and call TeacherCache.build "
                            "again, which goes on after the finished views."
                        ) from error
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self.manifest["crc32"][str(view)] = crc32
        self._write_manifest()  # from now on the view counts as whole

    def _blocks(self, view: int, batches: Iterable[Tensor]) -> Iterator[bytes]:
        dtype, (num_examples, _) = self.manifest["dtype"], self._shape
        header = io.BytesIO()
        description = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(header, description)
        yield header.getvalue()
        first = 0
        for logits in batches:
            logits = logits[: num_examples - first].cpu()
            stored = logits.to(getattr(torch, dtype))
            wrong = (~stored.isfinite().all(1)).nonzero().flatten().tolist()
            if wrong:
                problem = "too large for float16: choose dtype='float32'"
                if not logits[wrong[0]].isfinite().all():
                    problem = "NaN or infinite: check the teacher's weights and this image"
                raise FloatingPointError(f"The logits of example {first + wrong[0]} in view {view} are {problem}.")
            yield stored.numpy().tobytes()
            first += len(logits)

    def _write_manifest(self) -> None:
        path = self.directory / MANIFEST
        write_json(path, self.manifest)
        with path.open("rb+") as file:
            os.fsync(file.fileno())  # without it the views would be worth nothing
