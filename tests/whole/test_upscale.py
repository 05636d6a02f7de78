"""`upscale`: equal to the image in one piece, no halo at holes, and all that a file says of itself kept or scaled."""

import functools
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
from tune_srgan.upscaling.source import Loaded
from tune_srgan.upscaling.windows import Area, receptive_field, super_resolve

CPU = torch.device("cpu")
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


class Endless:
    """An image of 40 000 × 40 000 pixels that is nowhere, and the largest part that was asked for."""

    height = width = 40_000
    dtype = np.dtype(np.uint16)
    largest = 0

    def read(self, area):
        self.largest = max(self.largest, area.height * area.width)
        image = np.random.default_rng(area.top + area.left).integers(LOW, HIGH, (3, area.height, area.width), np.uint16)
        valid = np.ones(image.shape[1:], bool)
        valid[:5, :5] = False  # holes are filled from a wider part
        return image, valid


@pytest.mark.parametrize("name", ["plain", "channel attention"])
def test_no_part_grows_with_the_image(small_windows, name):
    image, generator = Endless(), drawn(**NETWORKS[name])
    pieces = super_resolve(image, generator, CPU, match="moments")
    for _ in range(3):
        assert next(pieces).image.size <= 3 * (80 * 4) ** 2
    pieces.close()
    assert image.largest <= 192**2


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
    """Of a scene with and without holes; as the least value, as they once entered, they change nine times as much."""
    generator = load_generator(trained)
    image, valid = cut(150, 116).astype(np.float32), holed(cut(150, 116))
    sr, _ = by_windows(generator, np.where(valid, image, np.float32(hole)), valid)
    truth = in_one_piece(generator, image)
    at = near(valid).repeat(4, 0).repeat(4, 1)
    spread = generator.high - generator.low
    assert at.sum() > 5000
    assert np.abs(sr - truth)[:, at].mean() < 0.002 * spread
    dark = in_one_piece(generator, np.where(valid, image, np.float32(generator.low)))
    assert np.abs(dark - truth)[:, at].mean() > 0.006 * spread
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
    assert np.abs(sr - truth)[:, at].mean() < 0.002 * (generator.high - generator.low)


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


def described(file):
    """All that a file says beside its pixels, as rasterio reads it."""
    with rasterio.open(file) as image:
        return {
            "type": image.dtypes,
            "crs": image.crs,
            "transform": image.transform,
            "nodata": image.nodata,
            "colours": image.colorinterp,
            "names": image.descriptions,
            "scales": image.scales,
            "offsets": image.offsets,
            "units": image.units,
            "gcps": image.gcps,
            "rpcs": image.rpcs,
            "tags": {name: value for name, value in image.tags().items() if name != "OVR_RESAMPLING_ALG"},
            "masks": {flag for flags in image.mask_flag_enums for flag in flags},
        }


GRID = Affine(10, 0, 500_000, 0, -10, 4_600_000)
PLACED = {"crs": "EPSG:32633", "transform": GRID}
CORNERS = [GroundControlPoint(row, col, 15 + col / 2e3, 41 - row / 2e3, 10.0) for row in (0, 96) for col in (0, 128.5)]
RPCS = RPC(
    **{"height_off": 100, "height_scale": 500, "lat_off": 41, "lat_scale": 0.1, "long_off": 15, "long_scale": 0.1},
    **{"line_off": 95.5, "line_scale": 96, "samp_off": 127.5, "samp_scale": 128},
    **{"line_num_coeff": [0.01, 0.1, -1, 0.02, 0.003] + [0.001] * 15, "line_den_coeff": [1.0, 0.002] + [0.0] * 18},
    **{"samp_num_coeff": [-0.02, 1, 0.1, 0.01, 0.002] + [0.001] * 15, "samp_den_coeff": [1.0, 0.001] + [0.0] * 18},
)
# as people have them: what the file is made with, and what is then said of it
GIVEN = {
    "rgbn_u8": (PLACED | {"count": 4, "dtype": "uint8", "photometric": "RGB", "alpha": "NO"}, {}),
    "rgbn_u16": (PLACED | {"count": 4, "dtype": "uint16"}, {}),
    "scale_offset": (PLACED | {"count": 3, "dtype": "uint16"}, {"scales": (1e-4,) * 3, "offsets": (-0.1,) * 3}),
    "no_georef": ({"count": 3, "dtype": "uint8"}, {}),
    "gcps": ({"count": 3, "dtype": "uint8"}, {"gcps": (CORNERS, "EPSG:4326")}),
    "rpcs": ({"count": 3, "dtype": "uint8"}, {"rpcs": RPCS}),
    "rgba": (PLACED | {"count": 4, "dtype": "uint8", "photometric": "RGB", "alpha": "YES"}, {}),
}


