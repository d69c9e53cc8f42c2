"""What every loss does to its input first: logits out of outputs, float32, and errors that say what to do."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ..utils import check_number, listed
from .schedule import numbers_of


IGNORED_LABEL = -100  # PyTorch's and Transformers' mark for what is not to be learned: padding, for instance
UNLABELLED = -1  # the mark of `datasets` for an example without a class: distilled, but not in the cross-entropy


def logits_of(outputs: Any) -> Tensor:
    """
    The logits of a model's output; a tensor is taken to be the logits.

    Raises:
        `ValueError`: if there are none.
    """
    if isinstance(outputs, Tensor):
        return outputs
    if not isinstance(getattr(outputs, "logits", None), Tensor):
        raise ValueError(
            f"The model returns a {type(outputs).__name__} without logits: let its forward return a tensor of them, "
            "or a ModelOutput whose logits are [batch, classes]."
        )
    return outputs.logits


def _marks(labels: Tensor) -> Tensor:
    """What tells examples apart, `[*batch]`: of soft labels the first number, as a mark fills the whole row."""
    return labels[..., 0] if labels.is_floating_point() else labels


def is_example(labels: Tensor) -> Tensor:
    """Whether something is learned at all: a mask of shape `[*batch]`, for class ids and for soft labels."""
    return _marks(labels) != IGNORED_LABEL


def is_labelled(labels: Tensor) -> Tensor:
    """Whether the class is known, too; as [`is_example`]."""
    marks = _marks(labels)
    return (marks != IGNORED_LABEL) & (marks != UNLABELLED)


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """
    The mean of losses `[batch]`, 0 of none; or, with `reduction="none"`, themselves.

    Raises:
        `ValueError`: if the reduction is another one.
    """
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction={reduction!r} is not known: use 'mean', or 'none' for the loss of each example.")
    return losses if reduction == "none" else losses.sum() / max(losses.shape[0], 1)


def are_labelled(labels: Tensor) -> bool:
    """Whether each class is known. It waits for a GPU, once."""
    labelled = is_labelled(labels)
    if not torch.compiler.is_compiling() and not isinstance(labelled, FakeTensor):
        return bool(labelled.all())
    # Shapes cannot depend on values here.
    message = "A compiled loss takes no labels of -100 or -1: leave such examples out of the batch."
    torch._assert_async(labelled.all(), message)
    return True


def check_probabilities(labels: Tensor) -> None:
    """
    Raises:
        `ValueError`: if soft labels `[batch, classes]` are no probabilities; class ids are not looked at.
    """
    if not labels.is_floating_point() or not is_eager(labels):
        return
    sums = labels.sum(-1)
    wrong = ~((sums - 1).abs() <= 0.01) | (labels < 0).any(-1)  # NaN, too
    if wrong.any():
        raise ValueError(
            f"The labels of an example sum to {sums[wrong][0].item():.3g}: soft labels are probabilities that sum to "
            f"1. {MULTI_LABEL}"
        )


MULTI_LABEL = (
    "Examples of several classes at once (multi-label) cannot be distilled here, because every loss compares softmax "
    "probabilities of classes that exclude each other: train one model per class, or give one label per example."
)


def as_targets(labels: Tensor, logits: Tensor) -> Tensor:
    """Labels as `F.cross_entropy` takes them: class ids as they are, soft labels in the type of the logits."""
    return labels.to(logits.dtype) if labels.is_floating_point() else labels


def check_class_ids(name: str, labels: Tensor) -> None:
    """
    Raises:
        `ValueError`: if a method that needs the one class of each example is given soft labels.
    """
    if labels.is_floating_point():
        raise ValueError(
            f"{name} needs the class of each example and cannot take soft labels of shape {tuple(labels.shape)}: "
            "leave out mixup_alpha and cutmix_alpha, give class ids (int64), or choose another loss, such as KDLoss."
        )


def check_classes(name: str, labels: Tensor) -> None:
    """
    Raises:
        `ValueError`: as [`check_class_ids`], and if an example has no class. It waits for a GPU.
    """
    check_class_ids(name, labels)
    if (labels == UNLABELLED).any():
        raise ValueError(
            f"{name} needs the class of each example, and some have none (label -1): leave them out, or choose "
            "another loss, such as KDLoss."
        )


def select_valid(labels: Tensor, *outputs: Any) -> tuple[Any, ...]:
    """
    Labels, outputs and columns of those examples (or tokens) that count ([`is_example`]), in one row each. The device
    is asked once which they are, not once a tensor.

    Args:
        labels (`torch.Tensor`): Of shape `[*batch]`, or soft ones `[*batch, classes]`.
        outputs (`ModelOutput`, `torch.Tensor` or `dict`, *optional*):
            With logits, or logits, of shape `[*batch, classes]`; or columns of the batch by name, tensors of shape
            `[batch, ...]` or `[*batch, ...]` (a token has what its example has). Other values stay as they are.

    Returns:
        `tuple`: the labels, and each of the outputs with logits of shape `[valid, classes]` and with the hidden states
        of valid examples; `None` stays `None`.

    Raises:
        `ValueError`: if the shapes do not fit.
    """
    valid = is_example(labels)
    chosen = valid.nonzero(as_tuple=True)
    return labels[chosen], *(None if o is None else _select(o, valid.shape, chosen, labels) for o in outputs)


def _select(outputs: Any, shape: torch.Size, chosen: tuple[Tensor, ...], labels: Tensor) -> Any:
    if type(outputs) is dict:
        return {name: _rows(column, shape, chosen) for name, column in outputs.items()}
    logits = logits_of(outputs)
    if logits.shape[:-1] != shape:
        raise _misfit(logits, labels)
    logits = logits[chosen]
    if isinstance(outputs, Tensor):
        return logits
    hidden_states = getattr(outputs, "hidden_states", None)
    if hidden_states is None or len(shape) > 1:
        return dataclasses.replace(outputs, logits=logits)
    return dataclasses.replace(outputs, logits=logits, hidden_states=tuple(h[chosen] for h in hidden_states))


def _rows(column: Any, shape: torch.Size, chosen: tuple[Tensor, ...]) -> Any:
    if not isinstance(column, Tensor) or column.shape[:1] != shape[:1]:
        return column
    return column[chosen if column.shape[: len(shape)] == shape else chosen[:1]]


def at_least_float32(tensor: Tensor) -> Tensor:
    """fp16 and bf16 become float32, because a softmax over them loses digits; float64 stays."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def check_logits(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """
    Both logits in float32 (or float64), the teacher's without gradient.

    Raises:
        `ValueError`: if they are not two tensors of the same shape `[batch, classes]`.
    """
    check_same_shape("logits", student_logits, teacher_logits, "[batch, classes]", "over the same classes")
    return at_least_float32(student_logits), at_least_float32(teacher_logits.detach())


def check_same_shape(what: str, student: Tensor, teacher: Tensor, shape: str, alike: str) -> None:
    """
    Raises:
        `ValueError`: if student and teacher do not give floating point tensors of one shape with the axes of `shape`;
            `what` they are and how they must be `alike` is said in words.
    """
    for whose, values in (("Student", student), ("Teacher", teacher)):
        check_tensor(f"{whose} {what}", values, shape)
    if student.ndim != len(shape.split(",")) or student.shape != teacher.shape:
        raise ValueError(
            f"Student {what} of shape {tuple(student.shape)} and teacher {what} of shape {tuple(teacher.shape)} do "
            f"not fit: both must be {shape} {alike}."
        )


def check_tensor(name: str, values: Any, shape: str) -> None:
    """Raises `ValueError` unless this is a tensor of floating point numbers; `shape` is what is expected, in words."""
    if not isinstance(values, Tensor) or not values.is_floating_point():
        kind = f"of {values.dtype}" if isinstance(values, Tensor) else f"of type {type(values).__name__}"
        raise ValueError(f"{name} are {kind}: give a floating point tensor {shape}.")


def check_labels(labels: Any, logits: Tensor, *marks: int) -> None:
    """
    Raises:
        `ValueError`: if labels are neither class ids of the shape of the logits without its last axis nor soft labels
            of the shape of the logits; on a CPU, where looking costs nothing, also if a class id is beyond the classes
            and none of the `marks`.
    """
    if not isinstance(labels, Tensor) or labels.dtype == torch.bool or labels.is_complex():
        kind = f"of {labels.dtype}" if isinstance(labels, Tensor) else f"of type {type(labels).__name__}"
        raise ValueError(f"The labels are {kind}: give a tensor of class ids (int64), one per row of the logits.")
    is_soft = labels.is_floating_point()
    if labels.shape != (logits.shape if is_soft else logits.shape[:-1]):
        raise _misfit(logits, labels)
    if not is_soft and labels.is_cpu and is_eager(labels):
        wrong = (labels < 0) | (labels >= logits.shape[-1])
        for mark in marks:
            wrong &= labels != mark
        if wrong.any():
            known = f" (or {listed(marks)})" if marks else ""
            raise ValueError(
                f"The labels hold {labels[wrong][0].item()}, outside the classes 0 to {logits.shape[-1] - 1}{known} "
                "of the logits."
            )


def _misfit(logits: Tensor, labels: Tensor) -> ValueError:
    is_soft = labels.is_floating_point()
    several = not is_soft and labels.shape == logits.shape
    return ValueError(
        f"Logits of shape {tuple(logits.shape)} and {'soft ' * is_soft}labels of shape {tuple(labels.shape)} do not "
        "fit: for logits [..., classes] the labels must be [...], one class id (int64) each, or [..., classes], one "
        f"probability per class.{(' ' + MULTI_LABEL) * several}"
    )


def is_eager(*tensors: Tensor) -> bool:
    """Whether values can be looked at: nothing compiles, exports, transforms (`torch.func`) or fakes these tensors."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
    )


