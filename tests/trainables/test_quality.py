"""Figures of merit: equal to other programs' and to plain NumPy's, moved the right way, defined for every image."""

import json
import math

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.signal.windows import hann

from tests.support.perceptual import pair, write_published
from tests.support.quality import CASES, RECORDED, scale_of, triple, write_dists
from tests.support.service import ROOT
from tests.trainables.test_perceptual import RECORDED as PERCEPTUAL
from trainables.errors import InvalidInput
from trainables.learned import DISTS, learned_at
from trainables.merits import MERITS, Better
from trainables.networks import downsample, upsample
from trainables.normalization import Normalization
from trainables.quality import Scale, cheap, correctness, measure, medians
from trainables.spectra import radial_spectrum, spatial_shift

CPU = torch.device("cpu")
OTHERS = json.loads(RECORDED.read_text(encoding="utf-8"))["figures"]
# what is recorded of float32 images, relative; the triple, of shares, and the shift, of steps of 0.01 px, absolute
TOLERANCE = {"psnr": 1e-6, "ergas": 1e-6, "sam": 1e-5, "dists": 1e-4}
ABSOLUTE = {"improvement": 1e-6, "omission": 1e-6, "hallucination": 1e-6, "shift": 0.0101}


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = write_published(tmp_path_factory.mktemp("learned"))
    return learned_at(write_dists(folder), CPU)


@pytest.mark.parametrize("case", CASES)
def test_other_programs_say_the_same(case, learned):
    sr, lr, hr = triple(case)
    ours = measure(sr, lr, hr, scale_of(case)) | {
        "dists": torch.stack([learned["dists"](x[None], y[None]) for x, y in zip(sr, hr, strict=True)])
    }
    for name, theirs in OTHERS[case].items():
        bounds = {"rel": TOLERANCE.get(name, 0.0), "abs": ABSOLUTE.get(name, 0.0)}
        assert ours[name].tolist() == pytest.approx(theirs, **bounds), name


@pytest.mark.parametrize("case", CASES)
def test_plain_numpy_says_the_same(case):
    sr, lr, hr = triple(case)
    scale = scale_of(case)
    ours = measure(sr, lr, hr, scale)
    for index, images in enumerate(zip(sr, lr, hr, strict=True)):
        x, low, y = (image.double().numpy() for image in images)
        signed, distance = spectrum_of(x, y, scale.factor)
        again = np.stack([reduced(band, scale.factor) for band in x])
        own = [scale.values(torch.from_numpy(image)).numpy() for image in (again, low)]
        plain = {"ssim": similarity(x, y), "spectrum": signed, "spectrum_distance": distance}
        plain["reflectance"] = np.abs(own[0] - own[1]).mean()
        if len(y) > 1:
            cosine = (own[0] * own[1]).sum(0) / np.sqrt((own[0] ** 2).sum(0) * (own[1] ** 2).sum(0))
            plain["angle"] = np.degrees(np.arccos(cosine)).mean()
        for name, theirs in plain.items():
            assert float(ours[name][index]) == pytest.approx(theirs, rel=1e-5), name


def similarity(x, y):
    """Wang et al. 2004, by SciPy's Gaussian filter."""

    def blur(image):
        return gaussian_filter(image, (0, 1.5, 1.5), mode="mirror", truncate=3.5)

    mean_x, mean_y = blur(x), blur(y)
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
    return (luminance * (2 * covariance + 9e-4) / (variances + 9e-4)).mean()


def spectrum_of(x, y, factor):
    """The errors of power above the Nyquist frequency of LR, by a matrix of waves and a loop over frequencies."""
    side = y.shape[-1]
    waves = np.exp(-2j * np.pi * np.outer(np.arange(side), np.arange(side)) / side)
    window = np.outer(hann(side, sym=False), hann(side, sym=False))
    powers = []
    for image in (x, y):
        bands = [np.abs(waves @ ((band - band.mean()) * window) @ waves) ** 2 for band in image]
        powers.append(np.mean(bands, axis=0))
    rings = {}
    for row in range(side):
        for column in range(side):
            cycles = round(math.hypot(min(row, side - row), min(column, side - column)))
            if side / (2 * factor) < cycles <= side / 2:
                rings.setdefault(cycles, []).append((powers[0][row, column], powers[1][row, column]))
    errors = [10 * np.log10(np.divide(*np.mean(ring, axis=0))) for ring in rings.values()]
    total = np.sum([np.sum(ring, axis=0) for ring in rings.values()], axis=0)
    return 10 * np.log10(total[0] / total[1]), np.sqrt(np.mean(np.square(errors)))


