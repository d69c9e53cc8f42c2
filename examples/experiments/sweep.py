"""Many students from one teacher: losses, their arguments and seeds; at the end a table and the paper's Fig. 5.

python examples/sweep.py --benchmark cifar100_lt --imbalance_factor 100 --teacher teacher --student resnet8x4 \
    --losses ltkd kd ce --grid alpha=1,2,4,6,8,10 beta=1,2,4,6,8,10 --seeds 0 1 2 --recipe paper --output_dir sweep

The teacher is asked once, and every student trains with its cached logits. A run is a loss with its arguments and a
seed, which sets the student's initial weights and the order of the images; their augmentation depends on --seed alone.
Each finished run is a line of results.jsonl, so a sweep that was killed goes on when started again, and one that is
finished can be extended by losses, values and seeds. Started several times at once, say once per GPU with another
CUDA_VISIBLE_DEVICES, the processes share the runs. Students are not kept: there are no checkpoints, and one evaluation
at the end of a run. With --search 20 Optuna tries 20 points between the ends that --grid names, instead of the grid.
"""

import hashlib
import itertools
import json
import math
import statistics
import sys
import textwrap
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from datasets import DatasetDict
from filelock import FileLock, Timeout
from sweep_report import (
    Run,
    as_json,
    describe_setting,
    missing_runs,
    read_lines,
    read_settings,
    report,
    short,
    write_text,
)
from transformers import HfArgumentParser, PreTrainedModel, PrinterCallback, set_seed
from transformers.integrations import is_optuna_available

import hf_ltkd
from hf_ltkd import ClassGroups, DistillationTrainer, DistillationTrainingArguments, TeacherCache, create_loss
from hf_ltkd.data import DataArguments, ImageData, load_image_data
from hf_ltkd.data.holdout import hold_out, load_or_hold_out
from hf_ltkd.data.sources import load_splits
from hf_ltkd.estimate import epochs_of, estimate
from hf_ltkd.inputs import check_classes, load_classifier, load_processor, make_groups, new_classifier
from hf_ltkd.losses import LOSSES
from hf_ltkd.metrics import group_accuracy
from hf_ltkd.outputs import without_prefix
from hf_ltkd.recommend import normalisation
from hf_ltkd.report import duration, say, size
from hf_ltkd.teacher import teacher_fingerprint
from hf_ltkd.training_args import public_arguments
from hf_ltkd.utils import parse_values, write_json


