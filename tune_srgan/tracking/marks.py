"""What came of each trial's run on Weights & Biases: one mark a trial, kept with it, and what follows from it.

Knows no wandb: the driver, the report and the tracker's own process all read and leave these marks.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import time
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from trainables.schema import WandbSettings
from tune_srgan.store.layout import StudyFiles, TrackerFiles
from tune_srgan.store.objects import write_atomically
from tune_srgan.store.studies import study_in
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import TrialFolder, read_json
from tune_srgan.study.settings import Objective, Study, Tracking, WandbMode, WandbTracking

AWAY_S = 300.0  # trials that begin within this do not ask a server that has failed one
LEAVE_S = 10.0  # what closing a run may take after its worker was lost
BALANCE_LINE = "nash/balance_point"  # a figure of each run, drawn beside the two probabilities
OFFLINE_MODES: dict[str, WandbMode] = {"offline": "offline", "dryrun": "offline", "disabled": "disabled"}
SEND_RECORDS, SYNC = "python -m tune_srgan.tracking", "wandb sync"


class Where(StrEnum):
    """Where a trial's run is, whole."""

    SERVER = "server"
    OFFLINE = "offline"


@dataclass(frozen=True)
class Mark:
    """What came of a trial's run: where it is, whether it is tagged best there, its address; why it was missed."""

    run: Where | None = None
    best: bool = False
    url: str | None = None
    path: str = ""  # entity/project/id
    missed: str = ""

    def note(self, trial: TrialFolder) -> None:
        """Leave it with the trial, and where the study is kept; an offline run goes along."""
        with contextlib.suppress(OSError):
            write_atomically(_file(trial), json.dumps(asdict(self)))
            folder = study_of(trial)
            sent = trial.tracker if self.run is Where.OFFLINE else _file(trial)
            folder.replace(str(sent.relative_to(folder.path)), LEAVE_S)


def mark_of(trial: TrialFolder) -> Mark:
    """Read what a trial's tracker left."""
    known = None
    with contextlib.suppress(OSError):
        known = read_json(_file(trial))
    if known is None:
        return Mark()
    run = known.get("run")
    return Mark(**{**known, "run": None if run is None else Where(run)})


def miss(trial: TrialFolder, reason: str) -> None:
    """Note why a trial's run is not where it should be, so that it is sent by hand."""
    known = mark_of(trial)
    replace(known if known.run is Where.SERVER else Mark(), missed=reason).note(trial)


def is_sent(trial: TrialFolder, where: Where) -> bool:
    """Tell whether all is there, the tag of the best included."""
    mark = mark_of(trial)
    return not mark.missed and mark.run is where and mark.best == is_best(trial)


def is_done(trial: TrialFolder) -> bool:
    """Tell whether nothing is left to do by itself: all is there, or what was missed is for a person to send."""
    return bool(mark_of(trial).missed) or any(is_sent(trial, where) for where in Where)


def is_where_it_belongs(trial: TrialFolder, online: bool) -> bool:
    """Tell whether its run needs no tracker: an offline one does where there is a server now."""
    return is_sent(trial, Where.SERVER) or (not online and is_sent(trial, Where.OFFLINE))


def is_there(trial: TrialFolder) -> bool:
    """Tell whether the trial's run is on the server: sent by its tracker, or by a person."""
    return mark_of(trial).run is Where.SERVER or _is_synced(trial)


def has_run(trial: TrialFolder) -> bool:
    """Tell whether there is something to send: the trial has ended, and not without a start."""
    return trial.outcome() is not None and bool(trial.attempts())


def is_held(trial: TrialFolder) -> bool:
    """Tell whether a process of this machine is at work on it."""
    try:
        with (trial.tracker / TrackerFiles.LOCK.name).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody has been
        pass
    return False


def is_best(trial: TrialFolder) -> bool:
    """Tell whether the study has said that this trial's run is to be tagged best."""
    said = read_json(best_file(study_of(trial)))
    return said is not None and not trial.confirms and said["trial"] == trial.number


def run_name(trial: TrialFolder, study: Study) -> str:
    """Return what a person sees the run under: of a training by itself that training's name."""
    return study.study if trial.is_alone else f"{study.study}-{trial.path.name}"


def run_id(trial: TrialFolder, study: Study) -> str:
    """Return the run's id: the same for every attempt, and no other trial's."""
    return f"{run_name(trial, study)}-{int(trial.header()['created'])}"


def address_of(trial: TrialFolder) -> str:
    """Say where a person sees the trial's run; empty where it is not there."""
    return mark_of(trial).url or ""


def complaints(trial: TrialFolder) -> list[str]:
    """Return what a trial complained of, and why its run is not where it should be."""
    missed = mark_of(trial).missed
    return [*trial.complaints(), *([as_complaint(missed)] if missed else [])]


def as_complaint(reason: str) -> str:
    """Return a reason as the report shows it."""
    return f"Weights & Biases: {reason}"


