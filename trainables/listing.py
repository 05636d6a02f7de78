"""Which files of a folder are its images, and which were left out for what reason."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from trainables.band_files import files_of
from trainables.data_settings import DataSettings
from trainables.image_files import suffixes, whole_images

HIDDEN, NOT_INCLUDED = "hidden", "not of Data.include"
SHOWN = 3  # of many names


class LeftOut(NamedTuple):
    """A file that could be read and was not."""

    file: Path
    why: str


def images_in(place: Path, data: DataSettings) -> tuple[list[Path], list[LeftOut]]:
    """Return the images a path names, a file or those of a folder and all below it, in a fixed order; and the others.

    Left out are hidden files and folders, what `Data.include` lacks or `Data.exclude` has, and what a link leads to
    that is there already: each file is taken once. Patterns are of a name or of a path below the folder, in any case.
    """
    if not place.is_dir():
        return ([place] if all(file.is_file() for file in files_of(place)) else []), []
    files: list[Path] = []
    left_out: list[LeftOut] = []
    known: dict[Path, Path] = {}
    for file in sorted(_below(place), key=lambda file: (file.is_symlink(), file)):  # a link gives way to what it names
        first = known.setdefault(file.resolve(), file)
        why = _why_not(file.relative_to(place), data) or (f"the same file as {first.name}" if first is not file else "")
        if why:
            left_out.append(LeftOut(file, why))
        else:
            files.append(file)
    whole = set(whole_images(sorted(files)))
    left_out += [LeftOut(file, "a part of another image") for file in files if file not in whole]
    return sorted(whole), left_out


def _below(folder: Path) -> Iterator[Path]:
    """All files that could be images, those behind linked folders too; no folder twice, though links lead in a circle.

    What the folder holds itself comes before what a link in it leads to.
    """
    entered: set[str] = set()
    waiting = [folder]
    while waiting:
        linked: list[Path] = []
        for place, folders, names in os.walk(waiting.pop(0)):
            if (real := os.path.realpath(place)) in entered:
                folders.clear()
                continue
            entered.add(real)
            linked += sorted(path for name in folders if (path := Path(place, name)).is_symlink())
            files = (Path(place, name) for name in names if Path(name).suffix.lower() in suffixes())
            yield from (file for file in files if file.is_file())
        waiting += linked


def _why_not(within: Path, data: DataSettings) -> str:
    """Why a file of a folder is none of its images; empty where it is one."""
    if any(part.startswith(".") for part in within.parts):
        return HIDDEN
    if data.include is not None and not _matches(within, data.include):
        return NOT_INCLUDED
    pattern = _matches(within, data.exclude)
    return f"Data.exclude {pattern}" if pattern else ""


def _matches(within: Path, patterns: Sequence[str]) -> str:
    """The first pattern that a file has."""
    names = within.name.lower(), within.as_posix().lower()
    return next((pattern for pattern in patterns if any(fnmatch(name, pattern.lower()) for name in names)), "")


def described(left_out: Sequence[LeftOut]) -> str:
    """Say how many files were left out, and which, by reason; empty where none was."""
    by_why: dict[str, list[str]] = {}
    for file, why in left_out:
        by_why.setdefault(why, []).append(file.name)
    told = [f"{some(names)} ({why})" for why, names in by_why.items()]
    return f"left out {len(left_out)} file(s): {'; '.join(told)}" if told else ""


def some(names: Sequence[str]) -> str:
    """Return the first few names, and how many more."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
