"""A spot node's preemption, announced: trainings write checkpoints, and no further trial comes.

    python -m tune_srgan.cluster.preemption [--now]

runs beside Ray on a node and asks the cloud's metadata service (AWS, Google Cloud) every few seconds; `--now`: it is
taken away, whoever says so, a Kubernetes hook for instance.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from trainables.cache import cache

POLL_S = 5.0
VALID_S = 600.0  # a machine that is still there is another one's
SERVICE = "TUNE_SRGAN_METADATA"  # in the environment: another address of the metadata service, for tests
AWS, GOOGLE = "http://169.254.169.254", "http://metadata.google.internal"


def is_announced() -> bool:
    """Tell whether this node will be taken away."""
    with contextlib.suppress(OSError):
        return time.time() - _file().stat().st_mtime < VALID_S
    return False


def _file() -> Path:
    return cache() / "preemption"


def _asked(url: str, method: str = "GET", **headers: str) -> str | None:
    """The answer; None where there is none: no service, or nothing to say."""
    wanted = urllib.request.Request(url, method=method, headers={k.replace("_", "-"): v for k, v in headers.items()})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is this machine's own
    try:
        with opener.open(wanted, timeout=2) as answer:
            return str(answer.read().decode())
    except (OSError, urllib.error.URLError, ValueError):
        return None


def ask_clouds() -> bool:
    """Ask both clouds' services, of which one answers at most, whether this node will be taken away."""
    service = os.environ.get(SERVICE)
    token = _asked(f"{service or AWS}/latest/api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds="60")
    if token is not None:
        path = "latest/meta-data/spot/instance-action"
        return _asked(f"{service or AWS}/{path}", X_aws_ec2_metadata_token=token) is not None
    preempted = _asked(f"{service or GOOGLE}/computeMetadata/v1/instance/preempted", Metadata_Flavor="Google")
    return preempted is not None and preempted.strip() == "TRUE"


def announce() -> None:
    """Let this node's trainings see it at their next reading, and Ray send no more trials."""
    _file().parent.mkdir(parents=True, exist_ok=True)
    _file().touch()
    from tune_srgan.cluster.nodes import close_this_node

    close_this_node("a spot node's preemption")


def main(arguments: Sequence[str] | None = None) -> None:
    """Wait for it; end once it has come."""
    parser = argparse.ArgumentParser(prog="python -m tune_srgan.cluster.preemption", description=__doc__)
    parser.add_argument("--now", action="store_true", help="it has come")
    parser.add_argument("--poll", type=float, default=POLL_S, help="seconds between two questions")
    chosen = parser.parse_args(arguments)
    while not chosen.now and not ask_clouds():
        time.sleep(chosen.poll)
    announce()


if __name__ == "__main__":
    main()
