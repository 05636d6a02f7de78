"""Files of images as arrays: rasters and pictures, and NumPy's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables import rasters
from trainables.errors import InvalidInput, Problem, Refused, one_line
from trainables.rasters import DRIVERS, Mask, about_bands, ground, read_raster

__all__ = [
    "Mask",
    "about_bands",
    "ground",
    "parts",
    "read_example",
    "read_image",
    "suffixes",
    "where_valid",
    "whole_images",
]

Reader = Callable[[Path], tuple[NDArray[Any], Mask]]


def read_image(file: Path, nodata: float | None, key: str, reader: Reader | None = None) -> tuple[NDArray[Any], Mask]:
    """Read a file's image (bands, H, W) in its own numbers, and where every band is valid (H, W)."""
    try:
        image, valid = (reader or _reader(file))(file)
        if not image.size:
            raise ValueError(f"an array of shape {image.shape}")
        if image.dtype.kind not in "uif":
            raise Refused(f"values of type {image.dtype}", "Convert them to whole or real numbers.")
    except Refused as error:
        expected = "an image of real numbers, or of red, green and blue"
        raise InvalidInput([Problem(str(file), key, error.found, expected, error.fix)]) from None
    except Exception as error:  # what the imagery libraries raise for a broken file is theirs to choose
        found = f"a file that cannot be read ({one_line(error)})"
        raise InvalidInput([Problem(str(file), key, found, "a whole image file", "Replace or remove it.")]) from error
    return image, where_valid(image, valid, nodata)


def where_valid(image: NDArray[Any], valid: Mask, nodata: float | None) -> Mask:
    """Return where, of what a file calls valid (h, w), no band of an image (bands, h, w) is nodata or no number."""
    if nodata is not None:
        valid = valid & (image != nodata).all(0)
    if np.issubdtype(image.dtype, np.floating):
        with np.errstate(over="ignore"):  # what is no number in float32 is none in a training
            valid = valid & np.isfinite(image.astype(np.float32, copy=False)).all(0)
    return valid


def parts(file: Path) -> list[Path]:
    """List the files whose pixels an image has: itself, or one a band; and of a virtual raster what it is made of."""
    try:
        return rasters.parts(file)
    except (Refused, OSError, ValueError):  # whoever reads it says what is wrong with it
        return [file]


def whole_images(files: list[Path]) -> list[Path]:
    """Leave out the files that others of them, virtual rasters, are made of."""
    virtual = (file for file in files if file.suffix.lower() == ".vrt")
    within = {part.resolve() for file in virtual for part in parts(file)[1:]}
    return [file for file in files if file.resolve() not in within] if within else files


def suffixes() -> frozenset[str]:
    """Return the suffixes of the files that can be read, in lower case."""
    return frozenset(_READERS.keys() - {".taco"})


def _reader(file: Path) -> Reader:
    suffix = file.suffix.lower()
    if suffix not in _READERS:
        known = ", ".join(sorted(suffixes()))
        raise Refused(f"a file whose suffix is '{suffix}'", f"Convert it to GeoTIFF; known are {known}.")
    if suffix not in DRIVERS and len(parts(file)) > 1:
        raise Refused("arrays of one band each", "Put the bands into one array.")
    return _READERS[suffix]


def _read_numpy(file: Path) -> tuple[NDArray[Any], Mask]:
    loaded = np.load(file, allow_pickle=False)
    image = loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3:
        raise ValueError(f"an array of shape {image.shape}, {image.dtype}; (bands, height, width) is expected")
    if image.shape[-1] < image.shape[0] and image.shape[-1] <= 16:  # (H, W, bands), as pictures are often kept
        image = image.transpose(2, 0, 1)
    return image, np.ones(image.shape[1:], bool)


def read_example(file: Path) -> tuple[NDArray[Any], Mask]:
    """Read an example's array `hr`, or its first: (H, W, bands)."""
    loaded = np.load(file, allow_pickle=False)
    image = loaded["hr" if "hr" in loaded.files else loaded.files[0]]
    if image.ndim != 3:
        raise ValueError(f"an array of shape {image.shape}; (height, width, bands) is expected")
    return image.transpose(2, 0, 1), np.ones(image.shape[:2], bool)


_READERS: dict[str, Reader] = {
    **dict.fromkeys((".npy", ".npz"), _read_numpy),
    **dict.fromkeys(DRIVERS, read_raster),
}
