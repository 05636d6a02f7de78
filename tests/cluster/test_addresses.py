"""An address where no cluster answers is one clear error within seconds, before anything else is done.

`--address` or RAY_ADDRESS; a port that nobody listens at, that says nothing or that speaks another language.
"""

import os
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.support.rays import cluster, free_port
from tests.support.service import TUNE, command, finish, trials, write_study
from trainables.errors import InvalidInput
from tune_srgan.cluster.addresses import cluster_at, why_no_dashboard, why_no_ray
from tune_srgan.cluster.jobs import Head

DEAD_S = 20.0  # of a whole process on a machine at work; Ray's own clients take 13 minutes and 55 seconds


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def silent():
    """A port that takes connections and says nothing, as a tunnel to a machine that is gone does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


class Said(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(500)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def web():
    with ThreadingHTTPServer(("127.0.0.1", 0), Said) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("given", [
    ["run", "tiny.yaml", "--address", "127.0.0.1:{dead}"], ["run", "tiny.yaml"], [],
    ["check", "tiny.yaml", "--address", "127.0.0.1:{dead}"], ["run", "tiny.yaml", "--address", "127.0.0.1:{silent}"],
    ["run", "tiny.yaml", "--address", "auto"],
    ["submit", "tiny.yaml", "--address", "http://127.0.0.1:{dead}", "--storage", "/s"],
    ["run", "tiny.yaml", "--address", "http://127.0.0.1:{silent}", "--storage", "/s"],
    ["status", "tiny", "--address", "http://127.0.0.1:{dead}", "--storage", "/s"],
    ["report", "tiny", "--address", "127.0.0.1:{dead}", "--storage", "/s"],
], ids=" ".join)  # fmt: skip
def test_a_cluster_that_is_gone_is_one_error_within_seconds(given, tmp_path, silent):
    write_study(tmp_path)
    ports = {"dead": free_port(), "silent": silent}
    arguments = [argument.format(**ports) for argument in given]
    environment = os.environ | {"RAY_ADDRESS": f"127.0.0.1:{ports['dead']}"}
    began = time.monotonic()
    said = subprocess.run(
        [sys.executable, TUNE, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert said.returncode == 2, said.stderr
    assert time.monotonic() - began < DEAD_S
    wrong = [line for line in said.stderr.splitlines() if not line.startswith("warning ")]
    key = "--address" if "--address" in given and "auto" not in given else "RAY_ADDRESS"
    assert re.fullmatch(rf"error \S+: {key}: found no cluster('s dashboard)? that answers \(.*", "\n".join(wrong))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("given", "found"), [
    ("ray://127.0.0.1:10001", "Ray Client, by which no study runs"), ("http://127.0.0.1:8265", "a dashboard; .*submit"),
    ("somewhere", "not of the form host:port"), ("somewhere:port", "not of the form"),
    ("no.such.invalid:6379", "no cluster that answers"),
    ("[::1]:70000", "not of the form"),
])  # fmt: skip
@pytest.mark.parametrize("key", ["--address", "RAY_ADDRESS"])
def test_what_is_no_address_is_refused_by_the_name_it_was_given_under(given, found, key, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", given)
    with pytest.raises(InvalidInput, match=f"{re.escape(given)}: {key}: found .*{found}"):
        cluster_at(given if key == "--address" else None)


def test_local_is_nobodys_cluster_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert cluster_at("local") is None


def test_a_web_server_is_a_dashboard_that_answers_and_no_ray():
    with web() as port:
        assert why_no_dashboard(f"http://127.0.0.1:{port}/") == ""  # whether it takes jobs, Ray's client says
        assert "something else than Ray" in why_no_ray(f"127.0.0.1:{port}")
        with pytest.raises(InvalidInput, match="no cluster's dashboard that answers.*500"):
            Head(f"http://127.0.0.1:{port}")


@pytest.mark.ray
def test_a_cluster_that_is_there_answers_by_both_its_addresses(monkeypatch):
    with cluster(nodes=0, dashboard=True) as made:
        assert cluster_at(made.address).address == made.address
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
        Head(f"http://{made.webui_url}").start(["--help"], "help")  # the address that is given, not the environment's


@pytest.mark.ray
def test_a_temporary_folder_whose_path_is_too_long_for_sockets_does_not_matter(tmp_path):
    write_study(tmp_path)
    place = tmp_path / "/".join(["d" * 40] * 3)
    place.mkdir(parents=True)
    run = command("run", "tiny.yaml", "--address", "local", "--trials", "1", cwd=tmp_path, env={"TMPDIR": str(place)})
    assert "1 trials: 1 " in finish(run)
    (trial,) = trials(tmp_path)
    assert not (trial / "complaints.log").exists()
    assert list(trial.glob("tracker/wandb/offline-run-*"))  # wandb has a socket, too
