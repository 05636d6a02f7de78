"""A norm and what follows it, forth and back, in three passes each on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainables.gpu import layers

try:
    from trainables.gpu import norm_kernels
except ImportError:  # no Triton, no GPU
    norm_kernels = None  # type: ignore[assignment]

Norm = nn.BatchNorm2d | nn.InstanceNorm2d


def normalise(
    raw: Tensor, conv: nn.Conv2d, norm: Norm, slope: Tensor | float | None = None, skip: Tensor | None = None
) -> Tensor:
    """Finish a convolution without bias in training: act(norm(raw + bias)) + skip; batch norms remember, as torch's.

    A norm takes away what a bias adds, so that the bias' gradient is 0.
    """
    learnt = slope if isinstance(slope, Tensor) else None
    fixed = 1.0 if slope is None else 0.0 if learnt is not None else float(slope)
    assert conv.bias is not None
    image: Tensor = _Normalise.apply(raw, conv.bias, norm.weight, norm.bias, learnt, skip, norm, fixed)  # type: ignore[no-untyped-call]
    return image


def normalises(x: Tensor, norm: Norm) -> bool:
    """Tell whether `normalise` can finish what `x` becomes: by its own statistics, in half precision on a GPU."""
    elements = x.shape[0] * x.shape[2] * x.shape[3] * norm.num_features
    own = norm.training or not norm.track_running_stats
    return layers.usable(x) and elements < 2**31 and own and norm.momentum is not None


class _Normalise(torch.autograd.Function):
    """A norm and what follows it, of the whole batch or of each image."""

    @staticmethod
    def forward(
        ctx: Any, raw: Tensor, bias: Tensor, weight: Tensor | None, shift: Tensor | None, slope: Tensor | None,
        skip: Tensor | None, norm: Norm, fixed: float,
    ) -> Tensor:  # fmt: skip
        raw = layers.channels_last(raw)
        batch, channels, height, width = raw.shape
        groups = batch if isinstance(norm, nn.InstanceNorm2d) else 1
        pixels = batch * height * width // groups
        tiles, constants = layers.tiles_of(pixels, channels, layers.ELEMENTS)
        repeats = layers.programs_of(tiles * groups)[1]
        programs = -(-tiles // repeats)
        shares = torch.empty((groups, programs, 2 * channels), device=raw.device)
        norm_kernels.norm_sums[(programs, groups)](raw, shares, pixels, REPEATS=repeats, **constants)
        statistics = torch.empty((groups, 2 * channels), device=raw.device)
        of_columns = layers.columns_of(programs)
        running = norm.track_running_stats and norm.running_mean is not None
        norm_kernels.norm_statistics[(-(-channels // of_columns["WIDTH"]), groups)](
            raw,
            shares,
            bias,
            statistics,
            norm.running_mean if running else bias,
            norm.running_var if running else bias,
            norm.num_batches_tracked if running else bias,
            pixels,
            programs,
            norm.momentum,
            norm.eps,
            RUNNING=running,
            CHANNELS=channels,
            **of_columns,
        )
        result = torch.empty_like(raw)
        given = {"AFFINE": weight is not None, "LEARNT": slope is not None}
        norm_kernels.norm_forward[(tiles, groups)](
            raw,
            statistics,
            bias if weight is None else weight,
            bias if shift is None else shift,
            bias if slope is None else slope,
            raw if skip is None else layers.channels_last(skip),
            result,
            pixels,
            fixed,
            SKIP=skip is not None,
            **given,
            **constants,
        )
        ctx.save_for_backward(raw, statistics, bias, weight, shift, slope)
        ctx.fixed, ctx.pixels, ctx.skipped, ctx.given = fixed, pixels, skip is not None, given
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        raw, statistics, bias, weight, shift, slope = ctx.saved_tensors
        gradient = layers.channels_last(gradient)
        channels, groups, pixels = raw.shape[1], len(statistics), ctx.pixels
        tiles, constants = layers.tiles_of(pixels, channels, layers.ELEMENTS)
        repeats = layers.programs_of(tiles * groups)[1]
        programs = -(-tiles // repeats)
        shares = torch.empty((groups, programs, 2 * channels + 1), device=raw.device)
        into_raw = torch.empty_like(raw)

        def run(second: bool, sums: Tensor) -> None:
            norm_kernels.norm_backward[(tiles if second else programs, groups)](
                gradient,
                raw,
                statistics,
                bias if weight is None else weight,
                bias if shift is None else shift,
                bias if slope is None else slope,
                sums,
                into_raw,
                shares,
                pixels,
                ctx.fixed,
                SECOND=second,
                REPEATS=1 if second else repeats,
                **ctx.given,
                **constants,
            )

        run(False, shares)
        sums = layers.summed(shares, torch.float32)
        run(True, sums)
        over_groups = sums.sum(0) if groups > 1 else sums[0]
        into_shift, into_weight, into_slope = over_groups.split([channels, channels, 1])
        return (
            into_raw,
            torch.zeros_like(bias) if ctx.needs_input_grad[1] else None,
            into_weight if weight is not None else None,
            into_shift if shift is not None else None,
            into_slope if slope is not None else None,
            gradient if ctx.skipped else None,
            None,
            None,
        )
