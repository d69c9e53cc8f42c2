"""How biased a teacher is: its group probabilities over batches (Sec. 3.2 and Fig. 3 of the LTKD paper)."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import default_data_collator

from .groups import ClassGroups
from .losses.checks import logits_of
from .losses.ltkd import kl_decomposition


@torch.no_grad()
def teacher_group_mass(
    teacher: nn.Module,
    dataset: Dataset,
    groups: ClassGroups,
    *,
    batch_size: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
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
    device = next(teacher.parameters()).device
    teacher.eval()
    rows = []
    for batch in loader:
        logits = logits_of(teacher(**{name: v.to(device) for name, v in batch.items() if name != "labels"}))
        rows.append(kl_decomposition(logits, logits, groups, temperature=temperature).teacher_group_probs.sum(0))
    return torch.stack(rows).cpu()
