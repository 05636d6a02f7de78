"""Files of images as arrays: GeoTIFF, JPEG 2000, NumPy's, and the pictures that PIL reads by itself."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainables.errors import InvalidInput, Problem, one_line

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

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


class Ground(NamedTuple):
    """Where an image lies: its coordinate reference system, and its bounds in that one's units."""

    crs: Any
    left: float
    bottom: float
    right: float
    top: float


def ground(file: Path) -> Ground | None:
    """Return where on the ground a file's image lies, by its header; None where that does not say."""
    if file.suffix.lower() not in _DRIVERS:
        return None
    from rasterio.errors import RasterioError

    try:
        with _opened(file) as source:
            if source.crs is None or source.transform.is_identity:
                return None
            (left, right), (bottom, top) = (sorted(source.bounds[axis::2]) for axis in (0, 1))
            return Ground(source.crs, left, bottom, right, top)
    except RasterioError:  # whoever reads the image says what is wrong with it
        return None


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[DatasetReader]:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    driver = _DRIVERS[file.suffix.lower()]  # others follow what a file says to other places
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(str(file), driver=driver) as source:
            yield source


def _read_raster(file: Path) -> tuple[NDArray[Any], Mask]:
    with _opened(file) as source:
        _affordable(source.count, source.height, source.width, np.dtype(source.dtypes[0]).itemsize)
        return source.read(), source.read_masks().min(axis=0) > 0


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


_DRIVERS = {  # GDAL's; within a .taco file lie GeoTIFFs
    **dict.fromkeys((".tif", ".tiff", ".taco"), "GTiff"),
    ".jp2": "JP2OpenJPEG",
}
_READERS: dict[str, Reader] = {
    **dict.fromkeys((".npy", ".npz"), _read_numpy),
    **dict.fromkeys(_DRIVERS, _read_raster),
}
