"""A student from a teacher and a folder of images, as one call."""

import copy
import logging
from typing import Any

from transformers import PreTrainedModel

from ..analysis.bias import group_report
from ..hub.describe import hub_id
from ..hub.names import BIAS_PICTURE
from ..teacher.cache import TeacherCache
from ..teacher.live import networks_of
from ..trainer.trainer import DistillationTrainer
from .adjust import adjusted
from .inputs import Model
from .outputs import Comparison, Scores, draw_bias, evaluate_trained, name_dataset, train_and_save
from .plan import PLAIN, DistillPlan, make_plan
from .push import push
from .recommend import is_skewed
from .report import scores_beside


logger = logging.getLogger(__name__)


def distill(
    teacher: Model | list[Model] | None = None, student: Model = "resnet8x4", data: Any = None, **settings: Any
) -> Comparison:
    """
    Looks at the images and the teacher, chooses what was not chosen, distils, compares, writes and perhaps pushes.

    Args:
        teacher (`str`, `os.PathLike`, `PreTrainedModel`, or a list of these, *optional*):
            A folder, a Hub id, or a model in memory; of several their mean, weighted by `teacher_weights`, or a
            [`TeacherEnsemble`]. `loss="ce"` needs none.
        student (`str`, `os.PathLike` or `PreTrainedModel`, *optional*, defaults to `"resnet8x4"`):
            A name of [`create_model`], or as `teacher`; one from a folder or the Hub gets a new head where needed.
        data (`str`, `os.PathLike` or `datasets.DatasetDict`):
            A folder of images, a benchmark's name, a dataset of the Hub, or one in memory. Where there is no test
            split, one is held out.
        settings: Any field of `DistillArguments` (`loss`, `loss_args={"alpha": 1}`, `push`, ...), `SourceArguments`
            (`eval_fraction`), `ModelArguments` (`trust_remote_code`), `TrainingChoices` (`recommend`), `DataArguments`
            and [`DistillationTrainingArguments`] (`output_dir`, `num_train_epochs`, ...). What is not set is
            recommended.

    Returns:
        [`Comparison`]: what `comparison.json` in `output_dir` holds.

    Raises:
        `ValueError`: if teacher, student, images and settings do not fit each other, or a setting is not known; before
            anything is trained or written. With `push`, at the end, if a student without a teacher is better.
        `FloatingPointError`: if the student's loss is not finite. A student without a teacher whose loss is not is
            left out of the comparison.
        `OSError`: if the Hub cannot be reached or refuses; the student is complete on disk.
    """
    plan = make_plan(teacher=teacher, student=student, data=data, **settings)
    comparison = run(plan)
    comparison.pushed = publish(plan)
    return comparison


def run(plan: DistillPlan) -> Comparison:
    """
    Distils what was planned, compares, and writes everything into the plan's folder.

    Raises:
        `ValueError`: if another process trains into that folder.
    """
    with plan.holding_folder():
        return _run(plan)


def _run(plan: DistillPlan) -> Comparison:
    choices, images, groups = plan.choices, plan.images, plan.images.groups
    students = {name: copy.deepcopy(plan.network) for name in plan.without_teacher}  # the same initial weights
    teacher: Any = plan.teacher
    if choices.teacher_cache is not None and plan.loss.needs_teacher:
        teacher = TeacherCache.build(
            choices.teacher_cache,
            teacher,
            images.data.train,
            views=plan.cache_views,
            dtype=choices.teacher_cache_dtype,
            batch_size=plan.args.per_device_train_batch_size,
            num_workers=plan.args.dataloader_num_workers,
        )
    trainer = plan.trainer(plan.network, plan.loss, teacher)
    ours = {"this student": train_and_save(trainer, plan)}
    found: dict[str, Scores] = {}
    if plan.bias is not None:
        found["teacher"] = plan.bias.accuracy, plan.bias.answers  # type: ignore[assignment]
    if plan.teacher is not None and is_skewed(images.data.split.class_counts):
        with adjusted(plan.teacher, images.data.split.class_counts):
            batch_size = plan.args.per_device_eval_batch_size
            report = group_report(plan.teacher, images.data.test, groups, batch_size=batch_size)
        found["adjusted teacher"] = report.accuracy, report.answers  # type: ignore[assignment]
    if trainer.is_world_process_zero() and plan.teacher is not None:
        draw_bias(plan.teacher, images, plan.output_dir / BIAS_PICTURE)
    comparison = _compare(plan, trainer, found | ours)  # what follows may fail
    for name, student in students.items():
        try:
            found |= train_without_teacher(plan, name, student)
        except FloatingPointError as error:
            if plan.args.world_size > 1:
                raise  # the other processes wait for this one in a step that it has left
            logger.warning("The %s is left out of the comparison: %s", name, error)
    if students:
        comparison = _compare(plan, trainer, found | ours)
    return comparison


