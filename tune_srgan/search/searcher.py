"""The searcher: Optuna proposes, by ask and tell.

Where Optuna's database is absent or behind, the study is rebuilt from the trial records.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from trainables.balance import Verdict
from trainables.dotted import flatten
from trainables.errors import one_line
from tune_srgan.search.optuna_copy import (
    DATABASE_ERRORS,
    OptunaCopy,
    Told,
    attributes_of,
    directions_of,
    open_database,
    told_of,
)
from tune_srgan.search.samplers import distribution, good_trials, sampler_of
from tune_srgan.search.wait_sampler import WaitSampler
from tune_srgan.store.records import StudyRecords, TrialRecord
from tune_srgan.store.trial_folder import Proposer
from tune_srgan.study.settings import Study
from tune_srgan.study.space import Value, nearest_other, point, size

Censored = Literal["cost", "pruned", "clipped"]  # what a sampler sees of a trial that did not reach the balance


@dataclass(frozen=True)
class Proposal:
    """A configuration to train: its number, values, and who proposed it (a sampler, `startup` or `try_first`)."""

    number: int
    values: dict[str, Value]
    proposed_by: str


@dataclass(frozen=True)
class Learnt:
    """A trial of an earlier study: its values, what it cost, and what else the sampler asks of a trial."""

    values: dict[str, Value]
    cost: float
    attributes: dict[str, Any]


class Searcher:
    """Ask for proposals, tell outcomes. No configuration is proposed twice while another is left.

    What the sampler learns from is kept in memory and made anew from the records at each start, earlier studies'
    trials before this one's; the database is a log of this study for whoever looks at it.
    """

    def __init__(
        self,
        study: Study,
        records: Sequence[TrialRecord] = (),
        url: str | None = None,
        name: str | None = None,
        learnt: Sequence[Learnt] = (),
        sampler: BaseSampler | None = None,
        censored: Censored = "cost",
    ) -> None:
        self._study, self._censored = study, censored
        self._name: str = study.search.sampler
        self._space = {key: distribution(parameter) for key, parameter in study.space.items()}
        self._sampled = OptunaCopy(study, optuna.create_study(directions=directions_of(study)), len(learnt))
        for one in learnt:
            self._sampled.add(TrialState.COMPLETE, one.values, (one.cost,), one.attributes)
        self._log = None if url is None else OptunaCopy(study, open_database(url, name or study.study, study))
        known = [] if self._log is None else [trial.system_attrs for trial in self._log.kept.get_trials()]
        self._sampled.reconcile(records, known)
        if self._log is not None:
            self._log.reconcile(records, known)
        for record in records:
            if record.end is not None:
                self.tell(record)
        if self._log is not None:
            self._sampled.add_nobodys(self._log.count)
        self._tried = {point(study.space, record.values) for record in records}
        asked = [record.values for record in records if record.proposed_by == Proposer.TRY_FIRST]
        for values in study.search.try_first:
            if not any(values.items() <= tried.items() for tried in asked):
                self._sampled.kept.enqueue_trial(values)
        self._sampled.kept.sampler = sampler or sampler_of(study, len(records), self._examples)

    def propose(self) -> Proposal:
        """Ask for the next configuration."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="optuna")  # of what is experimental, or infinite, and meant
            trial = self._sampled.kept.ask(fixed_distributions=self._space)
        number, values = trial.number - self._sampled.before, dict(trial.params)
        if point(self._study.space, values) in self._tried:
            fixed = self._sampled[number].system_attrs.get("fixed_params", {})
            other = nearest_other(self._study.space, values, self._tried, fixed)
            values = other or nearest_other(self._study.space, values, self._tried) or values
            self._sampled.change(number, values)
        self._tried.add(point(self._study.space, values))
        proposed_by: str = self._name if trial.relative_params else Proposer.STARTUP
        if "fixed_params" in self._sampled[number].system_attrs:
            proposed_by = Proposer.TRY_FIRST
        elif self._name == Proposer.RANDOM:
            proposed_by = Proposer.RANDOM
        return Proposal(number, values, proposed_by)

    @property
    def exhausted(self) -> bool:
        """Whether every configuration of the space has been proposed."""
        return len(self._tried) >= size(self._study.space)

    def keep(self, proposal: Proposal) -> None:
        """Write a proposal whose record is there to the database: a driver that dies before leaves no gap."""
        system = self._sampled[proposal.number].system_attrs
        attributes = {"proposed_by": proposal.proposed_by}
        self._write(lambda log: log.add(TrialState.RUNNING, proposal.values, (), attributes, system))

    def tell(self, record: TrialRecord) -> None:
        """End a trial: COMPLETE with its cost, censored or not; FAIL when it has none. Telling twice is harmless."""
        self._sampled.tell(record, self._told(record), pruned_with=True)
        self._write(lambda log: log.tell(record, self._told(record)))

    def see(self, number: int, verdict: Verdict) -> None:
        """Note what a trial that has not ended has shown: `wait` counts it, other samplers learn costs alone."""
        if math.isfinite(verdict.gap) and math.isfinite(verdict.earliest):
            self._sampled.see(number, {"gap": verdict.gap, "steps": int(verdict.earliest)})

    @property
    def knows(self) -> bool:
        """Whether the next proposal is made from what trials have shown: `wait` says it, others always may."""
        sampler = self._sampled.kept.sampler
        return not isinstance(sampler, WaitSampler) or sampler.knows(self._sampled.kept)

    def chance(self, count: int, number: int, share: float) -> float:
        """Return how likely one of `count` more proposals costs less than a `share` of what trial `number` cost."""
        sampler = self._sampled.kept.sampler
        assert isinstance(sampler, WaitSampler)  # `stop: auto` takes it
        return sampler.chance(self._sampled.kept, count, self._sampled.before + number, share)

    def account(self, account: Mapping[str, int]) -> None:
        """Keep the study's own account beside its trials."""

        def write(log: OptunaCopy) -> None:
            for kind, steps in account.items():
                log.kept.set_user_attr(f"steps_{kind}", steps)

        self._write(write)

    def _told(self, record: TrialRecord) -> Told:
        """What the sampler sees of an ended trial."""
        state, values = told_of(record, self._study)
        if not values or not record.censored or self._censored == "cost":
            return state, values
        if self._censored == "pruned":
            return TrialState.PRUNED, values
        return state, (min(values[0], float(self._study.max_steps)), *values[1:])

    def _examples(self, ended: int) -> int:
        """Of the `good_trials` only those whose game was played: all that capping never let begin cost the same."""
        told = self._sampled.kept.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        played = sum(trial.number < self._sampled.before or trial.user_attrs["gap"] is not None for trial in told)
        return min(good_trials(ended), max(2, played))

    def _write(self, write: Callable[[OptunaCopy], None]) -> None:
        """Write to the database. One that is lost stops no search: the next start makes it anew from the records."""
        if self._log is None:
            return
        try:
            write(self._log)
        except DATABASE_ERRORS as error:
            self._log = None
            cause = one_line(error.__cause__ or error)
            logging.getLogger(__name__).warning("Optuna's database is left alone from here on (%s).", cause)


def learnt_from(study: Study, earlier: Sequence[tuple[Study, StudyRecords]]) -> list[Learnt]:
    """Return what earlier studies know of this space: the configurations in it whose game was played, and their costs.

    A key that was fixed there has the value it was fixed to. The penalty of a censored trial is one of this length.
    """
    learnt = []
    for other, records in earlier:
        for record in records.search:
            if record.cost is None or record.gap is None or other.objective.metric != study.objective.metric:
                continue
            settings = flatten(record.trial.configuration().model_dump())
            values = {key: settings[key] for key in study.space}
            if all(parameter.admits(values[key]) for key, parameter in study.space.items()):
                longer = study.max_steps / other.max_steps
                cost = record.cost * longer if record.censored else min(record.cost, float(study.max_steps))
                learnt.append(Learnt(values, cost, attributes_of(record)))
    return learnt
