"""What a person wants to know of a study, as plain data: gathered once from the records, then drawn in any format.

Figures that are not finite are None, so that the whole is JSON.
"""

from __future__ import annotations

import base64
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainables.balance import CONDITIONS, Ruler, excesses
from trainables.configuration import Configuration
from tune_srgan.confirmation import TOLD_APART, Confirmed, compared, confirmed, winner_of
from tune_srgan.live import duration
from tune_srgan.records import (
    TRY_FIRST,
    UNFINISHED,
    StudyFolder,
    TrialFolder,
    TrialRecord,
    account_of_study,
    best_so_far,
    read_json,
)
from tune_srgan.study import Study, Value
from tune_srgan.tracking import complaints, sync_commands

SHORT = {
    "Schedulers.g_warmup_steps": "warm-up",
    "Training.g_pretrain_steps": "pretraining",
    "Training.Losses.adv_loss_beta": "weight",
    "Schedulers.patience_g": "patience G",
    "Schedulers.patience_d": "patience D",
    "Training.adv_loss_ramp_steps": "ramp",
    "Optimizers.optim_g_lr": "rate G",
    "Optimizers.optim_d_lr": "rate D",
}
CURVES = {
    "p_y": "nash/p_y",
    "p_g": "nash/p_g",
    "rank": "nash/rank",
    "control": "nash/control",
    "psnr": "nash/psnr",
    "psnr_bicubic": "nash/psnr_bicubic",
    "rate_g": "lr_generator",
    "rate_d": "lr_discriminator",
    "weight": "training/adv_loss_weight",
    "cuts_g": "training/plateau_cuts_g",
    "cuts_d": "training/plateau_cuts_d",
    "balanced": "nash/balanced",
}
PROBES = {
    "nash/probe/warm_100": "warm, 100 steps",
    "nash/probe/warm_300": "warm, 300 steps",
    "nash/probe/fresh_300": "fresh, 300 steps",
    "nash/probe/fresh_300_bicubic": "fresh against bicubic",
    "nash/probe/fresh_300_real": "fresh against real",
}
LIMITS = (
    "“No balance” can be proved by one better discriminator, “balance” cannot: it holds against this discriminator "
    "and, as its exploitability shows, not against every better one.",
    "One seed is an anecdote: rely on what was confirmed on further seeds, over the whole training.",
)
Importance = Callable[[Study, Sequence[TrialRecord]], dict[str, tuple[float, float, float]]]


def short(key: str) -> str:
    """A searched key as a column's head."""
    return SHORT.get(key, key.rpartition(".")[2])


def review(study: Study, folder: StudyFolder, importance: Importance = lambda *_: {}) -> dict[str, Any]:
    """The whole review of a study, as far as it has come; `importance` of the settings takes Optuna."""
    records = folder.records(study)
    sure = confirmed(study, folder, records)
    best, every = winner_of(study, records, sure), folder.every_trial()
    baseline = next((record for record in records if record.proposed_by == TRY_FIRST), None)
    shown = [record for record in (best, baseline) if record is not None]
    unique = {record.number: folder.trial(record.number) for record in shown if record.trained_steps}
    found = {
        "study": study.study,
        "folder": str(folder.path),
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "running": any(record.end == UNFINISHED for record in records) or len(records) < study.search.trials,
        "metric": study.objective.metric,
        "unit": "s" if study.objective.metric == "seconds_to_nash" else "steps",
        "max_steps": study.max_steps,
        "wanted_trials": study.search.trials,
        "space": {
            key: parameter.model_dump(by_alias=True, exclude_none=True) for key, parameter in study.space.items()
        },
        "names": {key: short(key) for key in study.space},
        "log_keys": [key for key, parameter in study.space.items() if parameter.log],
        "answer": None if best is None else _answer(best, baseline, records, sure),
        "nearest": _nearest(study, folder, records) if best is None else None,
        "baseline": baseline.number if baseline else None,
        "curves": {number: _curves(trial) for number, trial in unique.items()},
        "trials": [_trial(folder.trial(record.number), record) for record in records],
        "history": _history(records),
        "importance": {key: list(value) for key, value in importance(study, records).items()},
        "confirmed": [_confirmed(one, sure[0]) for one in sure],
        "images": [_images(trial) for trial in unique.values() if trial.samples.exists()],
        "account": _account(study, folder, records),
        "measured": _measured(study, folder, every),
        "limits": list(LIMITS),
        "unsent": [] if study.tracking.wandb.mode == "disabled" else sync_commands(folder),
        "complaints": dict(Counter(line for trial in every for line in complaints(trial)).most_common()),
    }
    return _finite(found)  # type: ignore[no-any-return]