def given(name, tmp_path):
    """One of GIVEN, of the sample's pixels; transparency has a hole."""
    made, said = GIVEN[name]
    scene = cut(96, 128)
    image = np.concatenate([scene, scene[:1]])[: made["count"]]
    image = image if made["dtype"] == "uint16" else ((image - LOW) / (HIGH - LOW) * 250).clip(1, 255).astype(np.uint8)
    if name == "rgba":
        image[3] = np.where(holed(image), 255, 0)
    file = tmp_path / "in.tif"
    with rasterio.open(file, "w", driver="GTiff", height=96, width=128, **made) as out:
        out.write(image)
        for key, value in said.items():
            setattr(out, key, value)
    return file


SAME = ("type", "crs", "nodata", "colours", "names", "scales", "offsets", "units", "masks")
FOLDERS = ["rgbn_u8", "rgbn_u16", "scale_offset", "no_georef", "gcps", "rpcs"]


def enlarged(source, tmp_path, bands, *options, low=0.0, high=255.0):
    """What `upscale` makes of a file by bicubic interpolation."""
    target = tmp_path / "out.tif"
    weights = bicubic(tmp_path / "bicubic.pt", bands, low, high)
    said = invoke("upscale", source, target, "--weights", weights, *options)
    assert said.exit_code == 0, said.stderr
    beside = {file.name for file in tmp_path.iterdir() if file.is_file()} - {Path(source).name}
    assert beside == {"out.tif", "bicubic.pt"}
    return target


@pytest.mark.parametrize("layout", ["--cog", "--no-cog"])
@pytest.mark.parametrize("name", FOLDERS)
def test_what_a_file_says_of_its_bands_is_kept(tmp_path, name, layout):
    source = given(name, tmp_path)
    bands = 4 if name.startswith("rgbn") else 3
    target = enlarged(source, tmp_path, bands, layout, high=255.0 if "u8" in name else 10000.0)
    before, after = described(source), described(target)
    assert {key: after[key] for key in SAME} == {key: before[key] for key in SAME}
    if before["crs"]:
        a, b, c, d, e, f = before["transform"][:6]
        assert after["transform"][:6] == (a / 4, b / 4, c, d / 4, e / 4, f)
    else:
        assert after["transform"].is_identity  # so rasterio says that there is none
    with rasterio.open(source) as low, rasterio.open(target) as high:
        expected = upsample(torch.from_numpy(low.read().astype(np.float32))[None], 4)[0].numpy()
        limits = np.iinfo(low.dtypes[0])
        assert np.abs(high.read() - expected.clip(limits.min, limits.max)).max() <= 0.51


def test_near_infrared_is_no_transparency(tmp_path):
    target = enlarged(given("rgbn_u8", tmp_path), tmp_path, 4)
    with Image.open(target) as picture:  # another reader: TIFF 6.0, tags 262 and 338
        assert (picture.tag_v2[262], picture.tag_v2[338]) == (2, (0,))  # RGB, and one sample of no known meaning


def test_no_geotransform_is_invented(tmp_path):
    target = enlarged(given("no_georef", tmp_path), tmp_path, 3)
    with Image.open(target) as picture:
        assert not {33550, 33922, 34264, 34735} & set(picture.tag_v2)  # of GeoTIFF: scale, tie point, matrix, keys


def test_ground_control_points_lie_where_they_lay(tmp_path):
    source = given("gcps", tmp_path)
    before, after = described(source)["gcps"], described(enlarged(source, tmp_path, 3))["gcps"]
    assert after[1] == before[1]
    assert [(p.row, p.col, p.x, p.y, p.z) for p in after[0]] == [
        (4 * p.row, 4 * p.col, p.x, p.y, p.z) for p in before[0]
    ]


