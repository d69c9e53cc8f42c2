"""What a step of the trainer costs beside a bare PyTorch loop, and what the teacher costs, live and cached.

python examples/benchmarks/step.py --output_file step.json

All loops train the same student on the same images with the same settings, and take turns. A figure is the median over
the steps of all turns, without the first steps of each. With one thread on a CPU (the default there) it is the CPU
time of the thread, which other work on the machine disturbs little; otherwise wall time. The images are random: a step
takes as long for any pixels. `Trainer` is Transformers' own with the bare loop's loss as its `compute_loss`: what it
needs more than the bare loop is not ours.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
import transformers
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import HfArgumentParser, Trainer, TrainerCallback, default_data_collator

from hf_ltkd import (
    ClassGroups,
    CrossEntropyLoss,
    DistillationTrainer,
    DistillationTrainingArguments,
    ImageDataset,
    LTKDLoss,
    TeacherCache,
    create_model,
    long_tailed_counts,
    ltkd_loss,
)
from hf_ltkd.utils import describe_machine, write_json


BARE, PLAIN, CACHED = "bare loop", "cross-entropy", "cached teacher"


@dataclass(frozen=True)
class Case:
    teacher: str
    student: str
    classes: int
    pixels: int
    batch: int
    steps: int  # of a turn that count
    groups: int = 3


CASES = [
    Case("resnet32x4", "resnet8x4", 100, 32, 64, 4),  # the paper's first pair
    Case("resnet20", "resnet8", 100, 16, 128, 25),  # the small run on CIFAR-100
    Case("resnet8x2", "resnet8", 10, 8, 32, 150),  # the digits of the quickstart, where overhead is all there is
]


@dataclass
class Arguments:
    cases: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Which of the three, by number."})
    loops: list[str] | None = field(default=None, metadata={"help": "Some of the loops, by name."})
    turns: int = field(default=5, metadata={"help": "Turns of each loop."})
    warm_up: int = field(default=3, metadata={"help": "Steps of a turn that do not count."})
    threads: int = field(default=1, metadata={"help": "Threads on a CPU."})
    device: str = field(default="cuda" if torch.cuda.is_available() else "cpu", metadata={"help": "cpu or cuda."})
    bfloat16: bool = field(default=False, metadata={"help": "A teacher in bfloat16 on a CPU too (slow on many)."})
    output_file: str | None = field(default=None, metadata={"help": "Where the figures go, as JSON."})


def main():
    args = HfArgumentParser(Arguments).parse_args_into_dataclasses()[0]
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    results = [measure(CASES[number], args, args.loops) for number in args.cases]

    print("| teacher → student, pixels, batch | loop | examples per second | to the bare loop | to cross-entropy |")
    print("|---|---|---|---|---|")
    for result in results:
        case, seconds = result["case"], result["seconds"]
        name = f"{case['teacher']} → {case['student']}, {case['pixels']}, {case['batch']}"
        for loop, value in seconds.items():
            ratios = [f"{seconds[other] / value:.3f}" if other in seconds else "" for other in (BARE, PLAIN)]
            print(f"| {name} | {loop} | {case['batch'] / value:.0f} | {' | '.join(ratios)} |")
    if args.loops is None:
        print("\n| teacher | its cache, examples per second | pays off after |\n|---|---|---|")
    for result in results if args.loops is None else []:
        build, seconds = result["build_seconds_per_batch"], result["seconds"]
        saved = seconds["live teacher"] - seconds["cached teacher"]
        pays = f"{build / saved:.2f} trainings of as many epochs as it has views" if saved > 0 else "never"
        print(f"| {result['case']['teacher']} | {result['case']['batch'] / build:.0f} | {pays} |")
    machine = describe_machine(args.device)
    print(f"\n{machine}, {args.threads} thread(s), {args.turns} turns")
    if args.output_file:
        write_json(args.output_file, {"machine": machine, "arguments": vars(args), "results": results})


def measure(case: Case, args: Arguments, names: list[str] | None = None) -> dict:
    """Seconds of a step of each loop (or of those with these names), and of asking the teacher for a batch."""
    now = time.thread_time if args.device == "cpu" and args.threads == 1 else time.perf_counter

    def teacher(dtype: torch.dtype = torch.float32, memory_format=torch.contiguous_format) -> nn.Module:
        torch.manual_seed(0)
        model = create_model(case.teacher, case.classes, image_size=case.pixels).eval().requires_grad_(False)
        return model.to(args.device, dtype, memory_format=memory_format)

    batches = args.warm_up + case.steps + 1
    generator = torch.Generator().manual_seed(0)
    shape = (batches * case.batch, 3, case.pixels, case.pixels)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, case.classes, shape[:1], generator=generator)
    data = ImageDataset(images, labels, mean=[0.5] * 3, std=[0.25] * 3, augment=True)
    groups = ClassGroups.from_counts(long_tailed_counts([500] * case.classes, 100), case.groups)
    ltkd, live = LTKDLoss(groups), teacher()

    def trainer(loss, teacher, trainer_class=DistillationTrainer, **training_args):
        return lambda student: trainer_loop(
            trainer_class, student, teacher, loss, data, case, args, now, **training_args
        )

    loops: dict[str, Callable[[nn.Module], Iterable[float]]] = {
        BARE: lambda student: bare_loop(student, live, groups, data, case, args, now),
        "live teacher": trainer(ltkd, live),
        "Trainer": trainer(ltkd, live, PlainTrainer),
        "live teacher, channels_last": trainer(ltkd, teacher(memory_format=torch.channels_last)),
        PLAIN: trainer(CrossEntropyLoss(), None),
    }
    if args.device == "cuda":
        loops["live teacher beside the student"] = trainer(ltkd, live, overlap_teacher=True)
    if args.device == "cuda" or args.bfloat16:
        loops["live teacher, bfloat16"] = trainer(ltkd, teacher(torch.bfloat16))
    build = None
    with tempfile.TemporaryDirectory() as folder:
        if names is None or CACHED in names:
            begin = now()
            cache = TeacherCache.build(
                folder, live, data, views=1, batch_size=case.batch, device=args.device, progress=False
            )
            build = (now() - begin) / batches
            loops[CACHED] = trainer(ltkd, cache)
        loops = {name: loops[name] for name in names or loops}
        times: dict[str, list[float]] = {name: [] for name in loops}
        for _ in tqdm(
            range(args.turns), desc=f"{case.teacher} -> {case.student}, {case.classes}, {case.groups}", leave=False
        ):
            for name, loop in loops.items():
                torch.manual_seed(0)
                student = create_model(case.student, case.classes, image_size=case.pixels).to(args.device)
                counted = list(loop(student))[args.warm_up :]
                times[name] += [end - start for start, end in zip(counted, counted[1:], strict=False)]
    return {
        "case": asdict(case),
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "build_seconds_per_batch": build,
    }


def bare_loop(student, teacher, groups, data, case: Case, args: Arguments, now) -> Iterable[float]:
    """The time at the end of each step."""
    student.train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for batch in DataLoader(data, batch_size=case.batch, shuffle=True, collate_fn=default_data_collator):
        pixels, labels = batch["pixel_values"].to(args.device), batch["labels"].to(args.device)
        with torch.no_grad():
            teacher_logits = teacher(pixels).logits
        student_logits = student(pixels).logits
        loss = F.cross_entropy(student_logits, labels) + ltkd_loss(student_logits, teacher_logits, groups)
        if not torch.isfinite(loss):  # every loop waits for its loss once a step, so a GPU is one step behind at most
            raise FloatingPointError("The loss is not finite.")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield now()


class PlainTrainer(Trainer):
    """Transformers' Trainer with the loss of the bare loop."""

    def __init__(self, student, teacher, args, *, distillation_loss, **kwargs):
        super().__init__(student, args, **kwargs)
        self.teacher, self.groups = teacher, distillation_loss.groups

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        with torch.no_grad():
            teacher_logits = self.teacher(inputs["pixel_values"]).logits
        logits = model(inputs["pixel_values"]).logits
        return F.cross_entropy(logits, inputs["labels"]) + ltkd_loss(logits, teacher_logits, self.groups)


class Stopwatch(TrainerCallback):
    def __init__(self, now: Callable[[], float]):
        self.now = now
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(self.now())


def trainer_loop(
    trainer_class, student, teacher, loss, data, case: Case, args: Arguments, now, **training_args
) -> list[float]:
    """The time at the end of each step."""
    stopwatch = Stopwatch(now)
    with tempfile.TemporaryDirectory() as folder:
        arguments = DistillationTrainingArguments(
            folder,
            preset="paper",
            per_device_train_batch_size=case.batch,
            num_train_epochs=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=args.device == "cpu",
            **training_args,
        )
        trainer = trainer_class(
            *(student, teacher, arguments), distillation_loss=loss, train_dataset=data, callbacks=[stopwatch]
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return stopwatch.ends


if __name__ == "__main__":
    main()
