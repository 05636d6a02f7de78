"""The figures of a report, drawn with matplotlib: as SVG whose colours are the page's own, or as PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainables.merits import BICUBIC, END, PRETRAINED, TRUTH
from trainables.outcome import End
from tune_srgan.report import palette
from tune_srgan.report.palette import RAMP, colour

Draw = Callable[[dict[str, Any]], Figure | None]
SPECTRA = {  # whose are drawn: colour and style
    TRUTH: ("ink", "-"),
    BICUBIC: ("muted", ":"),
    PRETRAINED: ("b", "--"),
    END: ("a", "-"),
}
WITHOUT_COST = {end for end in End if not end.has_cost}
MARKS = {  # a trial in the history: colour and shape by its end
    End.BALANCED: ("a", "o"),
    End.EXHAUSTED: ("muted", "x"),
    End.CAPPED: ("b", "v"),
    End.BUDGET: ("b", "^"),
    End.LOST: ("c", "s"),
}


def balance(data: dict[str, Any]) -> Figure | None:
    """Draw D(y), D(G(x)), rank and control of winner and baseline, the tolerance band, the phases shaded."""
    curves = [data["curves"][number] for number in data["curves"]]
    if not curves:
        return None
    figure, rows = pyplot.subplots(len(curves), 1, figsize=(9, 3.3 * len(curves)), sharex=True, squeeze=False)
    for axis, curve in zip(rows[:, 0], curves, strict=True):
        role = "winner" if data["answer"] and curve["number"] == data["answer"]["number"] else "baseline"
        _phases(axis, curve, shared=axis is not rows[0, 0])
        c, tolerance = curve["balance_point"], curve["tolerance"]
        axis.axhspan(c - tolerance, c + tolerance, color=colour("band"), lw=0, zorder=0.6)
        axis.axhline(c, color=colour("d"), lw=0.8, zorder=0.7)
        for name, label, shade, style in (
            ("p_y", "D(y)", "a", "-"),
            ("p_g", "D(G(x))", "b", "-"),
            ("rank", "rank of real over generated", "c", "--"),
            ("control", "control: alive", "muted", ":"),
        ):
            _line(axis, curve["steps"], curve[name], label, shade, style)
        hit = [step for step, good in zip(curve["steps"], curve["balanced"], strict=True) if good]
        axis.plot(hit, [0.03] * len(hit), "|", color=colour("d"), ms=7, label="balanced reading")
        axis.set(ylim=(0, 1.02), ylabel=f"trial {curve['number']}, {role}")
    rows[-1, 0].set_xlabel("step")
    rows[0, 0].legend(loc="upper left", bbox_to_anchor=(0, 1.25), ncols=5, frameon=False, fontsize=8.5)
    return figure


def parallel(data: dict[str, Any]) -> Figure | None:
    """Return all trials over the searched keys and their cost; censored ones dashed."""
    trials = [trial for trial in data["trials"] if trial["cost"] is not None or trial["end"] in WITHOUT_COST]
    if not trials:
        return None
    keys = list(data["space"])
    figure, axis = pyplot.subplots(figsize=(9, 4.6))
    costs = [trial["cost"] for trial in trials if trial["cost"] is not None]
    ranges = [_range(data, key) for key in keys] + [(min(costs, default=0), max(costs, default=1))]
    for at, (low, high) in enumerate(ranges):
        axis.axvline(at, color=colour("grid"), lw=1.2, zorder=1)
        head = data["names"][keys[at]] if at < len(keys) else f"cost, {data['unit']}"
        axis.text(at, 1.07, head, ha="center", fontsize=9, color=colour("ink"))
        for share, value in ((0, low), (1, high)):
            text = _text(math.exp(value) if at < len(keys) and keys[at] in data["log_keys"] else value)
            axis.text(at + 0.03, share, text, va="center", fontsize=7.5, color=colour("muted"))
    balanced = sorted(trial["cost"] for trial in trials if trial["end"] == End.BALANCED)
    for trial in sorted(trials, key=lambda trial: trial["end"] == End.BALANCED):
        places = [_share(data, key, trial["values"].get(key), ranges[at]) for at, key in enumerate(keys)]
        low, high = ranges[-1]
        places.append(math.nan if trial["cost"] is None else (trial["cost"] - low) / (high - low or 1))
        won = trial["end"] == End.BALANCED
        shade = f"r{min(RAMP - 1, RAMP * balanced.index(trial['cost']) // len(balanced))}" if won else "muted"
        shade = "bad" if trial["end"] in WITHOUT_COST else shade
        look: dict[str, Any] = {"lw": 1.5 if won else 0.9, "ls": "-" if won else "--", "alpha": 0.95 if won else 0.55}
        label = f"trial {trial['number']}: {trial['end']}"
        axis.plot(range(len(places)), places, color=colour(shade), gid=label, zorder=3 if won else 2, **look)
    for label, shade, style in (
        ("balanced, low cost", "r0", "-"),
        ("balanced, high cost", f"r{RAMP - 1}", "-"),
        ("censored", "muted", "--"),
        ("failed, diverged or ruined", "bad", "--"),
    ):
        axis.plot([], [], color=colour(shade), ls=style, label=label)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=4, frameon=False, fontsize=8.5)
    axis.set(xlim=(-0.15, len(keys) + 0.35), ylim=(-0.05, 1.12))
    axis.axis("off")
    return figure


def history(data: dict[str, Any]) -> Figure | None:
    """Return every trial's cost by number, by outcome, and the best so far."""
    trials = [trial for trial in data["history"] if trial["cost"] is not None]
    if not trials:
        return None
    figure, axis = pyplot.subplots(figsize=(9, 3.4))
    for end, (shade, mark) in MARKS.items():
        chosen = [trial for trial in trials if trial["end"] == end]
        label = f"{end} (censored)" if end.is_censored else end.value
        if chosen:
            places = [t["number"] for t in chosen], [t["cost"] for t in chosen]
            axis.plot(*places, mark, color=colour(shade), ms=5, label=label)
    best = [(trial["number"], trial["best"]) for trial in data["history"] if trial["best"] is not None]
    if best:
        axis.step(*zip(*best, strict=True), where="post", color=colour("d"), lw=1.6, label="best so far")
    axis.axhline(data["max_steps"], color=colour("grid"), lw=1, zorder=0)
    axis.set(xlabel="trial", ylabel=f"cost, {data['unit']}")
    axis.legend(frameon=False, fontsize=8.5, ncols=5, loc="upper left", bbox_to_anchor=(0, 1.16))
    return figure