def projected(rpc, longitude, latitude, height):
    """Row and column of a place by an RPC, counted from the first pixel's middle (RPC00B, coefficients 1 to 20)."""
    x = (longitude - rpc.long_off) / rpc.long_scale
    y = (latitude - rpc.lat_off) / rpc.lat_scale
    z = (height - rpc.height_off) / rpc.height_scale
    terms = [1, x, y, z, x * y, x * z, y * z, x * x, y * y, z * z]
    terms += [x * y * z, x**3, x * y * y, x * z * z, x * x * y, y**3, y * z * z, x * x * z, y * y * z, z**3]
    row = np.dot(terms, rpc.line_num_coeff) / np.dot(terms, rpc.line_den_coeff)
    column = np.dot(terms, rpc.samp_num_coeff) / np.dot(terms, rpc.samp_den_coeff)
    return row * rpc.line_scale + rpc.line_off, column * rpc.samp_scale + rpc.samp_off


@pytest.mark.parametrize("part", [(), ("--window", "16,24,100,60")])
def test_rpcs_project_a_place_to_the_same_ground(tmp_path, part):
    source = given("rpcs", tmp_path)
    before, after = described(source)["rpcs"], described(enlarged(source, tmp_path, 3, *part))["rpcs"]
    left, top = (16, 24) if part else (0, 0)
    for x, y, z in np.random.default_rng(0).uniform(-0.9, 0.9, (20, 3)):
        place = (
            before.long_off + x * before.long_scale,
            before.lat_off + y * before.lat_scale,
            before.height_off + z * before.height_scale,
        )
        row, column = projected(before, *place)
        # from corners instead of middles, a pixel of one image is four of the other
        expected = 4 * (row + 0.5 - top) - 0.5, 4 * (column + 0.5 - left) - 0.5
        assert np.allclose(projected(after, *place), expected, atol=1e-6)


def test_a_picture_lies_where_its_world_file_says(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)).save(folder / "a.png")
    # x and y of a step along a row, of one down a column, of the middle of the first pixel
    (folder / "a.pgw").write_text("10.0\n2.0\n1.0\n-8.0\n500005.5\n4599997.0\n")
    transform = described(enlarged(folder / "a.png", tmp_path, 3))["transform"]
    assert np.allclose(transform[:6], (2.5, 0.25, 500_000, 0.5, -2, 4_600_000))


def test_transparency_comes_back_as_a_mask(tmp_path):
    source = given("rgba", tmp_path)
    after = described(enlarged(source, tmp_path, 3))
    assert after["masks"] == {MaskFlags.per_dataset}
    assert after["colours"] == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    with rasterio.open(source) as low, rasterio.open(tmp_path / "out.tif") as high:
        shown = low.read(4) == 255
        assert 0 < shown.mean() < 1
        assert ((high.dataset_mask() > 0) == shown.repeat(4, 0).repeat(4, 1)).all()


def rich(file):
    """A file that says much: names, units, tags, statistics, a rotated grid, nodata."""
    image = np.random.default_rng(0).integers(1, 2000, (2, 40, 50)).astype(np.int16)
    profile = {"driver": "GTiff", "count": 2, "height": 40, "width": 50, "dtype": "int16", "nodata": -9999}
    grid = Affine(8, 3, 400_000, 2, -9, 5_000_000)
    with rasterio.open(file, "w", crs="EPSG:32633", transform=grid, **profile) as out:
        out.write(image)
        out.descriptions, out.units = ("B08 near infrared", "B11"), ("sr", "m")
        out.colorinterp = (ColorInterp.gray, ColorInterp.undefined)
        out.update_tags(ACQUIRED="2026-05-04", TIFFTAG_XRESOLUTION="300", AREA_OR_POINT="Point")
        out.update_tags(2, wavelength="1.61", STATISTICS_MEAN="12")
    return file


def test_tags_that_still_mean_something_are_kept(tmp_path):
    source = rich(tmp_path / "in.tif")
    target = enlarged(source, tmp_path, 2, high=2000.0)
    before, after = described(source), described(target)
    assert {key: after[key] for key in SAME} == {key: before[key] for key in SAME}
    assert after["tags"] == {"ACQUIRED": "2026-05-04", "AREA_OR_POINT": "Point"}
    assert np.allclose(after["transform"][:6], (2, 0.75, 400_000, 0.5, -2.25, 5_000_000))
    with rasterio.open(target) as image:
        assert image.tags(2) == {"wavelength": "1.61"}


