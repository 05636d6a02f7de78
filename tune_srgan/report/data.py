"""What a report shows of a study, as plain data: gathered once from the records, then drawn in any format.

Figures that are not finite are None, so that the whole is JSON.
"""

from __future__ import annotations

import base64
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from trainables.balance import CONDITIONS, Ruler
from trainables.merits import BICUBIC, END, MERITS, PRETRAINED, QUALITY, TEST
from trainables.outcome import End
from trainables.schema import Configuration
from tune_srgan.report.words import LIMITS
from tune_srgan.search.confirmation import TOLD_APART, Confirmed, compared, confirmed, difference, left_to_do, winner_of
from tune_srgan.search.front import figure_of, front_of
from tune_srgan.store.ending import StudyEnd, why_still
from tune_srgan.store.records import StudyRecords, TrialRecord, account_of_study, baseline_of, best_so_far
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import Proposer, TrialFolder, read_json
from tune_srgan.study.edges import edges
from tune_srgan.study.settings import Study
from tune_srgan.tracking.marks import complaints, sync_commands

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
JUDGED = (END, TEST[END])  # images by which confirmed configurations are compared
PROBE_NAMES = {
    "nash/probe/warm_100": "warm, 100 steps",
    "nash/probe/warm_300": "warm, 300 steps",
    "nash/probe/fresh_300": "fresh, 300 steps",
    "nash/probe/fresh_300_bicubic": "fresh against bicubic",
    "nash/probe/fresh_300_real": "fresh against real",
}
DISTORTION, PERCEPTION = "psnr", "spectrum"  # the plane's figures (Blau & Michaeli 2018)
Importance = Callable[[Study, Sequence[TrialRecord]], dict[str, tuple[float, float, float]]]


def short(key: str) -> str:
    """Return a searched key as a column's head."""
    return SHORT.get(key, key.rpartition(".")[2])


def report_data(
    study: Study, folder: StudyFolder, records: StudyRecords, importance: Importance = lambda *_: {}
) -> dict[str, Any]:
    """Gather all that a report shows of a study, as far as it has come; `importance` of the settings takes Optuna.

    Reads the readings of the trials whose curves are shown, and no others.
    """
    search, sure = records.search, confirmed(study, records)
    best, baseline = winner_of(study, records, sure), baseline_of(search)
    shown = {record.number: record for record in (best, baseline) if record is not None and record.trained_steps}
    still = why_still(folder, left_to_do(study, records))
    data = {
        "study": study.study,
        "folder": str(folder.path),
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "running": still is None,
        "stopped": "" if still is None or still.why is StudyEnd.COMPLETE else still.describe(),
        "metric": study.objective.metric,
        "unit": "s" if study.objective.metric == "seconds_to_nash" else "steps",
        "max_steps": study.max_steps,
        "wanted_trials": study.search.trials,
        "space": {
            key: parameter.model_dump(by_alias=True, exclude_none=True) for key, parameter in study.space.items()
        },
        "names": {key: short(key) for key in study.space},
        "log_keys": [key for key, parameter in study.space.items() if parameter.log],
        "answer": None if best is None else _answer(study, best, baseline, search, sure),
        "nearest": _nearest(search) if best is None else None,
        "baseline": baseline.number if baseline else None,
        "curves": {number: _curves(record) for number, record in shown.items()},
        "trials": [_trial(record) for record in search],
        "front": _front(study, search),
        "quality": {number: record.quality for number, record in shown.items()},
        "spectra": None if best is None else (read_json(best.trial.worth) or {}).get("spectra"),
        "history": _history(search),
        "importance": {key: list(value) for key, value in importance(study, search).items()},
        "confirmed": [_confirmed(one, sure[0]) for one in sure],
        "worth": _worth(sure, baseline),
        "images": [_images(record.trial) for record in shown.values() if record.trial.samples.exists()],
        "account": _account(folder, records),
        "measured": _measured(study, folder, records),
        "limits": list(LIMITS),
        "unsent": [] if study.tracking.wandb.mode == "disabled" else sync_commands(folder),
        "complaints": _complaints(records),
    }
    return _finite(data)  # type: ignore[no-any-return]


