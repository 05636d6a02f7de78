"""One trial's files, or a training's by itself: what is to be trained, its readings, its attempts, how it ended.

JSON files are written to a temporary name and renamed; a reading is one line, and half a line is never read.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from trainables.configuration import dump_configuration, load_configuration
from trainables.errors import one_line
from trainables.outcome import End, Outcome
from trainables.schema import Configuration
from tune_srgan.store.layout import TrackerFiles, TrialFiles
from tune_srgan.store.objects import write_atomically
from tune_srgan.store.patience import PATIENCE_S, patiently
from tune_srgan.study.space import Value

WITHOUT_A_WORD = "its worker died without a word (killed, out of memory, or its node was lost)"


class Proposer(StrEnum):
    """Who proposed a trial's values; a fitted sampler is named by its own name."""

    TRY_FIRST = "try_first"  # the study file
    STARTUP = "startup"  # blindly, before the sampler is fitted
    RANDOM = "random"
    CONFIRM = "confirm"  # the search's best, on a further seed
    TRAIN = "train"  # a person, by `train`


class Fault(StrEnum):
    """Whose fault the failure of an attempt was."""

    TRIAL = "the trial's"
    DEVICE = "a device's, which all who share it may see"
    NODE = "its node's, whose GPU is lost: another node goes on; without one the study stops, to be resumed"
    STUDY = "the study's, whose imagery is gone: the study stops, to be resumed"


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed: the error's name and message, whose fault it was, on which device and when."""

    error: str
    message: str
    fault: Fault
    device: str
    time: float

    @property
    def cause(self) -> str:
        """The error as a person reads it."""
        return f"{self.error}: {self.message}"


