"""Which parts of scenes are trained on and held out, how large a crop is, and where crops may begin.

Training and validation areas are apart by one crop, or are tiles of their own; a crop is then as large as the tiles
allow. All lengths are in low-resolution pixels, but for those of a crop that a person reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trainables.data_settings import DataSettings
from trainables.errors import InvalidInput, Problem
from trainables.image_files import Mask
from trainables.scenes import Found, Part
from trainables.schema import Configuration

SINGLE_TILE_CROP = 96  # px, where one tile alone is to be both trained on and held out
Areas = dict[str, Part]  # of a scene: where it is trained on, where it is held out
Positions = NDArray[np.int32]  # (n, 3): scene, row, column


@dataclass(frozen=True)
class Layout:
    """How scenes are parted and cut. `cells`: a crop's side; 0 until the tiles have said it."""

    source: str
    factor: int
    cells: int
    data: DataSettings
    trained: int  # scenes to train on, and to hold out where the data set keeps those apart
    held_out: int

    @classmethod
    def of(cls, configuration: Configuration, files: Found) -> Layout:
        """Return that of a configuration's files."""
        data, factor = configuration.Data, configuration.Generator.scaling_factor
        fitted = data.crop_size is None and len(files.train) + len(files.val) > 1
        cells = 0 if fitted else (data.crop_size or SINGLE_TILE_CROP) // factor
        return cls(files.source, factor, cells, data, len(files.train), len(files.val))

    @property
    def crop(self) -> int:
        """A crop's side, px of the high-resolution image."""
        return self.cells * self.factor

    def areas(self, shapes: Sequence[tuple[int, ...]]) -> list[Areas]:
        """Say where every scene, of so many rows and columns, is trained on and held out."""
        if self.held_out:
            return [{"train": WHOLE}] * self.trained + [{"val": WHOLE}] * self.held_out
        fraction = self.data.val_fraction
        return self._split(shapes, fraction) if self.cells else _whole_scenes(len(shapes), fraction)

    def _split(self, shapes: Sequence[tuple[int, ...]], fraction: float) -> list[Areas]:
        """Both areas in every scene where all are long enough, a crop's width apart; else scenes go whole to one."""
        areas: list[Areas] = []
        for shape in shapes:
            side = self.data.val_side or ("bottom" if shape[0] > shape[1] else "right")
            length = shape[side in ("left", "right")]
            held_out = max(self.cells, round(fraction * length))
            kept = length - held_out - self.cells
            if kept < self.cells:
                break
            areas.append({"train": _part(shape, _OPPOSITE[side], kept), "val": _part(shape, side, held_out)})
        else:
            return areas
        if len(shapes) == 1:
            raise self.too_small(f"one scene of {length * self.factor} px from side to side")
        return _whole_scenes(len(shapes), fraction)

    def fitted(self, every: list[Mask], areas: list[Areas], wanted: int) -> Layout:
        """Return it with the largest crop that fits into every tile and of which there are `wanted` to hold out.

        `every`: usable cells of each scene. Crops to hold out may overlap. Where there are too few, InvalidInput.
        """
        smallest = min(min(usable.shape) for usable in every)

        def count(side: int, area: str) -> int:
            tiles = (usable for usable, has in zip(every, areas, strict=True) if area in has)
            return sum(int(windows(usable, side).sum()) for usable in tiles)

        def suffices(side: int) -> bool:
            return count(side, "val") >= wanted and count(side, "train") > 0

        if suffices(smallest):
            return replace(self, cells=smallest)
        fits, too_large = 0, smallest  # of smaller crops there are more
        while too_large - fits > 1:
            middle = (fits + too_large) // 2
            fits, too_large = (middle, too_large) if suffices(middle) else (fits, middle)
        if not fits:
            tiles = sum("val" in has for has in areas)
            found = f"{tiles} held-out tile(s) of {smallest * self.factor} px or more"
            expected = f"so many that {wanted} crops (Nash.validation_pairs) can be cut out of them"
            fix = "Put more or larger tiles into val/, or ask for fewer pairs, 64 or more."
            raise InvalidInput([Problem(self.source, "Data.crop_size", found, expected, fix)])
        return replace(self, cells=fits)

    def positions(self, area: str, every: list[Mask], areas: list[Areas]) -> Positions:
        """List top left corners of all crops that lie in an area and touch no nodata."""
        corners_of = [np.zeros((0, 3), np.int32)]
        for index, (usable, has) in enumerate(zip(every, areas, strict=True)):
            if area in has:
                within = np.zeros_like(usable)
                within[has[area]] = usable[has[area]]
                corners = np.argwhere(windows(within, self.cells))
                corners_of.append(np.column_stack([np.full(len(corners), index), corners]).astype(np.int32))
        positions = np.concatenate(corners_of)
        if not len(positions):
            raise self.too_small(f"no crop of {self.crop} px without nodata in the {area} area")
        return positions

    def too_small(self, found: str) -> InvalidInput:
        """Return what to raise where imagery is too small for this, and what was found."""
        crop = self.crop or self.factor
        expected = f"imagery for crops of {crop} px: a training area, a gap of one crop, a held-out area"
        fix = "Use larger imagery, a smaller Data.crop_size or another Data.val_fraction or val_side."
        return InvalidInput([Problem(self.source, "Data.crop_size", found, expected, fix)])


