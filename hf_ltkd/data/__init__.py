from .augment import ImageDataset, SetEpochCallback
from .images import DataArguments, ImageData, decode_images, load_image_data
from .long_tail import LongTailRecipe, class_counts, long_tailed_counts, make_long_tailed


__all__ = [
    "DataArguments",
    "ImageData",
    "ImageDataset",
    "LongTailRecipe",
    "SetEpochCallback",
    "class_counts",
    "decode_images",
    "load_image_data",
    "long_tailed_counts",
    "make_long_tailed",
]
