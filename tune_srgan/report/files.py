"""A report as a file: one self-contained HTML page, Markdown, or JSON. Knows nothing of records."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from trainables.errors import InvalidInput, Problem
from trainables.merits import MERITS
from tune_srgan.console import setting
from tune_srgan.report import figures, palette, words
from tune_srgan.store.layout import StudyFiles
from tune_srgan.store.objects import write_atomically
from tune_srgan.store.study_folder import StudyFolder


class Format(StrEnum):
    """The formats of a report, each by the ending of its file."""

    HTML = "html"
    MARKDOWN = "md"
    JSON = "json"


FILES = {
    Format.HTML: StudyFiles.REPORT,
    Format.MARKDOWN: StudyFiles.REPORT_MARKDOWN,
    Format.JSON: StudyFiles.REPORT_DATA,
}
TEMPLATE = Path(__file__).with_name("page.html.j2")
TEXTS = ("by", "ended")
REFRESH_S = 20


def write(data: dict[str, Any], folder: Path, kind: Format, watched: bool = False) -> Path:
    """Write a report into a folder; returns its file. `watched`: a page that a browser loads again while it changes."""
    content = {
        Format.HTML: lambda: html(data, watched, os.path.relpath(data["folder"], folder)),
        Format.MARKDOWN: lambda: markdown(data),
        Format.JSON: lambda: json.dumps(data, indent=1, allow_nan=False),
    }
    file = folder / FILES[kind].name
    write_atomically(file, content[kind]())
    return file


def format_named(name: str) -> Format:
    """Return the format that a person names; one clear error where there is none of that name."""
    try:
        return Format(name)
    except ValueError:
        fix = " The page prints: a browser makes a PDF of it." if name == "pdf" else ""
        expected = f"one of {', '.join(Format)}.{fix}"
        raise InvalidInput([Problem("--format", "", repr(name), expected)]) from None


def write_where_possible(
    data: dict[str, Any], folder: StudyFolder, to: Path | None, kind: Format, watched: bool = False
) -> Path:
    """Write a report into a study's folder, or into `to`; one clear error where it cannot be written."""
    try:
        written = write(data, to or folder.path, kind, watched)
    except OSError as error:
        found = f"a folder that cannot be written ({error.strerror or error})"
        fix = "Name another folder with --out."
        raise InvalidInput([Problem(str(to or folder.path), "--out", found, "a writable folder", fix)]) from None
    if to is None:
        with contextlib.suppress(OSError):  # who may only read the store has it here alone
            folder.send()
    return written


def html(data: dict[str, Any], watched: bool = False, home: str = ".") -> str:
    """Render the page; every text in it is escaped. `home`: the study's folder as seen from the page's."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    drawn = dict.fromkeys(figures.FIGURES, "") | figures.drawn(data, "svg")
    heads = [
        "trial",
        *data["names"].values(),
        *TEXTS,
        "cost",
        "first",
        "share",
        "gap",
        "exploitability",
        "steps",
        "shared",
    ]
    return template.render(
        r=data,
        figures=drawn,
        words=words,
        merits=MERITS,
        heads=heads,
        texts=("trial", *TEXTS),
        refresh=REFRESH_S if watched and data["running"] else None,
        light=palette.variables(dark=False),
        dark=palette.variables(dark=True),
        show=setting,
        home="" if home == "." else f"{quote(home)}/",
    )


def markdown(data: dict[str, Any]) -> str:
    """Write the answer, the tables and the figures, these as data in the text."""
    answer, state = words.answer_of(data), words.state_text(data)
    lines = [
        f"# {data['study']}: sweep report",
        "",
        f"{data['made']}{f', {state}' if state else ''}. {words.counts_text(data)}.",
        "",
        f"**{answer.headline}**",
        "",
        *(f"- `{key}`: {value}" for key, value in answer.settings.items()),
        "",
        *answer.details,
        "",
    ]
    for name, image in figures.drawn(data, "png").items():
        title = figures.FIGURES[name][0]
        assert isinstance(image, bytes)
        lines += [f"## {title}", "", f"![{title}](data:image/png;base64,{base64.b64encode(image).decode()})", ""]
    lines += [
        *words.confirmation_texts(data),
        *words.worth_texts(data),
        *words.front_texts(data),
        *words.patience_texts(data),
        "",
        "## All trials",
        "",
        *_rows(data),
        "",
        "## The account",
        "",
        words.account_text(data),
        words.pace_text(data),
        "",
    ]
    return "\n".join([*lines, *words.ruler_texts(data), *data["limits"], ""])


def _rows(data: dict[str, Any]) -> list[str]:
    """The table of all trials in Markdown."""
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in _cells(data)]
    return [rows[0], "|" + "---|" * len(_cells(data)[0]), *rows[1:]]


def _cells(data: dict[str, Any]) -> list[list[str]]:
    rows = [["trial", *data["names"].values(), "by", "ended", "cost", "gap", "expl."]]
    for trial in data["trials"]:
        values = [setting(trial["values"].get(key)) for key in data["space"]]
        measured = [setting(trial[key]) for key in ("cost", "gap", "exploitability")]
        rows.append([str(trial["number"]), *values, trial["by"], trial["end"], *measured])
    return rows