def reduced(band, factor):
    """Bicubic and antialiased, by Pillow."""
    size = (band.shape[1] // factor, band.shape[0] // factor)
    return np.asarray(Image.fromarray(band.astype(np.float32)).resize(size, Image.Resampling.BICUBIC), np.float64)


def test_images_are_reduced_as_lr_was():
    sr, _, hr = triple("three bands")
    scale = Scale(4, antialias=False)
    again = measure(hr, downsample(hr, 4, antialias=False), hr, scale)
    assert again["reflectance"].tolist() == [0.0, 0.0]
    # four pixels around each LR pixel's centre, as a cubic convolution of a = −0.75 weighs them
    taps = np.array([-0.09375, 0.59375, 0.59375, -0.09375])
    blocks = sr[:1].double().numpy().reshape(1, 3, 16, 4, 16, 4)
    plain = np.einsum("nbhiwj,i,j->nbhw", blocks, taps, taps)
    lr = torch.zeros(1, 3, 16, 16)
    ours = measure(sr[:1], lr, hr[:1], scale)["reflectance"]
    assert ours.item() == pytest.approx(np.abs(plain).mean(), rel=1e-6)


@pytest.fixture(scope="module")
def crops():
    """LR, HR and the mean of HR and bicubic: 32 crops of 64 px of Landsat 8, with half of the detail LR lacks."""
    with rasterio.open(ROOT / "data" / "landsat8_sample_rgb.tif") as scene:
        image = torch.from_numpy(scene.read().astype(np.float32))
    draw = np.random.default_rng(0)
    corners = draw.integers(0, image.shape[-1] - 64, (32, 2)).tolist()
    hr = LANDSAT.normalize(torch.stack([image[:, row : row + 64, column : column + 64] for row, column in corners]))
    lr = downsample(hr, 4)
    return lr, hr, (hr + upsample(lr, 4)) / 2


LANDSAT = Normalization(7000.0, 15000.0)
AT_FOUR = Scale(4, values=LANDSAT.denormalize)


def noise(*shape):
    return torch.from_numpy(np.random.default_rng(1).standard_normal(shape).astype(np.float32))


def textured(images):
    """Invented grey texture, so fine that it vanishes when the image is reduced."""
    texture = noise(len(images), 1, 64, 64)
    return images + 0.01 * (texture - upsample(downsample(texture, 4), 4))


DISTURBED = {
    "blur": lambda images: torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, 1, 1))),
    "noise": lambda images: images + 0.012 * noise(*images.shape),
    "shift": lambda images: images.roll((2, 2), (-2, -1)),
    "colour cast": lambda images: images + torch.tensor([0.05, 0.0, -0.05])[:, None, None],
    "invented texture": textured,
}
WORSE, SAME, BETTER = "worse", "same", "better"
MOVES = {  # of images that lack half of the detail that LR lacks
    #                     blur   noise   shift  cast   texture
    "psnr":              [WORSE, WORSE, WORSE, WORSE, WORSE],
    "ssim":              [WORSE, WORSE, WORSE, WORSE, WORSE],
    "sam":               [WORSE, WORSE, WORSE, WORSE, SAME],
    "ergas":             [WORSE, WORSE, WORSE, WORSE, WORSE],
    "spectrum":          [WORSE, BETTER, SAME, SAME, BETTER],
    "spectrum_distance": [WORSE, BETTER, SAME, SAME, BETTER],
    "reflectance":       [WORSE, WORSE, WORSE, WORSE, SAME],
    "angle":             [WORSE, WORSE, WORSE, WORSE, SAME],
    "shift":             [SAME, SAME, WORSE, SAME, SAME],
    "improvement":       [WORSE, WORSE, WORSE, WORSE, WORSE],
    "omission":          [WORSE, BETTER, BETTER, BETTER, BETTER],
    "hallucination":     [BETTER, WORSE, WORSE, WORSE, WORSE],
}  # fmt: skip


def loss(name, figure):
    """The less, the better the figure is."""
    better = MERITS[name].better
    return -figure if better is Better.HIGHER else abs(figure)


@pytest.mark.parametrize("which", DISTURBED)
def test_figures_move_the_right_way(crops, which):
    lr, hr, half = crops
    before = medians(measure(half, lr, hr, AT_FOUR))
    after = medians(measure(DISTURBED[which](half), lr, hr, AT_FOUR))
    moved = {}
    for name in MOVES:
        worse = loss(name, after[name]) - loss(name, before[name])
        small = 0.05 * abs(before[name]) + (0.02 if name == "shift" else 0.0)
        moved[name] = SAME if abs(worse) <= small else WORSE if worse > 0 else BETTER
    assert moved == {name: row[list(DISTURBED).index(which)] for name, row in MOVES.items()}