# The training arguments that a student's weights depend on; all runs of a folder have them in common.
TRAINING = (
    *("num_train_epochs", "max_steps", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type"),
    *("lr_scheduler_kwargs", "lr_milestones", "lr_decay", "warmup_steps", "optim", "optim_args", "weight_decay"),
    *("weight_decay_on_all", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "bf16", "fp16", "tf32"),
    *("torch_compile", "data_seed", "train_sampling_strategy", "dataloader_drop_last"),
)


@dataclass
class SweepArguments:
    teacher: str | None = field(default=None, metadata={"help": "Hub id or folder; --losses ce needs none."})
    student: str = field(
        default="resnet8", metadata={"help": "A network of the paper (resnet8x4, vgg8, ...), or a Hub id or folder."}
    )
    losses: list[str] = field(default_factory=lambda: ["ltkd"], metadata={"help": f"Any of {', '.join(LOSSES)}."})
    grid: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Arguments of the losses with the values to try, e.g. alpha=1,2,6 beta=1,6 temperature=2,4: each "
            "loss in every combination of those that it has."
        },
    )
    loss_args: list[str] = field(
        default_factory=list,
        metadata={"help": "Arguments that stay the same, e.g. warmup_epochs=2, where a loss has them."},
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "One run of each setting a seed."})
    search: int | None = field(
        default=None,
        metadata={
            "help": "Instead of the grid: how many points Optuna tries between the ends of each argument's values (in "
            "their logarithm, if above 0) to maximise --metric_for_best_model (accuracy)."
        },
    )
    teacher_cache: str | None = field(
        default=None, metadata={"help": "Folder of the teacher's logits (OUTPUT_DIR/teacher_logits)."}
    )
    teacher_cache_views: int | None = field(
        default=None,
        metadata={"help": "Augmented views of each image in it (as many as epochs); fewer come round again."},
    )
    teacher_cache_dtype: Literal["float32", "float16"] = field(
        default="float32", metadata={"help": "float16 halves the cache."}
    )
    evaluate_on: Literal["test", "validation"] = field(
        default="test", metadata={"help": "validation: on training images that are held out, to choose settings by."}
    )
    eval_share: float = field(
        default=0.2, metadata={"help": "Held out are equally many images of each class, this part of the smallest."}
    )
    report_only: bool = field(
        default=False, metadata={"help": "Train nothing: table and pictures of what is in --output_dir."}
    )

    def __post_init__(self):
        for loss in self.losses:
            if loss not in LOSSES:
                raise ValueError(f"--losses {loss}: there is no such loss, use any of {', '.join(LOSSES)}.")
            if LOSSES[loss].needs_teacher and self.teacher is None and not self.report_only:
                raise ValueError(f"--losses {loss} needs --teacher: the Hub id or the folder of a trained classifier.")
        if self.search is None:
            return
        if self.search < 1 or len(self.losses) > 1 or len(self.seeds) > 1 or not self.grid:
            raise ValueError(
                "--search takes the number of trials, 1 or more, one loss, one seed and the ends of --grid, e.g. "
                "--search 20 --losses ltkd --seeds 0 --grid alpha=0.5,16 beta=0.5,16."
            )
        if not is_optuna_available():
            raise ValueError("--search needs Optuna: pip install optuna, or leave --search out to try a grid.")


@dataclass
class Sweep:
    """What all runs have in common."""

    args: SweepArguments
    training_args: DistillationTrainingArguments
    data: ImageData
    evaluated_on: str
    groups: ClassGroups
    metric: str  # that a search maximises
    teacher: PreTrainedModel | None
    views: int
    folder: Path
    cache_folder: Path
    cache: TeacherCache | None = None


def main():
    if "--report_only" in sys.argv:  # needs no images
        parser = HfArgumentParser((SweepArguments, DistillationTrainingArguments))
        _, training_args, _ = parser.parse_args_into_dataclasses(return_remaining_strings=True)
        return report(Path(training_args.output_dir))
    parser = HfArgumentParser((SweepArguments, DataArguments, DistillationTrainingArguments))
    if len(sys.argv) == 2 and sys.argv[1].endswith((".yaml", ".yml")):
        args, data_args, training_args = parser.parse_yaml_file(sys.argv[1])
    else:
        args, data_args, training_args = parser.parse_args_into_dataclasses()
    if training_args.world_size > 1:
        raise ValueError(
            "A process of a sweep trains one student after the other: instead of torchrun or accelerate launch, start "
            "the same command once per GPU, each with its CUDA_VISIBLE_DEVICES; they share the runs."
        )
    sweep = load_sweep(args, data_args, training_args)
    runs = plan_runs(sweep)
    keep_settings(sweep)
    missing = runs if args.search else missing_runs(sweep.folder, runs)
    describe(sweep, runs, missing)
    if any(LOSSES[run["loss"]].needs_teacher and not LOSSES[run["loss"]].needs_hidden_states for run in missing):
        sweep.cache = build_cache(sweep)
    if args.search:
        search(sweep, runs[0])
    else:
        train_all(sweep, missing)
    report(sweep.folder)


# ---- Before the work ----


