"""Whatever raster a person has, `check`, `train` and `upscale` give an exact result or one clear error each.

Rasters of all types, bands, masks, tilings, sizes and places. `RASTERS=2000 pytest tests/whole/test_rasters.py -m long
-n 0` tries as many, others each time; by default the same few each time.
"""

import os
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import rasterio
import yaml
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine
from typer.testing import CliRunner

from tests.support.tiny import OWN
from trainables.image_files import read_image
from tune_srgan.commands import app

COUNT = int(os.environ.get("RASTERS", "0"))
FACTOR, CROP, STEPS = 4, 16, 10
TRAINING = {
    "Data": {"crop_size": CROP, "train_batch_size": 2, "val_fraction": 0.35},
    "Training": {"max_steps": STEPS, "validate_every": 5, "g_pretrain_steps": 4, "adv_loss_ramp_steps": 4, "threads": 1}
    | OWN["Training"],
    "Generator": OWN["Generator"] | {"n_blocks": 1, "n_channels": 4, "large_kernel_size": 3},
    "Discriminator": OWN["Discriminator"] | {"model_type": "patchgan", "n_blocks": 2, "base_channels": 4},
    "Nash": {"validation_pairs": 64},
    "Logging": {"num_val_images": 0},
}
PLACES = {
    "none": {},
    "north up": {"crs": "EPSG:32633", "transform": Affine(10, 0, 500_000, 0, -10, 4_600_000)},
    "turned": {"crs": "EPSG:32633", "transform": Affine(8, 6, 500_000, 6, -8, 4_600_000)},
    "south up": {"crs": "EPSG:4326", "transform": Affine(0.1, 0, 10, 0, 0.1, 40)},
    "no system": {"transform": Affine(2, 0, 0, 0, -2, 0)},
    "by points": {
        "crs": "EPSG:4326",
        "gcps": [GroundControlPoint(*at) for at in ((0, 0, 1, 9), (0, 5, 2, 9), (5, 0, 1, 8))],
    },
}
FILLS = {
    "texture": lambda shape, rng: rng.random(shape),
    "constant": lambda shape, _: np.full(shape, 0.5),
    "extremes": lambda shape, rng: rng.integers(0, 2, shape).astype(float),
    "gaps": lambda shape, rng: np.where(rng.random(shape) < 0.01, np.nan, rng.random(shape)),
    "border": lambda shape, rng: np.where(np.arange(shape[-1]) < shape[-1] // 3, 0, 0.1 + 0.9 * rng.random(shape)),
}
TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64", "complex64"]


@dataclass(frozen=True)
class Raster:
    """What is drawn: values (bands, H, W) as they are written, where they are valid, and how the file is made."""

    kind: str
    bands: int
    size: tuple[int, int]
    fill: str
    nodata: str
    mask: str
    tiled: bool
    place: str
    wanted: int = 0  # bands more than there are, in the training's file

    def values(self):
        rng = np.random.default_rng(self.bands)
        drawn = FILLS[self.fill]((self.bands, *self.size), rng)
        if np.dtype(self.kind).kind in "fc":
            return (drawn * 3000).astype(self.kind)
        most = min(np.iinfo(self.kind).max, 2**40)
        return (np.nan_to_num(drawn) * most).astype(self.kind)

    def nodata_value(self):
        kind = np.dtype(self.kind)
        return {"none": None, "zero": 0, "nan": np.nan if kind.kind == "f" else None}.get(
            self.nodata,
            -9999.0 if kind.kind == "f" else None if kind.kind == "c" else float(min(np.iinfo(kind).max, 2**40)),
        )

    def valid(self):
        image, nodata = self.values(), self.nodata_value()
        valid = np.isfinite(image).all(0)
        if nodata is not None:
            valid &= (image != nodata).all(0)
        return valid if self.mask == "none" else valid & self.opaque()

    def opaque(self):
        rows, columns = np.indices(self.size)
        return (rows + columns) % 150 > 2

    def write(self, path):
        image, nodata = self.values(), self.nodata_value()
        alpha = self.mask == "alpha"
        profile = {"driver": "GTiff", "count": self.bands + alpha, "dtype": self.kind, "nodata": nodata} | PLACES[
            self.place
        ]
        profile |= {"height": self.size[0], "width": self.size[1], "photometric": "MINISBLACK"}
        profile |= {"alpha": "UNSPECIFIED"} if alpha else {}
        profile |= {"tiled": True, "blockxsize": 64, "blockysize": 32, "compress": "deflate"} if self.tiled else {}
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=self.mask == "inside"), rasterio.open(path, "w", **profile) as out:
            out.write(image, list(range(1, self.bands + 1)))
            if alpha:
                full = np.iinfo(self.kind).max if np.dtype(self.kind).kind in "ui" else 1
                out.write(np.where(self.opaque(), full, 0).astype(self.kind), self.bands + 1)
                out.colorinterp = [*out.colorinterp[:-1], rasterio.enums.ColorInterp.alpha]
            elif self.mask in {"inside", "beside"}:
                out.write_mask(self.opaque())


