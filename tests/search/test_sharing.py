"""Snapshots of a shared pretraining: exact, sealed, within their limit, and never a reason for a trial to fail."""

import io
import itertools
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import pytest
import torch

from tests.support.studies import PRETRAIN, VALUES, WEIGHT, loaded, open_study, small, start
from tests.support.tiny import begun, everything, same
from trainables.state import State
from trainables.trainer import train
from tune_srgan.run.trial import PAUSE, Terms, train_recorded
from tune_srgan.search.sharing import (
    HEADER,
    SharedPretraining,
    Snapshots,
    expected_savings,
    points_of,
    reach,
    values_in_pretraining,
)
from tune_srgan.store.account import SHARED, account_of
from tune_srgan.store.layout import TrialFiles
from tune_srgan.store.objects import storage_at
from tune_srgan.store.study_folder import StudyFolder

CPU = torch.device("cpu")
LONG = {"Training.g_pretrain_steps": 16}


class Complaints(list):
    __call__ = list.append


@pytest.fixture
def complaints():
    return Complaints()


@pytest.fixture(params=["folder", "memory://{}"], ids=["folder", "object store"])
def snapshots(request, tmp_path, complaints):
    place = str(tmp_path / "pretraining")
    return Snapshots(
        storage_at(place if request.param == "folder" else request.param.format(tmp_path.name)), 1e9, complaints
    )


