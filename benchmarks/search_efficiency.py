"""What a search spends until it holds a good configuration: studies replayed over recorded learning curves.

    python benchmarks/search_efficiency.py [--part report] [--repetitions 60] [--among arms] [--out FILE.json]

No training and no GPU: trials read recorded curves, a whole training each. Each arm proposes with the real thing: Ray
Tune's OptunaSearch and AsyncHyperBandScheduler, SMAC's facade with its adaptive capping, this project's Searcher,
capping, meter and order of starts. A proposal becomes the nearest recorded configuration that the study has not tried.
WORKERS (4) trials run at a time; the clock is the measured cost of both kinds of steps. A study holds a good
configuration once a training of one has ended with its balance kept, where good is a configuration kept on every
recorded seed with a median of `steps_to_nash` within 10 % of the best. `oracle` trains the best one once, nothing else.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import optuna
from recorded import PARTS, TABLES, Curve, Table, load

from trainables.balance import Verdict, nash_cost
from trainables.outcome import End, end_of
from tune_srgan.run.feed import BETTER, UNLIKELY
from tune_srgan.search.capping import Incumbent, better
from tune_srgan.search.samplers import good_trials
from tune_srgan.search.searcher import Searcher
from tune_srgan.search.sharing import PRETRAIN, points_of, reach, values_in_pretraining
from tune_srgan.store.records import TrialRecord
from tune_srgan.store.trial_folder import TrialFolder
from tune_srgan.study.settings import Study
from tune_srgan.study.space import Value

WORKERS = int(os.environ.get("WORKERS", "4"))
NEVER = 1e6  # what ASHA is told before the game
FIXED_SHARE = 0.5  # of max_steps, to which i-Epoch trains everything


# --- proposals -------------------------------------------------------------------------------------------------------


class Proposer(Protocol):
    """Proposes points of the space and is told what became of them."""

    def propose(self, name: str) -> dict[str, Value]:
        """A point of the space."""

    def tell(self, name: str, verdict: Verdict, end: End, trained: int) -> None:
        """What became of it."""


class Ours:
    """The project's searcher."""

    def __init__(self, study: Study, seed: int, sampler: str = "wait", startup: int = 8) -> None:
        own = SAMPLERS[sampler](seed, startup) if sampler in SAMPLERS else None
        search = {"seed": seed, "sampler": "tpe" if own is not None else sampler, "startup": startup}
        study = study.model_copy(update={"search": study.search.model_copy(update=search)})
        self._searcher, self._max_steps = Searcher(study, sampler=own), study.max_steps
        self._numbers: dict[str, int] = {}

    def propose(self, name: str) -> dict[str, Value]:
        """From the searcher."""
        proposal = self._searcher.propose()
        self._numbers[name] = proposal.number
        return proposal.values

    @property
    def knows(self) -> bool:
        """Whether its next proposal is made from what trials have shown."""
        return self._searcher.knows

    def see(self, name: str, verdict: Verdict) -> None:
        """To the searcher, of a trial that has not ended."""
        self._searcher.see(self._numbers[name], verdict)

    def chance(self, name: str, count: int, share: float) -> float:
        """What the searcher gives for something better among so many more."""
        return self._searcher.chance(count, self._numbers[name], share)

    def tell(self, name: str, verdict: Verdict, end: End, trained: int) -> None:
        """To the searcher."""
        number, gap = self._numbers[name], verdict.gap if math.isfinite(verdict.gap) else None
        steps, cost = int(min(verdict.earliest, self._max_steps)), nash_cost(verdict, self._max_steps)
        trial, censored = TrialFolder(Path(f"{number:05d}")), not verdict.kept
        self._searcher.tell(
            TrialRecord(trial, {}, "", end, steps, censored, gap, cost, trained, verdict.first, verdict.share)
        )


SAMPLERS: dict[str, Callable[[int, int], optuna.samplers.BaseSampler]] = {
    "tpe, Optuna's tenth": lambda seed, startup: optuna.samplers.TPESampler(
        n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed
    ),
    "tpe, a quarter of all": lambda seed, startup: optuna.samplers.TPESampler(
        n_startup_trials=startup, multivariate=True, constant_liar=True, gamma=good_trials, seed=seed
    ),
    "quasirandom": lambda seed, startup: optuna.samplers.QMCSampler(seed=seed, scramble=True),
}


