"""What the commands tell the user: the plan, and what came out of it."""

import math
import textwrap

import numpy as np
from transformers.training_args import OptimizerNames

from ..analysis.bias import GroupReport
from ..groups import ClassGroups
from ..hub.names import COMPARISON_NAME
from ..losses.base import DistillationLoss
from ..trainer.training_args import DistillationTrainingArguments
from ..workflow.diagnose import Diagnosis
from ..workflow.estimate import Estimate
from ..workflow.evaluate import Evaluation
from ..workflow.inputs import Images, data_name, is_main_process, model_name
from ..workflow.outputs import Comparison
from ..workflow.plan import DistillPlan, TrainingPlan
from ..workflow.recommend import Recommendation
from .tables import changes, duration, group_table, number, share_table, size


def say(title: str, *lines: str) -> None:
    """Prints lines under a title in the margin, on the main process alone."""
    if is_main_process():
        for row, line in enumerate(lines):
            start, margin = f"{'' if row else title:<12}", " " * 12
            keep = {"break_long_words": False, "break_on_hyphens": False}  # of paths, which are copied
            wrapped = textwrap.wrap(line, 110, initial_indent=start, subsequent_indent=margin, **keep)
            print(*wrapped, sep="\n", flush=True)


def print_plan(plan: DistillPlan, times: Estimate | None = None) -> None:
    """What will be distilled, how and why; and how long it takes, where that was measured."""
    images, student, teacher = plan.images, plan.network.num_parameters(), plan.teacher
    say("Images", *describe_images(images))
    say("Evaluation", *describe_evaluation(images), *_seen_by_teacher(plan))
    part = ""
    if teacher is not None and plan.bias is not None:
        name, parameters = model_name(teacher), teacher.num_parameters()
        say("Teacher", f"{name}: {parameters:,} parameters", *describe_bias(plan.bias, images.groups))
        part = f", {student / parameters:.0%} of the teacher's"
    say("Student", f"{plan.name}: {student:,} parameters{part}")
    say("Method", f"{plan.choices.loss}: {describe_loss(plan.loss)}", plan.loss_reason)
    say("Training", *describe_training(plan))
    if times is not None:
        say("Time", *describe_estimate(times, plan.choices.plain_student, plan.cache_bytes, plan.cache_views))


def print_teacher_plan(plan: TrainingPlan, times: Estimate | None = None) -> None:
    """The same for a classifier that is trained by cross-entropy alone."""
    say("Images", *describe_images(plan.images))
    say("Evaluation", *describe_evaluation(plan.images))
    say("Teacher", f"{plan.name}: {plan.network.num_parameters():,} parameters")
    say("Training", *describe_training(plan))
    if times is not None:
        say("Time", f"about {duration(times.training())} to train", describe_batches(times))


def print_dry_run(plan: TrainingPlan, then: str = "pushes nothing") -> None:
    """That nothing was done, and what would be."""
    where = repr(str(plan.output_dir))
    say("Dry run", f"Nothing was trained or written. A real run writes to {where} and {then}.")


def print_start(plan: DistillPlan) -> None:
    """What is done now."""
    say("Distilling", f"The student goes to {str(plan.output_dir)!r}.")
    if plan.choices.plain_student:
        say("Plain", "Then the same student, trained by cross-entropy alone, to compare with; it is not saved.")


def print_comparison(comparison: Comparison) -> None:
    """The student beside the others, and where everything is."""
    results, folder = comparison.accuracy, str(comparison.output_dir)
    say("Result", *group_table(results))
    for name in ("plain student", "teacher"):
        if name in results:
            say("", f"against the {name}: {changes(results['this student'], results[name])}")
    say("Files", f"student, model card (README.md), pictures and {COMPARISON_NAME} are in {folder!r}")


def print_teacher(plan: TrainingPlan, trained: Evaluation) -> None:
    """How good a trained teacher is, and what to do with it."""
    say("Result", *group_table({plan.name: trained.accuracy}))
    say("Files", f"the teacher is in {trained.model!r}")
    data = data_name(plan.images.data)
    say("", f"next: hf-ltkd distill --teacher {trained.model} --data {data} --student resnet8x4 --dry_run")


