"""What [`DistillationTrainer`] checks: whether teacher, student, loss and data fit; and why a loss is not finite."""

from collections.abc import Collection
from typing import Any

import datasets
import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from ..data.augment import ImageDataset, LabelledImages
from ..losses.base import DistillationLoss
from ..losses.checks import IGNORED_LABEL, MULTI_LABEL, UNLABELLED, logits_of
from ..metrics import group_accuracy, mean_iou
from ..teacher.cache import CachedTeacherDataset, TeacherCache
from ..teacher.ema import EMATeacher
from ..teacher.ensemble import TeacherEnsemble
from ..teacher.language import language_model_kind, network_of, num_classes_of
from ..teacher.live import check_same_classes
from ..utils import listed
from .segmenters import check_segmenters, is_segmenter
from .training_args import DistillationTrainingArguments


LOGITS_COLUMN = "teacher_logits"  # the teacher's answers, where they travel in the batch


def check_loss_and_teacher(
    distillation_loss: Any,
    student: nn.Module | None,
    teacher: Any,
    train_dataset: Any = None,
    args: TrainingArguments | None = None,
) -> None:
    """
    Raises:
        `ValueError`: if the loss is none, needs a teacher and gets none or two, or if teacher and student are one
            object.
    """
    if not isinstance(distillation_loss, DistillationLoss):
        raise ValueError(
            f"distillation_loss is a {type(distillation_loss).__name__}: give a DistillationLoss such as "
            "LTKDLoss(groups) or KDLoss()."
        )
    if distillation_loss.needs_teacher and teacher is None:
        _check_column(distillation_loss, student, train_dataset, args)
    check_one_teacher(teacher, getattr(train_dataset, "column_names", None) or ())
    if isinstance(teacher, EMATeacher):
        teacher.check_follows(student)
    given = list(teacher.teachers) if isinstance(teacher, TeacherEnsemble) else teacher
    if student is not None and any(one is student for one in (given if isinstance(given, list) else [given])):
        raise ValueError("Teacher and student are the same object: load the model twice to distil it into itself.")


def check_one_teacher(teacher: Any, columns: Collection[str]) -> None:
    """
    Raises:
        `ValueError`: if there is a teacher, and its answers are among the columns of the data, too.
    """
    if teacher is not None and LOGITS_COLUMN in columns:
        raise ValueError(
            f"The data have a column {LOGITS_COLUMN!r}, which is taken for the teacher's answers, and there is a "
            "teacher_model too: leave one of them out."
        )


def _check_column(
    distillation_loss: DistillationLoss, student: nn.Module | None, train_dataset: Any, args: TrainingArguments | None
) -> None:
    """
    Looks at the first example for the logits of a teacher that is not there.

    Raises:
        `ValueError`: if there are none, or they are no logits of the student's classes.
    """
    example: Any = {}
    name = type(distillation_loss).__name__
    if hasattr(train_dataset, "__len__"):
        example = train_dataset[0] if len(train_dataset) else {}
    elif train_dataset is not None:
        example = next(iter(train_dataset), {})
    if LOGITS_COLUMN not in example:
        raise ValueError(
            f"{name} needs a teacher: pass teacher_model (a model, a Hub id or a folder), let each example of "
            f"train_dataset hold its {LOGITS_COLUMN!r}, or train without one with CrossEntropyLoss()."
        )
    if distillation_loss.needs_hidden_states:
        raise ValueError(f"{name} compares hidden states, and a column of logits has none: pass teacher_model.")
    if isinstance(args, DistillationTrainingArguments) and args.eval_with_teacher:
        raise ValueError(
            "eval_with_teacher=True asks a teacher, and there is a column of its logits alone: leave it out."
        )
    shape = tuple(torch.as_tensor(example[LOGITS_COLUMN]).shape)
    if isinstance(student, PreTrainedModel) and shape[-1:] != (student.config.num_labels,):
        raise ValueError(
            f"The first example's {LOGITS_COLUMN!r} have the shape {list(shape)}, and the student has "
            f"{student.config.num_labels} classes: they must be a number for each."
        )