class RayOptuna:
    """Ray Tune's OptunaSearch, as it comes."""

    def __init__(self, study: Study, seed: int) -> None:
        from ray.tune.search.optuna import OptunaSearch

        space, self._max_steps = Searcher(study)._space, study.max_steps
        sampler = optuna.samplers.TPESampler(seed=seed)
        self._search = OptunaSearch(space=space, metric="cost", mode="min", sampler=sampler)

    def propose(self, name: str) -> dict[str, Value]:
        """From OptunaSearch."""
        found: dict[str, Value] = self._search.suggest(name)
        return found

    def tell(self, name: str, verdict: Verdict, end: End, trained: int) -> None:
        """To OptunaSearch."""
        cost = nash_cost(verdict, self._max_steps)
        self._search.on_trial_complete(name, {"cost": cost, "training_iteration": 1})


# --- arms ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """A way to search with many trials side by side."""

    proposer: Callable[[Study, int], Proposer]
    asha: bool = False
    halves: bool = False  # ASHA with the half of the grace period and of the reduction
    capping: float | None = None  # slack
    sharing: bool = False
    blind: int = 0  # best first: proposals that are asked for at once, of which the soonest starts first
    margin: float = math.inf  # a trial pauses when it is this many times as late as one that waits
    race: int = 0  # further seeds that have to keep the balance too before it caps others
    stop: bool = False  # goes on until it stops itself, whatever it holds


STARTUP, MARGIN = 32, 1.25
OURS = Arm(partial(Ours, startup=STARTUP), capping=1.25, sharing=True, blind=STARTUP, margin=MARGIN, race=2)
FEW = replace(OURS, proposer=partial(Ours, startup=8), blind=8)  # so that the sampler has its say
RANDOM = partial(Ours, sampler="random")

# --- a study, replayed -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A training that a study wants: a recorded configuration on a recorded seed."""

    name: str
    number: int
    seed: int
    further: int = 0  # which further seed of its configuration it is; it is known to be kept on the first


@dataclass(order=True)
class Running:
    """A trial under way: `at` readings are done; ordered by when its next one comes."""

    due: float
    order: int
    job: Job = field(compare=False)
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
    stopped: bool = False  # whether the search stopped itself
    best: float = math.inf  # what the incumbent costs, then