def load_sweep(args: SweepArguments, data_args: DataArguments, training_args: DistillationTrainingArguments) -> Sweep:
    """Teacher and images; the students see the very pixels that the teacher was trained on."""
    teacher = None if args.teacher is None else load_classifier(args.teacher)
    processor = None if args.teacher is None else load_processor(args.teacher)
    options: dict[str, Any] = {"seed": training_args.seed, **normalisation(processor)}
    if args.evaluate_on == "test":
        data, holdout = load_or_hold_out(data_args, share=args.eval_share, **options)
    else:
        full, column, seed = load_splits(data_args)["train"], data_args.label_column, data_args.split_seed
        train, held_out, holdout = hold_out(full, label_column=column, share=args.eval_share, seed=seed)
        splits = DatasetDict({"train": train, "held_out": held_out})
        data = load_image_data(replace(data_args, eval_split="held_out"), splits=splits, **options)
    if teacher is not None:
        check_classes(teacher, args.teacher, data)
    evaluated_on = f"{len(data.test):,} test images"
    if holdout is not None:
        evaluated_on = f"{len(data.test):,} held-out training images, {holdout.per_class} of each class"
    off: dict[str, Any] = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    training_args = replace(training_args, push_to_hub=False, **off)
    views = args.teacher_cache_views or math.ceil(epochs_of(training_args, len(data.train)))
    groups, folder = make_groups(data), Path(training_args.output_dir)
    metric = (training_args.metric_for_best_model or "accuracy").removeprefix("eval_")
    metrics = ["accuracy", *(f"{name}_accuracy" for name in groups.names)]
    if metric not in metrics:
        raise ValueError(f"--metric_for_best_model {metric} is not measured: use one of {', '.join(metrics)}.")
    cache_folder = Path(args.teacher_cache or folder / "teacher_logits")
    return Sweep(args, training_args, data, evaluated_on, groups, metric, teacher, views, folder, cache_folder)


def plan_runs(sweep: Sweep) -> list[Run]:
    """All runs, seed by seed; a search starts from the first."""
    args, groups = sweep.args, sweep.groups
    given = {name: [value] for name, value in parse_values("--loss_args", args.loss_args).items()}
    given |= parse_grid(args.grid)
    known = {loss: create_loss(loss, groups).hyper_parameters() for loss in args.losses}
    for name in given:
        if not any(name in arguments for arguments in known.values()):
            theirs = ", ".join(dict.fromkeys(itertools.chain(*known.values())))
            raise ValueError(f"{', '.join(known)} have no argument {name!r}: use any of {theirs}.")
    settings = []
    for loss in known:
        own = {name: values for name, values in given.items() if name in known[loss]}
        for values in itertools.product(*own.values()):
            made = create_loss(loss, groups, **dict(zip(own, values, strict=True)))
            settings.append({"loss": loss, "loss_args": as_json(made.hyper_parameters())})
    return [{**setting, "seed": seed} for seed in dict.fromkeys(args.seeds) for setting in settings]


def parse_grid(items: list[str]) -> dict[str, list[Any]]:
    """`["alpha=1,6", "beta=2"]` as `{"alpha": [1, 6], "beta": [2]}`."""
    return {
        name: [parse_values("--grid", [f"{name}={value}"])[name] for value in str(values).split(",")]
        for name, values in parse_values("--grid", items).items()
    }


def keep_settings(sweep: Sweep) -> None:
    """Writes what all runs have in common; refuses if those in the folder were made with something else."""
    training = public_arguments(sweep.training_args)
    settings = {
        "student": sweep.args.student,
        "teacher": None if sweep.teacher is None else teacher_fingerprint(sweep.teacher),
        "teacher_cache_views": sweep.views,
        "teacher_cache_dtype": sweep.args.teacher_cache_dtype,
        "train_images": sweep.data.train.fingerprint,
        "evaluated_on": sweep.evaluated_on,
        "eval_images": sweep.data.test.fingerprint,
        "train_batch_size": sweep.training_args.train_batch_size,
        **{name: training[name] for name in TRAINING},
        "groups": sweep.groups.to_dict(),
    }
    before = read_settings(sweep.folder)
    for name, value in as_json(settings).items():
        if before is not None and before[name] != value:
            old, new = (textwrap.shorten(str(v), 200) for v in (before[name], value))
            raise ValueError(
                f"The runs in {str(sweep.folder)!r} were made with {name} {old}, not with {new}: use what they were "
                "made with, or choose another --output_dir."
            )
    write_json(sweep.folder / "settings.json", settings)


