"""Whole objects by name in a folder or an object store: read, written at once, listed, deleted.

A folder's path, s3:// and gs:// through pyarrow, any other URL through fsspec. Nothing is appended; a reader sees all
of an object or none of it.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from pyarrow import ArrowInvalid, fs


@dataclass(frozen=True)
class Entry:
    """An object: its name, bytes, and when it was last written or used (seconds since the epoch)."""

    name: str
    size: int
    used: float


class Storage:
    """The objects below a folder or URL. What goes wrong is an OSError."""

    def __init__(self, url: str) -> None:
        self._folder = None if "://" in url else Path(url)
        if self._folder is not None:
            self._files, self._root = fs.LocalFileSystem(), str(self._folder)
            return
        try:
            self._files, self._root = fs.FileSystem.from_uri(url)
        except ArrowInvalid:  # a scheme that pyarrow does not know
            import fsspec

            files, self._root = fsspec.core.url_to_fs(url)
            self._files = fs.PyFileSystem(fs.FSSpecHandler(files))
        self._root = self._root.rstrip("/")

    def read(self, name: str) -> bytes | None:
        """An object's content; None where there is no such object."""
        try:
            with self._files.open_input_stream(f"{self._root}/{name}") as stream:
                content: bytes = stream.read()
        except FileNotFoundError:
            return None
        if self._folder is not None:
            with contextlib.suppress(OSError):
                os.utime(self._folder / name)  # used now
        return content

    def write(self, name: str, content: bytes) -> None:
        """All of it or nothing."""
        if self._folder is None:  # object stores show an object once it is whole
            with self._files.open_output_stream(f"{self._root}/{name}") as stream:
                stream.write(content)
            return
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def entries(self, below: str = "") -> list[Entry]:
        """All objects below a name, by name."""
        place = f"{self._root}/{below}".rstrip("/")
        found = self._files.get_file_info(fs.FileSelector(place, allow_not_found=True, recursive=True))
        entries = [
            Entry(info.path[len(self._root) + 1 :], info.size, info.mtime.timestamp() if info.mtime else 0.0)
            for info in found
            if info.type == fs.FileType.File and not info.path.endswith(".tmp")
        ]
        return sorted(entries, key=lambda entry: entry.name)

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is no error."""
        with contextlib.suppress(FileNotFoundError):
            self._files.delete_file(f"{self._root}/{name}")
