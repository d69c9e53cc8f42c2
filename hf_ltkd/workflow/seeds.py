"""Several students with a seed each: what they do on average, and which of them is kept."""

import copy
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, set_seed

from ..analysis.plots import sample_deviation
from ..groups import ClassGroups
from ..hub.names import RUN_NAME
from ..metrics.answers import LEVEL, Answers
from ..teacher.cache import TeacherCache
from ..trainer.checkpoints import last_complete_checkpoint
from ..utils import read_json, write_json
from .inputs import new_classifier
from .outputs import Scores, accuracies_of, train_and_save, train_without_teacher
from .plan import DistillPlan
from .tune import OBJECTIVE, fingerprint, mean_over_groups


logger = logging.getLogger(__name__)
SEED_RESULTS = "seed_results.json"  # beside the student of a seed, with the answers of those without a teacher, too
OURS = "this student"


@dataclass(frozen=True)
class Students:
    """
    What was trained with each seed.

    Attributes:
        validation (`dict[int, float]`): By seed how good this student is on the validation images ([`OBJECTIVE`]).
        scores (`dict[str, dict[int, Scores]]`): By model and seed the accuracies and answers on the test images.
    """

    validation: dict[int, float]
    scores: dict[str, dict[int | None, Scores]]

    @property
    def kept(self) -> int:
        """The seed whose student is best on the validation images, the first of equals."""
        return max(self.validation, key=lambda seed: self.validation[seed])

    def describe(self) -> dict[str, Any]:
        """What `comparison.json` holds of them, under `seeds`."""
        accuracy = {
            model: {str(seed): scores[0] for seed, scores in by_seed.items()} for model, by_seed in self.scores.items()
        }
        return {
            "kept": self.kept,
            "chosen_by": OBJECTIVE,
            "validation": {str(seed): value for seed, value in self.validation.items()},
            "accuracy": accuracy,
            "deviation": {model: _deviations(scores) for model, scores in self.scores.items()},
        }


def train_seeds(plan: DistillPlan, teacher: Any) -> Students:
    """
    Trains a student a seed, and those without a teacher beside it, each in a folder `seed-<number>`; then the files of
    the one that is best on the validation images go into the plan's folder. What is there already is not trained
    again, and what was interrupted goes on.

    A seed decides on initial weights, on the order of the images and, where the teacher's answers are not cached, on
    their augmentation.

    Args:
        plan ([`DistillPlan`]): The training, with the first seed.
        teacher (`PreTrainedModel` or [`TeacherCache`], *optional*): The teacher.

    Raises:
        `ValueError`: if the folder of a seed holds the student of another training.
    """
    students = Students({}, {})
    for seed in range(plan.args.seed, plan.args.seed + (plan.choices.seeds or 0)):
        found = _train_seed(plan, seed, teacher)
        students.validation[seed] = found[OURS]["validation"]
        for model, given in found.items():
            answers = Answers(**{f.name: np.array(given[f.name]) for f in fields(Answers) if f.name in given})
            students.scores.setdefault(model, {})[seed] = accuracies_of(answers, plan.images.groups), answers
    if plan.args.process_index == 0:
        _keep(_folder(plan, students.kept), plan.output_dir)
    return students


def _train_seed(plan: DistillPlan, seed: int, teacher: Any) -> dict[str, dict[str, Any]]:
    """By model its [`Answers`] to the test images as lists, of this student the `validation` accuracy, too."""
    one = _plan_of(plan, seed, teacher)
    path, of = one.output_dir / SEED_RESULTS, fingerprint(one, teacher)
    done = read_json(path) or {"of": of, "models": {}}
    if done["of"] != of:
        raise ValueError(
            f"{str(one.output_dir)!r} holds the student of another training: choose another --output_dir, or remove "
            "that folder."
        )

    def note(found: Mapping[str, Scores], **more: float) -> None:
        for model, (_, answers) in found.items():
            given = {name: values.tolist() for name, values in vars(answers).items() if values is not None}
            done["models"][model] = {**more, **given}
        if plan.args.process_index == 0:
            write_json(path, done)

    start = _student(plan, seed)
    if OURS not in done["models"]:
        trainer = one.trainer(copy.deepcopy(start), copy.deepcopy(plan.loss), teacher)
        scores = train_and_save(trainer, one)
        if trainer.is_world_process_zero():
            write_json(one.output_dir / RUN_NAME, trainer.run_description)  # with its accuracy on test images
        note({OURS: scores}, validation=mean_over_groups(trainer.evaluate(), plan.images.groups))
    for name in plan.without_teacher:
        try:
            if name not in done["models"]:
                note(train_without_teacher(one, name, copy.deepcopy(start)))
        except FloatingPointError as error:
            if plan.args.world_size > 1:
                raise  # the other processes wait for this one in a step that it has left
            logger.warning("The %s of seed %d is left out of the comparison: %s", name, seed, error)
    return done["models"]


