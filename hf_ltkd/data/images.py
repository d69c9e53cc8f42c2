"""From a Hub dataset, parquet files, image folders or lists to training and test images."""

import os
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image, concatenate_datasets
from tqdm.auto import tqdm
from transformers.image_processing_utils import BaseImageProcessor

from ..groups import ClassGroups
from .arguments import IMAGENET_MEAN, IMAGENET_STD, PRESETS, DataArguments
from .augment import ImageDataset, LabelledImages
from .lazy import CROP_FRACTION, LazyImageDataset
from .long_tail import LongTailSplit, class_counts, class_names, read_labels
from .pixels import Pixels
from .prepare import prepare
from .processors import make_processor, pixels_of
from .transforms import find_transform
from .unlabelled import read_unlabelled


@dataclass
class ImageData:
    """
    What the example scripts train on.

    Attributes:
        train, test ([`ImageDataset`] or [`LazyImageDataset`]):
            Training images, augmented, and test images, not augmented. Training images without a class are the last
            ones, with the label -1; [`~LabelledImages.labelled`] leaves them out.
        class_names (`list[str]`): By class id.
        split ([`LongTailSplit`]): How the training split was cut; `split.class_counts` are its images per class.
        mean, std (`list[float]`): The normalisation.
        args ([`DataArguments`]): What was loaded, with the benchmark's values filled in.
        image_processor (`BaseImageProcessor`):
            Makes the pixels of `test`, up to rounding, from an image file; to be saved with the model.
        named (`bool`): Whether the data names its classes; where it has numbers alone, they are called so.
        sources (`list[str]`): Which files are used for what, and what is left out, in plain sentences.
        validation ([`ImageDataset`] or [`LazyImageDataset`], *optional*):
            Images to choose checkpoints on, not augmented, where the data has such beside test images.
    """

    train: LabelledImages
    test: LabelledImages
    class_names: list[str]
    split: LongTailSplit
    mean: list[float]
    std: list[float]
    args: DataArguments
    image_processor: BaseImageProcessor
    sources: list[str] = field(default_factory=list)
    validation: LabelledImages | None = None
    named: bool = True

    @property
    def recipe(self) -> LongTailSplit:
        """The old name of `split`."""
        warnings.warn("ImageData.recipe is now called split; the old name goes with version 0.3.", FutureWarning, 2)
        return self.split

    @property
    def groups(self) -> ClassGroups:
        """
        Head, medium and tail by `args.group_rule`.

        Raises:
            `ValueError`: if the rule leaves a group without a class.
        """
        rule = ClassGroups.from_counts if self.args.group_rule == "thirds" else ClassGroups.from_thresholds
        return rule(self.split.class_counts)


