"""Pairs of images by their names: a template with {} for each side says what the two have in common."""

from __future__ import annotations

import re
from pathlib import Path

from trainables.places import is_inside


def is_template(text: str) -> bool:
    """Tell whether a text, with a name for its one {}, is a path below a folder."""
    return text.count("{}") == 1 and is_inside(text.replace("{}", "name"))


def folder_of(source: Path, template: str) -> Path:
    """Return the folder below which all files of a template lie."""
    return source / template.partition("{}")[0].rpartition("/")[0]


def sides(source: Path, high: list[Path], low: list[Path], names: tuple[str, str]) -> list[dict[str, Path]]:
    """Return the high and the low-resolution files by what stands for {} in their templates.

    Where both templates suit a file that has its other half, it is the low-resolution one: `ax4.tif` beside `a.tif`.
    """
    highs, lows = (_named(source, files, name) for files, name in zip((high, low), names, strict=True))
    halves = {lows[name] for name in highs.keys() & lows if highs[name] != lows[name]}
    return [{name: file for name, file in highs.items() if file not in halves}, lows]


def _named(source: Path, files: list[Path], template: str) -> dict[str, Path]:
    pattern = re.compile("(.+)".join(map(re.escape, template.split("{}"))))
    found = {file: pattern.fullmatch(file.relative_to(source).as_posix()) for file in files}
    return {match[1]: file for file, match in found.items() if match}
