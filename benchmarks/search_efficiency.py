"""What a search spends until it holds a good configuration: studies replayed over recorded learning curves.

    python benchmarks/search_efficiency.py [--table curves.parquet] [--part report] [--repetitions 50] [--out FILE.json]

No training and no GPU: trials read recorded curves. Each arm proposes with the real thing: Ray Tune's OptunaSearch and
AsyncHyperBandScheduler, this project's Searcher, capping, meter and order of starts. A proposal becomes the nearest
recorded configuration that the study has not tried. Four trials run at a time; the clock is the measured cost of both
kinds of steps. A study holds a good configuration once a trial of one has a certified balance, where good is a median
of `steps_to_nash` over the recorded seeds within 10 % of the table's best.

The table is split by bands of the adversarial weight: `choose` is what defaults were chosen on, `report` is reported.
`--never-until 200` replays a harder world, in which no training with so little pretraining ever balances: the shortest
pretraining is a good bet in the recorded one, and a default must not live by that bet alone.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import optuna
import pyarrow.parquet as pq
import yaml

from trainables.balance import Ruler, Verdict, earliest_possible, judge, lost, nash_cost
from trainables.outcome import End
from tune_srgan.search.capping import Incumbent, better
from tune_srgan.search.samplers import good_trials
from tune_srgan.search.searcher import Searcher
from tune_srgan.search.sharing import PRETRAIN, points_of, reach, values_in_pretraining
from tune_srgan.store.records import TrialRecord
from tune_srgan.store.trial_folder import TrialFolder
from tune_srgan.study.settings import Study
from tune_srgan.study.space import Value

HERE = Path(__file__).resolve().parent
WEIGHT = "Training.Losses.adv_loss_beta"
WORKERS = 4
WITHIN = 1.1  # of the best median
NEVER_GAP = 1e3  # what ASHA is told before the game


@dataclass(frozen=True)
class Curve:
    """One recorded training, judged once: by reading, what a search would know after it."""

    steps: list[int]
    gaps: list[float]  # the smallest window gap so far
    earliest: list[float]  # `earliest_possible` after so many readings, from none on
    lost: list[bool]
    steps_to_nash: float  # ∞ where it never was
    certified_at: float

    def cost(self, readings: int, max_steps: int) -> float:
        """`nash_cost` after so many readings."""
        if readings and self.steps[readings - 1] >= self.certified_at:
            return self.steps_to_nash
        gap = self.gaps[readings - 1] if readings else math.inf
        return nash_cost(Verdict(None, None, 0, gap), max_steps)

    def without_balance(self) -> Curve:
        """A training of the same length in which no reading of the game is balanced."""
        first, every = self.earliest[0], self.steps[0]
        earliest = [first, *(max(first, step + every) for step in self.steps)]
        return replace(
            self, gaps=[1.0] * len(self.gaps), earliest=earliest, steps_to_nash=math.inf, certified_at=math.inf
        )


@dataclass(frozen=True)
class Table:
    """Recorded configurations of one part, their curves by seed, and the cost of both kinds of steps."""

    study: Study
    configurations: dict[int, dict[str, Value]]
    curves: dict[tuple[int, int], Curve]
    seeds: list[int]
    step_s: tuple[float, float]
    machine: dict[str, str]

    def median(self, number: int) -> float:
        """Median steps to Nash over the seeds."""
        return statistics.median(self.curves[number, seed].steps_to_nash for seed in self.seeds)

    @property
    def good(self) -> set[int]:
        """The configurations within 10 % of the best median."""
        best = min(self.median(number) for number in self.configurations)
        return {number for number in self.configurations if self.median(number) <= WITHIN * best}


@cache
def load(file: Path, part: str, never_until: int = 0) -> Table:
    """Read and judge the table; `part` is choose, report or all."""
    table = pq.read_table(file)
    made = json.loads(table.schema.metadata[b"curves"])
    document = yaml.safe_load(made["study"])
    study = Study.model_validate(document)
    values = {int(number): found for number, found in made["configurations"].items()}
    rows: dict[tuple[int, int], list[dict[str, float]]] = {}
    columns, rates = table.to_pydict(), {n: study.configuration(v).Optimizers.optim_d_lr for n, v in values.items()}
    names = [name for name in columns if name not in ("number", "seed", "step")]
    for index, (number, seed) in enumerate(zip(columns["number"], columns["seed"], strict=True)):
        reading = {"step": float(columns["step"][index])}
        for name in names:
            if columns[name][index] is not None:
                reading[f"nash/{name}"] = columns[name][index]
        if "nash/rate_d" in reading:  # recorded as a share of the configured rate, so that the floor is met exactly
            reading["lr_discriminator"] = reading.pop("nash/rate_d") * rates[number]
        rows.setdefault((number, seed), []).append(reading)
    seeds = sorted({seed for _, seed in rows})
    whole = [number for number in values if all((number, seed) in rows for seed in seeds)]
    by_weight = sorted({float(values[number][WEIGHT]) for number in whole})
    band = {weight: index // 2 % 2 for index, weight in enumerate(by_weight)}
    wanted = {"choose": (0,), "report": (1,), "all": (0, 1)}[part]
    chosen = {number: values[number] for number in whole if band[float(values[number][WEIGHT])] in wanted}
    curves = {
        (number, seed): judged(rows[number, seed], Ruler.of(study.configuration(chosen[number])), study)
        for number in chosen
        for seed in seeds
    }
    for place, curve in curves.items():
        if int(values[place[0]][PRETRAIN]) <= never_until:
            curves[place] = curve.without_balance()
    costs = [
        statistics.median(t[key] for t in made["trainings"] if math.isfinite(t[key]))
        for key in ("pretraining_step_s", "game_step_s")
    ]
    return Table(study, chosen, curves, seeds, (costs[0], costs[1]), made["machine"])


def judged(readings: list[dict[str, float]], ruler: Ruler, study: Study) -> Curve:
    """What the meter says after each reading. What certifies a balance later does not change what it said before."""
    whole, lost_after = judge(readings, ruler), study.search.capping.lost_after
    certified = whole.certified_at or math.inf
    gaps, earliest, gone = [], [earliest_possible([], ruler)], []
    for count in range(1, len(readings) + 1):
        late = readings[max(0, count - 2 * ruler.nash.window) : count]  # windows that are full and older do not change
        gap = judge(late, ruler).gap
        gaps.append(min(gap, gaps[-1] if gaps else math.inf))
        earliest.append(whole.steps_to_nash if late[-1]["step"] >= certified else earliest_possible(late, ruler))
        gone.append(lost(readings[:count], ruler, lost_after))
    steps = [int(reading["step"]) for reading in readings]
    return Curve(steps, gaps, earliest, gone, whole.steps_to_nash or math.inf, certified)


# --- proposals -------------------------------------------------------------------------------------------------------


class Proposer(Protocol):
    """Proposes points of the space and is told their costs."""

    def propose(self, name: str) -> dict[str, Value]:
        """A point of the space."""

    def tell(self, name: str, cost: float, censored: bool, trained: int) -> None:
        """What became of it."""


class Ours:
    """The project's searcher."""

    def __init__(self, study: Study, seed: int, sampler: str = "tpe", censored: Any = "cost", startup: int = 8) -> None:
        self._never = 2.0 * study.max_steps  # the cost of one whose game never began
        own = None if sampler in {"tpe", "gp", "cmaes", "random"} else SAMPLERS[sampler](seed, startup)
        known = "tpe" if own is not None else sampler
        search = study.search.model_copy(update={"seed": seed, "sampler": known, "startup": startup})
        self._searcher = Searcher(study.model_copy(update={"search": search}), sampler=own, censored=censored)
        self._numbers: dict[str, int] = {}

    def propose(self, name: str) -> dict[str, Value]:
        """From the searcher."""
        proposal = self._searcher.propose()
        self._numbers[name] = proposal.number
        return proposal.values

    def tell(self, name: str, cost: float, censored: bool, trained: int) -> None:
        """To the searcher."""
        number, gap = self._numbers[name], 0.0 if cost < self._never else None
        end = End.CAPPED if censored else End.BALANCED
        self._searcher.tell(
            TrialRecord(TrialFolder(Path(f"{number:05d}")), {}, "", end, 0, censored, gap, cost, trained)
        )


