"""The dense trunk of RRDBNet on one buffer: no concatenation, and its bias, activation and skips ride on the convolutions.

A dense block reads and writes one channels-last buffer, (pixels, features + 4·growth): layer l convolves the first
features + l·growth channels and writes the next. Backward it is a dense block again, walked from its end over a buffer
of gradients, (pixels, 4·growth + features). Both walks are the same kernel below; the weights' gradient is one
convolution of the two buffers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # no Triton, no GPU: the trunk is then plain convolutions
    triton = None

SLOPE = 0.2
LAYERS = 5


def offsets(features: int, growth: int) -> list[int]:
    """Where each layer's weights, (out, 3, 3, in) in memory, begin in a block's flat vector; the last is its length."""
    found = [0]
    for layer in range(LAYERS):
        out = growth if layer < LAYERS - 1 else features
        found.append(found[-1] + 9 * out * (features + layer * growth))
    return found


def usable(x: Tensor, features: int, growth: int) -> bool:
    """Whether the kernels below can take this: half precision on a GPU, widths of a power of two."""
    sizes_fit = all(width >= 16 and width & (width - 1) == 0 for width in (features, growth))
    small = x.shape[0] * x.shape[2] * x.shape[3] * (features + 4 * growth) < 2**31
    return triton is not None and x.is_cuda and x.dtype == torch.bfloat16 and sizes_fit and small


if triton is not None:

    @triton.jit
    def _layer(
        source,  # (pixels, TOTAL): what is convolved, from channel FIRST on
        weight,  # a block's flat vector
        bias,  # of this layer; forward only
        mask,  # (pixels, TOTAL), from channel MASK on: backward, the activations whose sign decides
        skip,  # (pixels, SKIP): added, times `skip_scale`
        outer,  # (pixels, OUTER): the skip around three blocks; forward v → outer + scale·v, backward v → v + outer
        target,  # (pixels, TARGET): the result
        second,  # (pixels, TOTAL): the result once more, times `second_scale`
        pixels,
        height,
        width,
        scale,
        skip_scale,
        second_scale,
        FEATURES: tl.constexpr,
        GROWTH: tl.constexpr,
        PART: tl.constexpr,  # forward: the layer; backward: which part of the input, 0 the block's own
        BACKWARD: tl.constexpr,
        SKIP: tl.constexpr,
        OUTER: tl.constexpr,
        TARGET: tl.constexpr,
        SECOND: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        total: tl.constexpr = FEATURES + 4 * GROWTH
        chunk: tl.constexpr = min(FEATURES, GROWTH, 64)
        if BACKWARD:
            first: tl.constexpr = PART * GROWTH
            depth: tl.constexpr = total - PART * GROWTH
            out: tl.constexpr = FEATURES if PART == 0 else GROWTH
        else:
            first: tl.constexpr = 0
            depth: tl.constexpr = FEATURES + PART * GROWTH
            out: tl.constexpr = FEATURES if PART == 4 else GROWTH
        chunks: tl.constexpr = depth // chunk

        pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = pixel < pixels
        row = pixel // width % height
        column = pixel % width
        k = tl.arange(0, chunk)
        n = tl.arange(0, out)
        sums = tl.zeros((BLOCK, out), tl.float32)
        for i in range(9 * chunks):
            tap = i // chunks
            c = i % chunks * chunk
            dy = tap // 3 - 1
            dx = tap % 3 - 1
            there = inside & (row + dy >= 0) & (row + dy < height) & (column + dx >= 0) & (column + dx < width)
            at = (pixel + dy * width + dx) * total + first + c
            a = tl.load(source + at[:, None] + k[None, :], mask=there[:, None], other=0.0)
            if BACKWARD:
                layer = tl.minimum((first + c) // GROWTH, 4)
                fan_in = FEATURES + layer * GROWTH
                begin = 9 * GROWTH * (FEATURES * layer + GROWTH * (layer * (layer - 1) // 2))
                part: tl.constexpr = 0 if PART == 0 else FEATURES + (PART - 1) * GROWTH
                row_k = begin + ((first + c - layer * GROWTH + k) * 9 + 8 - tap) * fan_in + part
                b = tl.load(weight + row_k[:, None] + n[None, :])
            else:
                begin: tl.constexpr = 9 * GROWTH * (FEATURES * PART + GROWTH * (PART * (PART - 1) // 2))
                b = tl.load(weight + begin + (n[None, :] * 9 + tap) * depth + c + k[:, None])
            sums = tl.dot(a, b, sums)
        where = inside[:, None]
        if BACKWARD:
            if PART > 0:
                at = pixel[:, None] * total + FEATURES + (PART - 1) * GROWTH + n[None, :]
                sign = tl.load(mask + at, mask=where, other=0.0)
                sums = tl.where(sign > 0, sums, 0.2 * sums)
        else:
            sums += tl.load(bias + n)[None, :]
            if PART < 4:
                sums = tl.where(sums > 0, sums, 0.2 * sums)
            else:
                sums *= scale
        if SKIP:
            at = pixel[:, None] * SKIP + n[None, :]
            sums += skip_scale * tl.load(skip + at, mask=where, other=0.0).to(tl.float32)
        if OUTER:
            at = pixel[:, None] * OUTER + n[None, :]
            around = tl.load(outer + at, mask=where, other=0.0).to(tl.float32)
            sums = sums + around if BACKWARD else around + scale * sums
        kind = target.dtype.element_ty
        tl.store(target + pixel[:, None] * TARGET + n[None, :], sums.to(kind), mask=where)
        if SECOND:
            tl.store(second + pixel[:, None] * total + n[None, :], (second_scale * sums).to(kind), mask=where)


def _launch(source: Tensor, weight: Tensor, shape: tuple[int, int], growth: int, **given: Any) -> None:
    """Run the kernel over all pixels; what is not given does not take part."""
    features = source.shape[1] - 4 * growth
    defaults: dict[str, Any] = dict.fromkeys(("bias", "mask", "skip", "outer", "second"))
    defaults |= {"scale": 0.0, "skip_scale": 1.0, "second_scale": 0.0, "BACKWARD": False} | given
    for name in ("skip", "outer", "target", "second"):
        tensor = defaults[name]
        defaults[name.upper()] = 0 if tensor is None else tensor.stride(0)
    for name in ("bias", "mask", "skip", "outer", "second"):
        if defaults[name] is None:
            defaults[name] = source
    block = 128
    _layer[(triton.cdiv(len(source), block),)](
        source,
        weight,
        pixels=len(source),
        height=shape[0],
        width=shape[1],
        FEATURES=features,
        GROWTH=growth,
        BLOCK=block,
        num_warps=4,
        num_stages=4,
        **defaults,
    )


class Trunk(torch.autograd.Function):
    """RRDBs, three dense blocks each. x (batch, features, h, w); weight (blocks, …), bias (blocks, 4·growth + features)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, growth: int, scale: float) -> Tensor:  # noqa: D102
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
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # type: ignore[override]  # noqa: D102
        buffers, half = ctx.saved_tensors
        growth, scale, (batch, features, height, width) = ctx.growth, ctx.scale, ctx.shape
        blocks, pixels, total = buffers.shape
        shape = (height, width)
        image = (batch, height, width, total)
        index = _gather_index(features, growth, buffers.device)
        into_weight = torch.empty_like(half)
        into_bias = torch.empty((blocks, total), device=half.device)
        kernel = half.new_empty((total, 3, 3, total)).permute(0, 3, 1, 2)
        around = gradient.permute(0, 2, 3, 1).reshape(pixels, features)  # arrives at the end of three blocks
        into = around  # arrives at the end of a block, over `scale` where three of them end
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
            _, found, _ = torch.ops.aten.convolution_backward(
                buffer.view(image).permute(0, 3, 1, 2),
                x.view(image).permute(0, 3, 1, 2),
                kernel,
                None,
                [1, 1],
                [1, 1],
                [1, 1],
                False,
                [0, 0],
                1,
                [False, True, False],
            )
            into_weight[block] = found.permute(0, 2, 3, 1).reshape(-1)[index]
            torch.sum(buffer, 0, dtype=torch.float32, out=into_bias[block])
            buffer, into = following, onward
            if first:
                around = onward
        return around.view(batch, height, width, features).permute(0, 3, 1, 2), into_weight, into_bias, None, None


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
