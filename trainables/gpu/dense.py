"""The dense trunk of RRDBNet on one buffer: no concatenation; bias, activation and skips ride along.

A dense block reads and writes one channels-last buffer, (pixels, features + 4·growth): layer l convolves the first
features + l·growth channels and writes the next. Backward it is a dense block again, walked from its end over a buffer
of gradients, (pixels, 4·growth + features). Both walks are the same kernel below; the weights' gradient is one
convolution of the two buffers. The kernel's widths are powers of two: a growth between two of them is padded with
channels of zeros.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from trainables.gpu.layers import available, column_sums, convolution_gradient

SLOPE = 0.2
LAYERS = 5
# pixels a program works on, its warps, and loads under way: for images that fill a GPU several times over, and others
LARGE, SMALL = (256, 4, 3), (128, 4, 6)


def offsets(features: int, growth: int) -> list[int]:
    """Say where each layer's weights, (out, 3, 3, in), begin in a block's flat vector; the last is its length."""
    begins = [0]
    for layer in range(LAYERS):
        out = growth if layer < LAYERS - 1 else features
        begins.append(begins[-1] + 9 * out * (features + layer * growth))
    return begins


def usable(x: Tensor, features: int, growth: int) -> bool:
    """Tell whether the kernels below can take this: half precision on a GPU, a power of two of features."""
    wide = padded(growth)
    small = x.shape[0] * x.shape[2] * x.shape[3] * (features + 4 * wide) < 2**31
    if not (available(x) and x.dtype == torch.bfloat16 and features == padded(features) and small):
        return False
    return _tile(features, wide, x.shape[0] * x.shape[2] * x.shape[3], _shared_limit(x)) is not None


def padded(width: int) -> int:
    """The next width the kernel takes: a power of two, 16 at least."""
    return max(16, 1 << (width - 1).bit_length())


def _tile(features: int, growth: int, pixels: int, limit: int) -> tuple[int, int, int] | None:
    """The tile for an image, with as many loads under way as `limit` bytes of shared memory hold; None: too few."""
    chunk, out = min(features, growth, 64), max(features, growth)
    wanted, warps, stages = LARGE if pixels >= 65536 else SMALL
    for block in (wanted, 64):
        fit = min(stages, limit // (2 * chunk * (block + out)))
        if fit >= min(stages, 2):
            return block, warps, fit
    return None


def _shared_limit(x: Tensor) -> int:
    """Bytes of shared memory one program may use."""
    if not x.is_cuda:
        return 227 * 1024  # interpreted: any
    return int(getattr(torch.cuda.get_device_properties(x.device), "shared_memory_per_block_optin", 99 * 1024))


def _launch(source: Tensor, weight: Tensor, shape: tuple[int, int], growth: int, **given: Any) -> None:
    """Run the kernel over all pixels; what is not given does not take part."""
    from trainables.gpu import kernels  # only where `usable` said that they can be had

    features = source.shape[1] - 4 * growth
    defaults: dict[str, Any] = dict.fromkeys(("bias", "mask", "skip", "outer", "second"))
    defaults |= {"scale": 0.0, "skip_scale": 1.0, "second_scale": 0.0, "BACKWARD": False} | given
    for name in ("skip", "outer", "target", "second"):
        tensor = defaults[name]
        defaults[name.upper()] = 0 if tensor is None else tensor.stride(0)
    for name in ("bias", "mask", "skip", "outer", "second"):
        if defaults[name] is None:
            defaults[name] = source
    tile = _tile(features, growth, len(source), _shared_limit(source))
    assert tile is not None  # else `usable` says no
    block, warps, stages = tile
    kernels.dense_layer[(-(-len(source) // block),)](
        source,
        weight,
        pixels=len(source),
        height=shape[0],
        width=shape[1],
        FEATURES=features,
        GROWTH=growth,
        BLOCK=block,
        num_warps=warps,
        num_stages=stages,
        **defaults,
    )


class _Trunk(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, growth: int, scale: float, inner: bool) -> Tensor:
        batch, features, height, width = x.shape
        half, ctx.narrow, growth = weight.to(x.dtype), growth, padded(growth)
        if growth > ctx.narrow:
            weights, biases = _padding(features, ctx.narrow, x.device)
            half, bias = functional.pad(half, (0, 1))[:, weights], functional.pad(bias, (0, 1))[:, biases]
        blocks, total = len(weight), features + 4 * growth
        buffers = x.new_empty((blocks, batch * height * width, total))
        buffers[0, :, :features] = x.permute(0, 2, 3, 1).reshape(-1, features)
        result = x.new_empty((batch * height * width, features))
        shape = (height, width)
        for block, (buffer, w, b) in enumerate(zip(buffers, half, bias, strict=True)):
            for layer in range(4):
                at = features + layer * growth
                _launch(buffer, w, shape, growth, bias=b[layer * growth :], target=buffer[:, at:], PART=layer)
            around = buffers[block - 2] if block % 3 == 2 else None
            _launch(
                buffer,
                w,
                shape,
                growth,
                bias=b[4 * growth :],
                skip=buffer if inner else around,
                outer=around if inner else None,
                target=buffers[block + 1] if block + 1 < blocks else result,
                scale=scale if inner or around is not None else 1.0,
                PART=4,
            )
        ctx.save_for_backward(buffers, half)
        ctx.growth, ctx.scale, ctx.inner, ctx.shape = growth, scale, inner, x.shape
        return result.view(batch, height, width, features).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        buffers, half = ctx.saved_tensors
        growth, scale, (batch, features, height, width) = ctx.growth, ctx.scale, ctx.shape
        blocks, pixels, total = buffers.shape
        shape = (height, width)
        image = (batch, height, width, total)
        index, columns = _places(features, ctx.narrow, growth, buffers.device)
        into_weight = half.new_empty((blocks, len(index)))
        into_bias = torch.empty((blocks, total), device=half.device)
        within = scale if ctx.inner else 1.0  # what a dense block's own convolutions are scaled by
        kernel = half.new_empty((total, 3, 3, total)).permute(0, 3, 1, 2)
        # `around` arrives at the end of three blocks; `into` at the end of one, over `scale` where three of them end
        around = gradient.permute(0, 2, 3, 1).reshape(pixels, features).contiguous()
        into = around
        buffer = buffers.new_empty((pixels, total))
        torch.mul(around, scale * within, out=buffer[:, 4 * growth :])
        for block in range(blocks - 1, -1, -1):
            x, w = buffers[block], half[block]
            for part in range(4, 0, -1):
                target = buffer[:, (part - 1) * growth :]
                _launch(buffer, w, shape, growth, mask=x, target=target, PART=part, BACKWARD=True)
            onward, following = torch.empty_like(around), torch.empty_like(buffer)
            first = block % 3 == 0
            _launch(
                buffer,
                w,
                shape,
                growth,
                skip=into if ctx.inner else None,
                skip_scale=scale if block % 3 == 2 else 1.0,
                outer=around if first else None,
                target=onward,
                second=following[:, 4 * growth :] if block else None,
                second_scale=scale * within if first else within,
                PART=0,
                BACKWARD=True,
            )
            gradient_of = convolution_gradient(
                buffer.view(image).permute(0, 3, 1, 2), x.view(image).permute(0, 3, 1, 2), kernel, "weight"
            )
            into_weight[block] = gradient_of.permute(0, 2, 3, 1).reshape(-1)[index]
            into_bias[block] = column_sums(buffer)
            buffer, into = following, onward
            if first:
                around = onward
        into_x = around.view(batch, height, width, features).permute(0, 3, 1, 2)
        return into_x, into_weight, into_bias[:, columns], None, None, None


def trunk(x: Tensor, weight: Tensor, bias: Tensor, growth: int, scale: float, inner: bool) -> Tensor:
    """Compute RRDBs of three dense blocks: x (batch, features, h, w), weight (blocks, …), bias (blocks, total).

    With `inner` each dense block has a skip of its own.
    """
    image: Tensor = _Trunk.apply(x, weight, bias, growth, scale, inner)  # type: ignore[no-untyped-call]
    return image


@functools.cache
def _places(features: int, growth: int, wide: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where a block's weights lie in (total, 3, 3, total), the gradient of all pairs of channels, and its biases.

    The total is features + 4·wide.
    """
    total = features + 4 * wide
    every, channel = torch.arange(total * 9 * total).view(total, 9, total), torch.arange(total)
    grown = [channel[layer * wide :][:growth] for layer in range(LAYERS - 1)]
    outs = [*grown, channel[4 * wide :]]
    seen = torch.cat([channel[:features], *(features + part for part in grown)])
    parts = [every[out][:, :, seen[: features + layer * growth]].flatten() for layer, out in enumerate(outs)]
    return torch.cat(parts).to(device), torch.cat(outs).to(device)


@functools.cache
def _padding(features: int, growth: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where in a block's flat vectors each number of the padded ones is, of the weights and of the biases; -1: none."""
    wide = padded(growth)
    total = features + 4 * wide
    found = []
    for every, narrow, broad in zip(
        (total * 9 * total, total),
        _places(features, growth, wide, torch.device("cpu")),
        _places(features, wide, wide, torch.device("cpu")),
        strict=True,
    ):
        whence = torch.full((every,), -1)
        whence[narrow] = torch.arange(len(narrow))
        found.append(whence[broad].to(device))
    return found[0], found[1]