def test_nothing_is_better_than_truth(crops):
    lr, hr, half = crops
    best = {"ssim": 1.0, "improvement": 0.9647, "omission": 0.0177, "hallucination": 0.0177}
    true = measure(hr, lr, hr, AT_FOUR)
    assert true.pop("psnr").isposinf().all()
    for name, figure in true.items():
        assert figure.tolist() == pytest.approx([best.get(name, 0.0)] * len(hr), abs=1e-4), name
    for disturb in DISTURBED.values():
        worse = measure(disturb(hr), lr, hr, AT_FOUR)
        for name in true:
            assert loss(name, medians(worse)[name]) >= loss(name, medians(true)[name]) - 1e-6, name


def test_spectrum_alone_rewards_invented_texture(crops):
    """Detail of the right power in the wrong places: only the spectrum takes it for truth."""
    lr, hr, _ = crops
    bicubic = upsample(lr, 4)
    invented = medians(measure(bicubic + (hr - bicubic).flip(-1), lr, hr, AT_FOUR))
    plain = medians(measure(bicubic, lr, hr, AT_FOUR))
    better = {name for name in invented if loss(name, invented[name]) < loss(name, plain[name])}
    assert abs(invented["spectrum"]) < 0.5 < 10 < abs(plain["spectrum"])
    assert better == {"spectrum", "spectrum_distance", "improvement", "omission"}
    assert invented["hallucination"] > 0.4 > 0.1 > plain["hallucination"]


def test_every_validation_records_two_of_them(crops):
    lr, hr, half = crops
    whole = medians(measure(half, lr, hr, AT_FOUR))
    assert cheap(half, hr, AT_FOUR) == pytest.approx({name: whole[name] for name in ("psnr", "spectrum")}, rel=1e-12)


def test_figures_do_not_depend_on_how_values_are_normalised(crops):
    lr, hr, half = crops
    own = [LANDSAT.denormalize(images) for images in (half, lr, hr)]
    ours, theirs = measure(half, lr, hr, AT_FOUR), measure(*own, Scale(4, peak=8000.0))
    for name in set(ours) - {"ssim"}:  # whose constants are of values from 0
        assert ours[name].tolist() == pytest.approx(theirs[name].tolist(), rel=2e-3, abs=2e-3), name


def images(bands, side, factor):
    """SR, LR and HR of three images."""
    hr = 0.5 + 0.1 * noise(3, bands, side, side)
    return hr + 0.02 * noise(3, bands, side, side).flip(-1), downsample(hr, factor), hr


