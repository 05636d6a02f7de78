"""The study's report and workspace view on Weights & Biases, made there or brought up to date."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainables.errors import InvalidInput, Problem, one_line
from tune_srgan.store.layout import StudyFiles
from tune_srgan.store.objects import write_atomically
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import read_json
from tune_srgan.study.settings import Study
from tune_srgan.tracking.marks import BALANCE_LINE, address_of, sweep_of, sync_commands, tracking_mode
from tune_srgan.tracking.sweep import default_entity, has_ended, make_sweep, quietly, set_state


def publish_report(study: Study, folder: StudyFolder, answer: Sequence[str]) -> str:
    """Make the study's W&B report and workspace view, or bring them up to date; returns the report's address.

    `answer`: paragraphs that stand before the panels.
    """
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
        with quietly():
            return _publish(study, folder, answer, reports, workspaces)
    except Exception as error:  # whatever wandb says of a server that is away or refuses
        found = f"{type(error).__name__}: {one_line(error)}"
        made = _report_file(folder)
        fix = f"If the report was deleted there, delete {made} too." if made.exists() else ""
        raise InvalidInput([Problem(place, "--wandb", found, "a server that takes the report", fix)]) from None


def _check_published(study: Study, folder: StudyFolder) -> None:
    """One clear error where the study's runs are not on a server, with the line that sends them."""
    settings, place = study.tracking.wandb, "Weights & Biases"
    commands = sync_commands(folder)
    problem = None
    if settings.mode == "disabled":
        fix = f"Set tracking.wandb.mode to online for the next study; {StudyFiles.REPORT.name} needs no account."
        problem = Problem(place, "--wandb", "a study that was not tracked", "an online study", fix)
    elif commands and not any(address_of(trial) for trial in folder.trials()):
        fix = f"First: {' && '.join(commands)}"
        found = "runs that were kept offline, and so are in no sweep"
        problem = Problem(place, "--wandb", found, "runs on the server", fix)
    elif tracking_mode(settings.model_copy(update={"mode": "online"}))[0] != "online":
        problem = Problem(place, "--wandb", "nobody logged in", "an account", "wandb login, or set WANDB_API_KEY.")
    if problem is not None:
        raise InvalidInput([problem])


def _publish(study: Study, folder: StudyFolder, answer: Sequence[str], reports: Any, workspaces: Any) -> str:
    sweep = sweep_of(folder)
    if not sweep:
        with contextlib.suppress(Exception):  # a server without sweeps still takes a report
            sweep = make_sweep(study, folder)
            set_state(folder, "close" if has_ended(study, folder) else "pause")
    project = sweep.get("project", study.tracking.wandb.project)
    entity = sweep.get("entity") or study.tracking.wandb.entity or default_entity()
    known = read_json(_report_file(folder)) or {}
    ours = f"Group = '{study.study}' and JobType = 'search'"
    order = [reports.OrderBy(name=reports.SummaryMetric("nash_cost"), ascending=True)]
    runs = reports.Runset(entity=entity, project=project, name="search", filters=ours, order=order)
    sections = _sections(study, reports)
    link = [f"The sweep itself: {sweep['url']}"] if sweep.get("url") else []
    blocks: list[Any] = [reports.P(text) for text in (*answer, *link)]
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
    with contextlib.suppress(OSError):
        folder.send()
    return str(report.url)


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
    return folder.path / StudyFiles.WANDB_REPORT.name