def importance(data: dict[str, Any]) -> Figure | None:
    """Return what each key explains of a low cost, with bootstrap intervals."""
    keys = sorted(data["importance"].items(), key=lambda item: item[1][0])
    if not keys:
        return None
    figure, axis = pyplot.subplots(figsize=(9, 0.5 + 0.42 * len(keys)))
    shares = [value[0] for _, value in keys]
    axis.barh([data["names"][key] for key, _ in keys], shares, color=colour("a"), height=0.55, alpha=0.85)
    for at, (_, (_, low, high)) in enumerate(keys):
        axis.plot([low, high], [at, at], color=colour("ink"), lw=1.4)
    axis.set(
        xlabel="share of what parts the best from the rest (PED-ANOVA); line: 90 % bootstrap interval", xlim=(0, None)
    )
    return figure


def slices(data: dict[str, Any]) -> Figure | None:
    """Draw cost by each searched key; the line is the median of thirds, the band its bootstrap interval."""
    keys = list(data["space"])
    trials = [trial for trial in data["trials"] if trial["cost"] is not None]
    if not trials:
        return None
    columns = min(3, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(9, 2.7 * rows), sharey=True, squeeze=False)
    for axis, key in zip(axes.flat, keys, strict=False):
        for won, shade, mark in ((True, "a", "o"), (False, "muted", "x")):
            chosen = [
                t for t in trials if (t["end"] == End.BALANCED) == won and _number(t["values"].get(key)) is not None
            ]
            axis.plot([t["values"][key] for t in chosen], [t["cost"] for t in chosen], mark, ms=4, color=colour(shade))
        points = sorted((number, t["cost"]) for t in trials if (number := _number(t["values"].get(key))) is not None)
        places, middles, lows, highs = _thirds(points)
        if places:
            axis.plot(places, middles, color=colour("d"), lw=1.6)
            axis.fill_between(places, lows, highs, color=colour("d"), alpha=0.18, lw=0)
        if key in data["log_keys"]:
            axis.set_xscale("log")
        axis.set_xlabel(data["names"][key])
    for axis in axes[:, 0]:
        axis.set_ylabel(f"cost, {data['unit']}")
    for axis in list(axes.flat)[len(keys) :]:
        axis.axis("off")
    return figure