def test_tags_of_a_namespace_of_their_own_are_kept(tmp_path):
    source = given("no_georef", tmp_path)
    with rasterio.open(source, "r+") as image:
        image.update_tags(ns="SENSOR", SATELLITEID="S2A")
    with rasterio.open(enlarged(source, tmp_path, 3)) as image:
        assert image.tags(ns="SENSOR") == {"SATELLITEID": "S2A"}


def test_a_place_needs_no_operator_of_one_version_of_affine(tmp_path, monkeypatch):
    """Before version 3 affine has no @, and from 3 on * is to go; the first ended `upscale` after all its work."""
    source = rich(tmp_path / "in.tif")
    for operator in ("__matmul__", "__mul__"):
        monkeypatch.setattr(Affine, operator, lambda *_: NotImplemented, raising=False)
    assert described(enlarged(source, tmp_path, 2, high=2000.0))["transform"].a == 2


def test_a_profile_of_colours_is_kept(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 30, 3), np.uint8)).save(
        tmp_path / "in.png", icc_profile=profile
    )
    with Image.open(enlarged(tmp_path / "in.png", tmp_path, 3)) as picture:
        assert picture.info["icc_profile"] == profile


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_every_type_comes_back_as_itself(tmp_path, dtype):
    """A flat image of the largest and of the least number that the type, and a network's float32, holds."""
    kind = np.iinfo(dtype) if np.dtype(dtype).kind in "ui" else np.finfo("float16")
    for value in (kind.min, kind.max):
        image = np.full((1, 12, 14), value, dtype)
        made = upscale(image, bicubic(tmp_path / "b.pt", 1, float(kind.min), float(kind.max)))
        assert made.dtype == dtype
        assert np.abs(made.astype(float) - float(value)).max() <= 1e-7 * (float(kind.max) - float(kind.min))


def as_cog(file):
    with rasterio.open(file) as image:
        return (
            image.tags(ns="IMAGE_STRUCTURE").get("LAYOUT"),
            image.block_shapes[0],
            image.overviews(1),
            image.compression,
        )


def test_a_file_is_tiled_compressed_and_laid_out_for_the_cloud(tmp_path):
    geotiff(tmp_path / "in.tif", cut(200, 300))
    layout, blocks, overviews, compression = as_cog(enlarged(tmp_path / "in.tif", tmp_path, 3, high=HIGH))
    assert (layout, blocks, overviews, compression.value) == ("COG", (512, 512), [2, 4], "DEFLATE")
    layout, blocks, overviews, _ = as_cog(enlarged(tmp_path / "in.tif", tmp_path, 3, "--no-cog", high=HIGH))
    assert (layout, blocks, overviews) == (None, (512, 512), [])


def test_a_window_is_a_part_of_the_whole_in_its_place(tmp_path):
    geotiff(tmp_path / "in.tif", cut(60, 80))
    whole = rasterio.open(enlarged(tmp_path / "in.tif", tmp_path, 3, high=HIGH)).read()
    with rasterio.open(enlarged(tmp_path / "in.tif", tmp_path, 3, "--window", "20,10,30,25", high=HIGH)) as part:
        assert (part.read() == whole[:, 40:140, 80:200]).all()
        assert part.bounds == (500_000 + 20 * 30, 4_000_000 - 35 * 30, 500_000 + 50 * 30, 4_000_000 - 10 * 30)


def test_an_extent_like_anothers_is_cut_out(tmp_path):
    geotiff(tmp_path / "in.tif", cut(60, 80))
    grid = Affine(10, 0, 500_000 + 20 * 30 + 10, 0, -10, 4_000_000 - 10 * 30)  # a third of a pixel off its edge
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "height": 75, "width": 88, "transform": grid}
    other = tmp_path / "folder" / "other.tif"
    other.parent.mkdir()
    with rasterio.open(other, "w", crs="EPSG:32621", **profile) as out:
        out.write(np.ones((1, 75, 88), np.uint8))
    with rasterio.open(enlarged(tmp_path / "in.tif", tmp_path, 3, "--like", other, high=HIGH)) as part:
        assert part.bounds == (500_000 + 20 * 30, 4_000_000 - 35 * 30, 500_000 + 50 * 30, 4_000_000 - 10 * 30)
    with rasterio.open(other, "r+") as out:
        out.crs = "EPSG:32622"
    said = invoke(
        "upscale", tmp_path / "in.tif", tmp_path / "x.tif", "--weights", tmp_path / "bicubic.pt", "--like", other
    )
    assert (said.exit_code, "--like: found an image that does not lie in the coordinates" in said.stderr) == (2, True)


