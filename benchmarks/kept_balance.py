"""Does the ruler foretell? Recorded trainings judged on their first three quarters, and what became of them.

    python benchmarks/kept_balance.py [--out kept_balance.json]

Of each table: how many trainings were balanced once and kept a balance; of those that had kept one by three quarters of
their steps, the share of balanced readings in the last quarter, and how many ended in ruin; the same of those that were
only balanced once; rank correlations of each searched setting with `steps_to_nash` and with whether it was kept; and
what the balance is worth: figures of merit at the end, of those that kept it, by the pace of their game since (the mean
of what the plateau schedulers left of the rates), and of those that did not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recorded import TABLES
from scipy.stats import spearmanr

from trainables.balance import judge, pace_of, reading_gap, ruin_of
from tune_srgan.store.curves import Recorded, metadata_of, read_curves

JUDGED = 0.75  # of the steps
PACES = (0.0, 0.1, math.inf)


def of_table(file: Path) -> dict[str, Any]:
    """All figures of a table."""
    every = list(read_curves(file))
    whole = [judge(one.readings, one.ruler) for one in every]
    early, later, ruined = [], [], []
    for one in every:
        count = int(JUDGED * len(one.readings))
        seen = one.readings[:count]
        early.append(judge(seen, replace(one.ruler, max_steps=int(seen[-1]["step"]))))
        later.append(statistics.mean(reading_gap(reading, one.ruler) == 0 for reading in one.readings[count:]))
        ruined.append(ruin_of(one.readings[-1], one.ruler) is not None)
    kept = [verdict.kept for verdict in early]
    first = [verdict.first is not None for verdict in early]
    costs = [verdict.earliest for verdict in whole]
    held = [index for index, verdict in enumerate(whole) if verdict.kept]
    paces = {index: _pace(every[index], costs[index]) for index in held}
    return {
        "machine": metadata_of(file)["machine"],
        "trainings": len(every),
        "balanced once": sum(verdict.first is not None for verdict in whole),
        "kept": len(held),
        "ruined": sum(ruined),
        "kept and ruined": sum(ruined[index] for index in held),
        "judged at three quarters": {
            "kept": _fate(kept, later, ruined),
            "balanced once": _fate(first, later, ruined),
        },
        "rank correlations": {
            key: {
                "with steps_to_nash": _rank([_number(every[i], key) for i in held], [costs[i] for i in held]),
                "with being kept": _rank([_number(one, key) for one in every], [float(v.kept) for v in whole]),
            }
            for key in every[0].values
        },
        "at the end, kept": _merits([every[index] for index in held]),
        "at the end, kept, by the pace of the game since": {
            f"{low:g} to {high:g}": _merits([every[index] for index in held if low <= paces[index] < high])
            for low, high in itertools.pairwise(PACES)
        },
        "at the end, played and not kept": _merits(
            [one for one, verdict in zip(every, whole, strict=True) if not verdict.kept and one.made["merits"]]
        ),
    }


def _pace(one: Recorded, since: float) -> float:
    return pace_of([reading for reading in one.readings if reading["step"] >= since], one.ruler) or 0.0


def _fate(chosen: Sequence[bool], later: Sequence[float], ruined: Sequence[bool]) -> dict[str, float]:
    """What became of some trainings in their last quarter."""
    shares = [share for share, taken in zip(later, chosen, strict=True) if taken]
    lost = sum(end for end, taken in zip(ruined, chosen, strict=True) if taken)
    return {"trainings": len(shares), "balanced later, median": statistics.median(shares), "ruined": lost}


def _number(one: Recorded, key: str) -> float:
    value = one.values[key]
    return float(value == "both") if isinstance(value, str) else float(value)


def _rank(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    found = spearmanr(one, other)
    return {"rho": float(found.statistic), "p": float(found.pvalue)}


def _merits(trainings: Sequence[Recorded]) -> dict[str, float]:
    """Medians of PSNR over bicubic and of the power above the LR Nyquist against the truth's, in dB."""
    ends = [one.made["merits"] for one in trainings if one.made["merits"]]
    over = [end["at the end"]["psnr"] - end["bicubic"]["psnr"] for end in ends]
    return {
        "trainings": len(trainings),
        "psnr over bicubic": statistics.median(over),
        "detail": statistics.median(end["at the end"]["detail"] for end in ends),
        "detail after pretraining": statistics.median(end["after pretraining"]["detail"] for end in ends),
        "exploitability": statistics.median(one.made["exploitability"] or math.nan for one in trainings),
    }


def main() -> None:
    """Judge, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, nargs="+", default=TABLES)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found = {file.stem: of_table(file) for file in chosen.tables}
    text = json.dumps(found, indent=1)
    print(text)
    if chosen.out:
        chosen.out.write_text(text)


if __name__ == "__main__":
    main()
