"""What a training leaves in its folder, and what came out of it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ..analysis.bias import GroupReport, teacher_group_mass
from ..analysis.plots import plot_teacher_bias
from ..analysis.scene_plots import plot_scenes
from ..data.arguments import PRESETS
from ..data.images import ImageData
from ..groups import ClassGroups
from ..hub.names import COMPARISON_NAME
from ..losses.checks import logits_of
from ..metrics.answers import Answers, is_settled
from ..trainer.trainer import DistillationTrainer
from ..utils import load_json, placed_for, write_json
from .adapters import merge_adapters
from .adjust import adjusted
from .arguments import SEGMENTATION
from .images import Images
from .plan import BALANCED, PLAIN, DistillPlan, TrainingPlan
from .recommend import is_skewed
from .report import write_report
from .scenes import PIXEL_BATCH, Scenes
from .tune import Tuning


Scores = tuple[dict[str, float | None], Any]  # accuracies, and Answers or PixelAnswers
# How to make each student without a teacher.
INSTEAD = {
    PLAIN: "hf-ltkd train-teacher --model STUDENT --ce cross_entropy",
    f"adjusted {PLAIN}": "hf-ltkd train-teacher --model STUDENT --ce cross_entropy, then hf-ltkd adjust",
    BALANCED: "hf-ltkd train-teacher --model STUDENT --ce balanced_softmax",
}
EXAMPLES = 4  # images in a picture of scenes


@dataclass(kw_only=True)
class Comparison:
    """
    A student beside its teacher, and beside what one would do without one: the same student trained by cross-entropy,
    by a balanced softmax, and teacher and plain student with the class prior taken out of their logits (adjusted).

    Attributes:
        dataset (`str`): Its Hub id, or what a local folder is called.
        dataset_split (`str`): What was evaluated on.
        teacher_name (`str`, *optional*): The teacher's Hub id.
        teacher_probability (`dict[str, float]`, *optional*): What each group gets of the teacher's probability.
        accuracy (`dict[str, dict[str, float]]`): By model (`"teacher"`, `"adjusted teacher"`, `"plain student"`,
            `"adjusted plain student"`, `"balanced softmax student"`, `"this student"`) the fractions `accuracy` and
            `{group}_accuracy`, `None` for a group without an image. The adjusted and the balanced ones are there
            where the training counts are skewed.
        scores (`dict`): By model the scores of [`group_accuracy`] beside these: `macro_f1`, `balanced_accuracy`, ...;
            where each pixel has a class, `mean_iou` and `{group}_iou`, by which models are then compared.
        intervals (`dict`): By model the 95 % interval of each accuracy, of balanced accuracy and of macro-F1,
            `[low, high]`.
        differences (`dict`): By other model how far this student's accuracies are above its own, on the same images:
            `[difference, low, high]` with the 95 % interval.
        seeds (`dict`, *optional*): Where several students of each kind were trained, so that `accuracy` has their
            means and `differences` holds for these: the seed that is `kept`, what it was `chosen_by` and the value of
            each seed in that (`validation`); by model `accuracy`, that of each seed, and `deviation`, the sample one.
        caution (`str`, *optional*): That this model (the student) may know nothing, where its accuracy is at chance.
        tuning ([`Tuning`], *optional*): What `--tune` tried and chose; not a part of the file, but of `tuning.json`.
        classes (`list[dict]`): This student's precision, recall, F1 and support by class, of pixels IoU, accuracy,
            precision and support; not a part of the file, but of `class_report.json`.
        output_dir (`Path`): Where the student is; not a part of the file.
        pushed (`str`, *optional*): The address of the commit on the Hub; not a part of the file.
    """

    dataset: str
    dataset_split: str
    teacher_name: str | None = None
    teacher_probability: dict[str, float] | None = None
    accuracy: dict[str, dict[str, float | None]]
    scores: dict[str, dict[str, float | None]] = field(default_factory=dict)
    intervals: dict[str, dict[str, list[float] | None]] = field(default_factory=dict)
    differences: dict[str, dict[str, list[float] | None]] = field(default_factory=dict)
    caution: str | None = None
    seeds: dict[str, Any] | None = None
    tuning: Tuning | None = None
    classes: list[dict[str, Any]] = field(default_factory=list)
    output_dir: Path
    pushed: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """What `comparison.json` holds."""
        names = [f.name for f in fields(self) if f.name not in ("tuning", "classes", "output_dir", "pushed")]
        return {name: getattr(self, name) for name in names}

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Writes `comparison.json` into `directory`, atomically."""
        write_json(Path(directory) / COMPARISON_NAME, self.to_dict())

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> "Comparison":
        """
        Reads `comparison.json` back.

        Raises:
            `FileNotFoundError`: if `directory` has none.
            `ValueError`: if it is damaged.
        """
        return load_json(Path(directory) / COMPARISON_NAME, partial(cls, output_dir=Path(directory)))

    def card_arguments(self) -> dict[str, Any]:
        """What it tells [`write_model_card`]."""
        metrics = {name: {**accuracy, **self.scores.get(name, {})} for name, accuracy in self.accuracy.items()}
        return {
            "dataset": self.dataset,
            "dataset_split": self.dataset_split,
            "teacher_name": self.teacher_name,
            "teacher_metrics": metrics.pop("teacher", None),
            "plain_student_metrics": metrics.pop("plain student", None),
            "other_metrics": {name: values for name, values in metrics.items() if name != "this student"},
            "verdict": " ".join(filter(None, (self.caution, self.verdict()))) or None,
            "differences": self.differences,
            "seeds": self.seeds and {**self.seeds, "mean": metrics["this student"]},
        }

    def better_without_teacher(self) -> str | None:
        """
        The student without a teacher to use instead, if one is better than this one both over all images and in the
        mean over the groups: less for the head and more for the tail, alone, is what the method is for.
        """
        if "this student" not in self.accuracy:
            return None
        others = [name for name in self.accuracy if name not in ("teacher", "adjusted teacher", "this student")]
        ours = self._means("this student")
        better = [name for name in others if all(a > b for a, b in zip(self._means(name), ours, strict=True))]
        return max(better, key=lambda name: self._means(name)[1], default=None)

    @property
    def of_pixels(self) -> bool:
        """Whether it is pixels that have classes, so that the IoU is what counts."""
        return "mean_iou" in self.scores.get("this student", {})

    def _means(self, model: str) -> tuple[float, float]:
        """The accuracy over all images, or mean IoU, and the mean of those groups that have one."""
        table, over_all = self.accuracy[model], "accuracy"
        if self.of_pixels:
            table, over_all = {n: v for n, v in self.scores[model].items() if n.endswith("_iou")}, "mean_iou"
        values = {name: value for name, value in table.items() if value is not None}
        of_groups = [value for name, value in values.items() if name != over_all] or [0.0]
        return values.get(over_all, 0.0), sum(of_groups) / len(of_groups)

    def verdict(self) -> str | None:
        """In one sentence what to use instead of this student, where one without a teacher is better; else `None`."""
        better = self.better_without_teacher()
        if better is None:
            return None
        over_all = "mean_iou" if self.of_pixels else "accuracy"
        settled = better not in self.differences or is_settled(self.differences[better][over_all])
        few = "images and seeds" if self.seeds else "images"
        unsettled = "" if settled else f", which so few {few} do not settle"
        (now, groups), (instead, their_groups) = self._means("this student"), self._means(better)
        what = "Distilling did not pay" if "teacher" in self.accuracy else "Another student does better"
        told, ours, how = f"is right about {instead:.1%} of the images", f"about {now:.1%}", INSTEAD[better]
        if self.of_pixels:
            told, ours = f"has a mean IoU of {instead:.1%}", f"of {now:.1%}"
            how = how.replace("train-teacher", f"train-teacher --task {SEGMENTATION}")
        return (
            f"{what}: the {better}, without a teacher, {told} and {their_groups:.1%} in the mean over the groups, "
            f"this student {ours} and {groups:.1%}{unsettled}. Use that one: {how}."
        )

    def check_is_better(self) -> None:
        """
        Raises:
            `ValueError`: if a student without a teacher is better, as in [`~Comparison.better_without_teacher`].
        """
        verdict = self.verdict()
        if verdict is not None:
            raise ValueError(
                f"The student in {str(self.output_dir)!r} is not pushed. {verdict} Or try other weights (hf-ltkd "
                "diagnose), or push it all the same with --push_anyway."
            )


