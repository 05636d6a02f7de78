"""What settings do to the balance and to the image: rank correlations over whole recorded trainings.

    python benchmarks/image_table.py [TABLE.parquet]

Of a table that `record_curves.py` wrote with figures of merit. Prints Spearman's rank correlations of each setting with
when the balance began, whether it was kept, and the final images' figures on a test set, with 95 % bootstrap intervals
over configurations. Saves image_table.json and ../docs/image_table.png.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import numpy as np
from matplotlib import pyplot
from numpy.typing import NDArray
from scipy.stats import rankdata

from trainables.balance import Verdict, judge
from trainables.merits import BICUBIC, END, MERITS, PRETRAINED, TEST
from tune_srgan.store.curves import Recorded, metadata_of, read_curves

HERE = Path(__file__).parent
SETTINGS = {
    "Training.g_pretrain_steps": "pretraining",
    "Training.Losses.adv_loss_beta": "weight",
    "Optimizers.optim_d_lr": "D's rate",
    "Schedulers.patience_g": "patience of G",
    "Schedulers.patience_d": "patience of D",
    "Schedulers.g_warmup_steps": "warm-up",
}
SHOWN = ("psnr", "spectrum", "improvement", "omission", "hallucination")
NAMES = {"spectrum": "error of the spectrum"}
RESAMPLES = 1000
Array = NDArray[np.float64]


def merits_of(recorded: Recorded, image: str) -> dict[str, float]:
    """Return the figures of merit of a training's images of the test set, by name; of `spectrum` its error."""
    merits = recorded.made["merits"].get(TEST[image], {})
    found = {NAMES.get(name, name): merits.get(name, math.nan) for name in SHOWN}
    return found | {NAMES["spectrum"]: abs(found[NAMES["spectrum"]])}


def outcomes(recorded: Recorded, verdict: Verdict) -> dict[str, float]:
    """Return what became of a training, by name; nan where there is nothing to say."""
    return {
        "first balance": math.nan if verdict.first is None else float(verdict.first),
        "kept": float(verdict.kept),
        "balanced share": 0.0 if verdict.share is None else verdict.share,
        **merits_of(recorded, END),
    }


def correlation(x: Array, y: Array) -> float:
    """Return Spearman's rank correlation of what is known of both; nan where one does not vary."""
    known = np.isfinite(x) & np.isfinite(y)
    ranks = rankdata(x[known]), rankdata(y[known])
    if len(ranks[0]) < 8 or min(float(rank.std()) for rank in ranks) == 0:
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])


def interval(measure: Callable[[NDArray[np.int64]], float], groups: list[list[int]]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a measure of rows; a configuration's seeds are drawn together."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        chosen = [row for group in draw.integers(len(groups), size=len(groups)) for row in groups[group]]
        found.append(measure(np.array(chosen)))
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(low), float(high)


def table(trainings: list[Recorded]) -> dict[str, Any]:
    """Return every correlation with its interval; medians of what was kept and what was not, beside references."""
    verdicts = [judge(one.readings, one.ruler) for one in trainings]
    rows = [outcomes(one, verdict) for one, verdict in zip(trainings, verdicts, strict=True)]
    by_number: dict[int, list[int]] = {}
    for row, one in enumerate(trainings):
        by_number.setdefault(one.number, []).append(row)
    groups = list(by_number.values())
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    settings = {name: np.array([float(one.values[key]) for one in trainings]) for key, name in SETTINGS.items()}

    def related(x: Array, y: Array) -> dict[str, float]:
        low, high = interval(lambda chosen: correlation(x[chosen], y[chosen]), groups)
        return {"rho": correlation(x, y), "low": low, "high": high}

    kept = columns["kept"] > 0
    final = {name: columns[name] for name in merits_of(trainings[0], END)}
    medians = {
        whose: {name: _middle(values[chosen]) for name, values in final.items()}
        for whose, chosen in (("kept", kept), ("not kept", ~kept))
    }
    for image in (BICUBIC, PRETRAINED):
        every = [merits_of(one, image) for one in trainings]
        medians[image] = {name: _middle(np.array([one[name] for one in every])) for name in final}
    return {
        "trainings": len(trainings),
        "configurations": len(groups),
        "kept": int(kept.sum()),
        "settings": {s: {o: related(x, y) for o, y in columns.items()} for s, x in settings.items()},
        "balanced share": {name: related(columns["balanced share"], values) for name, values in final.items()},
        "medians": medians,
    }


def _middle(values: Array) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


def draw(found: dict[str, Any], to: Path) -> None:
    """Draw the correlations as a grid of squares; what has 0 in its interval is pale."""
    settings, names = list(found["settings"]), list(next(iter(found["settings"].values())))
    figure, axis = pyplot.subplots(figsize=(10, 4.2))
    for i, setting in enumerate(settings):
        for j, name in enumerate(names):
            of = found["settings"][setting][name]
            told_apart = of["low"] > 0 or of["high"] < 0
            shade = mpl.colormaps["RdBu_r"](0.5 + of["rho"] / 2) if not math.isnan(of["rho"]) else "white"
            axis.add_patch(pyplot.Rectangle((j, i), 1, 1, color=shade, alpha=1.0 if told_apart else 0.25, lw=0))
            ink = "white" if told_apart and abs(of["rho"]) > 0.55 else "black"
            look: dict[str, Any] = {"weight": "bold" if told_apart else "normal", "color": ink, "fontsize": 9}
            axis.text(j + 0.5, i + 0.5, f"{of['rho']:+.2f}", ha="center", va="center", **look)
    axis.set(xlim=(0, len(names)), ylim=(len(settings), 0))
    axis.set_xticks(np.arange(len(names)) + 0.5, names, rotation=20, ha="right")
    axis.set_yticks(np.arange(len(settings)) + 0.5, settings)
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)
    title = (
        f"Spearman's rank correlation, {found['trainings']} whole trainings of {found['configurations']} configurations"
    )
    axis.set_title(f"{title}; bold: 0 lies outside the 95 % interval", fontsize=10)
    figure.savefig(to, dpi=130, bbox_inches="tight")


def main() -> None:
    """Print the table, save it, draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?", default=HERE / "curves_images.parquet")
    chosen = parser.parse_args()
    trainings = [one for one in read_curves(chosen.table) if one.made["end"] == "whole"]
    found = table(trainings) | {"machine": metadata_of(chosen.table)["machine"], "figures": [*SHOWN]}
    print(
        f"{found['trainings']} trainings of {found['configurations']} configurations; {found['kept']} kept a balance."
    )
    for setting, of in found["settings"].items():
        told = ", ".join(f"{name} {r['rho']:+.2f} [{r['low']:+.2f}, {r['high']:+.2f}]" for name, r in of.items())
        print(f"{setting}: {told}")
    share = found["balanced share"].items()
    told = ", ".join(f"{name} {r['rho']:+.2f} [{r['low']:+.2f}, {r['high']:+.2f}]" for name, r in share)
    print(f"balanced share: {told}")
    for whose, of in found["medians"].items():
        figures = ", ".join(f"{name} {value:.3f}" for name, value in of.items() if value is not None)
        print(f"medians, {whose}: {figures}")
    units = {name: MERITS[name].unit for name in SHOWN}
    (HERE / "image_table.json").write_text(json.dumps(found | {"units": units}, indent=1) + "\n", encoding="utf-8")
    draw(found, HERE.parent / "docs" / "image_table.png")


if __name__ == "__main__":
    main()
