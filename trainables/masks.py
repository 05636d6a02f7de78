"""Masks of pixels that may be used, (rows, columns): coarser, shrunk, and where a whole window of them is."""

from __future__ import annotations

import numpy as np

from trainables.scenes import Mask


def all_of(valid: Mask, factor: int) -> Mask:
    """Return the low-resolution cells all of whose high-resolution pixels are valid."""
    rows, columns = valid.shape[0] // factor, valid.shape[1] // factor
    return np.asarray(valid.reshape(rows, factor, columns, factor).all(axis=(1, 3)))


def shrunk(usable: Mask, cells: int) -> Mask:
    """Return `usable` less what lies within `cells` of an unusable cell; the image's own edge is no nodata."""
    padded = np.pad(usable, cells, constant_values=True)
    return windows(padded, 2 * cells + 1)


def windows(usable: Mask, side: int) -> Mask:
    """Tell for every top left corner whether the side × side window there is usable, by an integral image."""
    if min(usable.shape) < side:
        return np.zeros((0, 0), bool)
    total = np.pad(usable.astype(np.int64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inside = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return np.asarray(inside == side * side)
