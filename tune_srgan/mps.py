"""NVIDIA's Multi-Process Service: several trials compute on one GPU at the same time, not by turns.

One daemon a node and user, started by the first trial that shares a GPU and ended with the study. It changes no
setting of the device. A daemon that somebody else runs (CUDA_MPS_PIPE_DIRECTORY is set) is used as it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
WAIT_S = 20.0

_log = logging.getLogger(__name__)


def join() -> bool:
    """Make this process a client before it touches the GPU, with a daemon of this node; whether that worked."""
    if PIPES in os.environ:
        return True
    if shutil.which(CONTROL) is None:
        _log.warning("no %s on this node: trials share its GPUs by turns", CONTROL)
        return False
    environment = _environment()
    try:
        with _lock():
            if not _answers(environment):
                _start(environment)
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("MPS could not be started, trials share GPUs by turns: %s", error)
        return False
    os.environ.update({key: environment[key] for key in (PIPES, LOGS)})
    return True


def end() -> None:
    """End this node's daemon, if trials of this user started one; clients that are left have a few seconds."""
    environment = _environment()
    with _lock():
        if shutil.which(CONTROL) is not None and _answers(environment):
            _tell("quit -t 5", environment)


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"tune-srgan-mps-{os.getuid()}"
    for part in ("pipe", "log"):
        (folder / part).mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _environment() -> dict[str, str]:
    """A daemon sees all GPUs of its node; which one a client uses is the client's own."""
    visible = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    return visible | {PIPES: str(_folder() / "pipe"), LOGS: str(_folder() / "log")}


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Trials of a node that start at once start one daemon."""
    with (_folder() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start(environment: dict[str, str]) -> None:
    # the daemon keeps what it inherits open: a pipe of ours would never end
    nothing = subprocess.DEVNULL
    subprocess.run(
        [CONTROL, "-d"],
        env=environment,
        check=True,
        stdin=nothing,
        stdout=nothing,
        stderr=nothing,
        timeout=WAIT_S,
        start_new_session=True,
    )


def _answers(environment: dict[str, str]) -> bool:
    return _tell("get_server_list", environment) == 0


def _tell(line: str, environment: dict[str, str]) -> int:
    try:
        said = subprocess.run(
            [CONTROL], input=line + "\n", text=True, env=environment, capture_output=True, timeout=WAIT_S
        )
    except subprocess.TimeoutExpired:
        return 1
    return said.returncode