def test_several_files_and_folders_go_into_a_folder(tmp_path):
    (tmp_path / "scenes").mkdir()
    for name in ("a.tif", "b.tif", "._b.tif"):
        geotiff(tmp_path / "scenes" / name, cut(12, 16))
    (tmp_path / "scenes" / "read.me").write_text("no image")
    np.save(tmp_path / "c.npy", cut(10, 8))
    weights = bicubic(tmp_path / "b.pt", 3, high=HIGH)
    said = invoke("upscale", tmp_path / "scenes", tmp_path / "c.npy", tmp_path / "made", "--weights", weights)
    assert said.exit_code == 0, said.stderr
    assert sorted(file.name for file in (tmp_path / "made").iterdir()) == ["a.tif", "b.tif", "c.tif"]
    assert [line.rsplit(" ", 2)[1] for line in said.stdout.splitlines()] == ["64×48", "64×48", "32×40"]


def test_all_that_is_wrong_is_said_before_anything_starts(tmp_path):
    geotiff(tmp_path / "a.tif", cut(12, 16))
    geotiff(tmp_path / "b.tif", cut(12, 16)[:2])
    np.save(tmp_path / "a.npy", cut(10, 8))
    (tmp_path / "d.tif").write_bytes(b"II*\0broken")
    weights = bicubic(tmp_path / "b.pt", 3, high=HIGH)
    named = [tmp_path / name for name in ("a.tif", "a.npy", "b.tif", "d.tif", "no.tif")]
    said = invoke("upscale", *named, tmp_path / "made", "--weights", weights)
    assert said.exit_code == 2
    for part in ("a.tif: OUT: found the place of several images", "b.tif: IN: found 2 bands", "d.tif: IN: found a file",
                 "no.tif: IN: found no such file"):  # fmt: skip
        assert part in said.stderr
    assert not (tmp_path / "made").exists()


