"""The tracker: a trial's record to Weights & Biases, by a process of its own.

The record comes first. The training only starts that process; it follows the record and sends what is new, so nothing
that wandb does (slow, hanging, refusing, not installed, its disk full) slows, fails or stops a training. What could not
be sent is sent later, from the record. With `sweeps`, the only module that knows wandb.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import math
import os
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from trainables.balance import Ruler
from trainables.configuration import flatten, is_url
from tune_srgan.records import CENSORED, StudyFolder, TrialFolder, read_json, record_of
from tune_srgan.storage import write_atomically
from tune_srgan.study import Study, WandbMode, WandbTracking

PATIENCE_S = 45.0  # what the server may take to open a run; thrice that, to take the rest after the trial's end
LEAVE_S = 10.0  # what closing a run may take after its worker was lost
POLL_S = 0.3
GRACE_S = 1.0  # a process that was just started holds no lock yet
AWAY_S = 300.0  # trials that begin within this do not ask a server that has failed one
OUR_TAGS = {*CENSORED, "balanced", "diverged", "failed", "censored", "best"}
NOT_INSTALLED = "wandb is not installed (pip install wandb)"
BALANCE_LINE = "nash/balance_point"  # drawn beside the two probabilities
# Ray kills a worker's children with it, whatever their session: so a child's child
DETACHED = """
import os, runpy
if os.fork():
    os._exit(0)
runpy.run_module("tune_srgan.tracking", run_name="__main__", alter_sys=True)
"""

_children: list[subprocess.Popen[bytes]] = []


class Tracker:
    """Follows a trial by its record: told nothing, it cannot hold a training up. By itself it does nothing at all."""

    def __init__(self, lifeline: IO[bytes] | None = None) -> None:
        # never written to: that it closes, with this object or its process, is how the tracker's process learns of it
        self._lifeline = lifeline

    def log(self, reading: Mapping[str, float]) -> None:
        """A reading was recorded."""

    def finish(self, outcome: Mapping[str, Any], samples: Path) -> None:
        """The outcome was recorded."""


def open_tracker(trial: TrialFolder, study: Study) -> Tracker:
    """Start the tracker of a trial's attempt; one that does nothing where none is wanted or none can be had."""
    if study.tracking.wandb.mode == "disabled":
        return Tracker()
    try:
        _tracker(trial).mkdir(exist_ok=True)
        if reason := why_away(_study_of(trial)):
            _miss(trial, reason)
            return Tracker()
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as held:
            lifeline = os.fdopen(writing, "wb", buffering=0)
            _start([trial], held, "--follow", "--watching", str(os.getpid()))
        return Tracker(lifeline)
    except Exception as error:  # a tracker that cannot be had never stops a training
        trial.complain(_told(_reason(error)))
        return Tracker()


