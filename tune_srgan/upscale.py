"""A generator handed out: `best.pt` written and read, and an image super-resolved with it, georeference kept."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.checkpoints import generator_problems, put, read
from trainables.configuration import load_configuration
from trainables.data_settings import CustomNormalization
from trainables.errors import InvalidInput, Problem
from trainables.image_files import read_image
from trainables.networks import Generator
from trainables.normalization import normalization_of
from trainables.schema import Configuration
from trainables.state import State
from tune_srgan.store.layout import TEMPORARY
from tune_srgan.store.objects import write_atomically
from tune_srgan.store.trial_folder import TrialFolder

TILE, OVERLAP = 128, 16  # low-resolution pixels
KEY = "--weights"


def write_generator(trial: TrialFolder, to: Path) -> None:
    """Write the generator of a trial's checkpoint with all that `upscale` needs."""
    configuration = trial.configuration()
    state = State.load(trial.checkpoint, configuration, torch.device("cpu"))
    content = {
        "generator": state.judged.state_dict(),
        "configuration": configuration.model_dump_json(),
        "low": state.scale[0],
        "high": state.scale[1],
        "step": state.step,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(to, buffer.getvalue())


def load_generator(weights: Path, config: Path | None = None) -> tuple[nn.Module, Configuration, float, float]:
    """Return a generator, its configuration, and the values that become 0 and 1.

    Of a `best.pt`, which says all of it but its user's functions; or of a checkpoint, opensr-srgan's or a training's,
    and its training's file.
    """
    found = read(weights, KEY)
    if config is None and found.configuration is None:
        said = "opensr-srgan's weights" if found.foreign else "a training's checkpoint"
        fix = "A checkpoint does not say which network it is of."
        expected = "the training's YAML beside it, with --config, or the best.pt of a study"
        raise InvalidInput([Problem(str(weights), KEY, said, expected, fix)])
    configuration = found.configuration
    custom = configuration is not None and isinstance(configuration.Data.normalization, CustomNormalization)
    if configuration is not None and config is not None and not custom:
        fix = "Leave --config out."
        raise InvalidInput([Problem(str(config), "--config", "a training's file beside a best.pt", "none", fix)])
    if custom and config is None:  # weights are passed on; what they name must not run before their user says so
        said = "a normalisation of functions, which a file of weights must not import"
        raise InvalidInput([Problem(str(weights), KEY, said, "the training's YAML beside it, with --config")])
    if config is not None:
        loaded = load_configuration(config)
        configuration = configuration.model_copy(update={"Data": loaded.Data}) if configuration else loaded
    assert configuration is not None  # else one of the above was said
    if problems := generator_problems(found, configuration, str(weights), KEY):
        raise InvalidInput(problems)
    low, high = found.scale or _fixed_scale(configuration, str(config))
    generator = Generator(configuration.Model.in_bands, configuration.Generator)
    put(generator, configuration.Generator, found.judged, found.foreign)
    return generator.eval(), configuration, low, high


def _fixed_scale(configuration: Configuration, file: str) -> tuple[float, float]:
    """The values that a configuration's normalisation makes 0 and 1, whatever the imagery."""
    data = configuration.Data
    if data.dataset_type == "ExampleDataset":  # reflectances times 10 000, whatever its normalisation is called
        return 0.0, 10000.0
    if data.normalization == "percentiles":
        fix = "Set it as it was when the generator was trained."
        found = "percentiles, which are those of the training's imagery"
        raise InvalidInput([Problem(file, "Data.normalization", found, "a fixed one", fix)])
    if data.normalization == "scale" and data.scale is not None:
        return data.scale[0], data.scale[1]
    return (0.0, 10000.0) if data.normalization == "normalise_10k" else (0.0, 1.0)


def upscale_image(generator: Callable[[Tensor], Tensor], image: Tensor, factor: int) -> Tensor:
    """Super-resolve (bands, h, w) → (bands, h·factor, w·factor) in overlapping tiles, blended so that no seam shows."""
    bands, height, width = image.shape
    total = torch.zeros(bands, height * factor, width * factor)
    weight = torch.zeros(1, height * factor, width * factor)
    for top in _starts(height):
        for left in _starts(width):
            tile = image[:, top : top + TILE, left : left + TILE]
            with torch.no_grad():
                sr = generator(tile[None])[0]
            fade = _fade(sr.shape[-2], factor)[:, None] * _fade(sr.shape[-1], factor)[None, :]
            rows = slice(top * factor, top * factor + sr.shape[-2])
            columns = slice(left * factor, left * factor + sr.shape[-1])
            total[:, rows, columns] += sr * fade
            weight[:, rows, columns] += fade
    return total / weight


def upscale_file(source: Path, target: Path, weights: Path, config: Path | None = None) -> tuple[int, int]:
    """Read, super-resolve, write; returns the new width and height. Nodata stays nodata."""
    generator, configuration, low, high = load_generator(weights, config)
    factor = configuration.Generator.scaling_factor
    if not source.exists():
        raise InvalidInput([Problem(str(source), "IN", "no such file", "an image")])
    if target.suffix.lower() not in {".tif", ".tiff"}:
        raise InvalidInput([Problem(str(target), "OUT", f"'{target.suffix}'", "a .tif")])
    if target.exists() and target.samefile(source):
        raise InvalidInput([Problem(str(target), "OUT", "the image itself", "another file: IN stays as it is")])
    if not target.parent.is_dir():
        raise InvalidInput([Problem(str(target), "OUT", "no such folder", "a place in a folder that is there")])
    image, valid = read_image(source, configuration.Data.nodata, "IN")
    if image.shape[0] != configuration.Model.in_bands:
        raise InvalidInput(
            [Problem(str(source), "IN", f"{image.shape[0]} bands", f"{configuration.Model.in_bands}, as trained")]
        )
    normalization = normalization_of(configuration.Data, low, high)
    values = np.where(valid, image, normalization.low).astype(np.float32)
    scaled = normalization.normalize(torch.from_numpy(values))
    sr = normalization.denormalize(upscale_image(generator, scaled, factor)).numpy()
    _write(source, target, _as_type(sr, image.dtype), valid.repeat(factor, 0).repeat(factor, 1), factor)
    return sr.shape[2], sr.shape[1]


def _starts(length: int) -> list[int]:
    if length <= TILE:
        return [0]
    return [*range(0, length - TILE, TILE - OVERLAP), length - TILE]


def _fade(length: int, factor: int) -> Tensor:
    """Weights of a tile's pixels: 1 inside, falling towards its edges over the overlap, never 0."""
    distance = torch.minimum(torch.arange(length), torch.arange(length).flip(0)) + 1.0
    return (distance / (OVERLAP * factor)).clamp(max=1.0)


def _as_type(values: NDArray[np.floating], dtype: np.dtype[Any]) -> NDArray[Any]:
    dtype = dtype.newbyteorder("=")
    if not np.issubdtype(dtype, np.integer):
        return values.astype(f"f{min(max(dtype.itemsize, 4), 8)}")  # a GeoTIFF has no others
    limits = np.iinfo(dtype)
    return values.round().clip(limits.min, limits.max).astype(dtype)


def _beside(value: NDArray[Any]) -> NDArray[Any]:
    """The nearest other value of the same type."""
    if not np.issubdtype(value.dtype, np.integer):
        return np.asarray(np.nextafter(value, np.asarray(np.inf, value.dtype)))
    return np.asarray(value - 1 if value == np.iinfo(value.dtype).max else value + 1)


def _write(source: Path, target: Path, image: NDArray[Any], valid: NDArray[np.bool_], factor: int) -> None:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.transform import Affine

    profile: dict[str, Any] = {"driver": "GTiff", "compress": "deflate", "tiled": True}
    profile |= {"blockxsize": 256, "blockysize": 256, "BIGTIFF": "IF_SAFER"}
    profile["predictor"] = 2 if np.issubdtype(image.dtype, np.integer) else 3  # half the size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        descriptions: tuple[str | None, ...] = ()
        if source.suffix.lower() in {".tif", ".tiff"}:
            with rasterio.open(source) as original:
                profile |= {"crs": original.crs, "nodata": original.nodata}
                profile["transform"] = original.transform @ Affine.scale(1 / factor)
                descriptions = original.descriptions
        nodata = profile.get("nodata")
        if nodata is not None:
            value = np.asarray(nodata).astype(image.dtype)
            image = np.where(image == value, _beside(value), image)  # what is there must not read as nodata
            image = np.where(valid, image, value)
        bands, height, width = image.shape
        temporary = target.with_name(target.name + TEMPORARY)
        with rasterio.open(
            temporary, "w", width=width, height=height, count=bands, dtype=image.dtype.name, **profile
        ) as out:
            out.write(image)
            for band, text in enumerate(descriptions, start=1):
                out.set_band_description(band, text or "")
            if nodata is None and not valid.all():
                out.write_mask(valid.astype(np.uint8) * 255)
        temporary.replace(target)
