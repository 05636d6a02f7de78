"""This machine's cache: what several processes use and what can be made again. One makes an entry, the others wait.

Whoever uses an entry holds its lock; entries that nobody uses go, the oldest first, where room is needed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from trainables.errors import InvalidInput, Problem

PLACE, LIMIT = "TUNE_SRGAN_CACHE", "TUNE_SRGAN_CACHE_GB"  # in the environment
DEFAULT_GB = 50.0
SHORT = Path("/tmp")
SOCKET_BYTES = 107 if sys.platform == "linux" else 103  # the longest path of a Unix socket (unix(7))
WHOLE = "whole"  # an entry's file that is written last

_used: dict[Path, IO[str]] = {}


def cache() -> Path:
    """Say where it is: in the system's temporary folder, this user's alone, unless the environment says otherwise."""
    told = os.environ.get(PLACE)
    return Path(told) if told else private_folder("tune-srgan")


def private_folder(name: str, sockets: int = 0) -> Path:
    """Make a folder in the system's temporary one that no other user can read or write; InvalidInput where one did.

    The temporary folder is everybody's: whoever makes a folder of this name there first must not be trusted.
    `sockets`: the bytes of the longest socket's name below it; it is in /tmp where the temporary folder's path is too
    long for that.
    """
    folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    if sockets and not fits_sockets(folder, sockets):
        folder = SHORT / folder.name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    seen = folder.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid():
        fix = f"Remove it, or name another place in {PLACE} or TMPDIR."
        raise InvalidInput([Problem(str(folder), "", "a folder of another user, or a link", "one of this user", fix)])
    if stat.S_IMODE(seen.st_mode) & 0o077:
        folder.chmod(0o700)
    return folder


def fits_sockets(folder: Path, longest: int) -> bool:
    """Tell whether sockets whose names take so many bytes below a folder, the slash included, can be there."""
    return len(os.fsencode(folder)) + longest <= SOCKET_BYTES


def files_below(folder: Path) -> list[Path]:
    """List all files below a folder, sorted; unlike `rglob`, pass over what others remove meanwhile."""

    def unless_gone(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    return sorted(Path(place) / name for place, _, names in os.walk(folder, onerror=unless_gone) for name in names)


def used(entry: Path, make: Callable[[], None], sound: Callable[[], bool] = lambda: True) -> None:
    """Have an entry as long as this process lives, made by one process where it is not whole, or no more `sound`.

    `make` writes into the folder, which is there, alone; what it raises, an OSError where the disk is full, is the
    caller's.
    """
    if entry in _used and (entry / WHOLE).exists():
        return
    entry.parent.mkdir(parents=True, exist_ok=True)
    lock = entry.with_name(f"{entry.name}.lock").open("a")
    while True:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ((entry / WHOLE).exists() and sound()):
            shutil.rmtree(entry, ignore_errors=True)  # a process that was killed left something behind, too
            entry.mkdir()
            try:
                make()
            except BaseException:
                shutil.rmtree(entry, ignore_errors=True)
                raise
            (entry / WHOLE).touch()
        os.utime(entry)
        fcntl.flock(lock, fcntl.LOCK_SH)  # not in one step: somebody may have made room in between
        if (entry / WHOLE).exists():
            _used[entry] = lock
            return


def make_room(folder: Path, needed: int) -> None:
    """Let so many bytes more fit into a folder of entries; an OSError where they do not, whatever goes."""
    folder.mkdir(parents=True, exist_ok=True)
    limit = float(os.environ.get(LIMIT) or DEFAULT_GB) * 1e9
    used_at, taken = {}, {}
    for entry in filter(Path.is_dir, folder.iterdir()):
        with contextlib.suppress(FileNotFoundError):  # another process makes room as well
            taken[entry] = sum(file.stat().st_size for file in files_below(entry))
            used_at[entry] = entry.stat().st_mtime

    def missing() -> float:
        return needed - min(limit - sum(taken.values()), shutil.disk_usage(folder).free)

    for entry in sorted(used_at, key=used_at.__getitem__):
        if missing() <= 0:
            return
        with entry.with_name(f"{entry.name}.lock").open("a") as lock, contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry)
            del taken[entry]
    if missing() > 0:
        told = f"{needed / 1e9:.1f} GB do not fit into {folder}: its limit is {limit / 1e9:g} GB ({LIMIT})"
        raise OSError(f"{told}, {shutil.disk_usage(folder).free / 1e9:.1f} GB of its disk are free")
