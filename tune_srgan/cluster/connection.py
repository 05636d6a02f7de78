"""The Ray cluster a study runs on: joined where there is one, else started here."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from typing import Any

import ray

from trainables.errors import InvalidInput, Problem, one_line
from tune_srgan.cluster.jobs import TOKEN


@dataclass(frozen=True)
class Connection:
    """Where Ray runs: the address of a cluster that was joined, None for a Ray of this process's own."""

    joined: str | None
    cpus: int

    def describe(self) -> str:
        """Say where it runs, in words."""
        if self.joined is not None:
            return f"joined the Ray cluster at {self.joined}"
        return f"started a local Ray with {self.cpus} CPUs"


def connect(address: str | None) -> Connection:
    """Join the cluster at `address`, the one that runs on this machine, or start a local Ray."""
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    address = address or os.environ.get("RAY_ADDRESS") or running_cluster()
    if address and address != "local":
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            found = f"no cluster that answers ({one_line(error)})"
            fix = "" if os.environ["RAY_AUTH_MODE"] == "token" else TOKEN
            raise InvalidInput(
                [Problem(address, "--address", found, "a running Ray cluster, or `local`", fix)]
            ) from None
    else:
        address = None
        ray.init(address="local", include_dashboard=False, **quiet)
    return Connection(address, int(ray.cluster_resources().get("CPU", 0)))


def running_cluster() -> str | None:
    """Return the address of a Ray cluster that was started on this machine and still answers."""
    from ray._private.utils import read_ray_address

    address = read_ray_address()  # where `ray start` leaves it
    if not address:
        return None
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return str(address)
    except OSError:
        return None  # left behind by a cluster that was killed
