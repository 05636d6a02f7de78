"""Scenes as files: found at a path or a URL, read as they are.

Of four kinds (`Data.dataset_type`): scenes; folders of LR and HR tiles that have equal names; opensr-srgan's example
set, hr_*.npz of (H, W, bands); SEN2NAIP's .taco file of pairs. Knows no network and no crop; `imagery.py` makes a
network's numbers and crops of what is read here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.alike import Values, unlike, unpaired
from trainables.band_files import scenes_of
from trainables.data_settings import DataSettings
from trainables.errors import InvalidInput, Problem
from trainables.fetching import fetched, stamp
from trainables.image_files import (
    Mask,
    about_bands,
    parts,
    read_example,
    read_image,
)
from trainables.kinds import EXAMPLE_FILES, HELD_OUT_EXAMPLES
from trainables.listing import LeftOut, described, images_in, some
from trainables.normalization import ends_of
from trainables.pairs import folder_of, sides
from trainables.places import is_url
from trainables.schema import Configuration
from trainables.taco import pairs_within, trained_within

TEST_TILES = "test"  # the folder of a data set of tiles that has {LR,HR} to test on
Part = tuple[slice, slice]  # rows and columns, in low-resolution pixels
_WITHIN = re.compile(r"/vsisubfile/\d+_(?P<size>\d+),(?P<file>.+)")  # as GDAL names a part of a file
Files = list[tuple[Path, Path | None]]  # a scene's high-resolution file, and its low-resolution one where it is given


@dataclass(frozen=True)
class Found:
    """The scenes' files: those to train on, and those to validate on where the data set keeps them apart.

    Of test imagery there are none to train on.
    """

    source: str
    key: str  # of the configuration, that names them
    train: Files
    val: Files
    left_out: tuple[LeftOut, ...] = ()

    @property
    def high(self) -> list[Path]:
        """The high-resolution file of each scene."""
        return [file for file, _ in (*self.train, *self.val)]

    def named(self) -> dict[str, Path]:
        """Return the files that hold the scenes, by their paths below the folder that has them all."""
        files = {file for scene in (*self.train, *self.val) for file in scene if file is not None}
        whole = {part for file in files for part in _on_disk(file)}
        root = os.path.commonpath([file.parent for file in whole])
        return {file.relative_to(root).as_posix(): file for file in sorted(whole)}

    def stamps(self) -> list[tuple[str, int, int]]:
        """List each file, how large it is and when it was written."""
        files = [file for scene in (*self.train, *self.val) for file in scene if file is not None]
        told = []
        for file in files:
            within = _WITHIN.fullmatch(str(file))
            for whole in (one for one in _on_disk(file) if one.exists()):
                size, when = stamp(whole)
                told.append((str(file if within else whole), int(within["size"]) if within else size, when))
        return told

    def read(self, configuration: Configuration) -> tuple[list[Raw], list[Raw]]:
        """Return all of them; all that is wrong is said at once."""
        groups: list[list[Raw]] = [[], []]
        problems: list[Problem] = []
        seen: list[list[Values]] = [[], []]
        for group, files in zip(groups, (self.train, self.val), strict=True):
            for file, low_file in files:
                try:
                    raw, values = _read(file, low_file, configuration, self.key)
                    group.append(raw)
                    for side, of in zip(seen, values, strict=False):
                        side.append(of)
                except InvalidInput as error:
                    problems += error.problems
        problems = problems or [problem for side in seen for problem in unlike(side, self.key)]
        if problems:
            raise InvalidInput(gathered(problems))
        return groups[0], groups[1]


def _on_disk(file: Path) -> list[Path]:
    """The files whose content an image has."""
    within = _WITHIN.fullmatch(str(file))
    return [Path(within["file"])] if within else parts(file)


def find_scenes(configuration: Configuration) -> Found:
    """Return the files that a configuration names; all that is missing is said at once."""
    data = configuration.Data
    look = _Look(f"Data.{data.place_key}", data, configuration.Model.in_bands)
    train, val = _FINDERS[data.dataset_type](_local(data.place, look.key), look)
    return Found(data.place, look.key, train, val, tuple(look.left_out))


def find_test_scenes(configuration: Configuration) -> Found | None:
    """Return the files of the test imagery, a data set of the training's kind; None where there is no such imagery.

    It is at Data.test_path or, of LR/HR tiles, in the folder `test` beside `train` and `val`.
    """
    data = configuration.Data
    if data.test_path is not None:
        look = _Look("Data.test_path", data, configuration.Model.in_bands)
        files = _ALL_OF[data.dataset_type](_local(data.test_path, look.key), look)
        return Found(data.test_path, look.key, [], files, tuple(look.left_out))
    if data.dataset_type == "LRHRFolderDataset":
        look = _Look(f"Data.{data.place_key}", data, configuration.Model.in_bands)
        files = _tiles_in(_local(data.place, look.key) / TEST_TILES, look, required=False)
        return Found(f"{data.place}/{TEST_TILES}", look.key, [], files, tuple(look.left_out)) if files else None
    return None


@dataclass(frozen=True)
class _Look:
    """How imagery is looked for: the key that names it, how; and what was left out on the way."""

    key: str
    data: DataSettings
    bands: int
    left_out: list[LeftOut] = field(default_factory=list)

    def listed(self, folder: Path, required: bool) -> list[Path]:
        """The images at a path, of which there may be none where they are not required."""
        try:
            (files, left_out), exists = images_in(folder, self.data), folder.exists()
        except OSError as error:  # a name that is too long, a folder that is closed to us
            raise InvalidInput([Problem(str(folder), self.key, str(error.strerror), "imagery")]) from None
        self.left_out.extend(left_out)
        if folder.is_dir():
            files = scenes_of(files, self.data.bands, self.bands, self.key)
        if not files and required:
            found = "no imagery in it" if exists else "no such file or folder"
            if left_out:
                found = f"no imagery; {described(left_out)}"
            fix = "Point it at a file or folder of .tif, .png, .jpg, .jp2, .npy or .npz scenes."
            raise InvalidInput([Problem(str(folder), self.key, found, "imagery", fix)])
        return files


def _local(place: str, key: str) -> Path:
    """A path; of a URL, that of this machine's copy."""
    return fetched(place, key) if is_url(place) else Path(place)


