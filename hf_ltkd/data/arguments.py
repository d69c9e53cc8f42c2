"""Which images to train on, and the settings of the paper's three benchmarks by name."""

import importlib.util
import os
from dataclasses import dataclass, field
from typing import Literal


TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

# What --augment may be called, beside a callable of the user's own.
AUGMENTATIONS = {
    "none": "each image as it is",
    "basic": "a random crop, and half of the views mirrored",
    "randaugment": "basic, and RandAugment (2 of 14 operations at magnitude 9 of 30; needs torchvision)",
    "strong": "basic, and wide TrivialAugment, and random erasing of every tenth view (needs torchvision)",
}


@dataclass(frozen=True)
class Preset:
    """What a benchmark sets, unless the user does."""

    dataset_name: str | None = None
    label_column: str = "label"
    eval_splits: tuple[str, ...] = ("test", "validation", "valid")  # the first that exists
    image_size: int = 32
    crop: str = "padded"
    crop_padding: int = 4
    # None: that of the training images, or ImageNet's where these are not all decoded beforehand
    mean: list[float] | None = None
    std: list[float] | None = None


# CIFAR-100 as in the distillation literature (mdistiller), Tiny ImageNet as in the LTKD author's earlier repository.
# The test splits of the last two have no labels: their validation splits are what everyone reports.
PRESETS: dict[str | None, Preset] = {
    None: Preset(),
    "cifar100_lt": Preset(
        "uoft-cs/cifar100", "fine_label", mean=[0.5071, 0.4867, 0.4408], std=[0.2675, 0.2565, 0.2761]
    ),
    "tiny_imagenet_lt": Preset(
        "zh-plus/tiny-imagenet",
        eval_splits=("valid", "validation"),
        image_size=64,
        crop_padding=8,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
    "imagenet_lt": Preset(
        "ILSVRC/imagenet-1k",
        eval_splits=("validation", "valid"),
        image_size=224,
        crop="resized",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
}


@dataclass
class DataArguments:
    """
    Which images, how long their tail is, and how they are augmented.

    Fields that are left at `None` take the benchmark's value, or else the default that their help names.
    """

    benchmark: Literal["cifar100_lt", "tiny_imagenet_lt", "imagenet_lt"] | None = field(
        default=None,
        metadata={"help": "A benchmark of the paper: sets what is not given here, and the normalisation."},
    )
    dataset_name: str | None = field(default=None, metadata={"help": "A dataset on the Hub, e.g. uoft-cs/cifar100."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration, if it has several."})
    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "Instead: a folder. Splits by the names of files or folders (train, val, test, ...), each of them "
            "parquet, WebDataset shards, a metadata.csv beside images, or one folder per class; or the root of "
            "--train_list and --test_list."
        },
    )
    train_list: str | None = field(
        default=None,
        metadata={
            "help": "Text file with 'path label' on each line, paths relative to data_dir, e.g. ImageNet-LT's; or a "
            ".csv, .tsv or .jsonl with such columns, which needs no --test_list."
        },
    )
    test_list: str | None = field(default=None, metadata={"help": "The same for the images to evaluate on."})
    image_column: str | None = field(
        default=None, metadata={"help": "Column of images; found by its type if not given."}
    )
    label_column: str = field(
        default=None,  # type: ignore[assignment]
        metadata={"help": "Column of class ids or names, e.g. fine_label for CIFAR-100 (default: label)."},
    )
    eval_split: str | None = field(default=None, metadata={"help": "Split to evaluate on (test, else validation)."})
    group_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of what several images are of, e.g. track, lesion_id or camera: all of them stay on "
            "one side when images are held out."
        },
    )
    min_class_images: int | None = field(
        default=None, metadata={"help": "Classes with fewer training images are rare: see --rare."}
    )
    rare: Literal["keep", "drop", "merge"] = field(
        default="keep",
        metadata={
            "help": "Rare classes are kept but none of their images is held out, dropped with their images, or merged "
            "into one class 'other'."
        },
    )
    check_images: bool = field(
        default=None,  # type: ignore[assignment]
        metadata={
            "help": "Decode each image once before the work starts and name damaged and repeated ones (default: true, "
            "false with a benchmark)."
        },
    )
    skip_damaged: bool = field(
        default=False, metadata={"help": "Leave damaged and missing images out, and list them, instead of stopping."}
    )
    imbalance_factor: float = field(
        default=None,  # type: ignore[assignment]
        metadata={
            "help": "gamma of Eq. 15; 1, the default, keeps the training split as it is. Must be given with a "
            "benchmark: the paper uses 10, 20, 100 (CIFAR-100, Tiny ImageNet) and 5, 10, 20 (ImageNet)."
        },
    )
    split_seed: int = field(default=0, metadata={"help": "Which training images the long-tailed split keeps."})
    split_rule: Literal["paper", "ldam"] = field(
        default="paper",
        metadata={
            "help": "How --imbalance_factor cuts: paper is Eq. 15, gamma^(-c/C); ldam is gamma^(-c/(C-1)), as in LDAM "
            "and most papers since."
        },
    )
    group_rule: Literal["thirds", "thresholds"] = field(
        default=None,  # type: ignore[arg-type]
        metadata={
            "help": "Head, medium and tail: the paper's 33/34/33 %% of the classes, or more than 100 and fewer than "
            "20 training images (default: thirds, thresholds with --train_list)."
        },
    )
    image_size: int = field(
        default=None,  # type: ignore[assignment]
        metadata={"help": "Side in pixels that images are resized to (default: 32)."},
    )
    crop: Literal["padded", "resized"] = field(
        default=None,  # type: ignore[arg-type]
        metadata={
            "help": "padded: images of one size, kept in memory, shifted by a random crop. resized: decoded each "
            "time, a random resized crop in training, the resized centre in evaluation (default: padded)."
        },
    )
    crop_padding: int = field(
        default=None,  # type: ignore[assignment]
        metadata={"help": "padded: zero pixels around an image before the random crop (default: 4)."},
    )
    augment: str = field(
        default="basic",
        metadata={
            "help": "Training views. "
            + "; ".join(f"{name}: {what}" for name, what in AUGMENTATIONS.items())
            + "; or package.module:name, any callable from an image to an image, after the basic ones."
        },
    )
    horizontal_flip: bool = field(default=True, metadata={"help": "Mirror half of the training views."})
    data_device: str | None = field(
        default=None,
        metadata={
            "help": "padded: where the images are kept and augmented, e.g. cuda; goes with --dataloader_num_workers 0 "
            "and --dataloader_pin_memory false (default: cpu)."
        },
    )

    def __post_init__(self):
        from ..utils import check_number  # here: it imports torch, which the help does without

        if not isinstance(self.data_dir, str | os.PathLike | None):
            raise ValueError(f"data_dir={self.data_dir!r} is not valid: it must be the path of a folder.")
        if self.benchmark not in PRESETS:
            raise ValueError(f"benchmark={self.benchmark!r} is not known: use one of {[*PRESETS][1:]}.")
        preset = PRESETS[self.benchmark]
        # Where nobody has named a column, one of another usual name will do.
        self.find_labels = self.label_column is None and preset.label_column == "label"
        if self.dataset_name is None and self.data_dir is None:
            self.dataset_name = preset.dataset_name
        if (self.dataset_name is None) == (self.data_dir is None):
            raise ValueError("Give either --dataset_name (a dataset on the Hub) or --data_dir (a local folder).")
        is_table = (self.train_list or "").lower().endswith(TABLE_SUFFIXES)
        lists_alone = (self.train_list is None) != (self.test_list is None) and not is_table
        if lists_alone or (self.train_list and self.data_dir is None):
            raise ValueError(
                "Give --train_list and --test_list together, and --data_dir, the folder that their paths start from."
            )
        is_fixed = self.train_list is not None and not is_table
        if is_fixed and self.imbalance_factor not in (None, 1):
            raise ValueError(
                f"imbalance_factor={self.imbalance_factor} does not go with --train_list, whose images are taken as "
                "they are: leave it out."
            )
        if self.benchmark is not None and not is_fixed and self.imbalance_factor is None:
            raise ValueError(
                f"--benchmark {self.benchmark} needs --imbalance_factor: the paper uses 10, 20 and 100 for CIFAR-100 "
                "and Tiny ImageNet, 5, 10 and 20 for ImageNet; 1 keeps all images."
            )
        if self.split_rule == "ldam" and self.imbalance_factor is None:
            raise ValueError("split_rule='ldam' says how --imbalance_factor cuts, which is not given: leave it out.")
        if self.imbalance_factor is None:
            self.imbalance_factor = 1.0
        if self.group_rule is None:
            self.group_rule = "thresholds" if is_fixed else "thirds"
        if self.check_images is None:
            self.check_images = self.benchmark is None
        if self.skip_damaged and not self.check_images:
            raise ValueError("skip_damaged needs to look at the images: leave out check_images=False.")
        if self.rare != "keep" and self.min_class_images is None:
            raise ValueError(
                f"rare={self.rare!r} needs min_class_images, the fewest images of a class that is not rare."
            )
        for name in ("label_column", "image_size", "crop", "crop_padding"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(preset, name))
        limits = {"image_size": (1, True), "crop_padding": (0, True), "min_class_images": (1, True)}
        limits |= {"split_seed": (0, True), "imbalance_factor": (1, False)}
        for name, (least, whole) in limits.items():
            if getattr(self, name) is not None or name == "split_seed":
                check_number(name, getattr(self, name), least, whole=whole)
        if self.image_size > 4096:  # a typing error beyond would fill the memory first
            raise ValueError(f"image_size={self.image_size} is not valid: it must be 1 to 4096 pixels.")
        allowed = {
            "crop": ["padded", "resized"],
            "split_rule": ["paper", "ldam"],
            "group_rule": ["thirds", "thresholds"],
            "rare": ["keep", "drop", "merge"],
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name}={getattr(self, name)!r} is not valid: use {' or '.join(values)}.")
        is_name = isinstance(self.augment, str) and (self.augment in AUGMENTATIONS or ":" in self.augment)
        if not is_name and not callable(self.augment):
            raise ValueError(
                f"augment={self.augment!r} is not known: use {', '.join(AUGMENTATIONS)}, or package.module:name for a "
                "callable of your own."
            )
        if self.augment in ("randaugment", "strong") and importlib.util.find_spec("torchvision") is None:
            raise ValueError(
                f"--augment {self.augment} needs torchvision, which is not installed: pip install 'hf_ltkd[timm]', or "
                "take basic or none."
            )
        if self.augment not in ("basic", "none") and self.data_device not in (None, "cpu"):
            raise ValueError(
                f"data_device={self.data_device!r} does not go with augment={self.augment!r}, which works on the CPU: "
                "leave one of them out."
            )
        if self.crop == "resized" and self.data_device not in (None, "cpu"):
            raise ValueError(
                f"data_device={self.data_device!r} does not go with crop='resized', whose images are decoded on the "
                "CPU: leave it out."
            )


