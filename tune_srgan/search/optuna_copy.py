"""Optuna's studies as copies of the trial records: one in memory for the sampler, one in a database for whoever looks.

Every trial ends in Optuna exactly once, in the right state, and trial numbers agree everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import sqlalchemy
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from trainables.errors import InvalidInput, Problem, one_line
from trainables.merits import END, flat, loss_of
from trainables.outcome import End
from tune_srgan.search.samplers import distribution
from tune_srgan.search.wait_sampler import FLOORS
from tune_srgan.store.records import UNFINISHED, TrialRecord
from tune_srgan.store.study_folder import OPTUNA_URL
from tune_srgan.study.settings import Study
from tune_srgan.study.space import Value

Told = tuple[TrialState, tuple[float, ...]]
DATABASE_ERRORS = (SQLAlchemyError, optuna.exceptions.StorageInternalError)


def told_of(record: TrialRecord, study: Study) -> Told:
    """State and values of an ended trial: COMPLETE with its cost, censored or not; FAIL where it has none.

    In a search for a front also with how bad its images are: infinitely where no balance was kept and none were
    measured; FAIL where a kept one's were not.
    """
    values: tuple[float, ...] = () if record.cost is None else (record.cost,)
    if values and study.objective.also is not None:
        loss = loss_of(study.objective.also, record.quality)
        values += (math.inf if math.isnan(loss) and record.end is not End.BALANCED else loss,)
    known = bool(values) and not any(map(math.isnan, values))
    return (TrialState.COMPLETE, values) if known else (TrialState.FAIL, ())


def misses_of(record: TrialRecord, study: Study) -> list[float]:
    """Return by how much a trial misses each floor; and a balance, in a search for a front, whose models know costs
    of kept ones alone: by its penalty, in trainings.
    """
    kept = record.end is End.BALANCED  # of what is not, the cost says enough
    missed = [(math.inf if math.isnan(short) else short) if kept else 0.0 for short in record.short.values()]
    if study.objective.also is not None and record.cost is not None:
        missed.append(0.0 if kept else record.cost / study.max_steps)
    return missed


class OptunaCopy:
    """One of Optuna's studies, of which the first `before` trials are earlier studies'."""

    def __init__(self, study: Study, kept: optuna.Study, before: int = 0) -> None:
        self.kept, self.before, self._study = kept, before, study
        self._space = {key: distribution(parameter) for key, parameter in study.space.items()}

    @property
    def count(self) -> int:
        """Trials of this study."""
        return len(self.kept.get_trials(deepcopy=False)) - self.before

    def __getitem__(self, number: int) -> optuna.trial.FrozenTrial:
        """A trial of this study."""
        return self.kept.get_trials(deepcopy=False)[self.before + number]

    def add(
        self,
        state: TrialState,
        values: Mapping[str, Value],
        told: Sequence[float] = (),
        attributes: Mapping[str, Any] | None = None,
        system: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a trial at the end; `system` is where evolution strategies keep what they know."""
        space = {key: self._space[key] for key in values}
        trial = optuna.trial.create_trial(
            state=state,
            params=dict(values),
            distributions=space,
            values=list(told) or None,
            user_attrs=dict(attributes or {}),
        )
        trial.system_attrs = dict(system or {})
        self.kept.add_trial(trial)

    def change(self, number: int, values: Mapping[str, Value]) -> None:
        """Give a trial that runs other values; only in memory, where it was just asked for."""
        for key, value in values.items():
            kind = self._space[key]
            self.kept._storage.set_trial_param(self[number]._trial_id, key, kind.to_internal_repr(value), kind)

    def add_nobodys(self, upto: int) -> None:
        """Add numbers, up to so many trials, that have no record."""
        for _ in range(self.count, upto):
            self.add(TrialState.FAIL, {})

    def tell(self, record: TrialRecord, told: Told, pruned_with: bool = False) -> None:
        """End a trial; telling twice is harmless. `pruned_with`: a pruned one's cost is its intermediate value."""
        known = self[record.number]
        if known.state.is_finished():
            return
        trial = optuna.trial.Trial(self.kept, known._trial_id)
        for key, value in attributes_of(record).items():
            trial.set_user_attr(key, value)
        if missed := misses_of(record, self._study):
            self.kept._storage.set_trial_system_attr(known._trial_id, FLOORS, missed)
        state, values = told
        if pruned_with and state is TrialState.PRUNED and values:
            trial.report(values[0], step=max(1, record.trained_steps))
            self.kept.tell(known.number, state=state)
        else:
            self.kept.tell(known.number, list(values) or None, state=state)

    def see(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Note what a trial that has not ended has shown."""
        trial = optuna.trial.Trial(self.kept, self[number]._trial_id)
        for key, value in attributes.items():
            trial.set_user_attr(key, value)

    def reconcile(self, records: Sequence[TrialRecord], system: Sequence[Mapping[str, Any]] = ()) -> None:
        """Say what the records say, but for how ended ones end; what runs and nobody owns has failed."""
        for record in records:
            self.add_nobodys(record.number)
            if record.number >= self.count:
                known = system[record.number] if record.number < len(system) else {}
                self.add(TrialState.RUNNING, record.values, (), attributes_of(record), known)
        owned = {record.number + self.before for record in records}
        for trial in self.kept.get_trials(deepcopy=False)[self.before :]:
            if not trial.state.is_finished() and trial.number not in owned:
                self.kept.tell(trial.number, state=TrialState.FAIL)


def attributes_of(record: TrialRecord) -> dict[str, Any]:
    """Return what a person sees of a trial beside its values and cost."""
    return {
        "proposed_by": record.proposed_by,
        "outcome": UNFINISHED if record.end is None else record.end.value,
        "accepted": record.accepted,
        "censored": record.censored,
        "steps": record.steps,
        "first_balance": record.first,
        "share_balanced": record.share,
        "pace": record.held.pace,
        "gap": record.gap,
        "trained_steps": record.trained_steps,
        "exploitability": record.exploitability,
        "cause": record.cause,
        **flat({END: record.quality.get(END, {})}),
    }


def directions_of(study: Study) -> list[StudyDirection]:
    """Return which way each of a study's numbers is better."""
    return [StudyDirection.MINIMIZE] * (1 if study.objective.also is None else 2)


def open_database(url: str, name: str, study: Study) -> optuna.Study:
    """Open the study in a database, made where it is not there; one clear error where the database cannot be used."""
    try:
        storage = optuna.storages.RDBStorage(url)
        if storage.engine.dialect.name == "sqlite":
            sqlalchemy.event.listen(storage.engine, "connect", _without_waiting)
            storage.engine.dispose()
        return optuna.create_study(
            study_name=name, storage=storage, directions=directions_of(study), load_if_exists=True
        )
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
        place = url.rpartition("@")[2]  # without a password
        found = f"a database that cannot be used ({one_line(error.__cause__ or error)})"
        fix = "Remove the file: it is made anew from the trial records." if url.startswith("sqlite") else ""
        fix = fix or f"Look at {OPTUNA_URL} in the environment; without it the study keeps a file of its own."
        raise InvalidInput([Problem(place, "", found, "a database for Optuna", fix)]) from None


def _without_waiting(connection: Any, _: object) -> None:
    """A commit does not wait for the disk: what a power failure takes is made anew from the records."""
    connection.execute("PRAGMA synchronous=OFF")
