"""Capping: a trial that can no longer win ends itself. The incumbent lives in one small named actor, a `Board`.

At slack 1 and one seed the bound never changes which of given configurations wins: a trial ends only where every
balance that its readings still allow comes later than the incumbent's, or at the same step in a trial of a higher
number. That a game is lost is a judgement, not a proof.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainables.balance import Ruler, earliest_possible, lost
from tune_srgan.records import StudyFolder, TrialRecord, best_of, in_seconds, step_seconds_of
from tune_srgan.study import Capping, Study

if TYPE_CHECKING:
    from trainables.trainer import End

SETTLED_AFTER = 4  # readings with steps of the game: until then its steps cost more than later
NAMESPACE = "tune-srgan"  # of the actor's name


@dataclass(frozen=True)
class Incumbent:
    """The best cost so far, and whose it is."""

    cost: float
    number: int

    def before(self, cost: float, number: int, slack: float = 1.0) -> bool:
        """Whether it stands before a trial of that number even if the trial comes to that cost."""
        return (slack * self.cost, self.number) < (cost, number)


def incumbent_of(records: list[TrialRecord]) -> Incumbent | None:
    """The best of the trials that have ended."""
    best = best_of(records)
    return None if best is None or best.cost is None else Incumbent(best.cost, best.number)


def better(one: Incumbent | None, other: Incumbent | None) -> Incumbent | None:
    """The one that stands before the other; `one` where neither does."""
    if one is None or other is None:
        return other if one is None else one
    return other if other.before(one.cost, one.number) else one


def why_end(
    readings: Sequence[Mapping[str, float]],
    ruler: Ruler,
    number: int,
    incumbent: Incumbent | None,
    capping: Capping,
    cost_of: Callable[[float], float] = float,
) -> tuple[End, str] | None:
    """Why a training that has not reached the balance ends now; None while it may go on.

    `cost_of` turns a step at which the balance may be reached into the objective's number.
    """
    earliest = earliest_possible(readings, ruler)
    if math.isinf(earliest):
        return "exhausted", "no balance can be certified by max_steps any more"
    opened = bool(readings) and earliest <= readings[-1]["step"]
    if not opened and lost(readings, ruler, capping.lost_after):
        return "collapsed", f"the discriminator ordered every pair in {capping.lost_after} validations"
    if incumbent is not None and incumbent.before(cost_of(earliest), number, capping.slack):
        return "capped", f"it can no longer win against trial {incumbent.number}"
    return None


def cost_in(study: Study, readings: Sequence[Mapping[str, float]], pretraining: int) -> Callable[[float], float]:
    """What a balance at a step would cost a training with these readings."""
    if study.objective.metric == "steps_to_nash":
        return float
    step_seconds = step_seconds_of(readings, pretraining)
    played = sum(reading["step"] > pretraining for reading in readings)
    if played <= SETTLED_AFTER:  # the first ones build kernels and record the step: pretraining's cost is a lower bound
        step_seconds = step_seconds[0], math.nan
    return lambda steps: in_seconds(steps, pretraining, step_seconds, study.max_steps) or 0.0


def board_of(folder: StudyFolder) -> str:
    """The name of a study's board, in NAMESPACE."""
    return f"incumbent of {folder.path}"


class Board:
    """Holds the incumbent, and what the trials that wait may reach at the earliest."""

    def __init__(self, margin: float = math.inf) -> None:
        self._best: Incumbent | None = None
        self._waiting: list[float] = []
        self._margin = margin

    def offer(self, found: Incumbent | None) -> None:
        """Take it, if it is better."""
        self._best = better(self._best, found)

    def wait(self, earliest: list[float]) -> None:
        """These trials wait, and nobody computes what they would: the step of each one's earliest possible balance."""
        self._waiting = sorted(earliest)

    def now(self) -> float:
        """The clock of the driver's machine."""
        return time.monotonic()

    def answer(self, earliest: float) -> tuple[Incumbent | None, bool]:
        """The incumbent, and whether a running trial whose balance lies that far now makes way for one that waits.

        Each one that waits is promised once, so that one start stops one trial.
        """
        makes_way = bool(self._waiting) and earliest > self._margin * self._waiting[0]
        if makes_way:
            self._waiting.pop(0)
        return self._best, makes_way
