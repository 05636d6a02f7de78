"""How a training ended: a value of `End`, and what is recorded with it. Follows from the readings; knows no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from trainables.balance import EXPLOITABILITY, Ruler, Verdict, is_gone, judge, ruin_of, stood_still
from trainables.merits import Quality
from trainables.schema import Configuration


class End(StrEnum):
    """Every way in which a training ends."""

    BALANCED = "balanced"  # a balance was kept to max_steps
    LOST = "lost"  # there was one, and none is kept to max_steps, or can be any more
    EXHAUSTED = "exhausted"  # there was none, and none can be kept to max_steps any more
    CAPPED = "capped"  # it can no longer win against the incumbent
    BUDGET = "out of budget"  # the study's budget was used up while it might still have won
    DIVERGED = "diverged"  # a loss was not finite
    RUINED = "ruined"  # every loss was, and no image is left
    FAILED = "failed"  # an error, as often as it was tried

    @property
    def is_censored(self) -> bool:
        """Whether no balance was kept as far as it was trained: what is known is a bound, a penalty is its cost."""
        return _KNOWN[self].censored

    @property
    def has_cost(self) -> bool:
        """Whether a sampler can be told a number: the balance's step, or a penalty."""
        return _KNOWN[self].cost


class _Known(NamedTuple):
    """What an end says of the balance."""

    censored: bool
    cost: bool


_KNOWN = {
    End.BALANCED: _Known(censored=False, cost=True),
    End.LOST: _Known(censored=True, cost=True),
    End.EXHAUSTED: _Known(censored=True, cost=True),
    End.CAPPED: _Known(censored=True, cost=True),
    End.BUDGET: _Known(censored=True, cost=True),
    End.DIVERGED: _Known(censored=False, cost=False),
    End.RUINED: _Known(censored=False, cost=False),
    End.FAILED: _Known(censored=False, cost=False),
}


@dataclass(frozen=True)
class Outcome:
    """How a training ended; `steps` is `steps_to_nash`, or the step before which no balance is known to be kept."""

    end: End
    steps: int
    censored: bool
    gap: float | None  # None: the game never had a full window
    trained_steps: int
    first: int | None = None  # the step of the first balance
    share: float | None = None  # of balanced readings, from `steps` on or from the best begin there was
    exploitability: float | None = None
    cause: str = ""  # for a person; no rule reads it
    device: str = ""  # the GPU's or the processor's model; empty where nothing was trained
    quality: Quality = field(default_factory=dict)  # of the images that a training ended with

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as they are stored."""
        return asdict(self)


def end_of(verdict: Verdict) -> End:
    """Tell how a training ended of which nothing is to come, or nothing that could matter."""
    if verdict.kept:
        return End.BALANCED
    return End.EXHAUSTED if verdict.first is None else End.LOST


def outcome_of(
    readings: Sequence[Mapping[str, float]],
    configuration: Configuration,
    trained_steps: int,
    end: End | None = None,
    cause: str = "",
    device: str = "",
) -> Outcome:
    """Derive a training's outcome from its readings: `end_of` the verdict, unless something else ended it.

    Whatever ends it while no image is left: it is ruined. Before that a ruined image may recover.
    """
    ruler = Ruler.of(configuration)
    verdict, ruin = judge(readings, ruler), ruin_of(readings[-1], ruler) if readings else None
    end = end or end_of(verdict)
    if end.has_cost and readings and is_gone(readings[-1]):
        end, cause = End.RUINED, cause if ruin is not None else "no image is left; a smaller rate of G is gentler"
    causes = [cause, stood_still(verdict, readings, ruler), ruin.cause if ruin is not None else ""]
    return Outcome(
        end=end,
        steps=int(min(verdict.earliest, configuration.Training.max_steps)),
        censored=not verdict.kept,
        gap=verdict.gap if math.isfinite(verdict.gap) else None,
        trained_steps=trained_steps,
        first=verdict.first,
        share=verdict.share,
        exploitability=readings[-1].get(EXPLOITABILITY) if readings else None,
        cause="; ".join(filter(None, causes)),
        device=device,
    )
