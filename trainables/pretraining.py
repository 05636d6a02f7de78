"""The stretch of a training that others may share: G alone, before the game; what determines it, and its snapshot.

Two trainings that differ only in what acts later walk the same path until the shorter pretraining ends.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables.checkpoints import digest_of
from trainables.dotted import flatten
from trainables.imagery import Imagery
from trainables.schema import Configuration, acts_later
from trainables.state import State

PARTS = ("generator", "optimizer_g", "averaged")


def fingerprint(configuration: Configuration, imagery: Imagery, device: torch.device) -> str:
    """Hash all that determines a pretraining's path to the bit: configuration, imagery, code, machine."""
    settings = {key: value for key, value in flatten(configuration.model_dump()).items() if not acts_later(key)}
    if configuration.Model.begins_from is not None:  # its content counts, not where it lies
        settings[configuration.Model.begins_from[0]] = digest_of(configuration)
    determined = [settings, imagery.digest, _code(), torch.__version__, np.__version__, *_machine(device)]
    return hashlib.sha256(json.dumps(determined, sort_keys=True, default=str).encode()).hexdigest()


def pack(state: State) -> bytes:
    """Return what a training that walks the same path needs: G, its average, its optimiser, the readings so far."""
    content = state.content()
    kept: dict[str, Any] = {name: content[name] for name in PARTS if name in content}
    kept |= {name: content[name] for name in ("step", "readings", "scale", "epoch")}
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    return buffer.getvalue()


def unpack(content: bytes, configuration: Configuration, device: torch.device) -> State:
    """Return the state that `pack` was given, for a configuration of the same fingerprint."""
    parts = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    return State(configuration, device, begins=False).take(parts)


@cache
def _code() -> str:
    """A hash of the code that trains."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.relative_to(Path(__file__).parent).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def model_of(device: torch.device) -> str:
    """Return the GPU's or the processor's model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def _machine(device: torch.device) -> list[Any]:
    """What of a machine decides the last bits."""
    if device.type == "cuda":
        versions: list[Any] = [torch.version.cuda, torch.backends.cudnn.version()]
        return [model_of(device), torch.cuda.get_device_capability(device), *versions]
    return [model_of(device), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]


@cache
def _processor() -> str:
    """The processor's model, by which libraries choose their kernels."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