SEGMENTATION = "semantic-segmentation"


@dataclass
class MaskArguments:
    """What a pixel's class is, for `--task semantic-segmentation`; free of torch."""

    task: Literal["image-classification", "semantic-segmentation"] = field(
        default="image-classification",
        metadata={
            "help": "semantic-segmentation: each pixel has a class, the data have masks; the next flags are for it."
        },
    )
    mask_column: str | None = field(
        default=None,
        metadata={"help": "Column of masks; found by its usual names if not given (mask, annotation, ...)."},
    )
    num_classes: int | None = field(
        default=None, metadata={"help": "Ids in the masks run from 0 to one less; found in the masks if not given."}
    )
    class_names: list[str] | None = field(
        default=None, metadata={"help": "Names by class id (default: the teacher's or the model's, else the ids)."}
    )
    ignore_index: int = field(default=255, metadata={"help": "Id of pixels in masks that count nowhere."})
    colors: list[str] | None = field(
        default=None,
        metadata={
            "help": "Where masks hold colours: that of each class as R,G,B, or R,G,B=ID, e.g. 128,64,128 0,0,0=255."
        },
    )
    reduce_labels: bool | None = field(
        default=None,
        metadata={"help": "0 in masks is no class and 1 is class 0, as in ADE20K (default: the model's)."},
    )
    size: list[int] | None = field(
        default=None,
        metadata={
            "help": "Height and width in which images are evaluated (default: the teacher's or model's, else theirs)."
        },
    )
    crop_size: list[int] | None = field(
        default=None,
        metadata={"help": "Height and width of training views (default: all of it for trained weights, else half)."},
    )
    scale: list[float] = field(
        default_factory=lambda: [0.5, 2.0],
        metadata={"help": "By which factors training views are scaled, at random; 1 is the size of the evaluation."},
    )

    def __post_init__(self):
        from ..utils import check_number  # here: it imports torch, which the help does without

        if self.class_names is not None:
            if len({*self.class_names}) != len(self.class_names):
                raise ValueError(f"class_names={self.class_names} has a name twice: give each class one of its own.")
            if self.num_classes not in (None, len(self.class_names)):
                raise ValueError(
                    f"num_classes={self.num_classes} and {len(self.class_names)} class_names do not fit: give a name "
                    "for each class, or leave one of them out."
                )
            self.num_classes = len(self.class_names)
        if self.num_classes is not None:
            check_number("num_classes", self.num_classes, 2, whole=True)
        for name in ("size", "crop_size", "scale"):
            values = getattr(self, name)
            if values is None:
                continue
            if not isinstance(values, list | tuple) or len(values) != 2:
                raise ValueError(f"{name}={values!r} is not valid: give two numbers, such as {name} 180 240.")
            for value in values:
                check_number(name, value, above=0, whole=name != "scale", most=16 if name == "scale" else 4096)
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale={self.scale} is not valid: give the smallest and the largest factor.")
        if self.colors is not None and all(isinstance(item, str) for item in self.colors):
            pairs = [_color(item, class_id) for class_id, item in enumerate(self.colors)]
            for color, class_id in pairs:
                if (other := dict(pairs)[color]) != class_id:
                    raise ValueError(f"--colors gives {color} to the classes {class_id} and {other}: give it to one.")
            self.colors = dict(pairs)  # type: ignore[assignment]


def _color(item: str, class_id: int) -> tuple[tuple[int, ...], int]:
    """`"128,64,128"` or `"0,0,0=255"` as a colour and its id."""
    color, _, given = item.partition("=")
    try:
        return tuple(map(int, color.split(","))), int(given or class_id)
    except ValueError as error:
        raise ValueError(
            f"--colors {item} must be a colour as R,G,B, or R,G,B=ID, e.g. 128,64,128 or 0,0,0=255."
        ) from error
