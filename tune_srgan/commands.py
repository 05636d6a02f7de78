"""The commands: read what a person wants, call the service, answer. Heavy libraries load where they are used."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from trainables.errors import InvalidInput, Problem
from tune_srgan.answers import FAILED, INTERRUPTED, answers_problems, err, out
from tune_srgan.cluster.addresses import is_dashboard, refuse_dead
from tune_srgan.cluster.remote import GIVEN_STUDY, RUN, refuse_relative, there
from tune_srgan.console import duration, print_warnings
from tune_srgan.interrupt import end_soon_after_ctrl_c, leave
from tune_srgan.options import (
    AcceptImagery,
    Address,
    Chosen,
    Concurrent,
    Dashboard,
    Device,
    For,
    Formats,
    Match,
    Part,
    Storage,
    StudyName,
    TakeOver,
    Trials,
    Where,
    named,
)
from tune_srgan.starting import drive, flags, on_head, run_file
from tune_srgan.store.records import StudyRecords, read_records
from tune_srgan.store.studies import RUNS, find_study, study_in
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.study.loading import load_study
from tune_srgan.study.settings import Study

if TYPE_CHECKING:
    pass

HERE = Path(__file__).resolve().parent
# beside the packages in a checkout, within this one where the project is installed from a wheel
SPACES = next(filter(Path.is_dir, (HERE / "search_spaces", HERE.parent / "search_spaces")), HERE / "search_spaces")
QUICKSTART, FULL = SPACES / "quickstart.yaml", SPACES / "srgan.yaml"

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find the training settings with which an SRGAN reaches the balance of generator and discriminator soonest. "
    "Without a command: the quickstart study.",
)


@app.callback(invoke_without_command=True)
@answers_problems
def quickstart(context: typer.Context) -> None:
    """Run the quickstart where no command is given; on a cluster with GPUs, the full-size study."""
    if context.invoked_subcommand is not None:
        return
    from tune_srgan.cluster import connection, nodes

    connected = connection.connect(None)
    file = FULL if connected.joined is not None and nodes.has_gpus() else QUICKSTART
    out.print(f"No study named: running {_shown(file)}.", highlight=False)
    run_file(file, None, None, None, named(), connected=connected)


@app.command()
@answers_problems
def run(
    study: Annotated[Path, typer.Argument(help="A study file.")],
    trials: Trials = None,
    concurrent: Concurrent = None,
    address: Address = None,
    storage: Storage = None,
    take_over: TakeOver = False,
    accept_imagery: AcceptImagery = False,
) -> None:
    """Run a study, or go on with it."""
    if is_dashboard(address):
        submit(study, str(address), trials, concurrent, storage, take_over, accept_imagery)
    run_file(study, trials, concurrent, address, storage, take_over=take_over, accept_imagery=accept_imagery)


@app.command()
@answers_problems
def submit(
    study: Annotated[Path, typer.Argument(help="A study file.")],
    address: Annotated[str, typer.Option(help="The cluster's dashboard.")] = "http://127.0.0.1:8265",
    trials: Trials = None,
    concurrent: Concurrent = None,
    storage: Storage = None,
    take_over: TakeOver = False,
    accept_imagery: AcceptImagery = False,
) -> None:
    """Run a study on the head of a Ray cluster, as a job, and follow it; the job goes on without this shell."""
    loaded, warnings = load_study(study)
    loaded = loaded.changed(trials, concurrent, storage)
    refuse_relative(str(study), loaded.storage)
    print_warnings(warnings, err)
    # the head may have a place of its own for studies
    arguments = [RUN, GIVEN_STUDY, "--storage", loaded.storage, *flags(take_over, accept_imagery)]
    on_head(address, RUN, loaded.study, arguments, loaded)


@app.command()
@answers_problems
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A study's file, or a training's.")],
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Train a few real steps on this machine's GPU: what a trial takes of it.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join, whose nodes are to see storage and imagery, too.")
    ] = None,
    storage: Storage = None,
) -> None:
    """Validate a study, or a training, and its imagery, and say what it may take. Starts nothing."""
    from tune_srgan.check import check_file

    check_file(file, storage, gpu, address, out, err)


@app.command()
@answers_problems
def resume(
    study: StudyName,
    address: Address = None,
    storage: Storage = None,
    take_over: TakeOver = False,
    accept_imagery: AcceptImagery = False,
    extend: Annotated[
        bool, typer.Option("--extend", help="Widen the ranges on whose edge the winner lies, with more trials.")
    ] = False,
) -> None:
    """Go on with a study that was interrupted: unfinished trials from their checkpoints, then the rest."""
    from tune_srgan.check import check_parts
    from tune_srgan.run.extending import extend_study

    if is_dashboard(address):
        options = [*flags(take_over, accept_imagery), *["--extend"] * extend]
        on_head(str(address), RUN, *there("resume", study, storage or RUNS, *options))
    refuse_dead(address)
    folder = find_study(study, storage)
    loaded = extend_study(folder, out) if extend else study_in(folder)
    imagery = check_parts(loaded, str(folder.study_file), folder.beside)
    drive(loaded, folder, imagery, address, take_over=take_over, accept_imagery=accept_imagery)


@app.command()
@answers_problems
def status(
    study: StudyName,
    storage: Storage = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    address: Dashboard = None,
) -> None:
    """Say where a study stands, from its records alone."""
    from tune_srgan.report.status import print_status, standing

    if address:
        on_head(address, "status", *there("status", study, storage or RUNS, *(["--json"] * as_json)))
    folder, loaded, records = _found(study, storage)
    if as_json:
        sys.stdout.write(json.dumps(standing(loaded, folder, records), indent=1) + "\n")
    else:
        print_status(loaded, folder, records, out)


@app.command()
@answers_problems
def report(
    study: StudyName,
    storage: Storage = None,
    formats: Formats = ["html"],  # noqa: B006  # typer copies it
    watch: Annotated[bool, typer.Option("--watch", help="Write it again while the study runs.")] = False,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="Make the study's report on Weights & Biases instead, or update it.")
    ] = False,
    to: Annotated[Path | None, typer.Option("--out", help="Folder for the report; default: the study's.")] = None,
    address: Dashboard = None,
) -> None:
    """Print the summary of a study; write its report, best.yaml and best.pt."""
    from tune_srgan.report import words
    from tune_srgan.report.data import report_data
    from tune_srgan.report.files import format_named
    from tune_srgan.report.watch import report as write_report
    from tune_srgan.tracking.wandb_report import publish_report

    if wandb:
        _refuse_beside("--wandb", {"--watch": watch, "--format": formats != ["html"], "--out": to})
    if address:
        _refuse_beside("--address", {"--out": to})
        wanted = [option for kind in formats for option in ("--format", kind)]
        wanted += ["--watch"] * watch + ["--wandb"] * wandb
        on_head(address, "report", *there("report", study, storage or RUNS, *wanted))
    kinds = [format_named(name) for name in formats]
    folder, loaded, records = _found(study, storage)
    if wandb:
        published = publish_report(loaded, folder, words.paragraphs(report_data(loaded, folder, records)))
        out.print(Text(f"Weights & Biases: {published}"), soft_wrap=True)
    else:
        write_report(loaded, folder, records, kinds, out, to, watch)


@app.command()
@answers_problems
def dashboard(
    study: StudyName,
    storage: Storage = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="On this machine.")] = 8080,
) -> None:
    """Serve optuna-dashboard over a study on this machine, until Ctrl-C."""
    folder = find_study(study, storage)
    from tune_srgan.report import dashboard as served

    served.check(port)
    out.print(Text(f"http://127.0.0.1:{port}/dashboard/  (Ctrl-C ends it)"), soft_wrap=True)
    served.serve(study_in(folder), folder, port)


@app.command()
@answers_problems
def best(
    study: StudyName, storage: Storage = None, address: Dashboard = None, project: For = None, trial: Chosen = None
) -> None:
    """Print the winner's complete training configuration, or another trial's, or write it for opensr-srgan."""
    from tune_srgan.report.best import best_configuration, trial_of, write_best
    from tune_srgan.report.handover import write_for_opensr

    if address:
        options = [] if trial is None else ["--trial", str(trial)]
        on_head(address, "best", *there("best", study, storage or RUNS, *options))
    folder, loaded, records = _found(study, storage)
    winner = write_best(loaded, folder, records)
    if trial is not None:
        winner = trial_of(folder, records, trial)
    if winner is None:
        err.print(f"No trial of {folder.path.name} kept the balance.", style="yellow")
        raise typer.Exit(FAILED)
    if project is None:
        sys.stdout.write(best_configuration(loaded, winner, records))
    else:
        write_for_opensr(loaded, folder, winner, Path(), out, err)


@app.command()
@answers_problems
def train(
    configuration: Annotated[Path, typer.Argument(help="A training configuration.")],
    folder: Annotated[
        Path | None, typer.Option("--out", help="Where to write; default: one of its own in runs/train.")
    ] = None,
    take_over: TakeOver = False,
) -> None:
    """Train once, without Ray: the winner again, a baseline, one's own. Goes on where it was interrupted."""
    from tune_srgan.run.single import train_alone

    if not train_alone(configuration, folder, out, err, take_over).has_cost:
        raise typer.Exit(FAILED)


