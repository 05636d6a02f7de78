"""Imagery in memory: crops of scenes that are a function of (seed, step), and the fixed held-out and test pairs.

A scene's high-resolution image is the file; the low-resolution one is made from it by bicubic reduction, antialiased
but in an ExampleDataset, or read beside it (LRHRFolderDataset, SEN2NAIP). Crops start at multiples of the scaling
factor and touch no nodata.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.areas import WHOLE, Areas, Layout, Positions, WholeLayout, side_by_side, spread
from trainables.configuration import crop_problems
from trainables.decoding import Scene, decoded
from trainables.errors import InvalidInput, Problem
from trainables.gpu import layers
from trainables.listing import described
from trainables.networks import upsample
from trainables.normalization import normalization_of
from trainables.scenes import Found, find_scenes, find_test_scenes
from trainables.schema import Configuration
from trainables.spectra import Rings, rings_of
from trainables.unseen import refuse_seen_files, refuse_seen_pixels, refuse_twins

DETAILED_SHARE = 0.6  # of the validation pairs: the upper 60 % by the error of bicubic upsampling (NASH)
LOOKED_AT = 1000  # crops, for those of one value
ONE_VALUE, NOTABLE = 0.01, 0.1  # of the crops, that are of one value; of the imagery, that is nodata
NEARLY_ALL = 0.999  # of the held-out values: clamped, they tell nothing


@dataclass(frozen=True)
class Pairs:
    """Fixed pairs, held out or tested on: (n, bands, …) images, their bicubic upsampling, which are detailed (n,)."""

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
        self._configuration, self.device = configuration, device
        self._files = files = find_scenes(configuration)
        self.source, self.key = files.source, files.key
        layout = Layout.of(configuration, files)
        made = decoded(configuration, files, layout)
        self.low, self.high, pools = made.low, made.high, [made.lr, made.hr]
        self.normalization = normalization_of(configuration.Data, self.low, self.high)
        self.factor = layout.factor
        self._begins, self.scenes = made.scenes(self.factor)
        areas, wanted = layout.areas([usable.shape for usable in made.usable]), configuration.Nash.validation_pairs
        if not layout.cells:
            layout = layout.fitted(made.usable, areas, wanted)
        self.cells, self.crop = layout.cells, layout.crop  # a crop's side, px of the low- and high-resolution images
        resident = configuration.Data.resident
        self.resident = _fits(sum(pool.nbytes for pool in pools), device) if resident is None else resident
        self._pools = [pool.to(device) for pool in pools] if self.resident else pools
        self._usable = sum(int(usable.sum()) for usable in made.usable) / sum(usable.size for usable in made.usable)
        refuse_twins(files, self.scenes, areas)
        with self._naming_nodata():
            self.train_positions = layout.positions("train", made.usable, areas)
        tiles = len(files.train) if configuration.Data.dataset_type != "scenes" else self._apart(areas)
        self._epoch = tiles, configuration.Data.train_batch_size
        where = self._pools[0].device
        self._grids = [_dihedral(side).to(where) for side in (self.cells, self.crop)]
        with self._naming_nodata():
            self.pairs = self._pairs(layout, layout.positions("val", made.usable, areas), wanted)
        self._refuse_clamped(self.pairs, self.source)
        self.check_crop(configuration)

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

    def files(self) -> dict[str, Path]:
        """Return all files that it is read from, by name; those of test imagery too."""
        named = self._files.named()
        if self._test_files is not None:
            named |= {f"test imagery/{name}": file for name, file in self._test_files.named().items()}
        return named

    @cached_property
    def _test_files(self) -> Found | None:
        return find_test_scenes(self._configuration)

    @cached_property
    def test(self) -> Pairs | None:
        """The pairs of the test imagery, scaled as the training's, read when they are first asked for; None without it.

        As many as Nash.validation_pairs, or as lie side by side. InvalidInput where it cannot be read, has been seen by
        the training, or has no room for a crop.
        """
        configuration, files = self._configuration, self._test_files
        if files is None:
            return None
        refuse_seen_files(files, self._files)
        layout = WholeLayout(files.source, self.factor, self.cells, configuration.Data, 0, len(files.val), files.key)
        made = decoded(configuration, files, layout, (self.low, self.high))
        scenes = made.scenes(self.factor)[1]
        refuse_seen_pixels(files, scenes, self.scenes)
        positions = layout.positions("test", made.usable, layout.areas([usable.shape for usable in made.usable]))
        apart = side_by_side(positions, self.cells)
        pairs = self._paired(scenes, spread(apart, configuration.Nash.validation_pairs), overlapping=False)
        self._refuse_clamped(pairs, files.source)
        return pairs

    @cached_property
    def truth(self) -> Rings:
        """The power of the held-out pairs' true images, which every validation compares with."""
        return rings_of(self.pairs.hr)

    def batch(self, seed: int, stream: str, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Cut the (lr, hr) images of a step."""
        lr, hr = self.gather(self.crops(seed, stream, [step], size)[0].to(self._pools[0].device))
        return lr.to(self.device), hr.to(self.device)

    def describe(self) -> str:
        """Describe it in one line: scenes, sizes, what is held out, and the test imagery, which is read for it."""
        bands, height, width = self.scenes[0].hr.shape
        pairs = f"{len(self.pairs.lr)} held-out pairs{', overlapping' if self.pairs.overlapping else ''}"
        ends = "±1" if self.normalization.signed else "0–1"
        values = f"{self.low:g}–{self.high:g} as {ends}"
        if self.normalization.functions is not None:
            values = "by functions of your own"
        clamped = self._clamped_share(self.pairs)
        left_out = f"; {told}" if (told := described(self._files.left_out)) else ""
        cut = f", {clamped:.0%} of them clamped" if clamped >= 0.01 else ""
        return (
            f"{len(self.scenes)} scene(s), first {width}×{height} px, {bands} bands, values {values}{cut}; "
            f"crops of {self.crop} px: {len(self.train_positions)} positions, {pairs}{self._described_test()}{left_out}"
        )

    def cautions(self) -> list[str]:
        """Say what is probably not meant: crops of a single value, and imagery that is nodata for the most part."""
        said = []
        if self._usable < 1 / 2:
            said.append(f"{self._nodata_key}: {1 - self._usable:.0%} of the imagery is nodata, {self._nodata}.")
        seen = spread(self.train_positions, LOOKED_AT)
        firsts = [crop[:, 0, 0] for position in seen if _is_constant(crop := self._crop(self.scenes, position)[1])]
        if len(firsts) >= ONE_VALUE * len(seen):
            values = self.normalization.denormalize(torch.stack(firsts)[..., None, None])
            value = float(values.flatten().mode().values)
            share = f"about {len(firsts) / len(seen):.0%} of the crops are of one value, mostly {value:.6g}"
            said.append(f"Data.nodata: {share}, as beside a swath; Data.nodata: {value:.6g} leaves them out.")
        return said

    @property
    def _nodata_key(self) -> str:
        return self.key if self._configuration.Data.nodata is None else "Data.nodata"

    @property
    def _nodata(self) -> str:
        """What makes pixels nodata here."""
        value = self._configuration.Data.nodata
        return "by the files' own value or mask" + ("" if value is None else f", and by Data.nodata: {value:g}")

    @contextlib.contextmanager
    def _naming_nodata(self) -> Iterator[None]:
        """Where imagery is too small for crops, say how much of it is nodata."""
        try:
            yield
        except InvalidInput as error:
            if self._usable > 1 - NOTABLE:
                raise
            told = f"{1 - self._usable:.0%} of the imagery is nodata, {self._nodata}"
            fix = "Look at what is nodata: a value that the imagery has as well takes its pixels out."
            problems = [replace(one, found=f"{one.found}; {told}", fix=f"{fix} {one.fix}") for one in error.problems]
            raise InvalidInput(problems) from None

    def _described_test(self) -> str:
        if self.test is None or self._test_files is None:
            return ""
        fewer = "" if len(self.test.lr) == len(self.pairs.lr) else ", as many as lie side by side"
        return f"; {len(self.test.lr)} test pairs of {self._test_files.source}{fewer}"

    def check_test(self) -> None:
        """Raise InvalidInput where the test imagery, if there is any, is none."""
        _ = self.test

    def check_crop(self, configuration: Configuration) -> None:
        """Raise InvalidInput where crops are too small for a configuration's discriminator, say by the tiles' fault."""
        problems = crop_problems(self.crop, configuration, self.source)
        if problems and configuration.Data.crop_size is None:
            found = f"crops of {self.crop} px, the largest of which there are {len(self.pairs.lr)} to hold out"
            fix = (
                "Put more or larger tiles into val/, ask for fewer Nash.validation_pairs (64 or more), or for fewer "
                "Discriminator.n_blocks."
            )
            problems = [replace(problem, found=found, fix=fix) for problem in problems]
        if problems:
            raise InvalidInput(problems)

    def _clamped_share(self, pairs: Pairs) -> float:
        """How many of the pairs' values are at the ends of what a network's are clamped to."""
        if self.normalization.bounds is None:
            return 0.0
        low, high = self.normalization.bounds
        return float(((pairs.hr <= low) | (pairs.hr >= high)).float().mean())

    def _refuse_clamped(self, pairs: Pairs, source: str) -> None:
        """Reflectances that are read in another unit than they have end as one number."""
        if self._clamped_share(pairs) > NEARLY_ALL:
            found = "values of which nearly all are clamped"
            expected = f"most within {self.low:g}–{self.high:g}"
            fix = "Integers up to 10000 take Data.normalization: normalise_10k, reflectances around 0.1 sen2_stretch."
            raise InvalidInput([Problem(source, "Data.normalization", found, expected, fix)])

    def _crop(self, scenes: list[Scene], position: Positions) -> tuple[Tensor, Tensor]:
        index, row, column = position.tolist()
        scene, n, f = scenes[index], self.cells, self.factor
        return (
            scene.lr[:, row : row + n, column : column + n],
            scene.hr[:, row * f : (row + n) * f, column * f : (column + n) * f],
        )

    def _apart(self, areas: list[Areas]) -> int:
        """How many crops to train on lie side by side, counted from each training area's corner; one at least."""
        corners = np.array([[part.start or 0 for part in has.get("train", WHOLE)] for has in areas])
        offsets = self.train_positions[:, 1:] - corners[self.train_positions[:, 0]]
        return max(1, int((offsets % self.cells == 0).all(1).sum()))

    def _pairs(self, layout: Layout, positions: Positions, wanted: int) -> Pairs:
        """`wanted` held-out pairs spread evenly; neighbours overlap only where there would be too few."""
        stride = self.cells
        offsets = positions[:, 1:] - positions[0, 1:]
        while len(apart := positions[(offsets % stride == 0).all(1)]) < wanted and stride > 1:
            stride //= 2
        if len(apart) < wanted:
            raise layout.too_small(f"{len(apart)} held-out crops where Nash.validation_pairs asks for {wanted}")
        return self._paired(self.scenes, spread(apart, wanted), overlapping=stride < self.cells)

    def _paired(self, scenes: list[Scene], positions: Positions, overlapping: bool) -> Pairs:
        """The pairs of scenes at these positions."""
        crops = [self._crop(scenes, position) for position in positions]
        lr = torch.stack([crop[0] for crop in crops]).to(self.device)
        hr = torch.stack([crop[1] for crop in crops]).to(self.device)
        bicubic = upsample(lr, self.factor)
        error = (bicubic - hr).square().mean((1, 2, 3))
        detailed = torch.zeros(len(crops), dtype=torch.bool, device=lr.device)
        detailed[error.argsort(descending=True, stable=True)[: round(DETAILED_SHARE * len(crops))]] = True
        return Pairs(lr, hr, bicubic, detailed, overlapping)


_loaded: dict[str, Imagery] = {}


def load_imagery(configuration: Configuration, device: torch.device) -> Imagery:
    """Return the imagery of a configuration, read once a process; the trials of a study differ in other keys."""
    parts = configuration.Data, configuration.Model, configuration.Generator.scaling_factor
    key = f"{parts} {configuration.Nash.validation_pairs} {device}"
    if key not in _loaded:
        _loaded.clear()  # one study's imagery at a time
        _loaded[key] = Imagery(configuration, device)
    _loaded[key].check_crop(configuration)
    return _loaded[key]


def _is_constant(image: Tensor) -> bool:
    return bool((image == image[:, :1, :1]).all())


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
