"""Images held against one another: those of other values or of other ground than the rest are refused.

A network has one scale: what is uint8 beside reflectances would be black, or white, to it, and no figure would say so.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.errors import Problem
from trainables.image_files import Mask, ground
from trainables.rasters import Ground

OTHER_TYPE, SAME_TYPE = 4.0, 100.0  # times as large or small as the others: another unit; else a dark or bright place
OTHER_SIDE = 4.0  # the same, of the two images of a pair, which are of one place
Ends = Sequence[float]  # of a scale: low and high
SEEN = 100_000  # values of an image, about
COMMON = 0.5  # of the smaller one's ground, at least


@dataclass(frozen=True)
class Values:
    """What numbers an image has: their type, and the 1st and 99th percentiles of the valid ones."""

    file: Path
    dtype: str
    low: float
    high: float

    @classmethod
    def of(cls, file: Path, image: NDArray[Any], valid: Mask) -> Values:
        """Look at an image, (bands, H, W), thinned, where it is valid (H, W)."""
        thin = max(1, round((image.size / SEEN) ** 0.5))
        seen = image[:, ::thin, ::thin][:, valid[::thin, ::thin]]
        low, high = np.percentile(seen.astype(float), [1, 99]) if seen.size else (0.0, 0.0)
        return cls(file, image.dtype.name, float(low), float(high))

    def size(self, scale: Ends | None = None) -> float:
        """How large they are, or how large as parts of a scale, from its low to its high end."""
        low, high = scale or (0.0, 1.0)
        return max(abs(self.low - low), abs(self.high - low)) / (high - low)

    def __str__(self) -> str:
        """Type and percentiles, as a person reads them."""
        return f"{self.dtype}, mostly {self.low:.4g} to {self.high:.4g}"


def unlike(every: Sequence[Values], key: str) -> list[Problem]:
    """Return a problem for each image whose values are in another unit than those of most."""
    sizes = {values: size for values in every if (size := values.size()) > 0}
    if len(sizes) < 2:
        return []
    middle = statistics.median_low(sizes.values())
    usual = next(values for values, size in sizes.items() if size == middle)
    problems = []
    for values, size in sizes.items():
        limit = SAME_TYPE if values.dtype == usual.dtype else OTHER_TYPE
        if max(size / middle, middle / size) > limit:
            expected = f"values in the unit of {usual.file.name} ({usual})"
            fix = "Bring all to one unit and type, train each sensor by itself, or leave files out by Data.exclude."
            problems.append(Problem(str(values.file), key, str(values), expected, fix))
    return problems


def unpaired(low: Values, high: Values, lr_scale: Ends | None, hr_scale: Ends | None) -> list[Problem]:
    """Return what is wrong with a pair's images beside one another: other values, another place.

    `lr_scale`: of LR by itself; values are then parts of both scales, and unknown where HR has none yet.
    """
    problems = []
    one, other = (low.size(), high.size()) if lr_scale is None else (low.size(lr_scale), high.size(hr_scale))
    known = one > 0 and other > 0 and (lr_scale is None or hr_scale is not None)
    if known and max(one / other, other / one) > OTHER_SIDE:
        fix = "Bring both to one unit; or, where LR has a scale of its own, name that: Data.lr_scale: [low, high]."
        problems.append(Problem(str(low.file), "Data.lr_scale", str(low), f"the values of its HR image ({high})", fix))
    here, there = ground(low.file), ground(high.file)
    if here is not None and there is not None and (found := _apart(here, there)):
        fix = "Pair images of one place; warp LR onto the coordinate reference system of HR where that is another."
        expected = f"the ground of its HR image {high.file.name}"
        problems.append(Problem(str(low.file), "Data.root_dir", found, expected, fix))
    return problems


def _apart(one: Ground, other: Ground) -> str:
    """How the ground of two images differs; empty where it is the same for the most part."""
    if one.crs != other.crs:
        return f"another coordinate reference system ({one.crs}, not {other.crs})"
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.top, other.top) - max(one.bottom, other.bottom)
    smaller = min((each.right - each.left) * (each.top - each.bottom) for each in (one, other))
    common = max(0.0, width) * max(0.0, height) / smaller
    return "" if common >= COMMON else f"another place ({common:.0%} of the ground in common)"
