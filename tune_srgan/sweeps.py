"""The study as a Weights & Biases sweep of its own, and a report and a workspace made there.

The sweep has a local controller: W&B shows it and never schedules. What talks to the server while a study runs does so
in a process of its own with a time limit, as the tracker does. Knows wandb and wandb-workspaces.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainables.errors import InvalidInput, Problem
from tune_srgan.confirmation import winner
from tune_srgan.records import UNFINISHED, StudyFolder, read_json
from tune_srgan.review import value_text
from tune_srgan.storage import write_atomically
from tune_srgan.study import Parameter, Study
from tune_srgan.tracking import (
    BALANCE_LINE,
    address_of,
    is_there,
    mark_best,
    run_id,
    sweep_file,
    sync_commands,
    tracking_mode,
    wait_for_trackers,
    why_away,
)

ANSWER_S = 60.0  # what the server may take to make a sweep; the trackers wait for it that long, nobody else
STATES = {"open": "--resume", "pause": "--pause", "close": "--stop"}
MAX_VALUES = 50  # of a grid that W&B has no distribution for; with more, it is told the range alone


def sweep_configuration(study: Study) -> dict[str, Any]:
    """The study as W&B's sweep: its space as parameters under the keys that the runs' configurations have."""
    return {
        "name": study.study,
        "description": "A study of tune-srgan, which proposes and runs the trials itself: start no agents.",
        "method": "custom",
        "controller": {"type": "local"},
        "metric": {"name": "nash_cost", "goal": "minimize"},
        "parameters": {key: distribution(parameter) for key, parameter in study.space.items()},
    }


def distribution(parameter: Parameter) -> dict[str, Any]:
    """A searched key in W&B's words."""
    if parameter.choice is not None:
        return {"values": list(parameter.choice)}
    low, high = parameter.bounds
    if parameter.step is not None and round((high - low) / parameter.step) < MAX_VALUES:
        count = round((high - low) / parameter.step) + 1  # W&B rounds to multiples of a step; ours starts at low
        return {"values": [low + index * parameter.step for index in range(count)]}
    if parameter.int_range is not None:
        found = {"min": int(low), "max": int(high)}
        log = {"distribution": "q_log_uniform_values", "q": 1}  # the only one that is whole and logarithmic
        return found | (log if parameter.log else {"distribution": "int_uniform"})
    return {"min": low, "max": high, "distribution": "log_uniform_values" if parameter.log else "uniform"}


def open_sweep(study: Study, folder: StudyFolder) -> None:
    """Begin to register an online study as a sweep, or to go on with the one it is; runs wait for it, trials do not."""
    if tracking_mode(study.tracking.wandb)[0] != "online":
        return
    making = not _sweep(folder)
    if making:
        write_atomically(sweep_file(folder), json.dumps({"until": time.time() + ANSWER_S}))
    with contextlib.suppress(OSError):
        _start(folder, "open", making)
        folder.send()  # workers elsewhere wait for it


def sweep_note(folder: StudyFolder, seconds: float = 0.0) -> str:
    """Why the study's runs are in no sweep, asked for `seconds` at most; empty where they are, or none was wanted."""
    begun = time.monotonic()
    while "until" in (read_json(sweep_file(folder)) or {}) and time.monotonic() - begun < seconds:
        time.sleep(0.05)
    known = read_json(sweep_file(folder)) or {}
    if "refused" in known:
        return f"Weights & Biases: no sweep ({known['refused']}); the runs are grouped by study."
    if "until" in known:
        return "Weights & Biases: the sweep is not there yet; the runs join it, or are grouped by study without it."
    return ""


def sweep_address(folder: StudyFolder) -> str:
    """Where a person sees the study's sweep; empty where it is none."""
    return str(_sweep(folder).get("url") or "")


