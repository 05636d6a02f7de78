"""Test imagery held against the training's: what training or choice has seen tests nothing, and is refused.

That is a file of the training's own, ground that both cover, or the same pixels under another name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from trainables.areas import Areas
from trainables.decoding import Scene
from trainables.errors import InvalidInput, Problem
from trainables.image_files import ground
from trainables.scenes import Found, gathered


def refuse_seen_files(test: Found, own: Found) -> None:
    """Raise InvalidInput where test files are the training's own, or where both say that they cover the same ground.

    The latter by the files' headers: one coordinate reference system, and bounds that intersect.
    """
    resolved = {file.resolve() for file in own.high}
    same = [_seen(file, test.key, "a file of the training's own") for file in test.high if file.resolve() in resolved]
    if problems := same or _on_seen_ground(test, own):
        raise InvalidInput(gathered(problems))


def refuse_seen_pixels(test: Found, scenes: list[Scene], own: list[Scene]) -> None:
    """Raise InvalidInput where the scenes of `test` have the pixels of a training's scene."""
    problems = [
        _seen(file, test.key, f"the pixels of the training's {twin.name}")
        for file, twin in zip(test.high, _twins(scenes, own), strict=True)
        if twin is not None
    ]
    if problems:
        raise InvalidInput(gathered(problems))


def refuse_twins(files: Found, scenes: list[Scene], areas: Sequence[Areas]) -> None:
    """Raise InvalidInput where a scene that is held out whole has the pixels of one that is trained on whole.

    Where each scene is parted, two of the same pixels are parted alike.
    """
    own = [scene for scene, has in zip(scenes, areas, strict=True) if "val" not in has]
    apart = [(file, scene) for file, scene, has in zip(files.high, scenes, areas, strict=True) if "train" not in has]
    expected, fix = "other imagery than is trained on", "Remove one of them, or leave it out by Data.exclude."
    problems = [
        Problem(str(file), files.key, f"held-out imagery with the pixels of {twin.name}", expected, fix)
        for (file, _), twin in zip(apart, _twins([scene for _, scene in apart], own), strict=True)
        if twin is not None
    ]
    if problems:
        raise InvalidInput(gathered(problems))


def _twins(scenes: list[Scene], own: list[Scene]) -> list[Scene | None]:
    """Of each scene one with the same pixels, if there is one; two scenes of nothing but cloud are two scenes."""
    known = defaultdict(list)
    for scene in own:
        known[_middle(scene)].append(scene)
    return [_twin(scene, known[_middle(scene)]) for scene in scenes]


def _twin(scene: Scene, alike: list[Scene]) -> Scene | None:
    if not alike or scene.hr.amin() == scene.hr.amax():
        return None
    return next((one for one in alike if torch.equal(one.hr, scene.hr)), None)


def _seen(file: Path, key: str, found: str) -> Problem:
    fix = "Name imagery of another place."
    return Problem(str(file), key, found, "imagery that neither training nor choice sees, geographically apart", fix)


def _middle(scene: Scene) -> bytes:
    """The row of pixels in a scene's middle, by which those that may be equal are found."""
    return scene.hr[:, scene.hr.shape[1] // 2].contiguous().numpy().tobytes()


def _on_seen_ground(test: Found, own: Found) -> list[Problem]:
    placed = [(file, where) for file in test.high if (where := ground(file)) is not None]
    if not placed:
        return []
    seen = [(file.name, where) for file in own.high if (where := ground(file)) is not None]
    left, bottom, right, top = np.array([where[1:] for _, where in seen]).reshape(-1, 4).T
    problems = []
    for file, where in placed:
        common = (left < where.right) & (where.left < right) & (bottom < where.top) & (where.bottom < top)
        for index in np.flatnonzero(common):
            name, other = seen[index]
            if other.crs == where.crs:
                problems.append(_seen(file, test.key, f"ground that the training's {name} covers"))
                break
    return problems
