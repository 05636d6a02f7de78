"""The tracker's own process: follows one trial's record and sends what is new, as one run, grouped by study.

Its step is the generator's step. With `sweep` and `wandb_report`, all that knows wandb.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from trainables.dotted import flatten
from trainables.merits import QUALITY, flat
from trainables.outcome import End
from trainables.places import is_url
from tune_srgan.store.layout import TrackerFiles
from tune_srgan.store.records import record_of
from tune_srgan.store.trial_folder import TrialFolder, read_json
from tune_srgan.tracking import marks
from tune_srgan.tracking.lines import define_axis, line_of
from tune_srgan.tracking.marks import LEAVE_S, Mark, Where, mark_of, tracking_mode
from tune_srgan.tracking.tracker import SERVER_S, reason_of

POLL_S = 0.3
OUR_TAGS = {*End, "censored", "best"}


def _is_whole(written: Path) -> bool:
    """Whether an offline run holds its own end: of a full disk wandb says nothing.

    Asks wandb's own command, in this process: to start it takes as much as all the rest of a short run.
    """
    from wandb.cli.cli import cli

    with tempfile.TemporaryFile() as said:
        log = os.dup(1)
        os.dup2(said.fileno(), 1)
        try:
            cli(["leet", "inspect", "--json", str(written)])
        except SystemExit:  # every command of it ends so
            pass
        finally:
            os.dup2(log, 1)
            os.close(log)
        said.seek(0)
        return b'"type":"exit"' in said.read()[-200:]


class _Follower:
    """What runs in the tracker's process: one run a trial, grouped by study; its step is the generator's step."""

    def __init__(self, trial: TrialFolder, options: argparse.Namespace) -> None:
        self._trial, self._options = trial, options
        self._folder = marks.study_of(trial)
        self._study = marks.owner_of(trial)
        self._settings = self._study.tracking.wandb
        self._online = tracking_mode(self._settings)[0] == "online"
        self._attempts = len(trial.attempts())
        self._last_step = -1
        self._read = 0  # bytes of the record

    def follow(self) -> None:
        """Send the record until the trial has ended, or its attempt has."""
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            with (self._trial.tracker / TrackerFiles.LOCK.name).open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # an earlier attempt's process may still be closing its run
                file.truncate(0)
                file.write(str(os.getpid()))  # for a person who wonders
                file.flush()
                if marks.is_where_it_belongs(self._trial, self._online):
                    return
                if mark_of(self._trial).run is Where.SERVER:
                    self._tag()
                else:
                    self._send()
        except (Exception, KeyboardInterrupt) as error:  # wandb raises the latter where a person stops the run
            self._fail(reason_of(error))

    def _send(self) -> None:
        self._clear()
        if self._online and self._attempts > 1 and is_url(self._folder.address):
            time.sleep(LEAVE_S + 1)  # on another machine an earlier attempt's process may still be closing its run
        run = self._open()
        configuration = self._trial.configuration()
        while True:
            over = self._is_over()  # asked first: an attempt that ended well has left its outcome before
            outcome = self._trial.outcome()
            for reading in self._new_readings():
                step = int(reading["step"])
                run.log(line_of(reading, configuration) | self._picture(step), step=step)
            if outcome is not None:
                self._finish(run, outcome)
                return
            if over:
                run.finish(exit_code=1)  # another attempt goes on with it
                return
            time.sleep(POLL_S)

    def _clear(self) -> None:
        """Remove what attempts before this one left here and in the store: what is missing comes from the record."""
        runs, mark = (self._trial.tracker / item.name for item in (TrackerFiles.WANDB, TrackerFiles.DONE))
        if not (runs.exists() or mark.exists()):
            return
        shutil.rmtree(runs, ignore_errors=True)
        mark.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._folder.replace(str(self._trial.tracker.relative_to(self._folder.path)), LEAVE_S)

    def _open(self) -> Any:
        os.environ |= self._environment()
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            init_timeout=self._options.patience,
            x_stats_pid=self._options.watching,  # the training's use of the machine, not this process's
        )
        header = {"proposed_by": self._trial.header()["proposed_by"]}
        header |= {} if self._trial.is_alone else {"trial": self._trial.number}
        try:
            run = wandb.init(config=flatten(self._trial.configuration().model_dump()) | header, settings=settings)
        except Exception as error:
            self._say_away(reason_of(error))
            raise
        if self._online:
            # a run that goes on: what the server has is not sent again, what was on its way is
            self._last_step = run.starting_step - 1
        elif not Path(run.dir).is_relative_to(self._trial.tracker):
            raise OSError(f"{self._trial.tracker} cannot be written")  # wandb would go on in the system's /tmp
        define_axis(run)
        return run

    def _environment(self) -> dict[str, str]:
        """wandb's, complete before it is imported: within a sweep it heeds nothing else."""
        trial = self._trial
        told = {"RUN_ID": marks.run_id(trial, self._study), "NAME": marks.run_name(trial, self._study)}
        told |= {"RESUME": "allow", "PROJECT": self._settings.project}
        if trial.is_alone:
            told["JOB_TYPE"] = "train"
        else:
            told |= {"JOB_TYPE": "confirm" if trial.confirms else "search", "RUN_GROUP": self._study.study}
        told |= {"DIR": str(trial.tracker), "MODE": "online" if self._online else "offline"}
        if not self._online:
            told["ERROR_REPORTING"] = "false"  # wandb would report on itself, offline or not
        if self._settings.entity:
            told["ENTITY"] = self._settings.entity
        os.environ.pop("WANDB_SWEEP_ID", None)
        # neither a confirmation nor a training by itself is a trial of the search
        sweep = {} if trial.is_alone or trial.confirms else self._sweep()
        if "id" in sweep:
            told |= {"SWEEP_ID": sweep["id"], "ENTITY": sweep["entity"], "PROJECT": sweep["project"]}
        return {f"WANDB_{key}": value for key, value in told.items()}

    def _sweep(self) -> dict[str, Any]:
        """The study's sweep; waits for one that is being made."""
        file = marks.sweep_file(self._folder)
        while time.time() < (sweep := read_json(file) or {}).get("until", 0):
            time.sleep(POLL_S)
            self._folder.fetch_file(file.name)
        return sweep

    def _new_readings(self) -> Iterator[dict[str, float]]:
        size = self._trial.readings_file.stat().st_size if self._trial.readings_file.exists() else 0
        if size == self._read:
            return
        self._read = size
        for reading in self._trial.readings():
            if reading["step"] > self._last_step:
                self._last_step = int(reading["step"])
                yield reading

    def _picture(self, step: int) -> dict[str, Any]:
        """What was drawn of the validation at a step, where it was."""
        import wandb

        drawn = self._trial.picture(step)
        return {"Val SR": wandb.Image(str(drawn))} if drawn.exists() else {}

    def _finish(self, run: Any, outcome: Mapping[str, Any]) -> None:
        """Summary, tags, images; then the run is closed, and the server asked whether it knows."""
        import wandb

        best, record = marks.is_best(self._trial), record_of(self._trial, self._study)
        summary = {key: value for key, value in outcome.items() if value is not None}
        summary |= flat(summary.pop("quality", {}))
        summary["outcome"] = summary.pop("end")
        summary |= {f"steps/{kind}": steps for kind, steps in record.account.items()}
        if not outcome["censored"]:
            summary["steps_to_nash"] = outcome["steps"]
        if record.held.pace is not None:
            summary["pace"] = record.held.pace
        if record.cost is not None:
            summary["nash_cost"] = record.cost
        if best:
            summary["best"] = True
        drawn = {"Val SR": self._trial.samples, f"{QUALITY}map": self._trial.map}
        if images := {name: wandb.Image(str(file)) for name, file in drawn.items() if file.exists()}:
            run.log(images, step=max(self._last_step, run.starting_step, 0))
        run.summary.update(summary)
        run.tags = self._tags(run.tags or (), outcome, best)
        url = run.url if self._online else None
        path = f"{run.entity}/{run.project}/{run.id}"
        written = Path(run.dir).parent / f"run-{run.id}.wandb"
        run.finish(exit_code=int(record.end is End.FAILED))
        if self._online:
            self._known(path).wait_until_finished()  # `finish` is silent where the server took nothing
            self._forget_pictures()
            Mark(Where.SERVER, best, url, path).note(self._trial)
        elif _is_whole(written):
            self._forget_pictures()
            Mark(Where.OFFLINE, best).note(self._trial)
        else:
            raise OSError("its offline run could not be written whole: is the disk full?")

    def _forget_pictures(self) -> None:
        """They are in the run now, and another attempt at sending it is not needed."""
        shutil.rmtree(self._trial.tracker / TrackerFiles.PICTURES.name, ignore_errors=True)

    def _tag(self) -> None:
        """Tag a run again that was sent, and is the best now, or no more."""
        mark, best, outcome = mark_of(self._trial), marks.is_best(self._trial), self._trial.outcome()
        if outcome is not None and mark.best != best:
            run = self._known(mark.path)
            run.tags = list(self._tags(run.tags, outcome, best))
            run.summary["best"] = best
            run.update()
        replace(mark, best=best, missed="").note(self._trial)

    def _known(self, path: str) -> Any:
        """The run as the server has it."""
        import wandb

        os.environ["WANDB_DIR"] = str(self._trial.tracker / TrackerFiles.WANDB.name)  # where it makes empty folders
        return wandb.Api().run(path)

    def _tags(self, tags: Sequence[str], outcome: Mapping[str, Any], best: bool) -> tuple[str, ...]:
        """Ours, after those that a person gave."""
        ours = [str(outcome["end"]), *(["censored"] if outcome["censored"] else []), *(["best"] if best else [])]
        return (*(tag for tag in tags if tag not in OUR_TAGS), *ours)

    def _is_over(self) -> bool:
        """Whether the attempt is: its process is gone, its tracker closed, or another attempt began."""
        with contextlib.suppress(OSError, ValueError):
            if select.select([0], [], [], 0)[0] and not os.read(0, 1):
                return True
        return len(self._trial.attempts()) > self._attempts

    def _watch(self) -> None:
        """Bound what wandb may take: no process stays for ever, whatever it hangs in."""
        since: dict[bool, float] = {}  # when the trial was first seen ended; when its attempt was, and it had not
        patience = 3 * self._options.patience
        while True:
            with contextlib.suppress(OSError):
                over, ended = self._is_over(), self._trial.outcome() is not None
                if ended or over:
                    waited = time.monotonic() - since.setdefault(ended, time.monotonic())
                    if ended and waited > patience:
                        reason = f"the server took longer than {patience:g} s"
                        self._say_away(reason)
                        self._fail(reason)
                    if not ended and waited > LEAVE_S:
                        os._exit(1)
            time.sleep(1.0)

    def _fail(self, reason: str) -> NoReturn:
        try:
            reason = self._of_a_trial(reason)
            if mark_of(self._trial).run is Where.SERVER:
                marks.miss(self._trial, f"the tag `best` is not sent ({reason})")
            elif self._trial.outcome() is not None or not self._is_over():
                shutil.rmtree(self._trial.tracker / TrackerFiles.WANDB.name, ignore_errors=True)
                marks.miss(self._trial, reason)
        finally:
            os._exit(1)  # wandb's own end would wait for the server again

    def _say_away(self, reason: str) -> None:
        """Trials that begin now need not ask the server."""
        if self._online:
            marks.say_away(self._folder, self._of_a_trial(reason))

    def _of_a_trial(self, reason: str) -> str:
        """The same words for every trial: the report counts them."""
        return reason.replace(marks.run_id(self._trial, self._study), "a trial")


