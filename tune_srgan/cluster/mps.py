"""NVIDIA's Multi-Process Service: several trials compute on one GPU at the same time, not by turns.

One daemon a node and user, started by the first trial that shares a GPU and ended with the last study whose trials use
it. It changes no setting of the device. A daemon of somebody else (CUDA_MPS_PIPE_DIRECTORY is set) is used as it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from trainables.cache import private_folder

CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
MPS_BYTES = len("/pipe/control_privileged")  # of the longest socket's name below the folder
WAIT_S = 20.0
AGAIN_S = 600.0  # a node on which MPS serves no GPU is tried again after this
PROBE = """
import ctypes
cuda, device, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_void_p()
assert cuda.cuInit(0) == 0
assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
assert cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device) == 0
"""

_log = logging.getLogger(__name__)
_clients: list[IO[str]] = []


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
            refused = _folder() / "refused"
            if refused.exists() and time.time() - refused.stat().st_mtime < AGAIN_S:
                return False  # whoever tried said why
            if not _answers(environment):
                _start(environment)
                if not _computes(environment):
                    _tell("quit -t 5", environment)
                    refused.touch()
                    _log.warning("MPS starts here but serves no GPU: trials share GPUs by turns")
                    return False
            _clients.append(_clients_file().open("w"))  # held as long as this process lives
            fcntl.flock(_clients[-1], fcntl.LOCK_SH)
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("MPS could not be started, trials share GPUs by turns: %s", error)
        return False
    os.environ.update({key: environment[key] for key in (PIPES, LOGS)})
    return True


def end(wait_s: float = 10.0) -> bool:
    """End this node's daemon, if trials of this user started one and none uses it any more; whether none is left.

    Workers of a study that has ended take a moment to go: `wait_s` is how long they are waited for.
    """
    environment, until = _environment(), time.monotonic() + wait_s
    while True:
        with _lock(), _clients_file().open("w") as clients, contextlib.suppress(BlockingIOError):
            fcntl.flock(clients, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if shutil.which(CONTROL) is not None and _answers(environment):
                _tell("quit -t 5", environment)
            return True
        if time.monotonic() > until:
            return False  # another study's trials
        time.sleep(0.2)


def gpu_answers() -> bool:
    """Tell whether this process's GPU answers a new one, without MPS: its daemon, too, may be what failed."""
    return _computes({key: value for key, value in os.environ.items() if key != PIPES})


def _clients_file() -> Path:
    return _folder() / "clients"


def _folder() -> Path:
    folder = private_folder("tune-srgan-mps", MPS_BYTES)
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


def _computes(environment: dict[str, str]) -> bool:
    """Whether a client gets a GPU: in some containers the daemon starts and its server cannot."""
    try:
        tried = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, timeout=WAIT_S)
    except subprocess.TimeoutExpired:
        return False
    return tried.returncode == 0


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
