"""Images with a class for each pixel, by the names that a user gives."""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, SegformerImageProcessorPil

from ..analysis.bias import GroupReport, group_report
from ..data.arguments import DataArguments, MaskArguments
from ..data.masks import Colors, MaskReader
from ..data.pixels import Pixels
from ..data.processors import choose_pixels, pixels_of, resized
from ..data.segmentation import SegmentationDataset
from ..groups import ClassGroups
from ..metrics import mean_iou
from ..metrics.pixel_answers import FEWEST_IMAGES as FEWEST_IMAGES
from ..teacher.loading import load_config
from ..utils import listed
from .arguments import SourceArguments
from .images import Images
from .inputs import Model, is_pretrained, load_pixels, model_name
from .masked_images import find_masks
from .recommend import Recommendation, recommend_pixel_training


LONGEST_SIDE = 512  # of images that no model says a size of
SMALLEST_CROP = 32
PIXEL_BATCH = 16  # images that a model is asked for at once


@dataclass
class SceneData:
    """
    What models for pixels are trained on.

    Attributes:
        train, test ([`SegmentationDataset`]): Training images in random views, and images to evaluate on as they are.
        validation ([`SegmentationDataset`], *optional*): Images to choose checkpoints on.
        class_names (`list[str]`): By class id.
        named (`bool`): Whether the user named them.
        class_counts (`list[int]`): Training pixels of each class.
        test_counts (`np.ndarray` of shape `[images, classes]`): Pixels of each class in each image to evaluate on.
        args ([`DataArguments`]), masks ([`MaskArguments`]): What was loaded, with sizes filled in.
        image_processor (`BaseImageProcessor`): Makes the pixels of `test`; to be saved with the model.
        sources (`list[str]`): Which splits are used for what, in plain sentences.
    """

    train: SegmentationDataset
    test: SegmentationDataset
    class_names: list[str]
    named: bool
    class_counts: list[int]
    test_counts: np.ndarray
    args: DataArguments
    masks: MaskArguments
    image_processor: Any
    sources: list[str] = field(default_factory=list)
    validation: SegmentationDataset | None = None


@dataclass(frozen=True)
class Scenes(Images):
    """
    Images with a class for each pixel; a class's examples are its pixels.

    Attributes:
        data ([`SceneData`]): Training and evaluation images.
        groups ([`ClassGroups`]): Groups of their classes by pixels.
        holdout ([`Holdout`], *optional*): How the evaluation images were split off; it counts images in which a class
            occurs.
    """

    data: SceneData  # type: ignore[assignment]

    @property
    def class_counts(self) -> Sequence[int]:
        return self.data.class_counts

    def training(self, with_teacher: bool) -> SegmentationDataset:
        return self.data.train if with_teacher else self.data.train.for_student()

    def metric(self) -> mean_iou:
        return mean_iou(self.groups, ignore_index=self.data.masks.ignore_index)

    def report(self, model: nn.Module, batch_size: int) -> GroupReport:
        """As of images, seen as the teacher sees them; the report's `images` are the pixels of each group."""
        return group_report(model, self.data.test.for_teacher(), self.groups, batch_size=batch_size)

    def teacher_accuracy(self, teacher: nn.Module, report: GroupReport, batch_size: int) -> None:
        """No setting has been found to depend on it."""

    def recommend_training(self, network: str, is_pretrained: bool) -> Recommendation:
        return recommend_pixel_training(len(self.data.train), is_pretrained)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        if self.holdout is not None:
            self.holdout.save_pretrained(folder)


