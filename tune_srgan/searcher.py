"""The searcher: Optuna proposes, by ask and tell. The only module that knows Optuna.

Every trial ends in Optuna exactly once, in the right state. Where its database is absent or behind, the study is
rebuilt from the trial records, so trial numbers agree everywhere.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from trainables.errors import InvalidInput, Problem
from tune_srgan.records import UNFINISHED, StudyFolder, TrialRecord
from tune_srgan.study import Parameter, Search, Study, Value

optuna.logging.set_verbosity(optuna.logging.ERROR)
TRY_FIRST = "try_first"


@dataclass(frozen=True)
class Proposal:
    """A configuration to train: its number, values, and who proposed it (a sampler, `startup` or `try_first`)."""

    number: int
    values: dict[str, Value]
    proposed_by: str


class Searcher:
    """Ask for proposals, tell outcomes."""

    def __init__(self, study: Study, folder: StudyFolder) -> None:
        self._name = study.search.sampler
        self._space = {key: _distribution(parameter) for key, parameter in study.space.items()}
        self._optuna = optuna.create_study(
            study_name=study.study, storage=folder.optuna_url, direction="minimize", load_if_exists=True
        )
        records = folder.records(study)
        if {trial.number for trial in self._waiting()} & {record.number for record in records}:
            # behind: it would still ask what a record says was asked, and what waits cannot be told
            optuna.delete_study(study_name=study.study, storage=folder.optuna_url)
            self._optuna = optuna.create_study(study_name=study.study, storage=folder.optuna_url, direction="minimize")
        self._reconcile(records, study.search)
        # a resumed study must not draw the numbers it drew before
        self._optuna.sampler = _sampler(study.search, len(self._optuna.get_trials(deepcopy=False)))

    def propose(self) -> Proposal:
        """The next configuration."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self._optuna.ask(fixed_distributions=self._space)
        fixed = "fixed_params" in self._optuna.get_trials(deepcopy=False)[trial.number].system_attrs
        proposed_by = TRY_FIRST if fixed else self._name if trial.relative_params else "startup"
        if self._name == "random" and not fixed:
            proposed_by = "random"
        trial.set_user_attr("proposed_by", proposed_by)
        return Proposal(trial.number, dict(trial.params), proposed_by)

    def tell(self, record: TrialRecord) -> None:
        """End a trial: COMPLETE with its cost, censored or not; FAIL when it has none. Telling twice is harmless."""
        known = self._optuna.get_trials(deepcopy=False)[record.number]
        if known.state.is_finished():
            return
        for key, value in _attributes(record).items():
            optuna.trial.Trial(self._optuna, known._trial_id).set_user_attr(key, value)
        if record.cost is None:
            self._optuna.tell(record.number, state=TrialState.FAIL)
        else:
            self._optuna.tell(record.number, record.cost)

    def _reconcile(self, records: list[TrialRecord], search: Search) -> None:
        """Make Optuna's study say what the records say."""
        for record in records:
            count = len(self._optuna.get_trials(deepcopy=False))
            for _ in range(count, record.number):  # asked for once, never started: nobody's
                self._add(TrialState.FAIL, {}, None, {})
            if record.number >= count:
                state = TrialState.COMPLETE if record.cost is not None else TrialState.FAIL
                state = TrialState.RUNNING if record.end == UNFINISHED else state
                self._add(state, record.values, record.cost, _attributes(record))
            elif record.end != UNFINISHED:
                self.tell(record)
        owned = {record.number for record in records}
        for trial in self._optuna.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and trial.number not in owned:
                self._optuna.tell(trial.number, state=TrialState.FAIL)
        asked = [record.values for record in records if record.proposed_by == TRY_FIRST]
        asked += [trial.system_attrs["fixed_params"] for trial in self._waiting()]
        for values in search.try_first:
            if not any(values.items() <= known.items() for known in asked):
                self._optuna.enqueue_trial(values)

    def _waiting(self) -> list[optuna.trial.FrozenTrial]:
        return self._optuna.get_trials(deepcopy=False, states=(TrialState.WAITING,))

    def _add(self, state: TrialState, values: dict[str, Value], cost: float | None, attributes: dict[str, Any]) -> None:
        space = {key: self._space[key] for key in values}
        self._optuna.add_trial(
            optuna.trial.create_trial(
                state=state, params=values, distributions=space, value=cost, user_attrs=attributes
            )
        )


def check_sampler(study: Study, file: str) -> None:
    """A sampler whose library is missing, or that cannot begin so, is said before anything starts."""
    if study.search.sampler == "nsgaii" and study.search.startup < 2:
        raise InvalidInput([Problem(file, "search.startup", str(study.search.startup), "at least 2 with nsgaii")])
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


def _good_trials(ended: int) -> int:
    """How many of the trials so far TPE takes as examples: a quarter; Optuna's own tenth is one trial of ten."""
    return min(max(2, math.ceil(0.25 * ended)), 25)


def _sampler(search: Search, known_trials: int) -> BaseSampler:
    seed = search.seed + 1000 * known_trials
    makers: dict[str, Any] = {
        "tpe": lambda: optuna.samplers.TPESampler(
            n_startup_trials=search.startup, multivariate=True, constant_liar=True, gamma=_good_trials, seed=seed
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
