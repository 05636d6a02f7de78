"""How much each searched key matters, by Optuna's evaluator over bootstrap samples of the trials."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import optuna

from tune_srgan.search.samplers import distribution
from tune_srgan.store.records import TrialRecord
from tune_srgan.study.settings import Study

LEAST_FOR_IMPORTANCE, RESAMPLES = 6, 40


def importances(study: Study, records: Sequence[TrialRecord]) -> dict[str, tuple[float, float, float]]:
    """Return how much of what parts the best, a quarter at most, from the rest each key explains: share, 90 % interval.

    PED-ANOVA (Watanabe et al. 2023, Optuna's), over bootstrap samples of the trials; nothing where there are too few.
    """
    told = [record for record in records if record.cost is not None]
    if len(told) < LEAST_FOR_IMPORTANCE or len({record.cost for record in told}) < 2:
        return {}
    space = {key: distribution(parameter) for key, parameter in study.space.items()}
    frozen = [
        optuna.trial.create_trial(params=record.values, distributions=space, value=record.cost) for record in told
    ]
    draw, shares = np.random.default_rng(0), []
    for sample in [range(len(frozen)), *(draw.integers(len(frozen), size=len(frozen)) for _ in range(RESAMPLES))]:
        resampled = optuna.create_study(direction="minimize")
        resampled.add_trials([frozen[index] for index in sample])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares.append(_shares(resampled, list(study.space)))
    values = np.array(shares)
    low, high = np.percentile(values[1:], [5, 95], axis=0)
    return {key: (float(values[0, i]), float(low[i]), float(high[i])) for i, key in enumerate(study.space)}


def _shares(study: optuna.Study, keys: list[str]) -> list[float]:
    costs = [trial.value or 0.0 for trial in study.get_trials(deepcopy=False)]
    # trials that capping never let begin all cost the same: none of them is among the best
    best = min(math.ceil(0.25 * len(costs)), sum(cost < max(costs) for cost in costs))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=max(0.5, best - 0.5) / len(costs))
    try:
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=keys)
    except (ValueError, RuntimeError):  # a sample in which all are alike
        shares = {}
    return [shares.get(key, 0.0) for key in keys]