def load_scenes(
    source: SourceArguments,
    given: Mapping[str, Any],
    masks: MaskArguments,
    model: Model | None,
    *,
    student: Model | None = None,
    seed: int = 0,
    num_groups: int | None = None,
    groups: ClassGroups | None = None,
    trust_remote_code: bool = False,
) -> Scenes:
    """
    The images and masks as a model's own image processor makes them, every mask looked at.

    Args:
        source, given, seed, num_groups, trust_remote_code: As in [`load_images`].
        masks ([`MaskArguments`]): What masks hold, and in which size images are seen.
        model (`str` or `PreTrainedModel`, *optional*): A teacher, or the model that is trained or evaluated.
        student (`str` or `PreTrainedModel`, *optional*): Where `model` is its teacher. One without an image processor
            of its own sees what the teacher sees.
        groups ([`ClassGroups`], *optional*): Those that a model was saved with; else they are made of the masks.

    Raises:
        `ValueError`: if there are no such images, a column or a split is missing, a mask is missing, of another size
            than its image or holds what is no class, or a class has no pixel to train on.
    """
    found = find_masks(source, given, masks)
    args, columns = found.args, found.columns
    own, own_student = (load_pixels(one, trust_remote_code) for one in (model, student))
    reduces = masks.reduce_labels
    if reduces is None:
        reduces = any(bool(getattr(p and p.processor, "do_reduce_labels", False)) for p in (own, own_student))
    reader = MaskReader(masks.num_classes, masks.ignore_index, _colors(masks), reduces)
    found.count(reader, 0 if groups is None else groups.num_classes)
    found.hold_out(source.eval_fraction)
    found.check(masks, every_class=groups is None)
    splits, evaluated, num_classes = found.splits, str(found.evaluated), found.num_classes
    trained = found.counts["train"].sum(0)
    if groups is None:
        groups = ClassGroups.from_counts(trained, num_groups or min(3, num_classes))
    class_names, named = _names(masks, num_classes, model, trust_remote_code=trust_remote_code)

    pixels, teacher = choose_pixels(own, own_student) if student is not None else (own, None)
    size = masks.size or (pixels.size if pixels is not None else _usual_size(splits["train"], columns[0]))
    height, width = size
    # Trained weights know whole images; position embeddings take no other size.
    is_trained = (own_student if student is not None else own) is not None
    is_fixed = isinstance(model, PreTrainedModel) and hasattr(model.config, "image_size")
    crop = masks.crop_size or ((height, width) if is_trained or is_fixed else [_half(side) for side in size])
    if pixels is None:
        processor = SegformerImageProcessorPil(size={"height": height, "width": width}, do_reduce_labels=reduces)
        pixels = pixels_of(processor)
    if masks.size is not None:
        pixels, teacher = (p and resized(p, (height, width)) for p in (pixels, teacher))
    if any(part > whole for part, whole in zip(crop, size, strict=True)):
        raise ValueError(
            f"--crop_size {listed(crop)} is larger than --size {listed(size)}: a training view is a part of the image "
            "as it is evaluated, so that --scale alone makes it larger."
        )

    def made(split: str, wanted: Sequence[int], **settings: Any) -> SegmentationDataset:
        def in_size(p: Pixels | None) -> Any:  # a teacher may have a size of its own, of which it sees the same part
            return p and resized(p, (round(p.size[0] * wanted[0] / height), round(p.size[1] * wanted[1] / width)))

        return SegmentationDataset(
            splits[split],
            *columns,
            num_classes=num_classes,
            processor=in_size(pixels),
            teacher_processor=in_size(teacher),
            ignore_index=masks.ignore_index,
            colors=_colors(masks),
            reduce_labels=reduces,
            **settings,
        )

    # A view is made as large as its processor says, times the scale: 1 is the size of the evaluation.
    larger = max(whole / part for whole, part in zip(size, crop, strict=True))
    views = {"scale": [factor * larger for factor in masks.scale], "horizontal_flip": args.horizontal_flip}
    test = made(evaluated, size)
    data = SceneData(
        train=made("train", crop, augment=True, seed=seed, **views),
        test=test,
        class_names=class_names,
        named=named,
        class_counts=trained.tolist(),
        test_counts=found.counts[evaluated],
        args=args,
        masks=replace(masks, size=[*size], crop_size=[*crop], num_classes=num_classes),
        image_processor=test.pixels.processor,
        sources=found.sources,
        validation=made("validation", size) if evaluated == "test" and "validation" in splits else None,
    )
    return Scenes(data, groups, found.holdout)  # type: ignore[arg-type]


def _colors(masks: MaskArguments) -> Colors | None:
    return masks.colors  # type: ignore[return-value]  # read from words in __post_init__


def _names(masks: MaskArguments, num_classes: int, model: Model | None, **trust: Any) -> tuple[list[str], bool]:
    """The names of the classes, and whether the user gave them; else a model's, if it has as many classes."""
    if masks.class_names is not None:
        return [*masks.class_names], True
    names: Any = {}
    if model is not None and is_pretrained(model):
        config = model.config if isinstance(model, PreTrainedModel) else load_config(model_name(model), **trust)
        names = (config.id2label or {}) if config.num_labels == num_classes else {}
    return [names.get(c, f"LABEL_{c}").replace(f"LABEL_{c}", f"class {c}") for c in range(num_classes)], False


def _usual_size(train: Dataset, image_column: str) -> list[int]:
    """Height and width of most of the first images, made smaller to 512 pixels of the longer side."""
    sizes = Counter(image.size for image in train.select(range(min(10, len(train))))[image_column])
    (width, height), _ = sizes.most_common(1)[0]
    scale = min(1.0, LONGEST_SIDE / max(width, height))
    return [max(1, round(scale * height)), max(1, round(scale * width))]


def _half(side: int) -> int:
    """Half of a side in steps of 8 pixels; all of a small one."""
    return min(side, max(SMALLEST_CROP, 8 * math.ceil(side / 16)))
