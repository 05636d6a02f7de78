"""One trial, recorded: drives a training, hands each reading to the record and the tracker, closes it properly.

Usable without Ray (`train`); the Ray adapter adds `tune.report`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from trainables.balance import Ruler, earliest_possible, judge
from trainables.configuration import Configuration, is_url
from trainables.imagery import Imagery, load_imagery
from trainables.schedules import phase
from trainables.state import DamagedCheckpoint, State
from trainables.trainer import Diverged, End, Outcome, outcome, pick_device, train
from trainables.validation import pictures
from tune_srgan import mps
from tune_srgan.capping import NAMESPACE, Incumbent, cost_in, why_end
from tune_srgan.mirror import PATIENCE_S, Sender, mirror_of, patiently, workers_copy
from tune_srgan.records import BUDGET_USED, StudyFolder, TrialFolder, account_of
from tune_srgan.sharing import SharedPretraining, Snapshots, points_of
from tune_srgan.storage import write_atomically
from tune_srgan.study import Study
from tune_srgan.tracking import Tracker, open_tracker, sweep_file

ANSWER_S = 5.0  # a board that does not answer in this time is asked no more
Stop = tuple[End, str] | Literal["makes way"] | None  # it ends, another trial goes first, it goes on
CHECKPOINT_SHARE = 0.02  # of a training's time; what is lost to a kill is 50 times what a checkpoint takes
FIRST_CHECKPOINT_S = 5.0  # when what one takes is not known yet
CONTEXT_BYTES = 600_000_000  # what a process holds of a GPU besides its tensors, about


@dataclass(frozen=True)
class Terms:
    """What a study lays down for a trial besides its configuration; a training by itself has none."""

    deadline: float = math.inf  # seconds since the epoch: what the study's budget leaves
    whole: bool = False  # to max_steps, and probed at the balance: a confirmation
    why_stop: Callable[[State], Stop] = lambda state: None
    shared: Callable[[Configuration, Imagery, torch.device], SharedPretraining | None] = lambda *_: None


def train_recorded(trial: TrialFolder, tracker: Tracker, terms: Terms | None = None) -> Iterator[dict[str, Any]]:
    """Train to the end, or on from the checkpoint; yields each reading after it was recorded, then writes the outcome.

    A GPU whose memory does not suffice ends it as `failed`: it would not suffice the next time either.
    """
    if trial.outcome() is not None:
        return
    configuration = trial.configuration()
    try:
        result = yield from _train(trial, tracker, configuration, terms or Terms())
    except torch.OutOfMemoryError as error:
        step = trial.last_step()
        result = Outcome("failed", step, True, None, step, cause=out_of_memory(configuration, error))
    if result is None:
        return
    trial.end(result.as_dict())
    account = account_of(trial.readings(), result.as_dict(), configuration.Training.max_steps)
    tracker.finish(result.as_dict() | {f"steps/{kind}": steps for kind, steps in account.items()}, trial.samples)


def _train(
    trial: TrialFolder, tracker: Tracker, configuration: Configuration, terms: Terms
) -> Generator[dict[str, Any], None, Outcome | None]:
    """The training; returns its outcome, None where it can go on: it makes way, or the budget ends a confirmation."""
    began = time.perf_counter()
    device = pick_device(configuration)
    imagery = load_imagery(configuration, device)
    shared = terms.shared(configuration, imagery, device)
    state, shared = _begin(trial, tracker, configuration, device, shared)
    checkpoints = _Checkpoints(trial.checkpoint, configuration.Training.checkpoint_every)
    recorded = {reading["step"]: reading for reading in trial.readings()}
    # seconds that the training stood still before this reading: for its start, for the reading before this one
    waited = {"time/begin_s": time.perf_counter() - began}
    result: Outcome | None = None
    try:
        for reading in train(state, imagery, terms.whole):
            began = time.perf_counter()
            if reading["step"] in recorded:  # made again, from the checkpoint before a kill: the record stands
                reading = state.readings[-1] = recorded[reading["step"]]
            else:
                reading |= waited
                trial.append(reading)
            tracker.log(reading)
            noted = time.perf_counter()
            checkpoints.offer(state)
            if shared is not None:
                shared.offer(state)
            saved = time.perf_counter()
            yield {**reading, "phase": phase(state.step, configuration)}
            why = _why_stop(state, terms)
            waited = {"time/record_s": noted - began, "time/checkpoint_s": saved - noted}
            waited["time/report_s"] = time.perf_counter() - saved
            if why is not None and (terms.whole or why == "makes way"):
                state.save(trial.checkpoint)
                if why == "makes way":
                    trial.note_pause()
                return None
            if isinstance(why, tuple):
                result = outcome(state, *why)
                break
    except Diverged as error:
        return outcome(state, "diverged", str(error))
    state.save(trial.checkpoint)
    if configuration.Logging.num_val_images:
        shown = pictures(state, imagery, configuration.Logging.num_val_images)
        Image.fromarray(shown.sheet).save(trial.samples)
        write_atomically(trial.samples_figures, json.dumps(shown.columns))
    return result or outcome(state)


class _Checkpoints:
    """Writes a training's checkpoint every so many validations; by default so often that it takes CHECKPOINT_SHARE."""

    def __init__(self, path: Path, every: int | None) -> None:
        self._path, self._every = path, every
        self._last, self._took = time.perf_counter(), FIRST_CHECKPOINT_S * CHECKPOINT_SHARE

    def offer(self, state: State) -> None:
        """Write one, where one is due."""
        began = time.perf_counter()
        if len(state.readings) % self._every if self._every else began - self._last < self._took / CHECKPOINT_SHARE:
            return
        state.save(self._path)
        self._last = time.perf_counter()
        self._took = self._last - began


