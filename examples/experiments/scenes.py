"""Data and networks of the runs on pixels."""

from dataclasses import dataclass, field
from typing import Any

from datasets import DatasetDict
from transformers import AutoModelForSemanticSegmentation, PreTrainedModel, SegformerImageProcessorPil

from hf_ltkd import SegmentationDataset, create_model, read_masks


@dataclass
class SegmentationArguments:
    """Which data, and in which sizes: of the evaluation, and of training views, scaled at random."""

    data: str
    num_classes: int
    class_names: list[str]
    image_column: str = "image"
    mask_column: str = "mask"
    ignore_index: int = 255
    evaluate_on: str = "test"
    size: list[int] = field(default_factory=lambda: [180, 240])
    crop: list[int] = field(default_factory=lambda: [72, 96])
    scale: list[float] = field(default_factory=lambda: [0.5, 1.5])


def load_data(args: SegmentationArguments) -> DatasetDict:
    """The splits of a folder."""
    return read_masks(args.data)


def load_network(name: str, num_classes: int, class_names: list[str]) -> PreTrainedModel:
    """A UperNet on a ResNet of so many channels, or what a folder holds."""
    labels = {"id2label": dict(enumerate(class_names)), "label2id": {label: c for c, label in enumerate(class_names)}}
    if name.isdigit():
        return create_model(f"upernet_{name}", num_classes, **labels)
    return AutoModelForSemanticSegmentation.from_pretrained(name, **labels)


def load_images(args: SegmentationArguments, data: DatasetDict, seed: int) -> tuple[Any, Any]:
    """Training images in random views, and images to evaluate on as they are."""

    def images(split: str, size: list[int], **settings: Any) -> SegmentationDataset:
        processor = SegformerImageProcessorPil(size={"height": size[0], "width": size[1]})
        columns = {"image_column": args.image_column, "mask_column": args.mask_column}
        known = {"num_classes": args.num_classes, "ignore_index": args.ignore_index}
        return SegmentationDataset(data[split], processor=processor, **columns, **known, **settings)

    # A view is made as large as its processor says, times the scale: 1 is the size of the evaluation.
    shrinks = max(whole / part for whole, part in zip(args.size, args.crop, strict=True))
    scale = [factor * shrinks for factor in args.scale]
    return images("train", args.crop, augment=True, scale=scale, seed=seed), images(args.evaluate_on, args.size)
