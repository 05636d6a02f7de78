"""What a tracker that misbehaves costs a study: two whole `tune.py run`s at once, one with a tracker and one without.

    python benchmarks/tracking_cost.py [--rounds 2] [--trials 4] [--whole] [--out tracking_cost.json]

Both train the same, one trial at a time, each on one core of its own with all that belongs to it, and what else this
machine does slows both; the next round swaps the cores. A server on loopback (the tests' own) answers, takes ten
seconds for each request, hangs, or refuses. The figure is the ratio of wall-clock times, from the command to its last
line; a tracker's start takes seconds of processor time, so that short trainings like these show it most.
`--whole`: as a study is run, with two trials at once on both cores, so one after the other, in turns.
Linux, two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.support.wandb_server import API_KEY, WandbServer  # noqa: E402

CASES: dict[str, dict[str, Any]] = {
    "answers": {"mode": "ok"},
    "10 s a request": {"mode": "slow", "delay": 10.0},
    "hangs": {"mode": "hang"},
    "refuses": {"mode": "refuse"},
}


def run(server: WandbServer | None, trials: int, core: int | None) -> float:
    """Seconds of one study, on one core or on all."""
    document = yaml.safe_load((ROOT / "search_spaces/quickstart.yaml").read_text())
    off = {"enabled": False}
    document["search"] = {"trials": trials, "sampler": "random", "capping": off, "sharing": off}
    document |= {"study": "cost", "confirm": {"top": 0}, "resources": {"concurrent": 2 if core is None else 1}}
    document["training"] = str(ROOT / "search_spaces" / document["training"])
    document["tracking"] = {"wandb": {"mode": "disabled" if server is None else "online"}}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    if server is not None:
        environment |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": API_KEY, "WANDB_SILENT": "true"}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        (Path(folder) / "cost.yaml").write_text(yaml.safe_dump(document))
        on_core = [] if core is None else ["taskset", "-c", str(core)]
        command = [*on_core, sys.executable, str(ROOT / "tune.py"), "run", "cost.yaml"]
        began = time.perf_counter()
        subprocess.run([*command, "--address", "local"], cwd=folder, env=environment, check=True, capture_output=True)
        return time.perf_counter() - began


def in_turns(case: str, trials: int, turn: int) -> tuple[float, float]:
    """Seconds with the tracker of a case and without one, one after the other."""
    server = WandbServer(**CASES[case])
    order = [server, None] if turn % 2 else [None, server]
    seconds = {tracked is not None: run(tracked, trials, None) for tracked in order}
    server.stop()
    return seconds[True], seconds[False]


def pair(case: str, trials: int, turn: int) -> tuple[float, float]:
    """Seconds with the tracker of a case and without one, at the same time."""
    server, seconds = WandbServer(**CASES[case]), {}
    cores = sorted(os.sched_getaffinity(0))[:2]

    def measure(name: str, tracked: WandbServer | None, core: int) -> None:
        seconds[name] = run(tracked, trials, core)

    both = [
        threading.Thread(target=measure, args=("with", server, cores[turn % 2])),
        threading.Thread(target=measure, args=("without", None, cores[1 - turn % 2])),
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    server.stop()
    return seconds["with"], seconds["without"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--whole", action="store_true", help="on all cores, two trials at once")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {case: [] for case in chosen.cases}
    for turn in range(chosen.rounds):
        for case in chosen.cases:
            found[case].append((in_turns if chosen.whole else pair)(case, chosen.trials, turn))
            tracked, alone = found[case][-1]
            print(
                f"round {turn + 1}  {case:15s} {tracked:6.1f} s against {alone:6.1f} s: {tracked / alone:.3f}",
                flush=True,
            )
    for case, seconds in found.items():
        print(f"{case:15s} {statistics.geometric_mean(a / b for a, b in seconds):.3f} of the time without a tracker")
    if chosen.out:
        result = {"date": time.strftime("%Y-%m-%d"), "whole": chosen.whole, "trials": chosen.trials, "seconds": found}
        chosen.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
