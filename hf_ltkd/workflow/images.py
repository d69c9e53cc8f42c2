"""What every job looks at, and what of it depends on whether an image has one class, or each pixel one."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from ..analysis.bias import GroupReport, group_report
from ..data.holdout import Holdout
from ..data.images import ImageData
from ..groups import ClassGroups
from ..metrics import group_accuracy
from .recommend import Recommendation, recommend_training


@dataclass(frozen=True)
class Images:
    """
    Images with a class each. [`Scenes`] are those with a class for each pixel.

    Attributes:
        data ([`ImageData`]): Training and evaluation images.
        groups ([`ClassGroups`]): Groups of their classes.
        holdout ([`Holdout`], *optional*): How the evaluation images were split off; `None` where the data has its own.
    """

    data: ImageData
    groups: ClassGroups
    holdout: Holdout | None

    @property
    def class_counts(self) -> Sequence[int]:
        """Training examples of each class."""
        return self.data.split.class_counts

    def training(self, with_teacher: bool) -> Dataset:
        """The training images; without a teacher those that have a class."""
        return self.data.train if with_teacher else self.data.train.labelled()

    def metric(self) -> Any:
        """What the Trainer measures."""
        return group_accuracy(self.groups)

    def report(self, model: nn.Module, batch_size: int) -> GroupReport:
        """A teacher's, or any trained model's, answers to the evaluation images."""
        return group_report(model, self.data.test, self.groups, batch_size=batch_size)

    def teacher_accuracy(self, teacher: nn.Module, report: GroupReport, batch_size: int) -> float | None:
        """
        A teacher's balanced accuracy, by which settings may be chosen: on the validation images, where there are some
        beside those of its `report`. `None` where none was measured.
        """
        if self.data.validation is not None:
            report = group_report(teacher, self.data.validation, self.groups, batch_size=batch_size)
        return report.answers.scores(self.groups).get("balanced_accuracy")

    def recommend_training(self, network: str, is_pretrained: bool) -> Recommendation:
        """Training arguments to start from."""
        return recommend_training(len(self.data.train), network, is_pretrained)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes beside a model how the images were split and cut."""
        self.data.split.save_pretrained(folder)
        if self.holdout is not None:
            self.holdout.save_pretrained(folder)
