"""The project's own sampler: it models the part of the answer that nobody knows beforehand.

`steps_to_nash` is pretraining and ramp, which a configuration says, and a wait of the game, long where the balance was
not kept. A Gaussian process of the logarithm of the wait, over the space scaled to a unit cube, proposes where the
expected improvement on the best so far is largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial
from scipy.special import ndtr

from trainables.balance import Ruler
from trainables.outcome import End
from tune_srgan.study.settings import Study
from tune_srgan.study.space import Value

LENGTH, NOISE = 0.4, 0.3  # in units of the cube's side, and of the waits' spread: chosen on recorded curves
CANDIDATES, NEIGHBOURS, NEAR = 2048, 32, 0.05  # at random; around each of the best few; so far, in units of the side
SPREAD = 1.5  # of the logarithms of waits over a space, before any is known: 1.3 to 1.9 on recorded curves
MOST, DRAWS = 256, 512  # candidates and draws by which a chance is told
BEST, FEWEST = 4, 2  # trials: around which candidates lie; whose games must have been seen before there is a model
FLOORS = "constraints"  # the attribute in which Optuna's samplers look for what has to be 0 or less
LENGTHS = ("g_pretrain_steps", "pretrain_g_only", "adv_loss_ramp_steps")  # keys that say when the game is on
PRETRAINING_SHARE = 0.5  # of a game step's seconds that a step of pretraining takes, about

Array = NDArray[np.float64]


class WaitSampler(BaseSampler):
    """Proposes by a model of the game's wait, after `startup` trials at random."""

    def __init__(self, study: Study, startup: int, seed: int) -> None:
        self._study, self._startup = study, startup
        self._random, self._draw = RandomSampler(seed=seed), np.random.default_rng(seed)
        self._price = PRETRAINING_SHARE if study.objective.metric == "seconds_to_nash" else 1.0
        lowest = study.lowest()
        self._training, self._latest = lowest.Training, Ruler.of(lowest).latest
        self._shortest = float(self._training.validate_every)  # wait that is told apart
        self._lengths = [key for key in study.space if key in {f"Training.{name}" for name in LENGTHS}]

    # Optuna's BaseSampler: its documentation says what each is for.
    # ruff: noqa: D102
    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        known = self._known(study)
        return dict(known[0].distributions) if self._models(known) else {}

    def knows(self, study: optuna.Study) -> bool:
        """Whether the next proposal is the model's."""
        return self._models(self._known(study))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        known = self._known(study)
        played, believed = self._told(known)
        best = min((self._cost(one) for one in known if _in_balance(one)), default=math.inf)
        values, gain = self._judged(played, believed, best)
        gain = np.where(gain > 0, gain * self._above_floors(known, values), gain)
        chosen = values[int(np.argmax(gain))]
        return {key: chosen[key] for key in search_space}

    def chance(self, study: optuna.Study, count: int, number: int, share: float) -> float:
        """Return how likely one of `count` further proposals costs less than a `share` of what trial `number` cost.

        By joint draws of the model at the `count` candidates of the largest expected improvement; 1 before it proposes.
        """
        known = self._known(study)
        if not self._models(known):
            return 1.0
        played, believed = self._told(known)
        [own] = [self._cost(one) for one in known if one.number == number]
        values, gain = self._judged(played, believed, share * own)
        chosen = [values[index] for index in np.argsort(-gain)[: min(count, MOST)]]
        before = np.array([self._before(one) for one in chosen])
        waits = np.exp(drawn(*played, np.array([self._place(one) for one in chosen]), believed, self._draw))
        waits = np.maximum(waits, self._shortest)
        return float(((self._price * before[:, None] + waits).min(0) < share * own).mean())

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _known(self, study: optuna.Study) -> list[FrozenTrial]:
        """The trials that say something of the space: an error says nothing; numbers nobody started have no values."""
        return [
            one
            for one in study.get_trials(deepcopy=False)
            if set(one.params) == set(self._study.space) and one.user_attrs.get("outcome") != End.FAILED
        ]

    def _models(self, known: list[FrozenTrial]) -> bool:
        """Whether there is a model: `startup` trials were proposed, and enough games were seen."""
        return len(known) >= self._startup and sum(map(_played, known)) >= FEWEST

    def _told(self, known: list[FrozenTrial]) -> tuple[tuple[Array, Array], list[list[float]]]:
        """Where games were seen and the logarithms of their waits; and where nothing was seen yet of what runs."""
        played = [one for one in known if _played(one)]
        where = np.array([self._place(one.params) for one in played])
        unseen = [one for one in known if not one.state.is_finished() and not _played(one)]
        return (where, np.log([self._wait(one) for one in played])), [self._place(one.params) for one in unseen]

    def _judged(
        self, played: tuple[Array, Array], believed: list[list[float]], best: float
    ) -> tuple[list[dict[str, Value]], Array]:
        """Draw candidates; returns their values and their expected improvements on `best`."""
        where, waits = played
        candidates = self._candidates(where[np.argsort(waits)[:BEST]])
        values = [self._values(place) for place in candidates]
        before = np.array([self._before(one) for one in values])
        mean, deviation = predicted(where, waits, candidates, believed)
        return values, self._improvement(before, mean, deviation, best)

    def _above_floors(self, known: list[FrozenTrial], values: list[dict[str, Value]]) -> Array:
        """How likely the images of each candidate are as good as is asked for; 1 where nothing says otherwise.

        A model like the wait's for each floor, of what balanced (Gardner et al. 2014, constrained improvement).
        """
        told = [one for one in known if _measured(one)]
        likely = np.ones(len(values))
        if len(told) < FEWEST:
            return likely
        where, wanted = (np.array([self._place(one) for one in many]) for many in ([t.params for t in told], values))
        for short in np.array([one.system_attrs[FLOORS] for one in told]).T:
            scale = float(np.abs(short).max()) or 1.0
            mean, deviation = predicted(where, SPREAD * short / scale, wanted)
            likely *= ndtr(-mean / deviation)
        return likely

    def _place(self, values: dict[str, Any]) -> list[float]:
        return [parameter.share_of(values[key]) for key, parameter in self._study.space.items()]

    def _values(self, place: Array) -> dict[str, Value]:
        return {
            key: self._study.space[key].at(float(share)) for key, share in zip(self._study.space, place, strict=True)
        }

    def _candidates(self, best: Array) -> Array:
        """Points of the cube: most at random, some near the shortest waits."""
        sides = best.shape[1]
        near = np.repeat(best, NEIGHBOURS, axis=0) + NEAR * self._draw.standard_normal((len(best) * NEIGHBOURS, sides))
        points: Array = np.clip(np.concatenate([self._draw.random((CANDIDATES, sides)), near]), 0, 1 - 1e-9)
        return points

    def _before(self, values: dict[str, Value]) -> float:
        """Steps until the game is on."""
        changes = {key.rpartition(".")[2]: values[key] for key in self._lengths}
        return float(self._training.model_copy(update=changes).game_on)

    def _cost(self, trial: FrozenTrial) -> float:
        """What a trial cost, in steps of the game."""
        return self._price * self._before(trial.params) + self._wait(trial)

    def _wait(self, trial: FrozenTrial) -> float:
        """What a game took: a bound where it was ended early or goes on, a penalty where nothing was kept."""
        told, longest, before = trial.user_attrs, self._study.max_steps, self._before(trial.params)
        if not trial.state.is_finished() or told["outcome"] in {End.BALANCED, End.CAPPED, End.BUDGET}:
            return max(self._shortest, float(told["steps"]) - before)
        share = told["share_balanced"]
        return longest * (1.75 if share is None else 1.5 - 0.5 * share)

    def _improvement(self, before: Array, mean: Array, deviation: Array, best: float) -> Array:
        """Expected improvement on the best; where there is none, on the latest balance that would count.

        Of `before` + exp(Normal(`mean`, `deviation`)) under `best`: Jones et al. 1998, eq. 15, for a lognormal.
        """
        room = self._latest - before if math.isinf(best) else best - self._price * before
        spread = (np.log(np.maximum(room, 1e-9)) - mean) / deviation
        gain = room * ndtr(spread) - np.exp(mean + deviation**2 / 2) * ndtr(spread - deviation)
        # where no room is left, the soonest there is
        found: Array = np.where(room > 0, np.maximum(gain, 0.0), 0.0) - 1e-9 * (before + np.exp(mean))
        return found


