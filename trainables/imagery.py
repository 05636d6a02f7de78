"""Scenes, their normalisation, the split by area, and crops that are a function of (seed, step).

A scene's high-resolution image is the file; the low-resolution one is made from it by antialiased bicubic
reduction, or read beside it (LRHRFolderDataset). Crops start at multiples of the scaling factor and touch no
nodata. Training and validation areas are apart by one crop.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.cache import cache, make_room, used
from trainables.errors import InvalidInput, Problem
from trainables.gpu import layers
from trainables.masks import all_of, shrunk, windows
from trainables.networks import downsample, upsample
from trainables.scenes import Found, Mask, Part, Raw, find_scenes
from trainables.schema import Configuration

DETAILED_SHARE = 0.6  # of the validation pairs: the upper 60 % by the error of bicubic upsampling (NASH)
SHARED_FROM = 50_000_000  # bytes of scenes' files: from here on the processes of a machine map one decoded copy
Areas = dict[str, Part]  # of a scene: where it is trained on, where it is held out
Positions = NDArray[np.int32]  # (n, 3): scene, row, column, the last two in low-resolution pixels

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
    """All scenes as numbers around 0–1, one after another: lr and hr (pixels, bands), usable cells (h, w) of each.

    `low`, `high`: the imagery's values that are 0 and 1.
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


@dataclass(frozen=True)
class Pairs:
    """The fixed held-out pairs: (n, bands, …) images, their bicubic upsampling, and which of them are detailed (n,)."""

    lr: Tensor
    hr: Tensor
    bicubic: Tensor
    detailed: Tensor
    overlapping: bool


