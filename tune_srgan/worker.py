"""The Ray adapter of a training: what a worker runs for one trial.

Its folder, its share of a GPU, its reports to Ray, what the board says, and what becomes of an attempt that fails.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trainables.balance import Ruler, earliest_possible
from trainables.configuration import is_url
from trainables.errors import InvalidInput, Problem
from trainables.state import State
from tune_srgan import attempts, cluster, mps
from tune_srgan.attempts import DeviceLost
from tune_srgan.capping import NAMESPACE, Incumbent, cost_in, why_end
from tune_srgan.mirror import PATIENCE_S, Sender, mirror_of, patiently, workers_copy
from tune_srgan.records import StudyFolder, TrialFolder
from tune_srgan.sharing import SharedPretraining, Snapshots, points_of
from tune_srgan.study import Study
from tune_srgan.tracking import open_tracker, sweep_file
from tune_srgan.trial import Stop, Terms, train_recorded

ANSWER_S = 5.0  # a board that does not answer in this time is asked no more
CONTEXT_BYTES = 600_000_000  # what a process holds of a GPU besides its tensors, about
NO_GPU = "this worker was given a GPU, but torch finds none"
FAULTS = ("CUDA error", "CUDA driver error", "Triton Error [CUDA]", NO_GPU)


def run_trial(config: dict[str, Any]) -> None:
    """What a worker runs for the trial in `trial`, a folder of the study in `folder`."""
    from ray import tune

    with _at_work(config["folder"], config["trial"]) as (folder, offer):
        _run(folder, config, tune.report, offer)


@contextlib.contextmanager
def _at_work(address: str, place: str) -> Iterator[tuple[StudyFolder, Callable[[], None]]]:
    """The folder in which a worker is at work on a trial, and what is called when there is something new in it.

    Of a study in an object store a copy of this attempt's own: one that was thought dead may still be at work.
    """
    if not is_url(address):
        yield StudyFolder(Path(address)), lambda: None
        return
    folder = StudyFolder(workers_copy(address))
    mirror, trial = mirror_of(folder.path), folder.named(place)
    assert mirror is not None
    for name in (folder.study_file, sweep_file(folder)):
        patiently(functools.partial(mirror.fetch_file, name.name), PATIENCE_S)
    folder.fetch(place, heavy=True, patience=PATIENCE_S)
    try:
        with Sender(mirror, place) as sender:
            yield folder, sender.offer
    finally:
        trial.checkpoint.unlink(missing_ok=True)  # the tracker may still read the rest


def _run(
    folder: StudyFolder, config: dict[str, Any], tell: Callable[[dict[str, Any]], None], offer: Callable[[], None]
) -> None:
    trial, study = folder.named(config["trial"]), folder.study()
    node, alive = cluster.whereabouts()
    if attempts.spent(folder, trial, config["run"], alive) > study.resources.max_failures:
        trial.end(trial.failed())
        return
    trial.begin_attempt(config["run"], node)
    try:
        _take_share(study, trial)
        with _Reporter(tell) as report:
            for reading in train_recorded(trial, open_tracker(trial, study), _terms(study, folder, trial, config)):
                report(reading)
                offer()
    except Exception as error:
        found = _lost(error) or error
        with contextlib.suppress(OSError):
            # Ray tries again, from the checkpoint; the cause stays with the trial
            trial.note_failure(found, _device() if _is_fault(found) else "")
        if isinstance(found, DeviceLost) and config["elsewhere"]:
            cluster.close_this_node(str(found))
        raise found from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # a reused worker keeps its process


def _take_share(study: Study, trial: TrialFolder) -> None:
    """Keep to the share of a GPU that a trial was given; whoever was given one has one."""
    share = study.resources.gpus
    if 0 < share < 1:
        if study.resources.mps:
            mps.join()
        if torch.cuda.is_available():
            context = CONTEXT_BYTES / torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(max(share - context, share / 2))
    if not share or trial.configuration().Training.device == "cpu" or torch.cuda.is_available():
        return
    if torch.version.cuda is None:
        host, fix = socket.gethostname(), "Install torch with CUDA on every node."
        raise InvalidInput([Problem(host, "resources.gpus", "a torch without CUDA", "one that can use a GPU", fix)])
    by_mps = f", through the MPS daemon of {os.environ[mps.PIPES]}" if mps.PIPES in os.environ else ""
    raise RuntimeError(f"{NO_GPU}{by_mps}")


def _terms(study: Study, folder: StudyFolder, trial: TrialFolder, config: dict[str, Any]) -> Terms:
    """A study's terms for one of its trials."""
    search, whole = study.search, trial.confirms > 0
    board = _Reader(config["board"])
    terms = Terms(math.inf if config["deadline"] is None else config["deadline"], board.now, whole)
    if search.sharing.enabled:
        points = points_of(study)
        snapshots = Snapshots(folder.pretraining, 1e9 * search.sharing.disk_gb, trial.complain)
        terms = replace(terms, shared=lambda *parts: SharedPretraining.of(snapshots, points, *parts))
    if search.capping.enabled and not whole:
        configuration = trial.configuration()
        ruler, pretraining = Ruler.of(configuration), configuration.Training.pretrain_steps
        stays = trial.tried_first()

        def why_stop(state: State) -> Stop:
            earliest = earliest_possible(state.readings, ruler)
            # a window that is open is seen through, and so is a baseline, until it is capped
            yields = not stays and state.step >= pretraining and earliest > state.step
            incumbent, makes_way = board(earliest if yields else -math.inf)
            cost_of = cost_in(study, state.readings, pretraining)
            why = why_end(state.readings, ruler, trial.number, incumbent, search.capping, cost_of)
            return why or ("makes way" if makes_way else None)

        terms = replace(terms, why_stop=why_stop)
    return terms


