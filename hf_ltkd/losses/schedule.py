"""A number of a loss that changes over the epochs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn

from ..utils import check_number


class Schedule(dict):
    """
    A number for an argument of a loss, from epoch to epoch in a straight line: with
    `KDLoss(temperature=Schedule({0: 4.0, 10: 1.0}))` it falls over ten epochs and stays at 1. Two epochs close by are
    a jump: `{159.999: 0.0, 160: 1.0}`. In [`create_loss`], YAML and on the command line the dict alone will do.

    Args:
        values (`Mapping[float, float]`): A finite number per epoch. Before the first and after the last it stays.

    Raises:
        `ValueError`: if there is none, or one is no number.
    """

    def __init__(self, values: Mapping[Any, float]):
        try:  # JSON has made words of the epochs
            numbers = {float(epoch): value for epoch, value in values.items()}
        except (AttributeError, TypeError, ValueError):
            numbers = {}
        if not numbers:
            raise ValueError(
                f"The schedule {values!r} is not valid: give a number per epoch, such as {{0: 4.0, 10: 1.0}}."
            )
        for epoch, value in numbers.items():
            check_number("An epoch of a schedule", epoch, 0)
            check_number(f"The value of epoch {epoch:g}", value)
        super().__init__(sorted((epoch, float(value)) for epoch, value in numbers.items()))

    def at(self, epoch: float | None) -> float:
        """The value after so many epochs, fractions included; `None` is after all of them."""
        return float(np.interp(np.inf if epoch is None else epoch, list(self), list(self.values())))


def numbers_of(value: Any) -> list[Any]:
    """All values of a schedule, whose other values lie between them; or the one."""
    return list(value.values()) if isinstance(value, Schedule) else [value]


class Scheduled(nn.Module):
    """A module whose attributes may be a [`Schedule`], and are numbers while it computes."""

    @contextmanager
    def at(self, epoch: float | None) -> Iterator[None]:
        """Within this context a [`Schedule`] is its number at an epoch (`None`: after all of them)."""
        schedules = self.schedules
        if schedules:
            vars(self).update({name: schedule.at(epoch) for name, schedule in schedules.items()})
            self._apply_schedules()
        try:
            yield
        finally:
            vars(self).update(schedules)

    def _apply_schedules(self) -> None:
        """Makes afresh what was made of an attribute that may be scheduled."""

    @property
    def schedules(self) -> dict[str, Schedule]:
        """Those of its attributes, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Schedule)}

    def scheduled(self, epoch: float | None) -> dict[str, float]:
        """Their values at an epoch, for logs."""
        return {name: schedule.at(epoch) for name, schedule in self.schedules.items()}
