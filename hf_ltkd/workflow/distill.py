"""A student from a teacher and a folder of images, as one call."""

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from ..hub.card import write_model_card
from ..hub.describe import hub_id
from ..hub.names import BIAS_PICTURE, EXAMPLES_PICTURE
from ..teacher.cache import TeacherCache
from ..teacher.live import networks_of
from .adjust import adjusted, corrections
from .inputs import Model
from .outputs import (
    Comparison,
    Scores,
    draw_bias,
    draw_scenes,
    name_dataset,
    train_and_save,
    train_without_teacher,
)
from .plan import PLAIN, DistillPlan, make_plan
from .push import push
from .recommend import is_skewed
from .report import scores_beside
from .scenes import Scenes
from .seeds import OURS, Students, differences, mean_of, train_seeds
from .tune import tune, with_arguments


logger = logging.getLogger(__name__)
Rows = dict[str, dict[int | None, Scores]]  # by model and seed; without several seeds there is none to tell


def distill(
    teacher: Model | list[Model] | None = None, student: Model | None = None, data: Any = None, **settings: Any
) -> Comparison:
    """
    Looks at the images and the teacher, chooses what was not chosen, distils, compares, writes and perhaps pushes.

    Args:
        teacher (`str`, `os.PathLike`, `PreTrainedModel`, or a list of these, *optional*):
            A folder, a Hub id, or a model in memory; of several their mean, weighted by `teacher_weights`, or a
            [`TeacherEnsemble`]. `loss="ce"` needs none.
        student (`str`, `os.PathLike` or `PreTrainedModel`, *optional*):
            A name of [`create_model`] (by default `"resnet8x4"`, for pixels `"upernet_16"`), or as `teacher`; one from
            a folder or the Hub gets a new head where needed.
        data (`str`, `os.PathLike` or `datasets.DatasetDict`):
            A folder of images, a benchmark's name, a dataset of the Hub, or one in memory. Where there is no test
            split, one is held out.
        settings: Any field of `DistillArguments` (`loss`, `loss_args={"alpha": 1}`, `push`, `tune=20` trials that
            choose the loss's weights, `seeds=3` students, of which the best is kept, ...), `SourceArguments`
            (`eval_fraction`), `ModelArguments` (`trust_remote_code`), `TrainingChoices` (`recommend`),
            `DataArguments`, `MaskArguments` (`task="semantic-segmentation"`, where each pixel has a class, and what
            masks hold) and [`DistillationTrainingArguments`] (`output_dir`, `num_train_epochs`, ...). What is not set
            is recommended.

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
    choices, images = plan.choices, plan.images
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
    tuning = None
    if plan.space:
        tuning = tune(plan, teacher)
        plan = replace(plan, loss=with_arguments(plan, **tuning.chosen))
    found: Rows = {}
    if plan.bias is not None:
        found["teacher"] = {None: (plan.bias.accuracy, plan.bias.answers)}
    if plan.teacher is not None and is_skewed(images.class_counts) and not corrections(plan.teacher):
        with adjusted(plan.teacher, images.class_counts):
            report = images.report(plan.teacher, plan.args.per_device_eval_batch_size)
        found["adjusted teacher"] = {None: (report.accuracy, report.answers)}
    if choices.seeds is not None:
        students = train_seeds(plan, teacher)
        _draw(plan)
        write_card = partial(write_model_card, plan.output_dir, repo_id=plan.args.hub_model_id)
        found |= {model: students.scores[model] for model in [*students.scores][1:] + [OURS]}  # this one is the last
        comparison = _compare(plan, found, write_card, students)
        comparison.tuning = tuning
        return comparison
    students_without = {name: copy.deepcopy(plan.network) for name in plan.without_teacher}  # the same initial weights
    trainer = plan.trainer(plan.network, plan.loss, teacher)
    ours: Rows = {OURS: {None: train_and_save(trainer, plan)}}
    _draw(plan)
    comparison = _compare(plan, found | ours, trainer.create_model_card)  # what follows may fail
    for name, student in students_without.items():
        try:
            alone = train_without_teacher(plan, name, student)
            found |= {model: {None: scores} for model, scores in alone.items()}
        except FloatingPointError as error:
            if plan.args.world_size > 1:
                raise  # the other processes wait for this one in a step that it has left
            logger.warning("The %s is left out of the comparison: %s", name, error)
    if students_without:
        if isinstance(images, Scenes) and PLAIN in found:
            _draw(plan, students_without[PLAIN], found | ours)
        comparison = _compare(plan, found | ours, trainer.create_model_card)
    comparison.tuning = tuning
    return comparison


def _draw(plan: DistillPlan, plain: PreTrainedModel | None = None, found: Rows | None = None) -> None:
    """Whom the teacher favours; of pixels what the networks see in some images, a plain student among them."""
    if plan.args.process_index != 0:
        return
    if isinstance(plan.images, Scenes):
        if plan.args.fsdp or plan.args.deepspeed:
            return  # one process alone cannot ask a student that is shared out
        networks: Any = {"teacher": plan.teacher, OURS: plan.network, PLAIN: plain}
        gain = None
        if plain is not None and found is not None:
            tail = (plan.images.groups.group_of_class == plan.images.groups.num_groups - 1).numpy()
            ours, theirs = (found[name][None][1].counts[:, 0, tail].sum(1) for name in (OURS, PLAIN))
            gain = ours - theirs
        networks = {name: network for name, network in networks.items() if network is not None}
        draw_scenes(plan.images, networks, plan.output_dir / EXAMPLES_PICTURE, gain)
    elif plan.teacher is not None:
        draw_bias(plan.teacher, plan.images, plan.output_dir / BIAS_PICTURE)


def _compare(
    plan: DistillPlan, found: Rows, write_card: Callable[..., Any], students: Students | None = None
) -> Comparison:
    """The comparison of all that was found, written, with its card."""
    images, groups, ours = plan.images, plan.images.groups, found[OURS]
    kept = ours[students.kept if students else None][1]
    shares = None if plan.bias is None else dict(zip(images.groups.names, plan.bias.probability, strict=True))
    comparison = Comparison(
        dataset=name_dataset(images.data),
        dataset_split="test" if images.holdout is None else "held-out training images",
        teacher_name=_hub_ids(plan.teacher),
        teacher_probability=shares,
        accuracy={model: mean_of([accuracy for accuracy, _ in rows.values()]) for model, rows in found.items()},
        scores={model: mean_of([scores_beside(a, groups) for _, a in rows.values()]) for model, rows in found.items()},
        intervals={model: scores[None][1].intervals(groups) for model, scores in found.items() if None in scores},
        differences={model: differences(ours, scores, groups) for model, scores in found.items() if model != OURS},
        caution=kept.describe("This model") if kept.at_chance else None,
        seeds=None if students is None else students.describe(),
        classes=kept.class_report(groups, images.data.class_names),
        output_dir=plan.output_dir,
    )
    if plan.args.process_index == 0:
        comparison.save_pretrained(plan.output_dir)
        write_card(**comparison.card_arguments())
    return comparison


def _hub_ids(teacher: PreTrainedModel | None) -> str | None:
    """Where the teacher, or each of several, was loaded from on the Hub."""
    ids = [hub_id(one) if isinstance(one, PreTrainedModel) else None for one in networks_of(teacher)]
    return " and ".join(map(str, ids)) if ids and all(ids) else None


def publish(plan: DistillPlan) -> str | None:
    """Pushes what [`run`] left, if that was asked for; the address of the commit on the process that pushes."""
    args, choices = plan.args, plan.choices
    if choices.push is None or args.process_index != 0:
        return None
    how: dict[str, Any] = {"private": args.hub_private_repo, "revision": args.hub_revision, "token": args.hub_token}
    how |= {"timeout": args.hub_timeout, "push_anyway": choices.push_anyway}
    return push(plan.output_dir, choices.push, **how).commit_url
