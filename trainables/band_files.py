"""Scenes of one file a band: files whose names differ in the band's alone, and Sentinel-2's .SAFE folders.

Such a scene's path names all of them as shells do, the bands in their order: `S2_{B04,B03,B02}.jp2`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from trainables.errors import InvalidInput, Problem

SAFE_BANDS = {3: ("B04", "B03", "B02"), 4: ("B04", "B03", "B02", "B08")}  # of 10 m, by how many are wanted
_NAMED = re.compile(r"(.*)\{([^{}/]+(?:,[^{}/]+)+)\}(.*)")
_OF_SAFE = re.compile(r".*\.SAFE/GRANULE/[^/]+/IMG_DATA/(?:R(?P<metres>\d+)m/)?[^/]+\.jp2", re.IGNORECASE)


def files_of(scene: Path) -> list[Path]:
    """List the files of a scene, one a band, in the bands' order; of any other path, itself."""
    named = _NAMED.fullmatch(scene.name)
    if named is None or scene.exists():
        return [scene]
    return [scene.with_name(f"{named[1]}{band}{named[3]}") for band in named[2].split(",")]


def scenes_of(files: list[Path], bands: Sequence[str] | None, wanted: int, key: str) -> list[Path]:
    """Return the path of each scene that the files of a folder make.

    `bands`: how names spell them; None, of .SAFE folders those of 10 m where 3 or 4 are `wanted`, else all files are
    scenes of their own. InvalidInput where one lacks a band. Of a .SAFE folder the finest images that have them are
    taken, and nothing else.
    """
    ours = {file: _OF_SAFE.fullmatch(file.as_posix()) for file in files if ".safe/" in file.as_posix().lower()}
    others = [file for file in files if file not in ours]
    if ours and bands is None and wanted not in SAFE_BANDS:
        said, fix = "none, and a .SAFE folder", "Name them: [B05, B06, B07]."
        raise InvalidInput([Problem(str(next(iter(ours))), "Data.bands", said, f"{wanted} of its bands", fix)])
    whole, problems = (others, []) if bands is None else _grouped(others, bands, key)
    for folder, granule in groupby(sorted(file for file, match in ours.items() if match), key=_granule):
        found, _ = _grouped(list(granule), bands or SAFE_BANDS[wanted], key)
        if found:
            whole = [*whole, min(found, key=_metres)]
        else:
            expected, fix = ", ".join(bands or SAFE_BANDS[wanted]), "Look at Data.bands."
            problems.append(Problem(str(folder), key, "no resolution that has all bands", expected, fix))
    if problems:
        raise InvalidInput(problems)
    return sorted(whole)


def _grouped(files: list[Path], bands: Sequence[str], key: str) -> tuple[list[Path], list[Problem]]:
    """Scenes that have all bands, and a problem for each that lacks some. Files that name no band are passed over."""
    name = re.compile(rf"(.*(?<![A-Za-z0-9]))({'|'.join(map(re.escape, bands))})((?![A-Za-z0-9]).*)")
    every = f"{{{','.join(bands)}}}" if len(bands) > 1 else bands[0]
    groups: dict[Path, set[str]] = {}
    for file in files:
        if match := name.fullmatch(file.name):
            groups.setdefault(file.with_name(f"{match[1]}{every}{match[3]}"), set()).add(match[2])
    fix = "Add its files, or leave it out."
    problems = [
        Problem(str(scene), key, f"a scene without {', '.join(missing)}", ", ".join(bands), fix)
        for scene, has in groups.items()
        if (missing := [band for band in bands if band not in has])
    ]
    return [scene for scene, has in groups.items() if has >= set(bands)], problems


def _granule(file: Path) -> Path:
    """The IMG_DATA folder of an image of a .SAFE folder."""
    return next(parent for parent in file.parents if parent.name.upper() == "IMG_DATA")


def _metres(scene: Path) -> int:
    match = _OF_SAFE.fullmatch(scene.as_posix())
    return int(match["metres"] or 0) if match else 0
