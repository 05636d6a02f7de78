"""Addresses of clusters: which one is meant, and whether anybody answers there.

Asked before anything else, and before Ray's own clients, which wait for minutes.
"""

from __future__ import annotations

import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

from trainables.errors import InvalidInput, Problem, one_line

TOKEN = "Where it asks for a token: export RAY_AUTH_MODE=token."
RAY_ADDRESS = "RAY_ADDRESS"  # in the environment
ANSWER_S = 2.0  # that a machine, then whatever listens there, may take
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # with empty settings; RFC 9113, 3.4
SETTINGS = 4  # the kind of frame that a server of HTTP/2 begins with


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster's address, and where it was said."""

    address: str
    key: str

    def refused(self, why: str, fix: str = "") -> InvalidInput:
        """Return one clear error: why it is not joined, and what to do."""
        if not fix and self.key == RAY_ADDRESS:
            fix = "`unset RAY_ADDRESS` where that cluster is gone."
        found = f"no cluster that answers ({why})"
        return InvalidInput([Problem(self.address, self.key, found, "a running Ray cluster, or `local`", fix)])


def cluster_at(address: str | None) -> Cluster | None:
    """Return the cluster that is meant by --address, RAY_ADDRESS or one that runs on this machine; None: a local Ray.

    One clear error, within seconds, where none answers at an address that a person or the environment gave.
    """
    named = (address, "--address"), (os.environ.get(RAY_ADDRESS), RAY_ADDRESS)
    given, key = next(((one, key) for one, key in named if one and one != "auto"), (None, ""))
    if given is None:
        running = _running()
        if running is None and "auto" in {one for one, _ in named}:
            raise Cluster("auto", "--address").refused("none that `ray start` began runs on this machine")
        return running
    if given == "local":
        return None
    cluster, expected = Cluster(given, key), "a Ray cluster to join, like 10.0.0.1:6379, or `local`"
    if is_dashboard(given):
        fix = f"Do it there: python tune.py submit STUDY.yaml --address {given}."
        raise InvalidInput([Problem(given, key, "a dashboard", expected, fix)])
    if "://" in given:
        fix = "Run it on a machine of the cluster, or `submit` it to the dashboard, like http://10.0.0.1:8265."
        raise InvalidInput([Problem(given, key, "Ray Client, by which no study runs", expected, fix)])
    if why := why_no_ray(given):
        raise cluster.refused(why)
    return cluster


def refuse_dead(address: str | None) -> None:
    """Raise that error before anything else is done; where nobody gave an address, nothing is looked at."""
    if address or os.environ.get(RAY_ADDRESS):
        cluster_at(address)


def _running() -> Cluster | None:
    """The cluster that `ray start` began on this machine, if it still answers: one that was killed leaves its file."""
    from ray._private.utils import read_ray_address

    address = read_ray_address()
    return Cluster(address, "--address") if address and not why_no_ray(address) else None


def is_dashboard(address: str | None) -> bool:
    """Tell whether an address is that of a cluster's dashboard, where jobs are submitted."""
    return bool(address) and str(address).startswith(("http://", "https://"))


def why_no_ray(address: str) -> str:
    """Say why no Ray answers at `host:port`; empty where one does, or anything else that speaks gRPC."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        return "not of the form host:port"

    def ask() -> str:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S) as talk:
            if os.environ.get("RAY_USE_TLS", "0") in {"", "0"}:
                talk.sendall(PREFACE)
                begun = talk.recv(9, socket.MSG_WAITALL)
                if len(begun) < 9 or begun[3] != SETTINGS:
                    return "something else than Ray listens there"
        return ""

    return _within(2 * ANSWER_S, ask)


def why_no_dashboard(url: str) -> str:
    """Say why nothing answers at a dashboard's URL; empty where a server does, whatever it says."""

    def ask() -> str:
        try:
            urllib.request.urlopen(f"{url.rstrip('/')}/api/version", timeout=ANSWER_S).close()
        except urllib.error.HTTPError:
            pass  # it answers: Ray's client says what it lacks
        except ValueError as error:
            return one_line(error)
        return ""

    return _within(2 * ANSWER_S, ask)


def _within(seconds: float, ask: Callable[[], str]) -> str:
    """What `ask` returns, or its error; a name that nobody resolves, say, is not waited for."""
    answers: list[str] = []

    def work() -> None:
        try:
            answers.append(ask())
        except (OSError, UnicodeError) as error:
            answers.append(one_line(error) or type(error).__name__)

    thread = threading.Thread(target=work, daemon=True)  # it may hang in the system's own wait
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else f"no answer within {seconds:.0f} s"