def replay(arm: Arm, table: Table, repetition: int) -> Spent:
    """One study until it holds a good configuration, or has tried all that is recorded."""
    study, seeds = table.study, [*table.seeds[repetition % len(table.seeds) :], *table.seeds]
    every, max_steps, good = study.lowest().Training.validate_every, study.max_steps, table.good
    proposer, scheduler = arm.proposer(study, repetition), asha(study, arm.halves) if arm.asha else None
    untried, points = dict(table.configurations), points_of(study) if arm.sharing else []
    reached: dict[tuple[Any, ...], int] = {}  # by path, how far snapshots go
    heap: list[Running] = []
    waiting: list[Job] = []
    paused: dict[Job, Running] = {}  # of those that wait, the ones that made way
    costs: dict[int, list[float]] = {}  # of configurations kept so far, by seed
    names: dict[int, str] = {}
    best: Incumbent | None = None
    spent, now = Spent(), 0.0

    def path_of(job: Job) -> tuple[Any, ...]:
        return (job.seed, *values_in_pretraining(table.configurations[job.number]))

    def overlaps(job: Job) -> bool:
        own = reach(points, int(table.configurations[job.number][PRETRAIN]))
        alike = [trial for trial in heap if path_of(trial.job) == path_of(job)]
        return any(trial.at * every < min(own, reach(points, trial.pretraining)) for trial in alike)

    def soonest(job: Job) -> float:
        return table.curves[job.number, job.seed].verdicts[paused[job].at if job in paused else 0].earliest

    def too_long(job: Job) -> bool:
        if not arm.capping or best is None or job.further:
            return False
        if not best.before(soonest(job), job.number, arm.capping):
            return False
        spent.trials += job not in paused
        readings = paused.pop(job).at if job in paused else 0
        verdict = table.curves[job.number, job.seed].verdicts[readings]
        proposer.tell(job.name, verdict, End.CAPPED, readings * every)
        return True

    def makes_way(trial: Running) -> bool:
        if math.isinf(arm.margin) or trial.at * every < trial.pretraining or trial.job.further:
            return False
        earliest = trial.curve.verdicts[trial.at].earliest
        ready = [0.0 if other.further else soonest(other) for other in waiting if not overlaps(other)]
        return bool(ready) and earliest > arm.margin * min(ready)

    def next_trial() -> Job | None:
        waiting[:] = [job for job in waiting if not too_long(job)]
        while untried and not enough():
            proposed = len(table.configurations) - len(untried)
            if proposed >= arm.blind and (len(waiting) >= WORKERS or not all(map(overlaps, waiting))):
                break
            propose()
        made_way = arm.blind and waiting and first() in paused
        if made_way and isinstance(proposer, Ours) and proposer.knows and untried and not enough():
            propose()
        if not waiting:
            return None
        chosen = first()
        waiting.remove(chosen)
        return chosen

    def enough() -> bool:
        if arm.stop and best is not None and isinstance(proposer, Ours) and not spent.stopped:
            share = BETTER * best.cost / costs[best.number][0]
            spent.stopped = proposer.chance(names[best.number], len(untried), share) < UNLIKELY
        return spent.stopped

    def propose() -> None:
        name = f"t{len(table.configurations) - len(untried)}"
        job = Job(name, nearest(study, untried, proposer.propose(name)), seeds[0])
        names[job.number] = name
        del untried[job.number]
        if not too_long(job):
            waiting.append(job)

    def first() -> Job:
        order = {job: (overlaps(job), -bool(job.further), soonest(job) if arm.blind else 0) for job in waiting}
        return min(waiting, key=lambda job: (order[job], waiting.index(job)))

    def fill() -> None:
        while len(heap) < WORKERS and (job := next_trial()) is not None:
            if job in paused:
                trial = paused.pop(job)
            else:
                curve = table.curves[job.number, job.seed]
                trial = Running(now, spent.trials, job, curve, int(table.configurations[job.number][PRETRAIN]))
                trial.at = min(reached.get(path_of(job), 0), reach(points, trial.pretraining)) // every
                spent.trials += 1
            trial.due = now + seconds_of(trial)
            heapq.heappush(heap, trial)

    def seconds_of(trial: Running) -> float:
        return seconds_between(trial.at * every, (trial.at + 1) * every, trial.pretraining, table)

    def raced(job: Job, verdict: Verdict) -> None:
        nonlocal best
        known = costs.setdefault(job.number, [])
        known.append(verdict.earliest)
        further = len(known)
        if further <= arm.race and (best is None or statistics.median(known) < best.cost):
            waiting.append(Job(job.name, job.number, seeds[further], further))
        if arm.capping and len(known) == 1 + arm.race:
            best = better(best, Incumbent(statistics.median(known), job.number))

    fill()
    while heap:
        trial = heapq.heappop(heap)
        job = trial.job
        now, step = trial.due, min((trial.at + 1) * every, max_steps)
        spent.steps += step - trial.at * every
        spent.seconds += seconds_of(trial)
        trial.at += 1
        if step <= trial.pretraining:
            reached[path_of(job)] = max(reached.get(path_of(job), 0), reach(points, step))
        verdict, end = trial.curve.verdicts[trial.at], None
        if verdict.over:
            end = end_of(verdict)
            spent.held |= verdict.kept and job.number in good
            if spent.held and not arm.stop:
                return spent
            if verdict.kept:
                raced(job, verdict)
        elif arm.capping and not job.further:
            end = end_of(verdict) if math.isinf(verdict.earliest) else None
            if best is not None and best.before(verdict.earliest, job.number, arm.capping):
                end = End.CAPPED
        if end is None and scheduler is not None:
            stub = SimpleNamespace(trial_id=job.name)
            told = NEVER if step <= trial.pretraining else trial.curve.cost(trial.at)
            if trial.at == 1:
                scheduler.on_trial_add(None, stub)
            if scheduler.on_trial_result(None, stub, {"step": step, "cost": told}) == "STOP":
                end = End.CAPPED
        if end is not None:
            if not job.further:
                proposer.tell(job.name, verdict, end, step)
            fill()
        elif makes_way(trial):
            paused[job] = trial
            waiting.append(job)
            if isinstance(proposer, Ours):
                proposer.see(job.name, verdict)
            spent.pauses += 1
            fill()
        else:
            trial.due = now + seconds_of(trial)
            heapq.heappush(heap, trial)
    spent.best = math.inf if best is None else best.cost
    return spent


