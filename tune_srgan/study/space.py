"""One searched key: a range or a choice, and which values it admits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from trainables.sections import Section

Value = int | float | str | bool
Point = tuple[tuple[type, Value], ...]
ENUMERATED = 4096  # configurations or values, at most, that are looked at one by one
MAX_CORNERS_OF = 8  # searched keys; with more, each range is checked by itself


class Parameter(Section):
    """One searched key: `{int: [low, high], step: n}`, `{float: [low, high], log: true}` or `{choice: [...]}`."""

    model_config = ConfigDict(allow_inf_nan=True)  # said of the whole range, in its own words

    int_range: Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(None, alias="int")
    float_range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = Field(None, alias="float")
    choice: Annotated[list[Value], Field(min_length=1)] | None = None
    step: float | int | None = None
    log: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Parameter:
        given = [name for name in ("int_range", "float_range", "choice") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("exactly one of int, float and choice")
        if self.choice is not None:
            if self.step is not None or self.log:
                raise ValueError("no step and no log with choice")
            if len(set(self.choice)) < len(self.choice):
                raise ValueError("choices that differ")
            return self
        low, high = self.bounds
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"a finite range whose low end is below its high end, not [{low}, {high}]")
        if self.log and low <= 0:
            raise ValueError("a low end above 0, since log is on")
        if self.log and high / low == math.inf:
            raise ValueError(f"a low end nearer to {high}, since log is on")
        if self.step is not None:
            if self.log:
                raise ValueError("step or log, not both")
            if not self.step > 0 or (self.int_range is not None and not isinstance(self.step, int)):
                raise ValueError("a step above 0, whole for int")
            steps = (high - low) / self.step
            if not 0.5 < steps < math.inf or abs(steps - round(steps)) > 1e-9:
                raise ValueError(f"a step that divides {high} - {low} = {high - low:g}; {self.step} does not")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Low and high end of a range."""
        ends = self.int_range or self.float_range
        assert ends is not None
        return ends[0], ends[1]

    def ends(self) -> list[Value]:
        """Return the values that must all build a valid training: both ends, or every choice."""
        return self.choice if self.choice is not None else list(self.bounds)

    @property
    def low(self) -> Any:
        """The smallest value; of a choice that has none, the first."""
        ends = self.ends()
        return ends[0] if any(isinstance(end, str) for end in ends) else min(ends)

    @property
    def high(self) -> Any:
        """The largest value; of a choice that has none, the last."""
        ends = self.ends()
        return ends[-1] if any(isinstance(end, str) for end in ends) else max(ends)

    @property
    def count(self) -> float:
        """How many values it has; infinite where it has no steps."""
        if self.choice is not None:
            return len(self.choice)
        low, high = self.bounds
        step = self.step or (1 if self.int_range is not None else None)
        return math.inf if step is None else round((high - low) / step) + 1

    def values(self) -> list[Value]:
        """List the values of one that has a count, the lowest first."""
        if self.choice is not None:
            return list(self.choice)
        low, step = self.bounds[0], self.step or 1
        return [min(low + step * index, self.bounds[1]) for index in range(int(self.count))]

    def at(self, share: float) -> Value:
        """Return the value at a share of the way, from 0 to 1 exclusive; shares drawn evenly give every value alike."""
        if self.choice is not None:
            return self.choice[int(share * len(self.choice))]
        low, high = self.bounds
        step = self.step or (1 if self.int_range is not None else None)
        if self.log:
            value = math.exp(math.log(low) + share * math.log(high / low))
        else:
            value = low + step * int(share * (round((high - low) / step) + 1)) if step else low + share * (high - low)
        value = min(max(value, low), high)  # by a rounding beyond an end, it would be none of the range
        return round(value) if self.int_range is not None else value

    def share_of(self, value: Value) -> float:
        """Return the share of the way at which a value lies, the middle of those that `at` takes to it."""
        if self.choice is not None:
            return (self.choice.index(value) + 0.5) / len(self.choice)
        low, high = self.bounds
        number, step = float(value), self.step or (1 if self.int_range is not None else None)
        if self.log:
            return math.log(number / low) / math.log(high / low)
        if step:
            return (round((number - low) / step) + 0.5) / (round((high - low) / step) + 1)
        return (number - low) / (high - low)

    def admits(self, value: object) -> bool:
        """Tell whether a value can be proposed."""
        if self.choice is not None:
            return value in self.choice
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if self.int_range is not None and not isinstance(value, int):
            return False
        low, high = self.bounds
        step = self.step or (1 if self.int_range is not None else None)
        if not low <= value <= high:
            return False
        return step is None or abs((value - low) / step - round((value - low) / step)) < 1e-9

    def holds(self, other: Parameter) -> bool:
        """Tell whether each value that the other range proposes is one of this one's, on the same scale."""
        if self.choice is not None or other.choice is not None:
            both = self.choice is not None and other.choice is not None
            return both and other.choice == self.choice  # Optuna's database takes no other
        kind = (self.log, self.step, self.int_range is None)
        return kind == (other.log, other.step, other.int_range is None) and all(map(self.admits, other.ends()))

    def describe(self) -> str:
        """Return what can be proposed, in words: `2 to 12`, `one of a, b`."""
        if self.choice is not None:
            return "one of " + ", ".join(map(str, self.choice))
        low, high = self.bounds
        return f"{low:g} to {high:g}" + (f" by {self.step:g}" if self.step else "")


