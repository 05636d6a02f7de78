"""Scenes, their normalisation, the split by area, and crops that are a function of (seed, step).

A scene's high-resolution image is the file; the low-resolution one is made from it by antialiased bicubic
reduction, or read beside it (LRHRFolderDataset). Crops start at multiples of the scaling factor and touch no
nodata. Training and validation areas are apart by one crop.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables import fused
from trainables.configuration import Configuration
from trainables.errors import InvalidInput, Problem
from trainables.networks import downsample, upsample

SUFFIXES = {".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npy", ".npz"}
DETAILED_SHARE = 0.6  # of the validation pairs: the upper 60 % by the error of bicubic upsampling (NASH)
Mask = NDArray[np.bool_]
Part = tuple[slice, slice]  # rows and columns, in low-resolution pixels
Areas = dict[str, Part]  # of a scene: where it is trained on, where it is held out
Positions = NDArray[np.int32]  # (n, 3): scene, row, column, the last two in low-resolution pixels


@dataclass(frozen=True)
class Scene:
    """One normalised image pair: hr (bands, H, W), lr (bands, h, w), and which lr cells may be used (h, w)."""

    name: str
    hr: Tensor
    lr: Tensor
    usable: Mask


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
        source = data.root_dir if data.dataset_type == "lrhrfolderdataset" else data.path
        self.source = str(source)
        self.val_side = data.val_side
        train_raw, val_raw = _read_all(configuration, Path(self.source))
        raws = train_raw + val_raw
        shapes = [tuple(side // self.factor for side in raw.valid.shape) for raw in raws]
        if min(min(shape) for shape in shapes) < 1:
            raise self._too_small(f"a scene of less than {self.factor} px")
        if val_raw:
            areas = [{"train": _WHOLE}] * len(train_raw) + [{"val": _WHOLE}] * len(val_raw)
        else:
            areas = self._split(shapes, data.val_fraction)
        self.low, self.high = self._normalisation(configuration, raws, areas)
        self.scenes = [self._scene(raw) for raw in raws]
        self._begins, pools = self._pooled()
        self.resident = _fits(sum(pool.nbytes for pool in pools), device) if data.resident is None else data.resident
        self._pools = [pool.to(device) for pool in pools] if self.resident else pools
        self.train_positions = self._positions("train", areas)
        where = self._pools[0].device
        self._grids = [_dihedral(side).to(where) for side in (self.cells, self.cells * self.factor)]
        self.pairs = self._pairs(areas, configuration.Nash.validation_pairs)

    def crops(self, seed: int, stream: str, steps: Sequence[int], size: int) -> Tensor:
        """What `gather` cuts at each step, (steps, size, 5): it depends on (seed, stream, step) alone.

        A crop is where it begins in the low-resolution pool, how wide its scene is there, the same of the
        high-resolution pool, and which of the eight flips and turns it gets.
        """
        found = np.empty((len(steps), size, 5), np.int32)
        for at, step in enumerate(steps):
            draw = np.random.default_rng([seed, *stream.encode(), step])
            chosen = self.train_positions[draw.integers(len(self.train_positions), size=size)]
            turns, mirrored = draw.integers(4, size=size), draw.integers(2, size=size)
            begins = self._begins[chosen[:, 0]]
            widths = begins[:, 2]
            found[at, :, 0] = begins[:, 0] + chosen[:, 1] * widths + chosen[:, 2]
            found[at, :, 1] = widths
            found[at, :, 2] = begins[:, 1] + (chosen[:, 1] * widths * self.factor + chosen[:, 2]) * self.factor
            found[at, :, 3] = widths * self.factor
            found[at, :, 4] = 4 * mirrored + turns
        return torch.from_numpy(found)

    def gather(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """(lr, hr) images of (size, 5) crops, on the pools' device, without a word from the host."""
        if fused.available(crops):
            (low_pool, high_pool), side = self._pools, self.cells
            return fused.cut_crops(low_pool, crops, 0, side), fused.cut_crops(high_pool, crops, 2, side * self.factor)
        which = crops[:, 4]
        low, high = crops[:, :2], crops[:, 2:4]
        return _cut(self._pools[0], low, self._grids[0], which), _cut(self._pools[1], high, self._grids[1], which)

    @cached_property
    def digest(self) -> str:
        """A hash of every number that a training sees: pixels, where crops may begin, the held-out pairs."""
        found = hashlib.sha256()
        for part in (*self._pools, torch.from_numpy(self.train_positions), self.pairs.lr, self.pairs.hr):
            found.update(part.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    def batch(self, seed: int, stream: str, step: int, size: int) -> tuple[Tensor, Tensor]:
        """(lr, hr) images of a step."""
        lr, hr = self.gather(self.crops(seed, stream, [step], size)[0].to(self._pools[0].device))
        return lr.to(self.device), hr.to(self.device)

    def describe(self) -> str:
        """One line for a person: scenes, sizes, what is held out."""
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

    def _normalisation(self, configuration: Configuration, raws: list[_Raw], areas: list[Areas]) -> tuple[float, float]:
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

    def _pooled(self) -> tuple[NDArray[np.int64], list[Tensor]]:
        """Where scenes begin in both pools and their width in the first, (scenes, 3); the pools, (pixels, bands)."""
        begins, pools = np.zeros((len(self.scenes), 3), np.int64), []
        for which, kind in enumerate(("lr", "hr")):
            images: list[Tensor] = [getattr(scene, kind) for scene in self.scenes]
            sizes = [image.shape[1] * image.shape[2] for image in images]
            begins[:, which] = np.cumsum([0, *sizes[:-1]])
            if sum(sizes) >= 2**31:
                fix = "Leave some scenes out: places in them are 32-bit numbers."
                raise InvalidInput([Problem(self.source, "Data.path", f"{sum(sizes)} pixels", "fewer than 2³¹", fix)])
            pools.append(torch.cat([image.permute(1, 2, 0).flatten(0, 1) for image in images]))
        begins[:, 2] = [scene.lr.shape[2] for scene in self.scenes]
        for at, scene in enumerate(self.scenes):  # a scene is from now on a view of the pools
            views = [
                pool[begin : begin + image.shape[1] * image.shape[2]].view(*image.shape[1:], -1).permute(2, 0, 1)
                for pool, begin, image in zip(pools, begins[at], (scene.lr, scene.hr), strict=False)
            ]
            self.scenes[at] = replace(scene, lr=views[0], hr=views[1])
        return begins, pools

    def _scene(self, raw: _Raw) -> Scene:
        span = self.high - self.low
        height, width = (side // self.factor * self.factor for side in raw.image.shape[1:])
        valid = raw.valid[:height, :width]
        image = np.where(valid, raw.image[:, :height, :width], self.low).astype(np.float32)
        hr = torch.from_numpy((image - self.low) / span)
        if raw.lr is None:
            lr = downsample(hr[None], self.factor)[0]
            # bicubic reduction reaches two low-resolution pixels far: what nodata coloured is not used either
            usable = _shrunk(_all_of(valid, self.factor), 2)
        else:
            lr = torch.from_numpy(((raw.lr - self.low) / span).astype(np.float32))
            usable = _all_of(valid, self.factor)
        return Scene(raw.name, hr, lr, usable)

    def _split(self, shapes: list[tuple[int, ...]], fraction: float) -> list[Areas]:
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
        found = [np.zeros((0, 3), np.int32)]
        for index, (scene, has) in enumerate(zip(self.scenes, areas, strict=True)):
            if area in has:
                usable = np.zeros_like(scene.usable)
                usable[has[area]] = scene.usable[has[area]]
                corners = np.argwhere(_windows(usable, self.cells))
                found.append(np.column_stack([np.full(len(corners), index), corners]).astype(np.int32))
        positions = np.concatenate(found)
        if not len(positions):
            raise self._too_small(f"no crop of {self.cells * self.factor} px without nodata in the {area} area")
        return positions

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
    """The imagery of a configuration, read once a process; the trials of a study differ in other keys."""
    parts = configuration.Data, configuration.Model, configuration.Generator.scaling_factor
    key = f"{parts} {configuration.Nash.validation_pairs} {device}"
    if key not in _loaded:
        _loaded.clear()  # one study's imagery at a time
        _loaded[key] = Imagery(configuration, device)
    return _loaded[key]


@dataclass(frozen=True)
class _Raw:
    """A file as read: image (bands, H, W) in its own numbers, valid (H, W), lr where it is given."""

    name: str
    image: NDArray[Any]
    valid: Mask
    lr: NDArray[Any] | None = None

    def sample(self, part: Part, factor: int) -> NDArray[Any]:
        """Valid values of a part given in low-resolution pixels, thinned to about a million."""
        rows, columns = (slice(s.start and s.start * factor, s.stop and s.stop * factor) for s in part)
        values = self.image[:, rows, columns][:, self.valid[rows, columns]].ravel()
        return values[:: max(1, values.size // 1_000_000)]


def _read_all(configuration: Configuration, source: Path) -> tuple[list[_Raw], list[_Raw]]:
    """Training scenes, and validation scenes where the data set keeps them apart. All that is wrong is said at once."""
    data, problems = configuration.Data, []
    paired = data.dataset_type == "lrhrfolderdataset"
    key = "Data.root_dir" if paired else "Data.path"
    groups: list[list[_Raw]] = [[], []]
    folders = [source / "train" / "HR", source / "val" / "HR"] if paired else [source]
    for group, folder in zip(groups, folders, strict=False):
        try:
            files, exists = scene_files(folder), folder.exists()
        except OSError as error:  # a name that is too long, a folder that is closed to us
            problems.append(Problem(str(folder), key, str(error.strerror), "imagery"))
            continue
        if not files and folder == folders[0]:
            found = "no imagery in it" if exists else "no such file or folder"
            fix = "Point it at a file or folder of .tif, .png, .jpg, .npy or .npz scenes."
            problems.append(Problem(str(folder), key, found, "imagery", fix))
        for file in files:
            try:
                low_file = folder.parent / "LR" / file.relative_to(folder) if paired else None
                group.append(_read(file, low_file, configuration, key))
            except InvalidInput as error:
                problems += error.problems
    if problems:
        raise InvalidInput(problems)
    return groups[0], groups[1]


def scene_files(path: Path) -> list[Path]:
    """The scenes a path names, in a fixed order."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    return [path] if path.is_file() else []


def _read(file: Path, low_file: Path | None, configuration: Configuration, key: str) -> _Raw:
    image, valid = read_image(file, configuration.Data.nodata, key)
    bands = configuration.Model.in_bands
    if image.shape[0] != bands:
        fix = f"Set Model.in_bands: {image.shape[0]}, or use imagery with {bands} bands."
        raise InvalidInput([Problem(str(file), "Model.in_bands", f"{image.shape[0]} bands", f"{bands}", fix)])
    if not valid.any():
        raise InvalidInput([Problem(str(file), key, "nothing but nodata", "pixels with values", "Check Data.nodata.")])
    if low_file is None:
        return _Raw(file.name, image, valid)
    low, low_valid = read_image(low_file, configuration.Data.nodata, key)
    factor = configuration.Generator.scaling_factor
    expected = (bands, image.shape[1] // factor, image.shape[2] // factor)
    if low.shape != expected or image.shape[1] % factor or image.shape[2] % factor:
        found = f"{low.shape} beside an HR image of {image.shape}"
        raise InvalidInput([Problem(str(low_file), key, found, f"{expected}: 1/{factor} of it in size")])
    both = valid & low_valid.repeat(factor, 0).repeat(factor, 1)
    return _Raw(file.name, image, both, np.where(low_valid, low, 0))


def read_image(file: Path, nodata: float | None, key: str) -> tuple[NDArray[Any], Mask]:
    """Image (bands, H, W) of a file in its own numbers, and where every band is valid (H, W)."""
    readers = {".npy": _read_numpy, ".npz": _read_numpy, ".tif": _read_tiff, ".tiff": _read_tiff}
    try:
        image, valid = readers.get(file.suffix.lower(), _read_picture)(file)
        if not image.size or image.dtype.kind not in "uif":
            raise ValueError(f"an array of shape {image.shape}, {image.dtype}; real numbers are expected")
    except Exception as error:  # what the imagery libraries raise for a broken file is theirs to choose
        found = f"a file that cannot be read ({' '.join(str(error).split())[:200]})"
        raise InvalidInput([Problem(str(file), key, found, "a whole image file", "Replace or remove it.")]) from error
    if nodata is not None:
        valid = valid & (image != nodata).all(0)
    if np.issubdtype(image.dtype, np.floating):
        with np.errstate(over="ignore"):  # what is no number in float32 is none in a training
            valid = valid & np.isfinite(image.astype(np.float32, copy=False)).all(0)
    return image, valid


def _read_tiff(file: Path) -> tuple[NDArray[Any], Mask]:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(file, driver="GTiff") as source:  # other drivers follow what a file says to other places
            _affordable(source.count, source.height, source.width, np.dtype(source.dtypes[0]).itemsize)
            return source.read(), source.read_masks().min(axis=0) > 0


def _affordable(bands: int, height: int, width: int, itemsize: int) -> None:
    """ValueError where a header claims more than fits into memory, as it is read and in float32."""
    needed = bands * height * width * (itemsize + 8)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if height * width >= 2**31 or needed > memory:
        raise ValueError(f"{width}×{height} px in {bands} bands take {needed / 1e9:.1f} GB: cut it into smaller scenes")


def _read_picture(file: Path) -> tuple[NDArray[Any], Mask]:
    from PIL import Image

    with Image.open(file, formats=("PNG", "JPEG")) as picture:  # others start programs of their own: EPS
        image = np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)
    image = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    return image, np.ones(image.shape[1:], bool)


def _read_numpy(file: Path) -> tuple[NDArray[Any], Mask]:
    loaded = np.load(file, allow_pickle=False)
    image = loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3:
        raise ValueError(f"an array of shape {image.shape}, {image.dtype}; (bands, height, width) is expected")
    if image.shape[-1] < image.shape[0] and image.shape[-1] <= 16:  # (H, W, bands), as pictures are often kept
        image = image.transpose(2, 0, 1)
    return image, np.ones(image.shape[1:], bool)


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


def _all_of(valid: Mask, factor: int) -> Mask:
    """Low-resolution cells all of whose high-resolution pixels are valid."""
    rows, columns = valid.shape[0] // factor, valid.shape[1] // factor
    return np.asarray(valid.reshape(rows, factor, columns, factor).all(axis=(1, 3)))


def _shrunk(usable: Mask, cells: int) -> Mask:
    """`usable` less what lies within `cells` of an unusable cell; the image's own edge is no nodata."""
    padded = np.pad(usable, cells, constant_values=True)
    return _windows(padded, 2 * cells + 1)


def _windows(usable: Mask, side: int) -> Mask:
    """For every top left corner whether the side × side window there is usable throughout, by an integral image."""
    if min(usable.shape) < side:
        return np.zeros((0, 0), bool)
    total = np.pad(usable.astype(np.int64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inside = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return np.asarray(inside == side * side)