class _Reporter:
    """Tells Ray of readings from a thread of its own: a training does not wait for a driver that has much to do.

    A reading that Ray had no time for gives way to the next one; the last one always arrives.
    """

    def __init__(self, report: Callable[[dict[str, Any]], None]) -> None:
        self._report = report
        self._news = threading.Condition()
        self._latest: dict[str, Any] | None = None
        self._closed = False
        self._error: BaseException | None = None  # Ray ends a trial by SystemExit
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> _Reporter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join()

    def __call__(self, reading: dict[str, Any]) -> None:
        """Take it; ends the training where Ray has ended the trial."""
        with self._news:
            if self._error is not None:
                raise self._error
            self._latest = reading
            self._news.notify()

    def _send(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._latest is not None or self._closed)
                reading, self._latest = self._latest, None
            if reading is None:
                return
            try:
                self._report(reading)
            except BaseException as error:
                self._error = error
                return


class _Reader:
    """Asks the board at each reading; a trial that cannot reach it goes on."""

    def __init__(self, name: str) -> None:
        import ray

        self._board: Any = None
        with contextlib.suppress(Exception):  # no board: nothing to be capped by
            self._board = ray.get_actor(name, namespace=NAMESPACE)

    def __call__(self, earliest: float) -> tuple[Incumbent | None, bool]:
        """The incumbent, and whether a trial with that bound makes way; neither where nobody answers."""
        return self._ask("answer", earliest) or (None, False)

    def now(self) -> float:
        """The driver's clock, by which a deadline is told: this machine's may be another; −∞ where nobody answers."""
        found = self._ask("now")
        return -math.inf if found is None else float(found)

    def _ask(self, method: str, *arguments: object) -> Any:
        if self._board is None:
            return None
        import ray

        try:
            return ray.get(getattr(self._board, method).remote(*arguments), timeout=ANSWER_S)
        except Exception:  # whatever Ray says of an actor that is gone
            self._board = None
            return None


def _is_fault(error: BaseException) -> bool:
    """Whether the device failed, not the program: all who share it may see such an error."""
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in FAULTS)


def _lost(error: Exception) -> DeviceLost | None:
    """What a fault is where the GPU answers nobody any more, not even a new process."""
    if not _is_fault(error) or mps.gpu_answers():
        return None
    return DeviceLost(f"the GPU of {_device()} answers nobody any more ({' '.join(str(error).split())[:200]})")


def _device() -> str:
    """The device this worker was given; asking the device itself is no use after a fault."""
    return f"{socket.gethostname()}/{os.environ.get('CUDA_VISIBLE_DEVICES', '')}"