def asha(study: Study, halves: bool) -> Any:
    """Ray's scheduler on `nash_cost` so far; the grace period is the longest pretraining, or half of it."""
    from ray.tune.schedulers import AsyncHyperBandScheduler

    return AsyncHyperBandScheduler(
        time_attr="step",
        metric="cost",
        mode="min",
        max_t=study.max_steps,
        grace_period=int(study.space[PRETRAIN].high) // (2 if halves else 1),
        reduction_factor=2 if halves else 4,
    )


def nearest(study: Study, untried: dict[int, dict[str, Value]], point: dict[str, Value]) -> int:
    """The recorded configuration nearest to a point: first in pretraining, whose cost is known, then on all scales."""

    def place(values: dict[str, Value]) -> np.ndarray:
        return np.array([parameter.share_of(values[key]) for key, parameter in study.space.items()])

    def far(number: int) -> tuple[float, float, int]:
        values = untried[number]
        return abs(values[PRETRAIN] - point[PRETRAIN]), float(np.linalg.norm(place(values) - wanted)), number

    wanted = place(point)
    return min(untried, key=far)


def seconds_between(first: int, last: int, pretraining: int, table: Table) -> float:
    """Seconds of the steps of a training from one to another."""
    last = min(last, table.study.max_steps)
    alone = max(0, min(last, pretraining) - first)
    return alone * table.step_s[0] + (last - first - alone) * table.step_s[1]


class Bill:
    """What a rival that trains one after the other has spent; a training may go on later."""

    def __init__(self, table: Table) -> None:
        self._table, self._trained = table, dict[tuple[int, int], int]()
        self.spent = Spent()

    def train(self, number: int, seed: int, upto: int) -> None:
        """Train a configuration on a seed to a step."""
        begun = self._trained.get((number, seed), 0)
        pretraining = int(self._table.configurations[number][PRETRAIN])
        self.spent.trials += begun == 0
        self.spent.steps += max(0, upto - begun)
        self.spent.seconds += seconds_between(begun, max(begun, upto), pretraining, self._table)
        self._trained[number, seed] = max(begun, upto)


def i_epoch(table: Table, repetition: int) -> Spent:
    """Random configurations to one fixed length, the best of each four on to the end (Egele et al. 2023's simplest)."""
    study, seed, bill = table.study, table.seeds[repetition % len(table.seeds)], Bill(table)
    fixed = round(FIXED_SHARE * study.max_steps)
    order = np.random.default_rng(repetition).permutation(sorted(table.configurations))
    for begin in range(0, len(order), WORKERS):
        some = [int(number) for number in order[begin : begin + WORKERS]]
        for number in some:
            bill.train(number, seed, fixed)
        seen = {n: table.curves[n, seed] for n in some}
        best = min(some, key=lambda n: (seen[n].cost(sum(step <= fixed for step in seen[n].steps)), n))
        bill.train(best, seed, study.max_steps)
        if best in table.good and seen[best].kept:
            bill.spent.held = True
            break
    return bill.spent