SAMPLERS: dict[str, Callable[[int, int], optuna.samplers.BaseSampler]] = {
    "tpe, a quarter of all": lambda seed, startup: optuna.samplers.TPESampler(
        n_startup_trials=startup, multivariate=True, constant_liar=True, gamma=good_trials, seed=seed
    ),
    "tpe, independent": lambda seed, startup: optuna.samplers.TPESampler(
        n_startup_trials=startup, multivariate=False, constant_liar=True, seed=seed
    ),
    "tpe, Optuna's tenth": lambda seed, startup: optuna.samplers.TPESampler(
        n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed
    ),
    "quasirandom": lambda seed, startup: optuna.samplers.QMCSampler(seed=seed, scramble=True),
}


class RayOptuna:
    """Ray Tune's OptunaSearch, as it comes."""

    def __init__(self, study: Study, seed: int) -> None:
        from ray.tune.search.optuna import OptunaSearch

        space = Searcher(study)._space
        sampler = optuna.samplers.TPESampler(seed=seed)
        self._search = OptunaSearch(space=space, metric="cost", mode="min", sampler=sampler)

    def propose(self, name: str) -> dict[str, Value]:
        """From OptunaSearch."""
        found: dict[str, Value] = self._search.suggest(name)
        return found

    def tell(self, name: str, cost: float, censored: bool, trained: int) -> None:
        """To OptunaSearch."""
        self._search.on_trial_complete(name, {"cost": cost, "training_iteration": 1})


