"""Real studies whose storage is an S3 on loopback: what the head loses, the store has."""

import json
import os
import shutil
import signal
import uuid

import optuna
import pytest

from tests.support.object_store import s3
from tests.support.service import command, finish, wait_for, write_sharing_study, write_study
from tests.support.studies import records_in
from tune_srgan.search.confirmation import winner
from tune_srgan.search.front import front_of
from tune_srgan.store.objects import storage_at
from tune_srgan.store.studies import study_in
from tune_srgan.store.study_folder import StudyFolder

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def bucket():
    with s3() as made:
        yield made.url


@pytest.fixture
def runs(bucket, tmp_path, monkeypatch):
    """The URL of a storage, and a folder whose machine keeps its copies beside the study file."""
    monkeypatch.setenv("TUNE_SRGAN_CACHE", str(tmp_path / "cache"))
    return f"{bucket}/{uuid.uuid4().hex}"


def outcomes(runs):
    storage = storage_at(f"{runs}/tiny")
    names = [entry.name for entry in storage.entries("trials") if entry.name.endswith("outcome.json")]
    return {name.split("/")[1]: json.loads(storage.read(name)) for name in names}


def readings(runs, trial):
    """All that the store has of a trial, in the order of its parts."""
    storage = storage_at(f"{runs}/tiny")
    parts = [storage.read(part.name) for part in storage.entries(f"trials/{trial}/readings.jsonl.parts")]
    if None in parts:
        return readings(runs, trial)  # one was deleted between the two calls
    return [json.loads(line) for part in parts for line in part.splitlines()]


def test_a_place_whose_first_object_comes_while_it_is_listed_is_no_object(runs, monkeypatch):
    storage = storage_at(f"{runs}/tiny")
    storage.write("trials/00000/outcome.json", b"{}")
    listing, calls = storage._files._lsdir, []

    async def late(*arguments, **options):
        calls.append(arguments)
        return [] if len(calls) == 1 else await listing(*arguments, **options)

    monkeypatch.setattr(storage._files, "_lsdir", late)
    assert storage.entries("trials") == []
    assert [entry.name for entry in storage.entries("trials")] == ["trials/00000/outcome.json"]


def test_a_study_in_an_object_store_ends_as_in_a_folder_and_is_seen_from_anywhere(runs, tmp_path, monkeypatch):
    write_sharing_study(tmp_path, confirm={"top": 0})
    said = finish(command("run", "tiny.yaml", "--storage", runs, cwd=tmp_path))
    assert f"Study 'tiny' in {runs}/tiny" in said
    finish(command("run", "tiny.yaml", cwd=tmp_path))
    ended = outcomes(runs)
    assert sorted(ended) == ["00000", "00001", "00002"]
    for trial, outcome in ended.items():
        assert outcome == json.loads((tmp_path / f"runs/tiny/trials/{trial}/outcome.json").read_text())
        steps = [reading["step"] for reading in readings(runs, trial)]
        assert steps == list(range(2, outcome["trained_steps"] + 1, 2))
    assert not list((tmp_path / "cache/work").rglob("*.pt"))

    monkeypatch.setenv("TUNE_SRGAN_CACHE", str(tmp_path / "laptop"))
    (tmp_path / "elsewhere").mkdir()
    there = json.loads(finish(command("status", f"{runs}/tiny", "--json", cwd=tmp_path / "elsewhere")))
    here = json.loads(finish(command("status", "tiny", "--json", cwd=tmp_path)))
    assert there["trials"] == here["trials"]
    finish(command("best", "tiny", "--storage", runs, cwd=tmp_path / "elsewhere"))
    finish(command("report", "tiny", "--storage", runs, cwd=tmp_path / "elsewhere"))
    assert list((tmp_path / "laptop").rglob("report.html"))
    kept = {entry.name for entry in storage_at(f"{runs}/tiny").entries()}
    assert {"study.yaml", "report.html", "best.yaml", "best.pt", "versions.json", "clock.json"} <= kept
    said = finish(command("clean", "tiny", "--storage", runs, cwd=tmp_path / "elsewhere"))
    assert "MB freed" in said
    local = StudyFolder(tmp_path / "runs" / "tiny")
    study, records = study_in(local), records_in(study_in(local), local)
    needed = {record.trial.place for record in (winner(study, records), *front_of(study, records.search))}
    kept = [entry.name for entry in storage_at(f"{runs}/tiny").entries() if entry.name.endswith("checkpoint.pt")]
    assert sorted(kept) == sorted(f"{place}/checkpoint.pt" for place in needed) and len(kept) < 3


def test_a_head_that_is_lost_with_all_it_had_loses_nothing(runs, tmp_path, monkeypatch):
    # what is proposed must not depend on which trial ends first
    file = write_study(tmp_path, sampler="random", capping={"enabled": False}, best_first={"enabled": False}, trials=3)
    text = file.read_text().replace("max_steps: 100", "max_steps: 200")
    file.write_text(text + "tracking: {wandb: {mode: disabled}}\n")
    driver = command("run", "tiny.yaml", "--storage", runs, cwd=tmp_path)
    wait_for(lambda: readings(runs, "00001"), 120, 0.5)
    second = command("run", "tiny.yaml", "--storage", runs, cwd=tmp_path)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 2
    assert f"a study that process {driver.pid} of" in err
    wait_for(lambda: outcomes(runs) and len(readings(runs, "00002")) > 3, 120, 0.5)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate(timeout=60)
    before = {trial: readings(runs, trial) for trial in ("00000", "00001", "00002")}
    ended = outcomes(runs)
    wait_for(lambda: shutil.rmtree(tmp_path / "cache", ignore_errors=True) or not (tmp_path / "cache").exists())
    monkeypatch.setenv("TUNE_SRGAN_CACHE", str(tmp_path / "another"))
    finish(command("resume", f"{runs}/tiny", cwd=tmp_path))
    finish(command("run", "tiny.yaml", cwd=tmp_path))
    for trial, outcome in outcomes(runs).items():
        assert outcome == json.loads((tmp_path / f"runs/tiny/trials/{trial}/outcome.json").read_text())
        found = readings(runs, trial)
        assert [reading["step"] for reading in found] == list(range(2, outcome["trained_steps"] + 1, 2))
        known = before.get(trial, [])
        assert found[: len(known)] == sorted(known, key=lambda reading: reading["step"])
    assert ended.items() <= outcomes(runs).items()
    (database,) = (tmp_path / "another/studies").rglob("optuna.db")
    kept = optuna.load_study(study_name="tiny", storage=f"sqlite:///{database}")
    assert [trial.number for trial in kept.trials] == [0, 1, 2]
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in kept.trials)
