"""Loss weights and temperature chosen on validation images, by short trainings from the teacher's cached logits."""

import copy
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PrinterCallback

from ..analysis.plots import plot_tuning
from ..groups import ClassGroups
from ..hub.names import TUNING_NAME, TUNING_PICTURE
from ..losses import DistillationLoss
from ..teacher.cache import TeacherCache
from ..teacher.live import teacher_fingerprint
from ..trainer.trainer import DistillationTrainer
from ..trainer.training_args import public_arguments
from ..utils import load_json, write_json
from .estimate import Estimate
from .plan import DistillPlan


PART = 4  # a trial trains for the fourth part of the training
EVALUATIONS = 8  # of a trial, evenly apart
REDUCTION = 3  # of the trials that come to the first and to the third evaluation, this part goes on
STORAGE_NAME = "tuning.log"  # what Optuna remembers
# It is what a student without a teacher has to be better in, too; and head, medium and tail count alike in it, however
# many images each of them has.
OBJECTIVE = "validation accuracy in the mean over the groups"
# A trial leaves nothing behind, and is compared by its evaluations.
TRIAL: dict[str, Any] = {
    "disable_tqdm": True,
    "logging_strategy": "no",
    "report_to": "none",
    "save_strategy": "no",
    "eval_strategy": "steps",
    "eval_delay": 0,
    "eval_on_start": False,
    "load_best_model_at_end": False,
    "early_stopping_patience": None,
    "push_to_hub": False,
}


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """
    What `tuning.json` holds: a search, and what it chose.

    Attributes:
        loss (`str`): The loss's class.
        objective (`str`): What is as high as possible.
        images (`int`), standard_error (`float`): Validation images, and the most that one standard error of the
            objective can be, as a fraction.
        steps (`int`): Optimizer steps of a whole trial.
        space (`dict[str, list[float]]`): By argument the ends between which it is chosen.
        start, chosen (`dict[str, float]`): What the first trial had, and the best.
        trials (`list[dict]`): Of each trial its `number`, `arguments`, `state` (`"complete"`, `"stopped early"` or
            `"diverged"`), `value` (the last of its objective), `curve` (`[step, objective]` of each evaluation) and
            `seconds`.
    """

    loss: str
    objective: str
    images: int
    standard_error: float
    steps: int
    space: dict[str, list[float]]
    start: dict[str, float]
    chosen: dict[str, float]
    trials: list[dict[str, Any]]

    @property
    def best(self) -> dict[str, Any]:
        """The trial whose arguments were chosen: the best of the complete ones, the first of equals."""
        return max((t for t in self.trials if t["state"] == "complete"), key=lambda t: t["value"])

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Writes `tuning.json` and `tuning.png` into `directory`, each atomically."""
        write_json(Path(directory) / TUNING_NAME, asdict(self))
        plot_tuning(self.trials, self.space, self.best["number"], Path(directory) / TUNING_PICTURE)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> "Tuning":
        """
        Reads `tuning.json` back.

        Raises:
            `FileNotFoundError`: if `directory` has none.
            `ValueError`: if it is damaged.
        """
        return load_json(Path(directory) / TUNING_NAME, cls)


def mean_over_groups(metrics: Mapping[str, float], groups: ClassGroups) -> float:
    """[`OBJECTIVE`] of a Trainer's metrics, of those groups that have an image to evaluate on."""
    values = [metrics[f"eval_{name}_accuracy"] for name in groups.names if f"eval_{name}_accuracy" in metrics]
    return sum(values) / len(values)


def steps_of_training(plan: DistillPlan) -> float:
    """Optimizer steps of the whole training."""
    batches = math.ceil(len(plan.images.data.train) / plan.args.train_batch_size)
    return plan.epochs * batches / plan.args.gradient_accumulation_steps


def steps_of_trial(plan: DistillPlan) -> int:
    """Optimizer steps of a whole trial."""
    return EVALUATIONS * max(1, round(steps_of_training(plan) / (PART * EVALUATIONS)))


def seconds_of_tuning(plan: DistillPlan, times: Estimate) -> tuple[float, float]:
    """
    The least and the most that the trials take: where of three trials one goes on each time, and where all do. To
    evaluate an image counts as a third of training on it, which is a forward and a backward pass.
    """
    args, validation = plan.args, plan.validation
    trained = steps_of_trial(plan) * args.gradient_accumulation_steps
    evaluated = EVALUATIONS * len(validation or ()) / args.train_batch_size / 3
    most = (plan.choices.tune or 0) * (trained + evaluated) * times.training(with_teacher=False) / times.batches
    first, second = 1 / EVALUATIONS, REDUCTION / EVALUATIONS
    return most * (first + (second - first) / REDUCTION + (1 - second) / REDUCTION**2), most


def fingerprint(plan: DistillPlan, teacher: Any, **more: Any) -> str:
    """Names what a training comes from: with the same one it need not be done again."""
    data, weights = plan.images.data, None if plan.teacher is None else teacher_fingerprint(plan.teacher)
    described = {
        "student": plan.name,
        "loss": [type(plan.loss).__name__, plan.loss.hyper_parameters()],
        "images": [part.fingerprint for part in (data.train, data.validation, data.test) if part is not None],
        "teacher": teacher.manifest["teacher"] if isinstance(teacher, TeacherCache) else weights,
        "args": public_arguments(plan.args),
        **more,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:16]


