"""Runs an experiment: plans, trains teachers, then students, notes each result, and reports.

python examples/experiments/run.py --table 1 --pairs resnet32x4:resnet8x4 --imbalance_factors 100 --output_dir paper
python examples/experiments/run.py --experiment reduced.yaml --data_dir cifar100_files/cifar100 --output_dir reduced
python examples/experiments/run.py --losses ltkd kd ce --grid alpha=1,2,6 beta=1,6 --teacher teacher --student vgg8 \\
    --benchmark cifar100_lt --imbalance_factors 100 --training preset=paper --output_dir sweep

There is one teacher for each network and imbalance factor, which teaches the students of all seeds (the paper does not
say how many it has). Its logits are asked once and kept; methods on features ask the teacher itself. Each finished run
adds one line to OUTPUT_DIR/results.jsonl: accuracies of the last epoch, without a selection by test accuracy. The same
command goes on after it was stopped, from the last checkpoint of what was being trained, and never repeats a finished
run. Started several times, or by `torchrun --nproc_per_node 8` or `accelerate launch`, the processes share the runs,
one run and one GPU each (several may share a GPU); a process that dies leaves its run to the others.
"""

import argparse
import os
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from cost import describe
from experiment import NEUTRAL, check_training, find_experiment, load_experiment
from filelock import FileLock, Timeout
from job import Job, append
from methods import make_loss
from plan import Cell, adjusted, digest, plan
from report import write_report
from sweep import add_flags, make_sweep
from train import perform

from hf_ltkd import create_model
from hf_ltkd.cli.tables import duration
from hf_ltkd.cli.text import say
from hf_ltkd.data import DataArguments
from hf_ltkd.utils import parse_values
from hf_ltkd.workflow.inputs import is_pretrained


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    rank = take_one_gpu()
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    if args.losses:
        experiment, given = make_sweep(args), {}
    else:
        experiment = load_experiment(find_experiment(args.table, args.figure, args.experiment))
        given = check_training("--training", parse_values("--training", args.training))
    neutral = {name: value for name, value in given.items() if name in NEUTRAL}
    overrides = {name: value for name, value in given.items() if name not in NEUTRAL}
    where = {"pairs": args.pairs, "factors": args.imbalance_factors, "methods": args.methods, "seeds": args.seeds}
    cells = plan(experiment, overrides, **where)
    job = Job(experiment, overrides, neutral, args.data_dir, args.data_device, Path(args.output_dir))
    check(job, cells)
    if rank == 0:
        describe(job, cells)
    if not args.dry_run:
        work(job, cells)
        write_report([job.results], [] if args.losses else [experiment], job.folder)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--table", type=int, help="A table of the paper, 1 to 6.")
    add("--figure", type=int, help="A figure of the paper, 3 to 5.")
    add("--experiment", help="Or an experiment: a YAML file anywhere, or of the folder of this script.")
    add("--recipe", help=argparse.SUPPRESS)  # its name of before
    add("--pairs", nargs="+", metavar="TEACHER:STUDENT", help="Instead of the experiment's pairs.")
    add("--imbalance_factors", "--gammas", nargs="+", type=float, help="Instead of the experiment's.")
    add("--methods", nargs="+", help="Some of the experiment's methods.")
    add("--seeds", nargs="+", type=int, help="Instead of the experiment's seeds of the students.")
    add("--data_dir", help="Folder of the images, as in DataArguments; without it they come from the Hub.")
    add("--data_device", help="Where images are kept in memory (default: on the GPU, if there is one).")
    add("--output_dir", required=True, help="For results, the report, teachers and what is unfinished.")
    what = (
        "Training arguments that win over the experiment's, for teachers and students, e.g. num_train_epochs=3: "
        "another protocol, whose results the report keeps apart. These change the speed alone: "
    )
    add("--training", nargs="+", default=[], metavar="NAME=VALUE", help=what + ", ".join(NEUTRAL))
    add("--torch_compile", action="store_true", help="As --training torch_compile=true.")
    add("--dry_run", action="store_true", help="Say what would be run and what it would cost, and run nothing.")
    add_flags(parser)
    args = parser.parse_args(argv)
    if args.recipe is not None:
        warnings.warn("--recipe is now called --experiment.", FutureWarning, stacklevel=2)
        args.experiment = args.recipe
    if args.torch_compile:
        args.training.append("torch_compile=true")
    return args


