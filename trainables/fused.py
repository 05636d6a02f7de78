"""What follows a convolution, in one pass on a GPU: bias, activation, PixelShuffle and skip; half-precision weights.

At these sizes a training waits for memory and for launches, not for arithmetic, so that every pass saved counts. Each
function is a plain composition of torch's on anything but bfloat16 on a GPU; both ways agree to rounding (tests).
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

try:
    from trainables import kernels
except ImportError:  # no Triton, no GPU
    kernels = None  # type: ignore[assignment]

ELEMENTS = 4096  # a program works on at a time
PROGRAMS = 264  # or up to twice as many add up over pixels: two to four a multiprocessor


def available(x: Tensor) -> bool:
    """Whether kernels of our own can run where this is."""
    return kernels is not None and x.is_cuda


def usable(x: Tensor) -> bool:
    """Whether those after a convolution can take this: half precision on a GPU."""
    return available(x) and x.dtype == torch.bfloat16 and x.numel() < 2**31


def finish(
    raw: Tensor, bias: Tensor, slope: Tensor | float | None = None, skip: Tensor | None = None, shuffle: bool = False
) -> Tensor:
    """After a convolution without bias: act(shuffle(raw + bias)) + skip.

    raw (batch, channels, h, w); `slope` is that of a PReLU or leaky ReLU for what is below 0, None for no activation;
    `shuffle` is PixelShuffle by 2.
    """
    if usable(raw):
        learnt = slope if isinstance(slope, Tensor) else None
        fixed = 1.0 if slope is None else 0.0 if learnt is not None else float(slope)
        found: Tensor = _Finish.apply(raw, bias, learnt, fixed, skip, shuffle)  # type: ignore[no-untyped-call]
        return found
    return follow(raw + bias[:, None, None].to(raw.dtype), slope, skip, shuffle)


def follow(y: Tensor, slope: Tensor | float | None, skip: Tensor | None, shuffle: bool) -> Tensor:
    """The same without kernels of our own, after a convolution with its bias; may write into `y`."""
    if shuffle:
        y = functional.pixel_shuffle(y, 2)
    if isinstance(slope, Tensor):
        y = functional.prelu(y, slope.to(y.dtype))
    elif slope is not None:
        y = functional.leaky_relu_(y, slope)
    return y if skip is None else y + skip


def _flat(image: Tensor) -> Tensor:
    """The image's memory, channels last."""
    return image.contiguous(memory_format=torch.channels_last)