def _scenes_in(source: Path, look: _Look) -> Files:
    return [(file, None) for file in look.listed(source, required=True)]


def _find_tiles(source: Path, look: _Look) -> tuple[Files, Files]:
    """Pairs in {train,val}/{LR,HR}; there may be no val."""
    groups: list[Files] = []
    problems: list[Problem] = []
    for part in ("train", "val"):
        try:
            groups.append(_tiles_in(source / part, look, part == "train"))
        except InvalidInput as error:
            problems += error.problems
    if problems:
        raise InvalidInput(problems)
    return groups[0], groups[1]


def _tiles_in(source: Path, look: _Look, required: bool = True) -> Files:
    """Pairs whose names fill in the templates of both sides, by default equal ones in HR and LR."""
    names = look.data.hr_names, look.data.lr_names
    high_files = look.listed(folder_of(source, names[0]), required)
    low_files = look.listed(folder_of(source, names[1]), required=False)
    high, low = sides(source, high_files, low_files, names)
    alone = [
        f"{len(names)} {one} without {other}: {some(sorted(names))}"
        for one, other, names in (("LR", "HR", low.keys() - high), ("HR", "LR", high.keys() - low))
        if names
    ]
    if alone:
        fix = "Give each pair one name, suffix included, say with Data.hr_names and Data.lr_names how they differ, "
        fix += "or take the others out."
        raise InvalidInput([Problem(str(source), look.key, "; ".join(alone), "an LR file for each HR file", fix)])
    return [(high[name], low[name]) for name in high]


def _find_examples(source: Path, look: _Look) -> tuple[Files, Files]:
    files = _examples_in(source, look, HELD_OUT_EXAMPLES)
    return files[:-HELD_OUT_EXAMPLES], files[-HELD_OUT_EXAMPLES:]


