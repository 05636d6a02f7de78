"""SEN2NAIP's .taco file: which pairs lie in it, and how many of them are trained on."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from trainables.errors import InvalidInput, Problem, one_line


def pairs_within(file: Path, key: str) -> list[tuple[Path, Path]]:
    """List (HR, LR) of every pair, each a part of the file as GDAL names it. InvalidInput where it cannot be read."""
    reader = _reader()
    if reader is None:
        fix = "Install it: pip install 'tune-srgan[taco]', or 'tacoreader>=0.6.5,<1'."
        raise InvalidInput([Problem(str(file), key, "no tacoreader", "a reader of .taco files", fix)])
    try:
        table = reader.load(str(file))
        items = [table.read(index) for index in range(len(table))]
        pairs = [(Path(item.read(1)), Path(item.read(0))) for item in items]
        if len(pairs) < 2:
            raise ValueError(f"{len(pairs)} pairs")
    except Exception as error:  # what it raises for a broken file is its to choose
        found = f"a file that cannot be read ({one_line(error)})"
        expected = "a .taco file of pairs, the LR image first"
        raise InvalidInput([Problem(str(file), key, found, expected, "Download it again.")]) from error
    return pairs


def count_of_pairs(file: Path) -> int | None:
    """Count the pairs by the file's table alone; None where that cannot be read, which `pairs_within` explains."""
    reader = _reader()
    try:
        return len(reader.load(str(file))) if reader is not None else None
    except Exception:  # what it raises for a broken file is its to choose
        return None


def trained_within(pairs: int, held_out: float) -> int:
    """Return how many of so many pairs are trained on, the first ones; this share of them is held out."""
    return min(max(round((1 - held_out) * pairs), 1), pairs - 1)


def _reader() -> ModuleType | None:
    try:
        import tacoreader
    except ImportError:
        return None
    module: ModuleType = tacoreader
    return module
