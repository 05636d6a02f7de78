"""A review as a file: one self-contained HTML page, Markdown, PDF or JSON. Knows nothing of records."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import jinja2
import matplotlib

from tune_srgan import figures
from tune_srgan.live import duration
from tune_srgan.review import account_text, missed_text, value_text
from tune_srgan.storage import write_atomically

Format = Literal["html", "md", "pdf", "json"]
TEMPLATE = Path(__file__).with_name("report.html.j2")
DARK = {
    "ink": "#e8ecf3",
    "muted": "#a3adbd",
    "grid": "#333c4a",
    "paper": "#12161d",
    "a": "#6db1f2",
    "b": "#f0935a",
    "c": "#b39df3",
    "d": "#57c795",
    "bad": "#ff8f86",
    "shade1": "#1a2029",
    "shade2": "#222a35",
    "band": "#1d3b2f",
    **{
        f"r{index}": colour
        for index, colour in enumerate(
            ("#7cc4ff", "#86c8e6", "#93cbbd", "#a9cd8f", "#c6c969", "#dcb95a", "#eaa25a", "#f48a63")
        )
    },
}
TEXTS = ("by", "ended")
REFRESH_S = 20


def write(review: dict[str, Any], to: Path, kind: Format, watched: bool = False) -> None:
    """Write a review; `watched`: a page that a browser loads again by itself while the study runs."""
    if kind == "json":
        write_atomically(to, json.dumps(review, indent=1, allow_nan=False))
    elif kind == "html":
        write_atomically(to, html(review, watched))
    elif kind == "md":
        write_atomically(to, markdown(review))
    else:
        write_atomically(to, pdf(review))


def html(review: dict[str, Any], watched: bool = False) -> str:
    """The page; every text in it is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    light = {name: shown for name, (_, shown) in figures.COLOURS.items()}
    drawn = dict.fromkeys(figures.FIGURES, "") | figures.drawn(review, "svg")
    heads = ["trial", *review["names"].values(), *TEXTS, "cost", "gap", "exploitability", "steps", "shared"]
    return template.render(
        r=review,
        figures=drawn,
        counts=counts(review),
        heads=heads,
        texts=("trial", *TEXTS),
        patience=patience(review),
        account=account_text(review["account"]),
        missed=[text for one in review["confirmed"] if (text := missed_text(one))],
        refresh=REFRESH_S if watched and review["running"] else None,
        light=_variables(light),
        dark=_variables(DARK),
        show=value_text,
        clock=duration,
        milliseconds=_milliseconds,
    )


def markdown(review: dict[str, Any]) -> str:
    """The answer, the tables and the figures, these as data in the text."""
    lines = [
        f"# {review['study']}: sweep report",
        "",
        f"{review['made']}. {_told(counts(review))}.",
        "",
        *answer(review),
        "",
    ]
    for name, image in figures.drawn(review, "png").items():
        title = figures.FIGURES[name][0]
        assert isinstance(image, bytes)
        lines += [f"## {title}", "", f"![{title}](data:image/png;base64,{base64.b64encode(image).decode()})", ""]
    lines += [
        *map(missed_text, review["confirmed"]),
        *patience(review),
        "",
        "## All trials",
        "",
        *_rows(review),
        "",
        "## The account",
        "",
        account_text(review["account"]),
        "",
    ]
    return "\n".join([*lines, *review["limits"], ""])