# --- arms ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """A way to search."""

    proposer: Callable[[Study, int], Proposer]
    stops_at_balance: bool = False
    asha: bool = False
    halves: bool = False  # ASHA with the half of the grace period and of the reduction, which suits it better
    capping: float | None = None  # slack
    sharing: bool = False
    blind: int = 0  # best first: proposals that are asked for at once, of which the soonest starts first
    margin: float = math.inf  # a trial makes way when it is this many times as late as one that waits


STARTUP, MARGIN = 32, 1.25
OURS = Arm(
    partial(Ours, startup=STARTUP), stops_at_balance=True, capping=1.25, sharing=True, blind=STARTUP, margin=MARGIN
)
RANDOM = partial(Ours, sampler="random")
ARMS = {
    "random": Arm(RANDOM),
    "random, stop": Arm(RANDOM, stops_at_balance=True),
    "Ray Tune + OptunaSearch": Arm(RayOptuna),
    "Ray Tune + OptunaSearch, stop": Arm(RayOptuna, stops_at_balance=True),
    "Ray Tune + OptunaSearch + ASHA": Arm(RayOptuna, asha=True),
    "Ray Tune + OptunaSearch + ASHA, stop": Arm(RayOptuna, asha=True, stops_at_balance=True),
    "Ray Tune + OptunaSearch + ASHA by halves, stop": Arm(RayOptuna, asha=True, halves=True, stops_at_balance=True),
    "ours": OURS,
    "ours without capping": replace(OURS, capping=None, blind=0, margin=math.inf),  # it takes best first with it
    "ours without sharing": replace(OURS, sharing=False),
    "ours without best first": replace(OURS, blind=0, margin=math.inf),
    "ours, nobody makes way": replace(OURS, margin=math.inf),
    "ours, random proposals": replace(OURS, proposer=RANDOM),
}


def variants() -> dict[str, Arm]:
    """Ours with other proposals, encodings and slacks: what the defaults are chosen among."""

    def ours(startup: int = STARTUP, **changes: Any) -> Arm:
        return replace(OURS, proposer=partial(Ours, startup=startup, **changes), blind=startup)

    names = ("tpe", *SAMPLERS, "gp", "cmaes", "random")
    found = {f"startup 8, sampler {name}": ours(8, sampler=name) for name in names}  # so that the sampler has its say
    found |= {f"startup 8, censored as {name}": ours(8, censored=name) for name in ("cost", "pruned", "clipped")}
    found |= {f"startup {count}": ours(startup=count) for count in (4, 8, 16, 24, 32, 48, 64)}
    found |= {f"startup {n}, tpe, a quarter of all": ours(n, sampler="tpe, a quarter of all") for n in (16, 32)}
    for margin in (1.0, 1.1, 1.25, 1.5, 2.0, math.inf):
        found |= {
            f"startup {count}, margin {margin:g}": replace(ours(startup=count), margin=margin) for count in (16, 32)
        }
    for slack in (1.0, 1.1, 1.25, 1.5, 2.0):
        found[f"slack {slack:g}"] = replace(OURS, capping=slack)
    return found


