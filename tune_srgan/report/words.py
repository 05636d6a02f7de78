"""The report in words: the answer and the sentences around it, once, for terminal, page, Markdown and W&B alike.

Every function takes the report's data (`data.py`) or a part of it; whoever shows a text decides how it looks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainables.merits import BICUBIC, END, MERITS, PRETRAINED, TEST, Better
from trainables.outcome import End
from tune_srgan.console import duration, figure, milliseconds, setting, share_text

FROZEN = 0.1  # pace of a game below which its balance is said to stand still: measured in `benchmarks/README.md`
LIMITS = (
    "“No balance” can be proved by one better discriminator, “balance” cannot: it holds against this discriminator "
    "and, as its exploitability shows, not against every better one.",
    "One seed is an anecdote: rely on what was confirmed on further seeds, over the whole training.",
)
TOLD = ("psnr", "spectrum", "improvement", "omission", "hallucination")  # figures of merit that a line has room for
PROBES_TEXT = (
    "share: of balanced readings since the balance began, the median of seeds that kept it. Ranks (medians; 0.5 "
    "cannot tell, 1 always tells) are those of D trained on against the frozen generator at its rate for 100 and 300 "
    "steps, of a fresh one for 300 steps at 2e-4, and of the fresh one against bicubic and against other real images."
)
GAINS_TEXT = (
    "A gain is what 100 more steps of one side are worth to it while the other stands still: nats of D's mean "
    "cross-entropy on the held-out pairs, where a D that only guesses has 0.69; means of the seeds that measured it. "
    "Both together are the duality gap, 0 where neither side can do better alone. Of G's loss it counts the "
    "adversarial part; G minimises content as well, so the game is not zero-sum, and PSNR says what the gain costs G."
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
        headline = f"No trial has kept the balance{' yet' if data['running'] else ''}."
        return Answer(headline, details=[_nearest(data["nearest"])] if data["nearest"] else [])
    unit = data["unit"]
    headline = (
        f"Winner: trial {winner['number']}, in balance from step {winner['steps']} to the end at {data['max_steps']}."
    )
    seconds = f", seconds_to_nash {winner['cost']:.1f}" if unit == "s" else ""
    details = [
        f"steps_to_nash {winner['steps']}{seconds}, balanced first at step {winner['first']}, "
        f"{share_text(winner['share'])} of the readings since step {winner['steps']} balanced, the rates at "
        f"{share_text(winner['pace'])} of theirs on average; exploitability "
        f"{figure(winner['exploitability'])} (held-out rank of a best response; 0.5 none, 1 full)."
    ]
    if winner["pace"] is not None and winner["pace"] < FROZEN:
        details.append(
            "A balance kept by standing still: the plateau schedulers all but stopped both networks. Longer patiences "
            "keep them at play; a best response may still win, as the exploitability says."
        )
    details += quality_texts(data["quality"].get(str(winner["number"]), {}))
    if winner["seeds"]:
        count, by_seed = len(winner["seeds"]), ", ".join(map(cost_text, winner["seeds"]))
        details.append(
            f"On {count} further seeds: kept on {winner['kept']} of {count}, from {by_seed}; "
            f"median {cost_text(winner['median'])} {unit}."
        )
    else:
        details.append("Not confirmed on further seeds yet: one seed is an anecdote.")
    details += [
        f"{key} = {setting(edge['value'])} lies on the edge of its range ({edge['range']}): try {edge['try']} "
        "(`resume STUDY --extend` does)."
        for key, edge in winner["edges"].items()
    ]
    details += [line for line in (_baseline(winner, unit), _random(winner, unit)) if line]
    return Answer(headline, {key: setting(value) for key, value in winner["values"].items()}, details)


def _nearest(nearest: Mapping[str, Any]) -> str:
    first = nearest["first"]
    of = f"last {nearest['of']} readings"
    if first is not None:
        of = f"{nearest['of']} readings from its first balance on, at step {first},"
    reached = f", gap {figure(nearest['gap'])}" if first is None else ""
    return (
        f"Nearest: trial {nearest['number']} ({nearest['end']}{reached}). {nearest['missed']} of its {of} miss the "
        f"condition “{nearest['condition']}”."
    )


def _baseline(winner: Mapping[str, Any], unit: str) -> str:
    baseline = winner["baseline"]
    if baseline is None or baseline["number"] == winner["number"]:
        return ""
    name = f"The baseline (trial {baseline['number']}, the first of try_first)"
    if baseline["end"] == End.BALANCED:
        times = baseline["cost"] / winner["cost"]
        return f"{name} kept it from {baseline['cost']:g} {unit} on: {times:.1f} times as long."
    if baseline["trained"]:
        return f"{name} had not kept it by step {baseline['trained']} ({baseline['end']})."
    return f"{name} was never started: it could not win any more."


def _random(winner: Mapping[str, Any], unit: str) -> str:
    random = winner["random"]
    if not random["count"] or random["median"] is None:
        return ""
    penalty = ", censored trials counted with their penalty" if random["kept"] < random["count"] else ""
    return (
        f"Of {random['count']} random configurations {random['kept']} kept it; their median cost is "
        f"{random['median']:.0f} {unit}{penalty}: {random['median'] / winner['cost']:.1f} times the winner's."
    )


def merit_number(name: str, value: float) -> str:
    """Return a figure of merit without its unit; signed where the best is 0."""
    return f"{value:+.2f}" if MERITS[name].better is Better.ZERO else f"{value:.4g}"


def merit_text(name: str, value: float) -> str:
    """Return a figure of merit with its unit."""
    return f"{merit_number(name, value)} {MERITS[name].unit}".rstrip()


def quality_texts(quality: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return what the final images are worth, held-out and of a test set, beside bicubic's and pretraining's."""
    return [
        line
        for whose, images in (("Its images", (END, BICUBIC, PRETRAINED)), ("On the test set", tuple(TEST.values())))
        for line in _quality_line(whose, [quality[image] for image in images if image in quality])
    ]