def lent(snapshots, steps=16):
    """A training that has left its snapshots at 4, 8 and 16."""
    state, imagery = begun(**LONG)
    shared = SharedPretraining.of(snapshots, [4, 8, 16], state.configuration, imagery, CPU)
    for _ in itertools.islice(train(state, imagery), steps // 2):
        shared.offer(state)
    return state, imagery, shared


def test_the_longest_snapshot_within_its_own_pretraining_is_taken(snapshots, complaints):
    state, imagery, shared = lent(snapshots)
    assert [entry.name for entry in snapshots.storage.entries()] == [f"{shared.path}/{step:08d}" for step in (4, 8, 16)]
    for pretraining, expected in ((3, None), (4, 4), (9, 8), (40, 16)):
        other, _ = begun(**{PRETRAIN: pretraining})
        found = shared.start(other.configuration, CPU)
        assert (found and found.step) == expected
    assert found is not None
    assert same(everything(found), everything(state), "generator.")
    assert all(reading[SHARED] == 1.0 for reading in found.readings)
    assert shared.start(other.configuration, CPU, beyond=16) is None  # its own checkpoint is as far
    assert complaints == []


def test_a_trial_that_goes_on_past_its_pretraining_fetches_nothing(snapshots):
    """At each pause it would fetch a whole snapshot and drop it."""
    state, _, shared = lent(snapshots)
    fetched = []

    class Counting:
        def __getattr__(self, name):
            return getattr(snapshots.storage, name)

        def read(self, name):
            fetched.append(name)
            return snapshots.storage.read(name)

    counted = replace(shared, snapshots=replace(snapshots, storage=Counting()))
    assert counted.start(state.configuration, CPU, beyond=16) is None
    assert counted.start(state.configuration, CPU, beyond=40) is None
    assert fetched == []
    assert counted.start(state.configuration, CPU, beyond=8).step == 16
    assert fetched == [f"{shared.path}/{16:08d}"]


@pytest.mark.parametrize("damage", [
    lambda content: content[: len(content) // 2], lambda content: b"", lambda content: content[:-1] + b"?",
    lambda content: b"PK" + content[2:], lambda content: content + b"more",
], ids=["cut", "empty", "altered", "foreign", "longer"])  # fmt: skip
def test_a_damaged_snapshot_is_ignored_with_a_warning_and_written_anew(snapshots, complaints, damage):
    state, _, shared = lent(snapshots)
    name = f"{shared.path}/{16:08d}"
    whole = snapshots.storage.read(name)
    snapshots.storage.write(name, damage(whole))
    found = shared.start(state.configuration, CPU)
    assert found.step == 8  # the next best
    assert len(complaints) == 1
    assert "damaged or foreign" in complaints[0]
    for _ in itertools.islice(train(found, begun()[1]), 4):
        shared.offer(found)
    assert shared.start(state.configuration, CPU).step == 16


def test_a_snapshot_under_another_name_is_foreign(snapshots, complaints):
    state, _, shared = lent(snapshots, 8)
    snapshots.storage.write(f"{shared.path}/{12:08d}", snapshots.storage.read(f"{shared.path}/{8:08d}"))
    assert shared.start(state.configuration, CPU).step == 8
    assert complaints


def test_what_is_no_snapshot_at_all_is_passed_over(snapshots, complaints):
    state, _, shared = lent(snapshots, 8)
    snapshots.storage.write(f"{shared.path}/README", b"hello")
    assert shared.start(state.configuration, CPU).step == 8
    assert complaints == []


def test_a_sealed_snapshot_that_torch_cannot_load_is_computed_anew(tmp_path, complaints, monkeypatch):
    snapshots = Snapshots(storage_at(str(tmp_path)), 1e9, complaints)
    state, _, shared = lent(snapshots, 4)
    snapshots.storage.delete(f"{shared.path}/{4:08d}")
    snapshots.keep(shared.path, 4, lambda: b"not a state")
    assert shared.start(state.configuration, CPU) is None
    assert "could not be used" in complaints[0]


def test_the_least_recently_used_go_first_and_the_newest_stays(tmp_path, complaints):
    snapshots = Snapshots(storage_at(str(tmp_path)), 1e9, complaints)
    for step in (4, 8, 12):
        snapshots.keep("path", step, lambda: b"x" * 1000)
        used = time.time() - 100 + step
        os.utime(tmp_path / "path" / f"{step:08d}", (used, used))
    assert snapshots.longest("path", 4) == b"x" * 1000  # used now
    size = len(HEADER) + 32 + 1000
    Snapshots(snapshots.storage, 2.5 * size, complaints).keep("path", 16, lambda: b"x" * 1000)
    assert [entry.name for entry in snapshots.storage.entries()] == ["path/00000004", "path/00000016"]
    Snapshots(snapshots.storage, 1, complaints).keep("path", 20, lambda: b"x" * 1000)
    assert [entry.name for entry in snapshots.storage.entries()] == ["path/00000020"]
    assert snapshots.clear() == size
    assert snapshots.storage.entries() == []


def test_a_storage_that_cannot_be_written_costs_a_complaint(tmp_path, complaints):
    (tmp_path / "file").write_text("in the way")  # root can write to a read-only folder; to a file's inside it cannot
    state, imagery, _ = lent(Snapshots(storage_at(str(tmp_path / "file")), 1e9, complaints))
    assert state.step == 16
    assert any("could not be kept" in line for line in complaints)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_storage_costs_a_complaint(tmp_path, complaints):
    tmp_path.chmod(0o500)
    lent(Snapshots(storage_at(str(tmp_path / "pretraining")), 1e9, complaints))
    assert any("could not be kept" in line for line in complaints)


def writer(place, content, begun):
    storage = storage_at(place)
    begun.set()
    while True:
        storage.write("path/00000004", content)


@pytest.mark.long
def test_a_writer_that_is_killed_leaves_a_whole_snapshot_or_none_and_two_writers_never_mix(tmp_path, complaints):
    context = multiprocessing.get_context("spawn")
    contents = [bytes([letter]) * 3_000_000 for letter in b"ab"]
    started = [context.Event() for _ in contents]
    writers = [
        context.Process(target=writer, args=(str(tmp_path), content, event), daemon=True)
        for content, event in zip(contents, started, strict=True)
    ]
    for process in writers:
        process.start()
    for event in started:
        event.wait(60)
    storage, until, seen = storage_at(str(tmp_path)), time.monotonic() + 3, set()
    while time.monotonic() < until:
        found = storage.read("path/00000004")
        if found is not None:
            assert found in contents
            seen.add(found[:1])
    assert seen == {b"a", b"b"}
    for process in writers:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert storage.read("path/00000004") in contents
    assert [entry.name for entry in storage.entries()] == ["path/00000004"]  # half a file is no entry


def test_two_trials_that_compute_the_same_stretch_leave_the_same_snapshot(tmp_path, complaints):
    contents = []
    for name in "ab":
        snapshots = Snapshots(storage_at(str(tmp_path / name)), 1e9, complaints)
        lent(snapshots)
        contents.append(snapshots.longest(snapshots.storage.entries()[0].name.partition("/")[0], 16))
    states = [begun(**LONG)[0] for _ in contents]
    for state, content in zip(states, contents, strict=True):
        state.take(torch.load(io.BytesIO(content), weights_only=True))
    assert same(everything(states[0]), everything(states[1]))


def timeless(readings):
    mine = ("time/", SHARED)
    return [{key: value for key, value in reading.items() if not key.startswith(mine)} for reading in readings]


@pytest.mark.long
def test_a_recorded_trial_that_starts_from_a_snapshot_ends_as_it_would_have_alone(tmp_path, complaints):
    """Weights, optimisers, schedulers, readings, outcome: equal to the bit; what was not computed is marked."""
    study = loaded(tmp_path)
    points = points_of(study)
    assert points == [20, 40, 60]
    snapshots = Snapshots(storage_at(str(tmp_path / "snapshots")), 1e9, complaints)
    terms = Terms(shared=lambda *parts: SharedPretraining.of(snapshots, points, *parts))
    folders = {name: StudyFolder(tmp_path / name) for name in ("sharing", "alone")}
    trials = {}
    for name, folder in folders.items():
        open_study(folder, study)
        for number, values in enumerate(({PRETRAIN: 60, WEIGHT: 0.1}, {PRETRAIN: 40, WEIGHT: 0.02})):
            start(folder, study, number, VALUES | values)
            told = [r["step"] for r in train_recorded(folder.trial(number), terms if name == "sharing" else None)]
        trials[name] = folder.trial(1)
        assert told[0] == (44 if name == "sharing" else 4)
    one, other = trials.values()
    assert one.outcome() == other.outcome()
    assert timeless(one.readings()) == timeless(other.readings())
    assert [reading["step"] for reading in one.readings() if SHARED in reading] == list(range(4, 41, 4))
    states = [State.load(trial.checkpoint, trial.configuration(), CPU) for trial in (one, other)]
    assert same(everything(states[0]), everything(states[1]))
    account = account_of(one.readings(), one.outcome(), study.max_steps)
    assert account == {"executed": 160, "sharing": 40, "capping": 0}
    assert complaints == []


@pytest.fixture
def sharing(tmp_path, complaints):
    """A study's folder, the study, its snapshots, and the terms of a trial that shares."""
    study = loaded(tmp_path)
    folder = StudyFolder(tmp_path / "study")
    open_study(folder, study)
    snapshots = Snapshots(storage_at(str(tmp_path / "snapshots")), 1e9, complaints)
    return (
        folder,
        study,
        snapshots,
        Terms(shared=lambda *parts: SharedPretraining.of(snapshots, points_of(study), *parts)),
    )


@pytest.mark.long
def test_a_trial_that_is_killed_after_it_took_a_snapshot_has_its_readings_once(sharing):
    folder, study, _, terms = sharing
    for number in (0, 1):
        start(folder, study, number, VALUES | {PRETRAIN: 40})
    list(itertools.islice(train_recorded(folder.trial(0), terms), 12))
    trial = folder.trial(1)
    begun_once = train_recorded(trial, terms)
    next(begun_once)
    begun_once.close()  # killed after its first own reading, 44, before it wrote a checkpoint
    assert trial.last_step() == 44
    assert not trial.checkpoint.exists()
    list(train_recorded(trial, terms))
    assert [reading["step"] for reading in trial.readings()] == list(range(4, 201, 4))


def test_points_follow_from_the_space(tmp_path):
    document = small()
    document["space"][PRETRAIN] = {"int": [18, 61], "step": 1}
    assert points_of(loaded(tmp_path, document)) == list(range(16, 61, 4))
    document["space"][PRETRAIN] = {"choice": [30, 21]}
    assert points_of(loaded(tmp_path, document)) == [20, 28]
    del document["space"][PRETRAIN]
    document["training"]["Training"]["g_pretrain_steps"] = 50
    assert points_of(loaded(tmp_path, document)) == [48]
    document["space"][PRETRAIN] = {"int": [1, 140]}
    document["objective"]["max_steps"] = 240
    del document["training"]["Training"]["g_pretrain_steps"]
    found = points_of(loaded(tmp_path, document))
    assert len(found) == 32  # of 35
    assert found[-1] == 140
    assert reach(found, 3) == 0
    assert reach([20, 40], 39) == 20


def test_what_acts_later_does_not_part_two_paths():
    values = VALUES | {"Schedulers.g_warmup_steps": 4}
    assert (
        values_in_pretraining(values)
        == values_in_pretraining(values | {PRETRAIN: 60, WEIGHT: 0.3})
        == (("Schedulers.g_warmup_steps", 4),)
    )


def test_how_many_trials_can_share_is_said_before_they_run(tmp_path):
    document = small()
    sharing, saved, total = expected_savings(loaded(tmp_path, document), 8)
    assert 6.5 < sharing <= 7  # all but the first, and none more than its own length
    assert 0 < saved < total
    document["space"]["Optimizers.optim_g_lr"] = {"float": [1e-5, 1e-3], "log": True}  # never the same twice
    assert expected_savings(loaded(tmp_path, document), 8)[:2] == (0, 0)


def test_what_was_begun_elsewhere_offers_nothing(sharing):
    """A checkpoint of another machine: the trial goes on, and no other starts from what it makes."""
    folder, study, snapshots, terms = sharing
    start(folder, study, 0, VALUES | {PRETRAIN: 60})
    trial = folder.trial(0)
    paused = replace(terms, why_stop=lambda state: PAUSE if state.step == 24 else None)
    list(train_recorded(trial, paused))
    assert trial.checkpoint.exists()
    assert len(snapshots.storage.entries()) == 1
    assert (trial.path / TrialFiles.PRETRAINING.name).exists()
    trial.begin_path("of another machine")
    snapshots.clear()
    list(itertools.islice(train_recorded(trial, terms), 12))
    assert snapshots.storage.entries() == []
