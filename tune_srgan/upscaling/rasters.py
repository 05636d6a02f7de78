"""Files of images, read and written by windows with what they say: place, bands, colours, units, holes."""

from __future__ import annotations

import contextlib
import math
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainables.errors import InvalidInput, Problem, one_line
from trainables.image_files import Mask, read_image
from tune_srgan.store.layout import TEMPORARY
from tune_srgan.upscaling.windows import BLOCK, Area, Piece

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

BY_WINDOWS = {".tif": "GTiff", ".tiff": "GTiff", ".jp2": "JP2OpenJPEG", ".vrt": "VRT"}  # GDAL's driver of each suffix
# pictures are read whole; GDAL says of these where they lie, by a world file, and which colours are meant
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".webp": "WEBP", ".gif": "GIF"}
# tags of what is not so any more: measured values, the density of pixels, how overviews were made
STALE = (
    "STATISTICS_",
    "TIFFTAG_XRES",
    "TIFFTAG_YRES",
    "TIFFTAG_RESOL",
    "TIFFTAG_MINS",
    "TIFFTAG_MAXS",
    "EXIF_",
    "OVR_",
)
OF_THE_FILE = {"IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "SUBDATASETS", "RPC", "COLOR_PROFILE", "GEOLOCATION"}
CACHE = 128 * 2**20  # bytes of blocks that GDAL keeps, rather than a share of all memory


@dataclass(frozen=True)
class About:
    """What a file says of an image beside its pixels."""

    crs: Any = None
    transform: tuple[float, ...] | None = None  # x = a·column + b·row + c, y = d·column + e·row + f
    gcps: tuple[list[Any], Any] | None = None
    rpcs: Any = None
    nodata: float | None = None
    masked: bool = False  # by a mask or by transparency
    colours: list[Any] = field(default_factory=list)  # of its bands
    names: list[str | None] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    offsets: list[float] = field(default_factory=list)
    units: list[str | None] = field(default_factory=list)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)  # by namespace; "" is the common one
    band_tags: list[dict[str, str]] = field(default_factory=list)
    profile: dict[str, str] = field(default_factory=dict)  # of colours

    def moved(self, area: Area, factor: int) -> About:
        """Say the same of a part of the image whose pixels are `factor` times as small.

        Pixels of GCPs are counted from the corner of the first one, those of RPCs from its middle (RPC00B).
        """
        top, left, transform, gcps, rpcs = area.top, area.left, self.transform, None, None
        if transform is not None:
            a, b, c, d, e, f = transform
            c, f = c + a * left + b * top, f + d * left + e * top
            transform = (a / factor, b / factor, c, d / factor, e / factor, f)
        if self.gcps is not None:
            gcps = ([_placed(point, top, left, factor) for point in self.gcps[0]], self.gcps[1])
        if self.rpcs is not None:
            from rasterio.rpc import RPC

            known = self.rpcs.to_dict()
            known["line_off"] = factor * (known["line_off"] - top) + (factor - 1) / 2
            known["samp_off"] = factor * (known["samp_off"] - left) + (factor - 1) / 2
            known |= {scale: factor * known[scale] for scale in ("line_scale", "samp_scale")}
            rpcs = RPC(**known)
        return replace(self, transform=transform, gcps=gcps, rpcs=rpcs)


def _placed(point: Any, top: int, left: int, factor: int) -> Any:
    from rasterio.control import GroundControlPoint

    row, column = factor * (point.row - top), factor * (point.col - left)
    return GroundControlPoint(row, column, point.x, point.y, point.z, point.id, point.info)


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
    """An image in a file that GDAL reads by windows; transparency is a mask, not a band."""

    def __init__(self, file: Path, dataset: DatasetReader, nodata: float | None, key: str) -> None:
        from rasterio.enums import ColorInterp

        self._file, self._dataset, self._nodata, self._key = file, dataset, nodata, key
        colours = dataset.colorinterp
        self.indexes = [band for band in dataset.indexes if colours[band - 1] is not ColorInterp.alpha]
        self.bands, self.height, self.width = len(self.indexes), dataset.height, dataset.width
        self.dtype = np.result_type(*(dataset.dtypes[band - 1] for band in self.indexes))

    def read(self, area: Area) -> tuple[NDArray[Any], Mask]:
        """Read (bands, h, w) in its own numbers, and where every band is valid."""
        window = ((area.top, area.top + area.height), (area.left, area.left + area.width))
        try:
            image = self._dataset.read(self.indexes, window=window, out_dtype=self.dtype)
            valid = self._dataset.read_masks(self.indexes, window=window).min(axis=0) > 0
        except Exception as error:
            raise _unreadable(self._file, self._key, error) from error
        return image, valid & _numbers(image, self._nodata)