def smac(table: Table, repetition: int) -> Spent:
    """SMAC's algorithm configuration: seeds are its instances, `steps_to_nash` its runtime; it races and caps itself.

    It is lent the meter's bound: a training ends where no balance within its cutoff is possible any more.
    """
    from ConfigSpace import Categorical, ConfigurationSpace, Float, Integer
    from smac import AlgorithmConfigurationFacade, Scenario
    from smac.runhistory import StatusType, TrialValue

    study, bill = table.study, Bill(table)
    space = ConfigurationSpace(seed=repetition)
    for key, parameter in study.space.items():
        if parameter.choice is not None:
            space.add(Categorical(key, parameter.choice))
        elif parameter.int_range is not None:
            space.add(Integer(key, tuple(map(int, parameter.bounds)), log=parameter.log))
        else:
            space.add(Float(key, parameter.bounds, log=parameter.log))
    longest = 2 * study.max_steps
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(
            space,
            output_directory=Path(folder),
            deterministic=True,
            instances=[str(seed) for seed in table.seeds],
            instance_features={str(seed): [float(seed)] for seed in table.seeds},
            n_trials=100_000,
            adaptive_capping=True,
            adaptive_capping_slackfactor=1.2,
            runtime_cutoff=longest * len(table.seeds),
            seed=repetition,
        )
        facade = AlgorithmConfigurationFacade(scenario, _never_called, overwrite=True, logging_level=False)
        placed: dict[Any, int] = {}
        untried = dict(table.configurations)
        while True:
            info = facade.ask()
            if info.config not in placed:
                if not untried:
                    return bill.spent
                placed[info.config] = nearest(study, untried, dict(info.config))
                del untried[placed[info.config]]
            number, seed = placed[info.config], int(info.instance)
            curve, cutoff = table.curves[number, seed], (info.additional_info or {}).get("cutoff", longest)
            ends = (at for at, verdict in enumerate(curve.verdicts) if verdict.earliest > cutoff)
            at = min(next(ends, len(curve.steps)), len(curve.steps))
            bill.train(number, seed, curve.steps[at - 1] if at else 0)
            if at == len(curve.steps) and curve.kept and number in table.good:
                bill.spent.held = True
                return bill.spent
            whole = at == len(curve.steps)
            cost = curve.cost(at) if whole else float(max(1.0, cutoff))
            status = StatusType.SUCCESS if whole else StatusType.TIMEOUT
            facade.tell(info, TrialValue(cost=cost, time=cost, status=status))


def _never_called(config: Any, seed: int, instance: str, cutoff: float) -> float:
    """What SMAC is given to run, by name and arguments; the replay asks and tells instead."""
    raise AssertionError(config, seed, instance, cutoff)


def the_guide(table: Table, repetition: int) -> Spent:
    """No search: the middle of the space, with the cut that keeps a game even; one training."""
    space = table.study.space
    middle = {key: parameter.at(0.5) for key, parameter in space.items()}
    number = nearest(table.study, dict(table.configurations), middle | {"Schedulers.cut": "both"})
    bill, seed = Bill(table), table.seeds[repetition % len(table.seeds)]
    bill.train(number, seed, table.study.max_steps)
    bill.spent.held = number in table.good and table.curves[number, seed].kept
    return bill.spent


def oracle(table: Table, repetition: int) -> Spent:
    """The best configuration, trained once."""
    bill = Bill(table)
    best = min(table.configurations, key=table.median)
    bill.train(best, table.seeds[repetition % len(table.seeds)], table.study.max_steps)
    bill.spent.held = True
    return bill.spent


ARMS: dict[str, Arm | Callable[[Table, int], Spent]] = {
    "random": Arm(RANDOM),
    "random, capping": Arm(RANDOM, capping=1.25),
    "Ray Tune + OptunaSearch": Arm(RayOptuna),
    "Ray Tune + OptunaSearch + ASHA": Arm(RayOptuna, asha=True),
    "Ray Tune + OptunaSearch + ASHA by halves": Arm(RayOptuna, asha=True, halves=True),
    "i-Epoch": i_epoch,
    "SMAC3 + adaptive capping": smac,
    "the guide, cut: both": the_guide,
    "oracle": oracle,
    "ours": OURS,
    "ours without capping": replace(OURS, capping=None, blind=0, margin=math.inf),  # it takes best first with it
    "ours without sharing": replace(OURS, sharing=False),
    "ours without best first": replace(OURS, blind=0, margin=math.inf),
    "ours without the race": replace(OURS, race=0),
    "ours, random proposals": replace(OURS, proposer=RANDOM),
    "ours, 8 at random": FEW,
    "ours, 8 at random, then tpe": replace(FEW, proposer=partial(Ours, sampler="tpe, a quarter of all")),
    "ours, 8 at random, then random": replace(FEW, proposer=RANDOM),
}


def variants() -> dict[str, Arm]:
    """Ours with other proposals and slacks: what the defaults are chosen among."""

    def ours(startup: int, **changes: Any) -> Arm:
        return replace(OURS, proposer=partial(Ours, startup=startup, **changes), blind=startup)

    found = {f"startup 8, {name}": ours(8, sampler=name) for name in ("wait", "tpe", *SAMPLERS, "gp", "random")}
    found |= {f"startup {count}": ours(count) for count in (4, 8, 16, 24, 32, 48)}
    found |= {f"margin {margin:g}": replace(OURS, margin=margin) for margin in (1.0, 1.1, 1.25, 1.5, 2.0, math.inf)}
    found |= {f"race {further}": replace(OURS, race=further) for further in (0, 1, 2)}
    return found | {f"slack {slack:g}": replace(OURS, capping=slack) for slack in (1.0, 1.1, 1.25, 1.5, 2.0)}


