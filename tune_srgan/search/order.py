"""Which trial starts next: a pure function of the trials that wait and those that run. Knows neither Ray nor files.

Best first: the one that may reach the balance soonest. A trial that would compute a stretch of pretraining that a
running one is computing waits for it, as long as there is another to start.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stretch:
    """The part of a pretraining that others may share: its path, and the step of its last snapshot."""

    path: Hashable
    reach: int


@dataclass(frozen=True)
class Waiting:
    """A trial that is still to be started, or to go on."""

    number: int
    stretch: Stretch
    soonest: float  # the step at which it may reach the balance at the earliest
    named: bool = False  # by the study file: the soonest of all


@dataclass(frozen=True)
class Running:
    """A trial that is being trained, and the step it last reported."""

    stretch: Stretch
    step: float


def overlaps(trial: Waiting, running: Iterable[Running]) -> bool:
    """Tell whether a running trial is computing what this one would compute as well."""
    return any(
        other.stretch.path == trial.stretch.path and other.step < min(trial.stretch.reach, other.stretch.reach)
        for other in running
    )


def next_to_start(waiting: Sequence[Waiting], running: Sequence[Running]) -> Waiting:
    """Choose the trial to start: one that does not overlap if there is one, of these the soonest, named ones first."""

    def key(trial: Waiting) -> tuple[bool, float, int]:
        return overlaps(trial, running), -math.inf if trial.named else trial.soonest, trial.number

    return min(waiting, key=key)


def wants_another(waiting: Sequence[Waiting], running: Sequence[Running], slots: int) -> bool:
    """Tell whether all that wait would compute what is being computed, and not too many of them wait."""
    return len(waiting) < slots and all(overlaps(trial, running) for trial in waiting)


def bounds(waiting: Iterable[Waiting], running: Sequence[Running]) -> list[float]:
    """Return the earliest steps of the waiting trials that could start now without computing anything twice."""
    return [trial.soonest for trial in waiting if not overlaps(trial, running)]
