"""How long a training will take and how much memory, from a few of its real steps."""

import copy
import math
import tempfile
import time
from dataclasses import dataclass
from statistics import median
from typing import Any, cast

import torch
from transformers import PrinterCallback, TrainerCallback

from ..trainer.trainer import DistillationTrainer
from .plan import TrainingPlan


# What a timed step leaves out of the training arguments: files, logs, evaluations, and what would run beside it.
ALONE: dict[str, Any] = {
    "disable_tqdm": True,
    "logging_strategy": "no",
    "report_to": "none",
    "save_strategy": "no",
    "resume_from_checkpoint": None,
    "eval_strategy": "no",
    "eval_on_start": False,
    "load_best_model_at_end": False,
    "early_stopping_patience": None,
    "push_to_hub": False,
    "gradient_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "dataloader_persistent_workers": False,
    "dataloader_prefetch_factor": None,
    "overlap_teacher": False,
}


@dataclass(frozen=True)
class Estimate:
    """
    Seconds and bytes, measured for one batch of one process, and what follows from them.

    Attributes:
        images, teacher, student (`float`): To make a batch of images, to ask the teacher, and for a student's step.
        batches (`int`): Of the whole training, in one process.
        workers (`int`): Processes that make images beside the training.
        memory (`int`): Bytes that a step takes on the device: at its peak on a GPU; on a CPU weights, gradients, the
            optimizer's state, and what is kept for the backward pass.
    """

    images: float
    teacher: float
    student: float
    batches: int
    workers: int
    memory: int = 0

    def training(self, with_teacher: bool = True) -> float:
        """Seconds to train one student."""
        compute = self.student + (self.teacher if with_teacher else 0.0)
        batch = max(compute, self.images / self.workers) if self.workers else compute + self.images
        return self.batches * batch

    @property
    def asking_the_teacher(self) -> float:
        """Seconds of the training that the teacher takes, which a cache of its logits would save."""
        return self.training() - self.training(with_teacher=False)


def estimate(plan: TrainingPlan, teacher: Any = None, *, steps: int = 5) -> Estimate:
    """
    Trains a copy for a few steps, one batch each, and times all but the first; writes nothing and changes nothing.

    Args:
        plan ([`TrainingPlan`]): The training.
        teacher (`torch.nn.Module`, *optional*): Its teacher.
        steps (`int`, *optional*, defaults to 5): Steps to time; the median counts.
    """
    args, images = plan.args, plan.images.data.train
    network, loss, view = copy.deepcopy(plan.network), copy.deepcopy(plan.loss), images.view
    with tempfile.TemporaryDirectory() as folder:
        changes: dict[str, Any] = {**ALONE, "output_dir": folder, "max_steps": steps + 1}
        trainer: Any = plan.trainer(network, loss, teacher, TimedTrainer, **changes)
        on_gpu = trainer.args.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(trainer.args.device)
        try:
            trainer.train()
        finally:
            images.set_epoch(view)
        memory = torch.cuda.max_memory_allocated(trainer.args.device) if on_gpu else trainer.memory
    making, asking, training = (median(column) for column in zip(*trainer.seconds[1:], strict=True))
    per_epoch = math.ceil(len(images) / (args.train_batch_size * args.world_size))
    batches = math.ceil(per_epoch * plan.epochs)
    return Estimate(making, asking, training, batches, args.dataloader_num_workers, memory)


class TimedTrainer(DistillationTrainer):
    """Notes in `seconds`, a row a step, how long it makes images, asks the teacher, and trains."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seconds: list[list[float]] = []
        self.kept: dict[int, int] = {}  # bytes by the place of a tensor that the backward pass needs
        self.remove_callback(PrinterCallback)
        self.add_callback(StepEnd(self))

    def get_batch_samples(self, *args, **kwargs):
        self.asked, start = 0.0, self.now()
        step = super().get_batch_samples(*args, **kwargs)
        self.begun = self.now()
        self.seconds.append([self.begun - start - self.asked, self.asked])
        return step

    def _ask_teacher(self, inputs: dict) -> Any:
        start = self.now()
        answer = super()._ask_teacher(inputs)
        self.asked += self.now() - start if answer is not None else 0.0
        return answer

    def compute_loss(self, *args, **kwargs):
        if self.kept or self.args.device.type == "cuda":  # which knows its memory
            return super().compute_loss(*args, **kwargs)
        with torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor):
            return super().compute_loss(*args, **kwargs)

    def _note(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        self.kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def memory(self) -> int:
        """What the first step kept at once, weights and the optimizer's state among it."""
        weights = [p for network in self._networks for p in network.parameters()]
        student, optimizer = [p for p in weights if p.requires_grad], cast(torch.optim.Optimizer, self.optimizer)
        state = [t for of_one in optimizer.state.values() for t in of_one.values() if isinstance(t, torch.Tensor)]
        places = self.kept | {w.untyped_storage().data_ptr(): w.nbytes for w in weights}
        return sum(places.values()) + sum(t.nbytes for t in [*student, *state])  # a gradient is as large as its weight

    def now(self) -> float:
        if self.args.device.type == "cuda":
            torch.cuda.synchronize(self.args.device)
        return time.perf_counter()


class StepEnd(TrainerCallback):
    """Tells a [`TimedTrainer`] that a step ends."""

    def __init__(self, trainer: TimedTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.seconds[-1].append(self.trainer.now() - self.trainer.begun)
