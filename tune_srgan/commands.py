"""The commands: read what a person wants, call the service, answer. Heavy libraries load where they are used."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from trainables.configuration import flatten, is_url, load_configuration
from trainables.errors import InvalidInput, Problem
from tune_srgan import lease, live, report
from tune_srgan.confirmation import missing, winner
from tune_srgan.jobs import Head, is_dashboard
from tune_srgan.records import UNFINISHED, StudyFolder, TrialFolder, find_study, study_at
from tune_srgan.storage import storage_at
from tune_srgan.study import Study, earliest_certificate, load_study

if TYPE_CHECKING:
    from trainables.imagery import Imagery

SPACES = Path(__file__).resolve().parent.parent / "search_spaces"
QUICKSTART, FULL = SPACES / "quickstart.yaml", SPACES / "srgan.yaml"
INVALID, INTERRUPTED = 2, 130  # exit codes
SUBMITTED = "/dev/stdin"  # where the head finds a study
STORAGE = "TUNE_SRGAN_STORAGE"  # in the environment: where this machine keeps its studies
WATCH_S = 10.0
ANSWER_S = 60.0  # that a study's end waits for its store
TRACKERS_SHARE = 0.01  # of a study's time that its end waits for what is still being sent

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find the training settings with which an SRGAN reaches the balance of generator and discriminator soonest. "
    "Without a command: the quickstart study.",
)
PLAIN_WIDTH = 120  # where there is no terminal to ask
out = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
err = Console(stderr=True, width=None if sys.stderr.isatty() else PLAIN_WIDTH)
Storage = Annotated[
    str | None, typer.Option(envvar=STORAGE, help="Folder or URL for studies; default: the study file's, else runs.")
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
    bool, typer.Option("--take-over", help="Go on with a study whose driver was lost with its machine.")
]
Where = Annotated[str, typer.Option(envvar=STORAGE, help="Folder or URL of studies.")]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study's folder, URL, file or name.")]
F = TypeVar("F", bound=Callable[..., Any])


class Format(StrEnum):
    """Of a report."""

    html = "html"
    md = "md"
    pdf = "pdf"
    json = "json"


def _answers_problems(command: F) -> F:
    """Invalid input: every problem on stderr, exit code 2, no traceback."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except InvalidInput as error:
            live.problems(error, err)
            raise typer.Exit(INVALID) from None

    return wrapped  # type: ignore[return-value]  # same signature


@app.callback(invoke_without_command=True)
@_answers_problems
def quickstart(context: typer.Context) -> None:
    """Run the quickstart where no command is given; on a cluster with GPUs, the full-size study."""
    if context.invoked_subcommand is not None:
        return
    from tune_srgan import cluster

    said = cluster.connect(None)
    file = FULL if said.startswith("joined") and cluster.has_gpus() else QUICKSTART
    out.print(f"No study named: running {_shown(file)}.", highlight=False)
    _run(file, None, None, None, os.environ.get(STORAGE), connected=said)


@app.command()
@_answers_problems
def run(
    study: Annotated[Path, typer.Argument(help="A study file.")],
    trials: Trials = None,
    concurrent: Concurrent = None,
    address: Address = None,
    storage: Storage = None,
    take_over: TakeOver = False,
) -> None:
    """Run a study, or go on with it."""
    if is_dashboard(address):
        submit(study, str(address), trials, concurrent, storage, take_over)
    _run(study, trials, concurrent, address, storage, take_over=take_over)


@app.command()
@_answers_problems
def submit(
    study: Annotated[Path, typer.Argument(help="A study file.")],
    address: Annotated[str, typer.Option(help="The cluster's dashboard.")] = "http://127.0.0.1:8265",
    trials: Trials = None,
    concurrent: Concurrent = None,
    storage: Storage = None,
    take_over: TakeOver = False,
) -> None:
    """Run a study on the head of a Ray cluster, as a job, and follow it; the job goes on without this shell."""
    loaded, warnings = load_study(study)
    loaded = _changed(loaded, trials, concurrent, storage)
    _refuse_relative(str(study), loaded.storage)
    _warn(warnings)
    there = ["--storage", loaded.storage, *_taking_over(take_over)]  # the head may have a place of its own for studies
    _on_head(address, "run", loaded.study, ["run", SUBMITTED, *there], loaded)


