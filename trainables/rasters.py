"""Rasters as GDAL reads them: one driver a suffix; what is transparent is no value, what is indexed has its colours.

Of a band that is transparency (alpha) only what is opaque throughout is valid: what shines through is a mixture.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainables.band_files import files_of
from trainables.errors import Refused as Refused  # who opens a raster meets it
from trainables.virtual import sources_of, stacked

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

Mask = NDArray[np.bool_]
DRIVERS = {  # others that GDAL might find by a file's content follow what it says to other places
    **dict.fromkeys((".tif", ".tiff", ".taco"), "GTiff"),  # within a .taco file lie GeoTIFFs
    **dict.fromkeys((".jp2", ".j2k"), "JP2OpenJPEG"),
    **dict.fromkeys((".jpg", ".jpeg"), "JPEG"),
    **dict.fromkeys((".ppm", ".pgm", ".pnm"), "PNM"),
    **{".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".vrt": "VRT"},
}
PARTS = DRIVERS.keys() - {".vrt", ".taco"}  # of what a virtual raster may be made
COLOURS = {"RGB", "GREYSCALE"}  # spaces of a file's own that are read as they are
PLACELESS = {"PNM"}  # GDAL's driver gives whatever the memory holds where no world file says its place
PNM_HEADER = re.compile(rb"P[56](?:(?:\s|#[^\n]*\n)+\d+){3}\s")
STRICT = {  # else half a file is a whole image that is grey or black below
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
}


class Ground(NamedTuple):
    """Where an image lies: its coordinate reference system, and its bounds in that one's units."""

    crs: Any
    left: float
    bottom: float
    right: float
    top: float


def parts(file: Path) -> list[Path]:
    """List the files whose pixels an image has: itself, or one a band; and of a virtual raster what it is made of."""
    return [file, *sources_of(file, PARTS)] if file.suffix.lower() == ".vrt" else files_of(file)


@contextlib.contextmanager
def opened(file: Path) -> Iterator[DatasetReader]:
    """Open a file by the driver of its suffix; what GDAL finds wrong with it is raised as its RasterioError."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    name, driver = str(file), DRIVERS[file.suffix.lower()]
    if driver == "VRT" or len(files_of(file)) > 1:
        with contextlib.ExitStack() as held:
            # each by its suffix's driver; from a virtual raster GDAL opens it by what it holds
            sources = [held.enter_context(opened(part)) for part in parts(file) if part != file]
            for source in sources:
                refuse_colours(source)
            name, driver = (name if driver == "VRT" else stacked(sources)), "VRT"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.Env(**STRICT), rasterio.open(name, driver=driver) as source:
            yield source


def read_raster(file: Path) -> tuple[NDArray[Any], Mask]:
    """Read a whole file's image (bands, H, W), and where every band is valid and opaque (H, W)."""
    with opened(file) as source:
        affordable(source.count, source.height, source.width, np.dtype(source.dtypes[0]).itemsize)
        image, valid = read_window(source)
        if not valid.any() and (alphas := alpha_of(source)):
            highest, full = source.read(alphas[0]).max(), _opaque(source, alphas[0])
            if 0 < highest < full:
                fix = "Write it anew with that where pixels are opaque."
                raise Refused(f"transparency whose highest value is {highest:g} of {full:g}", fix)
        return image, valid


def read_window(source: DatasetReader, window: Any = None) -> tuple[NDArray[Any], Mask]:
    """Read a window of an open image, or all of it: (bands, h, w), and where every band is valid and opaque (h, w)."""
    refuse_colours(source)
    alphas = alpha_of(source)
    bands = [band for band in source.indexes if band not in alphas]
    if not bands:
        raise Refused("nothing but transparency", "Give an image that has bands of values.")
    image = source.read(bands, window=window)
    valid = np.ones(image.shape[1:], bool)
    for band in _masked(source, bands):
        valid &= source.read_masks(band, window=window) > 0
    for values, band in zip(image, bands, strict=True):
        nodata = source.nodatavals[band - 1]
        if nodata is not None and "nodata" not in _flags(source, band):  # beside a mask GDAL's masks forget it
            valid &= values != nodata
    for band in alphas:
        valid &= source.read(band, window=window) >= _opaque(source, band)
    table = colour_table(source)
    if table is None:
        return image, valid
    entries = table[image[0]]
    return np.ascontiguousarray(entries[..., :-1].transpose(2, 0, 1)), valid & (entries[..., -1] == 255)


def about_bands(file: Path, has: int, wanted: int) -> tuple[str, str]:
    """Say what an image has that lacks the wanted number of bands, and what to do."""
    found, use = f"{has} band{'s' if has != 1 else ''}", f"set Model.in_bands: {has} where all of it has as many."
    plain = found, f"Use imagery with {wanted} bands, or {use}"
    if file.suffix.lower() not in DRIVERS:
        return plain
    with opened(file) as source:
        if not alpha_of(source):
            return plain
        kinds = ",".join("undefined" if kind.name == "alpha" else kind.name for kind in source.colorinterp)
        fix = f"Transparency is a mask, no band: {use}"
        if source.driver == "GTiff":  # GDAL calls a fourth band of 8 bits so that nobody said anything of
            fix += f" Is it a band of its own, near infrared? Say so: `rio edit-info --colorinterp {kinds} {file}`."
        return f"{found} and transparency", fix


