"""Every format, type and number of bands that is read is read bit for bit, what is transparent as no value.

The files are written byte by byte, or by Pillow; what they hold is known as they are written. A lossy file's pixels are
those that Pillow decodes.
"""

import io
import itertools
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.documents import assert_part
from tests.support.images import PLACE, placed, png, pnm, tiff
from tests.support.service import ROOT
from tests.support.tiny import tiny
from trainables.data_settings import DataSettings
from trainables.errors import InvalidInput
from trainables.image_files import ground, parts, read_image, suffixes
from trainables.imagery import load_imagery
from trainables.listing import images_in
from trainables.scenes import find_scenes

DOCUMENT = ROOT / "docs" / "imagery.md"
BEGIN, END = "<!-- formats: made by tests/trainables/test_image_files.py -->\n", "<!-- formats end -->\n"
ACCEPT = "pytest -n 0 tests/trainables/test_image_files.py --accept"
SHAPE = 5, 7  # odd, so that bits of a row end within a byte
TYPES = "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"


@dataclass
class Case:
    """A file, and what it holds: values and where they are valid; None where it is refused."""

    format: str
    suffix: str
    type: str
    bands: str  # as they are in the file
    mask: str
    content: bytes
    image: np.ndarray | None = None
    valid: np.ndarray | None = None
    lossy: bool = False
    beside: dict[str, bytes] = field(default_factory=dict)

    @property
    def id(self):
        return "-".join((self.suffix[1:], self.type, self.bands, self.mask)).replace(" ", "_")


def drawn(bands, kind="uint8", most=None):
    """(bands, 5, 7), every bit of the type in use."""
    kind, rng = np.dtype(kind), np.random.default_rng(bands)
    if kind.kind == "f":
        return (rng.normal(size=(bands, *SHAPE)) * 100).astype(kind)
    limits = np.iinfo(kind)
    high = limits.max if most is None else most
    low = limits.min if most is None else 0
    image = rng.integers(low, high, (bands, *SHAPE), kind, endpoint=True)
    image[:, 0, 0], image[:, 0, 1] = low, high
    return image


