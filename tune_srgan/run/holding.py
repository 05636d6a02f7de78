"""Holding a study alone, as its driver or to change it, and what a person is told where that fails."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from rich.console import Console

from trainables.errors import InvalidInput, Problem, one_line
from tune_srgan.store import lease
from tune_srgan.store.study_folder import StudyFolder


@contextlib.contextmanager
def driving(folder: StudyFolder, err: Console, take_over: bool = False) -> Iterator[threading.Event]:
    """Hold a study alone; stop, as by Ctrl-C, where another driver takes it over, which the event says."""
    taken = threading.Event()

    def lost() -> None:
        err.print("Another driver took this study over: this one stops.", style="yellow")
        taken.set()
        os.kill(os.getpid(), signal.SIGINT)

    with lease.hold(folder.storage(), folder.address, lost, take_over):
        yield taken


@contextlib.contextmanager
def storage_errors(folder: StudyFolder) -> Iterator[None]:
    """Turn the error of a store or a disk that fails for longer than it is waited for into one clear error."""
    try:
        yield
    except OSError as error:
        found = f"a store or disk that fails ({one_line(error)})"
        fix = f"Mend it; then: python tune.py resume {folder.address}"
        raise InvalidInput([Problem(folder.address, "storage", found, "one that can be written", fix)]) from None
