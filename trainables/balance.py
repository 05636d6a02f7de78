"""The balance meter: when a reading is balanced, from which step the balance is kept, and what a training cost.

A pure function of the readings so far, so a recorded training can be judged again with other numbers.
Knows no torch and no network; `validation.py` measures what is judged here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from trainables.schema import Configuration, NashSettings

Reading = Mapping[str, float]
ROUNDING = 1e-9  # relative: 0.25 · 0.1 and 0.025 are one bound
GONE_DB, GONE_BELOW_DB = -20.0, 40.0  # PSNR, and under bicubic's, of what is no image any more
EXPLOITABILITY = "nash/exploitability"  # the best response's rank, in the last reading of a balance that is kept

CONDITIONS = {
    "ramp": "the ramp has ended and the adversarial weight is above 0",
    "probability": "D(y) and D(G(x)) are near the balance point",
    "rank": "the discriminator cannot order real over generated",
    "control": "the discriminator is alive: it tells bicubic and pretrained images from real ones",
    "d_rate": "the discriminator still learns, as far as the generator does",
    "psnr": "the image is not ruined",
}


@dataclass(frozen=True)
class Ruler:
    """What a training is measured with; follows from its configuration."""

    game_on: int  # the step at which pretraining and ramp are over, and there is a discriminator to be read
    max_steps: int
    validate_every: int
    weight: float
    balance_point: float  # c: what the best discriminator answers to a perfect generator; nan: there is none
    d_rate: float
    g_rate: float
    nash: NashSettings

    @classmethod
    def of(cls, configuration: Configuration) -> Ruler:
        """Return the ruler of a configuration."""
        training, rates = configuration.Training, configuration.Optimizers
        return cls(
            game_on=training.game_on,
            max_steps=training.max_steps,
            validate_every=training.validate_every,
            weight=training.Losses.adv_loss_beta,
            balance_point=training.balance_point,
            d_rate=rates.optim_d_lr,
            g_rate=rates.optim_g_lr,
            nash=configuration.Nash,
        )

    @property
    def latest(self) -> float:
        """The last step at which a balance that counts as kept may begin."""
        return self.nash.latest * self.max_steps * (1 + ROUNDING)

    def steps_to_come(self, after: float) -> list[int]:
        """List the steps of all readings after a step, to the last one at `max_steps`."""
        first = (int(after) // self.validate_every + 1) * self.validate_every
        return [
            *range(first, self.max_steps, self.validate_every),
            *([self.max_steps] if after < self.max_steps else []),
        ]


@dataclass(frozen=True)
class Verdict:
    """What the readings so far say."""

    first: int | None  # the step of the first balance: where the first window begins that is balanced
    earliest: float  # the smallest step from which the balance may still be kept, all to come balanced; ∞: none is left
    over: bool  # the readings reach max_steps: nothing is to come
    share: float | None  # of balanced readings: from `steps_to_nash` on, or the largest that any window's begin had
    gap: float  # the smallest of all windows; 0 exactly where there is a first balance

    @property
    def steps_to_nash(self) -> int | None:
        """The smallest step from which the balance was kept to the end; None where there is none, or not yet."""
        return int(self.earliest) if self.kept else None

    @property
    def kept(self) -> bool:
        """Whether the balance was kept to the end of the training."""
        return self.over and math.isfinite(self.earliest)


def excesses(reading: Reading, ruler: Ruler) -> dict[str, float]:
    """Measure how far each condition is missed, in tolerances; 0 where it holds, ∞ where nothing can be said.

    With EMA on, the averaged and the raw generator are both judged (`nash/…` and `nash/raw/…`), the worse counts.
    D's rate is measured against G's: what the plateau schedulers left of both.
    """
    nash, c = ruler.nash, ruler.balance_point
    if reading["step"] < ruler.game_on or ruler.weight <= 0 or "nash/p_y" not in reading:
        return dict.fromkeys(CONDITIONS, math.inf)
    judged = [prefix for prefix in ("nash/", "nash/raw/") if prefix + "p_g" in reading]
    floor = nash.d_lr_floor * _left_of_g(reading, ruler) * ruler.d_rate * (1 - ROUNDING)
    deviations = {
        "probability": (
            _worst(abs(p - c) for p in [reading["nash/p_y"], *(reading[j + "p_g"] for j in judged)]),
            nash.probability_tolerance,
        ),
        "rank": (_worst(abs(reading[j + "rank"] - 0.5) for j in judged), nash.rank_tolerance),
        # an AUC is a deviation from the perfect 1: 0.8 against a floor of 0.9 misses by one tolerance
        "control": (_worst([1 - reading["nash/control"]]), 1 - nash.control_auc),
        "psnr": (_worst(reading["nash/psnr_bicubic"] - reading[j + "psnr"] for j in judged), nash.psnr_slack_db),
    }
    misses = {name: max(0.0, (value - tolerance) / tolerance) for name, (value, tolerance) in deviations.items()}
    rate = reading["lr_discriminator"]
    misses["d_rate"] = 0.0 if rate >= floor else math.log2(floor / rate) if 0 < rate < floor else math.inf
    misses["ramp"] = 0.0
    return {name: misses[name] for name in CONDITIONS}


@dataclass(frozen=True)
class Ruin:
    """An image that is lost, and what the plateau schedulers left of both rates."""

    below_db: float  # PSNR under that of bicubic upsampling
    left_of_g: float
    left_of_d: float

    @property
    def cause(self) -> str:
        """What a person can do something about."""
        text = f"the image is ruined: PSNR {self.below_db:.1f} dB below bicubic"
        if self.left_of_d < self.left_of_g:
            text += f" with D at {self.left_of_d:.2g} of its rate and G at {self.left_of_g:.2g}"
            return f"{text}; a longer patience of D, or `Schedulers.cut: both`, keeps the game even"
        return f"{text}; a smaller adversarial weight, or a smaller rate of G, is gentler"


def ruin_of(reading: Reading, ruler: Ruler) -> Ruin | None:
    """Tell whether the image is far worse than a balance allows: PSNR further below bicubic than twice the slack."""
    if reading["step"] < ruler.game_on or "nash/psnr" not in reading or "lr_discriminator" not in reading:
        return None
    below = _below_bicubic(reading)
    if below <= 2 * ruler.nash.psnr_slack_db:
        return None
    return Ruin(below, _left_of_g(reading, ruler), reading["lr_discriminator"] / ruler.d_rate)


def is_gone(reading: Reading) -> bool:
    """Tell whether no image is left: its error is ten times the range of values and a hundred times bicubic's.

    The second for imagery whose values go beyond the range. Before the game, too.
    """
    there = reading.get("nash/psnr", math.inf) >= GONE_DB  # what is no number is not
    return not there and _below_bicubic(reading) > GONE_BELOW_DB


def pace_of(readings: Sequence[Reading], ruler: Ruler) -> float | None:
    """Return the pace of the game over readings: 1 at full rates, 0 frozen; None where there are none.

    The mean of what the plateau schedulers left of a rate, that of the slower network.
    """
    return statistics.fmean(left_of_both(one, ruler) for one in readings) if readings else None


def stood_still(verdict: Verdict, readings: Sequence[Reading], ruler: Ruler) -> str:
    """Return the cause, for a person, where but for the pace of the game its balance would be kept; else nothing."""
    if math.isfinite(verdict.earliest) or not ruler.nash.pace:
        return ""
    any_pace = replace(ruler, nash=ruler.nash.model_copy(update={"pace": 0.0}))
    if math.isinf(judge(readings, any_pace).earliest):
        return ""
    left = left_of_both(readings[-1], ruler)
    return f"the rates are cut to {left:.0%} of theirs, too far for a game of a pace of {ruler.nash.pace:.0%}"


def left_of_both(reading: Reading, ruler: Ruler) -> float:
    """What the plateau schedulers left of the slower network's rate; 1 before there is a discriminator."""
    if "lr_discriminator" not in reading:
        return 1.0
    return min(_left_of_g(reading, ruler), reading["lr_discriminator"] / ruler.d_rate)