def train_and_save(trainer: DistillationTrainer, plan: TrainingPlan) -> Scores:
    """Trains, writes the model, its split, its metrics and its report, and returns its accuracies and its answers."""
    result = trainer.train(resume_from_checkpoint=plan.args.resume_from_checkpoint)
    merge_adapters(trainer)
    trainer.save_model()  # first of all
    if trainer.is_world_process_zero():
        plan.images.save_pretrained(plan.output_dir)
    trainer.save_metrics("train", result.metrics)
    accuracy, answers = evaluate_trained(trainer, plan.images, save=True)
    if trainer.is_world_process_zero():
        write_report(plan.output_dir, answers, plan.images)
    return accuracy, answers


def train_without_teacher(plan: DistillPlan, name: str, student: PreTrainedModel) -> dict[str, Scores]:
    """The scores of the same student without a teacher, of a plain one adjusted too; nothing is written."""
    nothing: Any = {"save_strategy": "no", "push_to_hub": False, "load_best_model_at_end": False}
    nothing["early_stopping_patience"] = None  # it has no best checkpoint to go back to
    trainer = plan.trainer(student, plan.without_teacher[name], **nothing)
    trainer.train()
    found, counts = {name: evaluate_trained(trainer, plan.images)}, plan.images.class_counts
    if name == PLAIN and is_skewed(counts):
        with adjusted(trainer.model, counts):  # type: ignore[arg-type]
            found[f"adjusted {name}"] = evaluate_trained(trainer, plan.images)
    return found


