"""The probes of a balance that was kept: what each is called, and the controls without which it has measured nothing.

`responses.py` measures them. Knows no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

PROBE = "nash/probe/"
WARM_100, WARM_300, FRESH_300 = (f"{PROBE}{name}" for name in ("warm_100", "warm_300", "fresh_300"))
GAIN_D, GAIN_G = f"{PROBE}gain_d", f"{PROBE}gain_g"  # nats
GAIN_G_PRETRAINED, GAIN_G_IGNORANT = f"{GAIN_G}_pretrained", f"{GAIN_G}_ignorant"
P_G_MOVED, RANK_MOVED, PSNR_MOVED = (f"{PROBE}moved_{name}" for name in ("p_g", "rank", "psnr"))  # by G's response
GAINED = 0.01  # nats: from a live D the generator from before the game gained 0.06 or more, from a dead one 0.0001


@dataclass(frozen=True)
class Control:
    """A figure that has to lie in a range, since its truth is known beforehand; `told`: what it is, to a person."""

    figure: str
    low: float
    high: float
    told: str

    def failure(self, figures: Mapping[str, float]) -> str:
        """Say what a control found where it failed; else nothing. One that was never measured has failed."""
        found = figures.get(self.figure, math.nan)
        if self.low <= found <= self.high:
            return ""
        bounds = [f"at least {self.low:g}"] if math.isfinite(self.low) else []
        bounds += [f"at most {self.high:g}"] if math.isfinite(self.high) else []
        return f"{self.told} {found:.2g}, wanted {' and '.join(bounds)}"


def _of_d(probe: str) -> tuple[Control, Control]:
    return (
        Control(f"{probe}_bicubic", 0.95, math.inf, "rank of real over bicubic"),
        Control(f"{probe}_real", 0.4, 0.6, "rank of real over other real"),
    )


CONTROLS = {
    WARM_100: _of_d(WARM_100),
    WARM_300: _of_d(WARM_300),
    FRESH_300: _of_d(FRESH_300),
    GAIN_D: _of_d(WARM_100),
    GAIN_G: (
        Control(GAIN_G_PRETRAINED, GAINED, math.inf, "gain of the generator from before the game"),
        Control(GAIN_G_IGNORANT, -math.inf, GAINED, "gain against an ignorant discriminator"),
    ),
}


def failed(probe: str, figures: Mapping[str, float]) -> str:
    """Say which of a probe's controls failed, so that it has measured nothing; nothing where none did."""
    return "; ".join(filter(None, (control.failure(figures) for control in CONTROLS.get(probe, ()))))