def _examples_in(source: Path, look: _Look, held_out: int = 0) -> Files:
    """Examples of a folder, more than are held out of them."""
    files: Files = [(file, None) for file in sorted(source.glob(EXAMPLE_FILES))]
    if len(files) <= held_out:
        found = f"{len(files)} files of hr_*.npz" if source.is_dir() else "no such folder"
        split = f"more than {held_out} hr_*.npz, of which the last {held_out} are held out"
        fix = "Download opensr-srgan's example set, or point it at the folder where that is."
        raise InvalidInput([Problem(str(source), look.key, found, split if held_out else "hr_*.npz", fix)])
    return files


def _find_in_taco(source: Path, look: _Look) -> tuple[Files, Files]:
    """Pairs within a .taco file, each image a part of it that GDAL reads; the last ones are held out."""
    pairs: Files = [*pairs_within(source, look.key)]
    trained = trained_within(len(pairs), look.data.sen2naip_val_fraction)
    return pairs[:trained], pairs[trained:]


_FINDERS: dict[str, Callable[[Path, _Look], tuple[Files, Files]]] = {
    "scenes": lambda source, look: (_scenes_in(source, look), []),
    "LRHRFolderDataset": _find_tiles,
    "ExampleDataset": _find_examples,
    "SEN2NAIP": _find_in_taco,
}
_ALL_OF: dict[str, Callable[[Path, _Look], Files]] = {  # all that is at a place, to test on
    "scenes": _scenes_in,
    "LRHRFolderDataset": _tiles_in,
    "ExampleDataset": _examples_in,
    "SEN2NAIP": lambda source, look: [*pairs_within(source, look.key)],
}


def gathered(problems: list[Problem]) -> list[Problem]:
    """Return one problem for all files in which the same is expected, and something else found."""
    alike: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in problems:
        alike.setdefault((problem.key, problem.expected, problem.fix), []).append(problem)
    return [
        replace(first, found=f"{first.found}; and so {some([Path(problem.file).name for problem in others])}")
        if others
        else first
        for first, *others in alike.values()
    ]


@dataclass(frozen=True)
class Raw:
    """A file as read: image (bands, H, W) in its own numbers, valid (H, W), lr where it is given."""

    name: str
    image: NDArray[Any]
    valid: Mask
    lr: NDArray[Any] | None = None

    def sample(self, part: Part, factor: int) -> NDArray[Any]:
        """Draw valid values of a part given in low-resolution pixels, thinned to about a million."""
        rows, columns = (slice(s.start and s.start * factor, s.stop and s.stop * factor) for s in part)
        values = self.image[:, rows, columns][:, self.valid[rows, columns]].ravel()
        return values[:: max(1, values.size // 1_000_000)]


def _read(file: Path, low_file: Path | None, configuration: Configuration, key: str) -> tuple[Raw, list[Values]]:
    """Read a scene or a pair, and what values its images have, HR first."""
    reader = read_example if configuration.Data.dataset_type == "ExampleDataset" else None
    image, valid = read_image(file, configuration.Data.nodata, key, reader)
    bands = configuration.Model.in_bands
    if image.shape[0] != bands:
        found, fix = about_bands(file, image.shape[0], bands)
        raise InvalidInput([Problem(str(file), "Model.in_bands", found, f"{bands}", fix)])
    if not valid.any():
        raise InvalidInput([Problem(str(file), key, "nothing but nodata", "pixels with values", "Check Data.nodata.")])
    values = [Values.of(file, image, valid)]
    if low_file is None:
        return Raw(file.name, image, valid), values
    low, low_valid = read_image(low_file, configuration.Data.nodata, key)
    factor = configuration.Generator.scaling_factor
    expected = (bands, image.shape[1] // factor, image.shape[2] // factor)
    if low.shape != expected or image.shape[1] % factor or image.shape[2] % factor:
        found = f"{low.shape} beside an HR image of {image.shape}"
        fix = "Set Generator.scaling_factor to what the tiles have."
        raise InvalidInput([Problem(str(low_file), key, found, f"1/{factor} of the HR image in size", fix)])
    values.append(Values.of(low_file, low, low_valid))
    if problems := unpaired(values[1], values[0], configuration.Data.lr_scale, ends_of(configuration.Data)):
        raise InvalidInput(problems)
    both = valid & low_valid.repeat(factor, 0).repeat(factor, 1)
    return Raw(file.name, image, both, np.where(low_valid, low, 0)), values
