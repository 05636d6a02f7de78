"""The Ray cluster a study runs on: joined or started, how many trials it holds, and what its nodes see."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
import yaml
from ray.core.generated import autoscaler_pb2
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainables.configuration import is_url
from trainables.errors import InvalidInput, Problem
from tune_srgan.jobs import TOKEN
from tune_srgan.storage import storage_at
from tune_srgan.study import Resources, Study

LOOK_S = 300.0  # what nodes may take to look at storage and imagery
PROBES = ".seen"  # objects that come and go with a look
BOOTSTRAP = "~/ray_bootstrap_config.yaml"  # where Ray's launcher leaves a cluster's file on its head
HEAD = "node:__internal_head__"  # a resource that Ray gives to the head alone
CLOSED_S = 3600.0  # a node that is closed takes nothing for so long


def connect(address: str | None) -> str:
    """Join the cluster at `address`, the one that runs on this machine, or start a local Ray; says which."""
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    address = address or os.environ.get("RAY_ADDRESS") or running_cluster()
    if address and address != "local":
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            found = f"no cluster that answers ({' '.join(str(error).split())[:120]})"
            fix = "" if os.environ["RAY_AUTH_MODE"] == "token" else TOKEN
            raise InvalidInput(
                [Problem(address, "--address", found, "a running Ray cluster, or `local`", fix)]
            ) from None
        return f"joined the Ray cluster at {address}"
    ray.init(address="local", include_dashboard=False, **quiet)
    return f"started a local Ray with {int(ray.cluster_resources().get('CPU', 0))} CPUs"


def running_cluster() -> str | None:
    """The address of a Ray cluster that was started on this machine and still answers."""
    found = ray._private.utils.read_ray_address()  # where `ray start` leaves it
    if not found:
        return None
    host, _, port = found.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return str(found)
    except OSError:
        return None  # left behind by a cluster that was killed


def slots(study: Study) -> int:
    """How many trials may run at once: those that fit on the nodes that are there, or may come; at least one.

    All of them are asked for at once, so that a cluster that grows does so to its maximum. One clear error where no
    node can ever hold a trial, or where nobody knows how many nodes may come.
    """
    wanted, nodes, growth = study.resources, _nodes(), _growth()
    held = max(sum(_fits(node["Resources"], wanted) for node in nodes), growth.holds(wanted))
    if held:
        return wanted.concurrent or held
    if growth.kinds or _is_ours():
        kinds = [node["Resources"] for node in nodes] + [resources for resources, _ in growth.kinds]
        gpus, cpus = max((resources.get("GPU", 0), resources.get("CPU", 0)) for resources in kinds)
        found = f"{wanted.cpus:g} CPU(s) and {wanted.gpus:g} GPU(s) for a trial"
        expected = f"what a node holds, {cpus:g} and {gpus:g} at most"
        fix = "Ask for less, or join a larger cluster."
        raise InvalidInput([Problem(study.study, "resources", found, expected, fix)])
    if wanted.concurrent:
        return wanted.concurrent
    found = "a cluster without a node for a trial, that does not say how many may come"
    fix = "Give --concurrent: how many trials it holds at once at its largest."
    raise InvalidInput([Problem(study.study, "resources.concurrent", found, "a number", fix)])


def has_gpus() -> bool:
    """Whether a node has a GPU, or one that may come does: a cluster grows from none."""
    kinds = [node["Resources"] for node in _nodes()] + [resources for resources, _ in _growth().kinds]
    return any(resources.get("GPU", 0) >= 1 for resources in kinds)


def has_others(study: Study) -> bool:
    """Whether a trial that loses its node finds another."""
    fitting = sum(_fits(node["Resources"], study.resources) > 0 for node in _nodes())
    return fitting > 1 or _growth().holds(study.resources) > 0


def whereabouts() -> tuple[str | None, set[str]]:
    """The node that this process is on, and all that are alive; neither without Ray."""
    if not ray.is_initialized():
        return None, set()
    return ray.get_runtime_context().get_node_id(), {node["NodeID"] for node in _nodes()}


def close_this_node(reason: str) -> None:
    """No trial comes to this machine's node any more; where Ray cannot be told, nothing changes."""
    with contextlib.suppress(Exception):
        if not ray.is_initialized():
            connect(None)
        told = ray.get_runtime_context()
        until, why = int(1000 * (time.time() + CLOSED_S)), autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
        ray._raylet.GcsClient(address=told.gcs_address).drain_node(told.get_node_id(), why, reason, until)


