"""Where a study stands: as plain data for scripts, and printed."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from rich.console import Console

from tune_srgan.console import duration, ending
from tune_srgan.search.confirmation import in_all, left_to_do, winner
from tune_srgan.store.ending import why_still
from tune_srgan.store.records import StudyRecords, best_so_far
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import TrialFolder, read_json
from tune_srgan.study.settings import Study

BARS = "▁▂▃▄▅▆▇█"
LATELY_S = 120.0  # a trial that wrote a reading within this is at work


def standing(study: Study, folder: StudyFolder, records: StudyRecords) -> dict[str, Any]:
    """Gather trials by outcome, the incumbent and its history, what is at work, what is used, about what is left."""
    every, still = records.every, why_still(folder, left_to_do(study, records))
    ended = [record for record in every if record.end is not None]
    best = winner(study, records)
    running = [
        {"trial": record.trial.name, "step": record.trained_steps}
        for record in every
        if still is None and record.end is None and _at_work(record.trial)
    ]
    wanted = in_all(study, records)
    per_trial = sum(record.seconds for record in ended) / len(ended) if ended else None
    left = max(0, wanted - len(ended))
    at_once = max(1, len(running), study.resources.concurrent or 1)
    return {
        "study": study.study,
        "state": "running" if still is None else still.why.value,
        "stopped": "" if still is None else still.text,
        "trials": dict(Counter(record.label for record in records.search)),
        "confirmations": dict(Counter(record.label for record in records.confirmations)),
        "wanted": {"trials": study.search.trials, "in_all": wanted},
        "best": None if best is None else {"trial": best.number, "steps": best.steps, "cost": best.cost},
        "best_so_far": [None if one is None else one.cost for one in best_so_far(records.search)],
        "running": running,
        "gpus_in_use": len(running) * study.resources.gpus,
        "steps": sum(record.account["executed"] for record in every),
        "steps_left_at_most": left * study.max_steps,
        "seconds": (read_json(folder.clock_file) or {}).get("seconds", 0.0),
        "seconds_left_about": None if per_trial is None else per_trial * left / at_once,
    }


def _at_work(trial: TrialFolder) -> bool:
    """Whether a trial that has not ended is trained now, by when it last wrote a reading."""
    file = trial.readings_file
    return not trial.is_paused() and file.exists() and time.time() - file.stat().st_mtime < LATELY_S


def print_status(study: Study, folder: StudyFolder, records: StudyRecords, console: Console) -> None:
    """Print a line a trial, the best, the curve of the best so far, and what is used and left."""
    for record in records.every:
        console.print(f"trial {record.trial.name:>3s}  {ending(record)}", highlight=False)
    stands = standing(study, folder, records)
    best = stands["best"]
    text = f"trial {best['trial']}, in balance from step {best['steps']}" if best else "none"
    ended = records.ended()
    console.print(f"{ended} of {study.search.trials} trials ended; best so far: {text}.", highlight=False)
    _print_standing(stands, console)


def _print_standing(stands: dict[str, Any], console: Console) -> None:
    known = [cost for cost in stands["best_so_far"] if cost is not None]
    if known:
        low, high = min(known), max(known)
        curve = "".join(
            "·" if cost is None else BARS[round((cost - low) / (high - low or 1) * (len(BARS) - 1))]
            for cost in stands["best_so_far"]
        )
        console.print(f"best so far by trial: {curve}  {high:g} to {low:g}", highlight=False)
    at_work = ", ".join(f"{one['trial']} at step {one['step']}" for one in stands["running"]) or "none"
    gpus = f" on {stands['gpus_in_use']:g} GPU(s)" if stands["gpus_in_use"] else ""
    left = stands["seconds_left_about"]
    stopped = f": {stands['stopped']}" if stands["stopped"] else ""
    console.print(f"the study: {stands['state']}{stopped}; at work: {at_work}{gpus}", highlight=False)
    console.print(
        f"{stands['steps']} steps in {duration(stands['seconds'])}; at most {stands['steps_left_at_most']} steps left"
        + (f", about {duration(left)}" if left else ""),
        highlight=False,
    )
