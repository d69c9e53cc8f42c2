"""From a Hub dataset, parquet files or image folders to decoded train and test images."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image, load_dataset
from PIL import Image as PILImage
from tqdm.auto import tqdm

from .augment import ImageDataset
from .long_tail import LongTailRecipe, class_counts, read_labels


@dataclass
class DataArguments:
    """Which images, how long their tail is, and how they are augmented."""

    dataset_name: str | None = field(default=None, metadata={"help": "A dataset on the Hub, e.g. uoft-cs/cifar100."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration, if it has several."})
    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "Instead: a folder with train*.parquet and test*.parquet, or train/ and test/ image folders."
        },
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Column of images; found by its type if not given."}
    )
    label_column: str = field(
        default="label", metadata={"help": "Column of class ids, e.g. fine_label for CIFAR-100."}
    )
    eval_split: str | None = field(default=None, metadata={"help": "Split to evaluate on (test, else validation)."})
    imbalance_factor: float = field(
        default=1.0, metadata={"help": "gamma of Eq. 15; 1 keeps the training split as it is."}
    )
    split_seed: int = field(default=0, metadata={"help": "Which training images the long-tailed split keeps."})
    image_size: int = field(default=32, metadata={"help": "Side in pixels that images are resized to."})
    crop_padding: int = field(default=4, metadata={"help": "Zero pixels around an image before the random crop."})
    horizontal_flip: bool = field(default=True, metadata={"help": "Mirror half of the training views."})

    def __post_init__(self):
        if (self.dataset_name is None) == (self.data_dir is None):
            raise ValueError("Give either --dataset_name (a dataset on the Hub) or --data_dir (a local folder).")
        if self.image_size < 1:
            raise ValueError(f"image_size={self.image_size} is not valid: it must be 1 or more pixels.")


@dataclass
class ImageData:
    """
    What the example scripts train on.

    Attributes:
        train, test ([`ImageDataset`]): Training images, augmented, and test images, not augmented.
        class_names (`list[str]`): By class id.
        recipe ([`LongTailRecipe`]): How the training split was cut; `recipe.counts` are its images per class.
        mean, std (`list[float]`): The normalisation.
    """

    train: ImageDataset
    test: ImageDataset
    class_names: list[str]
    recipe: LongTailRecipe
    mean: list[float]
    std: list[float]


def load_image_data(
    args: DataArguments,
    *,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ImageData:
    """
    Loads, cuts and decodes the images that `args` names.

    Args:
        args ([`DataArguments`]): What to load.
        mean, std (`list[float]`, *optional*, default to those of the training images): The normalisation, for pixels
            scaled to 0..1; a teacher's own where it has been trained already.
        seed (`int`, *optional*, defaults to 0): Seed of the augmentation.
        progress (`bool`, *optional*, defaults to `True`): Whether decoding shows a bar.

    Raises:
        `ValueError`: if a split or column is missing, or a label or the imbalance factor is not valid.
    """
    if (mean is None) != (std is None):
        raise ValueError("Only one of mean and std is given: give both, or neither to take the training images' own.")
    splits = _load_splits(args)
    eval_split = args.eval_split or next((name for name in ("test", "validation", "valid") if name in splits), None)
    for split in ("train", eval_split):
        if split not in splits:
            raise ValueError(
                f"The dataset has the splits {list(splits)}, but no {split or 'test or validation'!r} split: "
                "add it, or name the one to evaluate on with --eval_split."
            )
    train, test = splits["train"], splits[eval_split]
    image_column = args.image_column or next((n for n, f in train.features.items() if isinstance(f, Image)), None)
    if image_column is None or image_column not in train.column_names:
        raise ValueError(
            f"The dataset has no image column {image_column or ''!r}: its columns are {train.column_names}. "
            "Name the one with the images with --image_column."
        )
    recipe = LongTailRecipe.of(train, args.imbalance_factor, label_column=args.label_column, seed=args.split_seed)
    train = recipe.apply(train)
    feature = train.features[args.label_column]
    names = feature.names if isinstance(feature, ClassLabel) else [str(c) for c in range(len(recipe.counts))]
    if len(class_counts(test, args.label_column)) > len(names):
        raise ValueError(f"The {eval_split} split has labels beyond the {len(names)} classes of the training split.")

    train_images = decode_images(train, image_column, args.image_size, progress=progress)
    test_images = decode_images(test, image_column, args.image_size, progress=progress)
    if mean is None or std is None:
        pixels = train_images.double() / 255
        mean, std = pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3)).tolist()
    return ImageData(
        train=ImageDataset(
            train_images,
            read_labels(train, args.label_column)[0],
            mean=mean,
            std=std,
            augment=True,
            padding=args.crop_padding,
            horizontal_flip=args.horizontal_flip,
            seed=seed,
        ),
        test=ImageDataset(test_images, read_labels(test, args.label_column)[0], mean=mean, std=std),
        class_names=list(names),
        recipe=recipe,
        mean=mean,
        std=std,
    )


def decode_images(dataset: Dataset, image_column: str, image_size: int, *, progress: bool = True) -> torch.Tensor:
    """
    Decodes a column of images, once, into uint8 RGB of shape `[examples, 3, image_size, image_size]`.

    Shrinking averages the pixels that fall together (PIL's box filter); enlarging is bicubic.
    """
    images = np.empty((len(dataset), image_size, image_size, 3), dtype=np.uint8)
    column = dataset.select_columns([image_column]).with_format(None)
    for row, example in enumerate(tqdm(column, desc="Decoding images", unit="img", disable=not progress)):
        image = example[image_column].convert("RGB")
        if image.size != (image_size, image_size):
            shrinks = min(image.size) >= image_size
            image = image.resize(
                (image_size, image_size), PILImage.Resampling.BOX if shrinks else PILImage.Resampling.BICUBIC
            )
        images[row] = np.asarray(image)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _load_splits(args: DataArguments) -> DatasetDict:
    if args.dataset_name is not None:
        return load_dataset(args.dataset_name, args.dataset_config_name)
    folder = Path(os.path.expanduser(args.data_dir or ""))
    if not folder.is_dir():
        raise ValueError(f"data_dir {str(folder)!r} is not a folder.")
    names = ("train", "test", "validation", "valid")
    files = {name: sorted(map(str, folder.glob(f"{name}*.parquet"))) for name in names}
    if any(files.values()):
        return load_dataset("parquet", data_files={name: paths for name, paths in files.items() if paths})
    if not (folder / "train").is_dir():
        raise ValueError(
            f"data_dir {str(folder)!r} holds neither train*.parquet nor a folder train/ with one folder per class."
        )
    return load_dataset("imagefolder", data_dir=str(folder))
