"""What is kept, and where: one class names every path of a study and reads and writes its records.

The trial records are the truth: configuration, readings, outcome. Everything else can be made from them.
JSON files are written to a temporary name and renamed; a reading is one line, and half a line is never read.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.balance import Ruler, judge, nash_cost
from trainables.configuration import Configuration, dump_configuration, is_url, load_configuration
from trainables.errors import InvalidInput, Problem
from tune_srgan.mirror import PATIENCE_S, mirror_of, patiently, working_copy
from tune_srgan.storage import Storage, storage_at, write_atomically
from tune_srgan.study import Study, Value, load_study

UNFINISHED = "running"
TRY_FIRST = "try_first"  # who proposed what the study file names
BUDGET_USED = "the study's budget is used up"  # why a trial was capped that might still have won
CENSORED = {"exhausted", "capped", "collapsed"}  # ends of trainings that did not reach the balance
SHARED = "training/shared"  # marks a reading that another trial computed
OPTUNA_URL = "TUNE_SRGAN_OPTUNA"  # postgresql://…: with its password, so no setting in a file
WAITS = ("begin", "validate", "record", "checkpoint", "report")


def read_json(path: Path) -> dict[str, Any] | None:
    """The file's content; None where there is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    assert isinstance(found, dict), path
    return found


