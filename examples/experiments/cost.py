"""Which runs there are, which are done, and what the others will cost."""

from statistics import median
from typing import Any

import torch
from experiment import Experiment
from job import Job, append, read_json_lines
from methods import make_loss
from plan import Cell, Run, digest

from hf_ltkd import DistillationTrainingArguments, ImageDataset, LongTailSplit, long_tailed_counts
from hf_ltkd.cli.tables import duration
from hf_ltkd.cli.text import say
from hf_ltkd.data import DataArguments, ImageData
from hf_ltkd.utils import describe_machine
from hf_ltkd.workflow.estimate import estimate
from hf_ltkd.workflow.inputs import Images, is_pretrained, make_groups, new_classifier
from hf_ltkd.workflow.plan import TrainingPlan
from hf_ltkd.workflow.recommend import epochs_of


def describe(job: Job, cells: list[Cell]) -> None:
    """Says which runs there are, which are done, and what the others will cost."""
    done = job.finished()
    missing = [cell for cell in cells if digest(cell.run) not in done]
    say("Experiment", f"{job.experiment.name}: {job.experiment.title}")
    if job.overrides:
        say("", f"with {job.overrides}: another protocol than the experiment's")
    say("Runs", f"{len(cells)}, of which {len(cells) - len(missing)} are done (their seeds in brackets)")
    for name in dict.fromkeys((cell.imbalance_factor, cell.teacher, cell.student) for cell in cells):
        runs: dict[str, list[str]] = {}  # seeds to do and, in brackets, done, to the methods that have them
        for method in dict.fromkeys(cell.method for cell in cells):
            some = [c for c in cells if (c.imbalance_factor, c.teacher, c.student, c.method) == (*name, method)]
            seeds = " ".join(str(c.seed) if c in missing else f"({c.seed})" for c in some)
            runs.setdefault(seeds, []).append(method)
        parts = [f"seed {seeds} of {', '.join(methods)}" for seeds, methods in runs.items() if seeds]
        say("", f"factor {name[0]:g}, {' -> '.join(filter(None, name[1:]))}: {'; '.join(parts)}")
    work = work_of(job.experiment, [cell.run for cell in missing], job)
    if not work:
        return
    speeds, data = job.folder / "speeds.jsonl", job.experiment.data
    machine = describe_machine(job.training_arguments(next(iter(work.values()))[0]).device.type)
    finished = read_rates(read_json_lines(job.results), data, machine)
    rates = read_rates(read_json_lines(speeds), data, machine)
    seconds = 0.0
    for number, (kind, (run, images)) in enumerate(work.items()):
        if kind not in finished | rates:
            measured = measure_rates(job, run)
            rates |= measured
            where = {"data": data, "device": machine}
            append(speeds, [{"kind": k, **where, "examples_per_second": v} for k, v in measured.items()])
        rate, source = (rates | finished)[kind], "in finished runs" if kind in finished else "in a few steps"
        seconds += images / rate
        what = f"{kind}: {rate:,.0f} images/s {source}, {duration(images / rate)} in all"
        say("" if number else "Speed", what)
    say("Cost", f"about {duration(seconds)} on one process here ({machine})")


def kind_of(run: Run) -> str:
    """Runs of one kind train equally many images a second, but for small differences between losses on logits."""
    kind = f"{run['role']} {run['model']}"
    if run["teacher"] is not None and run["teacher_logits"] == "live":
        kind += f" by {run['loss']} from {run['teacher']['model']}"
    elif run["teacher"] is not None:
        kind += " by logits"
    return f"{kind}, batch {run['training'].get('per_device_train_batch_size', 'of the preset')}"


