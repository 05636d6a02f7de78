"""The balance meter: when a reading is balanced, when the balance is reached, and what a training cost.

A pure function of the readings so far, so a recorded training can be judged again with other tolerances.
Knows no torch and no network; `validation.py` measures what is judged here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from trainables.schema import Configuration, NashSettings

Reading = Mapping[str, float]
LOST_RANK = 0.999  # the discriminator orders real over generated as good as always

CONDITIONS = {
    "ramp": "the ramp has ended and the adversarial weight is above 0",
    "probability": "D(y) and D(G(x)) are near the balance point",
    "rank": "the discriminator cannot order real over generated",
    "control": "the discriminator is alive: it tells bicubic and pretrained images from real ones",
    "d_rate": "the discriminator still learns",
    "psnr": "the image is not ruined",
}


@dataclass(frozen=True)
class Ruler:
    """What a training is measured with; follows from its configuration."""

    game_on: int  # the step at which pretraining and ramp are over, and there is a discriminator to be read
    max_steps: int
    validate_every: int
    weight: float
    balance_point: float  # c: what the best discriminator answers to a perfect generator
    d_rate: float
    nash: NashSettings

    @classmethod
    def of(cls, configuration: Configuration) -> Ruler:
        """Return the ruler of a configuration."""
        training = configuration.Training
        return cls(
            game_on=training.pretrain_steps + max(training.adv_loss_ramp_steps, 1),
            max_steps=training.max_steps,
            validate_every=training.validate_every,
            weight=training.Losses.adv_loss_beta,
            balance_point=training.real_label / 2,
            d_rate=configuration.Optimizers.optim_d_lr,
            nash=configuration.Nash,
        )

    @property
    def first_reading(self) -> int:
        """The step of the first reading that can be balanced."""
        return math.ceil(self.game_on / self.validate_every) * self.validate_every

    @property
    def first_certificate(self) -> int:
        """The earliest step at which a balance can be certified: the last reading of the first full window."""
        return min(self.first_reading + (self.nash.window - 1) * self.validate_every, self.max_steps)

    def window_fits(self, step: float) -> bool:
        """Tell whether a window that begins with the reading at `step` can be filled by max_steps."""
        return math.ceil((self.max_steps - step) / self.validate_every) + 1 >= self.nash.window


@dataclass(frozen=True)
class Verdict:
    """What the readings so far say.

    `steps_to_nash` is the step of the first reading of the first certified window, `certified_at` that of its
    last. `open_since` is the earliest step at which a window that is still open began: the balance is known
    not to have been reached at any reading before it. `gap` is the smallest window gap, 0 exactly when reached.
    """

    steps_to_nash: int | None
    certified_at: int | None
    open_since: int
    gap: float

    @property
    def reached(self) -> bool:
        """Whether Nash is reached."""
        return self.steps_to_nash is not None


def excesses(reading: Reading, ruler: Ruler) -> dict[str, float]:
    """Measure how far each condition is missed, in tolerances; 0 where it holds, ∞ where nothing can be said.

    With EMA on, the averaged and the raw generator are both judged (`nash/…` and `nash/raw/…`), the worse counts.
    """
    nash, c = ruler.nash, ruler.balance_point
    if reading["step"] < ruler.game_on or ruler.weight <= 0 or "nash/p_y" not in reading:
        return dict.fromkeys(CONDITIONS, math.inf)
    judged = [prefix for prefix in ("nash/", "nash/raw/") if prefix + "p_g" in reading]
    floor = nash.d_lr_floor * ruler.d_rate
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
    misses["d_rate"] = 0.0 if rate >= floor else math.log2(floor / rate) if rate > 0 else math.inf
    misses["ramp"] = 0.0
    return {name: misses[name] for name in CONDITIONS}


def _worst(deviations: Iterable[float]) -> float:
    """The largest; ∞ where one is not a number, which `max` would pass over."""
    return max(math.inf if math.isnan(deviation) else deviation for deviation in deviations)


def reading_gap(reading: Reading, ruler: Ruler) -> float:
    """Return the largest excess of one reading: 0 exactly when it is balanced."""
    return max(excesses(reading, ruler).values())


def judge(readings: Sequence[Reading], ruler: Ruler) -> Verdict:
    """Judge when Nash was reached: of `window` readings the first and at least `required` in all are balanced."""
    nash = ruler.nash
    gaps = [reading_gap(reading, ruler) for reading in readings]
    smallest = math.inf
    for start in range(len(gaps) - nash.window + 1):
        window = gaps[start : start + nash.window]
        gap = max(window[0], sorted(window)[nash.required - 1])
        last = readings[start + nash.window - 1]
        if gap == 0 and nash.exploitability is not None:
            # refused by its best response: as far from balance as that response's rank from the limit
            limit, response = nash.exploitability, last.get("nash/exploitability", math.inf)
            gap = math.inf if math.isnan(response) else max(0.0, (response - limit) / limit)
        if gap == 0:
            return Verdict(int(readings[start]["step"]), int(last["step"]), int(readings[start]["step"]), 0.0)
        smallest = min(smallest, gap)
    return Verdict(None, None, _open_since(readings, gaps, nash), smallest)


def _open_since(readings: Sequence[Reading], gaps: Sequence[float], nash: NashSettings) -> int:
    """Step of the first reading whose window may still be filled and certified; the last step where there is none."""
    start = next(_open_windows(gaps, nash), len(gaps) - 1)
    return int(readings[start]["step"]) if readings else 0


def _open_windows(gaps: Sequence[float], nash: NashSettings) -> Iterator[int]:
    """Where windows begin that are not full yet and may still be certified."""
    for start in range(max(0, len(gaps) - nash.window + 1), len(gaps)):
        if gaps[start] == 0 and sum(gap > 0 for gap in gaps[start:]) <= nash.window - nash.required:
            yield start


def earliest_possible(readings: Sequence[Reading], ruler: Ruler) -> float:
    """Return the smallest `steps_to_nash` that this training may still have; ∞ where no window can be filled any more.

    A window that is open may yet be certified; else the first is the one that begins at the next reading of the game.
    """
    verdict = judge(readings, ruler)
    if verdict.steps_to_nash is not None:
        return verdict.steps_to_nash
    nash, every = ruler.nash, ruler.validate_every
    gaps = [reading_gap(reading, ruler) for reading in readings]
    opened = next(_open_windows(gaps, nash), None)
    if opened is not None:
        step = int(readings[opened]["step"])
    else:
        last = int(readings[-1]["step"]) if readings else 0
        step = max(last + every, ruler.first_reading)
    return step if ruler.window_fits(step) and ruler.weight > 0 else math.inf


def lost(readings: Sequence[Reading], ruler: Ruler, validations: int) -> bool:
    """Tell whether D ordered nearly every pair in each of the last `validations` readings of the game."""
    late = readings[-validations:]
    return len(late) == validations and all(
        reading["step"] >= ruler.game_on and reading.get("nash/rank", 0.0) >= LOST_RANK for reading in late
    )


def nash_cost(verdict: Verdict, max_steps: int) -> float:
    """Return what a sampler sees: steps to Nash, or between one and two times `max_steps` without it."""
    if verdict.steps_to_nash is not None:
        return float(verdict.steps_to_nash)
    share = verdict.gap / (1 + verdict.gap) if math.isfinite(verdict.gap) else 1.0
    return max_steps * (1 + share)
