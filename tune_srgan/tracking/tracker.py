"""The tracker as driver and worker see it: a process for each trial that follows the record and sends what is new.

The training only starts that process and holds its lifeline, so nothing that wandb does (slow, hanging, refusing, not
installed, its disk full) slows, fails or stops a training. What could not be sent is sent later, from the record.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from trainables.errors import one_line
from trainables.places import is_url
from tune_srgan.store.layout import TrackerFiles
from tune_srgan.store.objects import write_atomically
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import TrialFolder
from tune_srgan.study.settings import Study
from tune_srgan.tracking import marks

SERVER_S = 45.0  # what the server may take to open a run; thrice that, to take the rest after the trial's end
NOT_INSTALLED = "wandb is not installed (pip install wandb)"
GRACE_S = 1.0  # a process that was just started holds no lock yet
# Ray kills a worker's children with it, whatever their session: so a child's child
DETACHED = """
import os, runpy
if os.fork():
    os._exit(0)
runpy.run_module("tune_srgan.tracking", run_name="__main__", alter_sys=True)
"""

_children: list[subprocess.Popen[bytes]] = []


@contextlib.contextmanager
def followed(trial: TrialFolder, study: Study) -> Iterator[None]:
    """Let a trial's attempt be followed by a tracker while this context is open; by none where none can be had.

    The tracker's process is told nothing. That a pipe closes, with this context or its process, is how it learns that
    the attempt is over.
    """
    with contextlib.ExitStack() as lifeline:
        try:
            if study.tracking.wandb.mode != "disabled":
                trial.tracker.mkdir(exist_ok=True)
                if reason := marks.why_away(marks.study_of(trial)):
                    marks.miss(trial, reason)
                else:
                    reading, writing = os.pipe()
                    lifeline.enter_context(os.fdopen(writing, "wb", buffering=0))
                    with os.fdopen(reading, "rb") as held:
                        _start([trial], held, "--follow", "--watching", str(os.getpid()))
        except Exception as error:  # a tracker that cannot be had never stops a training
            trial.complain(marks.as_complaint(reason_of(error)))
        yield


def reason_of(error: BaseException) -> str:
    """Say why a run could not be sent, in a line."""
    if isinstance(error, ModuleNotFoundError) and error.name == "wandb":
        return NOT_INSTALLED
    return f"{type(error).__name__}: {one_line(error)}"


def catch_up(study: Study, folder: StudyFolder, trials: Sequence[TrialFolder]) -> None:
    """Send what was left undone of trials that ended while no tracker followed them."""
    if study.tracking.wandb.mode != "disabled":
        idle = [trial for trial in trials if marks.has_run(trial) and not marks.is_done(trial)]
        _start_again(folder, [trial for trial in idle if not marks.is_held(trial)])


def wait_for_trackers(folder: StudyFolder, seconds: float) -> int:
    """Wait until the tracker of every ended trial is done, or the time is over; returns how many are not.

    A trial whose tracker was lost with its worker is given another, and so is one whose run does not know who is best.
    """
    elsewhere = is_url(folder.address)  # of a store, trackers are at work on other machines
    started: set[TrialFolder] = set()
    begun, pause = time.monotonic(), 1.0 if elsewhere else 0.05
    with contextlib.suppress(OSError):
        folder.fetch()
    left = [trial for trial in folder.every_trial() if marks.has_run(trial)]
    while left := [trial for trial in left if not marks.is_done(trial)]:
        waited = time.monotonic() - begun
        late = not elsewhere and waited >= min(GRACE_S, seconds / 2)
        idle = [trial for trial in left if trial not in started and (late or marks.mark_of(trial) != marks.Mark())]
        idle = [trial for trial in idle if not marks.is_held(trial)]
        _start_again(folder, idle)
        started.update(idle)
        if waited >= seconds:
            break
        time.sleep(pause)
        with contextlib.suppress(OSError):
            for trial in left:
                if trial not in started:
                    folder.fetch(f"{trial.place}/{trial.tracker.name}")
    return len(left)


def wait_until_sent(trial: TrialFolder, seconds: float) -> None:
    """Wait until a trial's tracker is done, or the time is over."""
    begun = time.monotonic()
    while not marks.is_done(trial) and time.monotonic() - begun < seconds:
        time.sleep(0.05)


def mark_best(folder: StudyFolder, winner: int | None) -> None:
    """Say whose run is to be tagged `best`, and no other; `wait_for_trackers` has it done."""
    with contextlib.suppress(OSError):
        write_atomically(marks.best_file(folder), json.dumps({"trial": winner}))


def own_environment() -> dict[str, str]:
    """Return the environment of a process that imports this project and a wandb of its own."""
    packages = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, packages))}
    environment.pop("WANDB_SERVICE", None)  # of a wandb in this process: another's connection
    return environment


def _start(trials: Sequence[TrialFolder], lifeline: IO[bytes] | int, *options: str) -> None:
    """A process that sends trials, one after another; it outlives this one where it must."""
    _children[:] = [child for child in _children if child.poll() is None]  # they have ended: reap them
    with (trials[0].tracker / TrackerFiles.LOG.name).open("ab") as log:
        _children.append(
            subprocess.Popen(
                [sys.executable, "-c", DETACHED, *(str(trial.path.resolve()) for trial in trials)]
                + ["--patience", str(SERVER_S), *options],
                stdin=lifeline,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the driver
                cwd=trials[0].path,
                env=own_environment(),
            )
        )


def _start_again(folder: StudyFolder, trials: Sequence[TrialFolder]) -> None:
    """For trials whose trackers have left something undone; none where the server is away."""
    if not trials:
        return
    away = marks.why_away(folder)
    with contextlib.suppress(OSError):
        for trial in trials:
            trial.tracker.mkdir(exist_ok=True)
            if away:
                marks.miss(trial, away)
        if not away:
            _start(trials, subprocess.DEVNULL)