def describe(sweep: Sweep, runs: list[Run], missing: list[Run]) -> None:
    """Says what is to be done and how long it will take, from the finished runs or from a few real steps."""
    images, number = len(sweep.data.train), sweep.args.search or len(missing)
    say("Images", f"{images:,} to train on; evaluated on {sweep.evaluated_on}")
    if sweep.args.search:
        say("Search", f"{number} trials of {runs[0]['loss']} in {' '.join(sweep.args.grid)}")
    else:
        counts = [f"{sum(run['loss'] == loss for run in runs)} of {loss}" for loss in dict.fromkeys(sweep.args.losses)]
        say("Runs", f"{len(runs)} ({', '.join(counts)}): {len(runs) - number} exist, {number} to do")
    if not missing:
        return
    num_bytes = images * sweep.views * sweep.groups.num_classes * np.dtype(sweep.args.teacher_cache_dtype).itemsize
    say("Cache", f"{size(num_bytes)} ({sweep.views} views of each image) in {str(sweep.cache_folder)!r}")
    finished = [line["seconds"] for line in read_lines(sweep.folder / "results.jsonl")]
    if finished:
        seconds, source = statistics.median(finished), "the median of those that exist"
    else:
        loss = create_loss(missing[0]["loss"], sweep.groups, **missing[0]["loss_args"])
        student = new_classifier(sweep.args.student, sweep.data)
        times = estimate(student, sweep.teacher, loss, sweep.data.train, sweep.training_args)
        seconds, source = times.training(loss.needs_hidden_states), "from a few real steps, without the evaluation"
    say("Time", f"about {duration(seconds)} a run ({source}), {duration(seconds * number)} in all")


def build_cache(sweep: Sweep) -> TeacherCache:
    """The teacher's logits; of several processes the first one asks for them, and the others wait."""
    sweep.cache_folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{sweep.cache_folder}.lock"):
        return TeacherCache.build(
            sweep.cache_folder,
            sweep.teacher,
            sweep.data.train,
            views=sweep.views,
            dtype=sweep.args.teacher_cache_dtype,
            batch_size=sweep.training_args.per_device_train_batch_size,
            num_workers=sweep.training_args.dataloader_num_workers,
        )


# ---- The runs ----


def train_all(sweep: Sweep, runs: list[Run]) -> None:
    """Trains one student after the other, but those that another process trains."""
    left_out = []
    for number, run in enumerate(runs, 1):
        name = f"{describe_setting(run, runs, sweep.groups)}, seed {run['seed']}"
        digest = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]
        lock = sweep.folder / "locks" / digest
        lock.parent.mkdir(exist_ok=True)
        try:
            with FileLock(lock, timeout=0):  # it ends with the process, also if that is killed
                if not missing_runs(sweep.folder, [run]):
                    continue
                set_seed(run["seed"])
                trainer = make_trainer(sweep, run, model=new_classifier(sweep.args.student, sweep.data))
                trainer.train()
                line = add_result(sweep.folder / "results.jsonl", run, trainer, trainer.evaluate())
        except (Timeout, FloatingPointError) as error:
            reason = "another process trains it" if isinstance(error, Timeout) else str(error)
            left_out.append(f"{name}: {reason}")
        else:
            values = (
                f"{100 * value:.1f} {metric.removesuffix('_accuracy')}" for metric, value in line["metrics"].items()
            )
            say(f"{number} of {len(runs)}", f"{name}: {', '.join(values)} ({line['seconds']:.0f} s)")
    if left_out:
        say("Left out", *left_out)


