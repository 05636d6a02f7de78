"""Which attempts of a trial count against it. A trial is tried so often; what was no fault of its own is free.

A device's fault counts for the trial that saw it first: whoever shares the device sees it too, soon after. A node that
is lost with a trial on it is free as well, within a limit, since a trial may be what loses nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from trainables.errors import InvalidInput
from tune_srgan.records import StudyFolder, TrialFolder

FAULT_S = 60.0  # a device's fault reaches all who share the device within this
LOST_NODES = 20  # nodes that a trial may lose


class DeviceLost(RuntimeError):
    """A GPU that answers nobody any more."""


# what no trial failed by: the driver stops, and the study is to be resumed
NOBODYS = (InvalidInput.__name__, DeviceLost.__name__)


def spent(folder: StudyFolder, trial: TrialFolder, run: str, alive: Collection[str]) -> int:
    """Attempts within a driver's run that ended badly and count; `alive` are the cluster's nodes."""
    notes = trial.attempts()
    first = next((at for at, note in enumerate(notes) if note.get("run") == run), len(notes))
    count = lost = 0
    for note, then in _with_ends(notes[first:]):
        if then is None:
            gone = note.get("node") is not None and note["node"] not in alive
            lost += gone
            count += not gone or lost > LOST_NODES
        elif "cause" in then:
            count += not (then["cause"].startswith(NOBODYS) or (then["gpu"] and _is_anothers(folder, trial, then)))
    return count


def _with_ends(notes: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Each attempt's first note, and the one of its end; None where its worker was killed without a word."""
    begun = [at for at, note in enumerate(notes) if "run" in note]
    return [(notes[at], notes[at + 1] if at + 1 < len(notes) and "run" not in notes[at + 1] else None) for at in begun]


def _is_anothers(folder: StudyFolder, trial: TrialFolder, failure: dict[str, Any]) -> bool:
    """Whether another trial saw the same device fail before."""
    folder.fetch("trials")
    faults = [note for other in folder.every_trial() if other != trial for note in other.attempts() if "cause" in note]
    return any(fault["gpu"] == failure["gpu"] and 0 <= failure["time"] - fault["time"] < FAULT_S for fault in faults)