@app.command()
@_answers_problems
def check(
    study: Annotated[Path, typer.Argument(help="A study file.")],
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Train a few real steps on this machine's GPU: what a trial takes of it.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join, whose nodes are to see storage and imagery, too.")
    ] = None,
    storage: Storage = None,
) -> None:
    """Validate a study and its imagery, and say what it may take. Starts no trial."""
    loaded, warnings = load_study(study)
    loaded = loaded.model_copy(update={"storage": storage or loaded.storage})
    imagery = _check_parts(loaded, str(study), loaded.storage)
    if gpu:
        _check_gpu()
    _warn(warnings)
    search = loaded.search
    out.print(Text(f"{study} is valid.", style="green"))
    out.print(f"Imagery: {imagery.describe()}", highlight=False)
    out.print(
        f"{search.trials} trials of at most {loaded.max_steps} steps ({search.trials * loaded.max_steps} in all), "
        f"each on {loaded.resources.cpus:g} CPU(s) and {loaded.resources.gpus:g} GPU(s); "
        f"sampler {search.sampler}, fitted after {search.startup} trials.",
        highlight=False,
    )
    limits = search.budget.model_dump(exclude_none=True)
    if limits:
        out.print("Budget: " + ", ".join(f"{value:g} {key}" for key, value in limits.items()) + ".", highlight=False)
    out.print(
        f"The earliest step at which a balance can be certified: {earliest_certificate(loaded)}.", highlight=False
    )
    _say_what_is_shared(loaded)
    if gpu:
        _rehearse(loaded, str(study))
    if address:
        from tune_srgan import cluster

        cluster.connect(address)
        _look_around(loaded, loaded.storage if is_url(loaded.storage) else str(Path(loaded.storage).resolve()))


@app.command()
@_answers_problems
def resume(
    study: StudyName,
    address: Address = None,
    storage: Where = "runs",
    take_over: TakeOver = False,
) -> None:
    """Go on with a study that was interrupted: unfinished trials from their checkpoints, then the rest."""
    if is_dashboard(address):
        _on_head(str(address), "run", *_there("resume", study, storage, *_taking_over(take_over)))
    folder = find_study(study, storage)
    loaded = folder.study()
    _check_parts(loaded, str(folder.study_file), folder.beside)
    _drive(loaded, folder, address, take_over=take_over)


@app.command()
@_answers_problems
def status(
    study: StudyName,
    storage: Where = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    address: Dashboard = None,
) -> None:
    """Where a study stands, from its records alone."""
    if address:
        _on_head(address, "status", *_there("status", study, storage, *(["--json"] if as_json else [])))
    folder = find_study(study, storage)
    loaded = folder.study()
    records = folder.records(loaded)
    if as_json:
        sys.stdout.write(json.dumps(live.standing(loaded, folder), indent=1) + "\n")
        return
    for record in records:
        out.print(f"trial {record.number:3d}  {live.ending(record)}", highlight=False)
    for trial, record in zip(folder.trials("confirm"), folder.records(loaded, "confirm"), strict=True):
        out.print(f"trial {trial.name}  {live.ending(record)}", highlight=False)
    ended = sum(record.end != UNFINISHED for record in records)
    best = winner(loaded, folder)
    text = f"trial {best.number}, balanced from step {best.steps}" if best else "none"
    out.print(f"{ended} of {loaded.search.trials} trials ended; best so far: {text}.", highlight=False)
    live.print_standing(live.standing(loaded, folder), out)


