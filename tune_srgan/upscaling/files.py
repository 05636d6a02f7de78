"""Super-resolving files and arrays: what a person names is checked whole before the work starts, then done in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.band_files import files_of
from trainables.data_settings import DataSettings
from trainables.errors import InvalidInput, Problem
from trainables.listing import images_in
from tune_srgan.upscaling.about import About
from tune_srgan.upscaling.generator import TrainedGenerator, load_generator
from tune_srgan.upscaling.source import Loaded, Windowed, opened
from tune_srgan.upscaling.target import Target
from tune_srgan.upscaling.windows import Area, Match, out_type, sample, super_resolve

IN, OUT = "IN", "OUT"
FAR = 1.0  # ranges of the training that most of an image's values may lie beyond it
LEAST = 0.05  # of the training's range: an image that fills less is of another unit


@dataclass(frozen=True)
class Job:
    """One file to super-resolve, and where to."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Wishes:
    """What a person may want of the work: a part of the image, its distribution, no layout for the cloud, a device."""

    window: tuple[int, int, int, int] | None = None  # column, row, width, height
    like: Path | None = None  # an image whose extent is wanted
    match: Match | None = None
    cog: bool = True
    device: str = "auto"


def pick(device: str) -> torch.device:
    """Choose where the work is done; InvalidInput where torch finds no GPU and one is wanted."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidInput([Problem("", "--device", "cuda, and torch finds no GPU here", "auto, or cpu")])
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def window_of(text: str | None) -> tuple[int, int, int, int] | None:
    """Read COLUMN,ROW,WIDTH,HEIGHT; InvalidInput where it is none."""
    if text is None:
        return None
    try:
        left, top, width, height = (int(part) for part in text.split(","))
    except ValueError:
        expected = "four whole numbers: COLUMN,ROW,WIDTH,HEIGHT"
        raise InvalidInput([Problem("", "--window", repr(text), expected)]) from None
    return left, top, width, height


def jobs(sources: Sequence[Path], out: Path, generator: TrainedGenerator, wishes: Wishes) -> list[Job]:
    """Return what is to be done, found possible; InvalidInput that says all that is not.

    Of several files, or a folder of them, OUT is a folder.
    """
    files, problems = _files(sources)
    into_folder = out.is_dir() or len(sources) > 1 or any(source.is_dir() for source in sources)
    if into_folder:
        found = [Job(file, out / f"{file.stem}.tif") for file in files]
        named = [job.target.name.lower() for job in found]
        twice = sorted({str(job.target) for job in found if named.count(job.target.name.lower()) > 1})
        problems += [Problem(name, OUT, "the place of several images", "names that differ") for name in twice]
        if out.exists() and not out.is_dir():
            problems.append(Problem(str(out), OUT, "a file", "a folder, as there are several images"))
    else:
        found = [Job(file, out) for file in files]
        if out.suffix.lower() not in {".tif", ".tiff"}:
            problems.append(Problem(str(out), OUT, f"'{out.suffix}'", "a .tif"))
    if not out.parent.is_dir():
        problems.append(Problem(str(out), OUT, "no such folder", "a place in a folder that is there"))
    for job in found:
        problems += [*_same(job, files), *_unfit(job.source, generator, wishes)]
    if problems:
        raise InvalidInput(problems)
    if into_folder:
        out.mkdir(exist_ok=True)
    return found


def upscale_file(job: Job, generator: TrainedGenerator, wishes: Wishes) -> Iterator[float]:
    """Super-resolve a file into another, by windows; yields the share that is done."""
    device, factor = pick(wishes.device), generator.factor
    with opened(job.source, generator.configuration.Data.nodata, IN) as (pixels, about):
        within = _area(job.source, pixels, about, wishes)
        told = about.moved(within, factor)
        shape = (generator.bands, within.height * factor, within.width * factor)
        with Target(job.target, told, shape, out_type(pixels.dtype), factor, wishes.cog) as target:
            target.open()
            done = 0
            for piece in super_resolve(
                pixels, generator, device, within=within, nodata=told.nodata, match=wishes.match
            ):
                area = piece.area
                moved = area._replace(top=area.top - within.top, left=area.left - within.left)
                target.write(piece._replace(area=moved))
                done += area.height * area.width
                yield done / (within.height * within.width)
            target.finish()


def unlike(job: Job, generator: TrainedGenerator) -> str:
    """Say that an image's values lie far from those that the generator was trained on; empty where they do not."""
    if generator.normalization.functions is not None:
        return ""
    low, high = generator.normalization.low, generator.normalization.high
    with opened(job.source, generator.configuration.Data.nodata, IN) as (pixels, _):
        parts = [image[:, valid] for image, valid in sample(pixels)]
    if not parts:
        return ""
    below, above = np.percentile(np.concatenate(parts, axis=1), (2, 98))
    least, most = (float(value - low) / (high - low) for value in (below, above))
    if least >= -FAR and LEAST <= most <= 1 + FAR:
        return ""
    return (
        f"{job.source}: its values, {below:.4g} to {above:.4g}, are far from those that the generator was trained on, "
        f"{low:.4g} to {high:.4g}. If they are of another unit, the image comes out wrong: convert it first."
    )