def _played(trial: FrozenTrial) -> bool:
    """Whether anything was seen of its game."""
    return trial.user_attrs.get("gap") is not None


def _in_balance(trial: FrozenTrial) -> bool:
    """Whether it kept the balance with images as good as is asked for, or has found one so far."""
    told = trial.user_attrs
    if not trial.state.is_finished():
        return bool(told.get("gap") == 0)
    return bool(told["outcome"] == End.BALANCED) and max(trial.system_attrs.get(FLOORS, ()), default=0.0) <= 0


def _measured(trial: FrozenTrial) -> bool:
    """Whether it is known of a balance that was kept how far its images are from the floors."""
    floors = trial.system_attrs.get(FLOORS, ())
    return bool(floors) and trial.user_attrs.get("outcome") == End.BALANCED and max(floors) < math.inf


def predicted(
    where: Array, waits: Array, wanted: Array, running: Sequence[Sequence[float]] = ()
) -> tuple[Array, Array]:
    """Predict logarithms of waits: mean and standard deviation at `wanted`, (n, sides) points of the unit cube.

    A Gaussian process with a squared-exponential kernel (Rasmussen & Williams 2006, alg. 2.1). What runs counts as if
    it had come out as predicted, so that the next proposal lies elsewhere (kriging believer, Ginsbourger et al. 2010).
    """
    centre, scale, mean, explained = _posterior(where, waits, wanted, running)
    return centre + scale * mean, scale * np.sqrt(np.maximum(1 - (explained**2).sum(0), 1e-6))


