"""The board: the incumbent and what waits, where every trial of a study can ask; in one small named Ray actor."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from tune_srgan.search.capping import Incumbent, better

NAMESPACE = "tune-srgan"  # of the actor's name


def board_of(study: Path) -> str:
    """Return the name of a study's board, in NAMESPACE, by the driver's folder of it."""
    return f"incumbent of {study}"


@dataclass(frozen=True)
class Answer:
    """What a running trial is told: whom it has to beat, and whether it pauses for one that waits."""

    incumbent: Incumbent | None = None
    pauses: bool = False


class Board:
    """Holds the incumbent, and what the trials that wait may reach at the earliest."""

    def __init__(self, margin: float = math.inf) -> None:
        self._best: Incumbent | None = None
        self._waiting: list[float] = []
        self._margin = margin

    def offer(self, candidate: Incumbent | None) -> None:
        """Take it, if it is better."""
        self._best = better(self._best, candidate)

    def wait(self, earliest: list[float]) -> None:
        """Note the trials that wait and whose stretch nobody computes: the step of each one's earliest balance."""
        self._waiting = sorted(earliest)

    def now(self) -> float:
        """Return the clock of the driver's machine."""
        return time.monotonic()

    def answer(self, earliest: float) -> Answer:
        """Tell a running trial whose balance lies that far whom it has to beat, and whether it pauses.

        Each one that waits is promised once, so that one start pauses one trial.
        """
        pauses = bool(self._waiting) and earliest > self._margin * self._waiting[0]
        if pauses:
            self._waiting.pop(0)
        return Answer(self._best, pauses)