def sync_commands(folder: StudyFolder) -> list[str]:
    """Return the commands that send everything that is not on the server, nor on its way; none where all of it is."""
    places: dict[str, dict[str, None]] = {}
    for trial in folder.every_trial():
        if not has_run(trial) or is_sent(trial, Where.SERVER) or is_held(trial):
            continue
        beside = shlex.quote(str(trial.path.parent))
        if not is_sent(trial, Where.OFFLINE):
            places.setdefault(SEND_RECORDS, {})[f"{beside}/*"] = None
        elif not _is_synced(trial):
            runs = trial.tracker / TrackerFiles.WANDB.name / "offline-run-*"
            places.setdefault(SYNC, {})[f"{beside}/*/{runs.relative_to(trial.path)}"] = None
    return [" ".join([command, *named]) for command, named in places.items()]


def where_said(trial: TrialFolder) -> str:
    """Say where the run of a training by itself is, or how to send it."""
    mark = mark_of(trial)
    if mark.missed:
        return f"not sent ({mark.missed}). To send it: {SEND_RECORDS} {shlex.quote(str(trial.path))}"
    if mark.run is Where.SERVER:
        return mark.url or "sent"
    if mark.run is Where.OFFLINE:
        runs = trial.tracker / TrackerFiles.WANDB.name
        return f"kept offline. To send it: {SYNC} {shlex.quote(str(runs))}/offline-run-*"
    return "still being sent"


def tracking_mode(settings: WandbTracking) -> tuple[WandbMode, str]:
    """Return the mode that will be used, and a sentence where it is not the one asked for."""
    if settings.mode == "online" and not (os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").exists()):
        return (
            "offline",
            "Weights & Biases: not logged in, so runs are kept offline; `wandb login` first, or sync them later.",
        )
    return settings.mode, ""


def why_away(folder: StudyFolder, since: float | None = None) -> str:
    """Return how the server has failed a trial of a study since then, or lately; empty where it has not."""
    begin = time.time() - AWAY_S if since is None else since
    try:
        told = json.loads(folder.storage().read(StudyFiles.AWAY.name) or b"{}")
    except (OSError, ValueError):
        return ""
    return str(told["reason"]) if told and told["s"] > begin else ""


def say_away(folder: StudyFolder, reason: str) -> None:
    """Note that the server failed a trial, so that others which begin now need not ask it."""
    with contextlib.suppress(OSError):
        folder.storage().write(StudyFiles.AWAY.name, json.dumps({"s": time.time(), "reason": reason}).encode())


def study_of(trial: TrialFolder) -> StudyFolder:
    """Return the folder of the study that a trial belongs to; a training by itself has its own."""
    return StudyFolder(trial.path if trial.is_alone else trial.path.parent.parent)


def owner_of(trial: TrialFolder) -> Study:
    """Return the study that a trial belongs to; a training by itself is one that searches nothing."""
    if not trial.is_alone:
        return study_in(study_of(trial))
    configuration = trial.configuration()
    return Study(
        study=_as_name(trial.path.name),
        training=configuration.model_dump(),
        space={},
        objective=Objective(nash=configuration.Nash),
        tracking=Tracking(wandb=tracking_of(configuration.Logging.wandb)),
    )


def tracking_of(settings: WandbSettings) -> WandbTracking:
    """Return how a training by itself is tracked: by its file's keys, and wandb's own WANDB_MODE, else online."""
    mode = OFFLINE_MODES.get(os.environ.get("WANDB_MODE", ""), "online")
    found = WandbTracking(mode=mode if settings.enabled else "disabled", entity=settings.entity)
    return found.model_copy(update={"project": settings.project}) if settings.project else found


def best_file(folder: StudyFolder) -> Path:
    """Name the file that says whose run is to be tagged best."""
    return folder.path / StudyFiles.BEST_RUN.name


def sweep_file(folder: StudyFolder) -> Path:
    """Name the file that says which sweep the study is: `id`, entity, project, url; or why not: `refused`, `until`."""
    return folder.path / StudyFiles.SWEEP.name


def sweep_of(folder: StudyFolder) -> dict[str, Any]:
    """Return the study's sweep; empty where it is none."""
    known = read_json(sweep_file(folder)) or {}
    return known if "id" in known else {}


def sweep_address(folder: StudyFolder) -> str:
    """Say where a person sees the study's sweep; empty where it is none."""
    return str(sweep_of(folder).get("url") or "")


def _as_name(text: str) -> str:
    """A folder's name without what a study's may not have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")[:64] or "training"


def _file(trial: TrialFolder) -> Path:
    return trial.tracker / TrackerFiles.DONE.name


def _is_synced(trial: TrialFolder) -> bool:
    return bool(list(trial.tracker.glob(f"{TrackerFiles.WANDB.name}/offline-run-*/*.wandb.synced")))
