"""Winners on the edge of a range: what lies beyond was never tried, and may be better."""

from __future__ import annotations

import math
from collections.abc import Mapping

from trainables.errors import InvalidInput
from tune_srgan.study.settings import Study
from tune_srgan.study.space import Parameter, Value, corners

NEAR = 0.02  # of a range's width, by its own scale: nearer to an end, a value lies on the edge
PARTS = (0.5, 0.25)  # of a range's width, by which it is widened: the first that makes a valid training


def edges(study: Study, values: Mapping[str, Value]) -> dict[str, Parameter]:
    """Return the wider range to try for each key whose value lies on the edge of its range."""
    wider: dict[str, Parameter] = {}
    for key, parameter in study.space.items():  # one after the other: together they have to make valid trainings too
        so_far = study.model_copy(update={"space": study.space | wider})
        if (found := _wider(so_far, key, parameter, values[key])) is not None:
            wider[key] = found
    return wider


def extended(study: Study, wider: Mapping[str, Parameter]) -> Study:
    """Return the study with wider ranges, and half as many trials again to look into them."""
    trials = study.search.trials + math.ceil(study.search.trials / 2)
    search = study.search.model_copy(update={"trials": trials})
    return study.model_copy(update={"space": study.space | dict(wider), "search": search})


def _wider(study: Study, key: str, parameter: Parameter, value: Value) -> Parameter | None:
    """The range with more beyond the end that a value lies on; None where it lies on none, or nothing lies beyond."""
    if parameter.choice is not None or _never_acts(study, key, value):
        return None
    low, high = parameter.bounds
    at_low = value == low or parameter.share_of(value) < NEAR
    if not (at_low or value == high or parameter.share_of(value) > 1 - NEAR):
        return None
    for part in PARTS:
        ends = _beyond(parameter, part, at_low)
        whole = parameter.int_range is not None
        given = {"int": [int(end) for end in ends]} if whole else {"float": list(ends)}
        step = {} if parameter.step is None else {"step": parameter.step}
        wider = Parameter.model_validate(given | step | {"log": parameter.log})
        if wider.bounds != (low, high) and _is_valid(study.model_copy(update={"space": study.space | {key: wider}})):
            return wider
    return None


def _never_acts(study: Study, key: str, value: Value) -> bool:
    """A patience as long as the training: any longer one would do the same."""
    every = study.lowest().Training.validate_every
    return key.startswith("Schedulers.patience") and float(value) * every >= study.max_steps


def _beyond(parameter: Parameter, part: float, at_low: bool) -> tuple[float, float]:
    """The bounds, one of them moved by a part of the width, over whole steps and not below 0."""
    low, high = parameter.bounds
    if parameter.log:
        factor = (high / low) ** part
        least = 1 if parameter.int_range is not None else 0
        return (max(least, low / factor), high) if at_low else (low, high * factor)
    step = parameter.step or (1 if parameter.int_range is not None else 0)
    width = part * (high - low)
    width = max(step, round(width / step) * step) if step else width
    if at_low:
        room = low if not step else math.floor(low / step) * step
        return low - min(width, max(0.0, room)), high
    return low, high + width


def _is_valid(study: Study) -> bool:
    try:
        for corner in corners(study.space):
            study.configuration(corner)
    except InvalidInput:
        return False
    return True