def drawn(
    where: Array,
    waits: Array,
    wanted: Array,
    running: Sequence[Sequence[float]],
    draw: np.random.Generator,
) -> Array:
    """Draw DRAWS logarithms of the waits of configurations, not of single trainings, jointly; (n, DRAWS)."""
    centre, scale, mean, explained = _posterior(where, waits, wanted, running)
    spread = _kernel(wanted, wanted) - explained.T @ explained
    values, vectors = np.linalg.eigh(spread)  # near points make it singular
    root = vectors * np.sqrt(np.maximum(values, 0))
    found: Array = mean[:, None] + root @ draw.standard_normal((len(wanted), DRAWS))
    return centre + scale * found


def _posterior(
    where: Array, waits: Array, wanted: Array, running: Sequence[Sequence[float]]
) -> tuple[float, float, Array, Array]:
    """Centre and scale of the waits; the mean at `wanted` in these units, and a root of the variance explained."""
    centre = float(waits.mean())  # few that happen to agree say little of the others: FEWEST more, SPREAD apart
    scale = math.sqrt((float(((waits - centre) ** 2).sum()) + FEWEST * SPREAD**2) / (len(waits) + FEWEST))
    heights = (waits - centre) / scale
    if len(running):
        there = np.array(running)
        where, heights = np.concatenate([where, there]), np.concatenate([heights, _solved(where, heights, there)[0]])
    return centre, scale, *_solved(where, heights, wanted)


def _solved(where: Array, heights: Array, wanted: Array) -> tuple[Array, Array]:
    factor = np.linalg.cholesky(_kernel(where, where) + NOISE**2 * np.eye(len(where)))
    across = _kernel(wanted, where)
    mean: Array = across @ np.linalg.solve(factor.T, np.linalg.solve(factor, heights))
    return mean, np.linalg.solve(factor, across.T)


def _kernel(one: Array, other: Array) -> Array:
    distances = ((one[:, None, :] - other[None, :, :]) / LENGTH) ** 2
    kernel: Array = np.exp(-distances.sum(-1) / 2)
    return kernel
