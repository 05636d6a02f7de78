"""The report in words: the answer and the sentences around it, once, for terminal, page, Markdown and W&B alike.

Every function takes the report's data (`data.py`) or a part of it; whoever shows a text decides how it looks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainables.outcome import End
from tune_srgan.console import duration, figure, milliseconds, setting

LIMITS = (
    "“No balance” can be proved by one better discriminator, “balance” cannot: it holds against this discriminator "
    "and, as its exploitability shows, not against every better one.",
    "One seed is an anecdote: rely on what was confirmed on further seeds, over the whole training.",
)
PROBES_TEXT = (
    "kept: later readings still balanced. The ranks (medians; 0.5 cannot tell, 1 always tells) are those of D trained "
    "on against the frozen generator at its rate for 100 and 300 steps, of a fresh one for 300 steps at 2e-4, and of "
    "the fresh one against bicubic and against other real images."
)


@dataclass(frozen=True)
class Answer:
    """The answer: one sentence, the winner's settings, and what is known of it."""

    headline: str
    settings: dict[str, str] = field(default_factory=dict)
    details: list[str] = field(default_factory=list)


def answer_of(data: Mapping[str, Any]) -> Answer:
    """Say which trial won, with what, how surely, and what that saves; or what stood in the way."""
    winner = data["answer"]
    if winner is None:
        headline = f"No trial has reached the balance{' yet' if data['running'] else ''}."
        return Answer(headline, details=[_nearest(data["nearest"])] if data["nearest"] else [])
    unit = data["unit"]
    headline = f"Winner: trial {winner['number']}, balanced from step {winner['steps']} of {data['max_steps']}."
    seconds = f", seconds_to_nash {winner['cost']:.1f}" if unit == "s" else ""
    details = [
        f"steps_to_nash {winner['steps']}{seconds}, exploitability {figure(winner['exploitability'])} "
        "(held-out rank of a best response; 0.5 none, 1 full)."
    ]
    if winner["seeds"]:
        median = "never" if winner["median"] is None else f"{winner['median']:g} {unit}"
        by_seed = ", ".join(map(cost_text, winner["seeds"]))
        details.append(f"On {len(winner['seeds'])} further seeds, to the last step: {by_seed}; median {median}.")
    else:
        details.append("Not confirmed on further seeds yet: one seed is an anecdote.")
    details += [line for line in (_baseline(winner, unit), _random(winner, unit)) if line]
    return Answer(headline, {key: setting(value) for key, value in winner["values"].items()}, details)


def _nearest(nearest: Mapping[str, Any]) -> str:
    return (
        f"Nearest: trial {nearest['number']}, gap {figure(nearest['gap'])}. Of its last {nearest['of']} readings "
        f"{nearest['missed']} miss the condition “{nearest['condition']}”."
    )


def _baseline(winner: Mapping[str, Any], unit: str) -> str:
    baseline = winner["baseline"]
    if baseline is None or baseline["number"] == winner["number"]:
        return ""
    name = f"The baseline (trial {baseline['number']}, the first of try_first)"
    if baseline["end"] == End.BALANCED:
        times = baseline["cost"] / winner["cost"]
        return f"{name} took {baseline['cost']:g} {unit}: {times:.1f} times as long."
    if baseline["trained"]:
        return f"{name} had not reached it after {baseline['trained']} steps ({baseline['end']})."
    return f"{name} was never started: it could not win any more."


def _random(winner: Mapping[str, Any], unit: str) -> str:
    random = winner["random"]
    if not random["count"] or random["median"] is None:
        return ""
    penalty = ", censored trials counted with their penalty" if random["reached"] < random["count"] else ""
    return (
        f"Of {random['count']} random configurations {random['reached']} reached it; their median cost is "
        f"{random['median']:.0f} {unit}{penalty}: {random['median'] / winner['cost']:.1f} times the winner's."
    )


def cost_text(cost: float | None) -> str:
    """Return a seed's cost."""
    return "never" if cost is None else f"{cost:g}"


