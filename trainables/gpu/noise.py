"""Random numbers that a recorded step draws anew each time: a function of a count that is on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def normal(count: Tensor, rows: int, columns: int) -> Tensor:
    """Draw (rows, columns) normal numbers that depend on a count alone, on any device and in a recorded step.

    A hash of count and place (Steele et al. 2014, SplitMix64's finaliser), then Box and Muller 1958.
    """
    place = torch.arange(2 * rows * columns, device=count.device)
    bits = (count * 0x9E3779B97F4A7C1 + place + 1) * 0x1F123BB5159A55E5
    for shift, factor in ((30, 0x3F58476D1CE4E5B9), (27, 0x14D049BB133111EB)):
        bits = (bits ^ ((bits >> shift) & ((1 << (64 - shift)) - 1))) * factor
    uniform = (((bits >> 40) & 0xFFFFFF).float() + 0.5) / 2**24
    radius, angle = uniform.chunk(2)
    return ((-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()).view(rows, columns)
