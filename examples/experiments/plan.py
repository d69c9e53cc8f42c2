"""From an experiment to its runs. A run is a dict of all that its result depends on; equal ones are the same run."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from experiment import Experiment
from methods import check_keys, find_loss

from hf_ltkd.workflow.inputs import is_pretrained


Run = dict[str, Any]


@dataclass
class Cell:
    """A run and its place in a table; `method` starts with `"Teacher"` for a teacher, whose `student` is `None`."""

    method: str
    teacher: str | None
    student: str | None
    imbalance_factor: float | None
    seed: int
    run: Run

    @property
    def pair(self) -> str | None:
        return ":".join(filter(None, [self.teacher, self.student])) if self.student else None

    @property
    def place(self) -> tuple:
        return self.method, self.pair or self.teacher, self.imbalance_factor


def plan(
    experiment: Experiment,
    overrides: dict[str, Any] | None = None,
    *,
    pairs: list[str] | None = None,
    factors: list[float] | None = None,
    methods: list[str] | None = None,
    seeds: list[int] | None = None,
) -> list[Cell]:
    """
    The cells of an experiment in the order in which they are to be computed: teachers first, then seed by seed.

    Args:
        experiment ([`Experiment`]): From [`load_experiment`].
        overrides (`dict`, *optional*): Training arguments that win over the experiment's.
        pairs, factors, methods, seeds (`list`, *optional*): Instead of the experiment's.

    Raises:
        `ValueError`: if a pair is not of the form `teacher:student`, or the experiment has no such method.
    """
    check_keys(f"The methods of {experiment.name}", dict.fromkeys(methods or []), experiment.methods)
    overrides, chosen = overrides or {}, {name: experiment.methods[name] for name in methods or experiment.methods}
    factors = [float(factor) for factor in factors or experiment.imbalance_factors]
    taught = [method for method in chosen.values() if "measure" in method or find_loss(method["loss"]).needs_teacher]
    names = [tuple([None] * (":" not in pair) + pair.split(":")) for pair in pairs or experiment.pairs]
    for pair in names:
        if len(pair) != 2 or "" in pair or (taught and pair[0] is None):
            text = ":".join(filter(None, pair))
            raise ValueError(f"The pair {text!r} must be two networks, e.g. resnet32x4:resnet8x4.")
    seeds, teachers, students = seeds or experiment.seeds, [], []
    draws = [*dict.fromkeys(map(experiment.draw, seeds))]
    for factor in factors:
        for name in dict.fromkeys(teacher for teacher, _ in names if taught and not is_pretrained(teacher)):
            kinds = [
                (ce, draw) for ce in dict.fromkeys(method.get("teacher_ce") for method in taught) for draw in draws
            ]
            for ce, draw in kinds:
                run = _teacher_run(experiment, factor, name, ce, draw, overrides)
                teachers.append(Cell(f"Teacher, {ce}" if ce else "Teacher", name, None, factor, run["seed"], run))
                if ce is None and any(method.get("adjust_student") for method in chosen.values()):
                    teachers.append(replace(teachers[-1], method="Teacher, adjusted", run=adjusted(run)))
    for seed in seeds:
        for factor in factors:
            for teacher, student in names:
                for name, method in chosen.items():
                    run = _student_run(experiment, factor, (teacher, student), method, seed, overrides)
                    students.append(Cell(name, teacher, student, factor, seed, run))
    return teachers + students


def _student_run(experiment: Experiment, factor: float, pair: tuple, method: Run, seed: int, overrides: Run) -> Run:
    """The run of a student, or what is measured of a teacher; without a teacher in it where the loss needs none."""
    own, (teacher, student) = _draw(experiment.draw(seed)), pair
    if teacher is not None and is_pretrained(teacher):
        own["pixels_of"] = teacher  # every student sees what the teacher was trained on, one without a teacher too
        taught: Run = {"role": "given", "model": teacher, "data": experiment.data, "imbalance_factor": factor}
    elif teacher is not None:
        taught = _teacher_run(experiment, factor, teacher, method.get("teacher_ce"), experiment.draw(seed), overrides)
    if "measure" in method:
        where = {"imbalance_factor": factor, "seed": seed, "data": experiment.data, "teacher": taught}
        return {"role": "measure", **method, **where, **own}
    of_method = method.get("training", {})
    run = _run(experiment, factor, student, seed, {**of_method, **overrides}, role="student") | own
    kept = ("loss", "arguments", "num_groups", "adjust_teacher", "adjust_student", "search", "trial")
    run |= {name: method[name] for name in kept if name in method}
    if method.get("published"):
        run["published_for"] = [teacher, student] if method["published"] is True else method["published"].split(":")
    loss = find_loss(method["loss"])
    if loss.needs_teacher:
        run |= {"teacher": taught, "teacher_logits": "live" if loss.needs_hidden_states else experiment.teacher_logits}
        if experiment.teacher_views is not None:
            run["teacher_views"] = experiment.teacher_views
    if experiment.group_losses:
        run["group_losses"] = experiment.group_losses
    return run


def adjusted(run: Run) -> Run:
    """The same weights scored by their logits less the log prior."""
    return {**run, "adjust_student": True}


def setting(run: Run) -> str:
    """A name for the runs that differ in seed, teacher's seed and draw alone."""
    teacher = {**run["teacher"], "seed": None, "draw": None} if run.get("teacher") else None
    return digest(run, seed=None, draw=None, teacher=teacher)


def _draw(draw: int) -> Run:
    return {"draw": draw} if draw else {}  # lines of before have none


def _teacher_run(experiment: Experiment, factor: float, model: str, ce: str | None, draw: int, overrides: Run) -> Run:
    seed = draw if experiment.teacher_seeds else experiment.teacher_seed
    run = _run(experiment, factor, model, seed, overrides, role="teacher") | _draw(draw)
    return {**run, "arguments": {"ce": ce}} if ce else run


def _run(experiment: Experiment, factor: float, model: str, seed: int, overrides: dict[str, Any], *, role: str) -> Run:
    of_role = experiment.teacher_training if role == "teacher" else experiment.student_training
    of_network = experiment.training_of_students.get(model, {}) if role == "student" else {}
    training = {**experiment.training, **of_role, **of_network, **overrides}
    run: Run = {"role": role, "data": experiment.data, "imbalance_factor": factor, "model": model}
    run |= {"training": training, "seed": seed, "loss": "ce", "arguments": {}, "published_for": None}
    return {**run, "num_groups": 3, "adjust_teacher": False, "teacher": None}


def digest(run: Run, **changed: Any) -> str:
    """A name for the run's files: the same for lines and folders of before, whose training says `recipe: paper`."""
    read_back = json.loads(json.dumps(_as_before({**run, **changed})))  # the epochs of a schedule are strings there
    return hashlib.sha256(json.dumps(read_back, sort_keys=True).encode()).hexdigest()[:16]


def _as_before(run: Run) -> Run:
    if "preset" in run.get("training", {}):
        training = {"recipe" if name == "preset" else name: value for name, value in run["training"].items()}
        run = {**run, "training": training}
    return {**run, "teacher": _as_before(run["teacher"])} if run.get("teacher") else run
