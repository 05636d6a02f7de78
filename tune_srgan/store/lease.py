"""Who works on a study, or on a training by itself: numbered objects in its storage, the last is its holder's.

The next one is created by exactly one of all who try, on whatever machine; a holder that sees a later one stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainables.errors import InvalidInput, Problem
from tune_srgan.store.layout import StudyFiles
from tune_srgan.store.objects import Storage

BEAT_S = 5.0
SILENT_BEATS = 3  # a holder that shows no sign of life for so long is gone
STALE_S = 60.0  # the same to a reader who does not wait for beats: machines' clocks differ
READS = 20  # of a lease that has no content yet
STUDY, TRAINING = "study", "training"  # what is held
EXPECTED = "one process at a time"


@contextlib.contextmanager
def hold(
    storage: Storage, place: str, lost: Callable[[], None], take_over: bool = False, kind: str = STUDY
) -> Iterator[None]:
    """Hold a study, or another `kind`, alone; one clear error where another process does.

    `lost` is called where another took over.

    A holder of this machine whose process is gone is followed at once; one of its name (this machine before it was
    started again, another container) where it is silent; another machine's only where a person says so, too.
    """
    last, holder = _last(storage)
    if holder and not holder["released"]:
        _refuse_the_living(storage, place, last, holder, take_over, kind)
    name, ours = _name(last + 1), _sign() | {"released": False, "beat": 0, "time": time.time()}
    if not storage.create(name, json.dumps(ours).encode()):
        raise InvalidInput([Problem(place, "", f"a {kind} that another process took this moment", EXPECTED)])
    if last:
        storage.delete(_name(last))
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_S):
            with contextlib.suppress(OSError):  # a store that is away for a while: nobody else can take over either
                if _last(storage)[0] > last + 1:
                    lost()
                    return
                ours["beat"] += 1
                storage.write(name, json.dumps(ours | {"time": time.time()}).encode())

    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join(BEAT_S)
        with contextlib.suppress(OSError):
            if _last(storage)[0] == last + 1:
                storage.write(name, json.dumps(ours | {"released": True}).encode())


def _refuse_the_living(
    storage: Storage, place: str, last: int, holder: dict[str, Any], take_over: bool, kind: str
) -> None:
    who = f"process {holder['pid']} of {holder['host']}"
    if _is_of_this_machine(holder):
        if _is_alive(holder):
            fix = "Wait for it, or stop it" + ("; `status` works meanwhile." if kind == STUDY else ".")
            raise InvalidInput([Problem(place, "", f"a {kind} that {who} is running", EXPECTED, fix)])
        return
    age = max(0.0, time.time() - holder["time"])
    found = f"a {kind} that {who} is running; its last sign of life is {age:.0f} s old"
    if not take_over and holder["host"] != socket.gethostname():
        follow = ", or follow it with `status`" if kind == STUDY else ""
        fix = f"Stop it there{follow}; if that machine is gone, give the same command --take-over."
        raise InvalidInput([Problem(place, "", found, EXPECTED, fix)])
    # a clock may lie, a beat that goes on does not
    for _ in range(SILENT_BEATS):
        time.sleep(BEAT_S)
        number, now = _last(storage)
        if number != last or now.get("beat") != holder["beat"]:
            fix = "It is alive: stop it there first."
            raise InvalidInput([Problem(place, "", found, "one that is gone", fix)])


def driver_lives(storage: Storage) -> bool:
    """Tell whether a driver holds a study now, as far as this machine can see: its process, or its beats."""
    _, holder = _last(storage)
    if not holder or holder["released"]:
        return False
    return _is_alive(holder) if _is_of_this_machine(holder) else time.time() - holder["time"] < STALE_S


def _last(storage: Storage) -> tuple[int, dict[str, Any]]:
    """The last lease's number, 0 where there is none, and what it says."""
    entries = storage.entries(StudyFiles.LEASE.name)
    if not entries:
        return 0, {}
    name, holder = entries[-1].name, {}
    for _ in range(READS):
        with contextlib.suppress(ValueError):  # where files cannot be linked, one is seen before its content
            holder = json.loads(storage.read(name) or b"{}")
            break
        time.sleep(0.1)
    return int(name.rpartition("/")[2]), holder


def _name(number: int) -> str:
    return f"{StudyFiles.LEASE.name}/{number:08d}"


def _sign() -> dict[str, Any]:
    return _machine() | {"pid": os.getpid(), "started": _started(os.getpid())}


def _machine() -> dict[str, Any]:
    """A machine since it was started, and whose processes are counted: containers may share a name."""
    machine = {"host": socket.gethostname()}
    with contextlib.suppress(OSError):
        machine["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        machine["processes"] = str(Path("/proc/self/ns/pid").readlink())
    return machine


def _is_of_this_machine(holder: dict[str, Any]) -> bool:
    return all(holder.get(key) == value for key, value in _machine().items())


def _is_alive(holder: dict[str, Any]) -> bool:
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return bool(_started(holder["pid"]) == holder["started"])


def _started(pid: int) -> str:
    """When a process started, in ticks since boot; empty where the system does not say: numbers are used again."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    return ""
