"""What a person sees while a study runs: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from trainables.errors import InvalidInput
from tune_srgan.confirmation import candidates
from tune_srgan.records import (
    UNFINISHED,
    StudyFolder,
    TrialFolder,
    TrialRecord,
    best_of,
    best_so_far,
    read_json,
    record_of,
)
from tune_srgan.study import Study

COLOURS = {"balanced": "green", "exhausted": "yellow", "capped": "yellow", "collapsed": "yellow"}


def problems(error: InvalidInput, console: Console) -> None:
    """Every problem on a line of its own."""
    for problem in error.problems:
        console.print(Text.assemble(("error ", "bold red"), str(problem)), soft_wrap=True)


def duration(seconds: float) -> str:
    """3 h 05 min, 4 min 10 s, 12 s."""
    if not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def figure(value: float | None, digits: int = 2) -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


class StudyView:
    """Shows readings and ends of trials as they come; a context."""

    def __init__(self, study: Study, folder: StudyFolder, console: Console, elapsed_s: Any) -> None:
        self._study, self._folder, self._console, self._elapsed_s = study, folder, console, elapsed_s
        self._last: dict[TrialFolder, dict[str, Any]] = {}  # of the running trials
        self._ended: dict[TrialFolder, TrialRecord] = {}
        for trial in folder.every_trial():
            record = record_of(trial, study)
            if record.end != UNFINISHED:
                self._ended[trial] = record
        self._abreast = 1  # most trials seen running at once
        self._phases: dict[TrialFolder, str] = {}
        self._live = Live(self, console=console, refresh_per_second=2) if console.is_terminal else None

    def __enter__(self) -> StudyView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def on_start(self, trial: TrialFolder) -> None:
        """A trial starts, or goes on: its worker, torch and the imagery take a few seconds."""
        self.on_reading(trial, {"phase": "starting", "step": float(trial.last_step())})

    def on_reading(self, trial: TrialFolder, reading: dict[str, Any]) -> None:
        """A trial reported."""
        self._last[trial] = reading
        self._abreast = max(self._abreast, len(self._last))
        if self._live is None and self._phases.get(trial) != reading["phase"]:
            self._phases[trial] = reading["phase"]
            self._console.print(
                f"trial {trial.name:>3s}  step {int(reading['step']):6d}  {reading['phase']}", highlight=False
            )

    def on_end(self, trial: TrialFolder) -> None:
        """A trial ended; its record is complete."""
        self._last.pop(trial, None)
        record = record_of(trial, self._study)
        if record.end == UNFINISHED:
            if self._live is None and trial.is_paused():
                self._console.print(f"trial {trial.name:>3s}  step {trial.last_step():6d}  makes way", highlight=False)
            return
        self._ended[trial] = record
        if self._live is None:
            done = f"{self._count(trial)}; {self._forecast()}"
            self._console.print(f"trial {trial.name:>3s}  {ending(record)}  ({done})", highlight=False)

    def on_wait(self, seconds: float) -> None:
        """No node has had room for any trial for so long."""
        wanted = self._study.resources
        self._console.print(
            f"Trials have been waiting for {duration(seconds)} for a node with room for {wanted.cpus:g} CPU(s) and "
            f"{wanted.gpus:g} GPU(s): `ray status` says what the cluster has and what it tries to bring.",
            style="yellow",
            highlight=False,
        )

    def __rich__(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left")
        for name in ("trial", "phase", "step", "D(y)", "D(G(x))", "rank", "gap"):
            table.add_column(name, justify="left" if name == "phase" else "right")
        for trial, reading in sorted(self._last.items(), key=lambda item: item[0].path):
            shown = [figure(reading.get(f"nash/{key}")) for key in ("p_y", "p_g", "rank", "gap")]
            table.add_row(trial.name, reading["phase"], f"{int(reading['step'])}/{self._study.max_steps}", *shown)
        searched = self._searched()
        counts = Counter(record.end for record in searched)
        summary = ", ".join(f"{count} {end}" for end, count in sorted(counts.items())) or "none ended yet"
        head = f"{self._study.study}: {len(searched)} of {self._study.search.trials} trials ({summary})"
        confirming = next((trial for trial in (*self._last, *self._ended) if trial.confirms), None)
        head += f", {self._count(confirming)}" if confirming else ""
        best = best_of(searched)
        foot = f"best so far: trial {best.number}, balanced from step {best.steps}" if best else "best so far: none"
        return Group(Text(head, style="bold"), table, Text(f"{foot}; {self._forecast()}"))

    def _count(self, like: TrialFolder) -> str:
        """How many trials of its kind have ended, of how many."""
        ended = [trial for trial in self._ended if bool(trial.confirms) == bool(like.confirms)]
        if not like.confirms:
            return f"{len(ended)} of {self._study.search.trials}"
        return f"{len(ended)} of {self._to_confirm()} confirmations"

    def _searched(self) -> list[TrialRecord]:
        """The search's trials that have ended."""
        return [record for trial, record in self._ended.items() if not trial.confirms]

    def _to_confirm(self) -> int:
        """Confirmations there will be, as things stand."""
        return len(candidates(self._study, self._searched())) * self._study.confirm.seeds

    def _forecast(self) -> str:
        """Time used and time left, from the trials that ended in this run."""
        elapsed = self._elapsed_s()
        left = self._study.search.trials + self._to_confirm() - len(self._ended)
        ended = [record.seconds for record in self._ended.values() if record.seconds]
        text = f"{duration(elapsed)} so far"
        if ended and left > 0:
            under_way = sum(min(0.8, r["step"] / self._study.max_steps) for r in self._last.values())
            estimate = sum(ended) / len(ended) * max(0.0, left - under_way) / self._abreast
            hours = self._study.search.budget.hours
            if hours is not None:
                estimate = min(estimate, max(0.0, hours * 3600 - elapsed))
            text += f", about {duration(estimate)} left"
        return text


