"""Shared pretraining: snapshots of the path that trials have in common, where they are taken, what they save.

Two trials computing the same stretch at once is waste, never an error; a snapshot that cannot be read, written or
believed costs its stretch again, never a trial.
"""

from __future__ import annotations

import bisect
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from trainables.errors import one_line
from trainables.imagery import Imagery
from trainables.pretraining import fingerprint, pack, unpack
from trainables.schema import Configuration, acts_later
from trainables.state import State
from tune_srgan.store.account import SHARED
from tune_srgan.store.objects import Storage
from tune_srgan.study.settings import Study
from tune_srgan.study.space import Value

PRETRAIN = "Training.g_pretrain_steps"
AT_MOST = 32  # snapshots of one path
DRAWN = 2500  # trials that are imagined, to foresee what sharing saves
HEADER = b"tune-srgan pretraining 1\n"


def points_of(study: Study) -> list[int]:
    """List the steps at which snapshots are taken: the last validation within each length pretraining may have."""
    every = study.lowest().Training.validate_every
    parameter = study.space.get(PRETRAIN)
    lengths: Sequence[int]  # one for each point
    if parameter is None:
        lengths = [study.lowest().Training.pretrain_steps]
    elif parameter.choice is not None:
        lengths = sorted({value // every * every for value in parameter.choice if isinstance(value, int)})
    else:  # counted, not listed: a range may be longer than any list
        low, high = map(int, parameter.bounds)
        step = int(parameter.step or 1)
        lengths = range(low if step >= every else low // every * every, high + 1, max(step, every))
    lengths = lengths[bisect.bisect_left(lengths, every) :]
    if len(lengths) > AT_MOST:  # evenly thinned, the longest kept
        lengths = [lengths[round((index + 1) * len(lengths) / AT_MOST) - 1] for index in range(AT_MOST)]
    return [length // every * every for length in lengths]


def values_in_pretraining(values: Mapping[str, Value]) -> tuple[tuple[str, Value], ...]:
    """Select what of a trial's values sets its pretraining: trials of one study with the same values share it."""
    return tuple(sorted((key, value) for key, value in values.items() if not acts_later(key)))


def reach(points: Sequence[int], pretraining: int) -> int:
    """Return the last point within a pretraining; 0 where there is none."""
    return max((point for point in points if point <= pretraining), default=0)


@dataclass(frozen=True)
class Snapshots:
    """The snapshots of a study, in its storage, and how many bytes of it they may take."""

    storage: Storage
    limit_bytes: float
    complain: Callable[[str], None]

    def longest(self, path: str, upto: int, beyond: int = 0) -> bytes | None:
        """Read the longest snapshot of a path, of more than `beyond` and at most `upto` steps, where there is one."""
        if beyond >= upto:
            return None
        try:
            names = [entry.name.rpartition("/")[2] for entry in self.storage.entries(path)]
            steps = sorted((int(name) for name in names if name.isdecimal()), reverse=True)
            for step in (step for step in steps if beyond < step <= upto):
                content = self.storage.read(_name(path, step))
                if content is None:
                    continue  # pruned just now
                if content.startswith(HEADER) and content == _sealed(_name(path, step), content[len(HEADER) + 32 :]):
                    return content[len(HEADER) + 32 :]
                self.complain(f"a snapshot of pretraining is damaged or foreign, and computed anew: {path}/{step}")
                self.storage.delete(_name(path, step))
        except OSError as error:
            self.complain(f"no snapshot of pretraining could be read: {one_line(error)}")
        return None

    def keep(self, path: str, step: int, make: Callable[[], bytes]) -> None:
        """Write a snapshot where there is none, and make room for it."""
        name = _name(path, step)
        try:
            if any(entry.name == name for entry in self.storage.entries(path)):
                return
            self.storage.write(name, _sealed(name, make()))
            entries = sorted(self.storage.entries(), key=lambda entry: entry.used)
            excess = sum(entry.size for entry in entries) - self.limit_bytes
            for entry in entries:
                if excess > 0 and entry.name != name:
                    self.storage.delete(entry.name)
                    excess -= entry.size
        except OSError as error:
            self.complain(f"a snapshot of pretraining could not be kept: {one_line(error)}")

    def clear(self) -> int:
        """Delete all; returns bytes freed."""
        entries = self.storage.entries()
        for entry in entries:
            self.storage.delete(entry.name)
        return sum(entry.size for entry in entries)


@dataclass(frozen=True)
class SharedPretraining:
    """A trial's part in it: start from the longest snapshot of its path, leave further ones."""

    snapshots: Snapshots
    points: Sequence[int]
    path: str

    @classmethod
    def of(
        cls,
        snapshots: Snapshots,
        points: Sequence[int],
        configuration: Configuration,
        imagery: Imagery,
        device: torch.device,
    ) -> SharedPretraining:
        """Return the part of a trial with this configuration on this device."""
        return cls(snapshots, points, fingerprint(configuration, imagery, device)[:32])

    def start(self, configuration: Configuration, device: torch.device, beyond: int = 0) -> State | None:
        """Load the state to start from, its readings marked as shared; None where no snapshot lies beyond that step."""
        content = self.snapshots.longest(self.path, configuration.Training.pretrain_steps, beyond)
        if content is None:
            return None
        try:
            state = unpack(content, configuration, device)
        except Exception as error:  # what a foreign file makes torch raise is torch's to choose
            self.snapshots.complain(f"a snapshot of pretraining could not be used: {one_line(error)}")
            return None
        for reading in state.readings:
            reading[SHARED] = 1.0
        return state

    def offer(self, state: State) -> None:
        """Leave a snapshot, where one is to be taken."""
        if state.discriminator is None and state.step in self.points:
            self.snapshots.keep(self.path, state.step, lambda: pack(state))


def expected_savings(study: Study, trials: int) -> tuple[float, float, float]:
    """Draw so many random trials, one after another: how many start from a snapshot; their pretraining steps saved,
    and all steps of pretraining. Means of 50 draws; of many trials fewer draws, and of the first DRAWN of them.
    """
    points, draw = points_of(study), random.Random(0)
    drawn = min(trials, DRAWN)
    draws = min(50, DRAWN // drawn)
    sharing = saved = total = 0.0
    for _ in range(draws):
        reached: dict[tuple[tuple[str, Value], ...], int] = {}
        for _ in range(drawn):
            values = {key: parameter.at(draw.random()) for key, parameter in study.space.items()}
            pretraining, path = study.configuration(values).Training.pretrain_steps, values_in_pretraining(values)
            begun = min(reached.get(path, 0), reach(points, pretraining))
            sharing, saved, total = sharing + (begun > 0), saved + begun, total + pretraining
            reached[path] = max(reached.get(path, 0), reach(points, pretraining))
    share = draws * drawn / trials
    return sharing / share, saved / share, total / share


def _name(path: str, step: int) -> str:
    return f"{path}/{step:08d}"


def _sealed(name: str, content: bytes) -> bytes:
    """A header and a hash before the content: what is cut off, altered or renamed is seen."""
    return HEADER + hashlib.sha256(name.encode() + content).digest() + content
