"""Finished studies of tiny networks: each is run once, by its command, for every test of a run of the suite."""

import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.service import LAX, STUDY, command, finish

SHARED = "TUNE_SRGAN_TEST_STUDIES"  # a folder in which several runs of pytest keep them for one another
CONFIRMED: dict[str, Any] = STUDY | {
    "training": STUDY["training"] | {"Optimizers": {"optim_d_lr": 5e-3}},
    "objective": STUDY["objective"] | {"nash": LAX},
    "search": STUDY["search"] | {"trials": 8, "startup": 3},
    "confirm": {"top": 2, "seeds": 2},
}
STUDIES = {"plain": STUDY, "confirmed": CONFIRMED}  # both are named "tiny"


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the workers of this run, or several runs, share."""
    if named := os.environ.get(SHARED):
        return Path(named)
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def finished_study(name: str, shared: Path, copy: Path) -> tuple[Path, str]:
    """Copy a finished study's working folder; run the study first if nobody has. Returns the copy, what it printed."""
    kept = shared / f"study-{name}"
    shared.mkdir(parents=True, exist_ok=True)
    with (shared / f"study-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            running = shared / f"study-{name}.running"
            shutil.rmtree(running, ignore_errors=True)
            running.mkdir()
            (running / "tiny.yaml").write_text(yaml.safe_dump(STUDIES[name]))
            (running / "printed.txt").write_text(finish(command("run", "tiny.yaml", cwd=running)))
            running.rename(kept)
    shutil.copytree(kept, copy, symlinks=True)
    return copy, (copy / "printed.txt").read_text()
