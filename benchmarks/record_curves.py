"""Record real learning curves: whole trainings over a grid of pretraining lengths crossed with a Latin hypercube.

    python benchmarks/record_curves.py --scene SCENE --folder FOLDER [--minutes 8] [--workers 8] [--out curves.parquet]

Every training goes to its last step, whatever it reaches: the ruler is set so that no window is ever certified, and a
reader judges the figures by any other. It resumes: a second call with the same folder trains what is missing, and
`--out` writes the table of all that is there. On a GPU the workers share it through CUDA MPS where that can be
started. Pretraining is shared between the lengths, by the project's own snapshots.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from trainables.imagery import load_imagery
from trainables.schema import Configuration
from trainables.state import State
from trainables.trainer import Diverged, pick_device, train
from tune_srgan.cluster import mps
from tune_srgan.search.sharing import PRETRAIN, SharedPretraining, Snapshots, points_of
from tune_srgan.store.account import step_seconds_of
from tune_srgan.store.objects import storage_at, write_atomically
from tune_srgan.study.loading import load_study
from tune_srgan.study.settings import Study
from tune_srgan.study.space import Value

HERE = Path(__file__).resolve().parent
FIGURES = {  # column: a reading's key, and the digits kept
    "p_y": ("nash/p_y", 4),
    "p_g": ("nash/p_g", 4),
    "rank": ("nash/rank", 4),
    "control": ("nash/control", 4),
    "psnr": ("nash/psnr", 3),
    "psnr_bicubic": ("nash/psnr_bicubic", 3),
}
COLUMNS = (*FIGURES, "rate_d")  # the last one a share of the configured rate, since its floor is one


def configurations(study: Study, points: int, seed: int = 0) -> list[dict[str, Value]]:
    """All lengths of pretraining, crossed with `points` of a Latin hypercube over the other keys."""
    lengths = study.space[PRETRAIN]
    low, high = lengths.bounds
    others = [key for key in study.space if key != PRETRAIN]
    draw = np.random.default_rng(seed)
    shares = {key: (draw.permutation(points) + draw.random(points)) / points for key in others}
    return [
        {PRETRAIN: length} | {key: study.space[key].at(shares[key][point]) for key in others}
        for point in range(points)
        for length in range(int(low), int(high) + 1, int(lengths.step or 1))
    ]


def record(job: tuple[Study, Path, str | None, int, int, list[tuple[int, dict[str, Value]]], float]) -> int:
    """Train one point's lengths on one seed, the longest first, so that the others find its pretraining; how many."""
    study, folder, scene, threads, seed, wanted, until = job
    done = 0
    for number, values in sorted(wanted, key=lambda item: -int(item[1][PRETRAIN])):
        file = folder / f"{number:04d}-{seed}.json"
        if file.exists() or time.time() > until:
            continue
        configuration = whole(study.configuration(values), seed, scene, threads)
        device = pick_device(configuration)
        imagery = load_imagery(configuration, device)
        snapshots = Snapshots(storage_at(str(folder / "pretraining")), 50e9, print)
        shared = SharedPretraining.of(snapshots, points_of(study), configuration, imagery, device)
        state = shared.start(configuration, device) or State(configuration, device)
        end = "whole"
        try:
            for _ in train(state, imagery):
                shared.offer(state)
        except Diverged as error:
            end = str(error)
        configured = configuration.Optimizers.optim_d_lr
        readings = [
            {"step": int(r["step"])}
            | {c: round(r[k], digits) for c, (k, digits) in FIGURES.items() if k in r}
            | ({"rate_d": round(r["lr_discriminator"] / configured, 6)} if "lr_discriminator" in r else {})
            for r in state.readings
        ]
        pretraining, game = step_seconds_of(state.readings, configuration.Training.pretrain_steps)
        validating = statistics.median([r["time/validate_s"] for r in state.readings] or [math.nan])
        times = {"pretraining_step_s": pretraining, "game_step_s": game, "validation_s": validating}
        kept = {"number": number, "seed": seed, "values": values, "end": end, "readings": readings} | times
        write_atomically(file, json.dumps(kept))
        done += 1
    return done


def whole(configuration: Configuration, seed: int, scene: str | None, threads: int) -> Configuration:
    """The same training on a seed, to its last step: no reading is balanced to within so little."""
    data = configuration.Data.model_copy(update={"path": scene} if scene else {})
    training = configuration.Training.model_copy(update={"seed": seed, "threads": threads, "device": "auto"})
    nash = configuration.Nash.model_copy(update={"probability_tolerance": 1e-12})
    return configuration.model_copy(update={"Data": data, "Training": training, "Nash": nash})


def write_table(study_file: Path, folder: Path, out: Path) -> None:
    """One row a reading, sorted; how it was made is in the table's own metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = [json.loads(file.read_text()) for file in sorted(folder.glob("[0-9]*-*.json"))]
    columns: dict[str, list[Any]] = {name: [] for name in ("number", "seed", "step", *COLUMNS)}
    for training in found:
        for reading in training["readings"]:
            columns["number"].append(training["number"])
            columns["seed"].append(training["seed"])
            for name in ("step", *COLUMNS):
                columns[name].append(reading.get(name))
    whole_numbers = {"number": pa.int16(), "seed": pa.int8(), "step": pa.int32()}
    table = pa.table(
        {name: pa.array(values, whole_numbers.get(name, pa.float32())) for name, values in columns.items()}
    )
    trainings = [
        {key: training[key] for key in ("number", "seed", "end", "pretraining_step_s", "game_step_s", "validation_s")}
        for training in found
    ]
    made = {
        "study": study_file.read_text(),
        "configurations": {str(training["number"]): training["values"] for training in found},
        "trainings": trainings,
        "machine": json.loads((folder / "machine.json").read_text()),
    }
    metadata = {"curves": json.dumps(made)}
    pq.write_table(table.replace_schema_metadata(metadata), out, compression="zstd", compression_level=19)
    print(f"{out}: {len(found)} trainings, {table.num_rows} readings, {out.stat().st_size / 1e6:.2f} MB")


def describe_machine() -> dict[str, str]:
    """What the curves belong to."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {"device": device, "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__}


def main() -> None:
    """Train what is missing, as long as there is time; write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=HERE / "curves.yaml")
    parser.add_argument("--scene", help="the imagery; as .npy where rasterio is missing")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--points", type=int, default=20, help="of the Latin hypercube")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    study, _ = load_study(chosen.study)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    if not (chosen.folder / "machine.json").exists():
        write_atomically(chosen.folder / "machine.json", json.dumps(describe_machine()))
    numbered = list(enumerate(configurations(study, chosen.points)))
    until, lengths = time.time() + 60 * chosen.minutes, len(numbered) // chosen.points
    jobs = [
        (study, chosen.folder, chosen.scene, 1, seed, numbered[point * lengths : (point + 1) * lengths], until)
        for seed in range(chosen.seeds)
        for point in range(chosen.points)
    ]
    if torch.cuda.is_available() and chosen.workers > 1:
        mps.join()  # before the workers start, which inherit it
    began, done = time.perf_counter(), 0
    with multiprocessing.get_context("spawn").Pool(chosen.workers) as pool:
        for count in pool.imap_unordered(record, jobs):
            done += count
            print(f"{done} trainings in {time.perf_counter() - began:.0f} s", flush=True)
    if chosen.out:
        write_table(chosen.study, chosen.folder, chosen.out)


if __name__ == "__main__":
    main()
