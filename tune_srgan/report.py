"""The summary of a study: a table in the terminal, `best.yaml` and `best.pt`."""

from __future__ import annotations

import math
import shutil
import statistics
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainables.balance import CONDITIONS, Ruler, excesses
from tune_srgan.confirmation import TOLD_APART, compared, confirmed, winner
from tune_srgan.live import COLOURS, duration, figure
from tune_srgan.records import (
    UNFINISHED,
    WAITS,
    StudyFolder,
    TrialFolder,
    TrialRecord,
    account_of_study,
    read_json,
    write_atomically,
)
from tune_srgan.study import Study

SHORT = {
    "Schedulers.g_warmup_steps": "warm-up",
    "Training.g_pretrain_steps": "pretrain",
    "Training.Losses.adv_loss_beta": "weight",
    "Schedulers.patience_g": "pat. G",
    "Schedulers.patience_d": "pat. D",
    "Training.adv_loss_ramp_steps": "ramp",
    "Optimizers.optim_d_lr": "lr D",
}
PROBES = {
    "nash/probe/warm_100": "warm 100",
    "nash/probe/warm_300": "warm 300",
    "nash/probe/fresh_300": "fresh 300",
    "nash/probe/fresh_300_bicubic": "bicubic",
    "nash/probe/fresh_300_real": "real",
}
LIMITS = (
    "Balance holds against this discriminator and, as its exploitability shows, not against every better one. "
    "One seed is an anecdote: rely on what was confirmed on further seeds."
)


def write_best(study: Study, folder: StudyFolder) -> TrialRecord | None:
    """Write the winner's configuration and generator; returns the winner, None where no trial was balanced."""
    best = winner(study, folder)
    if best is None:
        return None
    trial = folder.trial(best.number)
    note = (
        f"# The winner of study '{study.study}': trial {best.number}, balanced from step {best.steps}.\n"
        f"# Train it again: python tune.py train best.yaml\n"
    )
    write_atomically(folder.best_configuration, note + trial.configuration_file.read_text(encoding="utf-8"))
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
    """Trials, winner, account, limits."""
    records = folder.records(study)
    console.print(_table(study, records))
    best = winner(study, folder)
    console.print()
    if best is None:
        console.print(Text("No trial reached the balance.", style="bold yellow"))
        _print_nearest(study, folder, records, console)
    else:
        header = Text.assemble(("Winner: trial ", "bold"), (str(best.number), "bold green"))
        header.append(f", balanced from step {best.steps} of {study.max_steps}", "bold")
        console.print(header)
        seconds = f", seconds_to_nash {best.cost:.1f}" if study.objective.metric == "seconds_to_nash" else ""
        for key, value in best.values.items():
            console.print(f"  {key}: {_short(value)}", highlight=False)
        console.print(
            f"  steps_to_nash {best.steps}{seconds}, exploitability {figure(best.exploitability)} "
            "(held-out rank of a best response; 0.5 none, 1 full)",
            highlight=False,
        )
        for name, path in (("best.yaml", folder.best_configuration), ("best.pt  ", folder.best_generator)):
            if path.exists():
                console.print(Text(f"  {name}  {path}"), soft_wrap=True)
        _print_confirmation(study, folder, console)
    _print_account(study, folder, records, console)


def _print_confirmation(study: Study, folder: StudyFolder, console: Console) -> None:
    """The confirmed configurations on the same further seeds, the best first; which of them cannot be told apart."""
    found = confirmed(study, folder)
    if not found:
        return
    seeds = len(found[0].seeds)
    console.print()
    console.print(f"Confirmed on {seeds} further seed(s), the same for each, to max_steps:", highlight=False)
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("trial", "median", "by seed", "kept", *PROBES.values()):
        table.add_column(name, justify="left" if name == "by seed" else "right", no_wrap=True)
    for one in found:
        probed = [figure(_middle([probes[key] for probes in one.probes])) for key in PROBES]
        kept = _middle([share for share in one.kept if math.isfinite(share)])
        steps = ", ".join(_cost(cost) for cost in one.costs)
        table.add_row(
            str(one.record.number), _cost(one.median), steps, "–" if math.isnan(kept) else f"{kept:.0%}", *probed
        )
    console.print(table)
    console.print(
        "kept: later readings still balanced. The ranks (medians; 0.5 cannot tell, 1 always tells) are those of D "
        "trained on against the frozen generator at its rate for 100 and 300 steps, of a fresh one for 300 steps at "
        "2e-4, and of the fresh one against bicubic and against other real images.",
        style="dim",
        highlight=False,
    )
    for other in found[1:]:
        faster, slower, p = compared(found[0], other)
        verdict = "a tie" if p > TOLD_APART else "told apart"
        console.print(
            f"Trial {found[0].record.number} against {other.record.number}: faster on {faster}, slower on {slower} of "
            f"{seeds} seeds (sign test p {p:.2f}): {verdict}.",
            highlight=False,
        )


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def _cost(cost: float) -> str:
    return "never" if math.isinf(cost) else f"{cost:g}"