def upscale(
    image: NDArray[Any] | Path | str,
    weights: TrainedGenerator | Path | str,
    out: Path | str | None = None,
    *,
    config: Path | str | None = None,
    window: tuple[int, int, int, int] | None = None,
    match: Match | None = None,
    cog: bool = True,
    device: str = "auto",
) -> NDArray[Any] | Path:
    """Super-resolve an array or a file, by the generator of a best.pt or one that is loaded.

    An array is (bands, h, w) in the numbers of the training's imagery; what it masks, or has as NaN, is no data.
    Returns (bands, h·factor, w·factor) in its type, masked where the image is; or, with `out`, writes a GeoTIFF and
    returns its path. `window`: column, row, width and height of a part. InvalidInput says what is wrong.
    """
    generator = weights if isinstance(weights, TrainedGenerator) else load_generator(weights, config)
    wishes = Wishes(window, None, match, cog, device)
    if isinstance(image, (str, Path)):
        if out is not None:
            work = jobs([Path(image)], Path(out), generator, wishes)
            for job in work:
                for _ in upscale_file(job, generator, wishes):
                    pass
            return work[0].target if len(work) == 1 else Path(out)
        problems = _unfit(Path(image), generator, wishes)
        if problems:
            raise InvalidInput(problems)
        with opened(Path(image), generator.configuration.Data.nodata, "image") as (pixels, about):
            return _in_memory(pixels, generator, _area(Path(image), pixels, about, wishes), wishes)
    if out is not None:
        raise InvalidInput([Problem("", "out", "a file for an array", "none: an array does not say where it lies")])
    array = np.ma.getdata(image)
    if array.ndim != 3 or array.shape[0] != generator.bands or not array.size or array.dtype.kind not in "uif":
        found = f"an array of shape {array.shape}, {array.dtype}"
        raise InvalidInput([Problem("", "image", found, f"real numbers, ({generator.bands}, height, width)")])
    valid = np.asarray(~np.ma.getmaskarray(image).any(0))
    if array.dtype.kind == "f":
        valid &= np.isfinite(array).all(0)
    loaded = Loaded(array, valid)
    made = _in_memory(loaded, generator, _area(Path("image"), loaded, About(), wishes), wishes)
    if isinstance(image, np.ma.MaskedArray) or not isinstance(made, np.ma.MaskedArray):
        return made
    return made.filled(np.nan)  # only numbers that are none were masked


def _in_memory(pixels: Loaded | Windowed, generator: TrainedGenerator, within: Area, wishes: Wishes) -> NDArray[Any]:
    factor = generator.factor
    made = np.zeros((generator.bands, within.height * factor, within.width * factor), out_type(pixels.dtype))
    shown = np.ones(made.shape[1:], bool)
    for piece in super_resolve(pixels, generator, pick(wishes.device), within=within, match=wishes.match):
        rows, columns = piece.area.within(within, factor)
        made[:, rows, columns] = piece.image
        shown[rows, columns] = piece.valid.repeat(factor, 0).repeat(factor, 1)
    return made if shown.all() else np.ma.MaskedArray(made, np.broadcast_to(~shown, made.shape))


