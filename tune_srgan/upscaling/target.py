"""A GeoTIFF written by windows, under its name once it is whole."""

from __future__ import annotations

import contextlib
import glob
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_srgan.store.layout import TEMPORARY
from tune_srgan.upscaling.about import About
from tune_srgan.upscaling.windows import BLOCK, Piece

CACHE = 128 * 2**20  # bytes of blocks that GDAL keeps, rather than a share of all memory


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
        return self

    def open(self) -> None:
        """Create it under its temporary name; apart from entering, so that Ctrl-C meanwhile leaves nothing, either."""
        with self._environment():
            self._dataset = self._create()

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
        # GDAL has more beside its copy while it makes overviews
        for file in self._file.parent.glob(f"{glob.escape(self._file.name)}.*{TEMPORARY.strip('.')}"):
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
        colours = about.rgb or names[:3] == ["red", "green", "blue"]
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
        if not any(self._about.band_tags):  # GDAL copies either these or other namespaces than the common one
            options["copy_src_mdd"] = "YES"
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
