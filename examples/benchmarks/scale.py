"""How loss and step grow with the classes and the groups, and what a second rank brings.

python examples/benchmarks/scale.py --output_file scale.json --picture scale.png

Time and memory of `ltkd_loss` and `kl_div`, forward and backward, as in loss.py, and a step of `DistillationTrainer`
(`resnet8x2` to `resnet8`, 8 × 8 pixels, so that the classes weigh) as in step.py. Then steps of one rank and of two,
each rank with a batch of its own (weak scaling): two ranks should take as long for twice the examples. On a CPU each
rank gets one thread.
"""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from loss import Arguments as LossArguments
from loss import measure as measure_loss
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from step import Arguments as StepArguments
from step import Case
from step import measure as measure_step
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from hf_ltkd.utils import describe_machine, write_json


BATCH = 64
# Classes, groups
CLASSES = [(10, 3), (100, 3), (1000, 3), (10_000, 3), (100_000, 3)]
GROUPS = [(10_000, 3), (10_000, 10), (10_000, 30), (10_000, 100), (10_000, 300), (10_000, 1000)]
RANKS = Case("resnet20", "resnet8", 100, 16, 128, 20)


@dataclass
class Arguments:
    turns: int = field(default=3, metadata={"help": "Turns of each step and of each number of ranks."})
    device: str = field(default="cuda" if torch.cuda.is_available() else "cpu", metadata={"help": "cpu or cuda."})
    output_file: str | None = field(default=None, metadata={"help": "Where the figures go, as JSON."})
    picture: str | None = field(default=None, metadata={"help": "Where the plot goes."})
    ranks_only: bool = field(default=False, metadata={"help": "Leave out classes and groups."})
    one_rank: bool = field(default=False, metadata={"help": "Be a rank of the last part; started by this script."})


def main():
    args = HfArgumentParser(Arguments).parse_args_into_dataclasses()[0]
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    if args.one_rank:
        times = measure_step(RANKS, StepArguments(turns=1, device=args.device, threads=2), ["live teacher"])
        print(json.dumps(times["seconds"]["live teacher"]))
        return

    loss_args, step_args = LossArguments(turns=50, device=args.device), StepArguments(args.turns, device=args.device)
    rows = []
    sizes = [] if args.ranks_only else CLASSES + GROUPS[1:]
    for classes, groups in tqdm(sizes, desc="Sizes", leave=False):
        loss = measure_loss((BATCH, classes, groups), loss_args, ["kl_div", "ltkd_loss"])
        case = Case("resnet8x2", "resnet8", classes, 8, BATCH, 10, groups)
        step = measure_step(case, step_args, ["bare loop", "live teacher"])["seconds"]
        rows.append({**loss, "step_seconds": step})
    print(f"| classes, groups (batch {BATCH}) | ltkd_loss, ms | to kl_div | peak memory, logits | step, ms |")
    print("|---|---|---|---|---|")
    for row in rows:
        seconds = row["seconds"]
        print(
            f"| {row['classes']:,}, {row['groups']:,} | {1e3 * seconds['ltkd_loss']:.2f} | "
            f"{seconds['ltkd_loss'] / seconds['kl_div']:.2f} | {row['memory']['ltkd_loss']:.1f} | "
            f"{1e3 * row['step_seconds']['live teacher']:.1f} |"
        )

    ranks: dict[int, list[float]] = {1: [], 2: []}
    for _ in tqdm(range(args.turns), desc="Ranks", leave=False):
        for number, seconds in ranks.items():
            seconds.append(step_of_ranks(number, args.device))
    medians = {number: statistics.median(seconds) for number, seconds in ranks.items()}
    print(
        f"\n| ranks ({RANKS.teacher} → {RANKS.student}, batch {RANKS.batch} each) | examples per second | efficiency |"
    )
    print("|---|---|---|")
    for number, value in medians.items():
        print(f"| {number} | {number * RANKS.batch / value:.0f} | {medians[1] / value:.2f} |")
    machine = describe_machine(args.device)
    print(f"\n{machine}, one thread a rank, {args.turns} turns")
    if args.output_file:
        write_json(args.output_file, {"machine": machine, "sizes": rows, "ranks": ranks})
    if args.picture:
        draw(rows, args.picture)


def step_of_ranks(number: int, device: str) -> float:
    """Seconds of a step of so many ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(number)]
    command += [str(Path(__file__)), "--one_rank", "--device", device]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # torchrun sets it for several ranks alone
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return max(float(line) for line in run.stdout.splitlines())


def draw(rows: list[dict], path: str) -> None:
    figure = Figure(figsize=(11, 6), layout="constrained")
    FigureCanvasAgg(figure)
    parts = {"classes": [r for r in rows if r["groups"] == 3], "groups": [r for r in rows if r["classes"] == 10_000]}
    for row_of_axes, (key, part) in zip(figure.subplots(2, 3), parts.items(), strict=True):
        sizes = [r[key] for r in part]
        for name, color in (("ltkd_loss", "#d1495b"), ("kl_div", "0.6")):
            row_of_axes[0].plot(sizes, [1e3 * r["seconds"][name] for r in part], "o-", color=color, label=name)
            bytes_of_logits = [4 * r["batch"] * r["classes"] for r in part]
            memory = [r["memory"][name] * size / 1e6 for r, size in zip(part, bytes_of_logits, strict=True)]
            row_of_axes[1].plot(sizes, memory, "o-", color=color, label=name)
        for name, label, color in (
            ("live teacher", "DistillationTrainer", "#d1495b"),
            ("bare loop", "bare loop", "0.6"),
        ):
            row_of_axes[2].plot(sizes, [1e3 * r["step_seconds"][name] for r in part], "o-", color=color, label=label)
        fixed = "3 groups" if key == "classes" else f"{part[0]['classes']:,} classes"
        for axes, quantity in zip(row_of_axes, ("loss (ms)", "loss, peak memory (MB)", "step (ms)"), strict=True):
            axes.set(xscale="log", xlabel=f"{key} ({fixed}, batch {BATCH})", ylabel=quantity)
            axes.set_yscale("log") if key == "classes" else axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