def work_of(experiment: Experiment, runs: list[Run], job: Job | None = None) -> dict[str, tuple[Run, float]]:
    """
    The images that runs train on, by kind, each kind with one of its runs. A kind `logits of ...` is the images that a
    teacher is asked for, once for all students; they are counted with the teacher's own run. `job` loads the images
    where the experiment does not say how many there are.
    """
    work: dict[str, tuple[Run, float]] = {}
    new_teachers = {digest(run) for run in runs if run["role"] == "teacher"}
    new_teachers |= {digest(run["teacher"]) for run in runs if (run["teacher"] or {}).get("role") == "given"}
    for run in runs:
        if run["role"] == "measure":
            continue
        images = sum(counts_of(experiment, run, job))
        args = {"num_train_epochs": None, **run["training"]}
        images *= args["num_train_epochs"] or epochs_of(DistillationTrainingArguments(**run["training"]), images)
        kinds = [kind_of(run)]
        if run["teacher"] is not None and run["teacher_logits"] != "live" and digest(run["teacher"]) in new_teachers:
            new_teachers.remove(digest(run["teacher"]))
            kinds.append(f"logits of {run['teacher']['model']}")
        for kind in kinds:
            work[kind] = (run, work.get(kind, (run, 0.0))[1] + images)
    return work


def counts_of(experiment: Experiment, run: Run, job: Job | None) -> list[int]:
    """Training images per class."""
    if job is not None and not (experiment.classes and experiment.images_per_class):
        return job.images(run).data.split.class_counts
    full, rule = [experiment.images_per_class or 0] * (experiment.classes or 0), run["data"].get("split_rule", "paper")
    return long_tailed_counts(full, run["imbalance_factor"], rule)


def read_rates(lines: list[dict[str, Any]], data: dict[str, Any], machine: str) -> dict[str, float]:
    """Images per second by kind, in finished runs or from a few steps, on a machine and on such images."""
    rates: dict[str, list[float]] = {}
    for line in lines:
        run = line.get("run", line)
        if line.get("device") == machine and run["data"] == data and line.get("examples_per_second"):
            rates.setdefault(line.get("kind") or kind_of(run), []).append(line["examples_per_second"])
    return {kind: median(values) for kind, values in rates.items()}


def measure_rates(job: Job, run: Run) -> dict[str, float]:
    """Images per second of a run, and of its teacher being asked; on random images where its own are not needed."""
    args = job.training_arguments(run)
    if args.device.type == "cpu":  # where larger batches are not faster, but may not fit
        args = job.training_arguments(run, per_device_train_batch_size=min(args.per_device_train_batch_size, 16))
    names, batch = [run["model"], *([run["teacher"]["model"]] if run["teacher"] else [])], args.train_batch_size
    needs_images = not job.experiment.classes or "text_column" in run["data"] or any(map(is_pretrained, names))
    images = job.images(run) if needs_images else random_images(job, run, 2 * batch)
    student, teacher = [*(new_classifier(name, images.data) for name in names), None][:2]
    loss = make_loss(run, images.data.split.class_counts, images.groups)
    plan = TrainingPlan(name=run["model"], network=student, loss=loss, images=images, args=args, reason="")
    times = estimate(plan, teacher, steps=3)
    live = teacher is not None and run["teacher_logits"] == "live"
    rates = {kind_of(run): batch / (times.student + times.images + (times.teacher if live else 0.0))}
    if teacher is not None and not live:
        rates[f"logits of {run['teacher']['model']}"] = batch / (times.teacher + times.images)
    return rates


def random_images(job: Job, run: Run, number: int) -> Images:
    args = DataArguments(**job.data_fields, imbalance_factor=run["imbalance_factor"])
    counts, factor = counts_of(job.experiment, run, job), args.imbalance_factor
    pixels = torch.randint(0, 256, (number, 3, args.image_size, args.image_size), dtype=torch.uint8)
    normal: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.25] * 3}
    how = {"padding": args.crop_padding, "augment": True, "device": args.data_device}
    dataset = ImageDataset(pixels, torch.arange(number) % len(counts), **normal, **how)
    split, names = LongTailSplit(factor, 0, args.label_column, counts, counts), [*map(str, range(len(counts)))]
    data = ImageData(dataset, dataset, names, split, **normal, args=args, image_processor=None)  # type: ignore[arg-type]
    return Images(data, make_groups(data), None)
