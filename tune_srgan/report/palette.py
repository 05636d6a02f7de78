"""The report's colours: names that the page's style sheet gives a value to, light or dark, and what a PNG shows."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Literal

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

RAMP = 8  # colours from the lowest cost to the highest
_LIGHT_RAMP = ("#0b4f8a", "#2b6ea6", "#4c88a8", "#6f9a8e", "#8f9d5f", "#a3882f", "#a8661c", "#9a3f16")
_DARK_RAMP = ("#7cc4ff", "#86c8e6", "#93cbbd", "#a9cd8f", "#c6c969", "#dcb95a", "#eaa25a", "#f48a63")
# A colour's name in the style sheet: what stands for it while matplotlib draws an SVG, and its light and dark values.
COLOURS = {
    "ink": ("#010101", "#1d2430", "#e8ecf3"),
    "muted": ("#020202", "#596273", "#a3adbd"),
    "grid": ("#030303", "#d9dee7", "#333c4a"),
    "paper": ("#040404", "#ffffff", "#12161d"),
    "a": ("#050505", "#1667b7", "#6db1f2"),
    "b": ("#060606", "#b4460f", "#f0935a"),
    "c": ("#070707", "#5b3fb0", "#b39df3"),
    "d": ("#080808", "#0f7a55", "#57c795"),
    "bad": ("#090909", "#b3261e", "#ff8f86"),
    "shade1": ("#0a0a0a", "#eef1f6", "#1a2029"),
    "shade2": ("#0b0b0b", "#e3e8f0", "#222a35"),
    "band": ("#0c0c0c", "#cfe6d8", "#1d3b2f"),
    **{f"r{at}": (f"#0d0d{at:02x}", *both) for at, both in enumerate(zip(_LIGHT_RAMP, _DARK_RAMP, strict=True))},
}
_kind: ContextVar[str] = ContextVar("kind", default="svg")


def colour(name: str) -> str:
    """Return what matplotlib is told to draw a colour with."""
    return COLOURS[name][0 if _kind.get() == "svg" else 1]


def variables(dark: bool) -> str:
    """Return the colours as a style sheet's variables."""
    return " ".join(f"--{name}: {values[2 if dark else 1]};" for name, values in COLOURS.items())


@contextlib.contextmanager
def drawing(kind: Literal["svg", "png"], name: str) -> Iterator[None]:
    """Draw a figure of that name in this context: text stays text, and an SVG's colours can be themed."""
    token = _kind.set(kind)
    try:
        ink, muted = colour("ink"), colour("muted")
        style: Any = {  # its type names every key there is
            **dict.fromkeys(("text.color", "axes.labelcolor", "legend.labelcolor"), ink),
            **dict.fromkeys(("xtick.color", "ytick.color"), muted),
            "axes.edgecolor": colour("grid"),
            "axes.facecolor": "none",
            "figure.facecolor": colour("paper"),
            "font.family": "sans-serif",
            "font.size": 9.5,
            "svg.fonttype": "none",
            "svg.hashsalt": name,
        }
        with pyplot.rc_context(style):
            yield
    finally:
        _kind.reset(token)


def themed(svg: str, title: str) -> str:
    """Take an SVG's own size and colours out, put the page's in."""
    svg = svg[svg.index("<svg") :]
    for name, (stand_in, *_) in COLOURS.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    svg = re.sub(r'<svg ([^>]*?)height="[\d.]+pt"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)width="[\d.]+pt"', r"<svg \1", svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'font: ([\d.]+)px [^;"]*', r"font: \1px system-ui, sans-serif", svg)
    svg = re.sub(r'<g id="(trial \d+: [\w ]+)">', r"<g><title>\1</title>", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