def close_sweep(study: Study, folder: StudyFolder, number: int | None, seconds: float) -> int:
    """Tag the winner's run, let the trackers end, and mark the sweep finished; returns how many trackers are not done.

    Waits `seconds` at most; what takes longer goes on by itself, within its limits. A study that was interrupted, or
    whose budget is used up, is a sweep that pauses.
    """
    if study.tracking.wandb.mode == "disabled":
        return 0
    begun = time.monotonic()
    mark_best(folder, number)
    left = wait_for_trackers(folder, seconds)
    known = read_json(sweep_file(folder)) or {"refused": ""}
    if "refused" not in known and tracking_mode(study.tracking.wandb)[0] == "online" and not why_away(folder):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            _start(folder, "close" if _has_ended(study, folder) else "pause").wait(
                max(0.0, seconds - (time.monotonic() - begun))
            )
    return left


def publish_report(study: Study, folder: StudyFolder) -> str:
    """Make the study's W&B report and workspace view, or bring them up to date; returns the report's address."""
    _check_published(study, folder)
    os.environ |= {"WANDB_SILENT": "true", "WANDB_DIR": str(folder.path)}  # else it writes logs where the person stands
    place = "Weights & Biases"
    try:
        reports = importlib.import_module("wandb_workspaces.reports.v2")
        workspaces = importlib.import_module("wandb_workspaces.workspaces")
    except ImportError:
        fix = "pip install wandb-workspaces"
        raise InvalidInput([Problem(place, "--wandb", "no wandb-workspaces", "the library for reports", fix)]) from None
    try:
        with _quiet():
            return _publish(study, folder, reports, workspaces)
    except Exception as error:  # whatever wandb says of a server that is away or refuses
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        made = _report_file(folder)
        fix = f"If the report was deleted there, delete {made} too." if made.exists() else ""
        raise InvalidInput([Problem(place, "--wandb", found, "a server that takes the report", fix)]) from None


def _check_published(study: Study, folder: StudyFolder) -> None:
    """One clear error where the study's runs are not on a server, with the line that sends them."""
    settings, place = study.tracking.wandb, "Weights & Biases"
    commands = sync_commands(folder)
    problem = None
    if settings.mode == "disabled":
        fix = "Set tracking.wandb.mode to online for the next study; report.html needs no account."
        problem = Problem(place, "--wandb", "a study that was not tracked", "an online study", fix)
    elif commands and not any(address_of(trial) for trial in folder.trials()):
        fix = f"First: {' && '.join(commands)}"
        found = "runs that were kept offline, and so are in no sweep"
        problem = Problem(place, "--wandb", found, "runs on the server", fix)
    elif tracking_mode(settings.model_copy(update={"mode": "online"}))[0] != "online":
        problem = Problem(place, "--wandb", "nobody logged in", "an account", "wandb login, or set WANDB_API_KEY.")
    if problem is not None:
        raise InvalidInput([problem])


def _publish(study: Study, folder: StudyFolder, reports: Any, workspaces: Any) -> str:
    sweep = _sweep(folder)
    if not sweep:
        with contextlib.suppress(Exception):  # a server without sweeps still takes a report
            sweep = _make_sweep(study, folder)
            _set_state(folder, "close" if _has_ended(study, folder) else "pause")
    project = sweep.get("project", study.tracking.wandb.project)
    entity = sweep.get("entity") or study.tracking.wandb.entity or _default_entity()
    known = read_json(_report_file(folder)) or {}
    ours = f"Group = '{study.study}' and JobType = 'search'"
    order = [reports.OrderBy(name=reports.SummaryMetric("nash_cost"), ascending=True)]
    runs = reports.Runset(entity=entity, project=project, name="search", filters=ours, order=order)
    sections = _sections(study, reports)
    blocks: list[Any] = [reports.P(text) for text in _said(study, folder, sweep)]
    for title, panels in sections.items():
        blocks += [reports.H2(title), reports.PanelGrid(runsets=[runs], panels=panels)]
    report = reports.Report(
        entity=entity,
        project=project,
        title=study.study,
        description="Which settings reach the balance of generator and discriminator, and how fast.",
        blocks=blocks,
        width="fluid",
    )
    report.id = known.get("id", "")
    report.save()
    known |= {"id": report.id, "url": report.url}
    write_atomically(_report_file(folder), json.dumps(known))
    if "view" in known:
        view = workspaces.Workspace.from_url(known["view"])
    else:
        view = workspaces.Workspace(entity=entity, project=project, name=study.study)
    view.sections = [workspaces.Section(name=title, panels=shown, is_open=True) for title, shown in sections.items()]
    view.runset_settings.filters = ours
    view.save()
    write_atomically(_report_file(folder), json.dumps(known | {"view": view.url}))
    return str(report.url)


