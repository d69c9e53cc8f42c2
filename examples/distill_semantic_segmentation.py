r"""Distils a segmentation model on long-tailed pixels: IoU per group and class, a card, and a picture to look at.

Small UperNets from scratch, without a download; the teacher is trained first, by the same script:

python examples/distill_semantic_segmentation.py --data camvid --num_classes 11 --loss ce --student 32 \
    --output_dir teacher
python examples/distill_semantic_segmentation.py --data camvid --num_classes 11 --teacher teacher \
    --output_dir student

`--data` is a folder of parquet files or of `images/` and `masks/`, or a Hub id; `--teacher` and `--student` also take
folders and Hub ids of any `...ForSemanticSegmentation`. The flags of `TrainingArguments` work too.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from PIL import Image
from transformers import (
    AutoModelForSemanticSegmentation,
    HfArgumentParser,
    PreTrainedModel,
    ResNetConfig,
    SegformerImageProcessorPil,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    set_seed,
)

from hf_ltkd import (
    ClassGroups,
    DistillationTrainer,
    DistillationTrainingArguments,
    SegmentationDataset,
    create_loss,
    mean_iou,
    read_masks,
)
from hf_ltkd.utils import parse_values


@dataclass
class SegmentationArguments:
    data: str = field(
        metadata={"help": "A folder, or a dataset's Hub id, with the splits train and validation or test."}
    )
    num_classes: int = field(metadata={"help": "Class ids in the masks run from 0 to one less."})
    class_names: list[str] | None = field(default=None, metadata={"help": "Their names, in the order of the ids."})
    image_column: str = field(default="image", metadata={"help": "The column of images."})
    mask_column: str = field(default="mask", metadata={"help": "The column of masks."})
    ignore_index: int = field(default=255, metadata={"help": "The id of pixels that count nowhere."})
    evaluate_on: str = field(default="test", metadata={"help": "The split to evaluate on."})
    student: str = field(
        default="16",
        metadata={"help": "The model to train: the width of a UperNet from scratch, or a Hub id or folder."},
    )
    teacher: str | None = field(
        default=None, metadata={"help": "Its teacher: a Hub id or folder (none with --loss ce)."}
    )
    loss: str = field(default="ltkd", metadata={"help": "The method; ce is the cross-entropy without a teacher."})
    loss_args: list[str] = field(
        default_factory=list,
        metadata={"help": "Its arguments as name=value, e.g. alpha=1 beta=1 temperature=1 ce=balanced_softmax."},
    )
    size: list[int] = field(
        default_factory=lambda: [180, 240], metadata={"help": "Height and width of images in the evaluation."}
    )
    crop: list[int] = field(default_factory=lambda: [72, 96], metadata={"help": "Height and width of training views."})
    scale: list[float] = field(
        default_factory=lambda: [0.5, 1.5], metadata={"help": "By how much training views are scaled, at random."}
    )


def load_data(args: SegmentationArguments) -> DatasetDict:
    try:
        return read_masks(args.data)
    except ValueError as error:
        raise SystemExit(f"--data {error}") from error


def load_network(name: str, num_classes: int, class_names: list[str] | None = None) -> PreTrainedModel:
    """A UperNet on a ResNet of so many channels, or what a folder or the Hub holds."""
    names = class_names or [f"class {c}" for c in range(num_classes)]
    labels = {"id2label": dict(enumerate(names)), "label2id": {label: c for c, label in enumerate(names)}}
    if not name.isdigit():
        return AutoModelForSemanticSegmentation.from_pretrained(name, ignore_mismatched_sizes=True, **labels)
    width = int(name)
    stages = {"hidden_sizes": [width, 2 * width, 4 * width, 8 * width], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    backbone = ResNetConfig(embedding_size=width, out_features=[f"stage{s}" for s in (1, 2, 3, 4)], **stages)
    config = UperNetConfig(backbone_config=backbone, hidden_size=2 * width, use_auxiliary_head=False, **labels)
    return UperNetForSemanticSegmentation(config)


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


def draw(path: Path, images: Any, networks: list[torch.nn.Module], count: int = 4) -> None:
    """A row for each image: itself, its mask, and what each network sees in it. Ignored pixels are black."""
    colours = np.random.default_rng(1).integers(60, 256, (256, 3), dtype=np.uint8)
    rows = []
    for index in np.linspace(0, len(images) - 1, count).astype(int).tolist():
        image, mask = images.example(index)
        cells = [
            np.asarray(image.convert("RGB")),
            np.where((mask == images.ignore_index)[..., None], 0, colours[mask]),
        ]
        for network in networks:
            pixels = images[index]["pixel_values"][None].to(next(network.parameters()).device)
            with torch.no_grad():
                logits = network.eval()(pixel_values=pixels).logits
            logits = torch.nn.functional.interpolate(logits, mask.shape, mode="bilinear", align_corners=False)
            cells.append(colours[logits[0].argmax(0).cpu().numpy()])
        rows.append(np.concatenate(cells, axis=1).astype(np.uint8))
    Image.fromarray(np.concatenate(rows)).save(path)


def main():
    parser = HfArgumentParser((SegmentationArguments, DistillationTrainingArguments))
    args, training = parser.parse_args_into_dataclasses()
    set_seed(training.seed)
    data = load_data(args)
    known = {"num_classes": args.num_classes, "ignore_index": args.ignore_index}
    groups = ClassGroups.from_masks(data["train"], args.mask_column, **known)
    print("Groups by pixels:", {name: groups.group_of_class.tolist().count(g) for g, name in enumerate(groups.names)})
    student = load_network(args.student, args.num_classes, args.class_names)
    teacher = load_network(args.teacher, args.num_classes, args.class_names) if args.teacher else None
    train_images, eval_images = load_images(args, data, training.seed)
    metric = mean_iou(groups, ignore_index=args.ignore_index, class_names=args.class_names)
    trainer = DistillationTrainer(
        student,
        teacher,
        training,
        distillation_loss=create_loss(args.loss, groups, **parse_values("--loss_args", args.loss_args)),
        train_dataset=train_images,
        eval_dataset=eval_images,
        compute_metrics=metric,
        processing_class=eval_images.pixels.processor,
    )
    trainer.train()
    scores = trainer.evaluate()
    for name in ("mean_iou", *(f"{group}_iou" for group in groups.names), "accuracy"):
        print(f"{name:>12}  {100 * scores[f'eval_{name}']:5.1f} %")
    trainer.save_model()
    trainer.create_model_card(dataset=Path(args.data).name, dataset_split=args.evaluate_on)
    networks = [network for network in (teacher, student) if network is not None]
    draw(Path(training.output_dir) / "examples.png", eval_images, networks)


if __name__ == "__main__":
    main()
