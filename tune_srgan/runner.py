"""The runner: one Ray Tune run over the trials a study still has to train.

A resumed study is a new Tune run whose first trials are the unfinished ones: the trial records say which, and each
goes on from its own checkpoint. Ray's experiment state is never read back.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import platform
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its boxes are printed even when it is told to be quiet
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the trial records are the log
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a trial may end before its first reading

import ray
from ray import tune
from ray.tune.search import Searcher as RaySearcher

from trainables.balance import Ruler, earliest_possible, judge
from trainables.configuration import Configuration
from trainables.trainer import outcome_of
from tune_srgan import __version__, cluster, mps
from tune_srgan.attempts import LOST_NODES, NOBODYS
from tune_srgan.capping import NAMESPACE, Board, better, board_of, cost_in, incumbent_of, why_end
from tune_srgan.confirmation import missing
from tune_srgan.mirror import PATIENCE_S
from tune_srgan.records import (
    BUDGET_USED,
    UNFINISHED,
    StudyFolder,
    TrialFolder,
    account_of_study,
    find_study,
    read_json,
    record_of,
)
from tune_srgan.searcher import Searcher, learnt_from
from tune_srgan.sharing import Snapshots, path_of, points_of, reach
from tune_srgan.storage import write_atomically
from tune_srgan.study import Study
from tune_srgan.tracking import catch_up
from tune_srgan.worker import run_trial

NODE_S = 300.0  # that trials wait for a node before a person is told


@dataclass
class Budget:
    """What the study has used and may still use. Steps and GPU time of running trials are reserved in full."""

    study: Study
    folder: StudyFolder
    started: float = field(default_factory=time.monotonic)
    before_s: float = 0.0
    running: set[TrialFolder] = field(default_factory=set)
    slots: int = 1  # trials that run at once

    def __post_init__(self) -> None:
        self.before_s = (read_json(self.folder.clock_file) or {}).get("seconds", 0.0)

    def elapsed_s(self) -> float:
        """Wall-clock seconds over all drivers of the study."""
        return self.before_s + time.monotonic() - self.started

    def keep_time(self) -> None:
        """Write the clock down, where the disk takes it."""
        with contextlib.suppress(OSError):
            write_atomically(self.folder.clock_file, json.dumps({"seconds": self.elapsed_s()}))

    def why_not_another(self, candidate: TrialFolder | None = None) -> str:
        """Why no further trial may start now; empty while one may. `candidate` is an unfinished one to go on with."""
        limits = self.study.search.budget
        if not limits.model_dump(exclude_none=True):
            return ""  # Ray asks often; records are not read for nothing
        trials = self.folder.every_trial()
        records = [record_of(trial, self.study) for trial in trials]
        if limits.steps is not None:
            reserved_for = {*self.running, candidate}
            counted = [record for trial, record in zip(trials, records, strict=True) if trial not in reserved_for]
            used = sum(record.account["executed"] for record in counted)
            reserved = (len(self.running) + 1) * self.study.max_steps
            if used + reserved > limits.steps:
                return f"steps: {used} of {limits.steps} used; another trial may take {self.study.max_steps}"
        left = self.seconds_for_a_trial()
        ended = [record.seconds for record in records if record.end != UNFINISHED and record.seconds]
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
            records = [*self.folder.records(self.study), *self.folder.records(self.study, "confirm")]
            used = sum(record.seconds for record in records) * gpus
            allowed.append((limits.gpu_hours * 3600 - used) / gpus / self.slots)
        return min(allowed) if allowed else None


class Observer(Protocol):
    """What wants to see the trials run: told of starts, readings and ends."""

    def on_start(self, trial: TrialFolder) -> None:
        """A trial starts, or starts again."""

    def on_reading(self, trial: TrialFolder, reading: dict[str, Any]) -> None:
        """A trial reported."""

    def on_end(self, trial: TrialFolder) -> None:
        """A trial ended; its record is complete."""

    def on_wait(self, seconds: float) -> None:
        """No node has had room for any trial for so long."""


@dataclass(frozen=True)
class _Plan:
    """What never changes of a trial, read from its folder once."""

    configuration: Configuration
    path: tuple[Any, ...]  # trials of the same one walk it together until the shorter pretraining ends
    first: bool  # the study file names it
    ruler: Ruler

    @property
    def pretraining(self) -> int:
        """Steps of it."""
        return self.configuration.Training.pretrain_steps


class TrialFeed(RaySearcher):  # type: ignore[misc]  # Ray's class has no types
    """Feeds Ray with trials: those that wait, and the searcher's proposals; ends trials in Optuna.

    Best first: a running trial that falls behind one that waits makes way for it, and goes on later or never. A trial
    that would compute a stretch of pretraining that a running one is computing waits for it, as long as there
    is another to start; one that cannot win any more is ended without a start.
    """

    def __init__(
        self, study: Study, budget: Budget, observer: Observer, searcher: Searcher | None = None, board: Any = None
    ) -> None:
        super().__init__(metric="step", mode="max")
        folder = budget.folder
        self._study, self._folder, self._searcher, self._board = study, folder, searcher, board
        self.budget, self.observer = budget, observer
        records = folder.records(study)
        if searcher is None:
            self._waiting, self._to_propose = missing(study, folder), 0
        else:
            self._waiting = [folder.trial(record.number) for record in records if record.end == UNFINISHED]
            self._to_propose = max(0, study.search.trials - len(records))
        search = study.search
        self._best_first = searcher is not None and search.best_first.enabled and search.capping.enabled
        self._proposed, self._blind = len(records), search.startup if self._best_first else 0
        self._running: dict[str, TrialFolder] = {}  # by Ray's name
        self._steps: dict[TrialFolder, float] = {}  # of those, as they last reported
        self._waited_with: dict[TrialFolder, list[dict[str, float]]] = {}  # readings of trials that wait
        self._pretrains: set[str] = set()  # those of them whose pretraining is not over
        self._plans: dict[TrialFolder, _Plan] = {}
        self._points = points_of(study) if study.search.sharing.enabled else []
        self.stopped_because = ""
        self.run = f"run-{time.time():.3f}"
        self._best = incumbent_of(records)
        if board is not None:
            board.offer.remote(self._best)

    @property
    def left(self) -> int:
        """Trials that are still to be started."""
        return len(self._waiting) + self._to_propose

    # Ray's Searcher: its documentation says what each is for.
    # ruff: noqa: D102
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.stopped_because:
            return str(RaySearcher.FINISHED)
        if self.left <= 0:
            return self._none_to_start()
        reason = self.budget.why_not_another(next(iter(self._waiting), None))
        if reason and self._running:
            return None  # a trial that ends early may make room: Ray asks again
        if reason:
            self.stopped_because = f"{BUDGET_USED} ({reason})"
            return str(RaySearcher.FINISHED)
        trial = self._next()
        if trial is None:
            return self._none_to_start()
        self._running[trial_id] = trial
        readings = self._waited_with.pop(trial, ())
        self._steps[trial] = readings[-1]["step"] if readings else 0
        self._pretrains.add(trial_id)
        self.budget.running.add(trial)
        self._post()
        seconds = self.budget.seconds_for_a_trial()
        deadline = None if seconds is None else time.monotonic() + seconds
        told = {"trial": trial.place, "folder": self._folder.address, "deadline": deadline, "run": self.run}
        return told | {"board": board_of(self._folder), "elsewhere": cluster.has_others(self._study)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._steps[self._running[trial_id]] = result["step"]
        if trial_id in self._pretrains and result["step"] >= self._plan(self._running[trial_id]).pretraining:
            self._pretrains.discard(trial_id)
            self._post()  # what waited for its pretraining waits no more

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self._running.pop(trial_id)
        self._steps.pop(trial, None)
        self._pretrains.discard(trial_id)
        self.budget.running.discard(trial)
        self._folder.fetch(trial.place, patience=PATIENCE_S)
        if trial.outcome() is None and error:
            causes = trial.failures()
            if causes and causes[-1].startswith(NOBODYS):
                # imagery that is gone for every trial, a last GPU that is: the trial stays to be resumed
                self.stopped_because = causes[-1].partition(": ")[2]
                return
            trial.end(trial.failed())
            self._folder.send(trial.place, PATIENCE_S)
            catch_up(self._study, self._folder, [trial])
        self.budget.keep_time()
        self._folder.send(patience=PATIENCE_S)  # the clock: another machine may go on with it
        if trial.outcome() is not None:  # else it was interrupted: `resume` goes on with it
            self._end(trial)
        elif self._best_first and not error:  # it made way
            self._waiting.append(trial)
        self._post()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its experiment; what counts is in the records

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the trial records are the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the trial records are the truth."""

    def _none_to_start(self) -> str | None:
        """What Ray is told where no trial can start: one that runs may still make way, and go on later."""
        return None if self._running and self._best_first else str(RaySearcher.FINISHED)

    def _next(self) -> TrialFolder | None:
        """The trial to start, or to go on with, now; None where none is left.

        What the sampler proposes without knowing anything is asked for at once: of those the one starts that may
        reach the balance soonest, so that the others need not start once it has. What it proposes from knowledge is
        asked for one by one. What the study file names starts before all of them.
        """
        if self._searcher is not None:
            ended = [trial for trial in self._waiting if self._too_long(trial)]
            if ended:
                self._waiting = [trial for trial in self._waiting if trial not in ended]
                catch_up(self._study, self._folder, ended)
        while self._to_propose and (self._proposed < self._blind or self._wants_another()):
            proposed = self._propose()
            if proposed is not None:
                self._waiting.append(proposed)
        if not self._waiting:
            return None
        chosen = min(self._waiting, key=self._order)
        self._waiting.remove(chosen)
        return chosen

    def _order(self, trial: TrialFolder) -> tuple[bool, float, int]:
        soonest = -math.inf if self._plan(trial).first else self._soonest(trial)
        return self._overlaps(trial), soonest, trial.number

    def _wants_another(self) -> bool:
        """Whether all that wait would compute what is being computed, and not too many wait."""
        return len(self._waiting) < self.budget.slots and all(map(self._overlaps, self._waiting))

    def _soonest(self, trial: TrialFolder) -> float:
        """The step at which it may reach the balance at the earliest; in their own order where that does not count."""
        if not self._best_first:
            return 0.0
        return earliest_possible(self._readings(trial), self._plan(trial).ruler)

    def _readings(self, trial: TrialFolder) -> list[dict[str, float]]:
        """Of one that waits: read once, since they stay what they are."""
        if trial not in self._waited_with:
            self._waited_with[trial] = trial.readings()
        return self._waited_with[trial]

    def _post(self) -> None:
        """Tell the running trials, by the board, what those that wait may reach."""
        if self._best_first and self._board is not None:
            ready = [trial for trial in self._waiting if not self._overlaps(trial)]
            self._board.wait.remote([self._soonest(trial) for trial in ready])

    def _overlaps(self, trial: TrialFolder) -> bool:
        """Whether a running trial is computing what this one would compute as well."""
        own = self._plan(trial)
        reached = reach(self._points, own.pretraining)
        for other in self._running.values():
            plan = self._plan(other)
            if plan.path == own.path and self._steps[other] < min(reached, reach(self._points, plan.pretraining)):
                return True
        return False

    def _plan(self, trial: TrialFolder) -> _Plan:
        if trial not in self._plans:
            values = trial.header()["values"]
            configuration, path = self._study.configuration(values), (trial.confirms, *path_of(values))
            self._plans[trial] = _Plan(configuration, path, trial.tried_first(), Ruler.of(configuration))
        return self._plans[trial]

    def _propose(self) -> TrialFolder | None:
        """A new trial; None where it is ended at once."""
        assert self._searcher is not None
        proposal = self._searcher.propose()
        self._to_propose, self._proposed = self._to_propose - 1, self._proposed + 1
        trial = self._folder.trial(proposal.number)
        trial.create(proposal.values, proposal.proposed_by, self._study.configuration(proposal.values))
        self._folder.send(trial.place, PATIENCE_S)
        return None if self._too_long(trial) else trial

    def _too_long(self, trial: TrialFolder) -> bool:
        """Whether it can no longer win: for its pretraining and ramp alone, or for its readings; it is ended then."""
        capping, readings, plan = self._study.search.capping, self._readings(trial), self._plan(trial)
        configuration, ruler = plan.configuration, plan.ruler
        if not capping.enabled or judge(readings, ruler).reached:
            return False
        in_steps = self._study.objective.metric == "steps_to_nash"
        best = self._best if in_steps or readings else None  # else what its steps will cost is not measured yet
        cost_of = cost_in(self._study, readings, configuration.Training.pretrain_steps)
        why = why_end(readings, ruler, trial.number, best, capping, cost_of)
        if why is None:
            return False
        trial.end(outcome_of(readings, configuration, int(readings[-1]["step"]) if readings else 0, *why).as_dict())
        self._waited_with.pop(trial, None)
        self._folder.send(trial.place, PATIENCE_S)
        self._end(trial)
        self.observer.on_end(trial)
        return True

    def _end(self, trial: TrialFolder) -> None:
        """Tell Optuna and the board."""
        if self._searcher is None:
            return
        record = record_of(trial, self._study)
        self._searcher.tell(record)
        best = better(self._best, incumbent_of([record]))
        if best is not self._best:
            self._best = best
            if self._board is not None:
                self._board.offer.remote(best)


