"""What a study has used and may still use. A running trial reserves all its steps."""

from __future__ import annotations

import contextlib
import json
import time

from tune_srgan.run.ledger import Ledger
from tune_srgan.store.objects import write_atomically
from tune_srgan.store.trial_folder import TrialFolder, read_json


class Budget:
    """The study's limits, its clock over all drivers, and what its running trials may take. Reads no record itself."""

    def __init__(self, ledger: Ledger, slots: int = 1) -> None:
        self.slots = slots  # trials that run at once
        self.running: dict[TrialFolder, float] = {}  # since when, by this process's clock
        self._ledger, self._limits = ledger, ledger.study.search.budget
        self._max_steps, self._gpus = ledger.study.max_steps, ledger.study.resources.gpus
        self._started = time.monotonic()
        self._before_s = float((read_json(ledger.folder.clock_file) or {}).get("seconds", 0.0))

    def elapsed_s(self) -> float:
        """Return wall-clock seconds over all drivers of the study."""
        return self._before_s + time.monotonic() - self._started

    def keep_time(self) -> None:
        """Write the clock down, where the disk takes it."""
        with contextlib.suppress(OSError):
            write_atomically(self._ledger.folder.clock_file, json.dumps({"seconds": self.elapsed_s()}))

    def begin(self, trial: TrialFolder) -> float | None:
        """Note that a trial starts; return how many seconds it may run, None without a limit."""
        self.running[trial] = time.monotonic()
        return self.seconds_for_a_trial()

    def end(self, trial: TrialFolder) -> None:
        """Note that a trial's attempt is over."""
        self.running.pop(trial, None)

    def why_not_another(self, candidate: TrialFolder | None = None) -> str:
        """Say why no further trial may start; empty while one may. `candidate` is an unfinished one to go on with."""
        if not self._limits.model_dump(exclude_none=True):
            return ""
        records = self._ledger.records().every
        if self._limits.steps is not None:
            reserved_for = {*self.running, candidate}
            used = sum(record.account["executed"] for record in records if record.trial not in reserved_for)
            reserved = (len(self.running) + 1) * self._max_steps
            if used + reserved > self._limits.steps:
                return f"steps: {used} of {self._limits.steps} used; another trial may take {self._max_steps}"
        left = self.seconds_for_a_trial()
        ended = [record.seconds for record in records if record.end is not None and record.seconds]
        typical = sum(ended) / len(ended) if ended else 0.0
        if left is not None and left < max(typical, 1.0):
            return f"time: {max(left, 0):.0f} s left for a trial; one takes about {typical:.0f} s"
        return ""

    def seconds_for_a_trial(self) -> float | None:
        """Return how long a trial that starts now may run; None without a limit."""
        allowed = []
        if self._limits.hours is not None:
            allowed.append(self._limits.hours * 3600 - self.elapsed_s())
        if self._limits.gpu_hours is not None and self._gpus > 0:
            now = time.monotonic()
            used = sum(record.seconds for record in self._ledger.records().every)
            used += sum(now - since for since in self.running.values())
            allowed.append((self._limits.gpu_hours * 3600 - used * self._gpus) / self._gpus / self.slots)
        return min(allowed) if allowed else None
