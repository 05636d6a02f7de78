"""The dense trunk of RRDBNet on one buffer: no concatenation; bias, activation and skips ride along.

A dense block reads and writes one channels-last buffer, (pixels, features + 4·growth): layer l convolves the first
features + l·growth channels and writes the next. Backward it is a dense block again, walked from its end over a buffer
of gradients, (pixels, 4·growth + features). Both walks are the same kernel below; the weights' gradient is one
convolution of the two buffers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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
    """Tell whether the kernels below can take this: half precision on a GPU, widths of a power of two."""
    sizes_fit = all(width >= 16 and width & (width - 1) == 0 for width in (features, growth))
    small = x.shape[0] * x.shape[2] * x.shape[3] * (features + 4 * growth) < 2**31
    if not (available(x) and x.dtype == torch.bfloat16 and sizes_fit and small):
        return False
    return _tile(features, growth, x.shape[0] * x.shape[2] * x.shape[3], _shared_limit(x)) is not None


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
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, growth: int, scale: float) -> Tensor:
        batch, features, height, width = x.shape
        blocks, total = len(weight), features + 4 * growth
        half = weight.to(x.dtype)
        buffers = x.new_empty((blocks, batch * height * width, total))
        buffers[0, :, :features] = x.permute(0, 2, 3, 1).reshape(-1, features)
        result = x.new_empty((batch * height * width, features))
        shape = (height, width)
        for block, (buffer, w, b) in enumerate(zip(buffers, half, bias, strict=True)):
            for layer in range(4):
                at = features + layer * growth
                _launch(buffer, w, shape, growth, bias=b[layer * growth :], target=buffer[:, at:], PART=layer)
            end = block % 3 == 2
            _launch(
                buffer,
                w,
                shape,
                growth,
                bias=b[4 * growth :],
                skip=buffer,
                outer=buffers[block - 2] if end else None,
                target=buffers[block + 1] if block + 1 < blocks else result,
                scale=scale,
                PART=4,
            )
        ctx.save_for_backward(buffers, half)
        ctx.growth, ctx.scale, ctx.shape = growth, scale, x.shape
        return result.view(batch, height, width, features).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        buffers, half = ctx.saved_tensors
        growth, scale, (batch, features, height, width) = ctx.growth, ctx.scale, ctx.shape
        blocks, pixels, total = buffers.shape
        shape = (height, width)
        image = (batch, height, width, total)
        index = _gather_index(features, growth, buffers.device)
        into_weight = torch.empty_like(half)
        into_bias = torch.empty((blocks, total), device=half.device)
        kernel = half.new_empty((total, 3, 3, total)).permute(0, 3, 1, 2)
        # `around` arrives at the end of three blocks; `into` at the end of one, over `scale` where three of them end
        around = gradient.permute(0, 2, 3, 1).reshape(pixels, features).contiguous()
        into = around
        buffer = buffers.new_empty((pixels, total))
        torch.mul(around, scale**2, out=buffer[:, 4 * growth :])
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
                skip=into,
                skip_scale=scale if block % 3 == 2 else 1.0,
                outer=around if first else None,
                target=onward,
                second=following[:, 4 * growth :] if block else None,
                second_scale=scale**2 if first else scale,
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
        return around.view(batch, height, width, features).permute(0, 3, 1, 2), into_weight, into_bias, None, None


def trunk(x: Tensor, weight: Tensor, bias: Tensor, growth: int, scale: float) -> Tensor:
    """Compute RRDBs of three dense blocks: x (batch, features, h, w), weight (blocks, …), bias (blocks, total)."""
    image: Tensor = _Trunk.apply(x, weight, bias, growth, scale)  # type: ignore[no-untyped-call]
    return image


_indices: dict[tuple[int, int, torch.device], Tensor] = {}


def _gather_index(features: int, growth: int, device: torch.device) -> Tensor:
    """Where each of a block's weights lies in (total, 3, 3, total): the gradient of all pairs of channels."""
    key = (features, growth, device)
    if key not in _indices:
        total = features + 4 * growth
        every = torch.arange(total * 9 * total).view(total, 9, total)
        parts = []
        for layer in range(LAYERS):
            outs = slice(layer * growth, (layer + 1) * growth if layer < LAYERS - 1 else total)
            parts.append(every[outs, :, : features + layer * growth].flatten())
        _indices[key] = torch.cat(parts).to(device)
    return _indices[key]
