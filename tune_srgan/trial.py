"""One trial, recorded: drives a training, hands each reading to the record and the tracker, closes it properly.

Usable without Ray (`train`); the Ray adapter adds `tune.report`.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import socket
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from trainables.balance import Ruler, earliest_possible, judge
from trainables.configuration import Configuration
from trainables.imagery import Imagery, load_imagery
from trainables.schedules import phase
from trainables.state import State
from trainables.trainer import Diverged, End, Outcome, outcome, pick_device, train
from trainables.validation import pictures
from tune_srgan import mps
from tune_srgan.capping import NAMESPACE, cost_in, why_end
from tune_srgan.records import BUDGET_USED, StudyFolder, TrialFolder, account_of, write_atomically
from tune_srgan.sharing import SharedPretraining, Snapshots, points_of
from tune_srgan.storage import Storage
from tune_srgan.study import Study
from tune_srgan.tracking import Tracker, open_tracker

ANSWER_S = 5.0  # a board that does not answer in this time is asked no more
CONTEXT_BYTES = 600_000_000  # what a process holds of a GPU besides its tensors, about


@dataclass(frozen=True)
class Terms:
    """What a study lays down for a trial besides its configuration; a training by itself has none."""

    deadline: float = math.inf  # seconds since the epoch: what the study's budget leaves
    whole: bool = False  # to max_steps, and probed at the balance: a confirmation
    why_end: Callable[[State], tuple[End, str] | None] = lambda state: None
    makes_way: Callable[[State], bool] = lambda state: False  # whether another trial goes first now
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
    device = pick_device(configuration)
    imagery = load_imagery(configuration, device)
    shared = terms.shared(configuration, imagery, device)
    state, shared = _begin(trial, tracker, configuration, device, shared)
    every = configuration.Training.checkpoint_every
    recorded = {reading["step"]: reading for reading in trial.readings()}
    waited: dict[str, float] = {}  # seconds that the training stood still for the reading before this one
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
            if len(state.readings) % every == 0:
                state.save(trial.checkpoint)
            if shared is not None:
                shared.offer(state)
            saved = time.perf_counter()
            yield {**reading, "phase": phase(state.step, configuration)}
            why = _why_end(state, terms)
            waited = {"time/record_s": noted - began, "time/checkpoint_s": saved - noted}
            waited["time/report_s"] = time.perf_counter() - saved
            if why is not None and terms.whole:
                state.save(trial.checkpoint)
                return None
            if why is not None:
                result = outcome(state, *why)
                break
            if not _is_over(state) and terms.makes_way(state):
                state.save(trial.checkpoint)
                trial.note_pause()
                return None
    except Diverged as error:
        return outcome(state, "diverged", str(error))
    state.save(trial.checkpoint)
    if configuration.Logging.num_val_images:
        shown = pictures(state, imagery, configuration.Logging.num_val_images)
        Image.fromarray(shown.sheet).save(trial.samples)
        write_atomically(trial.samples_figures, json.dumps(shown.columns))
    return result or outcome(state)


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
    own = State.load(trial.checkpoint, configuration, device) if trial.checkpoint.exists() else None
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


def _why_end(state: State, terms: Terms) -> tuple[End, str] | None:
    """What ends a training before the balance or max_steps do."""
    if _is_over(state, terms.whole):
        return None
    if time.time() > terms.deadline:
        return "capped", BUDGET_USED
    return terms.why_end(state)


def _is_over(state: State, whole: bool = False) -> bool:
    """Whether the training ends by itself with this reading."""
    if state.step >= state.configuration.Training.max_steps:
        return True
    return not whole and judge(state.readings, Ruler.of(state.configuration)).reached


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

    folder = StudyFolder(Path(config["folder"]))
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
        for reading in train_recorded(trial, open_tracker(trial, study), _terms(study, folder, trial, config)):
            tune.report(reading)
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
        snapshots = Snapshots(Storage(str(folder.pretraining)), 1e9 * search.sharing.disk_gb, trial.complain)
        terms = replace(terms, shared=lambda *parts: SharedPretraining.of(snapshots, points, *parts))
    if search.capping.enabled and not whole:
        board, configuration = _Reader(config["board"]), trial.configuration()
        ruler, pretraining = Ruler.of(configuration), configuration.Training.pretrain_steps

        def why(state: State) -> tuple[End, str] | None:
            cost_of = cost_in(study, state.readings, pretraining)
            return why_end(state.readings, ruler, trial.number, board("best"), search.capping, cost_of)

        def makes_way(state: State) -> bool:
            earliest = earliest_possible(state.readings, ruler)
            opened = earliest <= state.step  # a window that is open is seen through
            return state.step >= pretraining and not opened and bool(board("makes_way", earliest))

        terms = replace(terms, why_end=why, makes_way=makes_way)
    return terms


class _Reader:
    """Asks the board at each reading; a trial that cannot reach it goes on."""

    def __init__(self, name: str) -> None:
        import ray

        self._board: Any = None
        with contextlib.suppress(Exception):  # no board: nothing to be capped by
            self._board = ray.get_actor(name, namespace=NAMESPACE)

    def __call__(self, method: str, *arguments: Any) -> Any:
        """The board's answer; None where nobody answers."""
        if self._board is None:
            return None
        import ray

        try:
            return ray.get(getattr(self._board, method).remote(*arguments), timeout=ANSWER_S)
        except Exception:  # whatever Ray says of an actor that is gone
            self._board = None
            return None


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