def tracking_mode(settings: WandbTracking) -> tuple[WandbMode, str]:
    """The mode that will be used, and a sentence where it is not the one asked for."""
    if settings.mode == "online" and not (os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").exists()):
        return (
            "offline",
            "Weights & Biases: not logged in, so runs are kept offline; `wandb login` first, or sync them later.",
        )
    return settings.mode, ""


def run_id(trial: TrialFolder, study: Study) -> str:
    """The same for every attempt, and no other trial's."""
    return f"{study.study}-{trial.path.name}-{int(trial.header()['created'])}"


def address_of(trial: TrialFolder) -> str:
    """Where a person sees the trial's run; empty where it is not there."""
    return str(_done(trial).get("url") or "")


def is_there(trial: TrialFolder) -> bool:
    """Whether the trial's run is on the server: sent by its tracker, or by a person."""
    return _done(trial).get("run") == "server" or _is_synced(trial)


def complaints(trial: TrialFolder) -> list[str]:
    """What a trial complained of, and why its run is not where it should be."""
    missed = _done(trial).get("missed")
    return [*trial.complaints(), *([_told(missed)] if missed else [])]


def catch_up(study: Study, folder: StudyFolder, trials: Sequence[TrialFolder]) -> None:
    """Send what was left undone of trials that ended while no tracker followed them."""
    if study.tracking.wandb.mode != "disabled":
        _start_again(folder, [t for t in trials if _has_run(t) and not _is_done(t) and not _is_held(t)])


def wait_for_trackers(folder: StudyFolder, seconds: float) -> int:
    """Wait until the tracker of every ended trial is done, or the time is over; returns how many are not.

    A trial whose tracker was lost with its worker is given another, and so is one whose run does not know who is best.
    """
    elsewhere = is_url(folder.address)  # of a store, trackers are at work on other machines
    started: set[TrialFolder] = set()
    begun, pause = time.monotonic(), 1.0 if elsewhere else 0.05
    with contextlib.suppress(OSError):
        folder.fetch()
    left = [trial for trial in folder.every_trial() if _has_run(trial)]
    while left := [trial for trial in left if not _is_done(trial)]:
        waited = time.monotonic() - begun
        late = not elsewhere and waited >= min(GRACE_S, seconds / 2)
        idle = [trial for trial in left if trial not in started and (late or _done(trial)) and not _is_held(trial)]
        _start_again(folder, idle)
        started.update(idle)
        if waited >= seconds:
            break
        time.sleep(pause)
        with contextlib.suppress(OSError):
            for trial in left:
                if trial not in started:
                    folder.fetch(f"{trial.place}/{_tracker(trial).name}")
    return len(left)


def sync_commands(folder: StudyFolder) -> list[str]:
    """What sends everything that is not on the server, nor on its way; empty where all of it is."""
    found: dict[str, dict[str, None]] = {}
    for trial in folder.every_trial():
        if not _has_run(trial) or _is_done(trial, "server") or _is_held(trial):
            continue
        beside = shlex.quote(str(trial.path.parent))
        if not _is_done(trial, "offline"):
            found.setdefault("python -m tune_srgan.tracking", {})[f"{beside}/*"] = None
        elif not _is_synced(trial):
            found.setdefault("wandb sync", {})[f"{beside}/*/tracker/wandb/offline-run-*"] = None
    return [" ".join([command, *places]) for command, places in found.items()]


def mark_best(folder: StudyFolder, winner: int | None) -> None:
    """Say whose run is to be tagged `best`, and no other; `wait_for_trackers` has it done."""
    with contextlib.suppress(OSError):
        write_atomically(_best_file(folder), json.dumps({"trial": winner}))


def sweep_file(folder: StudyFolder) -> Path:
    """Which sweep the study is: `id` with entity, project and url; why not (`refused`); or `until` when to wait."""
    return folder.path / "wandb_sweep.json"


def _tracker(trial: TrialFolder) -> Path:
    """`done`: what came of it; `lock`; wandb's own files."""
    return trial.path / "tracker"


def _study_of(trial: TrialFolder) -> StudyFolder:
    return StudyFolder(trial.path.parent.parent)


def _best_file(folder: StudyFolder) -> Path:
    return folder.path / "wandb_best"


def _is_best(trial: TrialFolder) -> bool:
    return not trial.confirms and (read_json(_best_file(_study_of(trial))) or {}).get("trial") == trial.number


def _away_file(folder: StudyFolder) -> Path:
    return folder.path / "wandb_away"


def why_away(folder: StudyFolder, since: float | None = None) -> str:
    """How the server has failed a trial of a study since then, or lately; empty where it has not."""
    told = read_json(_away_file(folder)) or {"s": -math.inf}
    return str(told["reason"]) if told["s"] > (time.time() - AWAY_S if since is None else since) else ""


def _has_run(trial: TrialFolder) -> bool:
    """Whether there is something to send: the trial has ended, and not without a start."""
    return trial.outcome() is not None and bool(trial.attempts())


def _done(trial: TrialFolder) -> dict[str, Any]:
    """What its tracker left: where its `run` is (`server`, `offline`), if it is the `best`, or why it was `missed`."""
    with contextlib.suppress(OSError):
        return read_json(_tracker(trial) / "done") or {}
    return {}


def _is_done(trial: TrialFolder, run: str = "") -> bool:
    """Whether nothing is left to do, or all is there: on the `server`, or `offline`."""
    done = _done(trial)
    if run:
        return "missed" not in done and done.get("run") == run and done["best"] == _is_best(trial)
    return "missed" in done or _is_done(trial, "server") or _is_done(trial, "offline")


def _is_where_it_belongs(trial: TrialFolder, online: bool) -> bool:
    """Whether its run needs no tracker: an offline one does where there is a server now."""
    return _is_done(trial, "server") or (not online and _is_done(trial, "offline"))


def _is_synced(trial: TrialFolder) -> bool:
    return bool(list(_tracker(trial).glob("wandb/offline-run-*/*.wandb.synced")))


def _is_held(trial: TrialFolder) -> bool:
    """Whether a process of this machine is at work on it."""
    try:
        with (_tracker(trial) / "lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody has been
        pass
    return False


def _miss(trial: TrialFolder, reason: str) -> None:
    """Let it be sent by hand."""
    done = _done(trial)
    _note(trial, {**(done if done.get("run") == "server" else {}), "missed": reason})


def _note(trial: TrialFolder, done: Mapping[str, Any]) -> None:
    """Leave what came of it, and an offline run, where the study is kept, too."""
    with contextlib.suppress(OSError):
        left = _tracker(trial) / "done"
        write_atomically(left, json.dumps(dict(done)))
        folder = _study_of(trial)
        kept = left.parent if done.get("run") == "offline" else left
        folder.replace(str(kept.relative_to(folder.path)), LEAVE_S)


def _told(reason: str) -> str:
    return f"Weights & Biases: {reason}"


def _reason(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "wandb":
        return NOT_INSTALLED
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


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


def _start(trials: Sequence[TrialFolder], lifeline: IO[bytes] | int, *options: str) -> None:
    """A process that sends trials, one after another; it outlives this one where it must."""
    _children[:] = [child for child in _children if child.poll() is None]  # they have ended: reap them
    package = str(Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    environment = os.environ | {"PYTHONPATH": f"{package}{os.pathsep}{inherited}" if inherited else package}
    environment.pop("WANDB_SERVICE", None)  # of a wandb in this process: another's connection
    with (_tracker(trials[0]) / "log").open("ab") as log:
        _children.append(
            subprocess.Popen(
                [sys.executable, "-c", DETACHED, *(str(trial.path.resolve()) for trial in trials)]
                + ["--patience", str(PATIENCE_S), *options],
                stdin=lifeline,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the driver
                cwd=trials[0].path,
                env=environment,
            )
        )


def _start_again(folder: StudyFolder, trials: Sequence[TrialFolder]) -> None:
    """For trials whose trackers have left something undone; none where the server is away."""
    if not trials:
        return
    away = why_away(folder)
    with contextlib.suppress(OSError):
        for trial in trials:
            _tracker(trial).mkdir(exist_ok=True)
            if away:
                _miss(trial, away)
        if not away:
            _start(trials, subprocess.DEVNULL)


class _Follower:
    """What runs in the tracker's process: one run a trial, grouped by study; its step is the generator's step."""

    def __init__(self, trial: TrialFolder, options: argparse.Namespace) -> None:
        self._trial, self._options = trial, options
        self._folder = _study_of(trial)
        self._study = self._folder.study()
        self._settings = self._study.tracking.wandb
        self._online = tracking_mode(self._settings)[0] == "online"
        self._attempts = len(trial.attempts())
        self._last_step = -1
        self._read = 0  # bytes of the record

    def follow(self) -> None:
        """Send the record until the trial has ended, or its attempt has."""
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            with (_tracker(self._trial) / "lock").open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # an earlier attempt's process may still be closing its run
                file.truncate(0)
                file.write(str(os.getpid()))  # for a person who wonders
                file.flush()
                if _is_where_it_belongs(self._trial, self._online):
                    return
                if _done(self._trial).get("run") == "server":
                    self._tag()
                else:
                    self._send()
        except (Exception, KeyboardInterrupt) as error:  # wandb raises the latter where a person stops the run
            self._fail(_reason(error))

    def _send(self) -> None:
        self._clear()
        if self._online and self._attempts > 1 and is_url(self._folder.address):
            time.sleep(LEAVE_S + 1)  # on another machine an earlier attempt's process may still be closing its run
        run = self._open()
        point = Ruler.of(self._trial.configuration()).balance_point
        while True:
            over = self._is_over()  # asked first: an attempt that ended well has left its outcome before
            outcome = self._trial.outcome()
            for reading in self._new_readings():
                line = {key: value for key, value in reading.items() if key != "step"}
                if "nash/p_y" in reading:
                    line[BALANCE_LINE] = point
                run.log(line, step=int(reading["step"]))
            if outcome is not None:
                self._finish(run, outcome)
                return
            if over:
                run.finish(exit_code=1)  # another attempt goes on with it
                return
            time.sleep(POLL_S)

    def _clear(self) -> None:
        """Remove what attempts before this one left here and in the store: what is missing comes from the record."""
        left = [_tracker(self._trial) / "wandb", _tracker(self._trial) / "done"]
        if not any(path.exists() for path in left):
            return
        shutil.rmtree(left[0], ignore_errors=True)
        left[1].unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._folder.replace(str(left[0].parent.relative_to(self._folder.path)), LEAVE_S)

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
        header = {"trial": self._trial.number, "proposed_by": self._trial.header()["proposed_by"]}
        try:
            run = wandb.init(config=flatten(self._trial.configuration().model_dump()) | header, settings=settings)
        except Exception as error:
            self._say_away(_reason(error))
            raise
        if self._online:
            # a run that goes on: what the server has is not sent again, what was on its way is
            self._last_step = run.starting_step - 1
        elif not Path(run.dir).is_relative_to(_tracker(self._trial)):
            raise OSError(f"{_tracker(self._trial)} cannot be written")  # wandb would go on in the system's /tmp
        return run

    def _environment(self) -> dict[str, str]:
        """wandb's, complete before it is imported: within a sweep it heeds nothing else."""
        trial, name = self._trial, f"{self._study.study}-{self._trial.path.name}"
        found = {"RUN_ID": run_id(trial, self._study), "NAME": name, "RUN_GROUP": self._study.study, "RESUME": "allow"}
        found |= {"JOB_TYPE": "confirm" if trial.confirms else "search", "PROJECT": self._settings.project}
        found |= {"DIR": str(_tracker(trial)), "MODE": "online" if self._online else "offline"}
        if not self._online:
            found["ERROR_REPORTING"] = "false"  # wandb would report on itself, offline or not
        if self._settings.entity:
            found["ENTITY"] = self._settings.entity
        os.environ.pop("WANDB_SWEEP_ID", None)
        sweep = {} if trial.confirms else self._sweep()  # a confirmation is no trial of the search
        if "id" in sweep:
            found |= {"SWEEP_ID": sweep["id"], "ENTITY": sweep["entity"], "PROJECT": sweep["project"]}
        return {f"WANDB_{key}": value for key, value in found.items()}

    def _sweep(self) -> dict[str, Any]:
        """The study's sweep; waits for one that is being made."""
        while time.time() < (found := read_json(sweep_file(self._folder)) or {}).get("until", 0):
            time.sleep(POLL_S)
            self._folder.fetch_file(sweep_file(self._folder).name)
        return found

    def _new_readings(self) -> Iterator[dict[str, float]]:
        size = self._trial.readings_file.stat().st_size if self._trial.readings_file.exists() else 0
        if size == self._read:
            return
        self._read = size
        for reading in self._trial.readings():
            if reading["step"] > self._last_step:
                self._last_step = int(reading["step"])
                yield reading

    def _finish(self, run: Any, outcome: Mapping[str, Any]) -> None:
        """Summary, tags, images; then the run is closed, and the server asked whether it knows."""
        import wandb

        best, record = _is_best(self._trial), record_of(self._trial, self._study)
        summary = {key: value for key, value in outcome.items() if value is not None}
        summary["outcome"] = summary.pop("end")
        summary |= {f"steps/{kind}": steps for kind, steps in record.account.items()}
        if not outcome["censored"]:
            summary["steps_to_nash"] = outcome["steps"]
        if record.cost is not None:
            summary["nash_cost"] = record.cost
        if best:
            summary["best"] = True
        if self._trial.samples.exists():
            run.log({"Val SR": wandb.Image(str(self._trial.samples))}, step=max(self._last_step, run.starting_step, 0))
        run.summary.update(summary)
        run.tags = self._tags(run.tags or (), outcome, best)
        url = run.url if self._online else None
        path = f"{run.entity}/{run.project}/{run.id}"
        written = Path(run.dir).parent / f"run-{run.id}.wandb"
        run.finish(exit_code=int(outcome["end"] == "failed"))
        if self._online:
            self._known(path).wait_until_finished()  # `finish` is silent where the server took nothing
            _note(self._trial, {"run": "server", "best": best, "url": url, "path": path})
        elif _is_whole(written):
            _note(self._trial, {"run": "offline", "best": best})
        else:
            raise OSError("its offline run could not be written whole: is the disk full?")

    def _tag(self) -> None:
        """Tag a run again that was sent, and is the best now, or no more."""
        done, best, outcome = _done(self._trial), _is_best(self._trial), self._trial.outcome()
        done.pop("missed", None)
        if outcome is not None and done["best"] != best:
            run = self._known(done["path"])
            run.tags = list(self._tags(run.tags, outcome, best))
            run.summary["best"] = best
            run.update()
        _note(self._trial, {**done, "best": best})

    def _known(self, path: str) -> Any:
        """The run as the server has it."""
        import wandb

        os.environ["WANDB_DIR"] = str(_tracker(self._trial) / "wandb")  # where it makes empty folders
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
            if _done(self._trial).get("run") == "server":
                _miss(self._trial, f"the tag `best` is not sent ({reason})")
            elif self._trial.outcome() is not None or not self._is_over():
                shutil.rmtree(_tracker(self._trial) / "wandb", ignore_errors=True)
                _miss(self._trial, reason)
        finally:
            os._exit(1)  # wandb's own end would wait for the server again

    def _say_away(self, reason: str) -> None:
        """Trials that begin now need not ask the server."""
        if self._online:
            with contextlib.suppress(OSError):
                told = {"s": time.time(), "reason": self._of_a_trial(reason)}
                write_atomically(_away_file(self._folder), json.dumps(told))

    def _of_a_trial(self, reason: str) -> str:
        """The same words for every trial: the report counts them."""
        return reason.replace(run_id(self._trial, self._study), "a trial")


def main(arguments: Sequence[str] | None = None) -> None:
    """Send the records of trials that were not sent."""
    parser = argparse.ArgumentParser(prog="python -m tune_srgan.tracking", description=main.__doc__)
    parser.add_argument("trials", nargs="+", type=Path, metavar="TRIAL", help="a trial's folder")
    parser.add_argument("--patience", type=float, default=PATIENCE_S, help="seconds the server may take to open a run")
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
        folder = _study_of(trial)
        with contextlib.suppress(OSError):
            folder.fetch(trial.place)
        online = tracking_mode(folder.study().tracking.wandb)[0] == "online"
        if not _has_run(trial) or _is_where_it_belongs(trial, online):
            continue
        _tracker(trial).mkdir(exist_ok=True)
        if reason := why_away(folder, begun):
            _miss(trial, reason)
        else:
            command = [sys.executable, "-m", "tune_srgan.tracking", "--follow", "--patience", str(options.patience)]
            subprocess.run([*command, str(trial.path)], stdin=subprocess.DEVNULL, check=False)
        sent, kept = _is_done(trial, "server"), _is_done(trial, "offline")
        missing += not (sent or kept)
        sys.stdout.write(f"{trial.place}: {'sent' if sent else 'kept offline' if kept else 'not sent'}\n")
    if missing:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
