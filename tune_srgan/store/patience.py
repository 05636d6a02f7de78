"""Trying again what a store answers with errors, or a full disk refuses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

PATIENCE_S, FIRST_PAUSE_S = 900.0, 0.5  # for a store that answers errors, or nothing; for a disk that is full
_log = logging.getLogger(__name__)


def patiently(work: Callable[[], None], patience: float) -> None:
    """Try again what a store fails at, for so many seconds; then its error."""
    began, pause = time.monotonic(), FIRST_PAUSE_S
    while True:
        try:
            return work()
        except (FileNotFoundError, NotADirectoryError):  # no wait brings it back
            raise
        except OSError as error:
            if time.monotonic() - began >= patience:
                raise
            if pause == FIRST_PAUSE_S:
                _log.warning("%s: trying again for %.0f s", error, patience)
            time.sleep(min(pause, patience))
            pause = min(2 * pause, 30.0)
