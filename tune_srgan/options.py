"""The options and arguments that several commands share."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated

import typer

from tune_srgan.store.fingerprint import OPTION

STORAGE = "TUNE_SRGAN_STORAGE"  # in the environment: where this machine keeps its studies
Storage = Annotated[
    str | None, typer.Option(envvar=STORAGE, help="Folder or URL of studies; default: the study file's, else runs.")
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to join, or its dashboard (http://…) to do it there; `local` starts one here. Default: "
        "RAY_ADDRESS, one that runs on this machine, else local."
    ),
]
Dashboard = Annotated[
    str | None,
    typer.Option("--address", help="Do it on the head of a Ray cluster: its dashboard, like http://127.0.0.1:8265."),
]
Trials = Annotated[int | None, typer.Option(min=1, help="Trials in all, instead of the study file's.")]
Concurrent = Annotated[
    int | None, typer.Option(min=1, help="Trials at once; needed where a cluster does not say how far it grows.")
]
TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Go on with what a process drove that was lost with its machine.")
]
AcceptImagery = Annotated[
    bool, typer.Option(OPTION, help="Go on though the imagery has changed: the report says from which trial on.")
]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study's folder, URL, file or name.")]
Formats = Annotated[list[str], typer.Option("--format", help="Of the report: html, md or json; may be given again.")]


class Other(StrEnum):
    """A project that a winner can be written for."""

    OPENSR_SRGAN = "opensr-srgan"


class Matched(StrEnum):
    """What of an image's distribution is given to what is made of it."""

    HISTOGRAM = "histogram"
    MOMENTS = "moments"


class Where(StrEnum):
    """What an image is super-resolved on."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


Part = Annotated[
    str | None, typer.Option("--window", metavar="COLUMN,ROW,WIDTH,HEIGHT", help="A part of each image, in its pixels.")
]
Match = Annotated[Matched | None, typer.Option(help="Make the distribution in each band that of the image.")]
Device = Annotated[Where, typer.Option(help="Where it is computed; default: a GPU where there is one.")]
Chosen = Annotated[
    int | None, typer.Option("--trial", help="Another trial than the winner, by its number; one of the front, say.")
]
For = Annotated[
    Other | None, typer.Option("--for", help="Write a file and a checkpoint of that project into this folder.")
]


def named() -> str | None:
    """Return where the environment says that this machine keeps its studies."""
    return os.environ.get(STORAGE)