def _folder(plan: DistillPlan, seed: int) -> Path:
    return plan.output_dir / f"seed-{seed}"


def _student(plan: DistillPlan, seed: int) -> PreTrainedModel:
    """With the initial weights of a seed; one that is in memory has its own."""
    student: Any = plan.choices.student
    if seed == plan.args.seed or isinstance(student, PreTrainedModel):
        return copy.deepcopy(plan.network)
    set_seed(seed)
    return new_classifier(student, plan.images.data, plan.trust_remote_code)


def _plan_of(plan: DistillPlan, seed: int, teacher: Any) -> DistillPlan:
    """The training of one seed, from its last checkpoint if there is one."""
    folder, images, checkpoint = _folder(plan, seed), plan.images, None
    if any(folder.glob("checkpoint-*")):
        checkpoint = last_complete_checkpoint(folder)
    args = replace(plan.args, seed=seed, output_dir=str(folder), resume_from_checkpoint=checkpoint, push_to_hub=False)
    if not isinstance(teacher, TeacherCache):
        train = copy.copy(images.data.train)
        train.seed = seed
        images = replace(images, data=replace(images.data, train=train))
    return replace(plan, args=args, images=images)


def _keep(source: Path, folder: Path) -> None:
    """The files of a student into the folder that all look for it in; what makes it a model comes last."""
    files = [path for path in source.iterdir() if path.is_file() and path.name != SEED_RESULTS]
    for path in sorted(files, key=lambda path: path.name == "config.json"):
        shutil.copy2(path, folder / path.name)


def differences(
    ours: Mapping[int | None, Scores], theirs: Mapping[int | None, Scores], groups: ClassGroups
) -> dict[str, list[float] | None]:
    """
    By how much the mean accuracies of several students are above those of another kind with the same seeds, or of one
    that has none: `[difference, low, high]`. The 95 % interval is the wider, on each side, of two: Student's t over
    the differences of the seeds, and the mean of what [`Answers.differences`] has of each seed for the images.
    Without seeds it is the latter.
    """
    from scipy.stats import sem
    from scipy.stats import t as student_t

    alone = next(iter(theirs.values())) if not {*theirs} & {*ours} else None
    pairs = [(ours[s][1], (alone or theirs[s])[1]) for s in ours if alone or s in theirs]
    of_seeds = [our.differences(their, groups) for our, their in pairs]
    found: dict[str, list[float] | None] = {}
    for metric in of_seeds[0]:
        if of_seeds[0][metric] is None:
            found[metric] = None
            continue
        values = np.array([d[metric] for d in of_seeds])  # [seeds, 3]
        mean, low, high = values.mean(0).tolist()
        margin = 0.0
        if len(values) > 1:
            margin = float(student_t.ppf((1 + LEVEL) / 2, len(values) - 1) * sem(values[:, 0]))
        found[metric] = [mean, max(-1.0, min(low, mean - margin)), min(1.0, max(high, mean + margin))]
    return found


def _by_metric(tables: Sequence[Mapping[str, float | None]]) -> dict[str, list[float]]:
    """The values of all seeds; none of a group without a test image."""
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: [t[name] for t in tables if t.get(name) is not None] for name in names}  # type: ignore[misc]


def mean_of(tables: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of each accuracy or score over the seeds, a table each; `None` where it is not measured."""
    return {name: sum(v) / len(v) if v else None for name, v in _by_metric(tables).items()}


def _deviations(scores: Mapping[int | None, Scores]) -> dict[str, float | None]:
    """The sample deviation of the accuracies over the seeds, where there are two or more."""
    tables = [accuracy for accuracy, _ in scores.values()]
    return {m: sample_deviation(v) if len(v) > 1 else None for m, v in _by_metric(tables).items()}
