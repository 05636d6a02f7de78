"""One trial, recorded: drives a training, hands each reading to the record, closes it properly.

Knows nothing of Ray: `train` uses it as it is, `worker.py` for a study.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from trainables.balance import Ruler, ruin_of
from trainables.errors import one_line
from trainables.imagery import Imagery, load_imagery
from trainables.merits import Quality
from trainables.outcome import End, Outcome
from trainables.pictures import picture
from trainables.schedules import phase
from trainables.schema import Configuration
from trainables.state import DamagedCheckpoint, State
from trainables.trainer import Diverged, outcome, pick_device, train
from trainables.worth import Worth, worth_of
from tune_srgan.cluster import preemption
from tune_srgan.search.sharing import SharedPretraining
from tune_srgan.store.objects import write_atomically
from tune_srgan.store.patience import PATIENCE_S, patiently
from tune_srgan.store.trial_folder import TrialFolder

CHECKPOINT_SHARE = 0.02  # of a training's time; what is lost to a kill is 50 times what a checkpoint takes
FIRST_CHECKPOINT_S = 5.0  # when what one takes is not known yet


@dataclass(frozen=True)
class Stop:
    """Why a training stops before max_steps: by an end, or, without one, paused for another trial."""

    end: End | None
    cause: str = ""


PAUSE = Stop(None)


@dataclass(frozen=True)
class Terms:
    """What is laid down for a training besides its configuration, most of it by a study."""

    deadline: float = math.inf  # what the study's budget leaves, by this clock
    now: Callable[[], float] = time.monotonic
    confirms: bool = False  # to max_steps whatever it finds, and probed there
    drawn: bool = False  # each validation, for its run on Weights & Biases
    why_stop: Callable[[State], Stop | None] = lambda state: None
    shared: Callable[[Configuration, Imagery, torch.device], SharedPretraining | None] = lambda *_: None


def train_recorded(trial: TrialFolder, terms: Terms | None = None) -> Iterator[dict[str, Any]]:
    """Train to the end, or on from the checkpoint; yields each reading after it was recorded, then writes the outcome.

    A GPU whose memory does not suffice ends it as `failed`: it would not suffice the next time either.
    """
    if trial.outcome() is not None:
        return
    configuration = trial.configuration()
    try:
        result = yield from _train(trial, configuration, terms or Terms())
    except torch.OutOfMemoryError as error:
        step = trial.last_step()
        result = Outcome(End.FAILED, step, True, None, step, cause=out_of_memory(configuration, error))
    if result is not None:
        trial.end(result)


def _train(
    trial: TrialFolder, configuration: Configuration, terms: Terms
) -> Generator[dict[str, Any], None, Outcome | None]:
    """Train; returns the outcome, None where it can go on: it is paused, or the budget ends a confirmation."""
    began = time.perf_counter()
    device = pick_device(configuration)
    imagery = load_imagery(configuration, device)
    state, shared = _begin(trial, configuration, device, terms.shared(configuration, imagery, device))
    checkpoints = _Checkpoints(trial, configuration.Training.checkpoint_every)
    ruler = Ruler.of(configuration)
    recorded = {reading["step"]: reading for reading in trial.readings()}
    # seconds that the training stood still before this reading: for its start, for the reading before this one
    waited = {"time/begin_s": time.perf_counter() - began}
    stop: Stop | None = None
    try:
        for reading in train(state, imagery, terms.confirms):
            began = time.perf_counter()
            if reading["step"] in recorded:  # made again, from the checkpoint before a kill: the record stands
                reading = state.readings[-1] = recorded[reading["step"]]
            else:
                reading |= waited
                if terms.drawn:
                    _draw(trial, state, imagery)
                trial.append(reading)
            noted = time.perf_counter()
            checkpoints.offer(state)
            if shared is not None:
                shared.offer(state)
            saved = time.perf_counter()
            yield {**reading, **_said(reading, ruler, configuration)}
            stop = _stopped_early(state, terms)
            waited = {"time/record_s": noted - began, "time/checkpoint_s": saved - noted}
            waited["time/report_s"] = time.perf_counter() - saved
            if stop is not None:
                break
    except Diverged as error:
        return outcome(state, End.DIVERGED, str(error))
    checkpoints.write(state)
    if stop is not None and stop.end is None:
        trial.note_pause()
        return None
    if stop is not None and terms.confirms:
        return None
    quality = _keep_worth(trial, worth_of(state, imagery))
    found = outcome(state) if stop is None else outcome(state, stop.end, stop.cause)
    return replace(found, quality=quality)


def _keep_worth(trial: TrialFolder, worth: Worth) -> Quality:
    """Write down what the final images are worth, but for the figures, which are part of the outcome."""
    for sheet, file in ((worth.sheet, trial.samples), (worth.maps, trial.map)):
        if sheet is not None:
            Image.fromarray(sheet).save(file)
    write_atomically(trial.worth, json.dumps({"columns": worth.columns, "spectra": worth.spectra}))
    return worth.quality


def _draw(trial: TrialFolder, state: State, imagery: Imagery) -> None:
    """A picture of the last validation, before its reading tells the tracker of it; in JPEG, for there are many."""
    sheet = picture(state, imagery)
    if sheet is None:
        return
    file = trial.picture(state.step)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(file, quality=90)
    except OSError as error:
        trial.complain(f"a picture could not be written ({error})")


def _said(reading: Mapping[str, float], ruler: Ruler, configuration: Configuration) -> dict[str, str]:
    """What a person is told beside a reading's figures: its phase, or that the image is ruined and by what."""
    ruin = ruin_of(reading, ruler)
    said = {"phase": phase(int(reading["step"]), configuration)}
    return said if ruin is None else {"phase": "ruined", "cause": ruin.cause}


