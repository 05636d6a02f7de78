"""One trial, recorded: drives a training, hands each reading to the record and the tracker, closes it properly.

Usable without Ray (`train`); the Ray adapter adds `tune.report`.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from trainables.configuration import Configuration
from trainables.imagery import load_imagery
from trainables.schedules import phase
from trainables.state import State
from trainables.trainer import Diverged, Outcome, outcome, pick_device, train
from trainables.validation import pictures
from tune_srgan import mps
from tune_srgan.records import StudyFolder, TrialFolder, write_atomically
from tune_srgan.tracking import Tracker, open_tracker

CONTEXT_BYTES = 600_000_000  # what a process holds of a GPU besides its tensors, about


def train_recorded(trial: TrialFolder, tracker: Tracker, deadline: float | None = None) -> Iterator[dict[str, Any]]:
    """Train to the end, or on from the checkpoint; yields each reading after it was recorded, then writes the outcome.

    `deadline` (seconds since the epoch) is what the study's budget leaves: past it the trial ends itself as `capped`.
    A GPU whose memory does not suffice ends it as `failed`: it would not suffice the next time either.
    """
    if trial.outcome() is not None:
        return
    configuration = trial.configuration()
    try:
        result = yield from _train(trial, tracker, configuration, deadline)
    except torch.OutOfMemoryError as error:
        step = trial.last_step()
        result = Outcome("failed", step, True, None, step, cause=out_of_memory(configuration, error))
    trial.end(result.as_dict())
    tracker.finish(result.as_dict(), trial.samples)


def _train(
    trial: TrialFolder, tracker: Tracker, configuration: Configuration, deadline: float | None
) -> Generator[dict[str, Any], None, Outcome]:
    device = pick_device(configuration)
    imagery = load_imagery(configuration, device)
    state = (
        State.load(trial.checkpoint, configuration, device)
        if trial.checkpoint.exists()
        else State(configuration, device)
    )
    every = configuration.Training.checkpoint_every
    recorded = {reading["step"]: reading for reading in trial.readings()}
    waited: dict[str, float] = {}  # seconds that the training stood still for the reading before this one
    result: Outcome | None = None
    try:
        for reading in train(state, imagery):
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
            saved = time.perf_counter()
            yield {**reading, "phase": phase(state.step, configuration)}
            waited = {"time/record_s": noted - began, "time/checkpoint_s": saved - noted}
            waited["time/report_s"] = time.perf_counter() - saved
            if deadline is not None and time.time() > deadline and outcome(state).censored:
                result = outcome(state, "capped", "the study's budget is used up")
                break
    except Diverged as error:
        return outcome(state, "diverged", str(error))
    state.save(trial.checkpoint)
    if configuration.Logging.num_val_images:
        Image.fromarray(pictures(state, imagery, configuration.Logging.num_val_images)).save(trial.samples)
    return result or outcome(state)


def out_of_memory(configuration: Configuration, error: torch.OutOfMemoryError) -> str:
    """What a person can do about it."""
    data = configuration.Data
    return (
        f"out of GPU memory with Data.train_batch_size {data.train_batch_size} and Data.crop_size {data.crop_size}: "
        "make one of them smaller, or resources.gpus larger, so that fewer trials share a GPU. "
        f"({' '.join(str(error).split())[:160]})"
    )


def run_trial(config: dict[str, Any]) -> None:
    """The Ray adapter: what a worker runs for trial `number` of the study in `folder`."""
    from ray import tune

    folder = StudyFolder(Path(config["folder"]))
    trial, study = folder.trial(config["number"]), folder.study()
    if folder.spent_attempts(trial.number, config["run"]) > study.resources.max_failures:
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
            shared = f", through the MPS daemon of {os.environ[mps.PIPES]}" if mps.PIPES in os.environ else ""
            raise RuntimeError(f"this worker was given a GPU, but torch finds none{shared}")
        for reading in train_recorded(trial, open_tracker(trial, study), config["deadline"]):
            tune.report(reading)
    except Exception as error:
        with contextlib.suppress(OSError):
            # Ray tries again, from the checkpoint; the cause stays with the trial
            trial.note_failure(error, _device() if _is_fault(error) else "")
        raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # a reused worker keeps its process


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
