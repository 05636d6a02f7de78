"""Figures of merit of super-resolved images: what each is, and all of them for images beside LR and truth.

Images are (n, bands, h, w) in a network's values; a figure is one number an image, and NaN where it is not defined.
Knows no network and no training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from trainables.losses import similarities
from trainables.networks import downsample
from trainables.spectra import ROUNDING, Rings, rings_of, spatial_shift, spectrum_errors

AT_ONCE = 32  # images, of which the maps are in memory
KEPT, WEIGHT, TEMPERATURE = 0.75, 0.05, 0.25  # of opensr-test's triple: quantile of detail, scores' γ, softmin's T


@dataclass(frozen=True)
class Scale:
    """What figures are measured by: LR is HR reduced by `factor`, antialiased or not, and `peak` the highest value.

    `window`: SSIM's, px. `values`: maps a network's values, (bands, h, w), to the imagery's own, in which reflectance,
    angles, ERGAS and the triple are. `learned`: distances of two images, (1, bands, h, w), by their figures' names.
    """

    factor: int
    peak: float = 1.0
    window: int = 11
    antialias: bool = True
    values: Callable[[Tensor], Tensor] = lambda images: images
    learned: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = field(default_factory=dict)


@torch.no_grad()
def measure(sr: Tensor, lr: Tensor, hr: Tensor, scale: Scale) -> dict[str, Tensor]:
    """Return every figure of super-resolved images, (n,) in float64, by its name in MERITS.

    NaN where it is not defined, and all of them for an SR image that is not finite. PSNR of equal images is infinite.
    """
    parts = zip(sr.split(AT_ONCE), lr.split(AT_ONCE), hr.split(AT_ONCE), strict=True)
    every = [_measured(*part, scale) for part in parts]
    return {name: torch.cat([figures[name] for figures in every]) for name in every[0]}


def _measured(sr: Tensor, lr: Tensor, hr: Tensor, scale: Scale) -> dict[str, Tensor]:
    reduced = downsample(sr, scale.factor, scale.antialias)
    seen, low, true, again = (_own(images, scale) for images in (sr, lr, hr, reduced))
    spectrum, spectrum_distance = spectrum_errors(sr, rings_of(hr), scale.factor)
    figures = {
        "psnr": _psnr(sr, hr, scale.peak),
        "ssim": similarities(sr.double(), hr.double(), scale.peak, scale.window),
        "sam": spectral_angles(seen, true),
        "ergas": ergas(seen, true, scale.factor),
        "spectrum": spectrum,
        "spectrum_distance": spectrum_distance,
        "reflectance": (again - low).abs().mean((1, 2, 3)),
        "angle": spectral_angles(again, low),
        "shift": spatial_shift(reduced, lr),
    }
    figures |= {name: image.flatten(1).nanmean(1) for name, image in _triple(seen, low, true, scale.factor).items()}
    figures |= {name: _each(distance, sr, hr) for name, distance in scale.learned.items()}
    broken = ~sr.isfinite().flatten(1).all(1)
    return {name: figure.double().masked_fill(broken, math.nan) for name, figure in figures.items()}


@torch.no_grad()
def cheap(sr: Tensor, hr: Tensor, scale: Scale, truth: Rings | None = None) -> dict[str, float]:
    """Return the figures that every validation records, PSNR and the spectrum's error: as `medians` of `measure`.

    `truth`: the rings of `hr`, where they are known.
    """
    spectrum, _ = spectrum_errors(sr, rings_of(hr) if truth is None else truth, scale.factor)
    return medians({"psnr": _psnr(sr, hr, scale.peak), "spectrum": spectrum})


def medians(figures: Mapping[str, Tensor]) -> dict[str, float]:
    """Return each figure's median over the images for which it is finite; one that is so for none is left out."""
    finite = {name: figure[figure.isfinite()] for name, figure in figures.items()}
    return {name: float(figure.quantile(0.5)) for name, figure in finite.items() if len(figure)}