class Imagery:
    """All imagery of a training: scenes, (pixels, bands), one after another in two pools, and the held-out pairs.

    The pools are on the training's device where they take less than a quarter of the memory free there (`resident`),
    else in the host's.
    """

    def __init__(self, configuration: Configuration, device: torch.device) -> None:
        data = configuration.Data
        self.device = device
        self.factor = configuration.Generator.scaling_factor
        self.cells = data.crop_size // self.factor  # a crop's side, low-resolution pixels
        self.val_side = data.val_side
        files = find_scenes(configuration)
        self.source = files.source
        decoded = self._decoded(configuration, files)
        self.low, self.high, pools = decoded.low, decoded.high, [decoded.lr, decoded.hr]
        self._begins, self.scenes = decoded.scenes(self.factor)
        areas = self._areas(configuration, files, [mask.shape for mask in decoded.usable])
        self.resident = _fits(sum(pool.nbytes for pool in pools), device) if data.resident is None else data.resident
        self._pools = [pool.to(device) for pool in pools] if self.resident else pools
        self.train_positions = self._positions("train", areas)
        tiles = len(files.train) if configuration.Data.dataset_type == "lrhrfolderdataset" else self._apart(areas)
        self._epoch = tiles, data.train_batch_size
        where = self._pools[0].device
        self._grids = [_dihedral(side).to(where) for side in (self.cells, self.cells * self.factor)]
        self.pairs = self._pairs(areas, configuration.Nash.validation_pairs)

    def crops(self, seed: int, stream: str, steps: Sequence[int], size: int) -> Tensor:
        """Return what `gather` cuts at each step, (steps, size, 5): it depends on (seed, stream, step) alone.

        A crop is where it begins in the low-resolution pool, how wide its scene is there, the same of the
        high-resolution pool, and which of the eight flips and turns it gets.
        """
        places = np.empty((len(steps), size, 5), np.int32)
        for at, step in enumerate(steps):
            draw = np.random.default_rng([seed, *stream.encode(), step])
            chosen = self.train_positions[draw.integers(len(self.train_positions), size=size)]
            turns, mirrored = draw.integers(4, size=size), draw.integers(2, size=size)
            begins = self._begins[chosen[:, 0]]
            widths = begins[:, 2]
            places[at, :, 0] = begins[:, 0] + chosen[:, 1] * widths + chosen[:, 2]
            places[at, :, 1] = widths
            places[at, :, 2] = begins[:, 1] + (chosen[:, 1] * widths * self.factor + chosen[:, 2]) * self.factor
            places[at, :, 3] = widths * self.factor
            places[at, :, 4] = 4 * mirrored + turns
        return torch.from_numpy(places)

    def gather(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Cut (lr, hr) images of (size, 5) crops, on the pools' device, without a word from the host."""
        if layers.available(crops):
            (low_pool, high_pool), side = self._pools, self.cells
            return layers.cut_crops(low_pool, crops, 0, side), layers.cut_crops(high_pool, crops, 2, side * self.factor)
        which = crops[:, 4]
        low, high = crops[:, :2], crops[:, 2:4]
        return _cut(self._pools[0], low, self._grids[0], which), _cut(self._pools[1], high, self._grids[1], which)

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch: batches that see the training imagery once, the last one rounded up.

        Of LR/HR tiles ⌈tiles / train_batch_size⌉, as opensr-srgan counts. A scene is seen once by as many crops as lie
        side by side in its training area without nodata: of scenes ⌈crops / train_batch_size⌉.
        """
        tiles, size = self._epoch
        return -(-tiles // size)

    @cached_property
    def digest(self) -> str:
        """A hash of every number that a training sees: pixels, where crops may begin, the held-out pairs."""
        digest = hashlib.sha256()
        for part in (*self._pools, torch.from_numpy(self.train_positions), self.pairs.lr, self.pairs.hr):
            digest.update(part.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def batch(self, seed: int, stream: str, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Cut the (lr, hr) images of a step."""
        lr, hr = self.gather(self.crops(seed, stream, [step], size)[0].to(self._pools[0].device))
        return lr.to(self.device), hr.to(self.device)

    def describe(self) -> str:
        """Describe it in one line: scenes, sizes, what is held out."""
        bands, height, width = self.scenes[0].hr.shape
        overlap = ", overlapping" if self.pairs.overlapping else ""
        return (
            f"{len(self.scenes)} scene(s), first {width}×{height} px, {bands} bands, values {self.low:g}–{self.high:g} "
            f"as 0–1; {len(self.train_positions)} crop positions, {len(self.pairs.lr)} held-out pairs{overlap}"
        )

    def _crop(self, position: Positions) -> tuple[Tensor, Tensor]:
        index, row, column = position.tolist()
        scene, n, f = self.scenes[index], self.cells, self.factor
        return (
            scene.lr[:, row : row + n, column : column + n],
            scene.hr[:, row * f : (row + n) * f, column * f : (column + n) * f],
        )

    def _normalisation(self, configuration: Configuration, raws: list[Raw], areas: list[Areas]) -> tuple[float, float]:
        """The two values that become 0 and 1: stated percentiles of the training area, or a fixed scale."""
        data = configuration.Data
        if data.normalization == "percentiles":
            trained = [(raw, area["train"]) for raw, area in zip(raws, areas, strict=True) if "train" in area]
            values = np.concatenate([raw.sample(part, self.factor) for raw, part in trained])
            if not values.size:
                raise self._too_small("nothing but nodata in the training area")
            low, high = np.percentile(values, data.percentiles)
            if not low < high:
                found = f"the same value ({low:g}) at both"
                raise InvalidInput([Problem(self.source, "Data.percentiles", found, "imagery with contrast")])
            return float(low), float(high)
        fixed = {"normalise_10k": (0.0, 10000.0)}
        if data.scale is not None and data.normalization == "scale":
            return data.scale[0], data.scale[1]
        return fixed.get(data.normalization, (0.0, 1.0))

    def _decoded(self, configuration: Configuration, files: Found) -> Decoded:
        """The scenes, decoded; from a certain size on this machine's one copy of them, mapped into memory."""
        stamps = files.stamps()
        if sum(size for _, size, _ in stamps) < SHARED_FROM:
            return self._decode(configuration, files)
        data, bands = configuration.Data.model_dump(), configuration.Model.in_bands
        determined = [1, stamps, data, bands, self.factor, torch.__version__, torch.backends.cpu.get_cpu_capability()]
        key = hashlib.sha256(json.dumps(determined).encode()).hexdigest()[:16]
        entry = cache() / "imagery" / f"scenes-{key}"

        def make() -> None:
            decoded = self._decode(configuration, files)
            make_room(entry.parent, decoded.nbytes)
            decoded.write(entry)

        try:
            used(entry, make)
        except OSError as error:
            _log.warning("the trainings of this machine do not share their scenes (%s)", error)
            return self._decode(configuration, files)
        return Decoded.read(entry)

    def _decode(self, configuration: Configuration, files: Found) -> Decoded:
        raws = [raw for group in files.read(configuration) for raw in group]
        shapes = [(raw.valid.shape[0] // self.factor, raw.valid.shape[1] // self.factor) for raw in raws]
        if min(min(shape) for shape in shapes) < 1:
            raise self._too_small(f"a scene of less than {self.factor} px")
        low, high = self._normalisation(configuration, raws, self._areas(configuration, files, shapes))
        scenes = [self._scene(raw, low, high) for raw in raws]
        pools = []
        for images in ([scene.lr for scene in scenes], [scene.hr for scene in scenes]):
            pixels = sum(image.shape[1] * image.shape[2] for image in images)
            if pixels >= 2**31:
                fix = "Leave some scenes out: places in them are 32-bit numbers."
                raise InvalidInput([Problem(self.source, "Data.path", f"{pixels} pixels", "fewer than 2³¹", fix)])
            pools.append(torch.cat([image.permute(1, 2, 0).flatten(0, 1) for image in images]))
        return Decoded(low, high, [scene.name for scene in scenes], [scene.usable for scene in scenes], *pools)

    def _scene(self, raw: Raw, low: float, high: float) -> Scene:
        span = high - low
        height, width = (side // self.factor * self.factor for side in raw.image.shape[1:])
        valid = raw.valid[:height, :width]
        image = np.where(valid, raw.image[:, :height, :width], low).astype(np.float32)
        hr = torch.from_numpy((image - low) / span)
        if raw.lr is None:
            lr = downsample(hr[None], self.factor)[0]
            # bicubic reduction reaches two low-resolution pixels far: what nodata coloured is not used either
            usable = shrunk(all_of(valid, self.factor), 2)
        else:
            lr = torch.from_numpy(((raw.lr - low) / span).astype(np.float32))
            usable = all_of(valid, self.factor)
        return Scene(raw.name, hr, lr, usable)

    def _areas(self, configuration: Configuration, files: Found, shapes: Sequence[tuple[int, ...]]) -> list[Areas]:
        """Where every scene, of so many low-resolution rows and columns, is trained on and held out."""
        if files.val:
            return [{"train": _WHOLE}] * len(files.train) + [{"val": _WHOLE}] * len(files.val)
        return self._split(shapes, configuration.Data.val_fraction)

    def _split(self, shapes: Sequence[tuple[int, ...]], fraction: float) -> list[Areas]:
        """Both areas in every scene where all are long enough, a crop's width apart; else scenes go whole to one."""
        areas: list[Areas] = []
        for shape in shapes:
            side = self.val_side or ("bottom" if shape[0] > shape[1] else "right")
            length = shape[side in ("left", "right")]
            held_out = max(self.cells, round(fraction * length))
            kept = length - held_out - self.cells
            if kept < self.cells:
                break
            areas.append({"train": _part(shape, _OPPOSITE[side], kept), "val": _part(shape, side, held_out)})
        else:
            return areas
        if len(shapes) == 1:
            raise self._too_small(f"one scene of {length * self.factor} px from side to side")
        scenes = min(max(1, round(fraction * len(shapes))), len(shapes) - 1)
        return [{"train": _WHOLE}] * (len(shapes) - scenes) + [{"val": _WHOLE}] * scenes

    def _positions(self, area: str, areas: list[Areas]) -> Positions:
        """Top left corners of all crops that lie in an area and touch no nodata."""
        corners_of = [np.zeros((0, 3), np.int32)]
        for index, (scene, has) in enumerate(zip(self.scenes, areas, strict=True)):
            if area in has:
                usable = np.zeros_like(scene.usable)
                usable[has[area]] = scene.usable[has[area]]
                corners = np.argwhere(windows(usable, self.cells))
                corners_of.append(np.column_stack([np.full(len(corners), index), corners]).astype(np.int32))
        positions = np.concatenate(corners_of)
        if not len(positions):
            raise self._too_small(f"no crop of {self.cells * self.factor} px without nodata in the {area} area")
        return positions

    def _apart(self, areas: list[Areas]) -> int:
        """How many crops to train on lie side by side, counted from each training area's corner; one at least."""
        corners = np.array([[part.start or 0 for part in has.get("train", _WHOLE)] for has in areas])
        offsets = self.train_positions[:, 1:] - corners[self.train_positions[:, 0]]
        return max(1, int((offsets % self.cells == 0).all(1).sum()))

    def _pairs(self, areas: list[Areas], wanted: int) -> Pairs:
        """`wanted` held-out pairs spread evenly; neighbours overlap only where there would be too few."""
        stride = self.cells
        positions = self._positions("val", areas)
        offsets = positions[:, 1:] - positions[0, 1:]
        while len(apart := positions[(offsets % stride == 0).all(1)]) < wanted and stride > 1:
            stride //= 2
        if len(apart) < wanted:
            raise self._too_small(f"{len(apart)} held-out crops where Nash.validation_pairs asks for {wanted}")
        chosen = apart[np.linspace(0, len(apart) - 1, wanted).round().astype(int)]
        crops = [self._crop(position) for position in chosen]
        lr = torch.stack([crop[0] for crop in crops]).to(self.device)
        hr = torch.stack([crop[1] for crop in crops]).to(self.device)
        bicubic = upsample(lr, self.factor)
        error = (bicubic - hr).square().mean((1, 2, 3))
        detailed = torch.zeros(wanted, dtype=torch.bool, device=lr.device)
        detailed[error.argsort(descending=True, stable=True)[: round(DETAILED_SHARE * wanted)]] = True
        return Pairs(lr, hr, bicubic, detailed, overlapping=stride < self.cells)

    def _too_small(self, found: str) -> InvalidInput:
        crop = self.cells * self.factor
        expected = f"imagery for crops of {crop} px: a training area, a gap of one crop, a held-out area"
        fix = "Use larger imagery, a smaller Data.crop_size or another Data.val_fraction or val_side."
        return InvalidInput([Problem(self.source, "Data.crop_size", found, expected, fix)])


_loaded: dict[str, Imagery] = {}


def load_imagery(configuration: Configuration, device: torch.device) -> Imagery:
    """Return the imagery of a configuration, read once a process; the trials of a study differ in other keys."""
    parts = configuration.Data, configuration.Model, configuration.Generator.scaling_factor
    key = f"{parts} {configuration.Nash.validation_pairs} {device}"
    if key not in _loaded:
        _loaded.clear()  # one study's imagery at a time
        _loaded[key] = Imagery(configuration, device)
    return _loaded[key]


def _fits(size: int, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, total = torch.cuda.mem_get_info(device)
    return size < min(free, total * torch.cuda.get_per_process_memory_fraction()) / 4


def _dihedral(side: int) -> Tensor:
    """(8, side, side, 2): row and column of every pixel of a crop, mirrored or not and turned as often as it says."""
    plain = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).int()
    every = [image.rot90(turn, (-2, -1)) for image in (plain, plain.flip(-1)) for turn in range(4)]
    return torch.stack(every).permute(0, 2, 3, 1).contiguous()


def _cut(pool: Tensor, places: Tensor, grids: Tensor, which: Tensor) -> Tensor:
    """Images (size, bands, side, side) from where they begin in the pool and how wide it is there."""
    grid = grids.index_select(0, which)
    index = grid[..., 0] * places[:, 1, None, None] + grid[..., 1] + places[:, 0, None, None]
    images = pool.index_select(0, index.flatten()).view(*index.shape, pool.shape[1]).permute(0, 3, 1, 2)
    return images if images.is_cuda else images.contiguous()  # a CPU convolves few bands faster one after another


_OPPOSITE = {"right": "left", "left": "right", "top": "bottom", "bottom": "top"}


_WHOLE: Part = (slice(None), slice(None))


def _part(shape: tuple[int, ...], side: str, count: int) -> Part:
    """The `count` rows or columns at one side of an image."""
    across = side in ("left", "right")
    length = shape[across]
    part = slice(length - count, length) if side in ("right", "bottom") else slice(0, count)
    return (slice(None), part) if across else (part, slice(None))
