"""What LTKD's loss costs beside torch's own `kl_div`, forward and backward.

python examples/benchmarks/loss.py --output_file loss.json

All losses get the same float32 logits and take turns in random order; a figure is the median of its turns, the first
left out. With one thread on a CPU (the default there) it is the CPU time of the thread, otherwise wall time. The floor
is `T² · kl_div(log_softmax(s / T), log_softmax(t / T), log_target=True)`. `--compiled` adds both compiled by
`torch.compile`, the fairer floor on a GPU. Memory is what is allocated at the peak beyond the two logits, in units of
one of them, the returned gradient included.
"""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from hf_ltkd import ClassGroups, dkd_loss, kd_loss, kl_decomposition, ltkd_loss
from hf_ltkd.utils import describe_machine, write_json


TEMPERATURE = 4.0
# Batch, classes, groups
SIZES = [(64, 100, 3), (128, 1000, 3), (256, 1000, 3), (64, 21_843, 3), (64, 100, 10), (64, 100, 100)]


@dataclass
class Arguments:
    turns: int = field(default=200, metadata={"help": "Turns of each loss; fewer for large sizes."})
    threads: int = field(default=1, metadata={"help": "Threads on a CPU."})
    device: str = field(default="cuda" if torch.cuda.is_available() else "cpu", metadata={"help": "cpu or cuda."})
    compiled: bool = field(default=False, metadata={"help": "Measure torch.compile's versions too."})
    shuffled: bool = field(default=False, metadata={"help": "Classes in any order instead of group by group."})
    output_file: str | None = field(default=None, metadata={"help": "Where the figures go, as JSON."})