def pdf(review: dict[str, Any]) -> bytes:
    """The same for paper."""
    from fpdf import FPDF

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    page = FPDF(format="A4")
    page.add_font("DejaVu", "", str(fonts / "DejaVuSans.ttf"))
    page.add_font("DejaVu", "B", str(fonts / "DejaVuSans-Bold.ttf"))
    page.add_page()

    def text(line: str, size: float = 9.5, bold: bool = False) -> None:
        page.set_font("DejaVu", "B" if bold else "", size)
        page.multi_cell(0, size * 0.55, line, new_x="LMARGIN", new_y="NEXT")
        page.ln(1.5)

    text(f"{review['study']}: sweep report", 16, bold=True)
    text(f"{review['made']}. {_told(counts(review))}.")
    for line in answer(review):
        text(line.replace("**", "").replace("`", ""))
    for name, image in figures.drawn(review, "png").items():
        assert isinstance(image, bytes)
        text(figures.FIGURES[name][0], 11, bold=True)
        page.image(io.BytesIO(image), w=page.epw)
        page.ln(3)
    for sheet in review["images"]:
        text(f"Trial {sheet['number']}: " + " | ".join(sheet["columns"]), 11, bold=True)
        page.image(io.BytesIO(base64.b64decode(sheet["png"])), w=page.epw)
        page.ln(3)
    for line in (
        *filter(None, map(missed_text, review["confirmed"])),
        *patience(review),
        account_text(review["account"]),
    ):
        text(line)
    text("All trials", 11, bold=True)
    page.set_font("DejaVu", "", 6.5)
    with page.table(text_align="RIGHT", line_height=4) as table:
        for row in _cells(review):
            table.row(row)
    for line in review["limits"]:
        text(line)
    return bytes(page.output())


def answer(review: dict[str, Any]) -> list[str]:
    """The winner and what it saves, a line each, in Markdown."""
    found, unit = review["answer"], review["unit"]
    if found is None:
        nearest = review["nearest"]
        told = ["**No trial has reached the balance.**"]
        if nearest:
            told.append(f"Nearest: trial {nearest['number']}; the condition in its way: {nearest['condition']}.")
        return told
    lines = [f"**Trial {found['number']} reaches the balance at step {found['steps']} of {review['max_steps']}.**", ""]
    lines += [f"- `{key}`: {value_text(value)}" for key, value in found["values"].items()]
    if found["seeds"]:
        by_seed = ", ".join("never" if cost is None else f"{cost:g}" for cost in found["seeds"])
        median = "never" if found["median"] is None else f"{found['median']:g} {unit}"
        lines += ["", f"On {len(found['seeds'])} further seeds: {by_seed}; median {median}."]
    baseline, random = found["baseline"], found["random"]
    if baseline and baseline["number"] != found["number"]:
        took = (
            f"{baseline['cost']:g} {unit}"
            if baseline["end"] == "balanced"
            else f"not in {baseline['trained']} steps ({baseline['end']})"
            if baseline["trained"]
            else "never started, since it could not win any more"
        )
        lines.append(f"The baseline, trial {baseline['number']}: {took}.")
    if random["count"] and random["median"] is not None:
        reached = f"Of {random['count']} random configurations {random['reached']} reached it"
        lines.append(f"{reached}; their median cost is {random['median']:.0f} {unit}.")
    return lines


def patience(review: dict[str, Any]) -> list[str]:
    """What the patience of both plateau schedulers did in the winner's training."""
    found = review["answer"]
    curve: dict[str, Any] = review["curves"].get(str(found["number"]), {}) if found else {}
    lines = []
    for which in "gd" if curve else "":
        cuts = int(max((count or 0 for count in curve[f"cuts_{which}"]), default=0))
        patience_of, name = curve[f"patience_{which}"], which.upper()
        times = "once" if cuts == 1 else f"{cuts} times"
        acted = f"cut {name}'s rate {times}" if cuts else "never acted: any longer one would have done the same"
        lines.append(f"A patience of {patience_of} validations {acted}.")
    return lines


def counts(review: dict[str, Any]) -> list[tuple[str, int]]:
    """How many trials ended in each way."""
    return sorted(Counter(trial["end"] for trial in review["trials"]).items())


def _rows(review: dict[str, Any]) -> list[str]:
    """The table of all trials in Markdown."""
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in _cells(review)]
    return [rows[0], "|" + "---|" * len(_cells(review)[0]), *rows[1:]]


def _cells(review: dict[str, Any]) -> list[list[str]]:
    found = [["trial", *review["names"].values(), "by", "ended", "cost", "gap", "expl."]]
    for trial in review["trials"]:
        values = [value_text(trial["values"].get(key)) for key in review["space"]]
        figures_of = [value_text(trial[key]) for key in ("cost", "gap", "exploitability")]
        found.append([str(trial["number"]), *values, trial["by"], trial["end"], *figures_of])
    return found


def _told(found: list[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {end}" for end, count in found) or "no trial yet"


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1e3:.3g} ms"


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
