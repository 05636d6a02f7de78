"""Confirmation: the best configurations again on further seeds, the same for each, to max_steps.

One seed is an anecdote, and the seed of the search has chosen its winner: only the further ones count here. Those on
which configurations raced have chosen too; seeds beyond them have not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from tune_srgan.search.front import front_of
from tune_srgan.search.race import due, incumbent_of, ranked, training_on
from tune_srgan.store.records import Held, StudyRecords, TrialRecord, baseline_of
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import TrialFolder
from tune_srgan.study.settings import Study

TOLD_APART = 0.1  # two-sided sign test over paired seeds


@dataclass(frozen=True)
class Confirmed:
    """A configuration of the search and its trainings on further seeds, in their order."""

    record: TrialRecord
    seeds: list[TrialRecord]

    @property
    def held(self) -> list[Held]:
        """How the balance held, of each seed that kept it, with images as good as is asked for."""
        return [seed.held for seed in self.seeds if seed.accepted]

    @property
    def kept(self) -> int:
        """Seeds on which the balance was kept."""
        return len(self.held)

    @property
    def costs(self) -> list[float]:
        """By seed; ∞ where the balance was not kept."""
        return [seed.cost if seed.accepted and seed.cost is not None else math.inf for seed in self.seeds]

    def figures(self, image: str) -> dict[str, list[float]]:
        """Return what an image of each seed is worth, by figure; nan where it was not measured."""
        names = dict.fromkeys(name for seed in self.seeds for name in seed.quality.get(image, {}))
        return {name: [seed.quality.get(image, {}).get(name, math.nan) for seed in self.seeds] for name in names}

    @property
    def median(self) -> float:
        """Of the costs; ∞ where half or more did not keep the balance."""
        return statistics.median(self.costs)


def candidates(study: Study, records: StudyRecords) -> list[TrialRecord]:
    """Return the best accepted configurations of the search, none twice; of a search for a front all that are on it."""
    if study.objective.also is not None:
        return front_of(study, records.search) if study.confirm.top else []
    chosen: list[TrialRecord] = []
    for record in ranked(study, records):
        if len(chosen) < study.confirm.top and record.values not in [one.values for one in chosen]:
            chosen.append(record)
    return chosen


def _wanted(study: Study, records: StudyRecords) -> list[tuple[TrialRecord, int]]:
    """Every confirmation there is to be, by configuration and further seed, the baseline's where asked."""
    chosen, baseline = candidates(study, records), baseline_of(records.search)
    compares = study.confirm.baseline and study.confirm.top
    if compares and baseline is not None and baseline.values not in [one.values for one in chosen]:
        chosen.append(baseline)
    return [(record, further) for further in range(1, study.confirm.seeds + 1) for record in chosen]


def missing(study: Study, folder: StudyFolder, records: StudyRecords) -> list[TrialFolder]:
    """Return the confirmations that have not ended, created; seed by seed: those of a seed share pretraining."""
    left = []
    for record, further in _wanted(study, records):
        trial = training_on(study, folder, record, further)
        if trial.outcome() is None:
            left.append(trial)
    return left


def left_to_do(study: Study, records: StudyRecords) -> int:
    """Count trials of the search that have not ended, or else further seeds that have not."""
    searching = study.search.trials - records.ended()
    if searching > 0:
        return searching
    ended = {(one.number, one.trial.confirms) for one in records.confirmations if one.end is not None}
    best = incumbent_of(study, records)
    racing = {(record.number, due(study, record, records, best)) for record in records.search}
    wanted = {(record.number, further) for record, further in _wanted(study, records)}
    return len((wanted | {(number, further) for number, further in racing if further is not None}) - ended)


def in_all(study: Study, records: StudyRecords, running: Iterable[TrialFolder] = ()) -> int:
    """Count the trainings of a study: trials, confirmations of the candidates, and of those that only race."""
    wanted = {(record.number, further) for record, further in _wanted(study, records)}
    raced = [trial for trial in (*running, *(one.trial for one in records.confirmations)) if trial.confirms]
    return study.search.trials + len(wanted | {(trial.number, trial.confirms) for trial in raced})


def confirmed(study: Study, records: StudyRecords) -> list[Confirmed]:
    """Return the configurations all of whose confirmations have ended, the best first."""
    complete = []
    for record in records.search:
        seeds = [one for one in records.confirmations if one.number == record.number and one.end is not None]
        seeds = [one for one in seeds if one.trial.confirms <= study.confirm.seeds]
        if study.confirm.top and len(seeds) == study.confirm.seeds:
            complete.append(Confirmed(record, seeds))
    return sorted(complete, key=lambda one: (-one.kept, one.median, one.record.cost, one.record.number))


def winner(study: Study, records: StudyRecords) -> TrialRecord | None:
    """Return the configuration that is handed out: `winner_of` with all that is confirmed."""
    return winner_of(study, records, confirmed(study, records))


def winner_of(study: Study, records: StudyRecords, complete: Sequence[Confirmed]) -> TrialRecord | None:
    """Return the configuration that kept the balance on the most further seeds; of those alike, of the lowest median.

    The search's best where not every candidate is confirmed yet, or none kept it on any.
    """
    complete = [one for one in complete if one.record.accepted]  # the baseline is there to be compared with
    numbers = {one.record.number for one in complete}
    every = complete and all(record.number in numbers for record in candidates(study, records))
    return complete[0].record if every and complete[0].kept else next(iter(ranked(study, records)), None)


def compared(one: Confirmed, other: Confirmed) -> tuple[int, int, float]:
    """Count paired seeds with which `one` was faster, and slower; the two-sided sign test's p."""
    pairs = list(zip(one.costs, other.costs, strict=False))
    faster, slower = sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)
    n = faster + slower
    tail = sum(math.comb(n, k) for k in range(max(faster, slower), n + 1)) / 2**n
    return faster, slower, min(1.0, 2 * tail)


def difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float] | None:
    """Return the mean of paired differences, one's less the other's, and its 95 % interval (Student's t).

    None of fewer than two pairs that are both known.
    """
    pairs = [a - b for a, b in zip(one, other, strict=False) if math.isfinite(a - b)]
    if len(pairs) < 2:
        return None
    mean, error = statistics.fmean(pairs), statistics.stdev(pairs) / math.sqrt(len(pairs))
    reach = float(stdtrit(len(pairs) - 1, 0.975)) * error
    return mean, mean - reach, mean + reach
