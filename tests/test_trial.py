"""One recorded trial without Ray: what it notes beside the readings, and what ends it."""

import pytest
import torch

from tests.tiny import tiny
from tune_srgan import trial as module
from tune_srgan.records import TrialFolder
from tune_srgan.tracking import Tracker
from tune_srgan.trial import train_recorded


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


def test_memory_that_does_not_suffice_ends_the_trial_and_says_what_to_change(trial, monkeypatch):
    def steps(state, imagery):
        yield from ()
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(module, "train", steps)
    assert list(train_recorded(trial, Tracker())) == []
    outcome = trial.outcome()
    assert outcome["end"] == "failed"
    assert "Data.train_batch_size 4 and Data.crop_size 16" in outcome["cause"]
    assert "Tried to allocate 2.00 GiB" in outcome["cause"]
    assert trial.failures() == []  # not an attempt that a second one would mend
