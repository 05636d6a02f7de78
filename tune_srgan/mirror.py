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
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from trainables.cache import cache, files_below
from tune_srgan.storage import Storage, storage_at, write_atomically

GROWING = ("readings.jsonl", "attempts.jsonl", "complaints.log")
PARTS = ".parts/"
TRACKERS = "/tracker/"  # sent by the tracker's own process
HEAVY = {".pt"}  # fetched where they are asked for; sent so often that it takes HEAVY_SHARE of the time
HEAVY_SHARE = 0.1
ORIGIN = "origin.json"
HERE_ONLY = ("ray/", "optuna.db", "pretraining/", "lease/", ".seen/", ORIGIN)  # made anew, or used where they lie
PATIENCE_S, FIRST_PAUSE_S = 900.0, 0.5  # for a store that answers errors, or nothing; for a disk that is full
_log = logging.getLogger(__name__)
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
            if name.startswith(("/", *HERE_ONLY)) or ".." in name.split("/"):
                continue  # no name leads out of the folder
            if Path(name).suffix in HEAVY and not heavy:
                continue
            if self._fetched.get(entry.name) == entry.version and (self.folder / name).exists():
                continue
            content = self._storage.read(entry.name)
            if content is None:
                continue  # deleted just now
            if part:
                self._take_lines(name, content)
            else:
                self._take(name, content)
            self._fetched[entry.name] = entry.version
        there = {entry.name for entry in entries}
        within = f"{below}/" if below else ""
        for name in [name for name in self._fetched if f"{name}/".startswith(within) and name not in there]:
            del self._fetched[name]
            if PARTS not in name:  # parts become one
                (self.folder / name).unlink(missing_ok=True)
        if self._fetched != before:
            write_atomically(self.folder / ORIGIN, json.dumps({"url": self.url, "fetched": self._fetched}))

    def fetch_file(self, name: str) -> None:
        """Bring one file, where there is one."""
        content = self._storage.read(name)
        if content is not None:
            self._take(name, content)

    def send(self, below: str, heavy: bool = True) -> None:
        """Send what is new below, what its tracker keeps apart.

        Lines go first, so that no checkpoint is ahead of its readings; an outcome last.
        """
        names = [name for name in self._names(files_below(self.folder / below)) if TRACKERS not in name]
        names.sort(key=lambda name: (name.endswith("outcome.json"), not name.endswith(GROWING)))
        for name in names:
            if name.endswith(GROWING):
                self._send_lines(name)
            elif heavy or Path(name).suffix not in HEAVY:
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
        """One part for each file that grew below a name, where it has many; for files that grow no more."""
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
        return [name for name in names if not name.startswith(HERE_ONLY) and not name.endswith(".tmp")]

    def _take(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        self._files[name] = _stamp(path)

    def _take_lines(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
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


class Sender:
    """Sends a trial's folder from a thread of its own while it trains: nothing waits for the store.

    What fails is tried again, for `patience` seconds since it last went well.
    """

    def __init__(self, mirror: Mirror, place: str, patience: float = PATIENCE_S) -> None:
        self._mirror, self._place, self._patience = mirror, place, patience
        self._news = threading.Condition()
        self._new, self._closed = False, False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Everything is in the store when this returns; an OSError where it could not be brought there."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def offer(self) -> None:
        """There is something new."""
        with self._news:
            self._new = True
            self._news.notify()

    def _work(self) -> None:
        heavy_after, closed = 0.0, False
        while not closed:
            with self._news:
                self._news.wait_for(lambda: self._new or self._closed)
                self._new, closed = False, self._closed
            heavy, began = closed or time.monotonic() >= heavy_after, time.monotonic()
            self._try(functools.partial(self._mirror.send, self._place, heavy))
            if heavy:
                ended = time.monotonic()
                heavy_after = ended + (ended - began) / HEAVY_SHARE
        if self._error is None and (self._mirror.folder / self._place / "outcome.json").exists():
            self._try(functools.partial(self._mirror.compact, self._place))

    def _try(self, send: Callable[[], None]) -> None:
        try:
            patiently(send, self._patience)
            self._error = None
        except OSError as error:
            self._error = error


def patiently(work: Callable[[], None], patience: float) -> None:
    """Try again what a store fails at, for so many seconds; then its error."""
    began, pause = time.monotonic(), FIRST_PAUSE_S
    while True:
        try:
            return work()
        except (FileNotFoundError, NotADirectoryError):  # no wait brings it back
            raise
        except OSError as error:
            if time.monotonic() - began >= patience:
                raise
            if pause == FIRST_PAUSE_S:
                _log.warning("%s: trying again for %.0f s", error, patience)
            time.sleep(min(pause, patience))
            pause = min(2 * pause, 30.0)


@functools.cache
def _opened(folder: Path) -> Mirror:
    url = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))["url"]
    return Mirror(storage_at(url), folder)


def mirror_of(folder: Path) -> Mirror | None:
    """The mirror whose working copy a folder is, this process's only one; None where it is no copy."""
    return _opened(folder) if (folder / ORIGIN).exists() else None


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_mtime_ns, found.st_size]


def _hash(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=12).digest()


def working_copy(url: str, root: Path | None = None) -> Path:
    """The folder in which a study at a URL is worked on, made where there is none; `root`: beside no other's."""
    place = (root or cache() / "studies") / hashlib.sha256(url.encode()).hexdigest()[:12] / url.rpartition("/")[2]
    place.mkdir(parents=True, exist_ok=True)
    if not (place / ORIGIN).exists():
        write_atomically(place / ORIGIN, json.dumps({"url": url, "fetched": {}}))
    return place


def workers_copy(url: str) -> Path:
    """A folder for one attempt of one trial; those in which nobody wrote for long are removed."""
    work = cache() / "work"
    for left in work.glob("*"):
        with contextlib.suppress(OSError):  # another attempt removes it as well
            written = max(path.stat().st_mtime for path in (left, *files_below(left)))
            if time.time() - written > FORGOTTEN_S:
                shutil.rmtree(left, ignore_errors=True)
    return working_copy(url, work / uuid.uuid4().hex[:12])
