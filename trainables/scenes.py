"""Scenes as files: found at a path or a URL, read as they are. What is at a URL is fetched once a machine.

Of four kinds (`Data.dataset_type`): scenes; folders of LR and HR tiles that have equal names; opensr-srgan's example
set, hr_*.npz of (H, W, bands); SEN2NAIP's .taco file of pairs. Knows no network and no crop; `imagery.py` makes a
network's numbers and crops of what is read here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.band_files import files_of, scenes_of
from trainables.cache import WHOLE, cache, make_room, used
from trainables.errors import InvalidInput, Problem, one_line
from trainables.image_files import (
    Mask,
    about_bands,
    parts,
    read_example,
    read_image,
    suffixes,
    whole_images,
)
from trainables.kinds import EXAMPLE_FILES, HELD_OUT_EXAMPLES
from trainables.pairs import folder_of, sides
from trainables.places import is_inside, is_url
from trainables.schema import Configuration
from trainables.taco import pairs_within, trained_within

MANIFEST = "manifest.json"
TEST_TILES = "test"  # the folder of a data set of tiles that has {LR,HR} to test on
SHOWN = 3  # of many files that have the same wrong
Part = tuple[slice, slice]  # rows and columns, in low-resolution pixels
_WITHIN = re.compile(r"/vsisubfile/\d+_(?P<size>\d+),(?P<file>.+)")  # as GDAL names a part of a file
Files = list[tuple[Path, Path | None]]  # a scene's high-resolution file, and its low-resolution one where it is given

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """The scenes' files: those to train on, and those to validate on where the data set keeps them apart.

    Of test imagery there are none to train on.
    """

    source: str
    key: str  # of the configuration, that names them
    train: Files
    val: Files

    @property
    def high(self) -> list[Path]:
        """The high-resolution file of each scene."""
        return [file for file, _ in (*self.train, *self.val)]

    def stamps(self) -> list[tuple[str, int, int]]:
        """List each file, how large it is and when it was written."""
        files = [file for scene in (*self.train, *self.val) for file in scene if file is not None]
        told = []
        for file in files:
            within = _WITHIN.fullmatch(str(file))
            wholes = [Path(within["file"])] if within else parts(file)
            for whole in (one for one in wholes if one.exists()):
                size, when = _stamp(whole)
                told.append((str(file if within else whole), int(within["size"]) if within else size, when))
        return told

    def read(self, configuration: Configuration) -> tuple[list[Raw], list[Raw]]:
        """Return all of them; all that is wrong is said at once."""
        groups: list[list[Raw]] = [[], []]
        problems: list[Problem] = []
        for group, files in zip(groups, (self.train, self.val), strict=True):
            for file, low_file in files:
                try:
                    group.append(_read(file, low_file, configuration, self.key))
                except InvalidInput as error:
                    problems += error.problems
        if problems:
            raise InvalidInput(gathered(problems))
        return groups[0], groups[1]


def find_scenes(configuration: Configuration) -> Found:
    """Return the files that a configuration names; all that is missing is said at once."""
    data = configuration.Data
    key = f"Data.{data.place_key}"
    train, val = _FINDERS[data.dataset_type](_local(data.place, key), key, configuration)
    return Found(data.place, key, train, val)


def find_test_scenes(configuration: Configuration) -> Found | None:
    """Return the files of the test imagery, a data set of the training's kind; None where there is no such imagery.

    It is at Data.test_path or, of LR/HR tiles, in the folder `test` beside `train` and `val`.
    """
    data = configuration.Data
    if data.test_path is not None:
        key = "Data.test_path"
        files = _ALL_OF[data.dataset_type](_local(data.test_path, key), key, configuration)
        return Found(data.test_path, key, [], files)
    if data.dataset_type == "LRHRFolderDataset":
        key = f"Data.{data.place_key}"
        files = _tiles_in(_local(data.place, key) / TEST_TILES, key, configuration, required=False)
        return Found(f"{data.place}/{TEST_TILES}", key, [], files) if files else None
    return None


def _local(place: str, key: str) -> Path:
    """A path; of a URL, that of this machine's copy."""
    return fetched(place, key) if is_url(place) else Path(place)


def _scenes_in(source: Path, key: str, configuration: Configuration) -> Files:
    return [(file, None) for file in _listed(source, key, configuration, required=True)]


def _find_tiles(source: Path, key: str, configuration: Configuration) -> tuple[Files, Files]:
    """Pairs in train and val, of which there may be no val."""
    groups: list[Files] = []
    problems: list[Problem] = []
    for part in ("train", "val"):
        try:
            groups.append(_tiles_in(source / part, key, configuration, part == "train"))
        except InvalidInput as error:
            problems += error.problems
    if problems:
        raise InvalidInput(problems)
    return groups[0], groups[1]


