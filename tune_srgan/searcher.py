"""The searcher: Optuna proposes, by ask and tell. The only module that knows Optuna.

Every trial ends in Optuna exactly once, in the right state. Where its database is absent or behind, the study is
rebuilt from the trial records, so trial numbers agree everywhere.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import optuna
import sqlalchemy
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from trainables.configuration import flatten
from trainables.errors import InvalidInput, Problem
from tune_srgan.records import OPTUNA_URL, TRY_FIRST, UNFINISHED, StudyFolder, TrialRecord
from tune_srgan.study import Parameter, Search, Study, Value

optuna.logging.set_verbosity(optuna.logging.ERROR)
LEAST_FOR_IMPORTANCE, RESAMPLES = 6, 40
MODELS = {"tpe", "gp"}  # samplers that can learn from trials they did not propose
Censored = Literal["cost", "pruned", "clipped"]  # what a sampler sees of a trial that did not reach the balance


@dataclass(frozen=True)
class Proposal:
    """A configuration to train: its number, values, and who proposed it (a sampler, `startup` or `try_first`)."""

    number: int
    values: dict[str, Value]
    proposed_by: str


class Searcher:
    """Ask for proposals, tell outcomes.

    What the sampler learns from is kept in memory and made anew from the records at each start, earlier studies'
    trials before this one's; the database is a log of this study for whoever looks at it.
    """

    def __init__(
        self,
        study: Study,
        records: Sequence[TrialRecord] = (),
        url: str | None = None,
        name: str | None = None,
        learnt: Sequence[tuple[dict[str, Value], float]] = (),
        sampler: BaseSampler | None = None,
        censored: Censored = "cost",
    ) -> None:
        self._study, self._censored, self._earlier = study, censored, len(learnt)
        self._name = study.search.sampler
        self._space = {key: _distribution(parameter) for key, parameter in study.space.items()}
        self._sampled = optuna.create_study(direction="minimize")
        self._sampled.add_trials([self._frozen(TrialState.COMPLETE, values, cost, {}) for values, cost in learnt])
        self._kept = [self._sampled]
        if url is not None:
            self._kept.append(_log(url, name or study.study))
        logged = [trial.system_attrs for trial in self._kept[-1].get_trials()] if url is not None else []
        for kept, before in zip(self._kept, (self._earlier, 0), strict=False):
            self._reconcile(kept, before, records, logged)
        proposed = len(self._kept[-1].get_trials(deepcopy=False))
        while len(self._sampled.get_trials(deepcopy=False)) - self._earlier < proposed and url is not None:
            self._sampled.add_trial(self._frozen(TrialState.FAIL, {}, None, {}))  # asked for once, never started
        asked = [record.values for record in records if record.proposed_by == TRY_FIRST]
        for values in study.search.try_first:
            if not any(values.items() <= known.items() for known in asked):
                self._sampled.enqueue_trial(values)
        # a resumed study must not draw the numbers it drew before
        self._sampled.sampler = sampler or _sampler(study.search, len(records), self._examples)

    def propose(self) -> Proposal:
        """The next configuration."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self._sampled.ask(fixed_distributions=self._space)
        known = self._sampled.get_trials(deepcopy=False)[trial.number].system_attrs
        fixed = "fixed_params" in known
        proposed_by = TRY_FIRST if fixed else self._name if trial.relative_params else "startup"
        if self._name == "random" and not fixed:
            proposed_by = "random"
        values = dict(trial.params)
        for log in self._kept[1:]:
            frozen = self._frozen(TrialState.RUNNING, values, None, {"proposed_by": proposed_by})
            frozen.system_attrs = dict(known)  # where evolution strategies keep what they know
            with self._only_a_log():
                log.add_trial(frozen)
        return Proposal(trial.number - self._earlier, values, proposed_by)

    def tell(self, record: TrialRecord) -> None:
        """End a trial: COMPLETE with its cost, censored or not; FAIL when it has none. Telling twice is harmless."""
        self._tell(self._sampled, self._earlier, record)
        for log in self._kept[1:]:
            with self._only_a_log():
                self._tell(log, 0, record)

    def account(self, account: Mapping[str, int]) -> None:
        """Keep the study's own account beside its trials."""
        for log in self._kept[1:]:
            with self._only_a_log():
                for kind, steps in account.items():
                    log.set_user_attr(f"steps_{kind}", steps)

    def _examples(self, ended: int) -> int:
        """Of the `good_trials` only those whose game was played: all that capping never let begin cost the same."""
        told = self._sampled.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        played = sum(trial.number < self._earlier or trial.user_attrs["gap"] is not None for trial in told)
        return min(good_trials(ended), max(2, played))

    @contextlib.contextmanager
    def _only_a_log(self) -> Iterator[None]:
        """A database that is lost on the way stops no search: the next start makes it anew from the records."""
        try:
            yield
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            del self._kept[1:]
            cause = " ".join(str(error.__cause__ or error).split())[:160]
            logging.getLogger(__name__).warning("Optuna's database is left alone from here on (%s).", cause)

    def _tell(self, kept: optuna.Study, before: int, record: TrialRecord) -> None:
        known = kept.get_trials(deepcopy=False)[before + record.number]
        if known.state.is_finished():
            return
        trial = optuna.trial.Trial(kept, known._trial_id)
        for key, value in _attributes(record).items():
            trial.set_user_attr(key, value)
        state, cost = self._told(record)
        if kept is self._sampled and state is TrialState.PRUNED and cost is not None:
            trial.report(cost, step=max(1, record.trained_steps))
            kept.tell(known.number, state=state)
        else:
            kept.tell(known.number, cost, state=state)

    def _told(self, record: TrialRecord) -> tuple[TrialState, float | None]:
        """State and value of an ended trial."""
        if record.cost is None:
            return TrialState.FAIL, None
        if not record.censored or self._censored == "cost":
            return TrialState.COMPLETE, record.cost
        if self._censored == "pruned":
            return TrialState.PRUNED, record.cost
        return TrialState.COMPLETE, min(record.cost, float(self._study.max_steps))

    def _reconcile(
        self, kept: optuna.Study, before: int, records: Sequence[TrialRecord], logged: Sequence[dict[str, Any]]
    ) -> None:
        """Make one of Optuna's studies say what the records say."""
        for record in records:
            count = len(kept.get_trials(deepcopy=False)) - before
            for _ in range(count, record.number):  # asked for once, never started: nobody's
                kept.add_trial(self._frozen(TrialState.FAIL, {}, None, {}))
            if record.number >= count:
                frozen = self._frozen(TrialState.RUNNING, record.values, None, _attributes(record))
                frozen.system_attrs = dict(logged[record.number]) if record.number < len(logged) else {}
                kept.add_trial(frozen)
            if record.end != UNFINISHED:
                self._tell(kept, before, record)
        owned = {record.number + before for record in records}
        for trial in kept.get_trials(deepcopy=False)[before:]:
            if not trial.state.is_finished() and trial.number not in owned:
                kept.tell(trial.number, state=TrialState.FAIL)

    def _frozen(
        self, state: TrialState, values: dict[str, Value], cost: float | None, attributes: dict[str, Any]
    ) -> optuna.trial.FrozenTrial:
        space = {key: self._space[key] for key in values}
        return optuna.trial.create_trial(
            state=state, params=values, distributions=space, value=cost, user_attrs=attributes
        )


