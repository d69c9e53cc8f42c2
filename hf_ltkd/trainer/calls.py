"""How student and teacher are called, and which of their logits are compared with which labels."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import Trainer

from ..losses.base import DistillationLoss
from ..losses.checks import is_example, is_labelled, logits_of
from ..losses.columns import weigh
from ..losses.cross_entropy import cross_entropy_of_each


class ModelCalls:
    """Classifiers, one answer per example. Language models and segmentation override what is different for them."""

    @classmethod
    def of(cls, trainer: Trainer, networks: list[nn.Module]) -> "ModelCalls":
        """Those of a trainer, and of its student and teacher."""
        return cls()

    def labels(self, labels: Tensor) -> Tensor:
        """The labels of a batch as the loss compares them, `[*batch]`, or soft ones `[*batch, classes]`."""
        return labels

    def columns(self, columns: dict[str, Any]) -> dict[str, Any]:
        """The loss's columns of a batch, as the loss takes them."""
        return columns

    def on_grid(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch whose labels are where the loss compares logits."""
        return batch

    def ask(self, network: nn.Module, forward: Callable, inputs: dict[str, Any]) -> Any:
        """
        The outputs of a network.

        Args:
            network (`torch.nn.Module`): Student or teacher.
            forward (`Callable`): Calls it, with all that the training has wrapped it in.
            inputs (`dict`): Its inputs.
        """
        return forward(**inputs)

    def compared(self, outputs: Any, batch: dict[str, Any]) -> Any:
        """What of a network's outputs the loss takes, with logits `[*batch, classes]`."""
        return outputs

    def rows(
        self, loss: DistillationLoss, outputs: Any, labels: Tensor, epoch: float | None, columns: dict[str, Any]
    ) -> Tensor:
        """
        What a micro-batch is to its step, `[rows, 2 + k]`: the weight of its examples, of those with a class, and
        `loss.batch_statistics` of the teacher's `outputs`, if they are given.
        """
        statistics = None if outputs is None else loss.statistics_of(outputs, labels, epoch=epoch, **columns)
        sizes = sizes_of(labels, columns)
        return (sizes if statistics is None else torch.cat([sizes, statistics]))[None]

    def gather(self, accelerator: Accelerator, rows: Tensor) -> Tensor:
        """The [`~ModelCalls.rows`] of all ranks."""
        return accelerator.gather(rows)

    def terms(
        self,
        loss: DistillationLoss,
        outputs: Any,
        teacher_outputs: Any,
        labels: Tensor,
        *,
        epoch: float | None,
        step_statistics: Any = None,
        **columns: Any,
    ) -> dict[str, Tensor]:
        """The terms of the loss; arguments as there."""
        return loss(outputs, teacher_outputs, labels, epoch=epoch, step_statistics=step_statistics, **columns)

    def num_classes(self, outputs: Any) -> int:
        """How many classes the logits of a network are of."""
        return logits_of(outputs).shape[-1]

    def losses_of_each(self, outputs: Any, labels: Tensor) -> Tensor:
        """The cross-entropy of each example, token or pixel, `[*batch]`; NaN where there is no class."""
        return cross_entropy_of_each(logits_of(outputs), labels)

    def scores(self, outputs: Any, losses: Tensor) -> Tensor:
        """What has to be finite for each of them, `[*batch, n]`: its logits, or its loss, made of them."""
        return logits_of(outputs)

    def predictions(self, outputs: Any, losses: Tensor) -> Tensor:
        """What an evaluation keeps: logits, since anything else would be gathered over the whole set."""
        return logits_of(outputs)


def sizes_of(labels: Tensor, columns: dict[str, Any]) -> Tensor:
    """The weight of the examples, and of those with a class: `[2]`, in float32 or, if the weights are, float64."""
    labels, weights = weigh(labels, columns.get("sample_weights"))
    return torch.stack([(weights * is_example(labels)).sum(), (weights * is_labelled(labels)).sum()])
