"""Recorded trainings judged again: what holds, what does not, and from when; with other numbers where a person asks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from trainables.balance import CONDITIONS, Ruler, Verdict, excesses, judge, reading_gap, ruin_of, stood_still
from trainables.errors import InvalidInput, Problem, explain
from trainables.outcome import end_of
from trainables.schema import NashSettings
from tune_srgan.console import figure, share_text
from tune_srgan.store.curves import read_curves
from tune_srgan.store.layout import StudyFiles
from tune_srgan.store.records import held_of
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import TrialFolder

Readings = Sequence[dict[str, float]]


@dataclass(frozen=True)
class Judged:
    """A training, what it was judged with, and the verdict."""

    name: str
    readings: Readings
    ruler: Ruler
    verdict: Verdict


def nash_with(changes: Sequence[str], nash: NashSettings) -> NashSettings:
    """Return the ruler's numbers with those that a person gives as `kept=0.7`; one clear error where one is wrong."""
    values: dict[str, Any] = nash.model_dump()
    for change in changes:
        key, sign, value = change.partition("=")
        if not sign:
            raise InvalidInput([Problem("--nash", key, "no number", "KEY=NUMBER, like kept=0.7")])
        values[key] = yaml.safe_load(value)
    try:
        changed = NashSettings.model_validate(values)
    except ValidationError as error:
        raise InvalidInput(explain(error, NashSettings, "--nash")) from None
    problems = [
        Problem("--nash", key, str(getattr(changed, key)), f"at most {of} ({getattr(changed, of)})")
        for key, of in changed.impossible().items()
    ]
    if problems:
        raise InvalidInput(problems)
    return changed


def judge_place(place: Path, changes: Sequence[str], console: Console) -> None:
    """Judge what lies at a place, a trial's, a training's or a study's folder or a table, and print it."""
    found = []
    for name, readings, ruler in _trainings(place):
        ruler = replace(ruler, nash=nash_with(changes, ruler.nash))
        found.append(Judged(name, readings, ruler, judge(readings, ruler)))
    if len(found) == 1:
        _print_one(found[0], console)
    else:
        _print_many(found, console)
    if found and (changed := found[0].ruler.nash.changed()):
        said = ", ".join(f"{key} = {value}" for key, value in changed.items())
        console.print(f"Ruler other than the default: {said}", style="yellow", highlight=False)


def _trainings(place: Path) -> Iterator[tuple[str, Readings, Ruler]]:
    """Every training at a place: its name, its readings, and the ruler of its configuration."""
    if place.is_file() and place.suffix == ".parquet":
        for recorded in read_curves(place):
            yield f"{recorded.number} seed {recorded.seed}", recorded.readings, recorded.ruler
        return
    alone = TrialFolder(place)
    if (place / StudyFiles.STUDY.name).is_file():
        trials = {trial.name: trial for trial in StudyFolder(place).every_trial()}
    elif alone.configuration_file.is_file():
        trials = {place.name: alone}
    else:
        found = "no such place" if not place.exists() else "neither a training nor a study nor a table"
        expected = "the folder of a trial, of a training or of a study, or a table of recorded trainings (.parquet)"
        raise InvalidInput([Problem(str(place), "", found, expected)])
    for name, trial in trials.items():
        yield name, trial.readings(), Ruler.of(trial.configuration())


def _print_one(one: Judged, console: Console) -> None:
    nash, verdict = one.ruler.nash, one.verdict
    game = [reading for reading in one.readings if reading["step"] >= one.ruler.game_on]
    marks = "".join("#" if reading_gap(reading, one.ruler) == 0 else "." for reading in game)
    every = one.ruler.validate_every
    console.print(Text(f"The game, from step {one.ruler.game_on} on, a reading every {every} steps, # balanced:"))
    console.print(Text(marks or "none yet"))
    first = f"Balanced first at step {verdict.first}" if verdict.first is not None else "Never balanced"
    window = f"the first and {nash.required} of {nash.window} readings"
    console.print(f"{first} ({window}).", highlight=False)
    style = "bold green" if verdict.kept else "bold yellow"
    console.print(_answer(one), style=style, highlight=False)
    for line in _conditions(one, game):
        console.print(line, highlight=False)


def _answer(one: Judged) -> str:
    nash, verdict, max_steps = one.ruler.nash, one.verdict, one.ruler.max_steps
    wanted = (
        f"wanted: {nash.kept:.0%} from there to the end, {nash.last_required} of the last {nash.last}, "
        f"within the first {nash.latest:.0%} of the steps"
        + (f", the rates at {nash.pace:.0%} of theirs" if nash.pace else "")
    )
    if verdict.kept:
        since = f"from step {verdict.steps_to_nash} to the end at {max_steps}"
        pace = f"the rates at {share_text(held_of(one.readings, one.ruler, verdict).pace)} of theirs"
        return f"Kept {since}: {share_text(verdict.share)} balanced, {pace} ({wanted})."
    if math.isfinite(verdict.earliest):
        return f"Not over: it may still be kept from step {int(verdict.earliest)} on ({wanted})."
    best = "" if verdict.share is None else f"; from no step on were more than {share_text(verdict.share)} balanced"
    return f"Not kept ({end_of(verdict)}), gap {figure(verdict.gap)}{best} ({wanted})."


def _conditions(one: Judged, game: Readings) -> Iterator[str]:
    """What the readings of the game miss, the most frequent first; what ruins the image."""
    missed = Counter(name for reading in game for name, excess in excesses(reading, one.ruler).items() if excess > 0)
    for name, count in missed.most_common():
        yield f"  {count} of {len(game)} readings miss the condition “{CONDITIONS[name]}”."
    if still := stood_still(one.verdict, one.readings, one.ruler):
        yield f"  {still[0].upper()}{still[1:]}."
    ruin = ruin_of(game[-1], one.ruler) if game else None
    if ruin is not None:
        yield f"  {ruin.cause}."


def _print_many(found: Sequence[Judged], console: Console) -> None:
    for one in found:
        verdict = one.verdict
        end = end_of(verdict) if verdict.over or math.isinf(verdict.earliest) else "not over"
        since = f"kept from step {verdict.steps_to_nash}" if verdict.kept else str(end)
        first = "–" if verdict.first is None else str(verdict.first)
        said = f"{one.name:>12s}  {since}, balanced first at {first}, share {share_text(verdict.share)}"
        console.print(f"{said}, gap {figure(verdict.gap)}", highlight=False)
    kept = sum(one.verdict.kept for one in found)
    first_at = sum(one.verdict.first is not None for one in found)
    text = f"{len(found)} trainings: {first_at} balanced once, {kept} kept the balance to the end."
    console.print(text, style="bold", highlight=False)
