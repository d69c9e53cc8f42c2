"""What all runs of a command have in common: folders, training arguments, images, and the lines of the results."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, DatasetDict
from experiment import OWN_DATA_KEYS, Experiment
from filelock import FileLock
from plan import Run, digest

from hf_ltkd import DistillationTrainingArguments
from hf_ltkd.data import DataArguments, ImageData, load_image_data
from hf_ltkd.data.holdout import Holdout, hold_out, load_or_hold_out
from hf_ltkd.data.sources import load_splits
from hf_ltkd.utils import replacing
from hf_ltkd.workflow.inputs import load_processor
from hf_ltkd.workflow.recommend import normalisation


@dataclass
class Job:
    experiment: Experiment
    overrides: dict[str, Any]  # of its training arguments, that make another protocol of it
    neutral: dict[str, Any]  # training arguments that change the speed alone
    data_dir: str | None
    data_device: str | None
    folder: Path  # for results, teachers and what is unfinished
    loaded: dict[tuple, tuple[ImageData, Holdout | None]] = field(default_factory=dict)

    @property
    def running(self) -> dict[str, Any]:
        return {**self.experiment.running, **self.neutral}

    @property
    def results(self) -> Path:
        return self.folder / "results.jsonl"

    def finished(self) -> set[str]:
        return {digest(line["run"]) for line in read_json_lines(self.results)}

    def run_folder(self, run: Run) -> Path:
        """Of a teacher, which stays; of anything else until it is finished."""
        if run["role"] in ("teacher", "given"):
            name = f"{Path(run['model']).name}_{run['imbalance_factor']:g}_{digest(run)}"
            return self.folder / "teachers" / name
        return self.folder / "unfinished" / digest(run)

    def training_arguments(self, run: Run, **more: Any) -> DistillationTrainingArguments:
        values: dict[str, Any] = {
            "report_to": "none",
            "disable_tqdm": not sys.stderr.isatty(),
            "logging_strategy": "no",
            "save_strategy": "steps",
            "save_steps": 0.1,  # of the training
            "save_total_limit": 1,
            "dataloader_pin_memory": torch.cuda.is_available() and not self.images_on_gpu,
        }
        values |= {**self.running, **run["training"], **more}
        return DistillationTrainingArguments(output_dir=str(self.run_folder(run)), seed=run["seed"], **values)

    @property
    def images_on_gpu(self) -> bool:
        if self.data_device is not None:
            return self.data_device != "cpu"
        small = self.experiment.data.get("benchmark") != "imagenet_lt"
        return torch.cuda.is_available() and small and not self.running.get("use_cpu")

    def data_arguments(self, imbalance_factor: float) -> DataArguments:
        device = self.data_device or ("cuda" if self.images_on_gpu else "cpu")
        values = {name: value for name, value in self.experiment.data.items() if name not in OWN_DATA_KEYS}
        return DataArguments(**values, imbalance_factor=imbalance_factor, data_dir=self.data_dir, data_device=device)

    def load(self, imbalance_factor: float, pixels_of: str | None = None) -> tuple[ImageData, Holdout | None]:
        """
        The images, loaded once. One seed for all: the cached logits belong to these crops of each epoch.

        Args:
            imbalance_factor (`float`): `gamma` of Eq. 15.
            pixels_of (`str`, *optional*): Folder or Hub id of a trained teacher, whose normalisation is taken.
        """
        key = imbalance_factor, pixels_of
        if key in self.loaded:
            return self.loaded[key]
        args, own = self.data_arguments(imbalance_factor), self.experiment.data
        fraction, holdout, splits = own.get("eval_fraction", 0.2), None, None
        options: dict[str, Any] = {"seed": 0, "progress": sys.stderr.isatty()}
        if pixels_of is not None:
            options |= normalisation(load_processor(pixels_of))
        if "class_order_seed" in own:
            splits = shuffle_classes(load_splits(args), args.label_column, own["class_order_seed"])
        if own.get("evaluate_on") == "validation":
            train = (splits or load_splits(args))["train"]
            how = {"label_column": args.label_column, "eval_fraction": fraction, "seed": args.split_seed}
            train, held_out, holdout = hold_out(train, **how)
            args.eval_split, splits = "held_out", DatasetDict({"train": train, "held_out": held_out})
        if splits is None:
            self.loaded[key] = load_or_hold_out(args, eval_fraction=fraction, **options)
        else:
            self.loaded[key] = load_image_data(args, splits=splits, **options), holdout
        return self.loaded[key]

    def data_of(self, run: Run) -> ImageData:
        return self.load(run["imbalance_factor"], run.get("pixels_of"))[0]


def shuffle_classes(splits: DatasetDict, column: str, seed: int) -> DatasetDict:
    """The same images with their classes numbered in another order, so that others are the head (Eq. 15)."""
    names = splits["train"].features[column].names
    order = np.random.default_rng(seed).permutation(len(names))  # the old class of each new one
    new_of_old, feature = np.argsort(order), ClassLabel(names=[names[old] for old in order])
    shuffled = DatasetDict()
    for name, split in splits.items():
        labels = new_of_old[np.array(split[column])]
        shuffled[name] = split.remove_columns(column).add_column(column, labels).cast_column(column, feature)
    return shuffled


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def append(path: Path, lines: list[dict[str, Any]]) -> None:
    """Adds lines to a file, whole or not at all, and beside those of other processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"), replacing(path) as file:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        file.write_text(before + "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
