"""A balance that one seed kept has to be kept on a further one before it caps others."""

import math

import pytest

from tests.support.studies import PATIENCE, VALUES, confirm, finish, loaded, open_study, records_in, small, start
from tune_srgan.search.capping import Incumbent
from tune_srgan.search.confirmation import candidates, left_to_do, winner
from tune_srgan.search.race import incumbent_of, next_seed, proven, ranked
from tune_srgan.store.study_folder import StudyFolder


def study_with(tmp_path, race=1, sinces=(100, 60, None)):
    document = small() | {"confirm": {"top": 1, "seeds": 2}}
    document["search"]["race"] = race
    study = loaded(tmp_path, document)
    folder = StudyFolder(tmp_path / "runs" / study.study)
    open_study(folder, study)
    for number, since in enumerate(sinces):
        start(folder, study, number, VALUES | {PATIENCE: 4 + number})
        finish(folder, study, number, *(("balanced", since) if since else ("capped",)))
    return study, folder


def race(study, folder):
    """Where each trial of the search trains next."""
    records = records_in(study, folder)
    best = incumbent_of(study, records)
    found = [next_seed(study, folder, record, records, best) for record in records.search]
    return [trial and trial.place for trial in found]


def test_without_a_race_the_best_of_one_seed_is_the_incumbent(tmp_path):
    study, folder = study_with(tmp_path, race=0)
    assert race(study, folder) == [None, None, None]
    assert incumbent_of(study, records_in(study, folder)) == Incumbent(60, 1)
    assert folder.confirmations() == []


def test_what_is_balanced_races_one_seed_after_the_other_and_nothing_else(tmp_path):
    study, folder = study_with(tmp_path, race=2)
    assert race(study, folder) == ["confirm/00000-1", "confirm/00001-1", None]
    assert folder.confirmation(1, 1).configuration() == study.confirming(VALUES | {PATIENCE: 5}, 1)
    confirm(folder, 1, 1, 80)
    assert race(study, folder) == ["confirm/00000-1", "confirm/00001-2", None]
    confirm(folder, 1, 2, None)
    confirm(folder, 0, 1, 80)
    assert race(study, folder) == ["confirm/00000-2", None, None]
    confirm(folder, 0, 2, 80)
    assert race(study, folder) == [None, None, None]


def test_what_is_later_than_the_incumbent_does_not_race_unless_it_has_begun(tmp_path):
    study, folder = study_with(tmp_path, sinces=(100, 60))
    race(study, folder)
    confirm(folder, 1, 1, 60)
    assert race(study, folder) == ["confirm/00000-1", None]
    start(folder, study, 2, VALUES | {PATIENCE: 9})
    finish(folder, study, 2, "balanced", 64)
    assert race(study, folder) == ["confirm/00000-1", None, None]


def test_a_lucky_seed_caps_nobody_and_wins_nothing(tmp_path):
    study, folder = study_with(tmp_path)
    race(study, folder)
    assert incumbent_of(study, records_in(study, folder)) is None  # nothing is proven yet
    assert winner(study, records_in(study, folder)).number == 1
    confirm(folder, 1, 1, None)
    records = records_in(study, folder)
    assert incumbent_of(study, records) is None
    assert proven(study, records.search[1], records) == math.inf
    confirm(folder, 0, 1, 80)
    records = records_in(study, folder)
    assert incumbent_of(study, records) == Incumbent(90, 0)  # the median of 100 and 80
    assert [one.number for one in ranked(study, records)] == [0, 1]
    assert [one.number for one in candidates(study, records)] == [0]
    assert winner(study, records).number == 0


def test_what_more_seeds_kept_is_confirmed_before_a_lucky_one(tmp_path):
    study, folder = study_with(tmp_path, race=2, sinces=(100, 60))
    race(study, folder)
    confirm(folder, 1, 1, None)
    confirm(folder, 0, 1, 80)
    race(study, folder)
    confirm(folder, 0, 2, None)
    records = records_in(study, folder)
    assert [one.number for one in ranked(study, records)] == [0, 1]
    assert [one.number for one in candidates(study, records)] == [0]


def test_a_race_that_is_not_over_is_left_to_do(tmp_path):
    document = small() | {"confirm": {"top": 0, "seeds": 2}}
    document["search"] |= {"race": 2, "trials": 1}
    study = loaded(tmp_path, document)
    folder = StudyFolder(tmp_path / "runs" / study.study)
    open_study(folder, study)
    start(folder, study, 0, VALUES)
    finish(folder, study, 0, "balanced", 100)
    for further in (1, 2):
        assert left_to_do(study, records_in(study, folder)) == 1
        race(study, folder)
        assert left_to_do(study, records_in(study, folder)) == 1
        confirm(folder, 0, further, 80)
    assert left_to_do(study, records_in(study, folder)) == 0


@pytest.mark.parametrize("end", ["lost", "capped", "failed"])
def test_what_did_not_keep_it_has_no_place_in_the_race(tmp_path, end):
    study, folder = study_with(tmp_path, sinces=(100,))
    start(folder, study, 1, VALUES | {PATIENCE: 9})
    finish(folder, study, 1, end, since=60)
    assert race(study, folder) == ["confirm/00000-1", None]
    assert [one.number for one in ranked(study, records_in(study, folder))] == [0]