@app.command("report")
@_answers_problems
def report_command(
    study: StudyName,
    storage: Where = "runs",
    formats: Annotated[list[Format], typer.Option("--format", help="Of the report; may be given again.")] = [  # noqa: B006
        Format.html
    ],
    watch: Annotated[bool, typer.Option("--watch", help="Write it again while the study runs.")] = False,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="Make the study's report on Weights & Biases instead, or update it.")
    ] = False,
    address: Dashboard = None,
) -> None:
    """Print the summary of a study; write its report, best.yaml and best.pt."""
    if address:
        wanted = [option for kind in formats for option in ("--format", kind.value)]
        wanted += ["--watch"] * watch + ["--wandb"] * wandb
        _on_head(address, "report", *_there("report", study, storage, *wanted))
    folder = find_study(study, storage)
    loaded = folder.study()
    report.write_best(loaded, folder)
    if wandb:
        from tune_srgan import sweeps

        out.print(Text(f"Weights & Biases: {sweeps.publish_report(loaded, folder)}"), soft_wrap=True)
        return
    report.print_report(loaded, folder, out)
    running = _write_reports(loaded, folder, formats, watch)
    while watch and running:
        time.sleep(WATCH_S)
        report.write_best(loaded, folder)
        running = _write_reports(loaded, folder, formats, watch, quiet=True)


@app.command()
@_answers_problems
def dashboard(
    study: StudyName,
    storage: Where = "runs",
    port: Annotated[int, typer.Option(help="On this machine.")] = 8080,
) -> None:
    """Serve optuna-dashboard over a study on this machine, until Ctrl-C."""
    folder = find_study(study, storage)
    from tune_srgan import dashboard as served

    served.check(port)
    out.print(Text(f"http://127.0.0.1:{port}/dashboard/  (Ctrl-C ends it)"), soft_wrap=True)
    served.serve(folder.study(), folder, port)


@app.command()
@_answers_problems
def best(study: StudyName, storage: Where = "runs", address: Dashboard = None) -> None:
    """Print the winner's complete training configuration."""
    if address:
        _on_head(address, "best", *_there("best", study, storage))
    folder = find_study(study, storage)
    if report.write_best(folder.study(), folder) is None:
        err.print(f"No trial of {folder.path.name} reached the balance.", style="yellow")
        raise typer.Exit(1)
    sys.stdout.write(folder.best_configuration.read_text(encoding="utf-8"))


@app.command()
@_answers_problems
def train(
    configuration: Annotated[Path, typer.Argument(help="A training configuration.")],
    folder: Annotated[Path | None, typer.Option("--out", help="Where to write; default: runs/train/NAME.")] = None,
) -> None:
    """Train once, without Ray: the winner again, a baseline, one's own. Goes on where it was interrupted."""
    loaded = load_configuration(configuration)
    from trainables.imagery import load_imagery
    from trainables.trainer import pick_device
    from tune_srgan.tracking import Tracker
    from tune_srgan.trial import save_generator, train_recorded

    trial = TrialFolder(folder or Path("runs") / "train" / configuration.stem)
    imagery = load_imagery(loaded, pick_device(loaded))
    _open_training(trial, loaded)
    out.print(f"Imagery: {imagery.describe()}", highlight=False)
    flat = flatten(loaded.model_dump())
    out.print(f"Training: {report.describe_training(flat)}", highlight=False)
    with live.training_progress(err) as progress:
        task = progress.add_task("train", total=loaded.Training.max_steps, phase="", balance="")
        for reading in train_recorded(trial, Tracker()):
            told = {key: live.figure(reading.get(f"nash/{key}")) for key in ("p_y", "p_g", "rank")}
            balance = f"D(y) {told['p_y']}  D(G(x)) {told['p_g']}  rank {told['rank']}" if "nash/p_y" in reading else ""
            progress.update(task, completed=reading["step"], phase=reading["phase"], balance=balance)
    end = report.print_training(trial, out)
    if end in {"diverged", "failed"}:
        raise typer.Exit(1)
    save_generator(trial, trial.path / "best.pt")


@app.command()
@_answers_problems
def upscale(
    source: Annotated[Path, typer.Argument(metavar="IN", help="An image like those of the training.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The GeoTIFF to write.")],
    weights: Annotated[Path, typer.Option(help="The best.pt of a study.")],
) -> None:
    """Super-resolve an image; the georeference is kept."""
    from tune_srgan.upscale import upscale_file

    width, height = upscale_file(source, target, weights)
    out.print(Text(f"{target}: {width}×{height} px"), soft_wrap=True)


