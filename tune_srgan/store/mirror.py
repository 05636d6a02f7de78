"""A study in an object store, and its working copy here: what is new there is fetched, what is new here is sent.

A file goes up as one object, written at once. A file that grows line by line goes up in numbered parts: nothing is
appended to or renamed. A process that was thought dead may still send, so a line counts once, and a reading by its
step. Each file has one writer at a time: the worker at work on a trial its trial's, the driver the study's.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

from trainables.cache import cache, files_below
from trainables.places import is_inside
from tune_srgan.store.layout import PARTS, TEMPORARY, How, StudyFiles, TrialFiles, how_kept
from tune_srgan.store.objects import Storage, storage_at, write_atomically

ORIGIN = StudyFiles.ORIGIN.name
NOT_COPIED = {How.HERE, How.SHARED}
FORGOTTEN_S = 86400.0  # a worker's copy that nobody wrote to for so long


class Mirror:
    """One study's objects, and the folder they are worked on in."""

    def __init__(self, storage: Storage, folder: Path) -> None:
        self._storage, self.folder = storage, folder
        self._writer = uuid.uuid4().hex[:8]
        origin = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
        self.url: str = origin["url"]
        self._fetched: dict[str, str] = origin["fetched"]  # objects, by their versions
        self._last_part: dict[str, int] = {}
        self._files: dict[str, list[int]] = {}  # files as both sides have them: written when, how large
        self._lines: dict[str, set[bytes]] = {}  # lines of growing files that both sides have, by hash

    def fetch(self, below: str = "", heavy: bool = False) -> None:
        """Bring the working copy up to date; `heavy`: checkpoints too. What is gone there is gone here."""
        before, entries = dict(self._fetched), self._storage.entries(below)
        if not below and not entries:
            self._clear()
        for entry in entries:
            growing, _, part = entry.name.partition(PARTS)
            name = growing if part else entry.name
            if not (is_inside(name) and _is_fetched(name, heavy)):
                continue
            if self._fetched.get(entry.name) == entry.version and (self.folder / name).exists():
                continue
            if not part and self._is_ahead(name):
                continue
            content = self._storage.read(entry.name)
            if content is None:
                continue  # deleted just now
            if part:
                self._take_lines(name, content, entry.used)
            else:
                self._take(name, content, entry.used)
            self._fetched[entry.name] = entry.version
        there = {entry.name for entry in entries}
        within = f"{below}/" if below else ""
        for name in [name for name in self._fetched if f"{name}/".startswith(within) and name not in there]:
            del self._fetched[name]
            if PARTS not in name:  # parts become one
                (self.folder / name).unlink(missing_ok=True)
        if self._fetched != before:
            write_atomically(self.folder / ORIGIN, json.dumps({"url": self.url, "fetched": self._fetched}))

    def _is_ahead(self, name: str) -> bool:
        """Whether a file was written here since both sides had it, and is still to be sent."""
        file = self.folder / name
        return name in self._files and file.exists() and _stamp(file) != self._files[name]

    def fetch_file(self, name: str) -> None:
        """Bring one file, where there is one."""
        content = self._storage.read(name)
        if content is not None:
            self._take(name, content)

    def send(self, below: str, heavy: bool = True) -> None:
        """Send what is new below a trial's name, but for its tracker's files; checkpoints where `heavy`.

        Lines go first, so that no checkpoint is ahead of its readings; an outcome last.
        """
        names = [name for name in self._names(files_below(self.folder / below)) if how_kept(name) != How.TRACKER]
        names.sort(key=lambda name: (name.rpartition("/")[2] == TrialFiles.OUTCOME.name, how_kept(name) != How.LINES))
        for name in names:
            if how_kept(name) == How.LINES:
                self._send_lines(name)
            elif heavy or how_kept(name) != How.HEAVY:
                self._send_file(name)

    def replace(self, below: str) -> None:
        """Let the files below a name be those that are here."""
        place = self.folder / below
        names = self._names([place] if place.is_file() else files_below(place))
        for name in names:
            self._send_file(name)
        for entry in self._storage.entries(below):
            if entry.name not in names:
                self._storage.delete(entry.name)

    def send_top(self) -> None:
        """Send what is new of the study's own files."""
        for name in self._names(self.folder.iterdir()):
            self._send_file(name)

    def compact(self, below: str) -> None:
        """Leave one part for each file that grew below a name, where it has many; for files that grow no more."""
        parts: dict[str, list[str]] = {}
        for entry in self._storage.entries(below):
            name, _, part = entry.name.partition(PARTS)
            if part:
                parts.setdefault(name, []).append(entry.name)
        for name, those in parts.items():
            if len(those) > 1:
                self._storage.write(self._next_part(name), (self.folder / name).read_bytes())
                for part in those:
                    self._storage.delete(part)

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != ORIGIN:
                path.unlink()
        for known in (self._fetched, self._files, self._lines, self._last_part):
            known.clear()

    def _names(self, paths: Iterable[Path]) -> list[str]:
        names = sorted(path.relative_to(self.folder).as_posix() for path in paths if path.is_file())
        return [name for name in names if how_kept(name) not in NOT_COPIED and not name.endswith(TEMPORARY)]

    def _take(self, name: str, content: bytes, written: float = 0.0) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        if written:
            os.utime(path, (written, written))  # a copy is as old as its original
        self._files[name] = _stamp(path)

    def _take_lines(self, name: str, content: bytes, written: float) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            written = max(written, path.stat().st_mtime)
        here = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        there = content.splitlines(keepends=True)
        lines = list(dict.fromkeys([*here, *there]))
        steps = [json.loads(line).get("step") if line.startswith(b"{") else None for line in lines]
        if any(step is not None for step in steps):
            by_step: dict[float, bytes] = {}
            for step, line in zip(steps, lines, strict=True):
                by_step.setdefault(step or 0.0, line)
            lines = [by_step[step] for step in sorted(by_step)]
        write_atomically(path, b"".join(lines))
        if written:
            os.utime(path, (written, written))
        self._lines.setdefault(name, set()).update(map(_hash, there))

    def _send_lines(self, name: str) -> None:
        known = self._lines.setdefault(name, set())
        lines = (self.folder / name).read_bytes().splitlines(keepends=True)
        new = {_hash(line): line for line in lines if line.endswith(b"\n") and _hash(line) not in known}
        if new:
            self._storage.write(self._next_part(name), b"".join(new.values()))
            known.update(new)

    def _next_part(self, name: str) -> str:
        if name not in self._last_part:
            parts = (entry.name.partition(PARTS)[2] for entry in self._storage.entries(name + PARTS))
            self._last_part[name] = max((int(part[:8]) for part in parts), default=0)
        self._last_part[name] += 1
        return f"{name}{PARTS}{self._last_part[name]:08d}-{self._writer}"

    def _send_file(self, name: str) -> None:
        path = self.folder / name
        stamp = _stamp(path)
        if self._files.get(name) != stamp:
            self._storage.write(name, path.read_bytes())
            self._files[name] = stamp