def make_trainer(sweep: Sweep, run: Run, **student: Any) -> DistillationTrainer:
    """The trainer of a run; `student` is `model=` or `model_init=`."""
    loss = create_loss(run["loss"], sweep.groups, **run["loss_args"])
    source = sweep.teacher if loss.needs_hidden_states else sweep.cache
    trainer = DistillationTrainer(
        teacher_model=source if loss.needs_teacher else None,
        args=replace(sweep.training_args, seed=run["seed"]),
        distillation_loss=loss,
        train_dataset=sweep.data.train,
        eval_dataset=sweep.data.test,
        compute_metrics=group_accuracy(sweep.groups),
        **student,
    )
    trainer.remove_callback(PrinterCallback)  # a line a run is enough
    return trainer


def add_result(path: Path, run: Run, trainer: DistillationTrainer, metrics: dict[str, float]) -> Run:
    """Adds a finished run to the file, whole or not at all, and beside those of other processes."""
    training = [entry["train_runtime"] for entry in trainer.state.log_history if "train_runtime" in entry]
    line = {
        **run,
        "metrics": without_prefix(metrics, trainer.class_groups),
        "class_accuracy": trainer.evaluation["class_accuracy"],
        "seconds": training[-1] + metrics["eval_runtime"],
        "device": trainer.args.device.type,
        "versions": {module.__name__: module.__version__ for module in (hf_ltkd, transformers, torch)},
    }
    with FileLock(f"{path}.lock"):
        write_text(path, "".join(json.dumps(each) + "\n" for each in [*read_lines(path), line]))
    return line


def search(sweep: Sweep, run: Run) -> None:
    """`Trainer.hyperparameter_search` with Optuna; earlier trials of the same search count."""
    import optuna  # here, because it is optional

    space, metric = parse_grid(sweep.args.grid), sweep.metric

    def choose(trial: optuna.Trial, name: str, values: list[Any]) -> Any:
        if not all(type(value) in (int, float) for value in values):
            return trial.suggest_categorical(name, values)
        return trial.suggest_float(name, min(values), max(values), log=min(values) > 0)

    # The Trainer's search sets TrainingArguments alone: the trial's loss is made with its student.
    def model_init(trial=None):
        if trial is not None:  # the constructor makes a student, too
            chosen = {name: choose(trial, name, values) for name, values in space.items()}
            trainer.distillation_loss = create_loss(run["loss"], sweep.groups, **{**run["loss_args"], **chosen})
        return new_classifier(sweep.args.student, sweep.data)

    def objective(metrics: dict[str, float]) -> float:
        tried = {**run, "loss_args": as_json(trainer.distillation_loss.hyper_parameters())}
        add_result(sweep.folder / "search.jsonl", tried, trainer, metrics)
        return metrics[f"eval_{metric}"]

    study: dict[str, Any] = {
        "study_name": " ".join([run["loss"], f"seed={run['seed']}", metric, *sweep.args.loss_args, *sweep.args.grid]),
        "storage": f"sqlite:///{sweep.folder.absolute() / 'search.db'}",
        "load_if_exists": True,
        "direction": "maximize",
    }
    done = len(optuna.create_study(**study).get_trials(states=[optuna.trial.TrialState.COMPLETE]))
    trainer = make_trainer(sweep, run, model_init=model_init)
    best = trainer.hyperparameter_search(
        **study,
        backend="optuna",
        n_trials=max(0, sweep.args.search - done),
        sampler=optuna.samplers.TPESampler(seed=run["seed"] + done),  # not the first points once more
        hp_space=lambda trial: {},
        compute_objective=objective,
        catch=(FloatingPointError,),
    )
    found = " ".join(f"{name}={short(value)}" for name, value in best.hyperparameters.items())
    say("Best", f"{metric} {100 * best.objective:.1f} with {found}; now with several seeds: --grid {found}")


if __name__ == "__main__":
    main()
