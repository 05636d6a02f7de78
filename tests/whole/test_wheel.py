"""The project as a wheel: with its studies and its imagery, from an empty folder."""

import os
import signal
import subprocess
import sys

import pytest

from tests.support.service import ROOT, readings, wait_for

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder in which nothing but the wheel's content is installed, and the environment that finds it there."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(ROOT)], check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True, timeout=120
    )
    return folder / "site", os.environ | {"PYTHONPATH": str(folder / "site"), "WANDB_MODE": "offline"}


def test_the_command_is_installed(installed, tmp_path):
    site, environment = installed
    said = subprocess.run([site / "bin" / "tune-srgan", "--help"], cwd=tmp_path, env=environment, capture_output=True)
    assert said.returncode == 0
    assert b"upscale" in said.stdout
    code = "import tune_srgan, trainables.places as places; print(tune_srgan.__file__, places.SAMPLE)"
    where = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert all(path.startswith(str(site)) for path in where.stdout.split())


def test_the_quickstart_runs_from_an_empty_folder(installed, tmp_path):
    site, environment = installed
    command = [sys.executable, "-m", "tune_srgan"]
    running = subprocess.Popen(
        command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    trial = tmp_path / "runs/quickstart/trials/00000"
    wait_for(lambda: readings(trial) or running.poll() is not None, 120)
    running.send_signal(signal.SIGINT)
    said, wrong = running.communicate(timeout=120)
    assert running.returncode == 130, said + wrong
    assert f"running {site}/tune_srgan/search_spaces/quickstart.yaml" in said
    assert readings(trial)[0]["step"] == 16
