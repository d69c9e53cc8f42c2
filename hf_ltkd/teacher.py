"""Where teacher logits come from: a live model."""

from contextlib import AbstractContextManager

import torch
from torch import nn
from transformers import AutoModelForImageClassification, PreTrainedModel


def load_teacher(teacher: str | nn.Module) -> nn.Module:
    """
    A teacher that never trains: in eval mode and without gradients.

    Args:
        teacher (`str` or `torch.nn.Module`): A model, or its Hub id or folder.
    """
    model = AutoModelForImageClassification.from_pretrained(teacher) if isinstance(teacher, str) else teacher
    return model.eval().requires_grad_(False)


def ask_teacher(teacher: nn.Module, inputs: dict[str, torch.Tensor], autocast: AbstractContextManager):
    """The teacher's outputs. Its mode is set each time, because a caller may have called `train()` on it."""
    # no_grad, not inference_mode: the student's backward may have to save the outputs.
    with torch.no_grad(), autocast:
        return teacher.eval()(**inputs)


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
