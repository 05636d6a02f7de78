"""Why a study's last driver stopped: written when it stops, read by whoever asks how the study stands."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

from tune_srgan.store.objects import write_atomically
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import read_json


class StudyEnd(StrEnum):
    """Every way in which a driver stops."""

    COMPLETE = "complete"  # every trial and every confirmation has ended
    # by the search's model, or since the space has no more: what is proposed is trained, and confirmed, to its end
    ENOUGH = "nothing better left"
    BUDGET = "out of budget"
    FAULT = "stopped"  # by what is no trial's fault: imagery that is gone, a last GPU that is lost
    INTERRUPTED = "interrupted"  # by a person, or by another driver


@dataclass(frozen=True)
class Ending:
    """Why a driver stopped, and what a person is told of it."""

    why: StudyEnd
    text: str = ""

    def describe(self) -> str:
        """Return why, with what a person is told."""
        return f"{self.why.value}: {self.text}" if self.text else self.why.value

    def keep(self, folder: StudyFolder) -> None:
        """Write it down."""
        write_atomically(folder.ending_file, json.dumps(asdict(self)))


def why_still(folder: StudyFolder, left: int) -> Ending | None:
    """Tell why nobody works at a study of which so many trials are left to do; None while somebody does."""
    if folder.is_driven():
        return None
    known = ending_of(folder)
    if not left:
        return known if known is not None and known.why is StudyEnd.COMPLETE else Ending(StudyEnd.COMPLETE)
    # killed before it could say why, or more was asked for since
    return Ending(StudyEnd.INTERRUPTED) if known is None or known.why is StudyEnd.COMPLETE else known


def ending_of(folder: StudyFolder) -> Ending | None:
    """Read why the last driver stopped; None where none has, or it was killed."""
    known = read_json(folder.ending_file)
    return None if known is None else Ending(StudyEnd(known["why"]), known["text"])
