"""Triton kernels of the training step: a dense block's layer, and what follows a convolution, forth and back.

Images are flat, channels last: (pixels, channels). Capital arguments are constants that a kernel is built for.
"""

import triton
import triton.language as tl


@triton.jit
def _in_image(row, column, height, width):
    """Which of these places lie in the image."""
    return (row >= 0) & (row < height) & (column >= 0) & (column < width)


@triton.jit
def dense_layer(
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
        there = inside & _in_image(row + dy, column + dx, height, width)
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


@triton.jit
def _place(pixel, channel, height, width, CHANNELS: tl.constexpr, SHUFFLE: tl.constexpr):
    """Where element (pixel, channel) of the convolution's output lies in the result."""
    if SHUFFLE:
        narrow: tl.constexpr = CHANNELS // 4
        quarter = channel // narrow
        high = (pixel // width * 2 + quarter // 2) * (2 * width) + pixel % width * 2 + quarter % 2
        return high * narrow + channel % narrow
    return pixel * CHANNELS + channel


@triton.jit
def finish_forward(
    raw,
    bias,
    slope,
    skip,
    result,
    pixels,
    height,
    width,
    fixed,
    LEARNT: tl.constexpr,
    SKIP: tl.constexpr,
    SHUFFLE: tl.constexpr,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
):
    pixel = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    channel = tl.arange(0, PADDED)[None, :]
    where = (pixel < pixels) & (channel < CHANNELS)
    y = tl.load(raw + pixel * CHANNELS + channel, mask=where, other=0.0).to(tl.float32)
    y += tl.load(bias + channel, mask=channel < CHANNELS, other=0.0)
    a = tl.load(slope) if LEARNT else fixed
    y = tl.where(y > 0, y, a * y)
    at = _place(pixel, channel, height, width, CHANNELS, SHUFFLE)
    if SKIP:
        y += tl.load(skip + at, mask=where, other=0.0).to(tl.float32)
    tl.store(result + at, y.to(result.dtype.element_ty), mask=where)


@triton.jit
def finish_backward(
    gradient,
    raw,
    bias,
    slope,
    into_raw,
    shares,  # (programs, CHANNELS + 1): what each adds to the gradients of the bias and of the slope
    pixels,
    height,
    width,
    fixed,
    LEARNT: tl.constexpr,
    SUMS: tl.constexpr,
    WRITE: tl.constexpr,
    SIGNED: tl.constexpr,  # `raw` is the activation's result: only its sign is needed
    SHUFFLE: tl.constexpr,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    REPEATS: tl.constexpr,
):
    channel = tl.arange(0, PADDED)[None, :]
    known = channel < CHANNELS
    b = tl.load(bias + channel, mask=known, other=0.0)
    a = tl.load(slope) if LEARNT else fixed
    of_bias = tl.zeros((1, PADDED), tl.float32)
    of_slope = 0.0
    for repeat in range(REPEATS):
        pixel = ((tl.program_id(0) * REPEATS + repeat) * ROWS + tl.arange(0, ROWS))[:, None]
        where = (pixel < pixels) & known
        at = _place(pixel, channel, height, width, CHANNELS, SHUFFLE)
        g = tl.load(gradient + at, mask=where, other=0.0).to(tl.float32)
        if WRITE:
            y = tl.load(raw + pixel * CHANNELS + channel, mask=where, other=0.0).to(tl.float32)
            if not SIGNED:
                y += b
            if LEARNT:
                of_slope += tl.sum(tl.where(y > 0, 0.0, g * y))
            g = tl.where(y > 0, g, a * g)
            tl.store(into_raw + pixel * CHANNELS + channel, g.to(into_raw.dtype.element_ty), mask=where)
        of_bias += tl.sum(g, 0, keep_dims=True)
    if SUMS:
        share = shares + tl.program_id(0) * (CHANNELS + 1)
        tl.store(share + channel, of_bias, mask=known)
        tl.store(share + CHANNELS, of_slope)


@triton.jit
def column_sums(
    source,  # (rows, CHANNELS)
    target,  # (programs, CHANNELS): each program's share of the rows
    rows,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    REPEATS: tl.constexpr,
):
    channel = tl.arange(0, PADDED)[None, :]
    sums = tl.zeros((1, PADDED), tl.float32)
    for repeat in range(REPEATS):
        row = ((tl.program_id(0) * REPEATS + repeat) * ROWS + tl.arange(0, ROWS))[:, None]
        where = (row < rows) & (channel < CHANNELS)
        values = tl.load(source + row * CHANNELS + channel, mask=where, other=0.0)
        sums += tl.sum(values.to(tl.float32), 0, keep_dims=True)
    tl.store(target + tl.program_id(0) * CHANNELS + channel, sums, mask=channel < CHANNELS)


@triton.jit
def cut_crops(
    pool,  # (pixels, BANDS): scenes one after another
    crops,  # (size, 5): of each crop, at COLUMN where it begins and how wide its scene is; at 4 its flip and turn
    result,  # (size, side, side, BANDS)
    side,
    COLUMN: tl.constexpr,
    BANDS: tl.constexpr,
    PADDED: tl.constexpr,
    PIXELS: tl.constexpr,
):
    which_crop = tl.program_id(0).to(tl.int64)  # the axis that may have more than 65535 programs
    crop = crops + which_crop * 5
    begin, width, which = tl.load(crop + COLUMN), tl.load(crop + COLUMN + 1), tl.load(crop + 4)
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    row, column = pixel // side, pixel % side
    last = side - 1
    # turned by a quarter `which % 4` times, after it was mirrored where `which` is 4 or more
    turn = which % 4
    r = tl.where(turn == 0, row, tl.where(turn == 1, column, tl.where(turn == 2, last - row, last - column)))
    c = tl.where(turn == 0, column, tl.where(turn == 1, last - row, tl.where(turn == 2, last - column, row)))
    c = tl.where(which >= 4, last - c, c)
    band = tl.arange(0, PADDED)[None, :]
    where = (pixel < side * side)[:, None] & (band < BANDS)
    at = (begin.to(tl.int64) + r * width + c)[:, None] * BANDS + band
    values = tl.load(pool + at, mask=where, other=0.0)
    place = (which_crop * side * side + pixel)[:, None] * BANDS + band
    tl.store(result + place, values, mask=where)


@triton.jit
def sum_shares(
    shares,  # (groups, rows, COLUMNS)
    target,  # (groups, COLUMNS)
    rows,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    REPEATS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    column = (tl.program_id(0) * WIDTH + tl.arange(0, WIDTH))[None, :]
    group = tl.program_id(1)
    sums = tl.zeros((1, WIDTH), tl.float32)
    for repeat in range(REPEATS):
        row = (repeat * ROWS + tl.arange(0, ROWS))[:, None]
        where = (row < rows) & (column < COLUMNS)
        at = (group * rows + row) * COLUMNS + column
        sums += tl.sum(tl.load(shares + at, mask=where, other=0.0), 0, keep_dims=True)
    tl.store(target + group * COLUMNS + column, sums.to(target.dtype.element_ty), mask=column < COLUMNS)


@triton.jit
def weight_gradient(
    x,  # (pixels, FAN_IN)
    gradient,  # (pixels, FAN_OUT)
    shares,  # (parts, FAN_OUT, 9, FAN_IN): what each part of the pixels adds
    pixels,
    height,
    width,
    FAN_IN: tl.constexpr,
    FAN_OUT: tl.constexpr,
    ROWS: tl.constexpr,
    REPEATS: tl.constexpr,  # of ROWS pixels, a part
):
    tap = tl.program_id(0)
    dy, dx = tap // 3 - 1, tap % 3 - 1
    i = tl.arange(0, FAN_IN)
    o = tl.arange(0, FAN_OUT)
    sums = tl.zeros((FAN_OUT, FAN_IN), tl.float32)
    for repeat in range(REPEATS):
        pixel = (tl.program_id(1) * REPEATS + repeat) * ROWS + tl.arange(0, ROWS)
        inside = pixel < pixels
        row, column = pixel // width % height, pixel % width
        there = inside & _in_image(row + dy, column + dx, height, width)
        seen = tl.load(x + (pixel + dy * width + dx)[:, None] * FAN_IN + i[None, :], mask=there[:, None], other=0.0)
        g = tl.load(gradient + pixel[:, None] * FAN_OUT + o[None, :], mask=inside[:, None], other=0.0)
        sums = tl.dot(tl.trans(g), seen, sums)
    place = ((tl.program_id(1) * FAN_OUT + o[:, None]) * 9 + tap) * FAN_IN + i[None, :]
    tl.store(shares + place, sums)


@triton.jit
def gather_taps(
    planes,  # (≥ KERNEL² · BANDS, pixels): what each tap of each band finds at every pixel
    result,  # (pixels, BANDS): their sums, each from its place around the pixel
    pixels,
    height,
    width,
    KERNEL: tl.constexpr,
    BANDS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    band = tl.program_id(1)
    inside = pixel < pixels
    row, column = pixel // width % height, pixel % width
    sums = tl.zeros((PIXELS,), tl.float32)
    for tap in range(KERNEL * KERNEL):
        dy, dx = tap // KERNEL - KERNEL // 2, tap % KERNEL - KERNEL // 2
        there = inside & _in_image(row + dy, column + dx, height, width)
        at = (tap * BANDS + band).to(tl.int64) * pixels + pixel + dy * width + dx
        sums += tl.load(planes + at, mask=there, other=0.0).to(tl.float32)
    tl.store(result + pixel * BANDS + band, sums.to(result.dtype.element_ty), mask=inside)


@triton.jit
def scatter_taps(
    image,  # (pixels, BANDS)
    planes,  # (≥ KERNEL² · BANDS, pixels): the image, moved away by each tap
    pixels,
    height,
    width,
    KERNEL: tl.constexpr,
    BANDS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    which = tl.program_id(1)
    tap, band = which // BANDS, which % BANDS
    dy, dx = tap // KERNEL - KERNEL // 2, tap % KERNEL - KERNEL // 2
    row, column = pixel // width % height - dy, pixel % width - dx
    there = (pixel < pixels) & _in_image(row, column, height, width)
    values = tl.load(image + (pixel - dy * width - dx) * BANDS + band, mask=there, other=0.0)
    tl.store(planes + which.to(tl.int64) * pixels + pixel, values, mask=pixel < pixels)
