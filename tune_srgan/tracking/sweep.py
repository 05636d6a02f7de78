"""The study as a Weights & Biases sweep of its own, whose controller is local: W&B shows it and never schedules.

What talks to the server while a study runs does so in a process of its own with a time limit, as the tracker does.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tune_srgan.search.confirmation import left_to_do
from tune_srgan.store.layout import StudyFiles
from tune_srgan.store.objects import write_atomically
from tune_srgan.store.records import read_records
from tune_srgan.store.studies import study_in
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import read_json
from tune_srgan.study.settings import Study
from tune_srgan.study.space import Parameter
from tune_srgan.tracking.marks import is_there, run_id, sweep_file, sweep_of, tracking_mode, why_away
from tune_srgan.tracking.tracker import mark_best, own_environment, reason_of, wait_for_trackers

SWEEP_S = 60.0  # what the server may take to make a sweep; the trackers wait for it that long, nobody else
STATES = {"open": "--resume", "pause": "--pause", "close": "--stop"}
MAX_VALUES = 50  # of a grid that W&B has no distribution for; with more, it is told the range alone


def sweep_configuration(study: Study) -> dict[str, Any]:
    """Return the study as W&B's sweep: its space as parameters under the keys that the runs' configurations have."""
    return {
        "name": study.study,
        "description": "A study of tune-srgan, which proposes and runs the trials itself: start no agents.",
        "method": "custom",
        "controller": {"type": "local"},
        "metric": {"name": "nash_cost", "goal": "minimize"},
        "parameters": {key: distribution(parameter) for key, parameter in study.space.items()},
    }


def distribution(parameter: Parameter) -> dict[str, Any]:
    """Return a searched key in W&B's words."""
    if parameter.choice is not None:
        return {"values": list(parameter.choice)}
    low, high = parameter.bounds
    if parameter.step is not None and round((high - low) / parameter.step) < MAX_VALUES:
        count = round((high - low) / parameter.step) + 1  # W&B rounds to multiples of a step; ours starts at low
        return {"values": [low + index * parameter.step for index in range(count)]}
    if parameter.int_range is not None:
        ends = {"min": int(low), "max": int(high)}
        log = {"distribution": "q_log_uniform_values", "q": 1}  # the only one that is whole and logarithmic
        return ends | (log if parameter.log else {"distribution": "int_uniform"})
    return {"min": low, "max": high, "distribution": "log_uniform_values" if parameter.log else "uniform"}


def open_sweep(study: Study, folder: StudyFolder) -> None:
    """Begin to register an online study as a sweep, or to go on with the one it is; runs wait for it, trials do not."""
    if tracking_mode(study.tracking.wandb)[0] != "online":
        return
    making = not sweep_of(folder)
    if making:
        write_atomically(sweep_file(folder), json.dumps({"until": time.time() + SWEEP_S}))
    with contextlib.suppress(OSError):
        _start(folder, "open", making)
        folder.send()  # workers elsewhere wait for it


def sweep_note(folder: StudyFolder, seconds: float = 0.0) -> str:
    """Say why the study's runs are in no sweep, within `seconds`; empty where they are, or none was wanted."""
    begun = time.monotonic()
    while "until" in (read_json(sweep_file(folder)) or {}) and time.monotonic() - begun < seconds:
        time.sleep(0.05)
    known = read_json(sweep_file(folder)) or {}
    if "refused" in known:
        return f"Weights & Biases: no sweep ({known['refused']}); the runs are grouped by study."
    if "until" in known:
        return "Weights & Biases: the sweep is not there yet; the runs join it, or are grouped by study without it."
    return ""


