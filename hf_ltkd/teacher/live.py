"""Where teacher logits come from: a live model."""

import hashlib
import os
from contextlib import AbstractContextManager
from typing import Any

import torch
import transformers
from torch import nn
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, PreTrainedModel

from ..utils import check_model_files


# The last words of a saved model's class name, and the class that loads it.
AUTO_CLASSES = {
    "ForImageClassification": transformers.AutoModelForImageClassification,
    "ForSequenceClassification": transformers.AutoModelForSequenceClassification,
    "ForTokenClassification": transformers.AutoModelForTokenClassification,
    "ForAudioClassification": transformers.AutoModelForAudioClassification,
    "ForAudioFrameClassification": transformers.AutoModelForAudioFrameClassification,
    "ForVideoClassification": transformers.AutoModelForVideoClassification,
}


def load_teacher(teacher: str | os.PathLike | nn.Module) -> nn.Module:
    """
    A teacher that never trains: in eval mode and without gradients.

    Args:
        teacher (`str`, `os.PathLike` or `torch.nn.Module`): A model, or the Hub id or folder of a classifier of
            images, text, tokens, audio or video.

    Raises:
        `ValueError`: if the saved model is no classifier, or one of its files is damaged.
    """
    if not isinstance(teacher, str | os.PathLike | nn.Module):
        raise ValueError(f"The teacher is {type(teacher).__name__}: give a model, or its Hub id or folder.")
    model = teacher if isinstance(teacher, nn.Module) else _load_classifier(os.fspath(teacher))
    return gather_teacher(model).eval().requires_grad_(False)


def _load_classifier(name: str) -> nn.Module:
    check_model_files(name)
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"There is no model {name!r} as a folder here or on the Hub: {reason}") from error
    architectures = config.architectures or ["unknown"]
    for suffix, auto_class in AUTO_CLASSES.items():
        if not architectures[0].endswith(suffix):
            continue
        if suffix == "ForSequenceClassification" and type(config) not in auto_class._model_mapping:  # type: ignore[operator]
            auto_class = transformers.AutoModelForAudioClassification  # Wav2Vec2 and its kin use that name too
        return auto_class.from_pretrained(name)
    raise ValueError(
        f"The teacher {name!r} was saved as {architectures[0]}, which is no classifier: expected a class whose name "
        f"ends with {', '.join(AUTO_CLASSES)}; fine-tune it on the classes first, or load it and pass the model."
    )


def gather_teacher(teacher: nn.Module) -> nn.Module:
    """
    Puts a teacher together that was loaded under DeepSpeed ZeRO-3, which hands every rank a part of each weight.

    Other teachers are returned as they are. Runs on all ranks.
    """
    if not any(hasattr(parameter, "ds_id") for parameter in teacher.parameters()):
        return teacher
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(teacher.parameters())):
        for module in teacher.modules():
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(parameter.data.clone(), requires_grad=False))
    return teacher


def teacher_fingerprint(teacher: nn.Module) -> str:
    """16 hexadecimal digits that change with any weight, buffer or name of the teacher."""
    digest = hashlib.sha256()
    for name, tensor in teacher.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def ask_teacher(teacher: nn.Module, inputs: dict[str, torch.Tensor], autocast: AbstractContextManager):
    """The teacher's outputs, in eval mode even if a caller has called `train()` on it."""
    # DeepSpeed casts the inputs to the student's type, and a teacher loaded in bf16 may not cast them itself.
    dtype = next((p.dtype for p in teacher.parameters() if p.is_floating_point()), torch.float32)
    inputs = {
        name: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    if teacher.training:
        teacher.eval()
    # no_grad, not inference_mode: the student's backward may have to save the outputs.
    with torch.no_grad(), autocast:
        return teacher(**inputs)


def check_same_classes(student: nn.Module, teacher: nn.Module) -> None:
    """
    Raises:
        `ValueError`: if student and teacher have different numbers of classes, or other names for the same class id.
    """
    if not (isinstance(student, PreTrainedModel) and isinstance(teacher, PreTrainedModel)):
        return  # plain modules carry no label names to compare
    if student.config.num_labels != teacher.config.num_labels:
        raise ValueError(
            f"The teacher has {teacher.config.num_labels} classes, the student {student.config.num_labels}: "
            f"create the student with num_labels={teacher.config.num_labels}, or choose another teacher."
        )
    student_names: dict = dict(student.config.id2label or {})
    for class_id, teacher_name in dict(teacher.config.id2label or {}).items():
        student_name = student_names[class_id]
        unnamed = f"LABEL_{class_id}"
        if teacher_name != student_name and unnamed not in (teacher_name, student_name):
            raise ValueError(
                f"Class {class_id} is {teacher_name!r} for the teacher and {student_name!r} for the student: "
                "create the student with the teacher's id2label and label2id, and map the labels of the data to them."
            )


def hand_over(values: Any, source: torch.cuda.Stream, target: torch.cuda.Stream) -> None:
    """One CUDA stream waits for values made on another, and keeps their memory until it is done with them."""
    target.wait_stream(source)
    for tensor in tree_leaves(values):
        if isinstance(tensor, torch.Tensor) and tensor.is_cuda:
            tensor.record_stream(target)