def _complaints(records: StudyRecords) -> dict[str, int]:
    """What trials complained of, and how many of each."""
    return dict(Counter(line for record in records.every for line in complaints(record.trial)).most_common())


def _answer(
    study: Study,
    best: TrialRecord,
    baseline: TrialRecord | None,
    records: Sequence[TrialRecord],
    sure: Sequence[Confirmed],
) -> dict[str, Any]:
    """The winner, and what it saves."""
    random = [record for record in records if record.proposed_by in {Proposer.STARTUP, Proposer.RANDOM}]
    costs = sorted(record.cost for record in random if record.cost is not None)
    own = next((one for one in sure if one.record.number == best.number), None)
    return {
        "number": best.number,
        "values": best.values,
        "steps": best.steps,
        "cost": best.cost,
        "first": best.first,
        "share": best.share,
        "pace": best.held.pace,
        "exploitability": best.exploitability,
        "edges": {
            key: {"value": best.values[key], "range": study.space[key].describe(), "try": parameter.describe()}
            for key, parameter in edges(study, best.values).items()
        },
        "seeds": own.costs if own else [],
        "kept": own.kept if own else 0,
        "median": own.median if own else None,
        "baseline": None
        if baseline is None
        else {
            "number": baseline.number,
            "end": baseline.label,
            "cost": baseline.cost,
            "trained": baseline.trained_steps,
        },
        "random": {
            "count": len(random),
            "kept": sum(record.end is End.BALANCED for record in random),
            "median": statistics.median(costs) if costs else None,
        },
    }


def _nearest(records: Sequence[TrialRecord]) -> dict[str, Any] | None:
    """Where nothing was balanced: which condition stood in the way of the best trial."""
    ended = [record for record in records if record.cost is not None]
    if not ended:
        return None
    nearest = min(ended, key=lambda record: record.cost or 0.0)
    worst = max(CONDITIONS, key=lambda name: nearest.held.missed[name])
    told = {"number": nearest.number, "end": nearest.label, "first": nearest.first, "gap": nearest.gap}
    told["of"] = nearest.held.readings
    return told | {"missed": nearest.held.missed[worst], "condition": CONDITIONS[worst]}


def _curves(record: TrialRecord) -> dict[str, Any]:
    """Readings by figure, where the phases end, and what the patience of both schedulers did."""
    readings, configuration = record.trial.readings(), record.trial.configuration()
    curves: dict[str, Any] = {name: [reading.get(key) for reading in readings] for name, key in CURVES.items()}
    curves["steps"] = [reading["step"] for reading in readings]
    return curves | {"number": record.number} | _phases(configuration) | {"end": record.steps}


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
        "cut": schedulers.cut,
    }


def _trial(record: TrialRecord) -> dict[str, Any]:
    """A line of the table of all trials."""
    files = {"configuration": record.trial.configuration_file, "readings": record.trial.readings_file}
    return {
        "number": record.number,
        "values": record.values,
        "by": record.proposed_by,
        "end": record.label,
        "censored": record.end is not None and record.end.is_censored,
        "cost": record.cost,
        "first": record.first,
        "share": record.share,
        "gap": record.gap,
        "exploitability": record.exploitability,
        "quality": record.quality.get(END, {}),
        "trained": record.trained_steps,
        "account": record.account,
        "seconds": record.seconds,
        "cause": record.cause,
        "files": {name: f"{record.trial.place}/{file.name}" for name, file in files.items() if file.exists()},
    }


def _front(study: Study, search: Sequence[TrialRecord]) -> dict[str, Any]:
    """The trials that no other beats in both, and every trial's way over the plane of distortion and perception."""
    name = figure_of(study).removeprefix(QUALITY)
    return {
        "figure": name,
        "unit": MERITS[name].unit,
        "numbers": [record.number for record in front_of(study, search)],
        "paths": {
            record.number: {
                image: [figures.get(DISTORTION), figures.get(PERCEPTION)]
                for image, figures in record.quality.items()
                if image in (BICUBIC, PRETRAINED, END)
            }
            for record in search
            if record.quality
        },
    }


