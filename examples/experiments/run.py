"""Runs a table or figure of the paper: plans, trains teachers, then students, and notes each result.

python examples/paper/reproduce.py --table 1 --pairs resnet32x4:resnet8x4 --gammas 100 --output_dir paper_runs
python examples/paper/reproduce.py --recipe reduced.yaml --data_dir cifar100_files/cifar100 --output_dir reduced_runs

There is one teacher for each network and imbalance factor, which teaches the students of all seeds (the paper does not
say how many it has). Its logits are asked once and kept; methods on features ask the teacher itself. Each finished run
adds one line to OUTPUT_DIR/results.jsonl: accuracies of the last epoch, without a selection by test accuracy. The same
command goes on after it was stopped, from the last checkpoint of what was being trained, and never repeats a finished
run. Started several times, or by `torchrun --nproc_per_node 8` or `accelerate launch`, the processes share the runs,
one run and one GPU each (several may share a GPU); a process that dies leaves its run to the others.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock, Timeout
from recipes import (
    NEUTRAL,
    Cell,
    Run,
    digest,
    find_recipe,
    kind_of,
    load_recipe,
    plan,
    read_lines,
    read_rates,
    split_overrides,
    work_of,
)
from runs import Job, make_loss, measure_group_mass, run_folder, train

from hf_ltkd import create_model
from hf_ltkd.data import ImageDataset, long_tailed_counts
from hf_ltkd.estimate import estimate
from hf_ltkd.report import duration, say
from hf_ltkd.utils import describe_machine


def main():
    rank = take_one_gpu()
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    args = parse_arguments()
    recipe = load_recipe(find_recipe(args.table, args.figure, args.recipe))
    overrides, neutral = split_overrides(args.training)
    cells = plan(recipe, overrides, pairs=args.pairs, factors=args.gammas, methods=args.methods, seeds=args.seeds)
    job = Job(recipe, overrides, neutral, args.data_dir, args.data_device, Path(args.output_dir))
    if rank == 0:
        describe(job, cells)
    if not args.dry_run:
        work(job, cells)


def parse_arguments() -> argparse.Namespace:
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--table", type=int, help="A table of the paper, 1 to 6.")
    add("--figure", type=int, help="A figure of the paper, 3 to 5.")
    add("--recipe", help="Or a recipe: a YAML file of one's own, or of the folder of this script.")
    add("--pairs", nargs="+", metavar="TEACHER:STUDENT", help="Instead of the recipe's pairs.")
    add("--gammas", nargs="+", type=float, help="Instead of the recipe's imbalance factors.")
    add("--methods", nargs="+", help="Some of the recipe's methods.")
    add("--seeds", nargs="+", type=int, help="Instead of the recipe's seeds of the students.")
    add("--data_dir", help="Folder of the images, as in DataArguments; without it they come from the Hub.")
    add("--data_device", help="Where images are kept in memory (default: on the GPU, if there is one).")
    add("--output_dir", required=True, help="For results, teachers and what is unfinished.")
    add(
        "--training",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="Training arguments that win over the recipe's, for teachers and students, e.g. num_train_epochs=3: "
        "another protocol, whose results the report keeps apart. These change the speed alone: " + ", ".join(NEUTRAL),
    )
    add("--torch_compile", action="store_true", help="As --training torch_compile=true.")
    add("--dry_run", action="store_true", help="Say what would be run and what it would cost, and run nothing.")
    args = parser.parse_args()
    if args.torch_compile:
        args.training.append("torch_compile=true")
    return args


def take_one_gpu() -> int:
    """Makes this a process of its own with one GPU: those of a launcher share the runs, not the batches of one."""
    rank, local_rank = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
    for name in [*os.environ]:
        if name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") or name.startswith(
            ("LOCAL_", "TORCHELASTIC_")
        ):
            del os.environ[name]
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count())))).split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[local_rank % len(gpus)]
    return rank


# ---- The work ----


def work(job: Job, cells: list[Cell]) -> None:
    """Does what is missing and not being done by another process, until nothing is missing."""
    while True:
        done = finished(job)
        missing = [cell for cell in cells if digest(cell.run) not in done]
        if not missing:
            return
        if not any([do(job, cell) for cell in missing]):
            time.sleep(5)  # another process is at work on what is left, or on the teacher that it needs


def finished(job: Job) -> set[str]:
    return {digest(line["run"]) for line in read_lines(job.results)}


def do(job: Job, cell: Cell) -> bool:
    """Does a run, unless it is done, being done elsewhere, or has to wait for its teacher; says whether it did it."""
    run, teacher = cell.run, cell.run["teacher"]
    lock = job.folder / "locks" / digest(run)
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):  # the system frees it when the process ends, also if that is killed
            done = finished(job)
            if digest(run) in done or (teacher is not None and digest(teacher) not in done):
                return False
            if run["role"] == "measure":
                result = measure_group_mass(job, run)
            else:
                result = train(job, run)
            add_line(job, cell, result)
    except Timeout:
        return False
    if run["role"] == "student":
        shutil.rmtree(run_folder(job, run), ignore_errors=True)
    say("Done", f"{describe_cell(cell)}: {describe_result(result)}")
    return True


def add_line(job: Job, cell: Cell, result: dict[str, Any]) -> None:
    """Adds a line to the results."""
    line = {
        "recipe": job.recipe["name"],
        "overrides": job.overrides,
        "method": cell.method,
        "pair": None if cell.student is None else f"{cell.teacher}:{cell.student}",
        "imbalance_factor": cell.imbalance_factor,
        "seed": cell.seed,
        "run": cell.run,
        **result,
    }
    append(job.results, [line])


def append(path: Path, lines: list[dict[str, Any]]) -> None:
    """Adds lines to a file, whole or not at all, and beside those of other processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        unfinished.write_text(text + "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        os.replace(unfinished, path)


# ---- The plan ----


def describe(job: Job, cells: list[Cell]) -> None:
    """Says which runs there are, which are done, and what the others will cost."""
    done = finished(job)
    missing = [cell for cell in cells if digest(cell.run) not in done]
    say("Recipe", f"{job.recipe['name']}: {job.recipe['title']}")
    if job.overrides:
        say("", f"with {job.overrides}: another protocol than the recipe's")
    say("Runs", f"{len(cells)}, of which {len(cells) - len(missing)} are done (their seeds in brackets)")
    for name in dict.fromkeys((cell.imbalance_factor, cell.teacher, cell.student) for cell in cells):
        runs: dict[str, list[str]] = {}  # seeds to do and, in brackets, done, to the methods that have them
        for method in dict.fromkeys(cell.method for cell in cells):
            some = [c for c in cells if (c.imbalance_factor, c.teacher, c.student, c.method) == (*name, method)]
            seeds = " ".join(str(c.seed) if c in missing else f"({c.seed})" for c in some)
            runs.setdefault(seeds, []).append(method)
        what = f"factor {name[0]:g}, {name[1]}" + (f" -> {name[2]}" if name[2] else "")
        parts = [f"seed {seeds} of {', '.join(methods)}" for seeds, methods in runs.items() if seeds]
        say("", f"{what}: {'; '.join(parts)}")
    if missing:
        describe_cost(job, missing)


def describe_cost(job: Job, missing: list[Cell]) -> None:
    """Images per second × the images that are to be trained on, or that a teacher is to be asked for."""
    work = work_of(job.recipe, [cell.run for cell in missing])
    if not work:
        return
    speeds = job.folder / "speeds.jsonl"
    run = next(iter(work.values()))[0]
    machine = describe_machine(job.training_arguments(run, job.folder).device.type)
    finished_rates = read_rates(read_lines(job.results), job.recipe["data"], machine)
    rates = read_rates(read_lines(speeds), job.recipe["data"], machine)
    seconds = 0.0
    for number, (kind, (run, images)) in enumerate(work.items()):
        if kind in finished_rates:
            rate, source = finished_rates[kind], "in finished runs"
        else:
            if kind not in rates:
                measured = measure_rates(job, run)
                rates |= measured
                lines = [
                    {"kind": name, "data": job.recipe["data"], "device": machine, "examples_per_second": value}
                    for name, value in measured.items()
                ]
                append(speeds, lines)
            rate, source = rates[kind], "in a few steps"
        seconds += images / rate
        what = f"{kind}: {rate:,.0f} images/s {source}, {duration(images / rate)} in all"
        say("" if number else "Speed", what)
    say("Cost", f"about {duration(seconds)} on one process here ({machine})")


def measure_rates(job: Job, run: Run) -> dict[str, float]:
    """Images per second of a run, and of its teacher being asked, on random images in memory."""
    args = job.training_arguments(run, job.folder)
    if args.device.type == "cpu":  # where larger batches are not faster, but may not fit
        batch = min(args.per_device_train_batch_size, 16)
        args = job.training_arguments(run, job.folder, per_device_train_batch_size=batch)
    data, classes, batch = job.data_arguments(run["imbalance_factor"]), job.recipe["classes"], args.train_batch_size
    images = torch.randint(0, 256, (2 * batch, 3, data.image_size, data.image_size), dtype=torch.uint8)
    normal: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.25] * 3, "padding": data.crop_padding, "augment": True}
    dataset = ImageDataset(images, torch.arange(2 * batch) % classes, device=data.data_device, **normal)
    counts = long_tailed_counts([job.recipe["images_per_class"]] * classes, run["imbalance_factor"])
    student = create_model(run["model"], classes, data.image_size)
    teacher = create_model(run["teacher"]["model"], classes, data.image_size) if run["teacher"] else None
    loss = make_loss(run, counts)
    times = estimate(student, teacher, loss, dataset, args, steps=3)
    live = teacher is not None and run["teacher_logits"] == "live"
    rates = {kind_of(run): batch / (times.student + times.images + (times.teacher if live else 0.0))}
    if teacher is not None and not live:
        rates[f"logits of {run['teacher']['model']}"] = batch / (times.teacher + times.images)
    return rates


def describe_cell(cell: Cell) -> str:
    networks = f"{cell.teacher} -> {cell.student}" if cell.student else cell.teacher
    return f"{cell.method}, {networks}, factor {cell.imbalance_factor:g}, seed {cell.seed}"


def describe_result(result: dict[str, Any]) -> str:
    if "metrics" not in result:
        return result.get("error", "measured")
    values = (f"{100 * value:.2f} {name.removesuffix('_accuracy')}" for name, value in result["metrics"].items())
    return f"{', '.join(values)} ({duration(result['seconds'])})"


if __name__ == "__main__":
    main()