def counts(data: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return how many trials ended in each way."""
    return sorted(Counter(trial["end"] for trial in data["trials"]).items())


def counts_text(data: Mapping[str, Any]) -> str:
    """Return the same in words."""
    return ", ".join(f"{count} {end}" for end, count in counts(data)) or "no trial yet"


def state_text(data: Mapping[str, Any]) -> str:
    """Tell whether the study still runs, or why it stopped before its end; empty where it is complete."""
    return "while the study runs" if data["running"] else data["stopped"]


def confirmation_texts(data: Mapping[str, Any]) -> list[str]:
    """Return what later readings missed, and which confirmed configurations cannot be told apart."""
    confirmed = data["confirmed"]
    lines = [
        f"Trial {one['number']}: {one['missed']['readings']} of {one['later']} readings after the balance miss the "
        f"condition “{one['missed']['condition']}”."
        for one in confirmed
        if one["missed"] is not None
    ]
    return lines + [
        f"Trial {confirmed[0]['number']} against {other['number']}: faster on {other['faster']}, slower on "
        f"{other['slower']} of {len(other['seeds'])} seeds (sign test p {other['p']:.2f}): "
        f"{'a tie' if other['tie'] else 'told apart'}."
        for other in confirmed[1:]
    ]


def patience_texts(data: Mapping[str, Any]) -> list[str]:
    """Return what the patience of both plateau schedulers did in the winner's training."""
    winner = data["answer"]
    curve: dict[str, Any] = data["curves"].get(str(winner["number"]), {}) if winner else {}
    lines = []
    for which in "gd" if curve else "":
        cuts = int(max((count or 0 for count in curve[f"cuts_{which}"]), default=0))
        patience, name = curve[f"patience_{which}"], which.upper()
        times = "once" if cuts == 1 else f"{cuts} times"
        acted = f"cut its rate {times}" if cuts else "never acted: any longer one would have done the same"
        lines.append(f"The patience of {name}'s scheduler, {patience} validations, {acted}.")
    return lines


def account_text(data: Mapping[str, Any]) -> str:
    """Say which steps were trained and saved."""
    account = data["account"]
    search, more = account["search"], account["confirmation"]["executed"]
    return (
        f"{search['executed']} steps of the search{f' and {more} of the confirmation' if more else ''} in "
        f"{duration(account['wall_s'])}. Saved: {search['sharing']} by sharing pretraining; at most "
        f"{search['capping']} by capping and {search['balance']} by stopping at the balance."
    )


def pace_text(data: Mapping[str, Any]) -> str:
    """Say what a step of each phase took, the median of all trials, and which share of the time was no training."""
    account = data["account"]
    sentences = [
        f"A step of {phase} took {milliseconds(seconds)}."
        for phase, seconds in zip(("pretraining", "the game"), account["step_s"], strict=True)
        if seconds is not None
    ]
    waits = account["waits_s"]
    # validations are in a trial's seconds, the other waits are not
    whole = account["trials_s"] + sum(waits.values()) - waits.get("validate", 0.0)
    if whole:
        shares = ", ".join(f"{kind} {seconds / whole:.1%}" for kind, seconds in waits.items())
        sentences.append(f"Of the trials' time: {shares}.")
    return " ".join(sentences)


def ruler_texts(data: Mapping[str, Any]) -> list[str]:
    """Return the ruler's numbers that are not the defaults."""
    changed = data["measured"]["changed"]
    return [f"Ruler other than the default: nash.{key} = {value}" for key, value in changed.items()]


def paragraphs(data: Mapping[str, Any]) -> list[str]:
    """Return the answer as running text."""
    answer, winner = answer_of(data), data["answer"]
    settings = ", ".join(f"{key} = {value}" for key, value in answer.settings.items())
    first = f"{answer.headline} Its run has the tag `best`; its settings: {settings}." if winner else ""
    ended = [trial for trial in data["trials"] if trial["end"] in set(End)]
    censored = sum(trial["censored"] for trial in ended)
    last = f"{len(ended)} of {data['wanted_trials']} trials have ended; {censored} are censored: without a balance."
    return [first or answer.headline, *answer.details, last]
