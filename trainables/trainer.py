"""The training, read top to bottom: warm-up, pretraining, ramped game, plateau schedulers, readings, its end.

`for reading in train(state, imagery): …`. It yields, it does not call back; it ends itself and says how in
`outcome(state)`, and knows nothing of who asked for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.balance import EXPLOITABILITY, Ruler, excesses, judge, reading_gap
from trainables.errors import InvalidInput, Problem
from trainables.imagery import Imagery
from trainables.losses import image_metrics
from trainables.outcome import End, Outcome, outcome_of
from trainables.pretraining import model_of
from trainables.responses import best_response, probes
from trainables.schedules import adversarial_weight, g_warmup, watch_plateaus
from trainables.schema import Configuration
from trainables.state import State
from trainables.step import FIGURES, IN_PRETRAINING, LOSSES, Losses, Stepper
from trainables.validation import measure

D_LOSS = "discriminator/adversarial_loss"
SETTLED = 0.02  # relative change of the content loss over the last quarter of pretraining


class Diverged(Exception):
    """A loss was not finite."""

    def __init__(self, step: int, loss: str) -> None:
        super().__init__(f"{loss} is not finite at step {step}")
        self.step, self.loss = step, loss

    def __reduce__(self) -> tuple[type[Diverged], tuple[int, str]]:
        return (Diverged, (self.step, self.loss))


def pick_device(configuration: Configuration) -> torch.device:
    """Choose where a training runs, and set the number of threads, on which the bits depend.

    InvalidInput where the configuration wants a GPU that torch does not find.
    """
    if configuration.Training.threads is not None:
        torch.set_num_threads(configuration.Training.threads)
    wanted = configuration.Training.device
    if wanted == "cuda" and not torch.cuda.is_available():
        fix = "Set it to auto, which takes a GPU where there is one, or train where there is."
        raise InvalidInput([Problem("", "Training.device", "cuda, and torch finds no GPU here", "one", fix)])
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def train(state: State, imagery: Imagery, probed: bool = False) -> Iterator[dict[str, float]]:
    """Train from `state.step` to `max_steps`; yields one reading every `validate_every` steps.

    The last reading of a balance that is kept has the best response to it; `probed`: and more probes of it.
    Raises Diverged where a loss is not finite: at once on a CPU, within two plans of steps on a GPU.
    """
    configuration = state.configuration
    settings, ruler = configuration.Training, Ruler.of(configuration)
    state.scale = [imagery.low, imagery.high]
    every = settings.validate_every  # a training that goes on from a checkpoint may stand between two readings
    stepper = Stepper(state, imagery)
    if state.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(state.device)
    while state.step < settings.max_steps:
        began = time.perf_counter()
        made: list[Losses] = []
        for losses in stepper.run(min((state.step // every + 1) * every, settings.max_steps)):
            made.append(losses)
            # a GPU works on this plan while the one before is looked at
            _stop_if_not_finite(made[-2 if losses.arrived and len(made) > 1 else -1], configuration)
        _stop_if_not_finite(made[-1], configuration)
        trained = time.perf_counter()
        rows = torch.cat([losses.rows() for losses in made]).double().numpy()
        reading = {"step": float(state.step), "epoch": float((state.step - 1) // imagery.epoch_steps)}
        reading |= _means(rows) | _train_metrics(*stepper.last, state)
        reading |= measure(state, imagery) | _state_of_schedules(state) | _epoch_means(state, rows, imagery.epoch_steps)
        _watch(state, reading)
        reading |= _content_slope(state, reading) | _judgement(reading, ruler)
        if state.step == settings.max_steps:
            reading |= _certificate(state, reading, ruler, imagery, probed)
        reading["time/train_s"], reading["time/validate_s"] = trained - began, time.perf_counter() - trained
        if state.device.type == "cuda":
            # what the allocator holds, the recorded step's own pool included
            reading["memory/peak_gb"] = torch.cuda.max_memory_reserved(state.device) / 1e9
        state.readings.append(reading)
        yield reading


def outcome(state: State, end: End | None = None, cause: str = "") -> Outcome:
    """Derive how a training ended, by its readings, unless something else ended it."""
    return outcome_of(state.readings, state.configuration, state.step, end, cause, model_of(state.device))


def _stop_if_not_finite(losses: Losses, configuration: Configuration) -> None:
    """Name the first loss that is not finite."""
    for step, row in enumerate(losses.rows().tolist(), start=losses.first_step):
        playing = step > configuration.Training.pretrain_steps
        for name, value in zip(LOSSES, row[: len(LOSSES)], strict=True):
            if (playing or name in IN_PRETRAINING) and not math.isfinite(value):
                raise Diverged(step, name)


def _means(rows: NDArray[np.float64]) -> dict[str, float]:
    """Means of FIGURES, (steps, 9), since the last reading, and D's loss at the last step.

    What does not exist in pretraining is left out, not 0.
    """
    known = {name: column for name, column in zip(FIGURES, rows.T, strict=True) if not np.isnan(column).all()}
    means = {name: float(np.nanmean(column)) for name, column in known.items()}
    return means | {f"{D_LOSS}_step": float(known[D_LOSS][-1]) for _ in known.keys() & {D_LOSS}}


def _train_metrics(sr: Tensor, hr: Tensor, state: State) -> dict[str, float]:
    """Of the last step, before its update."""
    figures = image_metrics(sr, hr, state.configuration.Training.Losses, state.perceptual)
    return {f"train_metrics/{name}": value for name, value in figures.items()}


def _epoch_means(state: State, rows: NDArray[np.float64], epoch_steps: int) -> dict[str, float]:
    """Means over the steps of the epoch that ended since the last reading, of several the last; else nothing.

    Of D's loss and of both rates after each step, as Lightning reports them; D's are of the game's steps alone.
    """
    configuration = state.configuration
    steps = np.arange(state.step - len(rows) + 1, state.step + 1)
    rate_d = np.where(steps > configuration.Training.pretrain_steps, state.plateau_d.rate, math.nan)
    figures = {
        D_LOSS: rows[:, FIGURES.index(D_LOSS)],
        "lr_generator": np.array([_rate_after(step, state) for step in steps.tolist()]),
        "lr_discriminator": rate_d,
    }
    means: dict[str, float] = {}
    for part in np.split(np.arange(len(steps)), np.flatnonzero(steps % epoch_steps == 0) + 1):
        for name, values in figures.items():
            there = values[part][~np.isnan(values[part])]
            total, count = state.epoch.get(name, [0.0, 0])
            if len(there):
                state.epoch[name] = [total + float(there.sum()), count + len(there)]
        if len(part) and steps[part[-1]] % epoch_steps == 0:
            means = {f"{name}_epoch": total / count for name, (total, count) in state.epoch.items()}
            state.epoch = {}
    return means


def _rate_after(step: int, state: State) -> float:
    """G's rate after the update that makes `step`: what the next one uses, but for a plateau's cut."""
    return state.plateau_g.rate * g_warmup(step + 1, state.configuration)


def _state_of_schedules(state: State) -> dict[str, float]:
    """Phase, adversarial weight and both rates as the last update used them, and G's after it."""
    configuration = state.configuration
    figures = {
        "training/pretrain_phase": float(state.discriminator is None),
        "training/adv_loss_weight": adversarial_weight(state.step, configuration),
        "training/plateau_g": state.plateau_g.rate / configuration.Optimizers.optim_g_lr,
        "lr_generator": state.plateau_g.rate * g_warmup(state.step, configuration),
        "lr_generator_step": _rate_after(state.step, state),
    }
    if state.discriminator is not None:
        figures["lr_discriminator"] = state.plateau_d.rate
    if state.averaged is not None:
        figures["EMA/updates"] = float(max(0, state.step - configuration.Training.EMA.update_after_step))
    return figures