def alpha_of(source: DatasetReader) -> list[int]:
    """List the bands that are transparency, by what the file says of them."""
    return [band for band, is_of in zip(source.indexes, source.colorinterp, strict=True) if is_of.name == "alpha"]


def colour_table(source: DatasetReader) -> NDArray[np.uint8] | None:
    """Return what an index stands for, (indices, R G B A), of greys alone (indices, grey A); None without a table."""
    kinds = [kind.name for kind in source.colorinterp if kind.name != "alpha"]
    if "palette" not in kinds:
        return None
    table = np.zeros((256 ** np.dtype(source.dtypes[0]).itemsize, 4), np.uint8)  # what it has no colour for: no value
    for index, colour in source.colormap(kinds.index("palette") + 1).items():
        table[index] = colour
    return table[:, 2:] if (table[:, :1] == table[:, 1:3]).all() else table


def refuse_colours(source: DatasetReader) -> None:
    """Refused where a file holds several images, or its bands are neither values nor red, green and blue."""
    if source.driver == "PNM":
        _refuse_cut_off(source)
    if source.subdatasets:
        found = f"{len(source.subdatasets)} images in one file"
        raise Refused(found, "Save each as a file of its own, or all as the bands of one image.")
    if source.driver == "BMP" and _bits_of_bmp(Path(source.name)) in {16, 32}:  # its mask is passed over by GDAL
        raise Refused("a BMP of 16 or 32 bits a pixel", "Save it as PNG, which says what is transparent.")
    structure = source.tags(ns="IMAGE_STRUCTURE")
    space = structure.get("SOURCE_COLOR_SPACE", "RGB")
    compressed = source.driver in {"JPEG", "WEBP"} or "JPEG" in structure.get("COMPRESSION", "")
    named = {kind.name for kind in source.colorinterp} & {"cyan", "hue", "Y", "Cb", "Cr"}
    if named or not (space in COLOURS or (space == "YCbCr" and compressed)):
        found = f"colours in {space if space not in COLOURS else '/'.join(sorted(named))}"
        raise Refused(found, "Convert it to RGB with a program that knows its colour profile.")
    if "palette" in {kind.name for kind in source.colorinterp}:
        beside, kind = source.count - len(alpha_of(source)) > 1, source.dtypes[0]
        if beside or kind not in {"uint8", "uint16"}:
            found = f"a palette's indices {'beside other bands' if beside else f'of type {kind}'}"
            raise Refused(found, "Give the colours themselves as bands.")


def _refuse_cut_off(source: DatasetReader) -> None:
    """ValueError where a PGM or PPM ends before its pixels do: GDAL makes the others black."""
    file = Path(source.name)
    with file.open("rb") as content:
        header = PNM_HEADER.match(content.read(4096))
    pixels = source.count * source.height * source.width * np.dtype(source.dtypes[0]).itemsize
    if header is None or header.end() + pixels > file.stat().st_size:
        raise ValueError("it ends before its pixels do")


def _bits_of_bmp(file: Path) -> int:
    with file.open("rb") as content:
        return int.from_bytes(content.read(30)[28:], "little")


def ground(file: Path) -> Ground | None:
    """Return where on the ground a file's image lies, by its header; None where that does not say."""
    if file.suffix.lower() not in DRIVERS:
        return None
    from rasterio.errors import RasterioError

    try:
        with opened(file) as source:
            if source.crs is None or source.transform.is_identity or source.driver in PLACELESS:
                return None
            (left, right), (bottom, top) = (sorted(source.bounds[axis::2]) for axis in (0, 1))
            return Ground(source.crs, left, bottom, right, top)
    except (RasterioError, Refused, OSError, ValueError):  # whoever reads the image says what is wrong with it
        return None


def affordable(bands: int, height: int, width: int, itemsize: int) -> None:
    """ValueError where a header claims more than fits into memory, as it is read and in float32."""
    needed = bands * height * width * (itemsize + 8)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if height * width >= 2**31 or needed > memory:
        raise ValueError(f"{width}×{height} px in {bands} bands take {needed / 1e9:.1f} GB: cut it into smaller scenes")


def _masked(source: DatasetReader, bands: list[int]) -> list[int]:
    """The bands whose masks say something; of one mask for all, the first."""
    flags = {band: _flags(source, band) for band in bands}
    own = [band for band in bands if not flags[band] & {"all_valid", "alpha"}]
    return own[:1] if all("per_dataset" in flags[band] for band in own) else own


def _flags(source: DatasetReader, band: int) -> set[str]:
    return {flag.name for flag in source.mask_flag_enums[band - 1]}


def _opaque(source: DatasetReader, band: int) -> float:
    """The value of a band of transparency where nothing shines through."""
    kind = np.dtype(source.dtypes[band - 1])
    if kind.kind == "f":
        return 1.0
    bits = source.tags(band, ns="IMAGE_STRUCTURE").get("NBITS")
    return 2.0 ** int(bits) - 1 if bits else float(np.iinfo(kind).max)
