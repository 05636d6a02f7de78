"""What a worker says and asks while it trains: readings to Ray, questions to the board. Neither holds a training up."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from typing import Any

import ray

from tune_srgan.search.board import NAMESPACE, Answer

ASK_S = 5.0  # a board that does not answer in this time is asked no more


class Reporter:
    """Tells Ray of readings from a thread of its own: a training does not wait for a driver that has much to do.

    A reading that Ray had no time for gives way to the next one; the last one always arrives.
    """

    def __init__(self, report: Callable[[dict[str, Any]], None]) -> None:
        self._report = report
        self._news = threading.Condition()
        self._latest: dict[str, Any] | None = None
        self._closed = False
        self._error: BaseException | None = None  # Ray ends a trial by SystemExit
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Reporter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join()

    def __call__(self, reading: dict[str, Any]) -> None:
        """Take it; ends the training where Ray has ended the trial."""
        with self._news:
            if self._error is not None:
                raise self._error
            self._latest = reading
            self._news.notify()

    def _send(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._latest is not None or self._closed)
                reading, self._latest = self._latest, None
            if reading is None:
                return
            try:
                self._report(reading)
            except BaseException as error:
                self._error = error
                return


class BoardReader:
    """Asks the board at each reading; a trial that cannot reach it goes on."""

    def __init__(self, name: str) -> None:
        self._board: Any = None
        with contextlib.suppress(Exception):  # no board: nothing to be capped by
            self._board = ray.get_actor(name, namespace=NAMESPACE)

    def __call__(self, earliest: float) -> Answer:
        """Ask for the incumbent, and whether a trial with that bound pauses; neither where nobody answers."""
        return self._ask("answer", earliest) or Answer()

    def now(self) -> float:
        """Read the driver's clock, by which a deadline is told: this machine's may differ; −∞ where nobody answers."""
        now = self._ask("now")
        return -math.inf if now is None else float(now)

    def _ask(self, method: str, *arguments: object) -> Any:
        if self._board is None:
            return None
        try:
            return ray.get(getattr(self._board, method).remote(*arguments), timeout=ASK_S)
        except Exception:  # whatever Ray says of an actor that is gone
            self._board = None
            return None
