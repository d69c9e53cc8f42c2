"""Where teacher logits come from: a live model."""

import hashlib
import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from ..utils import placed_for
from .ema import EMATeacher
from .ensemble import TeacherEnsemble
from .language import language_model_kind, num_classes_of
from .loading import class_names_of, is_quantised, load_model


Teacher = str | os.PathLike | nn.Module


def load_teacher(teacher: Teacher | Sequence[Teacher], trust_remote_code: bool = False) -> nn.Module:
    """
    A teacher that never trains: in eval mode and without gradients.

    Args:
        teacher (`str`, `os.PathLike`, `torch.nn.Module`, or a list of these):
            A model, or the Hub id or folder of a classifier of images, text, tokens, audio or video, or of a language
            model. Of several it is their [`TeacherEnsemble`].
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether the saved model's own code may be run.

    Raises:
        `ValueError`: if the saved model is no classifier, cannot be loaded, or one of its files is damaged.
    """
    if isinstance(teacher, list | tuple):
        several = [load_teacher(one, trust_remote_code) for one in teacher]
        return several[0] if len(several) == 1 else TeacherEnsemble(several)
    if not isinstance(teacher, str | os.PathLike | nn.Module):
        raise ValueError(f"The teacher is {type(teacher).__name__}: give a model, its Hub id or folder, or several.")
    model = teacher if isinstance(teacher, nn.Module) else load_model(teacher, trust_remote_code=trust_remote_code)
    return gather_teacher(model).eval().requires_grad_(False)


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
    """
    16 hexadecimal digits that change with any weight, buffer or name of the teacher; those of each of several, and how
    they go together. The mean of the student itself is told by its decay.
    """
    if isinstance(teacher, TeacherEnsemble):
        return teacher.formula([teacher_fingerprint(one) for one in teacher.teachers])
    if isinstance(teacher, EMATeacher):
        return f"mean of the student with decay {teacher.decay}"
    digest = hashlib.sha256()
    if not teacher.state_dict():  # it asks a server, for instance, which its repr names
        digest.update(text_of(teacher).encode())
    for name, tensor in teacher.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def networks_of(teacher: nn.Module | None) -> list[nn.Module]:
    """The networks that are asked: none, one, or each of several."""
    if teacher is None:
        return []
    return list(teacher.teachers) if isinstance(teacher, TeacherEnsemble) else [teacher]


def text_of(module: nn.Module) -> str:
    """A module in words, the same in each process."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(module))


def place_teacher(teacher: nn.Module, device: torch.device) -> nn.Module:
    """
    Moves a teacher to a device. One that is quantised, or spread over devices, stays where it was loaded.

    Raises:
        `ValueError`: if a quantised one is elsewhere.
    """
    if isinstance(teacher, TeacherEnsemble):
        for one in teacher.teachers:
            place_teacher(one, device)
        return teacher
    if len(set(getattr(teacher, "hf_device_map", {}).values())) > 1:
        return teacher  # its own hooks move inputs and outputs
    if not is_quantised(teacher):
        return teacher.to(device)
    here = next(teacher.parameters()).device
    if here.type != device.type:
        raise ValueError(
            f"The teacher is quantised, which keeps it on {here.type}, and the training runs on {device.type}: load "
            f'it with device_map="{device.type}" and pass the model, or train on {here.type}.'
        )
    return teacher


def ask_teacher(teacher: nn.Module, inputs: dict[str, torch.Tensor], autocast: AbstractContextManager):
    """The teacher's outputs, in eval mode even if a caller has called `train()` on it."""
    # DeepSpeed casts the inputs to the student's type, and a teacher loaded in bf16 may not cast them itself.
    if not isinstance(teacher, TeacherEnsemble):  # whose teachers may differ in type, and get their own
        inputs = placed_for(teacher, inputs)
    if teacher.training:
        teacher.eval()
    # no_grad, not inference_mode: the student's backward may have to save the outputs.
    with torch.no_grad(), autocast:
        return as_outputs(teacher(**inputs))


def as_outputs(outputs: Any) -> Any:
    """What a teacher returns, with `logits`, also where it is a tensor of them."""
    return ImageClassifierOutput(logits=outputs) if isinstance(outputs, torch.Tensor) else outputs  # type: ignore


def check_same_classes(student: nn.Module, teacher: nn.Module) -> None:
    """
    Raises:
        `ValueError`: if student and teacher have different numbers of classes, or other names for the same class id.
    """
    if not (isinstance(student, PreTrainedModel) and isinstance(teacher, PreTrainedModel)):
        return  # plain modules carry no label names to compare
    if language_model_kind(student) is not None:
        sizes = num_classes_of(student), num_classes_of(teacher)
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"The teacher's vocabulary has {sizes[1]} tokens, the student's {sizes[0]}: give models of one "
                "tokenizer; where it is one, and the larger vocabulary only padded, call resize_token_embeddings("
                f"{min(sizes)}) on that model."
            )
        return
    if isinstance(teacher, TeacherEnsemble) and not teacher.config.num_labels:
        return  # nor do several of them
    if student.config.num_labels != teacher.config.num_labels:
        raise ValueError(
            f"The teacher has {teacher.config.num_labels} classes, the student {student.config.num_labels}: "
            f"create the student with num_labels={teacher.config.num_labels}, or choose another teacher."
        )
    for class_id, names in enumerate(zip(class_names_of(student), class_names_of(teacher), strict=True)):
        student_name, teacher_name = names
        if None not in names and student_name != teacher_name:
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
