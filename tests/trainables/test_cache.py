"""What this user keeps in the system's temporary folder is this user's alone."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from trainables.cache import cache, private_folder
from trainables.errors import InvalidInput
from tune_srgan.cluster import mps


@pytest.fixture
def everybodys(tmp_path, monkeypatch):
    """A temporary folder that all users write to."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("trainables.cache.SHORT", tmp_path)  # in case its path is too long for sockets
    monkeypatch.delenv("TUNE_SRGAN_CACHE", raising=False)
    return tmp_path


@pytest.mark.parametrize("make", [cache, lambda: mps._folder(), lambda: private_folder("any")])
def test_nobody_else_reads_or_writes_there(everybodys, make):
    os.umask(mask := os.umask(0))  # whatever the user's mask
    folder = make()
    assert folder.is_relative_to(everybodys)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)  # as an older version left it
    assert stat.S_IMODE(make().stat().st_mode) == 0o700
    assert os.umask(mask) == mask


def test_a_link_that_somebody_laid_there_is_not_followed(everybodys):
    (everybodys / "theirs").mkdir()
    (everybodys / f"tune-srgan-{os.getuid()}").symlink_to(everybodys / "theirs")
    with pytest.raises(InvalidInput, match="a folder of another user, or a link"):
        cache()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a folder away")
def test_a_folder_of_another_user_is_not_used(everybodys):
    folder = everybodys / "tune-srgan-0"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    with pytest.raises(InvalidInput, match="TUNE_SRGAN_CACHE"):
        cache()
    command = [sys.executable, "-m", "tune_srgan", "status", "memory://nowhere/small"]
    said = subprocess.run(command, env=os.environ | {"TMPDIR": str(everybodys)}, capture_output=True, text=True)
    assert (said.returncode, "Traceback" in said.stderr) == (2, False)
    assert str(folder) in said.stderr


def test_a_place_that_a_person_names_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNE_SRGAN_CACHE", str(tmp_path / "shared"))
    assert cache() == tmp_path / "shared"


def test_a_folder_of_sockets_is_where_they_can_be(monkeypatch):
    short = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))
    monkeypatch.setattr("trainables.cache.SHORT", short)
    try:
        for length in (40, 200):
            monkeypatch.setattr("tempfile.tempdir", str(short / "/".join(["d" * 40] * (length // 40))))
            place = mps._folder() / "pipe" / "control_privileged"
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(place))  # OSError: AF_UNIX path too long
            assert (place.parts[3] == "d" * 40) == (length == 40)
    finally:
        shutil.rmtree(short)