@app.command()
@answers_problems
def judge(
    place: Annotated[
        Path,
        typer.Argument(metavar="PLACE", help="Folder of a trial, a training or a study; or a table (.parquet)."),
    ],
    nash: Annotated[
        list[str], typer.Option("--nash", metavar="KEY=NUMBER", help="Another number of the ruler; may be given again.")
    ] = [],  # noqa: B006  # typer copies it
) -> None:
    """Judge recorded readings again: what holds, what does not, and from which step the balance is kept."""
    from tune_srgan.report.judging import judge_place

    judge_place(place, nash, out)


@app.command()
@answers_problems
def upscale(
    sources: Annotated[list[Path], typer.Argument(metavar="IN...", help="Images like those of the training; folders.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The GeoTIFF to write; of several images, a folder.")],
    weights: Annotated[Path, typer.Option(help="The best.pt of a study; or, with --config, a training's checkpoint.")],
    config: Annotated[Path | None, typer.Option(help="The training's YAML that a checkpoint is of.")] = None,
    window: Part = None,
    like: Annotated[Path | None, typer.Option(help="An image whose extent is wanted.")] = None,
    match: Match = None,
    device: Device = Where.AUTO,
    cog: Annotated[bool, typer.Option(help="Lay the GeoTIFF out for the cloud, with overviews.")] = True,
) -> None:
    """Super-resolve images; place, bands, colours, units and nodata are kept."""
    from tune_srgan.upscaling.files import Wishes, window_of
    from tune_srgan.upscaling.view import upscale_shown

    wishes = Wishes(window_of(window), like, match.value if match else None, cog, device.value)
    upscale_shown(sources, target, weights, config, wishes, out, err)


