"""Labelled images, augmented a whole batch at a time, the same for any number of workers."""

import copy
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from ..utils import check_number
from .pixels import scale_and_offset
from .transforms import Transform, transformed
from .views import SeededViews, splitmix64, uniform_integers


class LabelledImages(SeededViews):
    """What [`ImageDataset`] and [`LazyImageDataset`] share: seeded views, a label for each image, normalisation."""

    def __init__(
        self,
        labels: Sequence[int] | np.ndarray | Tensor,
        num_images: int,
        channels: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        augment: bool,
        horizontal_flip: bool,
        seed: int,
        device: str | torch.device = "cpu",
        transform: Transform | None = None,
    ):
        super().__init__(augment=augment, horizontal_flip=horizontal_flip, seed=seed, transform=transform)
        self.labels = _class_ids(labels)
        mean, std = numbers_of("mean", mean), numbers_of("std", std)
        if len(self.labels) != num_images or len(mean) != channels or len(std) != channels:
            raise ValueError(
                f"{num_images} images of {channels} channels need as many labels and as many means and deviations, "
                f"got {len(self.labels)} labels, {len(mean)} means, {len(std)} deviations."
            )
        if not all(deviation > 0 for deviation in std):
            raise ValueError(f"std={std} is not valid: each deviation must be above 0.")
        self.device = torch.device(device)
        self._scale, self._offset = (part.to(device) for part in scale_and_offset(mean, std))

    def labelled(self) -> "LabelledImages":
        """
        The same images, in the same view always, without those that have no class (label -1).

        Raises:
            `ValueError`: if those are not the last ones.
        """
        known = self.labels >= 0
        count = int(known.sum())
        if not known[:count].all():
            raise ValueError("Images without a class (label -1) must come after those with one.")
        images = copy.copy(self)
        images.labels = self.labels[:count]
        return images

    @property
    def fingerprint(self) -> str:
        """
        Names what is handed out: two datasets with the same one have the same labels, and the same pixels for the same
        view of an example. It is computed from the content each time.
        """
        digest = hashlib.sha256()
        for tensor in (self.labels, self._scale, self._offset):
            digest.update(tensor.cpu().numpy().tobytes())
        for block in self._image_content():
            digest.update(len(block).to_bytes(8, "little"))
            digest.update(block)
        transform = ", ".join([*(f"{name}={value}" for name, value in self.augmentation.items()), *self._extras()])
        return f"{type(self).__name__}({len(self)} examples, {transform}) sha256:{digest.hexdigest()}"

    def __len__(self) -> int:
        return len(self.labels)

    def _items(self, index: np.ndarray, bits: np.ndarray, mirrored: np.ndarray) -> dict[str, Any]:
        if self.device.type != "cpu" and torch.utils.data.get_worker_info() is not None:
            raise ValueError(
                f"The images are on {self.device}, which worker processes cannot use: set dataloader_num_workers=0, "
                "or keep the images on the CPU."
            )
        return {**self._pixels(index, bits, mirrored), "labels": self.labels[index]}

    def _pixels(self, index: np.ndarray, bits: np.ndarray, mirrored: np.ndarray) -> dict[str, Iterable[Tensor]]:
        """
        `pixel_values` of these examples, and perhaps `teacher_pixel_values`, cropped as their `bits` say and mirrored
        where `mirrored` (bool, `[batch]`) says so.
        """
        raise NotImplementedError

    def _extras(self) -> list[str]:
        """For the fingerprint: what else decides on pixels."""
        return []

    def _image_content(self) -> Iterator[bytes]:
        """What tells these images from others, for the fingerprint."""
        raise NotImplementedError