def on_drivers_node() -> NodeAffinitySchedulingStrategy:
    """Where an actor lives that must not go away with a worker's node."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def on_gpu_nodes(work: Callable[[], object]) -> None:
    """Do something on every node with a GPU; a cluster that is gone has none left."""
    with contextlib.suppress(Exception):
        there = [node["NodeID"] for node in _nodes() if node["Resources"].get("GPU")]
        ray.get([_on(node, work) for node in there], timeout=60)


def look(study: Study, address: str) -> list[str]:
    """Let every other node that may train look at a study's storage and imagery; what each one saw.

    The driver's node was looked at before. One clear error where a node does not see what it should.
    """
    own = ray.get_runtime_context().get_node_id()
    nodes = [node for node in _nodes() if node["NodeID"] != own and _fits(node["Resources"], study.resources)]
    if not nodes:
        return []
    storage, word = storage_at(address), uuid.uuid4().hex
    asked, seen = f"{PROBES}/{word}", []
    storage.write(asked, word.encode())
    try:
        looks = [_on(node["NodeID"], _look, study, address, word, node["NodeID"]) for node in nodes]
        silent = ray.wait(looks, num_returns=len(looks), timeout=LOOK_S)[1]
        there = {entry.name for entry in storage.entries(PROBES)}
        for node, told in zip(nodes, looks, strict=True):
            host = node["NodeManagerHostname"]
            if told in silent:
                raise _unseen(address, host, f"it did not answer within {LOOK_S:.0f} s")
            try:
                what: str = ray.get(told)
            except ray.exceptions.RayTaskError as error:
                raise (InvalidInput(error.cause.problems) if isinstance(error.cause, InvalidInput) else error) from None
            except ray.exceptions.RayError:
                continue  # the node was lost meanwhile
            if f"{asked}-{node['NodeID']}" not in there:
                raise _unseen(address, host, "what it wrote there is not here")
            seen.append(f"{host}: {what}")
        return seen
    finally:
        for name in [asked, *(f"{asked}-{node['NodeID']}" for node in nodes)]:
            storage.delete(name)
        if not is_url(address):
            with contextlib.suppress(OSError):  # another look may be under way
                (Path(address) / PROBES).rmdir()


def _look(study: Study, address: str, word: str, node: str) -> str:
    """On a node: read what the driver wrote, write, list and delete; then the imagery."""
    import torch

    from trainables.imagery import load_imagery

    host = socket.gethostname()
    try:
        storage, asked = storage_at(address), f"{PROBES}/{word}"
        if storage.read(asked) != word.encode():
            raise _unseen(address, host, "what the driver wrote is not there")
        storage.write(f"{asked}-{node}.gone", b"")
        storage.delete(f"{asked}-{node}.gone")
        storage.write(f"{asked}-{node}", b"")
        if f"{asked}-{node}" not in {entry.name for entry in storage.entries(PROBES)}:
            raise _unseen(address, host, "what was just written is not listed")
    except OSError as error:
        raise _unseen(address, host, error.strerror or str(error)[:160]) from None
    try:
        return load_imagery(study.lowest(), torch.device("cpu")).describe()
    except InvalidInput as error:
        fix = "Give a path that every node sees, or an s3://… or gs://… URL."
        raise InvalidInput(
            [Problem(p.file, p.key, f"{p.found} (on {host})", p.expected, fix) for p in error.problems]
        ) from None


def _unseen(address: str, host: str, what: str) -> InvalidInput:
    kind = "a URL" if is_url(address) else "a folder"
    fix = "Give a folder that every node has mounted, or an s3://… or gs://… URL, by --storage or TUNE_SRGAN_STORAGE."
    return InvalidInput(
        [Problem(address, "storage", f"{kind} that {host} does not share ({what})", "one that all nodes share", fix)]
    )


def _on(node: str, work: Callable[..., Any], *arguments: object) -> Any:
    place = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, max_retries=0)(work).options(scheduling_strategy=place).remote(*arguments)


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]] if ray.is_initialized() else []


def _fits(resources: dict[str, float], wanted: Resources) -> int:
    """How many trials a node with these resources holds."""
    held = [resources.get("CPU", 0) / wanted.cpus]
    if wanted.gpus >= 1:
        held.append(resources.get("GPU", 0) / wanted.gpus)
    elif wanted.gpus:
        held.append(resources.get("GPU", 0) * math.floor(1 / wanted.gpus + 1e-9))  # none lies across two GPUs
    return math.floor(min(held) + 1e-9)


@dataclass(frozen=True)
class Growth:
    """How a cluster may grow: its kinds of nodes, how many of each at most, and how many in all."""

    kinds: list[tuple[dict[str, float], int]]
    nodes: int

    def holds(self, wanted: Resources) -> int:
        """How many trials it holds at its largest, made of the nodes that hold most."""
        left, held = self.nodes, 0
        for fits, count in sorted(((_fits(resources, wanted), count) for resources, count in self.kinds), reverse=True):
            held, left = held + fits * min(left, count), left - min(left, count)
        return held


def growth_of(config: Any) -> Growth:
    """By a cluster's file, as Ray's launcher has completed it; none where it says nothing of that kind."""
    try:
        most = int(config["max_workers"])
        types = [kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]]
        return Growth([(dict(kind.get("resources", {})), int(kind.get("max_workers", most))) for kind in types], most)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Growth([], 0)


def _growth() -> Growth:
    """Of the cluster whose head this machine is, where Ray's launcher started it."""
    file = Path(BOOTSTRAP).expanduser()
    if not file.exists() or not ray.is_initialized() or _is_ours():
        return Growth([], 0)
    own = ray.get_runtime_context().get_node_id()
    on_head = any(node["NodeID"] == own and HEAD in node["Resources"] for node in _nodes())
    return growth_of(yaml.safe_load(file.read_text(encoding="utf-8"))) if on_head else Growth([], 0)


def _is_ours() -> bool:
    """Whether this process started the cluster: then no other node will come."""
    node = ray._private.worker._global_node
    return bool(node and node.is_head())
