"""The imagery that a study's trials were measured on: its files, kept as it begins, held against what is there later.

Trials are compared with one another, so all of them are to be measured on the same pixels.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.errors import InvalidInput, Problem
from tune_srgan.store.objects import write_atomically
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import read_json

PIECE, PIECES = 1_000_000, 64  # bytes of a file that are read at once; of large ones so many, evenly
OPTION = "--accept-imagery"
Prints = Mapping[str, Mapping[str, Any]]


def hold_imagery(folder: StudyFolder, key: str, files: Mapping[str, Path], trials: int, accept: bool) -> str:
    """Keep which imagery a study is of, or hold it against what was kept; returns what a person is told, or "".

    `files`: by name; `key`: what names them in the configuration; `trials`: that are there. InvalidInput, naming each
    file, where they are others, unless that is accepted: it is then written down from which trial on.
    """
    told = read_json(folder.imagery_file) or {"since": []}
    known: Prints = told["since"][-1]["files"] if told["since"] else {}
    now = {name: _print(file, known.get(name)) for name, file in files.items()}
    if known == now:
        return ""
    said, changed = "", _changed(known, now) if known else []
    if changed and not accept:
        expected = f"as it was when the study began, since {told['since'][-1]['date']}"
        fix = f"Restore it, or run another study. {OPTION} goes on: trials before and after are then no match."
        raise InvalidInput([Problem(str(files.get(name, name)), key, found, expected, fix) for name, found in changed])
    if changed or not known:
        others = [name for name, _ in changed]
        entry = {"from": trials, "date": time.strftime("%Y-%m-%d %H:%M"), "changed": others, "files": now}
        told["since"].append(entry)
        said = changed_text(trials, others) if changed else ""
    else:
        told["since"][-1]["files"] = now  # the same content, written anew
    write_atomically(folder.imagery_file, json.dumps(told))
    return said


def changes_of(folder: StudyFolder) -> list[str]:
    """Say from which trials on a study was measured on other imagery than before."""
    every = (read_json(folder.imagery_file) or {"since": []})["since"]
    return [changed_text(entry["from"], entry["changed"]) for entry in every if entry["changed"]]


def changed_text(trials: int, changed: list[str]) -> str:
    """Say that trials from a number on were measured on other imagery."""
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return (
        f"From trial {trials} on the imagery is another ({', '.join(changed[:3])}{more}): trials before and after were "
        "measured by two rulers and cannot be compared."
    )


def _changed(known: Prints, now: Prints) -> list[tuple[str, str]]:
    """Names of files that are not what they were, and what is found."""
    found = dict.fromkeys(known.keys() - now, "no such file any more")
    found |= dict.fromkeys(now.keys() - known, "a file that was not there")
    found |= {name: "other content" for name in known.keys() & now.keys() if known[name]["sum"] != now[name]["sum"]}
    return sorted(found.items())


def _print(file: Path, known: Mapping[str, Any] | None) -> dict[str, Any]:
    """A file's size, when it was written, and the sum of its content, which is read where the others differ."""
    stat = file.stat()
    stamps = {"size": stat.st_size, "when": stat.st_mtime_ns}
    if known is not None and stamps.items() <= known.items():
        return dict(known)
    return stamps | {"sum": _sum(file, stat.st_size)}


def _sum(file: Path, size: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as content:
        if size <= PIECE * PIECES:
            digest.update(content.read())
        else:
            for piece in range(PIECES):
                content.seek(piece * (size - PIECE) // (PIECES - 1), os.SEEK_SET)
                digest.update(content.read(PIECE))
    return digest.hexdigest()