@dataclass(frozen=True)
class TrialFolder:
    """One trial's files."""

    path: Path

    @property
    def number(self) -> int:
        """The trial's number: the same in Optuna, Ray and the tracker."""
        return int(self.path.name.partition("-")[0])

    @property
    def confirms(self) -> int:
        """Which further seed of its number this trial confirms; 0 for a trial of the search."""
        return int(self.path.name.partition("-")[2] or 0)

    @property
    def name(self) -> str:
        """As a person is told: `3`, or `3 seed +1` of a confirmation."""
        return f"{self.number} seed +{self.confirms}" if self.confirms else str(self.number)

    @property
    def place(self) -> str:
        """Its folder within the study's: what `StudyFolder.named` takes."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def configuration_file(self) -> Path:
        """The complete training configuration."""
        return self.path / "configuration.yaml"

    @property
    def readings_file(self) -> Path:
        """One JSON object a line, one line a reading."""
        return self.path / "readings.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The training's state."""
        return self.path / "checkpoint.pt"

    @property
    def samples(self) -> Path:
        """LR | bicubic | after pretraining | at the end | HR."""
        return self.path / "samples.png"

    @property
    def samples_figures(self) -> Path:
        """The columns of the samples, with PSNR, SSIM and spectral angle."""
        return self.path / "samples.json"

    @property
    def attempts_file(self) -> Path:
        """One JSON object a line: an attempt began, or why one failed; a worker that is killed says nothing."""
        return self.path / "attempts.jsonl"

    @property
    def path_file(self) -> Path:
        """Which path of pretraining this trial began on: a fingerprint."""
        return self.path / "pretraining.txt"

    def create(self, values: Mapping[str, Value], proposed_by: str, configuration: Configuration) -> None:
        """Write down what is to be trained; `trial.json` last, for with it the trial exists."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.configuration_file, dump_configuration(configuration))
        record = {"values": dict(values), "proposed_by": proposed_by, "created": time.time()}
        write_atomically(self.path / "trial.json", json.dumps(record))

    def configuration(self) -> Configuration:
        """The trial's configuration."""
        return load_configuration(self.configuration_file)

    def header(self) -> dict[str, Any]:
        """Values, who proposed them, when."""
        return read_json(self.path / "trial.json") or {}

    def tried_first(self) -> bool:
        """Whether the study file names it: a baseline, or a setting known to be good."""
        return bool(self.header()["proposed_by"] == TRY_FIRST)

    def exists(self) -> bool:
        """Whether the trial was created completely."""
        return (self.path / "trial.json").exists()

    def outcome(self) -> dict[str, Any] | None:
        """How it ended; None while it has not."""
        return read_json(self.path / "outcome.json")

    def end(self, outcome: Mapping[str, Any]) -> None:
        """Write down how it ended, once."""
        if self.outcome() is None:
            patiently(lambda: write_atomically(self.path / "outcome.json", json.dumps(dict(outcome))), PATIENCE_S)

    def begin_attempt(self, run: str, node: str | None = None) -> None:
        """Note that a worker of a driver's run, on a node, takes this trial on."""
        self._note({"run": run, "node": node, "time": time.time()})

    def note_pause(self) -> None:
        """Note that the attempt ended well, before the trial did: it makes way for another."""
        self._note({"paused": time.time()})

    def is_paused(self) -> bool:
        """Whether it waits since then."""
        attempts = self.attempts()
        return bool(attempts) and "paused" in attempts[-1] and self.outcome() is None

    def note_failure(self, error: Exception, gpu: str = "") -> None:
        """Keep the cause of a failed attempt; `gpu` names the device where it is the device's fault."""
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        _append(self.attempts_file, {"cause": cause, "gpu": gpu, "time": time.time()})

    def attempts(self) -> list[dict[str, Any]]:
        """What was noted of attempts, in order."""
        return [json.loads(line) for line in _whole_lines(self.attempts_file)]

    def failures(self) -> list[str]:
        """The causes of all failed attempts that could still say one."""
        return [attempt["cause"] for attempt in self.attempts() if "cause" in attempt]

    def failed(self) -> dict[str, Any]:
        """The outcome of a trial whose attempts are used up."""
        causes = self.failures()
        cause = causes[-1] if causes else "its worker died without a word (killed, out of memory, or its node was lost)"
        step = self.last_step()
        return {"end": "failed", "steps": step, "censored": True, "gap": None, "trained_steps": step, "cause": cause}

    def path_file_says(self, path: str) -> bool:
        """Whether this trial's pretraining began on that path."""
        return self.path_file.exists() and self.path_file.read_text(encoding="utf-8") == path

    def complain(self, text: str) -> None:
        """Keep what went wrong beside the training and stopped nothing; the report shows it."""
        with contextlib.suppress(OSError), (self.path / "complaints.log").open("a+", encoding="utf-8") as file:
            file.seek(0)
            if text not in file.read():
                file.write(text + "\n")

    def complaints(self) -> list[str]:
        """What was complained of."""
        file = self.path / "complaints.log"
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []

    def readings(self) -> list[dict[str, float]]:
        """All of them, in order of their steps; of a step that two workers wrote, the first."""
        found: dict[float, dict[str, float]] = {}
        for line in _whole_lines(self.readings_file):
            reading = json.loads(line)
            found.setdefault(reading["step"], reading)
        return [found[step] for step in sorted(found)]

    def last_step(self) -> int:
        """Step of the last reading; 0 where there is none."""
        return int(max((json.loads(line)["step"] for line in _whole_lines(self.readings_file)), default=0))

    def append(self, reading: Mapping[str, float]) -> None:
        """Write one reading, on the disk before this returns."""
        patiently(lambda: _append(self.readings_file, reading), PATIENCE_S)

    def _note(self, attempt: Mapping[str, Any]) -> None:
        patiently(lambda: _append(self.attempts_file, attempt), PATIENCE_S)


