"""An experiment: a YAML file of runs, checked before anything runs."""

import difflib
import warnings
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from methods import FOLDER, check_keys, check_method, expand

from hf_ltkd.data import DataArguments
from hf_ltkd import DistillationTrainingArguments


TRAINING_KEYS = sorted({f.name for f in fields(DistillationTrainingArguments)} - {"seed", "output_dir", "recipe"})
OWN_DATA_KEYS = ("class_order_seed", "evaluate_on", "eval_fraction")
DATA_KEYS = (
    *sorted({f.name for f in fields(DataArguments)} - {"data_dir", "data_device", "imbalance_factor"}),
    *OWN_DATA_KEYS,
)
# What an experiment tells the report: one that extends it does not take it over.
FOR_THE_REPORT = ("paper", "metrics", "marks", "tables", "trends", "paper_pair", "names_in_paper")


@dataclass
class Experiment:
    """
    A YAML file of runs: each method on each pair of networks, for each imbalance factor and seed.

    Attributes:
        name, title (`str`): That of the file, and what stands above its tables.
        pairs (`list[str]`): `teacher:student`, each a network that the experiment trains, or a folder or Hub id of a
            trained one; `student` alone if no method needs a teacher.
        methods (`dict`): Name to `loss`, `arguments`, `published` (`true`, or the pair whose published values it
            takes), `num_groups`, `adjust_teacher` and `training`. A `grid` of argument to values stands for as many
            methods; `search`, with `trials`, `space` and `metric`, for as many trials of Optuna. Or `measure`.
        data (`dict`): Fields of `DataArguments`; `class_order_seed` numbers the classes in another order;
            `evaluate_on: validation` holds out `eval_fraction` of the training images to choose settings by.
        imbalance_factors (`list[float]`), seeds (`list[int]`):
            A seed sets the initial weights and the order of the images.
        teacher_seed (`int`): Of the one teacher that teaches the students of all seeds.
        teacher_logits (`str`): `float32` or `float16` asks it once, for a view of each image for every epoch (or for
            `teacher_views`, which come round again); `live` in every step.
        training, teacher_training, student_training, training_of_students (`dict`): Training arguments of all runs, of
            teachers, of students, and of a student by its network.
        running (`dict`): Training arguments that change the speed alone.
        classes, images_per_class (`int`, *optional*): To plan the cost without loading the images.
        group_losses (`dict`, *optional*):
            `temperature`, at which the parts of Eq. 8 are noted after each epoch (Fig. 4).
        paper, paper_pair, metrics, marks, names_in_paper, tables, trends: For the report; see README.md.
    """

    name: str
    pairs: list[str]
    methods: dict[str, dict[str, Any]]
    title: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    imbalance_factors: list[float] = field(default_factory=lambda: [1])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    teacher_seed: int = 0
    teacher_logits: str = "float32"
    teacher_views: int | None = None
    training: dict[str, Any] = field(default_factory=dict)
    teacher_training: dict[str, Any] = field(default_factory=dict)
    student_training: dict[str, Any] = field(default_factory=dict)
    training_of_students: dict[str, dict[str, Any]] = field(default_factory=dict)
    running: dict[str, Any] = field(default_factory=dict)
    classes: int | None = None
    images_per_class: int | None = None
    group_losses: dict[str, Any] | None = None
    paper: str | None = None
    paper_pair: str | None = None
    metrics: list[str] = field(default_factory=lambda: ["tail", "all"])
    marks: list[str] = field(default_factory=lambda: ["best", "second"])
    names_in_paper: dict[str, dict[str, str]] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=dict)
    trends: list[list[str]] = field(default_factory=list)


KEYS = [f.name for f in fields(Experiment) if f.name != "name"]


def find_experiment(table: int | None, figure: int | None, experiment: str | None) -> Path:
    """
    The file that the command line names.

    Raises:
        `ValueError`: if it names none or several, or there is no such file.
    """
    given = [f"table_{table}.yaml"] * (table is not None) + [f"figure_{figure}.yaml"] * (figure is not None)
    given += [] if experiment is None else [experiment]
    if len(given) != 1:
        raise ValueError("Give one of --table 1..6, --figure 3..5, --experiment FILE.yaml, or --losses for a sweep.")
    path = next((path for path in (Path(given[0]), FOLDER / given[0]) if path.is_file()), None)
    if path is None:
        names = ", ".join(path.name for path in experiment_files())
        raise ValueError(f"There is no experiment {given[0]!r}: give a YAML file, or one of {names}.")
    return path


