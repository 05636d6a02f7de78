"""A search for a front, beside the whole grid it searched.

    python benchmarks/front.py [--study FOLDER]

`curves_front.parquet` holds every configuration of `front.yaml`, trained to its last step (record_curves.py --grid).
With a study of front.yaml as it ran on the same device: whether each of its trials is what the grid's training is,
whether anything that it ended early was kept in the grid, and whether its front is the grid's. Always: replays of
shorter searches over the grid, and how many of the front's points each sampler finds. Saves front.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from trainables.balance import judge, nash_cost
from trainables.merits import END, QUALITY
from trainables.outcome import End
from tune_srgan.search.capping import why_end
from tune_srgan.search.front import SHOWN, front_of
from tune_srgan.search.searcher import Searcher
from tune_srgan.store.curves import Recorded, metadata_of, read_curves, study_of
from tune_srgan.store.records import TrialRecord, read_records
from tune_srgan.store.studies import find_study, study_in
from tune_srgan.store.trial_folder import TrialFolder
from tune_srgan.study.settings import Study
from tune_srgan.study.space import Point, point

HERE = Path(__file__).parent
SAMPLERS = {"tpe": 20, "nsgaii": 20, "gp": 5, "random": 20}  # and how often each is replayed
LENGTHS = (24, 48, 84)  # trials of a search
STARTUP = 12


def as_a_trial(recorded: Recorded, study: Study, number: int) -> TrialRecord:
    """What a study would know of a whole training: ended by proof where no balance could be kept any more."""
    verdict, end, trained = judge(recorded.readings, recorded.ruler), None, study.max_steps
    for upto in range(1, len(recorded.readings)):
        so_far = judge(recorded.readings[:upto], recorded.ruler)
        if (why := why_end(so_far, number, None, study.search.capping)) is not None:
            end, trained = why[0], int(recorded.readings[upto - 1]["step"])
            break
    return TrialRecord(
        TrialFolder(Path(f"{number:05d}")),
        recorded.values,
        "",
        end or (End.BALANCED if verdict.kept else End.EXHAUSTED),
        int(min(verdict.earliest, study.max_steps)),
        not verdict.kept,
        verdict.gap,
        nash_cost(verdict, study.max_steps),
        trained,
        quality=recorded.made["merits"] if end is None else {},
    )


def told(study: Study, records: list[TrialRecord]) -> list[dict[str, Any]]:
    """A front, point by point; several configurations may have one point."""
    name = SHOWN.removeprefix(QUALITY)
    return [{"cost": one.cost, name: one.quality[END][name]} for one in front_of(study, records)]


def beside(study: Study, trials: list[TrialRecord], grid: dict[Point, TrialRecord]) -> dict[str, Any]:
    """How a study's trials compare with the whole trainings of the same configurations."""
    pairs = [(trial, grid[point(study.space, trial.values)]) for trial in trials]
    kept = [(one, other) for one, other in pairs if one.accepted]
    return {
        "trials": len(trials),
        "configurations": len({point(study.space, trial.values) for trial in trials}),
        "ended early": sum(trial.trained_steps < study.max_steps for trial in trials),
        "ended early and kept in the grid": sum(
            one.trained_steps < study.max_steps and other.accepted for one, other in pairs
        ),
        "kept": len(kept),
        "kept, equal in cost and image": sum(
            (one.cost, one.quality[END]) == (other.cost, other.quality[END]) for one, other in kept
        ),
        "steps": sum(trial.account["executed"] for trial in trials),
        "front": told(study, trials),
    }


def replay(study: Study, sampler: str, seed: int, trials: int, grid: dict[Point, TrialRecord]) -> list[TrialRecord]:
    """What one trial at a time finds."""
    search = study.search.model_copy(update={"sampler": sampler, "startup": STARTUP, "seed": seed, "trials": trials})
    searcher, found = Searcher(study.model_copy(update={"search": search})), []
    for number in range(trials):
        known = grid[point(study.space, searcher.propose().values)]
        record = TrialRecord(**(vars(known) | {"trial": TrialFolder(Path(f"{number:05d}"))}))
        searcher.tell(record)
        found.append(record)
    return found


def main() -> None:
    """Compare, replay, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", help="a study of front.yaml that has ended")
    chosen = parser.parse_args()
    table = HERE / "curves_front.parquet"
    made = metadata_of(table)
    study = study_of(made)
    recorded = {point(study.space, one.values): one for one in read_curves(table)}
    grid = {where: as_a_trial(one, study, number) for number, (where, one) in enumerate(recorded.items())}
    whole = told(study, list(grid.values()))
    file = HERE / "front.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    found |= {"machine": made["machine"], "configurations": len(grid), "grid": whole}
    found["kept"] = sum(one.accepted for one in grid.values())
    print(f"{len(grid)} configurations, {found['kept']} kept; the front: {whole}")
    if chosen.study:
        folder = find_study(chosen.study, None)
        own = study_in(folder)
        found["study"] = beside(own, list(read_records(own, folder.trials()).search), grid)
        print("the study:", {key: value for key, value in found["study"].items() if key != "front"})
        print("its front is the grid's:", found["study"]["front"] == whole)
    found["found"] = {}
    for sampler, times in SAMPLERS.items():
        runs = [replay(study, sampler, seed, max(LENGTHS), grid) for seed in range(times)]
        for trials in LENGTHS:
            fronts = [told(study, run[:trials]) for run in runs]
            share = [sum(one in whole for one in front) / len(whole) for front in fronts]
            found["found"].setdefault(sampler, {})[trials] = {"mean": statistics.fmean(share), "times": times}
        print(sampler, {trials: round(of["mean"], 2) for trials, of in found["found"][sampler].items()})
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