def _tiles_in(source: Path, key: str, configuration: Configuration, required: bool = True) -> Files:
    """Pairs whose names fill in the templates of both sides, by default equal ones in HR and LR."""
    names = configuration.Data.hr_names, configuration.Data.lr_names
    high_files = _listed(folder_of(source, names[0]), key, configuration, required)
    low_files = _listed(folder_of(source, names[1]), key, configuration, required=False)
    high, low = sides(source, high_files, low_files, names)
    alone = [
        f"{len(names)} {one} without {other}: {_some(sorted(names))}"
        for one, other, names in (("LR", "HR", low.keys() - high), ("HR", "LR", high.keys() - low))
        if names
    ]
    if alone:
        fix = "Give each pair one name, suffix included, say with Data.hr_names and Data.lr_names how they differ, "
        fix += "or take the others out."
        raise InvalidInput([Problem(str(source), key, "; ".join(alone), "an LR file for each HR file", fix)])
    return [(high[name], low[name]) for name in high]


def _find_examples(source: Path, key: str, configuration: Configuration) -> tuple[Files, Files]:
    files = _examples_in(source, key, configuration, HELD_OUT_EXAMPLES)
    return files[:-HELD_OUT_EXAMPLES], files[-HELD_OUT_EXAMPLES:]


def _examples_in(source: Path, key: str, _: Configuration, held_out: int = 0) -> Files:
    """Examples of a folder, more than are held out of them."""
    files: Files = [(file, None) for file in sorted(source.glob(EXAMPLE_FILES))]
    if len(files) <= held_out:
        found = f"{len(files)} files of hr_*.npz" if source.is_dir() else "no such folder"
        split = f"more than {held_out} hr_*.npz, of which the last {held_out} are held out"
        fix = "Download opensr-srgan's example set, or point it at the folder where that is."
        raise InvalidInput([Problem(str(source), key, found, split if held_out else "hr_*.npz", fix)])
    return files


def _find_in_taco(source: Path, key: str, configuration: Configuration) -> tuple[Files, Files]:
    """Pairs within a .taco file, each image a part of it that GDAL reads; the last ones are held out."""
    pairs: Files = [*pairs_within(source, key)]
    trained = trained_within(len(pairs), configuration.Data.sen2naip_val_fraction)
    return pairs[:trained], pairs[trained:]


_FINDERS: dict[str, Callable[[Path, str, Configuration], tuple[Files, Files]]] = {
    "scenes": lambda source, key, configuration: (_scenes_in(source, key, configuration), []),
    "LRHRFolderDataset": _find_tiles,
    "ExampleDataset": _find_examples,
    "SEN2NAIP": _find_in_taco,
}
_ALL_OF: dict[str, Callable[[Path, str, Configuration], Files]] = {  # all that is at a place, to test on
    "scenes": _scenes_in,
    "LRHRFolderDataset": _tiles_in,
    "ExampleDataset": _examples_in,
    "SEN2NAIP": lambda source, key, _: [*pairs_within(source, key)],
}


def _listed(folder: Path, key: str, configuration: Configuration, required: bool) -> list[Path]:
    """The scenes at a path, of which there may be none where they are not required."""
    try:
        files, exists = scene_files(folder), folder.exists()
    except OSError as error:  # a name that is too long, a folder that is closed to us
        raise InvalidInput([Problem(str(folder), key, str(error.strerror), "imagery")]) from None
    if folder.is_dir():
        files = scenes_of(files, configuration.Data.bands, configuration.Model.in_bands, key)
    if not files and required:
        found = "no imagery in it" if exists else "no such file or folder"
        fix = "Point it at a file or folder of .tif, .png, .jpg, .jp2, .npy or .npz scenes."
        raise InvalidInput([Problem(str(folder), key, found, "imagery", fix)])
    return files


def _some(names: Iterable[str]) -> str:
    """The first few names, and how many more."""
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more


def gathered(problems: list[Problem]) -> list[Problem]:
    """Return one problem for all files in which the same is expected, and something else found."""
    alike: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in problems:
        alike.setdefault((problem.key, problem.expected, problem.fix), []).append(problem)
    return [
        replace(first, found=f"{first.found}; and so {_some(Path(problem.file).name for problem in others)}")
        if others
        else first
        for first, *others in alike.values()
    ]


