"""The project's own sampler proposes where the game may be short, and knows what a configuration says beforehand."""

import math

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from tests.support.studies import PATIENCE, PRETRAIN, VALUES, WEIGHT, loaded, small
from trainables.outcome import End
from tune_srgan.search.optuna_copy import OptunaCopy
from tune_srgan.search.samplers import distribution
from tune_srgan.search.wait_sampler import NOISE, SPREAD, WaitSampler, predicted
from tune_srgan.study.space import Parameter


def told(study, trials, startup=2, seed=0, gap=0.5, state=TrialState.COMPLETE):
    """A sampler's study in which these have ended: values, outcome, steps."""
    found = optuna.create_study(sampler=WaitSampler(study, startup, seed))
    copy = OptunaCopy(study, found)
    for values, outcome, steps in trials:
        attributes = {"outcome": outcome, "steps": steps, "share_balanced": None, "gap": gap}
        copy.add(state, values, [300.0] if state.is_finished() else [], attributes)
    return found


def proposed(study, trials, **how):
    found = told(study, trials, **how)
    return found.ask({key: distribution(parameter) for key, parameter in study.space.items()}).params


@given(st.integers(0, 99), st.sampled_from([
    {"int": [2, 256], "log": True}, {"int": [100, 1600], "step": 100}, {"int": [0, 7]},
    {"float": [1e-3, 0.3], "log": True},
    {"float": [0.0, 2.0]}, {"float": [0.0, 1.0], "step": 0.25}, {"choice": ["each", "both"]},
]))  # fmt: skip
def test_a_share_is_where_its_value_lies(share, document):
    parameter = Parameter.model_validate(document)
    value = parameter.at(share / 100)
    assert parameter.at(min(parameter.share_of(value), 1 - 1e-12)) == pytest.approx(value) or parameter.choice
    assert 0 <= parameter.share_of(value) <= 1


def test_the_model_passes_near_what_it_was_told_and_returns_to_the_mean_far_away():
    where, waits = np.array([[0.1, 0.1], [0.2, 0.1], [0.9, 0.9]]), np.log([20.0, 30.0, 400.0])
    mean, deviation = predicted(where, waits, np.array([[0.1, 0.1], [0.9, 0.9], [30.0, 30.0]]))
    assert mean[0] < math.log(40) < math.log(200) < mean[1]
    assert mean[2] == pytest.approx(waits.mean())
    assert deviation[2] == pytest.approx(math.sqrt((3 * waits.var() + 2 * SPREAD**2) / 5))
    assert NOISE * waits.std() / 2 < deviation[0] < deviation[2] / 2


def test_what_runs_is_believed_and_not_proposed_again():
    where, waits = np.array([[0.2], [0.8]]), np.log([20.0, 400.0])
    _, alone = predicted(where, waits, np.array([[0.5]]))
    mean, beside = predicted(where, waits, np.array([[0.5]]), running=[[0.5]])
    assert beside[0] < 0.6 * alone[0]
    assert mean[0] == pytest.approx(waits.mean())


def test_it_begins_at_random_and_then_goes_where_the_wait_is_short(tmp_path):
    study = loaded(tmp_path)
    long = [(VALUES | {WEIGHT: weight, PRETRAIN: 60}, End.EXHAUSTED, 200) for weight in (1e-3, 2e-3, 4e-3, 8e-3)]
    short = [(VALUES | {WEIGHT: weight, PRETRAIN: 60}, End.BALANCED, 100) for weight in (0.1, 0.2)]
    values = [proposed(study, long + short, seed=seed) for seed in range(8)]
    assert all(found[WEIGHT] > 0.02 for found in values)
    assert all(found[PRETRAIN] < 60 for found in values)  # what is known beforehand needs no trial
    blind = [proposed(study, long + short, startup=7, seed=seed)[PRETRAIN] for seed in range(8)]
    assert 60 in blind


def test_a_game_that_was_never_played_teaches_nothing(tmp_path):
    """Of all that capping never let begin the bound is the same, and it is the shortest."""
    study = loaded(tmp_path)
    capped = [(VALUES | {WEIGHT: weight}, End.CAPPED, 40) for weight in (1e-3, 2e-3, 4e-3)]
    found = told(study, capped, gap=None)
    trial = found.ask({key: distribution(parameter) for key, parameter in study.space.items()})
    assert not trial.relative_params


def test_a_trial_that_goes_on_counts_by_what_it_has_shown(tmp_path):
    study = loaded(tmp_path)
    long = [(VALUES | {WEIGHT: weight, PRETRAIN: 60}, None, 160) for weight in (1e-3, 2e-3, 4e-3, 8e-3)]
    short = [(VALUES | {WEIGHT: weight, PRETRAIN: 60}, None, 90) for weight in (0.1, 0.2)]
    values = [proposed(study, long + short, seed=seed, state=TrialState.RUNNING) for seed in range(8)]
    assert all(found[WEIGHT] > 0.02 for found in values)


def test_a_bound_is_a_wait_of_so_many_steps_and_a_training_without_balance_a_long_one(tmp_path):
    study = loaded(tmp_path)
    sampler = WaitSampler(study, 2, 0)

    def wait(outcome, steps, share=None):
        attributes = {"outcome": outcome, "steps": steps, "share_balanced": share}
        space = {key: distribution(parameter) for key, parameter in study.space.items()}
        return sampler._wait(
            optuna.trial.create_trial(params=VALUES, distributions=space, value=300.0, user_attrs=attributes)
        )

    assert wait(End.BALANCED, 100) == wait(End.CAPPED, 100) == 60
    assert wait(End.BALANCED, 40) == 4  # at the first reading
    assert wait(End.EXHAUSTED, 200) == 350
    assert 200 < wait(End.LOST, 200, share=0.9) < wait(End.LOST, 200, share=0.1) < 300


def test_a_patience_alone_is_searched_as_well(tmp_path):
    document = small()
    document["training"]["Training"]["g_pretrain_steps"] = 20
    study = loaded(tmp_path, document | {"space": {PATIENCE: {"int": [2, 256], "log": True}}})
    trials = [({PATIENCE: patience}, End.LOST, 200) for patience in (2, 3, 4, 6, 8)]
    trials += [({PATIENCE: patience}, End.BALANCED, 120) for patience in (100, 200)]
    assert all(proposed(study, trials, seed=seed)[PATIENCE] > 20 for seed in range(8))


def chances(study, trials, share, counts=(1, 4, 40)):
    found = told(study, trials)
    return [WaitSampler(study, 2, 0).chance(found, count, len(trials) - 1, share) for count in counts]


def test_the_chance_of_something_better_is_what_the_model_has_not_seen(tmp_path):
    study = loaded(tmp_path)
    near = [(VALUES | {WEIGHT: weight, PRETRAIN: 20}, End.BALANCED, 180) for weight in (1e-3, 2e-3, 4e-3)]
    few = chances(study, [*near, (VALUES | {WEIGHT: 0.01, PRETRAIN: 20}, End.BALANCED, 170)], 0.9)
    assert 0.01 < few[0] < few[1] <= few[2] < 1  # the more that may be tried, the likelier
    soonest = [*near, (VALUES | {PRETRAIN: 20}, End.BALANCED, 40)]  # at the first reading of the shortest
    assert chances(study, soonest, 0.9) == [0, 0, 0]
    assert chances(study, soonest[:1], 0.9) == [1, 1, 1]  # no model yet
    assert sum(chances(study, near, 0.5)) < sum(chances(study, near, 0.9))