def ending(record: TrialRecord) -> str:
    """How a trial ended, in a few words."""
    if record.end == UNFINISHED:
        return f"running, step {record.trained_steps}"
    if record.end == "balanced":
        return f"balanced from step {record.steps}, exploitability {figure(record.exploitability)}"
    text = f"{record.end} at step {record.trained_steps}, gap {figure(record.gap)} (censored)"
    return f"{text}: {record.cause}" if record.cause else text


def training_progress(console: Console) -> Progress:
    """The progress bar of a single training."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.fields[phase]:12s}"),
        BarColumn(),
        TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[balance]}"),
        TimeElapsedColumn(),
        console=console,
    )


BARS = "▁▂▃▄▅▆▇█"
LATELY_S = 120.0  # a trial that wrote a reading within this is at work


def standing(study: Study, folder: StudyFolder) -> dict[str, Any]:
    """Where a study stands: trials by outcome, the incumbent and its history, what is used and about what is left."""
    trials, records = folder.every_trial(), folder.records(study)
    confirming = folder.records(study, "confirm")
    every = [*records, *confirming]
    ended = [record for record in every if record.end != UNFINISHED]
    best = best_of(records)
    clock = (read_json(folder.clock_file) or {}).get("seconds", 0.0)
    now = time.time()
    running = [
        {"trial": trial.name, "step": record.trained_steps}
        for trial, record in zip(trials, every, strict=True)
        if record.end == UNFINISHED
        and not trial.is_paused()
        and trial.readings_file.exists()
        and now - trial.readings_file.stat().st_mtime < LATELY_S
    ]
    wanted = study.search.trials + len(candidates(study, records)) * study.confirm.seeds
    per_trial = sum(record.seconds for record in ended) / len(ended) if ended else None
    left = max(0, wanted - len(ended))
    at_once = max(1, len(running), study.resources.concurrent or 1)
    return {
        "study": study.study,
        "trials": dict(Counter(record.end for record in records)),
        "confirmations": dict(Counter(record.end for record in confirming)),
        "wanted": {"trials": study.search.trials, "in_all": wanted},
        "best": None if best is None else {"trial": best.number, "steps": best.steps, "cost": best.cost},
        "best_so_far": [None if one is None else one.cost for one in best_so_far(records)],
        "running": running,
        "gpus_in_use": len(running) * study.resources.gpus,
        "steps": sum(record.account["executed"] for record in every),
        "steps_left_at_most": left * study.max_steps,
        "seconds": clock,
        "seconds_left_about": None if per_trial is None else per_trial * left / at_once,
    }


def print_standing(found: dict[str, Any], console: Console) -> None:
    """The curve of the best so far, and what is used and left."""
    known = [cost for cost in found["best_so_far"] if cost is not None]
    if known:
        low, high = min(known), max(known)
        curve = "".join(
            "·" if cost is None else BARS[round((cost - low) / (high - low or 1) * (len(BARS) - 1))]
            for cost in found["best_so_far"]
        )
        console.print(f"best so far by trial: {curve}  {high:g} to {low:g}", highlight=False)
    at_work = ", ".join(f"{one['trial']} at step {one['step']}" for one in found["running"]) or "none"
    gpus = f" on {found['gpus_in_use']:g} GPU(s)" if found["gpus_in_use"] else ""
    left = found["seconds_left_about"]
    console.print(f"at work: {at_work}{gpus}", highlight=False)
    console.print(
        f"{found['steps']} steps in {duration(found['seconds'])}; at most {found['steps_left_at_most']} steps left"
        + (f", about {duration(left)}" if left is not None else ""),
        highlight=False,
    )
