"""What wants to see the trials of a study run."""

from __future__ import annotations

from typing import Any, Protocol

from tune_srgan.store.records import TrialRecord
from tune_srgan.store.trial_folder import TrialFolder


class Observer(Protocol):
    """Is told of starts, readings and ends."""

    def on_start(self, trial: TrialFolder) -> None:
        """Show that a trial starts, or goes on."""

    def on_reading(self, trial: TrialFolder, reading: dict[str, Any]) -> None:
        """Show what a trial reported."""

    def on_end(self, record: TrialRecord) -> None:
        """Show that a trial ended, or its attempt did."""

    def on_wait(self, seconds: float) -> None:
        """Say that no node has had room for any trial for so long."""
