"""What the commands tell the user, as text."""

import math
import os
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from transformers.training_args import OptimizerNames

from ..analysis.bias import GroupReport
from ..data.holdout import Holdout
from ..data.images import ImageData
from ..groups import ClassGroups
from ..losses.base import DistillationLoss
from ..trainer.training_args import DistillationTrainingArguments
from ..utils import listed
from ..workflow.estimate import Estimate
from ..workflow.recommend import Recommendation


def say(title: str, *lines: str) -> None:
    """Prints lines under a title in the margin, on the main process alone."""
    if os.environ.get("RANK", "0") == "0":
        for row, line in enumerate(lines):
            start, margin = f"{'' if row else title:<12}", " " * 12
            wrapped = textwrap.wrap(line, 110, initial_indent=start, subsequent_indent=margin, break_long_words=False)
            print(*wrapped, sep="\n", flush=True)


def describe_images(data: ImageData, groups: ClassGroups) -> list[str]:
    """How many images and classes there are, and how long the tail is."""
    counts = np.array(data.split.class_counts)
    ratio, size = counts.max() / counts.min(), data.args.image_size
    lines = [
        f"{len(counts)} classes, {counts.sum():,} training images, used at {size} pixels (--image_size)",
        f"{counts.max():,} to {counts.min():,} images a class: imbalance ratio {ratio:.3g}",
    ]
    for group, name in enumerate(groups.names):
        members = counts[groups.group_of_class.numpy() == group]
        lines.append(
            f"{name:<8}{_number(len(members), 'class', 'classes'):>12}{_number(members.sum(), 'image'):>15}, "
            + (f"{members.max():,} to " if len(members) > 1 else "")
            + f"{members.min():,} a class"
        )
    rule = "equal parts of the classes by training count (--num_groups)"
    if groups.names == ("head", "medium", "tail"):
        rule = "33, 34 and 33 % of the classes by training count, as in the paper (--group_rule, --num_groups)"
        if data.args.group_rule == "thresholds":
            rule = "classes of more than 100, and of fewer than 20 training images (--group_rule)"
    lines.append(f"Groups: {rule}")
    lines += data.sources
    if ratio < 2:
        lines.append("There is hardly a tail: --loss kd is made for such data, LTKD has little to gain.")
    return lines


def describe_evaluation(data: ImageData, groups: ClassGroups, holdout: Holdout | None) -> list[str]:
    """What is evaluated on, and how far its figures can be trusted."""
    counts = np.bincount(data.test.labels.numpy(), minlength=groups.num_classes)
    if holdout is None:
        balanced = counts.min() == counts.max()
        each = (
            f"{counts.min()} of every class" if balanced else f"not balanced: {counts.min()} to {counts.max()} a class"
        )
        lines = [f"{counts.sum():,} images of the data's own split, {each}"]
    else:
        lines = holdout.describe(data.class_names)
    if holdout is None and counts.min() == 0:
        without = [name for name, count in zip(data.class_names, counts, strict=True) if count == 0]
        lines.append(f"Not evaluated are {len(without)} classes without an image there: {listed(without, 10)}")
    of_group = np.bincount(groups.group_of_class.numpy(), counts, groups.num_groups)
    for name, number in zip(groups.names, of_group, strict=True):
        if number == 0:
            lines.append(f"The {name} has no image there: its accuracy is not measured.")
    smallest = int(of_group[of_group > 0].min())
    lines.append(
        f"A group has {smallest:,} of them or more: one standard error of its accuracy is at most "
        f"{50 / math.sqrt(max(smallest, 1)):.1f} points"
    )
    if smallest < 100:
        lines.append("That is too few to tell good models apart: add a test split of more images, if you can.")
    return lines


def describe_bias(report: GroupReport, groups: ClassGroups) -> list[str]:
    """Whom a teacher favours, and how right it is."""
    total = sum(report.images)
    lines = []
    for name, share, images in zip(groups.names, report.probability, report.images, strict=True):
        accuracy = report.accuracy[f"{name}_accuracy"]
        said = "no test image: not measured" if accuracy is None else f"accuracy {accuracy:.1%}"
        lines.append(
            f"{name:<8}gets {share:>6.1%} of its probability for {images / total:>6.1%} of the images, {said}"
        )
    first, last = report.favour[0], report.favour[-1]
    if first is None or last is None:
        missing = groups.names[0] if first is None else groups.names[-1]
        return [*lines, f"Whether it is biased is not known: there is no test image of the {missing}."]
    due = f"the {groups.names[-1]} gets {last:.0%} of its due, the {groups.names[0]} {first:.0%}."
    if last >= 0.95:
        verdict = f"It is not biased against the {groups.names[-1]}: LTKD has little to correct."
    elif last >= 0.8:
        verdict = f"It is mildly biased: {due}"
    else:
        verdict = f"It is biased: {due}"
    return [*lines, verdict]


