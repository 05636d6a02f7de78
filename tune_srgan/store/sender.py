"""Sends what a training writes to an object store while it goes on; where store or disk fail, tries again."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable

from tune_srgan.store.layout import TrialFiles
from tune_srgan.store.mirror import Mirror
from tune_srgan.store.patience import PATIENCE_S, patiently

HEAVY_SHARE = 0.1  # of the time, for checkpoints


class Sender:
    """Sends a trial's folder from a thread of its own while it trains: nothing waits for the store.

    What fails is tried again, for `patience` seconds since it last went well.
    """

    def __init__(self, mirror: Mirror, place: str, patience: float = PATIENCE_S) -> None:
        self._mirror, self._place, self._patience = mirror, place, patience
        self._news = threading.Condition()
        self._new, self._closed = False, False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Everything is in the store when this returns; an OSError where it could not be brought there."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def offer(self) -> None:
        """Say that there is something new."""
        with self._news:
            self._new = True
            self._news.notify()

    def _work(self) -> None:
        heavy_after, closed = 0.0, False
        while not closed:
            with self._news:
                self._news.wait_for(lambda: self._new or self._closed)
                self._new, closed = False, self._closed
            heavy, began = closed or time.monotonic() >= heavy_after, time.monotonic()
            self._try(functools.partial(self._mirror.send, self._place, heavy))
            if heavy:
                ended = time.monotonic()
                heavy_after = ended + (ended - began) / HEAVY_SHARE
        if self._error is None and (self._mirror.folder / self._place / TrialFiles.OUTCOME.name).exists():
            self._try(functools.partial(self._mirror.compact, self._place))

    def _try(self, send: Callable[[], None]) -> None:
        try:
            patiently(send, self._patience)
            self._error = None
        except OSError as error:
            self._error = error
