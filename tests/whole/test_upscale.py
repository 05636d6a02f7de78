"""`upscale`: equal to the image in one piece, no halo at holes, and all that a file says of itself kept or scaled."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.rpc import RPC
from scipy.ndimage import binary_dilation

from tests.support.service import ROOT
from tests.support.studies import write
from tests.support.tiny import tiny
from tests.whole.test_commands import TRAINING, cut, geotiff, invoke, python
from trainables.errors import InvalidInput
from trainables.networks import Generator, upsample
from trainables.schema import Configuration
from tune_srgan import load_generator, upscale
from tune_srgan.upscaling import windows
from tune_srgan.upscaling.generator import TrainedGenerator, checkerboard
from tune_srgan.upscaling.rasters import Loaded
from tune_srgan.upscaling.windows import Area, Plan, receptive_field, super_resolve

CPU = torch.device("cpu")
INPUTS = ROOT.parent / "shared" / "inputs"
LOW, HIGH = 5888.0, 10241.0  # of the sample scene


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The best.pt of a real training, of a hundred steps."""
    folder = tmp_path_factory.mktemp("train")
    geotiff(folder / "scene.tif", cut(160, 224))
    assert invoke("train", write(folder, TRAINING, "training.yaml"), "--out", folder / "out").exit_code == 0
    return folder / "out" / "best.pt"


def drawn(bands=3, low=LOW, high=HIGH, seed=0, **settings):
    """A generator of random weights."""
    torch.manual_seed(seed)
    values = {f"Generator.{name}": value for name, value in settings.items()}
    configuration = tiny(**{"Model.in_bands": bands, "Data.normalization": "scale", "Data.scale": [low, high]} | values)
    return TrainedGenerator(Generator(bands, configuration.Generator).eval(), configuration, low, high)


def bicubic(file, bands, low=0.0, high=255.0, nodata=None):
    """The file of a generator that is bicubic interpolation and nothing else."""
    plain = Generator(bands, tiny().Generator)
    torch.nn.init.zeros_(plain.last.conv.weight)
    data = {"Data.normalization": "scale", "Data.scale": [low, high], "Data.nodata": nodata}
    configuration = tiny(**{"Model.in_bands": bands} | data)
    content = {"generator": plain.state_dict(), "configuration": configuration.model_dump_json()}
    torch.save(content | {"low": low, "high": high}, file)
    return file


def in_one_piece(generator, image):
    """(bands, h, w) through the network at once, by the formula of Data.scale."""
    low, high = generator.low, generator.high
    with torch.no_grad():
        sr = generator.network((torch.from_numpy(image.astype(np.float32))[None] - low) / (high - low))[0]
    return sr.numpy() * (high - low) + low


