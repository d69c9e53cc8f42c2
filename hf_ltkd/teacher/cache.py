"""The teacher's logits of every example and view, on disk, so that the teacher runs once."""

import contextlib
import hashlib
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..data.augment import LabelledImages
from ..losses.checks import logits_of
from ..utils import check_number
from .ema import EMATeacher
from .ensemble import TeacherEnsemble
from .live import Teacher, ask_teacher, load_teacher, place_teacher, teacher_fingerprint, text_of
from .logit_files import LogitFiles


class TeacherCache:
    """
    Logits of a frozen teacher, memory-mapped from disk. [`TeacherCache.build`] makes them, [`TeacherCache.open`] finds
    them again.

    View `v` is what the dataset hands out in epoch `v`. As many views as epochs give what a live teacher gives; with
    fewer, the epochs go round them: less disk, less variety. Losses on hidden states (ReviewKD, CAT-KD) need a live
    teacher, because only logits are here.

    Pixels are the same bit for bit. Logits are the teacher's without autocast, asked in batches of exactly
    `batch_size`; in batches of another size, on another device or with more threads a network may round differently.
    Measured on one CPU thread in float32, each network of [`create_model`] gave an example the same bits in every
    batch of 16 and more: there, training equals live distillation bit for bit, but for a last batch of fewer
    (`dataloader_drop_last=True` leaves it out). Elsewhere, build with the training's batch size per device.

    Attributes:
        directory (`Path`): The folder.
        manifest (`dict`): What `manifest.json` says: all of these, and what the logits come from, as fingerprints.
        num_examples, num_classes, views (`int`), dtype (`str`, `"float32"` or `"float16"`): What is in it.
    """

    def __init__(self, files: LogitFiles):
        self._files = files
        self.directory: Path = files.directory
        self.manifest: dict[str, Any] = files.manifest
        self.num_examples: int = self.manifest["num_examples"]
        self.num_classes: int = self.manifest["num_classes"]
        self.views: int = self.manifest["views"]
        self.dtype: str = self.manifest["dtype"]

    @classmethod
    def build(
        cls,
        directory: str | os.PathLike,
        teacher: Teacher | Sequence[Teacher],
        dataset: LabelledImages,
        *,
        views: int,
        dtype: str = "float32",
        batch_size: int = 64,
        shard_examples: int | None = None,
        device: str | torch.device | None = None,
        num_workers: int = 0,
        progress: bool = True,
        verify: bool = True,
    ) -> "TeacherCache":
        """
        Asks the teacher for every view of every example, or for what an interrupted build has left out.

        Under `torchrun` the ranks share the batches of each view. A view counts once it is whole: a build that was
        killed goes on when called again, to the same bytes. Of two builds in one folder the second waits for the
        first. The teacher stays on `device`, frozen and in eval mode.

        Args:
            directory (`str` or `os.PathLike`): A new or empty folder, or one of the same cache.
            teacher (`torch.nn.Module`, `str`, `os.PathLike`, or a list of these): As [`load_teacher`] takes it. Takes
                `pixel_values`; gives logits `[batch, classes]`, or outputs with them. Of several what is kept is what
                they say together.
            dataset ([`ImageDataset`] or [`LazyImageDataset`]): The training images. It keeps its view.
            views (`int`): Views of each example; the number of epochs to reproduce a live teacher.
            dtype (`str`, *optional*, defaults to `"float32"`): `"float32"`, or `"float16"` for half of the disk.
            batch_size (`int`, *optional*, defaults to 64): Examples that the teacher is asked for at once.
            shard_examples (`int`, *optional*): Of earlier versions; a view is one file now.
            device (`str` or `torch.device`, *optional*): Where the teacher runs; by default where Accelerate trains.
            num_workers (`int`, *optional*, defaults to 0): Processes that decode images.
            progress (`bool`, *optional*, defaults to `True`): Whether the main process shows the size and a bar.
            verify (`bool`, *optional*, defaults to `True`): Whether to read the views that are there already, as
                [`TeacherCache.open`] does.

        Raises:
            `ValueError`: if an argument is not valid, the dataset hands out other pixels when asked again, or the
                folder holds other files, another cache or a damaged view. Nothing is overwritten.
            `OSError`: if the disk is too small, before anything is built, or cannot be written; finished views stay.
            `FloatingPointError`: if logits are NaN, infinite or too large for float16; it names example and view.
        """
        if not isinstance(dataset, LabelledImages) or len(dataset) == 0:
            raise ValueError(
                f"dataset is empty or of another kind ({type(dataset).__name__}): give an ImageDataset or a "
                "LazyImageDataset, which hand out the same pixels whenever they are asked for a view."
            )
        dataset = dataset.for_teacher()
        for name, value in {"views": views, "batch_size": batch_size}.items():
            check_number(name, value, 1, whole=True)
        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype={dtype!r} is not valid: choose 'float32' or 'float16'.")
        if shard_examples is not None:
            warnings.warn(
                "shard_examples has no effect, because a view is one file; it goes with version 0.3.",
                FutureWarning,
                stacklevel=2,
            )
        state = PartialState(cpu=not torch.accelerator.is_available())  # without cpu=True ranks on CPUs are not seen
        device = torch.device(device or state.device)
        if isinstance(teacher, EMATeacher):
            raise ValueError("An EMATeacher changes with each step: give it to the trainer, without a cache.")
        network = place_teacher(load_teacher(teacher), device)
        rounds = math.ceil(len(dataset) / batch_size / state.num_processes)
        bar = tqdm(desc="Asking the teacher", unit="batch", disable=not (progress and state.is_main_process))

        def ask(pixel_values: Tensor) -> Tensor:
            inputs = {"pixel_values": pixel_values.to(device)}
            outputs = ask_teacher(network, inputs, torch.autocast(device.type, enabled=False))
            return logits_of(outputs).float().contiguous()

        def batches(view: int) -> Iterator[Tensor]:
            """The logits of all examples in their order, a batch of each rank at a time."""
            dataset.set_epoch(view)
            # All batches are full, because rounding can depend on their size: after the last example comes the first.
            starts = [(i * state.num_processes + state.process_index) * batch_size for i in range(rounds)]
            order = [(start + i) % len(dataset) for start in starts for i in range(batch_size)]
            # Its own generator: drawing from the global one would change what is initialised afterwards.
            own = torch.Generator()
            for batch in DataLoader(dataset, batch_size, sampler=order, num_workers=num_workers, generator=own):
                yield gather(ask(batch["pixel_values"]))
                bar.update()

        def look() -> tuple[LogitFiles, list[int]]:
            files = LogitFiles.open(directory) or LogitFiles(directory, manifest)
            files.compare(manifest)
            return files, files.missing()

        view_before = dataset.view
        try:
            shape = ask(_same_pixels(dataset, min(batch_size, len(dataset)))).shape
            if len(shape) != 2:
                raise ValueError(f"The teacher gives logits of shape {tuple(shape)}, expected [batch, classes].")
            manifest = {
                **_fingerprints(network),
                "dataset": dataset.fingerprint,
                "num_examples": len(dataset),
                "num_classes": shape[1],
                "views": views,
                "dtype": dtype,
                "batch_size": batch_size,
            }
            files, missing = look()
            files.check_space(missing)
            with files.locked() if state.is_main_process else contextlib.nullcontext():
                state.wait_for_everyone()
                files, missing = look()  # another process may have built it in the meantime
                size = files.check_space(missing)
                if not bar.disable:
                    bar.write(f"Teacher logits in {str(directory)!r}: {size}.", file=sys.stderr)
                state.wait_for_everyone()  # every rank has looked at the folder before one of them writes
                if state.is_main_process:
                    if verify:
                        files.verify()
                    files.begin(missing)
                bar.reset(total=rounds * len(missing))
                for view in missing:
                    if state.is_main_process:
                        files.write(view, batches(view))
                    else:
                        for _ in batches(view):
                            pass
                state.wait_for_everyone()
        finally:
            bar.close()
            dataset.set_epoch(view_before)
        return cls.open(directory, verify=False)

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike,
        *,
        teacher: nn.Module | Sequence[nn.Module] | None = None,
        dataset: LabelledImages | None = None,
        verify: bool = True,
    ) -> "TeacherCache":
        """
        Opens a complete cache, and compares it with `teacher` and `dataset` where they are given.

        Args:
            directory (`str` or `os.PathLike`): The folder.
            teacher (`torch.nn.Module` or a list of them, *optional*): The teacher that it should be of.
            dataset ([`ImageDataset`] or [`LazyImageDataset`], *optional*): The images that it should be of.
            verify (`bool`, *optional*, defaults to `True`): Whether to read every view and compare its CRC-32 with
                that which was written, about a second per GB beside the reading. `False` compares sizes, shapes and
                types alone.

        Raises:
            `ValueError`: if there is no cache, it is not complete or damaged, or it was built with something else.
        """
        files = LogitFiles.open(directory)
        if files is None:
            raise ValueError(f"{str(directory)!r} holds no teacher cache: build it with TeacherCache.build.")
        files.check_complete()
        cache = cls(files)
        cache.check(teacher=teacher, dataset=dataset)
        if verify:
            files.verify()
        return cache

    def check(
        self, *, teacher: nn.Module | Sequence[nn.Module] | None = None, dataset: LabelledImages | None = None
    ) -> None:
        """
        Raises:
            `ValueError`: if the cache was built with another teacher (class, weights, configuration) or another
                dataset (images, labels, normalisation, transform, seed); it names both.
        """
        if teacher is not None:
            self._files.compare(_fingerprints(load_teacher(teacher)))
        if dataset is not None:
            self._files.compare({"dataset": dataset.fingerprint})

    def logits(self, indices: Sequence[int] | np.ndarray | Tensor, view: int) -> Tensor:
        """
        The logits of these examples in this view, `[len(indices), classes]`, in float32.

        Raises:
            `IndexError`: if an example or the view is not in the cache.
        """
        return torch.from_numpy(self._files.read(np.asarray(indices, dtype=np.int64), view))


