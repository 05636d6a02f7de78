"""The Ray cluster a study runs on: joined where there is one, else started here."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from trainables.cache import fits_sockets, private_folder
from trainables.errors import one_line
from tune_srgan.cluster.addresses import TOKEN, cluster_at

RAY_BYTES = len("/session_2026-01-31_12-59-59_123456_1234567/sockets/plasma_store.1")  # of a socket below Ray's folder


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
    """Join the cluster at `address`, the one that runs on this machine, or start a local Ray.

    One clear error, within seconds, where no cluster answers at an address that a person or the environment gave.
    """
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    found = cluster_at(address)
    if found is None:
        ray.init(address="local", include_dashboard=False, **quiet, **_short_paths())
    else:
        try:
            ray.init(address=found.address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            fix = "" if os.environ["RAY_AUTH_MODE"] == "token" else TOKEN
            raise found.refused(one_line(error), fix) from None
    return Connection(None if found is None else found.address, int(ray.cluster_resources().get("CPU", 0)))


def _short_paths() -> dict[str, str]:
    """Where a Ray of our own keeps its sockets, if the temporary folder's path is too long for theirs."""
    from ray._common.utils import get_default_ray_temp_dir

    usual = Path(get_default_ray_temp_dir())
    return {} if fits_sockets(usual, RAY_BYTES) else {"_temp_dir": str(private_folder("tune-srgan-ray", RAY_BYTES))}
