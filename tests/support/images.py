"""Image files byte by byte, as their specifications say: written without the libraries that the product reads them by.

PNG: ISO/IEC 15948. TIFF: revision 6.0, one strip, little-endian. PNM: the binary kinds of Netpbm.
"""

import struct
import zlib

import numpy as np

COLOUR_TYPES = {"grey": 0, "rgb": 2, "palette": 3, "grey+alpha": 4, "rgb+alpha": 6}


def png(image, kind, bits=8, palette=None, transparent=None):
    """PNG of (bands, H, W); `palette`: (entries, 3); `transparent`: its tRNS, a value a band or an alpha an entry."""
    bands, height, width = image.shape
    rows = np.moveaxis(image, 0, 2).reshape(height, width * bands)
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    else:  # the most significant bits first, each row begins a byte
        unpacked = [np.unpackbits(row.astype("u1")[:, None], axis=1)[:, 8 - bits :].ravel() for row in rows]
        lines = [np.packbits(row).tobytes() for row in unpacked]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, COLOUR_TYPES[kind], 0, 0, 0))]
    if palette is not None:
        chunks.append((b"PLTE", palette.astype("u1").tobytes()))
    if transparent is not None:
        chunks.append((b"tRNS", np.asarray(transparent, "u1" if kind == "palette" else ">u2").tobytes()))
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


PHOTOMETRIC = {"grey": 1, "rgb": 2, "palette": 3, "cmyk": 5, "lab": 8}
EXTRA = {"other": 0, "premultiplied": 1, "alpha": 2}


def tiff(image, kind="grey", extra=(), palette=None, nodata=""):
    """TIFF of (bands, H, W); `extra`: what its last bands are; `palette`: (256, 3); `nodata`: as GDAL's tag has it."""
    bands, height, width = image.shape
    numbers = {"u": 1, "i": 2, "f": 3, "c": 6}[image.dtype.kind]
    content = np.ascontiguousarray(np.moveaxis(image, 0, 2)).astype(image.dtype.newbyteorder("<")).tobytes()
    short, long = "H", "I"
    entries = [
        (256, long, [width]), (257, long, [height]), (258, short, [image.dtype.itemsize * 8] * bands),
        (259, short, [1]),
        (262, short, [PHOTOMETRIC[kind]]), (273, long, [0]), (277, short, [bands]), (278, long, [height]),
        (279, long, [len(content)]), (284, short, [1]),
        *([(320, short, (palette.T.astype(int) * 257).ravel().tolist())] if palette is not None else []),
        *([(338, short, [EXTRA[name] for name in extra])] if extra else []),
        (339, short, [numbers] * bands),
        *([(42113, "c", [bytes([letter]) for letter in nodata.encode() + b"\0"])] if nodata else []),
    ]  # fmt: skip
    after = 8 + 2 + 12 * len(entries) + 4
    values, directory = b"", struct.pack("<H", len(entries))
    packed = {tag: struct.pack(f"<{len(given)}{kind}", *given) for tag, kind, given in entries}
    begin = after + sum(len(value) for value in packed.values() if len(value) > 4)
    packed[273] = struct.pack("<I", begin)
    for tag, unit, given in entries:
        value = packed[tag]
        directory += struct.pack("<HHI", tag, {"c": 2, "H": 3, "I": 4}[unit], len(given))
        directory += value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", after + len(values))
        values += value if len(value) > 4 else b""
    return struct.pack("<2sHI", b"II", 42, 8) + directory + struct.pack("<I", 0) + values + content


def pnm(image, largest=255):
    """PGM of (1, H, W), PPM of (3, H, W), binary."""
    bands, height, width = image.shape
    words = np.moveaxis(image, 0, 2).astype(">u2" if largest > 255 else "u1")
    return f"P{6 if bands == 3 else 5}\n{width} {height}\n{largest}\n".encode() + words.tobytes()


PLACE = "<SRS>EPSG:32633</SRS><GeoTransform>500000, 10, 0, 4600000, 0, -10</GeoTransform>"


def placed(path):
    """Put a file beside an image that says where it lies, as GDAL reads one for every format."""
    path.with_name(path.name + ".aux.xml").write_text(f"<PAMDataset>{PLACE}</PAMDataset>")