# --- a study, replayed -----------------------------------------------------------------------------------------------


@dataclass(order=True)
class Running:
    """A trial under way: `at` readings are done; ordered by when its next one comes."""

    due: float
    order: int
    name: str = field(compare=False)
    number: int = field(compare=False)
    curve: Curve = field(compare=False)
    pretraining: int = field(compare=False)
    at: int = field(compare=False, default=0)


@dataclass
class Spent:
    """Steps and seconds of the GPU until the study held a good configuration; `held` is whether it ever did."""

    steps: int = 0
    seconds: float = 0.0
    trials: int = 0
    pauses: int = 0  # how often a trial made way
    held: bool = False


def replay(arm: Arm, table: Table, repetition: int) -> Spent:
    """One study until it holds a good configuration, or has tried all that is recorded."""
    study, seed = table.study, table.seeds[repetition % len(table.seeds)]
    every, max_steps, good = study.lowest().Training.validate_every, study.max_steps, table.good
    proposer, scheduler = arm.proposer(study, repetition), asha(study, arm.halves) if arm.asha else None
    untried, points = dict(table.configurations), points_of(study) if arm.sharing else []
    reached: dict[tuple[Any, ...], int] = {}  # by path, how far snapshots go
    heap: list[Running] = []
    waiting: list[tuple[str, int]] = []
    paused: dict[str, Running] = {}  # of those that wait, the ones that made way
    best: Incumbent | None = None
    spent, now = Spent(), 0.0

    def overlaps(number: int) -> bool:
        values = table.configurations[number]
        path, own = values_in_pretraining(values), reach(points, int(values[PRETRAIN]))
        alike = [r for r in heap if values_in_pretraining(table.configurations[r.number]) == path]
        return any(r.at * every < min(own, reach(points, r.pretraining)) for r in alike)

    def soonest(name: str, number: int) -> float:
        return table.curves[number, seed].earliest[paused[name].at if name in paused else 0]

    def too_long(name: str, number: int) -> bool:
        if not arm.capping or best is None or not best.before(soonest(name, number), number, arm.capping):
            return False
        spent.trials += name not in paused
        readings = paused.pop(name).at if name in paused else 0
        proposer.tell(name, table.curves[number, seed].cost(readings, max_steps), True, readings * every)
        return True

    def makes_way(trial: Running) -> bool:
        if math.isinf(arm.margin) or trial.at * every < trial.pretraining:
            return False
        earliest = trial.curve.earliest[trial.at]
        if earliest <= trial.at * every:  # a window is open: it is seen through
            return False
        ready = [soonest(*other) for other in waiting if not overlaps(other[1])]
        return bool(ready) and earliest > arm.margin * min(ready)

    def next_trial() -> tuple[str, int] | None:
        waiting[:] = [trial for trial in waiting if not too_long(*trial)]
        while untried:
            proposed = len(table.configurations) - len(untried)
            if proposed >= arm.blind and (len(waiting) >= WORKERS or not all(overlaps(n) for _, n in waiting)):
                break
            name = f"t{proposed}"
            number = nearest(study, untried, proposer.propose(name))
            del untried[number]
            if not too_long(name, number):
                waiting.append((name, number))
        if not waiting:
            return None
        order = {trial: (overlaps(trial[1]), soonest(*trial) if arm.blind else 0) for trial in waiting}
        chosen = min(waiting, key=lambda trial: (order[trial], waiting.index(trial)))
        waiting.remove(chosen)
        return chosen

    def fill() -> None:
        while len(heap) < WORKERS and (found := next_trial()) is not None:
            name, number = found
            values = table.configurations[number]
            if name in paused:
                trial = paused.pop(name)
            else:
                trial = Running(now, spent.trials, name, number, table.curves[number, seed], int(values[PRETRAIN]))
                trial.at = min(reached.get(values_in_pretraining(values), 0), reach(points, trial.pretraining)) // every
                spent.trials += 1
            trial.due = now + seconds_of(trial)
            heapq.heappush(heap, trial)

    def seconds_of(trial: Running) -> float:
        first, last = trial.at * every, min((trial.at + 1) * every, max_steps)
        alone = max(0, min(last, trial.pretraining) - first)
        return alone * table.step_s[0] + (last - first - alone) * table.step_s[1]

    fill()
    while heap:
        trial = heapq.heappop(heap)
        now, step = trial.due, min((trial.at + 1) * every, max_steps)
        spent.steps += step - trial.at * every
        spent.seconds += seconds_of(trial)
        trial.at += 1
        path = values_in_pretraining(table.configurations[trial.number])
        if step <= trial.pretraining:
            reached[path] = max(reached.get(path, 0), reach(points, step))
        curve, balanced = trial.curve, step >= trial.curve.certified_at
        if balanced and trial.number in good:
            spent.held = True
            return spent
        if balanced and arm.capping:
            best = better(best, Incumbent(curve.steps_to_nash, trial.number))
        cost = curve.cost(trial.at, max_steps)
        ends = step >= max_steps or trial.at >= len(curve.steps) or (balanced and arm.stops_at_balance)
        if not ends and arm.capping:
            earliest = curve.earliest[trial.at]
            ends = math.isinf(earliest) or curve.lost[trial.at - 1]
            ends = ends or (best is not None and best.before(earliest, trial.number, arm.capping))
        if not ends and scheduler is not None:
            stub = SimpleNamespace(trial_id=trial.name)
            told = NEVER_GAP if step <= trial.pretraining else min(curve.gaps[trial.at - 1], NEVER_GAP)
            if trial.at == 1:
                scheduler.on_trial_add(None, stub)
            ends = scheduler.on_trial_result(None, stub, {"step": step, "gap": told}) == "STOP"
        if ends:
            proposer.tell(trial.name, cost, not balanced, step)
            fill()
        elif makes_way(trial):
            paused[trial.name] = trial
            waiting.append((trial.name, trial.number))
            spent.pauses += 1
            fill()
        else:
            trial.due = now + seconds_of(trial)
            heapq.heappush(heap, trial)
    return spent