def _table(study: Study, records: Sequence[TrialRecord]) -> Table:
    """All trials, the cheapest first."""
    table = Table(box=None, padding=(0, 1, 0, 0), title=f"Study {study.study}", title_justify="left")
    table.add_column("trial", justify="right")
    for key in study.space:
        table.add_column(SHORT.get(key, key.rpartition(".")[2]), justify="right", no_wrap=True)
    in_seconds = study.objective.metric == "seconds_to_nash"
    for name in ("by", "ended", "cost, s" if in_seconds else "cost", "gap", "exploit."):
        table.add_column(name, justify="left" if name in {"by", "ended"} else "right", no_wrap=True)
    for record in sorted(records, key=lambda r: (r.cost if r.cost is not None else float("inf"), r.number)):
        values = [_short(record.values.get(key)) for key in study.space]
        table.add_row(
            str(record.number),
            *values,
            record.proposed_by,
            Text(record.end, style=COLOURS.get(record.end, "red")),
            figure(record.cost, 1 if in_seconds else 0),
            figure(record.gap),
            figure(record.exploitability),
        )
    return table


def _print_nearest(study: Study, folder: StudyFolder, records: Sequence[TrialRecord], console: Console) -> None:
    """Where nothing was balanced: which condition stood in the way of the best trial."""
    judged = [record for record in records if record.cost is not None]
    if not judged:
        return
    nearest = min(judged, key=lambda record: record.cost or 0.0)
    trial = folder.trial(nearest.number)
    ruler = Ruler.of(trial.configuration())
    late = trial.readings()[-study.objective.nash.window :]
    missed = {name: sum(excesses(reading, ruler)[name] > 0 for reading in late) for name in CONDITIONS}
    worst = max(missed, key=lambda name: missed[name])
    console.print(
        f"Nearest: trial {nearest.number}, gap {figure(nearest.gap)}. Of its last {len(late)} readings", highlight=False
    )
    console.print(f"{missed[worst]} miss the condition “{CONDITIONS[worst]}”.", highlight=False)


def _print_account(study: Study, folder: StudyFolder, records: Sequence[TrialRecord], console: Console) -> None:
    counts = Counter(record.end for record in records)
    ends = ", ".join(f"{count} {'unfinished' if end == UNFINISHED else end}" for end, count in sorted(counts.items()))
    seconds = (read_json(folder.clock_file) or {}).get("seconds", 0.0)
    fitted = sum(record.proposed_by == study.search.sampler for record in records)
    console.print()
    console.print(
        f"{len(records)} trials: {ends}; {fitted} proposed by the fitted {study.search.sampler}.", highlight=False
    )
    confirming = folder.records(study, "confirm")
    account = account_of_study(records)
    console.print(
        f"{account['executed']} steps of the search"
        + (f" and {account_of_study(confirming)['executed']} of the confirmation" if confirming else "")
        + f" in {duration(seconds)}. Saved: {account['sharing']} by sharing pretraining; at most {account['capping']} "
        f"by capping and {account['balance']} by stopping at the balance.",
        highlight=False,
    )
    console.print(_pace([*records, *confirming]).strip(), highlight=False)
    for key, value in study.non_default_ruler().items():
        console.print(f"Ruler other than the default: nash.{key} = {value}", style="yellow")
    complaints = Counter(line for trial in (*folder.trials(), *folder.trials("confirm")) for line in trial.complaints())
    for line, count in complaints.most_common(5):
        console.print(Text(f"{count} trial(s): {line}", style="yellow"), soft_wrap=True)
    if study.tracking.wandb.mode != "disabled" and list(folder.path.glob("trials/*/tracker/wandb/offline-run-*")):
        command = f"wandb sync {folder.path}/trials/*/tracker/wandb/offline-run-*"
        console.print(Text(f"Runs were kept offline; send them with: {command}"), soft_wrap=True)
    console.print(LIMITS, style="dim", highlight=False)


def _pace(records: Sequence[TrialRecord]) -> str:
    """What a step of each phase took, in the middle of all trials, and what share of the time was no training."""
    found = ""
    for phase, name in enumerate(("pretraining", "the game")):
        known = [record.step_seconds[phase] for record in records if math.isfinite(record.step_seconds[phase])]
        if known:
            found += f" A step of {name} took {statistics.median(known) * 1e3:.3g} ms."
    waits = {kind: sum(record.waits[kind] for record in records) for kind in WAITS}
    # validations are in a trial's seconds, the other waits are not
    whole = sum(record.seconds for record in records) + sum(waits.values()) - waits["validate"]
    if whole:
        shares = ", ".join(f"{kind} {seconds / whole:.1%}" for kind, seconds in waits.items())
        found += f" Of the trials' time: {shares}."
    return found


def clean(study: Study, folder: StudyFolder) -> int:
    """Delete checkpoints that no result needs (all ended trials' but the winner's); returns bytes freed."""
    best = winner(study, folder)
    freed = 0
    for trial in (*folder.trials(), *folder.trials("confirm")):
        ended = trial.outcome() is not None
        if ended and trial.checkpoint.exists() and not (best and trial == folder.trial(best.number)):
            freed += trial.checkpoint.stat().st_size
            trial.checkpoint.unlink()
    for leftover in folder.path.rglob("*.tmp"):
        freed += leftover.stat().st_size
        leftover.unlink()
    for whole in (folder.ray_folder, folder.pretraining):
        if whole.exists():
            freed += sum(file.stat().st_size for file in whole.rglob("*") if file.is_file())
            shutil.rmtree(whole)
    return freed


def describe_training(flat: dict[str, object]) -> str:
    """The settings the guide is about, in one line."""
    keys = {
        "warm-up": "Schedulers.g_warmup_steps",
        "pretraining": "Training.g_pretrain_steps",
        "ramp": "Training.adv_loss_ramp_steps",
        "weight": "Training.Losses.adv_loss_beta",
        "rates": "Optimizers.optim_g_lr",
        "/": "Optimizers.optim_d_lr",
    }
    return ", ".join(f"{name} {_short(flat[key])}" for name, key in keys.items()).replace(", / ", " / ")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