def _left_of_g(reading: Reading, ruler: Ruler) -> float:
    """G's plateau factor: its rate without warm-up over the configured one."""
    return reading.get("training/plateau_g", reading["lr_generator"] / ruler.g_rate)


def _below_bicubic(reading: Reading) -> float:
    """PSNR under that of bicubic upsampling, dB."""
    return _worst([reading["nash/psnr_bicubic"] - reading["nash/psnr"]])


def _worst(deviations: Iterable[float]) -> float:
    """The largest; ∞ where one is not a number, which `max` would pass over."""
    return max(math.inf if math.isnan(deviation) else deviation for deviation in deviations)


def reading_gap(reading: Reading, ruler: Ruler) -> float:
    """Return the largest excess of one reading: 0 exactly when it is balanced."""
    return max(excesses(reading, ruler).values())


def judge(readings: Sequence[Reading], ruler: Ruler) -> Verdict:
    """Judge from which step the balance is kept, or still may be; takes all readings so far, without holes.

    What is to come is taken for balanced, so `earliest` moves only later as it comes.
    """
    steps, gaps = [int(reading["step"]) for reading in readings], [reading_gap(reading, ruler) for reading in readings]
    left = [left_of_both(reading, ruler) for reading in readings]
    return verdict_of(steps, gaps, left, ruler, bool(readings) and _is_exploited(readings[-1], ruler.nash))


