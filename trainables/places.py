"""Paths, URLs and names that come from outside: resolved, or refused where they would lead elsewhere."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

_HERE = Path(__file__).resolve().parent
# beside the packages in a checkout, within this one where the project is installed from a wheel
SAMPLE = next(
    (file for folder in (_HERE, _HERE.parent) if (file := folder / "data" / "landsat8_sample_rgb.tif").exists()),
    _HERE.parent / "data" / "landsat8_sample_rgb.tif",
)


def is_url(place: str) -> bool:
    """Tell an object store's URL from a folder's path."""
    return "://" in place


def resolve_path(path: str, folder: Path) -> str:
    """Make a path absolute, relative ones below `folder`; a URL stays, `sample` is the imagery shipped here.

    ValueError where no file can have such a path.
    """
    if path == "sample":
        return str(SAMPLE)
    if is_url(path):
        return path
    try:
        return str((folder / Path(path).expanduser()).resolve())
    except (ValueError, RuntimeError) as error:  # a NUL in it; the home of nobody, links that lead in a circle
        raise ValueError(f"a path that there can be ({error})") from None


def is_inside(name: str) -> bool:
    """Check that an object's or archive's name, joined to a folder, stays below that folder.

    Names are what other machines and stores chose: `..`, an absolute path, an empty part (`a//etc`), a backslash or a
    NUL would write elsewhere.
    """
    parts = name.split("/")
    return not ({"", ".", ".."} & set(parts) or set("\\\0") & set(name) or PurePosixPath(name).is_absolute())