def by_windows(generator, image, valid=None, **options):
    """The same by windows, put together; how many there were."""
    pixels = Loaded(image, np.ones(image.shape[1:], bool) if valid is None else valid)
    whole, factor = Area(0, 0, *image.shape[1:]), generator.factor
    sr = np.full((image.shape[0], image.shape[1] * factor, image.shape[2] * factor), np.nan, np.float32)
    pieces = list(super_resolve(pixels, generator, CPU, **options))
    for piece in pieces:
        rows, columns = piece.area.within(whole, factor)
        assert np.isnan(sr[:, rows, columns]).all()  # every pixel once
        sr[:, rows, columns] = piece.image
    return sr, len(pieces)


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of few pixels, as a machine of little memory would have."""
    monkeypatch.setattr(windows, "BLOCK", 128)
    monkeypatch.setattr(windows, "SAMPLE", 96)
    monkeypatch.setattr(windows, "SIDE", 80)


NETWORKS = {
    "plain": {"block_type": "plain", "n_blocks": 2, "n_channels": 8},
    "standard": {"block_type": "standard", "bicubic_skip": False, "n_blocks": 2, "n_channels": 8},
    "measured margin": {"block_type": "res", "bicubic_skip": False, "n_blocks": 16, "n_channels": 8},
    "large kernels": {"block_type": "lka", "bicubic_skip": False, "n_blocks": 1, "n_channels": 8},
    "channel attention": {"block_type": "rcab", "bicubic_skip": False, "n_blocks": 2, "n_channels": 16},
    "dense": {"block_type": "rrdb", "bicubic_skip": False, "n_blocks": 1, "n_channels": 8},
    "noisy": {"model_type": "stochasticgan", "bicubic_skip": False, "n_blocks": 2, "n_channels": 8},
    "twice": {"block_type": "plain", "n_blocks": 2, "n_channels": 8, "scaling_factor": 2},
    "eight times": {"block_type": "plain", "n_blocks": 1, "n_channels": 4, "scaling_factor": 8},
    "kernels of 9 and 5": {"large_kernel_size": 9, "small_kernel_size": 5, "n_blocks": 2, "n_channels": 4},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_windows_are_the_image_in_one_piece(small_windows, name):
    generator = drawn(**NETWORKS[name])
    image = cut(150, 116).astype(np.float32)
    sr, count = by_windows(generator, image)
    assert count > 5
    assert np.abs(sr - in_one_piece(generator, image)).max() < 1e-3 * (HIGH - LOW)


def test_a_trained_generators_windows_are_its_image_in_one_piece(small_windows, trained):
    generator = load_generator(trained)
    image = cut(150, 116).astype(np.float32)
    sr, count = by_windows(generator, image)
    assert count > 5
    assert np.abs(sr - in_one_piece(generator, image)).max() < 1e-5 * (generator.high - generator.low)


EXACT = [name for name in NETWORKS if name != "channel attention"]


@pytest.mark.parametrize("name", EXACT)
def test_the_receptive_field_is_how_far_an_output_looks(name):
    """In float64: what lies beyond changes nothing at all, what lies just within does."""
    generator = drawn(**NETWORKS[name])
    network, field = generator.network.double(), receptive_field(generator.configuration.Generator)
    side, factor = 2 * field + 5, generator.factor
    image = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    middle = slice(side // 2 * factor, (side // 2 + 1) * factor)
    network(image)[:, :, middle, middle].sum().backward()
    felt = torch.nonzero(image.grad.abs().sum((0, 1)))
    farthest = (felt - side // 2).abs().amax()
    assert field - 1 <= farthest <= field


def test_channel_attention_has_the_same_means_in_every_window(small_windows, monkeypatch):
    """In one piece they would be of all pixels; so windows of any size must agree, and come near to it."""
    generator = drawn(**NETWORKS["channel attention"])
    for block in generator.network.trunk:  # attention that answers to the means
        torch.nn.init.normal_(block.excite.weight, std=3.0)
        torch.nn.init.normal_(block.squeeze.weight, std=3.0)
    image = cut(150, 116).astype(np.float32)
    sr, count = by_windows(generator, image)
    monkeypatch.setattr(windows, "BLOCK", 384)
    other, fewer = by_windows(generator, image)
    assert count > fewer > 1
    assert np.abs(sr - other).max() < 1e-5 * (HIGH - LOW)
    assert np.abs(sr - in_one_piece(generator, image)).max() < 1e-2 * (HIGH - LOW)


def test_a_part_is_cut_out_of_the_whole(small_windows):
    generator = drawn(**NETWORKS["plain"])
    image = cut(150, 116).astype(np.float32)
    pieces = super_resolve(Loaded(image, np.ones(image.shape[1:], bool)), generator, CPU, within=Area(31, 17, 90, 70))
    whole = in_one_piece(generator, image)
    for piece in pieces:
        rows, columns = piece.area.within(Area(0, 0, 150, 116), 4)
        assert np.abs(piece.image - whole[:, rows, columns]).max() < 1e-5 * (HIGH - LOW)


def holed(image):
    """Where holes are: a swath's slanting border, spots, a lake."""
    rows, columns = np.mgrid[: image.shape[1], : image.shape[2]]
    valid = columns > 12 + rows // 8
    valid &= (rows - 70) ** 2 + (columns - 60) ** 2 > 14**2
    valid[np.random.default_rng(0).random(valid.shape) < 0.002] = False
    return valid


def near(valid, distance=4):
    """Valid pixels within a distance of one that is not."""
    return valid & binary_dilation(~valid, np.ones((2 * distance + 1,) * 2, bool))


@pytest.mark.parametrize("hole", [0, 65535, np.nan])
def test_a_hole_does_not_colour_its_neighbours(small_windows, trained, hole):
    """Of a scene with and without holes; holes as zeros changed these pixels by 0.125 of the range on average."""
    generator = load_generator(trained)
    image, valid = cut(150, 116).astype(np.float32), holed(cut(150, 116))
    sr, _ = by_windows(generator, np.where(valid, image, np.float32(hole)), valid)
    truth = in_one_piece(generator, image)
    at = near(valid).repeat(4, 0).repeat(4, 1)
    spread = generator.high - generator.low
    assert at.sum() > 5000
    assert np.abs(sr - truth)[:, at].mean() < 0.007 * spread
    far = (valid & ~near(valid, 20)).repeat(4, 0).repeat(4, 1)
    assert np.abs(sr - truth)[:, far].max() < 1e-5 * spread


def test_holes_are_filled_alike_by_windows_and_in_one_piece(small_windows, monkeypatch):
    generator = drawn(**NETWORKS["plain"])
    image, valid = cut(150, 116).astype(np.float32), holed(cut(150, 116))
    sr, count = by_windows(generator, image, valid)
    monkeypatch.setattr(windows, "SIDE", 10_000)
    whole, one = by_windows(generator, image, valid)
    shown = valid.repeat(4, 0).repeat(4, 1)
    assert (count > 5, one) == (True, 1)
    assert np.abs(sr - whole)[:, shown].max() < 1e-5 * (HIGH - LOW)


