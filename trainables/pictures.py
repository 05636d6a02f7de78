"""Sheets of held-out images: detailed pairs, one a row, each stretched as its true image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from trainables.imagery import Imagery
from trainables.state import State

Sheet = NDArray[np.uint8]  # (rows, columns, 3)
INVENTED, OMITTED = (0.85, 0.20, 0.10), (0.10, 0.35, 0.85)  # colours of a map


def picture(state: State, imagery: Imagery) -> Sheet | None:
    """Draw what the last validation made of `num_val_images` pairs, LR | SR | HR; None of none."""
    if state.pictured is None or not len(state.pictured):
        return None
    return sheet([state.pictured], imagery, drawn(imagery, len(state.pictured)))


def drawn(imagery: Imagery, count: int) -> Tensor:
    """Choose which of the held-out pairs are drawn: so many of the detailed ones, evenly."""
    chosen = imagery.pairs.detailed.nonzero().flatten()
    return chosen[torch.linspace(0, len(chosen) - 1, min(count, len(chosen))).round().long()]


def sheet(images: Sequence[Tensor], imagery: Imagery, chosen: Tensor) -> Sheet:
    """Draw images of the chosen pairs, a column each between LR and HR."""
    lr, hr = imagery.pairs.lr[chosen], imagery.pairs.hr[chosen]
    near = lr.repeat_interleave(imagery.factor, -1).repeat_interleave(imagery.factor, -2)
    # one stretch a row, from its HR image, so that they can be compared
    low = torch.quantile(hr.flatten(1), 0.01, dim=1)[:, None, None, None]
    high = torch.quantile(hr.flatten(1), 0.99, dim=1)[:, None, None, None]
    return _framed([((image - low) / (high - low).clamp_min(1e-6))[:, :3] for image in (near, *images, hr)])


def maps(shares: Sequence[tuple[Tensor, Tensor]]) -> Sheet:
    """Draw, a column for each, where images omit and where they invent detail, by both shares, (n, h, w) each.

    Blue omits, red invents, white is as in truth; grey has no detail to judge by.
    """
    columns = []
    for omitted, invented in shares:
        colours = [1 - omitted * (1 - blue) - invented * (1 - red) for red, blue in zip(INVENTED, OMITTED, strict=True)]
        columns.append(torch.stack(colours, 1).nan_to_num(nan=0.9))
    return _framed(columns)


def _framed(columns: Sequence[Tensor]) -> Sheet:
    """Columns of images in 0–1, (n, bands, h, w), beside each other with a white line around each."""
    framed = [functional.pad(image.clamp(0, 1), (1, 1, 1, 1), value=1.0) for image in columns]
    whole = torch.cat([torch.cat(list(image), dim=-2) for image in framed], dim=-1)
    if whole.shape[0] < 3:
        whole = whole[:1].expand(3, -1, -1)
    pixels: Sheet = (whole * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return pixels
