"""From a recipe to its runs. A run is a dict of all that its result depends on; two equal ones are the same run."""

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from hf_ltkd.data.long_tail import long_tailed_counts
from hf_ltkd.losses import LOSSES
from hf_ltkd.training_args import DistillationTrainingArguments
from hf_ltkd.utils import parse_values


FOLDER = Path(__file__).parent

# Training arguments that change when and where something is computed, not what comes out (but for rounding).
NEUTRAL = (
    *("eval_strategy", "eval_steps", "per_device_eval_batch_size", "save_strategy", "save_steps", "use_cpu"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
    *("torch_compile", "torch_compile_backend", "torch_compile_mode"),
)

# What a recipe tells the report: a recipe that extends it does not take it over.
FOR_THE_REPORT = ("paper", "metrics", "marks", "tables", "trends", "paper_pair", "names_in_paper")

Recipe = dict[str, Any]
Run = dict[str, Any]


@dataclass
class Cell:
    """A run and its place in a table; `method` is `"Teacher"` for a teacher, whose `student` is `None`."""

    method: str
    teacher: str | None
    student: str | None
    imbalance_factor: float
    seed: int
    run: Run

    @property
    def pair(self) -> str | None:
        return f"{self.teacher}:{self.student}" if self.student else None


def find_recipe(table: int | None, figure: int | None, recipe: str | None) -> Path:
    """
    The file that the command line names.

    Raises:
        `ValueError`: if it names none or several, or there is no such file.
    """
    given = [f"table_{table}.yaml"] * (table is not None) + [f"figure_{figure}.yaml"] * (figure is not None)
    given += [] if recipe is None else [recipe]
    if len(given) != 1:
        raise ValueError("Give one of --table 1..6, --figure 3..5 and --recipe FILE.yaml.")
    path = next((path for path in (Path(given[0]), FOLDER / given[0]) if path.is_file()), None)
    if path is None:
        names = ", ".join(sorted(path.name for path in FOLDER.glob("*.yaml") if path.name != "published.yaml"))
        raise ValueError(f"There is no recipe {given[0]!r}: give a YAML file, or one of {names}.")
    return path


def load_recipe(path: Path) -> Recipe:
    """A recipe as it was written, on top of the one that it `extends`; its `name` is that of the file."""
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    below = load_recipe(path.parent / recipe["extends"]) if "extends" in recipe else {}
    below = {name: value for name, value in below.items() if name not in FOR_THE_REPORT}
    return {**below, **recipe, "name": path.stem}


def split_overrides(items: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    `--training name=value ...` as what makes another protocol of a recipe, and what does not ([`NEUTRAL`]).

    Raises:
        `ValueError`: if an item has another form, or there is no such training argument, or it has a flag of its own.
    """
    values = parse_values("--training", items)
    known = {field.name for field in fields(DistillationTrainingArguments)} - {"seed", "output_dir"}
    for name in values:
        if name not in known:
            raise ValueError(
                f"--training {name} is no argument of DistillationTrainingArguments, or one that reproduce.py sets "
                "itself (--seeds, --output_dir)."
            )
    neutral = {name: value for name, value in values.items() if name in NEUTRAL}
    return {name: value for name, value in values.items() if name not in NEUTRAL}, neutral


def plan(
    recipe: Recipe,
    overrides: dict[str, Any] | None = None,
    *,
    pairs: list[str] | None = None,
    factors: list[float] | None = None,
    methods: list[str] | None = None,
    seeds: list[int] | None = None,
) -> list[Cell]:
    """
    The cells of a recipe in the order in which they are to be computed: teachers first, then seed by seed.

    Args:
        recipe (`dict`): From [`load_recipe`].
        overrides (`dict`, *optional*): Training arguments that win over the recipe's.
        pairs, factors, methods, seeds (`list`, *optional*): Instead of the recipe's.

    Raises:
        `ValueError`: if a pair is not of the form `teacher:student`, or the recipe has no such method.
    """
    overrides, all_methods = overrides or {}, recipe["methods"]
    for name in methods or []:
        if name not in all_methods:
            raise ValueError(f"The recipe {recipe['name']} has no method {name!r}: use any of {[*all_methods]}.")
    names = [pair.split(":") for pair in pairs or recipe["pairs"]]
    for pair in names:
        if len(pair) != 2:
            raise ValueError(f"The pair {':'.join(pair)!r} must be two networks, e.g. resnet32x4:resnet8x4.")
    factors = [float(factor) for factor in factors or recipe["imbalance_factors"]]
    teachers, students = [], []
    for factor in factors:
        for teacher in dict.fromkeys(teacher for teacher, _ in names):
            run = _run(recipe, factor, teacher, recipe["teacher_seed"], overrides, role="teacher")
            teachers.append(Cell("Teacher", teacher, None, factor, run["seed"], run))
    for seed in seeds or recipe["seeds"]:
        for factor in factors:
            for teacher, student in names:
                for name in methods or all_methods:
                    run = student_run(recipe, factor, teacher, student, all_methods[name], seed, overrides)
                    students.append(Cell(name, teacher, student, factor, seed, run))
    if not any(cell.run["teacher"] for cell in students):
        teachers = []
    return teachers + students


def student_run(
    recipe: Recipe,
    factor: float,
    teacher: str,
    student: str,
    method: dict[str, Any],
    seed: int,
    overrides: dict[str, Any],
) -> Run:
    """The run of a student, or what is measured of a teacher; without a teacher in it where the loss needs none."""
    if "measure" in method:
        run: Run = {"role": "measure", **method, "imbalance_factor": factor, "seed": seed, "data": recipe["data"]}
        return {**run, "teacher": _run(recipe, factor, teacher, recipe["teacher_seed"], overrides, role="teacher")}
    loss = LOSSES[method["loss"]]
    run = _run(recipe, factor, student, seed, {**method.get("training", {}), **overrides}, role="student")
    run |= {name: method[name] for name in ("loss", "arguments", "num_groups", "adjust_teacher") if name in method}
    if method.get("published"):
        run["published_for"] = [teacher, student]
    if loss.needs_teacher:
        run["teacher"] = _run(recipe, factor, teacher, recipe["teacher_seed"], overrides, role="teacher")
        run["teacher_logits"] = "live" if loss.needs_hidden_states else recipe["teacher_logits"]
    if recipe.get("group_losses"):
        run["group_losses"] = recipe["group_losses"]
    return run


def _run(recipe: Recipe, factor: float, model: str, seed: int, overrides: dict[str, Any], *, role: str) -> Run:
    training = {
        **recipe["training"],
        **recipe.get(f"{role}_training", {}),
        **(recipe.get("training_of_students", {}).get(model, {}) if role == "student" else {}),
        **overrides,
    }
    return {
        "role": role,
        "data": recipe["data"],
        "imbalance_factor": factor,
        "model": model,
        "training": training,
        "seed": seed,
        "loss": "ce",
        "arguments": {},
        "published_for": None,
        "num_groups": 3,
        "adjust_teacher": False,
        "teacher": None,
    }


def digest(run: Run) -> str:
    """A name for the run's files."""
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]


def kind_of(run: Run) -> str:
    """Runs of one kind train equally many images a second, but for small differences between losses on logits."""
    kind = f"{run['role']} {run['model']}"
    if run["teacher"] is not None and run["teacher_logits"] == "live":
        kind += f" by {run['loss']} from {run['teacher']['model']}"
    elif run["teacher"] is not None:
        kind += " by logits"
    return f"{kind}, batch {run['training']['per_device_train_batch_size']}"


def work_of(recipe: Recipe, runs: list[Run]) -> dict[str, tuple[Run, float]]:
    """
    The images that runs train on, by kind, each kind with one of its runs. A kind `logits of ...` is the images that a
    teacher is asked for, once for all students; they are counted with the teacher's own run.
    """
    work: dict[str, tuple[Run, float]] = {}
    teachers = {digest(run) for run in runs if run["role"] == "teacher"}
    for run in runs:
        if run["role"] == "measure":
            continue
        counts = long_tailed_counts([recipe["images_per_class"]] * recipe["classes"], run["imbalance_factor"])
        images = sum(counts) * run["training"]["num_train_epochs"]
        kinds = [kind_of(run)]
        if run["teacher"] is not None and run["teacher_logits"] != "live" and digest(run["teacher"]) in teachers:
            teachers.remove(digest(run["teacher"]))
            kinds.append(f"logits of {run['teacher']['model']}")
        for kind in kinds:
            work[kind] = (run, work.get(kind, (run, 0.0))[1] + images)
    return work


def read_rates(lines: list[dict[str, Any]], data: dict[str, Any], machine: str) -> dict[str, float]:
    """Images per second by kind, in finished runs or from a few steps, on a machine and on such images."""
    rates: dict[str, list[float]] = {}
    for line in lines:
        run = line.get("run", line)
        if line.get("device") == machine and run["data"] == data and line.get("examples_per_second"):
            rates.setdefault(line.get("kind") or kind_of(run), []).append(line["examples_per_second"])
    return {kind: median(values) for kind, values in rates.items()}


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