WRONG = {
    "--window 0,0,9": ("--window", "0,0,9"),
    "a window that is not in the image": ("--window", "0,0,17,12"),
    "a device that is not there": ("--device", "cuda"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wished_wrongly_is_refused(tmp_path, name):
    if name.startswith("a device") and torch.cuda.is_available():
        pytest.skip("a GPU is here")
    geotiff(tmp_path / "a.tif", cut(12, 16))
    said = invoke(
        "upscale", tmp_path / "a.tif", tmp_path / "o.tif", *WRONG[name], "--weights", bicubic(tmp_path / "b.pt", 3)
    )
    assert (said.exit_code, WRONG[name][0] in said.stderr) == (2, True)
    assert not (tmp_path / "o.tif").exists()


def test_an_interrupted_one_leaves_nothing(tmp_path):
    geotiff(tmp_path / "in.tif", np.tile(cut(500, 500), (1, 4, 4)))
    weights = bicubic(tmp_path / "b.pt", 3, high=HIGH)
    command = [sys.executable, "tune.py", "upscale", str(tmp_path / "in.tif"), str(tmp_path / "out.tif")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what runs in the background ignores it
    begun = subprocess.Popen([*command, "--weights", str(weights)], cwd=ROOT, env=environment, preexec_fn=heard)
    with begun as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "out.tif.tmp").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (tmp_path / "out.tif.tmp").exists()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b.pt", "in.tif"]


@pytest.mark.parametrize(("factor", "warned"), [(1.0, False), (1e-4, True), (10.0, True)])
def test_values_far_from_the_trainings_are_warned_of_once(tmp_path, factor, warned):
    np.save(tmp_path / "in.npy", (cut(60, 60) * factor).astype(np.float32))
    weights = bicubic(tmp_path / "b.pt", 3, LOW, HIGH)
    said = invoke("upscale", tmp_path / "in.npy", tmp_path / "out.tif", "--weights", weights)
    assert said.exit_code == 0
    assert said.stderr.count("far from those that the generator was trained on, 5888 to 1.024e+04") == warned


@pytest.mark.parametrize("match", ["moments", "histogram"])
def test_a_distribution_is_matched(tmp_path, match):
    """A generator that darkens and flattens what it is given."""
    weights = bicubic(tmp_path / "b.pt", 3, LOW, HIGH)
    content = torch.load(weights, weights_only=True)
    content["generator"]["last.conv.bias"] += torch.tensor([-0.2, 0.1, 0.3])
    torch.save(content, weights)
    image = cut(90, 90).astype(np.float32)
    plain, matched = upscale(image, weights), upscale(image, weights, match=match)
    spread = HIGH - LOW
    assert np.abs(plain.mean((1, 2)) - image.mean((1, 2))).min() > 0.09 * spread
    assert np.abs(matched.mean((1, 2)) - image.mean((1, 2))).max() < 2e-3 * spread
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    quantiles = [np.quantile(one.reshape(3, -1), shares, axis=1) for one in (image, matched)]
    limit = 5e-3 if match == "histogram" else 5e-2
    assert np.abs(quantiles[0] - quantiles[1]).max() < limit * spread


def test_a_checkerboard_is_measured():
    """One of a known height, drawn by the last layer before PixelShuffle; and none of bicubic interpolation."""
    generator = drawn(**NETWORKS["plain"])
    network = generator.network
    torch.nn.init.zeros_(network.last.conv.weight)
    assert checkerboard(generator) < 1e-6
    for layer in network.up:
        torch.nn.init.zeros_(layer.conv.weight)
        torch.nn.init.zeros_(layer.conv.bias)
    with torch.no_grad():  # of four parts of a pixel the first is 0.2 brighter, in the first band
        network.up[1].conv.bias[0] = 1.0
        middle = network.last.conv.kernel_size[0] // 2
        network.last.conv.weight[0, 0, middle, middle] = 0.2
    assert abs(checkerboard(generator) - 0.2) < 1e-6


def test_the_command_says_a_checkerboard(tmp_path):
    generator = drawn(**NETWORKS["standard"], low=0.0, high=1.0)
    content = {"generator": generator.network.state_dict(), "low": 0.0, "high": 1.0}
    torch.save(content | {"configuration": generator.configuration.model_dump_json()}, tmp_path / "b.pt")
    np.save(tmp_path / "in.npy", np.random.default_rng(0).random((3, 20, 20)).astype(np.float32))
    said = invoke("upscale", tmp_path / "in.npy", tmp_path / "out.tif", "--weights", tmp_path / "b.pt")
    assert (f"{checkerboard(generator):.1%} of the range" in said.stdout) == (checkerboard(generator) > 0.01) is True


def test_the_door_takes_arrays_and_files(trained, tmp_path):
    generator = load_generator(trained)
    image = cut(30, 40)
    made = upscale(image, generator)
    assert (made.shape, made.dtype) == ((3, 120, 160), np.uint16)
    source = geotiff(tmp_path / "in.tif", image)
    assert (upscale(source, trained) == made).all()
    assert upscale(source, str(trained), tmp_path / "out.tif") == tmp_path / "out.tif"
    assert (rasterio.open(tmp_path / "out.tif").read() == made).all()
    assert (upscale(image, trained, window=(5, 6, 20, 10)) == made[:, 24:64, 20:100]).all()


def test_the_door_keeps_what_is_no_data(trained):
    image, valid = cut(30, 40).astype(np.float32), np.ones((30, 40), bool)
    valid[10:14, 20:23] = False
    shown = valid.repeat(4, 0).repeat(4, 1)
    masked = upscale(np.ma.MaskedArray(image, np.broadcast_to(~valid, image.shape)), trained)
    assert (np.ma.getmaskarray(masked) == ~shown).all()
    plain = upscale(np.where(valid, image, np.nan), trained)
    assert type(plain) is np.ndarray
    assert (np.isnan(plain) == ~shown).all()
    assert (plain[:, shown] == masked.data[:, shown]).all()


@pytest.mark.parametrize("image", [np.zeros((2, 8, 8)), np.zeros((8, 8)), np.zeros((3, 8, 8), complex)])
def test_the_door_refuses_other_arrays(trained, image):
    with pytest.raises(InvalidInput, match="expected real numbers"):
        upscale(image, trained)


def test_the_door_opens_without_torch():
    code = "import sys, tune_srgan; print('torch' in sys.modules, tune_srgan.upscale.__name__, 'torch' in sys.modules)"
    assert python("-c", code).stdout == "False upscale True\n"