def _append(path: Path, record: Mapping[str, Any]) -> None:
    """One JSON object more, on the disk before this returns; first drops half a line a kill may have left."""
    with path.open("ab+") as file:
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            file.truncate(whole)
        file.write(json.dumps(dict(record)).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _whole_lines(file: Path) -> list[str]:
    if not file.exists():
        return []
    return [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


@dataclass(frozen=True)
class TrialRecord:
    """A trial as the service sees it: read once, judged by the study's ruler."""

    number: int
    values: dict[str, Value]
    proposed_by: str
    end: str  # an outcome, or `running`
    steps: int | None
    censored: bool
    gap: float | None
    cost: float | None
    trained_steps: int
    exploitability: float | None
    cause: str
    created: float
    seconds: float
    step_seconds: tuple[float, float]  # what a step of pretraining and one of the game took, nan where there was none
    waits: dict[str, float]  # seconds the training stood still, to validate, record, checkpoint and report
    account: dict[str, int]


@dataclass(frozen=True)
class StudyFolder:
    """A study's files, below `<storage>/<study>/`."""

    path: Path

    @property
    def address(self) -> str:
        """Where it is kept: this folder, or the URL of which this is a working copy."""
        mirror = mirror_of(self.path)
        return str(self.path) if mirror is None else mirror.url

    @property
    def beside(self) -> str:
        """Where it is kept beside other studies."""
        return self.address.rpartition("/")[0]

    def storage(self, below: str = "") -> Storage:
        """The objects that are kept below a name."""
        return storage_at(f"{self.address}/{below}".rstrip("/"))

    def fetch(self, place: str = "", heavy: bool = False, patience: float = 0.0) -> None:
        """Bring a working copy up to date with its store; `heavy`: checkpoints too."""
        mirror = mirror_of(self.path)
        if mirror is not None:
            patiently(lambda: mirror.fetch(place, heavy), patience)

    def replace(self, place: str, patience: float = 0.0) -> None:
        """Let the store have, below a name, what a working copy has."""
        mirror = mirror_of(self.path)
        if mirror is not None:
            patiently(lambda: mirror.replace(place), patience)

    def fetch_file(self, name: str) -> None:
        """Bring one of the study's own files up to date in a working copy."""
        mirror = mirror_of(self.path)
        if mirror is not None:
            mirror.fetch_file(name)

    def send(self, place: str = "", patience: float = 0.0) -> None:
        """Send to the store what a working copy has that is new: of a trial, or of the study's own files."""
        mirror = mirror_of(self.path)
        if mirror is not None:
            patiently(lambda: mirror.send(place) if place else mirror.send_top(), patience)

    @property
    def study_file(self) -> Path:
        """The resolved study."""
        return self.path / "study.yaml"

    @property
    def optuna_url(self) -> str:
        """Optuna's database: a file of the study's, or the one that the environment names for all studies."""
        return os.environ.get(OPTUNA_URL) or f"sqlite:///{self.path / 'optuna.db'}"

    @property
    def optuna_name(self) -> str:
        """The study's name there."""
        return self.address if os.environ.get(OPTUNA_URL) else self.path.name

    @property
    def ray_folder(self) -> Path:
        """Ray's own experiment state."""
        return self.path / "ray"

    @property
    def best_configuration(self) -> Path:
        """The winner's complete training configuration."""
        return self.path / "best.yaml"

    @property
    def best_generator(self) -> Path:
        """The winner's generator."""
        return self.path / "best.pt"

    @property
    def versions_file(self) -> Path:
        """What the study ran on."""
        return self.path / "versions.json"

    @property
    def report_file(self) -> Path:
        """The report for a browser; other formats beside it."""
        return self.path / "report.html"

    @property
    def clock_file(self) -> Path:
        """Seconds the study has run, over all its drivers."""
        return self.path / "clock.json"

    @property
    def pretraining(self) -> Storage:
        """Snapshots of pretraining that trials share."""
        return self.storage("pretraining")

    def trial(self, number: int) -> TrialFolder:
        """The folder of a trial."""
        return self.named(f"trials/{number:05d}")

    def confirmation(self, number: int, further: int) -> TrialFolder:
        """The folder of a trial's confirmation on its `further`-th seed."""
        return self.named(f"confirm/{number:05d}-{further}")

    def named(self, place: str) -> TrialFolder:
        """The folder at a trial's `place`."""
        return TrialFolder(self.path / place)

    def trials(self, of: str = "trials") -> list[TrialFolder]:
        """All trials that exist, by number; those of the search, or the confirmations (`confirm`)."""
        folders = (self.path / of).glob("[0-9]*")
        return [trial for trial in map(TrialFolder, sorted(folders)) if trial.exists()]

    def study(self) -> Study:
        """The study as it was started."""
        return load_study(self.study_file)[0]

    def open(self, study: Study) -> None:
        """Create the folder, or go on in it if it holds the same search; one clear error otherwise."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            storage = self.storage()
            storage.write(".writable", b"")
            storage.delete(".writable")
            self.fetch()
        except OSError as error:
            kind = "URL" if is_url(self.address) else "folder"
            found = f"a {kind} that cannot be written ({error.strerror or str(error)[:160]})"
            raise InvalidInput(
                [Problem(self.address, "storage", found, f"a writable {kind}", "Name another with --storage.")]
            ) from None
        if self.study_file.exists() and not self.study().same_search(study):
            fix = "Give the study another name, or another --storage; `resume` goes on with the old one."
            expected = "the same training, space and objective"
            raise InvalidInput(
                [Problem(str(self.study_file), "study", f"'{study.study}' with another search", expected, fix)]
            )
        write_atomically(self.study_file, study.dump())
        self.send()

    def every_trial(self) -> list[TrialFolder]:
        """All trials that exist: those of the search, then the confirmations."""
        return [*self.trials(), *self.trials("confirm")]

    def records(self, study: Study, of: str = "trials") -> list[TrialRecord]:
        """All trials, by number; those of the search, or the confirmations (`confirm`)."""
        return [record_of(trial, study) for trial in self.trials(of)]


def record_of(trial: TrialFolder, study: Study) -> TrialRecord:
    """One trial's record; the cost is derived here, so it may be changed later without retraining."""
    header, outcome, readings = trial.header(), trial.outcome(), trial.readings()
    cost, step_seconds = None, (math.nan, math.nan)
    if outcome is not None and outcome["end"] not in {"failed", "diverged"}:
        configuration = study.configuration(header["values"])  # as in its file, without reading YAML
        pretraining = configuration.Training.pretrain_steps
        step_seconds = step_seconds_of(readings, pretraining)
        cost = nash_cost(judge(readings, Ruler.of(configuration)), study.max_steps)
        if study.objective.metric == "seconds_to_nash":
            cost = in_seconds(cost, pretraining, step_seconds, study.max_steps)
    ended = outcome or {}
    last = readings[-1] if readings else {}
    computed = [reading for reading in readings if SHARED not in reading]
    return TrialRecord(
        number=trial.number,
        values=header["values"],
        proposed_by=header["proposed_by"],
        end=ended.get("end", UNFINISHED),
        steps=ended.get("steps"),
        censored=ended.get("censored", True),
        gap=ended.get("gap"),
        cost=cost,
        trained_steps=int(ended.get("trained_steps", last.get("step", 0))),
        exploitability=ended.get("exploitability"),
        cause=ended.get("cause", ""),
        created=header["created"],
        seconds=sum(reading["time/train_s"] + reading["time/validate_s"] for reading in computed),
        step_seconds=step_seconds,
        waits={kind: sum(reading.get(f"time/{kind}_s", 0.0) for reading in computed) for kind in WAITS},
        account=account_of(readings, ended, study.max_steps),
    )


def account_of(readings: Sequence[Mapping[str, float]], ended: Mapping[str, Any], max_steps: int) -> dict[str, int]:
    """Steps that a trial computed, and those of `max_steps` it was spared.

    `sharing`: another trial computed them. `balance`, `capping`: it ended before; how long it would have trained
    without that is not known, so these are upper bounds.
    """
    trained = int(ended.get("trained_steps", readings[-1]["step"] if readings else 0))
    before = [0, *(int(reading["step"]) for reading in readings)]
    shared = sum(int(r["step"]) - first for first, r in zip(before, readings, strict=False) if SHARED in r)
    capped = ended.get("end") in CENSORED and ended.get("cause") != BUDGET_USED
    by = "balance" if ended.get("end") == "balanced" else "capping" if capped else ""
    spared = {kind: max_steps - trained if kind == by else 0 for kind in ("balance", "capping")}
    return {"executed": trained - shared, "sharing": shared} | spared


def account_of_study(records: Sequence[TrialRecord]) -> dict[str, int]:
    """The accounts of its trials, summed."""
    kinds = ("executed", "sharing", "capping", "balance")
    return {kind: sum(record.account[kind] for record in records) for kind in kinds}


def step_seconds_of(readings: Sequence[Mapping[str, float]], pretraining: int) -> tuple[float, float]:
    """What a step of pretraining and one of the game took: medians over the readings that lie wholly in one of them.

    A median passes over the readings in which kernels were built or the step was recorded. Where no reading lies
    wholly in a phase, the one that saw both stands in.
    """
    before = [0.0, *(reading["step"] for reading in readings)]
    taken = [
        (begin, reading["step"], reading["time/train_s"] / (reading["step"] - begin))
        for begin, reading in zip(before, readings, strict=False)
    ]
    pretrained = [seconds for begin, end, seconds in taken if end <= pretraining]
    played = [seconds for begin, end, seconds in taken if begin >= pretraining]
    across = [seconds for begin, end, seconds in taken if begin < pretraining < end]
    first = pretrained or (across if pretraining else [])
    second = played or across

    def usual(seconds: list[float]) -> float:
        # of one or two readings a median passes over nothing
        return math.nan if not seconds else statistics.median(seconds) if len(seconds) > 2 else min(seconds)

    return usual(first), usual(second)


def in_seconds(cost: float, pretraining: int, step_seconds: tuple[float, float], max_steps: int) -> float | None:
    """`nash_cost` in seconds of training: every step at what a step of its phase took in this trial.

    A censored cost, between one and two times `max_steps`, becomes as many times the seconds of `max_steps`.
    """
    times, steps = (cost / max_steps, float(max_steps)) if cost > max_steps else (1.0, cost)
    alone = min(steps, float(pretraining))
    known = [seconds for seconds in step_seconds if not math.isnan(seconds)]
    if not known:
        return None  # it never trained
    pretrained, played = (known[0] if math.isnan(seconds) else seconds for seconds in step_seconds)
    return times * (alone * pretrained + (steps - alone) * played)


def best_so_far(records: Sequence[TrialRecord]) -> list[TrialRecord | None]:
    """After each trial, the best up to it."""
    found: list[TrialRecord | None] = []
    for record in records:
        found.append(best_of([known for known in (*found[-1:], record) if known is not None]))
    return found


def best_of(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The balanced trial of the lowest cost; the earlier one of two alike."""
    balanced = [record for record in records if record.end == "balanced" and record.cost is not None]
    return min(balanced, key=lambda record: (record.cost or 0.0, record.number), default=None)


def study_at(address: str) -> StudyFolder:
    """The study that is, or will be, in a folder or at a URL; of a URL, its working copy."""
    return StudyFolder(working_copy(address) if is_url(address) else Path(address).expanduser().resolve())


def find_study(name: str, storage: str = "runs") -> StudyFolder:
    """The study a person means: a folder, a URL, a study file, or a name below the storage."""
    addresses = [name] if is_url(name) else [name, f"{storage}/{name}"]
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        study, _ = load_study(Path(name))
        addresses = [f"{study.storage}/{study.study}", f"{storage}/{study.study}"]
    for address in addresses:
        folder = study_at(address)
        try:
            folder.fetch()
        except OSError as error:
            found = f"a store that cannot be read ({str(error)[:160]})"
            fix = "Look at the URL, the credentials and the network."
            raise InvalidInput([Problem(address, "storage", found, "a store that answers", fix)]) from None
        if folder.study_file.is_file():
            return folder
    known = sorted(path.parent.name for path in Path(storage).expanduser().glob("*/study.yaml"))
    fix = (
        f"Studies in {storage}/: {', '.join(known)}."
        if known
        else f"There is no study in {storage}/; `run` starts one."
    )
    raise InvalidInput([Problem(name, "", "no study", "a study's folder, file or name", fix)])
