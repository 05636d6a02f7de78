"""One trial, recorded: drives a training, hands each reading to the record and the tracker, closes it properly.

Knows nothing of Ray: `train` uses it as it is, `worker.py` for a study.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from trainables.balance import Ruler, judge
from trainables.configuration import Configuration
from trainables.imagery import Imagery, load_imagery
from trainables.schedules import phase
from trainables.state import DamagedCheckpoint, State
from trainables.trainer import Diverged, End, Outcome, outcome, pick_device, train
from trainables.validation import pictures
from tune_srgan import notice
from tune_srgan.mirror import PATIENCE_S, patiently
from tune_srgan.records import BUDGET_USED, TrialFolder, account_of
from tune_srgan.sharing import SharedPretraining
from tune_srgan.storage import write_atomically
from tune_srgan.tracking import Tracker

Stop = tuple[End, str] | Literal["makes way"] | None  # it ends, another trial goes first, it goes on
CHECKPOINT_SHARE = 0.02  # of a training's time; what is lost to a kill is 50 times what a checkpoint takes
FIRST_CHECKPOINT_S = 5.0  # when what one takes is not known yet


@dataclass(frozen=True)
class Terms:
    """What a study lays down for a trial besides its configuration; a training by itself has none."""

    deadline: float = math.inf  # what the study's budget leaves, by this clock
    now: Callable[[], float] = time.monotonic
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
    checkpoints = _Checkpoints(trial, configuration.Training.checkpoint_every)
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
                checkpoints.write(state)
                if why == "makes way":
                    trial.note_pause()
                return None
            if isinstance(why, tuple):
                result = outcome(state, *why)
                break
    except Diverged as error:
        return outcome(state, "diverged", str(error))
    checkpoints.write(state)
    if configuration.Logging.num_val_images:
        shown = pictures(state, imagery, configuration.Logging.num_val_images)
        Image.fromarray(shown.sheet).save(trial.samples)
        write_atomically(trial.samples_figures, json.dumps(shown.columns))
    return result or outcome(state)


class _Checkpoints:
    """Writes a training's checkpoint every so many validations; by default so often that it takes CHECKPOINT_SHARE.

    At once where the node is about to be taken away.
    """

    def __init__(self, trial: TrialFolder, every: int | None) -> None:
        self._trial, self._every = trial, every
        self._last, self._took = time.perf_counter(), FIRST_CHECKPOINT_S * CHECKPOINT_SHARE
        self._noticed = False

    def offer(self, state: State) -> None:
        """Write one, where one is due; one that cannot be written stops no training."""
        began, due = time.perf_counter(), notice.given() and not self._noticed
        self._noticed = self._noticed or due
        if self._every:
            due = due or len(state.readings) % self._every == 0
        elif began - self._last >= self._took / CHECKPOINT_SHARE:
            due = True
        if due:
            try:
                state.save(self._trial.checkpoint)
            except OSError as error:
                self._trial.complain(f"a checkpoint could not be written ({error}); the next one may be")
            self._last = time.perf_counter()
            self._took = self._last - began

    def write(self, state: State) -> None:
        """Write one that is needed: it is what the trial goes on from, or its result."""
        patiently(lambda: state.save(self._trial.checkpoint), PATIENCE_S)


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
        else:
            for reading in own.readings:  # its node was lost between sending readings and checkpoint
                if reading["step"] > trial.last_step():
                    trial.append(reading)
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
    if terms.deadline < math.inf and terms.now() > terms.deadline:
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