class CachedTeacherDataset(Dataset):
    """
    The items of a dataset with the teacher's logits of the same view: `teacher_logits` `[classes]`, float32.

    Args:
        dataset ([`ImageDataset`] or [`LazyImageDataset`]): What the cache was built from.
        cache ([`TeacherCache`]): Its teacher's logits.

    Raises:
        `ValueError`: if the cache was built from another dataset.
    """

    def __init__(self, dataset: LabelledImages, cache: TeacherCache):
        cache.check(dataset=dataset)
        self.dataset = dataset.for_student()
        self.cache = cache

    @property
    def labels(self) -> Tensor:
        return self.dataset.labels

    def set_epoch(self, epoch: int) -> None:
        """Chooses the view of every example; the epochs go round the views of the cache."""
        self.dataset.set_epoch(epoch % self.cache.views)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        # The dataset's view is in shared memory: pixels and logits agree on it in worker processes, too.
        items = self.dataset.__getitems__(indices)
        logits = self.cache.logits(np.asarray(indices) % len(self), self.dataset.view)
        return [{**item, "teacher_logits": row} for item, row in zip(items, logits, strict=True)]


def _fingerprints(teacher: nn.Module) -> dict[str, str]:
    """Weights, class and configuration, of each of several; not where they were loaded from."""
    if isinstance(teacher, TeacherEnsemble):
        configs = [_fingerprints(one)["teacher_config"] for one in teacher.teachers]
        return {"teacher": teacher_fingerprint(teacher), "teacher_config": "; ".join(configs)}
    if isinstance(teacher, PreTrainedModel):
        unrelated = ("_name_or_path", "architectures", "dtype", "transformers_version")
        config = {name: value for name, value in teacher.config.to_dict().items() if name not in unrelated}
        description = json.dumps(config, sort_keys=True, default=str)
    else:
        description = text_of(teacher)
    digest = hashlib.sha256(description.encode()).hexdigest()[:16]
    return {"teacher": teacher_fingerprint(teacher), "teacher_config": f"{type(teacher).__name__} {digest}"}


def _same_pixels(dataset: LabelledImages, count: int) -> Tensor:
    """
    The pixels of the first examples in view 0.

    Raises:
        `ValueError`: if they are others when asked for again, after another view.
    """
    asked = []
    for view in (0, 1, 0):
        dataset.set_epoch(view)
        asked.append(torch.stack([item["pixel_values"] for item in dataset.__getitems__(list(range(count)))]))
    if not torch.equal(asked[0], asked[2]):
        raise ValueError(
            f"This {type(dataset).__name__} hands out other pixels of the same view when it is asked again, whose "
            "logits are not the cached ones: let its pixels depend on its seed, view and index alone, or train with "
            "the live teacher."
        )
    return asked[0]
