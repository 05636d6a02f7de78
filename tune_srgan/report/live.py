"""What a person sees while a study runs: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from trainables.merits import QUALITY
from tune_srgan.console import duration, ending, figure
from tune_srgan.report.words import merit_text, quality_texts
from tune_srgan.search.confirmation import in_all, winner
from tune_srgan.store.records import StudyRecords, TrialRecord, arranged
from tune_srgan.store.trial_folder import TrialFolder
from tune_srgan.study.settings import Study

READ = ("psnr", "spectrum")  # figures of merit that every reading has
STARTING = "starting"  # a worker, torch and the imagery take a few seconds


class StudyView:
    """Shows readings and ends of trials as they come; a context."""

    def __init__(self, study: Study, records: StudyRecords, console: Console, elapsed_s: Callable[[], float]) -> None:
        self._study, self._console, self._elapsed_s = study, console, elapsed_s
        self._last: dict[TrialFolder, dict[str, Any]] = {}  # of the running trials
        self._ended = {record.trial: record for record in records.every if record.end is not None}
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
        """Show that a trial starts, or goes on."""
        self.on_reading(trial, {"phase": STARTING, "step": float(trial.last_step())})

    def on_reading(self, trial: TrialFolder, reading: dict[str, Any]) -> None:
        """Show what a trial reported."""
        self._last[trial] = reading
        self._abreast = max(self._abreast, len(self._last))
        if self._live is None and self._phases.get(trial) != reading["phase"]:
            self._phases[trial] = reading["phase"]
            said = ": ".join(reading[key] for key in ("phase", "cause") if key in reading)
            self._console.print(f"trial {trial.name:>3s}  step {int(reading['step']):6d}  {said}", highlight=False)

    def on_end(self, record: TrialRecord) -> None:
        """Show that a trial ended, or its attempt did."""
        trial = record.trial
        self._last.pop(trial, None)
        if record.end is None:
            if self._live is None and trial.is_paused():
                self._console.print(f"trial {trial.name:>3s}  step {record.trained_steps:6d}  paused", highlight=False)
            return
        self._ended[trial] = record
        if self._live is None:
            done = f"{self._count(trial)}; {self._forecast()}"
            self._console.print(f"trial {trial.name:>3s}  {ending(record)}  ({done})", highlight=False)

    def on_wait(self, seconds: float) -> None:
        """Say that no node has had room for any trial for so long."""
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
            phase = Text(reading["phase"], style="red" if "cause" in reading else "")
            table.add_row(trial.name, phase, f"{int(reading['step'])}/{self._study.max_steps}", *shown)
        searched = self._searched()
        counts = Counter(record.label for record in searched)
        summary = ", ".join(f"{count} {end}" for end, count in sorted(counts.items())) or "none ended yet"
        head = f"{self._study.study}: {len(searched)} of {self._study.search.trials} trials ({summary})"
        confirming = next((trial for trial in (*self._last, *self._ended) if trial.confirms), None)
        head += f", {self._count(confirming)}" if confirming else ""
        best = winner(self._study, arranged(self._ended.values()))
        foot = f"best so far: trial {best.number}, in balance from step {best.steps}" if best else "best so far: none"
        ruined = sorted({reading["cause"] for reading in self._last.values() if "cause" in reading})
        notes = [Text(cause, style="red") for cause in ruined]
        images = [Text(line) for line in quality_texts(best.quality)[:1]] if best else []
        return Group(Text(head, style="bold"), table, *notes, Text(f"{foot}; {self._forecast()}"), *images)

    def _count(self, like: TrialFolder) -> str:
        """How many trials of its kind have ended, of how many."""
        ended = [trial for trial in self._ended if bool(trial.confirms) == bool(like.confirms)]
        if not like.confirms:
            return f"{len(ended)} of {self._study.search.trials}"
        return f"{len(ended)} of {self._in_all() - self._study.search.trials} confirmations"

    def _searched(self) -> list[TrialRecord]:
        """The search's trials that have ended."""
        return [record for trial, record in self._ended.items() if not trial.confirms]

    def _in_all(self) -> int:
        """Trials and confirmations there will be, as things stand."""
        return in_all(self._study, arranged(self._ended.values()), self._last)

    def _forecast(self) -> str:
        """Time used and time left, from the trials that ended in this run."""
        elapsed = self._elapsed_s()
        left = self._in_all() - len(self._ended)
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


def show_training(readings: Iterable[dict[str, Any]], max_steps: int, console: Console) -> None:
    """Take the readings of a single training as they come, under a progress bar."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.fields[phase]:12s}"),
        BarColumn(),
        TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[shown]}"),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        task = progress.add_task("train", total=max_steps, phase="", shown="")
        for reading in readings:
            answers = {"D(y)": "nash/p_y", "D(G(x))": "nash/p_g", "rank": "nash/rank"}
            told = [f"{name} {figure(reading[key])}" for name, key in answers.items() if key in reading]
            told += [f"{name} {merit_text(name, reading[key])}" for name in READ if (key := QUALITY + name) in reading]
            progress.update(task, completed=reading["step"], phase=reading["phase"], shown="  ".join(told))
