"""One recorded trial without Ray: what it notes beside the readings, and what ends it."""

import json
import resource
from types import SimpleNamespace

import pytest
import torch

from tests.support.studies import causes
from tests.support.tiny import tiny
from trainables.configuration import dump_configuration
from trainables.state import State
from tune_srgan.cluster import preemption
from tune_srgan.run import trial as module
from tune_srgan.run.trial import PAUSE, Terms, train_recorded
from tune_srgan.store.trial_folder import TrialFolder


@pytest.fixture
def trial(tmp_path):
    folder = TrialFolder(tmp_path / "00000")
    folder.create({}, "train", tiny())
    return folder


def test_the_time_a_training_stands_still_is_in_the_next_reading(trial):
    *_, last = train_recorded(trial)
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
    readings = list(train_recorded(folder))
    assert len(readings) == 50
    assert saved == [40, 80, 100]


def test_by_default_checkpoints_take_a_fiftieth_of_the_time(trial, monkeypatch):
    """A clock by hand: a reading takes 1 s, a checkpoint 0.1 s."""
    now, saved = [0.0], []

    def save(path):
        now[0] += 0.1
        saved.append(round(now[0], 1))

    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    checkpoints = module._Checkpoints(trial, None)
    for _ in range(20):
        now[0] += 1
        checkpoints.offer(SimpleNamespace(readings=[], save=save))
    assert saved == [5.1, 10.2, 15.3, 20.4]


def test_a_node_that_will_be_taken_away_has_one_more_checkpoint_at_once(trial, monkeypatch, tmp_path):
    monkeypatch.setenv("TUNE_SRGAN_CACHE", str(tmp_path / "machine"))
    saved = []
    checkpoints = module._Checkpoints(trial, 1000)
    state = SimpleNamespace(readings=[1], save=saved.append)
    checkpoints.offer(state)
    assert saved == []
    monkeypatch.setattr("tune_srgan.cluster.nodes.close_this_node", lambda reason: None)
    preemption.announce()
    checkpoints.offer(state)
    checkpoints.offer(state)
    assert saved == [trial.checkpoint]


def test_a_checkpoint_that_the_disk_does_not_take_stops_no_training(trial, monkeypatch):
    whole = State.save

    def full(state, path):
        if state.step < 90:
            path.with_name("checkpoint.pt.1.tmp").touch()
            raise OSError(28, "No space left on device")
        whole(state, path)

    trial.configuration_file.write_text(dump_configuration(tiny(**{"Training.checkpoint_every": 5})))
    monkeypatch.setattr(State, "save", full)
    readings = list(train_recorded(trial))
    assert len(readings) == 50
    assert trial.outcome()["end"] == "exhausted"
    [said] = trial.complaints()
    assert "No space left on device" in said
    assert trial.checkpoint.exists()


def test_half_a_checkpoint_leaves_nothing_behind(trial):
    state = State(tiny(), torch.device("cpu"))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match="takes no checkpoint|too large"):
            state.save(trial.checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [path.name for path in trial.path.iterdir() if "checkpoint" in path.name] == []


def test_a_reading_that_only_the_checkpoint_has_is_recorded_again(trial):
    """Its node was lost between sending the readings and sending the checkpoint."""
    list(train_recorded(trial, Terms(why_stop=lambda state: PAUSE if state.step >= 20 else None)))
    lines = trial.readings_file.read_text().splitlines(keepends=True)
    trial.readings_file.write_text("".join(lines[:6]))
    list(train_recorded(trial))
    assert [reading["step"] for reading in trial.readings()] == list(range(2, 101, 2))
    assert trial.readings()[:10] == [json.loads(line) for line in lines[:10]]


def test_a_trial_that_paused_ends_as_if_it_had_not(trial, tmp_path):
    """To the bit, with nothing computed twice."""
    asked = []

    def why_stop(state):
        asked.append(state.step)
        return PAUSE if len(asked) % 3 == 0 else None

    attempts = 0
    while trial.outcome() is None:
        list(train_recorded(trial, Terms(why_stop=why_stop)))
        attempts += 1
    assert attempts > 3
    assert sorted(set(asked)) == asked
    alone = TrialFolder(tmp_path / "00001")
    alone.create({}, "train", tiny())
    list(train_recorded(alone))
    assert figures(trial) == figures(alone)
    assert trial.outcome() == alone.outcome()
    ours, others = (torch.load(one.checkpoint, weights_only=True) for one in (trial, alone))
    for name, weight in ours["generator"].items():
        assert torch.equal(weight, others["generator"][name])


def test_a_checkpoint_that_is_damaged_costs_its_steps_and_nothing_else(trial, tmp_path):
    stops = iter([None] * 8 + [PAUSE])
    list(train_recorded(trial, Terms(why_stop=lambda state: next(stops, None))))
    before = trial.readings()
    assert len(before) == 9
    trial.checkpoint.write_bytes(trial.checkpoint.read_bytes()[:-1000])
    list(train_recorded(trial))
    assert trial.readings()[:9] == before
    assert "a checkpoint of this training" in trial.complaints()[0]
    alone = TrialFolder(tmp_path / "00001")
    alone.create({}, "train", tiny())
    list(train_recorded(alone))
    assert figures(trial) == figures(alone)


def figures(trial):
    return [{key: value for key, value in one.items() if not key.startswith("time/")} for one in trial.readings()]


def test_memory_that_does_not_suffice_ends_the_trial_and_says_what_to_change(trial, monkeypatch):
    def steps(state, imagery, probed):
        yield from ()
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(module, "train", steps)
    assert list(train_recorded(trial)) == []
    outcome = trial.outcome()
    assert outcome["end"] == "failed"
    assert "Data.train_batch_size 4 and Data.crop_size 16" in outcome["cause"]
    assert "Tried to allocate 2.00 GiB" in outcome["cause"]
    assert causes(trial) == []  # not an attempt that a second one would mend


def test_a_confirmation_that_the_budget_interrupts_goes_on_later(tmp_path):
    folder = TrialFolder(tmp_path / "00000-1")
    folder.create({}, "confirm", tiny())
    list(train_recorded(folder, Terms(deadline=0.0, confirms=True)))
    assert folder.outcome() is None
    assert folder.last_step() == 2
    list(train_recorded(folder, Terms(confirms=True)))
    assert folder.outcome()["trained_steps"] == 100
    assert [reading["step"] for reading in folder.readings()] == list(range(2, 101, 2))
