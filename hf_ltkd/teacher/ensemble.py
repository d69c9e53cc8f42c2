"""Several teachers as one: the mean of what they say, or an expert for each group of classes."""

import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from ..groups import ClassGroups
from ..losses.checks import at_least_float32, logits_of
from ..utils import check_number, placed_for
from .columns import inputs_of
from .ema import EMATeacher
from .loading import class_names_of


class TeacherEnsemble(PreTrainedModel):
    """
    Several teachers as one, wherever one is taken: live, in a [`TeacherCache`], for a diagnosis. A list of teachers is
    short for it. It gives logits alone, so losses on hidden states (ReviewKD, CAT-KD) need a single teacher.

    Each teacher is asked in its own type, with the columns that its forward names. Columns that are for the k-th
    teacher alone, counted from 0, are called `teacher_<k>_<name>`, for instance `teacher_1_pixel_values`.

    Args:
        teachers (`Sequence[torch.nn.Module]`): Classifiers of the same classes in the same order.
        weights (`Sequence[float]`, *optional*): One of each teacher; their sum does not matter. Equal by default.
        mean_of (`str`, *optional*, defaults to `"probabilities"`):
            `"probabilities"`: the logits are the log of the mean of the teachers' probabilities at temperature 1,
            which a loss may soften afterwards; `"logits"`: their mean, the geometric mean of the probabilities.
        groups ([`ClassGroups`], *optional*):
            Instead of a mean, teacher k is the expert of group k: it gives the log-probabilities of this group's
            classes. It may know these alone, in the order of their ids, or all classes. These are the experts of LFME
            (Xiang et al., Learning From Multiple Experts, ECCV 2020), whose loss is the KL divergence within each
            group, `LTKDLoss(groups, alpha=0.0, beta=1.0, temperature=2.0)` up to the factor T². Its schedules
            (experts weighted by how far the student is behind, examples from easy to hard) are left out. Other losses
            compare groups, too: experts of their groups alone give each group the same probability.

    Raises:
        `ValueError`: if there are fewer than two teachers, one of them cannot be a member, they are of different
            classes or their names are in another order, or weights or groups do not fit them.
    """

    config_class = PreTrainedConfig
    main_input_name = "pixel_values"

    def __init__(
        self,
        teachers: Sequence[nn.Module],
        *,
        weights: Sequence[float] | None = None,
        mean_of: Literal["probabilities", "logits"] = "probabilities",
        groups: ClassGroups | None = None,
    ):
        _check_teachers(teachers)
        if mean_of not in ("probabilities", "logits"):
            raise ValueError(f"mean_of={mean_of!r} is not known: use 'probabilities' or 'logits'.")
        if groups is not None and (weights is not None or mean_of != "probabilities"):
            raise ValueError("An expert for each group has no mean to weigh: give groups, or weights and mean_of.")
        if groups is not None and len(teachers) != groups.num_groups:
            raise ValueError(
                f"There are {len(teachers)} teachers for {groups.num_groups} groups: give one for each, in order."
            )
        weights = [1.0] * len(teachers) if weights is None else weights
        if isinstance(weights, str) or not hasattr(weights, "__len__") or len(weights) != len(teachers):
            raise ValueError(f"weights={weights!r} is not valid: give a number for each of {len(teachers)} teachers.")
        for weight in weights:
            check_number("weights", weight, 0.0)
        if not sum(weights):
            raise ValueError(f"weights={list(weights)} are all 0: at least one teacher must count.")
        names = _class_names(teachers, groups)
        labels = [f"LABEL_{c}" if name is None else name for c, name in enumerate(names)]
        super().__init__(PreTrainedConfig(id2label=dict(enumerate(labels))))
        self.config.label2id = {label: class_id for class_id, label in enumerate(labels)}
        self.config.name_or_path = " + ".join(getattr(t, "name_or_path", "") or type(t).__name__ for t in teachers)
        self.name_or_path = self.config.name_or_path
        self.teachers = nn.ModuleList(teachers)
        self.weights = [weight / sum(weights) for weight in weights]
        self.mean_of = mean_of
        self.groups = groups
        self.eval()

    def formula(self, names: Sequence[str]) -> str:
        """How these names of the teachers go together, in words: `"probabilities of 0.5 * a + 0.5 * b"`."""
        if self.groups is not None:
            classes = self.groups.group_of_class.tolist()
            return f"experts {' | '.join(names)} of groups {','.join(map(str, classes))}"
        terms = (f"{weight:.6g} * {name}" for weight, name in zip(self.weights, names, strict=True))
        return f"{self.mean_of} of {' + '.join(terms)}"

    def forward(self, **inputs: Tensor) -> ImageClassifierOutput:
        """
        Args:
            inputs: Columns of the batch; of one that is called `<k>_<name>`, `name` is the k-th teacher's own.

        Returns:
            `ImageClassifierOutput`: `logits` `[batch, classes]` in float32 or more.
        """
        shared = {name: value for name, value in inputs.items() if not re.match(r"\d+_", name)}
        answers: list[Tensor] = []
        for k, teacher in enumerate(self.teachers):
            own = {n.removeprefix(f"{k}_"): value for n, value in inputs.items() if n.startswith(f"{k}_")}
            logits = logits_of(teacher(**placed_for(teacher, inputs_of(teacher, {**shared, **own}))))
            answers.append(at_least_float32(logits.to(answers[0].device if answers else logits.device)))
        if self.groups is not None:
            return ImageClassifierOutput(logits=self._of_experts(answers))  # type: ignore[arg-type]
        if len({answer.shape for answer in answers}) > 1:
            raise ValueError(
                f"The teachers give logits of the shapes {', '.join(str(list(a.shape)) for a in answers)}: they must "
                "be classifiers of the same classes."
            )
        stacked, weights = torch.stack(answers), answers[0].new_tensor(self.weights)
        weights = weights.view(-1, *[1] * answers[0].ndim)
        if self.mean_of == "logits":
            logits = (weights * stacked).sum(0)
        else:
            logits = (stacked.log_softmax(-1) + weights.log()).logsumexp(0)
        return ImageClassifierOutput(logits=logits)  # type: ignore[arg-type]

    def _of_experts(self, answers: list[Tensor]) -> Tensor:
        assert self.groups is not None
        num_classes = self.groups.num_classes
        logits = answers[0].new_empty(*answers[0].shape[:-1], num_classes)
        for k, answer in enumerate(answers):
            classes = (self.groups.group_of_class == k).nonzero().flatten().to(answer.device)
            if answer.shape[-1] not in (num_classes, len(classes)):
                raise ValueError(
                    f"Teacher {k} gives logits of {answer.shape[-1]} classes: the expert of a group of {len(classes)} "
                    f"classes knows these, or all {num_classes}."
                )
            answer = answer.log_softmax(-1)
            logits[..., classes] = answer if answer.shape[-1] == len(classes) else answer[..., classes]
        return logits


