"""Recorded learning curves, judged: what a search would know after each reading of a training that nobody repeats.

`record_curves.py` writes the tables. Defaults are chosen on the first Latin hypercube of a table, `choose`; the second,
`report`, is reported.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from trainables.balance import Verdict, judge, left_of_both, nash_cost, reading_gap, verdict_of
from tune_srgan.store.curves import Recorded, metadata_of, read_curves, study_of
from tune_srgan.study.settings import Study
from tune_srgan.study.space import Value

HERE = Path(__file__).resolve().parent
TABLES = [HERE / f"{name}.parquet" for name in ("curves", "curves_rrdb", "curves_sentinel")]
WITHIN = 1.1  # of the best median
PARTS = {"choose": (0,), "report": (1,), "all": (0, 1)}


@dataclass(frozen=True)
class Curve:
    """A training, judged after each reading: `verdicts` begins with that of none."""

    steps: list[int]
    verdicts: list[Verdict]
    max_steps: int

    @property
    def kept(self) -> bool:
        """Whether the balance was kept to the end."""
        return self.verdicts[-1].kept

    @property
    def steps_to_nash(self) -> float:
        """∞ where it was not kept."""
        return self.verdicts[-1].earliest if self.kept else math.inf

    def cost(self, readings: int) -> float:
        """`nash_cost` after so many readings."""
        return nash_cost(self.verdicts[readings], self.max_steps)


@dataclass(frozen=True)
class Table:
    """Recorded configurations of one part, their curves by seed, and what both kinds of steps took."""

    name: str
    study: Study
    configurations: dict[int, dict[str, Value]]
    curves: dict[tuple[int, int], Curve]
    seeds: list[int]
    step_s: tuple[float, float]
    machine: dict[str, str]

    def median(self, number: int) -> float:
        """Median steps to Nash over the seeds; ∞ where it was not kept on all of them."""
        found = [self.curves[number, seed].steps_to_nash for seed in self.seeds]
        return statistics.median(found) if all(map(math.isfinite, found)) else math.inf

    @property
    def best(self) -> float:
        """The lowest median."""
        return min(self.median(number) for number in self.configurations)

    @property
    def good(self) -> set[int]:
        """The configurations that are kept on all seeds, within 10 % of the best median."""
        best = self.best
        return {number for number in self.configurations if self.median(number) <= WITHIN * best}


@cache
def load(file: Path, part: str = "all") -> Table:
    """Read and judge a table, or a part of it."""
    made = metadata_of(file)
    found = {(one.number, one.seed): one for one in read_curves(file)}
    seeds = sorted({seed for _, seed in found})
    values = {number: one.values for (number, _), one in found.items()}
    whole = [number for number in values if all((number, seed) in found for seed in seeds)]
    chosen = {number: values[number] for number in whole if number // made["points"] in PARTS[part]}
    curves = {(number, seed): judged(found[number, seed]) for number in chosen for seed in seeds}
    taken = (
        statistics.median(one[key] for one in made["trainings"] if math.isfinite(one[key]))
        for key in ("pretraining_step_s", "game_step_s")
    )
    return Table(file.stem, study_of(made), chosen, curves, seeds, (next(taken), next(taken)), made["machine"])


def judged(training: Recorded) -> Curve:
    """Judge a training after each of its readings."""
    ruler, readings = training.ruler, training.readings
    steps, gaps = [int(reading["step"]) for reading in readings], [reading_gap(one, ruler) for one in readings]
    left = [left_of_both(reading, ruler) for reading in readings]
    verdicts = [verdict_of(steps[:count], gaps[:count], left[:count], ruler) for count in range(len(steps))]
    return Curve(steps, [*verdicts, judge(readings, ruler)], ruler.max_steps)
