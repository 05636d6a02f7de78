"""What a tracker that misbehaves costs a study: whole `tune.py run`s beside the same without a tracker, by turns.

    python benchmarks/tracking_cost.py [--rounds 3] [--trials 4] [--out tracking_cost.json]

Trainings of the quickstart, one at a time, the same in every run; a server on loopback (the tests' own) answers, takes
ten seconds for each request, hangs, or refuses. The figure is the ratio of wall-clock times within a round, from the
command to its last line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.wandb_server import API_KEY, WandbServer  # noqa: E402

CASES: dict[str, dict[str, Any] | None] = {
    "none": None,
    "answers": {"mode": "ok"},
    "10 s a request": {"mode": "slow", "delay": 10.0},
    "hangs": {"mode": "hang"},
    "refuses": {"mode": "refuse"},
}


def run(case: str, trials: int) -> float:
    """Seconds of one study."""
    behaviour = CASES[case]
    document = yaml.safe_load((ROOT / "search_spaces/quickstart.yaml").read_text())
    off = {"enabled": False}
    document["search"] = {"trials": trials, "sampler": "random", "capping": off, "sharing": off}
    document |= {"study": "cost", "confirm": {"top": 0}, "resources": {"concurrent": 1}}
    document["training"] = str(ROOT / "search_spaces" / document["training"])
    document["tracking"] = {"wandb": {"mode": "disabled" if behaviour is None else "online"}}
    server = WandbServer(**behaviour) if behaviour is not None else None
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    if server is not None:
        environment |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": API_KEY, "WANDB_SILENT": "true"}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        (Path(folder) / "cost.yaml").write_text(yaml.safe_dump(document))
        command = [sys.executable, str(ROOT / "tune.py"), "run", "cost.yaml", "--address", "local"]
        began = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        seconds = time.perf_counter() - began
    if server is not None:
        server.stop()
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    names = ["none", *(case for case in chosen.cases if case != "none")]
    found: dict[str, list[float]] = {case: [] for case in names}
    for turn in range(chosen.rounds):
        for case in names if turn % 2 == 0 else reversed(names):
            found[case].append(run(case, chosen.trials))
            print(f"round {turn + 1}  {case:15s} {found[case][-1]:6.1f} s", flush=True)
    ratios = {case: [s / none for s, none in zip(found[case], found["none"], strict=True)] for case in names}
    for case in names:
        print(f"{case:15s} {statistics.median(ratios[case]):.3f} of the time without a tracker  {ratios[case]}")
    if chosen.out:
        result = {"date": time.strftime("%Y-%m-%d"), "trials": chosen.trials, "seconds": found, "ratios": ratios}
        chosen.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