def size(space: Mapping[str, Parameter]) -> float:
    """Return how many configurations a space has; infinite where a range has no steps."""
    return math.prod(parameter.count for parameter in space.values())


def nearest_other(
    space: Mapping[str, Parameter], values: Mapping[str, Value], tried: Container[Point], fixed: Container[str] = ()
) -> dict[str, Value] | None:
    """Return the untried configuration nearest to another in the unit cube, its `fixed` keys as they are.

    Of all that there are, or, in a large space, of those that differ in one key and of some at random; None where all
    of these are tried.
    """
    free = {key: parameter for key, parameter in space.items() if key not in fixed}
    if size(free) <= ENUMERATED:
        every = itertools.product(*(parameter.values() for parameter in free.values()))
        others: list[dict[str, Value]] = [dict(zip(free, one, strict=True)) for one in every]
    else:
        rows = np.random.default_rng(len(free)).random((ENUMERATED, len(free))).tolist()
        others = [{key: p.at(share) for (key, p), share in zip(free.items(), row, strict=True)} for row in rows]
        others += [{key: value} for key, p in free.items() if p.count <= ENUMERATED for value in p.values()]

    def away(other: dict[str, Value]) -> float:
        return sum((space[key].share_of(value) - space[key].share_of(values[key])) ** 2 for key, value in other.items())

    untried = [other for other in others if point(space, dict(values) | other) not in tried]
    return dict(values) | min(untried, key=away) if untried else None


def point(space: Mapping[str, Parameter], values: Mapping[str, Value]) -> Point:
    """Return a configuration as something that is equal to another's only where all values are."""
    return tuple((type(values[key]), values[key]) for key in space)


def corners(space: Mapping[str, Parameter]) -> list[dict[str, Value]]:
    """List points of a space that must build valid trainings: its corners, and inner points that corners do not see.

    With many keys, one end after the other, beside the first and the last of all.
    """
    ends = {key: parameter.ends() for key, parameter in space.items()}
    if len(ends) <= MAX_CORNERS_OF and math.prod(map(len, ends.values())) <= 2**MAX_CORNERS_OF:
        found = [dict(zip(ends, values, strict=True)) for values in itertools.product(*ends.values())]
    else:
        sides = [{key: of[0] for key, of in ends.items()}, {key: of[-1] for key, of in ends.items()}]
        found = [side | {key: value} for side in sides for key, of in ends.items() for value in of]
    # what both ends take and the number beside them does not: an odd kernel size
    beside = {key: p.bounds[0] + (p.step or 1) for key, p in space.items() if p.int_range is not None}
    return found + [found[0] | {key: value} for key, value in beside.items()]
