"""Record real learning curves: whole trainings of a Latin hypercube over a study's space, or of all of a grid.

    python benchmarks/record_curves.py STUDY.yaml --folder FOLDER [--cube 1 | --grid] [--scene SCENE] [--minutes 8]
        [--out TABLE.parquet]

Every training goes to its last step; a reader judges its readings by any ruler. It resumes: a second call with the same
folder trains what is missing, and `--out` writes what is there to the table, beside what it holds. On a GPU the workers
share it through CUDA MPS where that can be started, and several GPUs are shared out. A worker takes trainings with one
warm-up and one seed, the longest pretraining first, and the others start from its snapshots.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from trainables.imagery import load_imagery
from trainables.responses import best_response
from trainables.schedules import g_warmup
from trainables.schema import Configuration
from trainables.state import State
from trainables.trainer import Diverged, pick_device, train
from trainables.worth import worth_of
from tune_srgan.cluster import mps
from tune_srgan.search.sharing import PRETRAIN, SharedPretraining, Snapshots, points_of, values_in_pretraining
from tune_srgan.store.account import step_seconds_of
from tune_srgan.store.curves import METADATA, metadata_of
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
Numbered = tuple[int, dict[str, Value]]  # a configuration of the hypercube
COLUMNS = (*FIGURES, "rate_d", "rate_g")  # the last two as shares of the configured rates: the plateau factors


def configurations(study: Study, points: int, cube: int = 0) -> dict[int, dict[str, Value]]:
    """A Latin hypercube over the space; the numbers of the next one go on where those of the last end."""
    draw = np.random.default_rng(cube)
    shares = {key: (draw.permutation(points) + draw.random(points)) / points for key in study.space}
    return {
        cube * points + point: {key: dimension.at(shares[key][point]) for key, dimension in study.space.items()}
        for point in range(points)
    }


def every_configuration(study: Study) -> dict[int, dict[str, Value]]:
    """All configurations of a space of choices and steps."""
    rows = itertools.product(*(parameter.values() for parameter in study.space.values()))
    return {number: dict(zip(study.space, row, strict=True)) for number, row in enumerate(rows)}


def record(job: tuple[Study, Path, str | None, int, int, list[Numbered], float]) -> int:
    """Train configurations on one seed, the longest pretraining first: the others find it; returns how many."""
    study, folder, scene, threads, seed, wanted, until = job
    done = 0
    for number, values in sorted(wanted, key=lambda item: -int(item[1][PRETRAIN])):
        file = folder / f"{number:04d}-{seed}.json"
        if file.exists() or time.time() > until:
            continue
        configuration = placed(study.configuration(values), seed, scene, threads)
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
        readings = [
            {"step": int(r["step"])}
            | {c: round(r[k], digits) for c, (k, digits) in FIGURES.items() if k in r}
            | _plateau_factors(r, configuration)
            for r in state.readings
        ]
        merits = worth_of(state, imagery).quality if end == "whole" else {}
        response = best_response(state, imagery) if end == "whole" and state.discriminator is not None else None
        pretraining, game = step_seconds_of(state.readings, configuration.Training.pretrain_steps)
        validating = statistics.median([r["time/validate_s"] for r in state.readings] or [math.nan])
        times = {"pretraining_step_s": pretraining, "game_step_s": game, "validation_s": validating}
        found = {"values": values, "end": end, "merits": merits, "exploitability": response, "readings": readings}
        kept = {"number": number, "seed": seed} | found | times
        write_atomically(file, json.dumps(kept))
        done += 1
    return done


def take_gpu(counter: Any) -> None:
    """Give a worker the GPU whose turn it is."""
    with counter.get_lock():
        counter.value += 1
        if torch.cuda.device_count():
            os.environ["CUDA_VISIBLE_DEVICES"] = str(counter.value % torch.cuda.device_count())


def shared_out(drawn: dict[int, dict[str, Value]], seeds: int, workers: int) -> list[tuple[int, list[Numbered]]]:
    """Seeds and their configurations: those of a list share their pretraining; at least a list for each worker."""
    alike: dict[tuple[object, ...], list[Numbered]] = {}
    for number, values in drawn.items():
        alike.setdefault(values_in_pretraining(values), []).append((number, values))
    parts = math.ceil(workers / (seeds * len(alike)))
    return [(seed, wanted[part::parts]) for seed in range(seeds) for wanted in alike.values() for part in range(parts)]


def placed(configuration: Configuration, seed: int, scene: str | None, threads: int) -> Configuration:
    """The same training on a seed, a scene and this machine."""
    data = configuration.Data.model_copy(update={"path": scene} if scene else {})
    training = configuration.Training.model_copy(update={"seed": seed, "threads": threads, "device": "auto"})
    return configuration.model_copy(update={"Data": data, "Training": training})


def _plateau_factors(reading: Mapping[str, float], configuration: Configuration) -> dict[str, float]:
    """What the plateau schedulers left of both rates, once there is a discriminator."""
    if "lr_discriminator" not in reading:
        return {}
    rates, warm = configuration.Optimizers, g_warmup(int(reading["step"]), configuration)
    factors = {"rate_d": reading["lr_discriminator"] / rates.optim_d_lr}
    factors["rate_g"] = reading["lr_generator"] / (rates.optim_g_lr * warm)
    return {name: round(factor, 6) for name, factor in factors.items()}


def write_table(study_file: Path, folder: Path, points: int, out: Path) -> None:
    """Add a folder's trainings to a table, one row a reading; how it was made is in the table's own metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    machine = json.loads((folder / "machine.json").read_text())
    made: dict[str, Any] = {"study": study_file.read_text(), "points": points}
    made |= {"configurations": {}, "trainings": [], "machine": {}} | (metadata_of(out) if out.exists() else {})
    known = {(training["number"], training["seed"]) for training in made["trainings"]}
    found = [json.loads(file.read_text()) for file in sorted(folder.glob("[0-9]*-*.json"))]
    new = [training for training in found if (training["number"], training["seed"]) not in known]
    columns: dict[str, list[Any]] = {name: [] for name in ("number", "seed", "step", *COLUMNS)}
    for training in new:
        for reading in training["readings"]:
            columns["number"].append(training["number"])
            columns["seed"].append(training["seed"])
            for name in ("step", *COLUMNS):
                columns[name].append(reading.get(name))
    whole_numbers = {"number": pa.int16(), "seed": pa.int8(), "step": pa.int32()}
    table = pa.table(
        {name: pa.array(values, whole_numbers.get(name, pa.float32())) for name, values in columns.items()}
    )
    if out.exists():
        table = pa.concat_tables([pq.read_table(out).replace_schema_metadata(), table])
    made["configurations"] |= {str(training["number"]): training["values"] for training in new}
    made["trainings"] += [
        {key: value for key, value in training.items() if key not in ("values", "readings")} for training in new
    ]
    for key, value in machine.items() if new else ():  # trainings of several machines name them all
        told = made["machine"].get(key, value)
        made["machine"][key] = told if value in told.split(", ") else f"{told}, {value}"
    metadata = {METADATA: json.dumps(made)}
    pq.write_table(table.replace_schema_metadata(metadata), out, compression="zstd", compression_level=19)
    print(f"{out}: {len(made['trainings'])} trainings, {table.num_rows} readings, {out.stat().st_size / 1e6:.2f} MB")


