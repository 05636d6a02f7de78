"""What several trainings on one GPU do together: total steps a second of 1, 2, 4 and 8, plain and under CUDA MPS.

    python benchmarks/packing.py [--cases S M L] [--phase game] [--out packing.json]

Each training is a process of its own, as a Ray trial is. Under MPS a daemon of this program's own is started, with
its pipes in a temporary folder, and ended again; no setting of the device is touched.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from throughput import CASES, begin, describe_machine, write_scene

AT_MOST = 8
SECONDS = 4.0


def work(case: str, phase: str, scene: Path) -> None:
    """A training that steps for as long as each line of the standard input says, and answers its steps a second."""
    state, stepper = begin(case, phase, scene)
    for losses in stepper.run(25):
        losses.rows()
    print("ready", torch.cuda.max_memory_reserved(), flush=True)
    for line in sys.stdin:
        seconds, began, first = float(line), time.perf_counter(), state.step
        while time.perf_counter() - began < seconds:
            for losses in stepper.run(state.step + 25):
                losses.rows()
        print((state.step - first) / (time.perf_counter() - began), flush=True)


@contextmanager
def mps() -> Iterator[dict[str, str]]:
    """A daemon of one's own; yields the environment of its clients."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {f"CUDA_MPS_{kind}_DIRECTORY": f"{folder}/{kind.lower()}" for kind in ("PIPE", "LOG")}
        for path in environment.values():
            Path(path).mkdir()
        everything = os.environ | environment
        subprocess.run(["nvidia-cuda-mps-control", "-d"], env=everything, check=True, timeout=30)
        try:
            yield environment
        finally:
            subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", text=True, env=everything, timeout=60)


def measure(case: str, phase: str, scene: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Total steps a second by how many trainings run at once, and the memory of one."""
    command = [sys.executable, __file__, "--worker", case, phase, str(scene)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, env=os.environ | environment, **pipes) for _ in range(AT_MOST)]
    try:
        memory = [int(worker.stdout.readline().split()[1]) for worker in workers]
        found: dict[str, Any] = {"bytes_of_one": memory[0], "steps_per_s": {}}
        together = 1
        while together <= len(workers):
            for worker in workers[:together]:
                worker.stdin.write(f"{SECONDS}\n")
                worker.stdin.flush()
            rates = [float(worker.stdout.readline()) for worker in workers[:together]]
            found["steps_per_s"][together] = sum(rates)
            together *= 2
        return found
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--phase", choices=["pretraining", "game"], default="game")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    results: dict[str, Any] = {"machine": describe_machine(), "phase": chosen.phase, "cases": {}}
    print(results["machine"])
    print(f"total steps a second, {chosen.phase}; in brackets against one training alone, without MPS")
    has_mps = shutil.which("nvidia-cuda-mps-control") is not None
    for case in chosen.cases:
        with tempfile.TemporaryDirectory() as folder:
            scene = write_scene(case, Path(folder))
            results["cases"][case] = {"plain": measure(case, chosen.phase, scene, {})}
            if has_mps:
                with mps() as environment:
                    results["cases"][case]["MPS"] = measure(case, chosen.phase, scene, environment)
        one = results["cases"][case]["plain"]["steps_per_s"][1]
        for mode, found in results["cases"][case].items():
            rates = "  ".join(f"{n}: {rate:.1f} ({rate / one:.2f}×)" for n, rate in found["steps_per_s"].items())
            print(f"{case} {mode:5s}  {rates}  {found['bytes_of_one'] / 1e9:.1f} GB each", flush=True)
        if chosen.out:
            chosen.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    else:
        main()
