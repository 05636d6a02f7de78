"""What follows a convolution, in one pass on a GPU: bias, activation, PixelShuffle and skip; crops; sums.

At these sizes a training waits for memory and for launches, not for arithmetic, so that every pass saved counts. Each
function is a plain composition of torch's on anything but bfloat16 on a GPU; both ways agree to rounding (tests).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

try:
    from trainables.gpu import kernels
except ImportError:  # no Triton, no GPU
    kernels = None  # type: ignore[assignment]

ELEMENTS = 4096  # a program works on at a time
PROGRAMS = 1056  # or up to twice as many add up over pixels: eight to sixteen a multiprocessor
FEW = 4  # bands: a convolution to so few is worth another way
PARTS = 16  # of the pixels, whose shares of a weight's gradient are computed side by side


def available(x: Tensor) -> bool:
    """Tell whether kernels of our own can run where this is."""
    return kernels is not None and x.is_cuda


def usable(x: Tensor) -> bool:
    """Tell whether those after a convolution can take this: half precision on a GPU."""
    return available(x) and x.dtype == torch.bfloat16 and x.numel() < 2**31


def layer(
    x: Tensor,
    conv: nn.Conv2d,
    slope: Tensor | float | None = None,
    skip: Tensor | None = None,
    shuffle: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Return a convolution and what follows it: act(shuffle(gain · conv(x))) + skip."""
    weight, bias = conv.weight, conv.bias
    assert bias is not None
    if gain != 1:
        weight, bias = gain * weight, gain * bias
    if shuffle:
        weight, bias = quarters(weight), quarters(bias)
    few = weight.shape[0] * weight.shape[2] * weight.shape[3]
    fan_out, fan_in = weight.shape[:2]
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    plain = conv.stride == (1, 1) and weight.shape[2] == weight.shape[3] == 2 * int(conv.padding[0]) + 1
    raw: Tensor
    if usable(x) and plain and fan_out <= FEW and few <= 512 and few * pixels < 2**31:
        raw = _FewBands.apply(x, weight)  # type: ignore[no-untyped-call]
    elif usable(x) and plain and weight.shape[2] == 3 and {fan_in, fan_out} <= {16, 32, 64} and pixels <= 65536:
        raw = _Small.apply(x, weight)  # type: ignore[no-untyped-call]
    else:
        raw = functional.conv2d(x, weight, None, conv.stride, conv.padding)
    return finish(raw, bias, slope, skip, shuffle)


def quarters(rows: Tensor) -> Tensor:
    """Reorder weights or biases of a layer before PixelShuffle: all upper left pixels first, then upper right, …"""
    ordered: Tensor = rows.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1)
    return ordered


def finish(
    raw: Tensor, bias: Tensor, slope: Tensor | float | None = None, skip: Tensor | None = None, shuffle: bool = False
) -> Tensor:
    """Finish a convolution without bias: act(shuffle(raw + bias)) + skip.

    raw (batch, channels, h, w); `slope` is that of a PReLU or leaky ReLU for what is below 0, None for no activation;
    `shuffle` is PixelShuffle by 2 of channels in the order of `quarters`: what lies together stays together.
    """
    if usable(raw):
        learnt = slope if isinstance(slope, Tensor) else None
        fixed = 1.0 if slope is None else 0.0 if learnt is not None else float(slope)
        finished: Tensor = _Finish.apply(raw, bias, learnt, fixed, skip, shuffle)  # type: ignore[no-untyped-call]
        return finished
    raw = raw + bias[:, None, None].to(raw.dtype)
    if shuffle:
        raw = raw.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2)
    return follow(raw, slope, skip, shuffle)


def follow(y: Tensor, slope: Tensor | float | None, skip: Tensor | None, shuffle: bool) -> Tensor:
    """Return the same without kernels of our own, after a convolution with its bias; may write into `y`."""
    if shuffle:
        y = functional.pixel_shuffle(y, 2)
    if isinstance(slope, Tensor):
        y = functional.prelu(y, slope.to(y.dtype))
    elif slope is not None:
        y = functional.leaky_relu_(y, slope)
    return y if skip is None else y + skip


