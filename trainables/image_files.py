"""Files of images as arrays: GeoTIFF, JPEG 2000, NumPy's, and the pictures that PIL reads by itself."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.errors import InvalidInput, Problem, one_line

Mask = NDArray[np.bool_]
NO_PICTURES = {"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"}  # PIL starts a program of its own for one, reads no other
Reader = Callable[[Path], tuple[NDArray[Any], Mask]]


def read_image(file: Path, nodata: float | None, key: str, reader: Reader | None = None) -> tuple[NDArray[Any], Mask]:
    """Read a file's image (bands, H, W) in its own numbers, and where every band is valid (H, W)."""
    try:
        image, valid = (reader or _READERS.get(file.suffix.lower(), _read_picture))(file)
        if not image.size or image.dtype.kind not in "uif":
            raise ValueError(f"an array of shape {image.shape}, {image.dtype}; real numbers are expected")
    except Exception as error:  # what the imagery libraries raise for a broken file is theirs to choose
        found = f"a file that cannot be read ({one_line(error)})"
        raise InvalidInput([Problem(str(file), key, found, "a whole image file", "Replace or remove it.")]) from error
    if nodata is not None:
        valid = valid & (image != nodata).all(0)
    if np.issubdtype(image.dtype, np.floating):
        with np.errstate(over="ignore"):  # what is no number in float32 is none in a training
            valid = valid & np.isfinite(image.astype(np.float32, copy=False)).all(0)
    return image, valid


def _read_raster(file: Path, driver: str = "GTiff") -> tuple[NDArray[Any], Mask]:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(str(file), driver=driver) as source:  # others follow what a file says to other places
            _affordable(source.count, source.height, source.width, np.dtype(source.dtypes[0]).itemsize)
            return source.read(), source.read_masks().min(axis=0) > 0


def _read_jpeg2000(file: Path) -> tuple[NDArray[Any], Mask]:
    return _read_raster(file, "JP2OpenJPEG")


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of the files that can be read, in lower case."""
    return frozenset({*_READERS, *_pictures()} - {".taco"})


@cache
def _pictures() -> dict[str, str]:
    """The format that PIL has for each suffix, of those that it reads by itself."""
    from PIL import Image

    Image.init()
    formats = Image.OPEN.keys() - NO_PICTURES
    return {suffix: name for suffix, name in Image.registered_extensions().items() if name in formats}


def _affordable(bands: int, height: int, width: int, itemsize: int) -> None:
    """ValueError where a header claims more than fits into memory, as it is read and in float32."""
    needed = bands * height * width * (itemsize + 8)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if height * width >= 2**31 or needed > memory:
        raise ValueError(f"{width}×{height} px in {bands} bands take {needed / 1e9:.1f} GB: cut it into smaller scenes")


def _read_picture(file: Path) -> tuple[NDArray[Any], Mask]:
    from PIL import Image

    with Image.open(file, formats=sorted(set(_pictures().values()))) as picture:
        image = np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)
    image = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    return image, np.ones(image.shape[1:], bool)


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
    **dict.fromkeys((".tif", ".tiff", ".taco"), _read_raster),  # within a .taco file lie GeoTIFFs
    ".jp2": _read_jpeg2000,
}
