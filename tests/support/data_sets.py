"""Data sets in the forms that opensr-srgan's users have: an example set, LR/HR folders, a SEN2NAIP file."""

from io import BytesIO
from pathlib import Path

import numpy as np
import rasterio
from rasterio.io import MemoryFile

Pair = tuple[np.ndarray, np.ndarray]  # (bands, h, w), and (bands, h·factor, w·factor)


def reflectances(count: int, bands: int, size: int) -> list[np.ndarray]:
    """Images (bands, size, size), uint16: reflectances times 10 000, of fields with edges and some texture."""
    draw = np.random.default_rng(bands)
    fields = draw.integers(300, 4000, (count, bands, size // 8, size // 8)).repeat(8, 2).repeat(8, 3)
    return list((fields + draw.integers(0, 300, fields.shape)).astype(np.uint16))


def pairs(count: int, bands: int, size: int, factor: int) -> list[Pair]:
    """The same as (LR, HR), LR by the mean."""
    every = reflectances(count, bands, size)
    cells = [hr.reshape(bands, size // factor, factor, size // factor, factor) for hr in every]
    return [(cell.mean((2, 4)).astype(np.uint16), hr) for cell, hr in zip(cells, every, strict=True)]


def write_examples(folder: Path, count: int = 26, bands: int = 4, size: int = 64) -> Path:
    """Write an ExampleDataset: hr_*.npz of (H, W, bands)."""
    folder.mkdir(parents=True)
    for index, image in enumerate(reflectances(count, bands, size)):
        np.savez(folder / f"hr_{index:05d}.npz", hr=image.transpose(1, 2, 0))
    return folder


def write_tiles(folder: Path, train: int = 30, val: int = 8, bands: int = 6, size: int = 64, factor: int = 8) -> Path:
    """Write an LRHRFolderDataset: {train,val}/{LR,HR} of tiles that have equal names."""
    for index, pair in enumerate(pairs(train + val, bands, size, factor)):
        for side, image in zip(("LR", "HR"), pair, strict=True):
            file = folder / ("train" if index < train else "val") / side / f"tile_{index:04d}.npy"
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, image)
    return folder


def write_taco(file: Path, count: int = 60, bands: int = 4, size: int = 64, factor: int = 4) -> Path:
    """Write a .taco file of pairs as tacoreader 0.6.5 reads SEN2NAIP: items, each of two GeoTIFFs, LR first."""
    items = []
    for lr, hr in pairs(count, bands, size, factor):
        items.append(_tortilla([("lr", "GTiff", _geotiff(lr)), ("hr", "GTiff", _geotiff(hr))]))
    named = [(f"pair_{index:04d}", "TORTILLA", item) for index, item in enumerate(items)]
    file.write_bytes(_tortilla(named, b"WX"))
    return file


def _geotiff(image: np.ndarray) -> bytes:
    bands, height, width = image.shape
    profile = {"count": bands, "height": height, "width": width, "dtype": image.dtype.name}
    place = {"crs": "EPSG:32631", "transform": rasterio.Affine(10, 0, 0, 0, -10, 0)}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **profile, **place) as out:
            out.write(image)
        return bytes(memory.getbuffer())


HEADER = 200  # bytes: magic, the footer's place and length, partitions, nothing


def _tortilla(items: list[tuple[str, str, bytes]], magic: bytes = b"#y") -> bytes:
    """Items one after another, then a Parquet table of their names, formats and places."""
    import pyarrow
    from pyarrow import parquet

    lengths = [len(content) for _, _, content in items]
    offsets = [HEADER + sum(lengths[:index]) for index in range(len(items))]
    columns = {"id": [name for name, _, _ in items], "file_format": [kind for _, kind, _ in items]}
    columns |= {"offset": offsets, "length": lengths}
    footer = BytesIO()
    parquet.write_table(pyarrow.table({f"tortilla:{name}": column for name, column in columns.items()}), footer)
    numbers = (HEADER + sum(lengths), len(footer.getvalue()), 1)
    header = magic + b"".join(number.to_bytes(8, "little") for number in numbers)
    return header.ljust(HEADER, b"\0") + b"".join(content for _, _, content in items) + footer.getvalue()
