"""Figures of merit of super-resolved images: what each is, its unit, and which way it is better. Knows no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

QUALITY = "quality/"  # before a figure's name, wherever it stands among others
BICUBIC, PRETRAINED, END = "bicubic", "after pretraining", "at the end"  # images that are measured
TEST = "at the end, test set"
TRUTH = "truth"
Quality = Mapping[str, Mapping[str, float]]  # by image, then by figure


class Better(StrEnum):
    """Which way a figure is better."""

    HIGHER = "higher"
    LOWER = "lower"
    ZERO = "nearer to 0"


@dataclass(frozen=True)
class Merit:
    """A figure of merit."""

    unit: str
    better: Better
    what: str

    def loss(self, value: float) -> float:
        """Return a number that is the smaller, the better the figure."""
        return {Better.HIGHER: -value, Better.LOWER: value, Better.ZERO: abs(value)}[self.better]


MERITS = {
    "psnr": Merit("dB", Better.HIGHER, "peak signal-to-noise ratio"),
    "spectrum": Merit("dB", Better.ZERO, "power above the low-resolution image's Nyquist frequency, against truth's"),
}


def loss_of(key: str, quality: Quality, image: str = END) -> float:
    """Return how bad an image is by a figure, as `quality/psnr` names it: smaller is better; nan where it has none."""
    name = key.removeprefix(QUALITY)
    return MERITS[name].loss(quality.get(image, {}).get(name, math.nan))


def short_of(key: str, quality: Quality, floor: float | str) -> float:
    """Return by how much the final images miss a floor, in the figure's unit: a number, or another image's name.

    0 and less where they are as good; nan where either was not measured.
    """
    name = key.removeprefix(QUALITY)
    bound = loss_of(key, quality, floor) if isinstance(floor, str) else MERITS[name].loss(floor)
    return loss_of(key, quality) - bound
