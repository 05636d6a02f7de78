"""A study goes on beyond the edges its winner lies on."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from trainables.errors import InvalidInput, Problem
from tune_srgan.search.confirmation import winner
from tune_srgan.store.records import read_records
from tune_srgan.store.studies import study_in
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.study.edges import edges, extended
from tune_srgan.study.settings import Study


def extend_study(folder: StudyFolder, out: Console) -> Study:
    """Return the study with wider ranges, and say which; one clear error where its winner lies on no edge."""
    study = study_in(folder)
    best = winner(study, read_records(study, folder.every_trial()))
    if best is None:
        raise InvalidInput([Problem(folder.address, "--extend", "no winner yet", "one, on the edge of a range")])
    wider = edges(study, best.values)
    if not wider:
        fix = "Resume it without --extend, or widen a range in a study file and run that."
        raise InvalidInput([Problem(folder.address, "--extend", "a winner on no edge", "one on an edge", fix)])
    for key, parameter in wider.items():
        out.print(Text(f"{key}: {study.space[key].describe()} becomes {parameter.describe()}."), soft_wrap=True)
    return extended(study, wider)
