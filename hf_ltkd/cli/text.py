"""What the commands tell the user: the plan, and what came out of it."""

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ..workflow.adjust import Adjustment
from ..workflow.diagnose import Diagnosis
from ..workflow.estimate import Estimate
from ..workflow.evaluate import Evaluation
from ..workflow.inputs import data_name, is_main_process, model_name
from ..workflow.outputs import COMPARISON_NAME, Comparison
from ..workflow.plan import DistillPlan, TrainingPlan
from ..workflow.report import CONFUSION_PICTURE, REPORT_NAME
from ..workflow.scenes import Scenes
from .describe import (
    describe_batches,
    describe_bias,
    describe_estimate,
    describe_evaluation,
    describe_images,
    describe_kept,
    describe_loss,
    describe_memory,
    describe_more_time,
    describe_search,
    describe_seeds,
    describe_start,
    describe_training,
    describe_tuning,
    describe_unseen,
)
from .scenes import describe_scene_bias
from .tables import changes, class_table, duration, group_table, score_table, share_table


# What decides which images are trained on: a teacher's and its student's have to be the same.
SAME_IMAGES = (
    *("dataset_config_name", "train_list", "test_list", "image_column", "label_column", "eval_split"),
    *("eval_fraction", "split_seed", "group_column", "min_class_images", "rare", "skip_damaged"),
    *("imbalance_factor", "split_rule", "group_rule"),
    *("task", "mask_column", "num_classes", "class_names", "ignore_index", "colors", "reduce_labels", "size"),
)


def say(title: str, *lines: str) -> None:
    """Prints lines under a title in the margin, on the main process alone."""
    if is_main_process():
        for row, line in enumerate(lines):
            start, margin = f"{'' if row else title:<12}", " " * 12
            wrapper = textwrap.TextWrapper(110, start, margin, break_long_words=False, break_on_hyphens=False)
            print(*wrapper.wrap(line), sep="\n", flush=True)


def say_command(text: str, *command: str) -> None:
    """Prints a command that can be copied: quoted, and on one line however long it is."""
    if is_main_process():
        print(f"{'':<12}{text}: {shlex.join(command)}", flush=True)


def say_classes(classes: Sequence[Mapping[str, Any]], everything: bool = False) -> None:
    """The report of each class; of more than 20 the ten hardest, if not everything is wanted."""
    if not classes:
        return
    if everything or len(classes) <= 20:
        say("Classes", *class_table(classes))
    else:
        score = "iou" if "iou" in classes[0] else "f1"
        hardest = sorted((row for row in classes if row[score] is not None), key=lambda row: row[score])[:10]
        say("Classes", *class_table(hardest), f"These are the hardest of {len(classes)}; {REPORT_NAME} has all.")


def print_plan(plan: DistillPlan, times: Estimate | None = None) -> None:
    """What will be distilled, how and why; and how long it takes, where that was measured."""
    images, student, teacher = plan.images, plan.network.num_parameters(), plan.teacher
    say("Images", *describe_images(images))
    say("Evaluation", *describe_evaluation(images), *describe_unseen(plan))
    part = ""
    if teacher is not None and plan.bias is not None:
        name, parameters = model_name(teacher), teacher.num_parameters()
        bias = describe_scene_bias if isinstance(images, Scenes) else describe_bias
        say("Teacher", f"{name}: {parameters:,} parameters", *bias(plan.bias, images.groups))
        part = f", {student / parameters:.0%} of the teacher's"
    say("Student", f"{plan.name}: {student:,} parameters{part}")
    say("Method", f"{plan.choices.loss}: {describe_loss(plan.loss)}", plan.loss_reason)
    say("Training", *describe_training(plan))
    say("Tuning", *describe_search(plan))
    say("Seeds", *describe_seeds(plan))
    if times is not None:
        estimated = describe_estimate(times, [*plan.without_teacher], plan.cache_bytes, plan.cache_views)
        say("Time", *estimated, *describe_more_time(plan, times))
        say("Memory", *describe_memory(plan, times))


def print_teacher_plan(plan: TrainingPlan, times: Estimate | None = None) -> None:
    """The same for a classifier that is trained by cross-entropy alone."""
    say("Images", *describe_images(plan.images))
    say("Evaluation", *describe_evaluation(plan.images))
    say("Teacher", f"{plan.name}: {plan.network.num_parameters():,} parameters")
    reason = f"(recommended: {plan.loss_reason}; what you set wins)" if plan.loss_reason else ""
    say("Loss", f"{plan.loss.ce}: {describe_loss(plan.loss)}", *[reason] * bool(reason))
    say("Training", *describe_training(plan))
    if times is not None:
        say("Time", f"about {duration(times.training())} to train", describe_batches(times))
        say("Memory", *describe_memory(plan, times))


def print_dry_run(plan: TrainingPlan, then: str = "pushes nothing") -> None:
    """That nothing was done, and what would be."""
    where = repr(str(plan.output_dir))
    say("Dry run", f"Nothing was trained or written. A real run writes to {where} and {then}.")


def print_start(plan: DistillPlan) -> None:
    """What is done now."""
    say("Distilling", f"The student goes to {str(plan.output_dir)!r}.")
    if plan.without_teacher:
        names = " and a ".join(plan.without_teacher)
        then = "Beside each" if plan.choices.seeds else "Then"
        say("Compare", f"{then} a {names} (the same network without a teacher), to compare with; not saved.")


