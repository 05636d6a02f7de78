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
from trainables.merits import END
from trainables.outcome import End
from trainables.probes import CONTROLS, FRESH_300, GAIN_D, GAIN_G, P_G_MOVED, PSNR_MOVED, WARM_100, WARM_300, failed
from trainables.schema import Configuration
from tune_srgan.report.words import LIMITS
from tune_srgan.report.worth import front_data, worth_data
from tune_srgan.search.confirmation import TOLD_APART, Confirmed, compared, confirmed, left_to_do, winner_of
from tune_srgan.store.ending import StudyEnd, why_still
from tune_srgan.store.fingerprint import changes_of
from tune_srgan.store.records import Held, StudyRecords, TrialRecord, account_of_study, baseline_of, best_so_far
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
PROBE_NAMES = {
    WARM_100: "warm, 100 steps",
    WARM_300: "warm, 300 steps",
    FRESH_300: "fresh, 300 steps",
    f"{FRESH_300}_bicubic": "fresh against bicubic",
    f"{FRESH_300}_real": "fresh against real",
}


GAIN_NAMES = {GAIN_D: "D's gain", GAIN_G: "G's gain"}
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
        "front": front_data(study, search),
        "quality": {number: record.quality for number, record in shown.items()},
        "spectra": None if best is None else (read_json(best.trial.worth) or {}).get("spectra"),
        "history": _history(search),
        "importance": {key: list(value) for key, value in importance(study, search).items()},
        "confirmed": [_confirmed(one, sure[0]) for one in sure],
        "worth": worth_data(sure, baseline),
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
        "probes": {name: _middle(_measured_by(key, key, one.held)) for key, name in PROBE_NAMES.items()},
        "gains": _gains(one.held),
        "unmeasured": _unmeasured(one.held),
        "faster": faster,
        "slower": slower,
        "p": p,
        "tie": one is not best and p > TOLD_APART,
    }


def _measured_by(probe: str, figure: str, held: Sequence[Held]) -> list[float]:
    """A probe's figure of the seeds on which its controls held."""
    return [one.probes[figure] for one in held if figure in one.probes and not failed(probe, one.probes)]


def _gains(held: Sequence[Held]) -> dict[str, Any] | None:
    """What either side gains by training on alone, nats, and what G's gain moves and costs; means of the seeds."""
    asked = [one for one in held if GAIN_D in one.probes]
    if not asked:
        return None
    figures = {"d": (GAIN_D, GAIN_D), "g": (GAIN_G, GAIN_G), "p_g": (GAIN_G, P_G_MOVED), "psnr": (GAIN_G, PSNR_MOVED)}
    means = {name: _mean(_measured_by(*of, asked)) for name, of in figures.items()}
    both = [one for one in asked if not failed(GAIN_D, one.probes) and not failed(GAIN_G, one.probes)]
    return means | {"gap": _mean([one.probes[GAIN_D] + one.probes[GAIN_G] for one in both])}


def _unmeasured(held: Sequence[Held]) -> dict[str, Any]:
    """By probe: on how many seeds, of how many, its controls failed, and how they did on the first of these."""
    missing = {}
    for key, name in (PROBE_NAMES | GAIN_NAMES).items():
        asked = [one.probes for one in held if key in one.probes and key in CONTROLS]
        causes = list(filter(None, (failed(key, probes) for probes in asked)))
        if causes:
            missing[name] = {"seeds": len(causes), "of": len(asked), "cause": causes[0]}
    return missing


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
        "other_imagery": changes_of(folder),
        "versions": read_json(folder.versions_file) or {},
        "devices": dict(Counter(record.device for record in records.every if record.device)),
    }


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


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