def describe_machine() -> dict[str, str]:
    """What the curves belong to."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {"device": device, "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__}


def main() -> None:
    """Train what is missing, as long as there is time; write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--scene", help="the imagery; as .npy where rasterio is missing")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--points", type=int, default=100, help="of the Latin hypercube")
    parser.add_argument("--cube", type=int, default=0, help="which one: defaults are chosen on 0, and 1 is reported")
    parser.add_argument("--grid", action="store_true", help="every configuration of a space of choices and steps")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    study, _ = load_study(chosen.study)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    if not (chosen.folder / "machine.json").exists():
        write_atomically(chosen.folder / "machine.json", json.dumps(describe_machine()))
    until = time.time() + 60 * chosen.minutes
    drawn = every_configuration(study) if chosen.grid else configurations(study, chosen.points, chosen.cube)
    points = len(drawn)
    jobs = [
        (study, chosen.folder, chosen.scene, 1, seed, wanted, until)
        for seed, wanted in shared_out(drawn, chosen.seeds, chosen.workers)
    ]
    if torch.cuda.is_available() and chosen.workers > 1:
        mps.join()  # before the workers start, which inherit it
    began, done = time.perf_counter(), 0
    context = multiprocessing.get_context("spawn")
    with context.Pool(chosen.workers, take_gpu, (context.Value("i", 0),)) as pool:
        for count in pool.imap_unordered(record, jobs):
            done += count
            print(f"{done} trainings in {time.perf_counter() - began:.0f} s", flush=True)
    if chosen.out:
        write_table(chosen.study, chosen.folder, points, chosen.out)


if __name__ == "__main__":
    main()
