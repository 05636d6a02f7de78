"""One trial, recorded: drives a training, hands each reading to the record and the tracker, closes it properly.

Usable without Ray (`train`); the Ray adapter adds `tune.report`.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from trainables.imagery import Imagery, load_imagery
from trainables.schedules import phase
from trainables.state import State
from trainables.trainer import Diverged, Outcome, outcome, pick_device, train
from trainables.validation import pictures
from tune_srgan.records import StudyFolder, TrialFolder, write_atomically
from tune_srgan.tracking import Tracker, open_tracker


def train_recorded(trial: TrialFolder, tracker: Tracker, deadline: float | None = None) -> Iterator[dict[str, Any]]:
    """Train to the end, or on from the checkpoint; yields each reading after it was recorded, then writes the outcome.

    `deadline` (seconds since the epoch) is what the study's budget leaves: past it the trial ends itself as `capped`.
    """
    if trial.outcome() is not None:
        return
    configuration = trial.configuration()
    device = pick_device(configuration)
    imagery = load_imagery(configuration, device)
    state = (
        State.load(trial.checkpoint, configuration, device)
        if trial.checkpoint.exists()
        else State(configuration, device)
    )
    every = configuration.Training.checkpoint_every
    recorded = {reading["step"]: reading for reading in trial.readings()}
    result: Outcome | None = None
    try:
        for reading in train(state, imagery):
            if reading["step"] in recorded:  # made again, from the checkpoint before a kill: the record stands
                reading = state.readings[-1] = recorded[reading["step"]]
            else:
                trial.append(reading)
            tracker.log(reading)
            if len(state.readings) % every == 0:
                state.save(trial.checkpoint)
            yield {**reading, "phase": phase(state.step, configuration)}
            if deadline is not None and time.time() > deadline and outcome(state).censored:
                result = outcome(state, "capped", "the study's budget is used up")
                break
    except Diverged as error:
        result = outcome(state, "diverged", str(error))
    _close(trial, tracker, state, imagery, result or outcome(state))


def _close(trial: TrialFolder, tracker: Tracker, state: State, imagery: Imagery, result: Outcome) -> None:
    if result.end != "diverged":
        state.save(trial.checkpoint)
        if state.configuration.Logging.num_val_images:
            Image.fromarray(pictures(state, imagery, state.configuration.Logging.num_val_images)).save(trial.samples)
    trial.end(result.as_dict())
    tracker.finish(result.as_dict(), trial.samples)


def run_trial(config: dict[str, Any]) -> None:
    """The Ray adapter: what a worker runs for trial `number` of the study in `folder`."""
    from ray import tune

    folder = StudyFolder(Path(config["folder"]))
    trial = folder.trial(config["number"])
    try:
        for reading in train_recorded(trial, open_tracker(trial, folder.study()), config["deadline"]):
            tune.report(reading)
    except Exception as error:
        with contextlib.suppress(OSError):
            trial.note_failure(error)  # Ray tries again, from the checkpoint; the cause stays with the trial
        raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # a reused worker keeps its process


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
