"""A few real steps of both phases and one validation: what a trial of this configuration takes of a device."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from trainables.imagery import Imagery
from trainables.responses import best_response
from trainables.schema import Configuration
from trainables.state import State
from trainables.step import Stepper
from trainables.validation import measure

UNTIMED, TIMED = 30, 50  # steps of each phase; in the first, libraries choose kernels and the step is recorded


@dataclass(frozen=True)
class Rehearsal:
    """Seconds of a step and of a validation, and the most memory held at once; None on a CPU."""

    pretraining_step_s: float
    game_step_s: float
    validation_s: float
    peak_bytes: int | None


def rehearse(configuration: Configuration, imagery: Imagery, device: torch.device) -> Rehearsal:
    """Train a moment; nothing is kept."""
    steps = UNTIMED + TIMED
    training = configuration.Training.model_copy(
        update={"pretrain_g_only": True, "g_pretrain_steps": steps, "max_steps": 2 * steps}
    )
    state = State(configuration.model_copy(update={"Training": training}), device)
    stepper = Stepper(state, imagery)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    pretraining = _timed(stepper, UNTIMED, steps)
    game = _timed(stepper, steps + UNTIMED, 2 * steps)
    measure(state, imagery)  # the first one chooses kernels
    began = time.perf_counter()
    measure(state, imagery)
    validation = time.perf_counter() - began
    best_response(state, imagery)
    peak = torch.cuda.max_memory_reserved(device) if on_gpu else None
    return Rehearsal(pretraining, game, validation, peak)


def _timed(stepper: Stepper, begin: int, end: int) -> float:
    for losses in stepper.run(begin):
        losses.rows()
    began = time.perf_counter()
    for losses in stepper.run(end):
        losses.rows()
    return (time.perf_counter() - began) / (end - begin)
