"""What a file says of an image beside its pixels, and what of it is true of the image super-resolved."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from trainables.rasters import PLACELESS, alpha_of, colour_table
from tune_srgan.upscaling.windows import Area

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

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
    rgb: bool = False  # its bands are red, green and blue, though the file says it in another way

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


def about(dataset: DatasetReader, bands: int) -> About:
    """Return what an open file says of an image of so many bands; of indices, what it says of all of it."""
    from rasterio.enums import MaskFlags

    alphas = alpha_of(dataset)
    indexes = [band for band in dataset.indexes if band not in alphas]
    indexed = colour_table(dataset) is not None

    def of_bands(values: Any) -> list[Any]:
        return [] if indexed else [values[band - 1] for band in indexes]

    flags = dataset.mask_flag_enums
    masked = bool(alphas) or indexed or any(MaskFlags.per_dataset in flags[band - 1] for band in indexes)
    spaces = ["", *(space for space in dataset.tag_namespaces() if _means_something(space))]
    # GDAL's answer where a file says nothing of it, and chance with its driver of PNM
    placeless = dataset.transform.is_identity or dataset.driver in PLACELESS
    return About(
        crs=dataset.crs,
        transform=None if placeless else tuple(dataset.transform[:6]),
        gcps=dataset.gcps if dataset.gcps[0] else None,
        rpcs=dataset.rpcs,
        nodata=next((value for value in of_bands(dataset.nodatavals) if value is not None), None),
        masked=masked,
        colours=of_bands(dataset.colorinterp),
        names=of_bands(dataset.descriptions),
        scales=of_bands(dataset.scales),
        offsets=of_bands(dataset.offsets),
        units=of_bands(dataset.units),
        tags={space: _lasting(dataset.tags(ns=space or None)) for space in spaces},
        band_tags=[] if indexed else [_lasting(dataset.tags(band)) for band in indexes],
        profile=dataset.tags(ns="COLOR_PROFILE"),
        rgb=indexed and bands == 3,
    )


def _means_something(space: str) -> bool:
    return space not in OF_THE_FILE and not space.startswith("xml:")  # XML of JPEG 2000 says the old grid


def _lasting(tags: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if not name.startswith(STALE)}