def asha(study: Study, halves: bool) -> Any:
    """Ray's scheduler on the gap; the grace period is the longest pretraining, or half of it."""
    from ray.tune.schedulers import AsyncHyperBandScheduler

    return AsyncHyperBandScheduler(
        time_attr="step",
        metric="gap",
        mode="min",
        max_t=study.max_steps,
        grace_period=int(study.space[PRETRAIN].high) // (2 if halves else 1),
        reduction_factor=2 if halves else 4,
    )


def nearest(study: Study, untried: dict[int, dict[str, Value]], point: dict[str, Value]) -> int:
    """The recorded configuration nearest to a point, by the space's own scales."""

    def place(values: dict[str, Value]) -> np.ndarray:
        found = []
        for key, parameter in study.space.items():
            low, high = parameter.bounds
            scale = math.log if parameter.log else float
            found.append((scale(float(values[key])) - scale(low)) / (scale(high) - scale(low)))
        return np.array(found)

    wanted = place(point)
    return min(untried, key=lambda number: (float(np.linalg.norm(place(untried[number]) - wanted)), number))


# --- the benchmark ---------------------------------------------------------------------------------------------------


def measure(name: str, file: Path, part: str, never_until: int, repetition: int, among: str) -> Spent:
    """One replayed study, in a process of its own kind."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    arm = (ARMS if among == "arms" else variants())[name]
    return replay(arm, load(file, part, never_until), repetition)


def interval(values: list[float], seeds: list[int], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the median: over seeds, and over the repetitions of each."""
    random = np.random.default_rng(0)
    groups = [np.array([v for v, s in zip(values, seeds, strict=True) if s == seed]) for seed in sorted(set(seeds))]
    medians = []
    for _ in range(draws):
        chosen = random.integers(len(groups), size=len(groups))
        drawn = np.concatenate([groups[g][random.integers(len(groups[g]), size=len(groups[g]))] for g in chosen])
        medians.append(float(np.median(drawn)))
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


