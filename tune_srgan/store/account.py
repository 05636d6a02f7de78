"""What a trial computed, what it was spared, and what its steps took: pure functions of its readings."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from trainables.outcome import End

SHARED = "training/shared"  # marks a reading that another trial computed
WAITS = ("begin", "validate", "record", "checkpoint", "report")  # for what a training stands still


def account_of(readings: Sequence[Mapping[str, float]], ended: Mapping[str, Any], max_steps: int) -> dict[str, int]:
    """Count steps that a trial computed, and those of `max_steps` it was spared.

    `sharing`: another trial computed them. `capping`: it ended before.
    """
    trained = int(ended.get("trained_steps", readings[-1]["step"] if readings else 0))
    before = [0, *(int(reading["step"]) for reading in readings)]
    shared = sum(int(r["step"]) - first for first, r in zip(before, readings, strict=False) if SHARED in r)
    capped = ended.get("end") in {End.LOST, End.EXHAUSTED, End.CAPPED}
    return {"executed": trained - shared, "sharing": shared, "capping": max_steps - trained if capped else 0}


def step_seconds_of(readings: Sequence[Mapping[str, float]], pretraining: int) -> tuple[float, float]:
    """Measure what a step of pretraining and one of the game took: medians over readings wholly in one of them.

    A median passes over the readings in which kernels were built or the step was recorded. Where no reading lies
    wholly in a phase, the one that saw both stands in.
    """
    before = [0.0, *(reading["step"] for reading in readings)]
    taken = [
        (begin, reading["step"], reading["time/train_s"] / (reading["step"] - begin))
        for begin, reading in zip(before, readings, strict=False)
    ]
    pretrained = [seconds for begin, end, seconds in taken if end <= pretraining]
    played = [seconds for begin, end, seconds in taken if begin >= pretraining]
    across = [seconds for begin, end, seconds in taken if begin < pretraining < end]
    first = pretrained or (across if pretraining else [])
    second = played or across

    def usual(seconds: list[float]) -> float:
        # of one or two readings a median passes over nothing
        return math.nan if not seconds else statistics.median(seconds) if len(seconds) > 2 else min(seconds)

    return usual(first), usual(second)


def cost_in_seconds(cost: float, pretraining: int, step_seconds: tuple[float, float], max_steps: int) -> float | None:
    """Turn `nash_cost` into seconds of training: every step at what one of its phase took in this trial.

    A censored cost, between one and two times `max_steps`, becomes as many times the seconds of `max_steps`.
    """
    times, steps = (cost / max_steps, float(max_steps)) if cost > max_steps else (1.0, cost)
    alone = min(steps, float(pretraining))
    known = [seconds for seconds in step_seconds if not math.isnan(seconds)]
    if not known:
        return None  # it never trained
    pretrained, played = (known[0] if math.isnan(seconds) else seconds for seconds in step_seconds)
    return times * (alone * pretrained + (steps - alone) * played)
