"""Joining and ending MPS, by a daemon that is a script and keeps its state with the pipes, as the real one does."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tune_srgan.cluster import mps

DAEMON = f"""#!{sys.executable}
import os, sys, time
from pathlib import Path
pipes = Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
alive, starts = pipes / "alive", pipes / "starts"
if sys.argv[1:] == ["-d"]:
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    if (pipes / "refuse").exists():
        sys.exit(1)
    alive.touch()
    if os.fork() == 0:  # the daemon itself, which keeps open what it inherited
        while alive.exists():
            time.sleep(0.05)
        sys.exit()
    starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
else:
    line = sys.stdin.readline()
    if not alive.exists():
        sys.exit(1)
    if line.startswith("quit"):
        alive.unlink()
"""


@pytest.fixture(autouse=True)
def no_daemon_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    leave()
    for alive in tmp_path.rglob("alive"):
        alive.unlink()


@pytest.fixture
def pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("trainables.cache.SHORT", tmp_path)  # in case its path is too long for sockets
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(mps, "PROBE", "pass")  # there is a GPU, as far as these tests go
    # set and taken away, so that what a test joins is forgotten with it
    for name in (mps.PIPES, mps.LOGS):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    (tmp_path / "bin").mkdir()
    return tmp_path / f"tune-srgan-mps-{os.getuid()}" / "pipe"


def leave() -> None:
    """As if the workers were gone."""
    while mps._clients:
        mps._clients.pop().close()


def install(tmp_path: Path) -> None:
    program = tmp_path / "bin" / mps.CONTROL
    program.write_text(DAEMON)
    program.chmod(0o755)


def test_the_first_trial_starts_one_daemon_and_the_study_ends_it(tmp_path, pipes, monkeypatch):
    install(tmp_path)
    assert mps.join()
    assert os.environ[mps.PIPES] == str(pipes)
    monkeypatch.delenv(mps.PIPES)
    assert mps.join()  # another worker: the daemon answers
    assert (pipes / "starts").read_text() == "x"
    assert not mps.end(wait_s=0.3)  # its workers are still there, or another study's
    assert (pipes / "alive").exists()
    leave()
    assert mps.end()
    assert not (pipes / "alive").exists()
    assert mps.end()  # nothing to end


def test_without_mps_trials_share_by_turns_and_the_log_says_so(tmp_path, pipes, caplog):
    assert not mps.join()
    assert "by turns" in caplog.text
    install(tmp_path)
    pipes.mkdir(parents=True, exist_ok=True)
    (pipes / "refuse").touch()
    assert not mps.join()
    assert "could not be started" in caplog.text
    assert mps.PIPES not in os.environ


def test_where_the_daemon_serves_no_gpu_it_is_ended_and_not_tried_again_at_once(tmp_path, pipes, monkeypatch, caplog):
    install(tmp_path)
    monkeypatch.setattr(mps, "PROBE", "raise SystemExit(1)")
    assert not mps.join()
    assert "serves no GPU" in caplog.text
    assert not (pipes / "alive").exists()
    monkeypatch.setattr(mps, "PROBE", "pass")
    assert not mps.join()  # the next trial does not try again
    assert (pipes / "starts").read_text() == "x"
    monkeypatch.setattr(mps, "AGAIN_S", 0.0)
    assert mps.join()


def test_somebody_elses_daemon_is_used_as_it_is(tmp_path, pipes, monkeypatch):
    install(tmp_path)
    monkeypatch.setenv(mps.PIPES, "/somewhere/else")
    assert mps.join()
    assert os.environ[mps.PIPES] == "/somewhere/else"
    assert not pipes.exists()