class ImageDataset(LabelledImages):
    """
    Images in memory as uint8, handed out as normalised `pixel_values` and `labels`.

    With `augment=True` each image is shifted by a random crop of the zero-padded image and perhaps mirrored. The crop
    and the mirroring of view `v` of example `i` are a pure function of `(seed, i, v)`, whatever the batch, the order
    or the number of workers; the view is the epoch.

    On a GPU (`device="cuda"`) the pixels never leave it, and are those of the CPU up to rounding. Worker processes
    cannot use it and its memory cannot be pinned: train with `dataloader_num_workers=0` (the default) and
    `dataloader_pin_memory=False`.

    Args:
        images (`torch.Tensor` of shape `[examples, channels, height, width]`, uint8): The decoded images.
        labels (`Sequence[int]` of length `examples`): Class ids.
        mean, std (`Sequence[float]` of length `channels`): For pixels scaled to 0..1.
        augment (`bool`, *optional*, defaults to `False`): Whether to crop and mirror.
        padding (`int`, *optional*, defaults to 4): Pixels of padding on each side before the crop.
        horizontal_flip (`bool`, *optional*, defaults to `True`): Whether half of the views are mirrored.
        seed (`int`, *optional*, defaults to 0): Seed of the augmentation.
        device (`str` or `torch.device`, *optional*, defaults to where `images` are):
            Where the images are kept, cropped, mirrored and normalised. Labels stay on the CPU.
        teacher ([`ImageDataset`], *optional*):
            The same images as the teacher sees them, where that is different: items hold its pixels as
            `teacher_pixel_values`, cropped and mirrored alike. It has a `transform` of its own, the same one usually.
        transform (`Callable`, *optional*):
            What each view goes through before it is normalised: from an image of Pillow to an image of Pillow, or
            uint8 as a tensor or an array; `torchvision.transforms.v2` and timm's, for instance. What it draws from the
            global generators of Python, NumPy and PyTorch is a function of `(seed, i, v)`, too, and leaves them as
            they were. A generator of its own (albumentations, `numpy.random.default_rng`) makes other pixels each
            time, which [`TeacherCache`] refuses.

    Raises:
        `ValueError`: if shapes, dtypes or lengths do not fit, or a standard deviation is not above 0; when a worker
            process is asked for images on a GPU, or `transform` returns no image.
    """

    transform_fields = (*LabelledImages.transform_fields, "padding")

    def __init__(
        self,
        images: Tensor,
        labels: Sequence[int] | np.ndarray | Tensor,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        augment: bool = False,
        padding: int = 4,
        horizontal_flip: bool = True,
        seed: int = 0,
        device: str | torch.device | None = None,
        teacher: "ImageDataset | None" = None,
        transform: Transform | None = None,
    ):
        if not isinstance(images, Tensor) or images.ndim != 4 or images.dtype != torch.uint8 or 0 in images.shape[1:]:
            kind = type(images).__name__
            if isinstance(images, Tensor):
                kind = f"{images.dtype} of shape {tuple(images.shape)}"
            raise ValueError(
                f"images must be a uint8 tensor of shape [examples, channels, height, width], got {kind}."
            )
        check_number("padding", padding, 0, whole=True)
        if teacher is not None and not isinstance(teacher, ImageDataset):
            raise ValueError(f"teacher is of type {type(teacher).__name__}: give an ImageDataset of the same images.")
        try:
            images = images.to(images.device if device is None else torch.device(device))
        except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:  # torch raises each of them
            reason = str(error).splitlines()[0].split(". ")[0][:120]
            raise ValueError(f"device={device!r} cannot be used ({reason}): leave it out for the CPU.") from error
        channels, height, width = images.shape[1:]
        super().__init__(
            labels,
            len(images),
            channels,
            mean=mean,
            std=std,
            augment=augment,
            horizontal_flip=horizontal_flip,
            seed=seed,
            device=images.device,
            transform=transform,
        )
        if transform is not None and (images.device.type != "cpu" or channels not in (1, 3)):
            raise ValueError(
                f"transform is called with images of Pillow, and these are of {channels} channels on {images.device}: "
                "it takes 1 or 3 channels on the CPU."
            )
        self.teacher = teacher
        self.padding = padding if augment else 0
        padded = torch.nn.functional.pad(images, (self.padding,) * 4)
        # A view of every crop of every image, [examples, channels, y, x, height, width]: a batch is one gather.
        self._crops = padded.unfold(2, height, 1).unfold(3, width, 1)
        if teacher is not None and teacher._crops.shape != self._crops.shape:
            raise ValueError(
                f"The teacher's images, their padded crops included, are of shape {tuple(teacher._crops.shape)}, the "
                f"student's {tuple(self._crops.shape)}: they must be the same images in the same size."
            )

    def _pixels(self, index: np.ndarray, bits: np.ndarray, mirrored: np.ndarray) -> dict[str, Iterable[Tensor]]:
        return {
            name: images._crop(index, bits, mirrored).float().mul_(images._scale).add_(images._offset)
            for name, images in self._wanted(self, self.teacher).items()
        }

    def _extras(self) -> list[str]:
        return [] if self.teacher is None else [f"teacher={self.teacher.fingerprint}"]

    def _crop(self, index: np.ndarray, bits: np.ndarray, mirrored: np.ndarray) -> Tensor:
        """uint8 `[batch, channels, height, width]`."""
        y = uniform_integers(bits, 0, 2 * self.padding + 1)
        x = uniform_integers(bits, 21, 2 * self.padding + 1)
        if not self._crops.is_cpu:
            return gather_crops(self._crops, index, y, x, mirrored)
        # NumPy copies whole rows, where gathering with torch on a CPU copies byte by byte.
        pixels = self._crops.numpy()[index, :, y, x]
        pixels[mirrored] = pixels[mirrored, ..., ::-1]
        if self.transform is None:
            return torch.from_numpy(pixels)
        # A teacher's images go through here too, with the same bits.
        rows = pixels.transpose(0, 2, 3, 1) if pixels.shape[1] == 3 else pixels[:, 0]
        as_images = (PILImage.fromarray(np.ascontiguousarray(image)) for image in rows)
        made = transformed(self.transform, as_images, splitmix64(~bits))
        height, width = pixels.shape[2:]
        arrays = [np.asarray(i if i.size == (width, height) else i.resize((width, height))) for i in made]
        return torch.from_numpy(np.stack(arrays).reshape(len(made), height, width, -1)).permute(0, 3, 1, 2)

    def _image_content(self) -> Iterator[bytes]:
        images = self._crops[:, :, self.padding, self.padding]
        yield str(tuple(images.shape)).encode()
        for some in images.split(1024):
            yield some.cpu().numpy().tobytes()


