"""What a cluster's other nodes see: a study's storage and imagery, looked at before a trial starts there."""

from __future__ import annotations

import contextlib
import socket
import uuid
from dataclasses import replace
from pathlib import Path

import ray

from trainables.errors import InvalidInput, Problem
from trainables.places import is_url
from tune_srgan.cluster.nodes import alive_nodes, capacity, on_node, slots
from tune_srgan.store.layout import StudyFiles
from tune_srgan.store.objects import storage_at
from tune_srgan.study.settings import Study

LOOK_S = 300.0  # what nodes may take to look at storage and imagery
LOOKS = StudyFiles.LOOK.name  # objects that come and go with a look


def look_around(study: Study, address: str) -> list[str]:
    """Let every other node that may train look at a study's storage and imagery; what each one saw.

    The driver's node was looked at before. One clear error where a node does not see what it should.
    """
    slots(study)  # there is room for a trial, or one clear error
    own = ray.get_runtime_context().get_node_id()
    nodes = [node for node in alive_nodes() if node["NodeID"] != own and capacity(node["Resources"], study.resources)]
    if not nodes:
        return []
    storage, word = storage_at(address), uuid.uuid4().hex
    asked, seen = f"{LOOKS}/{word}", []
    storage.write(asked, word.encode())
    try:
        looks = [on_node(node["NodeID"], _look, study, address, word, node["NodeID"]) for node in nodes]
        silent = ray.wait(looks, num_returns=len(looks), timeout=LOOK_S)[1]
        there = {entry.name for entry in storage.entries(LOOKS)}
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
                (Path(address) / LOOKS).rmdir()


def _look(study: Study, address: str, word: str, node: str) -> str:
    """On a node: read what the driver wrote, write, list and delete; then weights, imagery, what trials begin from."""
    import torch

    from trainables.checkpoints import open_checkpoint
    from trainables.imagery import load_imagery
    from trainables.perceptual import perceptual_of

    host = socket.gethostname()
    try:
        storage, asked = storage_at(address), f"{LOOKS}/{word}"
        if storage.read(asked) != word.encode():
            raise _unseen(address, host, "what the driver wrote is not there")
        storage.write(f"{asked}-{node}.gone", b"")
        storage.delete(f"{asked}-{node}.gone")
        storage.write(f"{asked}-{node}", b"")
        if f"{asked}-{node}" not in {entry.name for entry in storage.entries(LOOKS)}:
            raise _unseen(address, host, "what was just written is not listed")
    except OSError as error:
        raise _unseen(address, host, error.strerror or str(error)[:160]) from None
    try:
        for configuration in study.metrics():
            perceptual_of(configuration, torch.device("cpu"))
        open_checkpoint(study.lowest())
        return load_imagery(study.lowest(), torch.device("cpu")).describe()
    except InvalidInput as error:
        fix = "Give a path that every node sees, or an s3://… or gs://… URL."
        raise InvalidInput(
            [
                replace(p, found=f"{p.found} (on {host})", fix=p.fix if "perceptual" in p.key else fix)
                for p in error.problems
            ]
        ) from None


def _unseen(address: str, host: str, what: str) -> InvalidInput:
    kind = "a URL" if is_url(address) else "a folder"
    fix = "Give a folder that every node has mounted, or an s3://… or gs://… URL, by --storage or TUNE_SRGAN_STORAGE."
    return InvalidInput(
        [Problem(address, "storage", f"{kind} that {host} does not share ({what})", "one that all nodes share", fix)]
    )
