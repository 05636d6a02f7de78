"""What images are worth, as a report shows it: the front, the plane, and confirmed configurations beside the baseline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from trainables.merits import BICUBIC, END, MERITS, PRETRAINED, QUALITY, TEST
from tune_srgan.search.confirmation import Confirmed, difference
from tune_srgan.search.front import figure_of, front_of
from tune_srgan.store.records import TrialRecord
from tune_srgan.study.settings import Study

DISTORTION, PERCEPTION = "psnr", "spectrum"  # the plane's figures (Blau & Michaeli 2018)
JUDGED = (END, TEST[END])  # images by which confirmed configurations are compared


def front_data(study: Study, search: Sequence[TrialRecord]) -> dict[str, Any]:
    """Gather the trials that no other beats in both, and every trial's way over the plane of distortion and perception."""
    name = figure_of(study).removeprefix(QUALITY)
    return {
        "figure": name,
        "unit": MERITS[name].unit,
        "numbers": [record.number for record in front_of(study, search)],
        "paths": {
            record.number: {
                image: [figures.get(DISTORTION), figures.get(PERCEPTION)]
                for image, figures in record.quality.items()
                if image in (BICUBIC, PRETRAINED, END)
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
    worth = []
    for one in sure:
        for image in dict.fromkeys(image for seed in one.seeds for image in seed.quality if image in JUDGED):
            figures, beside = one.figures(image), against.figures(image) if against not in (None, one) else {}
            told = {}
            for name, values in figures.items():
                known = [value for value in values if math.isfinite(value)]
                if not known:
                    continue
                apart = difference(values, beside[name]) if name in beside else None
                told[name] = {
                    "median": statistics.median(known),
                    "low": min(known),
                    "high": max(known),
                    "difference": apart,
                }
            worth.append({"number": one.record.number, "image": image, "figures": told})
    return worth
