"""What a training will do, decided and checked before anything is trained or written."""

import math
import os
import platform
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from transformers import PreTrainedModel, set_seed

from ..analysis.bias import GroupReport
from ..data.arguments import DataArguments
from ..data.augment import LabelledImages
from ..data.holdout import HOLDOUT_NAME, Holdout
from ..groups import ClassGroups
from ..losses import CATKDLoss, CrossEntropyLoss, DistillationLoss, LTKDLoss, create_loss
from ..teacher.live import place_teacher
from ..trainer.mixing import make_mixer
from ..trainer.trainer import DistillationTrainer
from ..trainer.training_args import DistillationTrainingArguments
from .adapters import add_lora
from .adjust import caution, corrections
from .arguments import (
    DistillArguments,
    MaskArguments,
    ModelArguments,
    SourceArguments,
    TrainingChoices,
    TrainTeacherArguments,
    split_settings,
)
from .beforehand import (
    check_apart,
    check_cached,
    check_free,
    check_loss,
    check_network,
    check_push,
    check_search,
    check_training,
    check_weights,
    new_loss,
    prepare_folder,
    read_loss_args,
)
from .classes import check_answer
from .images import Images
from .inputs import (
    Model,
    fit_teachers,
    is_pretrained,
    load_classifier,
    load_images,
    model_name,
    name_data,
)
from .recommend import (
    Recommendation,
    epochs_of,
    is_skewed,
    recommend_ce,
    recommend_weights,
    training_arguments,
)
from .scenes import Scenes, load_scenes
from .segmenters import (
    FOR_PIXELS,
    STUDENT,
    TEACHER,
    check_mask_classes,
    check_segmenter,
    has_weights,
    load_segmenter,
    masks_of,
    new_network,
)


LOCK_NAME = ".training.lock"  # a hidden file of the output folder
PLAIN, BALANCED = "plain student", "balanced softmax student"  # trained without a teacher


