"""Is a search space solved beforehand? Train random configurations of it and write what became of each.

    python benchmarks/random_study.py search_spaces/quickstart.yaml --trials 64 --out benchmarks/random_quickstart.csv

Uniform draws from the study's own ranges (log where the range says so), one thread a training; needs neither Ray nor
Optuna. Rows appear in the order in which trainings end; a second call with the same file goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from trainables.balance import Ruler, judge, nash_cost
from trainables.configuration import build_configuration
from trainables.imagery import load_imagery
from trainables.state import State
from trainables.trainer import Diverged, outcome, pick_device, train
from tune_srgan.study.loading import load_study
from tune_srgan.study.settings import Study
from tune_srgan.study.space import Parameter, Value

FIGURES = ["end", "steps_to_nash", "nash_cost", "gap", "exploitability", "trained_steps", "seconds", "readings"]


def train_one(job: tuple[Study, int, dict[str, Value], str | None]) -> dict[str, Any]:
    """A whole training, to the balance or to its last step."""
    study, number, values, imagery_file = job
    configuration = study.configuration(values)
    if imagery_file is not None:
        nested = configuration.model_dump()
        nested["Data"]["path"] = imagery_file
        configuration = build_configuration(nested, "benchmark", Path())
    began = time.perf_counter()
    device = pick_device(configuration)
    state = State(configuration, device)
    try:
        for _ in train(state, load_imagery(configuration, device)):
            pass
        result = outcome(state).as_dict()
    except Diverged:
        result = {"end": "diverged"}
    verdict = judge(state.readings, Ruler.of(configuration))
    marks = "".join("#" if reading["nash/balanced"] else "." for reading in state.readings)
    row = {"trial": number, **values, "end": result["end"], "steps_to_nash": verdict.steps_to_nash}
    row |= {"gap": f"{verdict.gap:.4f}", "nash_cost": round(nash_cost(verdict, study.max_steps), 1)}
    row |= {"exploitability": result.get("exploitability"), "trained_steps": state.step}
    return row | {"seconds": round(time.perf_counter() - began, 1), "readings": marks}


def summarise(rows: list[dict[str, Any]], space: dict[str, Parameter]) -> None:
    """Print the share that reached the balance, over all and over thirds of each range."""
    reached = [row for row in rows if row["end"] == "balanced"]
    steps = sorted(int(row["steps_to_nash"]) for row in reached)
    print(f"{len(reached)} of {len(rows)} random configurations reached the balance", end="")
    print(f"; steps_to_nash {steps[0]} to {steps[-1]}, median {np.median(steps):.0f}" if steps else "")
    for key in space:
        ordered = sorted(rows, key=lambda row: float(row[key]))
        thirds = [part for part in np.array_split(np.arange(len(ordered)), 3) if len(part)]
        told = []
        for part in thirds:
            chosen = [ordered[index] for index in part]
            ends = f"{float(chosen[0][key]):.3g}–{float(chosen[-1][key]):.3g}"
            told.append(f"{ends}: {sum(row['end'] == 'balanced' for row in chosen)}/{len(chosen)}")
        print(f"  {key}: " + ", ".join(told))


def main() -> None:
    """Parse, train, write, summarise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--seed", type=int, default=12345)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--imagery", help="the same imagery in another file, as .npz where rasterio is missing")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    study, _ = load_study(options.study)
    random = np.random.default_rng(options.seed)
    jobs = []
    for number in range(options.trials):
        values = {key: parameter.at(random.random()) for key, parameter in study.space.items()}
        jobs.append((study, number, values, options.imagery))
    rows: list[dict[str, Any]] = []
    if options.out.exists():
        with options.out.open(newline="") as file:
            rows = list(csv.DictReader(file))
    known = {int(row["trial"]) for row in rows}
    jobs = [job for job in jobs if job[1] not in known]
    print(
        f"{len(jobs)} trainings on {platform.processor() or platform.machine()}, torch {torch.__version__}", flush=True
    )
    with (
        options.out.open("a", newline="") as file,
        multiprocessing.get_context("spawn").Pool(options.processes) as pool,
    ):
        writer = csv.DictWriter(file, ["trial", *study.space, *FIGURES])
        if not rows:
            writer.writeheader()
        for row in pool.imap_unordered(train_one, jobs):
            writer.writerow(row)
            file.flush()
            rows.append(row)
            print(f"trial {row['trial']}: {row['end']} {row['steps_to_nash'] or ''}", flush=True)
    summarise(rows, study.space)


if __name__ == "__main__":
    main()
