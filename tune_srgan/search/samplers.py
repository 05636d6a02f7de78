"""Optuna's samplers as a study names them, and a searched key as Optuna's distribution."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler

from trainables.errors import InvalidInput, Problem
from tune_srgan.search.wait_sampler import FLOORS, WaitSampler
from tune_srgan.study.settings import Study
from tune_srgan.study.space import Parameter

optuna.logging.set_verbosity(optuna.logging.ERROR)
MODELS = {"wait", "tpe", "gp"}  # samplers that can learn from trials they did not propose
FOR_A_FRONT = {"tpe", "gp", "nsgaii", "random"}  # that can minimise two numbers


def check_sampler(study: Study, file: str) -> None:
    """Refuse a sampler whose library is missing, or that cannot begin so."""
    if study.search.sampler == "nsgaii" and study.search.startup < 2:
        raise InvalidInput([Problem(file, "search.startup", str(study.search.startup), "at least 2 with nsgaii")])
    if study.search.stop == "auto" and study.search.sampler != "wait":
        expected = "the sampler wait, whose model says what is left"
        raise InvalidInput([Problem(file, "search.stop", f"auto with the sampler {study.search.sampler}", expected)])
    if study.search.learn_from and study.search.sampler not in MODELS:
        expected = f"one of {', '.join(sorted(MODELS))}, which can learn from others' trials"
        raise InvalidInput([Problem(file, "search.learn_from", f"sampler {study.search.sampler}", expected)])
    also = study.objective.also
    if also is not None and study.search.sampler not in FOR_A_FRONT:
        expected = f"one of {', '.join(sorted(FOR_A_FRONT))}, which can minimise two numbers (objective.also is {also})"
        raise InvalidInput([Problem(file, "search.sampler", study.search.sampler, expected)])
    if also is not None and study.search.learn_from:
        fix = "Take search.learn_from or objective.also out."
        found = "earlier studies, whose trials say their steps alone"
        raise InvalidInput([Problem(file, "search.learn_from", found, f"none beside objective.also {also}", fix)])
    if study.objective.at_least and study.search.sampler == "cmaes":
        expected = "a sampler that knows of floors (objective.at_least): any other"
        raise InvalidInput([Problem(file, "search.sampler", "cmaes", expected)])
    try:
        sampler_of(study, 0)
    except ImportError as error:
        fix = f"Install it: pip install {error.name or study.search.sampler}."
        raise InvalidInput(
            [Problem(file, "search.sampler", study.search.sampler, "a sampler whose library is there", fix)]
        ) from None


def distribution(parameter: Parameter) -> BaseDistribution:
    """Translate a searched key."""
    if parameter.choice is not None:
        return CategoricalDistribution(parameter.choice)
    low, high = parameter.bounds
    if parameter.int_range is not None:
        return IntDistribution(int(low), int(high), log=parameter.log, step=int(parameter.step or 1))
    return FloatDistribution(low, high, log=parameter.log, step=parameter.step)


def good_trials(ended: int) -> int:
    """Return how many of the trials so far TPE takes as examples: a quarter; Optuna's own tenth is one trial of ten."""
    return min(max(2, math.ceil(0.25 * ended)), 25)


def sampler_of(study: Study, known_trials: int, examples: Callable[[int], int] = good_trials) -> BaseSampler:
    """Make the sampler of a study that knows so many trials; ImportError where its library is missing."""
    search = study.search
    seed = search.seed + 1000 * known_trials  # a resumed study must not draw the numbers it drew before
    count = len(study.objective.at_least) + (study.objective.also is not None)
    floors: dict[str, Any] = {}
    if count:
        floors["constraints_func"] = lambda trial: trial.system_attrs.get(FLOORS, [0.0] * count)
    makers: dict[str, Any] = {
        "wait": lambda: WaitSampler(study, search.startup, seed),
        "tpe": lambda: optuna.samplers.TPESampler(
            n_startup_trials=search.startup, multivariate=True, constant_liar=True, gamma=examples, seed=seed, **floors
        ),
        "gp": lambda: optuna.samplers.GPSampler(n_startup_trials=search.startup, seed=seed, **floors),
        "cmaes": lambda: optuna.samplers.CmaEsSampler(n_startup_trials=search.startup, seed=seed),
        "nsgaii": lambda: optuna.samplers.NSGAIISampler(population_size=search.startup, seed=seed, **floors),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
    }
    if search.sampler == "cmaes":
        __import__("cmaes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler: BaseSampler = makers[search.sampler]()
    return sampler
