"""Holding a study or a training alone, to work on it or to change it, and what a person is told where that fails."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from rich.console import Console

from trainables.errors import InvalidInput, Problem, one_line
from tune_srgan.store import lease
from tune_srgan.store.objects import storage_at
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import TrialFolder


@contextlib.contextmanager
def driving(folder: StudyFolder, err: Console, take_over: bool = False) -> Iterator[threading.Event]:
    """Hold a study alone; stop, as by Ctrl-C, where another driver takes it over, which the event says."""
    taken = threading.Event()
    with lease.hold(folder.storage(), folder.address, _stopping(lease.STUDY, err, taken), take_over):
        yield taken


@contextlib.contextmanager
def training(trial: TrialFolder, err: Console, take_over: bool = False) -> Iterator[None]:
    """Hold a training by itself alone; stop, as by Ctrl-C, where another process takes it over."""
    lost = _stopping(lease.TRAINING, err, threading.Event())
    with lease.hold(storage_at(str(trial.path)), str(trial.path), lost, take_over, lease.TRAINING):
        yield


def _stopping(kind: str, err: Console, taken: threading.Event) -> Callable[[], None]:
    def lost() -> None:
        err.print(f"Another process took this {kind} over: this one stops.", style="yellow")
        taken.set()
        os.kill(os.getpid(), signal.SIGINT)

    return lost


@contextlib.contextmanager
def storage_errors(folder: StudyFolder) -> Iterator[None]:
    """Turn the error of a store or a disk that fails for longer than it is waited for into one clear error."""
    try:
        yield
    except OSError as error:
        found = f"a store or disk that fails ({one_line(error)})"
        fix = f"Mend it; then: python tune.py resume {folder.address}"
        raise InvalidInput([Problem(folder.address, "storage", found, "one that can be written", fix)]) from None
