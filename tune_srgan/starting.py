"""How a study starts from a command: checked and driven here, or on the head of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.text import Text

from tune_srgan.answers import FAILED, INTERRUPTED, INVALID, err, out
from tune_srgan.cluster.addresses import refuse_dead
from tune_srgan.cluster.remote import do_on_head, only_here
from tune_srgan.console import print_warnings
from tune_srgan.store.ending import StudyEnd
from tune_srgan.store.fingerprint import OPTION
from tune_srgan.store.study_folder import StudyFolder, study_at
from tune_srgan.study.loading import load_study
from tune_srgan.study.settings import Study

if TYPE_CHECKING:
    from trainables.imagery import Imagery
    from tune_srgan.cluster.connection import Connection


def on_head(address: str, kind: str, name: str, arguments: list[str], study: Study | None = None) -> NoReturn:
    """Do it on the head of the cluster whose dashboard is at `address`; ends with its exit code."""
    try:
        code = do_on_head(address, kind, name, arguments, err, study)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if code == INVALID and study is not None:
        print_warnings(only_here(study), err)
    raise typer.Exit(code)


def flags(take_over: bool, accept_imagery: bool) -> list[str]:
    """Return the options with which a study goes on, as they are typed."""
    return ["--take-over"] * take_over + [OPTION] * accept_imagery


def run_file(
    file: Path,
    trials: int | None,
    concurrent: int | None,
    address: str | None,
    storage: str | None,
    connected: Connection | None = None,
    take_over: bool = False,
    accept_imagery: bool = False,
) -> None:
    """Run a study's file, or go on with it: checked, then driven."""
    from tune_srgan.check import check_parts

    study, warnings = load_study(file)
    study = study.changed(trials, concurrent, storage)
    if connected is None:
        refuse_dead(address)
    imagery = check_parts(study, str(file), study.storage)
    print_warnings([*warnings, *imagery.cautions()], err)
    drive(study, study_at(f"{study.storage}/{study.study}"), imagery, address, connected, take_over, accept_imagery)


def drive(
    study: Study,
    folder: StudyFolder,
    imagery: Imagery,
    address: str | None,
    connected: Connection | None = None,
    take_over: bool = False,
    accept_imagery: bool = False,
) -> None:
    """Run a study that was found valid; say how to go on where it was interrupted, and why where nothing came of it."""
    from tune_srgan.run.driver import Driver

    driven = Driver(study, folder, out, err).drive(imagery, address, connected, take_over, accept_imagery)
    if driven.ending.why is StudyEnd.INTERRUPTED:
        said = "\nInterrupted. Everything up to the last reading of each trial is kept. Go on with:"
        out.print(said, style="bold yellow")
        out.print(Text(f"  python tune.py resume {folder.address}"), soft_wrap=True)
        raise typer.Exit(INTERRUPTED)
    if why := driven.why_failed():
        if driven.ending.why is StudyEnd.FAULT:
            why += f". Mend it, and go on with: python tune.py resume {folder.address}"
        err.print(Text.assemble(("error ", "bold red"), why), soft_wrap=True)
        raise typer.Exit(FAILED)
