"""Ctrl-C ends a command within seconds, whatever it is at: starting, connecting, training, or deaf to signals."""

import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from tests.support.service import ROOT, command, readings, trials, wait_for, write_study

WITHIN_S = 5.0
DEAF = """
import time
from tune_srgan.interrupt import end_soon_after_ctrl_c
end_soon_after_ctrl_c(1.0)
told = False
while True:
    try:
        if not told:
            told = True
            print("deaf", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""


def interrupted(process):
    """Seconds until it has ended after SIGINT, and what it said."""
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    return time.monotonic() - began, "".join(said)


def names(process):
    try:
        return {child.name() for child in psutil.Process(process.pid).children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def test_a_process_that_hears_no_signal_ends_too():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == "deaf\n"
    seconds, said = interrupted(process)
    assert seconds < WITHIN_S
    assert "What was recorded is kept" in said


def test_while_it_asks_whether_a_cluster_answers(tmp_path):
    write_study(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = command("run", "tiny.yaml", "--address", f"127.0.0.1:{silent.getsockname()[1]}", cwd=tmp_path)
        asked, _ = silent.accept()
        with asked:  # else it is told at once that nobody is there
            asked.recv(1)
            assert interrupted(process)[0] < WITHIN_S


@pytest.mark.ray
@pytest.mark.parametrize("moment", ["Ray starts", "trials begin", "trials train", "the study is over"])
def test_at_any_moment_of_a_study(tmp_path, moment):
    file = write_study(tmp_path, trials=1 if moment == "the study is over" else 50, capping={"enabled": False})
    process = command("run", file.name, "--address", "local", cwd=tmp_path)
    reached = {
        "Ray starts": lambda: "gcs_server" in names(process),
        "trials begin": lambda: bool(trials(tmp_path)),
        "trials train": lambda: bool(trials(tmp_path)) and len(readings(trials(tmp_path)[0])) >= 3,
        "the study is over": lambda: (tmp_path / "runs/tiny/ending.json").exists(),
    }
    wait_for(reached[moment], 120)
    seconds, said = interrupted(process)
    assert seconds < WITHIN_S
    assert "Traceback" not in said
    left = [trial for trial in trials(tmp_path) if not (trial / "trial.json").exists()]
    assert len(left) <= 1  # one was perhaps being made