def _compare(plan: DistillPlan, trainer: DistillationTrainer, found: dict[str, Scores]) -> Comparison:
    """The comparison of all that was found, written, with its card."""
    images, groups, our_answers = plan.images, plan.images.groups, found["this student"][1]
    accuracy = {name: scores[0] for name, scores in found.items()}
    answers = {name: scores[1] for name, scores in found.items()}
    shares = None if plan.bias is None else dict(zip(images.groups.names, plan.bias.probability, strict=True))
    comparison = Comparison(
        dataset=name_dataset(images.data),
        dataset_split="test" if images.holdout is None else "held-out training images",
        teacher_name=_hub_ids(plan.teacher),
        teacher_probability=shares,
        accuracy=accuracy,
        scores={model: scores_beside(given, groups) for model, given in answers.items()},
        intervals={model: given.intervals(groups) for model, given in answers.items()},
        differences={
            model: our_answers.differences(given, groups)
            for model, given in answers.items()
            if given is not our_answers
        },
        caution=our_answers.describe("This model") if our_answers.at_chance else None,
        classes=our_answers.class_report(groups, images.data.class_names),
        output_dir=plan.output_dir,
    )
    if trainer.is_world_process_zero():
        comparison.save_pretrained(plan.output_dir)
    trainer.create_model_card(**comparison.card_arguments())
    return comparison


def _hub_ids(teacher: PreTrainedModel | None) -> str | None:
    """Where the teacher, or each of several, was loaded from on the Hub."""
    ids = [hub_id(one) if isinstance(one, PreTrainedModel) else None for one in networks_of(teacher)]
    return " and ".join(map(str, ids)) if ids and all(ids) else None


def train_without_teacher(plan: DistillPlan, name: str, student: PreTrainedModel) -> dict[str, Scores]:
    """The scores of the same student without a teacher, of a plain one adjusted too; nothing is written."""
    nothing: Any = {"save_strategy": "no", "push_to_hub": False, "load_best_model_at_end": False}
    nothing["early_stopping_patience"] = None  # it has no best checkpoint to go back to
    trainer = plan.trainer(student, plan.without_teacher[name], **nothing)
    trainer.train()
    found, counts = {name: evaluate_trained(trainer, plan.images)}, plan.images.data.split.class_counts
    if name == PLAIN and is_skewed(counts):
        with adjusted(trainer.model, counts):  # type: ignore[arg-type]
            found[f"adjusted {name}"] = evaluate_trained(trainer, plan.images)
    return found


def publish(plan: DistillPlan) -> str | None:
    """Pushes what [`run`] left, if that was asked for; the address of the commit on the process that pushes."""
    args = plan.args
    to = plan.choices.push or (args.push_to_hub and (args.hub_model_id or plan.output_dir.absolute().name))
    if not to or args.process_index != 0:
        return None
    anyway = plan.choices.push_anyway
    return push(plan.output_dir, to, private=args.hub_private_repo, push_anyway=anyway).commit_url