def _said(study: Study, folder: StudyFolder, sweep: Mapping[str, Any]) -> list[str]:
    """The answer in words, before the panels."""
    records, best = folder.records(study), winner(study, folder)
    ended = sum(record.end != UNFINISHED for record in records)
    censored = sum(record.censored for record in records if record.end != UNFINISHED)
    told = [f"{ended} of {study.search.trials} trials have ended; {censored} are censored: without a balance."]
    if best is not None:
        values = ", ".join(f"{key} = {value_text(value)}" for key, value in best.values.items())
        told.insert(0, f"Trial {best.number} (tag `best`) reached the balance at step {best.steps}, with {values}.")
    return [*told, f"The sweep itself: {sweep['url']}"] if sweep.get("url") else told


def _sections(study: Study, reports: Any) -> dict[str, list[Any]]:
    """The panels, by title; those of the curves show the ten cheapest runs."""

    def at(x: int, y: int, w: int = 12, h: int = 8) -> Any:
        return reports.Layout(x=x, y=y, w=w, h=h)

    def curves(title: str, keys: Sequence[str], layout: Any, **options: Any) -> Any:
        shown = options | {"max_runs_to_show": 10, "title_x": "generator step", "layout": layout}
        return reports.LinePlot(title=title, x="Step", y=list(keys), **shown)

    class SearchedKey(reports.ParallelCoordinatesPlotColumn):  # type: ignore[misc]
        """A column over a key that holds dots: the library takes any dot for a nested section."""

        def _to_model(self) -> Any:
            model = super()._to_model()
            model.accessor = f"config:{self.metric.name}.value"
            return model

    searched = [
        SearchedKey(metric=reports.Config(key), display_name=key, log=parameter.log or None)
        for key, parameter in study.space.items()
    ]
    cost = reports.ParallelCoordinatesPlotColumn(metric=reports.SummaryMetric("nash_cost"), display_name="nash_cost")
    balance = curves("D(y), D(G(x)) and the balance", ["nash/p_y", "nash/p_g", BALANCE_LINE], at(0, 0), range_y=(0, 1))
    return {
        "Which settings": [
            reports.ParallelCoordinatesPlot(
                title="searched settings", columns=[*searched, cost], layout=at(0, 0, 24, 10)
            ),
            reports.ParameterImportancePlot(with_respect_to="nash_cost", layout=at(0, 10)),
            reports.ScatterPlot(
                title="cost by trial",
                x=reports.Config("trial"),
                y=reports.SummaryMetric("nash_cost"),
                layout=at(12, 10),
            ),
        ],
        "The balance": [
            balance,
            curves("rank, and controls", ["nash/rank", "nash/control"], at(12, 0), range_y=(0, 1)),
        ],
        "The schedules as applied": [
            curves("learning rates", ["lr_generator", "lr_discriminator"], at(0, 0), log_y=True),
            curves("adversarial weight", ["training/adv_loss_weight"], at(12, 0)),
        ],
        "Images and runs": [
            curves("PSNR, held out", ["val_metrics/psnr"], at(0, 0)),
            reports.MediaBrowser(title="LR | bicubic | SR | HR", media_keys=["Val SR"], layout=at(12, 0)),
            reports.RunComparer(diff_only="split", layout=at(0, 8, 24, 10)),
        ],
    }


