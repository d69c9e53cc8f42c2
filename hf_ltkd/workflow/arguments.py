"""
What a user may set for each job, beside `DataArguments` and `DistillationTrainingArguments`; free of torch.

In Python a teacher, student or model may also be in memory, `data` a `datasets.DatasetDict`, and `loss_args` a dict.
"""

import difflib
import math
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..data.arguments import SEGMENTATION as SEGMENTATION
from ..data.arguments import DataArguments as DataArguments
from ..data.arguments import MaskArguments as MaskArguments


@dataclass
class DistillArguments:
    """What is distilled into what, and how."""

    teacher: list[str] | None = field(
        default=None,
        metadata={"help": "Hub id or folder of the teacher; of several the mean counts. --loss ce needs none."},
    )
    teacher_weights: list[float] | None = field(
        default=None, metadata={"help": "How much each of several teachers counts in their mean, e.g. 2 1."}
    )
    student: str = field(
        default="resnet8x4",
        metadata={"help": "A network of the paper (resnet8x4, vgg8, ...), or the Hub id or folder of any other."},
    )
    push: str | None = field(
        default=None, metadata={"help": "Hub id to push the student to at the end; without it nothing is pushed."}
    )
    push_anyway: bool = field(
        default=False, metadata={"help": "Push a student, too, that is worse than one without a teacher."}
    )
    plain_student: bool = field(
        default=True,
        metadata={"help": "To compare, also train it without the teacher: plain, and by a balanced softmax."},
    )
    loss: str = field(
        default="ltkd",
        metadata={
            "help": "The method: ltkd, kd, dkd, dist, reviewkd, catkd, bkd, gkl, wttm, ce (the cross-entropy without "
            "a teacher), or a loss of your own as package.module:Class or file.py:Class; for pixels cwd and ifvd, too."
        },
    )
    loss_args: list[str] = field(
        default_factory=list,
        metadata={"help": "Its arguments as name=value, e.g. alpha=1 beta=1; they win over the recommended ones."},
    )
    pair: list[str] | None = field(
        default=None,
        metadata={"help": "Take the hyper-parameters published for this teacher and student: resnet32x4 resnet8x4."},
    )
    adjust_teacher: bool = field(
        default=False, metadata={"help": "Divide the class prior out of the teacher's probabilities (prior=teacher)."}
    )
    teacher_cache: str | None = field(
        default=None, metadata={"help": "A folder: ask the teacher once, keep its logits there, and train with them."}
    )
    teacher_cache_views: int | None = field(
        default=None, metadata={"help": "Augmented views of each image in the cache; as many as epochs if not given."}
    )
    teacher_cache_dtype: Literal["float32", "float16"] = field(
        default="float32", metadata={"help": "float16 halves the cache."}
    )
    match_labels: bool = field(
        default=False,
        metadata={
            "help": "Match the teacher's classes to the data's by name: it may have more of them, or another order."
        },
    )
    num_groups: int | None = field(
        default=None, metadata={"help": "Equal groups of classes (default: head, medium, tail)."}
    )
    unlabelled: str | None = field(
        default=None,
        metadata={
            "help": "A folder of images without a class, to distil on beside the others, without cross-entropy."
        },
    )
    tune: int | None = field(
        default=None,
        metadata={
            "help": "So many short trainings choose loss weights and temperature on validation images, never on test "
            "images; needs hf_ltkd[tune]."
        },
    )
    seeds: int | None = field(
        default=None,
        metadata={
            "help": "Train so many students of each kind, with the seeds from --seed on: mean and deviation are said, "
            "and the student that does best on validation images is kept."
        },
    )

    def __post_init__(self):
        if self.teacher_weights is not None and len(self.teachers) < 2:
            raise ValueError("--teacher_weights needs two teachers or more: --teacher A B --teacher_weights 2 1.")
        _check_whole(self, "num_groups", "teacher_cache_views")
        _check_whole(self, "tune", "seeds", least=2)
        if (
            self.teacher_cache is None
            and self.tune is None
            and (self.teacher_cache_views or self.teacher_cache_dtype != "float32")
        ):
            raise ValueError("--teacher_cache_views and --teacher_cache_dtype need a --teacher_cache FOLDER.")
        if self.pair is not None and len(self.pair) != 2:
            raise ValueError(f"--pair {' '.join(self.pair)} must be two names, the teacher's and the student's.")
        if self.match_labels and self.teacher is None:
            raise ValueError("--match_labels needs a --teacher, whose classes are matched.")

    @property
    def teachers(self) -> list[Any]:
        """Each of them; in Python one may stand without a list."""
        return [] if self.teacher is None else self.teacher if isinstance(self.teacher, list) else [self.teacher]


