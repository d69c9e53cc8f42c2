"""An experiment: a YAML file of runs, checked before anything runs."""

import warnings
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from methods import FOLDER, check_keys, check_method, expand

from hf_ltkd import DistillationTrainingArguments
from hf_ltkd.data import DataArguments
from hf_ltkd.workflow.arguments import nearest


TRAINING_KEYS = sorted({f.name for f in fields(DistillationTrainingArguments)} - {"seed", "output_dir", "recipe"})
# Training arguments that change when and where something is computed, not what comes out (but for rounding).
NEUTRAL = (
    *("eval_strategy", "eval_steps", "per_device_eval_batch_size", "save_strategy", "save_steps", "use_cpu"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
    *("torch_compile", "torch_compile_backend", "torch_compile_mode"),
)
OWN_DATA_KEYS = ("class_order_seed", "evaluate_on", "eval_fraction", "text_column")
FLAGS = {
    "data_dir",
    "data_device",
    "imbalance_factor",
}  # fields of DataArguments that are none of the experiment's data
DATA_KEYS = [*sorted({f.name for f in fields(DataArguments)} - FLAGS), *OWN_DATA_KEYS]
IN_PAPER = [*(f"table_{number}" for number in range(1, 7)), "figure_5"]
# What an experiment tells the report: one that extends it does not take it over.
FOR_THE_REPORT = ("paper", "metrics", "marks", "tables", "trends", "finalists", "paper_pair", "names_in_paper")

Values = dict[str, Any]


@dataclass
class Experiment:
    """Each method on each pair of networks, for each imbalance factor and seed."""

    name: str  # of the file
    title: str
    pairs: list[str]  # teacher:student, each a network to train, or folder or Hub id; one alone needs no teacher
    methods: dict[str, Values]  # the keys of each are in methods.py
    imbalance_factors: list[float] = field(default_factory=lambda: [1])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])  # of initial weights and the order of the images
    data: Values = field(default_factory=dict)  # DATA_KEYS
    classes: int | None = None  # with images_per_class, to plan the cost without loading the images
    images_per_class: int | None = None
    teacher_seed: int = 0  # one teacher teaches the students of all seeds
    # Or several: that of a student of seed s is number s modulo their number. With each come crops of its own, and
    # other training images where Eq. 15 cuts; the seed 0 has those of `teacher_seed: 0`.
    teacher_seeds: list[int] = field(default_factory=list)
    teacher_logits: str = (
        "float32"  # or float16: asked once, a view of each image for every epoch; live: in every step
    )
    teacher_views: int | None = None  # fewer than epochs come round again
    training: Values = field(default_factory=dict)  # TRAINING_KEYS of all runs, then those of some
    teacher_training: Values = field(default_factory=dict)
    student_training: Values = field(default_factory=dict)
    training_of_students: dict[str, Values] = field(default_factory=dict)  # by network
    running: Values = field(default_factory=dict)  # TRAINING_KEYS that change the speed alone
    group_losses: Values | None = None  # temperature, at which Fig. 4 is noted after each epoch
    # For the report:
    paper: str | None = None  # the part of the paper that this shows, in its protocol if the file has that name
    metrics: list[str] = field(default_factory=lambda: ["tail", "all"])  # of a table of the paper
    marks: list[str] = field(default_factory=lambda: ["best", "second"])
    tables: dict[str, list[str]] = field(default_factory=dict)  # caption to methods; one of all without it
    trends: list[list[str]] = field(default_factory=list)  # [first, second] or [table of the paper, first, second]
    finalists: str | None = None  # what the data is called in the table of the finalists (finalists.py)
    paper_pair: str | None = None  # whose numbers stand beside ours in trends
    names_in_paper: dict[str, dict[str, str]] = field(default_factory=dict)  # table to method to its name there

    def draw(self, seed: int) -> int:
        """Of the training images and crops that a student of this seed sees, 0 but for `teacher_seeds`."""
        return self.teacher_seeds[seed % len(self.teacher_seeds)] if self.teacher_seeds else 0


KEYS = [f.name for f in fields(Experiment) if f.name != "name"]


def experiment_files() -> list[Path]:
    """Those of this folder, tables and figures of the paper first."""
    paths = [path for pattern in ("table_*", "figure_*", "*") for path in sorted(FOLDER.glob(f"{pattern}.yaml"))]
    return [path for path in dict.fromkeys(paths) if not path.name.startswith("published")]


