"""One run: training a teacher or a student, or measuring a teacher, from its description to its result."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import ClassLabel, DatasetDict
from filelock import FileLock
from recipes import Recipe, Run, digest
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback, default_data_collator, set_seed
from transformers.trainer_utils import SaveStrategy

import hf_ltkd
from hf_ltkd import (
    ClassGroups,
    DistillationTrainer,
    DistillationTrainingArguments,
    TeacherCache,
    create_loss,
    group_accuracy,
    kl_decomposition,
    log_class_prior,
)
from hf_ltkd.analysis import teacher_group_mass
from hf_ltkd.checkpoints import last_complete_checkpoint
from hf_ltkd.data import DataArguments, ImageData, load_image_data
from hf_ltkd.data.sources import load_splits
from hf_ltkd.inputs import load_classifier, new_classifier
from hf_ltkd.losses import DistillationLoss
from hf_ltkd.outputs import without_prefix
from hf_ltkd.teacher import teacher_fingerprint
from hf_ltkd.utils import describe_machine


@dataclass
class Job:
    """What all runs of a command have in common."""

    recipe: Recipe
    overrides: dict[str, Any]  # of the recipe's training arguments
    neutral: dict[str, Any]  # training arguments that change the speed alone
    data_dir: str | None
    data_device: str | None
    folder: Path
    loaded: dict[float, ImageData] = field(default_factory=dict)

    @property
    def running(self) -> dict[str, Any]:
        return {**self.recipe.get("running", {}), **self.neutral}

    @property
    def results(self) -> Path:
        return self.folder / "results.jsonl"

    def teacher_folder(self, teacher: Run) -> Path:
        return self.folder / "teachers" / f"{teacher['model']}_{teacher['imbalance_factor']:g}_{digest(teacher)}"

    def training_arguments(self, run: Run, folder: Path, **more: Any) -> DistillationTrainingArguments:
        values: dict[str, Any] = {
            "report_to": "none",
            "disable_tqdm": True,
            "logging_strategy": "no",
            "save_strategy": "steps",
            "save_steps": 0.1,  # of the training
            "save_total_limit": 1,
            "dataloader_pin_memory": torch.cuda.is_available() and not self.images_on_gpu,
        }
        values |= {**self.running, **run["training"], **more}
        return DistillationTrainingArguments(output_dir=str(folder), seed=run["seed"], **values)

    @property
    def images_on_gpu(self) -> bool:
        if self.data_device is not None:
            return self.data_device != "cpu"
        small = self.recipe["data"].get("benchmark") != "imagenet_lt"
        return torch.cuda.is_available() and small and not self.running.get("use_cpu")

    def data_arguments(self, imbalance_factor: float) -> DataArguments:
        device = self.data_device or ("cuda" if self.images_on_gpu else "cpu")
        values = {name: value for name, value in self.recipe["data"].items() if name != "class_order_seed"}
        return DataArguments(**values, imbalance_factor=imbalance_factor, data_dir=self.data_dir, data_device=device)

    def data(self, imbalance_factor: float) -> ImageData:
        """The images, loaded once. One seed for all: the cached logits belong to these crops of each epoch."""
        if imbalance_factor not in self.loaded:
            args = self.data_arguments(imbalance_factor)
            splits = load_splits(args)
            if "class_order_seed" in self.recipe["data"]:
                splits = shuffle_classes(splits, args.label_column, self.recipe["data"]["class_order_seed"])
            self.loaded[imbalance_factor] = load_image_data(args, splits=splits, seed=0, progress=False)
        return self.loaded[imbalance_factor]


def shuffle_classes(splits: DatasetDict, column: str, seed: int) -> DatasetDict:
    """The same images with their classes numbered in another order, so that others are the head (Eq. 15)."""
    names = splits["train"].features[column].names
    order = np.random.default_rng(seed).permutation(len(names))  # the old class of each new one
    new_of_old, feature = np.argsort(order), ClassLabel(names=[names[old] for old in order])
    return DatasetDict(
        {
            name: split.remove_columns(column)
            .add_column(column, new_of_old[np.array(split[column])])
            .cast_column(column, feature)
            for name, split in splits.items()
        }
    )


def run_folder(job: Job, run: Run) -> Path:
    return job.teacher_folder(run) if run["role"] == "teacher" else job.folder / "unfinished" / digest(run)


def train(job: Job, run: Run) -> dict[str, Any]:
    """Trains a teacher or a student, from its last checkpoint if there is one, and gives what goes into its line."""
    data = job.data(run["imbalance_factor"])
    folder = run_folder(job, run)
    args = job.training_arguments(run, folder)
    if run.get("group_losses"):
        args.save_strategy = SaveStrategy.NO  # what is noted after each epoch must not have a gap
    loss = make_loss(run, data.recipe.counts)
    source = teacher_of(job, run, data, args)
    set_seed(run["seed"])
    model = new_classifier(run["model"], data)
    trainer = DistillationTrainer(
        model,
        source,
        args,
        distillation_loss=loss,
        train_dataset=data.train,
        eval_dataset=data.test,
        compute_metrics=group_accuracy(data.groups),  # head, medium and tail, whatever groups the loss has
        processing_class=data.image_processor if run["role"] == "teacher" else None,
    )
    trainer.remove_callback(PrinterCallback)
    group_losses = None
    if run.get("group_losses"):
        group_losses = GroupLosses(trainer.train_dataset, data.groups, **run["group_losses"])
        trainer.add_callback(group_losses)
    checkpoint = find_checkpoint(folder)
    result: dict[str, Any] = {
        "hyper_parameters": {k: v for k, v in loss.hyper_parameters().items() if k != "teacher_log_prior"},
        "source": loss.source or None,
        "training_images": len(data.train),
        "teacher_fingerprint": fingerprint(source),
        "running": job.running,
        **place(args.device),
    }
    try:
        trained = trainer.train(resume_from_checkpoint=checkpoint)
    except FloatingPointError as error:
        if run["role"] == "teacher":
            raise
        return {**result, "error": str(error)}  # a result too: this method does not train like this
    log = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
    if run["role"] == "teacher":
        trainer.save_model()
        data.recipe.save_pretrained(folder)
        result["teacher_fingerprint"] = fingerprint(trainer.model)
    metrics = trainer.evaluate()
    first_step = int(checkpoint.rpartition("-")[2]) if checkpoint else 0
    share = 1 - first_step / trainer.state.global_step  # of the training that this process did
    images, seconds = len(data.train) * args.num_train_epochs * share, trained.metrics["train_runtime"]
    return {
        **result,
        "metrics": without_prefix(metrics, data.groups),
        "class_accuracy": trainer.evaluation["class_accuracy"],
        "best_epoch": best_epoch(log, data.groups),
        "group_losses": None if group_losses is None else group_losses.values,
        "resumed_at_step": first_step or None,
        "seconds": seconds + metrics["eval_runtime"],
        "examples_per_second": images / seconds if images else None,
    }


def make_loss(run: Run, counts: list[int]) -> DistillationLoss:
    arguments = dict(run["arguments"])
    if run["adjust_teacher"]:
        arguments["teacher_log_prior"] = log_class_prior(counts)
    return create_loss(
        run["loss"],
        ClassGroups.from_counts(counts, run["num_groups"]),
        pair=run["published_for"] and tuple(run["published_for"]),
        dataset=(run["data"].get("benchmark") or "cifar100_lt").removesuffix("_lt"),
        **arguments,
    )


def teacher_of(job: Job, run: Run, data: ImageData, args: DistillationTrainingArguments) -> Any:
    """The teacher, its cached logits, or `None`, as the run needs."""
    if run["teacher"] is None:
        return None
    folder = job.teacher_folder(run["teacher"])
    if not (folder / "model.safetensors").exists():
        raise ValueError(
            f"{str(job.results)!r} has the result of a teacher whose weights are missing in {str(folder)!r}: put them "
            "back, or choose another --output_dir to train a new one."
        )
    teacher = load_classifier(str(folder))
    if run["teacher_logits"] == "live":
        return teacher
    cache = logits_folder(job, run)
    try:
        return TeacherCache.open(cache, teacher=teacher, dataset=data.train)
    except ValueError:
        pass  # there is none yet, or a part of it; if it is another one, build says so
    with FileLock(f"{cache}.lock", timeout=0):  # taken: another process asks the teacher, do something else meanwhile
        batch_size = run["teacher"]["training"]["per_device_train_batch_size"]
        return TeacherCache.build(
            cache,
            teacher,
            data.train,
            views=math.ceil(args.num_train_epochs),
            dtype=run["teacher_logits"],
            batch_size=batch_size,
            device=args.device,
            num_workers=args.dataloader_num_workers,
            progress=False,
        )


def fingerprint(teacher: Any) -> str | None:
    """Which teacher it was: trained again on another machine, the same run gives other weights."""
    if teacher is None:
        return None
    return teacher.manifest["teacher"] if isinstance(teacher, TeacherCache) else teacher_fingerprint(teacher)


def logits_folder(job: Job, run: Run) -> Path:
    views = math.ceil(run["training"]["num_train_epochs"])
    return job.teacher_folder(run["teacher"]) / f"logits_{views}_{run['teacher_logits']}"


def find_checkpoint(folder: Path) -> str | None:
    try:
        return last_complete_checkpoint(folder)
    except ValueError:
        return None


def best_epoch(log: list[dict[str, float]], groups: ClassGroups) -> dict[str, float] | None:
    """The most accurate epoch, where each was evaluated (`--training eval_strategy=epoch`)."""
    if not log:
        return None
    best = max(log, key=lambda entry: entry["eval_accuracy"])
    return {"epoch": best["epoch"], **without_prefix(best, groups)}


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


def measure_group_mass(job: Job, run: Run) -> dict[str, Any]:
    """Fig. 3: the teacher's group probabilities, summed over batches of the full training set and of its own."""
    folder = job.teacher_folder(run["teacher"])
    device = job.training_arguments(run["teacher"], folder).device
    teacher = load_classifier(str(folder)).to(device)
    long_tailed = job.data(run["imbalance_factor"])
    how = {"batch_size": run["batch_size"], "max_batches": run["batches"], "seed": run["seed"]}
    sums: dict[str, dict[str, Any]] = {}
    for temperature in run["temperatures"]:
        sums[f"temperature {temperature:g}"] = values = {}
        for name, images in {"balanced": job.data(1.0).train, "long_tailed": long_tailed.train}.items():
            mass = teacher_group_mass(teacher, images, long_tailed.groups, temperature=temperature, **how)
            values[name] = mass.double().numpy().round(4).tolist()
    return {"group_mass": sums, **place(device)}


def place(device: torch.device) -> dict[str, Any]:
    """Where a run was made, and with what."""
    return {
        "device": describe_machine(device.type),
        "threads": torch.get_num_threads(),
        "versions": {module.__name__: module.__version__ for module in (hf_ltkd, transformers, torch)},
    }
