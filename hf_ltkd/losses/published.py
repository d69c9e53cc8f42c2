"""The hyper-parameters that the authors of a method published for a teacher and a student."""

import re
import warnings
from dataclasses import dataclass
from typing import Any


# Teachers and students of the CIFAR-100 benchmark that the distillation literature shares.
CIFAR100_PAIRS = (
    ("resnet32x4", "resnet8x4"),
    ("vgg13", "vgg8"),
    ("wrn_40_2", "wrn_40_1"),
    ("wrn_40_2", "wrn_16_2"),
    ("resnet56", "resnet20"),
    ("resnet110", "resnet32"),
    ("wrn_40_2", "shufflenet_v1"),
    ("resnet32x4", "shufflenet_v1"),
    ("resnet32x4", "shufflenet_v2"),
    ("vgg13", "mobilenet_v2"),
    ("resnet50", "mobilenet_v2"),
)
IMAGENET_PAIRS = (("resnet34", "resnet18"), ("resnet50", "mobilenet_v1"))


@dataclass(frozen=True)
class PublishedValues:
    """
    Attributes:
        arguments (`dict`): Arguments of the loss that differ from its defaults.
        source (`str`): Where they are published.
        by_authors (`bool`): Whether the method's authors published them, or somebody else.
    """

    arguments: dict[str, Any]
    source: str
    by_authors: bool = True


# Keys are (dataset, teacher, student), datasets "cifar100" and "imagenet".
PublishedTable = dict[tuple[str, str, str], PublishedValues]


def published_values(table: PublishedTable, method: str, dataset: str, teacher: str, student: str) -> PublishedValues:
    """
    The values for this pair or, with a warning, those of the nearest one: the same pair on another dataset; else on
    the same dataset the same student, the same teacher, a student or a teacher of the same family; else the first
    listed.
    """
    if not table:
        raise ValueError(f"{method} has no published hyper-parameters: create it with arguments of your own.")
    wanted = (dataset, teacher, student)
    if wanted in table and table[wanted].by_authors:
        return table[wanted]
    nearest = wanted if wanted in table else max(table, key=lambda key: _closeness(key, wanted))  # ties: first listed
    values = table[nearest]
    warnings.warn(
        f"The authors of {method} publish no values for {teacher} -> {student} on {dataset}. Using those of "
        f"{nearest[1]} -> {nearest[2]} on {nearest[0]} ({values.source}): {values.arguments}. Tune them.",
        stacklevel=3,
    )
    return values


def _closeness(key: tuple[str, str, str], wanted: tuple[str, str, str]) -> tuple[bool, ...]:
    (dataset, teacher, student), (wanted_dataset, wanted_teacher, wanted_student) = key, wanted
    return (
        (teacher, student) == (wanted_teacher, wanted_student),
        dataset == wanted_dataset,
        student == wanted_student,
        teacher == wanted_teacher,
        _family(student) == _family(wanted_student),
        _family(teacher) == _family(wanted_teacher),
    )


def _family(name: str) -> str:
    """`resnet` of `resnet8x4`, `wrn` of `wrn_40_2`."""
    match = re.match(r"[a-z]+", name)
    return match[0] if match else name
