"""Capping: a trial that can no longer win ends itself.

At slack 1 and one seed the bound never changes which of given configurations wins: a trial ends only where every
balance that its readings still allow comes later than the incumbent's, or at the same step in a trial of a higher
number. That a game is lost is a judgement, not a proof.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trainables.balance import Ruler, earliest_possible, lost
from trainables.outcome import End
from tune_srgan.store.account import cost_in_seconds, step_seconds_of
from tune_srgan.store.records import TrialRecord, best_of
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


def incumbent_of(records: Sequence[TrialRecord]) -> Incumbent | None:
    """Return the best of the trials that have ended."""
    best = best_of(records)
    return None if best is None or best.cost is None else Incumbent(best.cost, best.number)


def why_end(
    readings: Sequence[Mapping[str, float]],
    ruler: Ruler,
    number: int,
    incumbent: Incumbent | None,
    capping: Capping,
    cost_of: Callable[[float], float] = float,
) -> tuple[End, str] | None:
    """Say why a training that has not reached the balance ends now; None while it may go on.

    `cost_of` turns a step at which the balance may be reached into the objective's number.
    """
    earliest = earliest_possible(readings, ruler)
    if math.isinf(earliest):
        return End.EXHAUSTED, "no balance can be certified by max_steps any more"
    opened = bool(readings) and earliest <= readings[-1]["step"]
    if not opened and lost(readings, ruler, capping.lost_after):
        return End.COLLAPSED, f"the discriminator ordered every pair in {capping.lost_after} validations"
    if incumbent is not None and incumbent.before(cost_of(earliest), number, capping.slack):
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
