# The names of this room: type checkers read them here, and lazy_loader when one is first used.
from .arguments import DataArguments as DataArguments
from .augment import ImageDataset as ImageDataset
from .augment import LabelledImages as LabelledImages
from .benchmarks import cifar100_lt as cifar100_lt
from .benchmarks import imagenet_lt as imagenet_lt
from .benchmarks import tiny_imagenet_lt as tiny_imagenet_lt
from .image_files import read_class_folders as read_class_folders
from .image_files import read_image_list as read_image_list
from .image_files import read_tiny_imagenet as read_tiny_imagenet
from .images import ImageData as ImageData
from .images import decode_images as decode_images
from .images import load_image_data as load_image_data
from .lazy import LazyImageDataset as LazyImageDataset
from .long_tail import LongTailSplit as LongTailSplit
from .long_tail import class_counts as class_counts
from .long_tail import long_tailed_counts as long_tailed_counts
from .long_tail import make_long_tailed as make_long_tailed