def _files(sources: Sequence[Path]) -> tuple[list[Path], list[Problem]]:
    """The images that are named, those of a folder in their order as a training finds them; and what is none."""
    files: list[Path] = []
    problems = []
    for source in sources:
        if source.is_dir():
            inside = [file for file in images_in(source, DataSettings())[0] if file.parent == source]
            if not inside:
                problems.append(Problem(str(source), IN, "a folder without images", "images"))
            files += inside
        elif all(file.exists() for file in files_of(source)):
            files.append(source)
        else:
            problems.append(Problem(str(source), IN, "no such file", "an image"))
    return files, problems


def _same(job: Job, files: Sequence[Path]) -> list[Problem]:
    """Say that an image would be written over, also through a link."""
    if not job.target.exists() or not any(job.target.samefile(file) for file in files):
        return []
    which = "the image itself" if job.target.samefile(job.source) else "another of the images"
    return [Problem(str(job.target), OUT, which, "another file: IN stays as it is")]


def _unfit(file: Path, generator: TrainedGenerator, wishes: Wishes) -> list[Problem]:
    """Say what keeps an image from being super-resolved, by its header where the format has one."""
    try:
        with opened(file, generator.configuration.Data.nodata, IN) as (pixels, about):
            if pixels.bands != generator.bands:
                found = f"{pixels.bands} band{'s' * (pixels.bands != 1)}"
                return [Problem(str(file), IN, found, f"{generator.bands}, as trained")]
            _area(file, pixels, about, wishes)
    except InvalidInput as error:
        return error.problems
    return []


def _area(file: Path, pixels: Loaded | Windowed, about: About, wishes: Wishes) -> Area:
    """The part of an image that is wanted; InvalidInput where it does not have it."""
    whole = Area(0, 0, pixels.height, pixels.width)
    if wishes.window is not None:
        left, top, width, height = wishes.window
        if min(left, top) < 0 or min(width, height) < 1 or left + width > whole.width or top + height > whole.height:
            found = f"column {left}, row {top}, {width}×{height} px"
            expected = f"a part of {file}, {whole.width}×{whole.height} px"
            raise InvalidInput([Problem("", "--window", found, expected)])
        return Area(top, left, height, width)
    return whole if wishes.like is None else _extent(file, whole, about, wishes.like)


def _extent(file: Path, whole: Area, about: About, like: Path) -> Area:
    """The pixels of an image that touch the extent of another."""
    with opened(like, None, "--like") as (other, known):
        if about.transform is None or known.transform is None or about.crs != known.crs:
            found = f"an image that does not lie in the coordinates of {file}"
            fix = "Reproject one of the two first."
            raise InvalidInput([Problem(str(like), "--like", found, "one in the same, both with a geotransform", fix)])
        a, b, c, d, e, f = known.transform
        corners = [(x, y) for x in (0, other.width) for y in (0, other.height)]
        a1, b1, c1, d1, e1, f1 = about.transform
        determinant = a1 * e1 - b1 * d1
        columns, rows = [], []
        for column, row in corners:
            x, y = a * column + b * row + c - c1, d * column + e * row + f - f1
            columns.append((e1 * x - b1 * y) / determinant)
            rows.append((a1 * y - d1 * x) / determinant)
    tiny = 1e-6  # of a pixel: grids that agree but for rounding
    left, right = (int(edge) for edge in (np.floor(min(columns) + tiny), np.ceil(max(columns) - tiny)))
    top, bottom = (int(edge) for edge in (np.floor(min(rows) + tiny), np.ceil(max(rows) - tiny)))
    left, right = max(left, 0), min(right, whole.width)
    top, bottom = max(top, 0), min(bottom, whole.height)
    if right <= left or bottom <= top:
        raise InvalidInput([Problem(str(like), "--like", f"an extent that {file} has nothing of", "one within it")])
    return Area(top, left, bottom - top, right - left)