def _begin(
    trial: TrialFolder,
    tracker: Tracker,
    configuration: Configuration,
    device: torch.device,
    shared: SharedPretraining | None,
) -> tuple[State, SharedPretraining | None]:
    """From its own checkpoint, from a snapshot that lies beyond it, or from scratch; and its part in sharing.

    What began on another machine or with other code shares nothing: others must not start from what it makes.
    """
    own = None
    if trial.checkpoint.exists():
        try:
            own = State.load(trial.checkpoint, configuration, device)
        except DamagedCheckpoint as error:  # its steps are computed again; what was recorded of them stands
            trial.complain(str(error))
    found = shared.start(configuration, device, own.step if own else 0) if shared is not None else None
    if found is None and own is not None:
        return own, shared if shared is not None and trial.path_file_says(shared.path) else None
    if shared is not None:
        write_atomically(trial.path_file, shared.path)
    if found is None:
        return State(configuration, device), shared
    first = trial.last_step()
    for reading in found.readings:
        if reading["step"] > first:
            trial.append(reading)
            tracker.log(reading)
    return found, shared


def _why_stop(state: State, terms: Terms) -> Stop:
    """What stops a training before the balance or max_steps do."""
    if state.step >= state.configuration.Training.max_steps:
        return None
    if not terms.whole and judge(state.readings, Ruler.of(state.configuration)).reached:
        return None
    if time.time() > terms.deadline:
        return "capped", BUDGET_USED
    return terms.why_stop(state)


def out_of_memory(configuration: Configuration, error: torch.OutOfMemoryError) -> str:
    """What a person can do about it."""
    data = configuration.Data
    return (
        f"out of GPU memory with Data.train_batch_size {data.train_batch_size} and Data.crop_size {data.crop_size}: "
        "make one of them smaller, or resources.gpus larger, so that fewer trials share a GPU. "
        f"({' '.join(str(error).split())[:160]})"
    )


def run_trial(config: dict[str, Any]) -> None:
    """The Ray adapter: what a worker runs for the trial in `trial`, a folder of the study in `folder`."""
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
    if folder.spent_attempts(trial, config["run"]) > study.resources.max_failures:
        trial.end(trial.failed())
        return
    trial.begin_attempt(config["run"])
    share = study.resources.gpus
    if 0 < share < 1:
        if study.resources.mps:
            mps.join()
        if torch.cuda.is_available():
            context = CONTEXT_BYTES / torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(max(share - context, share / 2))
    try:
        if share and trial.configuration().Training.device != "cpu" and not torch.cuda.is_available():
            by_mps = f", through the MPS daemon of {os.environ[mps.PIPES]}" if mps.PIPES in os.environ else ""
            raise RuntimeError(f"this worker was given a GPU, but torch finds none{by_mps}")
        with _Reporter(tell) as report:
            for reading in train_recorded(trial, open_tracker(trial, study), _terms(study, folder, trial, config)):
                report(reading)
                offer()
    except Exception as error:
        with contextlib.suppress(OSError):
            # Ray tries again, from the checkpoint; the cause stays with the trial
            trial.note_failure(error, _device() if _is_fault(error) else "")
        raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # a reused worker keeps its process


def _terms(study: Study, folder: StudyFolder, trial: TrialFolder, config: dict[str, Any]) -> Terms:
    """A study's terms for one of its trials."""
    search, whole = study.search, trial.confirms > 0
    deadline = math.inf if config["deadline"] is None else config["deadline"]
    terms = Terms(deadline, whole)
    if search.sharing.enabled:
        points = points_of(study)
        snapshots = Snapshots(folder.pretraining, 1e9 * search.sharing.disk_gb, trial.complain)
        terms = replace(terms, shared=lambda *parts: SharedPretraining.of(snapshots, points, *parts))
    if search.capping.enabled and not whole:
        board, configuration = _Reader(config["board"]), trial.configuration()
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
        if self._board is None:
            return None, False
        import ray

        try:
            answer: tuple[Incumbent | None, bool] = ray.get(self._board.answer.remote(earliest), timeout=ANSWER_S)
        except Exception:  # whatever Ray says of an actor that is gone
            self._board = None
            return None, False
        return answer


def _is_fault(error: Exception) -> bool:
    """Whether the device failed, not the program: all who share it may see such an error."""
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def _device() -> str:
    """The device this worker was given; asking the device itself is no use after a fault."""
    return f"{socket.gethostname()}/{os.environ.get('CUDA_VISIBLE_DEVICES', '')}"


def save_generator(trial: TrialFolder, to: Path) -> None:
    """Write the generator of a finished trial with all that `upscale` needs."""
    configuration = trial.configuration()
    state = State.load(trial.checkpoint, configuration, torch.device("cpu"))
    content = {
        "generator": state.judged.state_dict(),
        "configuration": configuration.model_dump_json(),
        "low": state.scale[0],
        "high": state.scale[1],
        "step": state.step,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(to, buffer.getvalue())