def placed_with(tensor: Tensor, other: Tensor) -> Tensor:
    """A constant where another tensor is: on its device, or in its `FakeTensorMode`."""
    if isinstance(other, FakeTensor) and not other.fake_mode.allow_non_fake_inputs:
        tensor = other.fake_mode.from_tensor(tensor)
    return tensor.to(other.device)


def _is_known(value: Any) -> bool:
    return not isinstance(value, Tensor) or is_eager(value)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.ndim == 0 else value


def check_not_negative(**values: Any) -> None:
    """Raises `ValueError`, naming the argument, for a weight that is no finite number of 0 or more."""
    for name, value in values.items():
        for number in numbers_of(value):
            if _is_known(number):
                check_number(name, _plain(number), 0)


def check_temperature(temperature: Any, name: str = "temperature") -> None:
    """Raises `ValueError` unless the temperature is above 0."""
    for number in numbers_of(temperature):
        if _is_known(number):
            check_number(name, _plain(number), above=0)


def check_class_counts(class_counts: Sequence[int] | Tensor | None) -> Tensor:
    """
    Training examples per class as a float64 tensor of shape `[classes]`.

    Raises:
        `ValueError`: if it is not one number per class, each 1 or more.
    """
    try:
        counts = torch.as_tensor(() if class_counts is None else class_counts, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):  # no numbers
        counts = torch.empty(0)
    whole = not _is_known(counts) or bool(((counts >= 1) & (counts < math.inf) & (counts == counts.floor())).all())
    if counts.ndim != 1 or len(counts) == 0 or not whole:
        raise ValueError(
            "class_counts must hold the training examples of each class, whole numbers of 1 or more: count them with "
            "class_counts(dataset) or make the groups with ClassGroups.from_counts, and drop classes without an "
            "example from the label set."
        )
    return counts


def check_per_class(name: str, values: Tensor, logits: Tensor) -> Tensor:
    """
    `values` with the device and type of `logits`.

    Raises:
        `ValueError`: if it does not hold one value per class.
    """
    check_tensor("Logits", logits, "[batch, classes]")
    if not isinstance(values, Tensor) or values.shape != logits.shape[1:]:
        raise ValueError(
            f"{name} has the shape {tuple(getattr(values, 'shape', ()))}, the logits {logits.shape[1]} classes: "
            "give one value per class of the model."
        )
    return placed_with(values, logits).to(logits.dtype)
