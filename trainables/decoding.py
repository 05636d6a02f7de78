"""Scenes made a network's numbers: normalised, reduced where there is no low-resolution image, one after another.

The processes of a machine share one decoded copy of large imagery.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.areas import Areas, Layout, all_of, shrunk
from trainables.cache import cache, make_room, used
from trainables.errors import InvalidInput, Problem
from trainables.image_files import Mask
from trainables.kinds import is_antialiased
from trainables.networks import downsample
from trainables.normalization import Normalization, ends_of, normalization_of
from trainables.scenes import Found, Raw
from trainables.schema import Configuration

SHARED_FROM = 50_000_000  # bytes of scenes' files: from here on the processes of a machine map one decoded copy

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scene:
    """One normalised image pair: hr (bands, H, W), lr (bands, h, w), and which lr cells may be used (h, w)."""

    name: str
    hr: Tensor
    lr: Tensor
    usable: Mask


@dataclass(frozen=True)
class Decoded:
    """All scenes as a network has them, one after another: lr and hr (pixels, bands), usable cells (h, w) of each.

    `low`, `high`: the imagery's values that are 0 and 1, or ±1.
    """

    low: float
    high: float
    names: list[str]
    usable: list[Mask]
    lr: Tensor
    hr: Tensor

    @property
    def nbytes(self) -> int:
        """Of the pools and masks."""
        return self.lr.nbytes + self.hr.nbytes + sum(mask.nbytes for mask in self.usable)

    def scenes(self, factor: int) -> tuple[NDArray[np.int64], list[Scene]]:
        """Say where scenes begin in both pools and their width in the first, (scenes, 3); views of the pools."""
        shapes = np.array([mask.shape for mask in self.usable], np.int64).reshape(-1, 2)
        begins = np.zeros((len(shapes), 3), np.int64)
        begins[:, 0] = np.cumsum([0, *shapes.prod(1)[:-1]])
        begins[:, 1], begins[:, 2] = begins[:, 0] * factor**2, shapes[:, 1]
        scenes = []
        for (height, width), (low, high, _), name, usable in zip(
            shapes.tolist(), begins.tolist(), self.names, self.usable, strict=True
        ):
            hr = self.hr[high : high + height * width * factor**2].view(height * factor, width * factor, -1)
            lr = self.lr[low : low + height * width].view(height, width, -1)
            scenes.append(Scene(name, hr.permute(2, 0, 1), lr.permute(2, 0, 1), usable))
        return begins, scenes

    def write(self, folder: Path) -> None:
        """Write files that `read` maps into memory."""
        for name in ("lr", "hr"):
            np.save(folder / f"{name}.npy", getattr(self, name).numpy())
        np.savez(folder / "usable.npz", *self.usable)
        told = {"low": self.low, "high": self.high, "names": self.names}
        (folder / "scenes.json").write_text(json.dumps(told), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Decoded:
        """Return what was written; the pools stay on the disk, in pages that all processes share."""
        lr, hr = (torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c")) for name in ("lr", "hr"))
        with np.load(folder / "usable.npz") as masks:
            usable = [masks[name] for name in masks.files]
        return cls(**json.loads((folder / "scenes.json").read_text(encoding="utf-8")), usable=usable, lr=lr, hr=hr)


Ends = tuple[float, float]  # values of imagery that are 0 and 1, or ±1


def decoded(configuration: Configuration, files: Found, layout: Layout, ends: Ends | None = None) -> Decoded:
    """Return the scenes, decoded; from a certain size on this machine's one copy of them, mapped into memory.

    `ends`: of other imagery, whose scale these take; without them they have their own.
    """
    stamps = files.stamps()
    if sum(size for _, size, _ in stamps) < SHARED_FROM:
        return _decode(configuration, files, layout, ends)
    data, bands = configuration.Data.model_dump(exclude={"test_path"}), configuration.Model.in_bands
    determined = [2, stamps, data, bands, layout.factor, torch.__version__, torch.backends.cpu.get_cpu_capability()]
    determined += [] if ends is None else [ends]
    key = hashlib.sha256(json.dumps(determined).encode()).hexdigest()[:16]
    entry = cache() / "imagery" / f"scenes-{key}"

    def make() -> None:
        scenes = _decode(configuration, files, layout, ends)
        make_room(entry.parent, scenes.nbytes)
        scenes.write(entry)

    try:
        used(entry, make)
    except OSError as error:
        _log.warning("the trainings of this machine do not share their scenes (%s)", error)
        return _decode(configuration, files, layout, ends)
    return Decoded.read(entry)


def _decode(configuration: Configuration, files: Found, layout: Layout, ends: Ends | None) -> Decoded:
    factor = layout.factor
    raws = [raw for group in files.read(configuration) for raw in group]
    shapes = [(raw.valid.shape[0] // factor, raw.valid.shape[1] // factor) for raw in raws]
    if min(min(shape) for shape in shapes) < 1:
        raise layout.too_small(f"a scene of less than {factor} px")
    low, high = ends or _ends(configuration, raws, layout, layout.areas(shapes))
    normalization = normalization_of(configuration.Data, low, high)
    pixels, bands = sum(height * width for height, width in shapes), configuration.Model.in_bands
    if pixels * factor**2 >= 2**31:
        fix = "Leave some scenes out: places in them are 32-bit numbers."
        found = f"{pixels * factor**2} pixels"
        raise InvalidInput([Problem(layout.source, files.key, found, "fewer than 2³¹", fix)])
    pools = [torch.empty(pixels, bands), torch.empty(pixels * factor**2, bands)]
    filled, names, usable = [0, 0], [raw.name for raw in raws], []
    antialias = is_antialiased(configuration.Data.dataset_type)
    for raw in _consumed(raws):
        lr, hr, cells = _scene(raw, factor, normalization, normalization.scaled(configuration.Data.lr_scale), antialias)
        usable.append(cells)
        for which, image in enumerate((lr, hr)):
            flat = image.permute(1, 2, 0).flatten(0, 1)
            pools[which][filled[which] : filled[which] + len(flat)] = flat
            filled[which] += len(flat)
    return Decoded(low, high, names, usable, *pools)


def _ends(configuration: Configuration, raws: list[Raw], layout: Layout, areas: list[Areas]) -> Ends:
    """The two values that become 0 and 1: stated percentiles of the training area, or what is fixed."""
    data = configuration.Data
    if data.dataset_type == "ExampleDataset":  # reflectances, or 10 000 times them
        return 0.0, 10_000.0 if max(raw.image.max() for raw in raws) > 1.5 else 1.0
    if data.normalization == "percentiles":
        trained = [(raw, area["train"]) for raw, area in zip(raws, areas, strict=True) if "train" in area]
        values = np.concatenate([raw.sample(part, layout.factor) for raw, part in trained])
        if not values.size:
            raise layout.too_small("nothing but nodata in the training area")
        low, high = np.percentile(values, data.percentiles)
        if not low < high:
            found = f"the same value ({low:g}) at both"
            raise InvalidInput([Problem(layout.source, "Data.percentiles", found, "imagery with contrast")])
        return float(low), float(high)
    return ends_of(data) or (0.0, 1.0)  # a person's own functions have none


def _scene(
    raw: Raw, factor: int, normalization: Normalization, of_lr: Normalization, antialias: bool
) -> tuple[Tensor, Tensor, Mask]:
    """The images of a scene, (bands, h, w) and (bands, H, W), and which cells may be used (h, w)."""
    height, width = (side // factor * factor for side in raw.image.shape[1:])
    valid = raw.valid[:height, :width]
    image = raw.image[:, :height, :width].astype(np.float32)
    hr = _mapped(np.where(valid, image, np.float32(normalization.low)), normalization)
    if raw.lr is None:
        lr = downsample(hr[None], factor, antialias)[0]
        # bicubic reduction reaches two low-resolution pixels far: what nodata coloured is not used either
        return lr, hr, shrunk(all_of(valid, factor), 2)
    return _mapped(raw.lr, of_lr), hr, all_of(valid, factor)


def _consumed(raws: list[Raw]) -> Iterator[Raw]:
    """Each of them once, let go as the next one is asked for: all in both forms would take twice the memory."""
    raws.reverse()
    while raws:
        yield raws.pop()


def _mapped(image: NDArray[Any], normalization: Normalization) -> Tensor:
    """An image, (bands, H, W), as a network has it."""
    return normalization.normalize(torch.from_numpy(np.ascontiguousarray(image, np.float32)))