def _numbers(image: NDArray[Any], nodata: float | None) -> Mask:
    """Where an image has numbers that are not nodata."""
    valid = np.ones(image.shape[1:], bool) if nodata is None else (image != nodata).all(0)
    if image.dtype.kind == "f":
        with np.errstate(over="ignore"):
            valid &= np.isfinite(image.astype(np.float32, copy=False)).all(0)
    return valid


@contextlib.contextmanager
def opened(file: Path, nodata: float | None, key: str) -> Iterator[tuple[Loaded | Windowed, About]]:
    """Open an image: its pixels by windows, or whole where its format has none, and what its file says of it.

    InvalidInput under `key` where it cannot be read.
    """
    suffix = file.suffix.lower()
    if suffix not in BY_WINDOWS:
        image, valid = read_image(file, nodata, key)
        about = About(masked=image.dtype.kind != "f" and not bool(valid.all()))
        if suffix in PICTURES:
            with contextlib.suppress(Exception), _dataset(file, PICTURES[suffix]) as dataset:
                about = replace(_about(dataset, list(range(1, image.shape[0] + 1))), masked=about.masked, nodata=None)
        yield Loaded(image, valid), about
        return
    with contextlib.ExitStack() as held:
        try:
            dataset = held.enter_context(_dataset(file, BY_WINDOWS[suffix]))
            pixels = Windowed(file, dataset, nodata, key)
            if pixels.dtype.kind not in "uif":
                raise ValueError(f"{pixels.dtype}; real numbers are expected")
        except Exception as error:
            raise _unreadable(file, key, error) from error
        about = _about(dataset, pixels.indexes)
        named = {colour.name for colour in about.colours}
        if said := "a palette" * ("palette" in named) or "CMYK, inks" * ("cyan" in named):
            fix = "Convert it: its numbers are no brightness that could be interpolated."
            raise InvalidInput([Problem(str(file), key, f"an image of {said}", "one of brightness", fix)])
        yield pixels, replace(about, nodata=_kept_nodata(about, nodata, pixels.dtype))


def _unreadable(file: Path, key: str, error: Exception) -> InvalidInput:
    found = f"a file that cannot be read ({one_line(error)})"
    return InvalidInput([Problem(str(file), key, found, "a whole image file", "Replace or remove it.")])


@contextlib.contextmanager
def _dataset(file: Path, driver: str) -> Iterator[DatasetReader]:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.Env(GDAL_CACHEMAX=CACHE), rasterio.open(str(file), driver=driver) as dataset:
            yield dataset


def _kept_nodata(about: About, named: float | None, dtype: np.dtype[Any]) -> float | None:
    """The value that means nodata in what is made of an image; None where its type does not hold it."""
    value = about.nodata if about.nodata is not None else named
    if value is None or dtype.kind == "f":
        return value
    limits = np.iinfo(dtype)
    return value if math.isfinite(value) and value == int(value) and limits.min <= value <= limits.max else None


def _about(dataset: DatasetReader, indexes: list[int]) -> About:
    from rasterio.enums import MaskFlags

    def of_bands(values: Any) -> list[Any]:
        return [values[band - 1] for band in indexes if band <= len(values)]

    flags = of_bands(dataset.mask_flag_enums)
    nodata = next((value for value in of_bands(dataset.nodatavals) if value is not None), None)
    spaces = ["", *(space for space in dataset.tag_namespaces() if _means_something(space))]
    identity = dataset.transform.is_identity  # so GDAL answers where a file says nothing
    return About(
        crs=dataset.crs,
        transform=None if identity else tuple(dataset.transform[:6]),
        gcps=dataset.gcps if dataset.gcps[0] else None,
        rpcs=dataset.rpcs,
        nodata=nodata,
        masked=any(MaskFlags.per_dataset in flag for flag in flags),
        colours=of_bands(dataset.colorinterp),
        names=of_bands(dataset.descriptions),
        scales=of_bands(dataset.scales),
        offsets=of_bands(dataset.offsets),
        units=of_bands(dataset.units),
        tags={space: _lasting(dataset.tags(ns=space or None)) for space in spaces},
        band_tags=[_lasting(dataset.tags(band)) for band in indexes if band <= dataset.count],
        profile=dataset.tags(ns="COLOR_PROFILE"),
    )


def _means_something(space: str) -> bool:
    return space not in OF_THE_FILE and not space.startswith("xml:")  # XML of JPEG 2000 says the old grid


def _lasting(tags: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if not name.startswith(STALE)}