def summary(found: list[Spent], table: Table) -> dict[str, Any]:
    """Medians with intervals; a study that never held a good configuration counts as more than all."""
    seeds = [table.seeds[repetition % len(table.seeds)] for repetition in range(len(found))]
    result: dict[str, Any] = {"never": sum(not spent.held for spent in found) / len(found)}
    for kind in ("steps", "seconds"):
        values = [float(getattr(spent, kind)) if spent.held else math.inf for spent in found]
        finite = [value if math.isfinite(value) else 1e12 for value in values]
        result[kind] = {"median": statistics.median(values), "interval": interval(finite, seeds), "all": values}
    return result | {"trials": statistics.median(spent.trials for spent in found)}


def draw(results: dict[str, Any], file: Path) -> None:
    """The share of studies that hold a good configuration by GPU steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(9, 5))
    for index, (name, arm) in enumerate(results["arms"].items()):
        values = sorted(value for value in arm["steps"]["all"] if math.isfinite(value))
        share = np.arange(1, len(values) + 1) / len(arm["steps"]["all"])
        mine = name.startswith("ours")
        style = {"color": f"C{index}", "linestyle": "-" if mine else "--", "linewidth": 2.5 if name == "ours" else 1.2}
        axis.step([1, *values], [0, *share], where="post", label=name, **style)
    axis.set(xscale="log", xlabel="GPU steps", ylabel="share of studies that hold a good configuration", ylim=(0, 1.02))
    axis.set_xlim(left=table_floor(results))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def table_floor(results: dict[str, Any]) -> float:
    """Where the plot begins."""
    return 0.7 * min(min(arm["steps"]["all"]) for arm in results["arms"].values())


def main() -> None:
    """Replay, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=HERE / "curves.parquet")
    parser.add_argument("--part", choices=["choose", "report", "all"], default="report")
    parser.add_argument("--never-until", type=int, default=0, metavar="STEPS", help="the harder world, see above")
    parser.add_argument("--among", choices=["arms", "variants"], default="arms", help="variants: of ours")
    parser.add_argument("--repetitions", type=int, default=60)
    parser.add_argument("--out", type=Path, help="JSON; a plot is written beside it")
    chosen = parser.parse_args()
    table, began = load(chosen.table, chosen.part, chosen.never_until), time.perf_counter()
    names = list(ARMS if chosen.among == "arms" else variants())
    best = min(table.median(number) for number in table.configurations)
    print(
        f"{len(table.configurations)} configurations × {len(table.seeds)} seeds, part {chosen.part}; best median "
        f"{best:g} steps of {table.study.max_steps}; good: {len(table.good)}; steps cost "
        f"{table.step_s[0] * 1e3:.2f} and {table.step_s[1] * 1e3:.2f} ms ({table.machine})"
    )
    results: dict[str, Any] = {
        "part": chosen.part,
        "never_until": chosen.never_until,
        "machine": table.machine,
        "best_median": best,
        "arms": {},
    }
    print(f"{'':46s} GPU steps, median [95 %]        GPU seconds   trials   never   of random", flush=True)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for name in names:
            jobs = [
                (name, chosen.table, chosen.part, chosen.never_until, repetition, chosen.among)
                for repetition in range(chosen.repetitions)
            ]
            found = list(pool.map(measure, *zip(*jobs, strict=True)))
            result = summary(found, table)
            results["arms"][name] = result
            first = results["arms"][names[0]]["steps"]["median"]
            low, high = result["steps"]["interval"]
            print(
                f"{name:46s} {result['steps']['median']:9.0f} [{low:7.0f}, {high:7.0f}] "
                f"{result['seconds']['median']:14.1f} {result['trials']:8.0f} {result['never']:7.0%} "
                f"{result['steps']['median'] / first:9.2f}",
                flush=True,
            )
    print(f"{time.perf_counter() - began:.0f} s")
    if chosen.out:
        if chosen.among == "variants":
            for arm in results["arms"].values():
                del arm["steps"]["all"], arm["seconds"]["all"]
        chosen.out.write_text(json.dumps(results, indent=1))
        if chosen.among == "arms":
            draw(results, chosen.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