def _tiles(pixels: int, channels: int) -> tuple[int, dict[str, int]]:
    """How a (pixels, channels) image is parted: the number of parts, and the constants of a kernel that takes one."""
    padded = 1 << (channels - 1).bit_length()
    rows = max(4, ELEMENTS // padded)
    return -(-pixels // rows), {"CHANNELS": channels, "PADDED": padded, "ROWS": rows}


def _programs(tiles: int) -> tuple[int, int]:
    """How many programs add up over tiles, and how many tiles each takes."""
    repeats = max(1, tiles // PROGRAMS)
    return -(-tiles // repeats), repeats


def column_sums(rows: Tensor) -> Tensor:
    """(n, channels) → (channels,) in float32, always in the same order."""
    n, channels = rows.shape
    tiles, constants = _tiles(n, channels)
    programs, repeats = _programs(tiles)
    shares = torch.empty((programs, channels), device=rows.device)
    kernels.column_sums[(programs,)](rows, shares, n, REPEATS=repeats, **constants)
    return shares.sum(0)


def cut_crops(pool: Tensor, crops: Tensor, column: int, side: int) -> Tensor:
    """Images (size, bands, side, side), channels last, of `Imagery.crops`; `column` is where they are named there."""
    bands, pixels = pool.shape[1], 256
    images = torch.empty((len(crops), side, side, bands), device=pool.device)
    grid = (-(-side * side // pixels), len(crops))
    padded = 1 << (bands - 1).bit_length()
    kernels.cut_crops[grid](pool, crops, images, side, COLUMN=column, BANDS=bands, PADDED=padded, PIXELS=pixels)
    return images.permute(0, 3, 1, 2)


class _Finish(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, raw: Tensor, bias: Tensor, slope: Tensor | None, fixed: float, skip: Tensor | None, shuffle: bool
    ) -> Tensor:
        raw = _flat(raw)
        batch, channels, height, width = raw.shape
        size = (batch, channels // 4, 2 * height, 2 * width) if shuffle else raw.shape
        result = torch.empty(size, dtype=raw.dtype, device=raw.device, memory_format=torch.channels_last)
        pixels = batch * height * width
        tiles, constants = _tiles(pixels, channels)
        kernels.finish_forward[(tiles,)](
            raw,
            bias,
            bias if slope is None else slope,
            raw if skip is None else _flat(skip),
            result,
            pixels,
            height,
            width,
            fixed,
            LEARNT=slope is not None,
            SKIP=skip is not None,
            SHUFFLE=shuffle,
            **constants,
        )
        # of a leaky ReLU the result's sign is enough, and the next layer keeps the result anyway
        ctx.signed = slope is None and 0 < fixed < 1 and skip is None and not shuffle
        ctx.save_for_backward(result if ctx.signed else raw, bias, slope)
        ctx.fixed, ctx.shuffle, ctx.skipped = fixed, shuffle, skip is not None
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        raw, bias, slope = ctx.saved_tensors
        gradient = _flat(gradient)
        batch, channels, height, width = raw.shape
        pixels = batch * height * width
        write = ctx.fixed != 1.0 or ctx.shuffle
        sums = ctx.needs_input_grad[1]
        into_raw = torch.empty_like(raw) if write else gradient
        into_bias = into_slope = None
        if write or sums:
            tiles, constants = _tiles(pixels, channels)
            programs, repeats = _programs(tiles)
            shares = torch.empty((programs, channels + 1), device=raw.device)  # of the bias' and the slope's gradient
            kernels.finish_backward[(programs,)](
                gradient,
                raw,
                bias,
                bias if slope is None else slope,
                into_raw,
                shares,
                pixels,
                height,
                width,
                ctx.fixed,
                LEARNT=slope is not None,
                SUMS=sums,
                WRITE=write,
                SIGNED=ctx.signed,
                SHUFFLE=ctx.shuffle,
                REPEATS=repeats,
                **constants,
            )
            if sums:
                total = shares.sum(0)
                into_bias, into_slope = total[:channels], total[channels:] if slope is not None else None
        return into_raw, into_bias, into_slope, None, gradient if ctx.skipped else None, None


class _Halves(torch.autograd.Function):
    """Weights in bfloat16, all at once; their gradients come back in float32, all at once."""

    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> tuple[Tensor, ...]:
        halves = [torch.empty_like(weight, dtype=torch.bfloat16) for weight in weights]
        if halves:
            torch._foreach_copy_(halves, list(weights))
        return tuple(halves)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if not any(ctx.needs_input_grad):
            return (None,) * len(gradients)
        wholes = [torch.empty_like(gradient, dtype=torch.float32) for gradient in gradients]
        torch._foreach_copy_(wholes, list(gradients))
        return tuple(wholes)


_in_half = ContextVar("in_half", default=False)


def call(network: nn.Module, images: Tensor, half: bool) -> Tensor:
    """network(images); with `half` its layers work in bfloat16, from weights, biases and norms kept in float32."""
    if not half:
        found: Tensor = network(images)
        return found
    # spectrally normalised weights are halved after their norm (below), biases and slopes not at all
    named = {
        name: weight
        for name, weight in network.named_parameters()
        if weight.dim() > 1 and "parametrizations" not in name
    }
    halves = dict(zip(named, _Halves.apply(*named.values()), strict=True))  # type: ignore[no-untyped-call]
    token = _in_half.set(True)
    try:
        answer: Tensor = functional_call(network, halves, (images,))
    finally:
        _in_half.reset(token)
    return answer


def enter(images: Tensor) -> Tensor:
    """Images as the layers of a network want them, called through `call` or not."""
    return images.to(torch.bfloat16, memory_format=torch.channels_last) if _in_half.get() else images


class SpectralNorm(nn.Module):
    """A weight over its largest singular value, by one power iteration a training step (Miyato et al. 2018).

    A parametrisation of a convolution's or linear layer's weight, (out, …).
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("u", functional.normalize(matrix.new_empty(matrix.shape[0]).normal_(), dim=0, eps=1e-12))
        self.register_buffer("v", functional.normalize(matrix.new_empty(matrix.shape[1]).normal_(), dim=0, eps=1e-12))
        self._iterate(matrix, 15)

    @torch.no_grad()
    def _iterate(self, matrix: Tensor, times: int) -> None:
        for _ in range(times):
            functional.normalize(torch.mv(matrix, self.v), dim=0, eps=1e-12, out=self.u)
            functional.normalize(torch.mv(matrix.t(), self.u), dim=0, eps=1e-12, out=self.v)

    def forward(self, weight: Tensor) -> Tensor:
        """weight / σ, σ = uᵀ·W·v."""
        if _in_half.get():
            found: Tensor = _Normalise.apply(weight, self.u, self.v, self.training)  # type: ignore[no-untyped-call]
            return found
        matrix = weight.flatten(1)
        if self.training:
            self._iterate(matrix, 1)
        u, v = self.u.clone(), self.v.clone()  # an earlier step's graph keeps what it saw
        return weight / torch.vdot(u, torch.mv(matrix, v))


class _Normalise(torch.autograd.Function):
    """W/σ in half precision and, with G its gradient, (G − ⟨G, W⟩/σ·u·vᵀ)/σ, in as few passes as they take.

    After a power iteration σ is the length of Wᵀu. u and v are written in place: the gradient must be asked for before
    the next iteration, as a training step does.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, u: Tensor, v: Tensor, iterate: bool) -> Tensor:
        matrix = weight.flatten(1)
        if iterate:
            along = torch.mv(matrix, v)
            torch.div(along, torch.linalg.vector_norm(along), out=u)
            along = torch.mv(matrix.t(), u)
            sigma = torch.linalg.vector_norm(along)
            torch.div(along, sigma, out=v)
        else:
            sigma = torch.dot(u, torch.mv(matrix, v))
        layout = torch.channels_last if weight.dim() == 4 else torch.contiguous_format
        half = torch.empty_like(weight, dtype=torch.bfloat16, memory_format=layout)
        torch.div(weight, sigma, out=half)
        ctx.save_for_backward(weight, u, v, sigma)
        return half

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        weight, u, v, sigma = ctx.saved_tensors
        whole = torch.empty_like(weight, memory_format=torch.contiguous_format).copy_(gradient)
        matrix = whole.flatten(1)
        share = torch.dot(whole.flatten(), weight.flatten()) / sigma
        matrix.addr_(u * share, v, alpha=-1).div_(sigma)
        return whole, None, None, None
