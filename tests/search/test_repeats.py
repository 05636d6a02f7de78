"""No configuration is proposed twice while the space has another."""

import pytest

from tests.support.studies import (
    PATIENCE,
    PRETRAIN,
    VALUES,
    WEIGHT,
    finish,
    loaded,
    open_study,
    records_in,
    small,
    start,
)
from trainables.errors import InvalidInput
from tune_srgan.search.searcher import Searcher
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.study.loading import warnings_of
from tune_srgan.study.space import ENUMERATED, Parameter, nearest_other, point, size

GRID = {
    PRETRAIN: {"int": [20, 60], "step": 20},
    WEIGHT: {"choice": [0.003, 0.01]},
    PATIENCE: {"int": [2, 4], "step": 2},
}


def study_of(tmp_path, space, **search):
    document = small()
    document["space"] = space
    document["search"] |= {"trials": 100, "startup": 3} | search
    study = loaded(tmp_path, document)
    folder = StudyFolder(tmp_path / "runs" / study.study)
    open_study(folder, study)
    return study, folder


def drawn(study, folder, count, since=100):
    """What a searcher proposes, each trial ended before the next is asked for."""
    searcher = Searcher(study, records_in(study, folder).search)
    found = []
    for _ in range(count):
        proposal = searcher.propose()
        start(folder, study, proposal.number, proposal.values, proposal.proposed_by)
        searcher.tell(finish(folder, study, proposal.number, "balanced", since))
        found.append(proposal)
    return searcher, found


@pytest.mark.parametrize("sampler", ["wait", "tpe", "gp", "nsgaii", "random"])
def test_a_search_of_a_small_space_tries_each_configuration_once(tmp_path, sampler):
    study, folder = study_of(tmp_path, GRID, sampler=sampler)
    assert size(study.space) == 12
    searcher, found = drawn(study, folder, 11)
    assert [proposal.number for proposal in found] == list(range(11))
    assert not searcher.exhausted
    searcher, last = drawn(study, folder, 1)  # after a restart
    assert len({point(study.space, proposal.values) for proposal in found + last}) == 12
    assert searcher.exhausted
    sampled = [trial.params for trial in searcher._sampled.kept.trials]
    assert sampled == [proposal.values for proposal in found + last]  # and the sampler learns of what was trained


def test_a_first_try_keeps_what_it_fixes(tmp_path):
    named = [VALUES | {WEIGHT: 0.01}, *[{PATIENCE: 4, WEIGHT: 0.01}] * 3]
    study, folder = study_of(tmp_path, GRID, try_first=named)
    _, found = drawn(study, folder, 4)
    assert {proposal.proposed_by for proposal in found[:3]} == {"try_first"}
    assert all(proposal.values.items() >= named[1].items() for proposal in found[:3])
    assert sorted(proposal.values[PRETRAIN] for proposal in found[:3]) == [20, 40, 60]
    assert len({point(study.space, proposal.values) for proposal in found}) == 4  # it has no fourth with these


def test_the_nearest_other_is_taken():
    space = {"a": Parameter(int=[0, 10]), "b": Parameter(choice=["x", "y"])}
    tried = {point(space, {"a": a, "b": "x"}) for a in (4, 5, 6)}
    assert nearest_other(space, {"a": 5, "b": "x"}, tried) in ({"a": 3, "b": "x"}, {"a": 7, "b": "x"})
    assert nearest_other(space, {"a": 5, "b": "x"}, tried, {"a"}) == {"a": 5, "b": "y"}
    assert nearest_other(space, {"a": 5, "b": "x"}, tried | {point(space, {"a": 5, "b": "y"})}, {"a"}) is None
    large = {name: Parameter(int=[0, 1000]) for name in "abc"} | {"d": Parameter(float=[0.0, 1.0])}
    assert size(large) > ENUMERATED
    values = {"a": 1, "b": 2, "c": 3, "d": 0.5}
    other = nearest_other(large, values, {point(large, values)})
    assert sum(other[name] != values[name] for name in "abcd") == 1
    assert sum(abs(other[name] - values[name]) for name in "abc") == 1


def test_values_are_those_that_are_drawn():
    for parameter in (
        Parameter(int=[2, 12], step=5),
        Parameter(int=[3, 7]),
        Parameter(int=[1, 64], log=True),
        Parameter(float=[0.1, 0.7], step=0.2),
        Parameter(choice=["a", 1, 2.5]),
    ):
        values = parameter.values()
        assert len(values) == parameter.count == len(set(values))
        assert all(parameter.admits(value) for value in values)
        assert {parameter.at(share / 20000) for share in range(20000)} == set(values)
    assert Parameter(float=[0.1, 0.7]).count == float("inf")


def test_a_search_longer_than_its_space_says_so(tmp_path):
    study, _ = study_of(tmp_path, GRID)
    assert [one for one in warnings_of(study) if "12 configurations" in one]
    study, _ = study_of(tmp_path, GRID, trials=12)
    assert not [one for one in warnings_of(study) if "configurations" in one]


def test_a_choice_of_one_value_twice_is_refused(tmp_path):
    with pytest.raises(InvalidInput) as caught:
        study_of(tmp_path, GRID | {WEIGHT: {"choice": [0.01, 0.003, 0.01]}})
    assert "choices that differ" in caught.value.problems[0].expected
