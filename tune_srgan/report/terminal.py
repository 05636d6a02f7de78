"""The summary of a study, and of a single training, on the terminal."""

from __future__ import annotations

import io
import math
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainables.outcome import End
from tune_srgan.console import COLOURS, figure, setting, share_text
from tune_srgan.report import words
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import TrialFolder
from tune_srgan.tracking.marks import sweep_address


def print_training(trial: TrialFolder, console: Console) -> End:
    """Print whether and from when on a single training kept the balance; returns how it ended."""
    result, configuration = trial.outcome() or {}, trial.configuration()
    end = End(result["end"])
    marks = "".join("#" if reading["nash/balanced"] else "." for reading in trial.readings())
    console.print(Text(f"Readings, one every {configuration.Training.validate_every} steps, # balanced:\n{marks}"))
    if end is End.BALANCED:
        text = (
            f"Balance kept from step {result['steps']} to the end, exploitability {figure(result['exploitability'])}."
        )
        console.print(text, style="bold green", highlight=False)
    else:
        first = "never balanced" if result["first"] is None else f"balanced first at step {result['first']}"
        text = f"Balance not kept: {end} at step {result['trained_steps']}, {first}, gap {figure(result['gap'])}."
        console.print(f"{text} {result['cause']}".strip(), style="bold yellow", highlight=False)
    for line in words.quality_texts(result.get("quality", {})):
        console.print(line, highlight=False)
    console.print(Text(f"Readings, checkpoint, generator and sample images: {trial.path}"), soft_wrap=True)
    return end


def print_report(data: dict[str, Any], folder: StudyFolder, console: Console) -> None:
    """Print trials, answer, confirmation, account and limits, from a report's data."""
    answer = words.answer_of(data)
    console.print(_whole(_table(data)), soft_wrap=True)
    console.print()
    console.print(Text(answer.headline, style="bold green" if data["answer"] else "bold yellow"))
    for key, value in answer.settings.items():
        console.print(f"  {key}: {value}", highlight=False)
    for line in answer.details:
        console.print(f"  {line}", highlight=False)
    if data["answer"]:
        for name, path in (("best.yaml", folder.best_configuration), ("best.pt  ", folder.best_generator)):
            if path.exists():
                console.print(Text(f"  {name}  {path}"), soft_wrap=True)
        _print_confirmation(data, console)
    for line in (*words.worth_texts(data), *words.front_texts(data)):
        console.print(line, highlight=False)
    _print_account(data, folder, console)


def _print_confirmation(data: dict[str, Any], console: Console) -> None:
    """The confirmed configurations on the same further seeds, the best first; which of them cannot be told apart."""
    confirmed = data["confirmed"]
    if not confirmed:
        return
    console.print()
    seeds = len(confirmed[0]["seeds"])
    console.print(f"Confirmed on {seeds} further seed(s), the same for each, to max_steps:", highlight=False)
    table = Table(box=None, padding=(0, 1, 0, 0))
    heads = ("warm 100", "warm 300", "fresh 300", "bicubic", "real")
    for name in ("trial", "kept", "median", "by seed", "share", "rates", *heads):
        table.add_column(name, justify="left" if name == "by seed" else "right", no_wrap=True)
    for one in confirmed:
        steps = ", ".join(map(words.cost_text, one["seeds"]))
        probed = [words.probe_text(one, name) for name in one["probes"]]
        kept = f"{one['kept']} of {len(one['seeds'])}"
        since = share_text(one["share"]), share_text(one["pace"])
        table.add_row(str(one["number"]), kept, words.cost_text(one["median"]), steps, *since, *probed)
    console.print(table)
    console.print(words.PROBES_TEXT, style="dim", highlight=False)
    for line in words.confirmation_texts(data):
        console.print(line, highlight=False)


def _table(data: dict[str, Any]) -> Table:
    """All trials, the cheapest first."""
    table = Table(box=None, padding=(0, 1, 0, 0), title=f"Study {data['study']}", title_justify="left")
    table.add_column("trial", justify="right")
    for name in data["names"].values():
        table.add_column(name, justify="right", no_wrap=True)
    in_seconds = data["unit"] == "s"
    for name in ("by", "ended", "cost, s" if in_seconds else "cost", "first", "share", "gap", "exploit."):
        table.add_column(name, justify="left" if name in {"by", "ended"} else "right", no_wrap=True)
    trials = data["trials"]
    for trial in sorted(trials, key=lambda t: (t["cost"] if t["cost"] is not None else math.inf, t["number"])):
        table.add_row(
            str(trial["number"]),
            *(setting(trial["values"].get(key)) for key in data["space"]),
            trial["by"],
            Text(trial["end"], style=COLOURS.get(trial["end"], "")),
            figure(trial["cost"], 1 if in_seconds else 0),
            figure(trial["first"], 0),
            share_text(trial["share"]),
            figure(trial["gap"]),
            figure(trial["exploitability"]),
        )
    return table


def _whole(table: Table) -> Text:
    """The table in its full width: in a narrow window its lines go on below, where Rich would leave columns out."""
    drawn = Console(file=io.StringIO(), width=1000, force_terminal=True)
    drawn.print(table)
    assert isinstance(drawn.file, io.StringIO)
    return Text.from_ansi("\n".join(line.rstrip() for line in drawn.file.getvalue().splitlines()))


def _print_account(data: dict[str, Any], folder: StudyFolder, console: Console) -> None:
    trials, sampler = data["trials"], data["measured"]["sampler"]
    fitted = sum(trial["by"] == sampler for trial in trials)
    console.print()
    counted = f"{len(trials)} trials: {words.counts_text(data)}; {fitted} proposed by the fitted {sampler}."
    for line in (counted, words.account_text(data), words.pace_text(data)):
        console.print(line, highlight=False)
    for line in words.ruler_texts(data):
        console.print(line, style="yellow", highlight=False)
    for line, count in list(data["complaints"].items())[:5]:
        console.print(Text(f"{count} trial(s): {line}", style="yellow"), soft_wrap=True)
    address = sweep_address(folder)
    if address:
        console.print(Text(f"Weights & Biases: {address}"), soft_wrap=True)
    for command in data["unsent"]:
        line = f"Runs are not on Weights & Biases, nor in a sweep there; send them with: {command}"
        console.print(Text(line), soft_wrap=True)
    console.print(" ".join(data["limits"]), style="dim", highlight=False)