def _quality_line(whose: str, images: list[Mapping[str, float]]) -> list[str]:
    """The final images' figures and, in brackets, the other's."""
    told = []
    for name in (name for name in TOLD if images and name in images[0]):
        beside = ", ".join(merit_number(name, of[name]) for of in images[1:] if name in of)
        told.append(f"{name} {merit_text(name, images[0][name])}" + (f" ({beside})" if beside else ""))
    others = " (in brackets: bicubic's" + (", then after pretraining)" if len(images) > 2 else ")")
    return [f"{whose}{others if len(images) > 1 else ''}: {'; '.join(told)}."] if told else []


def front_texts(data: Mapping[str, Any]) -> list[str]:
    """Return the trials that no other beats in both steps and image, a line each; nothing where one beats all."""
    front, trials = data["front"], {trial["number"]: trial for trial in data["trials"]}
    if len(front["numbers"]) < 2:
        return []
    lines = [
        f"Sooner, or with a better image ({front['figure']}): no other trial beats one of these in both. The "
        f"configuration of one: python tune.py best {data['study']} --trial NUMBER."
    ]
    for number in front["numbers"]:
        quality = trials[number]["quality"]
        names = dict.fromkeys([front["figure"], *TOLD])
        told = ", ".join(f"{name} {merit_text(name, quality[name])}" for name in names if name in quality)
        cost = f"{cost_text(trials[number]['cost'])} {data['unit']}"
        lines.append(f"  trial {number}: {cost}; {told}")
    return lines


def worth_texts(data: Mapping[str, Any]) -> list[str]:
    """Return how the confirmed configurations' images differ from the baseline's on the same seeds, a line each."""
    lines = []
    for one in data["worth"]:
        apart = {name: of["apart"] for name, of in one["figures"].items() if name in TOLD and of["apart"] is not None}
        told = ", ".join(f"{name} {_apart_text(name, of)}" for name, of in apart.items())
        whose = f"Images of trial {one['number']} ({one['image']}) against the baseline's, paired by seed"
        lines += [f"{whose}, mean and 95 % interval: {told}."] if told else []
    return lines