def channels_last(image: Tensor) -> Tensor:
    """The image's memory, channels last."""
    return image.contiguous(memory_format=torch.channels_last)


def tiles_of(pixels: int, channels: int, elements: int) -> tuple[int, dict[str, int]]:
    """How a (pixels, channels) image is parted: the number of parts, and the constants of a kernel that takes one."""
    padded = 1 << (channels - 1).bit_length()
    rows = max(4, elements // padded)
    return -(-pixels // rows), {"CHANNELS": channels, "PADDED": padded, "ROWS": rows}


def programs_of(tiles: int) -> tuple[int, int]:
    """How many programs add up over tiles, and how many tiles each takes."""
    repeats = max(1, tiles // PROGRAMS)
    return -(-tiles // repeats), repeats


def column_sums(rows: Tensor) -> Tensor:
    """Sum (n, channels) → (channels,) in float32, always in the same order."""
    n, channels = rows.shape
    tiles, constants = tiles_of(n, channels, 2 * ELEMENTS)
    programs, repeats = programs_of(tiles)
    shares = torch.empty((programs, channels), device=rows.device)
    kernels.column_sums[(programs,)](rows, shares, n, REPEATS=repeats, **constants)
    return summed(shares, torch.float32)


def summed(shares: Tensor, kind: torch.dtype) -> Tensor:
    """(…, n, columns) → (…, columns)."""
    n, columns = shares.shape[-2:]
    target = torch.empty((*shares.shape[:-2], columns), dtype=kind, device=shares.device)
    constants = columns_of(n)
    grid = (-(-columns // constants["WIDTH"]), shares.numel() // (n * columns))
    kernels.sum_shares[grid](shares, target, n, COLUMNS=columns, **constants)
    return target


def columns_of(rows: int) -> dict[str, int]:
    """The constants of a kernel that adds up a few columns of so many rows."""
    at_once = min(256, 1 << (rows - 1).bit_length())
    return {"WIDTH": 32, "ROWS": at_once, "REPEATS": -(-rows // at_once)}


def cut_crops(pool: Tensor, crops: Tensor, column: int, side: int) -> Tensor:
    """Cut images (size, bands, side, side), channels last, of `Imagery.crops`; `column` is where they are named."""
    bands, pixels = pool.shape[1], 256
    images = torch.empty((len(crops), side, side, bands), device=pool.device)
    grid = (len(crops), -(-side * side // pixels))
    padded = 1 << (bands - 1).bit_length()
    kernels.cut_crops[grid](pool, crops, images, side, COLUMN=column, BANDS=bands, PADDED=padded, PIXELS=pixels)
    return images.permute(0, 3, 1, 2)


class _Finish(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, raw: Tensor, bias: Tensor, slope: Tensor | None, fixed: float, skip: Tensor | None, shuffle: bool
    ) -> Tensor:
        raw = channels_last(raw)
        batch, channels, height, width = raw.shape
        size = (batch, channels // 4, 2 * height, 2 * width) if shuffle else raw.shape
        result = torch.empty(size, dtype=raw.dtype, device=raw.device, memory_format=torch.channels_last)
        pixels = batch * height * width
        tiles, constants = tiles_of(pixels, channels, ELEMENTS)
        kernels.finish_forward[(tiles,)](
            raw,
            bias,
            bias if slope is None else slope,
            raw if skip is None else channels_last(skip),
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
        gradient = channels_last(gradient)
        batch, channels, height, width = raw.shape
        pixels = batch * height * width
        write = ctx.fixed != 1.0 or ctx.shuffle
        sums = ctx.needs_input_grad[1]
        into_raw = torch.empty_like(raw) if write else gradient
        into_bias = into_slope = None
        if write or sums:
            tiles, constants = tiles_of(pixels, channels, ELEMENTS)
            programs, repeats = programs_of(tiles)
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
                total = summed(shares, torch.float32)
                into_bias, into_slope = total[:channels], total[channels:] if slope is not None else None
        return into_raw, into_bias, into_slope, None, gradient if ctx.skipped else None, None


def convolution_gradient(gradient: Tensor, x: Tensor, weight: Tensor, of: Literal["x", "weight"]) -> Tensor:
    """Return the library's own gradient of a 3 × 3 convolution, of its input or of its weight alone."""
    wanted = [of == "x", of == "weight", False]
    into: Tensor = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, wanted
    )[wanted.index(True)]
    return into


class _Small(torch.autograd.Function):
    """A 3 × 3 convolution of a small image: its weight's gradient in parts of the pixels, side by side."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return functional.conv2d(x, weight, padding=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient, x = channels_last(gradient), channels_last(x)
        into_x = convolution_gradient(gradient, x, weight, "x") if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return into_x, None
        (fan_out, fan_in), (batch, _, height, width) = weight.shape[:2], x.shape
        pixels, rows = batch * height * width, 64
        repeats = -(-pixels // (PARTS * rows))
        parts = -(-pixels // (repeats * rows))
        shares = torch.empty((parts, fan_out * 9 * fan_in), device=x.device)
        kernels.weight_gradient[(9, parts)](
            x, gradient, shares, pixels, height, width, FAN_IN=fan_in, FAN_OUT=fan_out, ROWS=rows, REPEATS=repeats
        )
        return into_x, summed(shares, weight.dtype).view(fan_out, 3, 3, fan_in).permute(0, 3, 1, 2)


class _FewBands(torch.autograd.Function):
    """A convolution to a few bands, as a matrix product over channels and a sum over taps.

    To a matrix unit, three bands are as much work as sixteen; all taps of three bands are 243 columns.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x = channels_last(x)
        (bands, channels, kernel, _), (batch, _, height, width) = weight.shape, x.shape
        rows = bands * kernel**2
        padded = -(-rows // 8) * 8  # of a matrix, what the unit likes
        matrix = weight.new_zeros((padded, channels))
        matrix[:rows] = weight.permute(2, 3, 0, 1).reshape(rows, channels)
        flat = x.permute(0, 2, 3, 1).reshape(-1, channels)
        planes = matrix @ flat.t()
        result = torch.empty((batch, height, width, bands), dtype=x.dtype, device=x.device)
        grid = (-(-len(flat) // 1024), bands)
        kernels.gather_taps[grid](planes, result, len(flat), height, width, KERNEL=kernel, BANDS=bands, PIXELS=1024)
        ctx.save_for_backward(x, matrix)
        ctx.shape = weight.shape
        return result.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, matrix = ctx.saved_tensors
        (bands, channels, kernel, _), (batch, _, height, width) = ctx.shape, x.shape
        flat = x.permute(0, 2, 3, 1).reshape(-1, channels)
        pixels, rows = len(flat), bands * kernel**2
        planes = torch.empty((len(matrix), pixels), dtype=x.dtype, device=x.device)
        planes[rows:] = 0
        grid = (-(-pixels // 1024), rows)
        kernels.scatter_taps[grid](
            channels_last(gradient), planes, pixels, height, width, KERNEL=kernel, BANDS=bands, PIXELS=1024
        )
        into_x = into_weight = None
        if ctx.needs_input_grad[0]:
            into_x = (planes.t() @ matrix).view(batch, height, width, channels).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            parts = next(n for n in (128, 64, 32, 16, 8, 4, 2, 1) if pixels % n == 0)
            shares = torch.bmm(
                planes.view(len(matrix), parts, -1).transpose(0, 1), flat.view(parts, pixels // parts, channels)
            )
            summed = shares[:, :rows].sum(0, dtype=torch.float32).to(x.dtype)
            into_weight = summed.view(kernel, kernel, bands, channels).permute(2, 3, 0, 1)
        return into_x, into_weight
