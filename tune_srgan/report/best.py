"""The winner handed out: its configuration and its generator, beside the study."""

from __future__ import annotations

import contextlib

from trainables.errors import InvalidInput, Problem
from trainables.outcome import End
from tune_srgan.search.confirmation import winner
from tune_srgan.store.objects import write_atomically
from tune_srgan.store.records import StudyRecords, TrialRecord
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.study.settings import Study


def best_configuration(study: Study, best: TrialRecord, records: StudyRecords) -> str:
    """Return a trial's complete configuration as a file, with what it is and what to do with it."""
    leader = winner(study, records)
    whose = "The winner" if leader is not None and leader.number == best.number else "A trial"
    how = f"in balance from step {best.steps} to its end" if best.end is End.BALANCED else best.label
    note = (
        f"# {whose} of study '{study.study}': trial {best.number}, {how}.\n"
        f"# Train it again: python tune.py train best.yaml\n"
    )
    return note + best.trial.configuration_file.read_text(encoding="utf-8")


def trial_of(folder: StudyFolder, records: StudyRecords, number: int) -> TrialRecord:
    """Return the search's trial of that number; one clear error where there is none."""
    found = next((record for record in records.search if record.number == number), None)
    if found is None:
        last = max((record.number for record in records.search), default=-1)
        expected = f"a trial of it, 0 to {last}" if last >= 0 else "a study that has trials"
        raise InvalidInput([Problem(folder.path.name, "--trial", str(number), expected)])
    return found


def write_best(study: Study, folder: StudyFolder, records: StudyRecords) -> TrialRecord | None:
    """Write the winner's configuration and generator; returns the winner, None where no trial was balanced.

    Where the study cannot be written to, nothing is: who may only read is told the configuration.
    """
    best = winner(study, records)
    if best is None:
        return None
    content, kept = best_configuration(study, best, records), folder.best_configuration
    with contextlib.suppress(OSError):
        if not kept.exists() or kept.read_text(encoding="utf-8") != content:
            folder.best_generator.unlink(missing_ok=True)  # another trial's
            write_atomically(kept, content)
        folder.fetch(best.trial.place, heavy=True)
        if best.trial.checkpoint.exists():
            from tune_srgan.upscaling.generator import write_generator

            write_generator(best.trial, folder.best_generator)
    return best