def _history(records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """By number: each trial's cost and the best so far."""
    return [
        {"number": record.number, "cost": record.cost, "end": record.label, "best": best and best.cost}
        for record, best in zip(records, best_so_far(records), strict=True)
    ]


def _confirmed(one: Confirmed, best: Confirmed) -> dict[str, Any]:
    """A confirmed configuration, beside the best of them."""
    faster, slower, p = compared(best, one)
    shares = [held.balanced / held.readings for held in one.held if held.readings]
    paces = [held.pace for held in one.held if held.pace is not None]
    missed = sum((held.missed for held in one.held), Counter()).most_common(1)
    return {
        "number": one.record.number,
        "search": one.record.cost,
        "seeds": one.costs,
        "median": one.median,
        "kept": one.kept,
        "share": statistics.median(shares) if shares else None,
        "pace": statistics.median(paces) if paces else None,
        "later": sum(held.readings for held in one.held),
        "missed": {"condition": CONDITIONS[missed[0][0]], "readings": missed[0][1]} if missed else None,
        "probes": {name: _middle([held.probes[key] for held in one.held]) for key, name in PROBE_NAMES.items()},
        "faster": faster,
        "slower": slower,
        "p": p,
        "tie": one is not best and p > TOLD_APART,
    }


def _worth(sure: Sequence[Confirmed], baseline: TrialRecord | None) -> list[dict[str, Any]]:
    """What the confirmed configurations' images are worth: each figure's median and ends over the further seeds.

    And how far each is from the baseline's on the same seeds, where those were trained.
    """
    against = next((one for one in sure if baseline is not None and one.record.number == baseline.number), None)
    worth = []
    for one in sure:
        for image in dict.fromkeys(image for seed in one.seeds for image in seed.quality if image in JUDGED):
            figures, beside = one.figures(image), against.figures(image) if against not in (None, one) else {}
            told = {}
            for name, values in figures.items():
                known = [value for value in values if math.isfinite(value)]
                apart = difference(values, beside[name]) if name in beside else None
                told[name] = {"median": _middle(known), "low": min(known), "high": max(known), "difference": apart}
            worth.append({"number": one.record.number, "image": image, "figures": told})
    return worth


def _images(trial: TrialFolder) -> dict[str, Any]:
    """A trial's sample sheet and its map, as data; the names of the sheet's columns."""
    sheets = {name: file for name, file in (("png", trial.samples), ("map", trial.map)) if file.exists()}
    drawn = {name: base64.b64encode(file.read_bytes()).decode() for name, file in sheets.items()}
    return {"number": trial.number, "columns": (read_json(trial.worth) or {}).get("columns", [])} | drawn


def _account(folder: StudyFolder, records: StudyRecords) -> dict[str, Any]:
    """Steps and time."""
    every = records.every
    seconds = [
        [record.step_seconds[phase] for record in every if math.isfinite(record.step_seconds[phase])]
        for phase in (0, 1)
    ]
    return {
        "search": account_of_study(records.search),
        "confirmation": account_of_study(records.confirmations),
        "wall_s": (read_json(folder.clock_file) or {}).get("seconds", 0.0),
        "trials_s": sum(record.seconds for record in every),
        "step_s": [_middle(taken) for taken in seconds],
        "waits_s": {kind: sum(record.waits[kind] for record in every) for kind in (every[0].waits if every else ())},
    }


def _measured(study: Study, folder: StudyFolder, records: StudyRecords) -> dict[str, Any]:
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
        "imagery": configuration.Data.place,
        "versions": read_json(folder.versions_file) or {},
        "devices": dict(Counter(record.device for record in records.every if record.device)),
    }


def _middle(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
