"""The nodes of a Ray cluster: how many trials they hold now and may hold later, and what is done on them."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainables.errors import InvalidInput, Problem
from tune_srgan.cluster.connection import connect
from tune_srgan.study.settings import Resources, Study

BOOTSTRAP = "~/ray_bootstrap_config.yaml"  # where Ray's launcher leaves a cluster's file on its head
HEAD = "node:__internal_head__"  # a resource that Ray gives to the head alone
CLOSED_S = 3600.0  # a node that is closed takes nothing for so long


def slots(study: Study) -> int:
    """Return how many trials may run at once: those that fit on the nodes that are there, or may come; at least one.

    All of them are asked for at once, so that a cluster that grows does so to its maximum. One clear error where no
    node can ever hold a trial, or where nobody knows how many nodes may come.
    """
    wanted, nodes, growth = study.resources, alive_nodes(), _growth()
    held = max(sum(capacity(node["Resources"], wanted) for node in nodes), growth.holds(wanted))
    if held:
        return wanted.concurrent or held
    if growth.kinds or _is_ours():
        kinds = [node["Resources"] for node in nodes] + [resources for resources, _ in growth.kinds]
        gpus, cpus = max((resources.get("GPU", 0), resources.get("CPU", 0)) for resources in kinds)
        found = f"{wanted.cpus:g} CPU(s) and {wanted.gpus:g} GPU(s) for a trial"
        expected = f"what a node holds, {cpus:g} and {gpus:g} at most"
        fix = "Ask for less (`resources: {gpus: 0}` trains on CPUs), or join a larger cluster."
        raise InvalidInput([Problem(study.study, "resources", found, expected, fix)])
    if wanted.concurrent:
        return wanted.concurrent
    found = "a cluster without a node for a trial, that does not say how many may come"
    fix = "Give --concurrent: how many trials it holds at once at its largest."
    raise InvalidInput([Problem(study.study, "resources.concurrent", found, "a number", fix)])


def has_gpus() -> bool:
    """Tell whether a node has a GPU, or one that may come does: a cluster grows from none."""
    kinds = [node["Resources"] for node in alive_nodes()] + [resources for resources, _ in _growth().kinds]
    return any(resources.get("GPU", 0) >= 1 for resources in kinds)


def has_others(study: Study) -> bool:
    """Tell whether a trial that loses its node finds another."""
    fitting = sum(capacity(node["Resources"], study.resources) > 0 for node in alive_nodes())
    return fitting > 1 or _growth().holds(study.resources) > 0


def whereabouts() -> tuple[str | None, set[str]]:
    """Return the node that this process is on, and all that are alive; neither without Ray."""
    if not ray.is_initialized():
        return None, set()
    return ray.get_runtime_context().get_node_id(), {node["NodeID"] for node in alive_nodes()}


def close_this_node(reason: str) -> None:
    """Keep all trials from this machine's node from now on; where Ray cannot be told, nothing changes."""
    with contextlib.suppress(Exception):
        if not ray.is_initialized():
            connect(None)
        from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled: its stub leaves this out
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        here = ray.get_runtime_context()
        until, why = int(1000 * (time.time() + CLOSED_S)), DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
        GcsClient(address=here.gcs_address).drain_node(here.get_node_id(), why, reason, until)


def on_drivers_node() -> NodeAffinitySchedulingStrategy:
    """Say where an actor lives that must not go away with a worker's node."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def on_gpu_nodes(work: Callable[[], object]) -> None:
    """Do something on every node with a GPU; a cluster that is gone has none left."""
    with contextlib.suppress(Exception):
        there = [node["NodeID"] for node in alive_nodes() if node["Resources"].get("GPU")]
        ray.get([on_node(node, work) for node in there], timeout=60)


def on_node(node: str, work: Callable[..., Any], *arguments: object) -> Any:
    """Start work on a node, by its id; Ray's reference to what it returns."""
    place = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, max_retries=0)(work).options(scheduling_strategy=place).remote(*arguments)


def alive_nodes() -> list[dict[str, Any]]:
    """Return Ray's own description of every node that is alive; none without Ray."""
    return [node for node in ray.nodes() if node["Alive"]] if ray.is_initialized() else []


def capacity(resources: dict[str, float], wanted: Resources) -> int:
    """Return how many trials a node with these resources holds at once."""
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
        """Return how many trials it holds at its largest, made of the nodes that hold most."""
        left, held = self.nodes, 0
        for fits, count in sorted(
            ((capacity(resources, wanted), count) for resources, count in self.kinds), reverse=True
        ):
            held, left = held + fits * min(left, count), left - min(left, count)
        return held


def growth_of(config: Any) -> Growth:
    """Read it from a cluster's file, as Ray's launcher has completed it; none where it says nothing of that kind."""
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
    on_head = any(node["NodeID"] == own and HEAD in node["Resources"] for node in alive_nodes())
    return growth_of(yaml.safe_load(file.read_text(encoding="utf-8"))) if on_head else Growth([], 0)


def _is_ours() -> bool:
    """Whether this process started the cluster: then no other node will come."""
    from ray._private import worker

    node = worker._global_node
    return bool(node and node.is_head())
