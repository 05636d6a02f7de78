"""The tracker and the sweep, with real processes and a fake server: what arrives, and what a bad server cannot harm."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml
from PIL import Image

from tests.support.object_store import s3
from tests.support.service import STUDY, TUNE, tracked, wait_for
from tests.support.studies import (
    PATIENCE,
    PRETRAIN,
    VALUES,
    WEIGHT,
    ended,
    finish,
    loaded,
    open_study,
    reading,
    records_in,
    small,
)
from tests.support.studies import start as propose
from tests.support.wandb_server import ENTITY, WandbServer, environment
from trainables.errors import InvalidInput
from trainables.outcome import End
from tune_srgan.report import words
from tune_srgan.report.data import report_data
from tune_srgan.store.mirror import working_copy
from tune_srgan.store.studies import study_in
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.study.space import Parameter
from tune_srgan.tracking import marks, sweep, wandb_report
from tune_srgan.tracking import tracker as tracker_module
from tune_srgan.tracking.marks import sync_commands
from tune_srgan.tracking.tracker import followed, wait_for_trackers

AT_ONCE_S = 5.0  # far less than any wait for a server, far more than starting a process takes
OUTCOME = ended(End.EXHAUSTED, 200, 0.5)
WORKER = """
import os, psutil, sys, time
from pathlib import Path
from tests.support.studies import ended
from trainables.outcome import End
from tune_srgan.store.studies import study_in
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.tracking.tracker import followed
folder = StudyFolder(Path(sys.argv[1]))
trial = folder.trial(int(sys.argv[2]))
tracker = followed(trial, study_in(folder))
tracker.__enter__()
"""
DIES = (
    WORKER
    + """
while not list(trial.path.glob("tracker/wandb/run-*/files")):
    time.sleep(0.05)
os._exit(1)
"""
)
LEAVES = (
    WORKER
    + """
time.sleep(0.3)
trial.end(ended(End.EXHAUSTED, 200, 0.5))
for child in psutil.Process().children():  # as Ray does to those of a worker that it ends
    child.kill()