def check_model(student: nn.Module, teacher: nn.Module | None, distillation_loss: DistillationLoss) -> None:
    """
    Raises:
        `ValueError`: if a model writes text or gives an example several classes, several teachers are of tokens or
            pixels, or the student's classes are not those of the teacher or of the loss, or fewer than two.
    """
    for name, model in (("student", student), ("teacher", teacher)):
        network = None if model is None else network_of(model)
        if isinstance(network, PreTrainedModel) and network.can_generate() and language_model_kind(network) is None:
            raise ValueError(
                f"The {name} is a {type(network).__name__}, which writes text that it answers with, by a decoder of "
                "its own: distil a classifier, or a language model (...ForCausalLM, ...ForMaskedLM)."
            )
        if isinstance(network, PreTrainedModel) and network.config.problem_type == "multi_label_classification":
            raise ValueError(f"The {name}'s config says problem_type='multi_label_classification'. {MULTI_LABEL}")
    if isinstance(teacher, TeacherEnsemble) and (language_model_kind(student) is not None or is_segmenter(student)):
        raise ValueError(
            f"Several teachers are classifiers with an answer per example, and the student is a "
            f"{type(network_of(student)).__name__}: give one teacher."
        )
    check_language_models(student, teacher, distillation_loss)
    check_segmenters(student, teacher, distillation_loss)
    if isinstance(student, PreTrainedModel):
        check_two_classes(num_classes_of(student))
    if teacher is not None:
        check_same_classes(student, teacher)
    if isinstance(teacher, TeacherEnsemble | EMATeacher) and distillation_loss.needs_hidden_states:
        reason = "several teachers do not have in common" if isinstance(teacher, TeacherEnsemble) else "a mean changes"
        raise ValueError(
            f"{type(distillation_loss).__name__} compares hidden states, which {reason}: give one teacher that does "
            "not train, or choose a loss on logits."
        )
    num_classes = distillation_loss.num_classes
    if isinstance(student, PreTrainedModel) and num_classes not in (None, num_classes_of(student)):
        raise ValueError(
            f"The groups or counts of {type(distillation_loss).__name__} are for {num_classes} classes, the "
            f"student has {num_classes_of(student)}: make them from the counts of all its classes (of a language "
            "model: tokens)."
        )


def check_language_models(student: nn.Module, teacher: nn.Module | None, loss: DistillationLoss) -> None:
    """
    Raises:
        `ValueError`: if one of two models is a language model, or of another kind, or the loss compares features.
    """
    kind = language_model_kind(student)
    if teacher is not None and language_model_kind(teacher) != kind:
        raise ValueError(
            f"The teacher is a {type(network_of(teacher)).__name__} and the student a "
            f"{type(network_of(student)).__name__}: a causal language model is distilled into a causal one, whose "
            "logits are for the next token too, and a masked one into a masked one."
        )
    if kind is not None and loss.needs_hidden_states:
        raise ValueError(
            f"{type(loss).__name__} compares hidden states, and a {type(network_of(student)).__name__} is distilled "
            "by its logits alone: choose a loss on logits, such as LTKDLoss or KDLoss."
        )


def check_two_classes(num_classes: int) -> None:
    """
    Raises:
        `ValueError`: if there is one class, whose probability is 1 whatever the student learns.
    """
    if num_classes < 2:
        raise ValueError(
            f"The student has {num_classes} output class, and every loss on it is 0: create it with num_labels of 2 "
            "or more."
        )


def check_overlap(device: torch.device, teacher: nn.Module | None) -> None:
    """
    Raises:
        `ValueError`: if there is no GPU, or no live teacher, for the teacher's work to be done beside the student's,
            or it waits for the student's.
    """
    if isinstance(teacher, EMATeacher):
        raise ValueError("overlap_teacher=True does not go with an EMATeacher, which waits for the student's step.")
    if device.type != "cuda" or teacher is None:
        raise ValueError(
            f"overlap_teacher=True needs a live teacher on a GPU; this training runs on {device.type} with "
            f"{'no live teacher' if teacher is None else 'one'}: leave overlap_teacher out."
        )