class Target:
    """A GeoTIFF that pieces are written to; under its name once it is whole. A context.

    `cog`: laid out as a cloud-optimised one, with overviews; GDAL copies it once more for that, in constant memory.
    """

    def __init__(
        self, file: Path, about: About, shape: tuple[int, int, int], dtype: np.dtype[Any], factor: int, cog: bool
    ) -> None:
        self._file, self._about, self._shape, self._dtype = file, about, shape, dtype
        self._factor, self._cog = factor, cog
        self._temporary = [file.with_name(f"{file.name}{part}{TEMPORARY}") for part in ("", ".cog")]
        self._writer = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None
        self._dataset: Any = None

    def __enter__(self) -> Target:
        with self._environment():
            self._dataset = self._create()
        return self

    def write(self, piece: Piece) -> None:
        """Write a piece while the next one is computed."""
        self._wait()
        self._last = self._writer.submit(self._write, piece)

    def finish(self) -> None:
        """Close it, lay it out, and give it its name."""
        self._wait()
        done, laid_out = self._temporary
        with self._environment():
            self._dataset.close()
        if self._cog:
            _interruptible(lambda: self._lay_out(done, laid_out))
            done = laid_out
        done.replace(self._file)

    def __exit__(self, *exception: object) -> None:
        self._writer.shutdown(cancel_futures=True)
        with contextlib.suppress(Exception), self._environment():
            self._dataset.close()  # what is half-written is thrown away
        for file in self._temporary:
            file.unlink(missing_ok=True)

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        """GDAL's settings: nothing beside the file, neither mask nor notes."""
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True, GDAL_PAM_ENABLED=False, GDAL_CACHEMAX=CACHE):
                yield

    def _create(self) -> Any:
        import rasterio
        from rasterio.transform import Affine

        about, (bands, height, width) = self._about, self._shape
        names = [colour.name for colour in about.colours]
        colours = names[:3] == ["red", "green", "blue"]
        profile: dict[str, Any] = {"driver": "GTiff", "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
        profile |= {"count": bands, "height": height, "width": width, "dtype": self._dtype.name}
        profile |= self._compression() | {"interleave": "pixel", "BIGTIFF": "IF_SAFER"}
        # no band is made transparency because it is the fourth of an image of 8 bits
        profile |= {"photometric": "RGB" if colours else "MINISBLACK", "alpha": "NO"}
        profile |= {name: value for name, value in about.profile.items() if name.startswith("SOURCE_ICC")}
        profile |= {"crs": about.crs, "nodata": about.nodata}
        if about.transform is not None:
            profile["transform"] = Affine(*about.transform)
        dataset = rasterio.open(self._temporary[0], "w", **profile)
        if about.gcps is not None:
            dataset.gcps = about.gcps
        if about.rpcs is not None:
            dataset.rpcs = about.rpcs
        for space, tags in about.tags.items():
            dataset.update_tags(ns=space or None, **tags)
        for band, tags in enumerate(about.band_tags[:bands], start=1):
            dataset.update_tags(band, **tags)
        for band, name in enumerate(about.names[:bands], start=1):
            dataset.set_band_description(band, name or "")
        if len(about.colours) == bands:
            dataset.colorinterp = about.colours
            dataset.scales, dataset.offsets = about.scales, about.offsets
            dataset.units = [unit or "" for unit in about.units]
        return dataset

    def _compression(self) -> dict[str, Any]:
        predictor = 2 if self._dtype.kind in "ui" else 3
        return {"compress": "deflate", "predictor": predictor, "zlevel": 1, "num_threads": "ALL_CPUS"}

    def _write(self, piece: Piece) -> None:
        area, image, valid = piece
        factor, whole = self._factor, bool(piece.valid.all())
        height, width = area.height * factor, area.width * factor
        window = ((area.top * factor, area.top * factor + height), (area.left * factor, area.left * factor + width))
        with self._environment():
            if not whole:
                shown = valid.repeat(factor, 0).repeat(factor, 1)
                image = np.where(shown, image, self._hole())
            self._dataset.write(image, window=window)
            if self._about.masked:
                drawn = np.full((height, width), 255, np.uint8) if whole else shown.astype(np.uint8) * 255
                self._dataset.write_mask(drawn, window=window)

    def _hole(self) -> NDArray[Any]:
        """What stands where nothing is: nodata; where the file has none, no number, or 0 under the mask."""
        if self._about.nodata is not None:
            return np.asarray(self._about.nodata).astype(self._dtype)
        return np.asarray(0 if self._dtype.kind in "ui" or self._about.masked else np.nan, self._dtype)

    def _lay_out(self, source: Path, target: Path) -> None:
        from rasterio import shutil

        known = self._compression()
        options = {"compress": "DEFLATE", "level": 1, "predictor": known["predictor"], "blocksize": BLOCK}
        with self._environment():
            shutil.copy(source, target, driver="COG", num_threads="ALL_CPUS", bigtiff="IF_SAFER", **options)


def _interruptible(work: Any) -> None:
    """Do it in a thread that ends with the program, so that Ctrl-C is heard while GDAL is at work."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if raised:
        raise raised[0]


def size_of(file: Path) -> tuple[int, int]:
    """Return the width and height of a GeoTIFF, in pixels."""
    with _dataset(file, "GTiff") as dataset:
        return int(dataset.width), int(dataset.height)
