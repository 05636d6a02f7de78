"""The runner: one Ray Tune run over the trials a study still has to train, the search first, then its confirmation.

A resumed study is a new Tune run whose first trials are the unfinished ones: the trial records say which, and each
goes on from its own checkpoint. Ray's experiment state is never read back.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its boxes are printed even when it is told to be quiet
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the trial records are the log
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a trial may end before its first reading
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # it waits seconds for trials

import ray
from ray import tune

from tune_srgan import __version__
from tune_srgan.cluster import mps, nodes
from tune_srgan.run.attempts import LOST_NODES
from tune_srgan.run.budget import Budget
from tune_srgan.run.feed import TrialFeed
from tune_srgan.run.ledger import Ledger
from tune_srgan.run.observer import Observer
from tune_srgan.search.board import NAMESPACE, Board, board_of
from tune_srgan.search.confirmation import left_to_do
from tune_srgan.search.searcher import Searcher, learnt_from
from tune_srgan.search.sharing import Snapshots
from tune_srgan.store.ending import Ending
from tune_srgan.store.objects import write_atomically
from tune_srgan.store.records import account_of_study, read_records
from tune_srgan.store.studies import find_study, study_in
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import TrialFolder
from tune_srgan.study.settings import Study

NODE_S = 300.0  # that trials wait for a node before a person is told
CLOCK_S = 1.0  # between two notes of the study's clock: readings may come faster than a disk takes notes


def run_study(ledger: Ledger, budget: Budget, observer: Observer) -> Ending | None:
    """Search, then confirm, until all is done or the budget is used; returns why it stopped early, or None.

    Where nothing better is left to propose, it returns that once what was proposed has ended, before it confirms.
    Ray must be connected. Ctrl-C: running trials are stopped, everything recorded is kept.
    """
    study, folder = ledger.study, ledger.folder
    budget.slots = nodes.slots(study)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # causes are kept with the trials and shown from there
    write_atomically(folder.versions_file, json.dumps({"python": platform.python_version()} | _versions()))
    earlier = [find_study(name, folder.beside) for name in study.search.learn_from]
    learnt = learnt_from(study, [(one := study_in(other), read_records(one, other.trials())) for other in earlier])
    searcher = Searcher(study, ledger.records().search, folder.optuna_url, folder.optuna_name, learnt)
    board = _board(study, folder)
    try:
        search = TrialFeed(ledger, budget, observer, searcher, board)
        stopped = _train(search, study, budget) or search.enough
        if stopped is None and ledger.records().ended() >= study.search.trials:
            stopped = _train(TrialFeed(ledger, budget, observer), study, budget)
            if stopped is None and not left_to_do(study, ledger.records()):
                with contextlib.suppress(OSError):  # they stay until `clean`
                    Snapshots(folder.pretraining, 0, logging.getLogger(__name__).warning).clear()
        return stopped
    finally:
        ray.kill(board)
        searcher.account(account_of_study(ledger.records().search))
        budget.keep_time()
        if 0 < study.resources.gpus < 1 and study.resources.mps:
            nodes.on_gpu_nodes(mps.end)  # the daemon that this study's trials started


def _board(study: Study, folder: StudyFolder) -> Any:
    """Start the study's board, where it does not go away with a worker's node."""
    actor = ray.remote(num_cpus=0, scheduling_strategy=nodes.on_drivers_node())(Board)
    return actor.options(name=board_of(folder.path), namespace=NAMESPACE).remote(study.search.best_first.margin)


def _train(feed: TrialFeed, study: Study, budget: Budget) -> Ending | None:
    """One run of Ray Tune over all that a feed has; returns why it stopped before its end."""
    from tune_srgan.run.worker import run_trial  # with torch, which a driver's machine otherwise does without

    if feed.left <= 0:
        return None
    resources = study.resources
    trainable = tune.with_resources(run_trial, {"cpu": resources.cpus, "gpu": resources.gpus})
    tuner = tune.Tuner(
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
            storage_path=str(feed.folder.ray_folder),
            # trials count their attempts themselves (`attempts.counted`): some are not their fault
            failure_config=tune.FailureConfig(max_failures=2 * (resources.max_failures + 1) + LOST_NODES),
            callbacks=[_Callback(feed)],
            verbose=0,
        ),
    )
    tuner.fit()
    return feed.stopped


class _Callback(tune.Callback):  # type: ignore[misc]  # Ray's class has no types
    """Passes on what Ray says of trials to the observer, and keeps the study's clock."""

    def __init__(self, feed: TrialFeed) -> None:
        self._feed = feed
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
            self._feed.observer.on_wait(NODE_S)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._feed.observer.on_start(self._folder_of(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if time.monotonic() - self._kept > CLOCK_S:
            self._kept = time.monotonic()
            self._feed.budget.keep_time()
        self._feed.observer.on_reading(self._folder_of(trial), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._feed.observer.on_end(self._feed.ledger[self._folder_of(trial)])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._feed.observer.on_end(self._feed.ledger[self._folder_of(trial)])

    def _folder_of(self, trial: Any) -> TrialFolder:
        return self._feed.folder.named(trial.config["trial"])


def _versions() -> dict[str, str]:
    """Of what decides the figures."""
    return {package: version(package) for package in ("torch", "ray", "optuna", "numpy")} | {"tune-srgan": __version__}
