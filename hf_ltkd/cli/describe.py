"""What is found, chosen and measured, as lines of text."""

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers.training_args import OptimizerNames

from ..groups import ClassGroups
from ..utils import listed
from ..workflow.estimate import Estimate
from ..workflow.images import Images
from ..workflow.plan import DistillationLoss, DistillationTrainingArguments, DistillPlan, GroupReport, TrainingPlan
from ..workflow.recommend import SKEWED, Recommendation
from ..workflow.scenes import Scenes
from ..workflow.tune import OBJECTIVE, Tuning, seconds_of_tuning, steps_of_trial
from .scenes import describe_scene_evaluation, describe_scenes
from .tables import duration, number, size


def describe_images(images: Images) -> list[str]:
    """How many images and classes there are, and how long the tail is."""
    if isinstance(images, Scenes):
        return describe_scenes(images)
    groups, args = images.groups, images.data.args
    counts = np.array(images.data.split.class_counts)
    ratio = counts.max() / counts.min()
    lines = [
        f"{len(counts)} classes, {counts.sum():,} training images, used at {args.image_size} pixels (--image_size)",
        f"{counts.max():,} to {counts.min():,} images a class: imbalance ratio {ratio:.3g}",
    ]
    for group, name in enumerate(groups.names):
        members = counts[groups.group_of_class.numpy() == group]
        lines.append(
            f"{name:<8}{number(len(members), 'class', 'classes'):>12}{number(members.sum(), 'image'):>15}, "
            + (f"{members.max():,} to " if members.max() > members.min() else "")
            + f"{members.min():,} a class"
        )
    rule = "equal parts of the classes by training count (--num_groups)"
    if groups.names == ("head", "medium", "tail"):
        rule = "33, 34 and 33 % of the classes by training count, as in the paper (--group_rule, --num_groups)"
        if args.group_rule == "thresholds":
            rule = "classes of more than 100, and of fewer than 20 training images (--group_rule)"
    lines.append(f"Groups: {rule}")
    lines += images.data.sources
    if ratio < SKEWED:
        lines.append("There is hardly a tail: --loss kd is made for such data, LTKD has little to gain.")
    return lines


def describe_evaluation(images: Images) -> list[str]:
    """What is evaluated on, and how far its figures can be trusted."""
    if isinstance(images, Scenes):
        return describe_scene_evaluation(images)
    data, groups, holdout = images.data, images.groups, images.holdout
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
    for name, images_of_group in zip(groups.names, of_group, strict=True):
        if images_of_group == 0:
            lines.append(f"The {name} has no image there: its accuracy is not measured.")
    smallest = int(of_group[of_group > 0].min())
    lines.append(
        f"A group has {smallest:,} of them or more: one standard error of its accuracy is at most "
        f"{50 / math.sqrt(max(smallest, 1)):.1f} points"
    )
    if smallest < 100:
        lines.append("That is too few to tell good models apart: add a test split of more images, if you can.")
    return lines


def describe_unseen(plan: DistillPlan) -> list[str]:
    """A caution, unless the teacher is known to be trained without the images that are held out here."""
    if plan.images.holdout is None or plan.teacher is None:
        return []
    if plan.unseen:
        return ["The teacher was trained without them."]
    return [
        "If the teacher was trained on these images, its accuracy here flatters it: train it with the same split by "
        "hf-ltkd train-teacher, or give a test split."
    ]


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
    if report.answers.at_chance:
        return [*lines, f"{report.answers.describe()} Whether it is biased cannot be told: use another teacher."]
    due = f"the {groups.names[-1]} gets {last:.0%} of its due, the {groups.names[0]} {first:.0%}."
    if last >= 0.95:
        verdict = f"It is not biased against the {groups.names[-1]}: LTKD has little to correct."
    elif last >= 0.8:
        verdict = f"It is mildly biased: {due}"
    else:
        verdict = f"It is biased: {due}"
    return [*lines, verdict]


def describe_start(recommendation: Recommendation) -> str:
    """Recommended values, and why."""
    values = ", ".join(f"{n} {v}" if isinstance(v, str) else f"{n} {v:g}" for n, v in recommendation.values.items())
    return f"{values}: {recommendation.reason}"


def describe_loss(loss: DistillationLoss) -> str:
    """The values in force."""
    values = loss.used_hyper_parameters()
    return ", ".join(f"{name} {value}" for name, value in values.items() if value != "cross_entropy")


def describe_training(plan: TrainingPlan) -> list[str]:
    """The optimisation in one line, and why it is so."""
    args: DistillationTrainingArguments = plan.args
    length = f"{args.max_steps} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs"
    batch = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    line = (
        f"{length} in batches of {batch}, {OptimizerNames(args.optim).value}, learning rate {args.learning_rate:g}, "
        f"weight decay {args.weight_decay:g}"
    )
    lines = [line, f"(recommended: {plan.reason}; what you set wins)"] if plan.reason else [line]
    if args.load_best_model_at_end:
        where = "the images that are reported, which flatters it" if plan.validation is None else "validation images"
        lines.append(f"Of the checkpoints the best by {args.metric_for_best_model} is kept, chosen on {where}.")
    return lines


def describe_search(plan: DistillPlan) -> list[str]:
    """What `--tune` will do."""
    if not plan.space or plan.validation is None:
        return []
    ends = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in plan.space.items())
    lines = [
        f"{plan.choices.tune} short trainings of {steps_of_trial(plan):,} steps or fewer, from the teacher's cached "
        f"logits ({plan.choices.teacher_cache}), choose {ends}, by {OBJECTIVE}; the test images are not looked "
        "at. The first has the values above."
    ]
    images = plan.validation.labels.bincount(minlength=plan.images.groups.num_classes)
    missing = int((images == 0).sum())
    if missing:
        lines.append(f"{number(missing, 'class', 'classes')} without a validation image have no say in it.")
    return lines


