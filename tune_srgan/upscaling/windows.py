"""An image super-resolved by windows, equal to the image in one piece: what a window must see, and how large it may be.

Knows arrays and networks, and nothing of files.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from trainables.gpu import precision
from trainables.image_files import Mask
from trainables.networks import ChannelAttention
from trainables.schema import GeneratorSettings
from tune_srgan.upscaling.generator import TrainedGenerator

BLOCK = 512  # high-resolution pixels: windows end where blocks of a file do, so that each is written once, and whole
TOLERANCE = 1e-4  # of the range: what a window's cut may change where its margin is measured; promised are 1e-3
NEAR = 24  # low-resolution pixels: a receptive field up to this is the margin; a larger one is measured
SAMPLE, SAMPLES = 192, 9  # side and number of the parts of an image that are measured on
MEMORY_CPU = 500e6  # bytes for what a window takes while it is computed
SIDE = 1280  # low-resolution pixels: with larger windows nothing is gained
MATCHED, QUANTILES = 25, 1025  # parts of an image that its distribution is taken from, and points of a histogram's map
Match = Literal["histogram", "moments"]


class Area(NamedTuple):
    """A rectangle of an image's pixels."""

    top: int
    left: int
    height: int
    width: int

    def grown(self, margin: int, height: int, width: int) -> Area:
        """Return it with a margin on every side, within an image of a height and width."""
        top, left = max(0, self.top - margin), max(0, self.left - margin)
        bottom, right = min(height, self.top + self.height + margin), min(width, self.left + self.width + margin)
        return Area(top, left, bottom - top, right - left)

    def within(self, other: Area, scale: int = 1) -> tuple[slice, slice]:
        """Return where it lies in an array of `other`, `scale` times as large."""
        top, left = self.top - other.top, self.left - other.left
        return (
            slice(top * scale, (top + self.height) * scale),
            slice(left * scale, (left + self.width) * scale),
        )


class Pixels(Protocol):
    """An image that is read by windows."""

    @property
    def height(self) -> int: ...  # noqa: D102

    @property
    def width(self) -> int: ...  # noqa: D102

    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102

    def read(self, area: Area) -> tuple[NDArray[Any], Mask]:
        """Read (bands, h, w) in its own numbers, and where every band is valid (h, w)."""
        ...


class Piece(NamedTuple):
    """A part of an image, super-resolved: its area in low-resolution pixels, (bands, h·factor, w·factor), (h, w)."""

    area: Area
    image: NDArray[Any]
    valid: Mask


@dataclass(frozen=True)
class Plan:
    """The windows of an image: the side of what each gives, and what it sees beyond; low-resolution pixels."""

    core: int
    margin: int

    def areas(self, whole: Area) -> list[Area]:
        """Return the areas that the windows of a larger one give, row after row."""
        bottom, right = whole.top + whole.height, whole.left + whole.width
        return [
            Area(top, left, min(self.core, bottom - top), min(self.core, right - left))
            for top in range(whole.top, bottom, self.core)
            for left in range(whole.left, right, self.core)
        ]


def super_resolve(
    pixels: Pixels,
    generator: TrainedGenerator,
    device: torch.device,
    *,
    within: Area | None = None,
    nodata: float | None = None,
    match: Match | None = None,
) -> Iterator[Piece]:
    """Super-resolve an image, or the area `within` it, by windows, row after row.

    Holes are filled from the nearest valid pixels before. Values are in the image's type; none that is valid becomes
    `nodata`. `match`: their distribution in each band is made that of the image.
    """
    run = Run(generator, device)
    height, width, dtype = pixels.height, pixels.width, out_type(pixels.dtype)
    side, plan = _side(generator, device), Plan(max(height, width), max(height, width))
    with contextlib.ExitStack() as held, ThreadPoolExecutor(1) as reader:
        if max(height, width) > side:
            held.enter_context(_same_means(generator.network, run, pixels))
            plan = _plan(generator.configuration.Generator, side, run, pixels)
        matched = matching(match, run, sample(pixels, MATCHED)) if match else None
        areas = plan.areas(within or Area(0, 0, height, width))
        ahead = reader.submit(_window, pixels, areas[0], plan.margin)
        for area, following in zip(areas, [*areas[1:], None], strict=True):
            seen, image, valid = ahead.result()
            if following is not None:  # read while this one is computed
                ahead = reader.submit(_window, pixels, following, plan.margin)
            if not valid.any():
                shape = (generator.bands, area.height * generator.factor, area.width * generator.factor)
                yield Piece(area, np.zeros(shape, dtype), valid)
                continue
            rows, columns = area.within(seen, generator.factor)
            sr = run.back(run(torch.from_numpy(image))[:, rows, columns])
            yield Piece(area, as_type(matched(sr) if matched else sr, dtype, nodata), valid)


