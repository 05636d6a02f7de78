"""Virtual rasters: one made of one file a band; and which files a .vrt file names, read before GDAL follows it.

Of a .vrt only what assembles whole local images is let through: element for element and attribute for attribute, since
GDAL takes one for the other. Functions of pixels, other programs' formats, archives and addresses are refused.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from trainables.errors import Refused, one_line

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

ASSEMBLY = "Write the assembled image as GeoTIFF: gdal_translate FILE.vrt FILE.tif."
ELEMENTS = {
    "VRTDataset", "SRS", "GeoTransform", "GCPList", "GCP", "Metadata", "MDI", "BlockXSize", "BlockYSize",
    "VRTRasterBand", "ColorInterp", "ColorTable", "Entry", "Description", "UnitType", "Offset", "Scale",
    "CategoryNames", "Category", "NoDataValue", "HideNoDataValue", "MaskBand", "SimpleSource", "ComplexSource",
    "SourceFilename", "SourceBand", "SourceProperties", "SrcRect", "DstRect", "NODATA", "UseMaskBand",
    "ScaleOffset", "ScaleRatio", "Histograms", "HistItem", "HistMin", "HistMax", "BucketCount",
    "IncludeOutOfRange", "Approximate", "HistCounts",
}  # fmt: skip
ATTRIBUTES = {
    "rasterXSize", "rasterYSize", "dataAxisToSRSAxisMapping", "coordinateEpoch", "Projection", "Id", "Info",
    "Pixel", "Line", "X", "Y", "Z", "domain", "key", "dataType", "band", "blockXSize", "blockYSize",
    "relativeToVRT", "shared", "resampling", "c1", "c2", "c3", "c4", "RasterXSize", "RasterYSize", "DataType",
    "BlockXSize", "BlockYSize", "xOff", "yOff", "xSize", "ySize",
}  # fmt: skip
DOMAINS = {"", "IMAGE_STRUCTURE", "RPC"}  # of metadata: others name files


def sources_of(file: Path, suffixes: Container[str]) -> list[Path]:
    """List the images that a virtual raster is made of, each once. Refused where it is more than their assembly."""
    text = file.read_text(encoding="utf-8")
    if "<!" in text.replace("<!--", ""):
        raise Refused("a virtual raster with definitions of its own", ASSEMBLY)
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(one_line(error)) from None
    sources: dict[Path, None] = {}
    for element in root.iter():
        strange = [element.tag] if element.tag not in ELEMENTS else sorted(element.attrib.keys() - ATTRIBUTES)
        if strange == ["subClass"] and element.attrib["subClass"] == "VRTSourcedRasterBand":
            strange = []
        if strange or element.attrib.get("domain", "") not in DOMAINS:
            raise Refused(f"a virtual raster with '{strange[0] if strange else element.attrib['domain']}'", ASSEMBLY)
        if element.tag == "SourceFilename":
            relative = element.attrib.get("relativeToVRT", "0") == "1"
            sources[_local(file, element.text or "", relative, suffixes)] = None
    return list(sources)


def stacked(sources: Sequence[DatasetReader]) -> str:
    """Return the virtual raster whose bands are these images. Refused where they do not lie on each other."""
    first = sources[0]
    grid = [(one.width, one.height, one.dtypes[0], one.crs, one.transform) for one in sources]
    for source, its in zip(sources, grid, strict=True):
        if source.count != 1 or "per_dataset" in {flag.name for flag in source.mask_flag_enums[0]}:
            raise Refused(f"'{Path(source.name).name}' with bands or a mask of its own", "Give one plain band a file.")
        if its != grid[0]:
            sizes = f"{its[0]}×{its[1]} px of {its[2]} beside {grid[0][0]}×{grid[0][1]} px of {grid[0][2]}"
            fix = "Bring all bands to one grid and type first, with gdalwarp."
            raise Refused(f"bands that do not lie on each other: '{Path(source.name).name}' has {sizes}", fix)
    place = "" if first.crs is None else f"<SRS>{escape(first.crs.to_wkt())}</SRS>"
    if not first.transform.is_identity:
        place += f"<GeoTransform>{', '.join(map(repr, first.transform.to_gdal()))}</GeoTransform>"
    kind = "Byte" if first.dtypes[0] == "uint8" else first.dtypes[0].title().replace("Uint", "UInt")
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{at}">'
        + ("" if source.nodata is None else f"<NoDataValue>{source.nodata!r}</NoDataValue>")
        + f"<SimpleSource><SourceFilename>{escape(str(Path(source.name).absolute()))}</SourceFilename>"
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for at, source in enumerate(sources, start=1)
    )
    return f'<VRTDataset rasterXSize="{first.width}" rasterYSize="{first.height}">{place}{bands}</VRTDataset>'


def _local(file: Path, name: str, relative: bool, suffixes: Container[str]) -> Path:
    """The image that a virtual raster names."""
    source = (file.parent / name) if relative else Path(name)
    if name.startswith("/vsi") or Path(name).suffix.lower() not in suffixes or not source.is_file():
        found = f"a virtual raster that names '{name[:100]}'"
        raise Refused(found, "Put the images that it is made of where it names them; they are files of this machine.")
    with source.open("rb") as content:
        if b"<VRTDataset" in content.read(4096):  # GDAL goes by that, whatever the name
            raise Refused(f"a virtual raster of the virtual raster '{name}'", ASSEMBLY)
    return source