@app.command()
@_answers_problems
def clean(study: StudyName, storage: Where = "runs") -> None:
    """Delete checkpoints that no result needs. Readings, outcomes, images and the winner stay."""
    folder = find_study(study, storage)
    loaded = folder.study()
    report.write_best(loaded, folder)
    with _held(folder):
        freed = report.clean(loaded, folder)
    out.print(f"{freed / 1e6:.1f} MB freed in {folder.address}.", highlight=False, soft_wrap=True)


def _on_head(address: str, kind: str, name: str, arguments: list[str], study: Study | None = None) -> NoReturn:
    """A command on the head of the cluster whose dashboard is at `address`; ends with its exit code."""
    head = Head(address)
    job = head.start(arguments, f"{kind}.{name}", study.dump() if study else "")
    if kind == "run":
        err.print(f"Job {job}: it goes on when this shell is gone; the same command follows it again.", highlight=False)
    try:
        code = head.follow(job)
    except KeyboardInterrupt:
        err.print(f"The job goes on; `ray job stop {job} --address {address}` ends it.", highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    if code == INVALID and study is not None:
        _say_what_is_only_here(study)
    raise typer.Exit(code)


def _there(command: str, study: str, storage: str, *options: str) -> tuple[str, list[str]]:
    """A study's name, and what a command that knows only where it is kept takes on another machine."""
    if not is_url(study) and not Path(study).is_absolute():
        _refuse_relative("--storage", storage)
        study = f"{storage}/{study}"
    return study.rstrip("/").rpartition("/")[2], [command, study, *options]


def _taking_over(take_over: bool) -> list[str]:
    return ["--take-over"] if take_over else []


def _refuse_relative(file: str, storage: str) -> None:
    """A job's working folder comes and goes: studies must not be kept there."""
    if not is_url(storage) and not Path(storage).is_absolute():
        fix = "Give one with --storage: a folder that all nodes share, or an s3://… or gs://… URL."
        expected = "an absolute path or a URL, since the cluster has another working folder"
        raise InvalidInput([Problem(file, "storage", storage, expected, fix)])


def _say_what_is_only_here(study: Study) -> None:
    """Of paths that the cluster may not have had: those that are here."""
    data = study.training.get("Data", {})
    for key in ("path", "root_dir"):
        place = str(data.get(key) or "sample")
        if place != "sample" and not is_url(place) and Path(place).exists():
            _warn([f"Data.{key}: {place} is on this machine; give a path that every node sees, or a URL."])


def _changed(study: Study, trials: int | None, concurrent: int | None, storage: str | None) -> Study:
    """A study with what a person asked for instead of the file's."""
    search = study.search.model_copy(update={"trials": trials or study.search.trials})
    resources = study.resources.model_copy(update={"concurrent": concurrent or study.resources.concurrent})
    told = {"search": search, "resources": resources, "storage": storage or study.storage}
    return study.model_copy(update=told)


def _run(
    file: Path,
    trials: int | None,
    concurrent: int | None,
    address: str | None,
    storage: str | None,
    connected: str = "",
    take_over: bool = False,
) -> None:
    study, warnings = load_study(file)
    study = _changed(study, trials, concurrent, storage)
    _check_parts(study, str(file), study.storage)
    folder = study_at(f"{study.storage}/{study.study}")
    folder.open(study)
    _warn(warnings)
    _drive(study, folder, address, connected, take_over)


def _drive(
    study: Study, folder: StudyFolder, address: str | None, connected: str = "", take_over: bool = False
) -> None:
    """Run a study that was found valid, report it, and say how to go on where it was interrupted."""
    from tune_srgan import cluster, runner, sweeps, tracking

    mode_note = tracking.tracking_mode(study.tracking.wandb)[1]
    if mode_note:
        err.print(mode_note, style="yellow")
    stopped = ""
    if not _left(study, folder):
        out.print(f"All trials of '{study.study}' have ended; more with `run … --trials N`.", highlight=False)
    else:
        with _held(folder, take_over) as taken:
            sweeps.open_sweep(study, folder)  # beside the start of Ray: it costs no time
            where = connected or cluster.connect(address)
            out.print(Text(f"Study '{study.study}' in {folder.address}; {where}."), soft_wrap=True)
            _look_around(study, folder.address)
            if sweep_note := sweeps.sweep_note(folder, 1.0):
                err.print(Text(sweep_note, style="yellow"), soft_wrap=True)
            budget = runner.Budget(study, folder)
            view = live.StudyView(study, folder, out, budget.elapsed_s)
            with view, contextlib.suppress(KeyboardInterrupt), _storage_errors(folder):
                stopped = runner.run_study(study, folder, budget, view)
            if taken.is_set():
                raise typer.Exit(INTERRUPTED)  # what is kept is another driver's now
            best = winner(study, folder)
            seconds = max(2.0, TRACKERS_SHARE * budget.elapsed_s())
            sweeps.close_sweep(study, folder, best.number if best else None, seconds)
            folder.send(patience=ANSWER_S)
        if stopped:
            out.print(Text(f"Stopped early: {stopped}.", style="yellow"), soft_wrap=True)
        interrupted = any(trial.outcome() is None and trial.readings() for trial in folder.every_trial())
        if not stopped and (interrupted or _left(study, folder)):
            _say_how_to_resume(folder)
    report.write_best(study, folder)
    out.print()
    report.print_report(study, folder, out)
    _write_reports(study, folder, [Format.html])
    folder.send(patience=ANSWER_S)


@contextlib.contextmanager
def _storage_errors(folder: StudyFolder) -> Iterator[None]:
    """A store or a disk that fails for longer than it is waited for: one clear error, and how to go on."""
    try:
        yield
    except OSError as error:
        found = f"a store or disk that fails ({' '.join(str(error).split())[:160]})"
        fix = f"Mend it; then: python tune.py resume {folder.address}"
        raise InvalidInput([Problem(folder.address, "storage", found, "one that can be written", fix)]) from None


def _look_around(study: Study, address: str) -> None:
    """Every other node sees what this one sees, or one clear error."""
    from tune_srgan import cluster

    cluster.slots(study)
    for seen in cluster.look(study, address):
        out.print(Text(f"Node {seen}"), soft_wrap=True)


def _write_reports(
    study: Study, folder: StudyFolder, formats: Sequence[Format], watched: bool = False, quiet: bool = False
) -> bool:
    """The report in the wanted formats; whether the study is still running."""
    from tune_srgan import page
    from tune_srgan.review import review
    from tune_srgan.searcher import importances

    found = review(study, folder, importances)
    for kind in formats:
        to = folder.report_file.with_suffix(f".{kind.value}")
        page.write(found, to, kind.value, watched)
        if not quiet:
            out.print(Text(f"Report: {to}"), soft_wrap=True)
    with contextlib.suppress(OSError):  # who may only read has it here alone
        folder.send()
    return bool(found["running"])


@contextlib.contextmanager
def _held(folder: StudyFolder, take_over: bool = False) -> Iterator[threading.Event]:
    """Drive or change a study alone; stop, as by Ctrl-C, where another driver took it over, which the event says."""
    taken = threading.Event()

    def lost() -> None:
        err.print("Another driver took this study over: this one stops.", style="yellow")
        taken.set()
        os.kill(os.getpid(), signal.SIGINT)

    with lease.held(folder.storage(), folder.address, lost, take_over):
        yield taken


def _left(study: Study, folder: StudyFolder) -> int:
    """Trials of the search, and then confirmations, that have not ended."""
    ended = sum(record.end != UNFINISHED for record in folder.records(study))
    return max(0, study.search.trials - ended) or len(missing(study, folder))


def _say_how_to_resume(folder: StudyFolder) -> NoReturn:
    out.print(
        "\nInterrupted. Everything up to the last reading of each trial is kept. Go on with:", style="bold yellow"
    )
    out.print(Text(f"  python tune.py resume {folder.address}"), soft_wrap=True)
    raise typer.Exit(INTERRUPTED)


def _check_parts(study: Study, file: str, storage: str) -> Imagery:
    """What only the libraries can tell: the imagery and the sampler."""
    import torch

    from trainables.imagery import load_imagery
    from tune_srgan.searcher import check_sampler

    try:
        storage_at(study.storage)
    except InvalidInput as error:
        raise InvalidInput([replace(error.problems[0], file=file)]) from None
    check_sampler(study, file)
    for name in study.search.learn_from:
        try:
            find_study(name, storage)
        except InvalidInput as error:
            raise InvalidInput([replace(error.problems[0], file=file, key="search.learn_from", found=name)]) from None
    return load_imagery(study.lowest(), torch.device("cpu"))


def _say_what_is_shared(study: Study) -> None:
    """How many trials may start from another's pretraining, and what that may save."""
    from tune_srgan.sharing import expected_savings, points_of

    if not study.search.sharing.enabled or not points_of(study):
        return
    trials = study.search.trials
    sharing, saved, total = expected_savings(study, trials)
    out.print(
        f"Of {trials} trials drawn at random, about {sharing:.0f} can start from another's pretraining and save "
        f"{saved:.0f} of {total:.0f} steps of it ({saved / max(total, 1):.0%}).",
        highlight=False,
    )
    if sharing < trials / 20:
        _warn(["search.sharing: values that act from the start hardly ever repeat: give them a step, or fix them."])


def _check_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        fix = "Leave --gpu out, or run it where the trials will run."
        raise InvalidInput([Problem("--gpu", "", "no GPU that torch can use", "one on this machine", fix)])


def _rehearse(study: Study, file: str) -> None:
    """What a trial takes of this machine's GPU, at the high end of every range."""
    import torch

    from trainables.imagery import load_imagery
    from trainables.rehearsal import rehearse
    from tune_srgan.trial import out_of_memory
    from tune_srgan.worker import CONTEXT_BYTES

    configuration, device = study.highest(), torch.device("cuda")
    try:
        found = rehearse(configuration, load_imagery(configuration, device), device)
    except torch.OutOfMemoryError as error:
        raise InvalidInput(
            [Problem(file, "Data.train_batch_size", out_of_memory(configuration, error), "a trial that fits")]
        ) from None
    total = torch.cuda.get_device_properties(device).total_memory
    assert found.peak_bytes is not None
    share = (found.peak_bytes + CONTEXT_BYTES) / total
    training = configuration.Training
    seconds = training.pretrain_steps * found.pretraining_step_s
    seconds += (study.max_steps - training.pretrain_steps) * found.game_step_s
    seconds += study.max_steps / training.validate_every * found.validation_s
    out.print(
        f"On one {torch.cuda.get_device_name(device)} ({total / 1e9:.0f} GB), at the high end of every range: a trial "
        f"holds {found.peak_bytes / 1e9:.1f} GB at its peak, so resources.gpus of at least {share:.2f}.\n"
        f"A step of pretraining takes {found.pretraining_step_s * 1e3:.1f} ms, one of the game "
        f"{found.game_step_s * 1e3:.1f} ms, a validation {found.validation_s:.2f} s; "
        f"{study.max_steps} steps about {live.duration(seconds)}, alone on the GPU.",
        highlight=False,
    )


def _open_training(trial: TrialFolder, configuration: Any) -> None:
    """A fresh folder, or the one of the same training that was interrupted."""
    if trial.exists():
        if trial.configuration() != configuration:
            fix = "Name another folder with --out, or remove it."
            raise InvalidInput([Problem(str(trial.path), "--out", "another training", "this one, or nothing", fix)])
        state = "has ended already" if trial.outcome() else f"goes on from step {trial.last_step()}"
        out.print(Text(f"The training in {trial.path} {state}."), soft_wrap=True)
        return
    try:
        trial.create({}, "train", configuration)
    except OSError as error:
        found = f"a folder that cannot be written ({error.strerror})"
        raise InvalidInput([Problem(str(trial.path), "--out", found, "a writable folder")]) from None


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        err.print(Text.assemble(("warning ", "bold yellow"), warning), soft_wrap=True)


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def main() -> None:
    """Entry point; Ctrl-C where nothing runs yet is quiet."""
    began = time.monotonic()
    try:
        app()
    except KeyboardInterrupt:
        err.print(f"Stopped after {live.duration(time.monotonic() - began)}.")
        raise SystemExit(INTERRUPTED) from None