def load_image_data(
    args: DataArguments,
    *,
    splits: DatasetDict | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    processor: BaseImageProcessor | Pixels | None = None,
    teacher_processor: BaseImageProcessor | Pixels | None = None,
    seed: int = 0,
    progress: bool = True,
    unlabelled: str | os.PathLike | Dataset | None = None,
    eval_digests: np.ndarray | None = None,
    validation_split: str | None = None,
) -> ImageData:
    """
    Loads, cuts and decodes the images that `args` names; with `crop="resized"` they are decoded later, one by one.

    Args:
        args ([`DataArguments`]): What to load.
        splits (`datasets.DatasetDict`, *optional*): The splits that `args` names, where they are loaded already.
        mean, std (`list[float]`, *optional*):
            The normalisation, for pixels scaled to 0..1, of a network without an image processor. They default to the
            benchmark's, without one to the training images' own (`crop="padded"`) or to ImageNet's
            (`crop="resized"`).
        processor (`BaseImageProcessor` or [`Pixels`], *optional*):
            The network's own image processor: it decides on the size, too. Training views are made around it.
        teacher_processor (`BaseImageProcessor` or [`Pixels`], *optional*):
            The teacher's, where it is another one: items hold `teacher_pixel_values` too, of the same view.
        seed (`int`, *optional*, defaults to 0): Seed of the augmentation.
        progress (`bool`, *optional*, defaults to `True`): Whether decoding shows a bar.
        unlabelled (`str`, `os.PathLike` or `datasets.Dataset`, *optional*):
            Images without a class to distil on beside the others: a folder, or a dataset with a column of images. They
            count in no class, no group and no evaluation.
        eval_digests (`np.ndarray`, *optional*): Of the images to evaluate on, which are left out of `unlabelled`.
        validation_split (`str`, *optional*): The split to choose on; `"validation"` where it is there beside `"test"`.

    Raises:
        `ValueError`: if a split or column is missing, a label or the imbalance factor is not valid, `mean` and `std`
            are not the processor's, or `args.data_device` cannot be used.
        `FileNotFoundError`: if an image of a list does not exist.
    """
    if (mean is None) != (std is None):
        raise ValueError("Only one of mean and std is given: give both, or neither to take the training images' own.")
    try:
        device = torch.empty(0, device=args.data_device or "cpu").device
    except (AssertionError, NotImplementedError, RuntimeError) as error:  # torch raises each of them
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ValueError(
            f"data_device={args.data_device!r} cannot be used ({reason}): leave it out to keep the images on the CPU."
        ) from error
    sources: list[str] = []
    if splits is None:
        source, _ = prepare(args, progress=progress)
        splits, sources = source.splits, source.said
    eval_splits = PRESETS[args.benchmark].eval_splits if args.eval_split is None else (args.eval_split,)
    eval_split = next((name for name in eval_splits if name in splits), None)
    if "train" not in splits or eval_split is None:
        missing = "train" if "train" not in splits else " or ".join(eval_splits[:2])
        raise ValueError(
            f"The dataset has the splits {list(splits)}, but no {missing!r} split: "
            "add it, or name the one to evaluate on with --eval_split."
        )
    train, test = splits["train"], splits[eval_split]
    evaluations = [test]
    if validation_split is None and eval_split == "test" and "validation" in splits and args.eval_split is None:
        validation_split = "validation"
    if validation_split is not None:
        evaluations.append(splits[validation_split])
    image_column = args.image_column or next((n for n, f in train.features.items() if isinstance(f, Image)), None)
    if image_column is None or image_column not in train.column_names:
        raise ValueError(
            f"The dataset has no image column {image_column or ''!r}: its columns are {train.column_names}. "
            "Name the one with the images with --image_column."
        )
    cut: Any = {"label_column": args.label_column, "seed": args.split_seed, "rule": args.split_rule}
    split = LongTailSplit.of(train, args.imbalance_factor, **cut)
    train = split.apply(train)
    names = class_names(train, args.label_column)
    if any(len(class_counts(part, args.label_column)) > len(names) for part in evaluations):
        raise ValueError(f"The {eval_split} split has labels beyond the {len(names)} classes of the training split.")
    parts = [train, *evaluations]
    labels = [read_labels(part, args.label_column)[0] for part in parts]
    num_labelled = len(train)
    if unlabelled is not None:
        more, said = read_unlabelled(
            unlabelled, args, train=train, image_column=image_column, eval_digests=eval_digests, progress=progress
        )
        sources += said
        parts[0] = concatenate_datasets([train.select_columns([image_column]), more])
        labels[0] = np.concatenate([labels[0], np.full(len(more), -1)])

    if processor is not None:
        pixels = pixels_of(processor)
        _check_normalisation(mean, std, pixels)
        args = replace(args, image_size=max(pixels.size))
    else:
        if mean is None or std is None:
            mean, std = PRESETS[args.benchmark].mean, PRESETS[args.benchmark].std
        pixels = _pixels_without_processor(args, mean, std)
    teacher = None if teacher_processor is None else pixels_of(teacher_processor)
    both = [pixels] if teacher is None else [pixels, teacher]

    augment, transform = find_transform(args.augment)
    augmentation: dict[str, Any] = {"augment": augment, "horizontal_flip": args.horizontal_flip, "seed": seed}
    augmentation["transform"] = transform
    decoded: list[list[torch.Tensor] | None] = []
    if args.crop == "padded" and len({p.size for p in both}) == 1:
        decoded = [_decode(part, image_column, both, progress=progress) for part in parts]
    arrays = [images for images in decoded if images is not None]
    # A transform works on RGB, and once for both networks: in memory, where these have the very same bytes.
    if transform is not None and not (all(p.order == (0, 1, 2) for p in both) and _all_equal(arrays)):
        arrays = []
    if len(arrays) < len(parts):
        if args.data_device not in (None, "cpu"):
            raise ValueError(
                f"data_device={args.data_device!r} does not go with these image processors, whose pixels differ in "
                "size or are no bytes and have to be made on the CPU: leave it out."
            )
        padding = args.crop_padding / args.image_size if args.crop == "padded" else None
        shared: dict[str, Any] = {"pixels": pixels, "teacher_pixels": teacher}
        options: list[dict[str, Any]] = [{"padding": padding, **augmentation}, {}, {}]
        made: list[LabelledImages] = [
            LazyImageDataset(part, image_column, ids, **shared, **how)
            for part, ids, how in zip(parts, labels, options, strict=False)
        ]
    else:
        if processor is None and mean is None:  # the training images' own
            values = arrays[0][0][:num_labelled].double() / 255
            mean, std = values.mean((0, 2, 3)).tolist(), values.std((0, 2, 3)).tolist()
            if not min(std):
                raise ValueError(
                    "All training images have one colour in a channel, so there is nothing to tell them apart by "
                    f"(standard deviations of red, green, blue: {std}): look at the images, or give mean and std."
                )
            pixels = replace(pixels, mean=mean, std=std, processor=make_processor(pixels.size, mean, std))
        made = [
            _in_memory(images, ids, [pixels, *both[1:]], device=device, padding=args.crop_padding, **how)
            for images, ids, how in zip(arrays, labels, (augmentation, {}, {}), strict=False)
        ]
    return ImageData(
        train=made[0],
        test=made[1],
        class_names=names,
        split=split,
        mean=list(pixels.mean),
        std=list(pixels.std),
        args=args,
        image_processor=pixels.processor,
        sources=sources,
        validation=made[2] if len(made) > 2 else None,
        named=isinstance(train.features[args.label_column], ClassLabel),
    )


