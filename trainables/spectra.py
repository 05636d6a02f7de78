"""Figures of images in the frequency domain: power by spatial frequency, and how far one image is shifted.

Images are (n, bands, h, w). Each band is taken without its mean and under a Hann window, since a crop is not periodic.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = 1e-6  # of an image's values: what is weaker may be float32's rounding, of bicubic reduction too
SMALLEST = 8  # px of a side, in which a shift can be seen


class Rings(NamedTuple):
    """The power of images by spatial frequency: a ring holds what rounds to its whole number of cycles a crop."""

    power: Tensor  # mean of each ring, (n, rings)
    floor: Tensor  # what rounding makes of it, (n, 1)
    counts: Tensor  # frequencies of a ring


def radial_spectrum(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return frequencies, cycles a pixel (rings,), and the power at each, dB, mean over directions, bands and images.

    A ring holds what rounds to its whole number of cycles a crop; the last is the Nyquist frequency, 0.5.
    """
    power, floor, _ = rings_of(images)
    side = min(images.shape[-2:])
    frequencies = torch.arange(1, side // 2 + 1, device=images.device, dtype=torch.double) / side
    return frequencies, 10 * torch.log10(power.clamp_min(floor).mean(0))


def spectrum_errors(sr: Tensor, truth: Rings, factor: int) -> tuple[Tensor, Tensor]:
    """Return two errors of each image's power between the Nyquist frequencies of LR and HR, dB, (n,) both.

    The first is of all that power, signed: below 0 detail is missing, above 0 it is invented. The second is the root
    mean square of the rings' errors in dB: what is missing at one frequency and invented at another does not cancel.
    Both are 0 for truth, and NaN where the true image has no such power.
    """
    (power, _, _), (true, floor, counts) = rings_of(sr), truth
    above = torch.arange(1, len(counts) + 1) * 2 * factor > min(sr.shape[-2:])
    power, true = power[:, above], true[:, above]
    shares = counts[above].to(power)
    total, true_total = ((rings.clamp_min(floor) * shares).sum(1) for rings in (power, true))
    missing = (true <= floor).all(1)
    signed = 10 * torch.log10(total / true_total)
    rings = 10 * torch.log10(power.clamp_min(floor) / true.clamp_min(floor))
    signed, distance = (errors.masked_fill(missing, math.nan) for errors in (signed, rings.square().mean(1).sqrt()))
    return signed, distance


def spatial_shift(images: Tensor, fixed: Tensor) -> Tensor:
    """Return how far images are shifted against the fixed ones, pixels, (n,): where their cross-correlation is highest.

    To 0.01 px, by matrix products of the Fourier transform around the highest whole pixel (Guizar-Sicairos et al.
    2008), all bands together. Crops that are not periodic are found 0.02 to 0.1 px too near. NaN for constant images,
    and for all under SMALLEST px.
    """
    height, width = fixed.shape[-2:]
    if min(height, width) < SMALLEST:
        return fixed.new_full((len(fixed),), math.nan, dtype=torch.double)
    cross = (_transformed(images) * _transformed(fixed).conj()).sum(1)
    highest = torch.fft.irfft2(cross, s=(height, width)).flatten(1).argmax(1)
    shift = torch.stack([highest // width, highest % width], 1).double()
    size = shift.new_tensor([height, width])
    shift = torch.where(shift > size / 2, shift - size, shift)
    rows, columns, repeats = (axis.to(fixed.device) for axis in _frequencies(height, width))
    cross = cross * repeats
    for step in (0.1, 0.01):
        around = torch.arange(-12, 13, device=fixed.device) * step
        down, across = (shift[:, axis, None] + around for axis in (0, 1))
        waves = [(2j * math.pi * at[..., None] * axis).exp() for at, axis in ((down, rows), (across, columns))]
        near = waves[0] @ cross @ waves[1].mT
        highest = near.real.flatten(1).argmax(1)
        places = (highest // len(around), highest % len(around))
        shift = torch.cat([line.gather(1, at[:, None]) for line, at in zip((down, across), places, strict=True)], 1)
    constant = torch.stack([_is_constant(images), _is_constant(fixed)]).any(0)
    lengths: Tensor = torch.linalg.vector_norm(shift, dim=1)
    return lengths.masked_fill(constant, math.nan)


def _is_constant(images: Tensor) -> Tensor:
    bands = images.flatten(2)
    return (bands.amax(2) - bands.amin(2) <= ROUNDING * bands.abs().amax(2)).all(1)


def _window(height: int, width: int, device: torch.device) -> Tensor:
    down, across = (torch.hann_window(side, device=device, dtype=torch.double) for side in (height, width))
    return down[:, None] * across


def _transformed(images: Tensor) -> Tensor:
    """Half of the spectrum, (n, bands, h, w // 2 + 1): that of real images is symmetric."""
    whole = images.double()
    window = _window(images.shape[-2], images.shape[-1], images.device)
    transformed: Tensor = torch.fft.rfft2((whole - whole.mean((-2, -1), keepdim=True)) * window)
    return transformed


def rings_of(images: Tensor) -> Rings:
    """Measure the power of images by spatial frequency, from 1 cycle a crop up to Nyquist."""
    height, width = images.shape[-2:]
    order, weights, lengths = _rings(height, width)
    transformed = _transformed(images)
    squares = (transformed.real.square() + transformed.imag.square()).mean(1).flatten(1)
    weighted = squares[:, order.to(images.device)] * weights.to(images.device)
    counts = torch.stack([ring.sum() for ring in weights.split(lengths)])
    rings = torch.stack([ring.sum(1) for ring in weighted.split(lengths, 1)], 1) / counts.to(images.device)
    window = _window(height, width, images.device)
    floor = ROUNDING**2 * images.double().square().mean((1, 2, 3)) * window.square().sum()
    return Rings(rings, floor[:, None], counts)


@lru_cache(maxsize=8)
def _rings(height: int, width: int) -> tuple[Tensor, Tensor, list[int]]:
    """Indices of the half spectrum's frequencies, ring after ring from 1 cycle a crop up to Nyquist.

    Beside them how often each is in the whole spectrum, and how many each ring has in the half.
    """
    rows, columns, repeats = _frequencies(height, width)
    side = min(height, width)
    ring = (torch.hypot(rows[:, None], columns) * side).round().long().flatten()
    lengths: list[int] = ring.bincount()[1 : side // 2 + 1].tolist()
    order = ring.argsort(stable=True)[1 : 1 + sum(lengths)]
    return order, repeats.expand(height, -1).flatten()[order], lengths


def _frequencies(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cycles a pixel of the half spectrum's rows and columns, and how often each column is in the whole spectrum."""
    rows, columns = torch.fft.fftfreq(height, dtype=torch.double), torch.fft.rfftfreq(width, dtype=torch.double)
    return rows, columns, 1.0 + ((columns > 0) & (columns < 0.5)).double()