def verdict_of(
    steps: Sequence[int], gaps: Sequence[float], left: Sequence[float], ruler: Ruler, exploited: bool = False
) -> Verdict:
    """Judge the gaps of all readings so far, and what was `left` of the slower rate; it never grows again.

    `exploited`: the best response to the last generator refuses it.
    """
    nash, done = ruler.nash, len(gaps)
    steps = [*steps, *ruler.steps_to_come(steps[-1] if steps else 0)]
    count, allowed = len(steps), nash.window - nash.required
    missed = [0, *accumulate(gap > 0 for gap in gaps)]  # among the first so many readings
    missed += [missed[-1]] * (count - done)
    played = [0.0, *accumulate([*left, *[left[-1] if left else 1.0] * (count - done)])]

    def opens(start: int) -> bool:
        playing = steps[start] >= ruler.game_on and ruler.weight > 0 and (start >= done or gaps[start] == 0)
        return playing and missed[start + nash.window] - missed[start] <= allowed

    def share_from(start: int) -> float:
        return 1 - (missed[done] - missed[start]) / (done - start)

    def keeps(start: int) -> bool:
        lasts = missed[count] - missed[start] <= (1 - nash.kept) * (count - start) + ROUNDING
        return lasts and played[count] - played[start] >= nash.pace * (count - start) - ROUNDING

    windows = [start for start in range(count - nash.window + 1) if opens(start)]
    full = [start for start in windows if start + nash.window <= done]
    admissible = [start for start in windows if steps[start] <= ruler.latest]
    ends_well = missed[count] - missed[max(0, count - nash.last)] <= nash.last - nash.last_required
    refused = not ends_well or (exploited and done == count)
    kept = None if refused else next((start for start in admissible if keeps(start)), None)
    shares = [share_from(start) for start in full if start in admissible]
    return Verdict(
        first=steps[full[0]] if full else None,
        earliest=math.inf if kept is None else steps[kept],
        over=done == count,
        share=share_from(kept) if kept in full else max(shares, default=None),
        gap=_smallest_gap(gaps, nash),
    )


def earliest_balance(ruler: Ruler) -> float:
    """Return the earliest step from which a game of this length may keep its balance; ∞ where it is too short."""
    every, max_steps = ruler.validate_every, ruler.max_steps
    first = min(max(1, math.ceil(ruler.game_on / every)) * every, max_steps)
    readings = math.ceil((max_steps - first) / every) + 1
    return first if ruler.game_on <= first <= ruler.latest and readings >= ruler.nash.window else math.inf


def _is_exploited(reading: Reading, nash: NashSettings) -> bool:
    """Tell whether the best response to this generator is better than a study allows, or was never measured."""
    response = reading.get(EXPLOITABILITY, math.inf)
    return nash.exploitability is not None and not response <= nash.exploitability


def _smallest_gap(gaps: Sequence[float], nash: NashSettings) -> float:
    """The smallest over all windows of what keeps one from being balanced."""
    windows = (gaps[start : start + nash.window] for start in range(len(gaps) - nash.window + 1))
    return min((max(window[0], sorted(window)[nash.required - 1]) for window in windows), default=math.inf)


def nash_cost(verdict: Verdict, max_steps: int) -> float:
    """Return what a sampler sees: `steps_to_nash`, or between one and two times `max_steps` where it was not kept.

    Up to 1.5 times where a window was balanced, the less the more of the readings from there on were; above where none
    was, the less the nearer one came; 2 times where the game never began.
    """
    if verdict.kept:
        return float(verdict.earliest)
    if verdict.share is not None:
        return max_steps * (1.5 - 0.5 * verdict.share)
    return max_steps * (1.5 + 0.5 * (verdict.gap / (1 + verdict.gap) if math.isfinite(verdict.gap) else 1.0))