class Run:
    """Runs a generator on values of an image, (bands, h, w) → (bands, h·factor, w·factor) in the network's numbers."""

    def __init__(self, generator: TrainedGenerator, device: torch.device) -> None:
        self._network, self._device = generator.network.to(device), device
        self._in_bf16 = generator.configuration.Training.in_bf16(device.type)
        self._normalization = generator.normalization
        self._of_lr = self._normalization.scaled(generator.configuration.Data.lr_scale)
        self.spread = 2.0 if self._normalization.signed else 1.0  # of the network's numbers

    def __call__(self, values: Tensor) -> Tensor:
        """Run it on one image."""
        return self.batch(values[None])[0]

    def in_float32(self, values: Tensor) -> Tensor:
        """Run it on one image in float32, whatever the precision: without the noise of another's rounding."""
        own, self._in_bf16 = self._in_bf16, False
        try:
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                return self(values)
        finally:
            self._in_bf16 = own

    @torch.no_grad()
    def batch(self, values: Tensor) -> Tensor:
        """Run it on several images at once."""
        scaled = self._of_lr.normalize(values.to(self._device))
        return precision.forward(self._network, scaled, self._in_bf16).float()

    def back(self, sr: Tensor) -> Tensor:
        """Return the values of an image that the network's numbers mean."""
        return self._normalization.denormalize(sr)


def receptive_field(settings: GeneratorSettings) -> int:
    """Return how far a pixel of the output looks, in low-resolution pixels; the means of channel attention aside."""
    small, rrdb = settings.small_kernel_size // 2, settings.model_type == "esrgan"
    edge = 1 if rrdb else settings.large_kernel_size // 2
    up = small if settings.keeps_small_kernel else 1
    if settings.is_dense:
        block = 15  # three dense blocks of five convolutions
    elif settings.model_type == "srresnet" and settings.block_type == "lka":
        block = 2 * small + 2 + 9  # 5 × 5, then 7 × 7 of every third pixel
    else:
        block = 2 * small
    radius: float = edge + settings.n_blocks * block + (1 if rrdb else small) + (edge + rrdb) / settings.scaling_factor
    radius += sum(up / 2**doubling for doubling in range(int(math.log2(settings.scaling_factor))))
    return max(math.ceil(radius), 2)  # bicubic interpolation looks two pixels far


def fill(image: NDArray[Any], valid: Mask) -> NDArray[Any]:
    """Fill what is not valid with the nearest valid pixel's values; (bands, h, w), (h, w)."""
    if valid.all() or not valid.any():
        return image
    nearest = distance_transform_edt(~valid, return_distances=False, return_indices=True)
    filled: NDArray[Any] = image[:, nearest[0], nearest[1]]
    return filled