COLOUR, DETAIL = {"sam", "angle"}, {"spectrum", "spectrum_distance"}
TRIPLE = {"improvement", "omission", "hallucination"}
UNDEFINED = {  # what is absent of which images
    "one band": (images(1, 64, 4), 4, COLOUR),
    "two bands": (images(2, 64, 4), 4, set()),
    "six bands": (images(6, 48, 2), 2, set()),
    "16 px at ×8": (images(3, 16, 8), 8, {"shift"}),
    "uint16": (tuple(10_000 * image for image in images(3, 64, 4)), 4, set()),
    "constant truth": ((images(3, 64, 4)[0], torch.full((3, 3, 16, 16), 0.3), torch.full((3, 3, 64, 64), 0.3)), 4,
                       DETAIL | {"shift"}),
    "constant images": ((torch.full((3, 3, 64, 64), 0.4), torch.full((3, 3, 16, 16), 0.3),
                         torch.full((3, 3, 64, 64), 0.3)), 4, DETAIL | {"shift"}),
    "black truth": ((images(3, 64, 4)[0], torch.zeros(3, 3, 16, 16), torch.zeros(3, 3, 64, 64)), 4,
                    COLOUR | DETAIL | {"shift", "ergas"}),
    "constant but for rounding": ((torch.full((3, 3, 64, 64), 0.3 + 1e-7), torch.full((3, 3, 16, 16), 0.3),
                                   torch.full((3, 3, 64, 64), 0.3)), 4, DETAIL | TRIPLE | {"shift"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNDEFINED)
def test_what_is_defined_of_which_images(kind):
    (sr, lr, hr), factor, absent = UNDEFINED[kind]
    figures = measure(sr, lr, hr, Scale(factor))
    assert {name: (len(figure), figure.dtype) for name, figure in figures.items()} == {
        name: (3, torch.double) for name in MERITS if name not in ("lpips", "dists")
    }
    assert set(figures) - set(medians(figures)) == absent
    for name in absent:
        assert figures[name].isnan().all() and MERITS[name].needs


def test_images_of_a_generator_that_diverged_have_figures():
    sr, lr, hr = images(3, 64, 4)
    figures = medians(measure(1e8 * sr, lr, hr, Scale(4)))
    assert set(figures) == set(MOVES) and figures["spectrum"] > 150 and figures["hallucination"] > 0.99


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_image_that_is_not_finite_has_no_figure_and_spoils_no_other(value):
    sr, lr, hr = images(3, 64, 4)
    whole = measure(sr, lr, hr, Scale(4))
    sr[1, 2, 5, 5] = value
    broken = measure(sr, lr, hr, Scale(4))
    for name, figure in broken.items():
        assert figure.isnan().tolist() == [False, True, False], name
        assert torch.equal(figure[[0, 2]], whole[name][[0, 2]]), name
    assert medians(measure(sr[1:2], lr[1:2], hr[1:2], Scale(4))) == {}
    assert correctness(sr, lr, hr, Scale(4))["hallucination"][1, 5, 5].isnan()


def test_map_says_where_an_image_invents_and_where_it_omits(crops):
    lr, hr, _ = crops
    bicubic = upsample(lr, 4)
    sr = torch.cat([bicubic[..., :32], hr[..., 32:]], -1)
    sr[..., 40:56, 8:24] += 0.2  # a square that is nowhere in truth
    maps = correctness(sr, lr, hr, AT_FOUR)
    total = sum(maps.values())
    assert 0.2 < float(total.isnan().float().mean()) < 0.8
    assert torch.nan_to_num(total, nan=1.0).sub(1).abs().max() < 1e-12
    square, left, right = (
        (slice(None), slice(40, 56), slice(8, 24)),
        (..., slice(0, 36), slice(0, 32)),
        (..., slice(32, 64)),
    )
    for where, name in ((square, "hallucination"), (left, "omission"), (right, "improvement")):
        shares = {each: float(image[where].nanmean()) for each, image in maps.items()}
        assert max(shares, key=shares.get) == name and shares[name] > 0.8


def test_spectrum_of_a_wave_and_of_noise():
    side = 48
    wave = torch.cos(2 * math.pi * 9 / side * torch.arange(side)).expand(2, 3, side, side)
    frequencies, power = radial_spectrum(wave)
    assert frequencies[power.argmax()] == 9 / side and frequencies[-1] == 0.5
    assert power[power.argmax()] - power[15] > 60
    _, flat = radial_spectrum(0.1 * noise(64, 3, side, side))
    window = np.outer(hann(side, sym=False), hann(side, sym=False))
    assert flat[3:].tolist() == pytest.approx([10 * np.log10(0.01 * np.sum(window**2))] * 21, abs=0.5)


@pytest.mark.parametrize("pixels", [0.3, 1.0, 2.6])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40), (33, 32)])
def test_shift_is_found(pixels, height, width):
    """Of a smooth blob, which the window hardly touches; real crops are found to lie a little nearer."""
    rows, columns = torch.meshgrid(torch.arange(height) - height / 2, torch.arange(width) - width / 2, indexing="ij")

    def blob(down, across):
        return torch.exp(-((rows - down) ** 2 + (columns - across) ** 2) / 8).expand(2, 3, -1, -1)

    found = spatial_shift(blob(pixels, -pixels), blob(0, 0))
    assert found.tolist() == pytest.approx([pixels * math.sqrt(2)] * 2, rel=0.1)


def test_learned_distances_judge_where_their_weights_are(learned, tmp_path):
    sr, hr = pair(3)
    assert float(learned["lpips"](sr, hr)) == pytest.approx(PERCEPTUAL["lpips"]["perceptual"], rel=1e-4)
    figures = measure(sr, downsample(hr, 4), hr, Scale(4, learned=learned))
    assert list(figures) == list(MERITS)
    assert float(figures["lpips"].mean()) == pytest.approx(PERCEPTUAL["lpips"]["perceptual"], rel=1e-4)
    assert measure(hr, downsample(hr, 4), hr, Scale(4, learned=learned))["dists"].abs().max() < 1e-5
    small, smallest = ([images[..., :side, :side] for images in (sr, hr)] for side in (30, 31))
    assert learned["lpips"](*small).isnan() and learned["lpips"](*smallest).isfinite()
    assert learned["dists"](sr[..., :16, :16], hr[..., :16, :16]).isfinite()

    def refused(folder):
        with pytest.raises(InvalidInput) as error:
            learned_at(folder, CPU)
        return error.value.problems[0]

    assert refused(tmp_path).key == "Logging.metric_weights" and "weights.pt" in refused(tmp_path).expected
    write_dists(tmp_path)
    assert list(learned_at(tmp_path, CPU)) == ["dists"]
    signed = learned_at(tmp_path, CPU, signed=True)["dists"]
    assert float(signed(2 * sr - 1, 2 * hr - 1)) == pytest.approx(float(learned["dists"](sr, hr)), rel=1e-3)
    (tmp_path / DISTS).write_text("none")
    assert refused(tmp_path).key == "Logging.metric_weights" and "weights.pt" in refused(tmp_path).found