class _ObserverCallback(tune.Callback):  # type: ignore[misc]  # Ray's class has no types
    def __init__(self, observer: Observer, budget: Budget) -> None:
        self._observer, self._budget, self._folder = observer, budget, budget.folder
        self._kept = 0.0
        self._worked = time.monotonic()  # when a trial was last seen at work, or its wait was spoken of

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        now, states = time.monotonic(), {trial.status for trial in trials}
        if "RUNNING" in states or "PENDING" not in states:
            self._worked = now
        elif now - self._worked > NODE_S:
            self._worked = now
            self._observer.on_wait(NODE_S)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._observer.on_start(self._folder.named(trial.config["trial"]))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if time.monotonic() - self._kept > 1:  # readings may come faster than a disk takes notes
            self._kept = time.monotonic()
            self._budget.keep_time()
        self._observer.on_reading(self._folder.named(trial.config["trial"]), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._observer.on_end(self._folder.named(trial.config["trial"]))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._observer.on_end(self._folder.named(trial.config["trial"]))


def run_study(study: Study, folder: StudyFolder, budget: Budget, observer: Observer) -> str:
    """Search, then confirm, until all is done or the budget is used; returns why it stopped early, or nothing.

    Ray must be connected. Ctrl-C: running trials are stopped, everything recorded is kept.
    """
    resources = study.resources
    budget.slots = cluster.slots(study)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # causes are kept with the trials and shown from there
    write_atomically(folder.versions_file, json.dumps({"python": platform.python_version()} | _versions()))
    learnt = learnt_from(study, [find_study(name, folder.beside) for name in study.search.learn_from])
    searcher = Searcher(study, folder.records(study), folder.optuna_url, folder.optuna_name, learnt)
    margin = study.search.best_first.margin
    place = cluster.on_drivers_node()
    board = ray.remote(num_cpus=0, scheduling_strategy=place)(Board)
    board = board.options(name=board_of(folder), namespace=NAMESPACE).remote(margin)
    try:
        stopped = _train(TrialFeed(study, budget, observer, searcher, board), study, budget)
        ended = sum(record.end != UNFINISHED for record in folder.records(study))
        if not stopped and ended >= study.search.trials:
            stopped = _train(TrialFeed(study, budget, observer), study, budget)
            if not stopped and not missing(study, folder):
                with contextlib.suppress(OSError):  # they stay until `clean`
                    Snapshots(folder.pretraining, 0, logging.getLogger(__name__).warning).clear()
        return stopped
    finally:
        ray.kill(board)
        searcher.account(account_of_study(folder.records(study)))
        budget.keep_time()
        if 0 < resources.gpus < 1 and resources.mps:
            cluster.on_gpu_nodes(mps.end)  # the daemon that this study's trials started


def _train(feed: TrialFeed, study: Study, budget: Budget) -> str:
    """One run of Ray Tune over all that a feed has."""
    if feed.left <= 0:
        return ""
    resources = study.resources
    trainable = tune.with_resources(run_trial, {"cpu": resources.cpus, "gpu": resources.gpus})
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=feed,
            metric="step",
            mode="max",
            num_samples=-1,  # until the feed has no more
            max_concurrent_trials=budget.slots,
            reuse_actors=True,
            trial_name_creator=lambda trial: f"{study.study}-{Path(trial.config['trial']).name}",
            trial_dirname_creator=lambda trial: f"{Path(trial.config['trial']).name}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=feed.run,
            storage_path=str(budget.folder.ray_folder),
            # trials count their attempts themselves (`attempts.spent`): some are not their fault
            failure_config=tune.FailureConfig(max_failures=2 * (resources.max_failures + 1) + LOST_NODES),
            callbacks=[_ObserverCallback(feed.observer, budget)],
            verbose=0,
        ),
    ).fit()
    return feed.stopped_because


def _versions() -> dict[str, str]:
    """Of what decides the figures."""
    return {package: version(package) for package in ("torch", "ray", "optuna", "numpy")} | {"tune-srgan": __version__}
