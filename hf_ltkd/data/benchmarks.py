"""The paper's three benchmarks by name: CIFAR-100-LT, TinyImageNet-LT and ImageNet-LT (Sec. 4.1)."""

from typing import Any

from .arguments import DataArguments
from .images import ImageData, load_image_data


def cifar100_lt(
    imbalance_factor: float,
    *,
    data_dir: str | None = None,
    split_seed: int = 0,
    seed: int = 0,
    progress: bool = True,
    **data_arguments: Any,
) -> ImageData:
    """
    CIFAR-100-LT: 32 pixels, a random crop after 4 pixels of zero padding, mirroring, the mean and deviation of the
    distillation literature; `uoft-cs/cifar100` from the Hub, with its 100 fine labels.

    Args:
        imbalance_factor (`float`): `gamma` of Eq. 15. The paper uses 10, 20 and 100: 19,718, 16,046, 10,948 images.
        data_dir (`str`, *optional*):
            A folder with `train*.parquet` and `test*.parquet` in the layout of the Hub's, or with image folders
            `train/<class>` and `test/<class>`, instead of the Hub.
        split_seed (`int`, *optional*, defaults to 0):
            Which training images are kept. It counts in the order of the source: folders and parquet files keep
            different images.
        seed (`int`, *optional*, defaults to 0): Seed of the augmentation.
        progress (`bool`, *optional*, defaults to `True`): Whether decoding shows a bar.
        data_arguments: Further fields of [`DataArguments`], which take precedence over the benchmark's;
            `split_rule="ldam"` cuts as LDAM does: 19,573, 15,907, 10,847 images.

    Returns:
        [`ImageData`]: training images, balanced test images, and the groups of the paper (33/34/33 % of the classes).

    Raises:
        `ValueError`: as [`load_image_data`].

    Example:

    ```python
    >>> data = cifar100_lt(100)
    >>> len(data.train), data.groups.names
    (10948, ('head', 'medium', 'tail'))
    ```
    """
    return _load("cifar100_lt", imbalance_factor, data_dir, split_seed, seed, progress, data_arguments)


def tiny_imagenet_lt(
    imbalance_factor: float,
    *,
    data_dir: str | None = None,
    split_seed: int = 0,
    seed: int = 0,
    progress: bool = True,
    **data_arguments: Any,
) -> ImageData:
    """
    TinyImageNet-LT: 64 pixels, a random crop after 8 pixels of zero padding, mirroring, ImageNet's mean and deviation;
    `zh-plus/tiny-imagenet` from the Hub, evaluated on its validation split (the test images have no labels).

    Args:
        imbalance_factor (`float`): `gamma` of Eq. 15. The paper uses 10, 20 and 100: 39,211, 31,851, 21,644 images.
        data_dir (`str`, *optional*):
            The folder `tiny-imagenet-200` as it is distributed (classes are the sorted WordNet ids), image folders
            `train/<class>` and `val/<class>`, or parquet files, instead of the Hub.
        split_seed, seed, progress, data_arguments: As in [`cifar100_lt`].

    Returns:
        [`ImageData`]: as [`cifar100_lt`].

    Raises:
        `ValueError`: as [`load_image_data`].
        `FileNotFoundError`: if an image of `val_annotations.txt` does not exist.
    """
    return _load("tiny_imagenet_lt", imbalance_factor, data_dir, split_seed, seed, progress, data_arguments)


def imagenet_lt(
    imbalance_factor: float | None,
    *,
    data_dir: str | None = None,
    split_seed: int = 0,
    seed: int = 0,
    progress: bool = True,
    **data_arguments: Any,
) -> ImageData:
    """
    ImageNet-LT cut by Eq. 15: a random resized crop of 224 pixels and mirroring in training, the central 224 of 256
    pixels in evaluation, ImageNet's mean and deviation; `ILSVRC/imagenet-1k` from the Hub, evaluated on its validation
    split. Images are decoded each time: train with several `dataloader_num_workers`.

    Args:
        imbalance_factor (`float`, *optional*):
            `gamma` of Eq. 15. The paper uses 5, 10 and 20. `None` with `train_list`.
        data_dir (`str`, *optional*):
            A folder with `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG` (classes are the sorted WordNet ids), or with
            parquet files, instead of the Hub; or the root of `train_list` and `test_list`.
        split_seed, seed, progress, data_arguments:
            As in [`cifar100_lt`]. With `train_list="ImageNet_LT_train.txt"` and `test_list="ImageNet_LT_test.txt"` the
            fixed split of that name is loaded instead, with its groups (more than 100, fewer than 20 images).

    Returns:
        [`ImageData`]: as [`cifar100_lt`], of [`LazyImageDataset`]s.

    Raises:
        `ValueError`: as [`load_image_data`].
        `FileNotFoundError`: if an image of a list does not exist.
    """
    return _load("imagenet_lt", imbalance_factor, data_dir, split_seed, seed, progress, data_arguments)


def _load(
    name: Any,
    imbalance_factor: float | None,
    data_dir: str | None,
    split_seed: int,
    seed: int,
    progress: bool,
    data_arguments: dict[str, Any],
) -> ImageData:
    args = DataArguments(
        benchmark=name,
        data_dir=data_dir,
        imbalance_factor=imbalance_factor,  # type: ignore[arg-type]  # None is for lists
        split_seed=split_seed,
        **data_arguments,
    )
    return load_image_data(args, seed=seed, progress=progress)
