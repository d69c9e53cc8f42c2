"""What Figures 3 and 4 show: a teacher's group probabilities, and a student's loss per group after each epoch."""

from typing import Any

import torch
from plan import Run
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, default_data_collator

from hf_ltkd import ClassGroups, kl_decomposition
from hf_ltkd.analysis import teacher_group_mass
from hf_ltkd.workflow.inputs import Images


class GroupLosses(TrainerCallback):
    """
    Fig. 4: after each epoch the parts of Eq. 8 between teacher and student, averaged over the training images as the
    epoch showed them, at one temperature for all methods.

    Attributes:
        values (`dict`): `temperature`; and of each epoch `within` (the KL within each group), `weighted` (the same
            times the teacher's group probability), `cross` (the KL between the groups), and `by_label` (the whole KL
            of the images of each group's classes).
    """

    def __init__(self, dataset: Any, groups: ClassGroups, *, temperature: float):
        self.dataset = dataset
        self.groups = groups
        self.values: dict[str, Any] = {"temperature": temperature, "within": [], "weighted": [], "cross": []}
        self.values["by_label"] = []

    @torch.no_grad()
    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        model.eval()  # the Trainer's next step trains again
        own = torch.Generator()  # drawing from the global one could change the training
        parts = []
        for batch in DataLoader(self.dataset, 500, collate_fn=default_data_collator, generator=own):
            logits = model(batch["pixel_values"].to(args.device)).logits
            teacher_logits = batch["teacher_logits"].to(args.device)
            kl = kl_decomposition(logits, teacher_logits, self.groups, temperature=self.values["temperature"])
            weighted = kl.teacher_group_probs * kl.within
            parts.append(torch.cat([kl.within, weighted, kl.cross[:, None]], 1).cpu())
        table, n = torch.cat(parts).double(), self.groups.num_groups
        whole, group_of_image = table[:, n:].sum(1), self.groups.group_of_class[self.dataset.labels]
        means = table.mean(0).tolist()
        self.values["within"].append(means[:n])
        self.values["weighted"].append(means[n : 2 * n])
        self.values["cross"].append(means[-1])
        self.values["by_label"].append([whole[group_of_image == group].mean().item() for group in range(n)])


def measure_group_mass(run: Run, teacher: nn.Module, balanced: Images, long_tailed: Images) -> dict[str, Any]:
    """Fig. 3: the teacher's group probabilities, summed over batches of the full training set and of its own."""
    how = {"batch_size": run["batch_size"], "max_batches": run["batches"], "seed": run["seed"]}
    sums: dict[str, dict[str, Any]] = {}
    for temperature in run["temperatures"]:
        sums[f"temperature {temperature:g}"] = values = {}
        for name, images in {"balanced": balanced, "long_tailed": long_tailed}.items():
            mass = teacher_group_mass(teacher, images.data.train, long_tailed.groups, temperature=temperature, **how)
            values[name] = mass.double().numpy().round(4).tolist()
    return {"group_mass": sums}