def kl_floor(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = (x.div(TEMPERATURE).log_softmax(1) for x in (student, teacher))
    return TEMPERATURE**2 * F.kl_div(student, teacher, log_target=True, reduction="batchmean")


def plain_ltkd(student: Tensor, teacher: Tensor, groups: ClassGroups) -> Tensor:
    """Eq. 14 as one would write it first: from the public decomposition, with PyTorch's own gradient."""
    parts = kl_decomposition(student, teacher, groups, temperature=TEMPERATURE)
    student_cross = group_probs(student, groups).log()
    calibrated = (parts.teacher_group_probs / parts.teacher_group_probs.sum(0)).log()
    calibrated = calibrated.log_softmax(1)
    cross = F.kl_div(student_cross, calibrated, log_target=True, reduction="batchmean")
    return TEMPERATURE**2 * (6 * cross + 6 * parts.within.sum(1).mean())


def group_probs(logits: Tensor, groups: ClassGroups) -> Tensor:
    probs = logits.div(TEMPERATURE).softmax(1)
    return probs.new_zeros(len(probs), groups.num_groups).index_add(1, groups.group_of_class.to(probs.device), probs)


def losses_to_compare(groups: ClassGroups, labels: Tensor, compiled: bool) -> dict[str, Callable]:
    losses = {
        "kl_div": kl_floor,
        "kd_loss": kd_loss,
        "dkd_loss": lambda student, teacher: dkd_loss(student, teacher, labels),
        "LTKD, plain autograd": lambda student, teacher: plain_ltkd(student, teacher, groups),
        "ltkd_loss": lambda student, teacher: ltkd_loss(student, teacher, groups),
    }
    if compiled:
        losses["kl_div, compiled"] = torch.compile(kl_floor)
    return losses


def measure(size: tuple[int, int, int], args: Arguments, names: list[str] | None = None) -> dict:
    batch, classes, num_groups = size
    generator = torch.Generator().manual_seed(0)
    groups = ClassGroups.from_counts(range(classes, 0, -1), num_groups)
    if args.shuffled:
        groups = ClassGroups(groups.group_of_class[torch.randperm(classes, generator=generator)])
    student = torch.randn(batch, classes, generator=generator).to(args.device).requires_grad_()
    teacher = 3 * torch.randn(batch, classes, generator=generator).to(args.device)
    labels = torch.randint(0, classes, (batch,), generator=generator).to(args.device)
    losses = losses_to_compare(groups, labels, args.compiled)
    losses = {name: losses[name] for name in names or losses}
    clock = time.thread_time if args.device == "cpu" and args.threads == 1 else time.perf_counter

    def run(loss: Callable) -> float:
        student.grad = None
        if args.device == "cuda":
            torch.cuda.synchronize()
        begin = clock()
        loss(student, teacher).backward()
        if args.device == "cuda":
            torch.cuda.synchronize()
        return clock() - begin

    turns = max(10, min(args.turns, 2 * 10**8 // (batch * classes)))
    times: dict[str, list[float]] = {name: [] for name in losses}
    order = random.Random(0)
    for _ in range(turns + 3):
        for name in order.sample(list(losses), len(losses)):  # whoever comes before leaves other things in the caches
            times[name].append(run(losses[name]))
    seconds = {name: statistics.median(values[3:]) for name, values in times.items()}
    return {
        **{"batch": batch, "classes": classes, "groups": num_groups, "turns": turns, "seconds": seconds},
        "memory": {name: peak_memory(lambda loss=loss: run(loss), student) for name, loss in losses.items()},
    }


def peak_memory(run: Callable, logits: Tensor) -> float:
    """Bytes allocated at the peak of a run beyond what was allocated before, in units of the logits."""
    logits.grad = None
    if logits.is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - before) / logits.nbytes
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate(change for _, change in changes)) / logits.nbytes


def main():
    args = HfArgumentParser(Arguments).parse_args_into_dataclasses()[0]
    torch.set_num_threads(args.threads)
    comparison = [measure(size, args) for size in tqdm(SIZES, desc="Losses", leave=False)]

    print("| batch × classes, groups |" + "".join(f" {name} |" for name in comparison[0]["seconds"]))
    print("|---|" + "---|" * len(comparison[0]["seconds"]))
    for result in comparison:
        floor = result["seconds"]["kl_div"]
        cells = [
            f"{value / floor:.2f}" if value != floor else f"{1e6 * value:.0f} µs"
            for value in result["seconds"].values()
        ]
        print(f"| {result['batch']} × {result['classes']}, {result['groups']} | " + " | ".join(cells) + " |")
    print("\n| peak memory, in logits |" + "".join(f" {name} |" for name in comparison[0]["memory"]))
    print("|---|" + "---|" * len(comparison[0]["memory"]))
    for result in comparison:
        cells = [f"{value:.1f}" for value in result["memory"].values()]
        print(f"| {result['batch']} × {result['classes']}, {result['groups']} | " + " | ".join(cells) + " |")
    if args.device == "cuda":
        print_bandwidth(comparison)
    machine = describe_machine(args.device)
    print(f"\n{machine}, {args.threads} thread(s), float32, temperature {TEMPERATURE:g}")
    if args.output_file:
        write_json(args.output_file, {"machine": machine, "arguments": vars(args), "results": comparison})


def print_bandwidth(results: list[dict]) -> None:
    """What of the card's bandwidth the loss reaches: it reads both logits twice and writes one gradient."""
    source = torch.empty(2**28, device="cuda")
    target = torch.empty_like(source)
    copies = []
    for _ in range(20):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        copies.append(time.perf_counter() - begin)
    copy = 2 * source.nbytes / statistics.median(copies)
    print("\n| batch × classes, groups | bandwidth of ltkd_loss, GB/s | to a copy's |\n|---|---|---|")
    for result in results:
        reached = 5 * 4 * result["batch"] * result["classes"] / result["seconds"]["ltkd_loss"]
        size = f"{result['batch']} × {result['classes']}, {result['groups']}"
        print(f"| {size} | {reached / 1e9:.0f} | {reached / copy:.2f} |")


if __name__ == "__main__":
    main()