def alpha(most):
    """Opaque, transparent and in between (1, 5, 7), in this order along a row."""
    return np.broadcast_to(np.array([0, 1, most // 2, most - 1, most, most, most]), (1, *SHAPE))


def png_cases():
    for bits in (1, 2, 4, 8, 16):
        kind = "uint16" if bits == 16 else "uint8"
        image = drawn(1, kind, 2**bits - 1)
        yield bits, "1", "", png(image, "grey", bits), image, None
        value = int(image[0, 2, 3])
        yield bits, "1", "one value", png(image, "grey", bits, transparent=[value]), image, image[0] != value
        if bits <= 8:
            colours = drawn(3)[:, 1:2, :].reshape(3, -1).T  # 7 of them
            table = np.concatenate([colours] * 40)[: 2**bits]
            index = drawn(1, "uint8", 2**bits - 1)
            image = np.moveaxis(table[index[0]], 2, 0)
            yield bits, "palette: 3", "", png(index, "palette", bits, table), image, None
            entries = np.full(2**bits, 255)
            entries[:2] = 0, 99
            made = png(index, "palette", bits, table, entries)
            yield bits, "palette: 3", "an alpha an entry", made, image, index[0] > 1
    for bits, (name, bands) in itertools.product((8, 16), (("grey", 1), ("rgb", 3))):
        kind, most = ("uint16", 65535) if bits == 16 else ("uint8", 255)
        image, layer = drawn(bands, kind), alpha(most).astype(kind)
        made = png(np.concatenate([image, layer]), f"{name}+alpha", bits)
        yield bits, f"{bands}, alpha", "alpha", made, image, layer[0] == most
        if bands == 3:
            yield bits, "3", "", png(image, "rgb", bits), image, None
            image = image.copy()
            image[:2, 4] = image[:2, 2:3, 3]  # of the same red and green, and not the same colour
            value = image[:, 2, 3].tolist()
            made = png(image, "rgb", bits, transparent=value)
            yield bits, "3", "one colour", made, image, (image != image[:, 2:3, 3:4]).any(0)


def tiff_cases():
    for kind in TYPES:
        for bands in (1, 3, 4, 13):
            image = drawn(bands, kind)
            of = (
                {"kind": "rgb", "extra": ["other"] * (bands - 3)}
                if bands in (3, 4)
                else {"extra": ["other"] * (bands - 1)}
            )
            yield kind, str(bands), "", tiff(image, **of), image.astype("float32") if kind == "float16" else image, None
    for kind, bands, name in itertools.product(("uint8", "uint16", "float32"), (1, 3), ("alpha", "premultiplied")):
        image, most = drawn(bands, kind), 1 if kind == "float32" else np.iinfo(kind).max
        layer = alpha(4).astype(kind) / 4 if kind == "float32" else alpha(most).astype(kind)
        made = tiff(np.concatenate([image, layer.astype(kind)]), "rgb" if bands == 3 else "grey", [name])
        yield kind, f"{bands}, alpha", f"alpha, {name}" if name != "alpha" else name, made, image, layer[0] == most
    for kind, bands in itertools.product(TYPES[:-3], (1, 3)):
        image = drawn(bands, kind, 100)
        yield kind, str(bands), "nodata", tiff(image, nodata="100"), image, (image != 100).all(0)
    for kind in ("float32", "float64"):
        image = np.where(drawn(1, kind) > 0, drawn(1, kind), np.nan).astype(kind)
        yield kind, "1", "nan", tiff(image, nodata="nan"), image, np.isfinite(image[0])
    index, table = drawn(1), np.random.default_rng(0).integers(0, 256, (256, 3))
    image = np.moveaxis(table[index[0]], 2, 0).astype("uint8")
    yield "uint8", "palette: 3", "", tiff(index, "palette", palette=table), image, None
    greys = np.repeat(np.arange(255, -1, -1)[:, None], 3, 1)
    yield "uint8", "palette of greys: 1", "", tiff(index, "palette", palette=greys), 255 - index, None
    yield "complex64", "1", "", tiff(drawn(1, "float32").astype("complex64")), None, None
    yield "uint8", "CMYK", "", tiff(drawn(4), "cmyk"), None, None
    yield "uint8", "Lab", "", tiff(drawn(3), "lab"), None, None
    layer = (drawn(1, "uint16") // 2).astype("uint16")
    yield (
        "uint16",
        "3, alpha",
        "nowhere full",
        tiff(np.concatenate([drawn(3, "uint16"), layer]), "rgb", ["alpha"]),
        None,
        None,
    )


def picture(image, mode, kind, **options):
    """A picture as Pillow writes it, and as it reads that again: (bands, H, W)."""
    out = io.BytesIO()
    pixels = np.moveaxis(image, 0, 2)
    Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels, None if mode == "I;16" else mode).save(
        out, kind, **options
    )
    with Image.open(io.BytesIO(out.getvalue())) as back:
        found = np.asarray(back)
    return out.getvalue(), np.moveaxis(np.atleast_3d(found), 2, 0)


BAND = (
    '<VRTRasterBand dataType="{kind}" band="{band}"><{how}><SourceFilename relativeToVRT="{relative}">{name}'
    "</SourceFilename><SourceBand>1</SourceBand></{how}></VRTRasterBand>"
)


def vrt(*bands, head="", kind="UInt16"):
    height, width = SHAPE
    bands = [{"band": at, "kind": kind, "how": "SimpleSource", "relative": 1} | of for at, of in enumerate(bands, 1)]
    content = head + "".join(BAND.format(**of) for of in bands)
    return f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{content}</VRTDataset>'


def cases():
    for bits, bands, mask, content, image, valid in png_cases():
        yield Case("PNG", ".png", "1 bit" if bits == 1 else f"{bits} bits", bands, mask, content, image, valid)
    for kind, bands, mask, content, image, valid in tiff_cases():
        yield Case("TIFF", ".tif", kind, bands, mask, content, image, valid)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        image = drawn(3)
        content = picture(image, "RGB", "TIFF", compression=compression)[0]
        yield Case("TIFF", ".tiff", "uint8", f"3 ({compression.removeprefix('tiff_')})", "", content, image)
    for mode, bands in (("L", 1), ("RGB", 3)):
        named = str(bands)
        image = drawn(bands)
        for kind, suffix in (("JPEG", ".jpg"), ("JPEG", ".jpeg")):
            content, back = picture(image, mode, kind, quality=80, subsampling=0)
            yield Case(kind, suffix, "8 bits", named, "", content, back, lossy=True)
        yield Case("BMP", ".bmp", "8 bits", named, "", picture(image, mode, "BMP")[0], image)
        yield Case("JPEG 2000", ".jp2", "uint8", named, "", picture(image, mode, "JPEG2000")[0], image)
        layer = alpha(255).astype("uint8")
        both = np.concatenate([image, layer])
        content = picture(both, f"{mode}A", "JPEG2000")[0]
        yield Case("JPEG 2000", ".jp2", "uint8", f"{named}, alpha", "alpha", content, image, layer[0] == 255)
        for largest, kind in ((255, "uint8"), (1000, "uint16"), (65535, "uint16")):
            image = drawn(bands, kind, largest)
            suffix, name = (".pgm", "PGM") if bands == 1 else (".ppm", "PPM")
            yield Case(name, suffix, f"up to {largest}", named, "", pnm(image, largest), image)
    yield Case("JPEG", ".jpg", "8 bits", "CMYK", "", picture(drawn(4), "CMYK", "JPEG")[0])
    yield Case("PPM", ".ppm", "as text", "3", "", b"P3\n1 1\n255\n1 2 3\n")
    image, layer = drawn(3), alpha(255).astype("uint8")
    yield Case("WebP", ".webp", "lossless", "3", "", picture(image, "RGB", "WEBP", lossless=True)[0], image)
    content, back = picture(image, "RGB", "WEBP", quality=80)
    yield Case("WebP", ".webp", "lossy", "3", "", content, back, lossy=True)
    both = np.concatenate([image, layer])
    content = picture(both, "RGBA", "WEBP", lossless=True, exact=True)[0]
    yield Case("WebP", ".webp", "lossless", "3, alpha", "alpha", content, image, layer[0] == 255)
    yield Case("BMP", ".bmp", "8 bits", "3, alpha", "alpha", picture(both, "RGBA", "BMP")[0])
    yield Case("JPEG 2000", ".j2k", "uint8", "3", "", picture(drawn(3), "RGB", "JPEG2000", no_jp2=True)[0], drawn(3))
    yield Case("PPM", ".pnm", "up to 255", "3", "", pnm(drawn(3)), drawn(3))
    content = picture(drawn(1, "uint16"), "I;16", "JPEG2000")[0]
    yield Case("JPEG 2000", ".jp2", "uint16", "1", "", content, drawn(1, "uint16"))
    for kind in ("uint8", "uint16", "float32"):
        of = {"uint8": "Byte", "uint16": "UInt16", "float32": "Float32"}[kind]
        content = vrt(*({"name": f"{at}.tif"} for at in range(3)), head=PLACE, kind=of).encode()
        beside = {f"{at}.tif": tiff(band[None]) for at, band in enumerate(drawn(3, kind))}
        yield Case("VRT", ".vrt", kind, "3 files", "", content, drawn(3, kind), beside=beside)
    content = vrt({"name": "/vsicurl/https://a.example/b.tif"}).encode()
    yield Case("VRT", ".vrt", "uint16", "of an address", "", content)
    for kind in (*TYPES, "bool", "complex64"):
        for bands in (1, 3, 4):
            image = drawn(bands, kind) if kind in TYPES else np.ones((bands, *SHAPE), kind)
            held = image if kind in TYPES else None
            yield Case("NPY", ".npy", kind, str(bands), "", numpy_file(np.save, image), held)
            yield Case("NPZ", ".npz", kind, str(bands), "", numpy_file(np.savez, image), held)


def numpy_file(writer, image):
    out = io.BytesIO()
    writer(out, image)
    return out.getvalue()


CASES = list(cases())


def read(case, folder):
    path = folder / f"a{case.suffix}"
    path.write_bytes(case.content)
    for name, content in case.beside.items():
        (folder / name).write_bytes(content)
    return read_image(path, None, "Data.path")


def is_as_held(image, case):
    """Equal; of a lossy file to one level, by which decoders' cosine transforms may differ (ISO/IEC 10918-2)."""
    if case.lossy:
        return np.abs(image.astype(int) - case.image).max() <= 1
    return np.array_equal(image, case.image, equal_nan=image.dtype.kind == "f")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_what_a_file_holds_is_read_bit_for_bit_or_refused(case, tmp_path):
    if case.image is None:
        with pytest.raises(InvalidInput) as refused:
            read(case, tmp_path)
        (problem,) = refused.value.problems
        assert problem.found and problem.fix
        return
    image, valid = read(case, tmp_path)
    assert image.dtype == case.image.dtype.newbyteorder("=")
    assert is_as_held(image, case)
    assert np.array_equal(valid, np.ones(SHAPE, bool) if case.valid is None else case.valid)


def said(case, folder):
    """What becomes of a file, in words."""
    try:
        image, _ = read(case, folder)
    except InvalidInput as error:
        (problem,) = error.problems
        return re.sub(r"\(.*\)", "(…)", f"refused: {problem.found}. {problem.fix}")  # a library's own words
    assert is_as_held(image, case)
    result = "as it is decoded" if case.lossy else "exactly"
    return result if case.type == image.dtype.name else f"{result}, {image.dtype}"


def georeference(case, folder):
    path = folder / f"a{case.suffix}"
    placed(path)
    where = ground(path)
    path.with_name(path.name + ".aux.xml").unlink()
    if where is None:
        return "none"
    assert (where.crs.to_epsg(), where.left, where.top) == (32633, 500_000, 4_600_000)
    return "read"


def test_the_table_of_formats_is_what_happens(request, tmp_path):
    types, bands = {}, {}
    for case in CASES:
        found = said(case, tmp_path)
        row = case.format, case.mask or "—", georeference(case, tmp_path) if case.image is not None else "—", found
        types.setdefault((case.bands, *row), {})[case.type] = None
    for (name, *row), of in types.items():
        bands.setdefault((", ".join(of), *row), []).append(name)
    lines = [
        f"| {name} | {kinds} | {'; '.join(names)} | {mask} | {where} | {found} |\n"
        for (kinds, name, mask, where, found), names in sorted(bands.items(), key=lambda row: row[0][1])
    ]
    table = "| format | type | bands | mask | georeference | read |\n|---|---|---|---|---|---|\n" + "".join(lines)
    assert_part(request, DOCUMENT, (BEGIN, END), table, ACCEPT)


def test_every_suffix_that_is_read_is_in_the_table():
    assert {case.suffix for case in CASES if case.image is not None} == suffixes()


def settings(path, bands=3):
    return tiny(**{"Data.path": str(path), "Model.in_bands": bands})


@pytest.mark.parametrize("case", [case for case in CASES if case.image is not None], ids=lambda case: case.id)
def test_what_is_cut_off_is_refused(case, tmp_path):
    path = tmp_path / f"a{case.suffix}"
    path.write_bytes(case.content[: len(case.content) * 3 // 4])
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_image(path, None, "Data.path")


def test_a_png_whose_bits_fell_over_is_refused(tmp_path):
    content = bytearray(png(drawn(3), "rgb"))
    content[len(content) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_image(tmp_path / "a.png", None, "Data.path")


def test_a_colour_png_of_16_bits_keeps_all_its_values(tmp_path):
    image = (np.arange(3 * 64 * 96) % 3165 * 20).reshape(3, 64, 96).astype("uint16")
    (tmp_path / "deep.png").write_bytes(png(image, "rgb", 16))
    read_back, _ = read_image(tmp_path / "deep.png", None, "IN")
    assert len(np.unique(read_back)) == 3165  # by Pillow 20: it reduces them to 8 bits


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_transparency_is_no_band_and_no_band_is_advised_for_it(tmp_path, suffix):
    image = np.random.default_rng(0).integers(0, 256, (4, 96, 256), dtype="uint8")
    image[3] = 255
    image[3, :, 100:110] = 7
    path = tmp_path / f"a{suffix}"
    path.write_bytes(png(image, "rgb+alpha") if suffix == ".png" else tiff(image, "rgb", ["alpha"]))
    (scene,) = load_imagery(settings(path), torch.device("cpu")).scenes
    assert scene.hr.shape[0] == 3 and not scene.usable[:, 25:27].any() and scene.usable[:, :20].all()
    with pytest.raises(InvalidInput) as refused:
        load_imagery(settings(path, bands=4), torch.device("cpu"))
    (problem,) = refused.value.problems
    assert problem.found == "3 bands and transparency"
    assert "in_bands: 3" in problem.fix and "in_bands: 4" not in problem.fix
    if suffix == ".tif":  # what it says of near infrared does it
        rio, *arguments = problem.fix[problem.fix.index("rio ") :].split("`")[0].split()
        subprocess.run([Path(sys.executable).with_name(rio), *arguments], check=True)
        assert len(load_imagery(settings(path, bands=4), torch.device("cpu")).scenes[0].hr) == 4


def test_a_fourth_band_that_is_near_infrared_stays_one(tmp_path):
    for kind in ("uint8", "uint16"):
        image = np.random.default_rng(0).integers(0, 256, (4, 96, 256)).astype(kind)
        (tmp_path / "a.tif").write_bytes(tiff(image, "rgb", ["other"]))
        assert np.array_equal(read_image(tmp_path / "a.tif", None, "IN")[0], image)


def test_several_images_in_one_file_are_refused(tmp_path):
    pages = [Image.fromarray(page) for page in drawn(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InvalidInput, match="3 images in one file"):
        read_image(tmp_path / "a.tif", None, "IN")


def test_a_file_of_no_known_suffix_is_named_with_those_that_are(tmp_path):
    Image.fromarray(drawn(1)[0]).save(tmp_path / "a.gif")
    with pytest.raises(InvalidInput, match=r"'\.gif'; .*Convert it to GeoTIFF; known are .*\.tif"):
        read_image(tmp_path / "a.gif", None, "IN")


@pytest.fixture
def stack(tmp_path):
    """A virtual raster of three files, one a band, in the folder above and beside it."""
    image = drawn(3, "uint16")
    (tmp_path / "scene").mkdir()
    for band, name in zip(image, ("scene/b4.tif", "scene/b3.png", "b2.tif"), strict=True):
        made = tiff(band[None]) if name.endswith("tif") else png(band[None], "grey", 16)
        (tmp_path / name).write_bytes(made)
    (tmp_path / "scene" / "s.vrt").write_text(
        vrt({"name": "b4.tif"}, {"name": "b3.png"}, {"name": tmp_path / "b2.tif", "relative": 0}, head=PLACE)
    )
    return tmp_path / "scene" / "s.vrt", image


def test_a_virtual_raster_is_what_it_is_made_of_and_its_parts_are_no_scenes(stack):
    file, image = stack
    read_back, valid = read_image(file, None, "Data.path")
    assert np.array_equal(read_back, image) and valid.all()
    assert ground(file).crs.to_epsg() == 32633
    assert images_in(file.parent, DataSettings())[0] == [file]
    assert parts(file) == [file, file.with_name("b4.tif"), file.with_name("b3.png"), file.parent.parent / "b2.tif"]


def test_a_part_of_a_virtual_raster_that_changes_is_seen(stack):
    file, _ = stack
    before = find_scenes(settings(file)).stamps()
    file.with_name("b4.tif").write_bytes(tiff(drawn(2, "uint16")[:1]))
    assert find_scenes(settings(file)).stamps() != before


FUNCTION = '<VRTRasterBand dataType="UInt16" band="1" subClass="VRTDerivedRasterBand"><PixelFunctionType>a.b'
FUNCTION += "</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage></VRTRasterBand>"
RAW = '<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand"><SourceFilename>/etc/passwd'
RAW += "</SourceFilename></VRTRasterBand>"
TABLE = (
    '<ColorInterp>Palette</ColorInterp><ColorTable><Entry c1="1" c2="2" c3="3" c4="255"/></ColorTable><SimpleSource>'
)
OVERVIEW = '<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">/vsicurl/http://localhost/a.ovr</MDI></Metadata>'


@pytest.mark.parametrize(("content", "found"), [
    *((vrt({"name": name, "relative": relative}), "that names") for relative in (0, 1) for name in (
        "/vsicurl/http://localhost:9/a.tif", "http://localhost:9/a.tif", "/vsizip/a.zip/a.tif", "absent.tif", "",
        "/etc/passwd", "../scene", "NETCDF:a.nc:b", "s.vrt", "&lt;VRTDataset/&gt;")),
    (vrt(head=FUNCTION), "subClass"),
    (vrt(head=RAW), "subClass"),
    (vrt(head=OVERVIEW), "OVERVIEWS"),
    (vrt({"name": "cmyk.tif"}), "colours in CMYK"),
    (vrt({"name": "cut.pgm"}), "ends before its pixels do"),
    (vrt({"name": "b4.tif"}, kind="UInt32").replace("<SimpleSource>", TABLE), "indices of type uint32"),
    (vrt({"name": "b4.tif", "how": "KernelFilteredSource"}), "KernelFilteredSource"),
    (vrt({"name": "b4.tif"}).replace("<SimpleSource>", '<SimpleSource SourceFilename="/etc/a.tif">'), "SourceFilename"),
    (vrt({"name": "b4.tif"}).replace("SourceFilename", "sourcefilename"), "sourcefilename"),
    (vrt({"name": "b4.tif"}).replace("rasterXSize", 'subClass="VRTWarpedDataset" rasterXSize'), "subClass"),
    ('<!DOCTYPE a [<!ENTITY b "c">]>' + vrt({"name": "b4.tif"}), "definitions"),
    (vrt({"name": "fake.tif"}), "virtual raster of the virtual raster"),
    (vrt({"name": "wms.tif"}), "cannot be read"),
    ("<VRTDataset", "cannot be read"),
])  # fmt: skip
def test_a_virtual_raster_that_leads_elsewhere_is_refused(stack, content, found):
    file, _ = stack
    file.with_name("fake.tif").write_text(vrt({"name": "/vsicurl/http://localhost:9/a.tif"}))
    file.with_name("cmyk.tif").write_bytes(tiff(drawn(4), "cmyk"))
    file.with_name("cut.pgm").write_bytes(pnm(drawn(1))[:-1])
    file.with_name("wms.tif").write_text("<GDAL_WMS><Service name='TMS'></Service></GDAL_WMS>")
    file.write_text(content)
    with pytest.raises(InvalidInput, match=found):
        read_image(file, None, "Data.path")
    assert ground(file) is None
