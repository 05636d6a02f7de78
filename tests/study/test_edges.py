"""A winner on the edge of a range says so, with the range to try."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.studies import PATIENCE, PRETRAIN, VALUES, WEIGHT, loaded, small
from tune_srgan.study.edges import edges, extended
from tune_srgan.study.loading import load_study
from tune_srgan.study.space import Parameter

RAMP = "Training.adv_loss_ramp_steps"
INSIDE = VALUES | {PRETRAIN: 40}


def ends(study, values):
    return {key: parameter.bounds for key, parameter in edges(study, values).items()}


@pytest.mark.parametrize(("values", "found"), [
    ({}, {}),
    ({WEIGHT: 0.299}, {WEIGHT: (1e-3, pytest.approx(0.3 * 300**0.5))}),  # by half its width, on its own scale
    ({WEIGHT: 1.01e-3}, {WEIGHT: (pytest.approx(1e-3 / 300**0.5), 0.3)}),
    ({PRETRAIN: 60}, {PRETRAIN: (20, 80)}),
    ({PRETRAIN: 20}, {PRETRAIN: (0, 60)}),  # a rate or a length is never below 0
    ({PATIENCE: 12}, {PATIENCE: (2, 17)}),
    ({PATIENCE: 2, WEIGHT: 0.3}, {PATIENCE: (0, 12), WEIGHT: (1e-3, pytest.approx(0.3 * 300**0.5))}),
])  # fmt: skip
def test_the_range_to_try_goes_on_beyond_the_edge(tmp_path, values, found):
    assert ends(loaded(tmp_path), INSIDE | values) == found


def test_what_would_be_no_training_is_not_tried(tmp_path):
    document = small()
    document["space"][PRETRAIN] = {"int": [20, 100], "step": 20}
    study = loaded(tmp_path, document)
    assert ends(study, INSIDE | {PRETRAIN: 100}) == {}  # with 120 less than a third of 200 steps is left, with ramp


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return loaded(tmp_path_factory.mktemp("edges"))


@settings(deadline=None)
@given(low=st.integers(0, 40), width=st.integers(1, 60), log=st.booleans(), share=st.sampled_from([0.0, 0.5, 0.9999]))
def test_every_wider_range_is_one_and_holds_the_old(opened, low, width, log, share):
    old = Parameter.model_validate({"int": [low + log, low + log + width], "log": log})
    study = opened.model_copy(update={"space": opened.space | {PATIENCE: old}})
    for parameter in edges(study, INSIDE | {PATIENCE: old.at(share)}).values():
        assert parameter.holds(old)
        assert parameter != old


def test_ranges_that_are_widened_make_valid_trainings_together(tmp_path):
    """Each by itself would fit; with both, pretraining and ramp leave less than a third of the steps."""
    document = small()
    document["training"]["Training"].pop("adv_loss_ramp_steps")
    document["space"] |= {PRETRAIN: {"int": [20, 60], "step": 4}, RAMP: {"int": [4, 44], "step": 4}}
    study = loaded(tmp_path, document)
    wider = edges(study, INSIDE | {PRETRAIN: 60, RAMP: 44})
    assert ends(study, INSIDE | {PRETRAIN: 60, RAMP: 20}) == {PRETRAIN: (20, 80)}
    assert ends(study, INSIDE | {PRETRAIN: 40, RAMP: 44}) == {RAMP: (4, 64)}
    assert (wider[PRETRAIN].high, wider[RAMP].high) == (80, 52)
    again = tmp_path / "again.yaml"
    again.write_text(extended(study, wider).dump())
    assert load_study(again)[0].space[PRETRAIN].bounds == (20, 80)


def test_a_patience_that_never_acts_needs_no_longer_one(tmp_path):
    document = small()
    document["space"][PATIENCE] = {"int": [2, 50], "log": True}
    study = loaded(tmp_path, document)
    assert ends(study, INSIDE | {PATIENCE: 50}) == {}
    document["space"][PATIENCE] = {"choice": [2, 4, 8]}
    assert ends(loaded(tmp_path, document), INSIDE | {PATIENCE: 8}) == {}  # a choice has no edge


def test_a_study_goes_on_with_wider_ranges_and_knows_its_trials(tmp_path):
    study = loaded(tmp_path)
    wider = extended(study, edges(study, INSIDE | {WEIGHT: 0.3}))
    assert wider.holds(study)
    assert not study.holds(wider)
    assert wider.search.trials == 12
    assert wider.space[PATIENCE] == study.space[PATIENCE]


@pytest.mark.parametrize(("one", "other", "holds"), [
    ({"int": [0, 10]}, {"int": [2, 8]}, True), ({"int": [2, 8]}, {"int": [0, 10]}, False),
    ({"int": [0, 60], "step": 20}, {"int": [20, 60], "step": 20}, True),
    ({"int": [10, 70], "step": 20}, {"int": [20, 60], "step": 20}, False),  # 20 is not one of 10, 30, 50, 70
    ({"float": [0.1, 1.0]}, {"float": [0.2, 0.5]}, True), ({"float": [0.1, 1.0]}, {"int": [1, 2]}, False),
    ({"float": [0.1, 1.0], "log": True}, {"float": [0.2, 0.5]}, False),
    ({"choice": ["a", "b"]}, {"choice": ["a", "b"]}, True),
    ({"choice": ["a", "b"]}, {"choice": ["b"]}, False), ({"choice": ["a"]}, {"choice": ["a", "b"]}, False),
    ({"choice": [1, 2]}, {"int": [1, 2]}, False), ({"int": [1, 2]}, {"choice": [1, 2]}, False),
])  # fmt: skip
def test_a_range_holds_what_lies_in_it_on_its_own_scale(one, other, holds):
    assert Parameter.model_validate(one).holds(Parameter.model_validate(other)) == holds