def experiment_files() -> list[Path]:
    """Those of this folder, tables and figures of the paper first."""
    paths = [path for pattern in ("table_*", "figure_*", "*") for path in sorted(FOLDER.glob(f"{pattern}.yaml"))]
    return [path for path in dict.fromkeys(paths) if not path.name.startswith("published")]


def load_experiment(path: Path) -> Experiment:
    """
    An experiment as it was written, on top of the one that it `extends`; its `name` is that of the file.

    Raises:
        `ValueError`: if a key is misspelt or missing, or a method's loss is not there; before anything runs.
    """
    return make_experiment(_read(path), path.stem, path.parent)


def make_experiment(values: dict[str, Any], name: str, folder: Path) -> Experiment:
    """The experiment of these keys, checked; `folder` is where losses of one's own are looked for."""
    where = f"The experiment {name}"
    check_keys(where, values, KEYS)
    for key in ("pairs", "methods"):
        if not values.get(key):
            raise ValueError(f"{where} has no {key}: add the key {key}.")
    for key in ("pairs", "imbalance_factors", "seeds", "trends", "metrics", "marks"):
        if not isinstance(values.get(key, []), list):
            raise ValueError(f"{where}: {key} must be a list, not {values[key]!r}.")
    check_keys(f"data of {where}", values.get("data", {}), DATA_KEYS)
    check_keys(f"group_losses of {where}", values.get("group_losses") or {}, ("temperature",))
    for method, entry in values["methods"].items():
        check_method(f"The method {method} of {where}", entry, folder)
    trainings = [(key, values, key) for key in ("training", "teacher_training", "student_training", "running")]
    trainings += [(f"training of {m}", entry, "training") for m, entry in values["methods"].items()]
    of_students = values.get("training_of_students", {})
    trainings += [(f"training_of_students {student}", of_students, student) for student in of_students]
    for what, parent, key in trainings:
        if key in parent:
            parent[key] = check_training(f"{what} of {where}", parent[key])
    experiment = Experiment(**{"title": name, **values, "name": name, "methods": expand(values["methods"])})
    named = [m for methods in experiment.tables.values() for m in methods] + [
        m for t in experiment.trends for m in t[-2:]
    ]
    for method in named:
        if method not in experiment.methods:
            known = ", ".join(experiment.methods)
            raise ValueError(f"{where} has no method {method!r} for its tables and trends: use any of {known}.")
    return experiment


def check_training(where: str, training: dict[str, Any]) -> dict[str, Any]:
    """
    These training arguments by their names of today.

    Raises:
        `ValueError`: if there is no such argument.
    """
    training = dict(training)
    if "recipe" in training:
        warnings.warn(f"{where}: write preset: paper instead of recipe: paper.", FutureWarning, stacklevel=2)
        training["preset"] = training.pop("recipe")
    for name in training:
        if name not in TRAINING_KEYS:
            near = difflib.get_close_matches(name, TRAINING_KEYS, 3) or TRAINING_KEYS
            raise ValueError(
                f"{where} has the key {name!r}, which is no argument of DistillationTrainingArguments, or is set by "
                f"run.py itself (seed, output_dir): use e.g. {', '.join(near)}."
            )
    return training


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{str(path)!r} is no YAML: {' '.join(str(error).split())}") from error
    check_keys(f"The experiment {path.name}", values, ["extends", *KEYS])
    if "extends" not in values:
        return values
    below = next((p for p in (path.parent / values["extends"], FOLDER / values["extends"]) if p.is_file()), None)
    if below is None:
        raise ValueError(f"{str(path)!r} extends {values['extends']!r}, which is neither beside it nor in {FOLDER}.")
    kept = {name: value for name, value in _read(below).items() if name not in FOR_THE_REPORT}
    return {**kept, **{name: value for name, value in values.items() if name != "extends"}}