@torch.no_grad()
def correctness(sr: Tensor, lr: Tensor, hr: Tensor, scale: Scale) -> dict[str, Tensor]:
    """Return maps of improvement, omission and hallucination, (n, h, w); they add up to 1, NaN where no detail is.

    As opensr-test 1.3.3 maps them by the normalised difference, pixel by pixel, without its harmonisation of SR
    images and without a border (Aybar et al. 2024). Truth itself has 0.965, 0.018 and 0.018 wherever it has detail.
    """
    seen, low, true = (_own(images, scale) for images in (sr, lr, hr))
    return _triple(seen, low, true, scale.factor)


def spectral_angles(seen: Tensor, true: Tensor) -> Tensor:
    """Return the mean angle between the spectra of two images' pixels, degrees, (n,) (Kruse et al. 1993).

    Of pixels that have values in both; NaN of one band. By Kahan's formula, which is exact for small angles.
    """
    if true.shape[1] < 2:
        return true.new_full((len(true),), math.nan)
    x, y = (images / _lengths(images) for images in (seen, true))
    angles = 2 * torch.atan2(_lengths(x - y), _lengths(x + y))
    return angles.rad2deg().flatten(1).nanmean(1)


def _lengths(images: Tensor) -> Tensor:
    """Of the spectra of pixels, (n, 1, h, w)."""
    return images.square().sum(1, keepdim=True).sqrt()


def ergas(seen: Tensor, true: Tensor, factor: int) -> Tensor:
    """Return the relative dimensionless global error of synthesis, (n,), NaN where a band's mean is 0 (Wald 2000).

    100 h/l times the root of the bands' mean of (RMSE / mean)²; h/l, of the pixels' sizes, is 1/factor.
    """
    means = true.mean((2, 3))
    squares = (seen - true).square().mean((2, 3)) / means.square()
    return (100 / factor * squares.mean(1).sqrt()).masked_fill((means == 0).any(1), math.nan)


def _triple(seen: Tensor, low: Tensor, true: Tensor, factor: int) -> dict[str, Tensor]:
    """The maps of `correctness`, of images in the imagery's own values."""
    upsampled = functional.interpolate(low, scale_factor=factor, mode="bilinear", align_corners=False)
    reference, error = normalized_difference(upsampled, true), normalized_difference(seen, true)
    change = normalized_difference(seen, upsampled)
    every = reference.flatten(1)
    detail = every.kthvalue(int(KEPT * every.shape[1]), 1).values.clamp_min(ROUNDING)[:, None, None]
    x, y = error / reference, change / reference
    # truth and LR are 1 apart: what is off the way between them has a larger sum of distances
    beyond = -torch.expm1(-WEIGHT * (x + y - 1))
    scores = torch.stack([x + y * beyond, y + x * beyond, torch.exp(-WEIGHT * x * y)])
    shares = torch.softmax(-scores / TEMPERATURE, 0)
    kept = torch.maximum(torch.maximum(reference, error), change) > detail
    shares = shares.masked_fill(~kept, math.nan)
    return dict(zip(("improvement", "omission", "hallucination"), shares, strict=True))


def normalized_difference(x: Tensor, y: Tensor) -> Tensor:
    """Return |x − y| / (|x| + |y|), mean over bands, (n, h, w); 0 where both are 0.

    Of reflectances; by magnitudes, so that a network's value below 0 is at most 1 away.
    """
    total = x.abs() + y.abs()
    return ((x - y).abs() / total.masked_fill(total == 0, 1)).mean(1)


def _psnr(sr: Tensor, hr: Tensor, peak: float) -> Tensor:
    """Of each image, dB, (n,)."""
    return 10 * torch.log10(peak**2 / (sr.double() - hr.double()).square().mean((1, 2, 3)))


def _each(distance: Callable[[Tensor, Tensor], Tensor], sr: Tensor, hr: Tensor) -> Tensor:
    """What a function of two batches says of each image alone, (n,)."""
    return torch.stack([distance(x, y) for x, y in zip(sr.split(1), hr.split(1), strict=True)])


def _own(images: Tensor, scale: Scale) -> Tensor:
    """Images in the imagery's own values, in float64; one by one, as a person's own functions take them."""
    return torch.stack([scale.values(image) for image in images]).double()