@dataclass(kw_only=True)
class TrainingPlan:
    """
    One network, and how it is trained.

    Attributes:
        name (`str`): The network's name, folder or Hub id.
        network (`PreTrainedModel`): With its initial weights; training changes them, so a plan is run once.
        loss ([`DistillationLoss`]): What is minimised.
        images ([`Images`]): What it is trained and evaluated on.
        args ([`DistillationTrainingArguments`]): How.
        reason (`str`): Why these training arguments, where they were recommended.
        loss_reason (`str`): Why this loss, with these arguments.
    """

    name: str
    network: PreTrainedModel
    loss: DistillationLoss
    images: Images
    args: DistillationTrainingArguments
    reason: str
    loss_reason: str = ""

    @property
    def output_dir(self) -> Path:
        return Path(str(self.args.output_dir))

    @contextmanager
    def holding_folder(self) -> Iterator[None]:
        """
        Of two processes that train into one folder the second ends. The lock goes with the process that holds it,
        however that ends. What a killed one has left half written is removed.

        Raises:
            `ValueError`: if another process trains into the folder, or has done so since this was planned.
        """
        if self.args.process_index != 0:
            yield
            return
        self.output_dir.mkdir(parents=True, exist_ok=True)
        file = self.output_dir / LOCK_NAME
        holder = file.read_text() if file.is_file() else ""
        try:
            lock = filelock.FileLock(file).acquire(timeout=0)
        except filelock.Timeout as error:
            raise ValueError(
                f"Another training writes into {str(self.output_dir)!r} ({holder or 'its process is not known'}): "
                "wait for it, or choose another --output_dir."
            ) from error
        with lock:
            check_free(self.output_dir, self.args.resume_from_checkpoint)
            file.write_text(f"process {os.getpid()} on {platform.node()} since {datetime.now():%Y-%m-%d %H:%M}")
            for path in (p for pattern in ("*.tmp", "_push-*") for p in self.output_dir.glob(pattern)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            yield

    @property
    def epochs(self) -> float:
        """Also where `max_steps` sets the length."""
        return epochs_of(self.args, len(self.images.data.train))

    @property
    def validation(self) -> LabelledImages | None:
        """The images that checkpoints are chosen on, where these are others than those that are reported."""
        return self.images.data.validation

    def trainer(
        self,
        network: PreTrainedModel,
        loss: DistillationLoss,
        teacher: Any = None,
        trainer_class: type[DistillationTrainer] = DistillationTrainer,
        **changes: Any,
    ) -> DistillationTrainer:
        """The trainer of this plan, or of one with `changes` to its training arguments."""
        return trainer_class(
            network,
            teacher,
            replace(self.args, **changes) if changes else self.args,
            distillation_loss=loss,
            train_dataset=self.images.training(with_teacher=loss.needs_teacher),
            eval_dataset=self.images.data.test if self.validation is None else self.validation,
            compute_metrics=self.images.metric(),
            processing_class=self.images.data.image_processor,
        )


@dataclass(kw_only=True)
class DistillPlan(TrainingPlan):
    """
    A student, and the teacher that it learns from.

    Attributes:
        choices ([`DistillArguments`]): What was asked for.
        teacher (`PreTrainedModel`, *optional*): The teacher, on the training's device.
        bias ([`GroupReport`], *optional*): Its answers to the evaluation images.
        unseen (`bool`): Whether the teacher is known to be trained without the images that are held out.
        space (`dict[str, tuple[float, float]]`): The loss's arguments that `--tune` chooses, and their ends.
        trust_remote_code (`bool`): Whether the student's own code may be run.
    """

    choices: DistillArguments
    teacher: PreTrainedModel | None
    bias: GroupReport | None
    unseen: bool
    space: dict[str, tuple[float, float]]
    trust_remote_code: bool

    @property
    def without_teacher(self) -> dict[str, CrossEntropyLoss]:
        """The same student without a teacher, to compare with: by name what it is trained by."""
        if not self.choices.plain_student:
            return {}
        losses, counts = {PLAIN: CrossEntropyLoss()}, self.images.class_counts
        if is_skewed(counts) and not self.args.label_smoothing_factor:
            losses[BALANCED] = CrossEntropyLoss(ce="balanced_softmax", class_counts=counts)
        own = self.loss.ce if isinstance(self.loss, CrossEntropyLoss) else None
        return {name: loss for name, loss in losses.items() if loss.ce != own}  # that one is the student

    @property
    def cache_views(self) -> int:
        """Views of each image that a teacher cache holds."""
        return self.choices.teacher_cache_views or math.ceil(self.epochs)

    @property
    def cache_bytes(self) -> int | None:
        """What a cache would take, where one can be made and is not asked for."""
        lacks_logits = not self.loss.needs_teacher or self.loss.needs_hidden_states or isinstance(self.images, Scenes)
        if lacks_logits or self.choices.teacher_cache is not None:
            return None
        logits = len(self.images.data.train) * self.cache_views * self.images.groups.num_classes
        return logits * np.dtype(self.choices.teacher_cache_dtype).itemsize


def make_plan(**settings: Any) -> DistillPlan:
    """
    Looks at the images and the teacher, and chooses what was not chosen.

    Args:
        settings: As in [`distill`].

    Raises:
        `ValueError`: if teacher, student, images and settings do not fit each other.
    """
    own, trust, source, image_fields, mask_fields, choice, training = split_settings(
        settings,
        *(DistillArguments, ModelArguments, SourceArguments, DataArguments, MaskArguments, TrainingChoices),
        DistillationTrainingArguments,
    )
    masks = masks_of(mask_fields, settings)
    if masks is not None:
        own, training = {"student": STUDENT, **own}, {**FOR_PIXELS, **training}
    choices, recommend = DistillArguments(**own), TrainingChoices(**choice).recommend
    where = SourceArguments(**source)
    loss_args = read_loss_args(choices.loss_args)
    first_loss = new_loss(choices, ClassGroups.from_counts([1, 1], 1), loss_args, image_fields.get("benchmark"))
    check_loss(choices, first_loss, loss_args, of_pixels=masks is not None)
    read = {"data": name_data(where, image_fields)[1].get("data_dir"), "teacher": choices.teachers}
    prepare_folder(training, "student", {**read, "student": choices.student})
    space = check_search(choices, loss_args, training)
    if space and choices.teacher_cache is None:
        choices.teacher_cache = str(Path(training["output_dir"]) / "teacher_cache")
    if choices.teacher_cache is not None:
        check_apart("teacher_cache", choices.teacher_cache, read)
        check_cached(first_loss, training)
    check_push(choices, training)
    check_training(training, choices.student, recommend)
    how: dict[str, Any] = {"student": choices.student, "seed": training.get("seed", 42)}
    how |= {"num_groups": choices.num_groups, **trust}
    images: Images
    if masks is not None:
        check_segmenter("student", choices.student, **trust)
        teachers = [load_segmenter(model, "teacher", **trust) for model in choices.teachers]
        images = load_scenes(where, image_fields, masks, next(iter(teachers), None), **how)
        teacher = next(iter(teachers), None)
        if teacher is not None:
            check_mask_classes(teacher, images)
            check_answer(model_name(teacher), teacher, images.data.test.for_teacher())
    else:
        check_network("student", choices.student, image_fields.get("image_size"), **trust)
        teachers = [load_classifier(model, **trust) for model in choices.teachers]
        for model in teachers:
            check_weights(model, "teacher")
        more: dict[str, Any] = {"unlabelled": choices.unlabelled, "match_labels": choices.match_labels}
        images = load_images(
            where, image_fields, teachers, validation=bool(choices.tune or choices.seeds), **how, **more
        )
        teacher, matched = fit_teachers(teachers, images.data, choices.match_labels, choices.teacher_weights)
        if matched and isinstance(first_loss, CATKDLoss):
            raise ValueError(
                f"--match_labels does not go with --loss {choices.loss}, which reads the teacher's head: use kd."
            )
    args, reason = _training(choices.student, images, training, recommend, **trust)
    student = new_network(choices.student, images, args, **trust)

    make_mixer(args, student, first_loss, choices.teacher_cache is not None)  # says what does not go together
    bias = None
    if teacher is not None:
        place_teacher(teacher, args.device)
        bias = images.report(teacher, args.per_device_eval_batch_size)
        if choices.adjust_teacher and (said := caution(corrections(teacher))):
            warnings.warn(f"--adjust_teacher corrects {model_name(teacher)!r}. {said}", stacklevel=2)
        if bias.answers.at_chance:
            warnings.warn(
                f"The teacher {model_name(teacher)!r} may have nothing to teach. {bias.answers.describe()}",
                stacklevel=2,
            )
    loss_reason = "the method's values where --loss_args says nothing"
    if type(first_loss) is LTKDLoss and choices.pair is None and recommend:
        epochs, of_pixels = epochs_of(args, len(images.data.train)), masks is not None
        accuracy = None
        if teacher is not None and bias is not None:
            accuracy = images.teacher_accuracy(teacher, bias, args.per_device_eval_batch_size)
        weights = recommend_weights(images.class_counts, epochs, args.label_smoothing_factor, of_pixels, accuracy)
        loss_args, loss_reason = {**weights.values, **loss_args}, weights.reason
    loss = new_loss(choices, images.groups, loss_args, images.data.args.benchmark)
    return DistillPlan(
        name=model_name(choices.student),
        network=student,
        loss=loss,
        images=images,
        args=args,
        reason=reason,
        choices=choices,
        teacher=teacher,
        bias=bias,
        unseen=bool(teachers) and all(_is_split_of(model_name(model), images.holdout) for model in teachers),
        loss_reason=loss_reason,
        space=space,
        **{"trust_remote_code": False, **trust},
    )


def plan_teacher(**settings: Any) -> TrainingPlan:
    """
    The same for a classifier that is trained by cross-entropy alone.

    Args:
        settings: As in [`train_teacher`].

    Raises:
        `ValueError`: if model, images and settings do not fit each other.
    """
    own, trust, source, image_fields, mask_fields, choice, training = split_settings(
        settings,
        *(TrainTeacherArguments, ModelArguments, SourceArguments, DataArguments, MaskArguments, TrainingChoices),
        DistillationTrainingArguments,
    )
    masks = masks_of(mask_fields, settings)
    if masks is not None:
        own, training = {"model": TEACHER, **own}, {**FOR_PIXELS, **training}
    chosen, recommend = TrainTeacherArguments(**own), TrainingChoices(**choice).recommend
    model, where = chosen.model, SourceArguments(**source)
    loss_args, loss_reason = read_loss_args(chosen.loss_args), ""
    if chosen.ce is not None and loss_args.setdefault("ce", chosen.ce) != chosen.ce:
        raise ValueError(f"--ce {chosen.ce} and --loss_args ce={loss_args['ce']} are two: give one of them.")
    create_loss("ce", ClassGroups.from_counts([1, 1], 1), **loss_args)
    prepare_folder(training, "teacher", {"data": name_data(where, image_fields)[1].get("data_dir"), "model": model})
    check_training(training, model, recommend)
    images: Images
    if masks is not None:
        check_segmenter("model", model, **trust)
        images = load_scenes(where, image_fields, masks, model, seed=training.get("seed", 42), **trust)
    else:
        check_network("model", model, image_fields.get("image_size"), **trust)
        images = load_images(where, image_fields, model, seed=training.get("seed", 42), **trust)
    args, reason = _training(model, images, training, recommend, **trust)
    network: Any = new_network(model, images, args, **trust)
    if chosen.peft is not None:
        network = add_lora(network, model_name(model))
    if recommend and "ce" not in loss_args:
        recommended = recommend_ce(images.class_counts, args.label_smoothing_factor, masks is not None)
        loss_args, loss_reason = {**recommended.values, **loss_args}, recommended.reason
    return TrainingPlan(
        name=model_name(model),
        network=network,
        loss=create_loss("ce", images.groups, **loss_args),
        images=images,
        args=args,
        reason=reason,
        loss_reason=loss_reason,
    )


def _training(
    model: Model, images: Images, given: dict[str, Any], recommend: bool, trust_remote_code: bool = False
) -> tuple[DistillationTrainingArguments, str]:
    """The training's arguments, and why these; the seed is set, as for the initial weights that come next."""
    data, recommended = images.data, Recommendation()
    if recommend:
        trained = has_weights(model, trust_remote_code) if isinstance(images, Scenes) else is_pretrained(model)
        recommended = images.recommend_training(model_name(model), trained)
    args = training_arguments(given, recommended, data.args.crop)
    if args.load_best_model_at_end and data.validation is None:
        warnings.warn(
            f"The checkpoint is chosen by {args.metric_for_best_model} on the images that are reported, which "
            "flatters it: add a validation/ beside test/ to choose on.",
            stacklevel=4,
        )
    set_seed(args.seed)
    return args, recommended.reason


def _is_split_of(teacher: str, holdout: Holdout | None) -> bool:
    """Whether the teacher's folder says that it was trained without the images that are held out here."""
    return (Path(teacher) / HOLDOUT_NAME).is_file() and Holdout.from_pretrained(teacher) == holdout
