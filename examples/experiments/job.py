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
from own_data import load_digits_splits, load_texts
from plan import Run, digest

from hf_ltkd import DistillationTrainingArguments
from hf_ltkd.data import DataArguments
from hf_ltkd.data.sources import load_splits
from hf_ltkd.utils import replacing
from hf_ltkd.workflow.arguments import SourceArguments
from hf_ltkd.workflow.inputs import Images, is_pretrained, load_images


@dataclass
class Job:
    experiment: Experiment
    overrides: dict[str, Any]  # of its training arguments, that make another protocol of it
    neutral: dict[str, Any]  # training arguments that change the speed alone
    data_dir: str | None
    data_device: str | None
    folder: Path  # for results, teachers and what is unfinished
    loaded: dict[tuple, Images] = field(default_factory=dict)

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
            **{"report_to": "none", "logging_strategy": "no", "disable_tqdm": not sys.stderr.isatty()},
            **{"save_strategy": "steps", "save_steps": 0.1, "save_total_limit": 1},  # a tenth of the training
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

    @property
    def data_fields(self) -> dict[str, Any]:
        """Those of `DataArguments` but the imbalance factor."""
        device = self.data_device or ("cuda" if self.images_on_gpu else "cpu")
        values = {name: value for name, value in self.experiment.data.items() if name not in OWN_DATA_KEYS}
        return values | ({} if self.data_dir is None else {"data_dir": self.data_dir}) | {"data_device": device}

    def images(self, run: Run, imbalance_factor: float | None = None) -> Images:
        """
        What the networks of a run see, loaded once. One draw for a teacher and all that it teaches: its cached logits
        belong to these crops of each epoch.

        Args:
            run (`dict`): With `imbalance_factor`; `draw`; and `pixels_of` where a trained teacher is given.
            imbalance_factor (`float`, *optional*): Instead of the run's.
        """
        factor, model, draw = imbalance_factor or run["imbalance_factor"], run.get("model", ""), run.get("draw", 0)
        student = model if is_pretrained(model) else None
        key = factor, run.get("pixels_of"), student, draw
        if key not in self.loaded:
            own, fields, splits = self.experiment.data, {**self.data_fields, "imbalance_factor": factor}, None
            fields["split_seed"] = own.get("split_seed", 0) + draw
            if "text_column" in own:
                held_out = own.get("eval_fraction", 0.2) if own.get("evaluate_on") == "validation" else None
                self.loaded[key] = load_texts(DataArguments(**fields), own["text_column"], held_out)
                return self.loaded[key]
            is_digits = own.get("dataset_name") == "digits"
            if "class_order_seed" in own or own.get("evaluate_on") == "validation" or is_digits:
                args = DataArguments(**fields)
                splits = load_digits_splits() if is_digits else load_splits(args)
                if "class_order_seed" in own:
                    splits = shuffle_classes(splits, args.label_column, own["class_order_seed"])
                if own.get("evaluate_on") == "validation":
                    splits = DatasetDict(train=splits["train"])  # alone, a part of it is held out
                fields.pop("data_dir", None)
            source: Any = SourceArguments(data=splits, eval_fraction=own.get("eval_fraction", 0.2))  # type: ignore
            self.loaded[key] = load_images(source, fields, run.get("pixels_of"), student=student, seed=draw)
        return self.loaded[key]


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
    lines = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else [], start=1):
        try:
            lines.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"Line {number} of {str(path)!r} is damaged ({error}): remove it, and run.py makes its run again."
            ) from error
    return lines


def append(path: Path, lines: list[dict[str, Any]]) -> None:
    """Adds lines to a file, whole or not at all, and beside those of other processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"), replacing(path) as file:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        file.write_text(before + "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