def _answer(
    best: TrialRecord, baseline: TrialRecord | None, records: Sequence[TrialRecord], sure: Sequence[Confirmed]
) -> dict[str, Any]:
    """The winner, and what it saves."""
    random = [record for record in records if record.proposed_by in {"startup", "random"}]
    costs = sorted(record.cost for record in random if record.cost is not None)
    own = next((one for one in sure if one.record.number == best.number), None)
    return {
        "number": best.number,
        "values": best.values,
        "steps": best.steps,
        "cost": best.cost,
        "exploitability": best.exploitability,
        "seeds": own.costs if own else [],
        "median": own.median if own else None,
        "baseline": None
        if baseline is None
        else {"number": baseline.number, "end": baseline.end, "cost": baseline.cost, "trained": baseline.trained_steps},
        "random": {
            "count": len(random),
            "reached": sum(record.end == "balanced" for record in random),
            "median": statistics.median(costs) if costs else None,
        },
    }


def _nearest(study: Study, folder: StudyFolder, records: Sequence[TrialRecord]) -> dict[str, Any] | None:
    """Where nothing was balanced: which condition stood in the way of the best trial."""
    ended = [record for record in records if record.cost is not None]
    if not ended:
        return None
    nearest = min(ended, key=lambda record: record.cost or 0.0)
    trial = folder.trial(nearest.number)
    ruler = Ruler.of(trial.configuration())
    late = trial.readings()[-study.objective.nash.window :]
    missed = {name: sum(excesses(reading, ruler)[name] > 0 for reading in late) for name in CONDITIONS}
    worst = max(missed, key=lambda name: missed[name])
    told = {"number": nearest.number, "gap": nearest.gap, "of": len(late), "missed": missed[worst]}
    return told | {"condition": CONDITIONS[worst]}


def _curves(trial: TrialFolder) -> dict[str, Any]:
    """Readings by figure, where the phases end, and what the patience of both schedulers did."""
    readings, configuration = trial.readings(), trial.configuration()
    found: dict[str, Any] = {name: [reading.get(key) for reading in readings] for name, key in CURVES.items()}
    found["steps"] = [reading["step"] for reading in readings]
    return found | {"number": trial.number} | _phases(configuration) | {"end": (trial.outcome() or {}).get("steps")}


def _phases(configuration: Configuration) -> dict[str, Any]:
    ruler, schedulers = Ruler.of(configuration), configuration.Schedulers
    return {
        "warmup": schedulers.g_warmup_steps,
        "pretraining": configuration.Training.pretrain_steps,
        "game_on": ruler.game_on,
        "balance_point": ruler.balance_point,
        "tolerance": ruler.nash.probability_tolerance,
        "patience_g": schedulers.patience_g,
        "patience_d": schedulers.patience_d,
    }


def _trial(trial: TrialFolder, record: TrialRecord) -> dict[str, Any]:
    """A line of the table of all trials."""
    return {
        "number": record.number,
        "values": record.values,
        "by": record.proposed_by,
        "end": record.end,
        "censored": record.censored,
        "cost": record.cost,
        "gap": record.gap,
        "exploitability": record.exploitability,
        "trained": record.trained_steps,
        "account": record.account,
        "seconds": record.seconds,
        "cause": record.cause,
        "place": trial.place,
        "read": trial.readings_file.exists(),
    }