def gather_crops(crops: Tensor, index: np.ndarray, y: np.ndarray, x: np.ndarray, mirrored: np.ndarray) -> Tensor:
    """`crops[index, :, y, x]`, mirrored where `mirrored` says so, on the device of `crops`."""
    choice = torch.from_numpy(np.stack([index, y, x, mirrored])).to(crops.device)  # one small copy, not four
    pixels = crops[choice[0], :, choice[1], choice[2]]
    return torch.where(choice[3].bool().view(-1, 1, 1, 1), pixels.flip(-1), pixels)


def _class_ids(labels: Any) -> Tensor:
    """int64 `[examples]`, on the CPU."""
    try:
        ids = torch.as_tensor([] if isinstance(labels, str) else labels)
        ids = ids.long() if ids.numel() == 0 else ids
    except (TypeError, ValueError, RuntimeError):  # no numbers
        ids = torch.empty(0, 0)
    wrong = ids.is_floating_point() or ids.dtype == torch.bool or ids.ndim != 1
    if wrong or isinstance(labels, str) or ((ids < -1) & (ids != -100)).any():
        raise ValueError(
            "labels must be whole numbers from 0, one class id per image (or -1 for no class, or -100, which counts "
            f"nowhere), not {str(labels)[:60]!r}."
        )
    return ids.long().cpu()


def numbers_of(name: str, values: Any) -> list[float]:
    """A number a channel."""
    try:
        numbers = [float(value) for value in values] if not isinstance(values, str) else [math.nan]
    except (TypeError, ValueError):
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name}={values!r} is not valid: it must be a list of finite numbers.")
    return numbers
