"""How long a training will take, from a few of its real steps."""

import copy
import math
import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import default_data_collator

from ..data.augment import LabelledImages
from ..losses.base import DistillationLoss
from ..teacher.live import ask_teacher
from ..trainer.training_args import DistillationTrainingArguments


@dataclass(frozen=True)
class Estimate:
    """
    Seconds, measured for one batch of one process, and what follows from them.

    Attributes:
        images, teacher, student (`float`): To make a batch of images, to ask the teacher, and for a student's step.
        batches (`int`): Of the whole training, in one process.
        workers (`int`): Processes that make images beside the training.
    """

    images: float
    teacher: float
    student: float
    batches: int
    workers: int

    def training(self, with_teacher: bool = True) -> float:
        """Seconds to train one student."""
        compute = self.student + (self.teacher if with_teacher else 0.0)
        batch = max(compute, self.images / self.workers) if self.workers else compute + self.images
        return self.batches * batch

    @property
    def asking_the_teacher(self) -> float:
        """Seconds of the training that the teacher takes, which a cache of its logits would save."""
        return self.training() - self.training(with_teacher=False)


def estimate(
    student: nn.Module,
    teacher: nn.Module | None,
    loss: DistillationLoss,
    dataset: LabelledImages,
    args: DistillationTrainingArguments,
    *,
    steps: int = 5,
) -> Estimate:
    """
    Times `steps` batches as the training will see them, after one that does not count; the models stay as they are.

    Args:
        student, teacher (`torch.nn.Module`): The models.
        loss ([`DistillationLoss`]): The loss of the training.
        dataset ([`ImageDataset`] or [`LazyImageDataset`]): The training images.
        args ([`DistillationTrainingArguments`]): Batch size, epochs, device and precision.
        steps (`int`, *optional*, defaults to 5): Batches to time; the median counts.
    """
    device = args.device
    student, loss = copy.deepcopy(student).to(device).train(), copy.deepcopy(loss)
    if teacher is not None:
        teacher = teacher.to(device)
        if loss.needs_teacher:
            loss.prepare(student, teacher)
    loss.to(device)
    features = {"output_hidden_states": True} if loss.needs_hidden_states else {}
    dtype = torch.bfloat16 if args.bf16 else torch.float16
    generator = torch.Generator().manual_seed(0)
    loader: DataLoader = DataLoader(
        dataset, args.train_batch_size, shuffle=True, generator=generator, collate_fn=default_data_collator
    )
    times: list[tuple[float, float, float]] = []
    batches = iter(loader)
    for _ in range(steps + 1):
        start = _now(device)
        batch = next(batches, None)
        if batch is None:
            batches = iter(loader)
            batch = next(batches)
        inputs = {"pixel_values": batch["pixel_values"].to(device), **features}
        made = _now(device)
        autocast = torch.autocast(device.type, dtype=dtype, enabled=args.bf16 or args.fp16)
        answer = None if teacher is None else ask_teacher(teacher, inputs, autocast)
        asked = _now(device)
        with torch.autocast(device.type, dtype=dtype, enabled=args.bf16 or args.fp16):
            outputs = student(**inputs)
            terms = loss(outputs, answer, batch["labels"].to(device))
        torch.stack(list(terms.values())).sum().backward()
        student.zero_grad()
        times.append((made - start, asked - made, _now(device) - asked))
    images, asking, training = (median(column) for column in zip(*times[1:], strict=True))

    per_epoch = math.ceil(len(dataset) / (args.train_batch_size * args.world_size))
    total = math.ceil(per_epoch * epochs_of(args, len(dataset)))
    return Estimate(images, asking, training, total, args.dataloader_num_workers)


def epochs_of(args: DistillationTrainingArguments, num_images: int) -> float:
    """Epochs of the training, also where `max_steps` sets its length."""
    if args.max_steps <= 0:
        return args.num_train_epochs
    per_epoch = math.ceil(num_images / (args.train_batch_size * args.world_size))
    return args.max_steps * args.gradient_accumulation_steps / per_epoch


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