SIDES = st.sampled_from([1, 2, 3, 4, 5, 15, 16, 17, 31, 48, 63, 64, 97]) | st.integers(1, 130)
LARGE = st.tuples(st.integers(90, 120), st.integers(150, 200))  # enough to train on
RASTERS = st.builds(
    Raster,
    kind=st.sampled_from(TYPES),
    bands=st.integers(1, 5),
    size=LARGE | LARGE | st.tuples(SIDES, SIDES),
    fill=st.sampled_from([*sorted(FILLS), "texture", "texture"]),
    nodata=st.sampled_from(["none", "zero", "highest", "nan"]),
    mask=st.sampled_from(["none", "inside", "beside", "alpha"]),
    tiled=st.booleans(),
    place=st.sampled_from(sorted(PLACES)),
    wanted=st.sampled_from([0, 0, 0, 0, 1]),
)


def invoke(*arguments):
    """The command's answer: its exit code is 0, or 2 with clear errors; no exception but the exit."""
    said = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert said.exception is None or isinstance(said.exception, SystemExit), said.exception
    assert said.exit_code in {0, 2}, said.output
    errors = [line for line in said.stderr.splitlines() if line.startswith("error ")]
    assert (said.exit_code == 2) == bool(errors), said.stderr
    assert all(": found " in line and "; expected " in line for line in errors), errors
    return said


def trained_on(folder, file, bands):
    """Train ten steps on a file; returns the answer and the folder."""
    document = TRAINING | {"Data": TRAINING["Data"] | {"path": str(file)}, "Model": {"in_bands": bands}}
    (folder / "training.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    checked = invoke("check", folder / "training.yaml")
    said = invoke("train", folder / "training.yaml", "--out", folder / "out")
    assert (checked.exit_code, checked.stderr.count("error ")) == (said.exit_code, said.stderr.count("error "))
    return said, folder / "out" / "best.pt"


@pytest.fixture(scope="module")
def generators(tmp_path_factory):
    """A function from a number of bands to the generator of a training on texture."""
    made = {}

    def of(bands):
        if bands not in made:
            folder = tmp_path_factory.mktemp("generator")
            Raster("uint16", bands, (96, 160), "texture", "none", "none", False, "none").write(folder / "a.tif")
            said, made[bands] = trained_on(folder, folder / "a.tif", bands)
            assert said.exit_code == 0, said.stderr
        return made[bands]

    return of


def tried(raster, folder, generators):
    """Check, train and upscale a raster; every result is exact."""
    file = folder / "a.tif"
    raster.write(file)
    usable = raster.kind != "complex64" and raster.valid().any()
    if usable:
        image, valid = read_image(file, None, "IN")
        assert image.dtype == raster.kind and np.array_equal(image, raster.values(), equal_nan=raster.kind[0] == "f")
        assert np.array_equal(valid, raster.valid())
    said, weights = trained_on(folder, file, raster.bands + raster.wanted)
    event(f"trained: {said.exit_code == 0}")
    assert usable and not raster.wanted or said.exit_code == 2
    weights = weights if said.exit_code == 0 else generators(raster.bands)
    said = invoke("upscale", file, folder / "out.tif", "--weights", weights)
    event(f"upscaled: {said.exit_code == 0}")
    assert (said.exit_code == 0) >= usable, said.stderr
    if said.exit_code == 0:
        with rasterio.open(file) as source, rasterio.open(folder / "out.tif") as out:
            assert (out.height, out.width) == (raster.size[0] * FACTOR, raster.size[1] * FACTOR)
            assert out.dtypes[0] == raster.kind and out.crs == source.crs
            if not source.transform.is_identity:
                assert out.transform.almost_equals(source.transform @ Affine.scale(1 / FACTOR))
        image, valid = read_image(folder / "out.tif", None, "OUT")
        assert image.shape[0] == raster.bands
        assert np.array_equal(valid, raster.valid().repeat(FACTOR, 0).repeat(FACTOR, 1))


PLAIN = Raster("uint16", 3, (100, 180), "texture", "none", "none", False, "north up")


def examples(count, derandomize):
    quiet = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    return settings(max_examples=count, derandomize=derandomize, **quiet)


@examples(20, derandomize=True)
@given(RASTERS)
@example(PLAIN)
@example(Raster("uint8", 3, (100, 180), "texture", "zero", "alpha", True, "turned"))
@example(Raster("float32", 1, (100, 180), "gaps", "nan", "inside", True, "by points"))
@example(Raster("uint8", 1, (1, 1), "texture", "none", "none", False, "none"))
def test_any_raster(tmp_path_factory, generators, raster):
    with warnings.catch_warnings(action="ignore"):
        tried(raster, tmp_path_factory.mktemp("raster"), generators)


@pytest.mark.long
@pytest.mark.skipif(not COUNT, reason="RASTERS says how many")
@examples(COUNT or 1, derandomize=False)
@given(RASTERS)
def test_any_raster_of_many(tmp_path_factory, generators, raster):
    with warnings.catch_warnings(action="ignore"):
        tried(raster, tmp_path_factory.mktemp("raster"), generators)