def _without_waiting(connection: Any, _: object) -> None:
    """A commit does not wait for the disk: what a power failure takes is made anew from the records."""
    connection.execute("PRAGMA synchronous=OFF")


def _log(url: str, name: str) -> optuna.Study:
    """The study in a database, made where it is not there; one clear error where the database cannot be used."""
    try:
        storage = optuna.storages.RDBStorage(url)
        if storage.engine.dialect.name == "sqlite":
            sqlalchemy.event.listen(storage.engine, "connect", _without_waiting)
            storage.engine.dispose()
        return optuna.create_study(study_name=name, storage=storage, direction="minimize", load_if_exists=True)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
        place = url.rpartition("@")[2]  # without a password
        found = f"a database that cannot be used ({' '.join(str(error.__cause__ or error).split())[:200]})"
        fix = "Remove the file: it is made anew from the trial records." if url.startswith("sqlite") else ""
        fix = fix or f"Look at {OPTUNA_URL} in the environment; without it the study keeps a file of its own."
        raise InvalidInput([Problem(place, "", found, "a database for Optuna", fix)]) from None


def learnt_from(study: Study, earlier: Sequence[StudyFolder]) -> list[tuple[dict[str, Value], float]]:
    """What earlier studies know of this space: the configurations in it whose game was played, and their costs.

    A key that was fixed there has the value it was fixed to. The penalty of a censored trial is one of this length.
    """
    found = []
    for folder in earlier:
        other = folder.study()
        for record in folder.records(other):
            if record.cost is None or record.gap is None or other.objective.metric != study.objective.metric:
                continue
            settings = flatten(folder.trial(record.number).configuration().model_dump())
            values = {key: settings[key] for key in study.space}
            if all(parameter.admits(values[key]) for key, parameter in study.space.items()):
                longer = study.max_steps / other.max_steps
                cost = record.cost * longer if record.censored else min(record.cost, float(study.max_steps))
                found.append((values, cost))
    return found


