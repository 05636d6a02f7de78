"""What is at a URL: fetched once a machine, in the cache, with hashes by which a copy that was altered is known."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from trainables.cache import WHOLE, cache, make_room, used
from trainables.errors import InvalidInput, Problem, one_line
from trainables.image_files import suffixes
from trainables.places import is_inside

MANIFEST = "manifest.json"

_log = logging.getLogger(__name__)


def fetched(url: str, key: str) -> Path:
    """Return this machine's copy of a file or folder of scenes, fetched where the store has another version.

    Where the store does not answer, a whole copy that is here serves; InvalidInput where there is none, or no room.
    """
    import fsspec

    folder = cache() / "imagery"
    try:
        files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        there = {
            within: info
            for name, info in sorted(files.find(root, detail=True).items())
            if is_inside(within := name.removeprefix(f"{root}/") if name != root else Path(name).name)
            and Path(name).suffix.lower() in {*suffixes(), ".taco"}
        }
    except Exception as error:  # every store has its own
        known = sorted(folder.glob(f"url-{_hash(url)}-*/{WHOLE}"), key=lambda whole: whole.stat().st_mtime)
        if not known:
            raise _unread(url, key, f"a store that cannot be read ({_short(error)})") from None
        _log.warning("%s does not answer (%s): what was fetched before is used", url, _short(error))
        return _copy(known[-1].parent)
    if not there:
        raise _unread(url, key, "no imagery there")
    needed = sum(info["size"] for info in there.values())
    versions = json.dumps({name: [info["size"], _version(info)] for name, info in there.items()})
    entry = folder / f"url-{_hash(url)}-{_hash(versions)}"

    def fetch() -> None:
        make_room(folder, needed)
        _log.warning("fetching %d scene file(s), %.1f GB, from %s", len(there), needed / 1e9, url)
        sums = {}
        for name, info in there.items():
            file = entry / "files" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(info["name"], str(file))
            sums[name] = [_sum(file), *stamp(file)]
            if file.stat().st_size != info["size"]:
                raise OSError(f"{name} was cut off on its way")
        single = Path(root).name if list(there) == [Path(root).name] and files.isfile(root) else ""
        (entry / MANIFEST).write_text(json.dumps({"url": url, "single": single, "files": sums}), encoding="utf-8")

    try:
        used(entry, fetch, lambda: _is_sound(entry))
    except Exception as error:
        raise _unread(url, key, f"imagery that cannot be fetched ({_short(error)})") from None
    return _copy(entry)


def _copy(entry: Path) -> Path:
    """Where the scenes are in an entry: its one file, or their folder."""
    return Path(entry, "files", json.loads((entry / MANIFEST).read_text(encoding="utf-8"))["single"])


def _is_sound(entry: Path) -> bool:
    """Whether all files are what was fetched; read again where they were written to."""
    try:
        known = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))["files"]
        files = {entry / "files" / name: told for name, told in known.items()}
        return all(list(stamp(file)) == told[1:] or _sum(file) == told[0] for file, told in files.items())
    except (OSError, ValueError, KeyError):
        return False


def stamp(file: Path) -> tuple[int, int]:
    """Return a file's size, and when it was written."""
    return (stat := file.stat()).st_size, stat.st_mtime_ns


def _sum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _version(info: dict[str, Any]) -> str:
    """What tells one content of an object from another: each store has its own name for it."""
    return next((str(info[key]) for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified") if key in info), "")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def _unread(url: str, key: str, found: str) -> InvalidInput:
    fix = "Look at the URL, the credentials and the network; s3:// needs s3fs, gs:// gcsfs."
    return InvalidInput([Problem(url, key, found, "a file or folder of .tif, .png, .jpg, .npy or .npz scenes", fix)])