def fetched(url: str, key: str) -> Path:
    """Return this machine's copy of a file or folder of scenes, fetched where the store has another version.

    Where the store does not answer, a whole copy that is here serves; InvalidInput where there is none, or no room.
    """
    import fsspec

    folder = cache() / "imagery"
    try:
        files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        there = {
            within: info
            for name, info in sorted(files.find(root, detail=True).items())
            if is_inside(within := name.removeprefix(f"{root}/") if name != root else Path(name).name)
            and Path(name).suffix.lower() in {*suffixes(), ".taco"}
        }
    except Exception as error:  # every store has its own
        known = sorted(folder.glob(f"url-{_hash(url)}-*/{WHOLE}"), key=lambda whole: whole.stat().st_mtime)
        if not known:
            raise _unread(url, key, f"a store that cannot be read ({_short(error)})") from None
        _log.warning("%s does not answer (%s): what was fetched before is used", url, _short(error))
        return _copy(known[-1].parent)
    if not there:
        raise _unread(url, key, "no imagery there")
    needed = sum(info["size"] for info in there.values())
    versions = json.dumps({name: [info["size"], _version(info)] for name, info in there.items()})
    entry = folder / f"url-{_hash(url)}-{_hash(versions)}"

    def fetch() -> None:
        make_room(folder, needed)
        _log.warning("fetching %d scene file(s), %.1f GB, from %s", len(there), needed / 1e9, url)
        sums = {}
        for name, info in there.items():
            file = entry / "files" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(info["name"], str(file))
            sums[name] = [_sum(file), *_stamp(file)]
            if file.stat().st_size != info["size"]:
                raise OSError(f"{name} was cut off on its way")
        single = Path(root).name if list(there) == [Path(root).name] and files.isfile(root) else ""
        (entry / MANIFEST).write_text(json.dumps({"url": url, "single": single, "files": sums}), encoding="utf-8")

    try:
        used(entry, fetch, lambda: _is_sound(entry))
    except Exception as error:
        raise _unread(url, key, f"imagery that cannot be fetched ({_short(error)})") from None
    return _copy(entry)


def _copy(entry: Path) -> Path:
    """Where the scenes are in an entry: its one file, or their folder."""
    return Path(entry, "files", json.loads((entry / MANIFEST).read_text(encoding="utf-8"))["single"])


def _is_sound(entry: Path) -> bool:
    """Whether all files are what was fetched; read again where they were written to."""
    try:
        known = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))["files"]
        files = {entry / "files" / name: told for name, told in known.items()}
        return all(list(_stamp(file)) == told[1:] or _sum(file) == told[0] for file, told in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _stamp(file: Path) -> tuple[int, int]:
    return (stat := file.stat()).st_size, stat.st_mtime_ns


def _sum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _version(info: dict[str, Any]) -> str:
    """What tells one content of an object from another: each store has its own name for it."""
    return next((str(info[key]) for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified") if key in info), "")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def _unread(url: str, key: str, found: str) -> InvalidInput:
    fix = "Look at the URL, the credentials and the network; s3:// needs s3fs, gs:// gcsfs."
    return InvalidInput([Problem(url, key, found, "a file or folder of .tif, .png, .jpg, .npy or .npz scenes", fix)])


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


def scene_files(path: Path) -> list[Path]:
    """Return the scenes a path names, in a fixed order."""
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.suffix.lower() in suffixes() and file.is_file())
        return whole_images(sorted(files))
    return [path] if all(file.is_file() for file in files_of(path)) else []


def _read(file: Path, low_file: Path | None, configuration: Configuration, key: str) -> Raw:
    reader = read_example if configuration.Data.dataset_type == "ExampleDataset" else None
    image, valid = read_image(file, configuration.Data.nodata, key, reader)
    bands = configuration.Model.in_bands
    if image.shape[0] != bands:
        found, fix = about_bands(file, image.shape[0], bands)
        raise InvalidInput([Problem(str(file), "Model.in_bands", found, f"{bands}", fix)])
    if not valid.any():
        raise InvalidInput([Problem(str(file), key, "nothing but nodata", "pixels with values", "Check Data.nodata.")])
    if low_file is None:
        return Raw(file.name, image, valid)
    low, low_valid = read_image(low_file, configuration.Data.nodata, key)
    factor = configuration.Generator.scaling_factor
    expected = (bands, image.shape[1] // factor, image.shape[2] // factor)
    if low.shape != expected or image.shape[1] % factor or image.shape[2] % factor:
        found = f"{low.shape} beside an HR image of {image.shape}"
        fix = "Set Generator.scaling_factor to what the tiles have."
        raise InvalidInput([Problem(str(low_file), key, found, f"1/{factor} of the HR image in size", fix)])
    both = valid & low_valid.repeat(factor, 0).repeat(factor, 1)
    return Raw(file.name, image, both, np.where(low_valid, low, 0))