os._exit(0)
"""
)


def opened(tmp_path, mode="online", trials=3, name="small"):
    document = small()
    document["study"] = name
    document["tracking"] = {"wandb": {"mode": mode, "project": "gans"}}
    document["search"] = {"trials": trials, "startup": 2, "race": 0}
    document["confirm"] = {"top": int(trials > 1), "seeds": 1}
    study = loaded(tmp_path, document)
    folder = StudyFolder(tmp_path / "runs" / name)
    open_study(folder, study)
    return study, folder


def start(folder, study, number, values, proposed_by="startup"):
    """A trial whose first attempt begins."""
    propose(folder, study, number, values, proposed_by)
    folder.trial(number).begin_attempt("run-1")


_following = []  # contexts that are open until their test closes them, or this process is gone


def track(trial, study):
    """Let an attempt be followed; what is returned ends that."""
    context = followed(trial, study)
    context.__enter__()
    _following.append(context)
    return lambda: context.__exit__(None, None, None)


def publish(study, folder):
    data = report_data(study, folder, records_in(study, folder))
    return wandb_report.publish_report(study, folder, words.paragraphs(data))


def lines(steps, rank=0.875):
    return [reading(step, rank) | {"val_metrics/psnr": 20 + step / 100, "lr_generator": 1e-4} for step in steps]


def record(trial, steps):
    for line in lines(steps):
        trial.append(line)


def worker(code, folder, number):
    """The exit code of another process that tracks a trial."""
    arguments = [sys.executable, "-c", code, str(folder.path), str(number)]
    return subprocess.run(arguments, check=False, timeout=60).returncode


def run_as_said(command, folder):
    """Send what was not sent, as a person does."""
    subprocess.run(command, shell=True, check=True, capture_output=True, timeout=60, cwd=folder)


def is_done(trial, where="server"):
    """Whether its tracker has left its run there, or nowhere (`missed`)."""
    left = trial.path / "tracker/done"

    def found():
        done = json.loads(left.read_text()) if left.exists() else {}
        return ("missed" if done.get("missed") else done.get("run")) == where

    return found


@pytest.fixture(scope="module")
def online(tmp_path_factory):
    """An online study of three trials and a confirmation: what the server has of it, and what was done on the way."""
    monkeypatch = pytest.MonkeyPatch()
    server, told = WandbServer(), {}
    environment(server.url, monkeypatch)
    study, folder = opened(tmp_path_factory.mktemp("online"))
    sweep.open_sweep(study, folder)
    told["note"] = sweep.sweep_note(folder, 30)
    first, second, third = (folder.trial(number) for number in range(3))

    start(folder, study, 2, VALUES)  # its first attempt fails, the worker of its second dies, a third goes on
    record(third, range(4, 21, 4))
    third.begin_attempt("run-1")
    leave = track(third, study)
    run = marks.run_id(third, study)
    wait_for(lambda: run in server.runs)
    leave()
    wait_for(lambda: server.runs[run].complete == 1)
    record(third, range(24, 41, 4))
    third.begin_attempt("run-1")
    assert worker(DIES, folder, 2) == 1
    wait_for(lambda: server.runs[run].complete == 2)
    told["left"] = (server.runs[run].state, server.runs[run].steps_of("val_metrics/psnr"), server.runs[run].tags)
    third.begin_attempt("run-1")
    trackers = [track(third, study)]
    record(third, range(44, 201, 4))
    third.end(OUTCOME)

    start(folder, study, 0, VALUES | {PRETRAIN: 40}, "try_first")  # two trials of one worker, one after the other
    trackers.append(track(first, study))
    Image.new("RGB", (8, 4)).save(first.samples)
    finish(folder, study, 0)
    start(folder, study, 1, VALUES | {WEIGHT: 0.2})
    trackers.append(track(second, study))
    finish(folder, study, 1, "exhausted")

    again = folder.confirmation(0, 1)
    again.create(VALUES, "confirm", study.confirming(VALUES, 1))
    trackers.append(track(again, study))
    record(again, range(4, 201, 4))
    again.end(OUTCOME)
    told["not done"] = sweep.close_sweep(study, folder, 0, sweep.has_ended(study, folder), seconds=60)
    wait_for(lambda: server.sweeps["sweep0"]["state"] == "FINISHED")
    yield server, study, folder, told
    monkeypatch.undo()
    server.stop()


def run_of(online, number):
    server, study, folder, _ = online
    return server.runs[marks.run_id(folder.trial(number), study)]


@pytest.mark.wandb
def test_a_study_is_a_sweep_that_wandb_never_schedules(online):
    server, study, _, told = online
    assert told["note"] == ""
    assert len(server.sweeps) == 1
    made = yaml.safe_load(server.sweeps["sweep0"]["config"])
    assert made["controller"] == {"type": "local"}
    assert made["metric"] == {"name": "nash_cost", "goal": "minimize"}
    assert made["parameters"] == {
        PRETRAIN: {"values": [20, 40, 60]},
        WEIGHT: {"distribution": "log_uniform_values", "min": 1e-3, "max": 0.3},
        PATIENCE: {"distribution": "int_uniform", "min": 2, "max": 12},
    }
    assert server.sweeps["sweep0"]["state"] == "FINISHED"
    states = [call["state"] for call in server.called("UpsertSweep") if call.get("state")]
    assert states == ["RUNNING", "FINISHED"]


@pytest.mark.wandb
def test_every_trial_is_a_run_of_the_sweep_and_shows_its_searched_keys(online):
    server, study, folder, told = online
    assert told["not done"] == 0
    assert len(server.runs) == 4
    made = yaml.safe_load(server.sweeps["sweep0"]["config"])
    for number in range(3):
        run = run_of(online, number)
        assert (run.sweep, run.project, run.group, run.job_type) == ("sweep0", "gans", "small", "search")
        assert run.display_name == f"small-{number:05d}"
        values = folder.trial(number).header()["values"]
        assert {key: run.resolve(f"config:{key}.value") for key in made["parameters"]} == values
        assert run.resolve("config:trial.value") == number
    confirming = next(run for run in server.runs.values() if run.job_type == "confirm")
    assert confirming.sweep is None  # another seed of a trial would count as a trial
    assert confirming.group == "small"


@pytest.mark.wandb
def test_readings_arrive_under_their_keys_at_their_steps(online):
    _, study, folder, _ = online
    for number in range(3):
        recorded, run = folder.trial(number).readings(), run_of(online, number)
        assert run.steps_of("nash/p_y") == [line["step"] for line in recorded]
        for line, sent in zip(recorded, run.history, strict=False):
            assert {key: sent[key] for key in line if key != "step"} == {
                key: pytest.approx(value) for key, value in line.items() if key != "step"
            }
            assert sent[marks.BALANCE_LINE] == 0.45  # label smoothing 0.9
        assert run.exit_code == 0


@pytest.mark.wandb
def test_outcomes_are_tags_and_summary_and_the_images_are_there(online):
    server, study, folder, _ = online
    best, worse = run_of(online, 0), run_of(online, 1)
    assert set(best.tags) == {"balanced", "best"}
    assert set(worse.tags) == {"exhausted", "censored"}
    assert best.summary["nash_cost"] == best.summary["steps_to_nash"] == best.summary["steps"] == 100
    assert best.summary["best"] is True
    assert best.summary["outcome"] == "balanced"
    assert worse.summary["nash_cost"] == pytest.approx(records_in(study, folder).search[1].cost)
    assert worse.summary["censored"] is True
    assert not {"best", "steps_to_nash"} & worse.summary.keys()
    assert best.steps_of("Val SR") == [200]
    image = best.history[-1]["Val SR"]["path"]
    assert server.uploads[best.name][image] == folder.trial(0).samples.read_bytes()
    assert marks.address_of(folder.trial(0)) == f"{server.url}/{ENTITY}/gans/runs/{best.name}"


@pytest.mark.wandb
def test_a_retried_trial_goes_on_in_its_run(online):
    server, _, folder, told = online
    state, steps, tags = told["left"]
    assert state == "failed"  # not done: its worker was lost
    assert steps == list(range(4, 41, 4))
    assert tags == []
    run = run_of(online, 2)
    assert run.steps_of("val_metrics/psnr") == list(range(4, 201, 4))
    assert run.complete == 3
    assert set(run.tags) == {"exhausted", "censored"}


@pytest.mark.wandb
def test_wandb_finds_the_best_run_of_the_sweep(online):
    server, study, folder, _ = online
    code = f"import wandb; s = wandb.Api().sweep('{ENTITY}/gans/sweep0'); print(s.best_run().id, s.state, len(s.runs))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split() == [run_of(online, 0).name, "FINISHED", "3"]


@pytest.mark.wandb
def test_the_report_names_columns_that_the_runs_have_and_is_made_once(online):
    pytest.importorskip("wandb_workspaces")
    server, study, folder, _ = online
    address = publish(study, folder)
    assert publish(study, folder) == address
    kinds = {view["type"]: view for view in server.views.values()}
    assert [view["saved"] for view in server.views.values()] == [2, 2]
    assert set(kinds) == {"runs", "project-view"}
    report, workspace = json.loads(kinds["runs"]["spec"]), json.loads(kinds["project-view"]["spec"])
    grids = [block["metadata"] for block in report["blocks"] if block["type"] == "panel-grid"]
    panels = [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]
    saved = [panel for section in workspace["section"]["panelBankConfig"]["sections"] for panel in section["panels"]]
    runs = [run_of(online, number) for number in range(3)]
    for shown in (panels, saved):
        by_type = {panel["viewType"]: panel["config"] for panel in shown}
        columns = [column["accessor"] for column in by_type["Parallel Coordinates Plot"]["columns"]]
        assert columns == [*(f"config:{key}.value" for key in study.space), "summary:nash_cost"]
        for run in runs:
            values = folder.trial(int(run.resolve("config:trial.value"))).header()["values"]
            assert [run.resolve(column) for column in columns] == [*values.values(), run.summary["nash_cost"]]
        assert by_type["Parameter Importance"]["targetKey"] == "nash_cost"
        assert by_type["Media Browser"]["mediaKeys"] == ["Val SR"]
        assert "Run Comparer" in by_type
        plotted = {key for panel in shown for key in panel["config"].get("metrics", [])}
        balance = {"nash/p_y", "nash/p_g", marks.BALANCE_LINE}
        assert balance | {"lr_generator", "lr_discriminator", "training/adv_loss_weight"} <= plotted
        assert all(run.steps_of(key) for run in runs for key in balance)
    for grid in grids:
        terms = {term["key"]["name"]: term["value"] for term in grid["runSets"][0]["filters"]["filters"]}
        assert terms == {"group": "small", "jobType": "search"}


@pytest.mark.wandb
def test_a_column_that_the_library_alone_would_name_shows_nothing(online):
    reports = pytest.importorskip("wandb_workspaces.reports.v2")
    column = reports.ParallelCoordinatesPlotColumn(metric=reports.Config(WEIGHT))._to_model().accessor
    with pytest.raises(KeyError):
        run_of(online, 0).resolve(column)


@pytest.mark.wandb
def test_a_resumed_study_stays_one_sweep_and_its_best_moves(online):
    server, study, folder, _ = online
    sweep.open_sweep(study, folder)
    assert sweep.sweep_note(folder, 3) == ""
    wait_for(lambda: server.sweeps["sweep0"]["state"] == "RUNNING")
    start(folder, study, 3, VALUES | {PATIENCE: 2})
    track(folder.trial(3), study)
    finish(folder, study, 3, since=60)
    again = folder.confirmation(3, 1)
    again.create(VALUES | {PATIENCE: 2}, "confirm", study.confirming(VALUES | {PATIENCE: 2}, 1))
    again.end(OUTCOME)
    assert sweep.close_sweep(study, folder, 3, sweep.has_ended(study, folder), seconds=60) == 0
    wait_for(lambda: server.sweeps["sweep0"]["state"] == "FINISHED")
    assert list(server.sweeps) == ["sweep0"]
    assert run_of(online, 3).sweep == "sweep0"
    assert "best" in run_of(online, 3).tags
    assert run_of(online, 0).tags == ["balanced"]
    assert run_of(online, 0).summary["best"] is False
    assert sync_commands(folder) == []


@pytest.mark.wandb
def test_a_tracker_that_was_killed_is_replaced_and_no_step_is_lost_or_sent_twice(online):
    server, study, folder, _ = online
    start(folder, study, 4, VALUES)
    trial = folder.trial(4)
    record(trial, range(4, 41, 4))
    track(trial, study)
    run = marks.run_id(trial, study)
    wait_for(lambda: run in server.runs)
    os.kill(int((trial.path / "tracker/lock").read_text()), signal.SIGKILL)
    record(trial, range(44, 201, 4))
    trial.end(OUTCOME)
    assert wait_for_trackers(folder, 60) == 0
    assert server.runs[run].steps_of("val_metrics/psnr") == list(range(4, 201, 4))
    assert set(server.runs[run].tags) == {"exhausted", "censored"}


@pytest.mark.wandb
def test_a_worker_that_ends_at_once_harms_no_tracker_and_a_slow_sweep_is_waited_for(tmp_path, monkeypatch):
    server = WandbServer()
    environment(server.url, monkeypatch)
    study, folder = opened(tmp_path)
    made = {"id": "sweep0", "entity": ENTITY, "project": "gans"}
    marks.sweep_file(folder).write_text(json.dumps({"until": time.time() + 60}))
    start(folder, study, 0, VALUES)
    record(folder.trial(0), range(4, 201, 4))
    assert worker(LEAVES, folder, 0) == 0
    time.sleep(2.0)
    assert not server.runs
    marks.sweep_file(folder).write_text(json.dumps(made))
    wait_for(is_done(folder.trial(0)))
    [run] = server.runs.values()
    assert run.sweep == "sweep0"
    assert run.steps_of("val_metrics/psnr") == list(range(4, 201, 4))
    server.stop()


def test_an_offline_study_is_read_back_and_then_sent_as_it_says(tmp_path, monkeypatch):
    server = WandbServer()
    environment(server.url, monkeypatch)
    study, folder = opened(tmp_path, "offline", trials=1)
    sweep.open_sweep(study, folder)
    assert sweep.sweep_note(folder, 3) == ""
    start(folder, study, 0, VALUES)
    track(folder.trial(0), study)
    Image.new("RGB", (8, 4)).save(folder.trial(0).samples)
    finish(folder, study, 0)
    assert sweep.close_sweep(study, folder, 0, sweep.has_ended(study, folder), seconds=60) == 0
    assert server.requests == 0  # not even of what wandb reports about itself
    history, summary, config, tags = tracked(folder.trial(0).path)
    metrics = [item for item in history if "nash/p_y" in item]
    assert [item["_step"] for item in metrics] == [line["step"] for line in folder.trial(0).readings()]
    assert config[WEIGHT] == VALUES[WEIGHT]
    assert set(tags) == {"balanced", "best"}
    assert summary["nash_cost"] == 100
    assert summary["best"] is True
    assert summary["Val SR._type"] == "image-file"
    assert marks.complaints(folder.trial(0)) == []
    [command] = sync_commands(folder)
    with pytest.raises(InvalidInput, match="kept offline, and so are in no sweep") as refused:
        publish(study, folder)
    assert f"First: {command}" in str(refused.value)
    run_as_said(command, tmp_path)
    assert sync_commands(folder) == []
    run = server.runs[marks.run_id(folder.trial(0), study)]
    assert run.steps_of("nash/p_y") == [item["_step"] for item in metrics]
    assert set(run.tags) == {"balanced", "best"}
    pytest.importorskip("wandb_workspaces")
    assert "/reports/" in publish(study, folder)
    assert run.sweep == "sweep0"  # sent by hand, the runs have still become a sweep
    assert server.sweeps["sweep0"]["state"] == "FINISHED"
    server.stop()


@pytest.mark.wandb
def test_what_the_driver_ends_is_sent_though_no_tracker_follows_it(tmp_path, monkeypatch):
    environment("http://127.0.0.1:9", monkeypatch)
    study, folder = opened(tmp_path, "offline")
    for number in range(2):
        start(folder, study, number, VALUES)
        finish(folder, study, number, "capped")
    propose(folder, study, 2, VALUES)
    finish(folder, study, 2, "capped")  # never started
    tracker_module.catch_up(study, folder, folder.trials())
    for number in range(2):
        wait_for(is_done(folder.trial(number), "offline"))
    assert wait_for_trackers(folder, 60) == 0
    assert not (folder.trial(2).path / "tracker").exists()
    study, folder = opened(tmp_path, "disabled", name="off")
    start(folder, study, 0, VALUES)
    finish(folder, study, 0)
    tracker_module.catch_up(study, folder, folder.trials())
    assert sweep.close_sweep(study, folder, 0, sweep.has_ended(study, folder), seconds=60) == 0
    assert not (folder.trial(0).path / "tracker").exists()


def test_no_account_no_library_no_tracking_are_each_said(tmp_path, monkeypatch):
    environment("http://127.0.0.1:9", monkeypatch)
    study, folder = opened(tmp_path, "disabled", name="off")
    propose(folder, study, 0, VALUES)
    track(folder.trial(0), study)()
    assert not folder.trial(0).tracker.exists()
    with pytest.raises(InvalidInput, match="not tracked"):
        publish(study, folder)
    study, folder = opened(tmp_path, "online", name="on")
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(InvalidInput, match="pip install wandb-workspaces"):
        publish(study, folder)
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InvalidInput, match="wandb login"):
        publish(study, folder)
    sweep.open_sweep(study, folder)
    assert sweep.sweep_note(folder, 3) == ""


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"int": [0, 200], "step": 50}, {"values": [0, 50, 100, 150, 200]}),
        ({"int": [2, 12]}, {"distribution": "int_uniform", "min": 2, "max": 12}),
        ({"int": [1, 900], "log": True}, {"distribution": "q_log_uniform_values", "q": 1, "min": 1, "max": 900}),
        ({"int": [0, 2000], "step": 10}, {"distribution": "int_uniform", "min": 0, "max": 2000}),
        ({"float": [0.0, 1.0]}, {"distribution": "uniform", "min": 0.0, "max": 1.0}),
        ({"float": [0.0, 1.0], "step": 0.5}, {"values": [0.0, 0.5, 1.0]}),
        ({"float": [1e-3, 0.3], "log": True}, {"distribution": "log_uniform_values", "min": 1e-3, "max": 0.3}),
        ({"choice": ["linear", "cosine"]}, {"values": ["linear", "cosine"]}),
    ],
)
def test_ranges_in_wandbs_words(written, told):
    assert sweep.distribution(Parameter.model_validate(written)) == told


# a tracker that misbehaves: what is wrong, the server's mode, what the complaint says
BAD = {
    "hangs": ("hang", "deadline exceeded|timed out|longer than"),
    "refuses": ("refuse", "401"),
    "dies": ("die", "longer than|refused|EOF|reset"),
    "slow": ("slow", ""),
    "not installed": ("ok", "wandb is not installed"),
    "unwritable": ("ok", "FileExistsError"),
    "disk full": ("ok", "disk full|File too large"),
}


@pytest.fixture(scope="module")
def misbehaving(tmp_path_factory):
    """Each bad case with a trial of its own, all at once: seconds that its training was held up, its folder, server."""
    monkeypatch, found = pytest.MonkeyPatch(), {}
    stub = tmp_path_factory.mktemp("stub")
    (stub / "wandb.py").write_text("raise ModuleNotFoundError(\"No module named 'wandb'\", name='wandb')\n")
    for case, (mode, _) in BAD.items():
        server = WandbServer(mode, delay=0.3, dies_after=6)
        environment(server.url, monkeypatch)
        monkeypatch.setattr(tracker_module, "SERVER_S", 4.0 if mode in {"hang", "die"} else 60.0)
        study, folder = opened(tmp_path_factory.mktemp("bad"), "offline" if case == "disk full" else "online", 1)
        marks.sweep_file(folder).write_text(json.dumps({"id": "sweep0", "entity": ENTITY, "project": "gans"}))
        start(folder, study, 0, VALUES)
        trial, limit = folder.trial(0), resource.getrlimit(resource.RLIMIT_FSIZE)
        if case == "not installed":
            monkeypatch.setenv("PYTHONPATH", str(stub))
        if case == "unwritable":
            (trial.path / "tracker").write_text("a file where the folder should be")
        if case == "disk full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limit[1]))  # of a file: wandb's cannot be written whole
        begun = time.monotonic()
        track(trial, study)
        held_up = time.monotonic() - begun
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        if case == "dies":
            wait_for(lambda server=server: server.called("UpsertBucket"))
        begun = time.monotonic()
        for line in lines(range(4, 41, 4)):
            trial.append(line)
        finish(folder, study, 0, "exhausted")
        held_up += time.monotonic() - begun
        found[case] = (held_up, study, folder, server)
    yield found
    monkeypatch.undo()
    for _, _, _, server in found.values():
        server.stop()


@pytest.mark.wandb
@pytest.mark.parametrize("case", BAD)
def test_a_tracker_that_misbehaves_holds_nothing_up_and_says_how_to_send_it_later(misbehaving, case, monkeypatch):
    held_up, study, folder, server = misbehaving[case]
    (mode, reason), trial = BAD[case], folder.trial(0)
    assert held_up < AT_ONCE_S
    assert trial.outcome()["end"] == "exhausted"
    if case != "unwritable":
        wait_for(lambda: is_done(trial)() or is_done(trial, "missed")(), 60)
        at_work = int((trial.path / "tracker/lock").read_text())
        wait_for(lambda: not psutil.pid_exists(at_work))  # nobody stays
    assert (marks.complaints(trial) == []) is (mode == "slow")
    wanted = marks.run_id(trial, study)
    if mode != "slow":
        [said] = marks.complaints(trial)
        assert said.startswith("Weights & Biases: ")
        assert re.search(reason, said)
        assert wanted not in said  # the same words for every trial: the report counts them
        [command] = sync_commands(folder)
        assert command == f"python -m tune_srgan.tracking {trial.path.parent}/*"
        found = report_data(study, folder, records_in(study, folder))  # what every report says
        assert (found["complaints"], found["unsent"]) == ({said: 1}, [command])
        good = server if server.mode == "ok" else WandbServer()
        environment(good.url, monkeypatch)
        if case == "unwritable":
            (trial.path / "tracker").unlink()
        run_as_said(command, folder.path)
        server = good
    if case == "disk full":
        assert sync_commands(folder)[0].startswith("wandb sync")  # an offline study: now there is something to sync
        return
    assert sync_commands(folder) == []
    run = server.runs[wanted]
    assert run.steps_of("nash/p_y") == [line["step"] for line in trial.readings()]
    assert set(run.tags) == {"exhausted", "censored"}
    assert run.summary["nash_cost"] == pytest.approx(333.33, abs=0.01)
    assert run.sweep == "sweep0"


@pytest.mark.wandb
def test_a_server_that_failed_one_trial_is_not_asked_by_the_next_ones(tmp_path, monkeypatch):
    server = WandbServer("refuse")
    environment(server.url, monkeypatch)
    study, folder = opened(tmp_path)
    marks.sweep_file(folder).write_text(json.dumps({"refused": "no"}))
    asked = []
    for number in range(3):
        if number == 2:  # some time later
            monkeypatch.setattr(marks, "AWAY_S", 0.0)
        start(folder, study, number, VALUES)
        track(folder.trial(number), study)
        finish(folder, study, number, "exhausted")
        wait_for(is_done(folder.trial(number), "missed"))
        asked.append(server.requests)
    assert 0 < asked[0] == asked[1] < asked[2]
    said = {line for trial in folder.trials() for line in marks.complaints(trial)}
    assert len(said) == 1  # the same words for all
    [command] = sync_commands(folder)
    assert wait_for_trackers(folder, 60) == 0  # nobody is at work, nor comes to be
    server.mode = "ok"
    start(folder, study, 3, VALUES)
    marks.miss(folder.trial(3), "an attempt before this one saw it away")
    track(folder.trial(3), study)
    finish(folder, study, 3, "exhausted")
    wait_for(is_done(folder.trial(3)))
    assert len(server.runs) == 1
    run_as_said(command, folder.path)
    assert len(server.runs) == 4
    assert sync_commands(folder) == []
    server.stop()


def test_what_one_machine_saw_of_the_server_every_machine_knows(tmp_path):
    url = "memory://away/small"
    one, other = (StudyFolder(working_copy(url, tmp_path / name)) for name in ("one", "other"))
    assert marks.why_away(other) == ""
    marks.say_away(one, "it answers nobody")
    assert marks.why_away(other) == "it answers nobody"
    assert marks.why_away(other, time.time() + 1) == ""


@pytest.fixture(scope="module")
def bucket():
    with s3() as made:
        yield made.url


@pytest.mark.wandb
def test_of_a_study_in_a_store_every_machine_knows_what_was_sent_and_whose_is_the_best(bucket, tmp_path, monkeypatch):
    server = WandbServer()
    environment(server.url, monkeypatch)
    url, study = f"{bucket}/studies/small", opened(tmp_path)[0]
    driver, worker, elsewhere = (StudyFolder(working_copy(url, tmp_path / name)) for name in ("d", "w", "e"))
    open_study(driver, study)
    driver.send()
    for number in range(3):
        propose(driver, study, number, VALUES)
        driver.send(f"trials/{number:05d}")
    worker.fetch()
    marks.sweep_file(worker).write_text(json.dumps({"refused": "no"}))
    trackers = []
    for number in range(3):  # the worker of the last one is lost with its tracker
        worker.trial(number).begin_attempt("run-1")
        trackers += [track(worker.trial(number), study)] if number < 2 else []
        finish(worker, study, number)
        worker.send(f"trials/{number:05d}")
    for leave in trackers:
        leave()
    for number in range(2):
        wait_for(is_done(worker.trial(number)))
    driver.fetch("trials/00000")  # as a driver does when Ray tells it of an end
    tracker_module.mark_best(driver, 0)
    assert wait_for_trackers(driver, 20) == 1
    driver.send()
    elsewhere.fetch()
    assert [marks.is_there(trial) for trial in elsewhere.trials()] == [True, True, False]
    best = server.runs[marks.run_id(driver.trial(0), study)]
    assert "best" in best.tags
    [command] = sync_commands(elsewhere)
    run_as_said(command, tmp_path)
    assert "best" in best.tags
    assert len(server.runs) == 3
    assert sync_commands(elsewhere) == []
    driver.fetch()
    assert sync_commands(driver) == []
    server.stop()


@pytest.mark.ray
@pytest.mark.wandb
def test_an_online_study_from_its_first_command_to_its_report(tmp_path, monkeypatch):
    """By `tune.py run` and Ray; trials pause for one another, and each stays one run of the sweep."""
    server = WandbServer()
    environment(server.url, monkeypatch)
    search = {"trials": 3, "startup": 3, "best_first": {"margin": 1.0}}
    study = STUDY | {"search": STUDY["search"] | search, "resources": {"concurrent": 1}}
    study |= {"tracking": {"wandb": {"mode": "online", "project": "gans"}}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(study))
    ran = subprocess.run(
        [sys.executable, str(TUNE), "run", "tiny.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=180
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    folder = StudyFolder(tmp_path / "runs" / "tiny")
    assert wait_for_trackers(folder, 60) == 0
    assert len(server.runs) == 3
    paused = 0
    for trial in folder.trials():
        run = server.runs[marks.run_id(trial, study_in(folder))]
        steps = [reading["step"] for reading in trial.readings()]
        assert (run.sweep, run.state) == ("sweep0", "finished")
        assert run.steps_of("val_metrics/psnr") == steps == list(range(2, int(steps[-1]) + 1, 2))
        assert run.summary["outcome"] == trial.outcome()["end"]
        paused += sum(attempt.paused for attempt in trial.attempts())
    assert paused > 3
    wait_for(lambda: server.sweeps["sweep0"]["state"] == "FINISHED")
    report = [sys.executable, str(TUNE), "report", str(folder.path)]
    said = subprocess.run(report, check=True, capture_output=True, text=True, timeout=60).stdout
    assert marks.sweep_address(folder) in said
    assert marks.sweep_address(folder).startswith(server.url)
    assert sync_commands(folder) == []
    server.stop()


@pytest.mark.wandb
def test_a_server_that_refuses_or_hangs_makes_no_sweep_and_the_study_goes_on(tmp_path, monkeypatch):
    for mode, note in (("refuse", "no sweep .*grouped by study"), ("hang", "not there yet")):
        server = WandbServer(mode)
        environment(server.url, monkeypatch)
        study, folder = opened(tmp_path, name=mode)
        begun = time.monotonic()
        sweep.open_sweep(study, folder)
        assert re.search(note, sweep.sweep_note(folder, 20 if mode == "refuse" else 0.5))
        assert time.monotonic() - begun < (20 if mode == "refuse" else AT_ONCE_S)
        assert marks.sweep_address(folder) == ""
        server.stop()
