"""The summary of a study: a table in the terminal, `best.yaml` and `best.pt`."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainables.cache import files_below
from tune_srgan.confirmation import candidates, winner
from tune_srgan.live import COLOURS, figure
from tune_srgan.records import UNFINISHED, StudyFolder, TrialFolder, TrialRecord
from tune_srgan.review import account_text, missed_text, review, value_text
from tune_srgan.storage import write_atomically
from tune_srgan.study import Study, Value
from tune_srgan.sweeps import sweep_address


def write_best(study: Study, folder: StudyFolder) -> TrialRecord | None:
    """Write the winner's configuration and generator; returns the winner, None where no trial was balanced."""
    best = winner(study, folder)
    if best is None:
        return None
    trial, known = folder.trial(best.number), folder.best_configuration
    note = (
        f"# The winner of study '{study.study}': trial {best.number}, balanced from step {best.steps}.\n"
        f"# Train it again: python tune.py train best.yaml\n"
    )
    content = note + trial.configuration_file.read_text(encoding="utf-8")
    if not known.exists() or known.read_text(encoding="utf-8") != content:
        folder.best_generator.unlink(missing_ok=True)  # another trial's
        write_atomically(known, content)
    folder.fetch(trial.place, heavy=True)
    if trial.checkpoint.exists():
        from tune_srgan.trial import save_generator

        save_generator(trial, folder.best_generator)
    return best


def print_training(trial: TrialFolder, console: Console) -> str:
    """Whether and when a single training reached the balance; returns how it ended."""
    result, configuration = trial.outcome() or {}, trial.configuration()
    marks = "".join("#" if reading["nash/balanced"] else "." for reading in trial.readings())
    console.print(Text(f"Readings, one every {configuration.Training.validate_every} steps, # balanced:\n{marks}"))
    if result["end"] == "balanced":
        text = f"Balance reached: steps_to_nash {result['steps']}, exploitability {figure(result['exploitability'])}."
        console.print(text, style="bold green", highlight=False)
    else:
        text = f"Balance not reached: {result['end']} at step {result['trained_steps']}, gap {figure(result['gap'])}."
        console.print(f"{text} {result['cause']}".strip(), style="bold yellow", highlight=False)
    console.print(Text(f"Readings, checkpoint, generator and sample images: {trial.path}"), soft_wrap=True)
    return str(result["end"])


def print_report(study: Study, folder: StudyFolder, console: Console) -> None:
    """Trials, winner, confirmation, account, limits."""
    found = review(study, folder)
    console.print(_table(found))
    answer = found["answer"]
    console.print()
    if answer is None:
        console.print(Text("No trial reached the balance.", style="bold yellow"))
        if found["nearest"]:
            nearest = found["nearest"]
            gap, late = figure(nearest["gap"]), nearest["of"]
            console.print(
                f"Nearest: trial {nearest['number']}, gap {gap}. Of its last {late} readings", highlight=False
            )
            console.print(f"{nearest['missed']} miss the condition “{nearest['condition']}”.", highlight=False)
    else:
        header = Text.assemble(("Winner: trial ", "bold"), (str(answer["number"]), "bold green"))
        header.append(f", balanced from step {answer['steps']} of {study.max_steps}", "bold")
        console.print(header)
        seconds = f", seconds_to_nash {answer['cost']:.1f}" if found["unit"] == "s" else ""
        for key, value in answer["values"].items():
            console.print(f"  {key}: {value_text(value)}", highlight=False)
        console.print(
            f"  steps_to_nash {answer['steps']}{seconds}, exploitability {figure(answer['exploitability'])} "
            "(held-out rank of a best response; 0.5 none, 1 full)",
            highlight=False,
        )
        for name, path in (("best.yaml", folder.best_configuration), ("best.pt  ", folder.best_generator)):
            if path.exists():
                console.print(Text(f"  {name}  {path}"), soft_wrap=True)
        _print_confirmation(found["confirmed"], console)
    _print_account(study, folder, found, console)


def _print_confirmation(found: list[dict[str, Any]], console: Console) -> None:
    """The confirmed configurations on the same further seeds, the best first; which of them cannot be told apart."""
    if not found:
        return
    seeds = len(found[0]["seeds"])
    console.print()
    console.print(f"Confirmed on {seeds} further seed(s), the same for each, to max_steps:", highlight=False)
    table = Table(box=None, padding=(0, 1, 0, 0))
    heads = ("warm 100", "warm 300", "fresh 300", "bicubic", "real")
    for name in ("trial", "median", "by seed", "kept", *heads):
        table.add_column(name, justify="left" if name == "by seed" else "right", no_wrap=True)
    for one in found:
        kept = "–" if one["kept"] is None else f"{one['kept']:.0%}"
        steps = ", ".join(_cost(cost) for cost in one["seeds"])
        probed = [figure(rank) for rank in one["probes"].values()]
        table.add_row(str(one["number"]), _cost(one["median"]), steps, kept, *probed)
    console.print(table)
    console.print(
        "kept: later readings still balanced. The ranks (medians; 0.5 cannot tell, 1 always tells) are those of D "
        "trained on against the frozen generator at its rate for 100 and 300 steps, of a fresh one for 300 steps at "
        "2e-4, and of the fresh one against bicubic and against other real images.",
        style="dim",
        highlight=False,
    )
    for line in filter(None, map(missed_text, found)):
        console.print(line, highlight=False)
    for other in found[1:]:
        console.print(
            f"Trial {found[0]['number']} against {other['number']}: faster on {other['faster']}, slower on "
            f"{other['slower']} of {seeds} seeds (sign test p {other['p']:.2f}): "
            f"{'a tie' if other['tie'] else 'told apart'}.",
            highlight=False,
        )


