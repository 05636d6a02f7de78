"""A small study, its file, and hand-made trial records for the tests of the service. Trains nothing."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tests.support.tiny import OWN
from trainables.merits import Quality
from trainables.outcome import End, Outcome, outcome_of
from tune_srgan.search.confirmation import missing
from tune_srgan.store.records import StudyRecords, TrialRecord, read_records, record_of
from tune_srgan.store.studies import keep_study
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import TrialFolder
from tune_srgan.study.loading import load_study
from tune_srgan.study.settings import Study

PRETRAIN, WEIGHT, PATIENCE = "Training.g_pretrain_steps", "Training.Losses.adv_loss_beta", "Schedulers.patience_g"
SMALL: dict[str, Any] = {
    "study": "small",
    "training": {
        "Data": {"crop_size": 16, "train_batch_size": 4},
        "Training": OWN["Training"] | {"adv_loss_ramp_steps": 20},
        "Generator": OWN["Generator"] | {"n_blocks": 1, "n_channels": 4, "large_kernel_size": 3},
        "Discriminator": OWN["Discriminator"] | {"model_type": "patchgan", "n_blocks": 2, "base_channels": 4},
        "Schedulers": OWN["Schedulers"],
        "Optimizers": {"optim_d_lr": 1.0e-4},
    },
    "space": {
        PRETRAIN: {"int": [20, 60], "step": 20},
        WEIGHT: {"float": [1.0e-3, 3.0e-1], "log": True},
        PATIENCE: {"int": [2, 12]},
    },
    "objective": {"max_steps": 200, "validate_every": 4},
    "search": {"trials": 8, "startup": 3},
}
PROBED = {
    **dict.fromkeys(("warm_100", "warm_300", "fresh_300"), 0.9),
    **{f"{name}_bicubic": 0.98 for name in ("warm_100", "warm_300", "fresh_300")},
    **{f"{name}_real": 0.52 for name in ("warm_100", "warm_300", "fresh_300")},
    **{"gain_d": 0.0625, "gain_g": 0.375, "gain_g_pretrained": 0.38, "gain_g_ignorant": -0.03},
    **{"moved_p_g": 0.25, "moved_rank": -0.75, "moved_psnr": -5.75},
}
VALUES = {PRETRAIN: 20, WEIGHT: 0.01, PATIENCE: 4}  # a point of the space; its game is on from step 40


def small() -> dict[str, Any]:
    """The small study's document, to be changed at will."""
    return copy.deepcopy(SMALL)


def write(folder: Path, document: dict[str, Any], name: str = "study.yaml") -> Path:
    """The document as a YAML file."""
    file = folder / name
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return file


def loaded(folder: Path, document: dict[str, Any] | None = None) -> Study:
    """The study of a document."""
    return load_study(write(folder, document or small()))[0]


def open_study(folder: StudyFolder, study: Study) -> None:
    """Keep a study in its folder, as its driver does."""
    folder.check_writable()
    keep_study(study, folder)


def records_in(study: Study, folder: StudyFolder) -> StudyRecords:
    """All trials of a study, read now."""
    return read_records(study, folder.every_trial())


def ended(end: End, steps: int, gap: float | None, trained: int | None = None) -> Outcome:
    """How a trial ended, censored but where it is balanced."""
    return Outcome(end, steps, end is not End.BALANCED, gap, steps if trained is None else trained)


def causes(trial: TrialFolder) -> list[str]:
    """The causes of all failed attempts of a trial that could still say one."""
    return [attempt.failure.cause for attempt in trial.attempts() if attempt.failure is not None]


def reading(step: int, rank: float = 0.5) -> dict[str, float]:
    """A reading that is balanced from the end of the ramp on, unless the discriminator can rank."""
    figures = {"p_y": 0.45, "p_g": 0.45, "rank": rank, "control": 1.0, "psnr": 30.0, "psnr_bicubic": 30.0}
    known = {"step": float(step), "lr_discriminator": 1e-4, "lr_generator": 1e-4}
    known |= {"time/train_s": 0.2, "time/validate_s": 0.05}
    return known | {f"nash/{name}": value for name, value in figures.items()}


def start(folder: StudyFolder, study: Study, number: int, values: dict[str, Any], proposed_by: str = "startup") -> None:
    """Make a trial's folder, as the runner does when a trial is proposed."""
    folder.trial(number).create(values, proposed_by, study.configuration(values))


def never_begun(folder: StudyFolder, study: Study, number: int) -> TrialRecord:
    """End a trial that capping did not let start."""
    folder.trial(number).end(ended(End.CAPPED, 0, None))
    return record_of(folder.trial(number), study)


def finish(
    folder: StudyFolder,
    study: Study,
    number: int,
    end: End | str = End.BALANCED,
    since: int = 100,
    quality: Quality | None = None,
) -> TrialRecord:
    """Write readings and outcome; balanced from step `since` on, a lost one for a window; any other has rank 0.875."""
    trial, upto = folder.trial(number), study.max_steps
    until = {End.BALANCED: upto, End.LOST: since + 36}.get(End(end), 0)
    readings = [reading(step, 0.5 if since <= step <= until else 0.875) for step in range(4, upto + 1, 4)]
    trial.readings_file.write_text("".join(json.dumps(line) + "\n" for line in readings), encoding="utf-8")
    found = outcome_of(readings, trial.configuration(), upto, End(end))
    trial.end(replace(found, exploitability=0.9 if end == End.BALANCED else None, quality=quality or {}))
    return record_of(trial, study)


def made(path: Path, ends: list[Any], document: dict[str, Any] | None = None) -> tuple[Study, StudyFolder]:
    """A study of hand-made records: trial k ended as ends[k] says, None for one under way."""
    study = loaded(path, document or small())
    folder = StudyFolder(path / "runs" / study.study)
    open_study(folder, study)
    for number, end in enumerate(ends):
        values = VALUES | {
            WEIGHT: 0.001 * (1 + number % 200),
            PATIENCE: 2 + number % 11,
            PRETRAIN: 20 + 20 * (number % 3),
        }
        start(folder, study, number, values, "try_first" if number == 0 else "startup")
        if end is not None:
            finish(folder, study, number, end, since=60 + 4 * (number % 20))
    return study, folder


def confirm(
    folder: StudyFolder, number: int, further: int, since: int | None, later: str = "#" * 5, **probed: float
) -> None:
    """A training on a further seed: balanced from `since` on for a window, then as `later` says, then again.

    `None`: never. Its probes are PROBED but for those that are given.
    """
    trial = folder.confirmation(number, further)
    end = 200
    steps = range(4, end + 1, 4)
    certified = since + 36 if since else end
    readings = []
    for step in steps:
        mark = later[(step - certified) // 4 - 1 : (step - certified) // 4] if step > certified else "#"
        good = since is not None and step >= since and (mark or "#") == "#"
        readings.append(reading(step, 0.5 if good else 0.875))
        if step == end and since:
            readings[-1] |= {f"nash/probe/{name}": figure for name, figure in (PROBED | probed).items()}
    trial.readings_file.write_text("".join(json.dumps(line) + "\n" for line in readings))
    trial.end(outcome_of(readings, trial.configuration(), end))


def confirm_all(folder: StudyFolder, study: Study, **by_number: tuple[int | None, ...]) -> None:
    """End all confirmations; `n4=(60, None)`: trial 4 is balanced from step 60 on its first further seed alone."""
    missing(study, folder, records_in(study, folder))
    for number, sinces in by_number.items():
        for further, since in enumerate(sinces, start=1):
            confirm(folder, int(number[1:]), further, since)
