"""Images as `super_resolve` reads them: in a file by windows, or in memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainables import rasters
from trainables.errors import InvalidInput, Problem, Refused, one_line
from trainables.image_files import Mask, read_image, where_valid
from tune_srgan.upscaling.about import About, about
from tune_srgan.upscaling.target import CACHE
from tune_srgan.upscaling.windows import Area

if TYPE_CHECKING:
    from rasterio.io import DatasetReader


@dataclass(frozen=True)
class Loaded:
    """An image in memory; pixels as `super_resolve` reads them."""

    image: NDArray[Any]  # (bands, h, w)
    valid: Mask

    @property
    def bands(self) -> int:  # noqa: D102
        return int(self.image.shape[0])

    @property
    def height(self) -> int:  # noqa: D102
        return int(self.image.shape[1])

    @property
    def width(self) -> int:  # noqa: D102
        return int(self.image.shape[2])

    @property
    def dtype(self) -> np.dtype[Any]:  # noqa: D102
        return self.image.dtype

    def read(self, area: Area) -> tuple[NDArray[Any], Mask]:
        """Return (bands, h, w) and where it is valid."""
        rows, columns = area.within(Area(0, 0, self.height, self.width))
        return self.image[:, rows, columns], self.valid[rows, columns]


class Windowed:
    """An image in an open file, read by windows; transparency is a mask, not a band."""

    def __init__(self, file: Path, dataset: DatasetReader, nodata: float | None, key: str) -> None:
        self._file, self._dataset, self._nodata, self._key = file, dataset, nodata, key
        self.height, self.width = dataset.height, dataset.width
        first, _ = self.read(Area(0, 0, 1, 1))  # of indices, as many bands as a colour has
        self.bands, self.dtype = first.shape[0], first.dtype

    def read(self, area: Area) -> tuple[NDArray[Any], Mask]:
        """Read (bands, h, w) in its own numbers, and where every band is valid."""
        window = ((area.top, area.top + area.height), (area.left, area.left + area.width))
        try:
            image, valid = rasters.read_window(self._dataset, window)
        except Exception as error:
            raise _wrong(self._file, self._key, error) from error
        return image, where_valid(image, valid, self._nodata)


@contextlib.contextmanager
def opened(file: Path, nodata: float | None, key: str) -> Iterator[tuple[Loaded | Windowed, About]]:
    """Open an image, and say what its file says of it; arrays of NumPy are read whole.

    InvalidInput under `key` where it cannot be read.
    """
    if file.suffix.lower() not in rasters.DRIVERS:
        image, valid = read_image(file, nodata, key)
        yield Loaded(image, valid), About(masked=image.dtype.kind != "f" and not bool(valid.all()))
        return
    import rasterio

    with contextlib.ExitStack() as held:
        held.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE))
        try:
            dataset = held.enter_context(rasters.opened(file))
        except Exception as error:
            raise _wrong(file, key, error) from error
        pixels = Windowed(file, dataset, nodata, key)
        if pixels.dtype.kind not in "uif":
            found = f"values of type {pixels.dtype}"
            raise InvalidInput([Problem(str(file), key, found, "whole or real numbers", "Convert them.")])
        known = about(dataset, pixels.bands)
        yield pixels, replace(known, nodata=_kept_nodata(known, nodata, pixels.dtype))


def size_of(file: Path) -> tuple[int, int]:
    """Return the width and height of a raster, in pixels."""
    with rasters.opened(file) as dataset:
        return int(dataset.width), int(dataset.height)


def _wrong(file: Path, key: str, error: Exception) -> InvalidInput:
    if isinstance(error, Refused):
        expected = "an image of real numbers, or of red, green and blue"
        return InvalidInput([Problem(str(file), key, error.found, expected, error.fix)])
    found = f"a file that cannot be read ({one_line(error)})"
    return InvalidInput([Problem(str(file), key, found, "a whole image file", "Replace or remove it.")])


def _kept_nodata(about: About, named: float | None, dtype: np.dtype[Any]) -> float | None:
    """The value that means nodata in what is made of an image; None where its type does not hold it."""
    value = about.nodata if about.nodata is not None else named
    if value is None or dtype.kind == "f":
        return value
    limits = np.iinfo(dtype)
    return value if math.isfinite(value) and value == int(value) and limits.min <= value <= limits.max else None