def check_cache(
    cache: TeacherCache, student: nn.Module | None, distillation_loss: DistillationLoss, args: TrainingArguments | None
) -> None:
    """
    Raises:
        `ValueError`: if the loss or the evaluation needs more of the teacher than its cached logits, or if they are
            for another number of classes.
    """
    row = "token" if language_model_kind(student) is not None else "pixel" if is_segmenter(student) else None
    if row is not None:
        raise ValueError(
            f"A TeacherCache holds one row of logits an example, and a {type(student).__name__} has one a {row}: pass "
            "the teacher itself as teacher_model."
        )
    if distillation_loss.needs_hidden_states:
        raise ValueError(
            f"{type(distillation_loss).__name__} compares hidden states and a TeacherCache holds logits alone: pass "
            "the teacher itself as teacher_model."
        )
    if isinstance(args, DistillationTrainingArguments) and args.eval_with_teacher:
        raise ValueError(
            "eval_with_teacher=True asks the teacher for the evaluation images and a TeacherCache holds training "
            "images alone: leave it out, or pass the teacher itself as teacher_model."
        )
    if isinstance(student, PreTrainedModel) and student.config.num_labels != cache.num_classes:
        raise ValueError(
            f"The cached teacher has {cache.num_classes} classes, the student {student.config.num_labels}: create the "
            f"student with num_labels={cache.num_classes}, or choose another teacher."
        )


def labels_at_hand(dataset: Any) -> np.ndarray | None:
    """The labels of a dataset where they can be read without decoding anything."""
    if isinstance(dataset, LabelledImages | CachedTeacherDataset):
        return dataset.labels.numpy()
    if not isinstance(dataset, datasets.Dataset):
        return None
    column = next((c for c in ("labels", "label", "label_ids") if c in dataset.column_names), None)
    if column is None or dataset.format["type"] == "custom":
        return None  # a transform or the collator makes the labels
    feature = dataset.features[column]
    if not isinstance(feature, datasets.ClassLabel) and getattr(feature, "dtype", "")[:3] != "int":
        return None  # labels of tokens
    return np.asarray(dataset.select_columns([column]).with_format("numpy")[:][column])


def check_best_metric(args: TrainingArguments, compute_metrics: Any, eval_dataset: Any) -> None:
    """
    Raises:
        `ValueError`: if the best checkpoint is to be that of a metric that there is not, or of a group without an
            example to evaluate on.
    """
    with_teacher = isinstance(args, DistillationTrainingArguments) and args.eval_with_teacher
    known_metric = isinstance(compute_metrics, group_accuracy | mean_iou)
    if known_metric and not isinstance(eval_dataset, dict) and not with_teacher:
        known = ["loss", "cross_entropy", *compute_metrics.names]
        if args.metric_for_best_model and args.metric_for_best_model.removeprefix("eval_") not in known:
            raise ValueError(
                f"metric_for_best_model={args.metric_for_best_model!r} is not measured: use one of {', '.join(known)}."
            )
    labels = labels_at_hand(eval_dataset)
    if isinstance(compute_metrics, group_accuracy) and args.metric_for_best_model and labels is not None:
        compute_metrics.check_is_measured(args.metric_for_best_model, labels)


def check_labels(name: str, dataset: Any, student: nn.Module, loss: DistillationLoss) -> None:
    """
    Looks at the labels of a dataset where they are at hand, without decoding anything.

    Raises:
        `ValueError`: if one is outside the student's classes. -100, which counts nowhere, is not, nor is -1 of a
            training set, unless the loss can do nothing without a class.
    """
    if not isinstance(student, PreTrainedModel):
        return
    labels = labels_at_hand(dataset)
    if labels is None:
        return
    labels = labels[labels != IGNORED_LABEL]
    unlabelled = labels == UNLABELLED
    if name == "train_dataset" and unlabelled.any():
        if loss.needs_labels or not loss.needs_teacher:
            raise ValueError(
                f"{unlabelled.sum():,} of {len(labels):,} examples of {name} have no class (label -1), and "
                f"{type(loss).__name__} learns nothing without one: leave them out, or choose another loss, such as "
                "KDLoss."
            )
        labels = labels[~unlabelled]
    num_labels = num_classes_of(student)
    if len(labels) and (labels.min() < 0 or labels.max() >= num_labels):
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise ValueError(
            f"{name} has the label {wrong}, outside the student's classes 0 to {num_labels - 1}: "
            "create the student with enough classes, or correct the labels."
        )


