"""The records of a study while it runs: read once at its start, and one again when its trial has moved on."""

from __future__ import annotations

from tune_srgan.store.records import StudyRecords, TrialRecord, arranged, record_of
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import TrialFolder
from tune_srgan.study.settings import Study


class Ledger:
    """What the driver knows of every trial without asking the disk."""

    def __init__(self, study: Study, folder: StudyFolder) -> None:
        self.study, self.folder = study, folder
        self._by_trial = {trial: record_of(trial, study) for trial in folder.every_trial()}

    def __getitem__(self, trial: TrialFolder) -> TrialRecord:
        """The record of a trial as it was last read; read now where it is new."""
        return self._by_trial.get(trial) or self.read(trial)

    def read(self, trial: TrialFolder) -> TrialRecord:
        """Read a trial's record again."""
        self._by_trial[trial] = record_of(trial, self.study)
        return self._by_trial[trial]

    def records(self) -> StudyRecords:
        """Return all of them, as they were last read."""
        return arranged(self._by_trial.values())
