"""Which attempts of a trial count against it. A trial is tried so often; what was no fault of its own is free.

A device's fault counts for the trial that saw it first: whoever shares the device sees it too, soon after. A node that
is lost with a trial on it is free as well, within a limit, since a trial may be what loses nodes.
"""

from __future__ import annotations

from collections.abc import Collection

from tune_srgan.store.layout import StudyFiles
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import Failure, Fault, TrialFolder

FAULT_S = 60.0  # a device's fault reaches all who share the device within this
LOST_NODES = 20  # nodes that a trial may lose


class DeviceLost(RuntimeError):
    """A GPU that answers nobody any more."""


class NoGpu(RuntimeError):
    """A worker was given a GPU, and torch finds none."""


def counted(folder: StudyFolder, trial: TrialFolder, run: str, alive: Collection[str]) -> int:
    """Count the attempts within a driver's run that used up one of the trial's tries.

    Where a worker died without a word, its node decides whose fault it was: `alive` are those that are left.
    """
    attempts = trial.attempts()
    first = next((at for at, attempt in enumerate(attempts) if attempt.run == run), len(attempts))
    count = lost = 0
    for attempt in attempts[first:]:
        if attempt.failure is not None:
            count += _counts(folder, trial, attempt.failure)
        elif not attempt.paused:  # its worker was killed without a word
            gone = attempt.node is not None and attempt.node not in alive
            lost += gone
            count += not gone or lost > LOST_NODES
    return count


def _counts(folder: StudyFolder, trial: TrialFolder, failure: Failure) -> bool:
    if failure.fault is Fault.DEVICE:
        return not _is_anothers(folder, trial, failure)
    return failure.fault is Fault.TRIAL


def _is_anothers(folder: StudyFolder, trial: TrialFolder, failure: Failure) -> bool:
    """Whether another trial saw the same device fail before."""
    folder.fetch(StudyFiles.TRIALS.name)
    others = [attempt.failure for other in folder.every_trial() if other != trial for attempt in other.attempts()]
    return any(
        fault is not None and fault.device == failure.device and 0 <= failure.time - fault.time < FAULT_S
        for fault in others
    )