def tune(plan: DistillPlan, teacher: TeacherCache) -> Tuning:
    """
    Trains for a part of the training with other arguments of the loss each time, and chooses those that do best on the
    validation images. Trials that fall behind are stopped (successive halving). What an interrupted search has done is
    not done again; more trials than before go on from there.

    Args:
        plan ([`DistillPlan`]): The training, with its `space` and what is tried first.
        teacher ([`TeacherCache`]): The teacher's logits for its training images.

    Raises:
        `ValueError`: if no trial came to its end.
    """
    import optuna  # here, because it is optional
    from optuna.storages.journal import JournalFileBackend

    groups, steps, wanted = plan.images.groups, steps_of_trial(plan), plan.choices.tune or 0
    start = {name: plan.loss.hyper_parameters()[name] for name in plan.space}
    space = {name: [min(low, start[name]), max(high, start[name])] for name, (low, high) in plan.space.items()}
    study_of: dict[str, Any] = {
        "study_name": fingerprint(plan, teacher, space=space, steps=steps),
        "storage": optuna.storages.JournalStorage(JournalFileBackend(str(plan.output_dir / STORAGE_NAME))),
        "load_if_exists": True,
    }
    study = optuna.create_study(direction="maximize", **study_of)
    if not study.trials:
        study.enqueue_trial(start)
    _try_again(study)
    left = wanted - sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.trials)
    if left > 0:
        changes = {**TRIAL, "max_steps": steps, "eval_steps": steps // EVALUATIONS}
        part = steps / steps_of_training(plan)  # what counts epochs or steps gets shorter, too
        if plan.args.warmup_steps >= 1:
            changes["warmup_steps"] = int(part * plan.args.warmup_steps)
        of_loss = plan.loss.hyper_parameters()
        times = {n: part * of_loss[n] for n in ("warmup_epochs", "drw_epoch") if of_loss[n] is not None}
        trainer: Any = plan.trainer(copy.deepcopy(plan.network), plan.loss, teacher, TrialTrainer, **changes)
        trainer.remove_callback(PrinterCallback)

        def model_init(trial: Any) -> Any:
            tried = {name: trial.suggest_float(name, *ends, log=True) for name, ends in space.items()}
            trainer.distillation_loss = with_arguments(plan, **tried, **times).to(plan.args.device)
            trainer.distillation_loss.smooth_labels(plan.args.label_smoothing_factor)
            return copy.deepcopy(plan.network)

        trainer.model_init = model_init
        try:
            trainer.hyperparameter_search(
                hp_space=lambda trial: {},  # nothing of the training arguments
                compute_objective=partial(mean_over_groups, groups=groups),
                n_trials=left,
                direction="maximize",
                backend="optuna",
                # Not the first points once more where a search goes on.
                sampler=optuna.samplers.TPESampler(seed=plan.args.seed + len(study.trials)),
                pruner=optuna.pruners.SuccessiveHalvingPruner(steps // EVALUATIONS, REDUCTION),
                **study_of,
            )
        except ValueError as error:
            if any(trial.state.name == "COMPLETE" for trial in study.trials):
                raise
            reason = study.trials[0].user_attrs.get("diverged", "it was stopped")
            raise ValueError(
                f"None of the {len(study.trials)} short trainings of --tune came to its end (the first: {reason}): "
                "try a lower --learning_rate."
            ) from error
    tuning = _found(plan, study, space, start, steps)
    tuning.save_pretrained(plan.output_dir)
    return tuning


def with_arguments(plan: DistillPlan, **arguments: float) -> DistillationLoss:
    """The plan's loss with other values of some arguments."""
    return type(plan.loss).from_groups(plan.images.groups, **{**plan.loss.hyper_parameters(), **arguments})


class TrialTrainer(DistillationTrainer):
    """A trial whose loss is not finite ends, and the search goes on."""

    def train(self, *args, trial: Any = None, **kwargs):
        from optuna import TrialPruned

        try:
            return super().train(*args, trial=trial, **kwargs)
        except FloatingPointError as error:
            trial.set_user_attr("diverged", str(error))
            raise TrialPruned from error


def _try_again(study: Any) -> None:
    """Queues once more what was interrupted: it has failed, or its process was killed."""
    from optuna.trial import TrialState

    known = {trial.user_attrs.get("instead_of") for trial in study.trials}
    for trial in study.trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        if trial.state in (TrialState.RUNNING, TrialState.FAIL) and trial.number not in known:
            study.enqueue_trial(trial.params, user_attrs={"instead_of": trial.number})


def _found(
    plan: DistillPlan, study: Any, space: dict[str, list[float]], start: dict[str, float], steps: int
) -> Tuning:
    """The trials that came to an end of their own, numbered anew, and the best of them."""
    groups, validation = plan.images.groups, plan.validation
    trials: list[dict[str, Any]] = []
    for trial in study.trials:
        if trial.state.name not in ("COMPLETE", "PRUNED"):
            continue
        state = "complete" if trial.state.name == "COMPLETE" else "stopped early"
        curve = sorted(trial.intermediate_values.items())
        trials.append(
            {
                "number": len(trials),
                "arguments": trial.params,
                "state": "diverged" if "diverged" in trial.user_attrs else state,
                "value": curve[-1][1] if curve else None,
                "curve": [[*point] for point in curve],
                "seconds": trial.duration.total_seconds(),
            }
        )
    labels = validation.labels  # type: ignore[union-attr]  # a plan that tunes has validation images
    of_group = groups.group_of_class[labels].bincount(minlength=groups.num_groups)
    of_group = of_group[of_group > 0].double()
    tuning = Tuning(
        loss=type(plan.loss).__name__,
        objective=OBJECTIVE,
        images=len(labels),
        standard_error=float((0.25 / of_group).sum().sqrt()) / len(of_group),
        steps=steps,
        space=space,
        start=start,
        chosen={},
        trials=trials,
    )
    return replace(tuning, chosen=tuning.best["arguments"])