def take_one_gpu() -> int:
    """Makes this a process of its own with one GPU: those of a launcher share the runs, not the batches of one."""
    rank, local_rank = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
    for name in [*os.environ]:
        if name in ("RANK", "WORLD_SIZE") or name.startswith(("MASTER_", "LOCAL_", "TORCHELASTIC_")):
            del os.environ[name]
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count())))).split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[local_rank % len(gpus)]
    return rank


def check(job: Job, cells: list[Cell]) -> None:
    """Makes each network, loss and training's arguments once, without weights and images, before anything runs."""
    size, seen = DataArguments(**job.data_fields, imbalance_factor=1).image_size, set()
    for run in (cell.run for cell in cells if cell.run["role"] != "measure"):
        if digest(run, seed=0, imbalance_factor=1.0) in seen:
            continue
        seen.add(digest(run, seed=0, imbalance_factor=1.0))
        job.training_arguments(run)
        make_loss(run, [1] * (job.experiment.classes or max(10, run["num_groups"])))
        if not is_pretrained(run["model"]):
            with torch.device("meta"):
                create_model(run["model"], 10, size)


# ---- The work ----


def work(job: Job, cells: list[Cell]) -> None:
    """Does what is missing and not being done by another process, until nothing is missing."""
    while True:
        done = job.finished()
        missing = [cell for cell in cells if digest(cell.run) not in done]
        if not missing:
            return
        if not any([do(job, cell, cells) for cell in missing]):
            time.sleep(5)  # another process is at work on what is left, or on the teacher that it needs


def do(job: Job, cell: Cell, cells: list[Cell]) -> bool:
    """Does a run, unless it is done, being done elsewhere, or has to wait for its teacher; says whether it did it."""
    teacher, planned = cell.run["teacher"], digest(cell.run)
    run = {name: value for name, value in cell.run.items() if name != "adjust_student"}  # which is scored in any case
    lock = job.folder / "locks" / digest(run)
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):  # the system frees it when the process ends, also if that is killed
            done = job.finished()
            waits = teacher is not None and teacher["role"] == "teacher" and digest(teacher) not in done
            if planned in done or waits:
                return False
            say(f"{cells.index(cell) + 1} of {len(cells)}", f"{describe_cell(cell)}: started")
            result = perform(job, run)
            line = {"experiment": job.experiment.name, "overrides": job.overrides, "pair": cell.pair}
            line |= {"imbalance_factor": cell.imbalance_factor, "seed": cell.seed}
            scores, lines = result.pop("adjusted", None) or {}, []  # none of a student that diverged
            for scored, of_it in ((run, {}), (adjusted(run), {**scores, "best_epoch": None})):
                method = next((other.method for other in cells if digest(other.run) == digest(scored)), None)
                if method is not None:
                    lines.append({**line, "method": method, "run": scored, **result, **of_it})
            append(job.results, lines)
    except Timeout:
        return False
    if run["role"] == "student":
        shutil.rmtree(job.run_folder(run), ignore_errors=True)
    say("Done", f"{describe_cell(cell)}: {describe_result(result)}")
    return True


def describe_cell(cell: Cell) -> str:
    networks = " -> ".join(filter(None, [cell.teacher, cell.student]))
    return f"{cell.method}, {networks}, factor {cell.imbalance_factor:g}, seed {cell.seed}"


def describe_result(result: dict[str, Any]) -> str:
    if "metrics" not in result:
        return result.get("error", "measured")
    known = {name: value for name, value in result["metrics"].items() if value is not None}
    values = (f"{100 * value:.2f} {name.removesuffix('_accuracy')}" for name, value in known.items())
    return f"{', '.join(values)} ({duration(result['seconds'])})"


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("HF_LTKD_TRACEBACK"):
            raise
        sys.exit(f"run.py: {' '.join(str(error).split())}")