@dataclass(frozen=True)
class Attempt:
    """A worker took the trial on; how that ended: by a failure, by a pause, or neither where nothing was noted."""

    run: str
    node: str | None
    failure: Failure | None = None
    paused: bool = False


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
        return self.path / TrialFiles.CONFIGURATION.name

    @property
    def readings_file(self) -> Path:
        """One JSON object a line, one line a reading."""
        return self.path / TrialFiles.READINGS.name

    @property
    def checkpoint(self) -> Path:
        """The training's state."""
        return self.path / TrialFiles.CHECKPOINT.name

    @property
    def generator(self) -> Path:
        """Of a training by itself: its generator."""
        return self.path / TrialFiles.GENERATOR.name

    @property
    def samples(self) -> Path:
        """LR | bicubic | after pretraining | at the end | HR."""
        return self.path / TrialFiles.SAMPLES.name

    @property
    def map(self) -> Path:
        """Where the images between LR and HR of the samples omit detail, and where they invent it."""
        return self.path / TrialFiles.MAP.name

    @property
    def worth(self) -> Path:
        """The columns of the samples, and the images' power spectra."""
        return self.path / TrialFiles.WORTH.name

    @property
    def tracker(self) -> Path:
        """The tracker's own folder."""
        return self.path / TrialFiles.TRACKER.name

    @property
    def is_alone(self) -> bool:
        """Whether it is a training by itself, of no study."""
        return self.header().get("proposed_by") == Proposer.TRAIN

    def picture(self, step: int) -> Path:
        """Name what the validation at a step is drawn in; with the tracker, as long as its run is not whole."""
        return self.tracker / TrackerFiles.PICTURES.name / f"{step}.jpg"

    def create(self, values: Mapping[str, Value], proposed_by: str, configuration: Configuration) -> None:
        """Write down what is to be trained; the header last, for with it the trial exists."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.configuration_file, dump_configuration(configuration))
        header = {"values": dict(values), "proposed_by": proposed_by, "created": time.time()}
        write_atomically(self._header_file, json.dumps(header))

    def exists(self) -> bool:
        """Tell whether the trial was created completely."""
        return self._header_file.exists()

    def configuration(self) -> Configuration:
        """Read the trial's configuration."""
        return load_configuration(self.configuration_file)

    def header(self) -> dict[str, Any]:
        """Read values, who proposed them, and when it was created."""
        return read_json(self._header_file) or {}

    def outcome(self) -> dict[str, Any] | None:
        """Read how it ended; None while it has not."""
        return read_json(self.path / TrialFiles.OUTCOME.name)

    def end(self, outcome: Outcome) -> None:
        """Write down how it ended, once."""
        if self.outcome() is None:
            content = json.dumps(outcome.as_dict())
            patiently(lambda: write_atomically(self.path / TrialFiles.OUTCOME.name, content), PATIENCE_S)

    def end_failed(self) -> None:
        """Write down that its attempts are used up, with the last cause that was noted."""
        causes = [attempt.failure.cause for attempt in self.attempts() if attempt.failure is not None]
        step = self.last_step()
        self.end(Outcome(End.FAILED, step, True, None, step, cause=causes[-1] if causes else WITHOUT_A_WORD))

    def readings(self) -> list[dict[str, float]]:
        """Read all of them, in order of their steps; of a step that two workers wrote, the first."""
        by_step: dict[float, dict[str, float]] = {}
        for line in _whole_lines(self.readings_file):
            reading = json.loads(line)
            by_step.setdefault(reading["step"], reading)
        return [by_step[step] for step in sorted(by_step)]

    def last_step(self) -> int:
        """Return the step of the last reading; 0 where there is none."""
        return int(max((json.loads(line)["step"] for line in _whole_lines(self.readings_file)), default=0))

    def append(self, reading: Mapping[str, float]) -> None:
        """Write one reading, on the disk before this returns."""
        patiently(lambda: _append(self.readings_file, reading), PATIENCE_S)

    def begin_attempt(self, run: str, node: str | None = None) -> None:
        """Note that a worker of a driver's run, on a node, takes this trial on."""
        self._note({"run": run, "node": node, "time": time.time()})

    def note_pause(self) -> None:
        """Note that the attempt ended well, before the trial did: another goes first."""
        self._note({"paused": time.time()})

    def note_failure(self, error: Exception, fault: Fault, device: str = "") -> None:
        """Note why an attempt failed; `device` names the one whose fault it was."""
        told = {"error": type(error).__name__, "message": one_line(error, most=500)}
        _append(self._attempts_file, {**told, "fault": fault.name, "device": device, "time": time.time()})

    def attempts(self) -> list[Attempt]:
        """Read what was noted of attempts, in order; a worker that is killed notes no end."""
        attempts: list[Attempt] = []
        for line in _whole_lines(self._attempts_file):
            note = json.loads(line)
            if "run" in note:
                attempts.append(Attempt(note["run"], note.get("node")))
            elif attempts:
                failure = None
                if "error" in note:
                    fault = Fault[note["fault"]]
                    failure = Failure(note["error"], note["message"], fault, note["device"], note["time"])
                attempts[-1] = Attempt(attempts[-1].run, attempts[-1].node, failure, "paused" in note)
        return attempts

    def is_paused(self) -> bool:
        """Tell whether it waits since its last attempt."""
        attempts = self.attempts()
        return bool(attempts) and attempts[-1].paused and self.outcome() is None

    def begin_path(self, path: str) -> None:
        """Note the path of pretraining, by its fingerprint, that this trial begins on."""
        write_atomically(self.path / TrialFiles.PRETRAINING.name, path)

    def began_on(self, path: str) -> bool:
        """Tell whether this trial's pretraining began on that path."""
        file = self.path / TrialFiles.PRETRAINING.name
        return file.exists() and file.read_text(encoding="utf-8") == path

    def complain(self, text: str) -> None:
        """Keep, once, what went wrong beside the training and stopped nothing; the report shows it."""
        with contextlib.suppress(OSError), self._complaints_file.open("a+", encoding="utf-8") as file:
            file.seek(0)
            if text not in file.read().splitlines():
                file.write(text + "\n")

    def complaints(self) -> list[str]:
        """Read what was complained of."""
        file = self._complaints_file
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []

    @property
    def _header_file(self) -> Path:
        return self.path / TrialFiles.TRIAL.name

    @property
    def _attempts_file(self) -> Path:
        return self.path / TrialFiles.ATTEMPTS.name

    @property
    def _complaints_file(self) -> Path:
        return self.path / TrialFiles.COMPLAINTS.name

    def _note(self, attempt: Mapping[str, Any]) -> None:
        patiently(lambda: _append(self._attempts_file, attempt), PATIENCE_S)


def read_json(path: Path) -> dict[str, Any] | None:
    """Read the mapping in a JSON file; None where there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    assert isinstance(content, dict), path
    return content


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
