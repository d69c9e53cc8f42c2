"""Several losses as one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..groups import ClassGroups
from .base import DistillationLoss
from .checks import check_not_negative
from .schedule import Schedule


class SumLoss(DistillationLoss):
    """
    A weighted sum of the methods of several losses beside one cross-entropy: the sum's own. Terms: `cross_entropy` and
    those of the losses; of a name that several have, each gets the position of its loss: `kd_1`, `kd_2`.

    Each loss keeps its warm-up, schedules, statistics, and what it trains or remembers.

    Args:
        losses (`Sequence[DistillationLoss]`):
            For instance `[KDLoss(temperature=2), LTKDLoss(groups)]`. In [`create_loss`] also dicts of the loss's name
            and arguments: `{"loss": "kd", "temperature": 2}`.
        weights (`Sequence[float]`, *optional*): One per loss, or a [`Schedule`]; `None` is 1 for each.
        kwargs: `ce_weight`, `ce`, `class_counts`, `warmup_epochs` and the rest of [`DistillationLoss`]. The losses
            themselves come without: their own cross-entropy is left out.

    Raises:
        `ValueError`: if there is no loss, or not one weight each, one has a cross-entropy that is not the default, or
            they are for different numbers of classes.
    """

    def __init__(self, losses: Sequence[DistillationLoss], weights: Sequence[Any] | None = None, **kwargs):
        super().__init__(**kwargs)
        self.losses: Any = nn.ModuleList()
        self.weights = [Schedule(w) if isinstance(w, Mapping) else w for w in weights or [1.0] * len(losses)]
        if len(losses) == 0 or len(losses) != len(self.weights):
            raise ValueError(
                f"SumLoss has {len(losses)} losses and {len(self.weights)} weights: give a weight per loss."
            )
        check_not_negative(**{f"weight {place}": weight for place, weight in enumerate(self.weights, 1)})
        for loss in losses:
            if not isinstance(loss, DistillationLoss):
                raise ValueError(f"{loss!r} is no loss: give a DistillationLoss, such as KDLoss().")
            if loss.ce != "cross_entropy" or loss.ce_weight not in (0, 1):
                raise ValueError(
                    f"{type(loss).__name__} has ce={loss.ce!r} and ce_weight={loss.ce_weight}, but a sum has one "
                    "cross-entropy: give them to SumLoss."
                )
            self.losses.append(loss)
        sizes = {loss.num_classes for loss in (self, *losses) if loss.num_classes is not None}
        if len(sizes) > 1:
            raise ValueError(f"The losses are for {sorted(sizes)} classes: make them from the same groups and counts.")
        self.num_classes = sizes.pop() if sizes else None
        for need in ("needs_teacher", "needs_labels", "needs_hidden_states", "needs_pixels"):
            setattr(self, need, any(getattr(loss, need) for loss in losses))
        self.sums_itself = all(loss.sums_itself for loss in losses if loss._has_statistics)
        self.columns = frozenset(name for loss in losses for name in loss.columns)
        self.source = "; ".join(loss.source for loss in losses if loss.source)
        self._sizes: list[int] = []  # of each loss's statistics

    @classmethod
    def from_groups(cls, groups: ClassGroups, losses: Sequence[Any] = (), **arguments) -> "SumLoss":
        from . import create_loss

        made = [
            create_loss(name=loss["loss"], groups=groups, **{n: v for n, v in loss.items() if n != "loss"})
            if isinstance(loss, Mapping)
            else loss
            for loss in losses
        ]
        return cls(made, **{"class_counts": groups.class_counts, **arguments})

    def hyper_parameters(self) -> dict[str, Any]:
        losses = [{"loss": _name(loss), **loss.hyper_parameters()} for loss in self.losses]
        return {"losses": losses, "weights": self.weights, **super().hyper_parameters()}

    def used_hyper_parameters(self) -> dict[str, Any]:
        used = [{"loss": _name(loss), **loss.used_hyper_parameters()} for loss in self.losses]
        left_out = ("ce", "ce_weight")
        losses = [{name: value for name, value in values.items() if name not in left_out} for values in used]
        return {**super().used_hyper_parameters(), "losses": losses}

    def prepare(self, student, teacher, pixel_values=None) -> None:
        for loss in self.losses:
            loss.prepare(student, teacher, pixel_values)

    def begin_epoch(self, epoch: float) -> None:
        for loss in self.losses:
            loss.begin_epoch(epoch)

    def check_classes(self, labels: Tensor) -> None:
        for loss in self.losses:
            loss.check_classes(labels)

    @contextmanager
    def at(self, epoch: float | None) -> Iterator[None]:
        with ExitStack() as stack:
            for module in (super(), *self.losses):
                stack.enter_context(module.at(epoch))
            yield

    def scheduled(self, epoch: float | None) -> dict[str, float]:
        weights = {f"weight_{i}": w.at(epoch) for i, w in enumerate(self.weights, 1) if isinstance(w, Schedule)}
        return super().scheduled(epoch) | weights | _merged([loss.scheduled(epoch) for loss in self.losses])

    def batch_statistics(self, teacher_outputs, labels, **columns) -> Tensor | None:
        """Those of the losses, one after the other."""
        return self._statistics(teacher_outputs, labels, columns)

    def _statistics(self, teacher_outputs, labels, columns) -> Tensor | None:
        parts = [loss._statistics(teacher_outputs, labels, columns) for loss in self.losses]
        self._sizes = [0 if part is None else len(part) for part in parts]
        found = [part for part in parts if part is not None]
        return torch.cat(found) if found else None

    def begin_step(self, step_statistics: Tensor) -> Any:
        """Of each loss what it makes of its own, or `None`."""
        parts = step_statistics.split(self._sizes, dim=1)
        pairs = zip(self.losses, parts, strict=True)
        return [loss.begin_step(part) if part.shape[1] else None for loss, part in pairs]

    def _method_terms(
        self, student_outputs, teacher_outputs, labels, epoch, step_statistics, columns
    ) -> dict[str, Tensor]:
        parts = []
        for place, (loss, weight) in enumerate(zip(self.losses, self.weights, strict=True)):
            weight = weight.at(epoch) if isinstance(weight, Schedule) else weight
            of_step = None if step_statistics is None else step_statistics[place]
            terms = loss._method_terms(student_outputs, teacher_outputs, labels, epoch, of_step, columns)
            parts.append({name: self._warmup(epoch) * weight * term for name, term in terms.items()})
        return _merged(parts)


def _merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The entries of all; of a name that several have, each with the position of its part."""
    names = [name for part in parts for name in part]
    return {
        name if names.count(name) == 1 else f"{name}_{place}": value
        for place, part in enumerate(parts, 1)
        for name, value in part.items()
    }


def _name(loss: DistillationLoss) -> str:
    """By which [`create_loss`] finds it."""
    from . import LOSSES

    own = f"{type(loss).__module__}:{type(loss).__qualname__}"
    return next((name for name, known in LOSSES.items() if known is type(loss)), own)