@functools.cache
def _opened(folder: Path) -> Mirror:
    url = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))["url"]
    return Mirror(storage_at(url), folder)


def mirror_of(folder: Path) -> Mirror | None:
    """Return the mirror whose working copy a folder is, this process's only one; None where it is no copy."""
    return _opened(folder) if (folder / ORIGIN).exists() else None


def _is_fetched(name: str, heavy: bool) -> bool:
    """Whether a file is part of a working copy, or of one with checkpoints."""
    how = how_kept(name)
    return how not in NOT_COPIED and (heavy or how != How.HEAVY)


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_mtime_ns, stat.st_size]


def _hash(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=12).digest()


def working_copy(url: str, root: Path | None = None) -> Path:
    """Return the folder in which a study at a URL is worked on, made where there is none; `root`: beside no other's."""
    place = (root or cache() / "studies") / hashlib.sha256(url.encode()).hexdigest()[:12] / url.rpartition("/")[2]
    place.mkdir(parents=True, exist_ok=True)
    if not (place / ORIGIN).exists():
        write_atomically(place / ORIGIN, json.dumps({"url": url, "fetched": {}}))
    return place


def workers_copy(url: str) -> Path:
    """Return a folder for one attempt of one trial; those in which nobody wrote for long are removed."""
    work = cache() / "work"
    for left in work.glob("*"):
        with contextlib.suppress(OSError):  # another attempt removes it as well
            written = max(path.stat().st_mtime for path in (left, *files_below(left)))
            if time.time() - written > FORGOTTEN_S:
                shutil.rmtree(left, ignore_errors=True)
    return working_copy(url, work / uuid.uuid4().hex[:12])
