"""Whom a teacher favours, where the losses of a student would go, and what to start from."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..analysis.bias import GroupReport, loss_parts
from ..data.arguments import DataArguments
from .arguments import (
    SEGMENTATION,
    DiagnoseArguments,
    MaskArguments,
    ModelArguments,
    SourceArguments,
    split_settings,
)
from .beforehand import check_apart, check_weights
from .classes import check_answer
from .images import Images
from .inputs import Model, fit_classes, fit_teachers, load_classifier, load_images, model_name, name_data
from .outputs import draw_bias
from .recommend import Recommendation, recommend_num_groups, recommend_weights
from .scenes import PIXEL_BATCH, load_scenes
from .segmenters import check_mask_classes, load_segmenter, masks_of, names_segmenter


@dataclass(frozen=True)
class Diagnosis:
    """
    Attributes:
        images ([`Images`]): What the teacher was asked about, and the groups.
        student (`str`, *optional*): Whose loss it is; `None` is a student that knows nothing yet.
        bias ([`GroupReport`]): Its answers to the evaluation images.
        loss_shares (`dict[str, list[float]]`): By loss what part of it is between groups, and within each group.
        weights, num_groups ([`Recommendation`]): What to start from.
        picture (`Path`): Fig. 3 of the paper and the losses.
    """

    images: Images
    student: str | None
    bias: GroupReport
    loss_shares: dict[str, list[float]]
    weights: Recommendation
    num_groups: Recommendation
    picture: Path


def diagnose(teacher: Model | list[Model], data: Any = None, **settings: Any) -> Diagnosis:
    """
    How much of its probability a teacher gives to head, medium and tail, where the losses of KD and LTKD would go, and
    what to start from; draws Fig. 3 of the paper and the losses.

    Args:
        teacher (`str`, `os.PathLike`, `PreTrainedModel`, or a list of these):
            A folder, a Hub id, or a model in memory; of several their mean.
        data (`str`, `os.PathLike` or `datasets.DatasetDict`): As in [`distill`].
        settings: `student` (whose loss it is; one that knows nothing by default), `num_groups`, `picture`,
            `batch_size` (128 by default, 16 of pixels), `match_labels`, `trust_remote_code`, `eval_fraction`, and any
            field of `DataArguments` and, for a teacher that gives each pixel a class, `MaskArguments`.

    Raises:
        `ValueError`: if teacher or student are not for these classes, or a setting is not known.
    """
    given = teacher if isinstance(teacher, list) else [teacher]
    for one in given:
        model_name(one)
    own, source, image_fields, mask_fields, trust = split_settings(
        {"teacher": teacher, "data": data, **settings},
        *(DiagnoseArguments, SourceArguments, DataArguments, MaskArguments, ModelArguments),
    )
    args, where = DiagnoseArguments(**own), SourceArguments(**source)
    read = {"data": name_data(where, image_fields)[1].get("data_dir"), "teacher": teacher, "student": args.student}
    check_apart("picture", args.picture, read)
    if names_segmenter(given[0], **trust):
        mask_fields.setdefault("task", SEGMENTATION)
    masks = masks_of(mask_fields, {"teacher": teacher, **settings})
    network: Any
    student: Any = None
    images: Images
    how: dict[str, Any] = {"num_groups": args.num_groups, **trust}
    most = {"max_batches": 100}
    if masks is not None:
        network = load_segmenter(given[0], "teacher", **trust)
        student = None if args.student is None else load_segmenter(args.student, "student", **trust)
        images = load_scenes(where, image_fields, masks, network, student=student, **how)
        test = images.data.test
        for model, seen in ((network, test.for_teacher()), (student, test.for_student())):
            if model is not None:
                check_mask_classes(model, images)
                check_answer(model_name(model), model, seen)
        args = replace(args, batch_size=own.get("batch_size", PIXEL_BATCH))
        most = {"max_batches": 10, "batch_size": args.batch_size}
    else:
        teachers = [load_classifier(one, **trust) for one in given]
        student = None if args.student is None else load_classifier(args.student, **trust)
        for model, role in (*((model, "teacher") for model in teachers), (student, "student")):
            if model is not None:
                check_weights(model, role)
        how["match_labels"] = args.match_labels
        images = load_images(where, image_fields, teachers, student=student, **how)
        network = fit_teachers(teachers, images.data, args.match_labels)[0]
        if student is not None:
            student = fit_classes(student, images.data, args.match_labels, images.data.test.for_student())
    groups = images.groups
    report = images.report(network, args.batch_size)
    accuracy = images.teacher_accuracy(network, report, args.batch_size)
    weights = recommend_weights(images.class_counts, of_pixels=masks is not None, teacher_accuracy=accuracy)
    alpha, beta, temperature = (weights.values[name] for name in ("alpha", "beta", "temperature"))
    parts = loss_parts(network, images.data.train, groups, student=student, temperature=temperature, **most)
    shares = {"KD": parts.kd_shares(), f"LTKD({alpha:g}, {beta:g})": parts.ltkd_shares(alpha, beta)}
    draw_bias(network, images, args.picture, shares, report)
    return Diagnosis(
        images,
        None if student is None else model_name(student),
        report,
        shares,
        weights,
        recommend_num_groups(groups.num_classes),
        Path(args.picture),
    )