def _report_file(folder: StudyFolder) -> Path:
    """`id` and `url` of the report, `view` of the workspace."""
    return folder.path / "wandb_report.json"


def _sweep(folder: StudyFolder) -> dict[str, Any]:
    """The study's sweep; empty where it is none."""
    known = read_json(sweep_file(folder)) or {}
    return known if "id" in known else {}


def _make_sweep(study: Study, folder: StudyFolder) -> dict[str, Any]:
    """Make the sweep, with the runs that were sent before it."""
    import wandb

    settings = study.tracking.wandb
    sent = [run_id(trial, study) for trial in folder.trials() if trial.outcome() is not None and is_there(trial)]
    with _quiet():
        name = wandb.sweep(
            sweep_configuration(study), entity=settings.entity, project=settings.project, prior_runs=sent or None
        )
        known = {"id": name, "entity": settings.entity or _default_entity(), "project": settings.project}
        write_atomically(sweep_file(folder), json.dumps(known))  # the trackers need no more
        known["url"] = wandb.Api().sweep(f"{known['entity']}/{known['project']}/{name}").url
    write_atomically(sweep_file(folder), json.dumps(known))
    return known


def _default_entity() -> str:
    """Whose runs they are where the study names nobody."""
    import wandb

    return str(wandb.Api().default_entity)


def _has_ended(study: Study, folder: StudyFolder) -> bool:
    whole = len(folder.trials()) >= study.search.trials
    return whole and all(trial.outcome() is not None for trial in folder.every_trial())


def _set_state(folder: StudyFolder, state: str) -> None:
    sweep = _sweep(folder)
    path = f"{sweep['entity']}/{sweep['project']}/{sweep['id']}"
    command = [sys.executable, "-m", "wandb", "sweep", STATES[state], path]
    subprocess.run(command, stdin=subprocess.DEVNULL, timeout=ANSWER_S, check=False)


def _wanted_file(folder: StudyFolder) -> Path:
    """The state that the sweep is to have: what opens it may be slower than the study."""
    return folder.path / "wandb_sweep.state"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """wandb prints what it does: not for our person."""
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(nothing):
        yield


def _start(folder: StudyFolder, state: str, making: bool = False) -> subprocess.Popen[bytes]:
    """A process that brings the sweep to a state, and makes it first where it is told to."""
    write_atomically(_wanted_file(folder), state)
    package = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}
    environment["WANDB_DIR"] = str(folder.path)
    with (folder.path / "wandb_sweep.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tune_srgan.sweeps", str(folder.path.resolve()), *(["make"] if making else [])],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=folder.path,
            env=environment,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """What runs in a process of its own: bring the sweep of the study in a folder to the state that is wanted of it."""
    path, *making = arguments or sys.argv[1:]
    folder = StudyFolder(Path(path))

    def refused(reason: str) -> None:
        if making and not _sweep(folder):
            write_atomically(sweep_file(folder), json.dumps({"refused": reason}))
            with contextlib.suppress(OSError):
                folder.send()

    def give_up() -> None:
        refused(f"no answer in {ANSWER_S:g} s")
        os._exit(1)

    limit = threading.Timer(2 * ANSWER_S, give_up)
    limit.daemon = True
    limit.start()
    try:
        if making:
            _make_sweep(folder.study(), folder)
            folder.send()
        while time.time() < (read_json(sweep_file(folder)) or {}).get("until", 0):
            time.sleep(1.0)  # another process is making it
        if _sweep(folder):
            _set_state(folder, _wanted_file(folder).read_text())
    except Exception as error:  # whatever wandb says; a study goes on without
        missing = isinstance(error, ModuleNotFoundError) and error.name == "wandb"
        refused(
            "wandb is not installed" if missing else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        )
        os._exit(1)


if __name__ == "__main__":
    main()
