"""Which examples an epoch draws, by how frequent their class is."""

from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
from torch.utils.data import Sampler
from transformers import TrainingArguments

from .checks import labels_at_hand


CLASS_SAMPLING = {
    "class_balanced": 0.0,
    "square_root": 0.5,
}  # a class of n examples is drawn in proportion to n ** this


class ClassSampler(Sampler[int]):
    """
    Draws as many examples an epoch as there are, with replacement: all classes equally often (`"class_balanced"`), or
    in proportion to the square root of their examples (`"square_root"`), `q` of 0 and 1/2 of Kang et al., Decoupling
    Representation and Classifier for Long-Tailed Recognition (ICLR 2020, arXiv 1910.09217, Eq. 1). The draw is a
    function of `(seed, epoch)`: the same on all ranks and after resuming.

    Args:
        labels (`np.ndarray` of shape `[examples]`): The class of each.
        strategy (`str`): A key of `CLASS_SAMPLING`.
        seed (`int`): Of the draw.
    """

    def __init__(self, labels: np.ndarray, strategy: str, seed: int):
        weights = np.bincount(labels).astype(float)[labels] ** (CLASS_SAMPLING[strategy] - 1)
        self.ends, self.seed, self.epoch = weights.cumsum(), seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Accelerate tells it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[int]:
        draws = np.random.default_rng([self.seed, self.epoch]).random(len(self)) * self.ends[-1]
        return iter(self.ends.searchsorted(draws, side="right").tolist())


def class_sampler(dataset: Any, args: TrainingArguments) -> ClassSampler:
    """
    That of `train_sampling_strategy`.

    Raises:
        `ValueError`: if the class of each example is not at hand.
    """
    strategy, seed = args.train_sampling_strategy, args.seed if args.data_seed is None else args.data_seed
    plain = dataset.with_format(None) if isinstance(dataset, datasets.Dataset) else dataset  # no transform
    labels = labels_at_hand(plain)
    if labels is None or (labels < 0).any():
        lacking = "some have no class" if labels is not None else f"a {type(dataset).__name__} does not tell"
        raise ValueError(
            f"train_sampling_strategy={strategy!r} draws by the class of each training example, and {lacking}: give a "
            "datasets.Dataset with the column label, or an ImageDataset, or leave it out."
        )
    return ClassSampler(labels, strategy, seed)