def evaluate_trained(trainer: DistillationTrainer, images: Images, save: bool = False) -> Scores:
    """The accuracies and the answers of a network as it is in its trainer now."""
    metrics = trainer.evaluate(images.data.test)
    if save:
        trainer.save_metrics("eval", metrics)
    evaluation: Any = trainer.evaluation
    return accuracies(metrics, images.groups), evaluation["answers"]


def accuracies(metrics: Mapping[str, float], groups: ClassGroups) -> dict[str, float | None]:
    """Those of a Trainer's metrics; `None` for a group without a test image."""
    return {
        name: metrics.get(f"eval_{name}") for name in ("accuracy", *(f"{group}_accuracy" for group in groups.names))
    }


def accuracies_of(answers: Answers, groups: ClassGroups) -> dict[str, float | None]:
    """The same of answers."""
    return accuracies({f"eval_{name}": value for name, value in answers.scores(groups).items()}, groups)  # type: ignore


def draw_bias(
    teacher: nn.Module,
    images: Images,
    path: str | os.PathLike,
    loss_shares: dict[str, list[float]] | None = None,
    report: GroupReport | None = None,
) -> None:
    """
    Fig. 3 from up to 30 batches (of pixels 10) of evaluation and of training images, and where the losses go. Where
    each pixel has a class, `report` has what is drawn beside it.
    """
    data: Any = images.data
    if isinstance(images, Scenes):
        parts, how = (data.test, data.train), {"batch_size": PIXEL_BATCH, "max_batches": 10}
    else:
        parts, how, report = (data.test, data.train.labelled()), {"max_batches": 30}, None
    evaluation, training = (teacher_group_mass(teacher, part, images.groups, **how) for part in parts)
    plot_teacher_bias(evaluation, training, images.groups, path, loss_shares=loss_shares, of_pixels=report)


@torch.no_grad()
def draw_scenes(
    scenes: Scenes, networks: Mapping[str, nn.Module], path: str | os.PathLike, gain: np.ndarray | None = None
) -> None:
    """
    Images to evaluate on, their masks, and what networks see in them.

    Args:
        scenes ([`Scenes`]): The images.
        networks (`Mapping`): By what they are called; what is called `teacher` sees its own pixels.
        path (`str` or `os.PathLike`): Where the picture goes.
        gain (`np.ndarray` of shape `[images]`, *optional*): How many more pixels of the tail one network finds than
            another: half of the images are those with the most.
    """
    data, tail = scenes.data.test, scenes.groups.names[-1]
    gain = np.zeros(len(data), int) if gain is None else gain
    best = [i for i in np.argsort(-gain, kind="stable")[: EXAMPLES // 2].tolist() if gain[i] > 0]
    spread = [i for i in np.linspace(0, len(data) - 1, EXAMPLES).round().astype(int).tolist() if i not in best]
    notes = {i: f"+{gain[i]:,} pixels of the {tail}" for i in best}
    notes |= dict.fromkeys(spread[: EXAMPLES - len(best)], "")
    rows = []
    for index in notes:
        (image, mask), item = data.example(index), data[index]
        row = {"image": np.asarray(image.convert("RGB")), "truth": np.where(mask == data.ignore_index, -1, mask)}
        for name, network in networks.items():
            own = item.get("teacher_pixel_values") if name == "teacher" else None
            pixels = placed_for(network, {"pixel_values": (item["pixel_values"] if own is None else own)[None]})
            logits = logits_of(network.eval()(**pixels)).float()
            logits = nn.functional.interpolate(logits, mask.shape, mode="bilinear", align_corners=False)
            row[name] = logits[0].argmax(0).cpu().numpy()
        rows.append(row)
    plot_scenes(rows, scenes.groups, scenes.data.class_names, path, notes=[*notes.values()])


def name_dataset(data: ImageData) -> str:
    """The Hub id, or the name of a local folder, worded so that nobody looks for it on the Hub."""
    preset = PRESETS[data.args.benchmark].dataset_name
    return data.args.dataset_name or preset or f"{Path(data.args.data_dir or '').absolute().name} (local folder)"