def _cost(cost: float | None) -> str:
    return "never" if cost is None else f"{cost:g}"


def _table(found: dict[str, Any]) -> Table:
    """All trials, the cheapest first."""
    table = Table(box=None, padding=(0, 1, 0, 0), title=f"Study {found['study']}", title_justify="left")
    table.add_column("trial", justify="right")
    for name in found["names"].values():
        table.add_column(name, justify="right", no_wrap=True)
    in_seconds = found["unit"] == "s"
    for name in ("by", "ended", "cost, s" if in_seconds else "cost", "gap", "exploit."):
        table.add_column(name, justify="left" if name in {"by", "ended"} else "right", no_wrap=True)
    trials = found["trials"]
    for trial in sorted(trials, key=lambda t: (t["cost"] if t["cost"] is not None else math.inf, t["number"])):
        table.add_row(
            str(trial["number"]),
            *(value_text(trial["values"].get(key)) for key in found["space"]),
            trial["by"],
            Text(trial["end"], style=COLOURS.get(trial["end"], "red")),
            figure(trial["cost"], 1 if in_seconds else 0),
            figure(trial["gap"]),
            figure(trial["exploitability"]),
        )
    return table


def _print_account(study: Study, folder: StudyFolder, found: dict[str, Any], console: Console) -> None:
    counts = Counter(trial["end"] for trial in found["trials"])
    ends = ", ".join(f"{count} {'unfinished' if end == UNFINISHED else end}" for end, count in sorted(counts.items()))
    fitted = sum(trial["by"] == study.search.sampler for trial in found["trials"])
    console.print()
    trials = len(found["trials"])
    console.print(f"{trials} trials: {ends}; {fitted} proposed by the fitted {study.search.sampler}.", highlight=False)
    console.print(account_text(found["account"]), highlight=False)
    console.print(_pace(found["account"]).strip(), highlight=False)
    for key, value in study.non_default_ruler().items():
        console.print(f"Ruler other than the default: nash.{key} = {value}", style="yellow")
    for line, count in list(found["complaints"].items())[:5]:
        console.print(Text(f"{count} trial(s): {line}", style="yellow"), soft_wrap=True)
    address = sweep_address(folder)
    if address:
        console.print(Text(f"Weights & Biases: {address}"), soft_wrap=True)
    for command in found["unsent"]:
        console.print(
            Text(f"Runs are not on Weights & Biases, nor in a sweep there; send them with: {command}"), soft_wrap=True
        )
    console.print(" ".join(found["limits"]), style="dim", highlight=False)


def _pace(account: dict[str, Any]) -> str:
    """What a step of each phase took, in the middle of all trials, and what share of the time was no training."""
    found = ""
    for name, seconds in zip(("pretraining", "the game"), account["step_s"], strict=True):
        if seconds is not None:
            found += f" A step of {name} took {seconds * 1e3:.3g} ms."
    waits = account["waits_s"]
    # validations are in a trial's seconds, the other waits are not
    whole = account["trials_s"] + sum(waits.values()) - waits.get("validate", 0.0)
    if whole:
        shares = ", ".join(f"{kind} {seconds / whole:.1%}" for kind, seconds in waits.items())
        found += f" Of the trials' time: {shares}."
    return found


def clean(study: Study, folder: StudyFolder) -> int:
    """Delete checkpoints that no result needs (all but those of configurations that may win); returns bytes freed."""
    kept = [winner(study, folder), *candidates(study, folder.records(study))]
    needed = {folder.trial(record.number).place for record in kept if record is not None}
    ended = {trial.place for trial in folder.every_trial() if trial.outcome() is not None}
    storage, freed = folder.storage(), 0
    for entry in storage.entries():
        place, _, name = entry.name.rpartition("/")
        if entry.name.startswith("pretraining/") or (name == "checkpoint.pt" and place in ended - needed):
            storage.delete(entry.name)
            freed += entry.size
    for leftover in files_below(folder.path):
        if leftover.suffix == ".tmp" or leftover.is_relative_to(folder.ray_folder):
            freed += leftover.lstat().st_size
            leftover.unlink()
    shutil.rmtree(folder.ray_folder, ignore_errors=True)
    return freed


def describe_training(flat: Mapping[str, Value]) -> str:
    """The settings the guide is about, in one line."""
    keys = {
        "warm-up": "Schedulers.g_warmup_steps",
        "pretraining": "Training.g_pretrain_steps",
        "ramp": "Training.adv_loss_ramp_steps",
        "weight": "Training.Losses.adv_loss_beta",
        "rates": "Optimizers.optim_g_lr",
        "/": "Optimizers.optim_d_lr",
    }
    return ", ".join(f"{name} {value_text(flat[key])}" for name, key in keys.items()).replace(", / ", " / ")
