"""The guide's schedules: warm-up of G's rate, ramp of the adversarial weight, plateau cuts of both rates.

One rate has one writer: configured × warm-up(step) × plateau factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from trainables.schema import Configuration
from trainables.sections import Curve

WARMUP_FLOOR = 0.05  # of G's rate, as opensr-srgan has it


def rise(progress: float, curve: Curve) -> float:
    """Rise from 0 at progress 0 to 1 at progress 1 and after, linearly or as half a cosine."""
    progress = min(max(progress, 0.0), 1.0)
    return progress if curve == "linear" else 0.5 * (1 - math.cos(math.pi * progress))


def g_warmup(step: int, configuration: Configuration) -> float:
    """Return the factor of G's rate at the update that makes `step` (from 1), as configured; never below the floor."""
    settings = configuration.Schedulers
    if settings.g_warmup_type == "none" or not settings.g_warmup_steps:
        return 1.0
    return max(WARMUP_FLOOR, rise(step / settings.g_warmup_steps, settings.g_warmup_type))


def adversarial_weight(step: int, configuration: Configuration) -> float:
    """Return the adversarial loss's weight at the update that makes `step`: 0 in pretraining, then ramped."""
    training, losses = configuration.Training, configuration.Training.Losses
    played = step - training.pretrain_steps
    if played <= 0:
        return 0.0
    ramp = training.adv_loss_ramp_steps
    return losses.adv_loss_beta * (rise((played - 0.5) / ramp, losses.adv_loss_schedule) if ramp else 1.0)


def ema_decay(step: int, configuration: Configuration) -> float:
    """Return the decay of the averaged generator at the update that makes `step` (Polyak); early on lower.

    0 up to `update_after_step`: it is a copy until then.
    """
    ema = configuration.Training.EMA
    updates = step - ema.update_after_step
    if updates <= 0:
        return 0.0
    return min(ema.decay, (1 + updates) / (10 + updates)) if ema.use_num_updates else ema.decay


def phase(step: int, configuration: Configuration) -> str:
    """Say where a training is after `step` updates: warm-up, pretraining, ramp or game."""
    training = configuration.Training
    if step <= training.pretrain_steps:
        return "warm-up" if step < configuration.Schedulers.g_warmup_steps else "pretraining"
    return "ramp" if step < training.pretrain_steps + training.adv_loss_ramp_steps else "game"


class Plateau:
    """torch's ReduceLROnPlateau around a rate of its own; `cuts` counts how often it acted."""

    def __init__(self, rate: float, factor: float, patience: int, metric: str, configuration: Configuration) -> None:
        settings = configuration.Schedulers
        self.metric = metric
        self.cuts = 0
        # The scheduler wants an optimiser; this one holds nothing but the rate the scheduler writes.
        self._holder = torch.optim.SGD([torch.zeros(1)], lr=rate)
        self._scheduler = ReduceLROnPlateau(
            self._holder,
            mode="max" if metric.endswith(("psnr", "ssim")) else "min",
            factor=factor,
            patience=patience,
            threshold=settings.threshold,
            cooldown=settings.cooldown,
            min_lr=settings.min_lr,
        )

    @property
    def mode(self) -> str:
        """Whether more or less of what it watches is better: max or min."""
        return str(self._scheduler.mode)

    @property
    def rate(self) -> float:
        """The configured rate times all cuts so far."""
        return float(self._holder.param_groups[0]["lr"])

    def watch(self, value: float) -> bool:
        """Count one validation; returns whether it cut the rate."""
        before = self.rate
        self._scheduler.step(value)
        self.cuts += self.rate < before
        return self.rate < before

    def cut(self) -> None:
        """Cut the rate because another scheduler did, and count from here on as after a cut of its own."""
        before, cut = self.rate, max(self.rate * self._scheduler.factor, self._scheduler.min_lrs[0])
        if before - cut > self._scheduler.eps:  # as torch does it
            self._holder.param_groups[0]["lr"] = cut
        self.cuts += self.rate < before
        self._scheduler.num_bad_epochs, self._scheduler.cooldown_counter = 0, self._scheduler.cooldown

    def go_on(self, rate: float, best: float | None = None, bad: int = 0, cooling: int = 0) -> None:
        """Take another scheduler's place: its rate where that is lower, and, with `best`, what it has counted."""
        if rate < self.rate:
            self.cuts = max(1, round(math.log(rate / self.rate) / math.log(self._scheduler.factor)))
            self._holder.param_groups[0]["lr"] = rate
        if best is not None:
            self._scheduler.best, self._scheduler.num_bad_epochs, self._scheduler.cooldown_counter = best, bad, cooling

    def state_dict(self) -> dict[str, Any]:
        """Return everything that changes."""
        return {"rate": self.rate, "cuts": self.cuts, "scheduler": self._scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._holder.param_groups[0]["lr"] = state["rate"]
        self.cuts = state["cuts"]
        self._scheduler.load_state_dict(state["scheduler"])


def plateaus(configuration: Configuration) -> tuple[Plateau, Plateau]:
    """Return the plateau schedulers of G and D."""
    rates, settings = configuration.Optimizers, configuration.Schedulers
    return (
        Plateau(rates.optim_g_lr, settings.factor_g, settings.patience_g, settings.metric_g, configuration),
        Plateau(rates.optim_d_lr, settings.factor_d, settings.patience_d, settings.metric_d, configuration),
    )


def armed(step: int, configuration: Configuration) -> bool:
    """Tell whether the plateau schedulers count a validation after so many steps."""
    from_there = "game" if configuration.Schedulers.armed == "ramp_end" else "ramp"
    return phase(step, configuration) in {from_there, "game"}


def watch_plateaus(g: Plateau, d: Plateau, reading: Mapping[str, float], configuration: Configuration) -> None:
    """Let both schedulers count a validation once they are armed; with `cut: both` whichever cuts makes both cut."""
    if not armed(int(reading["step"]), configuration):
        return
    kept = [scheduler for scheduler in (g, d) if not scheduler.watch(reading[scheduler.metric])]
    if configuration.Schedulers.cut == "both" and len(kept) == 1:
        kept[0].cut()