def _apart_text(name: str, apart: Mapping[str, Any]) -> str:
    interval = f"[{apart['low']:+.3g}, {apart['high']:+.3g}] {MERITS[name].unit}".rstrip()
    return f"{apart['mean']:+.3g} {interval}: {apart['told']}"


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
    """Return what later readings missed, what each side gains alone, and which configurations cannot be told apart."""
    confirmed = data["confirmed"]
    lines = [
        f"Trial {one['number']}: {one['missed']['readings']} of {one['later']} readings since the balance miss the "
        f"condition “{one['missed']['condition']}”."
        for one in confirmed
        if one["missed"] is not None
    ]
    gains = [line for one in confirmed for line in _gains(one)]
    lines += [*gains, GAINS_TEXT] if gains else []
    lines += [
        f"Trial {one['number']}, {name}: not measured on {missing['seeds']} of {missing['of']} seeds (its control "
        f"failed: {missing['cause']})."
        for one in confirmed
        for name, missing in one["unmeasured"].items()
    ]
    return lines + [
        f"Trial {confirmed[0]['number']} against {other['number']}: faster on {other['faster']}, slower on "
        f"{other['slower']} of {len(other['seeds'])} seeds (sign test p {other['p']:.2f}): "
        f"{'a tie' if other['tie'] else 'told apart'}."
        for other in confirmed[1:]
    ]


def probe_text(confirmed: Mapping[str, Any], name: str) -> str:
    """Return a probe's rank, the median of the seeds that measured it; in words where none of them did."""
    rank = confirmed["probes"][name]
    return "not measured" if rank is None and name in confirmed["unmeasured"] else figure(rank)


def _gains(confirmed: Mapping[str, Any]) -> list[str]:
    """The duality gap, as what either side gains."""
    gains = confirmed["gains"]
    if gains is None:
        return []
    moved = "" if gains["g"] is None else f" ({gains['psnr']:+.1f} dB PSNR, D(G(x)) {gains['p_g']:+.2f})"
    return [
        f"Trial {confirmed['number']}: 100 more steps of D alone would gain {_nats(gains['d'])}, "
        f"of G alone {_nats(gains['g'])}{moved}: duality gap {_nats(gains['gap'])}."
    ]


def _nats(gain: float | None) -> str:
    return "(not measured)" if gain is None else f"{gain:.2f} nats"


def patience_texts(data: Mapping[str, Any]) -> list[str]:
    """Return what the patience of both plateau schedulers did in the winner's training."""
    winner = data["answer"]
    curve: dict[str, Any] = data["curves"].get(str(winner["number"]), {}) if winner else {}
    lines = []
    if curve and curve["cut"] == "both":
        cuts = int(max((count or 0 for count in curve["cuts_g"]), default=0))
        lines.append(f"Either scheduler cuts both rates (`Schedulers.cut: both`): {_times(cuts)}.")
    for which in "gd" if curve and curve["cut"] == "each" else "":
        cuts = int(max((count or 0 for count in curve[f"cuts_{which}"]), default=0))
        patience, name = curve[f"patience_{which}"], which.upper()
        acted = f"cut its rate {_times(cuts)}" if cuts else "never acted: any longer one would have done the same"
        lines.append(f"The patience of {name}'s scheduler, {patience} validations, {acted}.")
    return lines


def _times(count: int) -> str:
    return {0: "never", 1: "once"}.get(count, f"{count} times")


def account_text(data: Mapping[str, Any]) -> str:
    """Say which steps were trained and saved."""
    account = data["account"]
    search, more = account["search"], account["confirmation"]["executed"]
    return (
        f"{search['executed']} steps of the search{f' and {more} of the confirmation' if more else ''} in "
        f"{duration(account['wall_s'])}. Saved: {search['sharing']} by sharing pretraining; at most "
        f"{search['capping']} by capping."
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
    """Return what is to be known of the ruler: other imagery on the way, numbers that are not the defaults."""
    changed, imagery = data["measured"]["changed"], data["measured"]["other_imagery"]
    return [*imagery] + [f"Ruler other than the default: nash.{key} = {value}" for key, value in changed.items()]


def paragraphs(data: Mapping[str, Any]) -> list[str]:
    """Return the answer as running text."""
    answer, winner = answer_of(data), data["answer"]
    settings = ", ".join(f"{key} = {value}" for key, value in answer.settings.items())
    first = f"{answer.headline} Its run has the tag `best`; its settings: {settings}." if winner else ""
    ended = [trial for trial in data["trials"] if trial["end"] in set(End)]
    censored = sum(trial["censored"] for trial in ended)
    last = f"{len(ended)} of {data['wanted_trials']} trials have ended; {censored} are censored: they kept no balance."
    return [first or answer.headline, *answer.details, last]
