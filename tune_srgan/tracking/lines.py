"""A reading as a line of a run on Weights & Biases: its figures, under opensr-srgan's names as well as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainables.balance import Ruler
from trainables.schedules import ema_decay
from trainables.schema import Configuration
from tune_srgan.tracking.marks import BALANCE_LINE

X_AXIS = "trainer/global_step"  # that Lightning's logger draws everything over: batches before this one
THERE = {"lr_discriminator": "lr_discriminator_step"}  # what opensr-srgan calls a figure of a reading


def line_of(reading: Mapping[str, float], configuration: Configuration) -> dict[str, float]:
    """Return what is logged of a reading: all of it but `step`, which is the line's own, and what follows from it."""
    step = int(reading["step"])
    line = {key: value for key, value in reading.items() if key != "step"}
    line |= {there: reading[here] for here, there in THERE.items() if here in reading}
    if "nash/p_y" in reading:
        line[BALANCE_LINE] = Ruler.of(configuration).balance_point
    return line | {X_AXIS: float(step - 1)} | _ema(step, configuration)


def define_axis(run: Any) -> None:
    """Let a run's panels have opensr-srgan's axis."""
    run.define_metric(X_AXIS)
    run.define_metric("*", step_metric=X_AXIS, step_sync=True)


def _ema(step: int, configuration: Configuration) -> dict[str, float]:
    """The state of the averaged generator after `step` updates, as opensr-srgan's page on training documents it."""
    ema = configuration.Training.EMA
    if not ema.enabled:
        return {"EMA/enabled": 0.0}
    updates = max(0, step - ema.update_after_step)
    figures = {
        "enabled": 1.0,
        "decay": ema.decay,
        "update_after_step": float(ema.update_after_step),
        "use_num_updates": float(ema.use_num_updates),
        "is_active": float(updates > 0),
        "steps_until_activation": float(max(0, ema.update_after_step - step)),
        "num_updates": float(updates),
    }
    if updates:
        figures["last_decay"] = ema_decay(step, configuration)
    return {f"EMA/{name}": value for name, value in figures.items()}