def share_table(shares: Mapping[str, Sequence[float]], groups: ClassGroups) -> list[str]:
    """What part of each loss is cross-group and within each group, one loss a row."""
    parts = ["between groups", *(f"within {name}" for name in groups.names)]
    width = max(map(len, [*shares, "part of the loss"])) + 2
    rows = [f"{'part of the loss':<{width}}" + "".join(f"{part:>{len(part) + 2}}" for part in parts)]
    for name, values in shares.items():
        cells = (f"{value:>{len(part) + 2}.1%}" for part, value in zip(parts, values, strict=True))
        rows.append(f"{name:<{width}}" + "".join(cells))
    return rows


def describe_start(*recommendations: Recommendation) -> list[str]:
    """Recommended values, and why."""
    return [
        f"{', '.join(f'{name} {value:g}' for name, value in recommendation.values.items())}: {recommendation.reason}"
        for recommendation in recommendations
    ]


def describe_estimate(times: Estimate, plain_student: bool, cache_bytes: int | None, views: int) -> list[str]:
    """How long the training takes, and whether a teacher cache would shorten it."""
    plain = times.training(with_teacher=False)
    lines = [
        f"about {duration(times.training())} to distil"
        + (f" and {duration(plain)} for the plain student" * plain_student),
        f"({times.batches:,} batches each; a batch took {1000 * times.images:.0f} ms to make, "
        f"{1000 * times.teacher:.0f} ms of the teacher, {1000 * times.student:.0f} ms of the student)",
    ]
    if cache_bytes is not None and views > 1:
        saved = times.asking_the_teacher
        few = math.ceil(views / 4)
        saved_now = duration(saved * (1 - few / views))
        lines += [
            f"A teacher cache (--teacher_cache FOLDER) with a view for each of {views} epochs would take "
            f"{size(cache_bytes)}, save nothing in this training and {duration(saved)} in each later one; with "
            f"--teacher_cache_views {few}, {size(cache_bytes * few / views)} and {saved_now} in this one.",
        ]
    return lines


def group_table(results: Mapping[str, Mapping[str, float | None]], groups: ClassGroups) -> list[str]:
    """Accuracy in percent, one model a row."""
    width = max(map(len, results)) + 2
    columns = [*groups.names, "all"]
    rows = [f"{'accuracy (%)':<{max(width, 14)}}" + "".join(f"{column:>9}" for column in columns)]
    for name, metrics in results.items():
        values = [metrics[f"{group}_accuracy"] for group in groups.names] + [metrics["accuracy"]]
        rows.append(f"{name:<{max(width, 14)}}" + "".join(f"{_percent(value):>9}" for value in values))
    return rows


def _percent(value: float | None) -> str:
    return "no image" if value is None else f"{100 * value:.1f}"


def changes(ours: Mapping[str, float | None], others: Mapping[str, float | None], groups: ClassGroups) -> str:
    """`+5.1 tail, -0.3 head` and so on, in points."""
    names = {**{group: f"{group}_accuracy" for group in groups.names}, "all": "accuracy"}
    both = {name: (ours[metric], others[metric]) for name, metric in names.items()}
    known = {name: a - b for name, (a, b) in both.items() if a is not None and b is not None}
    return ", ".join(f"{100 * difference:+.1f} {name}" for name, difference in known.items())


def describe_loss(loss: DistillationLoss) -> str:
    """The values in force; those of a cross-entropy with class counts only where it is one."""
    values = loss.hyper_parameters()
    hidden = {"ce", "tau", "effective_number_beta"} if loss.ce == "cross_entropy" else set()
    return ", ".join(f"{name} {value}" for name, value in values.items() if name not in hidden)


def describe_training(args: DistillationTrainingArguments) -> str:
    """The optimisation in one line."""
    length = f"{args.max_steps} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs"
    return (
        f"{length} in batches of {args.train_batch_size * args.world_size * args.gradient_accumulation_steps}, "
        f"{OptimizerNames(args.optim).value}, learning rate {args.learning_rate:g}, weight decay {args.weight_decay:g}"
    )


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`, `1,200 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:,.0f} days"


def size(num_bytes: float) -> str:
    """`4.2 MB`, `1.05 GB`."""
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.2f} GB"


def _number(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