def out_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of what is made from an image: its own, or the nearest that a GeoTIFF has."""
    dtype = dtype.newbyteorder("=")
    return dtype if dtype.kind in "ui" else np.dtype(f"f{min(max(dtype.itemsize, 4), 8)}")


def as_type(values: Tensor, dtype: np.dtype[Any], nodata: float | None = None) -> NDArray[Any]:
    """Return values in an image's type, rounded and within its limits; none is `nodata`, but the number beside it."""
    if dtype.kind == "f":
        values = values.double() if dtype.itemsize == 8 else values
        if nodata is not None and math.isfinite(nodata):
            beside = np.nextafter(np.asarray(nodata, dtype), np.asarray(np.inf, dtype))
            values = torch.where(values == float(np.asarray(nodata, dtype)), float(beside), values)
        return values.cpu().numpy()
    limits = np.iinfo(dtype)
    whole = torch.int32 if dtype.itemsize < 4 else torch.int64
    lowest, highest = limits.min, min(limits.max, torch.iinfo(torch.int64).max)
    values = values.double() if dtype.itemsize >= 4 else values  # float32 holds whole numbers to 2²⁴ alone
    rounded = values.round().clamp(lowest, highest)
    if dtype.itemsize == 8:  # the largest is none of float64
        rounded = rounded.clamp(max=float(2**63 - 1024))
    if nodata is not None:
        rounded = torch.where(rounded == nodata, nodata - 1 if nodata == limits.max else nodata + 1, rounded)
    narrow = {"uint8": torch.uint8, "int8": torch.int8, "uint16": torch.uint16, "int16": torch.int16}
    return rounded.to(whole).to(narrow.get(dtype.name, whole)).cpu().numpy().astype(dtype, copy=False)


def _window(pixels: Pixels, area: Area, margin: int) -> tuple[Area, NDArray[np.float32], Mask]:
    """What a window sees, its holes filled as they would be in the whole image, and where its area is valid."""
    height, width = pixels.height, pixels.width
    seen = area.grown(margin, height, width)
    image, valid = pixels.read(seen)
    own = valid[area.within(seen)]
    if own.any() and not valid.all():
        # a hole within the margin of a valid pixel is filled from at most its diagonal away
        wide = seen.grown(math.ceil(1.5 * margin), height, width)
        image, valid = pixels.read(wide)
        image = fill(image, valid)[:, *seen.within(wide)]
    return seen, np.ascontiguousarray(image, np.float32), own


def sample(pixels: Pixels, count: int = SAMPLES, side: int = SAMPLE) -> list[tuple[NDArray[np.float32], Mask]]:
    """Read parts of an image of equal size, evenly spread over it: (bands, h, w), holes filled, and (h, w) valid."""
    across = math.isqrt(count)
    height, width = min(side, pixels.height), min(side, pixels.width)
    parts = []
    for row in range(across):
        for column in range(across):
            top = (pixels.height - height) * (2 * row + 1) // (2 * across)
            left = (pixels.width - width) * (2 * column + 1) // (2 * across)
            _, image, valid = _window(pixels, Area(top, left, height, width), 0)
            if valid.any():
                parts.append((image, valid))
    return parts