@dataclass(frozen=True)
class WholeLayout(Layout):
    """How test imagery is cut: all of it, into crops of the training's size. `key`: what names it."""

    key: str

    def areas(self, shapes: Sequence[tuple[int, ...]]) -> list[Areas]:
        """Say that every scene is there to be tested on."""
        return [{"test": WHOLE} for _ in shapes]

    def too_small(self, found: str) -> InvalidInput:
        """Return what to raise where there is not one crop."""
        expected = f"test imagery with room for a crop of {self.crop} px without nodata"
        return InvalidInput([Problem(self.source, self.key, found, expected, "Use larger test imagery.")])


def side_by_side(positions: Positions, cells: int) -> Positions:
    """Choose crops that do not overlap: in each scene those on the grid of crops that has most of them."""
    chosen = []
    for own in np.split(positions, np.flatnonzero(np.diff(positions[:, 0])) + 1):
        grids = own[:, 1] % cells * cells + own[:, 2] % cells
        chosen.append(own[grids == np.bincount(grids).argmax()])
    return np.concatenate(chosen)


def spread(positions: Positions, count: int) -> Positions:
    """Choose so many, at most all, spread evenly over the scenes."""
    chosen: Positions = positions[np.linspace(0, len(positions) - 1, min(count, len(positions))).round().astype(int)]
    return chosen


def _whole_scenes(count: int, fraction: float) -> list[Areas]:
    """The last scenes held out whole."""
    held_out = min(max(1, round(fraction * count)), count - 1)
    return [{"train": WHOLE}] * (count - held_out) + [{"val": WHOLE}] * held_out


_OPPOSITE = {"right": "left", "left": "right", "top": "bottom", "bottom": "top"}


WHOLE: Part = (slice(None), slice(None))


def _part(shape: tuple[int, ...], side: str, count: int) -> Part:
    """The `count` rows or columns at one side of an image."""
    across = side in ("left", "right")
    length = shape[across]
    part = slice(length - count, length) if side in ("right", "bottom") else slice(0, count)
    return (slice(None), part) if across else (part, slice(None))


def all_of(valid: Mask, factor: int) -> Mask:
    """Return the low-resolution cells all of whose high-resolution pixels are valid."""
    rows, columns = valid.shape[0] // factor, valid.shape[1] // factor
    return np.asarray(valid.reshape(rows, factor, columns, factor).all(axis=(1, 3)))


def shrunk(usable: Mask, cells: int) -> Mask:
    """Return `usable` less what lies within `cells` of an unusable cell; the image's own edge is no nodata."""
    padded = np.pad(usable, cells, constant_values=True)
    return windows(padded, 2 * cells + 1)


def windows(usable: Mask, side: int) -> Mask:
    """Say for every top left corner whether the side × side window there is usable throughout, by an integral image."""
    if min(usable.shape) < side:
        return np.zeros((0, 0), bool)
    total = np.pad(usable.astype(np.int64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inside = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return np.asarray(inside == side * side)
