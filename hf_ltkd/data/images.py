"""From a Hub dataset, parquet files, image folders or lists to training and test images."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image
from PIL import Image as PILImage
from tqdm.auto import tqdm
from transformers.image_processing_utils import BaseImageProcessor

from ..groups import ClassGroups
from .arguments import IMAGENET_MEAN, IMAGENET_STD, PRESETS, DataArguments
from .augment import ImageDataset, LabelledImages
from .lazy import CROP_FRACTION, LazyImageDataset
from .long_tail import LongTailSplit, class_counts, read_labels
from .sources import load_splits


@dataclass
class ImageData:
    """
    What the example scripts train on.

    Attributes:
        train, test ([`ImageDataset`] or [`LazyImageDataset`]):
            Training images, augmented, and test images, not augmented.
        class_names (`list[str]`): By class id.
        split ([`LongTailSplit`]): How the training split was cut; `split.class_counts` are its images per class.
        mean, std (`list[float]`): The normalisation.
        args ([`DataArguments`]): What was loaded, with the benchmark's values filled in.
    """

    train: LabelledImages
    test: LabelledImages
    class_names: list[str]
    split: LongTailSplit
    mean: list[float]
    std: list[float]
    args: DataArguments

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

    @property
    def image_processor(self) -> BaseImageProcessor:
        """
        Makes the pixels of `test` from an image file, to be saved with the model.

        Its pixels differ by rounding alone (1e-6); the backend that comes with Torchvision interpolates a little
        differently where it has to resize.
        """
        from transformers import BitImageProcessor, ViTImageProcessor  # here, because it may warn of Torchvision

        size = {"height": self.args.image_size, "width": self.args.image_size}
        if self.args.crop == "padded":
            return ViTImageProcessor(size=size, image_mean=self.mean, image_std=self.std, do_convert_rgb=True)
        return BitImageProcessor(
            size={"shortest_edge": round(self.args.image_size / CROP_FRACTION)},
            crop_size=size,
            resample=PILImage.Resampling.BILINEAR,
            image_mean=self.mean,
            image_std=self.std,
        )


def load_image_data(
    args: DataArguments,
    *,
    splits: DatasetDict | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ImageData:
    """
    Loads, cuts and decodes the images that `args` names; with `crop="resized"` they are decoded later, one by one.

    Args:
        args ([`DataArguments`]): What to load.
        splits (`datasets.DatasetDict`, *optional*): The splits that `args` names, where they are loaded already.
        mean, std (`list[float]`, *optional*):
            The normalisation, for pixels scaled to 0..1; a teacher's own where it has been trained already. They
            default to the benchmark's, without one to the training images' own (`crop="padded"`) or to ImageNet's
            (`crop="resized"`).
        seed (`int`, *optional*, defaults to 0): Seed of the augmentation.
        progress (`bool`, *optional*, defaults to `True`): Whether decoding shows a bar.

    Raises:
        `ValueError`: if a split or column is missing, a label or the imbalance factor is not valid, or
            `args.data_device` cannot be used.
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
    splits = load_splits(args) if splits is None else splits
    eval_splits = PRESETS[args.benchmark].eval_splits if args.eval_split is None else (args.eval_split,)
    eval_split = next((name for name in eval_splits if name in splits), None)
    if "train" not in splits or eval_split is None:
        missing = "train" if "train" not in splits else " or ".join(eval_splits[:2])
        raise ValueError(
            f"The dataset has the splits {list(splits)}, but no {missing!r} split: "
            "add it, or name the one to evaluate on with --eval_split."
        )
    train, test = splits["train"], splits[eval_split]
    image_column = args.image_column or next((n for n, f in train.features.items() if isinstance(f, Image)), None)
    if image_column is None or image_column not in train.column_names:
        raise ValueError(
            f"The dataset has no image column {image_column or ''!r}: its columns are {train.column_names}. "
            "Name the one with the images with --image_column."
        )
    split = LongTailSplit.of(train, args.imbalance_factor, label_column=args.label_column, seed=args.split_seed)
    train = split.apply(train)
    feature = train.features[args.label_column]
    names = feature.names if isinstance(feature, ClassLabel) else [str(c) for c in range(len(split.class_counts))]
    if len(class_counts(test, args.label_column)) > len(names):
        raise ValueError(f"The {eval_split} split has labels beyond the {len(names)} classes of the training split.")
    train_labels, test_labels = (read_labels(split, args.label_column)[0] for split in (train, test))

    if mean is None or std is None:
        mean, std = PRESETS[args.benchmark].mean, PRESETS[args.benchmark].std
    augmentation: dict[str, Any] = {"augment": True, "horizontal_flip": args.horizontal_flip, "seed": seed}
    train_data: LabelledImages
    test_data: LabelledImages
    if args.crop == "resized":
        mean, std = mean or IMAGENET_MEAN, std or IMAGENET_STD
        shared: dict[str, Any] = {"image_size": args.image_size, "mean": mean, "std": std}
        train_data = LazyImageDataset(train, image_column, train_labels, **shared, **augmentation)
        test_data = LazyImageDataset(test, image_column, test_labels, **shared)
    else:
        train_images = decode_images(train, image_column, args.image_size, progress=progress)
        test_images = decode_images(test, image_column, args.image_size, progress=progress)
        if mean is None or std is None:
            pixels = train_images.double() / 255
            mean, std = pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3)).tolist()
        augmentation["padding"] = args.crop_padding
        train_data = ImageDataset(train_images, train_labels, mean=mean, std=std, device=device, **augmentation)
        test_data = ImageDataset(test_images, test_labels, mean=mean, std=std, device=device)
    return ImageData(train_data, test_data, list(names), split, list(mean), list(std), args)


def decode_images(dataset: Dataset, image_column: str, image_size: int, *, progress: bool = True) -> torch.Tensor:
    """
    Decodes a column of images, once, into uint8 RGB of shape `[examples, 3, image_size, image_size]`.

    Images of another size are resized bilinearly by Pillow, as the saved image processor does.
    """
    images = np.empty((len(dataset), image_size, image_size, 3), dtype=np.uint8)
    column = dataset.select_columns([image_column]).with_format(None)
    for row, example in enumerate(tqdm(column, desc="Decoding images", unit="img", disable=not progress)):
        image = example[image_column].convert("RGB")
        if image.size != (image_size, image_size):
            image = image.resize((image_size, image_size), PILImage.Resampling.BILINEAR)
        images[row] = np.asarray(image)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