def _check_teachers(teachers: Sequence[nn.Module]) -> None:
    if not isinstance(teachers, Sequence | nn.ModuleList) or isinstance(teachers, str) or len(teachers) < 2:
        raise ValueError(f"teachers={teachers!r} is not valid: give a list of two models or more.")
    for k, teacher in enumerate(teachers):
        if isinstance(teacher, EMATeacher | TeacherEnsemble) or not isinstance(teacher, nn.Module):
            raise ValueError(
                f"Teacher {k} is of type {type(teacher).__name__}, which cannot be one of several: give models."
            )


def _class_names(teachers: Sequence[nn.Module], groups: ClassGroups | None) -> list[str | None]:
    """
    The names of the classes, where a teacher has them; empty if there are plain modules alone, whose classes show when
    they are asked.

    Raises:
        `ValueError`: if two teachers differ.
    """
    names: list[str | None] = [None] * groups.num_classes if groups is not None else []
    first = 0  # the teacher that the number of classes is from
    for k, teacher in enumerate(teachers):
        if not isinstance(teacher, PreTrainedModel):
            continue
        own = class_names_of(teacher)
        classes = list(range(len(names)))
        if groups is not None and len(own) != len(names):
            classes = (groups.group_of_class == k).nonzero().flatten().tolist()
            if len(own) != len(classes):
                raise ValueError(
                    f"Teacher {k} has {len(own)} classes: the expert of a group of {len(classes)} classes knows "
                    f"these, or all {len(names)}."
                )
        elif not names:
            names, first, classes = [None] * len(own), k, list(range(len(own)))
        elif len(own) != len(names):
            raise ValueError(
                f"Teacher {k} has {len(own)} classes and teacher {first} has {len(names)}: give teachers of the same "
                "classes."
            )
        for class_id, name in zip(classes, own, strict=True):
            if None not in (name, names[class_id]) and name != names[class_id]:
                raise ValueError(
                    f"Class {class_id} is {name!r} for teacher {k} and {names[class_id]!r} for one before it: give "
                    "teachers whose classes are in the same order."
                )
            names[class_id] = names[class_id] or name
    return names