def check_sampler(study: Study, file: str) -> None:
    """A sampler whose library is missing, or that cannot begin so, is said before anything starts."""
    if study.search.sampler == "nsgaii" and study.search.startup < 2:
        raise InvalidInput([Problem(file, "search.startup", str(study.search.startup), "at least 2 with nsgaii")])
    if study.search.learn_from and study.search.sampler not in MODELS:
        expected = f"one of {', '.join(sorted(MODELS))}, which can learn from others' trials"
        raise InvalidInput([Problem(file, "search.learn_from", f"sampler {study.search.sampler}", expected)])
    try:
        _sampler(study.search, 0)
    except ImportError as error:
        fix = f"Install it: pip install {error.name or study.search.sampler}."
        raise InvalidInput(
            [Problem(file, "search.sampler", study.search.sampler, "a sampler whose library is there", fix)]
        ) from None


def _attributes(record: TrialRecord) -> dict[str, Any]:
    return {
        "proposed_by": record.proposed_by,
        "outcome": record.end,
        "censored": record.censored,
        "steps": record.steps,
        "gap": record.gap,
        "trained_steps": record.trained_steps,
        "exploitability": record.exploitability,
        "cause": record.cause,
    }


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.choice is not None:
        return CategoricalDistribution(parameter.choice)
    low, high = parameter.bounds
    if parameter.int_range is not None:
        return IntDistribution(int(low), int(high), log=parameter.log, step=int(parameter.step or 1))
    return FloatDistribution(low, high, log=parameter.log, step=parameter.step)


def good_trials(ended: int) -> int:
    """How many of the trials so far TPE takes as examples: a quarter; Optuna's own tenth is one trial of ten."""
    return min(max(2, math.ceil(0.25 * ended)), 25)


def _sampler(search: Search, known_trials: int, examples: Callable[[int], int] = good_trials) -> BaseSampler:
    seed = search.seed + 1000 * known_trials
    makers: dict[str, Any] = {
        "tpe": lambda: optuna.samplers.TPESampler(
            n_startup_trials=search.startup, multivariate=True, constant_liar=True, gamma=examples, seed=seed
        ),
        "gp": lambda: optuna.samplers.GPSampler(n_startup_trials=search.startup, seed=seed),
        "cmaes": lambda: optuna.samplers.CmaEsSampler(n_startup_trials=search.startup, seed=seed),
        "nsgaii": lambda: optuna.samplers.NSGAIISampler(population_size=search.startup, seed=seed),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
    }
    needs = {"gp": "scipy", "cmaes": "cmaes"}.get(search.sampler)
    if needs:
        __import__(needs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler: BaseSampler = makers[search.sampler]()
    return sampler


def importances(study: Study, records: Sequence[TrialRecord]) -> dict[str, tuple[float, float, float]]:
    """How much of what parts the best, a quarter at most, from the rest each key explains: share, 90 % interval.

    PED-ANOVA (Watanabe et al. 2023, Optuna's), over bootstrap samples of the trials; nothing where there are too few.
    """
    told = [record for record in records if record.cost is not None]
    if len(told) < LEAST_FOR_IMPORTANCE or len({record.cost for record in told}) < 2:
        return {}
    space = {key: _distribution(parameter) for key, parameter in study.space.items()}
    frozen = [
        optuna.trial.create_trial(params=record.values, distributions=space, value=record.cost) for record in told
    ]
    draw, shares = np.random.default_rng(0), []
    for sample in [range(len(frozen)), *(draw.integers(len(frozen), size=len(frozen)) for _ in range(RESAMPLES))]:
        found = optuna.create_study(direction="minimize")
        found.add_trials([frozen[index] for index in sample])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares.append(_shares(found, list(study.space)))
    values = np.array(shares)
    low, high = np.percentile(values[1:], [5, 95], axis=0)
    return {key: (float(values[0, i]), float(low[i]), float(high[i])) for i, key in enumerate(study.space)}


def _shares(study: optuna.Study, keys: list[str]) -> list[float]:
    costs = [trial.value or 0.0 for trial in study.get_trials(deepcopy=False)]
    # trials that capping never let begin all cost the same: none of them is among the best
    best = min(math.ceil(0.25 * len(costs)), sum(cost < max(costs) for cost in costs))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=max(0.5, best - 0.5) / len(costs))
    try:
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=keys)
    except (ValueError, RuntimeError):  # a sample in which all are alike
        found = {}
    return [found.get(key, 0.0) for key in keys]