def matching(match: Match, run: Run, parts: list[tuple[NDArray[np.float32], Mask]]) -> Callable[[Tensor], Tensor]:
    """Return the map that gives what is made of parts of an image their own distribution, band by band.

    `moments`: their mean and standard deviation; `histogram`: their quantiles, on straight lines between these.
    """
    before, after = [], []
    for image, valid in parts:
        sr = run.back(run(torch.from_numpy(image)))
        scale = sr.shape[-1] // image.shape[-1]
        shown = torch.from_numpy(valid).to(sr.device)
        before.append(torch.from_numpy(image).to(sr.device)[:, shown])
        after.append(sr[:, shown.repeat_interleave(scale, 0).repeat_interleave(scale, 1)])
    own, made = torch.cat(before, 1).double(), torch.cat(after, 1).double()
    if match == "moments":
        gain = own.std(1) / made.std(1).clamp_min(1e-12)
        shift = own.mean(1) - gain * made.mean(1)
        return lambda sr: sr * gain[:, None, None].float() + shift[:, None, None].float()
    shares = np.linspace(0, 1, QUANTILES)
    to, of = (torch.from_numpy(np.quantile(one.cpu().numpy(), shares, axis=1).T).float() for one in (own, made))
    to, of = to.contiguous().to(own.device), of.contiguous().to(own.device)

    def mapped(sr: Tensor) -> Tensor:
        flat = sr.flatten(1)
        at = torch.searchsorted(of, flat).clamp(1, QUANTILES - 1)
        low, high = of.gather(1, at - 1), of.gather(1, at)
        share = ((flat - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
        start, end = to.gather(1, at - 1), to.gather(1, at)
        beyond = flat - flat.clamp(of[:, :1], of[:, -1:])  # as far outside as it was
        return (start + share * (end - start) + beyond).view_as(sr)

    return mapped


def _side(generator: TrainedGenerator, device: torch.device) -> int:
    """The largest window that the memory holds, in low-resolution pixels."""
    settings, memory = generator.configuration.Generator, MEMORY_CPU
    if device.type == "cuda":
        memory = torch.cuda.mem_get_info(device)[0] / 3
    # at full size: three times the features at once, and up to eight times the image on its way to a file's numbers
    numbers = (3 * settings.n_channels + 8 * generator.bands) * settings.scaling_factor**2
    if settings.is_dense:
        numbers = max(numbers, 3 * (settings.n_channels + 4 * max(16, settings.growth_channels)))
    return min(SIDE, math.isqrt(int(memory / (4 * numbers))))


def _plan(settings: GeneratorSettings, side: int, run: Run, pixels: Pixels) -> Plan:
    """Windows of at most `side` with the margin that they need; at least of a block, however little memory there is."""
    margin, step = receptive_field(settings), max(1, BLOCK // settings.scaling_factor)
    if margin > NEAR:
        parts = [torch.from_numpy(image) for image, _ in sample(pixels)]
        detailed = sorted(parts, key=lambda part: -float(part.std()))[:2]
        margin = min(margin, max((_reach(run, part, margin) for part in detailed), default=margin))
    return Plan(max(step, (side - 2 * margin) // step * step), margin)


def _reach(run: Run, part: Tensor, field: int) -> int:
    """How far from where a part is cut its output differs from the whole one's by more than TOLERANCE, and a bit more.

    The receptive field where that is half of the part.
    """
    height, width = part.shape[-2:]
    whole, far = run.in_float32(part), 0
    scale = whole.shape[-1] // width
    for axis, length in ((-2, height), (-1, width)):
        cut = length // 3
        for first in (0, cut):  # the far end is cut off, or the near one
            kept = length - cut
            cropped = run.in_float32(part.narrow(axis, first, kept))
            changed = (cropped - whole.narrow(axis, first * scale, kept * scale)).abs().transpose(axis, -1)
            profile = changed.flatten(0, -2).amax(0).view(kept, scale).amax(1)  # by distance in pixels
            where = torch.nonzero(profile > TOLERANCE * run.spread).flatten()
            if len(where):
                far = max(far, int(where[-1]) + 1 if first else kept - int(where[0]))
    return far + far // 4 + 2 if far < min(height, width) // 2 else field


@contextlib.contextmanager
def _same_means(network: nn.Module, run: Run, pixels: Pixels) -> Iterator[None]:
    """Let channel attention take its means over a sample of the whole image in every window of it: so none is felt.

    In one piece they would be over all pixels, which no window sees.
    """
    layers = [layer.squeeze for layer in network.modules() if isinstance(layer, ChannelAttention)]
    parts = [image for image, _ in sample(pixels, side=SAMPLE // 2)] if layers else []
    means: dict[nn.Module, Tensor] = {}

    def hold(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        means.setdefault(layer, inputs[0].mean(0, keepdim=True))
        return (means[layer].expand_as(inputs[0]),)

    hooks = [layer.register_forward_pre_hook(hold) for layer in layers] if parts else []
    try:
        if parts:
            run.batch(torch.from_numpy(np.stack(parts)))
        yield
    finally:
        for hook in hooks:
            hook.remove()
