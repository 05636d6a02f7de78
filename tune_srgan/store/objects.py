"""Whole objects by name in a folder or an object store: read, written at once, listed, deleted.

A folder's path, or a URL that fsspec knows: s3://, gs://, … Nothing is appended; a reader sees all of an object or
none of it. Nothing is remembered between calls: others write here too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from trainables.cache import files_below
from trainables.errors import InvalidInput, Problem, one_line
from trainables.places import is_url
from tune_srgan.store.layout import TEMPORARY

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}  # what brings fsspec's part for a scheme
NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # of exFAT, of buckets mounted as folders


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; it is on the disk when this returns."""
    with _beside(path, content.encode() if isinstance(content, str) else content) as written:
        written.replace(path)


@contextlib.contextmanager
def _beside(path: Path, content: bytes) -> Iterator[Path]:
    """The content in a file of its own beside `path`: processes of other machines may write there as well."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _create_alone(path: Path, content: bytes) -> bool:
    """Create a file where links are unknown: by one of all who try, though a reader may see it before its content."""
    try:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    return True


@dataclass(frozen=True)
class Entry:
    """An object: its name, bytes, and when it was last written or, in a folder, used (seconds since the epoch)."""

    name: str
    size: int
    used: float
    version: str = ""  # another one where the content is another


class Storage(Protocol):
    """The objects below a folder or URL. What goes wrong is an OSError."""

    def read(self, name: str) -> bytes | None:
        """Return an object's content; None where there is no such object."""

    def write(self, name: str, content: bytes) -> None:
        """Write all of it or nothing."""

    def create(self, name: str, content: bytes) -> bool:
        """Write it where there is none; False where there is one. Of several who try, one gets True."""

    def entries(self, below: str = "") -> list[Entry]:
        """Return all objects below a name, by name."""

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is no error."""


def storage_at(place: str) -> Storage:
    """Open the storage of a folder's path or a URL; one clear error where the URL's kind cannot be used here."""
    if not is_url(place):
        return _Folder(Path(place))
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(place, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        extra = EXTRAS.get(place.partition("://")[0])
        fix = f"pip install 'tune-srgan[{extra}]'" if extra else "Give a folder, s3://… or gs://…"
        raise InvalidInput(
            [Problem(place, "storage", one_line(error), "a folder, or a URL that fsspec knows", fix)]
        ) from None
    return _ObjectStore(files, root.rstrip("/"))


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes | None:
        path = self._folder / name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used now
        return content

    def write(self, name: str, content: bytes) -> None:
        (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / name, content)

    def create(self, name: str, content: bytes) -> bool:
        (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
        with _beside(self._folder / name, content) as written:
            try:
                (self._folder / name).hardlink_to(written)  # one step, with its content, on NFS too
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                return _create_alone(self._folder / name, content)
        return True

    def entries(self, below: str = "") -> list[Entry]:
        listed = []
        for path in files_below(self._folder / below):
            with contextlib.suppress(FileNotFoundError):  # gone since
                if path.suffix != TEMPORARY:
                    stat = path.stat()
                    name = path.relative_to(self._folder).as_posix()
                    listed.append(Entry(name, stat.st_size, stat.st_mtime, f"{stat.st_ino}"))
        return listed

    def delete(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)


class _ObjectStore:
    """Object stores show an object once it is whole."""

    def __init__(self, files: Any, root: str) -> None:
        self._files, self._root = files, root

    def read(self, name: str) -> bytes | None:
        with _errors():
            try:
                content: bytes = self._files.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return None
            return content

    def write(self, name: str, content: bytes) -> None:
        with _errors():
            self._files.pipe_file(f"{self._root}/{name}", content)

    def create(self, name: str, content: bytes) -> bool:
        with _errors():
            try:
                self._files.pipe_file(f"{self._root}/{name}", content, mode="create")
            except FileExistsError:
                return False
            return True

    def entries(self, below: str = "") -> list[Entry]:
        with _errors():
            listed = self._files.find(f"{self._root}/{below}".rstrip("/"), detail=True)
        cut = len(self._root) + 1
        return [
            Entry(path[cut:], info["size"], written := _written(info), str(info.get("ETag", info.get("etag", written))))
            for path, info in sorted(listed.items())
            if info.get("type") != "directory"  # s3fs lists the place itself where its first object came meanwhile
        ]

    def delete(self, name: str) -> None:
        with _errors(), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")


def _written(info: dict[str, Any]) -> float:
    """When an object was written: each store has its own name for it."""
    for key in ("LastModified", "updated", "mtime", "created"):
        when = info.get(key)
        if isinstance(when, datetime):
            return when.timestamp()
        if isinstance(when, int | float):
            return float(when)
        if isinstance(when, str):
            return datetime.fromisoformat(when).timestamp()
    return 0.0


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Every store's own errors as OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
