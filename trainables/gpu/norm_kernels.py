"""Triton kernels of norms: statistics of a batch or of each image, what follows them, and the way back.

Images are flat, channels last: (groups · pixels, channels), a group being what shares its statistics.
"""

import triton
import triton.language as tl


@triton.jit
def norm_sums(
    raw,  # (groups · pixels, CHANNELS)
    shares,  # (groups, programs, 2 · CHANNELS): sums over a program's pixels, and sums of squares
    pixels,  # of a group
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    REPEATS: tl.constexpr,
):
    channel = tl.arange(0, PADDED)[None, :]
    known = channel < CHANNELS
    first = raw + tl.program_id(1).to(tl.int64) * pixels * CHANNELS
    shift = tl.load(first + channel, mask=known, other=0.0).to(tl.float32)  # squares of differences lose less
    sums = tl.zeros((1, PADDED), tl.float32)
    squares = tl.zeros((1, PADDED), tl.float32)
    for repeat in range(REPEATS):
        pixel = ((tl.program_id(0) * REPEATS + repeat) * ROWS + tl.arange(0, ROWS))[:, None]
        where = (pixel < pixels) & known
        x = tl.load(first + pixel * CHANNELS + channel, mask=where, other=0.0).to(tl.float32)
        x = tl.where(where, x - shift, 0.0)
        sums += tl.sum(x, 0, keep_dims=True)
        squares += tl.sum(x * x, 0, keep_dims=True)
    share = shares + (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * 2 * CHANNELS
    tl.store(share + channel, sums, mask=known)
    tl.store(share + CHANNELS + channel, squares, mask=known)


@triton.jit
def norm_statistics(
    raw,
    shares,  # (groups, rows, 2 · CHANNELS)
    bias,  # of the convolution: what is remembered of a mean has it
    statistics,  # (groups, 2 · CHANNELS): means, and 1 over standard deviations
    running_mean,
    running_variance,
    count,
    pixels,
    rows,
    momentum,
    eps,
    RUNNING: tl.constexpr,  # of one group
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    REPEATS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    channel = (tl.program_id(0) * WIDTH + tl.arange(0, WIDTH))[None, :]
    known = channel < CHANNELS
    group = tl.program_id(1)
    sums = tl.zeros((1, WIDTH), tl.float32)
    squares = tl.zeros((1, WIDTH), tl.float32)
    for repeat in range(REPEATS):
        row = (repeat * ROWS + tl.arange(0, ROWS))[:, None]
        where = (row < rows) & known
        at = shares + (group * rows + row) * 2 * CHANNELS + channel
        sums += tl.sum(tl.load(at, mask=where, other=0.0), 0, keep_dims=True)
        squares += tl.sum(tl.load(at + CHANNELS, mask=where, other=0.0), 0, keep_dims=True)
    first = raw + group.to(tl.int64) * pixels * CHANNELS
    away = sums / pixels
    mean = tl.load(first + channel, mask=known, other=0.0).to(tl.float32) + away
    variance = tl.maximum(squares / pixels - away * away, 0.0)
    place = statistics + group * 2 * CHANNELS + channel
    tl.store(place, mean, mask=known)
    tl.store(place + CHANNELS, 1 / tl.sqrt(variance + eps), mask=known)
    if RUNNING:
        before = tl.load(running_mean + channel, mask=known, other=0.0)
        mean += tl.load(bias + channel, mask=known, other=0.0)
        tl.store(running_mean + channel, before + momentum * (mean - before), mask=known)
        before = tl.load(running_variance + channel, mask=known, other=0.0)
        variance *= pixels / (pixels - 1.0)
        tl.store(running_variance + channel, before + momentum * (variance - before), mask=known)
        if tl.program_id(0) == 0:
            tl.store(count, tl.load(count) + 1)


@triton.jit
def norm_forward(
    raw,
    statistics,
    weight,
    shift,
    slope,
    skip,
    result,
    pixels,
    fixed,
    AFFINE: tl.constexpr,
    LEARNT: tl.constexpr,
    SKIP: tl.constexpr,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
):
    pixel = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    channel = tl.arange(0, PADDED)[None, :]
    known = channel < CHANNELS
    where = (pixel < pixels) & known
    at = tl.program_id(1).to(tl.int64) * pixels * CHANNELS + pixel * CHANNELS + channel
    of_group = statistics + tl.program_id(1) * 2 * CHANNELS + channel
    y = tl.load(raw + at, mask=where, other=0.0).to(tl.float32) - tl.load(of_group, mask=known, other=0.0)
    y *= tl.load(of_group + CHANNELS, mask=known, other=0.0)
    if AFFINE:
        y = y * tl.load(weight + channel, mask=known, other=0.0) + tl.load(shift + channel, mask=known, other=0.0)
    a = tl.load(slope) if LEARNT else fixed
    y = tl.where(y > 0, y, a * y)
    if SKIP:
        y += tl.load(skip + at, mask=where, other=0.0).to(tl.float32)
    tl.store(result + at, y.to(result.dtype.element_ty), mask=where)


@triton.jit
def norm_backward(
    gradient,
    raw,
    statistics,
    weight,
    shift,
    slope,
    sums,  # (groups, 2 · CHANNELS + 1), of the first pass
    into_raw,  # the second pass' result
    shares,  # (groups, programs, 2 · CHANNELS + 1), the first pass' result
    pixels,
    fixed,
    SECOND: tl.constexpr,  # the pass
    AFFINE: tl.constexpr,
    LEARNT: tl.constexpr,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    REPEATS: tl.constexpr,
):
    """Sum, over pixels, g, g·x̂ and what the slope gets, g being what arrives before the activation; then use them.

    The gradient of a normalised image (Ioffe & Szegedy 2015, section 3): γ/σ · (g − mean g − x̂ · mean g·x̂).
    """
    channel = tl.arange(0, PADDED)[None, :]
    known = channel < CHANNELS
    group = tl.program_id(1)
    of_group = statistics + group * 2 * CHANNELS + channel
    mean = tl.load(of_group, mask=known, other=0.0)
    inverse = tl.load(of_group + CHANNELS, mask=known, other=0.0)
    a = tl.load(slope) if LEARNT else fixed
    if AFFINE:
        w = tl.load(weight + channel, mask=known, other=0.0)
        b = tl.load(shift + channel, mask=known, other=0.0)
    if SECOND:
        total = sums + group * (2 * CHANNELS + 1) + channel
        mean_g = tl.load(total, mask=known, other=0.0) / pixels
        mean_gx = tl.load(total + CHANNELS, mask=known, other=0.0) / pixels
    else:
        sum_g = tl.zeros((1, PADDED), tl.float32)
        sum_gx = tl.zeros((1, PADDED), tl.float32)
        of_slope = 0.0
    for repeat in range(REPEATS):
        pixel = ((tl.program_id(0) * REPEATS + repeat) * ROWS + tl.arange(0, ROWS))[:, None]
        where = (pixel < pixels) & known
        at = group.to(tl.int64) * pixels * CHANNELS + pixel * CHANNELS + channel
        x = (tl.load(raw + at, mask=where, other=0.0).to(tl.float32) - mean) * inverse
        y = x * w + b if AFFINE else x
        g = tl.load(gradient + at, mask=where, other=0.0).to(tl.float32)
        if not SECOND and LEARNT:
            of_slope += tl.sum(tl.where(y > 0, 0.0, g * y))
        g = tl.where(y > 0, g, a * g)
        if SECOND:
            g = (g - mean_g - x * mean_gx) * inverse
            g = g * w if AFFINE else g
            tl.store(into_raw + at, g.to(into_raw.dtype.element_ty), mask=where)
        else:
            sum_g += tl.sum(g, 0, keep_dims=True)
            sum_gx += tl.sum(g * x, 0, keep_dims=True)
    if not SECOND:
        share = shares + (group * tl.num_programs(0) + tl.program_id(0)) * (2 * CHANNELS + 1)
        tl.store(share + channel, sum_g, mask=known)
        tl.store(share + CHANNELS + channel, sum_gx, mask=known)
        tl.store(share + 2 * CHANNELS, of_slope)