def _watch(state: State, reading: dict[str, float]) -> None:
    """Both schedulers' part in a reading."""
    watch_plateaus(state.plateau_g, state.plateau_d, reading, state.configuration)
    reading["training/plateau_cuts_g"] = float(state.plateau_g.cuts)
    reading["training/plateau_cuts_d"] = float(state.plateau_d.cuts)


def _content_slope(state: State, reading: dict[str, float]) -> dict[str, float]:
    """In the first reading of the game: had the content loss settled, as the guide wants?

    The relative change of the held-out content loss over the last quarter of pretraining, by least squares.
    """
    training = state.configuration.Training
    if not reading["step"] > training.pretrain_steps >= reading["step"] - training.validate_every:
        return {}
    span = max(training.pretrain_steps // 4, 3 * training.validate_every)
    seen = [r for r in state.readings if training.pretrain_steps - span <= r["step"] <= training.pretrain_steps]
    if len(seen) < 3:
        return {}
    values = np.array([r["validation/content_loss"] for r in seen])
    slope = np.polyfit([r["step"] for r in seen], values, 1)[0]
    change = float(slope * span / values.mean())
    return {"training/pretrain_slope": change, "training/pretrain_settled": float(abs(change) <= SETTLED)}


def _judgement(reading: dict[str, float], ruler: Ruler) -> dict[str, float]:
    """The meter's word on this reading."""
    figures = {f"nash/excess_{name}": value for name, value in excesses(reading, ruler).items() if math.isfinite(value)}
    gap = reading_gap(reading, ruler)
    figures["nash/balanced"] = float(gap == 0)
    if math.isfinite(gap):
        figures["nash/gap"] = gap
    return figures


def _certificate(
    state: State, reading: dict[str, float], ruler: Ruler, imagery: Imagery, probed: bool
) -> dict[str, float]:
    """The best response to a balance that is kept to this last reading."""
    # with exploitability 0 nothing is refused: is it kept but for the best response?
    if not judge([*state.readings, reading | {EXPLOITABILITY: 0.0}], ruler).kept:
        return {}
    return {EXPLOITABILITY: best_response(state, imagery)} | (probes(state, imagery) if probed else {})
