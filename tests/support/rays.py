"""Ray clusters of several nodes on this machine, apart from any other that runs on it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def cluster(nodes=2, cpus=1, dashboard=False, on_head=None):
    """A head that trains nothing and nodes that do; `ray.cluster_utils.Cluster`, its processes end with it.

    `on_head`: what the head's environment has more.
    """
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    # no path is longer than a socket's may be; another folder, so that nobody joins this cluster by chance
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    os.environ |= {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ |= {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
    made = Cluster(shutdown_at_exit=True)
    try:
        shown = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": 0}
        shown |= {"dashboard_agent_listen_port": free_port()}  # its default may be another Ray's
        made.add_node(num_cpus=0, env_vars=on_head, **(shown if dashboard else {"include_dashboard": False}))
        for _ in range(nodes):
            made.add_node(num_cpus=cpus)
        yield made
    finally:
        made.shutdown()
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def node_without(address, hidden: Path):
    """A node of one CPU whose file system has an empty folder where this one has `hidden`, as another machine's has."""
    mount = f"mount --bind $(mktemp -d) {hidden}"
    ray = Path(sys.executable).parent / "ray"
    start = f"{mount} && exec {ray} start --address={address} --num-cpus=1 --object-store-memory=150000000 --block"
    node = subprocess.Popen(["unshare", "-m", "bash", "-c", start], stdout=subprocess.PIPE, start_new_session=True)
    try:
        yield node
    finally:
        os.killpg(node.pid, signal.SIGTERM)
        node.wait(60)