def _all_equal(arrays: list[list[torch.Tensor]]) -> bool:
    return all(torch.equal(images[0], images[-1]) for images in arrays)


def _pixels_without_processor(args: DataArguments, mean: list[float] | None, std: list[float] | None) -> Pixels:
    """What a network sees that has no image processor, and is given one here."""
    size = (args.image_size, args.image_size)
    if args.crop == "padded":
        return pixels_of(make_processor(size, mean or [0.5] * 3, std or [0.5] * 3))
    edge = round(args.image_size / CROP_FRACTION)
    return pixels_of(make_processor(size, mean or IMAGENET_MEAN, std or IMAGENET_STD, resize=edge))


def _check_normalisation(mean: list[float] | None, std: list[float] | None, pixels: Pixels) -> None:
    for name, given, own in (("mean", mean, pixels.mean), ("std", std, pixels.std)):
        if given is not None and not np.allclose(given, own, rtol=1e-4, atol=1e-4):
            raise ValueError(
                f"{name}={list(given)} is not what {type(pixels.processor).__name__} subtracts or divides by ({own}): "
                "leave mean and std out where a processor is given."
            )


def _in_memory(images: list[torch.Tensor], labels: Any, both: list[Pixels], **options: Any) -> ImageDataset:
    """`images` as the student and perhaps the teacher see them, by channel of each network."""
    student, *teachers = (
        {"images": values, "labels": labels, "mean": p.mean, "std": p.std}
        for values, p in zip(images, both, strict=True)
    )
    differs = bool(teachers) and (
        both[0].mean != both[1].mean or both[0].std != both[1].std or not torch.equal(images[0], images[1])
    )
    return ImageDataset(**student, **options, teacher=ImageDataset(**teachers[0], **options) if differs else None)


def decode_images(dataset: Dataset, image_column: str, image_size: int, *, progress: bool = True) -> torch.Tensor:
    """
    Decodes a column of images, once, into uint8 RGB of shape `[examples, 3, image_size, image_size]`.

    Images of another size are resized bilinearly by Pillow, as the saved image processor does.
    """
    pixels = Pixels((image_size, image_size), [0.0] * 3, [1.0] * 3, on_white=False)
    return _decode(dataset, image_column, [pixels], progress=progress)[0]  # type: ignore[index]  # they are bytes


def _decode(dataset: Dataset, column: str, both: list[Pixels], *, progress: bool) -> list[torch.Tensor] | None:
    """What each of `both` sees as uint8 `[examples, 3, height, width]`, or `None` where it is no bytes."""
    images = [np.empty((len(dataset), *pixels.size, 3), dtype=np.uint8) for pixels in both]
    rows = dataset.select_columns([column]).with_format(None)
    for row, example in enumerate(tqdm(rows, desc="Decoding images", unit="img", disable=not progress)):
        for array, pixels in zip(images, both, strict=True):
            values = pixels.bytes(example[column])
            if values is None:
                return None
            array[row] = values[..., list(pixels.order)]
    return [torch.from_numpy(array).permute(0, 3, 1, 2).contiguous() for array in images]
