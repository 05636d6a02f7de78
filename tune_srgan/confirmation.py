"""Confirmation: the best configurations again on further seeds, the same for each, to max_steps.

One seed is an anecdote, and the seed of the search has chosen its winner: only the further ones count here.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trainables.balance import Ruler, excesses, judge
from tune_srgan.mirror import PATIENCE_S
from tune_srgan.records import StudyFolder, TrialFolder, TrialRecord, best_of, record_of
from tune_srgan.study import Study

TOLD_APART = 0.1  # two-sided sign test over paired seeds


@dataclass(frozen=True)
class Held:
    """How a balance held: readings after its certificate, how many are balanced, how many miss each condition."""

    readings: int
    balanced: int
    missed: Counter[str]
    probes: dict[str, float]  # made at the certificate


@dataclass(frozen=True)
class Confirmed:
    """A configuration of the search and its trainings on further seeds, in their order."""

    record: TrialRecord
    seeds: list[TrialRecord]
    held: list[Held]  # of each that reached the balance

    @property
    def costs(self) -> list[float]:
        """By seed; ∞ where the balance was not reached."""
        return [math.inf if seed.censored or seed.cost is None else seed.cost for seed in self.seeds]

    @property
    def median(self) -> float:
        """Of the costs; ∞ where half or more did not reach the balance."""
        return statistics.median(self.costs)


def candidates(study: Study, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The best balanced configurations of the search, none twice."""
    found: list[TrialRecord] = []
    rest = list(records)
    while len(found) < study.confirm.top and (best := best_of(rest)) is not None:
        found.append(best)
        rest = [record for record in rest if record.values != best.values]
    return found


def missing(study: Study, folder: StudyFolder) -> list[TrialFolder]:
    """The confirmations that have not ended, created; seed by seed, so that what they share is shared."""
    found, chosen = [], candidates(study, folder.records(study))
    for further in range(1, study.confirm.seeds + 1):
        for record in chosen:
            trial = folder.confirmation(record.number, further)
            if not trial.exists():
                trial.create(record.values, "confirm", study.confirming(record.values, further))
                folder.send(trial.place, PATIENCE_S)
            if trial.outcome() is None:
                found.append(trial)
    return found


def confirmed(study: Study, folder: StudyFolder, records: Sequence[TrialRecord] | None = None) -> list[Confirmed]:
    """The configurations all of whose confirmations have ended, the best first; `records` are those of the search."""
    found = []
    for record in folder.records(study) if records is None else records:
        trials = [folder.confirmation(record.number, further) for further in range(1, study.confirm.seeds + 1)]
        if study.confirm.top and all(trial.exists() and trial.outcome() is not None for trial in trials):
            seeds = [record_of(trial, study) for trial in trials]
            held = [_held(trial) for trial, seed in zip(trials, seeds, strict=True) if not seed.censored]
            found.append(Confirmed(record, seeds, held))
    return sorted(found, key=lambda one: (one.median, one.record.cost, one.record.number))


def winner(study: Study, folder: StudyFolder) -> TrialRecord | None:
    """The configuration that is handed out: `winner_of` what the study's folder holds."""
    records = folder.records(study)
    return winner_of(study, records, confirmed(study, folder, records))


def winner_of(study: Study, records: Sequence[TrialRecord], found: Sequence[Confirmed]) -> TrialRecord | None:
    """The configuration of the lowest median over the further seeds.

    The search's best where not every candidate is confirmed yet, or none reached the balance with most seeds.
    """
    numbers = {one.record.number for one in found}
    whole = found and all(record.number in numbers for record in candidates(study, records))
    return found[0].record if whole and math.isfinite(found[0].median) else best_of(records)


def compared(one: Confirmed, other: Confirmed) -> tuple[int, int, float]:
    """Paired seeds with which `one` was faster, and slower; the two-sided sign test's p."""
    pairs = list(zip(one.costs, other.costs, strict=False))
    faster, slower = sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)
    n = faster + slower
    tail = sum(math.comb(n, k) for k in range(max(faster, slower), n + 1)) / 2**n
    return faster, slower, min(1.0, 2 * tail)


def _held(trial: TrialFolder) -> Held:
    readings, ruler = trial.readings(), Ruler.of(trial.configuration())
    verdict = judge(readings, ruler)
    later = [reading for reading in readings if reading["step"] > (verdict.certified_at or math.inf)]
    misses = [[name for name, excess in excesses(reading, ruler).items() if excess > 0] for reading in later]
    probes = {key: value for reading in readings for key, value in reading.items() if key.startswith("nash/probe/")}
    return Held(len(later), misses.count([]), Counter(name for missed in misses for name in missed), probes)