def print_comparison(comparison: Comparison) -> None:
    """The student beside the others, and where everything is."""
    results, folder, seeds = comparison.accuracy, str(comparison.output_dir), comparison.seeds or {}
    if comparison.tuning is not None:
        say("Tuning", *describe_tuning(comparison.tuning))
    ious = {name: _ious(scores) for name, scores in comparison.scores.items()} if comparison.of_pixels else {}
    if ious:
        say("Result", *group_table(ious, comparison.intervals, what="IoU"))
        say("", *group_table(results, what="accuracy of pixels"))
    else:
        say("Result", *group_table(results, comparison.intervals, seeds.get("deviation")))
    if seeds:
        say("", *describe_kept(seeds))
    others: dict[str, list[str]] = {}  # by what is said of them
    few = "seeds and test images" if seeds else "test images"
    for name, differences in comparison.differences.items():
        words = changes((ious or results)["this student"], differences, few) or "too few test images for an interval"
        others.setdefault(words, []).append(f"the {name}")
    for words, names in others.items():
        say("", f"against {', '.join(names)}: {words}")
    if comparison.caution is not None:
        say("", comparison.caution)
    if verdict := comparison.verdict():
        say("Verdict", verdict)
    say("Scores", *score_table(comparison.scores))
    say_classes(comparison.classes)
    say(
        "Files",
        f"student, model card (README.md), pictures, {REPORT_NAME} and {COMPARISON_NAME} are in {folder!r}",
    )


def _ious(scores: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: value for name, value in scores.items() if name.endswith("_iou")}


def print_teacher(plan: TrainingPlan, trained: Evaluation, settings: Mapping[str, Any]) -> None:
    """How good a trained teacher is, and what to do with it, on the images that `settings` chose."""
    _print_result(plan.name, trained)
    say_classes(trained.classes)
    say("Files", f"the teacher is in {trained.model!r}")
    command = ["hf-ltkd", "distill", "--teacher", trained.model, "--data", data_name(plan.images.data.args)]
    for name in SAME_IMAGES:
        if name in settings:
            value = settings[name]
            command += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    student = "upernet_16" if isinstance(plan.images, Scenes) else "resnet8x4"
    say_command("next", *command, "--student", student, "--dry_run")


def print_evaluation(evaluation: Evaluation) -> None:
    """Accuracy per group of a saved model."""
    say("Evaluation", *describe_evaluation(evaluation.images))
    _print_result(evaluation.model.rstrip("/").split("/")[-1], evaluation)
    say_classes(evaluation.classes, everything=True)
    files = [f"{path} is written" for path in evaluation.files]
    say("Files", *files or [f"none; {REPORT_NAME} and {CONFUSION_PICTURE} go where --output_dir FOLDER says"])


def _print_result(name: str, evaluation: Evaluation) -> None:
    """How right one model is, by every score."""
    intervals = evaluation.intervals
    if ious := _ious(evaluation.scores):
        say("Result", *group_table({name: ious}, {name: intervals}, what="IoU"))
        say("", *group_table({name: evaluation.accuracy}, {name: intervals}, what="accuracy of pixels"))
    else:
        say("Result", *group_table({name: evaluation.accuracy}, {name: intervals}))
    if evaluation.answers.at_chance:
        say("", evaluation.answers.describe())
    say("Scores", *score_table({name: evaluation.scores}, intervals))


def print_adjustment(adjustment: Adjustment) -> None:
    """What was adjusted by which counts, and what it did."""
    counts = adjustment.class_counts
    what = f"the head's bias of each class less {adjustment.tau:g} · log of its share of the training examples"
    say(
        "Adjusted",
        f"{adjustment.model}: {what}",
        f"{len(counts)} classes of {max(counts):,} to {min(counts):,} training examples",
    )
    if adjustment.caution:
        say("", adjustment.caution)
    if adjustment.images is not None and adjustment.before is not None and adjustment.after is not None:
        say("Evaluation", *describe_evaluation(adjustment.images))
        what = "IoU" if "mean_iou" in adjustment.before else "accuracy"
        say("Result", *group_table({"before": adjustment.before, "adjusted": adjustment.after}, what=what))
    say("Files", f"the adjusted model is in {str(adjustment.output_dir)!r}")


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Whom a teacher favours, where the losses would go, and what to start from."""
    images, weights = diagnosis.images, diagnosis.weights
    say("Images", *describe_images(images))
    say("Evaluation", *describe_evaluation(images))
    bias = describe_scene_bias if isinstance(images, Scenes) else describe_bias
    say("Teacher", *bias(diagnosis.bias, images.groups))
    whose = f"of a student that knows nothing yet, at temperature {weights.values['temperature']:g}"
    if diagnosis.student is not None:
        whose = f"of the student {diagnosis.student}, at temperature {weights.values['temperature']:g}"
    say("Loss", whose, *share_table(diagnosis.loss_shares, images.groups))
    say("Start with", *map(describe_start, (weights, diagnosis.num_groups)))
    say("Files", f"the picture is {str(diagnosis.picture)!r}")