def main(arguments: Sequence[str] | None = None) -> None:
    """Send the records of trials that were not sent."""
    parser = argparse.ArgumentParser(prog="python -m tune_srgan.tracking", description=main.__doc__)
    parser.add_argument("trials", nargs="+", type=Path, metavar="TRIAL", help="a trial's folder")
    parser.add_argument("--patience", type=float, default=SERVER_S, help="seconds the server may take to open a run")
    # what a training starts for its trial: one, from now to its end
    parser.add_argument("--follow", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--watching", type=int, default=os.getpid(), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    trials = [TrialFolder(path.resolve()) for path in options.trials]
    if options.follow:
        os.nice(10)  # the training goes first
        _Follower(trials[0], options).follow()
        return
    if not any(trial.exists() for trial in trials):
        parser.error("none of these is a trial's folder")
    begun, missing = time.time(), 0
    for trial in filter(TrialFolder.exists, trials):  # a process each: wandb keeps its first run's settings
        folder = marks.study_of(trial)
        with contextlib.suppress(OSError):
            folder.fetch(trial.place)
        online = tracking_mode(marks.owner_of(trial).tracking.wandb)[0] == "online"
        if not marks.has_run(trial):
            continue
        trial.tracker.mkdir(exist_ok=True)
        there = marks.is_where_it_belongs(trial, online)
        if not there and (reason := marks.why_away(folder, begun)):
            marks.miss(trial, reason)
        elif not there:
            command = [sys.executable, "-m", "tune_srgan.tracking", "--follow", "--patience", str(options.patience)]
            subprocess.run([*command, str(trial.path)], stdin=subprocess.DEVNULL, check=False)
        sent, kept = (marks.is_sent(trial, where) for where in Where)
        missing += not (sent or kept)
        sys.stdout.write(f"{trial.place}: {'sent' if sent else 'kept offline' if kept else 'not sent'}\n")
    if missing:
        raise SystemExit(1)
