"""Optuna's log in a PostgreSQL that the environment names: a real server on loopback."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import optuna
import pytest

from tests.support.rays import free_port
from tests.support.studies import finish, loaded, open_study, records_in, start
from trainables.errors import InvalidInput
from tune_srgan.search.searcher import Searcher
from tune_srgan.store.study_folder import OPTUNA_URL, StudyFolder

pytestmark = pytest.mark.database

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
AS_SERVER = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # PostgreSQL refuses to run as root


@pytest.fixture(scope="module")
def server():
    """Its URL, with a password."""
    pytest.importorskip("psycopg")
    if not BINARIES:
        pytest.skip("no PostgreSQL")
    folder, port = tempfile.mkdtemp(dir="/tmp"), free_port()
    password = Path(f"{folder}.password")
    try:
        if AS_SERVER:
            shutil.chown(folder, "postgres")
        password.write_text("hunter2")
        password.chmod(0o644)
        run = [*AS_SERVER, f"{BINARIES[-1]}/initdb", "-D", f"{folder}/data", "-A", "scram-sha-256"]
        subprocess.run([*run, "-U", "tuner", "--pwfile", password], check=True, capture_output=True)
        control = [*AS_SERVER, f"{BINARIES[-1]}/pg_ctl", "-D", f"{folder}/data", "-w"]
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        control += ["-l", f"{folder}/log", "-o", options]
        subprocess.run([*control, "start"], check=True, capture_output=True)
        yield f"postgresql://tuner:hunter2@127.0.0.1:{port}/postgres", control
        subprocess.run([*control, "-m", "immediate", "stop"], capture_output=True)
    finally:
        password.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def test_studies_of_one_name_are_apart_and_a_server_that_goes_away_stops_no_search(server, tmp_path, monkeypatch):
    url, control = server
    monkeypatch.setenv(OPTUNA_URL, url)
    searchers = []
    for place in ("one", "two"):
        study, folder = loaded(tmp_path), StudyFolder(tmp_path / place / "small")
        open_study(folder, study)
        searcher = Searcher(study, records_in(study, folder).search, folder.optuna_url, folder.optuna_name)
        proposal = searcher.propose()
        assert proposal.number == 0
        start(folder, study, 0, proposal.values)
        searcher.keep(proposal)
        searcher.tell(finish(folder, study, 0))
        kept = optuna.load_study(study_name=folder.optuna_name, storage=url)
        assert [trial.state for trial in kept.trials] == [optuna.trial.TrialState.COMPLETE]
        assert kept.trials[0].params == proposal.values
        assert not (folder.path / "optuna.db").exists()
        searchers.append((searcher, study, folder))
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True)
    for searcher, study, folder in searchers:
        proposal = searcher.propose()
        start(folder, study, 1, proposal.values)
        searcher.keep(proposal)
        searcher.tell(finish(folder, study, 1))  # to the sampler, which is here
        assert searcher.propose().number == 2
    searcher, study, folder = searchers[0]
    with pytest.raises(InvalidInput) as refused:
        Searcher(study, records_in(study, folder).search, folder.optuna_url, folder.optuna_name)
    assert OPTUNA_URL in str(refused.value)
    assert "hunter2" not in str(refused.value)
    subprocess.run([*control, "start"], check=True, capture_output=True)
    Searcher(
        study, records_in(study, folder).search, folder.optuna_url, folder.optuna_name
    )  # made anew from the records
    kept = optuna.load_study(study_name=folder.optuna_name, storage=url)
    assert [trial.state for trial in kept.trials] == [optuna.trial.TrialState.COMPLETE] * 2