def print_evaluation(evaluation: Evaluation) -> None:
    """Accuracy per group of a saved model."""
    say("Evaluation", *describe_evaluation(evaluation.images))
    say("Result", *group_table({evaluation.model.rstrip("/").split("/")[-1]: evaluation.accuracy}))


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Whom a teacher favours, where the losses would go, and what to start from."""
    images, weights = diagnosis.images, diagnosis.weights
    say("Images", *describe_images(images))
    say("Evaluation", *describe_evaluation(images))
    say("Teacher", *describe_bias(diagnosis.bias, images.groups))
    whose = f"of a student that knows nothing yet, at temperature {weights.values['temperature']:g}"
    if diagnosis.student is not None:
        whose = f"of the student {diagnosis.student}, at temperature {weights.values['temperature']:g}"
    say("Loss", whose, *share_table(diagnosis.loss_shares, images.groups))
    say("Start with", *map(describe_start, (weights, diagnosis.num_groups)))
    say("Files", f"the picture is {str(diagnosis.picture)!r}")


def describe_images(images: Images) -> list[str]:
    """How many images and classes there are, and how long the tail is."""
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
    if ratio < 2:
        lines.append("There is hardly a tail: --loss kd is made for such data, LTKD has little to gain.")
    return lines


def describe_evaluation(images: Images) -> list[str]:
    """What is evaluated on, and how far its figures can be trusted."""
    groups, holdout = images.groups, images.holdout
    counts = np.bincount(images.data.test.labels.numpy(), minlength=groups.num_classes)
    if holdout is None:
        balanced = counts.min() == counts.max()
        each = (
            f"{counts.min()} of every class" if balanced else f"not balanced: {counts.min()} to {counts.max()} a class"
        )
        lines = [f"{counts.sum():,} images of the data's own split, {each}"]
    else:
        part = holdout.per_class / min(holdout.full_class_counts)
        lines = [
            f"{counts.sum():,} images, {holdout.per_class} of every class, split off the training images (there is no "
            "test split):",
            f"{part:.0%} of the smallest class, at most {holdout.eval_fraction:.0%} (--eval_fraction), chosen with "
            f"seed {holdout.seed} (--split_seed)",
        ]
    smallest = int(np.bincount(groups.group_of_class.numpy(), counts).min())
    lines.append(
        f"A group has {smallest:,} of them or more: one standard error of its accuracy is at most "
        f"{50 / math.sqrt(max(smallest, 1)):.1f} points"
    )
    if smallest < 100:
        lines.append("That is too few to tell good models apart: add a test split of more images, if you can.")
    return lines


def _seen_by_teacher(plan: DistillPlan) -> list[str]:
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
    lines = [
        f"{name:<8}gets {share:>6.1%} of its probability for {images / total:>6.1%} of the images, accuracy "
        f"{report.accuracy[f'{name}_accuracy']:.1%}"
        for name, share, images in zip(groups.names, report.probability, report.images, strict=True)
    ]
    first, last = report.favour[0], report.favour[-1]
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
    values = ", ".join(f"{name} {value:g}" for name, value in recommendation.values.items())
    return f"{values}: {recommendation.reason}"


def describe_loss(loss: DistillationLoss) -> str:
    """The values in force; those of a cross-entropy with class counts only where it is one."""
    values = loss.hyper_parameters()
    hidden = {"ce", "tau", "effective_number_beta"} if loss.ce == "cross_entropy" else set()
    return ", ".join(f"{name} {value}" for name, value in values.items() if name not in hidden)


def describe_training(plan: TrainingPlan) -> list[str]:
    """The optimisation in one line, and why it is so."""
    args: DistillationTrainingArguments = plan.args
    length = f"{args.max_steps} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs"
    batch = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    line = (
        f"{length} in batches of {batch}, {OptimizerNames(args.optim).value}, learning rate {args.learning_rate:g}, "
        f"weight decay {args.weight_decay:g}"
    )
    return [line, f"(recommended: {plan.reason}; what you set wins)"] if plan.reason else [line]


def describe_estimate(times: Estimate, plain_student: bool, cache_bytes: int | None, views: int) -> list[str]:
    """How long the training takes, and whether a teacher cache would shorten it."""
    plain = f" and {duration(times.training(with_teacher=False))} for the plain student" * plain_student
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


def describe_batches(times: Estimate) -> str:
    """What a batch takes."""
    teacher = f"{1000 * times.teacher:.0f} ms of the teacher, {1000 * times.student:.0f} ms of the student"
    if not times.teacher:
        teacher = f"{1000 * times.student:.0f} ms to train on"
    return f"({times.batches:,} batches each; a batch took {1000 * times.images:.0f} ms to make, {teacher})"
