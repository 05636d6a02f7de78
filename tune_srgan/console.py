"""How the terminal writes: durations, figures, settings, endings of trials, problems."""

from __future__ import annotations

import math

from rich.console import Console
from rich.text import Text

from trainables.errors import InvalidInput
from trainables.outcome import End
from trainables.probes import WARM_100, failed
from tune_srgan.store.records import TrialRecord
from tune_srgan.study.space import Value

COLOURS = {end: "yellow" if end.is_censored else "green" if end.has_cost else "red" for end in End}


def print_problems(error: InvalidInput, console: Console) -> None:
    """Print every problem on a line of its own."""
    for problem in error.problems:
        console.print(Text.assemble(("error ", "bold red"), str(problem)), soft_wrap=True)


def print_warnings(warnings: list[str], console: Console) -> None:
    """Print every warning on a line of its own."""
    for warning in warnings:
        console.print(Text.assemble(("warning ", "bold yellow"), warning), soft_wrap=True)


def duration(seconds: float) -> str:
    """Write seconds as 3 h 05 min, 4 min 10 s, 12 s."""
    if not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def figure(value: float | None, digits: int = 2) -> str:
    """Return a figure, or a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def setting(value: Value | None) -> str:
    """Return a setting's value as a person reads it."""
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def share_text(share: float | None) -> str:
    """Return a share as a percentage, or a dash where there is none."""
    return "–" if share is None else f"{share:.0%}"


def milliseconds(seconds: float | None) -> str:
    """Return a step's time."""
    return "–" if seconds is None else f"{seconds * 1e3:.3g} ms"


def ending(record: TrialRecord) -> str:
    """Return how a trial ended, in a few words."""
    if record.end is None:
        return f"{record.label}, step {record.trained_steps}"
    if record.end is End.BALANCED:
        since = f"{share_text(record.share)} of the readings since, rates at {share_text(record.held.pace)}"
        unmeasured = record.held.probes and failed(WARM_100, record.held.probes)
        exploited = f"exploitability {'not measured' if unmeasured else figure(record.exploitability)}"
        missed = [f"{key} by {short:.3g}" for key, short in record.short.items() if not short <= 0]
        below = f"; below its floor: {', '.join(missed)}" if missed else ""
        return f"in balance from step {record.steps} to the end: {since}, {exploited}{below}"
    censored = " (censored)" if record.end.is_censored else ""
    before = f"gap {figure(record.gap)}" if record.first is None else f"balanced first at step {record.first}"
    text = f"{record.label} at step {record.trained_steps}, {before}{censored}"
    return f"{text}: {record.cause}" if record.cause else text