@dataclass
class TrainTeacherArguments:
    """What is trained by cross-entropy."""

    model: str = field(
        default="resnet32x4",
        metadata={"help": "A network of the paper (resnet32x4, vgg13, ...), or the Hub id or folder of any other."},
    )
    ce: Literal["cross_entropy", "balanced_softmax", "logit_adjusted", "class_balanced", "ldam"] | None = field(
        default=None,
        metadata={"help": "Form of the cross-entropy (default: recommended; balanced_softmax for skewed counts)."},
    )
    loss_args: list[str] = field(
        default_factory=list,
        metadata={"help": "Its arguments as name=value, e.g. tau=1.5, or drw_epoch=160 for ldam."},
    )
    peft: Literal["lora"] | None = field(
        default=None,
        metadata={
            "help": "lora: train small matrices beside the linear layers of a big pretrained model, and its head; "
            "needs hf_ltkd[peft]."
        },
    )


@dataclass
class ModelArguments:
    """How models are loaded."""

    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run the code that a model comes with; read it first, it can do whatever you can."},
    )


@dataclass
class TrainingChoices:
    """What both trainings ask beside the training arguments."""

    recommend: bool = field(
        default=True,
        metadata={"help": "Recommend what is not set; else the method's and the training arguments' defaults hold."},
    )


@dataclass
class EvaluateArguments:
    """Which model is evaluated."""

    model: str = field(metadata={"help": "Hub id or folder of the model."})
    match_labels: bool = field(
        default=False,
        metadata={
            "help": "Match the model's classes to the data's by name: it may have more of them, or another order."
        },
    )
    batch_size: int = field(default=128, metadata={"help": "Images that the model is asked for at once."})
    output_dir: str | None = field(
        default=None,
        metadata={"help": "A folder for class_report.json and confusion.png; without it nothing is written."},
    )

    def __post_init__(self):
        _check_whole(self, "batch_size")


@dataclass
class AdjustArguments:
    """Which model is adjusted, how much, and where it goes."""

    model: str = field(metadata={"help": "Hub id or folder of the model."})
    output_dir: str = field(default="adjusted", metadata={"help": "A new folder for the adjusted model."})
    tau: float = field(default=1.0, metadata={"help": "How strongly the class prior counts."})
    batch_size: int = field(default=128, metadata={"help": "Images that the model is asked for at once."})

    def __post_init__(self):
        _check_whole(self, "batch_size")
        if not 0 < self.tau < math.inf:
            raise ValueError(f"--tau {self.tau} must be a number above 0: 1 takes the whole class prior out.")


@dataclass
class DiagnoseArguments:
    """Which teacher is diagnosed, and for whom."""

    teacher: list[str] = field(metadata={"help": "Hub id or folder of the teacher; of several the mean counts."})
    student: str | None = field(
        default=None, metadata={"help": "Takes the loss of a trained student, instead of one that knows nothing."}
    )
    num_groups: int | None = field(
        default=None, metadata={"help": "Equal groups of classes (default: head, medium, tail)."}
    )
    match_labels: bool = field(
        default=False,
        metadata={
            "help": "Match the teacher's classes to the data's by name: it may have more of them, or another order."
        },
    )
    picture: str = field(default="teacher_bias.png", metadata={"help": "Where the picture goes."})
    batch_size: int = field(default=128, metadata={"help": "Images that the teacher is asked for at once."})

    def __post_init__(self):
        _check_whole(self, "batch_size", "num_groups")


@dataclass
class PushArguments:
    """What is pushed where, and what its card says that the folder's files don't."""

    model: str = field(metadata={"help": "The student's folder."})
    to: str = field(metadata={"help": "Its place on the Hub, as owner/name; made if it does not exist."})
    push_anyway: bool = field(
        default=False, metadata={"help": "Push a student, too, that is worse than one without a teacher."}
    )
    private: bool = field(default=False, metadata={"help": "Make a new repository private."})
    dataset: str | None = field(
        default=None, metadata={"help": "The full dataset's name, best its Hub id; the card's metrics need it."}
    )
    dataset_split: str | None = field(default=None, metadata={"help": "The split that was evaluated on (test)."})
    teacher_name: str | None = field(default=None, metadata={"help": "The teacher's Hub id, for the card."})
    teacher_results: str | None = field(
        default=None, metadata={"help": "The teacher's eval_results.json, to stand beside the student's."}
    )
    plain_student_results: str | None = field(
        default=None, metadata={"help": "That of the same student trained without a teacher."}
    )
    license: str | None = field(default=None, metadata={"help": "The weights' license, e.g. apache-2.0."})
    language: str | None = field(default=None, metadata={"help": "The data's language, e.g. en."})
    tags: list[str] | None = field(default=None, metadata={"help": "More tags for the card."})
    revision: str | None = field(default=None, metadata={"help": "The branch (main)."})
    model_code: bool = field(
        default=True, metadata={"help": "Send the code of a network of hf_ltkd too, so that it loads without hf_ltkd."}
    )
    keep_card: bool = field(default=False, metadata={"help": "Send the folder's README.md as it is."})
    timeout: float = field(
        default=60.0,
        metadata={"help": "Seconds that the Hub may stay silent; a push may take five times that and 10 s a MB."},
    )


