"""Augmentation of the user's own: any callable on an image, repeatable for each view; and presets by name."""

import pickle
import random
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import torch
from datasets.fingerprint import Hasher
from PIL import Image as PILImage
from torch import Tensor

from .arguments import AUGMENTATIONS


Transform = Callable[[Any], Any]


def find_transform(augment: str | Transform) -> tuple[bool, Transform | None]:
    """
    Whether views are cropped and mirrored, and what is done to them afterwards.

    Args:
        augment (`str` or `Callable`): A preset of `AUGMENTATIONS`, `"package.module:name"`, or the callable itself.

    Raises:
        `ValueError`: if there is none of that name.
    """
    if not isinstance(augment, str):
        return True, augment
    if augment in ("basic", "none"):
        return augment == "basic", None
    module, _, name = augment.partition(":")
    if augment not in AUGMENTATIONS:
        try:
            return True, getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"--augment {augment} cannot be imported: {error}.") from error
    from torchvision.transforms import v2  # optional: `DataArguments` has looked

    if augment == "randaugment":
        return True, v2.RandAugment()
    return True, v2.Compose([v2.TrivialAugmentWide(), v2.PILToTensor(), v2.RandomErasing(p=0.1)])


def transformed(transform: Transform, images: Iterable[PILImage.Image], bits: np.ndarray) -> list[PILImage.Image]:
    """
    Each image transformed, as its 64 random bits say: they seed the global generators of Python, NumPy and PyTorch (on
    the CPU), which are afterwards as they were before.

    Raises:
        `ValueError`: if the transform returns no image.
    """
    made = []
    with _generators_restored():
        for image, seed in zip(images, bits.tolist(), strict=True):
            random.seed(seed)
            np.random.seed(seed >> 32)
            torch.default_generator.manual_seed(seed >> 1)
            made.append(_as_image(transform(image), transform).convert(image.mode))
    return made


@contextmanager
def _generators_restored() -> Iterator[None]:
    of_python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)


def _as_image(made: Any, transform: Transform) -> PILImage.Image:
    if isinstance(made, Tensor) and made.dtype == torch.uint8 and made.ndim == 3:
        made = made.permute(1, 2, 0).numpy()
        made = made[..., 0] if made.shape[2] == 1 else made
    if isinstance(made, np.ndarray) and made.dtype == np.uint8:
        return PILImage.fromarray(made)
    if not isinstance(made, PILImage.Image):
        kind = f"{made.dtype} of shape {tuple(made.shape)}" if isinstance(made, Tensor | np.ndarray) else type(made)
        raise ValueError(
            f"The transform {describe_transform(transform)} returned {kind}, expected an image of Pillow, or uint8 as "
            "a tensor [channels, height, width] or an array [height, width, channels]: leave out ToTensor and "
            "Normalize, because each network's own normalisation comes afterwards."
        )
    return made


def describe_transform(transform: Transform) -> str:
    """What it is called, and a digest of all it holds, that of its code too where it is no part of a package."""
    name = re.sub(" at 0x[0-9a-f]+", "", repr(transform))
    name = " ".join(name.split())
    try:
        return f"{name} {Hasher.hash(transform)}"
    except (TypeError, AttributeError, pickle.PicklingError):  # it holds something that cannot be looked into
        return name
