"""Views of images that are the same for any batch, order and number of workers; the bits that choose them."""

import copy
import os
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..utils import check_number, listed
from .transforms import Transform, describe_transform


Views = TypeVar("Views", bound="SeededViews")


class SeededViews(torch.utils.data.Dataset):
    """
    Images in views that the epoch chooses: the view `v` of example `i` is a pure function of `(seed, v, i)`.

    Where a teacher sees other pixels than its student, an item holds both of one view (the same crop, mirrored or
    not): `pixel_values` and `teacher_pixel_values`.
    """

    # The attributes that decide, beside images and normalisation, which pixels a view has.
    transform_fields: tuple[str, ...] = ("augment", "horizontal_flip", "seed")

    def __init__(self, *, augment: bool, horizontal_flip: bool, seed: int, transform: Transform | None = None):
        check_number("seed", seed, whole=True)
        self.augment = augment
        self.horizontal_flip = horizontal_flip
        self.seed = seed
        self.transform = transform
        self._seen_by: str | None = None
        self._share_view(0)

    def _share_view(self, view: int) -> None:
        # Shared memory, so that workers that outlive an epoch see the next one too.
        self._view = torch.full((), view, dtype=torch.long).share_memory_()
        self._view_of = os.getpid()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the view of every example."""
        check_number("epoch", epoch, 0, whole=True)
        if self._view_of == os.getpid():
            self._view.fill_(epoch)
        else:  # a rank that was forked with the dataset: the others may be at another view
            self._share_view(epoch)

    def for_student(self: Views) -> Views:
        """The same images, in the same view always, with the student's pixels alone."""
        return self._for("student")

    def for_teacher(self: Views) -> Views:
        """The same images, in the same view always, with the teacher's pixels alone, as `pixel_values`."""
        return self._for("teacher")

    def _for(self: Views, seen_by: str) -> Views:
        images = copy.copy(self)
        images._seen_by = seen_by
        return images

    def _wanted(self, own: Any, teachers: Any) -> dict[str, Any]:
        """What an item holds besides its label, out of what makes the two kinds of pixels."""
        if teachers is None or self._seen_by == "student":
            return {"pixel_values": own}
        return {"pixel_values": teachers} if self._seen_by else {"pixel_values": own, "teacher_pixel_values": teachers}

    @property
    def view(self) -> int:
        """The view that is handed out now, in worker processes too."""
        return int(self._view)

    @property
    def augmentation(self) -> dict[str, Any]:
        """What decides, beside images and normalisation, which pixels a view has."""
        fields = {name: getattr(self, name) for name in self.transform_fields}
        return fields if self.transform is None else {**fields, "transform": describe_transform(self.transform)}

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        """The whole batch at once: PyTorch's fetcher prefers this to one `__getitem__` per example."""
        index = np.asarray(indices, dtype=None if len(indices) else int)
        if index.dtype.kind not in "iu":
            raise TypeError(f"The index of an example must be a whole number, not {listed(list(map(repr, indices)))}.")
        if ((index < -len(self)) | (index >= len(self))).any():  # also where a for loop ends
            raise IndexError(f"There is no example of index {listed(index.tolist())}: they count to {len(self) - 1}.")
        index = index % len(self)  # -1 is the last one
        bits = random_bits(self.seed, index.astype(np.uint64), self.view)
        mirrored = uniform_integers(bits, 42, 2).astype(bool) & (self.augment and self.horizontal_flip)
        items = self._items(index, bits, mirrored)
        return [dict(zip(items, values, strict=True)) for values in zip(*items.values(), strict=True)]

    def _items(self, index: np.ndarray, bits: np.ndarray, mirrored: np.ndarray) -> dict[str, Any]:
        """
        What items of these examples hold, a value for each: cropped as their `bits` say (uint64, `[batch]`) and
        mirrored where `mirrored` (bool, `[batch]`) says so.
        """
        raise NotImplementedError


def random_bits(seed: int, index: np.ndarray, view: int) -> np.ndarray:
    """64 random bits per example: SplitMix64 (Steele, Lea, Flood 2014) of the seed, the view and the index in turn."""
    bits = splitmix64(np.array([seed % 2**64], dtype=np.uint64))
    bits = splitmix64(bits ^ np.uint64(view))
    return splitmix64(bits ^ index)


def splitmix64(state: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))


def uniform_integers(bits: np.ndarray, first_bit: int, bound: int) -> np.ndarray:
    """Integers (int64) from 0 to `bound - 1` out of 21 of the 64 bits."""
    field = (bits >> np.uint64(first_bit)) & np.uint64(2**21 - 1)
    return ((field * np.uint64(bound)) >> np.uint64(21)).astype(np.int64)