class _Checkpoints:
    """Writes a training's checkpoint every so many validations; by default so often that it takes CHECKPOINT_SHARE.

    At once where the node is about to be taken away.
    """

    def __init__(self, trial: TrialFolder, every: int | None) -> None:
        self._trial, self._every = trial, every
        self._last, self._took = time.perf_counter(), FIRST_CHECKPOINT_S * CHECKPOINT_SHARE
        self._preempted = False

    def offer(self, state: State) -> None:
        """Write one, where one is due; one that cannot be written stops no training."""
        began, due = time.perf_counter(), preemption.is_announced() and not self._preempted
        self._preempted = self._preempted or due
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
    trial: TrialFolder, configuration: Configuration, device: torch.device, shared: SharedPretraining | None
) -> tuple[State, SharedPretraining | None]:
    """Begin from the trial's own checkpoint, a snapshot beyond it, or scratch; returns its part in sharing as well.

    What began on another machine or with other code shares nothing: others must not start from what it makes.
    """
    own = _from_checkpoint(trial, configuration, device)
    snapshot = shared.start(configuration, device, own.step if own else 0) if shared is not None else None
    if snapshot is None and own is not None:
        return own, shared if shared is not None and trial.began_on(shared.path) else None
    if shared is not None:
        trial.begin_path(shared.path)
    if snapshot is None:
        return State(configuration, device), shared
    _record(trial, snapshot)
    return snapshot, shared


def _from_checkpoint(trial: TrialFolder, configuration: Configuration, device: torch.device) -> State | None:
    """The state in the trial's checkpoint; None where there is none, or a damaged one."""
    if not trial.checkpoint.exists():
        return None
    try:
        state = State.load(trial.checkpoint, configuration, device)
    except DamagedCheckpoint as error:  # its steps are computed again; what was recorded of them stands
        trial.complain(str(error))
        return None
    _record(trial, state)  # its node may have been lost between sending readings and checkpoint
    return state


def _record(trial: TrialFolder, state: State) -> None:
    """Write down the readings of a state that lie beyond the record."""
    last = trial.last_step()
    for reading in state.readings:
        if reading["step"] > last:
            trial.append(reading)


def _stopped_early(state: State, terms: Terms) -> Stop | None:
    """What stops a training before max_steps."""
    if state.step >= state.configuration.Training.max_steps:
        return None
    if terms.deadline < math.inf and terms.now() > terms.deadline:
        return Stop(End.BUDGET, "the study's budget is used up")
    return terms.why_stop(state)


def out_of_memory(configuration: Configuration, error: torch.OutOfMemoryError) -> str:
    """Return what a person can do about a GPU whose memory does not suffice."""
    data = configuration.Data
    crop = data.crop_size or "as large as the tiles"
    return (
        f"out of GPU memory with Data.train_batch_size {data.train_batch_size} and Data.crop_size {crop}: "
        "make one of them smaller, or resources.gpus larger, so that fewer trials share a GPU. "
        f"({one_line(error)})"
    )
