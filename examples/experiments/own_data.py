"""Data that is not a folder of images: scikit-learn's digits, and texts as rows of token ids."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset
from PIL import Image as PILImage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from hf_ltkd import ClassGroups, LongTailSplit, class_counts
from hf_ltkd.data import DataArguments, ImageData
from hf_ltkd.data.augment import LabelledImages
from hf_ltkd.data.holdout import Holdout
from hf_ltkd.models import MODEL_CLASSES, NETWORKS
from hf_ltkd.workflow.inputs import Images


VOCABULARY, LENGTH = 4096, 20  # token ids: 0 pads, 1 is any other word


def load_digits_splits() -> DatasetDict:
    """1,297 training and 500 test images (50 of each digit), as in `examples/quickstart.py`."""
    digits = load_digits()
    parts = train_test_split(np.arange(1797), test_size=500, stratify=digits.target, random_state=0)
    features = Features({"image": Image(), "label": ClassLabel(num_classes=10)})
    splits = DatasetDict()
    for name, rows in zip(("train", "test"), parts, strict=True):
        pixels = (digits.images[rows] * 255 / 16).round().astype("uint8")
        images = [PILImage.fromarray(image).convert("RGB") for image in pixels]
        splits[name] = Dataset.from_dict({"image": images, "label": digits.target[rows].tolist()}, features=features)
    return splits


class Texts(LabelledImages):
    """Texts in the place of images: `pixel_values` are token ids `[LENGTH]`, float32, the same in every view."""

    def __init__(self, texts: list[list[int]], labels: list[int]):
        super().__init__(labels, len(texts), 1, mean=[0], std=[1], augment=False, horizontal_flip=False, seed=0)
        self.tokens = torch.tensor([(text + [0] * LENGTH)[:LENGTH] for text in texts])

    def _pixels(self, index: np.ndarray, bits: np.ndarray, mirrored: np.ndarray) -> dict[str, Any]:
        return {"pixel_values": self.tokens[index].float()}  # as pixels are

    def _image_content(self) -> Iterator[bytes]:
        yield self.tokens.numpy().tobytes()


def load_texts(args: DataArguments, text_column: str, held_out: float | None = None) -> Images:
    """
    The texts of `train*.parquet`, cut to the imbalance factor, and of `test*.parquet`, in the folder `args.data_dir`;
    with `held_out` that part of each class's training texts in the place of the test texts.
    """
    folder = Path(args.data_dir or "")
    files = {split: [str(path) for path in sorted(folder.glob(f"{split}*.parquet"))] for split in ("train", "test")}
    splits = load_dataset("parquet", data_files=files)
    column, feature = args.label_column, splits["train"].features[args.label_column]
    kept = sorted(set(splits["train"][column]))  # the classes that have a training text
    new_of_old = {old: new for new, old in enumerate(kept)}
    parts = {
        name: Dataset.from_dict({text_column: part[text_column], column: [new_of_old[old] for old in part[column]]})
        for name, part in splits.items()
    }
    labels = ClassLabel(names=[feature.int2str(old) for old in kept])
    train = parts["train"].cast_column(column, labels)
    holdout = None
    if held_out is not None:
        rows = train_test_split(range(len(train)), test_size=held_out, stratify=train[column], random_state=0)
        full = class_counts(train, column)
        train, parts["test"] = (train.select(sorted(part)) for part in rows)
        holdout = Holdout(class_counts(parts["test"], column), held_out, 0, full)
    split = LongTailSplit.of(train, args.imbalance_factor, label_column=column, seed=args.split_seed)
    parts["train"] = split.apply(train)
    words = {
        name: [re.findall("[a-z0-9]+", text.lower()) for text in part[text_column]] for name, part in parts.items()
    }
    known = Counter(word for text in words["train"] for word in text).most_common(VOCABULARY - 2)
    ids = {word: number for number, (word, _) in enumerate(known, 2)}
    train, test = (
        Texts([[ids.get(word, 1) for word in text] for text in words[name]], part[column])
        for name, part in parts.items()
    )
    data = ImageData(train, test, labels.names, split, mean=[0], std=[1], args=args, image_processor=None)  # type: ignore
    return Images(data, ClassGroups.from_counts(split.class_counts), holdout)


class BagOfWordsConfig(PreTrainedConfig):
    model_type = "bag_of_words"
    width: int = 16  # of a word's vector
    dropout: float = 0.0


class BagOfWords(PreTrainedModel):
    """The mean of a text's word vectors through one hidden layer; it takes token ids as `pixel_values`."""

    config_class = BagOfWordsConfig
    main_input_name = "pixel_values"

    def __init__(self, config: BagOfWordsConfig):
        super().__init__(config)
        width = config.width
        self.words = nn.EmbeddingBag(VOCABULARY, width, padding_idx=0)
        self.hidden = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(config.dropout))
        self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None
    ) -> ImageClassifierOutputWithNoAttention:
        logits = self.classifier(self.hidden(self.words(pixel_values.long())))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


AutoConfig.register("bag_of_words", BagOfWordsConfig)
AutoModelForImageClassification.register(BagOfWordsConfig, BagOfWords)
MODEL_CLASSES[BagOfWordsConfig] = BagOfWords
NETWORKS["bag_128"] = BagOfWordsConfig, {"width": 128, "dropout": 0.5}
NETWORKS["bag_16"] = BagOfWordsConfig, {"width": 16}
