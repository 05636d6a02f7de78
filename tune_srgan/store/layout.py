"""Every name in a study's folder: what is in it, who writes it, who reads it, how it is kept in an object store.

Nothing else in the project writes such a name down (a test finds one that does).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class How(Enum):
    """How a file is kept where a study is in an object store and worked on in a copy of it."""

    WHOLE = "one object, sent and fetched where it is new"
    LINES = "grows line by line: sent as numbered parts, fetched as one file"
    HEAVY = "one object, fetched where it is asked for; sent so rarely that it takes a small share of the time"
    HERE = "stays on the machine that makes it"
    SHARED = "no part of a working copy: every machine uses it where the study is kept"
    TRACKER = "sent by the tracker's own process"


@dataclass(frozen=True)
class Item:
    """A file, or a folder with all that is in it, by its name."""

    name: str
    how: How
    holds: str
    writer: str  # the modules that decide to write it
    readers: str


_PROPOSES = "run/feed, search/confirmation, run/single"
_PRINTS = "store/fingerprint"
_SENDS = "tracking/follower"
_READ_READINGS = "store/records, run/trial, run/feed, tracking/follower"


class StudyFiles:
    """The files and folders of a study."""

    STUDY = Item("study.yaml", How.WHOLE, "the resolved study", "run/driver", "everything")
    IMAGERY = Item("imagery.json", How.WHOLE, "its imagery's files, and since when", _PRINTS, _PRINTS)
    VERSIONS = Item("versions.json", How.WHOLE, "the versions it ran on", "run/runner", "report/data")
    CLOCK = Item("clock.json", How.WHOLE, "seconds it has run, over all drivers", "run/budget", "run/budget, report")
    ENDING = Item("ending.json", How.WHOLE, "why its last driver stopped", "run/driver", "report, status")
    BEST_CONFIGURATION = Item("best.yaml", How.WHOLE, "the winner's configuration", "report/best", "a person, train")
    BEST_GENERATOR = Item("best.pt", How.HEAVY, "the winner's generator", "upscaling/generator", "upscale")
    REPORT = Item("report.html", How.WHOLE, "the report; .md and .json beside it", "report/files", "a browser")
    REPORT_MARKDOWN = Item("report.md", How.WHOLE, "the report as text", "report/files", "a person")
    REPORT_DATA = Item("report.json", How.WHOLE, "the report's data", "report/files", "programs")
    TRIALS = Item("trials", How.WHOLE, "one folder per trial of the search", "run/feed", "store/records")
    CONFIRM = Item("confirm", How.WHOLE, "one folder per confirmation", "search/confirmation", "store/records")
    PRETRAINING = Item("pretraining", How.SHARED, "snapshots of pretraining", "search/sharing", "search/sharing")
    LEASE = Item("lease", How.SHARED, "who drives it: numbered objects", "store/lease", "store/lease, status")
    LOOK = Item(".seen", How.SHARED, "objects by which nodes show that they see it", "cluster/look", "cluster/look")
    WRITABLE = Item(".writable", How.SHARED, "written and deleted at once", "store/study_folder", "nobody")
    OPTUNA = Item("optuna.db", How.HERE, "Optuna's database: a log", "search/searcher", "Optuna")
    RAY = Item("ray", How.HERE, "Ray's own experiment state", "Ray", "nobody")
    ORIGIN = Item(
        "origin.json", How.HERE, "of a working copy: its URL, what was fetched", "store/mirror", "store/mirror"
    )
    SWEEP = Item("wandb_sweep.json", How.WHOLE, "which sweep it is, or why none", "tracking/sweep", "tracking/follower")
    SWEEP_STATE = Item("wandb_sweep.state", How.HERE, "the state wanted of it", "tracking/sweep", "tracking/sweep")
    SWEEP_LOG = Item("wandb_sweep.log", How.HERE, "what wandb said of it", "tracking/sweep", "a person")
    BEST_RUN = Item("wandb_best", How.WHOLE, "whose run is tagged best", "tracking/tracker", "tracking/follower")
    AWAY = Item("wandb_away", How.SHARED, "when and how the server last failed", "tracking/marks", "tracking/marks")
    WANDB_REPORT = Item("wandb_report.json", How.WHOLE, "the report there", "tracking/wandb_report", "the same")
    WANDB_LOGS = Item("wandb", How.HERE, "wandb's own logs", "wandb", "a person")


class TrialFiles:
    """The files and folders of a trial, a confirmation, or a training by itself."""

    CONFIGURATION = Item("configuration.yaml", How.WHOLE, "its whole configuration", _PROPOSES, "run/trial")
    TRIAL = Item("trial.json", How.WHOLE, "values, who proposed them, when", _PROPOSES, "store/records")
    READINGS = Item("readings.jsonl", How.LINES, "one reading per line", "run/trial", _READ_READINGS)
    ATTEMPTS = Item(
        "attempts.jsonl",
        How.LINES,
        "each attempt's begin and end",
        "run/worker, run/trial",
        "run/attempts, run/feed",
    )
    OUTCOME = Item("outcome.json", How.WHOLE, "how it ended", "run/trial, run/worker, run/feed", "store/records")
    CHECKPOINT = Item("checkpoint.pt", How.HEAVY, "the training's state", "run/trial", "run/trial, upscale")
    SAMPLES = Item("samples.png", How.WHOLE, "held-out images at the end", "run/trial", "report, tracking/follower")
    MAP = Item("map.png", How.WHOLE, "where those omit and invent detail", "run/trial", "report/data")
    WORTH = Item("worth.json", How.WHOLE, "the samples' columns; power spectra", "run/trial", "report/data")
    PRETRAINING = Item("pretraining.txt", How.WHOLE, "which path of pretraining it began on", "run/trial", "run/trial")
    COMPLAINTS = Item(
        "complaints.log", How.LINES, "what went wrong and stopped nothing", "run, tracking", "report/data"
    )
    GENERATOR = Item("best.pt", How.HEAVY, "the generator of a training by itself", "upscaling/generator", "upscale")
    LEASE = Item(
        "lease", How.HERE, "of a training by itself, who trains it: numbered objects", "store/lease", "the same"
    )
    TRACKER = Item("tracker", How.TRACKER, "wandb's files and what came of them", "tracking", "tracking")


class TrackerFiles:
    """What is in a trial's tracker folder."""

    DONE = Item("done", How.TRACKER, "what came of its run", "tracking/follower, tracking/tracker", "tracking/marks")
    LOCK = Item("lock", How.TRACKER, "held by the process at work on it", "tracking/follower", "tracking/marks")
    LOG = Item("log", How.TRACKER, "what wandb said", "tracking/tracker", "a person")
    WANDB = Item("wandb", How.TRACKER, "wandb's own files", "wandb", "wandb sync")
    PICTURES = Item("pictures", How.TRACKER, "of each validation, until its run is whole", "run/trial", _SENDS)


PARTS = ".parts/"  # behind the name of a file that grows: its objects
TEMPORARY = ".tmp"  # ends the names of files that are being written


def items(*classes: type) -> list[Item]:
    """Return all items of layout classes, in their order."""
    return [item for layout in classes for item in vars(layout).values() if isinstance(item, Item)]


_OF_A_STUDY = {item.name: item for item in items(StudyFiles)}
_OF_A_TRIAL = {item.name: item for item in items(TrialFiles)}


def how_kept(name: str) -> How:
    """Return how a file is kept, by its name within the study's folder; one that nobody here knows: whole."""
    first, *rest = name.split("/")
    if rest and first in {StudyFiles.TRIALS.name, StudyFiles.CONFIRM.name}:
        item = _OF_A_TRIAL.get(rest[1]) if len(rest) > 1 else None
    else:
        item = _OF_A_STUDY.get(first)
    if item is None and first.startswith(StudyFiles.OPTUNA.name):
        item = StudyFiles.OPTUNA  # sqlite's journal beside it
    return item.how if item is not None else How.WHOLE