def find_experiment(table: int | None, figure: int | None, experiment: str | None) -> Path:
    """
    The file that the command line names.

    Raises:
        `ValueError`: if it names none or several, or there is no such file.
    """
    names = {f"table_{table}.yaml": table, f"figure_{figure}.yaml": figure, experiment: experiment}
    given = [name for name, value in names.items() if value is not None]
    if len(given) != 1:
        raise ValueError("Give one of --table 1..6, --figure 3..5, --experiment FILE.yaml, or --losses for a sweep.")
    for path in (Path(given[0]), FOLDER / given[0]):
        if path.is_file():
            return path
    known = ", ".join(path.name for path in experiment_files())
    raise ValueError(f"There is no experiment {given[0]!r}: give a YAML file, or one of {known}.")


def load_experiment(path: Path) -> Experiment:
    """
    An experiment as it was written, on top of the one that it `extends`; its `name` is that of the file.

    Raises:
        `ValueError`: if a key is misspelt or missing, or a method's loss is not there; before anything runs.
    """
    return make_experiment(_read(path), path.stem, path.parent)


def _read(path: Path) -> Values:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{str(path)!r} is no YAML: {' '.join(str(error).split())}") from error
    check_keys(f"The experiment {path.name}", values, ["extends", *KEYS])
    below = values.pop("extends", None)
    if below is None:
        return values
    for other in (path.parent / below, FOLDER / below):
        if other.is_file() and not other.samefile(path):
            return {name: value for name, value in _read(other).items() if name not in FOR_THE_REPORT} | values
    raise ValueError(f"{str(path)!r} extends {below!r}, which is neither beside it nor in {str(FOLDER)!r}.")


def make_experiment(values: Values, name: str, folder: Path) -> Experiment:
    """The experiment of these keys, checked; `folder` is where losses of one's own are looked for."""
    where = f"The experiment {name}"
    check_keys(where, values, KEYS)
    for key in ("pairs", "methods"):
        if not values.get(key):
            raise ValueError(f"{where} has no {key}: add them.")
    for key in ("pairs", "imbalance_factors", "seeds", "teacher_seeds", "trends", "metrics", "marks"):
        if not isinstance(values.get(key, []), list):
            raise ValueError(f"{where}: {key} must be a list, not {values[key]!r}.")
    check_keys(f"data of {where}", values.get("data", {}), DATA_KEYS)
    evaluate_on, teacher_logits = (
        values.get("data", {}).get("evaluate_on", "test"),
        values.get("teacher_logits", "live"),
    )
    check_keys(f"evaluate_on of {where}", {evaluate_on: None}, ("test", "validation"))
    check_keys(f"teacher_logits of {where}", {teacher_logits: None}, ("float32", "float16", "live"))
    check_keys(f"group_losses of {where}", values.get("group_losses") or {}, ("temperature",))
    for method, entry in values["methods"].items():
        check_method(f"The method {method} of {where}", entry, folder)
    trained = [values, *values["methods"].values(), values.get("training_of_students", {})]
    for entry in trained:
        for key in entry if entry is trained[-1] else ("training", "teacher_training", "student_training", "running"):
            if key in entry:
                entry[key] = check_training(f"{key} of {where}", entry[key])
    experiment = Experiment(**{"title": name, **values, "name": name, "methods": expand(values["methods"])})
    tables = [trend[0] for trend in experiment.trends if len(trend) > 2] + [*experiment.names_in_paper]
    check_keys(f"The paper's parts in trends of {where}", dict.fromkeys(tables), IN_PAPER)
    shown = [*experiment.tables.values(), *(trend[-2:] for trend in experiment.trends)]
    check_keys(f"tables and trends of {where}", dict.fromkeys(sum(shown, [])), experiment.methods)
    return experiment


def check_training(where: str, training: Values) -> Values:
    """
    These training arguments by their names of today.

    Raises:
        `ValueError`: if there is no such argument.
    """
    training = dict(training)
    if "recipe" in training:
        warnings.warn(f"{where}: recipe is now called preset.", FutureWarning, stacklevel=2)
        training["preset"] = training.pop("recipe")
    for name in training:
        if name not in TRAINING_KEYS:
            raise ValueError(
                f"{where}: there is no {name!r}{nearest(name, TRAINING_KEYS)} Use arguments of "
                "DistillationTrainingArguments (num_train_epochs, learning_rate, ...), but for seed and output_dir."
            )
    return training