def check_device(name: str, dataset: Any, args: TrainingArguments) -> None:
    """
    Raises:
        `ValueError`: if images are on a GPU (`data_device`) and the DataLoader would send or pin them.
    """
    images = dataset.dataset if isinstance(dataset, CachedTeacherDataset) else dataset
    if not isinstance(images, ImageDataset) or images.device.type == "cpu":
        return
    if args.dataloader_num_workers or args.dataloader_pin_memory:
        raise ValueError(
            f"The images of {name} are on {images.device}, where worker processes cannot use them and memory cannot "
            "be pinned: set dataloader_num_workers=0 and dataloader_pin_memory=False, or leave out data_device."
        )


def check_optimizer(optimizer: torch.optim.Optimizer, distillation_loss: DistillationLoss) -> None:
    """
    Raises:
        `ValueError`: if an optimizer of the user's own leaves out parameters of the loss.
    """
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in distillation_loss.named_parameters() if id(p) not in given]
    if missing:
        raise ValueError(
            f"The optimizer does not train {len(missing)} parameters of {type(distillation_loss).__name__}: "
            "give it distillation_loss.parameters() too, or let the trainer make the optimizer."
        )


def broken_tensors(network: nn.Module) -> list[str]:
    """
    Weights that hold NaN or Inf, and buffers of NaN or +Inf, as batch normalisation's variance becomes while the loss
    is still finite. A mask of -Inf is none of that.
    """
    wrong = [name for name, weight in network.named_parameters() if not torch.isfinite(weight).all()]
    for name, buffer in network.named_buffers():
        if buffer.is_floating_point() and (buffer.isnan() | buffer.isposinf()).any():
            wrong.append(name)
    return wrong


def check_finite(network: nn.Module, refused: str) -> None:
    """
    Args:
        refused (`str`): What is not done with a broken student: `"saved to 'folder'"`.

    Raises:
        `FloatingPointError`: if it has [`broken_tensors`].
    """
    if wrong := broken_tensors(network):
        raise FloatingPointError(
            f"The student is not {refused}, because {len(wrong)} of its tensors hold NaN or Inf: {listed(wrong)}. "
            "Lower the learning rate, clip the gradient (max_grad_norm), or resume from the last checkpoint, which is "
            "untouched."
        )


def check_scores(logits: torch.Tensor, valid: torch.Tensor, step: int) -> None:
    """
    Raises:
        `FloatingPointError`: if the logits of a labelled example are NaN or infinite: they belong to no class.
    """
    wrong = ~torch.isfinite(logits).all(-1) & valid
    if wrong.any():
        raise FloatingPointError(
            f"The student's logits hold NaN or Inf for {int(wrong.sum())} of {int(valid.sum())} examples of an "
            f"evaluation batch after step {step}: the student is broken. Resume from the last checkpoint with a lower "
            "learning rate, or look at the inputs."
        )


def blame(step: int, terms: dict[str, torch.Tensor], student_outputs: Any, teacher_outputs: Any) -> str:
    """Why the loss of a step is not finite, and what to do about it."""
    if teacher_outputs is not None and not torch.isfinite(logits_of(teacher_outputs)).all():
        return (
            f"The teacher's logits hold NaN or Inf at step {step}: check its weights and its input, or run it in "
            "float32. The last checkpoint is untouched."
        )
    if not torch.isfinite(logits_of(student_outputs)).all():
        culprit = "the student's logits hold NaN or Inf"
    else:
        culprit = "not finite: " + ", ".join(name for name, term in terms.items() if not torch.isfinite(term))
    return (
        f"The loss is not finite at step {step} ({culprit}): lower the learning rate or the loss weights, add "
        "warmup_epochs, or resume from the last checkpoint, which is untouched."
    )