@dataclass
class ExportArguments:
    """What is exported to ONNX, and how it is measured."""

    model: str = field(metadata={"help": "The student's folder, or its Hub id."})
    teacher: str | None = field(
        default=None, metadata={"help": "The teacher's folder or Hub id, to be measured beside the student."}
    )
    images: list[str] | None = field(
        default=None, metadata={"help": "Image files or folders of them to compare the logits on (random pixels)."}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "The folder that gets onnx/model.onnx (the student's)."}
    )
    threads: int = field(default=1, metadata={"help": "CPU threads that a network runs on while it is measured."})
    runs: int = field(default=100, metadata={"help": "Runs of each network that are measured."})

    def __post_init__(self):
        if self.output_dir is None and not os.path.isdir(self.model):
            raise ValueError(
                f"--model {self.model} is no folder here: if it is on the Hub, say with --output_dir where the ONNX "
                "file goes."
            )
        _check_whole(self, "threads", "runs")


@dataclass
class SourceArguments:
    """Which images, in one word; `DataArguments` says the rest."""

    data: str | None = field(
        default=None, metadata={"help": "The images: a folder, a benchmark's name, or a dataset of the Hub."}
    )
    eval_fraction: float = field(
        default=0.2,
        metadata={
            "help": "Without a test split, as many images of every class are held out as this part of the smallest "
            "class."
        },
    )

    def __post_init__(self):
        if not 0 < self.eval_fraction < 1:
            raise ValueError(
                f"eval_fraction={self.eval_fraction} is not valid: it is a part of each class, above 0 and below 1."
            )


def _check_whole(arguments: Any, *names: str, least: int = 1) -> None:
    """Raises `ValueError` if a field that was given is no whole number of `least` or more."""
    from ..utils import check_number  # here: it imports torch, which the help does without

    for name in names:
        if getattr(arguments, name) is not None:
            check_number(name, getattr(arguments, name), least, whole=True)


OLD_NAMES = {"eval_share": "eval_fraction", "recipe": "preset"}


def split_settings(settings: Mapping[str, Any], *classes: type) -> list[dict[str, Any]]:
    """
    What was set, by argument class; `None` stands for what was not set.

    Raises:
        `ValueError`: if no class has a field of that name.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    for old, new in OLD_NAMES.items():
        if old in given:
            warnings.warn(f"{old} is now called {new}; the old name goes with version 0.3.", FutureWarning, 4)
            given.setdefault(new, given.pop(old))
            given.pop(old, None)
    known = [f.name for argument_class in classes for f in fields(argument_class)]
    for name in given:
        if name not in known:
            hint = "; an argument of the loss goes into loss_args" if "loss_args" in known else ""
            raise ValueError(f"There is no setting {name!r}{nearest(name, known) or hint + '.'}")
    for argument_class in classes:
        if argument_class.__module__ in (__name__, DataArguments.__module__):  # Transformers checks its own
            for name, hint in get_type_hints(argument_class).items():
                if name in given and name not in IN_MEMORY:
                    _check_type(name, given[name], hint)
    return [{f.name: given[f.name] for f in fields(c) if f.name in given} for c in classes]


# What may be more than a command line can hold.
IN_MEMORY = ("teacher", "teacher_weights", "student", "model", "data", "unlabelled", "augment", "loss_args", "colors")


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Raises `ValueError` if a setting is of another type than its field: a number, a word, one of several, a list."""
    options = [option for option in get_args(hint) if option is not type(None)]
    if get_origin(hint) in (Union, UnionType):
        hint = options[0]
    if get_origin(hint) is Literal:
        fits, expected = value in get_args(hint), f"one of {', '.join(map(str, get_args(hint)))}"
    elif get_origin(hint) is list:
        kind, expected = (str, "a list of words") if hint == list[str] else (Real, "a list of numbers")
        fits = isinstance(value, list | tuple) and all(isinstance(v, kind) for v in value)
    elif hint is str:
        fits, expected = isinstance(value, str | os.PathLike), "a word or a path"
    elif hint is bool:
        fits, expected = isinstance(value, bool), "True or False"
    else:
        kind, expected = (Integral, "a whole number") if hint is int else (Real, "a number")
        fits = isinstance(value, kind) and not isinstance(value, bool)
    if not fits:
        raise ValueError(f"{name}={value!r} is not valid: it must be {expected}.")


def nearest(name: str, known: Iterable[str]) -> str:
    """`", did you mean 'learning_rate'?"`, or nothing where no name is near."""
    found = difflib.get_close_matches(name, list(known), 1, cutoff=0.65)
    return f", did you mean {found[0]!r}?" if found else ""