def _history(records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """By number: each trial's cost and the best so far."""
    return [
        {"number": record.number, "cost": record.cost, "end": record.end, "best": best and best.cost}
        for record, best in zip(records, best_so_far(records), strict=True)
    ]


def _confirmed(one: Confirmed, best: Confirmed) -> dict[str, Any]:
    """A confirmed configuration, beside the best of them."""
    faster, slower, p = compared(best, one)
    kept = [held.balanced / held.readings for held in one.held if held.readings]
    missed = sum((held.missed for held in one.held), Counter()).most_common(1)
    return {
        "number": one.record.number,
        "search": one.record.cost,
        "seeds": one.costs,
        "median": one.median,
        "kept": statistics.median(kept) if kept else None,
        "later": sum(held.readings for held in one.held),
        "missed": {"condition": CONDITIONS[missed[0][0]], "readings": missed[0][1]} if missed else None,
        "probes": {name: _middle([held.probes[key] for held in one.held]) for key, name in PROBES.items()},
        "faster": faster,
        "slower": slower,
        "p": p,
        "tie": one is not best and p > TOLD_APART,
    }


def _images(trial: TrialFolder) -> dict[str, Any]:
    """A trial's sample sheet, as data, with its columns' figures."""
    sheet = base64.b64encode(trial.samples.read_bytes()).decode()
    return {"number": trial.number, "png": sheet, "columns": read_json(trial.samples_figures) or {}}


def _account(study: Study, folder: StudyFolder, records: Sequence[TrialRecord]) -> dict[str, Any]:
    """Steps and time."""
    confirming = folder.records(study, "confirm")
    every = [*records, *confirming]
    seconds = [
        [record.step_seconds[phase] for record in every if math.isfinite(record.step_seconds[phase])]
        for phase in (0, 1)
    ]
    return {
        "search": account_of_study(records),
        "confirmation": account_of_study(confirming),
        "wall_s": (read_json(folder.clock_file) or {}).get("seconds", 0.0),
        "trials_s": sum(record.seconds for record in every),
        "step_s": [_middle(found) for found in seconds],
        "waits_s": {kind: sum(record.waits[kind] for record in every) for kind in (every[0].waits if every else ())},
    }


def _measured(study: Study, folder: StudyFolder, trials: Sequence[TrialFolder]) -> dict[str, Any]:
    """How it was measured: ruler, seeds, devices with the number of trainings that ended there, versions."""
    configuration = study.lowest()
    return {
        "nash": study.objective.nash.model_dump(),
        "changed": study.non_default_ruler(),
        "seed": configuration.Training.seed,
        "search_seed": study.search.seed,
        "sampler": study.search.sampler,
        "startup": study.search.startup,
        "capping": study.search.capping.model_dump(),
        "sharing": study.search.sharing.model_dump(),
        "validate_every": configuration.Training.validate_every,
        "validation_pairs": study.objective.nash.validation_pairs,
        "precision": configuration.Training.precision,
        "resources": study.resources.model_dump(),
        "imagery": configuration.Data.path,
        "versions": read_json(folder.versions_file) or {},
        "devices": dict(Counter(device for trial in trials if (device := (trial.outcome() or {}).get("device")))),
    }


def account_text(account: Mapping[str, Any]) -> str:
    """Steps trained and saved, in a sentence or two."""
    search, more = account["search"], account["confirmation"]["executed"]
    return (
        f"{search['executed']} steps of the search{f' and {more} of the confirmation' if more else ''} in "
        f"{duration(account['wall_s'])}. Saved: {search['sharing']} by sharing pretraining; at most "
        f"{search['capping']} by capping and {search['balance']} by stopping at the balance."
    )


def missed_text(one: Mapping[str, Any]) -> str:
    """What a confirmed configuration lost most later readings by; empty where it lost none."""
    if one["missed"] is None:
        return ""
    missed = one["missed"]
    return (
        f"Trial {one['number']}: {missed['readings']} of {one['later']} readings after the balance miss the condition "
        f"“{missed['condition']}”."
    )


def _middle(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _finite(found: Any) -> Any:
    if isinstance(found, dict):
        return {str(key): _finite(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [_finite(value) for value in found]
    if isinstance(found, float) and not math.isfinite(found):
        return None
    return found


def value_text(value: Value | None) -> str:
    """A setting as a person reads it."""
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