@app.command()
@answers_problems
def clean(study: StudyName, storage: Storage = None) -> None:
    """Delete checkpoints that no result needs. Readings, outcomes, images and the winner stay."""
    from tune_srgan.report.best import write_best
    from tune_srgan.run.clean import clean as delete
    from tune_srgan.run.holding import driving

    with driving(find_study(study, storage), err):
        folder, loaded, records = _found(study, storage)
        write_best(loaded, folder, records)
        freed = delete(loaded, folder, records)
    out.print(f"{freed / 1e6:.1f} MB freed in {folder.address}.", highlight=False, soft_wrap=True)


def _found(name: str, storage: str | None) -> tuple[StudyFolder, Study, StudyRecords]:
    """A study that a person names, and its records, read once."""
    folder = find_study(name, storage)
    study = study_in(folder)
    return folder, study, read_records(study, folder.every_trial())


def _refuse_beside(option: str, others: Mapping[str, object]) -> None:
    """Refuse the options that were given and that mean nothing beside another one."""
    found = f"together with {option}"
    given = [Problem(name, "", found, "one of the two", "Leave one out.") for name, value in others.items() if value]
    if given:
        raise InvalidInput(given)


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def main() -> None:
    """Run the command line; Ctrl-C ends it within seconds, and is quiet where nothing runs yet."""
    began = time.monotonic()
    end_soon_after_ctrl_c()
    try:
        app()
    except KeyboardInterrupt:
        err.print(f"Stopped after {duration(time.monotonic() - began)}.")
        leave()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            leave()
        raise
