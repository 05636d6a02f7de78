"""One recorded trial without Ray: what it notes beside the readings, and what ends it."""

import math
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from tests.studies import VALUES, loaded, reading, small, start
from tests.tiny import tiny
from tune_srgan import trial as module
from tune_srgan.records import StudyFolder, TrialFolder
from tune_srgan.tracking import Tracker
from tune_srgan.trial import Terms, train_recorded


@pytest.fixture
def trial(tmp_path):
    folder = TrialFolder(tmp_path / "00000")
    folder.create({}, "train", tiny())
    return folder


def test_the_time_a_training_stands_still_is_in_the_next_reading(trial):
    *_, last = train_recorded(trial, Tracker())
    readings = trial.readings()
    waits = {"time/record_s", "time/checkpoint_s", "time/report_s"}
    assert not waits & readings[0].keys()
    assert readings[0]["time/begin_s"] > 0
    assert all("time/begin_s" not in reading for reading in readings[1:])
    assert all(waits <= reading.keys() for reading in readings[1:])
    assert all(reading["time/checkpoint_s"] > 0 for reading in readings[1:])
    assert last["time/report_s"] == readings[-1]["time/report_s"]


def test_checkpoints_have_an_interval_of_their_own(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(module.State, "save", lambda state, path: saved.append(state.step))
    folder = TrialFolder(tmp_path / "00000")
    folder.create({}, "train", tiny(**{"Training.checkpoint_every": 20}))
    readings = list(train_recorded(folder, Tracker()))
    assert len(readings) == 50
    assert saved == [40, 80, 100]


def test_by_default_checkpoints_take_a_fiftieth_of_the_time(trial, monkeypatch):
    """A clock by hand: a reading takes 1 s, a checkpoint 0.1 s."""
    now, saved = [0.0], []

    def save(path):
        now[0] += 0.1
        saved.append(round(now[0], 1))

    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    checkpoints = module._Checkpoints(trial.checkpoint, None)
    for _ in range(20):
        now[0] += 1
        checkpoints.offer(SimpleNamespace(readings=[], save=save))
    assert saved == [5.1, 10.2, 15.3, 20.4]


def test_a_training_does_not_wait_for_a_driver_and_the_last_reading_arrives():
    go, told = threading.Event(), []

    def report(reading):
        told.append(reading["step"])
        go.wait(10)

    with module._Reporter(report) as reporter:
        for step in range(100):  # the driver takes nothing but the first
            reporter({"step": step})
        go.set()
    assert told[0] in range(100)
    assert told[-1] == 99
    assert len(told) <= 3


def test_ray_ends_a_training_through_its_report():
    def report(reading):
        raise SystemExit

    with pytest.raises(SystemExit), module._Reporter(report) as reporter:
        for step in range(10_000):
            reporter({"step": step})
            time.sleep(0.001)
    assert step < 9_999


def test_a_trial_that_made_way_ends_as_if_it_had_not(trial, tmp_path):
    """To the bit, with nothing computed twice."""
    asked = []

    def why_stop(state):
        asked.append(state.step)
        return "makes way" if len(asked) % 3 == 0 else None

    attempts = 0
    while trial.outcome() is None:
        list(train_recorded(trial, Tracker(), Terms(why_stop=why_stop)))
        attempts += 1
    assert attempts > 3
    assert sorted(set(asked)) == asked
    alone = TrialFolder(tmp_path / "00001")
    alone.create({}, "train", tiny())
    list(train_recorded(alone, Tracker()))
    assert figures(trial) == figures(alone)
    assert trial.outcome() == alone.outcome()
    ours, others = (torch.load(one.checkpoint, weights_only=True) for one in (trial, alone))
    for name, weight in ours["generator"].items():
        assert torch.equal(weight, others["generator"][name])


def test_a_checkpoint_that_is_damaged_costs_its_steps_and_nothing_else(trial, tmp_path):
    stops = iter([None] * 8 + ["makes way"])
    list(train_recorded(trial, Tracker(), Terms(why_stop=lambda state: next(stops, None))))
    before = trial.readings()
    assert len(before) == 9
    trial.checkpoint.write_bytes(trial.checkpoint.read_bytes()[:-1000])
    list(train_recorded(trial, Tracker()))
    assert trial.readings()[:9] == before
    assert "a checkpoint of this training" in trial.complaints()[0]
    alone = TrialFolder(tmp_path / "00001")
    alone.create({}, "train", tiny())
    list(train_recorded(alone, Tracker()))
    assert figures(trial) == figures(alone)


def test_a_trial_makes_way_in_its_game_and_never_with_a_window_open(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    study = loaded(tmp_path)
    folder = StudyFolder(tmp_path / "runs" / "small")
    folder.open(study)
    start(folder, study, 0, VALUES)
    asked = []
    monkeypatch.setattr(module, "_Reader", lambda name: lambda earliest: (None, asked.append(earliest) or earliest > 0))
    terms = module._terms(study, folder, folder.trial(0), {"deadline": None, "board": "its name"})

    def why_stop(step, rank):
        readings = [reading(at, rank) for at in range(4, step + 1, 4)]
        return terms.why_stop(SimpleNamespace(step=step, readings=readings))

    assert why_stop(16, 0.5) is None  # pretraining: the bound is what it was when it started
    assert why_stop(60, 0.5) is None  # balanced since the ramp ended at 40
    assert asked == [-math.inf, -math.inf]
    assert why_stop(60, 0.875) == "makes way"
    assert asked[2:] == [64]  # the next reading may be the first that holds
    start(folder, study, 1, VALUES, "try_first")
    terms = module._terms(study, folder, folder.trial(1), {"deadline": None, "board": "its name"})
    assert why_stop(60, 0.875) is None  # a baseline is seen, until it is capped


def figures(trial):
    return [{key: value for key, value in one.items() if not key.startswith("time/")} for one in trial.readings()]


def test_memory_that_does_not_suffice_ends_the_trial_and_says_what_to_change(trial, monkeypatch):
    def steps(state, imagery, whole):
        yield from ()
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(module, "train", steps)
    assert list(train_recorded(trial, Tracker())) == []
    outcome = trial.outcome()
    assert outcome["end"] == "failed"
    assert "Data.train_batch_size 4 and Data.crop_size 16" in outcome["cause"]
    assert "Tried to allocate 2.00 GiB" in outcome["cause"]
    assert trial.failures() == []  # not an attempt that a second one would mend


def test_a_worker_that_was_given_a_gpu_does_not_train_without(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    document = small()
    document["resources"] = {"gpus": 0.25, "mps": False}
    study = loaded(tmp_path, document)
    folder = StudyFolder(tmp_path / "runs" / study.study)
    folder.open(study)
    start(folder, study, 0, VALUES)
    with pytest.raises(RuntimeError, match="given a GPU, but torch finds none"):
        module.run_trial({"folder": str(folder.path), "trial": "trials/00000", "deadline": None, "run": "run-1"})
    assert folder.trial(0).readings() == []
    assert "torch finds none" in folder.trial(0).failures()[0]


def test_a_confirmation_that_the_budget_interrupts_goes_on_later(tmp_path):
    folder = TrialFolder(tmp_path / "00000-1")
    folder.create({}, "confirm", tiny())
    list(train_recorded(folder, Tracker(), Terms(deadline=0.0, whole=True)))
    assert folder.outcome() is None
    assert folder.last_step() == 2
    list(train_recorded(folder, Tracker(), Terms(whole=True)))
    assert folder.outcome()["trained_steps"] == 100
    assert [reading["step"] for reading in folder.readings()] == list(range(2, 101, 2))
