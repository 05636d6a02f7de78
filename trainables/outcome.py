"""How a training ended: a value of `End`, and what is recorded with it. Follows from the readings; knows no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import NamedTuple

from trainables.balance import Ruler, judge
from trainables.schema import Configuration

EXPLOITABILITY = "nash/exploitability"  # of the reading that certifies a balance


class End(StrEnum):
    """Every way in which a training ends."""

    BALANCED = "balanced"  # the balance was reached
    EXHAUSTED = "exhausted"  # no balance can be certified by max_steps any more
    CAPPED = "capped"  # it can no longer win against the incumbent
    BUDGET = "out of budget"  # the study's budget was used up while it might still have won
    COLLAPSED = "collapsed"  # the discriminator orders every pair, for good
    DIVERGED = "diverged"  # a loss was not finite
    FAILED = "failed"  # an error, as often as it was tried

    @property
    def is_censored(self) -> bool:
        """Whether the balance might have come later: what is known is a bound, a penalty stands for its cost."""
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
    End.EXHAUSTED: _Known(censored=True, cost=True),
    End.CAPPED: _Known(censored=True, cost=True),
    End.BUDGET: _Known(censored=True, cost=True),
    End.COLLAPSED: _Known(censored=True, cost=True),
    End.DIVERGED: _Known(censored=False, cost=False),
    End.FAILED: _Known(censored=False, cost=False),
}


@dataclass(frozen=True)
class Outcome:
    """How a training ended; `steps` is `steps_to_nash`, or the step it is known not to have reached it by."""

    end: End
    steps: int
    censored: bool
    gap: float | None  # None: the game never had a full window
    trained_steps: int
    exploitability: float | None = None
    cause: str = ""  # for a person; no rule reads it
    device: str = ""  # the GPU's or the processor's model; empty where nothing was trained

    def as_dict(self) -> dict[str, float | int | str | bool | None]:
        """Return plain values, as they are stored."""
        return asdict(self)


def outcome_of(
    readings: Sequence[Mapping[str, float]],
    configuration: Configuration,
    trained_steps: int,
    end: End | None = None,
    cause: str = "",
    device: str = "",
) -> Outcome:
    """Derive a training's outcome from its readings: balanced or exhausted, unless something else ended it."""
    verdict = judge(readings, Ruler.of(configuration))
    probed = [reading[EXPLOITABILITY] for reading in readings if EXPLOITABILITY in reading]
    return Outcome(
        end=end or (End.BALANCED if verdict.reached else End.EXHAUSTED),
        steps=verdict.steps_to_nash if verdict.steps_to_nash is not None else verdict.open_since,
        censored=not verdict.reached,
        gap=verdict.gap if math.isfinite(verdict.gap) else None,
        trained_steps=trained_steps,
        exploitability=probed[-1] if verdict.reached else None,
        cause=cause,
        device=device,
    )
