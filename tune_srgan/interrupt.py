"""Ctrl-C ends a command within seconds, whatever it waits for: compiled code that hears no signal, a store, a cluster.

Nothing is lost by an end without farewells: what is recorded is on the disk, and a lease of a process that is gone is
followed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from typing import NoReturn

from tune_srgan.answers import INTERRUPTED

FAREWELL_S = 4.0  # that a command which is interrupted may take to end by itself
SAID = "\nStopped without waiting for what did not end. What was recorded is kept; the same command goes on.\n"


def end_soon_after_ctrl_c(seconds: float = FAREWELL_S) -> None:
    """Watch, from a thread, for this process's first SIGINT; end it, exit code 130, where it is still there then."""
    told, tells = os.pipe()
    os.set_blocking(tells, False)
    signal.set_wakeup_fd(tells, warn_on_full_buffer=False)  # by the signal itself, whatever Python does

    def watch() -> None:
        while os.read(told, 1) != bytes([signal.SIGINT]):
            pass
        time.sleep(seconds)
        os.write(2, SAID.encode())
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, daemon=True).start()


def leave() -> NoReturn:
    """End an interrupted process once its exit functions have run: Ray among them, whose compiled parts may crash then.

    They do where Ray was interrupted as it started.
    """
    with contextlib.suppress(KeyboardInterrupt):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(INTERRUPTED)
