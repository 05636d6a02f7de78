"""The runner: one Ray Tune run over the trials a study still has to train.

A resumed study is a new Tune run whose first trials are the unfinished ones: the trial records say which, and each
goes on from its own checkpoint. Ray's experiment state is never read back.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its boxes are printed even when it is told to be quiet
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the trial records are the log
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a trial may end before its first reading

import ray
from ray import tune
from ray.tune.search import Searcher as RaySearcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainables.errors import InvalidInput, Problem
from tune_srgan import mps
from tune_srgan.records import UNFINISHED, StudyFolder, read_json, record_of, write_atomically
from tune_srgan.searcher import Searcher
from tune_srgan.study import Study
from tune_srgan.trial import run_trial


@dataclass
class Budget:
    """What the study has used and may still use. Steps and GPU time of running trials are reserved in full."""

    study: Study
    folder: StudyFolder
    started: float = field(default_factory=time.monotonic)
    before_s: float = 0.0
    running: set[int] = field(default_factory=set)
    slots: int = 1  # trials that run at once

    def __post_init__(self) -> None:
        self.before_s = (read_json(self.folder.clock_file) or {}).get("seconds", 0.0)

    def elapsed_s(self) -> float:
        """Wall-clock seconds over all drivers of the study."""
        return self.before_s + time.monotonic() - self.started

    def keep_time(self) -> None:
        """Write the clock down."""
        write_atomically(self.folder.clock_file, json.dumps({"seconds": self.elapsed_s()}))

    def why_not_another(self, candidate: int | None = None) -> str:
        """Why no further trial may start now; empty while one may. `candidate` is an unfinished one to go on with."""
        limits = self.study.search.budget
        if not limits.model_dump(exclude_none=True):
            return ""  # Ray asks often; records are not read for nothing
        records = self.folder.records(self.study)
        if limits.steps is not None:
            used = sum(record.trained_steps for record in records if record.number not in {*self.running, candidate})
            reserved = (len(self.running) + 1) * self.study.max_steps
            if used + reserved > limits.steps:
                return f"steps: {used} of {limits.steps} used; another trial may take {self.study.max_steps}"
        left = self.seconds_for_a_trial()
        ended = [record.seconds for record in records if record.end != UNFINISHED]
        typical = sum(ended) / len(ended) if ended else 0.0
        if left is not None and left < max(typical, 1.0):
            return f"time: {max(left, 0):.0f} s left for a trial; one takes about {typical:.0f} s"
        return ""

    def seconds_for_a_trial(self) -> float | None:
        """How long a trial that starts now may run; None without a limit."""
        limits, gpus = self.study.search.budget, self.study.resources.gpus
        allowed = []
        if limits.hours is not None:
            allowed.append(limits.hours * 3600 - self.elapsed_s())
        if limits.gpu_hours is not None and gpus > 0:
            used = sum(record.seconds for record in self.folder.records(self.study)) * gpus
            allowed.append((limits.gpu_hours * 3600 - used) / gpus / self.slots)
        return min(allowed) if allowed else None


class TrialFeed(RaySearcher):  # type: ignore[misc]  # Ray's class has no types
    """Feeds Ray with unfinished trials first, then with the searcher's proposals; ends trials in Optuna."""

    def __init__(self, study: Study, folder: StudyFolder, searcher: Searcher, budget: Budget) -> None:
        super().__init__(metric="step", mode="max")
        self._study, self._folder, self._searcher, self.budget = study, folder, searcher, budget
        records = folder.records(study)
        self._unfinished = [record.number for record in records if record.end == UNFINISHED]
        self.left = study.search.trials - len(records) + len(self._unfinished)
        self._numbers: dict[str, int] = {}
        self.stopped_because = ""
        self.run = f"run-{int(time.time())}"

    # Ray's Searcher: its documentation says what each is for.
    # ruff: noqa: D102
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.left <= 0 or self.stopped_because:
            return str(RaySearcher.FINISHED)
        reason = self.budget.why_not_another(self._unfinished[0] if self._unfinished else None)
        if reason and self.budget.running:
            return None  # a trial that ends early may make room: Ray asks again
        if reason:
            self.stopped_because = f"the study's budget is used up ({reason})"
            return str(RaySearcher.FINISHED)
        number = self._unfinished.pop(0) if self._unfinished else self._new_trial()
        self.left -= 1
        self._numbers[trial_id] = number
        self.budget.running.add(number)
        seconds = self.budget.seconds_for_a_trial()
        deadline = None if seconds is None else time.time() + seconds
        return {"number": number, "folder": str(self._folder.path), "deadline": deadline, "run": self.run}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self._numbers.pop(trial_id)
        self.budget.running.discard(number)
        trial = self._folder.trial(number)
        if trial.outcome() is None and error:
            causes = trial.failures()
            if causes and causes[-1].startswith(InvalidInput.__name__):
                # imagery that is gone for every trial is nothing a trial failed by: it stays to be resumed
                self.stopped_because = causes[-1].partition(": ")[2]
                return
            trial.end(trial.failed())
        if trial.outcome() is not None:  # else it was interrupted: `resume` goes on with it
            self._searcher.tell(record_of(trial, self._study))

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its experiment; what counts is in the records

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the trial records are the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the trial records are the truth."""

    def _new_trial(self) -> int:
        proposal = self._searcher.propose()
        configuration = self._study.configuration(proposal.values)
        self._folder.trial(proposal.number).create(proposal.values, proposal.proposed_by, configuration)
        return proposal.number


class Observer(Protocol):
    """What wants to see the trials run: told of starts, readings and ends."""

    def on_start(self, number: int) -> None:
        """A trial starts, or starts again."""

    def on_reading(self, number: int, reading: dict[str, Any]) -> None:
        """A trial reported."""

    def on_end(self, number: int) -> None:
        """A trial ended; its record is complete."""


class _ObserverCallback(tune.Callback):  # type: ignore[misc]  # Ray's class has no types
    def __init__(self, observer: Observer, budget: Budget) -> None:
        self._observer, self._budget = observer, budget

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._observer.on_start(trial.config["number"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._budget.keep_time()
        self._observer.on_reading(trial.config["number"], result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._observer.on_end(trial.config["number"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._observer.on_end(trial.config["number"])


def connect(address: str | None) -> str:
    """Join the cluster at `address`, the one that runs on this machine, or start a local Ray; says which."""
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    address = address or os.environ.get("RAY_ADDRESS") or running_cluster()
    if address and address != "local":
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            found = f"no cluster that answers ({' '.join(str(error).split())[:120]})"
            raise InvalidInput([Problem(address, "--address", found, "a running Ray cluster, or `local`")]) from None
        return f"joined the Ray cluster at {address}"
    ray.init(address="local", include_dashboard=False, **quiet)
    return f"started a local Ray with {int(ray.cluster_resources().get('CPU', 0))} CPUs"


def running_cluster() -> str | None:
    """The address of a Ray cluster that was started on this machine and still answers."""
    found = ray._private.utils.read_ray_address()  # where `ray start` leaves it
    if not found:
        return None
    host, _, port = found.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return str(found)
    except OSError:
        return None  # left behind by a cluster that was killed


def run_study(study: Study, folder: StudyFolder, budget: Budget, observer: Observer) -> str:
    """Train until the study has its trials or its budget is used; returns why it stopped early, or nothing.

    Ray must be connected. Ctrl-C: running trials are stopped, everything recorded is kept.
    """
    feed = TrialFeed(study, folder, Searcher(study, folder), budget)
    if feed.left <= 0:
        return ""
    resources = study.resources
    budget.slots = resources.concurrent or _slots(study)
    trainable = tune.with_resources(run_trial, {"cpu": resources.cpus, "gpu": resources.gpus})
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=feed,
            metric="step",
            mode="max",
            num_samples=feed.left,
            max_concurrent_trials=budget.slots,
            reuse_actors=True,
            trial_name_creator=lambda trial: f"{study.study}-{trial.config['number']:05d}",
            trial_dirname_creator=lambda trial: f"{trial.config['number']:05d}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=feed.run,
            storage_path=str(folder.ray_folder),
            # trials count their attempts themselves (`spent_attempts`): some are not their fault
            failure_config=tune.FailureConfig(max_failures=2 * (resources.max_failures + 1)),
            callbacks=[_ObserverCallback(observer, budget)],
            verbose=0,
        ),
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # causes are kept with the trials and shown from there
    try:
        tuner.fit()
    finally:
        budget.keep_time()
        if 0 < resources.gpus < 1 and resources.mps:
            _end_mps()
    return feed.stopped_because


def _end_mps() -> None:
    """On every node with a GPU, end the MPS daemon that this study's trials started."""
    with contextlib.suppress(Exception):  # a cluster that is gone has no daemon left; the study's end counts
        ending = ray.remote(num_cpus=0)(mps.end)
        places = [
            NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            for node in ray.nodes()
            if node["Alive"] and node["Resources"].get("GPU")
        ]
        ray.get([ending.options(scheduling_strategy=place).remote() for place in places], timeout=60)


def _slots(study: Study) -> int:
    """How many trials fit at once, on the nodes that are there."""
    total, wanted = ray.cluster_resources(), study.resources
    fits = [int(total.get("CPU", 0) / wanted.cpus)]
    if wanted.gpus:
        fits.append(int(total.get("GPU", 0) / wanted.gpus))
    return max(1, min(fits))
