"""Capping: a trial that can no longer win ends itself.

At slack 1 and one seed the bound never changes which of given configurations wins: a trial ends only where its readings
allow no balance that could be kept any more, or every one that they allow begins later than the incumbent's, or at the
same step in a trial of a higher number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trainables.balance import Verdict
from trainables.outcome import End, end_of
from tune_srgan.store.account import cost_in_seconds, step_seconds_of
from tune_srgan.study.settings import Capping, Study

SETTLED_AFTER = 4  # readings with steps of the game: until then its steps cost more than later


@dataclass(frozen=True)
class Incumbent:
    """The best cost so far, and whose it is."""

    cost: float
    number: int

    def before(self, cost: float, number: int, slack: float = 1.0) -> bool:
        """Tell whether it stands before a trial of that number even if the trial comes to that cost."""
        return (slack * self.cost, self.number) < (cost, number)


def better(one: Incumbent | None, other: Incumbent | None) -> Incumbent | None:
    """Return the one that stands before the other; `one` where neither does."""
    if one is None or other is None:
        return other if one is None else one
    return other if other.before(one.cost, one.number) else one


def why_end(
    verdict: Verdict,
    number: int,
    incumbent: Incumbent | None,
    capping: Capping,
    cost_of: Callable[[float], float] = float,
) -> tuple[End, str] | None:
    """Say why a training ends before max_steps; None while it may go on.

    `cost_of` turns a step from which the balance may be kept into the objective's number.
    """
    if math.isinf(verdict.earliest):
        return end_of(verdict), "no balance can be kept to max_steps any more"
    if incumbent is not None and incumbent.before(cost_of(verdict.earliest), number, capping.slack):
        return End.CAPPED, f"it can no longer win against trial {incumbent.number}"
    return None


def cost_in(study: Study, readings: Sequence[Mapping[str, float]], pretraining: int) -> Callable[[float], float]:
    """Return what a balance at a step would cost a training with these readings."""
    if study.objective.metric == "steps_to_nash":
        return float
    step_seconds = step_seconds_of(readings, pretraining)
    played = sum(reading["step"] > pretraining for reading in readings)
    if played <= SETTLED_AFTER:  # the first ones build kernels and record the step: pretraining's cost is a lower bound
        step_seconds = step_seconds[0], math.nan
    return lambda steps: cost_in_seconds(steps, pretraining, step_seconds, study.max_steps) or 0.0