def schedules(data: dict[str, Any]) -> Figure | None:
    """Draw the winner's learning rates and adversarial weight; plateau cuts marked."""
    answer = data["answer"]
    if not answer or str(answer["number"]) not in data["curves"]:
        return None
    curve = data["curves"][str(answer["number"])]
    figure, (rates, weight) = pyplot.subplots(2, 1, figsize=(9, 4.4), sharex=True)
    for axis in (rates, weight):
        _phases(axis, curve)
    _line(rates, curve["steps"], curve["rate_g"], "rate of G", "a", "-")
    _line(rates, curve["steps"], curve["rate_d"], "rate of D", "b", "-")
    for which, shade in (("g", "a"), ("d", "b")):
        cuts = [count or 0 for count in curve[f"cuts_{which}"]]
        at = [step for step, before, now in zip(curve["steps"], [0, *cuts], cuts, strict=False) if now > before]
        values = [curve[f"rate_{which}"][curve["steps"].index(step)] for step in at]
        rates.plot(at, values, "v", color=colour(shade), ms=7, label=f"plateau cut of {which.upper()}")
    rates.set(yscale="log", ylabel="learning rate")
    _line(weight, curve["steps"], curve["weight"], "adversarial weight", "c", "-")
    weight.set(xlabel="step", ylabel="weight")
    rates.legend(frameon=False, fontsize=8.5, ncols=4, loc="upper left", bbox_to_anchor=(0, 1.36))
    return figure


def plane(data: dict[str, Any]) -> Figure | None:
    """Draw each trial's way from bicubic over pretraining to its end: PSNR against the spectrum's error.

    The perception–distortion plane (Blau & Michaeli 2018): to the right pixels are nearer to truth's, below its power
    above the low-resolution image's Nyquist frequency is.
    """
    paths = {
        number: [
            (path[image][0], abs(path[image][1])) for image in (BICUBIC, PRETRAINED, END) if _is_there(path, image)
        ]
        for number, path in data["front"]["paths"].items()
    }
    paths = {number: points for number, points in paths.items() if points}
    if not paths:
        return None
    winner, baseline = (None if one is None else str(one) for one in (_winner(data), data["baseline"]))
    figure, axis = pyplot.subplots(figsize=(9, 4.2))
    front = set(map(str, data["front"]["numbers"]))
    for number, points in sorted(paths.items(), key=lambda one: (one[0] == winner, one[0] == baseline)):
        shade = "a" if number == winner else "b" if number == baseline else "muted"
        strong = shade != "muted"
        role = "the winner" if number == winner else "the baseline"
        look: dict[str, Any] = {"lw": 1.8 if strong else 0.8, "alpha": 1.0 if strong else 0.5, "color": colour(shade)}
        label = f"trial {number}{f', {role}' if strong else ''}"
        axis.plot(*zip(*points, strict=True), "-", gid=label, label=label if strong else None, **look)
        axis.plot(*points[-1], "D" if number in front else "o", ms=6 if strong else 4.5, color=colour(shade), zorder=4)
        if len(points) > 2:
            axis.plot(*points[1], "s", ms=4, color=colour(shade), mfc="none", zorder=4)
    begin = next(iter(paths.values()))[0]
    axis.plot(*begin, "*", color=colour("ink"), ms=11, label="bicubic", zorder=5)
    for mark, text in (("s", "after pretraining"), ("o", "at the end"), ("D", "at the end, on the front")):
        axis.plot([], [], mark, color=colour("muted"), mfc="none" if mark == "s" else None, label=text)
    axis.set(xlabel="PSNR, dB (right: nearer to truth)", ylabel="error of the spectrum, dB (down: nearer)")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=8.5, ncols=6, loc="upper left", bbox_to_anchor=(0, 1.14))
    return figure


def spectrum(data: dict[str, Any]) -> Figure | None:
    """Draw the power spectra of truth and of the winner's held-out images: bicubic, after pretraining, at the end."""
    spectra = data["spectra"]
    if not spectra:
        return None
    figure, axis = pyplot.subplots(figsize=(9, 3.6))
    frequencies = spectra["frequencies"]
    for name, (shade, style) in SPECTRA.items():
        if name in spectra["power"]:
            _line(axis, frequencies, spectra["power"][name], name, shade, style)
    axis.axvline(spectra["nyquist"], color=colour("d"), lw=1, ls=":")
    place: dict[str, Any] = {"transform": axis.get_xaxis_transform(), "va": "top", "fontsize": 8}
    axis.text(spectra["nyquist"], 0.98, " Nyquist frequency of LR", color=colour("d"), **place)
    axis.set(xlabel="spatial frequency, cycles a pixel", ylabel="power, dB", xlim=(0, max(frequencies)))
    axis.legend(frameon=False, fontsize=8.5, ncols=4, loc="upper left", bbox_to_anchor=(0, 1.16))
    return figure


