"""Whole studies on a cluster whose parts are killed at random: nothing is lost, nothing is there twice.

CHAOS_SEED makes the same plan of kills again; when each one strikes is the machine's doing, and is printed.
"""

import contextlib
import json
import os
import random
import signal
import time
import uuid
from pathlib import Path

import optuna
import psutil
import pytest
import yaml

from tests.support.object_store import s3
from tests.support.rays import cluster
from tests.support.service import STUDY, command, untimed, wait_for
from tests.support.studies import causes
from tests.support.wandb_server import WandbServer, environment
from tune_srgan.run.trial import train_recorded
from tune_srgan.store.objects import storage_at
from tune_srgan.store.studies import study_in
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import TrialFolder
from tune_srgan.tracking.marks import run_id

SEED = int(os.environ.get("CHAOS_SEED", "1"))
STEPS, EVERY, PRETRAINING = 300, 6, 120
PHASES = ("start", "pretraining", "game")
OUTAGE_S = 6.0
MORE = 2  # trials, where a study would end before the plan does

pytestmark = pytest.mark.chaos


class Chaos:
    """A study on a cluster, and what is done to both."""

    def __init__(self, folder, storage, seed, server=None, bucket=None):
        self.folder, self.storage, self.server, self.bucket = folder, storage, server, bucket
        self.random, self.trials, self.kills = random.Random(seed), 12, []
        self._known, self._read, self._progress = [], {}, 0
        self._context = cluster(nodes=2)
        self.rays = self._context.__enter__()
        study = STUDY | {"objective": STUDY["objective"] | {"max_steps": STEPS, "validate_every": EVERY}}
        study["space"] = STUDY["space"] | {
            "Training.g_pretrain_steps": {"int": [PRETRAINING - 12, PRETRAINING], "step": 6}
        }
        study["training"] = STUDY["training"] | {"Training": STUDY["training"]["Training"] | {"checkpoint_every": 4}}
        off = {"enabled": False}  # what a trial computes must not depend on when others end
        study["search"] = {"trials": self.trials, "sampler": "random", "capping": off, "best_first": off}
        study |= {"confirm": {"top": 0}, "resources": {"max_failures": 50}, "storage": storage}
        study["tracking"] = {"wandb": {"mode": "online" if server else "disabled"}}
        (folder / "tiny.yaml").write_text(yaml.safe_dump(study))
        self.start("run", "tiny.yaml")

    def start(self, *arguments):
        arguments = [*arguments, "--address", self.rays.gcs_address]
        self.driver = command(*arguments, cwd=self.folder, env={"WANDB_MODE": "online"} if self.server else {})

    def close(self):
        self.driver.kill()
        self._context.__exit__(None, None, None)

    # what can be killed

    def worker(self):
        """One that trains, without a word."""
        wait_for(self._workers, 60, 0.2)
        self.random.choice(self._workers()).kill()

    def node(self):
        """One with all its workers; another one comes."""
        node = self.random.choice(sorted(self.rays.worker_nodes, key=lambda node: node.unique_id))
        self.rays.remove_node(node, allow_graceful=False)
        self.rays.add_node(num_cpus=1)

    def the_driver(self):
        """By SIGKILL; a person goes on with the study."""
        self.driver.send_signal(signal.SIGKILL)
        self.driver.communicate(timeout=60)
        self.start("resume", f"{self.storage}/tiny")

    def head(self):
        """The head, its driver and all that this machine kept; a new cluster is made, on a new machine."""
        self.driver.send_signal(signal.SIGKILL)
        self._context.__exit__(None, None, None)
        self.driver.communicate(timeout=60)
        os.environ["TUNE_SRGAN_CACHE"] = str(self.folder / f"machine-{len(self.kills)}")
        self._context = cluster(nodes=2)
        self.rays = self._context.__enter__()
        self.start("resume", f"{self.storage}/tiny", "--take-over")

    def wandb(self):
        """The server breaks every connection for a while."""
        self.server.mode, self.server.dies_after = "die", 0
        time.sleep(OUTAGE_S)
        self.server.mode = "ok"

    def store(self):
        """The store refuses everything for a while."""
        self.bucket.refuses = True
        time.sleep(OUTAGE_S)
        self.bucket.refuses = False

    # what goes on

    def strike(self, kind, phase):
        """Wait until a trial is in a phase, and a moment more; then kill."""
        met = False
        while not met:
            self._go_on()
            wait_for(lambda: self._is_at(phase) or self.driver.poll() is not None, 600, 0.3)
            met = self.driver.poll() is None
        time.sleep(self.random.uniform(0, 0.4))
        before = self.readings()
        getattr(self, kind)()
        self.kills.append(kind)
        self._progress = sum(map(len, before.values()))
        print(f"kill {len(self.kills):2d}: {kind} at {phase}, readings {[len(found) for found in before.values()]}")
        for trial, found in self.readings().items():  # a store may be behind, never ahead
            assert found[: len(before.get(trial, []))] == before.get(trial, [])

    def _is_at(self, phase):
        """Whether a trial is in a phase, and training has gone on since the last kill."""
        if phase == "start":
            return phase in self.phases() and bool(self._workers())
        return phase in self.phases() and sum(map(len, self.readings().values())) > self._progress

    def _go_on(self):
        """Where the study ended before the plan does: some trials more."""
        if self.driver.poll() is None:
            return
        out, err = self.driver.communicate()
        assert self.driver.returncode == 0, out + err
        self.trials += MORE
        self.start("run", "tiny.yaml", "--trials", str(self.trials))

    def finish(self):
        """Without further ado; a resume where the last driver had to give up."""
        for _ in range(3):
            out, err = self.driver.communicate(timeout=240)
            if self.driver.returncode == 0:
                return out
            print(out, err)
            self.start("resume", f"{self.storage}/tiny")
        raise AssertionError(out + err)

    def phases(self):
        """Of the trials that are at work."""
        found = set()
        for trial, readings in self.readings().items():
            if not any(entry.name == f"trials/{trial}/outcome.json" for entry in self._known):
                step = readings[-1] if readings else 0
                found.add("start" if not step else "pretraining" if step < PRETRAINING - 12 else "game")
        return found

    def readings(self):
        """Every trial's steps, as the storage has them, in their order."""
        storage, found = storage_at(f"{self.storage}/tiny"), {}
        for entry in self._entries():
            _, trial, name = entry.name.split("/", 2)
            found.setdefault(trial, [])
            if name.startswith("readings.jsonl"):
                if self._read.get(entry.name, ("",))[0] != (entry.version, entry.size):
                    lines = (storage.read(entry.name) or b"").splitlines(keepends=True)
                    steps = [json.loads(line)["step"] for line in lines if line.endswith(b"\n")]
                    self._read[entry.name] = (entry.version, entry.size), steps
                found[trial].extend(self._read[entry.name][1])
        return found

    def _entries(self):
        if self.bucket is None or not self.bucket.refuses:
            self._known = storage_at(f"{self.storage}/tiny").entries("trials")
        return self._known

    def _workers(self):
        """Those of this cluster that train."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            with contextlib.suppress(psutil.Error):
                trains = " ".join(process.info["cmdline"] or []).startswith("ray::ImplicitFunc")
                if trains and process.environ().get("RAY_TMPDIR") == os.environ["RAY_TMPDIR"]:
                    found.append(process)
        return found


def plan(kinds, seed):
    """Each kind as often as it says, in the phases in turn, in an order of chance."""
    found = [(kind, PHASES[index % 3]) for kind, count in kinds.items() for index in range(count)]
    random.Random(seed).shuffle(found)
    return found


def assert_whole(chaos, folder, tmp_path):
    """Every trial once, in its right state, in the records, in Optuna and in Ray; each as it would be alone."""
    study, numbers = study_in(folder), list(range(chaos.trials))
    assert [trial.number for trial in folder.trials()] == numbers
    kept = optuna.load_study(study_name="tiny", storage=folder.optuna_url).trials
    assert [trial.number for trial in kept] == numbers
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in kept)
    for trial, logged in zip(folder.trials(), kept, strict=True):
        outcome = trial.outcome()
        assert outcome["end"] == "exhausted", causes(trial)
        assert logged.user_attrs["outcome"] == "exhausted"
        assert logged.params == trial.header()["values"]
        alone = TrialFolder(tmp_path / "alone" / trial.path.name)
        alone.create(trial.header()["values"], "alone", study.configuration(trial.header()["values"]))
        list(train_recorded(alone))
        assert alone.outcome() == outcome
        for one, other in zip(trial.readings(), alone.readings(), strict=True):
            one.pop("training/shared", None)
            assert untimed(one) == untimed(other)
    last = max((folder.path / "ray").glob("run-*"), key=lambda run: float(run.name[4:]))
    states = json.loads(max(last.glob("experiment_state-*.json")).read_text())
    assert {json.loads(trial)["status"] for trial, _ in states["trial_data"]} <= {"TERMINATED"}


@pytest.fixture
def quiet(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNE_SRGAN_CACHE", str(tmp_path / "machine"))
    return monkeypatch


def test_workers_nodes_drivers_and_the_tracker_are_killed(tmp_path, quiet):
    server = WandbServer()
    environment(server.url, quiet)
    chaos = Chaos(tmp_path, str(tmp_path / "runs"), SEED, server=server)
    try:
        for kind, phase in plan({"worker": 12, "node": 3, "the_driver": 2, "wandb": 1}, SEED):
            chaos.strike(kind, phase)
        chaos.finish()
        folder = StudyFolder(tmp_path / "runs/tiny")
        assert len(chaos.kills) == 18
        assert_whole(chaos, folder, tmp_path)
        study = study_in(folder)
        wait_for(lambda: all(run.complete for run in server.runs.values()), 60, 0.5)
        assert set(server.runs) == {run_id(trial, study) for trial in folder.trials()}
        for trial in folder.trials():
            run = server.runs[run_id(trial, study)]
            assert run.steps_of("val_metrics/psnr") == [reading["step"] for reading in trial.readings()]
            assert "exhausted" in run.tags
            assert run.state == "finished"
    finally:
        chaos.close()
        server.stop()


def test_the_head_and_the_store_are_lost_and_come_back(tmp_path, quiet):
    with s3() as bucket:
        storage = f"{bucket.url}/{uuid.uuid4().hex}"
        chaos = Chaos(tmp_path, storage, SEED + 1, bucket=bucket)
        try:
            for kind, phase in plan({"worker": 6, "node": 2, "the_driver": 1, "head": 1, "store": 2}, SEED + 1):
                chaos.strike(kind, phase)
            chaos.finish()
            assert len(chaos.kills) == 12
            (place,) = Path(os.environ["TUNE_SRGAN_CACHE"], "studies").glob("*/tiny")
            assert_whole(chaos, StudyFolder(place), tmp_path)
            for trial, steps in chaos.readings().items():
                assert steps == list(range(EVERY, STEPS + 1, EVERY)), trial
        finally:
            chaos.close()
