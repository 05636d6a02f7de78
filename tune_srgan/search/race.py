"""Seeds in the race: a balance that one seed kept may be luck, so further seeds have to keep it before it caps others.

One seed is an anecdote: on recorded curves a lucky one, as incumbent, capped every configuration that was better on all
seeds in a third of the studies (`benchmarks/README.md`). The trainings on further seeds are the confirmation's own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from trainables.merits import loss_of
from tune_srgan.search.capping import Incumbent
from tune_srgan.store.patience import PATIENCE_S
from tune_srgan.store.records import StudyRecords, TrialRecord
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import Proposer, TrialFolder
from tune_srgan.study.settings import Study


def seeds_of(record: TrialRecord, records: StudyRecords) -> dict[int, TrialRecord]:
    """Return the trainings of a configuration on further seeds that have ended, by seed."""
    return {
        one.trial.confirms: one for one in records.confirmations if one.number == record.number and one.end is not None
    }


def due(study: Study, record: TrialRecord, records: StudyRecords, best: Incumbent | None) -> int | None:
    """Return the further seed that a balanced trial has ahead, one after the other, so that luck costs one more.

    None where all have ended, one did not keep the balance, or what is known of it does not beat the incumbent, `best`.
    """
    if not record.accepted:
        return None
    known, seeds = seeds_of(record, records), range(1, study.search.race + 1)
    further = next((one for one in seeds if one not in known), None)
    if further is None or any(not one.accepted for one in known.values()):
        return None
    begun = any((one.number, one.trial.confirms) == (record.number, further) for one in records.confirmations)
    return further if begun or best is None or _median([record, *known.values()]) < best.cost else None


def next_seed(
    study: Study, folder: StudyFolder, record: TrialRecord, records: StudyRecords, best: Incumbent | None
) -> TrialFolder | None:
    """Return the training of the seed that is due; None where none is."""
    further = due(study, record, records, best)
    return None if further is None else training_on(study, folder, record, further)


def training_on(study: Study, folder: StudyFolder, record: TrialRecord, further: int) -> TrialFolder:
    """Return a configuration's training on a further seed, made and sent where it is not there."""
    trial = folder.confirmation(record.number, further)
    if not trial.exists():
        trial.create(record.values, Proposer.CONFIRM, study.confirming(record.values, further))
        folder.send(trial.place, PATIENCE_S)
    return trial


def _median(seeds: Iterable[TrialRecord]) -> float:
    return statistics.median(one.cost for one in seeds if one.cost is not None)


def _kept(study: Study, record: TrialRecord, records: StudyRecords) -> list[TrialRecord]:
    """Those of a configuration's trainings in the race that kept the balance: the search's, and on further seeds."""
    known = seeds_of(record, records)
    raced = [record, *(known[further] for further in range(1, study.search.race + 1) if further in known)]
    return [one for one in raced if one.accepted]


def proven(study: Study, record: TrialRecord, records: StudyRecords) -> float:
    """Return what a configuration costs, the median of its seeds; ∞ until all that race have kept the balance."""
    return _cost(study, _kept(study, record, records))


def _cost(study: Study, kept: Sequence[TrialRecord]) -> float:
    return _median(kept) if len(kept) == 1 + study.search.race else math.inf


def ranked(study: Study, records: StudyRecords) -> list[TrialRecord]:
    """Return the accepted trials of the search: first those whose further seeds kept it too, by the median.

    Then those that more of them kept, and in a search for a front those of the better image; what loses one gives way
    to nobody that was not tried.
    """

    also = study.objective.also

    def key(record: TrialRecord) -> tuple[float, int, float, float, int]:
        kept, loss = _kept(study, record, records), 0.0 if also is None else loss_of(also, record.quality)
        unmeasured = math.isnan(loss)  # which is neither more nor less than any other
        return _cost(study, kept), -len(kept), record.cost or 0.0, math.inf if unmeasured else loss, record.number

    return sorted((record for record in records.search if record.accepted), key=key)


def incumbent_of(study: Study, records: StudyRecords) -> Incumbent | None:
    """Return the configuration that has to be beaten; None where a front is searched, on which others have a place."""
    if study.objective.also is not None:
        return None
    best = next(iter(ranked(study, records)), None)
    cost = math.inf if best is None else proven(study, best, records)
    return None if best is None or math.isinf(cost) else Incumbent(cost, best.number)