def _is_there(path: dict[str, list[float | None]], image: str) -> bool:
    return image in path and None not in path[image]


def _winner(data: dict[str, Any]) -> int | None:
    return data["answer"]["number"] if data["answer"] else None


FIGURES: dict[str, tuple[str, Draw]] = {
    "balance": ("D(y), D(G(x)), rank and control over the training of winner and baseline", balance),
    "parallel": ("All trials: a line each, over the searched settings to its cost", parallel),
    "history": ("Cost by trial, and the best so far", history),
    "importance": ("Importance of each searched setting", importance),
    "slices": ("Cost by each searched setting", slices),
    "plane": ("Distortion and perception: each trial's way from bicubic to its end", plane),
    "spectrum": ("Power spectra of the winner's images", spectrum),
    "schedules": ("Learning rates and adversarial weight of the winner", schedules),
}


def drawn(data: dict[str, Any], kind: Literal["svg", "png"]) -> dict[str, str | bytes]:
    """Draw every figure that there is something to draw for, by name: SVG as text, PNG as bytes."""
    images: dict[str, str | bytes] = {}
    for name, (title, draw) in FIGURES.items():
        with palette.drawing(kind, name):
            figure = draw(data)
            if figure is None:
                continue
            for axis in figure.axes:
                axis.spines[["top", "right"]].set_visible(False)
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, bbox_inches="tight", dpi=140, transparent=kind == "svg")
            pyplot.close(figure)
        images[name] = palette.themed(buffer.getvalue().decode(), title) if kind == "svg" else buffer.getvalue()
    return images


def _phases(axis: Axes, curve: dict[str, Any], shared: bool = False) -> None:
    """Warm-up, pretraining and ramp shaded, and named where there is room."""
    last = curve["steps"][-1] if curve["steps"] else 1
    begins = 0
    for name, end, shade in (
        ("warm-up", min(curve["warmup"], curve["pretraining"]), "shade2"),
        ("pretraining", curve["pretraining"], "shade1"),
        ("ramp", curve["game_on"], "shade2"),
        ("game", last, None),
    ):
        end = min(end, last)
        if end > begins:
            if shade is not None:
                axis.axvspan(begins, end, color=colour(shade), lw=0, zorder=0.5)
            if end - begins > 0.07 * last:
                middle = (begins + end) / 2
                place: dict[str, Any] = {"transform": axis.get_xaxis_transform(), "ha": "center", "va": "bottom"}
                axis.text(middle, 1.01, name, fontsize=7.5, color=colour("muted"), **place)
        begins = max(begins, end)
    axis.set_xlim(0, max(last, axis.get_xlim()[1] if shared else 0))


def _line(
    axis: Axes, steps: Sequence[float], values: Sequence[float | None], label: str, shade: str, style: str
) -> None:
    known = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
    if known:
        axis.plot(*zip(*known, strict=True), style, color=colour(shade), lw=1.5, label=label)


def _thirds(points: list[tuple[float, float]]) -> tuple[list[float], list[float], list[float], list[float]]:
    """Middles of three equal shares of the points: place, median cost, and its 90 % bootstrap interval."""
    import numpy as np

    if len(points) < 6:
        return [], [], [], []
    draw = np.random.default_rng(0)
    places, middles, lows, highs = [], [], [], []
    for share in np.array_split(np.array(points, float), 3):
        resampled = np.median(share[draw.integers(len(share), size=(300, len(share))), 1], axis=1)
        low, high = np.percentile(resampled, [5, 95])
        places.append(float(np.median(share[:, 0])))
        middles.append(float(np.median(share[:, 1])))
        lows.append(float(low))
        highs.append(float(high))
    return places, middles, lows, highs


def _range(data: dict[str, Any], key: str) -> tuple[float, float]:
    """A key's ends on its own scale; choices are numbered."""
    parameter = data["space"][key]
    if "choice" in parameter:
        return 0.0, max(1.0, len(parameter["choice"]) - 1.0)
    low, high = parameter.get("int") or parameter.get("float")
    return (math.log(low), math.log(high)) if key in data["log_keys"] else (float(low), float(high))


def _share(data: dict[str, Any], key: str, value: Any, ends: tuple[float, float]) -> float:
    """Where a value lies between its key's ends."""
    if value is None:
        return math.nan
    if "choice" in data["space"][key]:
        value = data["space"][key]["choice"].index(value)
    elif key in data["log_keys"]:
        value = math.log(value)
    return float((value - ends[0]) / (ends[1] - ends[0] or 1))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _text(value: float) -> str:
    return f"{value:.4g}"
