"""How biased a teacher is: its group probabilities over batches (Sec. 3.2 and Fig. 3 of the LTKD paper)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import default_data_collator

from .groups import ClassGroups
from .losses.checks import logits_of
from .losses.ltkd import kl_decomposition
from .metrics.group_accuracy.group_accuracy import group_accuracies


@dataclass(frozen=True)
class GroupReport:
    """
    A model's answers to a set of images, by group.

    Attributes:
        accuracy (`dict[str, float]`): `accuracy` and `{group}_accuracy`, fractions.
        probability (`list[float]`): The share of the model's probability that each group gets; they sum to 1.
        images (`list[int]`): Images of each group.
    """

    accuracy: dict[str, float]
    probability: list[float]
    images: list[int]

    @property
    def favour(self) -> list[float]:
        """`probability` over the group's share of the images: 1 without a bias, below 1 where too little is given."""
        total = sum(self.images)
        return [p * total / max(n, 1) for p, n in zip(self.probability, self.images, strict=True)]


def group_report(model: nn.Module, dataset: Dataset, groups: ClassGroups, *, batch_size: int = 64) -> GroupReport:
    """
    Asks a model for every image once. Balanced images show the bias that training on long-tailed ones has left.

    Args:
        model (`torch.nn.Module`): A teacher or a student; its mode is left in eval.
        dataset (`torch.utils.data.Dataset`): Gives the model's inputs and `labels`, for instance [`ImageDataset`].
        groups ([`ClassGroups`]): The groups of the classes.
        batch_size (`int`, *optional*, defaults to 64): Images that the model is asked for at once.
    """
    predictions, labels, mass = [], [], torch.zeros(groups.num_groups)
    for batch_labels, logits in _answers(model, DataLoader(dataset, batch_size, collate_fn=default_data_collator)):
        predictions.append(logits.argmax(1).cpu())
        labels.append(batch_labels)
        mass += kl_decomposition(logits, logits, groups).teacher_group_probs.sum(0).cpu()
    references = torch.cat(labels)
    group_of_class = groups.group_of_class
    accuracy = group_accuracies(
        torch.cat(predictions).numpy(), references.numpy(), group_of_class.numpy(), groups.names
    )
    images = torch.bincount(group_of_class[references], minlength=groups.num_groups)
    return GroupReport(accuracy, (mass / mass.sum()).tolist(), images.tolist())


def teacher_group_mass(
    teacher: nn.Module,
    dataset: Dataset,
    groups: ClassGroups,
    *,
    batch_size: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    max_batches: int | None = None,
) -> Tensor:
    """
    The sums of `p_Gᵀ` over each shuffled batch (Eq. 9), in the unit of Fig. 3: a row sums to `batch_size`.

    Args:
        teacher (`torch.nn.Module`): The teacher; its mode is left in eval.
        dataset (`torch.utils.data.Dataset`): Gives the model's inputs and `labels`, for instance [`ImageDataset`].
        groups ([`ClassGroups`]): The groups of the classes.
        batch_size (`int`, *optional*, defaults to 64): The paper's. A last, smaller batch is left out.
        temperature (`float`, *optional*, defaults to 1.0): The teacher's logits are divided by it.
        seed (`int`, *optional*, defaults to 0): Of the order of the examples.
        max_batches (`int`, *optional*, defaults to all): Batches to stop after.

    Returns:
        `torch.Tensor` of shape `[batches, groups]`.
    """
    generator = torch.Generator().manual_seed(seed)
    loader: DataLoader = DataLoader(
        dataset,
        batch_size,
        shuffle=True,
        drop_last=len(dataset) >= batch_size,  # type: ignore[arg-type]
        generator=generator,
        collate_fn=default_data_collator,
    )
    rows = [
        kl_decomposition(logits, logits, groups, temperature=temperature).teacher_group_probs.sum(0)
        for _, logits in islice(_answers(teacher, loader), max_batches)
    ]
    return torch.stack(rows).cpu()


@torch.no_grad()
def _answers(model: nn.Module, loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """Labels and logits of each batch."""
    device = next(model.parameters()).device
    model.eval()
    for batch in loader:
        inputs = {name: value.to(device) for name, value in batch.items() if name != "labels"}
        yield batch["labels"], logits_of(model(**inputs))
