"""What images are worth, for a report: the front, the plane, and what is confirmed beside the baseline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from trainables.merits import BICUBIC, END, MERITS, PRETRAINED, QUALITY, TEST, Better
from tune_srgan.search.confirmation import Confirmed, difference
from tune_srgan.search.front import figure_of, front_of
from tune_srgan.store.records import TrialRecord
from tune_srgan.study.settings import Study

DISTORTION, PERCEPTION = "psnr", "spectrum"  # the plane's figures (Blau & Michaeli 2018)
JUDGED = (END, TEST[END])  # images by which confirmed configurations are compared


def front_data(study: Study, search: Sequence[TrialRecord]) -> dict[str, Any]:
    """Gather the trials that no other beats in both, and each one's way over the plane of distortion and perception."""
    return {
        "figure": figure_of(study).removeprefix(QUALITY),
        "numbers": [record.number for record in front_of(study, search)],
        "paths": {
            record.number: {
                image: [record.quality[image].get(DISTORTION), record.quality[image].get(PERCEPTION)]
                for image in (BICUBIC, PRETRAINED, END)
                if image in record.quality
            }
            for record in search
            if record.quality
        },
    }


def worth_data(sure: Sequence[Confirmed], baseline: TrialRecord | None) -> list[dict[str, Any]]:
    """Gather what the confirmed configurations' images are worth: each figure's median and ends over the further seeds.

    And how far each is from the baseline's on the same seeds, where those were trained.
    """
    against = next((one for one in sure if baseline is not None and one.record.number == baseline.number), None)
    return [
        {"number": one.record.number, "image": image, "figures": _figures(one, against, image)}
        for one in sure
        for image in JUDGED
        if any(image in seed.quality for seed in one.seeds)
    ]


def _figures(one: Confirmed, against: Confirmed | None, image: str) -> dict[str, Any]:
    beside = {} if against is None or against is one else against.figures(image)
    told: dict[str, Any] = {}
    for name, values in one.figures(image).items():
        known = [value for value in values if math.isfinite(value)]
        if known:
            apart = _apart(name, values, beside[name]) if name in beside else None
            ends = {"low": min(known), "high": max(known)}
            told[name] = {"median": statistics.median(known)} | ends | {"apart": apart}
    return told


def _apart(name: str, one: Sequence[float], other: Sequence[float]) -> dict[str, Any] | None:
    """The mean of paired differences, its interval, and what it says; None where there is no interval.

    Of a figure that is best at 0 its errors are compared.
    """
    merit = MERITS[name]
    if merit.better is Better.ZERO:
        one, other = [abs(value) for value in one], [abs(value) for value in other]
    found = difference(one, other)
    if found is None:
        return None
    mean, low, high = found
    better = (mean > 0) == (merit.better is Better.HIGHER)
    told = "a tie" if low <= 0 <= high else "better" if better else "worse"
    return {"mean": mean, "low": low, "high": high, "told": told}