def test_a_file_with_a_hole_has_no_halo(trained, tmp_path):
    image = cut(100, 100)
    valid = holed(image)
    whole, source = geotiff(tmp_path / "whole.tif", image), geotiff(tmp_path / "in.tif", np.where(valid, image, 0))
    for file in (whole, source):
        assert invoke("upscale", file, f"{file}.out.tif", "--weights", trained).exit_code == 0
    with rasterio.open(f"{source}.out.tif") as one, rasterio.open(f"{whole}.out.tif") as other:
        sr, truth, masks = one.read().astype(float), other.read().astype(float), one.read_masks()
    assert ((masks > 0) == valid.repeat(4, 0).repeat(4, 1)).all()
    at = near(valid).repeat(4, 0).repeat(4, 1)
    generator = load_generator(trained)
    assert np.abs(sr - truth)[:, at].mean() < 0.007 * (generator.high - generator.low)


def test_an_upscaled_image_keeps_its_place_and_its_nodata(trained, tmp_path):
    image = cut(40, 56)
    image[:, :8, :12] = 0
    source, target = geotiff(tmp_path / "in.tif", image), tmp_path / "out.tif"
    said = invoke("upscale", source, target, "--weights", trained)
    assert said.exit_code == 0
    assert "224×160 px" in said.stdout
    with rasterio.open(source) as low, rasterio.open(target) as high:
        assert (high.width, high.height, high.count) == (4 * 56, 4 * 40, 3)
        assert (high.crs, high.bounds) == (low.crs, low.bounds)  # all four corners
        assert high.transform.a == low.transform.a / 4
        assert (high.dtypes, high.nodata) == (low.dtypes, low.nodata)
        sr, masks = high.read(), high.read_masks()
    assert ((masks > 0) == (image > 0).repeat(4, 1).repeat(4, 2)).all()
    # a hundred steps from bicubic: the picture is still there
    bicubic = upsample(torch.from_numpy(image[None].astype(np.float32)), 4)[0].numpy()
    difference = np.abs(sr - bicubic)[:, 48:, 64:]
    assert difference.mean() < 0.1 * bicubic[:, 48:, 64:].std()


def test_a_dark_pixel_does_not_become_nodata(tmp_path):
    configuration = Configuration.model_validate(TRAINING)
    plain = Generator(3, configuration.Generator)
    torch.nn.init.zeros_(plain.last.conv.weight)  # bicubic and nothing else: it overshoots below 0 at the edge
    torch.save(
        {"generator": plain.state_dict(), "configuration": configuration.model_dump_json(), "low": 0.0, "high": 9000.0},
        tmp_path / "best.pt",
    )
    image = np.full((3, 24, 24), 2, np.uint16)
    image[:, 12:] = 9000
    source, target = geotiff(tmp_path / "in.tif", image), tmp_path / "out.tif"
    assert invoke("upscale", source, target, "--weights", tmp_path / "best.pt").exit_code == 0
    with rasterio.open(target) as high:
        assert high.read_masks().all()


REFUSED = {  # what differs from a command line that is right, and the argument that is named
    "missing image": ({"source": "no.tif"}, "source", "IN"),
    "another band count": ({"source": "one_band.tif"}, "source", "IN"),
    "no GeoTIFF": ({"target": "out.jpg"}, "target", "OUT"),
    "missing folder": ({"target": "no/out.tif"}, "target", "OUT"),
    "missing weights": ({"weights": "no.pt"}, "weights", "--weights"),
    "no weights": ({"weights": "in.tif"}, "weights", "--weights"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_upscaled_is_refused(trained, tmp_path, name):
    changed, which, key = REFUSED[name]
    geotiff(tmp_path / "in.tif", cut(8, 8))
    geotiff(tmp_path / "one_band.tif", cut(8, 8)[:1])
    best = trained
    place = {part: tmp_path / file for part, file in ({"source": "in.tif", "target": "out.tif"} | changed).items()}
    place = {"weights": best} | place
    said = invoke("upscale", place["source"], place["target"], "--weights", place["weights"])
    assert said.exit_code == 2, said.exception
    assert said.stderr.startswith(f"error {place[which]}: {key}: found ")
    assert not place["target"].exists()


def test_an_image_is_never_written_over_by_its_own(trained, tmp_path):
    geotiff(tmp_path / "in.tif", cut(8, 8))
    before = (tmp_path / "in.tif").read_bytes()
    (tmp_path / "link.tif").symlink_to("in.tif")
    for target in ("in.tif", "link.tif"):
        said = invoke("upscale", tmp_path / "in.tif", tmp_path / target, "--weights", trained)
        assert (said.exit_code, "the image itself" in said.stderr) == (2, True)
    assert (tmp_path / "in.tif").read_bytes() == before
