"""Logits of examples and views in files: a manifest that says what they are, and shards, each whole or not there."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..utils import listed, write_json


MANIFEST = "manifest.json"
FORMAT = "hf_ltkd teacher logits, version 1"
MAX_MAPPED = 64  # each map takes a file handle, of which a process has about a thousand


class LogitFiles:
    """
    A folder of `view-<view>-<first example>.npy`, each of shape `[examples of the shard, classes]`.

    Args:
        directory (`str` or `os.PathLike`): The folder.
        manifest (`dict`): JSON values: what the logits come from, `num_examples`, `num_classes`, `views`, `dtype`, and
            `shard_examples`, the examples in each file but the last of a view.

    Attributes:
        shards (`list[tuple[int, int]]`): View and first example of each.
    """

    def __init__(self, directory: str | os.PathLike, manifest: dict[str, Any]):
        self.directory = Path(directory)
        self.manifest = {"format": FORMAT, **manifest}
        starts = range(0, manifest["num_examples"], manifest["shard_examples"])
        self.shards = [(view, start) for view in range(manifest["views"]) for start in starts]
        self._mapped: dict[tuple[int, int], np.ndarray] = {}

    @classmethod
    def open(cls, directory: str | os.PathLike) -> "LogitFiles | None":
        """
        What is in the folder, complete or not; `None` if there is no folder, or nothing in it.

        Raises:
            `ValueError`: if it holds something else.
        """
        path = Path(directory) / MANIFEST
        if not path.exists():
            folder = path.parent
            files = [file.name for file in folder.iterdir() if file.suffix != ".tmp"] if folder.exists() else []
            if files:
                raise ValueError(
                    f"{str(directory)!r} is no teacher cache: it holds {listed(files)}, but no {MANIFEST}. Choose a "
                    "new or an empty folder."
                )
            return None
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise ValueError(
                f"{str(path)!r} is not the manifest of a teacher cache ({FORMAT!r}): choose another folder, or delete "
                "this one if it is a cache of another version."
            )
        return cls(directory, manifest)

    def rows(self, start: int) -> range:
        """The examples of the shard that begins with `start`."""
        return range(start, min(start + self.manifest["shard_examples"], self.manifest["num_examples"]))

    def path(self, view: int, start: int) -> Path:
        return self.directory / f"view-{view:04d}-{start:08d}.npy"

    def map(self, view: int, start: int) -> np.ndarray:
        """
        A shard, mapped into memory.

        Raises:
            `ValueError`: if it is cut short, or not of the shape and type that it should have.
        """
        path = self.path(view, start)
        dtype, shape = self.manifest["dtype"], (len(self.rows(start)), self.manifest["num_classes"])
        try:
            array = np.load(path, mmap_mode="r")
            found = f"{array.dtype} of shape {array.shape}"
        except (ValueError, EOFError) as error:
            array, found = None, str(error)
        if array is None or array.shape != shape or array.dtype != dtype:
            raise ValueError(
                f"{str(path)!r} is damaged: expected {dtype} of shape {shape}, found {found}. Delete this file and "
                "call TeacherCache.build with the same arguments, which makes it again."
            )
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
        logits = np.empty((len(index), self.manifest["num_classes"]), dtype=np.float32)
        starts = index - index % self.manifest["shard_examples"]
        for start in np.unique(starts).tolist():
            if (view, start) not in self._mapped:
                if len(self._mapped) == MAX_MAPPED:
                    self._mapped.clear()
                self._mapped[view, start] = self.map(view, start)
            rows = starts == start
            logits[rows] = self._mapped[view, start][index[rows] - start]
        return logits

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}}  # a pickled map would be a copy of the file

    def missing(self) -> set[tuple[int, int]]:
        """The shards that are not there; those that are have been looked at by [`LogitFiles.map`]."""
        present = {path.name for path in self.directory.glob("view-*.npy")}
        missing = {shard for shard in self.shards if self.path(*shard).name not in present}
        for shard in self.shards:
            if shard not in missing:
                self.map(*shard)
        return missing

    def check_complete(self) -> None:
        """
        Raises:
            `ValueError`: if a shard is missing or damaged.
        """
        missing = len(self.missing())
        if missing:
            raise ValueError(
                f"The teacher cache in {str(self.directory)!r} has {len(self.shards) - missing} of {len(self.shards)} "
                "shards, because its build was interrupted: call TeacherCache.build with the same arguments to finish "
                "it."
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

    def check_space(self, missing: set[tuple[int, int]]) -> str:
        """
        What the logits take on disk, in words.

        Raises:
            `OSError`: if what is missing does not fit on the disk.
        """
        num_examples, views, num_classes, dtype = (
            self.manifest[name] for name in ("num_examples", "views", "num_classes", "dtype")
        )
        size = np.dtype(dtype).itemsize
        total = num_examples * views * num_classes * size / 1e6
        needed = sum(len(self.rows(start)) for _, start in missing) * num_classes * size / 1e6
        folders = (self.directory.absolute(), *self.directory.absolute().parents)
        free = shutil.disk_usage(next(folder for folder in folders if folder.is_dir())).free / 1e6
        if needed > free:
            raise OSError(
                f"The teacher's logits need {needed:,.1f} MB more in {str(self.directory)!r}, where {free:,.1f} MB "
                "are free: free some space, or choose another folder, fewer views or dtype='float16'."
            )
        return (
            f"{num_examples:,} examples × {views} views × {num_classes} classes × {size} bytes = {total:,.1f} MB, of "
            f"which {total - needed:,.1f} MB are there already"
        )

    def write_manifest(self) -> None:
        path = self.directory / MANIFEST
        if not path.exists():
            write_json(path, self.manifest)
            with path.open("rb+") as file:
                os.fsync(file.fileno())  # without it the shards would be worth nothing

    def write_shard(self, view: int, start: int, logits: Tensor) -> None:
        """
        Args:
            logits (`torch.Tensor` of shape `[examples of the shard, classes]`): In float32.

        Raises:
            `FloatingPointError`: if one is NaN, infinite, or too large for the type on disk.
            `OSError`: if the file cannot be written.
        """
        stored = logits.to(getattr(torch, self.manifest["dtype"]))
        wrong = (~stored.isfinite().all(1)).nonzero().flatten().tolist()
        if wrong:
            problem = "too large for float16: choose dtype='float32'"
            if not logits[wrong[0]].isfinite().all():
                problem = "NaN or infinite: check the teacher's weights and this image"
            raise FloatingPointError(f"The logits of example {start + wrong[0]} in view {view} are {problem}.")
        path = self.path(view, start)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            with unfinished.open("wb") as file:
                np.save(file, stored.numpy())
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise OSError(
                f"{str(path)!r} cannot be written ({error}): free some space and call TeacherCache.build again, which "
                "goes on after the finished shards."
            ) from error

    def remove_unfinished(self) -> None:
        """Removes what killed builds have left behind."""
        for path in self.directory.glob("*.tmp"):
            path.unlink(missing_ok=True)
