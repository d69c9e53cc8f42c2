"""Long-tailed splits, seeded views of images, image files and columns of any kind, the benchmarks of the paper."""

from .._moved import moved_name
from .arguments import DataArguments
from .augment import ImageDataset, LabelledImages
from .benchmarks import cifar100_lt, imagenet_lt, tiny_imagenet_lt
from .check import ImageReport, check_images
from .image_files import read_class_folders, read_image_list, read_tiny_imagenet
from .images import ImageData, decode_images, load_image_data
from .lazy import LazyImageDataset
from .long_tail import LongTailSplit, class_counts, long_tailed_counts, make_long_tailed


__all__ = [
    "DataArguments",
    "ImageData",
    "ImageDataset",
    "ImageReport",
    "LabelledImages",
    "LazyImageDataset",
    "LongTailSplit",
    "check_images",
    "cifar100_lt",
    "class_counts",
    "decode_images",
    "imagenet_lt",
    "load_image_data",
    "long_tailed_counts",
    "make_long_tailed",
    "read_class_folders",
    "read_image_list",
    "read_tiny_imagenet",
    "tiny_imagenet_lt",
]


def __getattr__(name: str):
    return moved_name(f"{__name__}.{name}")
