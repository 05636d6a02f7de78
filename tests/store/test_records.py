"""The records are the truth: whole after a kill, written once, judged where they are read."""

import math
import resource
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.support.studies import (
    PATIENCE,
    VALUES,
    WEIGHT,
    ended,
    finish,
    loaded,
    open_study,
    reading,
    records_in,
    small,
    start,
    write,
)
from trainables.errors import InvalidInput
from trainables.outcome import End
from tune_srgan.store import trial_folder
from tune_srgan.store.account import SHARED, account_of, cost_in_seconds, step_seconds_of
from tune_srgan.store.objects import write_atomically
from tune_srgan.store.records import best_of, record_of
from tune_srgan.store.studies import find_study, study_in
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import Proposer, TrialFolder


@pytest.fixture
def study(tmp_path):
    return loaded(tmp_path)


@pytest.fixture
def folder(tmp_path, study):
    opened = StudyFolder(tmp_path / "runs" / study.study)
    open_study(opened, study)
    return opened


@contextmanager
def files_of_at_most(size):
    """A disk that is full after `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_leaves_the_old_content(tmp_path):
    file = tmp_path / "outcome.json"
    write_atomically(file, "old")
    with files_of_at_most(8), pytest.raises(OSError, match="too large"):
        write_atomically(file, "new and longer than the disk")
    assert file.read_text() == "old"
    write_atomically(file, b"new")
    assert file.read_text() == "new"


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("half", [b"{", b'{"step": 99.0, "nash/p_y"', b'{"step": 99.0}'])
def test_half_a_line_is_never_read_and_never_kept(tmp_path, before, half):
    trial = TrialFolder(tmp_path)
    whole = [reading(4 * (index + 1)) for index in range(before + 1)]
    for line in whole[:before]:
        trial.append(line)
    with trial.readings_file.open("ab") as file:
        file.write(half)
    assert trial.readings() == whole[:before]
    assert trial.last_step() == 4 * before
    trial.append(whole[before])
    assert trial.readings() == whole
    assert trial.readings_file.read_bytes().count(b"\n") == before + 1


def test_a_reading_that_two_workers_wrote_counts_once(folder, study):
    """One was thought dead: its node could still reach the folder."""
    start(folder, study, 0, VALUES)
    trial = folder.trial(0)
    for step in (4, 8, 12, 8, 16, 12, 20):
        trial.append(reading(step, rank=0.5 if step == 8 else 0.75))
    assert [found["step"] for found in trial.readings()] == [4, 8, 12, 16, 20]
    assert trial.last_step() == 20
    assert record_of(trial, study).trained_steps == 20


def test_a_disk_that_is_full_for_a_while_is_waited_for(folder, study, monkeypatch):
    start(folder, study, 0, VALUES)
    trial, whole, failed = folder.trial(0), trial_folder._append, []

    def full(path, record):
        if len(failed) < 3:
            failed.append(record)
            raise OSError(28, "No space left on device")
        whole(path, record)

    monkeypatch.setattr(trial_folder, "_append", full)
    monkeypatch.setattr("tune_srgan.store.patience.time.sleep", lambda seconds: None)
    trial.append(reading(4))
    assert len(trial.readings()) == 1
    assert len(failed) == 3


def test_a_trial_exists_once_all_of_it_is_written(folder, study):
    trial = folder.trial(3)
    trial.path.mkdir(parents=True)
    trial.configuration_file.write_text("")  # killed before trial.json
    assert folder.trials() == []
    start(folder, study, 3, VALUES, "tpe")
    assert [found.number for found in folder.trials()] == [3]
    assert trial.configuration() == study.configuration(VALUES)
    assert (trial.header()["values"], trial.header()["proposed_by"]) == (VALUES, "tpe")


def test_an_outcome_is_written_once(folder, study):
    start(folder, study, 0, VALUES)
    assert folder.trial(0).outcome() is None
    folder.trial(0).end(ended(End.BALANCED, 4, 0.0))
    folder.trial(0).end(ended(End.FAILED, 8, None))
    assert folder.trial(0).outcome() == ended(End.BALANCED, 4, 0.0).as_dict()


def test_the_cost_of_a_balanced_trial_is_read_off_its_readings(folder, study):
    start(folder, study, 0, VALUES)
    record = finish(folder, study, 0, since=100)
    assert (record.end, record.cost, record.steps, record.censored) == ("balanced", 100.0, 100, False)
    assert record.seconds == pytest.approx(50 * 0.25)
    outcome = folder.trial(0).path / "outcome.json"
    outcome.write_text(outcome.read_text().replace(": 100,", ": 60,"))  # whatever the outcome says
    assert record_of(folder.trial(0), study).cost == 100.0


def test_the_cost_of_a_censored_trial_lies_between_one_and_two_times_its_steps(folder, study):
    start(folder, study, 0, VALUES)
    record = finish(folder, study, 0, "exhausted")
    # the rank 0.875 is 0.125 outside a tolerance of 0.25: a gap of 0.5
    assert (record.end, record.censored, record.gap) == ("exhausted", True, 0.5)
    assert record.cost == pytest.approx(200 * (1.5 + 0.5 * 0.5 / 1.5))


def test_a_balance_that_was_lost_costs_the_less_the_longer_it_held(folder, study):
    start(folder, study, 0, VALUES)
    record = finish(folder, study, 0, "lost", since=100)
    assert (record.end, record.censored, record.first, record.gap) == ("lost", True, 100, 0.0)
    assert record.share == pytest.approx(10 / 26)
    assert record.cost == pytest.approx(200 * (1.5 - 0.5 * 10 / 26))


def test_a_game_that_never_began_costs_twice_its_steps(folder, study):
    start(folder, study, 0, VALUES)
    folder.trial(0).append(reading(4))
    folder.trial(0).end(ended(End.CAPPED, 4, None))
    assert record_of(folder.trial(0), study).cost == 400.0


@pytest.mark.parametrize("end", ["failed", "diverged", "ruined"])
def test_a_trial_that_failed_costs_nothing(folder, study, end):
    start(folder, study, 0, VALUES)
    assert finish(folder, study, 0, end).cost is None


def test_a_trial_under_way_has_no_end(folder, study):
    start(folder, study, 0, VALUES, "try_first")
    folder.trial(0).append(reading(8))
    (record,) = records_in(study, folder).search
    assert (record.end, record.label, record.cost, record.trained_steps) == (None, "unfinished", None, 8)
    assert record.proposed_by == Proposer.TRY_FIRST


def test_the_best_is_the_earlier_of_the_fewest_steps_and_never_censored(folder, study):
    assert best_of([]) is None
    ends = {0: ("exhausted", 0), 1: ("balanced", 100), 2: ("balanced", 60), 3: ("balanced", 60), 4: ("failed", 0)}
    for number, (end, since) in ends.items():
        start(folder, study, number, VALUES)
        finish(folder, study, number, end, since)
    records = records_in(study, folder).search
    assert best_of(list(reversed(records))).number == 2
    cheap = replace(records[0], cost=1.0)  # cheaper than all, and censored
    assert best_of([cheap, records[1]]).number == 1
    assert best_of([cheap, records[4]]) is None


def test_a_study_is_found_by_folder_name_and_file(tmp_path, folder, study, monkeypatch):
    file = write(tmp_path, small() | {"storage": str(tmp_path / "runs")}, "mine.yaml")
    monkeypatch.chdir(tmp_path)
    assert find_study(str(folder.path)) == folder
    assert find_study("small") == folder
    monkeypatch.chdir("/")
    assert find_study(str(file)) == folder
    assert find_study(str(write(tmp_path, small(), "plain.yaml")), str(tmp_path / "runs")) == folder
    assert find_study("small", str(tmp_path / "runs")) == folder
    assert study_in(find_study("small", str(tmp_path / "runs"))) == study


def test_a_study_is_found_in_the_home_folder(tmp_path, folder, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_study(str(write(tmp_path, small() | {"storage": "~/runs"}, "mine.yaml"))) == folder


def test_no_study_is_an_error_that_names_those_there_are(tmp_path, folder):
    with pytest.raises(InvalidInput, match="smal: found no study; .* Studies in .*/runs/: small."):
        find_study("smal", str(tmp_path / "runs"))
    with pytest.raises(InvalidInput, match="no study in .*nowhere/; `run` starts one"):
        find_study("small", str(tmp_path / "nowhere"))


def other(section, **values):
    changed = small()
    changed[section] |= values
    return changed


@pytest.mark.parametrize(
    "document",
    [
        other("space", **{WEIGHT: {"float": [1e-3, 1.0]}}),
        other("training", Schedulers={"factor_g": 0.3}),
        other("objective", max_steps=400),
        other("objective", nash={"rank_tolerance": 0.2}),
    ],
    ids=["space", "training", "max_steps", "nash"],
)
def test_another_search_under_the_same_name_is_refused(tmp_path, folder, study, document):
    with pytest.raises(InvalidInput, match=f"{folder.study_file}: study: found 'small' with another search"):
        open_study(folder, loaded(tmp_path, document))
    assert study_in(folder) == study


def test_the_same_search_with_more_trials_goes_on(tmp_path, folder):
    longer = other("search", trials=20, seed=4) | {"resources": {"concurrent": 2}}
    open_study(folder, loaded(tmp_path, longer))
    assert study_in(folder).search.trials == 20
    assert study_in(folder).space[PATIENCE].bounds == (2, 12)


@pytest.mark.parametrize("below", ["small", "runs/small"])
def test_a_storage_that_cannot_be_written_is_refused(tmp_path, study, below):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InvalidInput, match="storage: found a folder that cannot be written .*--storage"):
        open_study(StudyFolder(tmp_path / "file" / below), study)


def timed(*steps_and_seconds):
    return [
        {"step": float(step), "time/train_s": seconds, "time/validate_s": 1.0} for step, seconds in steps_and_seconds
    ]


def test_what_a_step_of_each_phase_takes_is_a_median_of_whole_readings():
    readings = timed((10, 9.0), (20, 1.0), (30, 1.0), (40, 7.0), (50, 2.0), (60, 2.0), (70, 2.0))
    assert step_seconds_of(readings, pretraining=35) == (0.1, 0.2)  # neither the slow first one nor the mixed one
    assert math.isnan(step_seconds_of(readings[:2], pretraining=35)[1])  # no game yet
    assert math.isnan(step_seconds_of(readings, pretraining=0)[0])
    assert step_seconds_of(timed((10, 3.0)), pretraining=4) == (0.3, 0.3)  # one reading saw both


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (100, 40 * 0.1 + 60 * 0.2),
        (30, 30 * 0.1),
        (200, 40 * 0.1 + 160 * 0.2),
        (300, 1.5 * (40 * 0.1 + 160 * 0.2)),  # censored: as many times its whole training's seconds
    ],
)
def test_a_cost_in_seconds_counts_each_phases_steps_at_what_they_took(cost, expected):
    assert cost_in_seconds(cost, 40, (0.1, 0.2), max_steps=200) == pytest.approx(expected)


def test_a_study_may_ask_for_the_fewest_seconds(tmp_path):
    document = small()
    document["objective"]["metric"] = "seconds_to_nash"
    study = loaded(tmp_path, document)
    folder = StudyFolder(tmp_path / "runs" / study.study)
    open_study(folder, study)
    start(folder, study, 0, VALUES)
    record = finish(folder, study, 0, since=100)  # its readings say 0.2 s for every 4 steps
    assert record.steps == 100
    assert record.cost == pytest.approx(100 * 0.05)
    assert record.step_seconds == pytest.approx((0.05, 0.05))


def test_a_phase_of_few_readings_costs_what_its_quickest_says():
    assert step_seconds_of(timed((10, 9.0), (20, 1.0), (30, 7.0)), pretraining=20) == (0.1, 0.7)


def test_steps_are_shared_where_another_computed_them_and_nowhere_else():
    readings = [{"step": step} | ({SHARED: 1.0} if 48 < step <= 112 else {}) for step in range(16, 129, 16)]
    told = {"end": End.BALANCED, "trained_steps": 128}
    assert account_of(readings, told, 800) == {"executed": 64, "sharing": 64, "capping": 0}
    assert account_of(readings, told | {"end": End.CAPPED}, 800)["capping"] == 672
    assert account_of(readings, told | {"end": End.BUDGET}, 800)["capping"] == 0  # it might have gone on