def close_sweep(study: Study, folder: StudyFolder, number: int | None, complete: bool, seconds: float) -> int:
    """Tag the winner's run, let the trackers end, and mark the sweep finished; returns how many trackers are not done.

    Waits `seconds` at most; what takes longer goes on by itself, within its limits. A study that was interrupted, or
    whose budget is used up, is a sweep that pauses.
    """
    if study.tracking.wandb.mode == "disabled":
        return 0
    begun = time.monotonic()
    mark_best(folder, number)
    left = wait_for_trackers(folder, seconds)
    known = read_json(sweep_file(folder)) or {"refused": ""}
    if "refused" not in known and tracking_mode(study.tracking.wandb)[0] == "online" and not why_away(folder):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            _start(folder, "close" if complete else "pause").wait(max(0.0, seconds - (time.monotonic() - begun)))
    return left


def make_sweep(study: Study, folder: StudyFolder) -> dict[str, Any]:
    """Make the sweep, with the runs that were sent before it."""
    import wandb

    settings = study.tracking.wandb
    sent = [run_id(trial, study) for trial in folder.trials() if trial.outcome() is not None and is_there(trial)]
    with quietly():
        name = wandb.sweep(
            sweep_configuration(study), entity=settings.entity, project=settings.project, prior_runs=sent or None
        )
        known = {"id": name, "entity": settings.entity or default_entity(), "project": settings.project}
        write_atomically(sweep_file(folder), json.dumps(known))  # the trackers need no more
        known["url"] = wandb.Api().sweep(f"{known['entity']}/{known['project']}/{name}").url
    write_atomically(sweep_file(folder), json.dumps(known))
    return known


def default_entity() -> str:
    """Say whose runs they are where the study names nobody."""
    import wandb

    return str(wandb.Api().default_entity)


def has_ended(study: Study, folder: StudyFolder) -> bool:
    """Tell whether every trial that is wanted, confirmations included, has ended."""
    return not left_to_do(study, read_records(study, folder.every_trial()))


def set_state(folder: StudyFolder, state: str) -> None:
    """Bring the study's sweep to a state of STATES, by wandb's own command."""
    sweep = sweep_of(folder)
    path = f"{sweep['entity']}/{sweep['project']}/{sweep['id']}"
    command = [sys.executable, "-m", "wandb", "sweep", STATES[state], path]
    subprocess.run(command, stdin=subprocess.DEVNULL, timeout=SWEEP_S, check=False)


def _wanted_file(folder: StudyFolder) -> Path:
    """The state that the sweep is to have: what opens it may be slower than the study."""
    return folder.path / StudyFiles.SWEEP_STATE.name


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """wandb prints what it does: not for our person."""
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(nothing):
        yield


def _start(folder: StudyFolder, state: str, making: bool = False) -> subprocess.Popen[bytes]:
    """A process that brings the sweep to a state, and makes it first where it is told to."""
    write_atomically(_wanted_file(folder), state)
    environment = own_environment()
    environment["WANDB_DIR"] = str(folder.path)
    with (folder.path / StudyFiles.SWEEP_LOG.name).open("ab") as log:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tune_srgan.tracking.sweep",
                str(folder.path.resolve()),
                *(["make"] if making else []),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=folder.path,
            env=environment,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Bring the sweep of the study in a folder to the state that is wanted of it, in a process of its own."""
    path, *making = arguments or sys.argv[1:]
    folder = StudyFolder(Path(path))

    def refused(reason: str) -> None:
        if making and not sweep_of(folder):
            write_atomically(sweep_file(folder), json.dumps({"refused": reason}))
            with contextlib.suppress(OSError):
                folder.send()

    def give_up() -> None:
        refused(f"no answer in {SWEEP_S:g} s")
        os._exit(1)

    limit = threading.Timer(2 * SWEEP_S, give_up)
    limit.daemon = True
    limit.start()
    try:
        if making:
            make_sweep(study_in(folder), folder)
            folder.send()
        while time.time() < (read_json(sweep_file(folder)) or {}).get("until", 0):
            time.sleep(1.0)  # another process is making it
        if sweep_of(folder):
            set_state(folder, _wanted_file(folder).read_text())
    except Exception as error:  # whatever wandb says; a study goes on without
        refused(reason_of(error))
        os._exit(1)


if __name__ == "__main__":
    main()