def describe_seeds(plan: DistillPlan) -> list[str]:
    """What `--seeds` will do."""
    if plan.choices.seeds is None:
        return []
    last, cached = plan.args.seed + plan.choices.seeds - 1, plan.choices.teacher_cache is not None
    what = "initial weights and the order of the images" + ("" if cached else ", and their augmentation")
    return [
        f"{plan.args.seed} to {last}: {what}. Means are compared, as the best of several is no match for a single "
        f"one; the student is kept that is best by {OBJECTIVE}."
    ]


def describe_tuning(tuning: Tuning) -> list[str]:
    """What was tried, and what was chosen."""
    chosen = ", ".join(f"{name} {value:.3g}" for name, value in tuning.chosen.items())
    ends = Counter(trial["state"] for trial in tuning.trials)
    first, best = tuning.trials[0], tuning.best
    return [
        f"{chosen}: trial {best['number']} of {', '.join(f'{count} {state}' for state, count in ends.items())}",
        f"{tuning.objective}: {best['value']:.1%}, of the first trial {_percent(first['value'])} ({tuning.images:,} "
        f"images: one standard error is at most {100 * tuning.standard_error:.1f} points)",
        "to train again with them: --loss_args "
        + " ".join(f"{name}={value:.4g}" for name, value in tuning.chosen.items()),
    ]


def describe_kept(seeds: Mapping[str, Any]) -> list[str]:
    """Which student was kept of several, and how good each is."""
    kept, each = str(seeds["kept"]), seeds["accuracy"]["this student"]
    values = ", ".join(f"{seed}: {_percent(value)}" for seed, value in seeds["validation"].items())
    return [
        f"± over n = {len(each)} seeds. Kept is the student of seed {kept}, by {seeds['chosen_by']} ({values}); "
        f"it has {_percent(each[kept]['accuracy'])} of all test images."
    ]


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


def describe_estimate(
    times: Estimate, without_teacher: Sequence[str], cache_bytes: int | None, views: int
) -> list[str]:
    """How long the training takes, and whether a teacher cache would shorten it."""
    plain = "".join(f" and {duration(times.training(with_teacher=False))} for the {name}" for name in without_teacher)
    lines = [f"about {duration(times.training())} to distil{plain}", describe_batches(times)]
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


def describe_more_time(plan: DistillPlan, times: Estimate) -> list[str]:
    """What `--tune` and `--seeds` add to it."""
    lines = []
    if plan.space:
        least, most = seconds_of_tuning(plan, times)
        lines.append(f"before it {duration(least)} to tune, or {duration(most)} if no trial is stopped early")
    if plan.choices.seeds is not None:
        asked = plan.choices.teacher_cache is None
        once = times.training(with_teacher=asked) + len(plan.without_teacher) * times.training(with_teacher=False)
        whole = plan.choices.seeds * once + (0 if asked else times.asking_the_teacher)
        lines.append(f"and {duration(whole)} for all {plan.choices.seeds} seeds")
    return lines


def describe_memory(plan: TrainingPlan, times: Estimate) -> list[str]:
    """What a step takes."""
    batch = number(plan.args.train_batch_size, "image")
    what = "at its peak, as measured" if plan.args.device.type == "cuda" else "of weights, gradients and activations"
    return [f"about {size(times.memory)} on the device for a step of {batch}, {what}"]


def describe_batches(times: Estimate) -> str:
    """What a batch takes."""
    teacher = f"{1000 * times.teacher:.0f} ms of the teacher, {1000 * times.student:.0f} ms of the student"
    if not times.teacher:
        teacher = f"{1000 * times.student:.0f} ms to train on"
    return f"({times.batches:,} batches each; a batch took {1000 * times.images:.0f} ms to make, {teacher})"


def describe_export(measured: Mapping[str, Any]) -> list[str]:
    """What was exported, how equal its logits are, and sizes and times of both networks."""
    lines = [
        f"{measured['path']}: logits equal within {measured['max_difference']:.1e} (largest "
        f"{measured['max_logit']:.3g}), on {measured['examples']} in batches of "
        + ", ".join(map(str, measured["batch_sizes"])),
        f"{'':<8} {'input':>14} {'ONNX, MB':>9} {'onnxruntime, ms':>18} {'PyTorch, ms':>18}",
    ]
    varies = False
    for who, network in measured["networks"].items():
        times = network["onnxruntime_ms"], network["pytorch_ms"]
        varies |= any(t["p90"] > 2 * t["median"] for t in times)
        lines.append(
            f"{who:<8} {'×'.join(map(str, network['input'])):>14} {network['onnx_bytes'] / 1e6:>9.2f}"
            + "".join(f"{t['median']:>11.3f} ({t['p90']:.3f})" for t in times)
        )
    if "any_size" in measured:
        size = "any size" if measured["any_size"] else "this size alone"
        logits = "×".join(map(str, measured["networks"]["student"]["output"]))
        lines.append(f"the student's file takes images of {size}; logits {logits} of each")
    lines.append(
        f"one image, {measured['threads']} thread(s) of {measured['cpu']}: median (90th percentile) of "
        f"{measured['runs']} runs"
    )
    if varies:
        lines.append("The times vary a lot: something else ran at the same time, measure again when it is idle.")
    student = shlex.quote(str(Path(measured["path"]).parents[1]))
    return [*lines, f"to the card and the Hub: hf-ltkd push --model {student} --to OWNER/NAME"]
