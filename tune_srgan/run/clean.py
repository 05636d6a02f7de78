"""Deletes what no result needs: checkpoints, snapshots of pretraining, Ray's own files, what kills left behind."""

from __future__ import annotations

import shutil

from trainables.cache import files_below
from tune_srgan.search.confirmation import candidates, winner
from tune_srgan.search.front import front_of
from tune_srgan.store.layout import TEMPORARY, StudyFiles, TrialFiles
from tune_srgan.store.records import StudyRecords
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.study.settings import Study


def clean(study: Study, folder: StudyFolder, records: StudyRecords) -> int:
    """Delete all but the checkpoints of configurations that may win or go on; returns bytes freed."""
    kept = [winner(study, records), *candidates(study, records), *front_of(study, records.search)]
    needed = {record.trial.place for record in kept if record is not None}
    ended = {record.trial.place for record in records.every if record.end is not None}
    storage, freed = folder.storage(), 0
    for entry in storage.entries():
        place, _, name = entry.name.rpartition("/")
        snapshot = entry.name.startswith(f"{StudyFiles.PRETRAINING.name}/")
        if snapshot or (name == TrialFiles.CHECKPOINT.name and place in ended - needed):
            storage.delete(entry.name)
            freed += entry.size
    for leftover in files_below(folder.path):
        if leftover.suffix == TEMPORARY or leftover.is_relative_to(folder.ray_folder):
            freed += leftover.lstat().st_size
            leftover.unlink()
    for emptied in (folder.ray_folder, folder.path / StudyFiles.PRETRAINING.name):
        shutil.rmtree(emptied, ignore_errors=True)
    return freed
