"""Real studies on tiny networks, run as a person runs them: by the command, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import psutil
import yaml

from tests.support.tiny import OWN

ROOT = Path(__file__).resolve().parents[2]
TUNE = ROOT / "tune.py"
STUDY = {
    "study": "tiny",
    "training": {
        "Data": {"crop_size": 16, "train_batch_size": 2, "val_batch_size": 64},
        "Training": OWN["Training"] | {"device": "cpu", "adv_loss_ramp_steps": 4, "EMA": {"enabled": True}},
        "Generator": OWN["Generator"] | {"n_blocks": 1, "n_channels": 4, "large_kernel_size": 3},
        "Discriminator": OWN["Discriminator"] | {"model_type": "patchgan", "n_blocks": 2, "base_channels": 4},
        "Optimizers": {"optim_d_lr": 1e-5},
        "Schedulers": OWN["Schedulers"],
    },
    "space": {
        "Training.g_pretrain_steps": {"int": [4, 12], "step": 4},
        "Training.Losses.adv_loss_beta": {"float": [1e-3, 3e-1], "log": True},
        "Schedulers.patience_g": {"int": [2, 12]},
    },
    "objective": {"max_steps": 100, "validate_every": 2, "nash": {"validation_pairs": 64}},
    "search": {
        "trials": 4,
        "startup": 2,
        "try_first": [
            {
                "Training.g_pretrain_steps": 8,
                "Training.Losses.adv_loss_beta": 0.1,
                "Schedulers.patience_g": 4,
            }
        ],
    },
    "resources": {"concurrent": 2},
}


# a ruler that lets such networks pass
LAX = {"validation_pairs": 64, "probability_tolerance": 1.0, "rank_tolerance": 0.5, "control_auc": 0.500001}


def command(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    environment = os.environ | {"WANDB_MODE": "offline", "PYTHONFAULTHANDLER": "1"} | (env or {})
    return subprocess.Popen(
        [sys.executable, str(TUNE), *arguments],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """What a command printed, once it has ended with an exit code."""
    try:
        out, err = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # says where it stands
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, out + err
    return out


def write_study(folder: Path, **search: object) -> Path:
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(STUDY | {"search": STUDY["search"] | search}))
    return file


def wait_for(condition: Callable[[], object], seconds: float = 30, pause: float = 0.05) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(pause)


def trials(folder: Path) -> list[Path]:
    return sorted((folder / "runs/tiny/trials").glob("0*"))


def readings(trial: Path) -> list[dict[str, float]]:
    file = trial / "readings.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def assert_every_trial_ended_once(folder: Path, count: int) -> None:
    """The same trials in the records and in Optuna, each ended; every reading there once, in order, none missing."""
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{folder}/runs/tiny/optuna.db")
    assert [trial.name for trial in trials(folder)] == [f"{number:05d}" for number in range(count)]
    assert [trial.number for trial in study.trials] == list(range(count))
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials)
    for trial, recorded in zip(study.trials, trials(folder), strict=True):
        outcome = json.loads((recorded / "outcome.json").read_text())
        values = json.loads((recorded / "trial.json").read_text())["values"]
        assert trial.user_attrs["outcome"] == outcome["end"]
        assert trial.user_attrs["censored"] == outcome["censored"]
        assert trial.params == values
        steps = [reading["step"] for reading in readings(recorded)]
        assert steps == [float(step) for step in range(2, outcome["trained_steps"] + 1, 2)]


def tracked(trial: Path) -> tuple[list[dict[str, object]], dict[str, object], dict[str, object], list[str]]:
    """History, summary, configuration and tags of a trial's offline runs, read back from their files."""
    return read_back(trial / "tracker")


def read_back(folder: Path) -> tuple[list[dict[str, object]], dict[str, object], dict[str, object], list[str]]:
    """The same of the offline runs that wandb keeps in a folder."""
    history: list[dict[str, object]] = []
    summary: dict[str, object] = {}
    config: dict[str, object] = {}
    tags: list[str] = []
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        text = subprocess.run(
            ["wandb", "leet", "inspect", "--json", str(file)], capture_output=True, text=True, check=True
        )
        for record in map(json.loads, text.stdout.splitlines()):
            if record["type"] == "history":
                history.append(record["history"]["item"])
            elif record["type"] == "summary":
                summary |= record["summary"]["update"]
            elif record["type"] == "run":
                config |= record["run"].get("config", {}).get("update", {})
                tags = record["run"].get("tags", tags)
    return history, summary, config, tags


def untimed(reading: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in reading.items() if not key.startswith("time/")}


def workers_of(folder: Path) -> list[psutil.Process]:
    """The Ray workers that train for a study in `folder`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if (
                process.info["cmdline"]
                and process.info["cmdline"][0].startswith("ray::ImplicitFunc")
                and owns(process, folder)
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def owns(process: psutil.Process, folder: Path) -> bool:
    return process.environ().get("PWD") == str(folder) or process.cwd() == str(folder)


def write_sharing_study(folder: Path, **sections: object) -> None:
    """With a ruler that lets such networks pass, one trial at a time."""
    study = STUDY | {"objective": STUDY["objective"] | {"nash": LAX}, "confirm": {"top": 1, "seeds": 2}}
    study["training"] = study["training"] | {"Optimizers": {"optim_d_lr": 5e-3}}
    first = {"Training.Losses.adv_loss_beta": 0.1, "Schedulers.patience_g": 4}
    tried = [first | {"Training.g_pretrain_steps": steps} for steps in (12, 4, 8)]
    study["search"] = {"trials": 3, "startup": 3, "try_first": tried, "capping": {"slack": 5.0}}
    study["resources"] = {"concurrent": 1}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(study | sections))
