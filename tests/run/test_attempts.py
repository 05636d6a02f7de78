"""Which attempts count against a trial: its own faults, and no others."""

import pytest

from tests.support.studies import VALUES, causes, loaded, open_study, start
from trainables.errors import InvalidInput, Problem
from tune_srgan.run.attempts import LOST_NODES, DeviceLost, counted
from tune_srgan.store.layout import TrialFiles
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import Fault

ALIVE = {"here"}


@pytest.fixture
def study(tmp_path):
    return loaded(tmp_path)


@pytest.fixture
def folder(tmp_path, study):
    opened = StudyFolder(tmp_path / "runs" / study.study)
    open_study(opened, study)
    return opened


def test_attempts_that_are_a_neighbours_fault_are_not_spent(folder, study, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("tune_srgan.store.trial_folder.time.time", lambda: now[0])
    trials = []
    for number in range(3):
        start(folder, study, number, VALUES)
        trials.append(folder.trial(number))

    def attempt(trial, error=None, fault=Fault.TRIAL, device="", run="run-2"):
        now[0] += 1
        trial.begin_attempt(run)
        if error is not None:
            trial.note_failure(error, fault, device)

    def seen(trial, device):
        attempt(trial, RuntimeError("an illegal memory access was encountered"), Fault.DEVICE, device)

    attempt(trials[0], ValueError("before this driver"), run="run-1")
    assert counted(folder, folder.trial(0), "run-2", ALIVE) == 0
    seen(trials[0], "node/0")  # the first to see it
    seen(trials[1], "node/0")
    seen(trials[2], "node/1")  # another device
    assert [counted(folder, trial, "run-2", ALIVE) for trial in trials] == [1, 0, 1]
    attempt(trials[1])  # killed without a word
    attempt(trials[1], ValueError("its own"))
    assert counted(folder, folder.trial(1), "run-2", ALIVE) == 2
    now[0] += 3600
    seen(trials[1], "node/0")  # alone
    assert counted(folder, folder.trial(1), "run-2", ALIVE) == 3
    attempt(trials[1], InvalidInput([Problem("a.tif", "Data.path", "nothing", "imagery")]), Fault.STUDY)
    assert counted(folder, folder.trial(1), "run-2", ALIVE) == 3
    assert causes(trials[1])[-1].startswith("InvalidInput: a.tif: Data.path")


def test_an_attempt_that_paused_is_not_spent(folder, study):
    start(folder, study, 0, VALUES)
    trial = folder.trial(0)
    for _ in range(5):
        trial.begin_attempt("run-1")
        trial.note_pause()
    assert counted(folder, trial, "run-1", ALIVE) == 0
    assert causes(trial) == []
    assert trial.is_paused()
    trial.begin_attempt("run-2")
    assert not trial.is_paused()
    trial.begin_attempt("run-2")  # the one before was killed
    assert counted(folder, trial, "run-2", ALIVE) == 2


def test_half_a_note_of_an_attempt_is_dropped(folder, study):
    start(folder, study, 0, VALUES)
    trial = folder.trial(0)
    trial.begin_attempt("run-1")
    with (trial.path / TrialFiles.ATTEMPTS.name).open("a") as file:
        file.write('{"error": "OSErr')  # the disk was full
    assert counted(folder, folder.trial(0), "run-1", ALIVE) == 1
    trial.note_failure(ValueError("again"), Fault.TRIAL)
    assert causes(trial) == ["ValueError: again"]


def test_a_node_that_was_lost_is_no_fault_of_the_trial_within_a_limit(folder, study):
    start(folder, study, 0, VALUES)
    trial = folder.trial(0)
    trial.begin_attempt("run-1", "here")  # killed without a word on a node that lives: out of memory
    for number in range(LOST_NODES):
        trial.begin_attempt("run-1", f"gone-{number}")
    assert counted(folder, trial, "run-1", ALIVE) == 1
    trial.begin_attempt("run-1", "gone")
    assert counted(folder, trial, "run-1", ALIVE) == 2
    trial.note_failure(DeviceLost("the GPU answers nobody"), Fault.NODE)
    assert counted(folder, trial, "run-1", ALIVE) == 1


def test_clocks_that_jump_change_nothing(folder, study, monkeypatch):
    now = [9000.0]
    monkeypatch.setattr("tune_srgan.store.trial_folder.time.time", lambda: now[0])
    start(folder, study, 0, VALUES)
    trial = folder.trial(0)
    for _ in range(5):
        trial.begin_attempt("run-1", "here")
        now[0] -= 3600
        trial.note_pause()
    assert counted(folder, trial, "run-1", ALIVE) == 0