# --- the benchmark ---------------------------------------------------------------------------------------------------


def measure(name: str, file: Path, part: str, repetition: int, among: str) -> Spent:
    """One replayed study, in a process of its own kind."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    arm = (ARMS if among == "arms" else variants())[name]
    table = load(file, part)
    return replay(arm, table, repetition) if isinstance(arm, Arm) else arm(table, repetition)


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
    """The share of studies that hold a good configuration by GPU steps, a panel a table."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(results), figsize=(6 * len(results), 6), squeeze=False, sharey=True)
    for axis, (name, table) in zip(axes[0], results.items(), strict=True):
        seen = {True: 0, False: 0}  # of ours, of the others: each has colours of its own kind of line
        for arm, told in table["arms"].items():
            ours = arm.startswith("ours")
            values = sorted(value for value in told["steps"]["all"] if math.isfinite(value))
            share = np.arange(1, len(values) + 1) / len(told["steps"]["all"])
            line, width = f"C{seen[ours]}" + ("-" if ours else "--"), 3 if arm == "ours" else 1.2
            axis.step([1, *values], [0, *share], line, where="post", label=arm, linewidth=width)
            seen[ours] += 1
        axis.set(xscale="log", xlabel="GPU steps", ylim=(0, 1.02), title=f"{name}, {table['part']}")
        axis.set_xlim(left=0.7 * table["oracle"])
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("share of studies that hold a good configuration")
    lines, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(lines, labels, fontsize=9, loc="lower center", ncols=6, frameon=False)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(file, dpi=110)


def measured(file: Path, names: list[str], part: str, repetitions: int, among: str, pool: Any) -> dict[str, Any]:
    """Replay a table with each arm, and print."""
    table = load(file, part)
    print(
        f"\n{table.name}, {part}: {len(table.configurations)} configurations × {len(table.seeds)} seeds; best median "
        f"{table.best:g} of {table.study.max_steps} steps; good: {len(table.good)}; steps cost "
        f"{table.step_s[0] * 1e3:.2f} and {table.step_s[1] * 1e3:.2f} ms ({table.machine})"
    )
    print(f"{'':42s} GPU steps, median [95 %]        GPU seconds  trials  never  of random  oracles", flush=True)
    arms: dict[str, Any] = {}
    for name in names:
        jobs = [(name, file, part, repetition, among) for repetition in range(repetitions)]
        result = arms[name] = summary(list(pool.map(measure, *zip(*jobs, strict=True))), table)
        steps, (low, high) = result["steps"]["median"], result["steps"]["interval"]
        print(
            f"{name:42s} {steps:9.0f} [{low:7.0f}, {min(high, 1e9):9.0f}] {result['seconds']['median']:12.1f} "
            f"{result['trials']:7.0f} {result['never']:6.0%} {steps / arms[names[0]]['steps']['median']:10.3f} "
            f"{steps / table.study.max_steps:8.1f}",
            flush=True,
        )
    known = {
        "part": part,
        "at once": WORKERS,
        "machine": table.machine,
        "best_median": table.best,
        "good": len(table.good),
    }
    return known | {"oracle": table.study.max_steps, "arms": arms}


def main() -> None:
    """Replay, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, nargs="+", default=TABLES)
    parser.add_argument("--part", choices=list(PARTS), default="report")
    parser.add_argument("--among", choices=["arms", "variants"], default="arms", help="variants: of ours")
    parser.add_argument("--only", nargs="*", default=[], help="names of arms; default: all")
    parser.add_argument("--repetitions", type=int, default=60)
    parser.add_argument("--out", type=Path, help="JSON; a plot is written beside it")
    chosen = parser.parse_args()
    names = [
        name for name in (ARMS if chosen.among == "arms" else variants()) if name in chosen.only or not chosen.only
    ]
    began = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        results = {
            file.stem: measured(file, names, chosen.part, chosen.repetitions, chosen.among, pool)
            for file in chosen.tables
        }
    print(f"{time.perf_counter() - began:.0f} s")
    if chosen.out:
        chosen.out.write_text(json.dumps(results, indent=1))
        draw(results, chosen.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
