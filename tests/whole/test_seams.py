"""Where parts meet: a second driver, a storage that fails, a folder that may only be read, views, a person's words."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import time
import uuid
from pathlib import Path
from urllib.parse import unquote

import optuna
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from tests.support.object_store import s3
from tests.support.studies import VALUES, ended, finish, loaded, open_study, reading, records_in, small, start, write
from tests.support.tiny import OWN
from trainables.outcome import End
from tune_srgan.cluster.jobs import PART_BYTES, _parts
from tune_srgan.commands import app
from tune_srgan.report import dashboard, watch
from tune_srgan.report.data import report_data
from tune_srgan.report.status import standing
from tune_srgan.report.terminal import print_report
from tune_srgan.run.driver import Driven
from tune_srgan.search.searcher import Searcher
from tune_srgan.store import lease
from tune_srgan.store.ending import Ending, StudyEnd, why_still
from tune_srgan.store.mirror import working_copy
from tune_srgan.store.objects import storage_at
from tune_srgan.store.studies import find_study, study_in
from tune_srgan.store.study_folder import StudyFolder, study_at


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def study(tmp_path):
    return loaded(tmp_path, small() | {"confirm": {"top": 1, "seeds": 2}})


@pytest.fixture
def folder(tmp_path, study):
    """A study with a balanced trial and one that was capped."""
    kept = StudyFolder(tmp_path / "runs" / "small")
    open_study(kept, study)
    for number, end in enumerate((End.BALANCED, End.CAPPED)):
        start(kept, study, number, VALUES)
        finish(kept, study, number, end)
    return kept


@pytest.fixture(scope="module")
def bucket():
    with s3() as made:
        yield made


def one_error(said, *words):
    """A command that failed as it should: one clear error, no traceback."""
    assert said.exit_code == 2, said.output
    assert said.stderr.startswith("error ")
    assert "Traceback" not in said.stderr
    assert all(word in said.stderr for word in words), said.stderr


# a second driver


def test_a_run_that_the_lease_refuses_leaves_the_running_study_as_it_is(tmp_path, folder):
    before = folder.study_file.read_bytes()
    file = write(tmp_path, small() | {"search": small()["search"] | {"trials": 99}}, "more.yaml")
    with lease.hold(folder.storage(), folder.address, lambda: None):
        said = invoke("run", file, "--storage", folder.path.parent)
    one_error(said, f"a study that process {os.getpid()} of")
    assert folder.study_file.read_bytes() == before
    assert not folder.ending_file.exists()


def test_the_storage_that_a_person_names_goes_before_the_study_files(tmp_path, folder, study, monkeypatch):
    file = write(tmp_path, small() | {"storage": str(tmp_path / "runs")}, "named.yaml")
    elsewhere = StudyFolder(tmp_path / "elsewhere" / "small")
    open_study(elsewhere, study)
    assert find_study(str(file)) == folder
    assert find_study(str(file), str(tmp_path / "elsewhere")) == elsewhere
    assert "2 of 8 trials ended" in invoke("status", file).stdout
    monkeypatch.setenv("TUNE_SRGAN_STORAGE", str(tmp_path / "elsewhere"))
    assert "0 of 8 trials ended" in invoke("status", file).stdout


# whether a study runs


def test_a_study_runs_while_a_driver_holds_it_and_no_longer(folder, study):
    assert not report_data(study, folder, records_in(study, folder))["running"]
    with lease.hold(folder.storage(), folder.address, lambda: None):
        data = report_data(study, folder, records_in(study, folder))
        assert (data["running"], data["stopped"]) == (True, "")
        assert standing(study, folder, records_in(study, folder))["state"] == "running"
    Ending(StudyEnd.BUDGET, "the study's budget is used up (steps: 9 of 9)").keep(folder)
    data = report_data(study, folder, records_in(study, folder))
    assert (data["running"], data["stopped"]) == (False, "out of budget: the study's budget is used up (steps: 9 of 9)")
    assert standing(study, folder, records_in(study, folder))["state"] == "out of budget"
    assert "the study: out of budget: the study's budget is used up" in invoke("status", folder.path).stdout


def test_a_report_is_watched_as_long_as_the_study_is_driven_confirmations_included(folder, study, monkeypatch, capsys):
    written, slept = [], []
    whole = watch.files.write_where_possible
    monkeypatch.setattr(watch.files, "write_where_possible", lambda *args: written.append(args) or whole(*args))
    driver = lease.hold(folder.storage(), folder.address, lambda: None)
    driver.__enter__()
    for number in range(2, 8):  # the search is over; its confirmation is not
        start(folder, study, number, VALUES)
        finish(folder, study, number, End.CAPPED)

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            driver.__exit__(None, None, None)
        assert len(slept) < 5

    monkeypatch.setattr(watch.time, "sleep", sleep)
    said = invoke("report", folder.path, "--watch", "--format", "json")
    assert said.exit_code == 0, said.output
    assert (len(slept), len(written)) == (3, 4)
    assert not json.loads((folder.path / "report.json").read_text())["running"]
    said = invoke("report", folder.path, "--watch")  # of a study that nobody drives: once
    assert (said.exit_code, len(slept)) == (0, 3)


def test_a_trial_that_was_abandoned_is_at_work_on_no_machine(bucket, study, folder, tmp_path, monkeypatch):
    url = f"{bucket.url}/abandoned/small"
    there = storage_at(url)
    start(folder, study, 2, VALUES)
    folder.trial(2).append(reading(4))
    for entry in folder.storage().entries():
        if not entry.name.startswith("lease/"):
            parts = "readings.jsonl" in entry.name or "attempts.jsonl" in entry.name
            there.write(f"{entry.name}.parts/00000001-a" if parts else entry.name, folder.storage().read(entry.name))
    with lease.hold(there, url, lambda: None):  # another driver is at work, on other trials
        later = time.time() + 3600
        monkeypatch.setattr(time, "time", lambda: later)
        fresh = StudyFolder(working_copy(url, tmp_path / "laptop"))
        fresh.fetch()
        assert [record.trained_steps for record in records_in(study, fresh).search if record.end is None] == [4]
        assert standing(study, fresh, records_in(study, fresh))["running"] == []


# stores and folders that fail


COMMANDS = ("best", "report", "clean", "status")


@pytest.mark.long
@pytest.mark.parametrize("name", COMMANDS)
def test_a_store_that_fails_after_its_first_listing_is_one_clear_error(bucket, study, tmp_path, monkeypatch, name):
    monkeypatch.setenv("TUNE_SRGAN_CACHE", str(tmp_path / "machine"))
    url = f"{bucket.url}/{name}/small"
    copy = StudyFolder(working_copy(url))
    open_study(copy, study)
    start(copy, study, 0, VALUES)
    finish(copy, study, 0)
    copy.send("trials/00000")
    whole = StudyFolder.fetch

    def then_fails(self, *arguments, **options):
        whole(self, *arguments, **options)
        bucket.refuses = True  # from here on

    monkeypatch.setattr(StudyFolder, "fetch", then_fails)
    try:
        said = invoke(name, url)
    finally:
        bucket.refuses = False
    if name == "clean":  # it has to write there; the others only look, and have what they need
        one_error(said)
    else:
        assert "Traceback" not in said.output
        assert not isinstance(said.exception, OSError)


def test_a_folder_without_hard_links_can_be_driven_by_one_at_a_time(folder, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    storage = folder.storage()
    assert storage.create("lease/probe", b"mine")
    assert not storage.create("lease/probe", b"another's")
    assert storage.read("lease/probe") == b"mine"
    storage.delete("lease/probe")
    with lease.hold(storage, folder.address, lambda: None):
        assert folder.is_driven()
        said = invoke("clean", folder.path)
    one_error(said, "running")
    assert not folder.is_driven()
    assert invoke("clean", folder.path).exit_code == 0


@pytest.fixture
def read_only(folder):
    """A study that may only be read, by root as well."""
    mounted = subprocess.run(["mount", "--bind", folder.path, folder.path], capture_output=True)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    subprocess.run(["mount", "-o", "remount,ro,bind", folder.path], check=True)
    yield folder
    subprocess.run(["umount", folder.path], check=True)


def test_a_study_that_may_only_be_read_has_a_best_and_a_report(read_only, tmp_path):
    said = invoke("best", read_only.path)
    assert said.exit_code == 0, said.output
    assert "# The winner of study 'small': trial 0" in said.stdout
    said = invoke("report", read_only.path)
    assert "Winner: trial 0, in balance from step 100 to the end at 200." in said.stdout
    one_error(said, "--out: found a folder that cannot be written (Read-only file system)")
    said = invoke("report", read_only.path, "--out", tmp_path)
    assert said.exit_code == 0, said.output
    assert (tmp_path / "report.html").exists()
    one_error(invoke("clean", read_only.path))


# views


def test_the_dashboard_leaves_the_drivers_database_as_it_is(folder, study, tmp_path):
    searcher = Searcher(study, records_in(study, folder).search, folder.optuna_url)
    proposal = searcher.propose()
    searcher.keep(proposal)  # and the view does not see its folder yet
    before = (folder.path / "optuna.db").read_bytes()
    view = dashboard.View(study, folder, tmp_path)
    view.refresh()
    assert (folder.path / "optuna.db").read_bytes() == before
    kept = optuna.load_study(study_name="small", storage=folder.optuna_url)
    assert kept.trials[proposal.number].state is optuna.trial.TrialState.RUNNING
    shown = optuna.load_study(study_name="small", storage=view.url)
    assert [trial.user_attrs["outcome"] for trial in shown.trials] == ["balanced", "capped"]
    start(folder, study, 2, proposal.values)  # now it has, and the view follows
    view.refresh()
    assert [trial.state.name for trial in optuna.load_study(study_name="small", storage=view.url).trials] == [
        "COMPLETE", "COMPLETE", "RUNNING"
    ]  # fmt: skip
    finish(folder, study, 2, End.EXHAUSTED)
    view.refresh()
    shown = optuna.load_study(study_name="small", storage=view.url)
    assert shown.trials[2].user_attrs["outcome"] == "exhausted"


# a training by itself

TRAINING = {
    "Data": {"crop_size": 16, "train_batch_size": 2},
    "Training": {"max_steps": 50, "validate_every": 1, "g_pretrain_steps": 4, "adv_loss_ramp_steps": 4, "threads": 1}
    | OWN["Training"],
    "Generator": OWN["Generator"] | {"n_blocks": 1, "n_channels": 4, "large_kernel_size": 3},
    "Discriminator": OWN["Discriminator"] | {"model_type": "patchgan", "n_blocks": 1, "base_channels": 4},
    "Nash": {"validation_pairs": 64},
    "Logging": {"num_val_images": 0},
}


def test_winners_of_several_studies_are_trained_side_by_side(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, rate in (("one", 1e-4), ("two", 2e-4)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.yaml").touch()  # best.yaml lies beside it
        file = write(tmp_path / name, TRAINING | {"Optimizers": {"optim_g_lr": rate}}, "best.yaml")
        said = invoke("train", file)
        assert said.exit_code == 0, said.output
        assert f"runs/train/{name}-best" in said.stdout
        assert "has ended already" in invoke("train", file).stdout
    for rate in (3e-4, 4e-4):  # files of one name that are no winners
        said = invoke("train", write(tmp_path, TRAINING | {"Optimizers": {"optim_g_lr": rate}}, "mine.yaml"))
        assert said.exit_code == 0, said.output
    assert sorted(path.name for path in (tmp_path / "runs/train").iterdir()) == [
        "mine", "mine-2", "one-best", "two-best"
    ]  # fmt: skip


def without_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.parametrize("command", ["train", "check"])
def test_a_gpu_that_is_not_there_is_one_clear_error(tmp_path, monkeypatch, command):
    without_gpu(monkeypatch)
    document = TRAINING | {"Training": TRAINING["Training"] | {"device": "cuda"}}
    file = write(tmp_path, document, "gpu.yaml")
    one_error(invoke(command, file), f"{file}: Training.device: found cuda, and torch finds no GPU here")


def test_a_study_on_gpus_gives_its_trials_some(tmp_path):
    document = small()
    document["training"]["Training"]["device"] = "cuda"
    file = write(tmp_path, document)
    one_error(invoke("check", file), "Training.device: found a training on a GPU, and trials that are given none")


def test_why_a_study_stands_still_is_forgotten_when_it_goes_on_wherever_it_is_kept(bucket, study, tmp_path):
    url = f"{bucket.url}/{uuid.uuid4().hex}/small"
    folder = study_at(url)
    open_study(folder, study)
    Ending(StudyEnd.BUDGET, "steps: 9 of 9").keep(folder)
    folder.send()
    assert why_still(folder, 3) == why_still(find_study(url), 3) == Ending(StudyEnd.BUDGET, "steps: 9 of 9")
    assert why_still(folder, 0) == Ending(StudyEnd.COMPLETE)
    folder.forget_ending()
    assert why_still(find_study(url), 3) == Ending(StudyEnd.INTERRUPTED)


def test_a_page_that_lies_elsewhere_leads_to_the_trials_files(folder, study, tmp_path):
    elsewhere = tmp_path / "pages" / "of mine"
    elsewhere.mkdir(parents=True)
    invoke("report", folder.path, "--out", elsewhere)
    links = re.findall(r'<a href="([^"]+)">readings</a>', (elsewhere / "report.html").read_text())
    assert links
    assert all((elsewhere / unquote(link)).is_file() for link in links)


def test_a_study_that_trained_nothing_says_why_and_fails(folder, study):
    records = records_in(study, folder)
    assert Driven(Ending(StudyEnd.COMPLETE), records).why_failed() == ""
    assert Driven(Ending(StudyEnd.INTERRUPTED), type(records)()).why_failed() == ""
    for number in range(2, 5):
        start(folder, study, number, VALUES)
        folder.trial(number).end_failed()
    lost = [record for record in records_in(study, folder).search if record.number >= 2]
    why = Driven(Ending(StudyEnd.COMPLETE), type(records)(tuple(lost))).why_failed()
    assert why.startswith("No trial trained to an end: 3 of 3 ended in an error; most said: its worker died")
    gone = Ending(StudyEnd.FAULT, "Data.path: found nothing")  # however many have ended before
    assert Driven(gone, records).why_failed() == "Data.path: found nothing"


# a person's words


def test_a_file_is_taken_for_what_it_is(tmp_path):
    said = invoke("check", write(tmp_path, TRAINING, "training.yaml"))
    assert said.exit_code == 0, said.output
    assert "training.yaml is a valid training." in said.stdout
    assert "pretraining 4, ramp 4" in said.stdout
    said = invoke("check", write(tmp_path, small(), "study.yaml"))
    assert said.exit_code == 0, said.output
    assert "study.yaml is a valid study." in said.stdout
    one_error(invoke("check", write(tmp_path, TRAINING | {"Generator": {"n_blokcs": 3}}, "typo.yaml")), "n_blocks")
    said = invoke("check", write(tmp_path, TRAINING | {"Training": TRAINING["Training"] | {"max_epochs": 5}}, "a.yaml"))
    assert "warning Training.max_epochs: 5 does nothing" in said.stderr
    assert said.exit_code == 0
    one_error(invoke("train", tmp_path / "study.yaml"), "found a study's file", "python tune.py run")
    one_error(invoke("run", tmp_path / "training.yaml"), "found a training's file", "python tune.py train")
    one_error(invoke("run", "quickstrat"), "found no such file", "python tune.py resume quickstrat")


def test_a_training_stays_out_of_a_studys_folder(folder, tmp_path):
    before = sorted(folder.path.rglob("*"))
    file = write(tmp_path, TRAINING, "training.yaml")
    one_error(invoke("train", file, "--out", folder.path), "--out: found a study's folder")
    assert sorted(folder.path.rglob("*")) == before


def test_a_check_says_that_a_gpu_is_wanted_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = invoke("check", write(tmp_path, small() | {"resources": {"gpus": 0.5}}))
    assert (said.exit_code, "trials want a GPU, and torch finds none here" in said.stderr) == (0, True)


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_a_port_that_there_is_not_is_refused(folder, port):
    said = invoke("dashboard", folder.path, "--port", port)
    assert (said.exit_code, said.exception.code) == (2, 2)


def test_a_narrow_window_leaves_no_column_out(folder, study):
    wide, narrow = (Console(record=True, width=width) for width in (200, 40))
    for console in (wide, narrow):
        print_report(report_data(study, folder, records_in(study, folder)), folder, console)
    heads = next(line for line in wide.export_text().splitlines() if "exploit." in line)
    assert "trial" in heads
    assert "…" not in narrow.export_text()


def test_a_study_of_any_size_that_is_admitted_reaches_the_head_whole():
    """By as many environment variables as it takes, through a real shell."""
    text = 'study: \'ä𝄞$HOME "quoted" `x` \\\\n\n' + "é" * 90_000 + "\nlast: line\n"
    parts = _parts(text)
    assert len(text.encode()) < 200_000  # what a YAML file may have
    assert len(parts) > 1
    assert all(len(part.encode()) <= PART_BYTES for part in parts.values())
    quoted = " ".join(f'"${name}"' for name in parts)
    said = subprocess.run(["bash", "-c", f"printf %s {quoted} | cat"], env=os.environ | parts, capture_output=True)
    assert said.stdout.decode() == text


def test_what_is_no_format_is_one_clear_error(folder):
    one_error(invoke("report", folder.path, "--format", "pdf"), "one of html, md, json", "The page prints")


def test_options_that_mean_nothing_together_are_refused(folder, tmp_path):
    one_error(invoke("report", folder.path, "--wandb", "--watch"), "--watch: found together with --wandb")
    told = "report", folder.path, "--address", "http://127.0.0.1:1", "--out", tmp_path
    one_error(invoke(*told), "--out: found together with --address")


def test_a_confirmation_is_never_taken_for_a_trial_of_the_search(folder, study):
    """What is read of them is told apart by where it lies."""
    again = folder.confirmation(0, 1)
    again.create(VALUES, "confirm", study.confirming(VALUES, 1))
    again.end(ended(End.EXHAUSTED, 200, 0.5))
    records = records_in(study_in(folder), folder)
    assert [record.number for record in records.search] == [0, 1]
    assert [(record.number, record.trial.confirms) for record in records.confirmations] == [(0, 1)]
