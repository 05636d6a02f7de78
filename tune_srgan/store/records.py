"""The trial records: what the service knows of every trial, read once from its files and judged by the study's ruler.

The records are the truth: configuration, readings, outcome. Everything else can be made from them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from trainables.balance import Ruler, Verdict, excesses, judge, nash_cost, pace_of
from trainables.merits import Quality, short_of
from trainables.outcome import End
from trainables.probes import PROBE
from tune_srgan.store.account import SHARED, WAITS, account_of, cost_in_seconds, step_seconds_of
from tune_srgan.store.trial_folder import Proposer, TrialFolder
from tune_srgan.study.settings import Study
from tune_srgan.study.space import Value

UNFINISHED, BELOW = "unfinished", "below floor"  # labels: it has not ended; its images are worse than is asked for


@dataclass(frozen=True)
class Held:
    """How a balance held: of the readings from where it is kept, or else from the first one on, or the last window."""

    readings: int = 0
    balanced: int = 0
    missed: Counter[str] = field(default_factory=Counter)  # readings that miss each condition
    probes: dict[str, float] = field(default_factory=dict)  # made at the end of a balance that is kept
    pace: float | None = None  # of the game since the balance; near 0, it was kept by standing still


@dataclass(frozen=True)
class TrialRecord:
    """A trial as the service sees it."""

    trial: TrialFolder
    values: dict[str, Value]
    proposed_by: str
    end: End | None  # None: it has not ended
    steps: int | None
    censored: bool
    gap: float | None
    cost: float | None
    trained_steps: int
    first: int | None = None  # the step of the first balance
    share: float | None = None  # of balanced readings, from `steps` on or from the best begin there was
    exploitability: float | None = None
    cause: str = ""
    seconds: float = 0.0
    # what a step of pretraining and one of the game took, nan where there was none
    step_seconds: tuple[float, float] = (math.nan, math.nan)
    # seconds the training stood still, to validate, record, checkpoint and report
    waits: dict[str, float] = field(default_factory=dict)
    account: dict[str, int] = field(default_factory=dict)
    device: str = ""
    held: Held = field(default_factory=Held)
    quality: Quality = field(default_factory=dict)
    short: dict[str, float] = field(default_factory=dict)  # by how much its images miss each of the study's floors

    @property
    def accepted(self) -> bool:
        """Whether it may win: it kept its balance, and its images are as good as the study asks for."""
        return self.end is End.BALANCED and all(short <= 0 for short in self.short.values())

    @property
    def number(self) -> int:
        """The trial's number; of a confirmation, that of the trial it confirms."""
        return self.trial.number

    @property
    def label(self) -> str:
        """How it ended, in a word."""
        if self.end is End.BALANCED and not self.accepted:
            return BELOW
        return UNFINISHED if self.end is None else self.end.value


@dataclass(frozen=True)
class StudyRecords:
    """All trials of a study: those of the search by number, and the confirmations by number and further seed."""

    search: tuple[TrialRecord, ...] = ()
    confirmations: tuple[TrialRecord, ...] = ()

    @property
    def every(self) -> tuple[TrialRecord, ...]:
        """The search's trials, then the confirmations."""
        return (*self.search, *self.confirmations)

    def ended(self) -> int:
        """Return how many trials of the search have ended."""
        return sum(record.end is not None for record in self.search)


def read_records(study: Study, trials: Iterable[TrialFolder]) -> StudyRecords:
    """Read the records of a study's trials, those of the search and the confirmations, each once from its files."""
    return arranged(record_of(trial, study) for trial in trials)


def arranged(records: Iterable[TrialRecord]) -> StudyRecords:
    """Put records in order: those of the search by number, the confirmations by number and further seed."""
    every = sorted(records, key=lambda record: (record.number, record.trial.confirms))
    search = tuple(record for record in every if not record.trial.confirms)
    return StudyRecords(search, tuple(record for record in every if record.trial.confirms))


def record_of(trial: TrialFolder, study: Study) -> TrialRecord:
    """Read one trial's record; the cost is derived here, so it may be changed later without retraining."""
    header, outcome, readings = trial.header(), trial.outcome(), trial.readings()
    ended = outcome or {}
    end = End(ended["end"]) if ended else None
    cost, step_seconds, held = None, (math.nan, math.nan), Held()
    if end is not None and end.has_cost:
        configuration = study.configuration(header["values"])  # as in its file, without reading YAML
        pretraining, ruler = configuration.Training.pretrain_steps, Ruler.of(configuration)
        verdict, step_seconds = judge(readings, ruler), step_seconds_of(readings, pretraining)
        held = held_of(readings, ruler, verdict)
        cost = nash_cost(verdict, study.max_steps)
        if study.objective.metric == "seconds_to_nash":
            cost = cost_in_seconds(cost, pretraining, step_seconds, study.max_steps)
    quality = ended.get("quality", {})
    computed = [reading for reading in readings if SHARED not in reading]
    return TrialRecord(
        trial=trial,
        values=header["values"],
        proposed_by=header["proposed_by"],
        end=end,
        steps=ended.get("steps"),
        censored=ended.get("censored", True),
        gap=ended.get("gap"),
        cost=cost,
        trained_steps=int(ended.get("trained_steps", readings[-1]["step"] if readings else 0)),
        first=ended.get("first"),
        share=ended.get("share"),
        exploitability=ended.get("exploitability"),
        cause=ended.get("cause", ""),
        seconds=sum(reading["time/train_s"] + reading["time/validate_s"] for reading in computed),
        step_seconds=step_seconds,
        waits={kind: sum(reading.get(f"time/{kind}_s", 0.0) for reading in computed) for kind in WAITS},
        account=account_of(readings, ended, study.max_steps),
        device=ended.get("device", ""),
        held=held,
        quality=quality,
        short={key: short_of(key, quality, floor) for key, floor in study.objective.at_least.items()},
    )


def held_of(readings: Sequence[Mapping[str, float]], ruler: Ruler, verdict: Verdict) -> Held:
    """Count what became of a balance; of a training without one, its last window."""
    since = verdict.steps_to_nash or verdict.first
    late = readings[-ruler.nash.window :]
    if since is not None:
        late = [reading for reading in readings if reading["step"] >= since]
    misses = [[name for name, excess in excesses(reading, ruler).items() if excess > 0] for reading in late]
    probes = {key: value for reading in readings for key, value in reading.items() if key.startswith(PROBE)}
    counts = Counter(name for missed in misses for name in missed)
    return Held(len(late), misses.count([]), counts, probes, None if since is None else pace_of(late, ruler))


def account_of_study(records: Sequence[TrialRecord]) -> dict[str, int]:
    """Sum the accounts of trials."""
    kinds = ("executed", "sharing", "capping")
    return {kind: sum(record.account[kind] for record in records) for kind in kinds}


def baseline_of(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the first of what the study file names; None where it names nothing."""
    return next((record for record in records if record.proposed_by == Proposer.TRY_FIRST), None)


def best_of(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the accepted trial of the lowest cost; the earlier one of two alike."""
    balanced = [record for record in records if record.accepted and record.cost is not None]
    return min(balanced, key=lambda record: (record.cost or 0.0, record.number), default=None)


def best_so_far(records: Sequence[TrialRecord]) -> list[TrialRecord | None]:
    """List, after each trial, the best up to it."""
    history: list[TrialRecord | None] = []
    for record in records:
        history.append(best_of([known for known in (*history[-1:], record) if known is not None]))
    return history
